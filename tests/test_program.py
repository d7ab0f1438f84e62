"""The program as a whole: what it prints and saves, what it refuses, how it is interrupted."""

import os
import random
import re
import signal
import subprocess
import sys
import textwrap
import time
import zipfile
import zlib

import numpy as np
import pytest
from conftest import SCRIPT, contents, edit, run_process, start_process
from PIL import Image

DEFAULT_FILES = {
    *(f"generated_{name}.pgm" for name in ("radial", "sine", "checkerboard")),
    *(f"final_decoded_{index}.pgm" for index in range(3)),
    "comparison.pgm",
    "compressed.npz",
}
SMALL = {"WIDTH": 32, "HEIGHT": 24, "EPOCHS": 60}


@pytest.fixture(scope="module")
def default_run(tmp_path_factory):
    """Folder and output of one run of the script as it stands, in a folder of its own."""
    folder = tmp_path_factory.mktemp("default")
    status, output, errors = run_process(edit(folder), NUMBA_NUM_THREADS="2")
    assert (status, errors) == (0, "")
    return folder, output


def test_default_run_gives_every_picture_back(default_run):
    folder, _ = default_run
    files = contents(folder / "outputs")
    assert set(files) == DEFAULT_FILES
    for index, name in enumerate(("radial", "sine", "checkerboard")):
        assert files[f"final_decoded_{index}.pgm"] == files[f"generated_{name}.pgm"]


def test_default_log(default_run):
    _, output = default_run
    lines = re.findall(r"(?m)^epoch +(\d+)/1000  loss (\d\.\d{3}e-\d\d)  time (\d+\.\d\d) s", output)
    assert [int(epoch) for epoch, _, _ in lines] == list(range(10, 1001, 10))
    assert "epoch   10/1000  loss " in output
    losses = [float(loss) for _, loss, _ in lines]
    assert losses[0] / losses[-1] > 1e5
    before = output[: output.index("epoch ")]
    for words in ("3 images", "256 x 256", "latent_dim 16", "4.5 MB", "2 threads", "compiling"):
        assert words in before


def test_default_report(default_run):
    folder, output = default_run
    for name in ("radial", "sine", "checkerboard"):
        assert re.search(rf"(?m)^{name} +\d+ +inf +0 +65536 of 65536$", output)
    size = (folder / "outputs" / "compressed.npz").stat().st_size
    assert f"compressed file {size} bytes" in output and "images 196608 bytes raw" in output
    assert f"with 3 images nothing is saved: the file is {size / 196608:.2f} times the raw images" in output
    with zipfile.ZipFile(folder / "outputs" / "compressed.npz") as archive:
        code = sum(archive.getinfo(f"{name}.npy").compress_size for name in ("codes", "codes_scale")) / 3
    enough = next(n for n in range(1, 1000) if size - 3 * code + n * code < n * 65536)
    assert f"it pays from {enough} images of this size on" in output
    raw = b"".join(contents(folder / "outputs")[f"generated_{name}.pgm"][15:] for name in ("radial", "sine", "checkerboard"))
    assert f"{len(zlib.compress(raw, 9))} with zlib" in output


def test_samples_in_the_repository_are_those_of_the_default_run(default_run):
    folder, _ = default_run
    for path in (SCRIPT.parent / "outputs").glob("*_*.pgm"):
        assert path.read_bytes() == (folder / "outputs" / path.name).read_bytes(), path.name


def test_same_bytes_again_from_the_cache_for_any_number_of_threads(default_run):
    folder, output = default_run
    first = contents(folder / "outputs")
    for threads in ("1", "2"):
        status, again, _ = run_process(folder / "neural_compression.py", NUMBA_NUM_THREADS=threads)
        assert status == 0 and f"{threads} threads" in again and "compiling" not in again
        assert contents(folder / "outputs") == first
        losses = re.compile(r"loss \S+")
        assert losses.findall(again) == losses.findall(output)


