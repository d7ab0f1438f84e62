"""Patterns against pixels computed by hand, files against Pillow and Netpbm's rules, patches against small examples."""

import io
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

SHAPES = [(1, 1), (5, 7), (1, 300), (300, 1), (1, 1, 3), (7, 5, 3), (1, 301, 3), (64, 33, 3)]


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def refusal(program, path):
    """What `read_picture` says of a file that it refuses."""
    with pytest.raises(program.Refused) as refused:
        program.read_picture(path)
    return str(refused.value)


# ---------------------------------------------------------------------------- patterns


def test_radial_is_white_at_the_centre_and_black_in_the_corner(program):
    picture = program.draw("radial", 256, 256)
    assert picture[128, 128] == 255 and picture[0, 0] == 0
    assert picture[128, 0] == 75  # 255 (1 - 128 / (128 sqrt 2)) = 74.7
    assert picture[64, 128] == picture[128, 64] == picture[192, 128] == 165  # 255 (1 - 64 / 181.02) = 164.8
    # sqrt(4^2 + 1) = 4.123 to the corner; second row: 255 (1 - distance / 4.123) for 4, 3, 2, 1, 0, ...
    assert program.draw("radial", 8, 2)[1].tolist() == [8, 69, 131, 193, 255, 193, 131, 69]
    assert np.array_equal(program.draw("radial", 2, 8), program.draw("radial", 8, 2).T)


def test_sine_has_so_many_periods_along_each_side(program, monkeypatch):
    monkeypatch.setattr(program, "SINE_FREQUENCY", 1)
    # Across, sin = 0, r, 1, r, 0, -r, -1, -r with r = 0.7071; down, sin = 0, 1, 0, -1. 127.5 goes up.
    up, down = [128, 218, 255, 218, 128, 37, 0, 37], [128, 37, 0, 37, 128, 218, 255, 218]
    assert program.draw("sine", 8, 4).tolist() == [[128] * 8, up, [128] * 8, down]
    assert program.draw("sine", 4, 8).T.tolist() == [[128] * 8, up, [128] * 8, down]

    monkeypatch.setattr(program, "SINE_FREQUENCY", 0.5)
    assert program.draw("sine", 4, 2).tolist() == [[128] * 4, [128, 218, 255, 218]]

    monkeypatch.setattr(program, "SINE_FREQUENCY", 40)
    picture = program.draw("sine", 256, 256)
    assert (picture[::16] == 128).all()  # sin(2 pi 40 y / 256) = 0 where 5 y / 16 is whole
    turns = np.sin(np.deg2rad(56.25 * np.arange(32)))  # 40 / 256 of a turn per pixel
    assert np.max(abs(picture[:32, :32] - 255 * (1 + np.outer(turns, turns)) / 2)) <= 0.5 + 1e-6


@pytest.mark.parametrize(
    "squares, width, height, across, down",
    [
        (2, 4, 6, "WWBB", "WWWBBB"),
        (3, 7, 5, "WWWBBWW", "WWBBW"),  # whose squares can't be equal
        (2.5, 5, 3, "WWBBW", "WWB"),
        (0, 3, 2, "WWW", "WW"),
        (-1, 3, 1, "WBB", "W"),
        (1, 1, 1, "W", "W"),
    ],
)
def test_checkerboard_starts_white_and_has_so_many_squares_along_each_side(
    program, monkeypatch, squares, width, height, across, down
):
    monkeypatch.setattr(program, "CHECKER_SQUARES", squares)
    expected = [[255 if a == b else 0 for a in across] for b in down]
    assert program.draw("checkerboard", width, height).tolist() == expected


@pytest.mark.parametrize("name", ["SINE_FREQUENCY", "CHECKER_SQUARES"])
def test_patterns_take_any_finite_number_and_have_the_size_asked_for(program, monkeypatch, name):
    for value in (0, 1, -3, 0.3, 1e-300, 12345, 1e6):
        monkeypatch.setattr(program, name, value)
        for width, height in [(1, 1), (7, 5), (5, 7), (64, 48)]:
            for pattern in ("radial", "sine", "checkerboard"):
                picture = program.draw(pattern, width, height)
                assert picture.shape == (height, width) and picture.dtype == np.uint8


