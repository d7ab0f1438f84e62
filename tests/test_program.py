"""The program as a whole: what it prints and saves, what it refuses, its machine code, how it is interrupted."""

import itertools
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib import util
from pathlib import Path

import numpy as np
import pytest
from conftest import SCRIPT, SMALL, contents, edit, finish, photograph, run_process, start
from PIL import Image

PATTERNS = ("radial", "sine", "checkerboard")
GENERATED = {f"generated_{name}.pgm" for name in PATTERNS}
DEFAULT_FILES = {*GENERATED, *(f"final_decoded_{n}.pgm" for n in range(3)), "comparison.png", "compressed.bin"}
PATCHES = {"WIDTH": 8, "HEIGHT": 8, "EPOCHS": 50, "IMAGES": ("cat.pgm",), "LATENT_DIM": 12}
LARGER = "the file is larger than the samples themselves: a TARGET_PSNR, like 35, makes it smaller\n"
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


def check_results(folder, output, originals=None, target=None):
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

    pairs = list(zip(originals.values(), decoded))
    comparison, row = read(folder / "comparison.png"), max(map(len, decoded)) + 2
    assert comparison.ndim == decoded[0].ndim and len(comparison) == row * (2 if quality(pairs) == "exact" else 3)
    lines = [f"{file}: {name}: {quality([pair])}" for file, name, pair in zip(names, originals, pairs)]
    pixels, samples = sum(a.shape[0] * a.shape[1] for a, _ in pairs), sum(a.size for a, _ in pairs)
    rates = f"{8 * len(content) / pixels:.3f} bits per pixel, {len(content) / samples:.3f} of raw"
    lines += [f"all pictures: {quality(pairs)}", f"compressed.bin: {len(content)} bytes, {rates}; all results are in {folder}"]
    assert ("\n" + output.replace(LARGER, "")).endswith("\n".join(["", *lines, ""]))
    assert (LARGER in output) == (len(content) > samples and target is None)
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
    assert lines[:2] == ["compiling ...", "codes to train: 3, numbers per code: 3 (16 asked; "
                         "no more are needed for 3 patches of 65536 samples)"]  # fmt: skip
    log = [re.fullmatch(r"epoch +(\d+)/1000  loss (\S+)  PSNR (\S+) dB  \S+ s, \S+ s left", line) for line in lines[2:102]]
    assert [int(line[1]) for line in log] == list(range(10, 1001, 10))
    assert all(abs(-10 * math.log10(float(line[2])) - float(line[3])) < 0.01 for line in log) and float(log[-1][3]) > 80
    before, *tries, taken = lines[102:-5]
    assert before == "before rounding: exact"
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
    script, results = copy(**{**PATCHES, "LATENT_DIM": 32, "EPOCHS": 20}), []
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


README = SCRIPT.parent / "README.md"


def readme(*words):
    """The one block of the README that holds some words, or begins with them."""
    blocks = re.findall(r"^```(\w*\n.*?)^```", README.read_text(), re.S | re.M)
    found = [block for block in blocks if all(word in block for word in words)]
    assert len(found) == 1, f"{len(found)} blocks of the README have {words}"
    return found[0].partition("\n")[2]


def test_the_two_commands_of_the_readme_run_the_program_and_the_tests():
    run, test = readme("sh\n", "venv").splitlines()
    assert "neural_compression.py" in run and "pytest" in test and "tests/requirements.txt" in test


def convert(folder, picture, mode="L", **options):
    """What the lines of the README make of a picture, in grey or in colour: the path of the file."""
    for name in ("cat.jpg", "photos/cat.jpg"):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(picture).save(folder / name, **options)
    before = set(folder.rglob("*.*"))
    lines = readme("exif_transpose").replace('"L"', f'"{mode}"')
    exec(lines if mode == "L" else lines.replace(".pgm", ".ppm"), {})
    (path,) = set(folder.rglob("*.*")) - before
    assert path.name == f"cat.{'pgm' if mode == 'L' else 'ppm'}"
    return path


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_the_readme_converts_a_picture_upright_in_grey_or_in_colour(program, monkeypatch, tmp_path, mode):
    monkeypatch.chdir(tmp_path)
    lying = np.uint8(np.kron(np.random.default_rng(0).integers(0, 256, (2, 3, 3)), np.ones((16, 16, 1))))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    path = convert(tmp_path, lying, mode, quality=100, subsampling=0, exif=exif)
    upright = Image.fromarray(np.ascontiguousarray(np.rot90(lying, -1))).convert(mode)
    assert np.max(abs(np.asarray(upright, float) - program.read_picture(path))) <= 6