def test_readme_decodes_the_file_without_the_program(default_run):
    folder, _ = default_run
    readme = (SCRIPT.parent / "README.md").read_text()
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", readme, re.S) if "compressed.npz" in block)
    subprocess.run([sys.executable, "-c", code + "np.save('again.npy', pictures)"], cwd=folder, check=True)
    for index, picture in enumerate(np.load(folder / "again.npy")):
        assert np.array_equal(picture, Image.open(folder / "outputs" / f"final_decoded_{index}.pgm"))


def test_contact_sheet(default_run):
    folder, output = default_run
    with Image.open(folder / "outputs" / "comparison.pgm") as image:
        sheet = np.asarray(image)
    assert sheet.shape == (3 * 260, 3 * 260) and "255 times" in output
    with Image.open(folder / "outputs" / "generated_sine.pgm") as image:
        assert np.array_equal(sheet[2:258, 262:518], image)
    assert (sheet[262:518, 262:518] == sheet[2:258, 262:518]).all() and not sheet[522:778, 2:258].any()


def test_contact_sheet_stretches_differences(program):
    pictures = [np.full((2, 3), grey, np.uint8) for grey in range(9)]
    sheet, factor = program.contact_sheet(pictures, [picture + np.uint8(50) for picture in pictures])
    assert sheet.shape == (3 * 6, 9 * 7) and factor == 5
    assert sheet[3, 3] == 0 and sheet[9, 3] == 50 and sheet[15, 3] == 250


def test_edited_copy_from_another_folder(tmp_path, monkeypatch):
    """Constants in every spelling of the README, run from somewhere else; two images, one of them twice."""
    copy = edit(
        tmp_path, WIDTH=64, HEIGHT=48, SINE_FREQUENCY=3, CHECKER_SQUARES=4, IMAGES=("sine", "radial", "sine"), LATENT_DIM=5,
        EPOCHS=105, LEARNING_RATE=0.9, LOG_EVERY=50, SEED=7, OUTPUT_DIR="results/here",
    )  # fmt: skip
    monkeypatch.chdir("/")
    status, output, errors = run_process(copy)
    assert (status, errors) == (0, "")
    assert re.findall(r"(?m)^epoch +(\d+)/105", output) == ["50", "100", "105"]
    files = contents(tmp_path / "results" / "here")
    assert set(files) == {"generated_sine.pgm", "generated_radial.pgm", "comparison.pgm", "compressed.npz"} | {
        f"final_decoded_{index}.pgm" for index in range(3)
    }
    assert not (tmp_path / "outputs").exists()
    with np.load(tmp_path / "results" / "here" / "compressed.npz") as file:
        assert file["names"].tolist() == ["sine", "radial", "sine"] and (file["width"], file["height"]) == (64, 48)
        assert file["codes"].shape == (3, 5) and file["weights"].shape == (5, 64 * 48)


@pytest.mark.parametrize(
    "width, height, images, latent_dim",
    [
        (1, 1, ("radial",), 1),
        (7, 5, ("radial", "checkerboard"), 2),
        (64, 48, ("radial", "sine", "checkerboard"), 3),
        (64, 48, ("sine",), 16),
        (5, 7, ("sine", "sine"), 4),
        (96, 40, ["radial", "sine", "checkerboard"], 16),
    ],
)
def test_odd_sizes_come_back_exact(run_imported, tmp_path, width, height, images, latent_dim):
    status, output, errors = run_imported(
        WIDTH=width, HEIGHT=height, IMAGES=images, LATENT_DIM=latent_dim, CHECKER_SQUARES=min(3, width, height)
    )
    assert (status, errors) == (0, "")
    files = contents(tmp_path / "outputs")
    for index, name in enumerate(images):
        assert files[f"final_decoded_{index}.pgm"] == files[f"generated_{name}.pgm"]


def test_too_small_a_code_is_as_good_as_it_can_be(run_imported):
    status, output, _ = run_imported(WIDTH=64, HEIGHT=64, LATENT_DIM=1)
    values = [float(value) for value in re.findall(r"(?m)^(?:radial|sine|checkerboard) +\d+ +(\S+)", output)]
    assert status == 0 and min(values) > 15 and max(values) > 30


