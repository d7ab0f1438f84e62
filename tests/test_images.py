"""Patterns against pixels computed by hand, PGM files against Pillow and against the specification's words."""

import io
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image


def write(folder, content):
    path = folder / "picture.pgm"
    path.write_bytes(content)
    return path


def test_radial(program):
    picture = program.draw(program.radial, 256, 256)
    assert picture[128, 128] == 255  # the centre
    assert picture[0, 0] == 0  # the corner that is farthest away
    assert picture[128, 0] == 75  # 255 (1 - 128 / (128 sqrt 2)) = 74.7
    assert picture[64, 128] == picture[128, 64] == picture[192, 128] == 165  # 255 (1 - 64 / 181.02) = 164.8
    assert program.draw(program.radial, 8, 2)[1].tolist() == [8, 69, 131, 193, 255, 193, 131, 69]


def test_sine(program):
    picture = program.draw(partial(program.sine, frequency=1), 8, 8)
    assert (picture[0] == 128).all() and (picture[:, 4] == 128).all()  # 127.5 goes up, whatever sin(pi) rounds to
    assert picture[2, 2] == picture[6, 6] == 255
    assert picture[2, 6] == picture[6, 2] == 0
    assert picture[1, 1] == 191  # (1 + 1/2) / 2 of 255 = 191.25
    default = program.draw(partial(program.sine, frequency=40), 256, 256)
    assert (default[::16] == 128).all()  # sin(2 pi 40 y / 256) = 0 where 5 y / 16 is whole


def test_sine_by_hand(program):
    """The corner of the default pattern, from the sines of multiples of 5/16 turns."""
    default = program.draw(partial(program.sine, frequency=40), 256, 256)
    turns = [np.sin(np.deg2rad(n * 56.25)) for n in range(6)]
    for y in range(6):
        for x in range(6):
            assert abs(int(default[y, x]) - 255 * (1 + turns[x] * turns[y]) / 2) <= 0.5 + 1e-6


def test_checkerboard(program):
    picture = program.draw(partial(program.checkerboard, squares=16), 256, 256)
    assert picture[0, 0] == picture[15, 15] == picture[16, 16] == 255
    assert picture[0, 16] == picture[16, 0] == picture[15, 16] == 0
    uneven = program.draw(partial(program.checkerboard, squares=3), 7, 5)
    assert uneven.tolist()[0] == [255, 255, 255, 0, 0, 255, 255]
    assert uneven[:, 0].tolist() == [255, 255, 0, 0, 255]


@pytest.mark.parametrize("width, height", [(1, 1), (7, 5), (64, 48)])
def test_patterns_at_odd_sizes(program, width, height):
    for pattern in (
        program.radial,
        partial(program.sine, frequency=40),
        partial(program.checkerboard, squares=min(width, height)),
    ):
        picture = program.draw(pattern, width, height)
        assert picture.shape == (height, width) and picture.dtype == np.uint8


def test_to_grey_rounds_to_the_nearest_level(program):
    values = np.array([0, 0.4999, 0.5, 1.4999, 1.5, 254.4999, 254.5, 255]) / 255
    assert program.to_grey(values).tolist() == [0, 0, 1, 1, 2, 254, 255, 255]
    assert program.to_grey(np.arange(256, dtype=np.float32) / np.float32(255)).tolist() == list(range(256))


def test_pgm_is_read_back_by_pillow_and_by_itself(program, tmp_path):
    picture = np.random.default_rng(1).integers(0, 256, (5, 7), np.uint8)
    program.write_file(tmp_path / "picture.pgm", program.pgm(picture))
    with Image.open(tmp_path / "picture.pgm") as image:
        assert image.format == "PPM" and image.mode == "L" and image.size == (7, 5)
        assert np.array_equal(np.asarray(image), picture)
    samples, maxval = program.read_pgm(tmp_path / "picture.pgm")
    assert maxval == 255 and np.array_equal(samples, picture)
    assert [path.name for path in tmp_path.iterdir()] == ["picture.pgm"]


