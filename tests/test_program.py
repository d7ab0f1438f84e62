"""The program as a whole: what it prints and saves, what it refuses, how it is interrupted."""

import contextlib
import itertools
import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import SCRIPT, SMALL, contents, edit, finish, photograph, run_process, start
from PIL import Image
from pictures import write_pgm

PATTERNS = ("radial", "sine", "checkerboard")
DEFAULT_FILES = {
    *(f"generated_{name}.pgm" for name in PATTERNS),
    *(f"final_decoded_{index}.pgm" for index in range(3)),
    "comparison.png",
    "compressed.npz",
}
PATCHES = {"WIDTH": 8, "HEIGHT": 8, "EPOCHS": 50, "IMAGES": ("cat.pgm",), "LATENT_DIM": 12, "TARGET_PSNR": 32.0}
ONE_LINE = r"neural_compression\.py: [^\n]+\n"


def read(path):
    with Image.open(path) as image:
        return np.asarray(image)


def decoded(folder, number):
    return [read(folder / f"final_decoded_{index}.pgm") for index in range(number)]


def psnr_text(pictures, others):
    error = sum(np.sum((a.astype(float) - b) ** 2) for a, b in zip(pictures, others))
    size = sum(a.size for a in pictures)
    return f"PSNR {20 * math.log10(255 / math.sqrt(error / size)):.2f} dB" if error else "exact"


def check_report(folder, names, output, originals=None):
    """Compare the report with what lies in the folder."""
    originals = originals or [read(folder / f"generated_{name}.pgm") for name in names]
    outputs = decoded(folder, len(originals))
    for name, a, b in zip(names, originals, outputs):
        assert f"\n{name}: {psnr_text([a], [b])}\n" in output
    size, pixels = (folder / "compressed.npz").stat().st_size, sum(a.size for a in originals)
    rates = f"{8 * size / pixels:.3f} bits per pixel, {size / pixels:.3f} of raw"
    assert f"\nall pictures: {psnr_text(originals, outputs)}\ncompressed.npz: {size} bytes, {rates}\n" in output


def readable(folder):
    """Names of the files in a folder, each of which can be read."""
    for path in folder.iterdir():
        if path.suffix == ".npz":
            with np.load(path) as file:
                assert file["numbers"]["codes"].dtype.kind == "i"
        else:
            assert read(path).size
    return {path.name for path in folder.iterdir()}


# --------------------------------------------------------------------- the default run


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
    assert lines[:2] == ["codes to train: 3, numbers per code: 3", "compiling ..."]
    log = [re.fullmatch(r"epoch +(\d+)/1000  loss (\S+)  PSNR (\S+) dB  \S+ s, \S+ s left", line) for line in lines[2:102]]
    assert [int(line[1]) for line in log] == list(range(10, 1001, 10))
    assert float(log[0][2]) / float(log[-1][2]) > 1e5 and float(log[-1][3]) > 80
    assert all(re.fullmatch(r"rounding step \d+\.\d{4}: (exact|PSNR \d+\.\d\d dB)", line) for line in lines[102:-5])
    check_report(folder / "outputs", PATTERNS, output)


def test_same_bytes_again_from_the_cache_with_another_number_of_threads(default_run):
    folder, output = default_run
    first, cache = contents(folder / "outputs"), contents(folder / "__pycache__")
    status, again, _ = run_process(folder / "neural_compression.py", NUMBA_NUM_THREADS="1", OPENBLAS_NUM_THREADS="2")
    assert status == 0 and "compiling" not in again
    assert contents(folder / "outputs") == first and contents(folder / "__pycache__") == cache
    losses = re.compile(r"loss \S+")
    assert losses.findall(again) == losses.findall(output)