@pytest.mark.parametrize(
    "pattern, picture",
    [
        (lambda x, y, width, height: x == y, [[255, 0, 0], [0, 255, 0]]),
        (lambda x, y, width, height: x / (width - 1), [[0, 128, 255]] * 2),
        (lambda x, y, width, height: (y / (height - 1)).astype(np.float32), [[0] * 3, [255] * 3]),
        (lambda x, y, width, height: [[0, 1, 0], [1, 0, 1]], [[0, 255, 0], [255, 0, 255]]),
        (lambda x, y, width, height: 1 + 1e-12 - 0 * x, [[255] * 3] * 2),  # rounding errors are no mistake
        (lambda x, y, width, height: -1e-12 - 0 * x, [[0] * 3] * 2),
        (
            lambda x, y, width, height: np.dstack([x / (width - 1), y / (height - 1), x == y]),
            [[[0, 0, 255], [128, 0, 0], [255, 0, 0]], [[0, 255, 0], [128, 255, 255], [255, 255, 0]]],
        ),
    ],
)
def test_a_pattern_of_ones_own_is_drawn_in_grey_or_in_colour(program, monkeypatch, pattern, picture):
    monkeypatch.setitem(program.PATTERNS, "mine", pattern)
    drawn = program.draw("mine", 3, 2)
    assert drawn.tolist() == picture and drawn.dtype == np.uint8


NONSENSE = {
    "above": lambda x, y, width, height: x / (width - 1) + 0.01,
    "below": lambda x, y, width, height: x / (width - 1) - 0.01,
    "bytes": lambda x, y, width, height: 255 * (x > 0),
    "NaN": lambda x, y, width, height: np.where(x == 1, np.nan, 0.5),
    "infinite": lambda x, y, width, height: float("inf"),
    "transposed": lambda x, y, width, height: (x / width).T,
    "tall": lambda x, y, width, height: np.zeros((height + 1, width)),
    "planes": lambda x, y, width, height: np.zeros((3, height, width)),
    "transparent": lambda x, y, width, height: np.zeros((height, width, 4)),
    "empty": lambda x, y, width, height: np.zeros(0),
    "None": lambda x, y, width, height: None,
    "string": lambda x, y, width, height: "grey",
    "dict": lambda x, y, width, height: {},
}


@pytest.mark.parametrize("name", NONSENSE)
def test_a_pattern_that_returns_something_else_is_refused_by_name(program, monkeypatch, name):
    monkeypatch.setitem(program.PATTERNS, "mine", NONSENSE[name])
    with pytest.raises(program.Refused) as refused, warnings.catch_warnings():
        warnings.simplefilter("error")
        program.draw("mine", 3, 2)
    assert str(refused.value).startswith("pattern mine: ") and "\n" not in str(refused.value)


def test_a_mistake_inside_a_pattern_is_told_as_it_is(run_imported, program, monkeypatch):
    monkeypatch.setitem(program.PATTERNS, "mine", lambda x, y, width, height: 1 if x > y else 0)
    with pytest.raises(ValueError, match="truth value of an array"):
        run_imported(WIDTH=3, HEIGHT=2, IMAGES=("mine",))


def test_values_become_the_nearest_level(program):
    values = np.array([0, 0.4999, 0.5, 1.4999, 1.5, 254.4999, 254.5, 255]) / 255
    assert program.to_levels(values).tolist() == [0, 0, 1, 1, 2, 254, 255, 255]
    assert program.to_levels(np.arange(256, dtype=np.float32) / np.float32(255)).tolist() == list(range(256))
    # A half goes up, even if it came out a hair below.
    assert program.to_levels(np.array([0.5 - 1e-14, 0.5 - 1e-8])).tolist() == [128, 127]


# --------------------------------------------------------------------- files to read


