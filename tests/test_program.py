"""The program as a whole: what it prints and saves, what it refuses, how it is interrupted."""

import contextlib
import math
import os
import pickle
import re
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import SCRIPT, SMALL, contents, edit, finish, run_process, start
from PIL import Image

PATTERNS = ("radial", "sine", "checkerboard")
DEFAULT_FILES = {
    *(f"generated_{name}.pgm" for name in PATTERNS),
    *(f"final_decoded_{index}.pgm" for index in range(3)),
    "comparison.png",
    "compressed.npz",
}
PATCHES = {"WIDTH": 8, "HEIGHT": 8, "EPOCHS": 50, "IMAGES": ("cat.pgm",), "LATENT_DIM": 12, "TARGET_PSNR": 32.0}
ONE_LINE = r"neural_compression\.py: [^\n]+\n"


def write_pgm(path, picture):
    Image.fromarray(np.uint8(picture)).save(path, "PPM")


def read(path):
    with Image.open(path) as image:
        return np.asarray(image)


def decoded(folder, number):
    return [read(folder / f"final_decoded_{index}.pgm") for index in range(number)]


def photograph(height, width):
    """Something smooth with edges and some noise, uint8."""
    y, x = np.mgrid[0:height, 0:width]
    values = 120 + 60 * np.sin(x / 9 + y / 23) + 50 * (np.hypot(x - 30, y - 40) < 17) - 40 * (x > y + 20)
    return np.uint8(np.clip(values + np.random.default_rng(1).normal(0, 4, values.shape), 0, 255))


def psnr_text(pictures, others):
    error = sum(np.sum((a.astype(float) - b) ** 2) for a, b in zip(pictures, others))
    size = sum(a.size for a in pictures)
    return f"PSNR {20 * math.log10(255 / math.sqrt(error / size)):.2f} dB" if error else "exact"


def check_report(folder, names, originals, output):
    """Compare the report with what lies in the folder."""
    outputs = decoded(folder, len(originals))
    for name, a, b in zip(names, originals, outputs):
        assert f"\n{name}: {psnr_text([a], [b])}\n" in output
    size, pixels = (folder / "compressed.npz").stat().st_size, sum(a.size for a in originals)
    with zipfile.ZipFile(folder / "compressed.npz") as archive:
        codes, decoder = (archive.getinfo(f"{name}.npy").compress_size for name in ("codes", "decoder"))
    assert f"\nall pictures: {psnr_text(originals, outputs)}, {8 * size / pixels:.3f} bits per pixel\n" in output
    assert f"\ncompressed.npz: {size} bytes, codes {codes}, decoder {decoder}\n" in output
    assert f"\nthat is {size / pixels:.3f} of the {pixels} bytes of the pixels\n" in output


def readable(folder):
    """Names of the files in a folder, each of which can be read."""
    for path in folder.iterdir():
        if path.suffix == ".npz":
            with np.load(path) as file:
                assert file["codes"].dtype == np.int8
        else:
            assert read(path).size
    return {path.name for path in folder.iterdir()}


# --------------------------------------------------------------------- the default run


@pytest.fixture(scope="module")
def default_run(tmp_path_factory):
    """Folder and output of one run with the constants as shipped."""
    folder = tmp_path_factory.mktemp("default")
    status, output, errors = run_process(edit(folder), NUMBA_NUM_THREADS="2")
    assert (status, errors) == (0, "")
    return folder, output


def test_default_run_gives_every_picture_back(default_run):
    folder, _ = default_run
    files = contents(folder / "outputs")
    assert set(files) == DEFAULT_FILES == readable(folder / "outputs")
    for index, name in enumerate(PATTERNS):
        assert files[f"final_decoded_{index}.pgm"] == files[f"generated_{name}.pgm"]
    assert len(files["compressed.npz"]) <= 10_500


