"""The compressed file: what it holds, how small it is, how good, and what becomes of damaged ones.

The reference is a decoder in plain Python and float64 NumPy, written from what the program says about its file.
"""

import lzma
import signal
import struct
import tracemalloc
from collections import defaultdict
from itertools import accumulate
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import photograph
from pictures import psnr, sheet
from scipy.fft import idctn

# ------------------------------------------------------------------------- decoder by hand


class RangeDecoder:
    """Bits, then whole numbers, of a stream: the place in it is a number between low and high."""

    def __init__(self, stream):
        self.stream = iter(stream)
        self.low, self.high, self.value = 0, 2**32 - 1, 0
        for _ in range(4):
            self.value = 256 * self.value + next(self.stream, 0)

    def bit(self, entry):
        """A bit, and learn from it; an entry of the chances is [chance of a 1 in 65536ths, times used]."""
        chance, used = entry
        middle = self.low + (self.high - self.low) * chance // 65536
        bit = self.value <= middle
        if bit:
            self.high = middle
        else:
            self.low = middle + 1
        step = (65536 - chance if bit else chance) // (used + 2)
        entry[:] = min(max(chance + step if bit else chance - step, 64), 65472), min(used + 1, 127)
        while self.low // 2**24 == self.high // 2**24:
            self.low, self.high = self.low % 2**24 * 256, self.high % 2**24 * 256 + 255
            self.value = self.value % 2**24 * 256 + next(self.stream, 0)
        return bit

    def planes(self, chances, count, rows, columns):
        """Whole numbers, (count, rows, columns)."""
        told = [self.bit(chances["difference", min(k, 11)]) for k in range(count)]
        planes = np.zeros((count, rows + 1, columns + 2), int).tolist()  # with zeros around
        for y in range(1, rows + 1):
            for x in range(1, columns + 1):
                before = 0
                for k, plane in enumerate(planes):
                    left, above, corner, right = plane[y][x - 1], plane[y - 1][x], plane[y - 1][x - 1], plane[y - 1][x + 1]
                    base = 0
                    if told[k]:
                        base = left + above if 1 in (x, y) else sorted((left, above, left + above - corner))[1]
                    # What lies outside the plane has no size.
                    sizes = [2 * abs(left - base) * (x > 1), 2 * abs(above - base) * (y > 1),
                             abs(corner - base) * (x > 1 < y), abs(right - base) * (y > 1 and x < columns)]  # fmt: skip
                    around = min((3 * before + sum(sizes)).bit_length(), 12)
                    length = 0
                    while length < 31 and self.bit(chances["length", min(k, 11), around, length]):
                        length += 1
                    size = min(length, 1)
                    for digit in reversed(range(length - 1)):
                        size = 2 * size + self.bit(chances["digit", length, digit])
                    before = (before + 2 * size + 1) // 2
                    plane[y][x] = base + (-size if size and self.bit(chances["sign", min(k, 11)]) else size)
        return np.array(planes, int).reshape(count, rows + 1, columns + 2)[:, 1:, 1:-1]


