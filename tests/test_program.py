"""The program as a whole: what it prints and saves, what it refuses, how it is interrupted."""

import contextlib
import io
import math
import os
import pickle
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
import zipfile
import zlib
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from conftest import (
    DEFAULTS, SCRIPT, constants, contents, edit, finish, run_process, start, start_process,
)  # fmt: skip
from PIL import Image

PATTERNS = ("radial", "sine", "checkerboard")
DEFAULT_FILES = {
    *(f"generated_{name}.pgm" for name in PATTERNS),
    *(f"final_decoded_{index}.pgm" for index in range(3)),
    "comparison.png",
    "compressed.npz",
}
SMALL = {"WIDTH": 32, "HEIGHT": 24, "EPOCHS": 60}
PATCHES = {"WIDTH": 8, "HEIGHT": 8, "EPOCHS": 200}  # no checkerboard of 16 squares fits
ENDLESS = {**SMALL, "EPOCHS": 10**9, "LOG_EVERY": 1000}
ONE_LINE = r"neural_compression\.py: [^\n]+\n"


def write_pgm(path, samples, maxval=255):
    samples = np.asarray(samples)
    dtype = "u1" if maxval < 256 else ">u2"
    path.write_bytes(b"P5 %d %d %d\n" % (*samples.shape[::-1], maxval) + samples.astype(dtype).tobytes())


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


def readable(folder):
    """Names of the files in a folder, each of which can be read and has a name that is known."""
    for path in folder.iterdir():
        assert re.fullmatch(r"(generated_\w+|final_decoded_\d+)\.pgm|comparison\.png|compressed\.npz", path.name)
        if path.suffix == ".npz":
            with np.load(path) as file:
                assert "codes" in {name for name in file.files if file[name].ndim}
        else:
            assert read(path).size
    names = {path.name for path in folder.iterdir()}
    assert names
    return names


def numbers(line):
    """The numbers in a line of the report, as they are printed, without those of the name."""
    return re.findall(r"(?<![\w.])(?:inf|\d+(?:\.\d+)?)", line.split(": ", 1)[1])


def expected_report(folder, originals):
    """The numbers in the lines of the report, from what lies in the folder."""
    lines = []
    for a, b in zip(originals, decoded(folder, len(originals))):
        error = np.abs(a.astype(float) - b)
        value = 20 * math.log10(255 / math.sqrt((error**2).mean())) if error.any() else math.inf
        lines.append([f"{value:.2f}", f"{error.max():.0f}", f"{(a == b).sum()}", f"{a.size}"])
    file = folder / "compressed.npz"
    size = file.stat().st_size
    with zipfile.ZipFile(file) as archive:
        codes, weights, bias = (archive.getinfo(f"{n}.npy").compress_size for n in ("codes", "weights", "bias"))
    lines.append([str(part) for part in (size, codes, weights + bias, size - codes - weights - bias)])
    raw = b"".join(picture.tobytes() for picture in originals)
    lines.append([str(len(raw)), str(len(zlib.compress(raw, 9))), f"{size / len(raw):.3f}"])
    return lines


def check_report(folder, originals, output):
    """Compare the last lines of the output with what lies in the folder; returns them."""
    lines = output.splitlines()[-len(originals) - 2 :]
    assert [numbers(line) for line in lines] == expected_report(folder, originals)
    for words in (r"codes \d+, decoder \d+, names and headers \d+$", r"^compressed\.npz: \d+ bytes"):
        assert re.search(words, lines[-2])
    assert re.search(r"^pictures: \d+ bytes.*, \d+ with zlib", lines[-1])
    return lines


def psnr(originals, outputs):
    errors = np.concatenate([(a.astype(float) - b).ravel() for a, b in zip(originals, outputs)])
    return 10 * math.log10(255**2 / (errors**2).mean())


# ------------------------------------------------------------------ the default run


@pytest.fixture(scope="module")
def default_run(tmp_path_factory):
    """Folder and output of one run with the constants as shipped, and the seconds it took."""
    folder, began = tmp_path_factory.mktemp("default"), time.perf_counter()
    status, output, errors = run_process(edit(folder), NUMBA_NUM_THREADS="2")
    assert (status, errors) == (0, "")
    return folder, output, time.perf_counter() - began


def test_default_run_gives_every_picture_back(default_run):
    folder, _, _ = default_run
    files = contents(folder / "outputs")
    assert set(files) == DEFAULT_FILES == readable(folder / "outputs")
    for index, name in enumerate(PATTERNS):
        assert files[f"final_decoded_{index}.pgm"] == files[f"generated_{name}.pgm"]
        assert read(folder / "outputs" / f"generated_{name}.pgm").shape == (256, 256)


def test_default_log(default_run):
    _, output, seconds = default_run
    first, *lines = output.splitlines()
    assert first == "training on 3 pictures, 3 patches of 256 x 256: latent_dim 16, 2 threads"
    log = [re.fullmatch(r"epoch +(\d+)/1000  loss (\d\.\d{3}e-\d\d)  time (\d+\.\d\d) s", line) for line in lines[:100]]
    assert [int(line[1]) for line in log] == list(range(10, 1001, 10))
    assert lines[0].startswith("epoch   10/1000  loss ")
    losses, times = ([float(line[part]) for line in log] for part in (2, 3))
    assert losses[0] / losses[-1] > 1e5
    assert times == sorted(times) and times[-1] < seconds
    assert "after epoch 1000" in lines[100] and len(lines) == 101 + 3 + 2


def test_default_report_and_size(default_run):
    folder, output, _ = default_run
    originals = [read(folder / "outputs" / f"generated_{name}.pgm") for name in PATTERNS]
    for name, line in zip(PATTERNS, check_report(folder / "outputs", originals, output)):
        assert line.startswith(f"{name}: PSNR inf dB, ") and line.endswith(", 65536 of 65536 pixels exact")
    assert (folder / "outputs" / "compressed.npz").stat().st_size <= 0.92 * 3 * 65536