def test_two_numbers_hold_three_pictures(run_imported):
    _, output, _ = run_imported(LATENT_DIM=2, WIDTH=128, HEIGHT=128)
    assert output.count("16384 of 16384") == 3


def write_pgm(path, samples, maxval=255):
    samples = np.asarray(samples)
    path.write_bytes(b"P5 %d %d %d\n" % (*samples.shape[::-1], maxval) + samples.astype("u1" if maxval < 256 else ">u2").tobytes())


def test_own_pictures_among_patterns(run_imported, tmp_path):
    values = np.random.default_rng(0)
    write_pgm(tmp_path / "eight.pgm", values.integers(0, 256, (24, 32)))
    write_pgm(tmp_path / "sixteen.pgm", values.integers(0, 65536, (24, 32)), 65535)
    (tmp_path / "plain.pgm").write_text("P2 32 24 1\n" + " ".join("01"[n % 2] for n in range(32 * 24)))
    before = contents(tmp_path)
    names = ("eight.pgm", "checkerboard", str(tmp_path / "sixteen.pgm"), "plain.pgm")
    status, output, errors = run_imported(WIDTH=32, HEIGHT=24, IMAGES=names)
    assert (status, errors) == (0, "")
    assert f"images {32 * 24 * 5} bytes raw" in output
    decoded = [np.asarray(Image.open(tmp_path / "outputs" / f"final_decoded_{index}.pgm")) for index in range(4)]
    originals = [np.asarray(Image.open(tmp_path / name)) for name in names[::2]]
    assert np.array_equal(decoded[0], originals[0])
    assert np.array_equal(decoded[2], np.floor(originals[1] / 257 + 0.5))
    assert np.array_equal(decoded[3].ravel(), np.arange(32 * 24) % 2 * 255)
    for name, content in before.items():
        assert (tmp_path / name).read_bytes() == content


def test_picture_of_another_size(run_imported, tmp_path):
    write_pgm(tmp_path / "cat.pgm", np.zeros((24, 31)))
    status, _, errors = run_imported(IMAGES=("radial", "cat.pgm"), **SMALL)
    assert status == 2 and errors.count("\n") == 1
    for words in ("cat.pgm", "31 x 24", "WIDTH = 32", "HEIGHT = 24"):
        assert words in errors
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("name", ["final_decoded_1.pgm", "comparison.pgm", "generated_radial.pgm"])
def test_inputs_are_not_written_over(run_imported, tmp_path, name):
    (tmp_path / "outputs").mkdir()
    write_pgm(tmp_path / "outputs" / name, np.zeros((24, 32)))
    (tmp_path / "link.pgm").symlink_to(tmp_path / "outputs" / name)
    before = contents(tmp_path / "outputs")
    for path in (f"outputs/{name}", f"outputs/../outputs/{name}", "link.pgm"):
        status, _, errors = run_imported(IMAGES=("radial", path), **SMALL)
        assert status == 2 and "write over" in errors and errors.count("\n") == 1
        assert contents(tmp_path / "outputs") == before


def test_digits_in_a_third_of_their_bytes(run_imported, tmp_path):
    """1797 pictures of 8 x 8, everything counted, at 24 dB or better."""
    load_digits = pytest.importorskip("sklearn.datasets").load_digits
    digits = np.rint(load_digits().images * 255 / 16)
    for index, digit in enumerate(digits):
        write_pgm(tmp_path / f"{index}.pgm", digit)
    names = tuple(f"{index}.pgm" for index in range(1797))
    status, output, errors = run_imported(WIDTH=8, HEIGHT=8, CHECKER_SQUARES=8, IMAGES=names)
    assert (status, errors) == (0, "") and "with 1797 images 6" in output
    assert (tmp_path / "outputs" / "compressed.npz").stat().st_size <= 1797 * 64 / 3
    error = sum(
        np.sum((np.asarray(Image.open(tmp_path / "outputs" / f"final_decoded_{index}.pgm")) - digit) ** 2)
        for index, digit in enumerate(digits)
    ) / digits.size
    assert 10 * np.log10(255**2 / error) >= 24