def test_default_log_and_report(default_run):
    folder, output = default_run
    lines = output.splitlines()
    assert lines[0] == "compiling, in the first run only ..."
    assert lines[1] == "training on patches of 256 x 256: 3, numbers per code: 3, threads: 2"
    log = [re.fullmatch(r"epoch +(\d+)/1000  loss (\S+)  time (\S+) s  PSNR (\S+) dB", line) for line in lines[2:102]]
    assert [int(line[1]) for line in log] == list(range(10, 1001, 10))
    assert float(log[0][2]) / float(log[-1][2]) > 1e5 and float(log[-1][4]) > 80
    assert all(re.fullmatch(r"rounding step \d+\.\d{4}: (exact|PSNR \d+\.\d\d dB)", line) for line in lines[102:-6])
    originals = [read(folder / "outputs" / f"generated_{name}.pgm") for name in PATTERNS]
    check_report(folder / "outputs", PATTERNS, originals, output)


def test_same_bytes_again_from_the_cache_with_another_number_of_threads(default_run):
    folder, output = default_run
    first, cache = contents(folder / "outputs"), contents(folder / "__pycache__")
    status, again, _ = run_process(folder / "neural_compression.py", NUMBA_NUM_THREADS="1", OPENBLAS_NUM_THREADS="2")
    assert status == 0 and "threads: 1" in again and "compiling" not in again
    assert contents(folder / "outputs") == first and contents(folder / "__pycache__") == cache
    losses = re.compile(r"loss \S+")
    assert losses.findall(again) == losses.findall(output)


def test_an_edited_constant_compiles_nothing_and_an_edited_kernel_does(machine_code, copy, tmp_path):
    before = contents(machine_code)
    script = copy(**SMALL, LEARNING_RATE=0.9, SEED=5)
    script.write_text("# A line more moves all functions.\n" + script.read_text())
    status, output, _ = run_process(script)
    assert status == 0 and "compiling" not in output and contents(tmp_path / "__pycache__") == before
    text = script.read_text()
    assert text.count("float32(1e-12))") == 1
    script.write_text(text.replace("float32(1e-12))", "float32(2e-12))"))
    status, output, _ = run_process(script)
    assert status == 0 and "compiling" in output and contents(tmp_path / "__pycache__") != before


def git(*arguments):
    """What git prints about this checkout, in bytes."""
    try:
        return subprocess.run(["git", *arguments], cwd=SCRIPT.parent, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a checkout")


def test_samples_in_the_repository_are_those_of_the_default_run(default_run):
    """The committed ones: what lies in outputs/ now may be of other constants."""
    folder, _ = default_run
    samples = git("ls-files", "outputs/*.pgm").decode().split()
    assert {Path(path).name for path in samples} == {name for name in DEFAULT_FILES if name.endswith(".pgm")}
    for path in samples:
        assert git("show", f":{path}") == (folder / path).read_bytes(), path


def test_top_level_is_what_was_agreed():
    names = {name.split("/")[0] for name in git("ls-files").decode().splitlines()}
    allowed = {"neural_compression.py", "README.md", "requirements.txt", "tests", "outputs"}
    assert {name for name in names if not name.startswith(".")} <= allowed
    assert re.findall(r"(?m)^\w+", (SCRIPT.parent / "requirements.txt").read_text()) == ["numpy", "numba"]


# --------------------------------------------------------------------- what the README shows


def blocks(words):
    """Python blocks of the README that hold some words."""
    readme = (SCRIPT.parent / "README.md").read_text()
    return [block for block in re.findall(r"```python\n(.*?)```", readme, re.S) if words in block]


def decode_by_readme(folder):
    """The pictures that the lines of the README make of outputs/compressed.npz in a folder."""
    (code,) = blocks("outputs/compressed.npz")
    code += "\nimport pickle, sys\nsys.stdout.buffer.write(pickle.dumps(pictures))"
    run = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True)
    assert (run.returncode, run.stderr) == (0, b"")
    assert np.array_equal(read(folder / "decoded.pgm"), pickle.loads(run.stdout)[0])
    return pickle.loads(run.stdout)