@pytest.mark.parametrize("side, patches", [(40, 12), (4, 600), (16, 256)])
def test_same_bytes_with_more_pixels_more_patches_and_equally_many_for_any_threads(copy, tmp_path, side, patches):
    """Also for any number of threads of NumPy's matrix products."""
    write_pgm(tmp_path / "cat.pgm", photograph(side * patches, side))
    script, results = copy(**{**PATCHES, "WIDTH": side, "HEIGHT": side, "LATENT_DIM": 10}), []
    for threads, blas in (("1", "2"), ("3", "1"), ("2", "8")):
        status, output, errors = run_process(script, NUMBA_NUM_THREADS=threads, OPENBLAS_NUM_THREADS=blas)
        assert (status, errors) == (0, "") and f"codes to train: {patches}, numbers per code: 10\n" in output
        results.append((contents(tmp_path / "outputs"), re.sub(r"  \S+ s, .*|compiling .*\n", "", output)))
    assert results[0] == results[1] == results[2]


def test_an_edited_constant_compiles_nothing_and_an_edited_kernel_does(copy, tmp_path):
    script = copy(**SMALL, LEARNING_RATE=0.9, SEED=5)
    programs = contents(tmp_path / "__pycache__")
    finish(start([sys.executable, "-c", "import neural_compression; neural_compression.main()"], cwd=tmp_path))  # a notebook
    before = contents(tmp_path / "__pycache__")
    assert programs.items() < before.items()  # it has files of its own
    script.write_text("# A line more moves all functions.\n" + script.read_text())
    status, output, _ = run_process(script)
    assert status == 0 and "compiling" not in output and contents(tmp_path / "__pycache__") == before
    script.write_text(script.read_text().replace("float32(1e-8))", "float32(2e-8))"))
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


def readme(words):
    """The one block of the README that holds some words."""
    text = (SCRIPT.parent / "README.md").read_text()
    (block,) = [block for block in re.findall(r"```\w*\n(.*?)```", text, re.S) if words in block]
    return block


def decode_by_readme(folder, monkeypatch):
    """The pictures that the lines of the README make of outputs/compressed.npz in a folder."""
    monkeypatch.chdir(folder)
    code, names = readme("outputs/compressed.npz"), {}
    assert re.findall(r"(?m)^ *(?:import|from) .*", code) == ["import numpy as np"]
    exec(code, names)
    assert np.array_equal(read(folder / "decoded.pgm"), names["pictures"][0])
    return names["pictures"]


def test_readme_decodes_the_default_run(default_run, monkeypatch):
    folder, _ = default_run
    pictures = decode_by_readme(folder, monkeypatch)
    assert len(pictures) == 3 and all(map(np.array_equal, pictures, decoded(folder / "outputs", 3)))


def test_readme_decodes_patches_that_are_not_square_of_mixed_pictures(run_imported, monkeypatch, tmp_path):
    shapes = [(33, 50), (7, 90), (50, 9)]
    for n, shape in enumerate(shapes):
        write_pgm(tmp_path / f"{n}.pgm", photograph(*shape))
    names = tuple(f"{n}.pgm" for n in range(3))
    assert run_imported(**{**PATCHES, "HEIGHT": 5, "IMAGES": names})[0] == 0
    pictures = decode_by_readme(tmp_path, monkeypatch)
    assert [picture.shape for picture in pictures] == shapes
    assert all(map(np.array_equal, pictures, decoded(tmp_path / "outputs", 3)))


def test_own_pattern_as_the_readme_adds_it_from_another_working_directory(copy, tmp_path):
    script = copy(**{**SMALL, "IMAGES": ("rings", "radial"), "OUTPUT_DIR": "results/here"})
    text, number = re.subn(r"(?m)^PATTERNS = \{.*\}\n", lambda line: line[0] + "\n\n" + readme("def rings("), script.read_text())
    assert number == 1
    script.write_text(text)
    status, output, errors = finish(start([sys.executable, str(script)], cwd="/"))
    assert (status, errors) == (0, "") and "\nrings: " in output
    rings = read(tmp_path / "results" / "here" / "generated_rings.pgm")
    assert rings.shape == (24, 32) and rings[12, 16] > 250 and rings.min() < 5
    assert set(os.listdir(tmp_path)) == {"neural_compression.py", "__pycache__", "results"}