def test_fewest_bits_are_the_fewest(program):
    samples = np.random.default_rng(8).integers(0, 256, (3, 400), np.uint8)
    codes, decoder = program.start(3, 400, 4, seed=0)
    list(program.train(samples, [255] * 3, codes, decoder, 500, 1.0))
    rows = program.join(decoder, 400)
    code_bits, decoder_bits = program.fewest_bits(codes, rows[:-1], rows[-1], samples)

    def exact(*bits):
        parts = program.unpack(program.pack(codes, rows[:-1], rows[-1], *bits))
        return all(np.array_equal(program.decode(code, *parts[1:]), sample) for code, sample in zip(parts[0], samples))

    assert exact(code_bits, decoder_bits)
    assert not exact(24, decoder_bits - 1) and not exact(code_bits - 1, decoder_bits)


def test_quantised_values_are_within_half_a_step(program):
    values = np.random.default_rng(9).normal(0, 3, (5, 70)).astype(np.float32)
    values[4] = 0
    for bits in (2, 8, 9, 17):
        numbers, scale = program.quantise(values, bits, axis=-1)
        assert np.abs(numbers).max() < 2 ** (bits - 1) and scale.shape == (5, 1)
        assert (np.abs(numbers * scale - values) <= scale * 0.51).all() and not numbers[4].any()


BAD = [
    *((name, value) for name in ("WIDTH", "HEIGHT", "LATENT_DIM", "EPOCHS", "LOG_EVERY", "CHECKER_SQUARES")
      for value in (0, -1, 2.5, "16", None, True, float("nan"), [16])),
    *(("SEED", value) for value in (-1, 0.5, "0", None, False)),
    *(("LEARNING_RATE", value) for value in (0, 0.0, -1.0, float("nan"), float("inf"), "1", None, True, 10**400, 1e300, 101, 1e-10)),
    *(("SINE_FREQUENCY", value) for value in (-1, float("nan"), float("inf"), "40", None, 10**400)),
    *(("IMAGES", value) for value in ((), [], "radial", None, 3, ("radial", 3), ("circle",), ("",), {"radial"}, ("radial\0",),
                                      ("radial", "missing.pgm"), ("outputs",), ("../",))),
    *(("OUTPUT_DIR", value) for value in ("", None, 3, "a\0b", b"outputs")),
    ("CHECKER_SQUARES", 25), ("LATENT_DIM", 10**9), ("LATENT_DIM", 10**400), ("WIDTH", 10**9), ("HEIGHT", 10**400),
]  # fmt: skip


@pytest.mark.parametrize("name, value", BAD)
def test_bad_constants_are_refused_by_name(run_imported, tmp_path, name, value):
    status, output, errors = run_imported(**{**SMALL, name: value})
    assert status == 2 and output == ""
    assert re.fullmatch(r"neural_compression\.py: [^\n]+\n", errors)
    assert name in errors and (name == "IMAGES" or repr(value) in errors)
    assert not list(tmp_path.iterdir())


def test_more_than_sixty_bad_constants():
    assert len(BAD) >= 60


def test_bad_constant_in_an_edited_copy(tmp_path):
    status, output, errors = run_process(edit(tmp_path, LATENT_DIM=0))
    assert (status, output) == (2, "")
    assert errors == "neural_compression.py: LATENT_DIM = 0: has to be a whole number, 1 or more\n"
    assert not (tmp_path / "outputs").exists()


def test_interrupts_work_as_before_afterwards(run_imported):
    handler = signal.getsignal(signal.SIGINT)
    run_imported(**SMALL)
    assert signal.getsignal(signal.SIGINT) is handler


def test_largest_error_and_psnr_in_the_report(program):
    original = np.full((2, 2), 100, np.uint8)
    decoded = np.array([[100, 100], [100, 104]], np.uint8)
    row = list(program.report(["one"], [original], [decoded], 7, 100, 4, 4))[1]
    assert row.split() == ["one", "7", "42.11", "4", "3", "of", "4"]  # 10 log10(255^2 / (16 / 4))