READ = [
    (b"P5 2 1 255\n\x00\xff", [[0, 255]]),
    (b"P5\n# made by hand\n2 1\n#\n# twice\n255\n\x0a\x20", [[10, 32]]),  # samples that look like space
    (b"P5\r\n2\t1 #width, height\r\n255\n##", [[35, 35]]),
    (b"P5\v2\f1#old Mac\r255\r\x01\x02", [[1, 2]]),
    (b"P5#\n1 1 255 \x07", [[7]]),
    (b"P5 1 1 255 #c\n\x07", [[35]]),  # a single white space, and the raster begins
    (b"P5 1 1 255#c\n\x07", [[7]]),  # the end of a comment is that white space
    (b"P5\r\n2 1\r\n255\r\n\x07", [[10, 7]]),  # and so is half a line end of Windows
    (b"P5 1 1 #" + 300_000 * b"x" + b"\n255\n\x07", [[7]]),
    (b"P5 1 1" + 30_000 * b" # many\n" + b"255\n\x07", [[7]]),
    (b"P5 1 1 1 \x01", [[255]]),
    (b"P5 1 2 256 \x01\x00\x00\x80", [[255], [128]]),  # two bytes per sample, the higher first; 127.5 goes up
    (b"P5 2 1 255 \x07\nP5 1 1 255 \x00", [[7, 10]]),  # a second picture isn't read
    (b"P6 1 2 255 abcdefP6", [[[97, 98, 99]], [[100, 101, 102]]]),
    (b"P6 1 1 257 \x01\x01\x00\x00\x00\x01", [[[255, 0, 1]]]),
    (b"P2 3 1 15\n0 7\n\t15", [[0, 119, 255]]),
    (b"P2\n# plain\n2 2\n255\n1 2 # a comment\n3 4\n", [[1, 2], [3, 4]]),
    (b"P2 2 1 255 1#99\r2#88", [[1, 2]]),  # a carriage return ends a comment, as does the file
    (b"P2 1 1 255#5\n6 7 is not read", [[6]]),
    (b"P2 0002 1 1000 0999 1000", [[255, 255]]),
    (b"P2 1 1 255" + 10_096 * b" " + b"123", [[123]]),
    (b"P3 2 1 15 1 2 3\n4 5 6", [[[17, 34, 51], [68, 85, 102]]]),
]


@pytest.mark.parametrize("content, picture", READ, ids=lambda value: repr(value)[:40])
def test_a_file_is_read_as_netpbm_specifies_it(program, tmp_path, content, picture):
    path = tmp_path / "picture"
    path.write_bytes(content)
    levels = program.read_picture(path)
    assert levels.tolist() == picture and levels.dtype == np.uint8