def test_the_readme_turns_pictures_upright_puts_them_on_white_and_keeps_16_bits(program, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)

    def converted(image, **options):
        image.save("cat.jpg", **options)  # Pillow goes by what a file holds
        exec(readme("exif_transpose"), {})
        return program.read_pgm(tmp_path / "cat.pgm")

    lying = np.kron(random.integers(0, 256, (2, 3)), np.ones((8, 8)))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    upright = converted(Image.fromarray(np.uint8(lying)), format="JPEG", quality=100, exif=exif)
    assert upright.shape == (24, 16) and np.max(abs(np.rot90(lying, -1) - upright)) <= 3

    logo = np.zeros((4, 6, 4), np.uint8)
    logo[1:3, 2:5, 3] = 255
    assert np.array_equal(converted(Image.fromarray(logo), format="PNG"), 255 - logo[..., 3])

    deep = random.integers(0, 65536, (7, 9)).astype(np.uint16)
    assert np.array_equal(converted(Image.fromarray(deep), format="PNG"), np.floor(deep / 257 + 0.5))


def test_the_readme_takes_colour_apart_and_puts_it_together(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    colours = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    Image.fromarray(colours).save("cat.jpg", format="PNG")
    split, merge = re.findall(r"`((?:for name|Image\.merge).*?)`", (SCRIPT.parent / "README.md").read_text())
    lines = readme("exif_transpose").replace('.convert("L")', "").splitlines()
    exec("\n".join([*lines[:-1], split]), {})
    for n, name in enumerate("rgb"):
        os.renames(f"cat_{name}.pgm", f"outputs/final_decoded_{n}.pgm")
    exec(merge, {"Image": Image})
    assert np.array_equal(read("cat.png"), colours)


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


@pytest.mark.parametrize("target", [28.0, 32.0])
def test_a_photograph_with_the_constants_of_the_readme_reaches_its_target_and_little_more(run_imported, tmp_path, target):
    picture, constants = photograph(90, 120), {}
    write_pgm(tmp_path / "cat.pgm", picture)
    exec(readme('IMAGES = ("cat.pgm",)'), constants)
    constants = {name: value for name, value in constants.items() if name.isupper()}
    assert constants["IMAGES"] == ("cat.pgm",) and constants["WIDTH"] == constants["HEIGHT"] == 8

    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "notes.txt").write_text("stays")
    status, output, errors = run_imported(**{**constants, "TARGET_PSNR": target})
    assert (status, errors) == (0, "") and "codes to train: 180, numbers per code: 32\n" in output
    check_report(tmp_path / "outputs", ["cat.pgm"], output, [picture])
    files = contents(tmp_path / "outputs")
    assert set(files) == {"final_decoded_0.pgm", "comparison.png", "compressed.npz", "notes.txt"}
    assert files["notes.txt"] == b"stays"
    reached = float(re.search(r"all pictures: PSNR (\S+) dB", output)[1])
    assert target <= reached <= target + 0.5 and "out of reach" not in output and "larger" not in output


def test_a_target_out_of_reach_is_told(run_imported, tmp_path):
    write_pgm(tmp_path / "cat.pgm", photograph(90, 120))
    status, output, _ = run_imported(**{**PATCHES, "LATENT_DIM": 2, "TARGET_PSNR": 60.0})
    assert status == 0 and "TARGET_PSNR is out of reach" in output and "LATENT_DIM" in output


def test_a_file_larger_than_the_pixels_comes_with_advice(run_imported):
    status, output, _ = run_imported(WIDTH=2, HEIGHT=2, IMAGES=("radial",))
    assert status == 0 and "larger than the pixels: try WIDTH = HEIGHT = 8 and LATENT_DIM = 32" in output


