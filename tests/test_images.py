"""Patterns against pixels computed by hand, files against Pillow and Netpbm's rules, patches against small examples."""

import io
import os
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

# ---------------------------------------------------------------------------- patterns


def test_radial_is_white_at_the_centre_and_black_in_the_corner(program):
    picture = program.draw("radial", 256, 256)
    assert picture[128, 128] == 255 and picture[0, 0] == 0
    assert picture[128, 0] == 75  # 255 (1 - 128 / (128 sqrt 2)) = 74.7
    assert picture[64, 128] == picture[128, 64] == picture[192, 128] == 165  # 255 (1 - 64 / 181.02) = 164.8


def test_radial_of_a_wide_picture(program):
    # sqrt(4^2 + 1) = 4.123 to the corner; second row: 255 (1 - distance / 4.123) for 4, 3, 2, 1, 0, ...
    assert program.draw("radial", 8, 2)[1].tolist() == [8, 69, 131, 193, 255, 193, 131, 69]
    assert np.array_equal(program.draw("radial", 2, 8), program.draw("radial", 8, 2).T)


def test_sine_with_one_period(program, monkeypatch):
    monkeypatch.setattr(program, "SINE_FREQUENCY", 1)
    picture = program.draw("sine", 8, 8)
    assert (picture[0] == 128).all() and (picture[:, 4] == 128).all()  # 127.5 goes up, whatever sin(pi) rounds to
    assert picture[2, 2] == picture[6, 6] == 255
    assert picture[2, 6] == picture[6, 2] == 0
    assert picture[1, 1] == 191  # (1 + 1/2) / 2 of 255 = 191.25


def test_sine_of_a_wide_picture(program, monkeypatch):
    monkeypatch.setattr(program, "SINE_FREQUENCY", 1)
    # across sin = 0, r, 1, r, 0, -r, -1, -r with r = 0.7071; down sin = 0, 1, 0, -1
    up, down = [128, 218, 255, 218, 128, 37, 0, 37], [128, 37, 0, 37, 128, 218, 255, 218]
    assert program.draw("sine", 8, 4).tolist() == [[128] * 8, up, [128] * 8, down]
    assert program.draw("sine", 4, 8).T.tolist() == [[128] * 8, up, [128] * 8, down]


def test_sine_with_40_periods(program, monkeypatch):
    monkeypatch.setattr(program, "SINE_FREQUENCY", 40)
    picture = program.draw("sine", 256, 256)
    assert (picture[::16] == 128).all()  # sin(2 pi 40 y / 256) = 0 where 5 y / 16 is whole
    turns = [np.sin(np.deg2rad(n * 56.25)) for n in range(6)]  # 40 / 256 of a turn per pixel
    for y in range(6):
        for x in range(6):
            assert abs(int(picture[y, x]) - 255 * (1 + turns[x] * turns[y]) / 2) <= 0.5 + 1e-6


def test_checkerboard_starts_white_and_has_equal_squares(program, monkeypatch):
    monkeypatch.setattr(program, "CHECKER_SQUARES", 16)
    picture = program.draw("checkerboard", 256, 256)
    assert picture[0, 0] == picture[15, 15] == picture[16, 16] == 255
    assert picture[0, 16] == picture[16, 0] == picture[15, 16] == 0
    assert np.count_nonzero(picture == 255) == np.count_nonzero(picture == 0) == 256 * 128


def test_checkerboard_whose_squares_cannot_be_equal(program, monkeypatch):
    monkeypatch.setattr(program, "CHECKER_SQUARES", 3)
    white, black = [255, 255, 255, 0, 0, 255, 255], [0, 0, 0, 255, 255, 0, 0]
    assert program.draw("checkerboard", 7, 5).tolist() == [white, white, black, black, white]


@pytest.mark.parametrize("width, height", [(1, 1), (7, 5), (5, 7), (64, 48)])
def test_patterns_have_the_size_asked_for(program, monkeypatch, width, height):
    monkeypatch.setattr(program, "SINE_FREQUENCY", 0)
    monkeypatch.setattr(program, "CHECKER_SQUARES", min(width, height))
    for name in ("radial", "sine", "checkerboard"):
        picture = program.draw(name, width, height)
        assert picture.shape == (height, width) and picture.dtype == np.uint8


