"""The program as a whole: what it prints and saves, what it refuses, its machine code, how it is interrupted."""

import itertools
import math
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import SCRIPT, SMALL, contents, edit, finish, photograph, run_process, start
from PIL import Image

PATTERNS = ("radial", "sine", "checkerboard")
GENERATED = {f"generated_{name}.pgm" for name in PATTERNS}
DEFAULT_FILES = {*GENERATED, *(f"final_decoded_{n}.pgm" for n in range(3)), "comparison.png", "compressed.bin"}
PATCHES = {"WIDTH": 8, "HEIGHT": 8, "EPOCHS": 50, "IMAGES": ("cat.pgm",), "LATENT_DIM": 12}
ONE_LINE = r"neural_compression\.py: [^\n]+\n"


def read(path):
    with Image.open(path) as image:
        return np.asarray(image)


def save(path, picture):
    Image.fromarray(np.uint8(picture)).save(path, "PPM")


def quality(pairs):
    """PSNR in the words of the report, of pairs of pictures."""
    square = sum(np.sum((a.astype(float) - b) ** 2) for a, b in pairs)
    size = sum(a.size for a, _ in pairs)
    return f"PSNR {20 * math.log10(255 / math.sqrt(square / size)):.2f} dB" if square else "exact"


def check_results(folder, output, originals=None):
    """All results of a run are whole, they and the report fit together, and nothing else is there. Returns the pictures."""
    import neural_compression

    if originals is None:
        originals = {name: read(folder / f"generated_{name}.pgm") for name in PATTERNS}
    content = (folder / "compressed.bin").read_bytes()
    decoded = neural_compression.decompress(content)
    ending = "ppm" if decoded[0].ndim == 3 else "pgm"
    names = [f"final_decoded_{n}.{ending}" for n in range(len(originals))]
    generated = {name for name in GENERATED if name[10:-4] in originals}
    assert {path.name for path in folder.iterdir()} == {*names, *generated, "comparison.png", "compressed.bin"}
    assert len(decoded) == len(names) and all(map(np.array_equal, decoded, (read(folder / name) for name in names)))
    assert read(folder / "comparison.png").ndim == decoded[0].ndim

    pairs = list(zip(originals.values(), decoded))
    lines = [f"{name}: {quality([pair])}" for name, pair in zip(originals, pairs)]
    pixels, samples = sum(a.shape[0] * a.shape[1] for a, _ in pairs), sum(a.size for a, _ in pairs)
    rates = f"{8 * len(content) / pixels:.3f} bits per pixel, {len(content) / samples:.3f} of raw"
    lines += [f"all pictures: {quality(pairs)}", f"compressed.bin: {len(content)} bytes, {rates}"]
    assert "\n".join(["", *lines, ""]) in "\n" + output
    return decoded


# --------------------------------------------------------------------- the default run


def test_default_run_gives_every_picture_back_and_says_so(default_run):
    folder, output = default_run
    files = contents(folder / "outputs")
    assert set(files) == DEFAULT_FILES and len(files["compressed.bin"]) < 8000
    for n, name in enumerate(PATTERNS):
        assert files[f"final_decoded_{n}.pgm"] == files[f"generated_{name}.pgm"]
    check_results(folder / "outputs", output)

    lines = output.splitlines()
    assert lines[:2] == ["compiling ...", "codes to train: 3, numbers per code: 3 (16 asked; no more are needed for 3 patches of 65536 samples)"]
    log = [re.fullmatch(r"epoch +(\d+)/1000  loss (\S+)  PSNR (\S+) dB  \S+ s, \S+ s left", line) for line in lines[2:102]]
    assert [int(line[1]) for line in log] == list(range(10, 1001, 10))
    assert all(abs(-10 * math.log10(float(line[2])) - float(line[3])) < 0.01 for line in log) and float(log[-1][3]) > 80
    *tries, taken = lines[102:-5]
    assert all(re.fullmatch(r"rounding step \d[\d.e-]*: (exact|PSNR \d+\.\d\d dB)", line) for line in tries)
    assert taken.replace(" is taken", ": exact") in tries