def git(*arguments):
    """What git prints about this checkout, in bytes."""
    try:
        return subprocess.run(["git", *arguments], cwd=SCRIPT.parent, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a checkout")


def test_samples_in_the_repository_are_those_of_the_default_run(default_run):
    """The committed ones: what lies in outputs/ now may be of other constants."""
    folder, _, _ = default_run
    samples = git("ls-files", "outputs/*.pgm").decode().split()
    assert {Path(path).name for path in samples} == {name for name in DEFAULT_FILES if name.endswith(".pgm")}
    for path in samples:
        assert git("show", f":{path}") == (folder / path).read_bytes(), path


def test_same_bytes_again_from_the_cache_with_another_number_of_threads(default_run):
    folder, output, _ = default_run
    first, cache = contents(folder / "outputs"), contents(folder / "__pycache__")
    status, again, _ = run_process(folder / "neural_compression.py", NUMBA_NUM_THREADS="1")
    assert status == 0 and " 1 threads" in again
    assert contents(folder / "outputs") == first
    losses = re.compile(r"loss \S+")
    assert losses.findall(again) == losses.findall(output)
    assert contents(folder / "__pycache__") == cache


def test_same_bytes_of_many_patches_for_any_number_of_threads(adjustable, tmp_path):
    write_pgm(tmp_path / "cat.pgm", photograph(90, 120))
    processes = []
    for threads in ("1", "2", "3"):
        sizes = {**PATCHES, "IMAGES": [str(tmp_path / "cat.pgm")], "EPOCHS": 30, "OUTPUT_DIR": str(tmp_path / threads)}
        processes.append(start_process(adjustable, NUMBA_NUM_THREADS=threads, **constants(**sizes)))
    assert [finish(process)[::2] for process in processes] == 3 * [(0, "")]
    assert contents(tmp_path / "1") == contents(tmp_path / "2") == contents(tmp_path / "3")


def blocks(language, words):
    """Blocks of the README in a language that hold some words."""
    readme = (SCRIPT.parent / "README.md").read_text()
    return [block for block in re.findall(rf"```{language}\n(.*?)```", readme, re.S) if words in block]


def decode_by_readme(folder):
    """The pictures that the lines of the README make of outputs/compressed.npz in a folder."""
    (code,) = blocks("python", "compressed.npz")
    code += "\nimport pickle, sys\nsys.stdout.buffer.write(pickle.dumps([np.asarray(p) for p in pictures]))"
    run = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True)
    assert (run.returncode, run.stderr) == (0, b"")
    return pickle.loads(run.stdout)


def same(pictures, others):
    return len(pictures) == len(others) and all(
        a.dtype == b.dtype == np.uint8 and np.array_equal(a, b) for a, b in zip(pictures, others)
    )


def test_readme_decodes_the_default_run(default_run):
    folder, _, _ = default_run
    assert same(decode_by_readme(folder), decoded(folder / "outputs", 3))


def test_readme_decodes_patches_of_mixed_pictures(mixed):
    folder, _, originals = mixed
    assert same(decode_by_readme(folder), decoded(folder / "outputs", len(originals)))


def test_contact_sheet_of_the_default_run(default_run):
    folder, _, _ = default_run
    sheet = read(folder / "outputs" / "comparison.png")
    assert sheet.shape == (3 * 258, 3 * 258) and sheet.dtype == np.uint8
    cells = sheet.reshape(3, 258, 3, 258).swapaxes(1, 2)
    for column, name in enumerate(PATTERNS):
        original = read(folder / "outputs" / f"generated_{name}.pgm")
        assert (cells[0, column, :256, :256] == original).all() and (cells[1, column, :256, :256] == original).all()
    assert not cells[2, :, :256, :256].any()
    assert (cells[:, :, 256:] == 128).all() and (cells[:, :, :, 256:] == 128).all()


def test_contact_sheet_shows_eight_pictures_of_different_sizes(run_imported, tmp_path):
    values = np.random.default_rng(0)
    originals = [np.uint8(values.integers(0, 256, (2 + index, 20 - index))) for index in range(9)]
    for index, picture in enumerate(originals):
        write_pgm(tmp_path / f"{index}.pgm", picture)
    images = tuple(f"{index}.pgm" for index in range(9))
    status, output, errors = run_imported(IMAGES=images, LATENT_DIM=2, **PATCHES)
    assert (status, errors) == (0, "") and output.count("PSNR") == 9
    folder = tmp_path / "outputs"
    sheet = read(folder / "comparison.png")
    assert sheet.shape == (3 * (9 + 2), 8 * (20 + 2))  # the 8th is the highest, the 9th isn't there
    cells = sheet.reshape(3, 11, 8, 22).swapaxes(1, 2).copy()
    differences = set()
    for column, (a, b) in enumerate(zip(originals[:8], decoded(folder, 9))):
        error = np.minimum(8 * np.abs(a.astype(int) - b), 255)
        differences |= set(error.ravel())
        for cell, picture in zip(cells[:, column], (a, b, error)):
            assert (cell[: len(a), : a.shape[1]] == picture).all()
            cell[: len(a), : a.shape[1]] = 128
    assert (cells == 128).all() and 255 in differences and len(differences) > 10


# ------------------------------------------------------------------------- constants


@pytest.fixture(scope="module")
def edited(tmp_path_factory):
    """Folder and output of a copy with every constant and a pattern edited, run from somewhere else."""
    folder = tmp_path_factory.mktemp("edited")
    copy = edit(
        folder, WIDTH=64, HEIGHT=48, SINE_FREQUENCY=3, CHECKER_SQUARES=4, IMAGES=("sine", "checkerboard", "sine", "rings"),
        LATENT_DIM=5, EPOCHS=105, LEARNING_RATE=0.9, ROUNDING_LOSS=0.5, LOG_EVERY=50, SEED=7, OUTPUT_DIR="results/here",
    )  # fmt: skip
    (block,) = blocks("python", "def rings(")
    text, number = re.subn(r"(?m)^PATTERNS = \{.*\}\n", lambda line: line[0] + "\n\n" + block, copy.read_text())
    assert number == 1
    copy.write_text(text)
    status, output, errors = finish(start([sys.executable, str(copy)], {}, cwd="/"))
    assert (status, errors) == (0, "")
    return folder, output


def test_edited_copy_from_another_folder(edited):
    folder, output = edited
    assert output.startswith("training on 4 pictures, 4 patches of 64 x 48: latent_dim 5, ")
    assert re.findall(r"(?m)^epoch +(\d+)/105", output) == ["50", "100", "105"]
    assert set(os.listdir(folder)) == {"neural_compression.py", "__pycache__", "results"}
    results = folder / "results" / "here"
    names = {f"final_decoded_{index}.pgm" for index in range(4)} | {"comparison.png", "compressed.npz"}
    assert readable(results) == names | {f"generated_{name}.pgm" for name in ("sine", "checkerboard", "rings")}
    board = read(results / "generated_checkerboard.pgm")
    assert board.shape == (48, 64)
    assert np.array_equal(board, np.kron(np.indices((4, 4)).sum(0) % 2 == 0, np.ones((12, 16))) * 255)
    wave = read(results / "generated_sine.pgm")[4] > 127  # y / height = 1 / 12: the top of the wave
    assert list(np.flatnonzero(np.diff(wave[1:].astype(int)))) == [9, 20, 31, 41, 52]
    with np.load(results / "compressed.npz") as file:
        assert file["names"].tolist() == ["sine", "checkerboard", "sine", "rings"]


def test_own_pattern_as_the_readme_adds_it(edited):
    """The README's block, put after the line of PATTERNS, makes a new name for IMAGES."""
    (block,) = blocks("python", "def rings(")
    assert block.startswith("def rings(") and 'PATTERNS["rings"] = rings' in block
    folder, output = edited
    assert "\nrings: PSNR " in output
    rings = read(folder / "results" / "here" / "generated_rings.pgm")
    assert rings.shape == (48, 64) and rings[24, 32] > 250 and rings.min() < 5