HEADER = "its header has to have a width, a height, and a maxval from 1 to 65535"
BROKEN = {
    "isn't a PGM or PPM file": [
        b"", b"P", b"P4 8 1 \0", b"P7 1 1 255 a", b"p5 1 1 255 a", b"\x89PNG\r\n", b" P5 1 1 255 a", b"\nP5 1 1 255 a",
        b"\xef\xbb\xbfP2 1 1 255 1", b"# words\nP2 1 1 255 1",
    ],
    HEADER: [
        b"P5", b"P52 1 255 ab", b"P5 1 1 255", b"P5 1 1 # no end", b"P5 1 1 # 255 a", b"P5\x851 1 255 a",
        b"P5 -1 1 255 a", b"P5 +1 1 255 a", b"P5 1.5 1 255 a", b"P5 1_0 1 255 abcdefghij", b"P5 0 1 255 ", b"P2 1 0 255 ",
        b"P5 1 1 0 \0", b"P2 1 1 0 0", b"P5 1 1 65536 ab", b"P2 1 1 65536 1", b"P5 1 1 9999999999 a",
    ],
    "is cut off: it has 0 of 1 samples": [b"P5 1 1 255 ", b"P5 1 1 256 \0", b"P2 1 1 255 ", b"P2 1 1 255 # 7"],
    "is cut off: it has 1 of 2 samples": [b"P2 2 1 255 1", b"P2 2 1 255 1 # 2", b"P5 2 1 256 \0\1\0"],
    "is cut off: it has 2 of 3 samples": [b"P6 1 1 255 ab", b"P6 1 1 256 \0a\0b\0", b"P3 1 1 255 1 2"],
    "is cut off: it has 3 of 4 samples": [b"P5 2 2 255 abc"],
    "is cut off: it has 0 of 999999998000000001 samples": [b"P5 999999999 999999999 65535 a"],
    "is cut off: it has 1 of 2999999994000000003 samples": [b"P3 999999999 999999999 255 1"],
    "has samples above its maxval, 255": [b"P2 1 1 255 256", b"P2 2 1 255 1 256", b"P3 1 1 255 1 2 999999999"],
    "has samples above its maxval, 9": [b"P5 1 1 9 a", b"P2 1 1 9 10"],
    "has samples above its maxval, 300": [b"P5 1 1 300 \x02\x00"],
    "its samples have to be decimal numbers": [
        b"P2 1 1 255 12\0",
        *(b"P2 1 1 255 " + word for word in (b"-1", b"+5", b"1_0", b"1e1", b"1.0", b"nan", b"9" * 5000, b"\xd9\xa1")),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    "words, content", [(words, content) for words in BROKEN for content in BROKEN[words]], ids=lambda value: repr(value)[:40])
def test_a_broken_file_is_refused_by_its_path_and_the_cause(program, tmp_path, words, content):
    path = tmp_path / "picture"
    path.write_bytes(content)
    said = refusal(program, path)
    assert said.startswith(f"{path}: {words}") and "\n" not in said


@pytest.mark.parametrize(
    "content", [b"P2 1 1 256 7", b"P5 1 1 65535 \0\7", b"P6 1 1 1000 \0\1\0\2\0\3", b"P2 1 1 255 7", b"P5 1 1 9 \7"])
def test_a_line_says_that_of_16_bits_256_levels_are_kept(program, tmp_path, capsys, content):
    (tmp_path / "cat.pgm").write_bytes(content)
    program.read_picture(tmp_path / "cat.pgm")
    deep = int(content.split()[3]) > 255
    assert capsys.readouterr().out == deep * "cat.pgm: 16 bits: 256 levels are kept\n"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from([2, 3, 5, 6]), height=st.integers(1, 9), width=st.integers(1, 9), maxval=st.integers(1, 65535),
    separators=st.lists(st.sampled_from([b" ", b"\n", b"\t", b" # words 1 2\n", b"#\r"]), min_size=4, max_size=4),
    seed=st.integers(0, 2**32),
)  # fmt: skip
def test_every_file_is_read_as_written(program, tmp_path, kind, height, width, maxval, separators, seed):
    shape = (height, width, 3) if kind in (3, 6) else (height, width)
    samples = np.random.default_rng(seed).integers(0, maxval, shape, endpoint=True)
    *between, last = separators
    content = b"P%d%b%d%b%d%b%d" % (kind, between[0], width, between[1], height, between[2], maxval)
    if kind in (2, 3):
        content += last + last.join(b"%d" % sample for sample in samples.flat)
    else:
        content += b" " + samples.astype(">u2" if maxval > 255 else "u1").tobytes()
    (tmp_path / "picture").write_bytes(content)
    assert np.array_equal(program.read_picture(tmp_path / "picture"), (510 * samples + maxval) // (2 * maxval))
    (tmp_path / "picture").unlink()


def test_thousands_of_mutated_files_are_read_or_refused_in_one_line(program, tmp_path):
    random = np.random.default_rng(0)
    seeds = [
        b"P5\n# c\n3 2\n255\nabcdef", b"P5 2 2 65535\n" + bytes(range(8)), b"P6 2 1 255\nabcdef",
        b"P2\n3 2 15\n1 2 3\n4 5 6 # end\n", b"P3 1 2 15\n1 2 3\n4 5 6", b"P5\n9 9\n255\n" + random.bytes(81),
    ]  # fmt: skip
    pieces = [b"", b"#", b"\n", b" ", b"9", b"0", b"P2", b"P6", b"-", b"_", b"99999999999", b"\xff", b"\0", b"1e9", b"\r"]
    count, read = 4000, 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in range(count):
            content = bytearray(seeds[number % len(seeds)])
            for _ in range(random.integers(1, 4)):
                place = random.integers(len(content) + 1)
                content[place : place + random.integers(4)] = pieces[random.integers(len(pieces))]
            path = tmp_path / str(number)
            path.write_bytes(content)
            try:
                picture = program.read_picture(path)
            except program.Refused as refused:
                assert str(refused).startswith(f"{path}: ") and "\n" not in str(refused)
            else:
                assert picture.shape[2:] in ((), (3,)) and 0 < picture.size <= len(content)
                read += 1
            path.unlink()  # before it gets to a disk
    assert count / 10 < read < count * 9 / 10


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bits", [8, 16])
def test_a_file_written_by_pillow_is_read_like_pillow_reads_it(program, tmp_path, shape, bits):
    path = tmp_path / "picture"
    picture = noise(*shape)
    if bits == 8:
        Image.fromarray(picture).save(path, "PPM")
    else:
        deep = 256 * picture.astype(int) + noise(*shape, seed=1)
        picture = np.uint8((deep + 128) // 257)
        if len(shape) == 2:
            Image.fromarray(np.uint16(deep)).save(path, "PPM")
        else:  # Pillow reads such files, but doesn't write them
            path.write_bytes(b"P6 %d %d 65535 " % (shape[1], shape[0]) + deep.astype(">u2").tobytes())
            assert np.array_equal(Image.open(path), picture)
    assert np.array_equal(program.read_picture(path), picture)


# -------------------------------------------------------------------- files to write


@pytest.mark.parametrize("shape", SHAPES)
def test_pillow_reads_what_is_written(program, tmp_path, shape):
    picture = noise(*shape)
    for content, kind in ((program.netpbm(picture), "PPM"), (program.png(picture), "PNG")):
        Image.open(io.BytesIO(content)).verify()  # the checksums of a PNG file
        with Image.open(io.BytesIO(content)) as image:
            assert (image.format, image.mode, image.size) == (kind, "RGB" if shape[2:] else "L", shape[1::-1])
            assert np.array_equal(image, picture)
    assert content.endswith(b"\0\0\0\0IEND\xaeB`\x82")  # as in every PNG file
    assert len(program.png(np.zeros((256, 256), np.uint8))) < 1000  # and they are compressed
    (tmp_path / "picture").write_bytes(program.netpbm(picture))
    assert np.array_equal(program.read_picture(tmp_path / "picture"), picture)


def test_a_view_is_written_as_it_looks(program):
    whole = np.arange(24, dtype=np.uint8).reshape(4, 6)
    assert program.netpbm(whole[:2, :2]) == b"P5\n2 2\n255\n\x00\x01\x06\x07"
    assert program.netpbm(whole.T)[:14] == b"P5\n4 6\n255\n\x00\x06\x0c"


# ----------------------------------------------------------------------------- patches


def levels(program, pictures, width, height):
    """The plain patches of pictures, in levels."""
    targets, gain = program.cut(pictures, width, height)
    assert targets.dtype == np.float32 and targets.min() >= 0 and targets.max() <= 1 and gain == 1.0
    return np.uint8(np.rint(255 * targets))


def test_cut_by_hand(program):
    """Five pixels wide, three high, in patches of 2 x 2: the last column and row are repeated."""
    picture = np.arange(15, dtype=np.uint8).reshape(3, 5)
    patches = [[0, 1, 5, 6], [2, 3, 7, 8], [4, 4, 9, 9], [10, 11, 10, 11], [12, 13, 12, 13], [14, 14, 14, 14]]
    assert levels(program, [picture], 2, 2).tolist() == patches
    assert levels(program, (picture, picture[:1, :1]), 2, 2).tolist() == [*patches, [0] * 4]
    assert levels(program, [picture[:2, :4]], 4, 1).tolist() == [[0, 1, 2, 3], [5, 6, 7, 8]]  # the width comes first

    colours = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    assert levels(program, [colours], 2, 1).tolist() == [
        [0, 1, 2, 3, 4, 5], [6, 7, 8, 6, 7, 8], [9, 10, 11, 12, 13, 14], [15, 16, 17, 15, 16, 17],
    ]  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), min_size=1, max_size=4), colour=st.booleans(),
    width=st.integers(1, 9), height=st.integers(1, 7), seed=st.integers(0, 2**32),
)  # fmt: skip
def test_join_puts_together_what_cut_took_apart(program, shapes, colour, width, height, seed):
    pictures = [noise(*shape, *[3] * colour, seed=seed) for shape in shapes]
    patches = levels(program, pictures, width, height)
    count = sum(-(-tall // height) * -(-wide // width) for tall, wide in shapes)
    assert patches.shape == (count, width * height * (3 if colour else 1))
    joined = program.join(patches, [picture.shape for picture in pictures], width, height)
    assert len(joined) == len(pictures) and all(map(np.array_equal, joined, pictures))


GREY, COLOUR = noise(4, 4), noise(4, 4, 3)


@pytest.mark.parametrize(
    "pictures",
    [
        GREY, [GREY / 255], [GREY.astype(int)], [GREY, COLOUR], [noise(4, 4, 4)], [noise(4, 4, 1)], [GREY[0]],
        [GREY[:0]], [], None, [GREY.tolist()], ["cat.pgm"], "cat.pgm",
    ],
    ids="array floats ints mixed RGBA one-channel row empty none None lists name string".split(),
)  # fmt: skip
def test_cut_refuses_what_is_no_list_of_pictures_of_one_kind(program, pictures):
    with pytest.raises(ValueError, match="pictures have to be"):
        program.cut(pictures, 2, 2)


@pytest.mark.parametrize("size", [8.9, 8.0, np.float64(8), True, 0, -8, "8", None, float("nan"), 10**400])
def test_cut_refuses_sides_that_are_no_whole_numbers(program, size):
    for name, sides in (("width", (size, 8)), ("height", (8, size))):
        with pytest.raises(ValueError, match=rf"\A{name}: has to be a whole number from 1 to .*\Z"):
            program.cut([GREY], *sides)


# ---------------------------------------------------------------------- lapped patches


def of_few_levels(share):
    """A picture in which eight levels make up this share, and 100 others the rest."""
    few = round(10_000 * share)
    samples = np.concatenate([np.arange(few) % 8, 100 + np.arange(10_000 - few) % 100])
    return np.uint8(np.random.default_rng(0).permutation(samples).reshape(100, 100))


@pytest.mark.parametrize(
    "lapped, pictures, width, height",
    [
        (True, [noise(40, 40)], 8, 8),
        (True, [noise(40, 40, 3)], 20, 12),
        (False, [noise(40, 40)], 7, 8),  # no room
        (False, [noise(40, 40)], 8, 7),
        (True, [noise(40, 40)], 8, 40),  # neighbours on one side only
        (False, [noise(40, 40)], 40, 40),  # alone
        (False, [noise(40, 40), noise(3, 50)], 50, 50),
        (True, [noise(40, 40), noise(30, 50)], 40, 40),
        (True, [of_few_levels(0.6)], 8, 8),
        (False, [of_few_levels(0.8)], 8, 8),  # a drawing
        (False, [noise(2, 2), of_few_levels(0.8)], 8, 8),  # all pictures count together
        (True, [of_few_levels(1), noise(200, 200)], 8, 8),
    ],
)
def test_patches_are_lapped_if_they_have_room_and_neighbours_and_many_levels(program, lapped, pictures, width, height):
    targets, gain = program.cut(pictures, width, height)
    assert gain > 1.05 if lapped else gain == 1.0
    assert targets.dtype == np.float32 and targets.min() >= 0 and targets.max() <= 1
    joined = program.join(targets, [picture.shape for picture in pictures], width, height)
    assert lapped != all(map(np.array_equal, pictures, [np.uint8(np.rint(255 * picture)) for picture in joined]))


def lapped_by_hand(program, picture, width, height):
    """What `cut` takes apart, before it is clipped: all borders that have four pixels on both sides, first the upright ones."""
    values = picture / 255
    for size in (width, height):
        values = values.swapaxes(0, 1)
        for border in range(size, len(values) - 3, size):
            left, right = values[border - 4 : border][::-1].copy(), values[border : border + 4].copy()
            differences = np.tensordot(program.LAPPING, right - left, 1)
            values[border - 4 : border] = ((left + right - differences) / 2)[::-1]
            values[border : border + 4] = (left + right + differences) / 2
    return (values - 0.5) / 1.75 + 0.5


def test_lapped_patches_by_hand(program):
    """Some borders have three pixels behind them, some four; dark patches next to bright ones leave samples to be clipped."""
    np.testing.assert_allclose(program.LAPPING @ program.LAPPING.T, 1.2**2 * np.eye(4), atol=0.01)  # a rotation, enlarged
    lowest, highest = 1, 0
    for shape in [(30, 41), (35, 36, 3), (27, 20), (28, 19), (9, 100)]:
        y, x = np.indices(shape)[:2]
        picture = noise(*shape) % 56 + np.uint8(200 * ((x // 16 + y // 8) % 2))
        expected = lapped_by_hand(program, picture, 16, 8)
        targets, gain = program.cut([picture], 16, 8)
        np.testing.assert_allclose(program.join(targets, [shape], 16, 8)[0], np.clip(expected, 0, 1), atol=1e-6)
        assert gain > 1
        lowest, highest = min(lowest, expected.min()), max(highest, expected.max())
    assert lowest < 0 and highest > 1


@settings(max_examples=60, deadline=None)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), max_size=3), colour=st.booleans(),
    width=st.integers(8, 20), height=st.integers(8, 20), seed=st.integers(0, 2**32),
)  # fmt: skip
def test_lapped_pictures_come_back_from_their_logits(program, shapes, colour, width, height, seed):
    pictures = [96 + noise(*shape, *[3] * colour, seed=seed) // 4 for shape in [(30, 30), *shapes]]
    targets, gain = program.cut(pictures, width, height)
    assert gain > 1 and 0 < targets.min() and targets.max() < 1
    logits = np.log(targets / (1 - np.float64(targets)))
    assembled = program.assemble(logits, [picture.shape for picture in pictures], width, height, True)
    assert len(assembled) == len(pictures) and all(map(np.array_equal, map(program.to_levels, assembled), pictures))


# ------------------------------------------------------------------ the picture to compare


@pytest.mark.parametrize("channels", [(), (3,)])
def test_the_comparison_shows_originals_decoded_and_eight_times_the_difference(program, channels):
    shapes = [(5, 4), (3, 6), (1, 1)]
    pictures = [noise(*shape, *channels) for shape in shapes]
    decoded = [np.uint8(np.clip(picture + np.int64(noise(*picture.shape) % 90) - 45, 0, 255)) for picture in pictures]
    expected = np.full((3 * (5 + 2), 4 + 6 + 1 + 3 * 2, *channels), 128)
    left = 0
    for (tall, wide), picture, output in zip(shapes, pictures, decoded):
        difference = np.minimum(abs(picture.astype(float) - output) * 8, 255)
        for row, cell in enumerate((picture, output, difference)):
            expected[7 * row : 7 * row + tall, left : left + wide] = cell
        left += wide + 2
    sheet = program.comparison(pictures, decoded)
    assert np.array_equal(sheet, expected) and sheet.dtype == np.uint8

    # If all is exact, there are no differences to show; if one picture isn't, they are shown of all.
    exact = program.comparison(pictures, [picture.copy() for picture in pictures])
    assert np.array_equal(exact, np.vstack([expected[:7], expected[:7]]))
    sheet = program.comparison(pictures, [pictures[0], decoded[1], pictures[2]])
    assert np.array_equal(sheet[14:, 6:14], expected[14:, 6:14]) and not sheet[14:19, :4].any()


@pytest.mark.parametrize("shapes", [[(30_000, 1), (1, 30_000)], [(900, 700)], [(9, 1200, 3), (8, 1201, 3)]])
def test_a_large_comparison_is_scaled_down(program, shapes):
    pictures = [noise(*shape) for shape in shapes]
    sheet = program.comparison(pictures, [255 - picture for picture in pictures])
    assert 1000 < max(sheet.shape[:2]) < 2100
    # Of every so many pixels one is shown, from the top left.
    corner = sheet[: len(sheet) // 3 - 2, : -(-shapes[0][1] // 2)]
    assert any(np.array_equal(pictures[0][::n, ::n][: len(corner)], corner[:, : -(-shapes[0][1] // n)]) for n in range(2, 50))