@pytest.mark.parametrize(
    "pattern, picture",
    [
        (lambda x, y, width, height: 0.5, [[128] * 3] * 2),  # a scalar is a picture of one grey
        (lambda x, y, width, height: True, [[255] * 3] * 2),
        (lambda x, y, width, height: x == y, [[255, 0, 0], [0, 255, 0]]),
        (lambda x, y, width, height: x / (width - 1), [[0, 128, 255]] * 2),
        (lambda x, y, width, height: (y / (height - 1)).astype(np.float32), [[0] * 3, [255] * 3]),
        (lambda x, y, width, height: 1 + 1e-12 - 0 * x, [[255] * 3] * 2),  # rounding errors are no mistake
        (lambda x, y, width, height: -1e-12 - 0 * x, [[0] * 3] * 2),
    ],
)
def test_a_pattern_of_ones_own(program, monkeypatch, pattern, picture):
    monkeypatch.setitem(program.PATTERNS, "mine", pattern)
    drawn = program.draw("mine", 3, 2)
    assert drawn.tolist() == picture and drawn.dtype == np.uint8


@pytest.mark.parametrize(
    "pattern",
    [
        lambda x, y, width, height: x / (width - 1) + 0.01,
        lambda x, y, width, height: x / (width - 1) - 0.01,
        lambda x, y, width, height: 255 * (x > 0),
        lambda x, y, width, height: np.where(x == 1, np.nan, 0.5),
        lambda x, y, width, height: float("nan"),
        lambda x, y, width, height: float("inf"),
        lambda x, y, width, height: (x / width).T,
        lambda x, y, width, height: np.zeros((height + 1, width)),
        lambda x, y, width, height: np.zeros((1, height, width)),
        lambda x, y, width, height: np.zeros(0),
        lambda x, y, width, height: [[0.5], [0.5, 0.5]],
        lambda x, y, width, height: None,
        lambda x, y, width, height: "grey",
        lambda x, y, width, height: np.full((height, width), "0.5"),
        lambda x, y, width, height: {},
        lambda x, y, width, height: 0.1j * x,
    ],
    ids="above below bytes NaN all-NaN infinite transposed tall deep empty ragged None string strings dict complex".split(),
)
def test_a_pattern_that_returns_something_else_is_refused_by_name(program, monkeypatch, pattern):
    monkeypatch.setitem(program.PATTERNS, "mine", pattern)
    with pytest.raises(program.Refused) as refusal:
        program.draw("mine", 3, 2)
    assert str(refusal.value) == "pattern mine: has to return 2 x 3 numbers from 0 to 1"


def test_to_grey_rounds_to_the_nearest_level(program):
    values = np.array([0, 0.4999, 0.5, 1.4999, 1.5, 254.4999, 254.5, 255]) / 255
    assert program.to_grey(values).tolist() == [0, 0, 1, 1, 2, 254, 255, 255]
    assert program.to_grey(np.arange(256, dtype=np.float32) / np.float32(255)).tolist() == list(range(256))
    assert program.to_grey(np.arange(256) / 255).tolist() == list(range(256))


def test_to_grey_rounds_a_half_up_if_it_came_out_a_hair_below(program):
    assert program.to_grey(np.array([0.5 - 1e-14, 0.5 - 1e-8])).tolist() == [128, 127]


# --------------------------------------------------------------------------- PGM files

READ = [
    (b"P5 2 1 255\n\x00\xff", [[0, 255]], 255),
    (b"P5\n# made by hand\n2 1\n#\n# twice\n255\n\x0a\x20", [[10, 32]], 255),  # samples that look like space
    (b"P5\r\n2\t1 #width, height\r\n255\n##", [[35, 35]], 255),
    (b"P5\v2\f1#old Mac\r255\r\x01\x02", [[1, 2]], 255),
    (b"P5 1 1 1 \x01", [[1]], 1),
    (b"P5 1 2 256 \x01\x00\x00\x07", [[256], [7]], 256),  # two bytes per sample, big-endian
    (b"P5 1 1 65535 \xff\xfe", [[65534]], 65535),
    (b"P5 1 1 255#c\n\x07", [[7]], 255),
    (b"P5 2 1 255 \x07\n", [[7, 10]], 255),
    (b"P2 3 1 15\n0 7\n\t15", [[0, 7, 15]], 15),
    (b"P2 2 3 15\n1 2 3 4 5 6", [[1, 2], [3, 4], [5, 6]], 15),
    (b"P2\n# plain\n2 2\n255\n1 2 # a comment\n3 4\n", [[1, 2], [3, 4]], 255),
    (b"P2 2 1 255 1#99\r2#88", [[1, 2]], 255),  # a carriage return ends a comment, as does the file
    (b"P2 2 1 255 1#99\n2", [[1, 2]], 255),
    (b"P2 1 1 255" + 10_096 * b" " + b"123", [[123]], 255),
    (b"P5 1 1 #" + 3000 * b"x" + b"\n255\n\x07", [[7]], 255),
    (b"P5\r\n2 1\r\n255\r\n\x07\x0a", [[7, 10]], 255),  # line ends of Windows
    (b"P2 0002 1 1000 0999 1000", [[999, 1000]], 1000),
    (b"P2 1 1 65535 65535", [[65535]], 65535),
]