@pytest.mark.parametrize(
    "width, height, images, latent_dim",
    [
        (1, 1, ("radial",), 1),
        (7, 5, ("radial", "checkerboard"), 2),
        (64, 48, PATTERNS, 3),
        (64, 48, ("sine",), 16),
        (5, 7, ("sine", "sine"), 4),
        (96, 40, list(PATTERNS), 16),
    ],
)
def test_odd_sizes_come_back_exact(run_imported, tmp_path, width, height, images, latent_dim):
    status, _, errors = run_imported(
        WIDTH=width, HEIGHT=height, IMAGES=images, LATENT_DIM=latent_dim, CHECKER_SQUARES=min(3, width, height)
    )
    assert (status, errors) == (0, "")
    files = contents(tmp_path / "outputs")
    for index, name in enumerate(images):
        assert files[f"final_decoded_{index}.pgm"] == files[f"generated_{name}.pgm"]


def test_too_small_a_code_is_as_good_as_it_can_be(run_imported, tmp_path):
    """The report is compared line by line where no number in it is round."""
    status, output, _ = run_imported(WIDTH=96, HEIGHT=64, LATENT_DIM=1)
    originals = [read(tmp_path / "outputs" / f"generated_{name}.pgm") for name in PATTERNS]
    assert status == 0 and check_report(tmp_path / "outputs", originals, output)
    values = [float(value) for value in re.findall(r"PSNR (\S+) dB", output)]
    assert min(values) > 15 and max(values) > 30 and math.inf not in values


def test_two_numbers_hold_three_pictures(run_imported):
    _, output, _ = run_imported(LATENT_DIM=2, WIDTH=128, HEIGHT=128)
    assert output.count("PSNR inf dB, ") == output.count(" 16384 of 16384 pixels exact") == 3


@pytest.mark.parametrize(
    "name, values",
    [
        ("SEED", (0, 1)),
        ("LEARNING_RATE", (1.0, 0.5)),
        ("EPOCHS", (60, 61)),
        ("LATENT_DIM", (1, 2)),
        ("ROUNDING_LOSS", (0.05, 3)),
    ],
)
def test_each_constant_of_the_training_changes_the_file(run_imported, tmp_path, name, values):
    files = []
    for value in (*values, values[0]):
        status, _, _ = run_imported(**{**SMALL, "LATENT_DIM": 2, name: value})
        assert status == 0
        with np.load(tmp_path / "outputs" / "compressed.npz") as file:
            files.append(b"".join(file[part].tobytes() for part in ("codes", "weights", "bias")))
    assert files[0] == files[2] != files[1]


def test_two_seeds_give_different_codes(run_imported, program, monkeypatch):
    """From the first epoch on: the loss that is logged there is that of the random start."""
    starts = []
    real = program.train

    def train(targets, codes, *arguments):
        starts.append(codes.copy())
        return real(targets, codes, *arguments)

    monkeypatch.setattr(program, "train", train)
    for seed in (3, 4, 3):
        run_imported(**SMALL, SEED=seed)
    assert np.array_equal(starts[0], starts[2]) and not np.isclose(starts[0], starts[1]).any()


def test_seconds_in_the_log_are_counted_from_the_start(run_imported, monkeypatch):
    """With a clock that goes on by 7 seconds at each look at it."""
    clock = count(1000, 7)
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))
    _, output, _ = run_imported(**{**SMALL, "EPOCHS": 25})
    assert re.findall(r"epoch +(\d+)/25 .* time (\S+) s", output) == [("10", "7.00"), ("20", "14.00"), ("25", "21.00")]


def test_log_every_more_than_epochs(run_imported):
    status, output, _ = run_imported(**{**SMALL, "EPOCHS": 7})
    assert status == 0 and re.findall(r"(?m)^epoch +(\S+)", output) == ["7/7"]


BAD = [
    *((name, value) for name in ("WIDTH", "HEIGHT", "LATENT_DIM", "EPOCHS", "LOG_EVERY", "CHECKER_SQUARES")
      for value in (0, -1, 2.5, "16", None, True, float("nan"), [16])),
    *(("SEED", value) for value in (-1, 0.5, "0", None, False)),
    *(("LEARNING_RATE", value) for value in (0, 0.0, -1.0, float("nan"), float("inf"), "1", None, True, 10**400, 1e300, 101, 1e-10)),
    *(("ROUNDING_LOSS", value) for value in (float("nan"), -0.1, "1", float("inf"), None, True, 20.5)),
    *(("SINE_FREQUENCY", value) for value in (-1, float("nan"), float("inf"), "40", None, 10**400)),
    *(("IMAGES", value) for value in ((), [], "radial", None, 3, ("radial", 3), ("circle",), ("",), {"radial"}, ("radial\0",),
                                      ("radial", "missing.pgm"), ("outputs",), ("../",))),
    *(("OUTPUT_DIR", value) for value in ("", None, 3, "a\0b", "\0", b"outputs")),
    ("CHECKER_SQUARES", 25), ("LATENT_DIM", 10**9), ("LATENT_DIM", 10**400), ("WIDTH", 10**9), ("HEIGHT", 10**400),
]  # fmt: skip


@pytest.mark.parametrize("name, value", BAD)
def test_bad_constants_are_refused_by_name(run_imported, tmp_path, name, value):
    status, output, errors = run_imported(**{**SMALL, name: value})
    assert (status, output) == (2, "")
    assert re.fullmatch(ONE_LINE, errors)
    assert name in errors and (name == "IMAGES" or repr(value) in errors or "WIDTH x HEIGHT" in errors)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name, value",
    [
        ("WIDTH", np.int64(16)),
        ("WIDTH", np.uint8(200)),
        ("HEIGHT", np.int16(2000)),
        ("EPOCHS", np.int8(127)),
        ("LATENT_DIM", np.int32(3)),
        ("LOG_EVERY", np.uint8(50)),
        ("CHECKER_SQUARES", np.int8(24)),
        ("SINE_FREQUENCY", np.float32(2.5)),
        ("LEARNING_RATE", np.float32(0.5)),
        ("LEARNING_RATE", 100),
        ("ROUNDING_LOSS", 0),
        ("ROUNDING_LOSS", 20),
        ("SINE_FREQUENCY", 0),
        ("CHECKER_SQUARES", 1),
        ("CHECKER_SQUARES", 24),
        ("SEED", 10**18),
        ("IMAGES", ["radial"]),
    ],
)
def test_good_constants_are_accepted(run_imported, tmp_path, name, value):
    """Numbers of NumPy give what Python's own give."""
    results = []
    for number in (value, value.item() if isinstance(value, np.generic) else value):
        status, _, errors = run_imported(**{**SMALL, name: number})
        assert (status, errors) == (0, "") and readable(tmp_path / "outputs")
        results.append(contents(tmp_path / "outputs"))
    assert results[0] == results[1]


def test_constants_of_a_pattern_count_only_when_it_is_drawn(run_imported):
    bad = {"WIDTH": 8, "HEIGHT": 8, "EPOCHS": 2, "CHECKER_SQUARES": 16, "SINE_FREQUENCY": "high"}
    assert run_imported(**bad, IMAGES=("radial",))[0] == 0
    assert "CHECKER_SQUARES = 16" in run_imported(**bad, IMAGES=("radial", "checkerboard"))[2]
    assert "SINE_FREQUENCY = 'high'" in run_imported(**bad, IMAGES=("sine",))[2]