def test_readme_decodes_the_default_run(default_run):
    folder, _ = default_run
    assert all(map(np.array_equal, decode_by_readme(folder), decoded(folder / "outputs", 3)))


def test_readme_decodes_patches_that_are_not_square_of_mixed_pictures(copy, tmp_path):
    shapes = [(33, 50), (7, 90), (50, 9)]
    for n, shape in enumerate(shapes):
        write_pgm(tmp_path / f"{n}.pgm", photograph(*shape))
    names = tuple(f"{n}.pgm" for n in range(3))
    script = copy(**{**PATCHES, "HEIGHT": 5, "IMAGES": names})
    assert run_process(script)[0] == 0
    pictures = decode_by_readme(tmp_path)
    assert [picture.shape for picture in pictures] == shapes
    assert all(map(np.array_equal, pictures, decoded(tmp_path / "outputs", 3)))


def test_own_pattern_as_the_readme_adds_it_from_another_working_directory(copy, tmp_path):
    (block,) = blocks("def rings(")
    script = copy(**{**SMALL, "IMAGES": ("rings", "radial"), "OUTPUT_DIR": "results/here"})
    text, number = re.subn(r"(?m)^PATTERNS = \{.*\}\n", lambda line: line[0] + "\n\n" + block, script.read_text())
    assert number == 1
    script.write_text(text)
    status, output, errors = finish(start([sys.executable, str(script)], cwd="/"))
    assert (status, errors) == (0, "") and "\nrings: " in output
    rings = read(tmp_path / "results" / "here" / "generated_rings.pgm")
    assert rings.shape == (24, 32) and rings[12, 16] > 250 and rings.min() < 5
    assert set(os.listdir(tmp_path)) == {"neural_compression.py", "__pycache__", "results"}


# --------------------------------------------------------------------- other constants


@pytest.mark.parametrize("width, height, latent_dim", [(1, 1, 1), (7, 5, 16), (96, 40, 3), (64, 64, 327), (40, 50, 2)])
def test_odd_sizes_come_back_exact(run_imported, tmp_path, width, height, latent_dim):
    images = ("radial", "checkerboard", "radial")[: min(3, latent_dim)]
    squares = min(3, width, height)
    sizes = {"WIDTH": width, "HEIGHT": height, "LATENT_DIM": latent_dim, "CHECKER_SQUARES": squares}
    status, _, errors = run_imported(IMAGES=images, **sizes)
    assert (status, errors) == (0, "")
    files = contents(tmp_path / "outputs")
    for index, name in enumerate(images):
        assert files[f"final_decoded_{index}.pgm"] == files[f"generated_{name}.pgm"]


def test_a_photograph_in_patches(run_imported, tmp_path):
    picture = photograph(90, 120)
    write_pgm(tmp_path / "cat.pgm", picture)
    status, output, errors = run_imported(**PATCHES)
    assert (status, errors) == (0, "") and "training on patches of 8 x 8: 180, numbers per code: 12" in output
    check_report(tmp_path / "outputs", ["cat.pgm"], [picture], output)
    assert set(os.listdir(tmp_path / "outputs")) == {"final_decoded_0.pgm", "comparison.png", "compressed.npz"}
    assert float(re.search(r"all pictures: PSNR (\S+) dB", output)[1]) >= 32 and "out of reach" not in output


def test_a_target_out_of_reach_is_told(run_imported, tmp_path):
    write_pgm(tmp_path / "cat.pgm", photograph(90, 120))
    status, output, _ = run_imported(**{**PATCHES, "LATENT_DIM": 2, "TARGET_PSNR": 60.0})
    assert status == 0 and "TARGET_PSNR = 60.0 is out of reach" in output and "LATENT_DIM" in output


def test_a_file_larger_than_the_pixels_comes_with_advice(run_imported):
    status, output, _ = run_imported(WIDTH=2, HEIGHT=2, IMAGES=("radial",))
    assert status == 0 and "larger than the pixels: try WIDTH" in output