def test_of_many_pictures_the_worst_the_median_and_the_best_are_shown(run_imported, tmp_path):
    random = np.random.default_rng(0)
    pictures = [np.full((8, 8), 9 * n) + random.integers(0, 3 * n + 1, (8, 8)) for n in range(15)]
    for n, picture in enumerate(pictures):
        write_pgm(tmp_path / f"{n}.pgm", picture)
    images = tuple(f"{n}.pgm" for n in range(15))
    status, output, _ = run_imported(**{**PATCHES, "IMAGES": images, "LATENT_DIM": 2, "TARGET_PSNR": 100})
    outputs = decoded(tmp_path / "outputs", 15)
    errors = [np.mean((a - b.astype(float)) ** 2) for a, b in zip(pictures, outputs)]
    order = np.argsort(errors)
    shown = re.findall(r"(?m)^(\d+)\.pgm: ", output)
    assert status == 0 and len(shown) == 13
    assert [errors[int(n)] for n in shown] == sorted((errors[int(n)] for n in shown), reverse=True)
    assert {errors[order[-1]], errors[order[7]], errors[order[0]]} <= {errors[int(n)] for n in shown}
    sheet = read(tmp_path / "outputs" / "comparison.png")
    assert sheet.shape == (3 * 8 + 1, 8 * 10)  # the first eight
    for n in range(8):
        difference = np.minimum(8 * abs(pictures[n] - outputs[n]), 255)
        cells = sheet[:-1, 10 * n : 10 * n + 8].reshape(3, 8, 8)
        assert np.array_equal(cells, [pictures[n], outputs[n], difference])


def test_long_and_wide_pictures_are_saved_with_a_small_sheet(run_imported, tmp_path):
    write_pgm(tmp_path / "tall.pgm", photograph(30_000, 1))
    write_pgm(tmp_path / "wide.pgm", photograph(1, 30_000))
    status, _, errors = run_imported(**{**PATCHES, "IMAGES": ("tall.pgm", "wide.pgm"), "LATENT_DIM": 2, "EPOCHS": 2})
    assert (status, errors) == (0, "")
    assert [picture.shape for picture in decoded(tmp_path / "outputs", 2)] == [(30_000, 1), (1, 30_000)]
    assert max(read(tmp_path / "outputs" / "comparison.png").shape) < 2100


# --------------------------------------------------------------------- mistakes

NAN = math.nan
WHOLE = ("WIDTH", "HEIGHT", "LATENT_DIM", "EPOCHS", "LOG_EVERY", "SEED", "CHECKER_SQUARES")
BAD = [
    *[(name, value) for name in WHOLE for value in (-1, 2.0, "2", None, NAN, 10**5000, True)],
    *[(name, 0) for name in WHOLE if name != "SEED"],
    *[(name, value) for name in ("LEARNING_RATE", "TARGET_PSNR") for value in (0, -1, NAN, math.inf, "1", None, 10**5000)],
    *[("SINE_FREQUENCY", value) for value in (-1, 12, NAN, math.inf, "40", None, 10**5000)],
    *[("LEARNING_RATE", 10), ("TARGET_PSNR", 101), ("CHECKER_SQUARES", 25)],
    *[("IMAGES", value) for value in ("radial", (), None, (1,), ("radial", None), 5, {"radial"}, iter(("radial",)), np.array(["a"]))],
    *[("OUTPUT_DIR", value) for value in (None, 5, b"outputs")],
]


def short(value):
    return "huge" if isinstance(value, int) and value > 10**9 else str(value)[:12]


@pytest.mark.parametrize("name, value", BAD, ids=short)
def test_a_bad_constant_is_refused_by_name_before_anything_is_written(run_imported, tmp_path, name, value):
    status, output, errors = run_imported(**{**SMALL, "CHECKER_SQUARES": 4, name: value})
    assert (status, output) == (2, "") and re.fullmatch(ONE_LINE, errors) and name in errors
    assert os.listdir(tmp_path) == []


def test_the_sizes_are_named_with_a_pattern_that_does_not_fit(run_imported):
    for images, name in ((("checkerboard",), "CHECKER_SQUARES"), (("sine",), "SINE_FREQUENCY")):
        _, _, errors = run_imported(WIDTH=8, HEIGHT=8, IMAGES=images)
        assert name in errors and "WIDTH" in errors and "HEIGHT" in errors


def test_a_missing_comma_and_a_jpeg_come_with_advice(run_imported, tmp_path):
    assert '("cat.pgm",), with a comma' in run_imported(IMAGES="cat.pgm")[2]
    Image.fromarray(photograph(9, 9)).save(tmp_path / "cat.jpg")
    assert "the README shows how to convert" in run_imported(IMAGES=("cat.jpg",))[2]


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


