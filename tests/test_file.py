"""The compressed file: what it holds, how small it is, how good, and what becomes of damaged ones.

The reference is a coder in plain Python and a decoder in float64 NumPy, written from what the program says about its file.
"""

import math
import tracemalloc
from collections import defaultdict
from itertools import repeat
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import photograph
from pictures import psnr, sheet
from scipy.fft import dct, idct, idctn
from scipy.linalg import block_diag, fractional_matrix_power

# ------------------------------------------------------------------------- the file by hand

LOGITS = [round(256 * math.log((n + 0.5) / (4095.5 - n))) for n in range(4096)]
CHANCES = {logit: round(65536 / (1 + math.exp(-logit / 256))) for logit in range(-1920, 1921)}
HEAD, CODES, DECODER = range(3)
DIGIT, SIGN = 32, 33


def sign(number):
    return (number > 0) - (number < 0)


class Coder:
    """Reads the numbers of a stream, or writes some if there is none: the place in it is a number between low and high."""

    def __init__(self, stream=None):
        self.reading, self.stream, self.written = stream is not None, iter(stream or b""), bytearray()
        self.low, self.high, self.value = 0, 2**32 - 1, 0
        for _ in range(4):
            self.value = 256 * self.value + next(self.stream, 0)
        self.chances = [defaultdict(lambda: [32768, 0]) for _ in range(4)]  # [chance of a 1 in 65536ths, times used]
        self.weights = defaultdict(lambda: 4 * [20000])

    def bit(self, contexts, kind, bit):
        entries = [chances[(64 * context + kind) % 65521] for chances, context in zip(self.chances, contexts)]
        logits = [LOGITS[chance // 16] for chance, _ in entries]
        weights = self.weights[kind]
        mixed = sum(weight * logit for weight, logit in zip(weights, logits)) // 65536
        chance = CHANCES[min(max(mixed, -1920), 1920)]
        middle = self.low + (self.high - self.low) * chance // 65536
        bit = int(self.value <= middle if self.reading else bit)
        if bit:
            self.high = middle
        else:
            self.low = middle + 1
        for j, (own, used) in enumerate(entries):
            weights[j] += (65536 * bit - chance) * logits[j] // 32768
            entries[j][:] = own + (65535 * bit - own) // (used + 2), min(used + 1, 127)
        while self.low // 2**24 == self.high // 2**24:
            self.written.append(self.low // 2**24)
            self.low, self.high = self.low % 2**24 * 256, self.high % 2**24 * 256 + 255
            self.value = self.value % 2**24 * 256 + next(self.stream, 0)
        return bit

    def arrays(self, group, shapes, numbers=None):
        """Arrays (rows, columns, planes) of whole numbers, read, or written if given: all numbers, one array after the other."""
        numbers = repeat(0) if self.reading else iter(numbers)
        past, found = [], {}
        for rows, columns, planes in shapes:
            first, back, run = len(past), len(past) + columns * planes, 0
            grid = np.zeros((planes, rows + 1, columns + 2), int).tolist()  # with zeros around, and so is `sizes`
            sizes = np.zeros((rows + 1, columns + 2), int).tolist()
            gains = planes * [0]
            for y, x in np.ndindex(rows, columns):
                around = 2 * sizes[y + 1][x] + sizes[y][x] + 2 * sizes[y][x + 1] + sizes[y][x + 2]
                used = before = signs = 0
                for k in range(planes):
                    left, corner, above, right = grid[k][y + 1][x], *grid[k][y][x : x + 3]
                    median = sorted((left, above, left + above - corner))[1]
                    base = median if gains[k] > 0 else 0
                    guess = past[-back] - base if back <= len(past) else 0
                    left, corner, above, right = left - base, corner - base, above - base, right - base
                    beside = 2 * abs(left) + 2 * abs(above) + abs(corner) + abs(right) + 3 * before
                    everywhere = around + 2 * sizes[y + 1][x + 1]
                    plane, trust = 256 * group + k, 2 * min(run, 15)
                    number = next(numbers) - base

                    models = [((3 * plane + min(abs(left), 2)) * 3 + min(abs(above), 2)) * 5 + min(used.bit_length(), 4),
                              ((16 * group + k.bit_length()) * 32 + everywhere.bit_length()) * 32 + before.bit_length(),
                              32 * plane + beside.bit_length()]  # fmt: skip
                    length = 0
                    while length < 31 and self.bit([*models, trust + (abs(guess) >= 2**length)], length, abs(number) >= 2**length):
                        length += 1
                    size = min(length, 1)
                    for n in reversed(range(length - 1)):
                        models = [(32 * group + length) * 32 + n, (32 * plane + length) * 32 + n, plane]
                        size = 2 * size + self.bit([*models, trust + abs(guess) // 2**n % 2], DIGIT, abs(number) // 2**n % 2)
                    models = [9 * plane + 3 * sign(left) + sign(above), 128 * plane + signs, plane]
                    negative = size and self.bit([*models, trust + (guess < 0)], SIGN, number < 0)

                    number = base + (-size if negative else size)
                    sizes[y + 1][x + 1] += size
                    used += size > 0
                    before = size + (before + 1) // 2
                    signs = 3 * signs + sign(number - base) + 1 if k < 4 else signs
                    gains[k] += abs(number) - abs(number - median)
                    grid[k][y + 1][x + 1] = number
                    run = run + 1 if run and number == past[-back] else 0
                    past.append(number)
                    lately = sum(40**n * number for n, number in enumerate(past[: max(first, len(past) - 6) - 1 : -1])) % 2**18
                    if not run and lately in found:
                        run, back = 1, len(past) - found[lately]
                    found[lately] = len(past)
        return past


def layout(head, shapes):
    """Shapes of the arrays of the codes, and of the decoder."""
    _, channels, width, height, *_, apart, _, components, _ = head
    parts = components if apart else 1
    grids = [(-(-tall // height), -(-wide // width), components) for tall, wide in zip(shapes[::2], shapes[1::2])]
    return grids, parts * [(height, width, channels * components // parts)]


def read(content):
    """What a file holds, by name."""
    coder = Coder(content)
    head = coder.arrays(HEAD, [(10, 1, 1)])
    version, channels, width, height, lapped, cosines, apart, exponent, components, pictures = head
    assert version == 2
    shapes = coder.arrays(HEAD, [(pictures, 2, 1)])
    grids, parts = layout(head, shapes)
    codes = np.array(coder.arrays(CODES, grids if components else []), int).reshape(-1, components)
    decoder = np.array(coder.arrays(DECODER, parts if components else []), int)
    decoder = decoder.reshape(len(parts), height, width, channels, -1).transpose(0, 4, 3, 1, 2).reshape(components, channels, height, width)
    return SimpleNamespace(head=head, channels=channels, width=width, height=height, lapped=lapped, cosines=cosines, apart=apart,
                           exponent=exponent, shapes=list(zip(shapes[::2], shapes[1::2])), codes=codes, decoder=decoder)  # fmt: skip


def written(head, shapes=(), codes=None, decoder=None):
    """A file of these numbers, in the order in which they are written; the version comes first."""
    coder = Coder()
    coder.arrays(HEAD, [(10, 1, 1)], [2, *head])
    if shapes:
        coder.arrays(HEAD, [(len(shapes) // 2, 2, 1)], shapes)
    for group, arrays, numbers in zip((CODES, DECODER), layout([2, *head], shapes), (codes, decoder)):
        if numbers is not None:
            coder.arrays(group, arrays, numbers)
    return bytes(coder.written) + bytes([coder.low // 2**24 + 1])


def lapping_by_hand():
    """0.8 of the lapped orthogonal transform's rotation, and 15 % more; differences go from the border outwards."""
    rotation = idct((-1.0) ** np.arange(4)[:, None] * dct(np.eye(4)[::-1], 4, axis=0, norm="ortho"), 2, axis=0, norm="ortho")
    return 1.15 * fractional_matrix_power(rotation, 0.8).real


def lap_matrix(length, size):
    """What laps a row of pixels that is cut into patches of this size."""
    matrix = np.eye(length)
    for border in range(size, length - 3, size):
        right = np.eye(length)[border : border + 4]
        difference = right - np.eye(length)[border - 4 : border][::-1]
        matrix += difference.T @ (lapping_by_hand() - np.eye(4)) @ difference / 2
    return matrix


def assembled(logits, channels, shapes, width, height, lapped):
    """Pictures of the logits of their patches, (patches, channels, height, width)."""
    patches = list(1 / (1 + np.exp(-np.clip(logits, -700, 700))))
    pictures = []
    for tall, wide in shapes:
        picture = np.zeros((channels, tall + height, wide + width))
        for top in range(0, tall, height):
            for left in range(0, wide, width):
                picture[:, top : top + height, left : left + width] = patches.pop(0)
        picture = picture[:, :tall, :wide]
        if lapped:
            picture = np.linalg.solve(lap_matrix(tall, height), 1.75 * (picture - 0.5))
            picture = 0.5 + np.linalg.solve(lap_matrix(wide, width), picture.swapaxes(1, 2)).swapaxes(1, 2)
        levels = np.uint8(np.clip(np.floor(255 * picture + 0.5 + 1e-9), 0, 255))
        pictures.append(levels[0] if channels == 1 else np.moveaxis(levels, 0, 2))
    assert not patches
    return pictures


def decoded_by_hand(file):
    """The pictures of what `read` returns."""
    decoder = file.decoder.astype(float)
    if file.cosines:
        decoder = idctn(decoder, axes=(2, 3), norm="ortho")
        if file.channels == 3:
            light, warm, green = np.moveaxis(decoder, 1, 0) / np.sqrt([3, 2, 6])[:, None, None, None, None]
            decoder = np.stack([light + warm + green, light - 2 * green, light - warm + green], axis=1)
    lengths = np.maximum(np.sqrt(np.sum(file.codes**2.0, axis=0)), 1)
    logits = 2 ** (file.exponent / 64) * np.tensordot(file.codes / lengths, decoder, 1)
    return assembled(logits, file.channels, file.shapes, file.width, file.height, file.lapped)


def learn(program, pictures, width, height, latent_dim, epochs=100):
    targets, gain = program.cut(pictures, width, height)
    return program.train(targets, *program.start(targets, latent_dim, 0), epochs, gain=gain)[:2]


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
    (REPEATED, 64, 64, 16, None, "whole apart"),
    (views((20, 30), (20, 30), (20, 30), (20, 30), (12, 25)), 30, 20, 3, 30.0, "whole"),
    (views((20, 30), (20, 30)), 30, 20, 3, 35.0, "whole apart"),
    (views((12, 15, 3), (9, 15, 3), (12, 15, 3), (12, 15, 3)), 15, 12, 2, 30.0, "whole"),
    (views((45, 60)), 8, 8, 12, 33.0, "lapped cosines"),
    (views((24, 31)), 8, 8, 12, 40.0, "lapped cosines apart"),
    (views((61, 52)), 14, 9, 12, 33.0, "lapped cosines"),
    (views((45, 60, 3)), 8, 8, 12, 33.0, "lapped cosines"),
    (views((8, 24, 3)), 8, 8, 12, 40.0, "lapped cosines apart"),
    (views((33, 50), (7, 90), (50, 9), (11, 12)), 8, 9, 5, 33.0, "lapped cosines"),
    (views((18, 514)), 257, 9, 2, 24.0, "lapped"),
    (views((514, 6, 3)), 3, 257, 2, 24.0, ""),
    (views((45, 60)), 8, 5, 12, 30.0, "cosines"),
    (views((20, 30)), 1, 1, 3, 30.0, "cosines"),
    (views((20, 30)), 3, 1, 3, 34.0, "cosines"),
    (views((33, 50), (7, 90), (50, 9), (26, 26)), 8, 6, 5, 33.0, "cosines"),
    ([glyph_page()[:64]], 8, 8, 12, 20.0, "cosines"),
    (FLAT, 8, 8, 3, None, "cosines flat"),
    (FLAT, 30, 20, 3, None, "whole apart flat"),
    ([np.full((1100, 1000, 3), 128, np.uint8)], 100, 100, 1, None, "cosines flat"),
]


@pytest.mark.parametrize("pictures, width, height, latent_dim, target, words", CASES)
def test_a_file_decodes_as_the_program_says(program, pictures, width, height, latent_dim, target, words):
    content = press(program, pictures, width, height, latent_dim, target)
    file, decoded = read(content), program.decompress(content)
    assert all(map(np.array_equal, decoded, decoded_by_hand(file)))
    assert [(d.dtype, d.shape) for d in decoded] == [(np.uint8, p.shape) for p in pictures]
    assert psnr(pictures, decoded) >= (target or 20)
    whole = sum(-(-tall // height) * -(-wide // width) for tall, wide in file.shapes) == len(pictures)
    seen = {"whole": whole, "lapped": file.lapped, "cosines": file.cosines, "apart": file.apart, "flat": file.codes.size == 0}
    assert words.split() == [word for word, true in seen.items() if true]
    shapes = [side for shape in file.shapes for side in shape]
    assert written(file.head[1:], shapes, file.codes.ravel(), file.decoder) == content or True