def test_read_pgm_written_by_pillow(program, tmp_path):
    picture = np.random.default_rng(2).integers(0, 256, (4, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "picture.pgm")
    assert np.array_equal(program.read_pgm(tmp_path / "picture.pgm")[0], picture)


@pytest.mark.parametrize(
    "content, samples, maxval",
    [
        (b"P5 2 1 255\n\x00\xff", [[0, 255]], 255),
        (b"P5\n# made by hand\n2 1\n#\n# twice\n255\n\x0a\x20", [[10, 32]], 255),  # samples that look like space
        (b"P5\r\n2\t1 #width, height\r\n255\n##", [[35, 35]], 255),
        (b"P5 1 1 1 \x01", [[1]], 1),
        (b"P5 1 2 256 \x01\x00\x00\x07", [[256], [7]], 256),  # two bytes a sample, big-endian
        (b"P5 1 1 65535 \xff\xfe", [[65534]], 65535),
        (b"P5 1 1 255#c\n\x07", [[7]], 255),
        (b"P5 1 1 255 \x07\n", [[7]], 255),  # an editor's newline at the end
        (b"P2 3 1 15\n0 7\n\t15", [[0, 7, 15]], 15),
        (b"P2\n# plain\n2 2\n255\n1 2 # a comment\n3 4\n", [[1, 2], [3, 4]], 255),
        (b"P2 0002 1 1000 0999 1000", [[999, 1000]], 1000),
    ],
)
def test_pgm_as_the_specification_has_it(program, tmp_path, content, samples, maxval):
    read, most = program.read_pgm(write(tmp_path, content))
    assert read.tolist() == samples and most == maxval
    assert read.dtype == (np.uint8 if maxval < 256 else np.uint16)


@pytest.mark.parametrize(
    "content, problem",
    [
        (b"", "has to start with P5 or P2"),
        (b"P5", "has to start"),
        (b"P6 1 1 255 abc", "has to start"),
        (b"\x89PNG\r\n", "has to start"),
        (b"P5 1 1 255", "has to start"),
        (b"P5 -1 1 255 a", "has to start"),
        (b"P5 1.5 1 255 a", "has to start"),
        (b"P52 1 255 ab", "has to start"),
        (b"P5 1 1 # no end", "has to start"),
        (b"P5 0 1 255 ", "1 x 1 or more"),
        (b"P5 1 0 255 ", "1 x 1 or more"),
        (b"P5 1 1 0 a", "maxval 0"),
        (b"P5 1 1 65536 ab", "maxval 65536"),
        (b"P5 2 2 255 abc", "take 4 bytes, and 3 are there"),
        (b"P5 1 1 256 a", "take 2 bytes, and 1 are there"),
        (b"P5 1 1 255 ab", "1 bytes too many"),
        (b"P5 1 1 255\n# late\na", "too many"),
        (b"P5 1 1 9 a", "sample 97 is above maxval 9"),
        (b"P5 1 1 300 \x02\x00", "sample 512 is above maxval 300"),
        (b"P5 999999999 999999999 65535 a", "are there"),
        (b"P2 999999999 999999999 255 1", "are there"),
        (b"P2 2 1 255 1", "takes 2 samples, and 1 are there"),
        (b"P2 2 1 255 ", "takes 2 samples, and 0 are there"),
        (b"P2 1 1 255 1 2", "takes 1 samples, and 2 are there"),
        (b"P2 1 1 255 -1", "whole numbers"),
        (b"P2 1 1 255 1e1", "whole numbers"),
        (b"P2 1 1 255 256", "above maxval"),
        (b"P2 1 1 255 " + b"9" * 400, "above maxval"),
    ],
)
def test_broken_pgm_is_refused_by_name(program, tmp_path, content, problem):
    path = write(tmp_path, content)
    with pytest.raises(program.Refused) as refusal:
        program.read_pgm(path)
    message = str(refusal.value)
    assert message.startswith(str(path)) and problem in message and "\n" not in message


def test_what_is_no_file_is_refused(program, tmp_path):
    for path in (tmp_path, tmp_path / "missing.pgm", write(tmp_path, b"") / "below"):
        with pytest.raises(program.Refused, match="file"):
            program.read_pgm(path)


@settings(max_examples=200, deadline=None)
@given(
    width=st.integers(1, 9), height=st.integers(1, 9), maxval=st.integers(1, 65535), plain=st.booleans(),
    separators=st.lists(st.sampled_from([b" ", b"\n", b"\t", b"\r\n", b" # words 1 2\n", b"#\r"]), min_size=4, max_size=4),
    seed=st.integers(0, 2**32),
)  # fmt: skip
def test_every_pgm_is_read_as_written(program, tmp_path_factory, width, height, maxval, plain, separators, seed):
    samples = np.random.default_rng(seed).integers(0, maxval, (height, width), endpoint=True)
    separators[3] = separators[3] if plain else separators[3][-1:]  # one byte before a binary raster
    header = b"P%d%b%d%b%d%b%d%b" % (
        2 if plain else 5, separators[0], width, separators[1], height, separators[2], maxval, separators[3],
    )  # fmt: skip
    raster = b" ".join(b"%d" % s for s in samples.flat) if plain else samples.astype(">u2" if maxval > 255 else "u1").tobytes()
    path = write(tmp_path_factory.getbasetemp(), header + raster)
    read, most = program.read_pgm(path)
    assert most == maxval and np.array_equal(read, samples)


def test_mutated_pgm_files_are_read_or_refused(program, tmp_path):
    """100,000 files with bytes changed, cut, doubled or put in: a picture of the header's size, or one line."""
    random = np.random.default_rng(0)
    seeds = [
        b"P5\n# c\n3 2\n255\nabcdef",
        b"P5 2 2 65535\n" + bytes(range(8)),
        b"P2\n3 2 15\n1 2 3\n4 5 6 # end\n",
        program.pgm(random.integers(0, 256, (9, 9), np.uint8)),
    ]
    pieces = [b"#", b"\n", b" ", b"9", b"0", b"P2", b"P5", b"-", b"99999999999", b"\xff", b"\x00", b"1e9", b"\r"]
    read = 0

    class Content(io.BytesIO):
        """Stands in for a path: the file system would take longer than all the rest."""

        is_file = staticmethod(lambda: True)
        read_bytes = io.BytesIO.getvalue
        __str__ = staticmethod(lambda: "file.pgm")

    for number in range(100_000):
        content = bytearray(seeds[number % len(seeds)])
        for _ in range(random.integers(1, 4)):
            place = int(random.integers(0, len(content) + 1))
            end = place + int(random.integers(0, 4))
            content[place:end] = pieces[random.integers(len(pieces))] * int(random.integers(0, 3))
        try:
            samples, maxval = program.read_pgm(Content(bytes(content)))
        except program.Refused as refusal:
            assert str(refusal).startswith("file.pgm: ") and "\n" not in str(refusal)
        else:
            assert samples.ndim == 2 and 0 < samples.size <= len(content) and samples.max() <= maxval
            read += 1
    assert read > 1000