@pytest.mark.parametrize("name, value", [("WIDTH", np.eye(3)), ("IMAGES", np.array([["radial"], ["sine"]])), ("IMAGES", ["a\nb.pgm"])])
def test_refusals_of_values_with_lines_are_one_line(run_imported, name, value):
    status, output, errors = run_imported(**{**SMALL, name: value})
    assert (status, output) == (2, "") and re.fullmatch(ONE_LINE, errors)


def test_bad_constant_in_a_process(adjustable, tmp_path):
    folder = tmp_path / "outputs"
    status, output, errors = run_process(adjustable, **constants(LATENT_DIM=0, OUTPUT_DIR=str(folder)))
    assert (status, output) == (2, "")
    assert errors == "neural_compression.py: LATENT_DIM = 0: has to be a whole number from 1 to 1000000000\n"
    assert not folder.exists()


# --------------------------------------------------------- pictures and patches


@pytest.fixture(scope="module")
def mixed(adjustable, tmp_path_factory):
    """Folder, output and originals of a run with pictures of six sizes and a pattern, in 8 x 8 patches."""
    folder = tmp_path_factory.mktemp("mixed")
    originals = [photograph(83, 61), photograph(24, 32), np.full((1, 1), 77, np.uint8), photograph(3, 5)]
    originals += [photograph(5, 30), photograph(40, 7)]
    for index, picture in enumerate(originals):
        write_pgm(folder / f"{index}.pgm", picture)
    images = [*(str(folder / f"{index}.pgm") for index in range(6)), "radial"]
    sizes = {**PATCHES, "IMAGES": images, "LATENT_DIM": 12, "OUTPUT_DIR": str(folder / "outputs")}
    status, output, errors = run_process(adjustable, **constants(**sizes))
    assert (status, errors) == (0, "")
    return folder, output, [*originals, read(folder / "outputs" / "generated_radial.pgm")]


def test_pictures_of_different_sizes_in_patches(mixed):
    folder, output, originals = mixed
    patches = 11 * 8 + 3 * 4 + 1 + 1 + 4 + 5 + 1
    assert output.startswith(f"training on 7 pictures, {patches} patches of 8 x 8: latent_dim 12, ")
    check_report(folder / "outputs", originals, output)
    assert psnr(originals, decoded(folder / "outputs", 7)) > 30
    assert min(psnr([a], [b]) for a, b in zip(originals, decoded(folder / "outputs", 7)) if (a != b).any()) > 20
    names = {f"final_decoded_{index}.pgm" for index in range(7)} | {"generated_radial.pgm", "comparison.png", "compressed.npz"}
    assert readable(folder / "outputs") == names


def test_edges_fill_up_the_last_patches(program):
    patches = program.cut(np.uint8([[1, 2, 3], [4, 5, 6], [7, 8, 9]]), 2, 4)
    assert patches.tolist() == [[1, 2, 4, 5, 7, 8, 7, 8], [3, 3, 6, 6, 9, 9, 9, 9]]


def test_own_pictures_among_patterns_come_back_exact(run_imported, tmp_path):
    values = np.random.default_rng(0)
    write_pgm(tmp_path / "eight.pgm", values.integers(0, 256, (24, 32)))
    write_pgm(tmp_path / "sixteen.pgm", values.integers(0, 65536, (24, 32)), 65535)
    (tmp_path / "plain.pgm").write_text("P2 32 24 1\n" + " ".join("01"[n % 2] for n in range(32 * 24)))
    write_pgm(tmp_path / "wide.pgm", values.integers(0, 256, (20, 70)))
    before = contents(tmp_path)
    names = ("eight.pgm", "checkerboard", str(tmp_path / "sixteen.pgm"), "plain.pgm", "wide.pgm")
    status, output, errors = run_imported(WIDTH=32, HEIGHT=24, IMAGES=names)
    assert (status, errors) == (0, "")
    notes = re.findall(r"(?m)^.*bits.*$", output)
    assert notes == ["sixteen.pgm: has 16 bits per pixel, 8 are kept"] == output.splitlines()[:1]
    pictures = decoded(tmp_path / "outputs", 5)
    originals = [read(tmp_path / name) for name in ("eight.pgm", "sixteen.pgm", "wide.pgm")]
    originals[1] = np.uint8(np.floor(originals[1] / 257 + 0.5))
    plain = np.uint8(np.arange(32 * 24).reshape(24, 32) % 2 * 255)
    board = read(tmp_path / "outputs" / "generated_checkerboard.pgm")
    assert same(pictures, [originals[0], board, originals[1], plain, originals[2]])
    check_report(tmp_path / "outputs", pictures, output)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (8, 8), (1, 100_000), (100_000, 1)])
def test_one_picture_alone(run_imported, tmp_path, shape):
    write_pgm(tmp_path / "one.pgm", photograph(*shape))
    status, output, errors = run_imported(IMAGES=("one.pgm",), **{**PATCHES, "EPOCHS": 1000 if shape[0] < 9 > shape[1] else 30})
    assert (status, errors) == (0, "")
    (picture,) = decoded(tmp_path / "outputs", 1)
    if picture.size <= 64:
        assert np.array_equal(picture, photograph(*shape))
    assert picture.shape == shape and "nan" not in output
    assert read(tmp_path / "outputs" / "comparison.png").shape == (3 * (shape[0] + 2), shape[1] + 2)


@pytest.mark.parametrize("case", ["equal pictures", "black", "white", "mid-grey", "grey"])
def test_pictures_that_are_all_alike(run_imported, tmp_path, case):
    grey = {"black": 0, "white": 255, "mid-grey": 127, "grey": 200}
    picture = photograph(8, 8) if case == "equal pictures" else np.full((20, 20), grey[case], np.uint8)
    write_pgm(tmp_path / "one.pgm", picture)
    status, output, errors = run_imported(IMAGES=("one.pgm",) * 3, **{**PATCHES, "EPOCHS": 1000})
    assert (status, errors) == (0, "") and "nan" not in output
    assert same(decoded(tmp_path / "outputs", 3), [picture] * 3)


@pytest.mark.parametrize("what", ["folder", "fifo", "link to itself", "unreadable"])
def test_what_is_no_picture_is_refused(run_imported, tmp_path, what):
    path = tmp_path / "cat.pgm"
    if what == "folder":
        path.mkdir()
    elif what == "fifo":
        os.mkfifo(path)
    elif what == "link to itself":
        path.symlink_to(path)
    else:
        write_pgm(path, np.zeros((24, 32)))
        path.chmod(0)
        if os.access(path, os.R_OK):
            pytest.skip("this user may read everything")
    previous = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it waits"))
    signal.alarm(60)
    try:
        status, output, errors = run_imported(IMAGES=("radial", "cat.pgm"), **SMALL)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
    assert (status, output) == (2, "") and re.fullmatch(ONE_LINE, errors) and "cat.pgm" in errors
    assert os.listdir(tmp_path) == ["cat.pgm"]