def read(content):
    """What a file holds, by name."""
    if content[0] == 1:
        whole = b"\x5d\0\0\x80\0" + 8 * b"\xff" + content[1:]  # as a .lzma file, with 8 MB of memory
        differences = lzma.LZMADecompressor(lzma.FORMAT_ALONE).decompress(whole)
        sums = accumulate(n for (n,) in struct.iter_unpack("<h", differences))
        numbers = ((n + 2**15) % 2**16 - 2**15 for n in sums)

        def take(group, *shape):
            return np.array([next(numbers) for _ in range(np.prod(shape))], int).reshape(shape)

    else:
        decoder, chances = RangeDecoder(content[1:]), [defaultdict(lambda: [32768, 0]) for _ in range(3)]

        def take(group, *shape):
            return decoder.planes(chances[group], *shape)

    version, channels, width, height, exponent, components, pictures = take(0, 1, 1, 7).ravel().tolist()
    assert version == 1
    shapes = take(0, 2, pictures, 1)[..., 0].T.tolist()
    grids = [(-(-tall // height), -(-wide // width)) for tall, wide in shapes]
    whole = set(grids) == {(1, 1)}
    grids = [(pictures, 1)] if whole else grids
    reach = min(4, width // 2, height // 2)
    correction = take(0, 1, reach, reach)[0]
    codes = np.hstack([take(1, components, *grid).reshape(components, grid[0] * grid[1]) for grid in grids])
    parts = components if components == codes.shape[1] else 1  # then the weights of each component are told on their own
    weights = [take(2, channels * components // parts, height, width) for _ in range(parts)]
    weights = np.hstack([part.reshape(channels, components // parts, height, width) for part in weights])
    return SimpleNamespace(channels=channels, width=width, height=height, exponent=exponent, shapes=shapes, whole=whole,
                           correction=correction, codes=codes, weights=weights)  # fmt: skip


def decoded_by_hand(file):
    """The pictures of what `read` returns."""
    weights = file.weights.astype(float)
    if not file.whole:
        weights = idctn(weights, axes=(2, 3), norm="ortho")
        if file.channels == 3:
            light, warm, green = weights / np.sqrt([3, 2, 6])[:, None, None, None]
            weights = np.stack([light + warm + green, light - 2 * green, light - warm + green])
    patches = []
    for numbers in zip(*file.codes.tolist()) if len(file.codes) else [()] * file.codes.shape[1]:
        logits = np.zeros((file.channels, file.height, file.width))
        for k, number in enumerate(numbers):
            logits += number / max(np.sqrt(np.sum(file.codes[k] ** 2.0)), 1) * weights[:, k]
        patches.append(1 / (1 + np.exp(-np.clip(2 ** (file.exponent / 64) * logits, -700, 700))))

    pictures = []
    for tall, wide in file.shapes:
        picture = np.zeros((file.channels, tall + file.height, wide + file.width))
        for top in range(0, tall, file.height):
            for left in range(0, wide, file.width):
                picture[:, top : top + file.height, left : left + file.width] = patches.pop(0)
        picture = picture[:, :tall, :wide]
        for size, axis in ((file.width, 2), (file.height, 1)):
            lines = np.moveaxis(picture, axis, 0)
            for border in range(size, len(lines) - len(file.correction) + 1, size):  # a border too near the edge stays
                differences = [lines[border + j] - lines[border - 1 - j] for j in range(len(file.correction))]
                for i, row in enumerate(file.correction / 64):
                    move = sum((c * d for c, d in zip(row, differences)), np.zeros(lines.shape[1:]))
                    lines[border - 1 - i] += move
                    lines[border + i] -= move
        levels = np.uint8(np.clip(np.floor(255 * picture + 0.5 + 1e-9), 0, 255))
        pictures.append(levels[0] if file.channels == 1 else np.moveaxis(levels, 0, 2))
    assert not patches
    return pictures


def learn(program, pictures, width, height, latent_dim, epochs=100):
    targets = program.cut(pictures, width, height)
    return program.train(targets, *program.start(targets, latent_dim, 0), epochs)[:2]


def press(program, pictures, width, height, latent_dim, target=None, epochs=100):
    """Train and compress: the bytes of the file."""
    return program.compress(pictures, *learn(program, pictures, width, height, latent_dim, epochs), width, height, target)


def patterns(program, size=256):
    return [program.draw(name, size, size) for name in program.PATTERNS]


def views(*shapes):
    """A photograph for each shape, every other upside down."""
    return [photograph(*shape)[:: (-1) ** n] for n, shape in enumerate(shapes)]


def glyph_page():
    """16 x 16 glyphs, drawn from 40 of 8 x 8 random black and white pixels."""
    random = np.random.default_rng(0)
    glyphs = 255 * random.integers(0, 2, (40, 8, 8)).astype(np.uint8)
    return sheet(glyphs[random.integers(0, 40, 256)], 16)


FLAT = [np.full((20, 30), 128, np.uint8)] * 2
REPEATED = [255 * (np.indices((64, 64)) * n // 64 % 2).max(axis=0).astype(np.uint8) for n in (6, 9, 16)]
CASES = [  # pictures, width, height, latent_dim, target; what the file has to be like
    (REPEATED, 64, 64, 16, None, "LZMA whole own"),
    (views((20, 30), (20, 30), (20, 30), (20, 30), (12, 25)), 30, 20, 3, 30.0, "whole"),
    (views((20, 30), (20, 30)), 30, 20, 3, 35.0, "whole own"),
    (views((12, 15, 3), (9, 15, 3), (12, 15, 3), (12, 15, 3)), 15, 12, 2, 30.0, "whole"),
    (views((45, 60)), 8, 8, 12, 33.0, "smooth"),
    (views((45, 60)), 8, 5, 12, 30.0, "smooth"),
    (views((45, 61)), 3, 8, 12, 30.0, "smooth"),
    (views((24, 31)), 8, 8, 12, 40.0, "smooth own"),
    (views((20, 30)), 1, 1, 3, 30.0, ""),
    (views((20, 30)), 3, 1, 3, 34.0, ""),
    (views((20, 30)), 2, 3, 3, 33.0, "smooth"),
    (views((45, 60, 3)), 8, 8, 12, 33.0, "smooth"),
    (views((8, 24, 3)), 8, 8, 12, 40.0, "smooth own"),
    (views((33, 50), (7, 90), (50, 9), (26, 26)), 8, 6, 5, 33.0, "smooth"),
    (FLAT, 8, 8, 3, None, "flat"),
    (FLAT, 30, 20, 3, None, "whole flat"),
    ([np.full((1100, 1000), 128, np.uint8)], 100, 100, 1, None, "flat"),  # so large that zeros follow
]


@pytest.mark.parametrize("pictures, width, height, latent_dim, target, words", CASES)
def test_a_file_decodes_as_the_program_says(program, pictures, width, height, latent_dim, target, words):
    content = press(program, pictures, width, height, latent_dim, target)
    file, decoded = read(content), program.decompress(content)
    assert all(map(np.array_equal, decoded, decoded_by_hand(file)))
    assert [(d.dtype, d.shape) for d in decoded] == [(np.uint8, p.shape) for p in pictures]
    assert psnr(pictures, decoded) >= (target or 20)
    components, patches = file.codes.shape  # "own": each patch can have a component of its own
    seen = {"LZMA": content[0] == 1, "whole": file.whole, "smooth": file.correction.any(), "own": components == patches,
            "flat": components == 0}  # fmt: skip
    assert words.split() == [word for word, true in seen.items() if true]


def written(*numbers):
    """A file of these numbers, by LZMA."""
    steps = [(b - a + 2**15) % 2**16 - 2**15 for a, b in zip((0, *numbers), numbers)]
    return b"\1" + lzma.compress(struct.pack(f"<{len(steps)}h", *steps), lzma.FORMAT_ALONE, preset=6)[13:]


def test_a_whole_picture_on_paper(program):
    """1, 3 x 1 pixels, a step of 2, 1 component, 1 picture of 1 x 3; the number of the code is divided by its length."""
    (picture,) = program.decompress(written(1, 1, 3, 1, 64, 1, 1, 1, 3, -5, 0, 1, -1))
    assert picture.tolist() == [[128, 30, 225]]  # sigmoid(2) is 0.8808


def test_opponent_colours_on_paper(program):
    """2 patches of 1 x 1 pixels; their only component is red minus blue."""
    (picture,) = program.decompress(written(1, 3, 1, 1, 0, 1, 1, 1, 2, 5, -5, 0, 500, 0))
    assert picture.tolist() == [[[255, 128, 0], [0, 128, 255]]]


def test_smoothing_on_paper(program):
    """Two rows of patches of 4 x 4, white and black in turns, and the correction (16, 4; 8, 32) / 64."""
    # The only weight is that of the cosine with the signs + - - +, so a row of a patch is 1 0 0 1, or 0 1 1 0. The last
    # column is 1 pixel wide: its border stays as it is.
    head = 1, 1, 4, 4, 0, 1, 1, 8, 9, 16, 4, 8, 32
    (picture,) = program.decompress(written(*head, 7, -7, 7, -7, 7, -7, 0, 0, 1000, *13 * [0]))
    # Columns: from the border outwards, right minus left is -1 and 1, so left moves by -16/64 + 4/64 and -8/64 + 32/64.
    row = np.array([1, 0, 0.375, 0.8125, 0.1875, 0.625, 1, 0, 1])
    # Rows: below minus above is 1 - 2 row, so above moves by 20/64 and 40/64 of that.
    above = [row, row, row + 0.625 * (1 - 2 * row), row + 0.3125 * (1 - 2 * row)]
    expected = np.array([*above, *[1 - line for line in above[::-1]]])
    np.testing.assert_array_equal(picture, np.rint(255 * expected))


def test_smoothing_lowers_the_error_of_photographs_and_is_left_out_where_patches_do_not_go_on_next_door(program):
    for picture in (photograph(90, 120), photograph(90, 120, 3)):
        file = read(press(program, [picture], 8, 8, 12, 33.0))
        smooth = psnr([picture], decoded_by_hand(file))
        file.correction[:] = 0
        assert psnr([picture], decoded_by_hand(file)) < smooth - 0.15

    exact = photograph(24, 24)
    for picture, latent_dim, epochs in ((glyph_page(), 16, 300), (exact, 9, 1000)):
        content = press(program, [picture], 8, 8, latent_dim, None, epochs)
        assert not read(content).correction.any()
    assert np.array_equal(program.decompress(content)[0], exact)


# ---------------------------------------------------------------------- quality and bytes


def reached(program, pictures, codes, decoder, width, height):
    """PSNR of what was learned, as pictures of 8 bits."""
    levels = np.floor(255 / (1 + np.exp(-(codes.astype(float) @ decoder))) + 0.5)
    return psnr(pictures, program.join(levels, [picture.shape for picture in pictures], width, height))


@pytest.mark.parametrize("shape", [(180, 240), (180, 240, 3)])
def test_target_psnr_is_reached_by_at_most_a_little_more(program, shape):
    picture = photograph(*shape)
    model, sizes = learn(program, [picture], 8, 8, 24), []
    for target in (32, 34, 36):
        content = program.compress([picture], *model, 8, 8, target)
        assert target <= psnr([picture], program.decompress(content)) < target + 0.5
        sizes.append(len(content))
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1] / 2


def test_a_target_above_what_few_epochs_have_learned_is_reached_by_rounding(program):
    picture = photograph(90, 120)
    targets = program.cut([picture], 8, 8)
    codes, decoder, losses = program.train(targets, *program.start(targets, 24, 0), 3)
    assert -10 * np.log10(losses[-1]) < 30
    assert psnr([picture], program.decompress(program.compress([picture], codes, decoder, 8, 8, 32))) >= 32


def test_what_training_reached_is_kept_to_0_05_db_and_a_target_just_below_is_reached(program):
    picture = photograph(90, 120)
    model = learn(program, [picture], 8, 8, 6)
    best = reached(program, [picture], *model, 8, 8)
    for target in (None, 100):
        content = program.compress([picture], *model, 8, 8, target)
        assert psnr([picture], program.decompress(content)) > best - 0.05
    content = program.compress([picture], *model, 8, 8, best - 0.001)
    assert psnr([picture], program.decompress(content)) >= best - 0.001


@pytest.mark.parametrize("latent_dim", [2, 3])
def test_exact_pictures_stay_exact_even_if_they_differ_in_one_pixel_by_one_level(program, latent_dim):
    pictures = [photograph(40, 50) for _ in range(2)]
    pictures[1][3, 7] ^= 1
    content = press(program, pictures, 50, 40, latent_dim, None, 1000)
    assert all(map(np.array_equal, program.decompress(content), pictures))


@pytest.mark.parametrize("target", [None, 60])
def test_an_exact_picture_stays_exact_beside_one_that_was_not_learned(program, target):
    pictures = list(np.random.default_rng(0).integers(0, 256, (2, 32, 32)).astype(np.uint8))
    share = np.clip(pictures[0].ravel() / 255, 0.0005, 0.9995)
    codes, decoder = np.float32([[1, 0, 1], [0, 1, 1]]), np.zeros((3, 1024), np.float32)
    decoder[0] = np.log(share / (1 - share))
    decoded = program.decompress(program.compress(pictures, codes, decoder, 32, 32, target))
    assert np.array_equal(decoded[0], pictures[0]) and not np.array_equal(decoded[1], pictures[1])


DARK = (np.indices((60, 70)).sum(axis=0) % 4).astype(np.uint8)
NOISE = np.random.default_rng(0).integers(0, 2, (64, 96)).astype(np.uint8) * 255


FOG = np.uint8(127.5 + np.sin(np.indices((64, 64)).sum(axis=0) / 9) + np.random.default_rng(0).normal(0, 0.4, (64, 64)))
EXTREMES = [(DARK, 100, 4), (255 - DARK, 100, 4), (NOISE, 32, 2), (NOISE, 8, 3), (FOG, 4, 4)]


@pytest.mark.parametrize("picture, side, latent_dim", EXTREMES)
def test_black_and_white_and_fog_keep_what_training_reached(program, capsys, picture, side, latent_dim):
    """Where the sigmoid is flat, numbers chosen by cost could get lost, or the search take ages; in fog, coarse steps leave nothing."""
    model = learn(program, [picture], side, side, latent_dim)
    best = reached(program, [picture], *model, side, side)
    for target in (40.0, None):
        decoded = program.decompress(program.compress([picture], *model, side, side, target))
        assert psnr([picture], decoded) > min(best - 0.05, target or np.inf) - 1e-9
    assert capsys.readouterr().out.count("rounding step") < 50


def test_a_white_picture_costs_next_to_nothing(program):
    y, x = np.mgrid[:40, :50]
    smooth = [np.uint8(127 + 60 * np.sin(x / (5 + n) + n) + 50 * np.cos(y / (9 - n / 2) + n)) for n in range(10)]
    white = np.full((40, 50), 255, np.uint8)
    for width, height, latent_dim in ((50, 40, 16), (8, 8, 4)):
        alone = press(program, smooth, width, height, latent_dim, None, 300)
        content = press(program, [*smooth, white], width, height, latent_dim, None, 300)
        assert np.array_equal(program.decompress(content)[-1], white) and len(content) < 1.05 * len(alone)

    page = glyph_page()
    content = press(program, [page, np.full_like(page, 255)], 8, 8, 16, 23.0, 300)
    assert len(content) <= 2600 and psnr([page], program.decompress(content)[:1]) > 19.9


def test_files_are_as_small_as_they_were(program):
    """Bounds are what was measured, and 3 %."""
    pictures = patterns(program)
    content = press(program, pictures, 256, 256, 16, None, 1000)
    assert len(content) <= 7120 and all(map(np.array_equal, program.decompress(content), pictures))

    grey = photograph(180, 240)
    for target, most in ((32.0, 366), (34.0, 537), (36.0, 1432)):
        content = press(program, [grey], 8, 8, 24, target)
        equal = press(program, [np.stack(3 * [grey], axis=-1)], 8, 8, 24, target)
        assert len(content) <= 1.03 * most and len(equal) <= 1.02 * len(content) + 40  # two more channels of weights
    for shape, target, most in (((180, 240, 3), 34.0, 644), ((180, 240), None, 5904)):
        assert len(press(program, [photograph(*shape)], 8, 8, 24, target)) <= 1.03 * most
    assert len(press(program, FLAT, 8, 8, 3)) <= 15


def step_cases(count, seed=0):
    """Random pictures, patches, codes and targets."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        shape = (*random.integers(20, 70, 2), *[3] * (random.random() < 0.3))
        picture = photograph(*shape)
        if random.random() < 0.4:
            picture = np.uint8(np.clip(picture + random.normal(0, 25, shape), 0, 255))
        pictures = [picture, picture[::-1], picture[:, ::-1]][: random.integers(1, 4)]
        width, height = random.integers(2, 12, 2) if random.random() < 0.8 else shape[1::-1]
        latent_dim, target = random.integers(1, 16), random.integers(20, 40)
        yield pictures, int(width), int(height), int(latent_dim), int(target)


def test_a_file_that_reaches_more_is_not_smaller(program):
    """Together: targets just above find other steps, and what they find would do for the target too."""
    chosen = least = 0
    for pictures, width, height, latent_dim, target in step_cases(6):
        model = learn(program, pictures, width, height, latent_dim, 60)
        sizes = [len(program.compress(pictures, *model, width, height, target + more / 10)) for more in range(4)]
        chosen += sizes[0]
        least += min(sizes)
    assert chosen <= 1.01 * least


# --------------------------------------------------------------------- Ctrl-C, damaged files


@pytest.fixture
def ctrl_c_heard():
    """Ctrl-C isn't ignored, as it is in the jobs of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_ends_the_search_as_soon_as_a_file_reaches_the_target(program, monkeypatch, ctrl_c_heard):
    picture = photograph(90, 120)
    model = learn(program, [picture], 8, 8, 12)
    pressed_early, never_pressed = [], []
    for target in (31, 33, 35, None):
        least = target or reached(program, [picture], *model, 8, 8) - 0.05
        for pressed in (10**9, 1, 2, 3):
            lines = []

            def say(line):
                lines.append(line)
                if len(lines) == pressed:
                    signal.raise_signal(signal.SIGINT)

            monkeypatch.setattr(program, "say", say)
            content = program.compress([picture], *model, 8, 8, target)
            assert psnr([picture], program.decompress(content)) >= least
            (never_pressed if pressed == 10**9 else pressed_early).append(len(lines))
    assert max(pressed_early) <= max(never_pressed) and sum(pressed_early) < 3 * sum(never_pressed)


def test_a_repetitive_file_of_many_small_pictures_is_not_refused(program):
    """As many components as patches and samples: by LZMA it unpacks to a little more than four bytes per sample."""
    count, shapes = 1296, np.full((1296, 2), 36)
    numbers = np.eye(count, dtype=int), np.full((count, count), -8)
    content = program.pack(program.Record(1, 36, 36, 0, shapes, np.zeros((4, 4), int), *numbers))
    pictures = program.decompress(content)
    assert content[0] == 1 and len(pictures) == count and np.all(np.array(pictures) == pictures[0][0, 0])


def test_damaged_files_are_a_value_error_or_pictures_and_take_little_memory(program):
    random = np.random.default_rng(0)
    bad, halves = [], []
    for pictures, *case, _ in (CASES[0], CASES[1], CASES[5], CASES[8], CASES[11], CASES[13]):
        content = press(program, pictures, *case)
        bad += [content[:n] for n in range(min(len(content), 80))]
        halves.append(content[: len(content) // 2])
        for n in range(1, 200):
            flipped = bytearray(content)
            for place in random.integers(0, min(len(content), 30 if n % 2 else 10**6), n % 3 + 1):
                flipped[place] ^= 1 << random.integers(0, 8)
            bad.append(bytes(flipped))
    bad += [random.bytes(n % 200) for n in range(400)] + [bytes([n % 2]) + random.bytes(n % 200) for n in range(400)]

    ones = 10**6 * [1]
    refused = [
        *halves,
        b"",
        b"\2" + content[1:],  # another way of writing
        b"\1" + lzma.compress(bytes(3 * 10**7), lzma.FORMAT_ALONE)[13:],  # would fill 180 MB
        written(2, 1, 3, 1, 64, 1, 1, 1, 3, -5, 0, 1, -1),  # another version
        written(1, 2, 3, 1, 64, 1, 1, 1, 3, -5, 0, 1, -1, 0, 0, 0),  # two channels
        written(1, 1, 0, 1, 64, 1, 1, 1, 3, -5),  # patches of no width
        written(1, 1, 3, 1, 64, 1, 0),  # no pictures
        written(1, 1, 3, 1, 64, 1, 1, 0, 3, -5, 0, 1, -1),  # a picture of no height
        written(1, 1, 3, 1, 64, -1, 1, 1, 3, 0, 0, 0),  # fewer components than none
        written(1, 1, 3, 1, 64, 2, 1, 1, 3, *12 * [0]),  # more components than patches
        written(1, 1, 3, 1, 9999, 1, 1, 1, 3, -5, 0, 1, -1),  # a step far from all
        written(1, 1, 3, 1, 64, 1, 1, 1, 3, -5, 0, 1),  # a number is missing
        written(1, 1, 1, 1, 0, 1, 1, 6000, 6000, *ones),  # too large a picture
        written(1, 1, 6000, 6000, 0, 1, 1, 1, 1, *ones),  # too large a patch
        written(1, 1, 1, 1, 0, 1, 1000, *1000 * [1], *1000 * [32767], *ones),  # too many long pictures
        written(1, 1, 9, 9, 0, 81, 3000, *6000 * [99], *ones),
    ]
    greedy = [
        written(1, 1, 32, 31, 0, 500, 1, 1000, 1024, *16 * [9], *(33 * 32 * 500) * [1], *(31 * 32 * 500) * [3]),
        written(1, 3, 18, 18, 0, 900, 1, 580, 580, *16 * [9], *(33 * 33 * 900) * [1], *(18 * 18 * 3 * 900) * [3]),
        written(1, 1, 1, 6000, 0, 1, 1, 1, 30, *30 * [1], *6000 * [3]),  # long patches
    ]
    tracemalloc.start()
    try:
        for content in bad + refused + greedy:
            try:
                pictures = program.decompress(content)
            except ValueError as error:
                assert str(error) and "\n" not in str(error)
            else:
                assert content not in refused and {picture.dtype for picture in pictures} == {np.dtype(np.uint8)}
            assert tracemalloc.get_traced_memory()[1] < 100e6, content[:100]
    finally:
        tracemalloc.stop()