def test_the_readme_puts_white_in_the_place_of_transparency(program, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    logo = np.zeros((4, 6, 4), np.uint8)
    logo[1:3, 2:5, 3] = 255
    path = convert(tmp_path, logo, format="PNG")  # Pillow goes by what a file holds
    assert np.array_equal(program.read_picture(path), 255 - logo[..., 3])


@pytest.mark.parametrize("channels", [(), (3,)])
def test_a_photograph_with_the_constants_of_the_readme_reaches_its_target(run_imported, tmp_path, channels):
    constants = {}
    exec(readme("IMAGES = (", "TARGET_PSNR = "), constants)
    constants = {name: value for name, value in constants.items() if name.isupper()}
    (name,), picture = constants["IMAGES"], photograph(90, 125, *channels)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    save(tmp_path / name, picture)
    status, output, errors = run_imported(**{**constants, "TARGET_PSNR": 34.0})
    assert (status, errors) == (0, "")
    check_results(tmp_path / "outputs", output, {name: picture}, 34)
    assert 34 <= float(re.search(r"all pictures: PSNR (\S+) dB", output)[1]) < 34.5


def test_the_readme_decodes_the_default_run(default_run, program, monkeypatch):
    monkeypatch.chdir(default_run[0])
    (expression,) = re.findall(r"decompress\([^`\n]*outputs/compressed\.bin[^`\n]*\)", README.read_text())
    pictures = eval(expression, {"decompress": program.decompress, "Path": Path})
    assert len(pictures) == 3
    assert all(np.array_equal(picture, read(f"outputs/final_decoded_{n}.pgm")) for n, picture in enumerate(pictures))


def test_the_five_calls_of_the_readme_compress_and_decompress():
    block, names = readme(*(f"{name}(" for name in ("cut", "start", "train", "compress", "decompress"))), {}
    before, calls = re.split(r"(?m)^(?=targets)", block)
    exec(before, names)
    (original,) = names["pictures"]
    exec(calls, names)
    (decoded,) = names["pictures"]
    assert decoded is not original and decoded.shape == original.shape and decoded.dtype == np.uint8
    assert 0 < np.mean((original.astype(float) - decoded) ** 2) < 255**2 / 10**3


def test_the_lines_of_the_readme_that_say_what_learning_is_learn():
    names = {}
    exec(readme("def sigmoid("), names)
    assert names["loss"] < 0.001


def test_own_pattern_as_the_readme_adds_it_from_another_working_directory(copy, tmp_path):
    script = copy(**{**SMALL, "IMAGES": ("rings", "radial"), "OUTPUT_DIR": "results/here"})
    text, number = re.subn(r"(?m)^PATTERNS = \{.*\}\n", lambda line: line[0] + "\n\n" + readme("def rings("), script.read_text())
    assert number == 1
    script.write_text(text)
    status, output, errors = finish(start([sys.executable, str(script)], cwd="/"))
    assert (status, errors) == (0, "") and "final_decoded_0.pgm: rings: " in output
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


@pytest.mark.parametrize("target, reachable", [(None, True), (1, True), (25.5, True), (60, False), (100, False)])
def test_a_target_is_reached_or_it_is_told_what_to_change(run_imported, tmp_path, target, reachable):
    save(tmp_path / "cat.pgm", photograph(80, 120))
    status, output, errors = run_imported(**PATCHES, TARGET_PSNR=target)
    line = f"TARGET_PSNR {target} is out of reach: more EPOCHS or a larger LATENT_DIM may allow more\n"
    assert (status, errors) == (0, "") and (line in output) == ("out of reach" in output) == (not reachable)
    learned = float(re.findall(r"epoch .*PSNR (\S+) dB", output)[-1])
    reached = float(re.search(r"all pictures: PSNR (\S+) dB", output)[1])
    assert reached >= (target if reachable and target else learned - 0.3)


@pytest.mark.parametrize("target", [None, 30.0])
def test_noise_takes_more_than_its_samples_without_a_target_and_that_is_told(run_imported, tmp_path, target):
    noise = np.random.default_rng(0).integers(0, 256, (48, 48)).astype(np.uint8)
    save(tmp_path / "cat.pgm", noise)
    status, output, errors = run_imported(**{**PATCHES, "LATENT_DIM": 64, "EPOCHS": 300, "TARGET_PSNR": target})
    assert (status, errors) == (0, "") and (LARGER in output) == (target is None)
    check_results(tmp_path / "outputs", output, {"cat.pgm": noise}, target)


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


def test_a_refused_run_leaves_earlier_results_as_they_were(run_imported, program, monkeypatch, tmp_path):
    assert run_imported(IMAGES=("radial",), WIDTH=8, HEIGHT=8, EPOCHS=1)[0] == 0
    before = contents(tmp_path / "outputs")
    with monkeypatch.context() as patch:
        patch.setattr(program, "MOST_SAMPLES", 1000)
        status, _, errors = run_imported(IMAGES=7 * ("sine",), WIDTH=16, HEIGHT=16, EPOCHS=1)
        assert status == 2 and "IMAGES" in errors and "1000 samples in" in errors and len(errors.splitlines()) == 1
        status, _, errors = run_imported(WIDTH=100, HEIGHT=100, EPOCHS=1)
        assert status == 2 and "WIDTH * HEIGHT" in errors and len(errors.splitlines()) == 1
    assert contents(tmp_path / "outputs") == before


def test_names_begin_at_home_and_brackets_are_brackets(run_imported, monkeypatch, tmp_path):
    """Only * stands for any name."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    picture = photograph(20, 20)
    for name in ("home/cat.pgm", "[a]?/b[1].pgm", "[a]?/b1.pgm", "[a]?/c.pgm", "a?/c.pgm", "[a]x/c.pgm"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        save(tmp_path / name, picture)
    (tmp_path / "home" / "cat.pgm").write_bytes(b"P5 20 20 65535 " + (257 * picture.astype(">u2")).tobytes())
    images = ("~/cat.pgm", "[a]?/b[1].pgm", f"{tmp_path}/[a]?/c*")
    status, output, errors = run_imported(**{**PATCHES, "IMAGES": images, "OUTPUT_DIR": "~/[results]"})
    assert (status, errors) == (0, "") and output.startswith("cat.pgm: 16 bits: 256 levels are kept\ncodes to train: ")
    check_results(tmp_path / "home" / "[results]", output, dict.fromkeys(["home/cat.pgm", "[a]?/b[1].pgm", "[a]?/c.pgm"], picture))


def test_what_lies_in_the_folder_of_the_results_stays(run_imported, tmp_path):
    assert run_imported(**SMALL)[0] == 0
    for name in ("notes.txt", "final.pgm"):
        (tmp_path / "outputs" / name).write_text("stays")
    before = contents(tmp_path / "outputs")
    cat = photograph(30, 30, 3)
    save(tmp_path / "cat.ppm", cat)
    status, output, _ = run_imported(**{**PATCHES, "IMAGES": ("cat.ppm",)})
    after = contents(tmp_path / "outputs")
    assert status == 0 and set(after) == {*before, "final_decoded_0.ppm"}
    assert {name for name in before if after[name] != before[name]} == {"comparison.png", "compressed.bin"}


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
    *[("OUTPUT_DIR", bad) for bad in (None, 5, b"outputs", Path("outputs"), "a\0b")],
]


@pytest.mark.parametrize("name, bad", BAD, ids=lambda value: "huge" if value == 10**5000 else str(value)[:12])
def test_a_bad_constant_is_refused_by_name_before_anything_is_written(run_imported, tmp_path, name, bad):
    check_refused(run_imported(**{**SMALL, name: bad}), f"{name}: ")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "name, words",
    [
        ("missing.pgm", ["missing.pgm", "radial, sine, checkerboard"]), ("photos/*.pgm", ["photos/*.pgm"]), ("", []),
        ("folder", ["folder"]), ("cat.jpg", ["cat.jpg", "README"]), ("short.pgm", ["short.pgm"]), ("mine", ["pattern mine"]),
        ("two\nlines.pgm", ["two lines.pgm"]),
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
        ("link/final_decoded_0.pgm", "outputs"), ("outputs/final_decoded_0.pgm", "link"), ("linked.pgm", "outputs"),
        ("outputs/notes.pgm", "outputs"),
    ],
)  # fmt: skip
def test_an_input_that_lies_among_the_results_is_refused_and_stays(run_imported, tmp_path, name, folder):
    assert run_imported(**SMALL)[0] == 0
    (tmp_path / "link").symlink_to("outputs")
    (tmp_path / "linked.pgm").symlink_to("outputs/final_decoded_0.pgm")
    save(tmp_path / "outputs" / "notes.pgm", photograph(9, 9))
    before = contents(tmp_path / "outputs")
    result = run_imported(**{**SMALL, "IMAGES": (name,), "OUTPUT_DIR": folder, "LATENT_DIM": 1})
    check_refused(result, "IMAGES: ", Path(name).name[:5], "OUTPUT_DIR")
    assert contents(tmp_path / "outputs") == before


def test_arguments_on_the_command_line_are_refused(run_imported, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["neural_compression.py", "cat.jpg"])
    check_refused(run_imported(), "takes no arguments")
    assert os.listdir(tmp_path) == []


def test_short_memory_ends_in_one_line(run_imported, program, monkeypatch):
    monkeypatch.setattr(program, "start", lambda *arguments: np.zeros((10**9, 10**9)))
    status, _, errors = run_imported(**SMALL)
    assert status == 2 and re.fullmatch(ONE_LINE, errors)


# --------------------------------------------------------------------- folders, writes and pipes


@pytest.mark.parametrize("images", [("radial",), ("cat.pgm",)])
@pytest.mark.parametrize("folder", ["cat.pgm", "cat.pgm/below", "/dev/null/x", "x" * 300, "loop"])
def test_a_folder_that_cannot_be_written_is_named(run_imported, tmp_path, folder, images):
    save(tmp_path / "cat.pgm", photograph(9, 9))
    (tmp_path / "loop").symlink_to("loop")
    before = (tmp_path / "cat.pgm").read_bytes()
    check_refused(run_imported(**{**SMALL, "IMAGES": images}, OUTPUT_DIR=folder), "OUTPUT_DIR: ")
    assert sorted(os.listdir(tmp_path)) == ["cat.pgm", "loop"] and (tmp_path / "cat.pgm").read_bytes() == before


class Killed(BaseException):
    """What nothing expects, as if the program ended at once."""


@pytest.mark.parametrize("end", [OSError(28, "No space left on device"), Killed()], ids=["full", "killed"])
@pytest.mark.parametrize("method, done", [("write_bytes", 0), ("write_bytes", 5), ("replace", 0), ("replace", 5)])
def test_a_full_disk_or_a_sudden_end_leaves_whole_files(run_imported, program, monkeypatch, tmp_path, method, done, end):
    """At once, or behind 3 patterns and 2 of 5 results: no file is broken, none is lost, none is left over."""
    assert run_imported(**SMALL)[0] == 0
    before = contents(tmp_path / "outputs")
    real, calls = getattr(Path, method), itertools.count()

    def fail(path, argument):
        if next(calls) < done:
            return real(path, argument)
        if method == "write_bytes":
            real(path, argument[: len(argument) // 2])
        raise end

    monkeypatch.setattr(program.Path, method, fail)
    if isinstance(end, Killed):
        with pytest.raises(Killed):
            run_imported(**SMALL, LATENT_DIM=1)
    else:
        status, _, errors = run_imported(**SMALL, LATENT_DIM=1)
        assert status == 2 and re.fullmatch(ONE_LINE, errors) and "OUTPUT_DIR: " in errors and "No space left" in errors
    monkeypatch.undo()
    after = contents(tmp_path / "outputs")
    assert set(after) == DEFAULT_FILES and all(read(tmp_path / "outputs" / name).size for name in after if name[-1] != "n")
    assert sum(after[name] != before[name] for name in after) == (2 if done == 5 else 0)


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


def test_names_that_cannot_be_printed_get_question_marks(copy, tmp_path):
    names = ("\u732b\u00fc.pgm", os.fsdecode(b"\xff.pgm"))
    for name in names:
        save(tmp_path / name, photograph(20, 20))
    status, output, errors = run_process(copy(**{**PATCHES, "IMAGES": names}), PYTHONIOENCODING="cp1252")
    assert (status, errors) == (0, "")
    shown = "?\ufffd.pgm", "?.pgm"  # conftest reads UTF-8
    check_results(tmp_path / "outputs", output, dict.fromkeys(shown, photograph(20, 20)))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_log_that_cannot_be_written_is_told_in_one_line(tmp_path):
    with open("/dev/full", "w") as full:
        process = subprocess.Popen([sys.executable, str(tiny(tmp_path))], stdout=full, stderr=subprocess.PIPE, encoding="utf-8")
        errors = process.communicate()[1]
    assert process.returncode == 2 and re.match(ONE_LINE, errors) and "Errno 28" in errors


@pytest.mark.skipif(not hasattr(signal, "SIGPIPE"), reason="no SIGPIPE")
def test_a_reader_that_goes_away_ends_the_program_and_an_earlier_run_stays(copy, tmp_path):
    process = start([sys.executable, str(copy(**{**SMALL, "EPOCHS": 10**6}, LOG_EVERY=1))])
    assert any("epoch " in line for line in process.stdout)
    (tmp_path / "outputs" / "compressed.bin").write_bytes(b"of an earlier run")
    process.stdout.close()
    errors = process.stderr.read()
    assert (process.wait(), errors) == (-signal.SIGPIPE, "")
    files = contents(tmp_path / "outputs")
    assert set(files) == {*GENERATED, "compressed.bin"} and files["compressed.bin"] == b"of an earlier run"


def test_closed_output(run_imported, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "stdout", None)
    assert run_imported(**SMALL)[0] == 0 and set(contents(tmp_path / "outputs")) == DEFAULT_FILES


def test_two_runs_at_once_in_one_folder(copy, tmp_path):
    script = copy(**SMALL)
    results = [finish(process) for process in [start([sys.executable, str(script)]) for _ in range(2)]]
    for status, output, errors in results:
        assert (status, errors) == (0, "")
        check_results(tmp_path / "outputs", output)


# --------------------------------------------------------------------- machine code

TINY = '''
FACTOR = 3
@njit
def times(number):
    return FACTOR * number

@njit
def power(number):
    return times(number) * times(number)

def run():
    load_kernels()
    say(power(2))

def train(*arguments):
    times(1)

def choose(*arguments):
    power(1)
    return ()

unpack = pack = Record = smooth = lambda *arguments: None
'''  # fmt: skip


def tiny(folder, kernels=TINY):
    """The script with kernels that take no time to compile in the place of its own: it loads them, and prints a 36."""
    script = edit(folder)
    text = script.read_text()
    begin, end = (text.index(f"\n{words}") for words in ("def run(", "class Refused("))
    script.write_text(text[:begin] + kernels + text[end:])
    return script


@pytest.fixture
def load(monkeypatch, capsys):
    """Function that imports a script under some name, loads its machine code, and returns what it printed."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def load(script, name="tiny"):
        spec = util.spec_from_file_location(name, script)
        module = util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        assert capsys.readouterr() == ("", "")
        module.run()
        output, errors = capsys.readouterr()
        assert errors == ""
        return output

    return load


def test_import_prints_writes_and_compiles_nothing(tmp_path):
    edit(tmp_path)
    code = "import neural_compression as nc; print([kernel for kernel in nc.KERNELS if kernel.signatures])"
    assert finish(start([sys.executable, "-B", "-c", code], cwd=tmp_path)) == (0, "[]\n", "")
    assert os.listdir(tmp_path) == ["neural_compression.py"]


def test_under_another_name_it_works_beside_other_machine_code(load, tmp_path):
    script = tiny(tmp_path)
    assert [load(script, name) for name in ("one", "two", "two", "one")] == 2 * ["compiling ...\n36\n"] + 2 * ["36\n"]


def test_machine_code_is_compiled_anew_if_a_kernel_changes_or_a_number_that_it_uses(load, tmp_path):
    assert load(tiny(tmp_path)) == "compiling ...\n36\n"
    before = contents(tmp_path / "__pycache__")
    for same in ("\n# A line more moves all functions.\n" + TINY, TINY + "\nOTHER = 5\n"):
        assert load(tiny(tmp_path, same)) == "36\n" and contents(tmp_path / "__pycache__") == before
    script = tiny(tmp_path)
    script.write_text(script.read_text().replace("EPOCHS = 1000", "EPOCHS = 10"))
    assert load(script) == "36\n" and contents(tmp_path / "__pycache__") == before

    for edited, result in (("FACTOR = 3", "FACTOR = 5"), 100), (("FACTOR * number", "FACTOR + number"), 25):
        assert load(tiny(tmp_path, TINY.replace(*edited))) == f"compiling ...\n{result}\n"
        assert len(contents(tmp_path / "__pycache__")) == len(before)  # what is outdated goes


def test_an_edited_constant_compiles_nothing_and_an_edited_kernel_of_the_coder_does(copy, tmp_path):
    """It takes the machine code of the default run, and only compiles what the coder needs."""
    script = copy(LEARNING_RATE=0.9, SEED=5)
    shorter = "def run():\n    load_kernels()\n    say(transfer_record_of(range(99)))\n\n\n"
    shorter += "def transfer_record_of(numbers):\n    coder = fresh_coder(np.zeros(9999, np.uint8), 0, 0xFFFFFFFF, 0, 0, 0)\n"
    shorter += "    transfer(coder, CODES, [(3, 11, 3)], numbers)\n    return zlib.crc32(coder[1])\n\n\n"
    shorter += "def rehearse(*arguments):\n    transfer_record_of([1] * 99)\n\n\n"
    text = script.read_text().replace("def main():", shorter + "def main():")
    before = contents(tmp_path / "__pycache__")
    script.write_text(text)
    status, first, errors = run_process(script)
    assert (status, errors) == (0, "") and "compiling" not in first and contents(tmp_path / "__pycache__") == before

    edited = text.replace("min(used + 1, 127)", "min(used + 1, 2)")  # more in transfer_bit than in transfer_planes
    assert edited != text
    script.write_text(edited)
    status, second, errors = run_process(script)
    assert (status, errors) == (0, "") and second.startswith("compiling ...\n") and second.count("compiling") == 1
    assert second.splitlines()[1] != first.strip()


def damage(folder, kernel, way):
    """Spoil what is kept of a kernel: the index says in which file its machine code is."""
    (index,) = folder.glob(f"neural_compression.{kernel}-*.nbi")
    for code in folder.glob(f"neural_compression.{kernel}-*.nbc"):
        if way == "index alone":
            code.unlink()
        elif way == "cut off":
            os.truncate(code, 5000)
    if way == "missing":
        index.unlink()
    elif way == "empty":
        os.truncate(index, 0)
    elif way == "random":
        index.write_bytes(np.random.default_rng(0).bytes(9000))


@pytest.mark.parametrize("damages", [
    [("times", "index alone")], [("power", "index alone")], [("power", "empty")], [("times", "random"), ("power", "cut off")],
    [("times", "missing"), ("power", "random")], [("times", "cut off")],
])  # fmt: skip
def test_damaged_machine_code_is_compiled_anew(load, tmp_path, damages):
    script = tiny(tmp_path)
    load(script)
    folder = tmp_path / "__pycache__"
    (folder / "other.times-tiny.py311.nbi").write_bytes(b"of another program")
    whole = set(contents(folder))
    for kernel, way in damages:
        damage(folder, kernel, way)
    assert load(script) == "compiling ...\n36\n"
    load(script)  # what had been loaded by then is kept now
    assert load(script) == "36\n"
    assert set(contents(folder)) == whole and (folder / "other.times-tiny.py311.nbi").read_bytes() == b"of another program"


def test_damaged_machine_code_is_compiled_anew_even_if_ctrl_c_is_pressed(copy, tmp_path):
    """The press ends the program at once; the next run compiles what is missing."""
    script = copy(**SMALL)
    damage(tmp_path / "__pycache__", "train_epoch", "empty")
    process = start_group(script)
    assert process.stdout.readline() == "compiling ...\n"
    press(process)
    status, output, errors = finish(process)
    assert (status, output, errors) == (-signal.SIGINT, "", "")
    assert set(contents(tmp_path / "outputs")) == GENERATED
    status, output, errors = run_process(script)
    assert (status, errors) == (0, "")
    check_results(tmp_path / "outputs", output)


@pytest.mark.parametrize("place", ["read-only", "read-only, but there", "file"])
def test_where_machine_code_cannot_be_kept_it_works_without(tmp_path, place):
    folder, prefix = tmp_path / "folder", []
    folder.mkdir()
    script = tiny(folder)
    if place == "read-only, but there":
        assert run_process(script) == (0, "compiling ...\n36\n", "")
        (folder / "__pycache__").chmod(0o555)
    if place.startswith("read-only"):
        prefix = unprivileged(folder)
    else:
        (folder / "__pycache__").write_bytes(b"")
    before = contents(folder)
    surroundings = {"HOME": str(folder), "XDG_CACHE_HOME": str(folder)}
    assert finish(start([*prefix, sys.executable, str(script)], surroundings)) == (0, "compiling ...\n36\n", "")
    assert contents(folder) == before


@pytest.mark.parametrize("layer", ["tbb", "nothing"])
def test_what_numba_lacks_is_told_in_one_line_and_machine_code_stays(copy, tmp_path, layer):
    script = copy(**SMALL)
    before = contents(tmp_path / "__pycache__")
    status, output, errors = run_process(script, NUMBA_THREADING_LAYER=layer)
    if (layer, status) == ("tbb", 0):
        pytest.skip("tbb is there")
    assert (status, output) == (2, "") and re.fullmatch(ONE_LINE, errors) and "layer" in errors
    assert contents(tmp_path / "__pycache__") == before and set(contents(tmp_path / "outputs")) == GENERATED


def test_the_first_run_and_later_ones_learn_the_same_for_a_plain_processor_too(tmp_path):
    """All but the coder, which has only whole numbers."""
    edit(tmp_path)
    code = """if True:
        import neural_compression as nc, numpy as np, zlib
        nc.rehearse, nc.machine_code = lambda *arguments: None, lambda name: 99 * ['kept']
        targets = np.random.default_rng(0).random((40, 30), np.float32)
        codes, decoder, losses = nc.train(targets, *nc.start(targets, 5, 0), 20)
        numbers = nc.choose(*nc.components(codes, decoder, False), 0.5, 3, targets, None)
        print(zlib.crc32(codes.tobytes() + decoder.tobytes()), [zlib.crc32(number.tobytes()) for number in numbers], losses)
        print([sum(kernel.stats.cache_hits.values()) for kernel in (nc.train_epoch, nc.move)])
    """
    plain = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    runs = [finish(start([sys.executable, "-c", code], plain, cwd=tmp_path)) for _ in range(2)]
    outputs = [output.splitlines() for status, output, errors in runs if (status, errors) == (0, "")]
    assert [lines[-1] for lines in outputs] == ["[0, 0]", "[1, 1]"] and outputs[0][-2] == outputs[1][-2]


# --------------------------------------------------------------------- Ctrl-C


def start_group(script, disposition=signal.SIG_DFL):
    """Start a script in a process group of its own, as a terminal does; the suite itself may ignore Ctrl-C."""

    def prepare():
        signal.signal(signal.SIGINT, disposition)

    return start([sys.executable, str(script)], preexec_fn=prepare, start_new_session=True)


def press(process):
    """Press Ctrl-C: all processes of the group get it."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)


def says_that_it_imports(script):
    """The script, which now prints a line at its beginning: Python itself has started by then."""
    script.write_text("print('importing', flush=True)\n" + script.read_text())
    return script


def press_behind(process, words):
    """Press some moments after a line with some words: (status, stdout, stderr)."""
    lines = [process.stdout.readline()]
    while lines[-1] and words not in lines[-1]:
        lines.append(process.stdout.readline())
    time.sleep(random.expovariate(1 / 0.3 if words == "importing" else 1 / 0.01))
    press(process)
    status, output, errors = finish(process)
    return status, "".join(lines) + output, errors


def check_ended(result):
    """The program ended as Ctrl-C asks for, or it was at its end, or it imported. Returns what it printed."""
    status, output, errors = result
    assert status == -signal.SIGINT or status in (0, 130) and re.fullmatch(f"({ONE_LINE})?", errors), result
    return output


def test_ctrl_c_at_any_moment_saves_results_or_an_earlier_run_stays(copy, tmp_path):
    """Some of the presses come before Python has imported all: these end the program by the signal."""
    picture = photograph(64, 96)
    save(tmp_path / "cat.pgm", picture)
    script, folder = says_that_it_imports(copy(**PATCHES, TARGET_PSNR=30.0, LOG_EVERY=1)), tmp_path / "outputs"
    folder.mkdir()
    (folder / "compressed.bin").write_bytes(b"of an earlier run")
    moments = "importing", "importing", "codes to", "epoch    1/", "epoch   25/", "epoch   50/", "rounding", "is taken", "all pictures", "all results"
    for words in moments:
        before = contents(folder)
        status, output, errors = press_behind(start_group(script), words)
        check_ended((status, output, errors))
        if "all results are in" in output:
            assert errors == ""
            check_results(folder, output, {"cat.pgm": picture}, 30)
        else:
            assert "epoch" not in output and contents(folder) == before, (words, status, output, errors)


@pytest.mark.parametrize("words", ["importing", "compiling"])
def test_ctrl_c_while_it_compiles_is_one_line(tmp_path, words):
    script = says_that_it_imports(tiny(tmp_path))
    lines = check_ended(press_behind(start_group(script), words)).splitlines()
    assert [line for line in lines if line != "compiling ..."] == ["importing", "36"][: len(set(lines) - {"compiling ..."})]
    assert run_process(script)[1].endswith("36\n")


def test_a_second_ctrl_c_ends_the_program_and_an_earlier_run_stays(copy, tmp_path):
    """In the search, which lasts until then."""
    script = copy(**{**SMALL, "EPOCHS": 10**9, "LOG_EVERY": 1000})
    before, search, after = script.read_text().partition("\ndef choose(")
    script.write_text(before + "\ndef choose(*arguments):\n    say('choosing')\n    signal.pause()\n\n\ndef chosen(" + after)
    assert search
    script.write_text(script.read_text().replace(" choose(one, one,", " chosen(one, one,"))
    process = start_group(script)
    assert any("epoch " in line for line in process.stdout)
    (tmp_path / "outputs" / "compressed.bin").write_bytes(b"of an earlier run")
    press(process)
    status, output, errors = press_behind(process, "choosing")
    assert status == 130 and re.fullmatch(ONE_LINE, errors) and "Ctrl-C: training ends after epoch " in output
    assert contents(tmp_path / "outputs")["compressed.bin"] == b"of an earlier run"


def test_ctrl_c_in_training_ends_it_and_saves_what_was_learned(copy, tmp_path):
    process = start_group(copy(**{**SMALL, "EPOCHS": 10**9, "LOG_EVERY": 1000}))
    status, output, errors = press_behind(process, "epoch ")
    assert (status, errors) == (130, "") and re.search(r"\nCtrl-C: training ends after epoch \d+\n", output)
    check_results(tmp_path / "outputs", output)


def test_ctrl_c_that_is_ignored_stays_ignored(copy, tmp_path):
    process = start_group(copy(**{**SMALL, "EPOCHS": 3000, "LOG_EVERY": 1}), signal.SIG_IGN)
    status, output, errors = press_behind(process, "epoch ")
    assert (status, errors) == (0, "") and "epoch 3000/3000" in output
    check_results(tmp_path / "outputs", output)


def test_ctrl_c_before_training_is_one_line_and_an_earlier_run_stays(run_imported, program, monkeypatch, tmp_path):
    assert run_imported(**SMALL)[0] == 0
    before = contents(tmp_path / "outputs")
    monkeypatch.setattr(program, "start", lambda *arguments: signal.default_int_handler(signal.SIGINT, None))
    status, _, errors = run_imported(**SMALL, LATENT_DIM=1)
    assert status == 130 and re.fullmatch(ONE_LINE, errors) and contents(tmp_path / "outputs") == before