def test_larger_rounding_loss_makes_a_smaller_file(run_imported, tmp_path):
    """What is allowed is lost, and hardly less."""
    original = photograph(80, 60)
    write_pgm(tmp_path / "cat.pgm", original)
    sizes, losses = [], []
    for loss in (0, 0.5, 6):
        status, _, _ = run_imported(IMAGES=("cat.pgm",), ROUNDING_LOSS=loss, **PATCHES)
        assert status == 0
        sizes.append((tmp_path / "outputs" / "compressed.npz").stat().st_size)
        losses.append(psnr([original], decoded(tmp_path / "outputs", 1)))
    assert sizes[0] > 1.1 * sizes[1] and sizes[1] > 1.1 * sizes[2]
    assert losses[0] - 0.501 <= losses[1] < losses[0] - 0.3 and losses[0] - 6.001 <= losses[2] < losses[0] - 5


def test_exact_pictures_stay_exact_while_others_lose(run_imported, program, monkeypatch, tmp_path):
    """After a training that made one of two pictures exact and the other one something else."""
    good, bad, other = np.random.default_rng(6).integers(1, 255, (3, 8, 8))
    write_pgm(tmp_path / "good.pgm", good)
    write_pgm(tmp_path / "bad.pgm", bad)
    first, second = (np.log(picture / (255 - picture)).ravel() for picture in (good, other))
    codes, weights, bias = np.float32([[1], [-1]]), np.float32([first - second]) / 2, np.float32(first + second) / 2
    monkeypatch.setattr(program, "train", lambda *arguments: (codes, weights, bias, [0.1]))
    sizes = []
    for loss in (0, 20):
        images = ("good.pgm", "bad.pgm")
        status, output, _ = run_imported(IMAGES=images, ROUNDING_LOSS=loss, **{**PATCHES, "EPOCHS": 1})
        assert status == 0 and re.search(r"good\.pgm: PSNR inf dB, .* 64 of 64 pixels exact", output)
        assert "bad.pgm: PSNR inf" not in output
        sizes.append((tmp_path / "outputs" / "compressed.npz").stat().st_size)
    assert sizes[0] >= sizes[1]


def test_digits_in_a_third_of_their_bytes(run_imported, tmp_path):
    """1797 pictures of 8 x 8 on one sheet, everything counted, at 24 dB or better."""
    load_digits = pytest.importorskip("sklearn.datasets").load_digits
    digits = np.zeros((42 * 43, 8, 8), np.uint8)
    digits[:1797] = np.rint(load_digits().images * 255 / 16)
    sheet = digits.reshape(42, 43, 8, 8).swapaxes(1, 2).reshape(336, 344)
    write_pgm(tmp_path / "digits.pgm", sheet)
    status, output, errors = run_imported(WIDTH=8, HEIGHT=8, IMAGES=("digits.pgm",))
    assert (status, errors) == (0, "") and "1 pictures, 1806 patches of 8 x 8" in output
    assert (tmp_path / "outputs" / "compressed.npz").stat().st_size <= 1797 * 64 / 3
    (picture,) = decoded(tmp_path / "outputs", 1)
    picture = picture.reshape(42, 8, 43, 8).swapaxes(1, 2).reshape(-1, 8, 8)
    assert psnr([digits[:1797]], [picture[:1797]]) >= 24


def test_names_in_chinese_on_an_ascii_terminal(adjustable, tmp_path):
    name = "猫" * 60 + ".pgm"
    write_pgm(tmp_path / name, np.zeros((24, 32)))
    images = [str(tmp_path / name), "radial"]
    given = constants(**SMALL, IMAGES=images, OUTPUT_DIR=str(tmp_path / "outputs"))
    status, output, errors = run_process(adjustable, PYTHONIOENCODING="ascii", **given)
    assert (status, errors) == (0, "") and "?" * 60 + ".pgm: PSNR " in output and "with zlib" in output
    with np.load(tmp_path / "outputs" / "compressed.npz") as file:
        assert file["names"].tolist() == images


@pytest.mark.parametrize("name", ["final_decoded_1.pgm", "generated_radial.pgm", "cat.pgm"])
def test_inputs_may_not_lie_in_output_dir(run_imported, tmp_path, name):
    (tmp_path / "outputs").mkdir()
    write_pgm(tmp_path / "outputs" / name, np.zeros((24, 32)))
    (tmp_path / "link.pgm").symlink_to(tmp_path / "outputs" / name)
    (tmp_path / "folder").symlink_to("outputs")
    before = contents(tmp_path / "outputs")
    for path in (f"outputs/{name}", f"outputs/../outputs/{name}", str(tmp_path / "outputs" / name), "link.pgm", f"folder/{name}"):
        for folder in ("outputs", "folder"):
            status, output, errors = run_imported(IMAGES=("radial", path), OUTPUT_DIR=folder, **SMALL)
            assert (status, output) == (2, "") and re.fullmatch(ONE_LINE, errors)
            assert path in errors and "OUTPUT_DIR" in errors
            assert contents(tmp_path / "outputs") == before


# ------------------------------------------------------- patterns of one's own


@pytest.mark.parametrize(
    "returned",
    [
        lambda x, y, width, height: x / width * 1.5,
        lambda x, y, width, height: x / width - 0.5,
        lambda x, y, width, height: np.where(x == 3, np.nan, 0.5),
        lambda x, y, width, height: (x / width).T,
        lambda x, y, width, height: np.zeros((height + 1, width)),
        lambda x, y, width, height: None,
        lambda x, y, width, height: "grey",
        lambda x, y, width, height: 2,
    ],
)
def test_patterns_that_return_something_else(run_imported, program, monkeypatch, tmp_path, returned):
    monkeypatch.setitem(program.PATTERNS, "mine", returned)
    status, output, errors = run_imported(IMAGES=("radial", "mine"), **SMALL)
    assert (status, output) == (2, "") and re.fullmatch(ONE_LINE, errors)
    for words in ("mine", "24 x 32", "from 0 to 1"):
        assert words in errors
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value, grey", [(0.5, 128), (1, 255), (0, 0), (True, 255)])
def test_a_pattern_of_one_grey(run_imported, program, monkeypatch, tmp_path, value, grey):
    monkeypatch.setitem(program.PATTERNS, "mine", lambda x, y, width, height: value)
    status, _, errors = run_imported(IMAGES=("mine",), **SMALL)
    assert (status, errors) == (0, "")
    assert (read(tmp_path / "outputs" / "generated_mine.pgm") == np.full((24, 32), grey)).all()


# --------------------------------------------------- folders, full disks, memory


@pytest.mark.parametrize("obstacle", ["a file", "below a file", "long", "link to itself", "may not enter"])
def test_output_dir_that_cant_be_used(run_imported, tmp_path, obstacle):
    (tmp_path / "taken").write_bytes(b"mine")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "closed").mkdir(mode=0)
    names = {
        "a file": "taken", "below a file": "taken/deeper", "long": "x" * 256, "link to itself": "loop", "may not enter": "closed/x",
    }  # fmt: skip
    if obstacle == "may not enter" and os.access(tmp_path / "closed", os.X_OK):
        pytest.skip("this user may enter every folder")
    write_pgm(tmp_path / "cat.pgm", np.zeros((24, 32)))
    for images in (PATTERNS, ("cat.pgm",)):
        status, output, errors = run_imported(OUTPUT_DIR=names[obstacle], **SMALL, IMAGES=images)
        assert (status, output) == (2, "") and re.fullmatch(ONE_LINE, errors) and names[obstacle] in errors
    assert set(os.listdir(tmp_path)) == {"taken", "loop", "closed", "cat.pgm"}
    assert (tmp_path / "taken").read_bytes() == b"mine"