@pytest.mark.parametrize("content, samples, maxval", READ)
def test_a_file_is_read_like_its_bytes(program, tmp_path, content, samples, maxval):
    path = tmp_path / "picture.pgm"
    path.write_bytes(content)
    picture = program.read_pgm(path)
    assert picture.tolist() == [[int(255 * sample / maxval + 0.5) for sample in row] for row in samples]
    assert picture.dtype == np.uint8


BROKEN = [
    b"P5",
    b"P6 1 1 255 abc",
    b"\x89PNG\r\n",
    b" P5 1 1 255 a",
    b"P5 1 1 255",
    b"P5 -1 1 255 a",
    b"P5 1.5 1 255 a",
    b"P52 1 255 ab",
    b"P5 1 1 # no end",
    b"P5 1 1 9999999999 a",
    b"P5 0 1 255 ",
    b"P5 1 0 255 ",
    b"P2 0 1 255 ",
    b"P5 1 1 0 \0",
    b"P2 1 1 0 0",
    b"P5 1 1 65536 ab",
    b"P2 1 1 65536 1",
    b"P5 2 2 255 abc",
    b"P5 1 1 256 \0",
    b"P5 1 1 255 ab",
    b"P5 1 1 255 \x07\n",
    b"P5 1 1 255\n# late\na",
    b"P5 1 1 9 a",
    b"P5 1 1 300 \x02\x00",
    b"P5 999999999 999999999 65535 a",
    b"P2 999999999 999999999 255 1",
    b"P2 2 1 255 1",
    b"P2 2 1 255 ",
    b"P2 2 1 255 1 # 2",
    b"P2 1 1 255 1 2",
    b"P2 1 1 255 -1",
    b"P2 1 1 255 1e1",
    b"P2 1 1 255 1.0",
    b"P2 1 1 255 nan",
    b"P2 1 1 255 256",
    b"P2 1 1 255 " + b"9" * 400,
    b"P2 1 1 255 12\0",
]


@pytest.mark.parametrize("content", [b"", *BROKEN])
def test_a_broken_file_is_refused_by_its_path(program, tmp_path, content):
    path = tmp_path / "picture.pgm"
    path.write_bytes(content)
    with pytest.raises(program.Refused) as refusal:
        program.read_pgm(path)
    assert str(refusal.value).startswith(f"{path}: ") and "\n" not in str(refusal.value)