def test_same_bytes_from_the_machine_code_and_with_any_number_of_threads(default_run, copy, tmp_path):
    """The first default run compiled, with 2 threads. Also with more patches than samples, and for NumPy's own threads."""
    folder, output = default_run
    first, machine_code = contents(folder / "outputs"), contents(folder / "__pycache__")
    status, again, _ = run_process(folder / "neural_compression.py", NUMBA_NUM_THREADS="1", OPENBLAS_NUM_THREADS="2")
    without = re.compile(r"compiling \.\.\.\n|  \S+ s, \S+ s left")
    assert status == 0 and "compiling" not in again and without.sub("", again) == without.sub("", output)
    assert contents(folder / "outputs") == first and contents(folder / "__pycache__") == machine_code

    save(tmp_path / "cat.pgm", photograph(160, 240))
    script, results = copy(**{**PATCHES, "LATENT_DIM": 32}), []
    for threads, blas in (("1", "2"), ("3", "1")):
        status, output, _ = run_process(script, NUMBA_NUM_THREADS=threads, OPENBLAS_NUM_THREADS=blas)
        assert status == 0 and "codes to train: 600, numbers per code: 32\n" in output
        results.append((contents(tmp_path / "outputs"), without.sub("", output)))
    assert results[0] == results[1] and contents(tmp_path / "__pycache__") == machine_code