def test_output_dir_that_cant_be_written_is_refused_before_training(run_imported, program, monkeypatch, tmp_path):
    """With pictures of one's own only as well, when there is nothing to save yet."""

    def refuse(path, content):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(program.Path, "write_bytes", refuse)
    Image.new("L", (32, 24)).save(tmp_path / "cat.pgm", format="PPM")
    status, output, errors = run_imported(**SMALL, IMAGES=("cat.pgm",))
    assert (status, output) == (2, "") and re.fullmatch(ONE_LINE, errors) and "outputs: can't be written" in errors


@pytest.mark.parametrize("name", [".", "results/2024/", "..", "absolute"])
def test_output_dir_that_can_be_used(run_imported, program, monkeypatch, tmp_path, name):
    (tmp_path / "project").mkdir()
    monkeypatch.setattr(program, "__file__", str(tmp_path / "project" / "neural_compression.py"))
    name = str(tmp_path / "elsewhere") if name == "absolute" else name
    status, _, errors = run_imported(OUTPUT_DIR=name, **SMALL)
    assert (status, errors) == (0, "")
    assert DEFAULT_FILES <= set(os.listdir(tmp_path / "project" / name))


def test_script_reached_through_a_link(run_imported, program, monkeypatch, tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "neural_compression.py").touch()
    (tmp_path / "bin" / "link.py").symlink_to("../neural_compression.py")
    monkeypatch.setattr(program, "__file__", str(tmp_path / "bin" / "link.py"))
    assert run_imported(**SMALL)[0] == 0
    assert os.listdir(tmp_path / "bin") == ["link.py"] and readable(tmp_path / "outputs")