def test_learning_rate_that_diverges(run_imported, tmp_path):
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "final_decoded_0.pgm").write_bytes(b"earlier")
    status, _, errors = run_imported(LEARNING_RATE=100, LATENT_DIM=1, **SMALL)
    assert status == 2
    assert re.fullmatch(r"neural_compression\.py: the loss went from 0\.1\d+ to 0\.\d+: LEARNING_RATE = 100 [^\n]*\n", errors)
    assert (tmp_path / "outputs" / "final_decoded_0.pgm").read_bytes() == b"earlier"


def test_the_default_learning_rate_is_never_refused(run_imported, tmp_path):
    """A picture that is all but mid-grey is nearly there at the first epoch, and further away at the second."""
    write_pgm(tmp_path / "grey.pgm", np.full((24, 32), 127))
    status, output, errors = run_imported(**{**SMALL, "IMAGES": ("grey.pgm",), "EPOCHS": 2, "LOG_EVERY": 1})
    first, last = map(float, re.findall(r"loss (\S+)", output))
    assert (status, errors) == (0, "") and last > first


def test_help_and_other_arguments():
    status, output, errors = run_process(SCRIPT, "--help")
    assert status == 0 and "python neural_compression.py" in output and errors == ""
    status, output, errors = run_process(SCRIPT, "--epochs", "5")
    assert status == 2 and output == "" and "--epochs" in errors and errors.count("\n") == 1


def test_import_runs_and_prints_nothing(tmp_path):
    copy = edit(tmp_path)
    run = subprocess.run([sys.executable, "-c", "import neural_compression"], cwd=tmp_path, capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "") and not (tmp_path / "outputs").exists() and copy.exists()


@pytest.mark.parametrize("obstacle", ["file", "below a file"])
def test_output_dir_that_is_no_folder(run_imported, tmp_path, obstacle):
    (tmp_path / "taken").write_bytes(b"mine")
    status, output, errors = run_imported(OUTPUT_DIR="taken" if obstacle == "file" else "taken/deeper", **SMALL)
    assert status == 2 and "OUTPUT_DIR" in errors and errors.count("\n") == 1 and "epoch" not in output
    assert (tmp_path / "taken").read_bytes() == b"mine"


@pytest.mark.parametrize("call", ["write_bytes", "replace"])
@pytest.mark.parametrize("fatal", range(8))
def test_full_disk(run_imported, program, monkeypatch, tmp_path, call, fatal):
    """The write of any one file fails, half done: one line, and every file is an old one or a new one."""
    status, _, _ = run_imported(SEED=1, LATENT_DIM=1, **SMALL)
    old = contents(tmp_path / "outputs")
    calls = iter(range(100))
    target = program.Path if call == "write_bytes" else program.os
    real = getattr(target, call)

    def full(path, content):
        if next(calls) == fatal:
            if call == "write_bytes":
                real(path, content[:100])
            raise OSError(28, "No space left on device")
        return real(path, content)

    monkeypatch.setattr(target, call, full)
    status, _, errors = run_imported(SEED=2, LATENT_DIM=2, **SMALL)
    assert status == 2 and "No space left on device" in errors and errors.count("\n") == 1
    monkeypatch.setattr(target, call, real)
    half = contents(tmp_path / "outputs")
    run_imported(SEED=2, LATENT_DIM=2, **SMALL)
    new = contents(tmp_path / "outputs")
    assert set(half) == set(old) == set(new)
    assert all(half[name] in (old[name], new[name]) for name in half)


def readable(folder):
    """Whether every PGM and the npz in a folder can be read, and nothing else is there."""
    for path in folder.iterdir():
        if path.suffix == ".pgm":
            with Image.open(path) as image:
                image.load()
        else:
            with np.load(path) as file:
                assert file["codes"].size
    return True