def test_of_many_pictures_the_worst_the_median_and_the_best_are_shown(run_imported, tmp_path):
    random = np.random.default_rng(0)
    pictures = [np.full((8, 8), 9 * n) + random.integers(0, 3 * n + 1, (8, 8)) for n in range(15)]
    for n, picture in enumerate(pictures):
        write_pgm(tmp_path / f"{n}.pgm", picture)
    images = tuple(f"{n}.pgm" for n in range(15))
    status, output, _ = run_imported(**{**PATCHES, "IMAGES": images, "LATENT_DIM": 2, "TARGET_PSNR": 100})
    errors = [np.mean((a - b.astype(float)) ** 2) for a, b in zip(pictures, decoded(tmp_path / "outputs", 15))]
    order = np.argsort(errors)
    shown = re.findall(r"(?m)^(\d+)\.pgm: ", output)
    assert status == 0 and "of 15 pictures)" in output
    assert [errors[int(n)] for n in shown] == [errors[order[-1]], errors[order[7]], errors[order[0]]]
    assert read(tmp_path / "outputs" / "comparison.png").shape == (3 * 10, 8 * 10)  # the first eight


def test_long_and_wide_pictures_are_saved_with_a_small_sheet(run_imported, tmp_path):
    write_pgm(tmp_path / "tall.pgm", photograph(30_000, 1))
    write_pgm(tmp_path / "wide.pgm", photograph(1, 30_000))
    status, _, errors = run_imported(**{**PATCHES, "IMAGES": ("tall.pgm", "wide.pgm"), "LATENT_DIM": 2, "EPOCHS": 2})
    assert (status, errors) == (0, "")
    assert [picture.shape for picture in decoded(tmp_path / "outputs", 2)] == [(30_000, 1), (1, 30_000)]
    assert max(read(tmp_path / "outputs" / "comparison.png").shape) < 2100


# --------------------------------------------------------------------- mistakes

NAN = float("nan")
BAD = [
    *[(name, value) for name in ("WIDTH", "HEIGHT", "LATENT_DIM", "EPOCHS", "LOG_EVERY") for value in (0, -1, 2.0, "2", None, True, 10**5000)],
    *[("LEARNING_RATE", value) for value in (0, -1, NAN, float("inf"), "1", None, True, 10)],
    *[("TARGET_PSNR", value) for value in (0, NAN, "30", 101)],
    *[("SEED", value) for value in (-1, 0.5, None)],
    *[("IMAGES", value) for value in ("radial", (), None, 5, (1,), ("radial", None))],
    *[("OUTPUT_DIR", value) for value in (None, 5)],
    *[("SINE_FREQUENCY", value) for value in (-1, 12, NAN, "40", None, True)],
    *[("CHECKER_SQUARES", value) for value in (0, 25, 2.0, None, True)],
]


@pytest.mark.parametrize("name, value", BAD, ids=lambda value: str(value)[:12] if not isinstance(value, int) or value < 10**9 else "huge")
def test_a_bad_constant_is_refused_by_name_before_anything_is_written(run_imported, tmp_path, name, value):
    status, output, errors = run_imported(**{**SMALL, "CHECKER_SQUARES": 4, name: value})
    assert (status, output) == (2, "") and re.fullmatch(ONE_LINE, errors) and name in errors
    assert os.listdir(tmp_path) == []


def test_the_sizes_are_named_with_a_pattern_that_does_not_fit(run_imported):
    for images, name in ((("checkerboard",), "CHECKER_SQUARES"), (("sine",), "SINE_FREQUENCY")):
        _, _, errors = run_imported(WIDTH=8, HEIGHT=8, IMAGES=images)
        assert name in errors and "WIDTH" in errors and "HEIGHT" in errors