def git(*arguments):
    """What git prints about this checkout, in bytes."""
    try:
        return subprocess.run(["git", *arguments], cwd=SCRIPT.parent, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a checkout")


def test_after_a_default_run_the_checkout_is_as_it_was_committed(default_run):
    committed = {Path(name).name for name in git("ls-files", "outputs").decode().split()}
    assert {name for name in DEFAULT_FILES if name.endswith(".pgm")} <= committed
    for name, content in contents(default_run[0] / "outputs").items():
        if name in committed:
            assert git("show", f":outputs/{name}") == content, name
        else:
            assert git("check-ignore", f"outputs/{name}"), name


# --------------------------------------------------------------------- what the README shows


def readme(*words):
    """The one block of the README that holds some words, or begins with them."""
    blocks = re.findall(r"```(\w*\n.*?)```", (SCRIPT.parent / "README.md").read_text(), re.S)
    (block,) = [block for block in blocks if all(word in block for word in words)]
    return block.partition("\n")[2]


def test_the_two_commands_of_the_readme_run_the_program_and_the_tests():
    run, test = readme("sh\n", "venv").splitlines()
    assert "neural_compression.py" in run and "pytest" in test and "tests/requirements.txt" in test


@pytest.mark.parametrize("mode, ending", [("L", "pgm"), ("RGB", "ppm")])
def test_the_readme_converts_a_picture_upright_in_grey_or_in_colour(program, monkeypatch, tmp_path, mode, ending):
    monkeypatch.chdir(tmp_path)
    lying = np.uint8(np.kron(np.random.default_rng(0).integers(0, 256, (2, 3, 3)), np.ones((16, 16, 1))))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    Image.fromarray(lying).save("cat.jpg", quality=100, subsampling=0, exif=exif)
    exec(readme("exif_transpose").replace('.convert("L")', f'.convert("{mode}")').replace("cat.pgm", f"cat.{ending}"), {})
    upright = Image.fromarray(np.ascontiguousarray(np.rot90(lying, -1))).convert(mode)
    assert np.max(abs(np.asarray(upright, float) - program.read_picture(tmp_path / f"cat.{ending}"))) <= 6


def test_the_readme_puts_what_is_transparent_on_white_and_keeps_16_bits(program, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    logo = np.zeros((4, 6, 4), np.uint8)
    logo[1:3, 2:5, 3] = 255
    deep = np.random.default_rng(0).integers(0, 65536, (7, 9)).astype(np.uint16)
    for array, expected in ((logo, 255 - logo[..., 3]), (deep, np.floor(deep / 257 + 0.5))):
        Image.fromarray(array).save("cat.jpg", format="PNG")  # Pillow goes by what a file holds
        exec(readme("exif_transpose"), {})
        assert np.array_equal(program.read_picture(tmp_path / "cat.pgm"), expected)


@pytest.mark.parametrize("channels", [(), (3,)])
def test_a_photograph_with_the_constants_of_the_readme_reaches_its_target(run_imported, tmp_path, channels):
    constants = {}
    exec(readme('IMAGES = ("cat.pgm",)'), constants)
    constants = {name: value for name, value in constants.items() if name.isupper()}
    picture = photograph(90, 125, *channels)
    save(tmp_path / "cat.pgm", picture)
    status, output, errors = run_imported(**{**constants, "TARGET_PSNR": 31.0})
    assert (status, errors) == (0, "")
    check_results(tmp_path / "outputs", output, {"cat.pgm": picture})
    assert 31 <= float(re.search(r"all pictures: PSNR (\S+) dB", output)[1]) < 31.5


def test_the_readme_decodes_the_default_run(default_run, monkeypatch):
    monkeypatch.chdir(default_run[0])
    names = {}
    exec(readme("decompress", "outputs/compressed.bin"), names)
    assert len(names["pictures"]) == 3
    assert all(np.array_equal(picture, read(f"outputs/final_decoded_{n}.pgm")) for n, picture in enumerate(names["pictures"]))


def test_the_five_calls_of_the_readme_compress_and_decompress():
    block, names = readme(*(f"{name}(" for name in ("cut", "start", "train", "compress", "decompress"))), {}
    before, cut, after = block.partition("targets = ")
    exec(before, names)
    (original,) = names["pictures"]
    exec(cut + after, names)
    (decoded,) = names["pictures"]
    assert decoded is not original and decoded.shape == original.shape and decoded.dtype == np.uint8
    assert 0 < np.mean((original.astype(float) - decoded) ** 2) < 255**2 / 10**3


def test_own_pattern_as_the_readme_adds_it_from_another_working_directory(copy, tmp_path):
    script = copy(**{**SMALL, "IMAGES": ("rings", "radial"), "OUTPUT_DIR": "results/here"})
    text, number = re.subn(r"(?m)^PATTERNS = \{.*\}\n", lambda line: line[0] + "\n\n" + readme("def rings("), script.read_text())
    assert number == 1
    script.write_text(text)
    status, output, errors = finish(start([sys.executable, str(script)], cwd="/"))
    assert (status, errors) == (0, "") and "\nrings: " in output
    rings = read(tmp_path / "results" / "here" / "generated_rings.pgm")
    assert rings.shape == (24, 32) and rings[12, 16] > 250 and rings.min() < 20
    assert set(os.listdir(tmp_path)) == {"neural_compression.py", "__pycache__", "results"}


# --------------------------------------------------------------------- other constants


@pytest.mark.parametrize("width, height, latent_dim", [(1, 1, 1), (7, 5, 16), (96, 40, 3), (64, 64, 327), (40, 50, 2)])
def test_odd_sizes_come_back_exact(run_imported, tmp_path, width, height, latent_dim):
    images = ("radial", "checkerboard", "radial")[: min(3, latent_dim)]
    status, output, errors = run_imported(WIDTH=width, HEIGHT=height, IMAGES=images, LATENT_DIM=latent_dim, CHECKER_SQUARES=3)
    assert (status, errors) == (0, "") and "all pictures: exact\n" in output
    files = contents(tmp_path / "outputs")
    for n, name in enumerate(images):
        assert files[f"final_decoded_{n}.pgm"] == files[f"generated_{name}.pgm"]


@pytest.mark.parametrize(
    "size, latent_dim, words",
    [
        (4000, 16, "1, numbers per code: 1 (16 asked; no more are needed for 1 patches of 100 samples)\n"),  # larger than any picture
        (2, 5, "25, numbers per code: 4 (5 asked; no more are needed for 25 patches of 4 samples)\n"),
        (2, 4, "25, numbers per code: 4\n"),
    ],
)
def test_numbers_per_code_are_told_and_why_they_are_fewer(run_imported, tmp_path, size, latent_dim, words):
    save(tmp_path / "cat.pgm", photograph(10, 10))
    sizes = {"WIDTH": size, "HEIGHT": size, "LATENT_DIM": latent_dim}
    status, output, errors = run_imported(**{**PATCHES, **sizes, "EPOCHS": 300})
    assert (status, errors) == (0, "") and f"codes to train: {words}" in output
    check_results(tmp_path / "outputs", output, {"cat.pgm": photograph(10, 10)})
    assert (tmp_path / "outputs" / "compressed.bin").stat().st_size < 200


@pytest.mark.parametrize("target, advice", [(None, ""), (1, ""), (25.5, ""), (60, "TARGET_PSNR 60: "), (100, "TARGET_PSNR 100: ")])
def test_a_target_is_reached_or_it_is_told_what_to_change(run_imported, tmp_path, target, advice):
    save(tmp_path / "cat.pgm", photograph(80, 120))
    status, output, errors = run_imported(**PATCHES, TARGET_PSNR=target)
    assert (status, errors) == (0, "") and ("LATENT_DIM = 24" in output) == bool(advice) and advice in output
    learned = float(re.findall(r"epoch .*PSNR (\S+) dB", output)[-1])
    reached = float(re.search(r"all pictures: PSNR (\S+) dB", output)[1])
    assert reached >= (learned - 0.1 if target is None or advice else target)


def test_advice_goes_by_the_pictures_not_by_what_patches_are_filled_up_with(program, capsys):
    """A grey picture of 9 x 11 was learned as 138, not 128: 28.1 dB; what fills its patch up to 20 x 20 was learned exactly."""
    learned = np.full((20, 20), 128 / 255)
    learned[:9, :11] = 138 / 255
    codes, decoder = np.float32([[1, 1]]), np.stack([np.log(learned / (1 - learned)).ravel(), np.zeros(400)])
    for target, advised in ((27.0, False), (28.0, True)):
        program.advise([np.full((9, 11), 128, np.uint8)], codes, decoder, 20, 20, target, b"")
        assert ("training reached 28.1 dB" in capsys.readouterr().out) == advised


def test_a_pattern_in_colour_is_saved_in_colour(run_imported, program, monkeypatch, tmp_path):
    monkeypatch.setitem(program.PATTERNS, "mine", lambda x, y, width, height: np.dstack([x / width, y / height, x == y]))
    status, output, errors = run_imported(**{**SMALL, "IMAGES": ("mine",)})
    assert (status, errors) == (0, "")
    mine = tmp_path / "outputs" / "generated_mine.ppm"
    assert np.array_equal(read(mine), program.draw("mine", 32, 24))
    mine.unlink()
    check_results(tmp_path / "outputs", output, {"mine": program.draw("mine", 32, 24)})


def test_a_file_pattern_stands_for_its_files_in_order(run_imported, tmp_path):
    (tmp_path / "photos").mkdir()
    pictures = {f"photos/{name}.pgm": photograph(30, 20 + ord(name)) for name in "abc"}
    for name in sorted(pictures, reverse=True):
        save(tmp_path / name, pictures[name])
    (tmp_path / "photos" / "notes.txt").write_text("no picture")
    status, output, errors = run_imported(**{**PATCHES, "IMAGES": ("photos/*.pgm",)})
    assert (status, errors) == (0, "")
    check_results(tmp_path / "outputs", output, pictures)


def test_decoded_pictures_of_a_longer_run_are_gone_and_other_files_stay(run_imported, tmp_path):
    assert run_imported(**SMALL)[0] == 0
    for name in ("notes.txt", "final.pgm"):
        (tmp_path / "outputs" / name).write_text("stays")
    cat = photograph(30, 30, 3)
    save(tmp_path / "cat.ppm", cat)
    status, output, _ = run_imported(**{**PATCHES, "IMAGES": ("cat.ppm",)})
    files = {"final_decoded_0.ppm", "comparison.png", "compressed.bin", "notes.txt", "final.pgm"}
    assert status == 0 and set(contents(tmp_path / "outputs")) == GENERATED | files


# --------------------------------------------------------------------- mistakes


def check_refused(result, *words):
    """The program ended with one line that has these words."""
    status, output, errors = result
    assert (status, output) == (2, "") and re.fullmatch(ONE_LINE, errors) and all(word in errors for word in words)


NUMBERS = (-1, 0, "2", None, math.nan, math.inf, 10**5000, True)
BAD = [
    *[(name, bad) for name in ("WIDTH", "HEIGHT", "LATENT_DIM", "EPOCHS", "LOG_EVERY") for bad in (*NUMBERS, 2.0)],
    *[("SEED", bad) for bad in (*NUMBERS, 2.0) if bad != 0],
    *[("LEARNING_RATE", bad) for bad in (*NUMBERS, 2.1)],
    *[("TARGET_PSNR", bad) for bad in (*NUMBERS, 0.9, 101) if bad is not None],
    *[(name, bad) for name in ("SINE_FREQUENCY", "CHECKER_SQUARES") for bad in ("40", None, math.nan, math.inf, True)],
    *[("IMAGES", bad) for bad in ("cat.pgm", (), None, (1,), ("radial", None), ("a" * 300,), 5, {"radial"}, np.array(["radial"]))],
    *[("OUTPUT_DIR", bad) for bad in (None, 5, b"outputs", Path("outputs"))],
]


@pytest.mark.parametrize("name, bad", BAD, ids=lambda value: "huge" if value == 10**5000 else str(value)[:12])
def test_a_bad_constant_is_refused_by_name_before_anything_is_written(run_imported, tmp_path, name, bad):
    check_refused(run_imported(**{**SMALL, name: bad}), name)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "name, words",
    [
        ("missing.pgm", ["missing.pgm", "radial, sine, checkerboard"]), ("photos/*.pgm", ["photos/*.pgm"]), ("", []),
        ("folder", ["folder"]), ("cat.jpg", ["cat.jpg", "README"]), ("short.pgm", ["short.pgm"]), ("mine", ["pattern mine"]),
        ("two\nlines.pgm", ["two?lines.pgm"]), ("a\0b", []), ("\udcff.pgm", []),
    ],
)  # fmt: skip
def test_what_is_no_picture_is_refused_by_name(run_imported, program, monkeypatch, tmp_path, name, words):
    monkeypatch.setitem(program.PATTERNS, "mine", lambda x, y, width, height: x)
    (tmp_path / "folder").mkdir()
    (tmp_path / "short.pgm").write_bytes(b"P5 2 2 255 abc")
    Image.fromarray(photograph(9, 9)).save(tmp_path / "cat.jpg")
    before = contents(tmp_path)
    check_refused(run_imported(**{**SMALL, "IMAGES": ("radial", name)}), *words)
    assert contents(tmp_path) == before


def test_grey_and_colour_are_not_mixed(run_imported, tmp_path):
    save(tmp_path / "cat.ppm", photograph(9, 9, 3))
    check_refused(run_imported(**{**SMALL, "IMAGES": ("radial", "cat.ppm")}), "radial", "cat.ppm", "mixed")


@pytest.mark.parametrize(
    "name, folder",
    [
        ("outputs/final_decoded_0.pgm", "outputs"), ("outputs/final*.pgm", "outputs/"), ("outputs/final_decoded_2.pgm", "outputs"),
        ("outputs/generated_sine.pgm", "outputs"), ("./outputs/../outputs/final_decoded_0.pgm", "outputs"),
        ("link/final_decoded_0.pgm", "outputs"), ("outputs/final_decoded_0.pgm", "link"),
    ],
)  # fmt: skip
def test_an_input_that_the_run_would_replace_is_refused_and_stays(run_imported, tmp_path, name, folder):
    assert run_imported(**SMALL)[0] == 0
    (tmp_path / "link").symlink_to("outputs")
    before = contents(tmp_path / "outputs")
    check_refused(run_imported(**{**SMALL, "IMAGES": (name,), "OUTPUT_DIR": folder, "LATENT_DIM": 1}), Path(name).name[:5])
    assert contents(tmp_path / "outputs") == before


def test_arguments_on_the_command_line_are_refused(run_imported, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["neural_compression.py", "cat.jpg"])
    check_refused(run_imported(), "takes no arguments")
    assert os.listdir(tmp_path) == []


def test_a_python_without_lzma_is_refused_at_the_start(copy, tmp_path):
    stubs = tmp_path / "stubs"
    stubs.mkdir()
    (stubs / "lzma.py").write_text("raise ImportError('No module named _lzma')")
    check_refused(run_process(copy(**SMALL), PYTHONPATH=str(stubs)), "lzma")
    assert not (tmp_path / "outputs").exists()


def test_short_memory_ends_in_one_line(run_imported, program, monkeypatch):
    monkeypatch.setattr(program, "start", lambda *arguments: np.zeros((10**9, 10**9)))
    status, _, errors = run_imported(**SMALL)
    assert status == 2 and re.fullmatch(ONE_LINE, errors)


# --------------------------------------------------------------------- folders, writes and pipes


@pytest.mark.parametrize("folder", ["file", "file/below", "/dev/null/x", "a\0b", "\ud800", "x" * 300])
def test_a_folder_that_cannot_be_written_is_named(run_imported, tmp_path, folder):
    (tmp_path / "file").write_bytes(b"stays")
    check_refused(run_imported(**SMALL, OUTPUT_DIR=folder), "OUTPUT_DIR")
    assert contents(tmp_path) == {"file": b"stays"}


@pytest.mark.parametrize("method, done", [("write_bytes", 0), ("write_bytes", 5), ("replace", 0), ("replace", 5)])
def test_a_full_disk_leaves_whole_files(run_imported, program, monkeypatch, tmp_path, method, done):
    """At once, or behind 3 patterns and 2 of 5 results: no file is broken, none is lost, none is left over."""
    assert run_imported(**SMALL)[0] == 0
    before = contents(tmp_path / "outputs")
    real, calls = getattr(Path, method), itertools.count()

    def fail(path, argument):
        if next(calls) < done:
            return real(path, argument)
        if method == "write_bytes":
            real(path, argument[: len(argument) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(program.Path, method, fail)
    status, _, errors = run_imported(**SMALL, LATENT_DIM=1)
    monkeypatch.undo()
    assert status == 2 and re.fullmatch(ONE_LINE, errors) and "OUTPUT_DIR" in errors and "No space left" in errors
    after = contents(tmp_path / "outputs")
    assert set(after) == DEFAULT_FILES and all(read(tmp_path / "outputs" / name).size for name in after if name[-1] != "n")
    assert sum(after[name] != before[name] for name in after) == (2 if (method, done) == ("replace", 5) else 0)


def unprivileged(folder):
    """Start of a command that may not write in a read-only folder: nothing, or root without its capabilities."""
    folder.chmod(0o555)
    for prefix in ([], ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]):
        try:
            finish(start([*prefix, "touch", str(folder / "probe")]))
        except OSError:
            continue
        if not (folder / "probe").exists():
            return prefix
        (folder / "probe").unlink()
    pytest.skip("nothing is read-only for this user")


def test_a_read_only_folder_is_named_and_stays_as_it_is(tmp_path):
    """That is told before anything is compiled."""
    script, folder = edit(tmp_path, **SMALL), tmp_path / "outputs"
    folder.mkdir()
    (folder / "compressed.bin").write_bytes(b"of an earlier run")
    check_refused(finish(start([*unprivileged(folder), sys.executable, str(script)])), "OUTPUT_DIR")
    assert contents(folder) == {"compressed.bin": b"of an earlier run"}


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_names_that_cannot_be_printed_get_question_marks(copy, tmp_path, encoding):
    names = ("\u732b\u00fc.pgm", "two\nlines.pgm", os.fsdecode(b"\xff.pgm"))
    for name in names:
        save(tmp_path / name, photograph(20, 20))
    status, output, errors = run_process(copy(**{**PATCHES, "IMAGES": names}), PYTHONIOENCODING=encoding)
    assert (status, errors) == (0, "")
    shown = "??.pgm" if encoding == "ascii" else "?\ufffd.pgm", "two?lines.pgm", "?.pgm"  # conftest reads UTF-8
    check_results(tmp_path / "outputs", output, dict.fromkeys(shown, photograph(20, 20)))


def test_a_reader_that_goes_away(copy, tmp_path):
    process = start([sys.executable, str(copy(**{**SMALL, "EPOCHS": 3000}, LOG_EVERY=1))])
    for _ in range(3):
        process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    assert (process.wait(), errors) == (0, "") and set(contents(tmp_path / "outputs")) == DEFAULT_FILES


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
@pytest.mark.parametrize("redirection, result", [(">/dev/full", 2), (">&-", 0)])
def test_full_or_closed_output(copy, tmp_path, redirection, result):
    command = ["sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, str(copy(**SMALL))]
    status, _, errors = finish(start(command))
    assert status == result and (re.fullmatch(ONE_LINE, errors) if result else errors == "")
    assert result or set(contents(tmp_path / "outputs")) == DEFAULT_FILES


def test_two_runs_at_once_in_one_folder(copy, tmp_path):
    script = copy(**SMALL)
    results = [finish(process) for process in [start([sys.executable, str(script)]) for _ in range(2)]]
    for status, output, errors in results:
        assert (status, errors) == (0, "")
        check_results(tmp_path / "outputs", output)


# --------------------------------------------------------------------- machine code


def test_import_prints_writes_and_compiles_nothing(tmp_path):
    edit(tmp_path)
    code = "import neural_compression as nc; print([kernel for kernel in nc.KERNELS if kernel.signatures])"
    assert finish(start([sys.executable, "-B", "-c", code], cwd=tmp_path)) == (0, "[]\n", "")
    assert os.listdir(tmp_path) == ["neural_compression.py"]


def test_under_another_name_it_works_beside_other_machine_code(tmp_path):
    edit(tmp_path)
    for name in ("one", "two", "two"):  # compiled, compiled, loaded
        code = f"from importlib import util; import sys; spec = util.spec_from_file_location({name!r}, 'neural_compression.py'); "
        code += f"nc = sys.modules[{name!r}] = util.module_from_spec(spec); spec.loader.exec_module(nc); nc.rehearse('pack')"
        assert finish(start([sys.executable, "-B", "-c", code], cwd=tmp_path)) == (0, "", "")


def test_an_edited_constant_compiles_nothing_and_an_edited_kernel_does(copy, tmp_path):
    save(tmp_path / "cat.pgm", photograph(40, 40))
    script = copy(**PATCHES, LEARNING_RATE=0.9, SEED=5)
    before = contents(tmp_path / "__pycache__")
    script.write_text("# A line more moves all functions.\n" + script.read_text())
    status, output, _ = run_process(script)
    assert status == 0 and "compiling" not in output and contents(tmp_path / "__pycache__") == before

    text = script.read_text().replace("min(used + 1, 127)", "min(used + 1, 2)")  # more in transfer_bit than in transfer_planes
    assert text != script.read_text()
    script.write_text(text)
    first = contents(tmp_path / "outputs")["compressed.bin"]
    status, output, errors = run_process(script)
    assert (status, errors) == (0, "") and output.startswith("compiling ...\n") and output.count("compiling") == 1
    assert contents(tmp_path / "outputs")["compressed.bin"] != first


def damage(folder, kernel, way):
    """Spoil what is kept of a kernel: the index says in which file its machine code is."""
    (index,) = folder.glob(f"*.{kernel}-*.nbi")
    for code in folder.glob(f"*.{kernel}-*.nbc"):
        if way == "swapped":
            shutil.copy(next(folder.glob("*.transfer_planes-*.nbc")), code)
        elif way == "index alone":
            code.unlink()
        elif way == "cut off":
            os.truncate(code, 5000)
    if way == "missing":
        index.unlink()
    elif way == "empty":
        os.truncate(index, 0)
    elif way == "random":
        index.write_bytes(np.random.default_rng(0).bytes(9000))


def test_damaged_machine_code_is_compiled_anew(default_run, tmp_path):
    """Of one kernel, of another, of all the others; and of one, where another is missing."""
    kernels = sorted(path.name.split(".")[1].split("-")[0] for path in (default_run[0] / "__pycache__").glob("*.nbi"))
    others = [kernel for kernel in kernels if kernel not in ("transfer_planes", "move")]
    ways = itertools.cycle(["empty", "random", "cut off"])
    damaged = [[("transfer_planes", "index alone")], [("move", "swapped")], list(zip(others, ways)),
               [("train_epoch", "missing"), ("move", "cut off")]]  # fmt: skip
    folders, processes = [], []
    for n, some in enumerate(damaged):
        folders.append(tmp_path / str(n))
        shutil.copytree(default_run[0] / "__pycache__", folders[n] / "__pycache__")
        for kernel, way in some:
            damage(folders[n] / "__pycache__", kernel, way)
        processes.append(start([sys.executable, str(edit(folders[n], **SMALL))]))
    for folder, process in zip(folders, processes):
        status, output, errors = finish(process)
        assert (status, errors) == (0, "") and output.startswith("compiling ...\n") and output.count("compiling") == 1
        check_results(folder / "outputs", output)
    assert all(contents(folder / "outputs") == contents(folders[0] / "outputs") for folder in folders)


@pytest.mark.parametrize("place", ["read-only", "full", "file"])
def test_results_are_saved_where_machine_code_cannot_be_or_one_line_says_why_not(tmp_path, place):
    folder, prefix, options = tmp_path / "folder", [], {}
    folder.mkdir()
    script = edit(folder, **SMALL, OUTPUT_DIR=str(tmp_path / "outputs"))
    if place == "read-only":
        prefix = unprivileged(folder)
    elif place == "full":
        options["preexec_fn"] = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
    else:
        (folder / "__pycache__").write_bytes(b"")
    surroundings = {"HOME": str(folder), "XDG_CACHE_HOME": str(folder)}
    status, output, errors = finish(start([*prefix, sys.executable, str(script)], surroundings, cwd=folder, **options))
    assert output.startswith("compiling ...\n") and output.count("compiling") == 1
    if place == "file":
        assert status == 2 and re.fullmatch(ONE_LINE, errors) and "__pycache__" in errors
    else:
        assert (status, errors) == (0, "")
        check_results(tmp_path / "outputs", output)
    assert place != "read-only" or os.listdir(folder) == ["neural_compression.py"]


def test_the_first_run_and_later_ones_give_the_same_bytes_for_a_plain_processor_too(tmp_path):
    script, runs = edit(tmp_path, **SMALL), []
    for _ in range(2):
        assert run_process(script, NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="")[::2] == (0, "")
        runs.append(contents(tmp_path / "outputs"))
    assert runs[0] == runs[1]


# --------------------------------------------------------------------- Ctrl-C


def start_group(script, disposition=signal.SIG_DFL):
    """Start a script in a process group of its own, as a terminal does; the suite itself may ignore Ctrl-C."""
    options = {"preexec_fn": lambda: signal.signal(signal.SIGINT, disposition), "start_new_session": True}
    return start([sys.executable, str(script)], **options)


def press(process):
    """Press Ctrl-C: all processes of the group get it."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)


def test_ctrl_c_while_it_compiles_is_one_line(tmp_path):
    """At once, and when the first files of machine code are there."""
    folders, processes, waited_for = [], [], (0, 1, 6)
    for count in waited_for:
        folders.append(tmp_path / str(count))
        folders[-1].mkdir()
        processes.append(start_group(edit(folders[-1], **SMALL)))
    for count, folder, process in zip(waited_for, folders, processes):
        assert process.stdout.readline() == "compiling ...\n"
        while len(list(folder.glob("__pycache__/*.nbi"))) < count and process.poll() is None:
            time.sleep(0.01)
        press(process)
    for folder, process in zip(folders, processes):
        status, output, errors = finish(process)
        assert (status, output) == (130, "") and re.fullmatch(ONE_LINE, errors)
        assert set(contents(folder / "outputs")) == GENERATED


@pytest.mark.parametrize("presses", [1, 3])
def test_ctrl_c_in_training_ends_it_and_saves_what_was_learned(copy, tmp_path, presses):
    process = start_group(copy(**{**SMALL, "EPOCHS": 10**9, "LOG_EVERY": 1000}))
    assert any("epoch " in line for line in process.stdout)
    for _ in range(presses):
        press(process)
        assert presses == 1 or any("Ctrl-C" in line or "rounding" in line for line in process.stdout)
    status, output, errors = finish(process)
    assert (status, errors) == (130, "")
    check_results(tmp_path / "outputs", output)


def test_ctrl_c_that_is_ignored_stays_ignored(copy, tmp_path):
    process = start_group(copy(**{**SMALL, "EPOCHS": 3000, "LOG_EVERY": 1}), signal.SIG_IGN)
    assert any("epoch " in line for line in process.stdout)
    press(process)
    status, output, errors = finish(process)
    assert (status, errors) == (0, "") and "epoch 3000/3000" in output
    check_results(tmp_path / "outputs", output)


@pytest.fixture
def interrupted(run_imported, program, monkeypatch, tmp_path):
    """Function that presses Ctrl-C so many seconds after the first line with some words, in 50 epochs with a photograph."""
    save(tmp_path / "cat.pgm", photograph(64, 96))
    said, pressed = program.say, []

    def run(words, seconds):
        def say(line):
            said(line)
            if words in line and not began:
                began.append(time.perf_counter())
                signal.setitimer(signal.ITIMER_REAL, seconds)

        def ring(number, frame):
            pressed.append(number)
            signal.raise_signal(signal.SIGINT)

        began = []
        pressed.clear()
        monkeypatch.setattr(program, "say", say)
        handlers = {signal.SIGALRM: ring, signal.SIGINT: signal.default_int_handler}
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            result = run_imported(**PATCHES, TARGET_PSNR=30.0, LOG_EVERY=1)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            after = {number: signal.signal(number, handler) for number, handler in before.items()}
        assert after == handlers
        return *result, bool(pressed), time.perf_counter() - began[0]

    return run


@pytest.mark.parametrize("words", ["/50 ", "is taken", "all pictures"])
def test_ctrl_c_at_any_moment_after_the_first_epoch_saves_results(interrupted, tmp_path, words):
    """At a dozen moments, spread over the rest of a run."""
    *_, rest = interrupted(words, 1000)
    for n in range(12 if words == "/50 " else 1):
        shutil.rmtree(tmp_path / "outputs")
        status, output, errors, pressed, _ = interrupted(words, rest * n / 12 + 1e-6)
        assert (status, errors) == (130 if pressed else 0, "")
        check_results(tmp_path / "outputs", output, {"cat.pgm": photograph(64, 96)})


def test_ctrl_c_before_training_is_one_line_and_an_earlier_run_stays(interrupted, tmp_path):
    interrupted("/50 ", 1000)
    before = contents(tmp_path / "outputs")
    save(tmp_path / "cat.pgm", photograph(9, 9))
    status, _, errors, *_ = interrupted("codes to train", 1e-6)
    assert status == 130 and re.fullmatch(ONE_LINE, errors) and contents(tmp_path / "outputs") == before