def test_what_is_no_file_is_refused_by_its_path(program, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    for path in (tmp_path, tmp_path / "missing.pgm", tmp_path / "file" / "below", tmp_path / "dangling"):
        with pytest.raises(program.Refused) as refusal:
            program.read_pgm(path)
        assert str(refusal.value).startswith(f"IMAGES: {path} is neither") and "\n" not in str(refusal.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_refused_and_not_waited_for(program, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    problems = []

    def read():
        try:
            program.read_pgm(tmp_path / "pipe")
        except program.Refused as refusal:
            problems.append(str(refusal))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(60)
    assert len(problems) == 1 and problems[0].startswith(f"IMAGES: {tmp_path / 'pipe'} is neither")


def test_an_unreadable_file_is_refused(program, tmp_path):
    path = tmp_path / "picture.pgm"
    path.write_bytes(b"P5 1 1 255 a")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(program.Refused) as refusal:
        program.read_pgm(path)
    assert str(refusal.value).startswith(f"{path}: ") and "\n" not in str(refusal.value)


def test_a_link_to_a_picture_is_read(program, tmp_path):
    (tmp_path / "picture.pgm").write_bytes(b"P5 1 1 255 a")
    (tmp_path / "link").symlink_to("picture.pgm")
    assert program.read_pgm(tmp_path / "link").tolist() == [[97]]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    width=st.integers(1, 9), height=st.integers(1, 9), maxval=st.integers(1, 65535), plain=st.booleans(),
    separators=st.lists(st.sampled_from([b" ", b"\n", b"\t", b" # words 1 2\n", b"#\r"]), min_size=4, max_size=4),
    seed=st.integers(0, 2**32),
)  # fmt: skip
def test_every_pgm_is_read_as_written(program, tmp_path, width, height, maxval, plain, separators, seed):
    samples = np.random.default_rng(seed).integers(0, maxval, (height, width), endpoint=True)
    last = separators[3] if plain else b" "  # one byte before a binary raster
    header = b"P%d%b%d%b%d%b%d%b" % (
        2 if plain else 5, separators[0], width, separators[1], height, separators[2], maxval, last,
    )  # fmt: skip
    if plain:
        raster = separators[3].join(b"%d" % sample for sample in samples.flat)
    else:
        raster = samples.astype(">u2" if maxval > 255 else "u1").tobytes()
    (tmp_path / "picture.pgm").write_bytes(header + raster)
    assert np.array_equal(program.read_pgm(tmp_path / "picture.pgm"), (510 * samples + maxval) // (2 * maxval))


def test_mutated_pgm_files_are_read_or_refused(program, tmp_path, monkeypatch):
    """10,000 contents with bytes changed, cut, doubled or put in: a picture, or one line."""
    random = np.random.default_rng(0)
    monkeypatch.setattr(program, "say", lambda line: None)
    seeds = [
        b"P5\n# c\n3 2\n255\nabcdef",
        b"P5 2 2 65535\n" + bytes(range(8)),
        b"P2\n3 2 15\n1 2 3\n4 5 6 # end\n",
        b"P5\n9 9\n255\n" + random.bytes(81),
    ]
    pieces = [b"#", b"\n", b" ", b"9", b"0", b"P2", b"P5", b"-", b"99999999999", b"\xff", b"\x00", b"1e9", b"\r"]
    count, read = 10_000, 0
    edits = random.integers(1, 4, count).tolist()
    places, cuts, choices, repeats = random.random((4, count, 3)).tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in range(count):
            content = bytearray(seeds[number % len(seeds)])
            for edit in range(edits[number]):
                place = int(places[number][edit] * (len(content) + 1))
                end = place + int(cuts[number][edit] * 4)
                content[place:end] = pieces[int(choices[number][edit] * len(pieces))] * int(repeats[number][edit] * 3)
            (tmp_path / "picture.pgm").write_bytes(content)
            try:
                picture = program.read_pgm(tmp_path / "picture.pgm")
            except program.Refused as refusal:
                assert "\n" not in str(refusal)
            else:
                assert picture.ndim == 2 and picture.dtype == np.uint8 and 0 < picture.size <= len(content)
                read += 1
    assert 100 < read < count - 100


# --------------------------------------------------------------------- files to write


@pytest.mark.parametrize("shape", [(5, 7), (7, 5), (1, 1), (1, 300), (300, 1)])
def test_pgm_is_read_back_by_pillow_and_by_the_program(program, tmp_path, shape):
    picture = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    path = tmp_path / "picture.pgm"
    path.write_bytes(program.pgm(picture))
    with Image.open(path) as image:
        assert image.format == "PPM" and image.mode == "L" and image.size == shape[::-1]
        assert np.array_equal(np.asarray(image), picture)
    assert np.array_equal(program.read_pgm(path), picture)


def test_pgm_of_a_view_holds_the_view(program):
    whole = np.arange(24, dtype=np.uint8).reshape(4, 6)
    assert program.pgm(whole[:2, :2]) == b"P5\n2 2\n255\n\x00\x01\x06\x07"
    assert program.pgm(whole.T)[:14] == b"P5\n4 6\n255\n\x00\x06\x0c"


def test_a_picture_written_by_pillow_is_read(program, tmp_path):
    picture = np.random.default_rng(2).integers(0, 256, (4, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "picture.pgm")
    assert np.array_equal(program.read_pgm(tmp_path / "picture.pgm"), picture)


@pytest.mark.parametrize("shape", [(5, 7), (7, 5), (1, 1), (1, 300), (300, 1)])
def test_png_is_read_back_by_pillow(program, shape):
    picture = np.random.default_rng(3).integers(0, 256, shape, np.uint8)
    content = program.png(picture)
    Image.open(io.BytesIO(content)).verify()  # the checksums of all chunks
    with Image.open(io.BytesIO(content)) as image:
        assert image.format == "PNG" and image.mode == "L" and image.size == shape[::-1]
        assert np.array_equal(np.asarray(image), picture)
    assert content.endswith(b"\0\0\0\0IEND\xaeB`\x82")  # as in every PNG file


def test_png_is_compressed(program):
    assert len(program.png(np.zeros((256, 256), np.uint8))) < 1000


# ----------------------------------------------------------------------------- patches


def greys(program, picture, width, height):
    """The patches of a picture, as grey levels."""
    targets = program.cut([picture], width, height)
    assert targets.dtype == np.float32 and targets.min() >= 0 and targets.max() <= 1
    return np.uint8(np.rint(255 * targets))


def test_cut_by_hand(program):
    """Five pixels wide, three high, in patches of 2 x 2: the last column and row are repeated."""
    picture = np.arange(15, dtype=np.uint8).reshape(3, 5)
    patches = greys(program, picture, 2, 2)
    assert patches.tolist() == [
        [0, 1, 5, 6], [2, 3, 7, 8], [4, 4, 9, 9],
        [10, 11, 10, 11], [12, 13, 12, 13], [14, 14, 14, 14],
    ]  # fmt: skip
    (joined,) = program.join(patches, [(3, 5)], 2, 2)
    assert np.array_equal(joined, picture) and joined.dtype == np.uint8


def test_cut_takes_the_width_first(program):
    picture = np.arange(12, dtype=np.uint8).reshape(2, 6)
    assert greys(program, picture, 3, 1).tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
    assert greys(program, picture, 3, 2).tolist() == [[0, 1, 2, 6, 7, 8], [3, 4, 5, 9, 10, 11]]
    assert greys(program, picture, 1, 2).tolist() == [[0, 6], [1, 7], [2, 8], [3, 9], [4, 10], [5, 11]]


@pytest.mark.parametrize(
    "shape, width, height, count",
    [
        ((1, 1), 8, 8, 1),  # smaller than a patch
        ((5, 7), 8, 8, 1),
        ((1, 100_000), 8, 8, 12_500),
        ((100_000, 1), 8, 8, 12_500),
        ((8, 8), 8, 8, 1),
        ((9, 8), 8, 8, 2),
        ((8, 9), 8, 8, 2),
        ((12, 16), 8, 4, 6),
        ((4, 6), 1, 1, 24),
    ],
)
def test_the_number_of_patches(program, shape, width, height, count):
    picture = np.random.default_rng(4).integers(0, 256, shape, np.uint8)
    patches = greys(program, picture, width, height)
    assert patches.shape == (count, width * height)
    (joined,) = program.join(patches, [shape], width, height)
    assert np.array_equal(joined, picture)


def test_a_picture_of_one_pixel_fills_its_patch(program):
    assert greys(program, np.array([[9]], np.uint8), 3, 2).tolist() == [[9] * 6]


@settings(max_examples=200, deadline=None)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), min_size=1, max_size=4),
    width=st.integers(1, 9), height=st.integers(1, 9), seed=st.integers(0, 2**32),
)  # fmt: skip
def test_join_undoes_cut_for_pictures_of_any_sizes(program, shapes, width, height, seed):
    random = np.random.default_rng(seed)
    pictures = [random.integers(0, 256, shape, np.uint8) for shape in shapes]
    joined = program.join(program.to_grey(program.cut(pictures, width, height)), shapes, width, height)
    assert len(joined) == len(pictures) and all(map(np.array_equal, joined, pictures))


def test_contact_sheet_has_a_column_per_picture(program):
    random = np.random.default_rng(0)
    shapes = [(2, 20), (9, 7), (5, 5)]
    pictures, decoded = ([random.integers(0, 256, shape, np.uint8) for shape in shapes] for _ in range(2))
    sheet = program.contact_sheet(pictures, decoded)
    assert sheet.dtype == np.uint8 and sheet.shape == (3 * 9 + 1, sum(wide + 2 for _, wide in shapes))
    left = 0
    for a, b in zip(pictures, decoded):
        tall, wide = a.shape
        column = np.vstack([a, b, np.minimum(8 * np.abs(a.astype(int) - b), 255)])
        assert np.array_equal(sheet[: 3 * tall, left : left + wide], column)
        sheet[: 3 * tall, left : left + wide] = 128
        left += wide + 2
    assert (sheet == 128).all()


def test_contact_sheet_of_large_pictures_is_scaled_down(program):
    pictures = [np.zeros((100_000, 1), np.uint8), np.ones((1, 100_000), np.uint8)]
    assert max(program.contact_sheet(pictures, pictures).shape) < 2100
    picture = np.random.default_rng(0).integers(0, 256, (1000, 30), np.uint8)
    assert np.array_equal(program.contact_sheet([picture], [picture])[:500, :15], picture[::2, ::2])