@pytest.mark.parametrize("name", ["missing.pgm", "folder", "cat.jpg", "empty.pgm", "p6.ppm", "short.pgm", "a\0b"])
def test_what_is_no_picture_is_refused_by_its_name(run_imported, tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.pgm").write_bytes(b"")
    (tmp_path / "p6.ppm").write_bytes(b"P6 1 1 255 abc")
    (tmp_path / "short.pgm").write_bytes(b"P5 2 2 255 abc")
    Image.fromarray(photograph(9, 9)).save(tmp_path / "cat.jpg")
    before = sorted(os.listdir(tmp_path))
    status, output, errors = run_imported(**{**SMALL, "IMAGES": ("radial", name)})
    assert (status, output) == (2, "") and re.fullmatch(ONE_LINE, errors) and sorted(os.listdir(tmp_path)) == before
    assert not name.isprintable() or name in errors


def test_a_name_that_cannot_be_printed_is_refused_too(copy):
    status, output, errors = run_process(copy(**{**SMALL, "IMAGES": ("\udcff.pgm",)}))
    assert (status, output) == (2, "") and re.fullmatch(ONE_LINE, errors)


def test_a_pattern_that_returns_nonsense_is_refused_by_name(run_imported, program, monkeypatch, tmp_path):
    monkeypatch.setitem(program.PATTERNS, "mine", lambda x, y, width, height: x)
    status, _, errors = run_imported(**{**SMALL, "IMAGES": ("mine",)})
    assert status == 2 and re.fullmatch(ONE_LINE, errors) and "pattern mine" in errors


@pytest.mark.parametrize("folder", ["file", "file/below", "/dev/null/x"])
def test_a_folder_that_cannot_be_written_is_named(run_imported, tmp_path, folder):
    (tmp_path / "file").write_bytes(b"stays")
    status, output, errors = run_imported(**SMALL, OUTPUT_DIR=folder)
    assert (status, output) == (2, "") and re.fullmatch(ONE_LINE, errors) and "OUTPUT_DIR" in errors
    assert contents(tmp_path) == {"file": b"stays"}


@pytest.mark.parametrize("method", ["write_bytes", "replace"])
def test_a_failed_write_leaves_the_files_of_an_earlier_run(run_imported, program, monkeypatch, tmp_path, method):
    assert run_imported(**SMALL)[0] == 0
    before = contents(tmp_path / "outputs")

    def fail(path, *arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(program.Path, method, fail)
    status, _, errors = run_imported(**SMALL, SEED=1)
    assert status == 2 and re.fullmatch(ONE_LINE, errors) and "No space left on device" in errors
    monkeypatch.undo()
    assert contents(tmp_path / "outputs") == before


def test_short_memory_ends_in_one_line(run_imported, program, monkeypatch):
    for error in (MemoryError(), MemoryError("Unable to allocate 1 TiB")):
        def fail(*arguments):
            raise error

        monkeypatch.setattr(program, "start", fail)
        status, _, errors = run_imported(**SMALL)
        assert status == 2 and re.fullmatch(ONE_LINE, errors)


def test_arguments_are_refused(copy):
    status, output, errors = finish(start([sys.executable, str(copy(**SMALL)), "--epochs", "5"]))
    assert (status, output) == (2, "") and re.fullmatch(ONE_LINE, errors) and "constants" in errors


# --------------------------------------------------------------------- surroundings


def unprivileged(folder):
    """Start of a command that may not write in a read-only folder: nothing, or root without its capabilities."""
    folder.chmod(0o555)
    for prefix in ([], ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]):
        command = [*prefix, sys.executable, "-c", "import os; print(os.access('.', os.W_OK), os.access('.', os.R_OK))"]
        with contextlib.suppress(OSError):
            if finish(start(command, cwd=folder))[1] == "False True\n":
                return prefix
    pytest.skip("nothing is read-only for this user")


def test_it_runs_where_neither_its_folder_nor_home_can_be_written(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    script = edit(folder, **SMALL, OUTPUT_DIR=str(tmp_path / "outputs"))
    prefix = unprivileged(folder)
    surroundings = {"HOME": str(folder), "XDG_CACHE_HOME": str(folder)}
    status, output, errors = finish(start([*prefix, sys.executable, str(script)], surroundings, cwd=folder))
    assert (status, errors) == (0, "") and "all pictures: " in output
    assert readable(tmp_path / "outputs") == DEFAULT_FILES and os.listdir(folder) == ["neural_compression.py"]


def test_a_reader_that_goes_away(copy, tmp_path):
    """After 3 lines, when the pipe is full: the work goes on without a word."""
    process = start([sys.executable, str(copy(**{**SMALL, "EPOCHS": 3000}, LOG_EVERY=1))])
    for _ in range(3):
        process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    assert (process.wait(), errors) == (0, "") and readable(tmp_path / "outputs") == DEFAULT_FILES


@pytest.mark.parametrize("redirection, result", [(">/dev/full", 2), (">&-", 0), ("2>/dev/full", 0)])
def test_full_or_closed_output(copy, tmp_path, redirection, result):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    command = ["sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, str(copy(**SMALL))]
    status, _, errors = finish(start(command))
    assert status == result and (errors == "" if result == 0 else re.fullmatch(ONE_LINE, errors))


def test_a_mistake_with_full_standard_error_has_a_status(copy):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    command = ["sh", "-c", 'exec "$@" 2>/dev/full', "sh", sys.executable, str(copy(**{**SMALL, "EPOCHS": 0}))]
    assert finish(start(command))[0] in (2, 120)  # Python's own status for an output that can't be flushed


def test_two_runs_at_once_in_one_folder(copy, tmp_path):
    script = copy(**SMALL)
    processes = [start([sys.executable, str(script)]) for _ in range(2)]
    assert [finish(process)[::2] for process in processes] == 2 * [(0, "")]
    assert readable(tmp_path / "outputs") == DEFAULT_FILES


def test_import_prints_and_writes_nothing_and_a_users_spincount_stays(tmp_path):
    edit(tmp_path)
    command = [sys.executable, "-B", "-c", "import os, neural_compression; os.write(2, os.environ['GOMP_SPINCOUNT'].encode())"]
    assert finish(start(command, cwd=tmp_path)) == (0, "", "10000")
    assert finish(start(command, {"GOMP_SPINCOUNT": "77"}, cwd=tmp_path)) == (0, "", "77")
    assert set(os.listdir(tmp_path)) <= {"neural_compression.py", "__pycache__"}
    assert not (tmp_path / "__pycache__").exists() or not os.listdir(tmp_path / "__pycache__")


# --------------------------------------------------------------------- Ctrl-C


def interrupt_at(words, process):
    for text in process.stdout:
        if words in text:
            process.send_signal(signal.SIGINT)
            return
    raise AssertionError(f"no line with {words}")


def test_ctrl_c_in_training_saves_what_was_learned(copy, tmp_path):
    script = copy(**{**SMALL, "EPOCHS": 10**9}, LOG_EVERY=1000)
    heed = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}  # the suite itself may ignore Ctrl-C
    process = start([sys.executable, str(script)], **heed)
    interrupt_at("epoch ", process)
    status, output, errors = finish(process)
    assert (status, errors) == (130, "") and "all pictures: " in output
    assert readable(tmp_path / "outputs") == DEFAULT_FILES
    originals = [read(tmp_path / "outputs" / f"generated_{name}.pgm") for name in PATTERNS]
    check_report(tmp_path / "outputs", PATTERNS, originals, output)


def test_ctrl_c_after_training_is_one_line(run_imported, program, monkeypatch, tmp_path):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    handler = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(program, "quantise", interrupt)
    status, _, errors = run_imported(**SMALL)
    assert status == 130 and re.fullmatch(ONE_LINE, errors) and "no results were saved" in errors
    assert readable(tmp_path / "outputs") == {f"generated_{name}.pgm" for name in PATTERNS}
    assert signal.getsignal(signal.SIGINT) is handler