@pytest.mark.parametrize("folder", ["file", "file/below", "/dev/null/x", "a\0b", "\ud800", "x" * 300])
def test_a_folder_that_cannot_be_written_is_named(run_imported, tmp_path, folder):
    (tmp_path / "file").write_bytes(b"stays")
    status, output, errors = run_imported(**SMALL, OUTPUT_DIR=folder)
    assert (status, output) == (2, "") and re.fullmatch(ONE_LINE, errors) and "OUTPUT_DIR" in errors
    assert contents(tmp_path) == {"file": b"stays"}


def test_a_read_only_folder_is_named_and_stays_as_it_is(copy, tmp_path):
    script, folder = copy(**SMALL), tmp_path / "outputs"
    folder.mkdir()
    (folder / "compressed.npz").write_bytes(b"of an earlier run")
    status, output, errors = finish(start([*unprivileged(folder), sys.executable, str(script)]))
    assert (status, output) == (2, "") and re.fullmatch(ONE_LINE, errors) and "OUTPUT_DIR" in errors
    assert contents(folder) == {"compressed.npz": b"of an earlier run"}


@pytest.mark.parametrize("error, result", [(OSError(28, "No space left on device"), 2), (KeyboardInterrupt(), 130)])
@pytest.mark.parametrize("method", ["write_bytes", "replace"])
@pytest.mark.parametrize("done", [0, 5])
def test_a_write_that_fails_half_way_leaves_whole_files(
    run_imported, program, monkeypatch, tmp_path, done, method, error, result
):
    """At once, or behind 3 patterns and 2 of 5 results: no file is broken, none is lost, none is left over."""
    assert run_imported(**SMALL)[0] == 0
    before = contents(tmp_path / "outputs")
    real, calls = getattr(Path, method), itertools.count()

    def fail(path, argument):
        if next(calls) < done:
            return real(path, argument)
        if method == "write_bytes":
            real(path, argument[: len(argument) // 2])
        raise error

    monkeypatch.setattr(program.Path, method, fail)
    status, _, errors = run_imported(**SMALL, LATENT_DIM=1)
    monkeypatch.undo()
    assert status == result and re.fullmatch(ONE_LINE, errors) and (result == 130 or "No space left" in errors)
    assert readable(tmp_path / "outputs") == DEFAULT_FILES
    changed = [name for name, content in contents(tmp_path / "outputs").items() if content != before[name]]
    assert len(changed) <= (2 if method == "replace" and done else 0)


def test_short_memory_ends_in_one_line(run_imported, program, monkeypatch):
    for error in (MemoryError(), MemoryError("Unable to allocate 1 TiB")):
        def fail(*arguments):
            raise error

        monkeypatch.setattr(program, "start", fail)
        status, _, errors = run_imported(**SMALL)
        assert status == 2 and re.fullmatch(ONE_LINE, errors)


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


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
@pytest.mark.parametrize("redirection, result", [(">/dev/full", 2), (">&-", 0), ("2>/dev/full", 0)])
def test_full_or_closed_output(copy, tmp_path, redirection, result):
    command = ["sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, str(copy(**SMALL))]
    status, _, errors = finish(start(command))
    assert status == result and (errors == "" if result == 0 else re.fullmatch(ONE_LINE, errors))
    assert result or readable(tmp_path / "outputs") == DEFAULT_FILES


def test_two_runs_at_once_in_one_folder(copy, tmp_path):
    script = copy(**SMALL)
    processes = [start([sys.executable, str(script)]) for _ in range(2)]
    assert [finish(process)[::2] for process in processes] == 2 * [(0, "")]
    assert readable(tmp_path / "outputs") == DEFAULT_FILES


IMPORT = """
import os, neural_compression as program, numpy as np
made = [name for name, value in vars(program).items() if isinstance(value, np.ndarray) or getattr(value, "signatures", ())]
os.write(2, f"{made} {os.environ['GOMP_SPINCOUNT']} {os.environ['OPENBLAS_NUM_THREADS']} {os.environ['NUMBA_OPT']}".encode())
"""


def test_import_prints_writes_and_makes_nothing_and_sets_threads(tmp_path):
    """A user's spincount stays; NumPy gets one thread in any case."""
    edit(tmp_path)
    command = [sys.executable, "-B", "-c", IMPORT]
    assert finish(start(command, cwd=tmp_path)) == (0, "", "[] 10000 1 2")
    users = {"GOMP_SPINCOUNT": "77", "OPENBLAS_NUM_THREADS": "8"}
    assert finish(start(command, users, cwd=tmp_path)) == (0, "", "[] 77 1 2")
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert files - {"__pycache__"} == {"neural_compression.py"}


# --------------------------------------------------------------------- Ctrl-C


def start_and_interrupt(script, words, disposition=signal.SIG_DFL):
    """Start a script, and send Ctrl-C at a line with some words: (status, what is printed later, stderr)."""
    heed = {"preexec_fn": lambda: signal.signal(signal.SIGINT, disposition)}  # the suite itself may ignore Ctrl-C
    process = start([sys.executable, str(script)], **heed)
    assert any(words in line for line in process.stdout)
    process.send_signal(signal.SIGINT)
    return finish(process)


def test_ctrl_c_in_training_saves_what_was_learned(copy, tmp_path):
    status, output, errors = start_and_interrupt(copy(**{**SMALL, "EPOCHS": 10**9, "LOG_EVERY": 1000}), "epoch ")
    assert (status, errors) == (130, "")
    assert readable(tmp_path / "outputs") == DEFAULT_FILES
    check_report(tmp_path / "outputs", PATTERNS, output)


def test_ctrl_c_in_the_search_for_the_step_is_one_line(copy, tmp_path):
    write_pgm(tmp_path / "cat.pgm", photograph(600, 800))
    script = copy(**{**PATCHES, "EPOCHS": 1, "LATENT_DIM": 32, "TARGET_PSNR": 100.0})
    status, _, errors = start_and_interrupt(script, "rounding step")
    assert status == 130 and re.fullmatch(ONE_LINE, errors) and "before all results were saved" in errors
    assert os.listdir(tmp_path / "outputs") == []


def test_ctrl_c_while_it_compiles_is_one_line(tmp_path):
    status, _, errors = start_and_interrupt(edit(tmp_path, **SMALL), "compiling")
    assert status == 130 and re.fullmatch(ONE_LINE, errors) and "before all results were saved" in errors


def test_ctrl_c_that_is_ignored_stays_ignored(copy, tmp_path):
    script = copy(**{**SMALL, "EPOCHS": 3000, "LOG_EVERY": 1})
    status, output, errors = start_and_interrupt(script, "epoch ", signal.SIG_IGN)
    assert (status, errors) == (0, "") and "epoch 3000/3000" in output
    assert readable(tmp_path / "outputs") == DEFAULT_FILES


def interrupt(*arguments):
    raise KeyboardInterrupt


def test_ctrl_c_in_training_ends_with_a_report_and_with_the_handler_that_was_there(run_imported, program, monkeypatch, tmp_path):
    handler = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(program, "log", interrupt)
    status, output, errors = run_imported(**SMALL)
    assert (status, errors) == (130, "") and readable(tmp_path / "outputs") == DEFAULT_FILES
    check_report(tmp_path / "outputs", PATTERNS, output)
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.parametrize("place", ["start", "train", "quantise", "decompress", "contact_sheet"])
def test_ctrl_c_elsewhere_is_one_line_and_an_earlier_run_stays(run_imported, program, monkeypatch, tmp_path, place):
    assert run_imported(**SMALL)[0] == 0
    before, handler = contents(tmp_path / "outputs"), signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(program, place, interrupt)
    status, _, errors = run_imported(**SMALL, LATENT_DIM=1)
    assert status == 130 and re.fullmatch(ONE_LINE, errors) and "before all results were saved" in errors
    assert contents(tmp_path / "outputs") == before and signal.getsignal(signal.SIGINT) is handler