def send_interrupt_at(line, process):
    for text in process.stdout:
        if re.match(line, text):
            process.send_signal(signal.SIGINT)
            return
    raise AssertionError("the line never came")


@pytest.mark.parametrize("times", [1, 2])
def test_interrupt_during_training(default_run, times):
    folder, _ = default_run
    process = start_process(folder / "neural_compression.py")
    send_interrupt_at(r"epoch  100/", process)
    if times == 2:
        process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and errors == ""
    assert re.search(r"(?m)^interrupted: stopped after epoch \d+$", output) and "checkerboard" in output
    assert readable(folder / "outputs") and set(contents(folder / "outputs")) == DEFAULT_FILES


def test_interrupt_at_the_first_epoch(run_imported, program, monkeypatch, tmp_path):
    train = program.train

    def interrupted(*arguments):
        for item in train(*arguments):
            os.kill(os.getpid(), signal.SIGINT)
            yield item

    monkeypatch.setattr(program, "train", lambda *a, **k: train(*a, **k) if k else interrupted(*a))
    status, output, errors = run_imported(**SMALL)
    assert status == 130 and errors == "" and "stopped after epoch 1\n" in output
    assert set(contents(tmp_path / "outputs")) == DEFAULT_FILES and readable(tmp_path / "outputs")


def test_interrupt_during_compilation(tmp_path):
    process = start_process(edit(tmp_path, **SMALL))
    send_interrupt_at("compiling", process)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in errors and "epoch" not in output
    assert readable(tmp_path / "outputs")


def test_interrupts_at_random_moments(default_run):
    """20 of them, from the first line of the default run to its end; two runs at a time, in the same folder."""
    folder, _ = default_run
    moments = random.Random(0)
    for _ in range(10):
        processes = [start_process(folder / "neural_compression.py", NUMBA_NUM_THREADS="1") for _ in range(2)]
        for process in processes:
            process.stdout.readline()
            time.sleep(moments.uniform(0, 0.7))
            process.send_signal(signal.SIGINT)
        for process in processes:
            _, errors = process.communicate(timeout=60)
            assert process.returncode in (0, 130) and errors in ("", "neural_compression.py: interrupted\n")
        assert readable(folder / "outputs") and set(contents(folder / "outputs")) == DEFAULT_FILES


def test_two_runs_at_once(default_run):
    folder, _ = default_run
    processes = [start_process(folder / "neural_compression.py") for _ in range(2)]
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, "")
    assert readable(folder / "outputs") and set(contents(folder / "outputs")) == DEFAULT_FILES


def test_a_pattern_of_ones_own_as_the_readme_adds_it(tmp_path):
    """The README's function and its line in `run` make a new name for IMAGES."""
    readme = (SCRIPT.parent / "README.md").read_text()
    (function,) = re.findall(r"```python\n(def \w+\(x, y.*?)```", readme, re.S)
    (line,) = re.findall(r"`(\"\w+\": \w+,)`", readme)
    name = re.match(r'"(\w+)"', line).group(1)
    copy = edit(tmp_path, IMAGES=(name, "radial"), **SMALL)
    text = copy.read_text()
    text = text.replace("def radial(", function + "\n\ndef radial(", 1).replace('"radial": radial,', '"radial": radial,\n        ' + line, 1)
    copy.write_text(text)
    status, _, errors = run_process(copy)
    assert (status, errors) == (0, "") and (tmp_path / "outputs" / f"generated_{name}.pgm").exists()


def test_top_level_is_what_was_agreed():
    listed = subprocess.run(["git", "ls-files"], cwd=SCRIPT.parent, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a checkout")
    names = {name.split("/")[0] for name in listed.stdout.splitlines()}
    allowed = {"neural_compression.py", "README.md", "requirements.txt", "tests", "outputs"}
    assert {name for name in names if not name.startswith(".")} <= allowed
    requirements = (SCRIPT.parent / "requirements.txt").read_text()
    assert re.findall(r"(?m)^\w+", requirements) == ["numpy", "numba"], textwrap.shorten(requirements, 100)