@pytest.mark.parametrize("problem", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("call", ["write_bytes", "replace"])
def test_full_disk_or_interrupt_at_each_write(run_imported, program, monkeypatch, tmp_path, call, problem):
    """The write of any one file fails, half done: every file is an old one or a new one."""
    target = program.Path if call == "write_bytes" else program.os
    real, folder, failed = getattr(target, call), tmp_path / "outputs", 0
    sizes = {**SMALL, "EPOCHS": 5}
    run_imported(SEED=2, LATENT_DIM=2, **sizes)
    new = contents(folder)
    run_imported(SEED=1, LATENT_DIM=1, **sizes)
    old = contents(folder)
    for fatal in count():
        for name, content in old.items():
            (folder / name).write_bytes(content)
        calls = count()

        def broken(path, content):
            if next(calls) == fatal:
                if call == "write_bytes":
                    real(path, content[: len(content) // 2])
                raise problem
            return real(path, content)

        with monkeypatch.context() as context:
            context.setattr(target, call, broken)
            status, _, errors = run_imported(SEED=2, LATENT_DIM=2, **sizes)
        after = contents(folder)
        assert set(after) == set(old) == set(new) == DEFAULT_FILES
        if status == 0:
            assert after == new
            break
        failed += 1
        assert re.fullmatch(ONE_LINE, errors)
        assert status == (2 if isinstance(problem, OSError) else 130)
        assert status == 130 or "No space left on device" in errors
        assert all(after[name] in (old[name], new[name]) for name in after)
    assert failed >= len(DEFAULT_FILES)


def test_folder_emptied_meanwhile(run_imported, monkeypatch, program, tmp_path):
    """As by another run at the same moment: what is moved there is gone at once, if it isn't a result."""
    real = os.replace

    def replace(source, target):
        real(source, target)
        if Path(target).name not in DEFAULT_FILES:
            os.unlink(target)

    monkeypatch.setattr(program.os, "replace", replace)
    status, _, errors = run_imported(**SMALL)
    assert (status, errors) == (0, "") and readable(tmp_path / "outputs") == DEFAULT_FILES


@pytest.mark.parametrize("error", [MemoryError(), MemoryError("no 7 gb")])
@pytest.mark.parametrize("where", ["draw", "train", "contact_sheet"])
def test_out_of_memory_is_one_line(run_imported, program, monkeypatch, where, error):
    def fail(*arguments, **named):
        raise error

    monkeypatch.setattr(program, where, fail)
    status, _, errors = run_imported(**SMALL)
    assert status == 2 and re.fullmatch(ONE_LINE, errors) and (str(error) or "memory") in errors.lower()


def test_memory_limit_of_the_process(adjustable, tmp_path):
    """What `ulimit -v` doesn't hold is refused at once or when memory runs out, in one line."""
    given = constants(LATENT_DIM=12000, EPOCHS=1, OUTPUT_DIR=str(tmp_path / "outputs"))
    command = ["sh", "-c", 'ulimit -v 2500000 && exec "$@"', "sh", sys.executable, str(adjustable)]
    environment = {"OPENBLAS_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", **given}
    status, _, errors = finish(start(command, environment))
    assert status == 2 and re.fullmatch(ONE_LINE, errors)
    assert re.search("memory|allocate|LATENT_DIM", errors)


def limited(monkeypatch, cgroup="max\n", pages=2**40, process=-1):
    """A system that grants as much memory as the arguments say."""
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda what: {resource.RLIMIT_AS: (process, -1)}[what])
    real = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda path, *a: cgroup if "cgroup" in str(path) else real(path, *a))
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": pages}[name])


@pytest.mark.parametrize("limit", [{"cgroup": "10000000\n"}, {"pages": 10**7}, {"process": 10**7}])
def test_memory_limits_of_the_system(run_imported, monkeypatch, tmp_path, limit):
    limited(monkeypatch)
    assert run_imported(EPOCHS=1)[0] == 0
    shutil.rmtree(tmp_path / "outputs")
    limited(monkeypatch, **limit)
    assert run_imported(**SMALL)[0] == 0  # fits in
    shutil.rmtree(tmp_path / "outputs")
    status, output, errors = run_imported(EPOCHS=1)
    assert (status, output) == (2, "") and re.fullmatch(ONE_LINE, errors)
    for words in ("WIDTH x HEIGHT", "LATENT_DIM = 16", "3 patches"):
        assert words in errors
    assert not (tmp_path / "outputs").exists()


def test_many_patches_of_one_picture_are_counted(run_imported, monkeypatch, tmp_path):
    write_pgm(tmp_path / "large.pgm", np.zeros((800, 800)))
    limited(monkeypatch, cgroup="10000000")
    status, output, errors = run_imported(IMAGES=("large.pgm",), WIDTH=8, HEIGHT=8)
    assert (status, output) == (2, "") and "10000 patches" in errors and os.listdir(tmp_path) == ["large.pgm"]


def test_limits_that_arent_told_are_none(run_imported, monkeypatch, tmp_path):
    def missing(*arguments):
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(Path, "read_text", missing)
    assert run_imported(**SMALL)[0] == 0
    monkeypatch.setattr(os, "sysconf", missing)
    assert run_imported(**SMALL)[0] == 0
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    assert run_imported(**SMALL)[0] == 0


@pytest.mark.parametrize("side, latent_dim, patches", [(256, 64, 3), (128, 2, 40), (16, 24, 500), (1, 300_000, 3)])
def test_memory_estimate(run_imported, program, monkeypatch, tmp_path, side, latent_dim, patches):
    """What is refused is what training takes, within a factor; measured without the tenth for the rest."""
    values = np.random.default_rng(0).integers(0, 256, (patches, side * side), np.uint8)
    tracemalloc.start()
    try:
        codes = program.start_codes(patches, latent_dim, 0)
        trained = program.train(values / np.float32(255), codes, 2)
        components = program.principal_components(*trained[:3])
        program.compress(components, list(values.reshape(patches, side, side)), side, side, 0.05)
        peak = tracemalloc.get_traced_memory()[1] + values.nbytes
    finally:
        tracemalloc.stop()
    limited(monkeypatch, pages=peak // 3)
    with pytest.raises(program.Refused):
        program.check_memory(patches, side * side, latent_dim)
    limited(monkeypatch, pages=peak * 3)
    program.check_memory(patches, side * side, latent_dim)
    limited(monkeypatch, pages=2 * 10**8 + peak * 3 // 2)
    program.check_memory(patches, side * side, latent_dim)


def unprivileged(folder):
    """Start of a command that may not write in a read-only folder: nothing, or root without its capabilities."""
    folder.chmod(0o555)
    for prefix in ([], ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]):
        command = [*prefix, sys.executable, "-c", "import os; print(os.access('.', os.W_OK), os.access('.', os.R_OK))"]
        with contextlib.suppress(OSError):
            if finish(start(command, {}, cwd=folder))[1] == "False True\n":
                return prefix
    pytest.skip("nothing is read-only for this user")


def test_read_only_folders(tmp_path):
    """Neither the script's folder nor HOME can be written: it runs, compiling anew."""
    folder = tmp_path / "folder"
    folder.mkdir()
    copy = edit(folder, **SMALL, OUTPUT_DIR=str(tmp_path / "outputs"))
    prefix = unprivileged(folder)
    for arguments in (["--help"], []):
        command = [*prefix, sys.executable, str(copy), *arguments]
        status, output, errors = finish(start(command, {"HOME": str(folder), "XDG_CACHE_HOME": str(folder)}, cwd=folder))
        assert (status, errors) == (0, "")
    assert "with zlib" in output and readable(tmp_path / "outputs") == DEFAULT_FILES
    assert os.listdir(folder) == ["neural_compression.py"]


def test_broken_cache_costs_a_compilation(adjustable, tmp_path):
    """One file garbled, another one cut short."""
    folder = tmp_path / "copy"
    shutil.copytree(adjustable.parent, folder)
    (index,) = (folder / "__pycache__").glob("*.step_piece-*.nbi")
    index.write_bytes(random.Random(0).randbytes(index.stat().st_size))
    (code,) = (folder / "__pycache__").glob("*.step_pieces-*.nbc")
    code.write_bytes(code.read_bytes()[: code.stat().st_size // 2])
    status, output, errors = run_process(folder / adjustable.name, **constants(**SMALL))
    assert (status, errors) == (0, "") and "with zlib" in output
    assert readable(folder / "outputs") == DEFAULT_FILES


# ------------------------------------------------------------------- interrupts


def interrupt_at(words, process):
    for text in process.stdout:
        if words in text:
            process.send_signal(signal.SIGINT)
            return
    raise AssertionError(f"no line with {words}")


def quiet(errors):
    """No traceback: at most the line that says that the run was interrupted."""
    return not errors or re.fullmatch(ONE_LINE, errors)


def test_interrupt_during_training(adjustable, tmp_path):
    folder = tmp_path / "outputs"
    process = start_process(adjustable, **constants(**ENDLESS, OUTPUT_DIR=str(folder)))
    interrupt_at("epoch ", process)
    status, output, errors = finish(process)
    assert (status, errors) == (130, "")
    epoch = re.search(r"after epoch (\d+)", output)
    assert int(epoch[1]) >= 1000 and readable(folder) == DEFAULT_FILES
    originals = [read(folder / f"generated_{name}.pgm") for name in PATTERNS]
    check_report(folder, originals, output)
    assert psnr(originals, decoded(folder, 3)) > 15  # something has been learned


@pytest.mark.parametrize("images", [PATTERNS, ("large.pgm",)])
def test_interrupt_before_the_first_epoch_is_done(run_imported, program, monkeypatch, tmp_path, images):
    """Something is saved even then, for one group of patches and for many."""
    write_pgm(tmp_path / "large.pgm", photograph(300, 300))
    compiled = program.compiled()

    def step(*arguments):
        compiled(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(program, "compiled", lambda: step)
    status, output, errors = run_imported(**{**SMALL, "IMAGES": images})
    assert (status, errors) == (130, "") and "after epoch 0" in output and "nan" not in output
    assert readable(tmp_path / "outputs")


def test_interrupt_during_compilation(tmp_path):
    """When the first of the two functions is in the cache, or on a busy machine a little later."""
    process = start_process(edit(tmp_path, **ENDLESS))
    while not list(tmp_path.glob("__pycache__/*.step_piece-*.nbi")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    status, output, errors = finish(process)
    assert status in (130, -signal.SIGINT) and quiet(errors)
    assert status == 130 or not output


def test_interrupt_at_the_first_line(adjustable, tmp_path):
    process = start_process(adjustable, **constants(**ENDLESS, OUTPUT_DIR=str(tmp_path / "outputs")))
    interrupt_at("training on", process)
    status, _, errors = finish(process)
    assert status == 130 and quiet(errors)
    assert {f"generated_{name}.pgm" for name in PATTERNS} <= readable(tmp_path / "outputs") <= DEFAULT_FILES


def test_second_interrupt_while_saving(adjustable, tmp_path):
    process = start_process(adjustable, **constants(**ENDLESS, OUTPUT_DIR=str(tmp_path / "outputs")))
    interrupt_at("epoch ", process)
    interrupt_at("after epoch ", process)
    status, _, errors = finish(process)
    assert status == 130 and quiet(errors)
    assert {f"generated_{name}.pgm" for name in PATTERNS} <= readable(tmp_path / "outputs") <= DEFAULT_FILES


def test_interrupt_during_the_imports(tmp_path):
    (tmp_path / "numba.py").write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n")
    status, output, errors = run_process(edit(tmp_path))
    assert status in (130, -signal.SIGINT) and (output, errors) == ("", "")


def test_interrupt_after_the_report(adjustable, tmp_path):
    hook = "import atexit, os, signal\natexit.register(os.kill, os.getpid(), signal.SIGINT)\n"
    (tmp_path / "sitecustomize.py").write_text(hook)
    given = constants(**SMALL, OUTPUT_DIR=str(tmp_path / "outputs"))
    status, _, errors = run_process(adjustable, PYTHONPATH=str(tmp_path), **given)
    assert (status, errors) == (0, "") and readable(tmp_path / "outputs") == DEFAULT_FILES


@pytest.mark.parametrize("handler", ["default_int_handler", "SIG_IGN"])
def test_interrupt_between_the_handlers(adjustable, tmp_path, handler):
    """At the moment when Ctrl-C begins to raise an exception, and just before it is ignored."""
    (tmp_path / "sitecustomize.py").write_text(f"""
import os, signal
real = signal.signal

def change(number, handler):
    if handler == signal.SIG_IGN == signal.{handler}:
        os.kill(os.getpid(), signal.SIGINT)
    real(number, handler)
    if handler == signal.default_int_handler == signal.{handler}:
        os.kill(os.getpid(), signal.SIGINT)

signal.signal = change
""")
    given = constants(**SMALL, OUTPUT_DIR=str(tmp_path / "outputs"))
    status, output, errors = run_process(adjustable, PYTHONPATH=str(tmp_path), **given)
    assert (status, errors) == ((0, "") if handler == "SIG_IGN" else (130, ""))
    assert ("with zlib" in output) == (handler == "SIG_IGN")


def test_interrupts_at_random_moments(adjustable, tmp_path):
    """From start to end of a run, three at a time, in one folder.

    The signal is ignored until the script's first line, so that Python's own start isn't hit.
    """
    given = constants(**SMALL, OUTPUT_DIR=str(tmp_path / "outputs"))
    began = time.perf_counter()
    assert run_process(adjustable, **given)[0] == 0
    seconds, moments = time.perf_counter() - began, random.Random()
    command = ["sh", "-c", 'trap "" INT && exec "$@"', "sh", sys.executable, str(adjustable)]
    for _ in range(4):
        processes = [start(command, given) for _ in range(3)]
        for process in processes:
            time.sleep(moments.uniform(0, seconds / 2))
            process.send_signal(signal.SIGINT)
        for process in processes:
            status, _, errors = finish(process)
            assert status in (0, 130, -signal.SIGINT)
            assert quiet(errors)
        assert readable(tmp_path / "outputs") == DEFAULT_FILES


def test_main_in_a_thread_and_the_handler_afterwards(run_imported, program, capsys, tmp_path):
    handler, statuses = signal.getsignal(signal.SIGINT), []
    assert run_imported(**SMALL)[0] == 0
    assert signal.getsignal(signal.SIGINT) is handler
    thread = threading.Thread(target=lambda: statuses.append(program.main([])))
    thread.start()
    thread.join()
    output, errors = capsys.readouterr()
    assert (statuses, errors) == ([0], "") and "with zlib" in output
    assert signal.getsignal(signal.SIGINT) is handler


def test_two_runs_at_once(adjustable, tmp_path):
    given = constants(**SMALL, OUTPUT_DIR=str(tmp_path / "outputs"))
    processes = [start_process(adjustable, **given) for _ in range(2)]
    assert [finish(process)[::2] for process in processes] == 2 * [(0, "")]
    assert readable(tmp_path / "outputs") == DEFAULT_FILES


def test_temporary_files_of_two_runs_have_different_names(run_imported, program, monkeypatch, tmp_path):
    real, paths = program.Path.write_bytes, {1001: set(), 1002: set()}
    for process, its_own in paths.items():
        monkeypatch.setattr(program.Path, "write_bytes", lambda path, data: its_own.add(path) or real(path, data))
        monkeypatch.setattr(program.os, "getpid", lambda: process)
        assert run_imported(**SMALL)[0] == 0
    assert len(paths[1001]) >= len(DEFAULT_FILES) and not paths[1001] & paths[1002]


# ------------------------------------------------------------- standard output


def test_reader_that_goes_away(adjustable, tmp_path):
    """After 3 lines, when the pipe is full: the work goes on without a word."""
    given = {**SMALL, "EPOCHS": 1500, "LOG_EVERY": 1, "OUTPUT_DIR": str(tmp_path / "outputs")}
    process = start_process(adjustable, **constants(**given))
    lines = [process.stdout.readline() for _ in range(3)]
    process.stdout.close()
    errors = process.stderr.read()
    assert (process.wait(), errors) == (0, "") and lines[2].startswith("epoch    2/1500")
    assert readable(tmp_path / "outputs") == DEFAULT_FILES


def test_lines_are_printed_at_once(run_imported, program, monkeypatch):
    """Into a pipe as well: before training begins, the first line is there."""
    there = io.BytesIO()

    def train(*arguments):
        seen = there.getvalue()  # what isn't flushed isn't in it
        assert seen.startswith(b"training on 3 pictures") and seen.endswith(b" threads" + os.linesep.encode())
        raise program.Refused("seen")

    monkeypatch.setattr(program, "train", train)
    with io.TextIOWrapper(there, encoding="utf-8") as output, monkeypatch.context() as context:
        context.setattr(sys, "stdout", output)
        status, _, errors = run_imported(**SMALL)
    assert status == 2 and errors.endswith(": seen\n")


@pytest.mark.parametrize("redirection, result", [(">/dev/full", 2), (">&-", 0)])
def test_full_or_closed_standard_output(adjustable, tmp_path, redirection, result):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    command = ["sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, str(adjustable)]
    status, _, errors = finish(start(command, constants(**SMALL, OUTPUT_DIR=str(tmp_path / "outputs"))))
    assert status == result
    if result == 0:
        assert errors == "" and readable(tmp_path / "outputs") == DEFAULT_FILES
    else:
        assert re.fullmatch(ONE_LINE, errors) and "No space left on device" in errors


def test_help_and_other_arguments(program, capsys):
    status, output, errors = run_process(SCRIPT, "--help")
    assert (status, errors) == (0, "") and output == program.__doc__.strip() + "\n"
    assert "edit a constant" in output
    for arguments in (["--epochs", "5"], ["-h"], ["--help", "me"], [""]):
        assert program.main(arguments) == 2
        output, errors = capsys.readouterr()
        assert output == "" and re.fullmatch(ONE_LINE, errors) and "--help" in errors


def test_import_prints_draws_and_writes_nothing_and_spincount_of_the_user_stays(tmp_path):
    edit(tmp_path)
    command = [sys.executable, "-B", "-c", "import os, neural_compression; os.write(2, os.environ['GOMP_SPINCOUNT'].encode())"]
    status, output, errors = finish(start(command, {}, cwd=tmp_path))
    assert (status, output) == (0, "") and 0 < int(errors) < 10**6
    assert finish(start(command, {"GOMP_SPINCOUNT": "77"}, cwd=tmp_path)) == (0, "", "77")
    assert os.listdir(tmp_path) == ["neural_compression.py"]


def test_top_level_is_what_was_agreed():
    names = {name.split("/")[0] for name in git("ls-files").decode().splitlines()}
    allowed = {"neural_compression.py", "README.md", "requirements.txt", "tests", "outputs"}
    assert {name for name in names if not name.startswith(".")} <= allowed
    requirements = (SCRIPT.parent / "requirements.txt").read_text()
    assert re.findall(r"(?m)^\w+", requirements) == ["numpy", "numba"]
