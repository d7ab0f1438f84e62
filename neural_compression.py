"""Image compression by latent-code optimisation.

Pictures are cut into patches. Each patch gets a small vector of its own, its latent code. One decoder,
shared by all patches, turns a code into the pixels of a patch: a linear map with a bias, then a sigmoid.
Training moves the decoder and the codes by gradient descent on the mean squared error.

Run this file, look at the pictures in OUTPUT_DIR, edit a constant, run it again. Ctrl-C ends training
early and keeps what was learned. From a notebook, the same in four calls:

    codes, decoder = start(targets, latent_dim, seed)
    codes, decoder, losses = train(targets, codes, decoder, epochs)
    content = compress(pictures, codes, decoder, width, height, target_psnr)
    pictures = decompress(content)

Codes and pixels are two sides of one product. A patch i has the vector (its code, 1), a pixel p of a
patch the vector (its weights, its bias); k counts the numbers of a vector.

    logit      z[i, p] = sum over k of code[i, k] weight[k, p], the last k being 1 times the bias
    output     y[i, p] = sigmoid(z) = 1 / (1 + exp(-z))
    loss               = mean over i and p of (y - target)^2
    delta      d[i, p] = (y - target) y (1 - y), which is d loss / d z but for a constant factor
    gradient of the vector of patch i:  sum over p of d[i, p] times the vector of pixel p
    gradient of the vector of pixel p:  sum over i of d[i, p] times the vector of patch i

The file on disk, compressed.npz, holds codes and decoder as whole numbers, and one rounding step:

    codes    int8 (patches, components, places): digits in base 256, from -128 to 127, the lowest first
    decoder  a record of: weights, int8 (places, components + 1, pixels), the bias in the last row;
             step, float64; patch, its height and width; shapes, height and width of each picture

Put a 1 behind each code, and divide each column of the codes by its length: then step * codes @ weights
are the logits. `decompress` does it.

What is left out: colour (three pictures do), an entropy coder of our own (zip's LZMA and bzip2 do),
prediction from neighbouring patches, and deeper decoders.
"""

import io
import itertools
import math
import os
import re
import subprocess
import sys
import time
import zlib
from contextlib import suppress
from numbers import Integral, Real
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZIP_BZIP2, ZIP_LZMA, ZipFile

# Threads that wait for work soon sleep, so that two runs at once don't take each other's cores. NumPy's
# matrix products take one thread, since their last digits depend on the number of threads.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
from numba import get_num_threads, njit, prange
from numpy import float32

WIDTH = 256  # width of a patch in pixels
HEIGHT = 256  # height of a patch in pixels
IMAGES = ("radial", "sine", "checkerboard")  # names of patterns, or of PGM files beside this program
SINE_FREQUENCY = 40  # periods of the sine pattern along each side
CHECKER_SQUARES = 16  # squares of the checkerboard pattern along each side
LATENT_DIM = 16  # numbers per code; with more than there are patches, one per patch is used
EPOCHS = 1000  # training steps, each over all pixels of all patches
LEARNING_RATE = 1.0  # how far a step goes, at most 2; 1 suits every picture that was tried
TARGET_PSNR = 100.0  # dB that the compressed file has to reach; 100 asks for all that was learned
LOG_EVERY = 10  # epochs per line of the log
SEED = 0  # seed of the random numbers that training starts from
OUTPUT_DIR = "outputs"  # folder for the results, beside this program


class Refused(Exception):
    """A mistake that the user can correct, told in one line."""


# ---------------------------------------------------------------------------------------------- learning

# tanh(x) is x P(x^2) / Q(x^2) for x from -9 to 9, as Eigen has it (generic_fast_tanh_float). The highest
# powers come first.
TANH_P = tuple(float32([-2.76076848e-16, 2.00018790e-13, -8.60467152e-11, 5.12229709e-8,
                        1.48572236e-5, 6.37261929e-4, 4.89352456e-3]))  # fmt: skip
TANH_Q = tuple(float32([1.19825839e-6, 1.18534706e-4, 2.26843463e-3, 4.89352519e-3]))
KERNEL_STAMP = [TANH_P, TANH_Q]


def kernel(function):
    """Compile a function at its first call, and keep the machine code in __pycache__.

    It is kept as long as the kernels stay the same. By itself numba compiles anew when anything in the file
    has changed, and here the constants change all the time. Where no folder can be written, or numba keeps
    its files otherwise, each run compiles.
    """
    code = function.__code__
    KERNEL_STAMP.append((code.co_code, code.co_consts, code.co_names))
    compiled = njit(function, fastmath=True, error_model="numpy", parallel="prange" in code.co_names)
    with suppress(Exception):
        compiled.enable_caching()
        file = compiled._cache._cache_file
        name = f"{__name__}.{function.__name__}.{sys.implementation.cache_tag}"
        compiled._cache._cache_file = type(file)(file._cache_path, name, KERNEL_STAMP[:])
    return compiled


def is_compiled(compiled):
    """Whether a kernel has been compiled, in this run or in an earlier one."""
    with suppress(AttributeError):
        return bool(compiled.signatures or compiled._cache._cache_file._load_index())
    return False


@kernel
def sigmoid(z):
    """1 / (1 + exp(-z)) = (1 + tanh(z / 2)) / 2 of a float32, to 3e-7, in a form that the compiler vectorises.

    Logits are limited to -18 .. 18, the range of the formula for tanh: beyond it, it would leave 0 .. 1.
    """
    x = float32(0.5) * max(float32(-18), min(float32(18), z))
    p, q = TANH_P[0], TANH_Q[0]
    for coefficient in TANH_P[1:]:
        p = p * x * x + coefficient
    for coefficient in TANH_Q[1:]:
        q = q * x * x + coefficient
    return (q + x * p) / (q + q)


@kernel
def add_product(total, factors, rows):
    """Add factors @ rows to total, float32. Two rows at a time, so that total is loaded and stored less."""
    fours = len(rows) // 4 * 4
    for k in range(0, fours, 4):
        a, b, c, d = factors[k], factors[k + 1], factors[k + 2], factors[k + 3]
        for n in range(len(total)):
            total[n] += a * rows[k, n] + b * rows[k + 1, n] + c * rows[k + 2, n] + d * rows[k + 3, n]
    for k in range(fours, len(rows)):
        for n in range(len(total)):
            total[n] += factors[k] * rows[k, n]


@kernel
def adam(vectors, gradient, mean, square, rate, share):
    """Move vectors against their gradients, in place: Adam with one second moment per vector.

    vectors, gradient  float32 (rows, count), a vector in each column
    mean               float32 (learned rows, count): running mean of the gradients; the other rows stay
    square             float32 (count): running mean of the gradients' squared lengths
    share              weight of this gradient in the running means

    So a vector moves by about `rate`, as a whole. Adam is by Kingma and Ba (2015); one second moment per
    vector takes less memory than one per number, and doesn't depend on the basis of the codes.
    """
    rows, count = mean.shape
    scale = np.zeros(count, float32)
    for k in range(rows):
        for n in range(count):
            scale[n] += gradient[k, n] * gradient[k, n]
            mean[k, n] += share * (gradient[k, n] - mean[k, n])

    for n in range(count):
        square[n] += share * (scale[n] - square[n])
        scale[n] = rate / (math.sqrt(square[n]) + float32(1e-12))

    for k in range(rows):
        for n in range(count):
            vectors[k, n] -= scale[n] * mean[k, n]


@kernel
def train_long_side(tiles, moments, short, targets, gradients, errors, rate, share):
    """One epoch for the side that has more vectors, in place. The threads share out its tiles.

    tiles      float32 (tiles, rows, size): the vectors of the longer side
    moments    mean, float32 (tiles, learned rows, size), and square, float32 (tiles, size): as in `adam`
    short      float32 (rows, count): the vectors of the shorter side
    targets    float32 (tiles, count, size)
    gradients  float32 (tiles, rows, count), out: what each tile adds to the gradient of the shorter side
    errors     float32 (tiles), out: what each tile adds to the squared error

    Nothing is returned, since Ctrl-C could hit numba's own Python code while it makes a result.
    """
    (rows, count), (mean, square) = short.shape, moments
    for tile in prange(len(tiles)):
        size = tiles.shape[2]
        vectors = tiles[tile]
        gradient = np.zeros((rows, size), float32)
        delta = np.zeros((count, size), float32)
        total = float32(0)

        # The logits come first; delta takes their place.
        for j in range(count):
            add_product(delta[j], short[:, j], vectors)
            for n in range(size):
                output = sigmoid(delta[j, n])
                error = output - targets[tile, j, n]
                delta[j, n] = error * (output - output * output)
                total += error * error

        # On either side, the gradient is the sum of delta times the other side's vectors.
        for k in range(rows):
            add_product(gradient[k], short[k], delta)
            for j in range(count):
                product = float32(0)
                for n in range(size):
                    product += delta[j, n] * vectors[k, n]
                gradients[tile, k, j] = product

        adam(vectors, gradient, mean[tile], square[tile], rate, share)
        errors[tile] = total


def tiled(array, size, fill):
    """An array (rows, count) cut into tiles, float32 (tiles, rows, size); the last one is filled up."""
    padded = np.pad(array, ((0, 0), (0, -array.shape[1] % size)), constant_values=fill)
    return np.ascontiguousarray(padded.reshape(len(array), -1, size).swapaxes(0, 1))


def start(targets, latent_dim, seed):
    """Codes, (patches, at most latent_dim), and decoder, (code numbers + 1, pixels), to start from.

    targets  (patches, pixels), from 0 to 1

    The codes are the principal components of the targets' logits, all of the same size, by subspace
    iteration: training then needs a tenth of the epochs (`tests/quality.py start`). The decoder is 0.

    With at most latent_dim patches, they have one number per patch. More would change nothing, since no
    gradient ever leaves the space of the codes. Their length of 16 outweighs the 1 of the bias.
    """
    patches = len(targets)
    numbers = min(latent_dim, patches)
    clipped = np.clip(float32(targets), 0.02, 0.98)
    logits = np.log(clipped / (1 - clipped))
    logits -= logits.mean(axis=0)
    codes = np.random.default_rng(seed).standard_normal((patches, numbers))
    for _ in range(4):
        codes, _ = np.linalg.qr(logits @ (logits.T @ float32(codes)))
    size = 16 if numbers == patches else math.sqrt(patches)
    return size * codes, np.zeros((numbers + 1, targets.shape[1]), float32)


def train(targets, codes, decoder, epochs, learning_rate=1.0, log_every=0):
    """Train codes and decoder, one step over all pixels per epoch; Ctrl-C ends it.

    targets  (patches, pixels), from 0 to 1
    codes    (patches, latent_dim), as from `start`
    decoder  (latent_dim + 1, pixels), the bias in its last row
    Returns codes and decoder, float32 of the same shapes, and the loss before each epoch. Raises
    ValueError if the shapes don't fit together.

    The rates fall to 0 along half a cosine (Loshchilov and Hutter 2017), while the running means grow
    longer, from 5 epochs to 20 (Smith and others 2018). At first a code moves by 0.15 per epoch, and the
    logits of a pixel by about 1 (`tests/quality.py choices`).
    """
    patches, pixels = targets.shape
    if len(codes) != patches or decoder.shape != (codes.shape[1] + 1, pixels):
        raise ValueError("targets, codes and decoder have to fit together")

    # Of either side: its vectors, how many of their numbers are learned (the 1 behind a code stays), its rate.
    code_length = np.linalg.norm(codes) / math.sqrt(patches)
    patch_side = np.ascontiguousarray(with_one(codes).T, float32), len(decoder) - 1, 0.15 * learning_rate
    pixel_side = np.array(decoder, float32), len(decoder), learning_rate / code_length
    sides = sorted([patch_side, pixel_side], key=lambda side: side[0].shape[1])
    (short, short_rows, short_rate), (long, long_rows, long_rate) = sides

    # What fills up the last tile has vectors of 0 and targets of 1/2: no error, so it never moves.
    size = min(192, long.shape[1])
    tiles, targets = tiled(long, size, 0), tiled(float32(targets.T if patches > pixels else targets), size, 0.5)
    moments = np.zeros((len(tiles), long_rows, size), float32), np.zeros((len(tiles), size), float32)
    short_mean, short_square = np.zeros_like(short[:short_rows]), np.zeros_like(short[0])
    gradients, errors = np.empty((len(tiles), *short.shape), float32), np.empty(len(tiles), float32)

    # The kernels are made ready on no tiles and without a step, so that no compilation is in the loop.
    train_long_side(tiles[:0], moments, short, targets, gradients, errors, float32(0), float32(0))
    adam(short, short, short_mean, short_square, float32(0), float32(0))

    losses, weight, began = [], 0, time.perf_counter()
    # Ctrl-C ends the loop. It has no `if` of its own: in Python 3.13, `suppress` would not cover a jump from there.
    with suppress(KeyboardInterrupt):
        for epoch in range(1, epochs + 1):
            falling = (1 + math.cos(math.pi * (epoch - 1) / epochs)) / 2
            weight = 1 + (0.95 - 0.15 * falling) * weight
            share = float32(1 / weight)
            rate = float32(falling * long_rate)
            train_long_side(tiles, moments, short, targets, gradients, errors, rate, share)
            rate = float32(falling * short_rate)
            adam(short, gradients.sum(axis=0), short_mean, short_square, rate, share)

            losses.append(float(errors.sum()) / (patches * pixels))
            log(losses, epochs, log_every, time.perf_counter() - began)
    if not losses:
        raise KeyboardInterrupt

    long[:] = tiles.swapaxes(0, 1).reshape(len(long), -1)[:, : long.shape[1]]
    return patch_side[0][:-1].T, pixel_side[0], losses


def log(losses, epochs, log_every, seconds):
    """Print a line every log_every epochs and at the last; in a long run with the time that is left."""
    epoch, loss = len(losses), losses[-1]
    if log_every and (epoch % log_every == 0 or epoch == epochs):
        left = seconds * (epochs / epoch - 1)
        line = f"epoch {epoch:{len(str(epochs))}}/{epochs}  loss {loss:.3e}  time {seconds:.2f} s  {quality(loss)}"
        say(f"{line}  left {left:.0f} s" if seconds + left > 5 else line)


def psnr(mean_square):
    """PSNR in dB of a mean squared error of values from 0 to 1."""
    return -10 * math.log10(mean_square) if mean_square else math.inf


def quality(mean_square):
    """PSNR in words, of a mean squared error of values from 0 to 1."""
    return f"PSNR {psnr(mean_square):.2f} dB" if mean_square else "exact"


# --------------------------------------------------------------------------------------- compressed file


@kernel
def choose_numbers(numbers, other, targets, bits, lowest, price):
    """Choose the whole numbers of one side by what they cost, in place. The threads share out its vectors.

    numbers  int64 (rows, count): the vectors of this side; the first len(bits) rows are chosen
    other    float32 (rows, others): the vectors of the other side; numbers.T @ other are the logits
    targets  float32 (count, others)
    bits     float32 (chosen rows, values): bits of the value lowest, lowest + 1, ... in each row
    price    of a bit, in squared error

    As a function of one number, the squared error is taken for a parabola (Gauss and Newton). Of 0 and the
    values around its lowest point, the one with the least squared error + price * bits is chosen, as video
    encoders do it.
    """
    others, values = other.shape[1], bits.shape[1]
    for i in prange(numbers.shape[1]):
        logits, error, slope = np.zeros((3, others), float32)
        add_product(logits, numbers[:, i].astype(float32), other)
        moved = float32(0)

        for k in range(len(bits)):
            # Error and slope of the sigmoid change when the number before has moved.
            if k == 0 or moved:
                for n in range(others):
                    logits[n] += moved * other[k - 1, n]
                    output = sigmoid(logits[n])
                    error[n] = output - targets[i, n]
                    slope[n] = output - output * output

            first, second = float32(0), float32(1e-12)
            for n in range(others):
                change = slope[n] * other[k, n]
                first += error[n] * change
                second += change * change
            old = numbers[k, i]
            bottom = old - first / second
            nearest = int(math.floor(bottom + 0.5))

            least = np.inf
            for value in (old, nearest - 1, nearest, nearest + 1, 0):
                if lowest <= value < lowest + values:
                    cost = second * (value - bottom) ** 2 + price * bits[k, value - lowest]
                    if cost < least:
                        numbers[k, i], least = value, cost
            moved = float32(numbers[k, i] - old)


def choose(numbers, rows, other, targets, price):
    """Choose the first rows of numbers, int64 (rows or more, count), in place: see `choose_numbers`.

    The bits of a value are -log2 of its share in its row: what an ideal entropy coder takes.
    """
    lowest = numbers[:rows].min() - 1
    values = numbers[:rows].max() + 2 - lowest
    counts = [np.bincount(row - lowest, minlength=values) for row in numbers[:rows]]
    bits = -np.log2(np.maximum(counts, 0.5) / numbers.shape[1])
    other, targets = (np.ascontiguousarray(array, float32) for array in (other, targets))
    choose_numbers(numbers, other, targets, float32(bits), lowest, price)


def with_one(codes):
    """Codes with a 1 behind each, whose weights are the bias."""
    return np.hstack([codes, np.ones((len(codes), 1))])


def change_basis(codes, decoder):
    """Codes and decoder in the basis that is best to round; the logits stay the same.

    With a number per patch it is the patches' own: in each code one number isn't 0, and a row of weights
    is the logits of one patch, so what repeats in a picture repeats in the file. Beyond -8 and 8 a logit
    is black or white in 8 bits. With fewer numbers it is the basis of the principal components of the
    logits, which puts most of the bits into few columns.

    Returns float64 codes (patches, components) and decoder (components + 1, pixels), whose rows of
    weights have length 1.
    """
    if codes.shape[1] == len(codes):
        weights = np.clip(with_one(codes) @ decoder, -8, 8)
        lengths = np.linalg.norm(weights, axis=1) + 1e-9
        return np.diag(lengths), np.vstack([weights / lengths[:, None], 0 * decoder[-1]])

    mean = codes.mean(axis=0, dtype=float)
    left, sizes, right = np.linalg.svd(codes - mean, full_matrices=False)
    turn, lengths, weights = np.linalg.svd((sizes[:, None] * right) @ decoder[:-1], full_matrices=False)
    return left @ turn * lengths, np.vstack([weights, mean @ decoder[:-1] + decoder[-1]])


def unit_columns(codes):
    """Codes with a 1 behind each, every column divided by its length; and the lengths."""
    columns = with_one(codes)
    lengths = np.maximum(np.linalg.norm(columns, axis=0), 1)
    return columns / lengths, lengths


def quantise(codes, decoder, step, targets, rounds):
    """Whole numbers for the file: int64 codes (patches, components) and decoder (components + 1, pixels).

    One step suits all numbers: as the columns of the codes have length 1, an error of one step in the
    decoder adds as much squared error, over all patches, as one in a code adds over all pixels.

    rounds  how often both sides are chosen by what they cost; with 0, the numbers are the nearest
    """
    vectors = np.int64(np.rint(with_one(codes / step)).T)
    weights = np.vstack([step * decoder[:-1], decoder[-1:]])  # for the codes as whole numbers
    # What a bit may cost, next to the squared error of one step (`tests/quality.py rounding`).
    price = float32(0.12 * step**2 * np.mean((targets - targets**2) ** 2))

    for n in range(rounds + 1):
        columns, lengths = unit_columns(vectors[:-1].T)
        scale = lengths[:, None] / step
        whole = np.int64(np.rint(weights * scale))
        if n > 0:
            choose(whole, len(whole), step * columns.T, targets.T, price)
            weights = whole / scale
        if n < rounds:
            choose(vectors, len(vectors) - 1, weights, targets, price)
    return vectors[:-1].T, whole


def pictures_of(columns, weights, shapes, width, height):
    """The pictures of these shapes, whose patches have the logits columns @ weights: uint8 each."""
    parts = np.array_split(columns, 1 + len(columns) * weights.shape[1] // 2**15)  # that fit the cache
    patches = np.concatenate([to_grey(0.5 + np.tanh(part @ weights / 2) / 2) for part in parts])
    return join(patches, shapes, width, height)


def compress(pictures, codes, decoder, width, height, target_psnr):
    """The smallest file found that decodes to pictures with target_psnr dB over all their pixels.

    pictures  uint8 (height, width) each
    codes, decoder  as `train` returns them for the patches of width x height
    Returns the bytes of compressed.npz. Where training reached less than target_psnr, 0.05 dB of that may
    be lost. A picture that comes back exactly stays exact if target_psnr is 100 or out of reach.

    The error doesn't always grow with the step, so the search for the largest step that will do comes from
    the coarse side.
    """
    targets = np.concatenate([cut(picture, width, height) for picture in pictures]) / float32(255)
    shapes = [picture.shape for picture in pictures]
    pixels = sum(picture.size for picture in pictures)
    reached = squared_errors(pictures, pictures_of(with_one(codes), decoder, shapes, width, height))
    asked = pixels * 10 ** (-target_psnr / 10) if target_psnr < 100 else 0
    allowed = max(asked, 1.01 * reached.sum())
    exact = (reached == 0) & (allowed > asked or asked == 0)
    codes, decoder = change_basis(codes, decoder)

    # Of steps 2**exponent, the largest that is too large is known, and the step below it by stride is tried.
    exponent, stride, best = 4, 1, None
    while stride > 1 / 80:
        step = 2 ** (exponent - stride)
        numbers = quantise(codes, decoder, step, targets, 0 if exact.any() else 4)
        decoded = pictures_of(step * unit_columns(numbers[0])[0], numbers[1], shapes, width, height)
        errors = squared_errors(pictures, decoded)
        say(f"rounding step {step:.4f}: {quality(errors.sum() / pixels)}")
        if step < 1e-4 or errors.sum() <= allowed and not errors[exact].any():
            best = *numbers, step
        else:
            exponent -= stride
        if best:
            stride /= 2
    return pack(*best, (height, width), shapes)


def decompress(content):
    """The pictures in the bytes of compressed.npz, uint8 (height, width) each."""
    with np.load(io.BytesIO(content)) as file:
        codes, record = from_digits(file["codes"]), file["decoder"]
    (height, width), weights = record["patch"], from_digits(np.moveaxis(record["weights"], 0, 2))
    return pictures_of(record["step"] * unit_columns(codes)[0], weights, record["shapes"], width, height)


def to_digits(numbers):
    """Whole numbers (rows, columns) in base 256, digits from -128 to 127: int8 (rows, columns, places)."""
    places = []
    while numbers.any() or not places:
        places.append(np.int8(numbers & 255))
        numbers = (numbers - places[-1]) >> 8
    return np.stack(places, axis=2)


def from_digits(digits):
    """The whole numbers of `to_digits`, float64 (rows, columns)."""
    return digits @ 256.0 ** np.arange(digits.shape[2])


def pack(codes, decoder, step, patch, shapes):
    """Bytes of compressed.npz; order and method are those that take least, and unused columns are left out."""
    used = codes.any(axis=0)
    codes, weights = to_digits(codes[:, used]), to_digits(decoder[np.append(used, True)])
    weights = np.moveaxis(weights, 2, 0)  # high places are all but 0, and take little if they lie together
    fields = [("weights", "i1", weights.shape), ("step", "f8"), ("patch", "u4", 2)]
    fields.append(("shapes", "u4", (len(shapes), 2)))
    record = np.array((weights, step, patch, shapes), fields)
    files = []
    for order, method in itertools.product("CF", (ZIP_LZMA, ZIP_BZIP2)):
        file = io.BytesIO()
        with ZipFile(file, "w", method) as archive:
            for name, array in (("codes.npy", codes), ("decoder.npy", record)):
                with archive.open(name, "w") as member:
                    np.save(member, np.asarray(array, order=order))
        files.append(file.getvalue())
    return min(files, key=len)


# ---------------------------------------------------------------------------------------------- pictures


def radial(x, y, width, height):
    """Brightness falls from 1 in the centre to 0 in a corner."""
    return 1 - np.hypot(x - width / 2, y - height / 2) / math.hypot(width / 2, height / 2)


def sine(x, y, width, height):
    """Product of two sine waves, SINE_FREQUENCY periods along each side."""
    across, down = (np.sin(2 * np.pi * SINE_FREQUENCY * turns) for turns in (x / width, y / height))
    return (1 + across * down) / 2


def checkerboard(x, y, width, height):
    """CHECKER_SQUARES along each side, white at the top left."""
    return (x * CHECKER_SQUARES // width + y * CHECKER_SQUARES // height) % 2 == 0


PATTERNS = {"radial": radial, "sine": sine, "checkerboard": checkerboard}


def draw(name, width, height):
    """Picture of the pattern PATTERNS[name], uint8 (height, width)."""
    y, x = np.mgrid[0:height, 0:width]
    with suppress(TypeError, ValueError):
        values = np.broadcast_to(PATTERNS[name](x, y, width, height), (height, width))
        if np.all(abs(values - 0.5) <= 0.5 + 1e-9):
            return to_grey(values)
    raise Refused(f"pattern {name}: has to return {height} x {width} numbers from 0 to 1")


def to_grey(values):
    """Values from 0 to 1 as the nearest grey levels, uint8; halves go up."""
    return np.floor(values * 255.0 + (0.5 + 1e-9)).astype(np.uint8)


def read_pgm(path):
    """Picture of a PGM file, P5 or P2 with up to 16 bits, uint8 (height, width)."""
    if not path.is_file():
        raise Refused(f"IMAGES: {path} is neither a file nor one of the patterns {', '.join(PATTERNS)}")
    content = path.read_bytes()
    space = rb"(?:\s|#[^\r\n]*[\r\n])"
    header = re.match(rb"P([25])" + 3 * (space + rb"+(\d{1,9})") + rb"(?:\r\n|%b)" % space, content[:4096])
    kind, width, height, maxval = map(int, header.groups()) if header else (0, 0, 0, 0)
    if not width * height or not 1 <= maxval <= 65535:
        raise Refused(f"{path}: isn't a PGM file, P5 or P2; the README shows how to convert a picture")

    raster = content[header.end() :]
    try:
        if kind == 5:
            samples = np.frombuffer(raster, "u1" if maxval < 256 else ">u2", width * height)
            if raster[samples.nbytes :].strip():
                raise ValueError
        else:
            text = re.sub(rb"#[^\r\n]*|[^\S\r\n]+", b" ", raster)
            samples = np.array(text.split(), "U").astype("u2")
        if maxval > 255:
            say(f"{path.name}: has {maxval.bit_length()} bits per pixel, 8 are kept")
        return to_grey(np.arange(maxval + 1) / maxval)[samples].reshape(height, width)
    except (ValueError, IndexError, OverflowError):
        raise Refused(f"{path}: has to hold {width} x {height} samples from 0 to {maxval}, and no more") from None


def pgm(picture):
    """Bytes of a binary PGM file of a uint8 picture."""
    return b"P5\n%d %d\n255\n" % picture.shape[::-1] + picture.tobytes()


def png(picture):
    """Bytes of a grey PNG file of a uint8 picture."""
    size = np.array(picture.shape[::-1], ">u4").tobytes()
    rows = zlib.compress(np.pad(picture, ((0, 0), (1, 0))).tobytes())
    file = b"\x89PNG\r\n\x1a\n"
    for chunk in (b"IHDR" + size + b"\x08\0\0\0\0", b"IDAT" + rows, b"IEND"):
        file += (len(chunk) - 4).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    return file


def cut(picture, width, height):
    """Patches of a picture, (patches, width * height), filled up with its edge."""
    tall, wide = picture.shape
    padded = np.pad(picture, ((0, -tall % height), (0, -wide % width)), "edge")
    grid = padded.reshape(-1, height, padded.shape[1] // width, width)
    return grid.swapaxes(1, 2).reshape(-1, height * width)


def join(patches, shapes, width, height):
    """Undo `cut`: a list of pictures of these shapes."""
    pictures = []
    for tall, wide in np.int64(shapes):
        rows, columns = -(-tall // height), -(-wide // width)
        grid = patches[: rows * columns].reshape(rows, columns, height, width).swapaxes(1, 2)
        pictures.append(grid.reshape(rows * height, columns * width)[:tall, :wide])
        patches = patches[rows * columns :]
    return pictures


def squared_errors(pictures, decoded):
    """Squared error of each picture, black and white being 1 apart, float64."""
    return np.array([np.sum(((a - float32(b)) / 255) ** 2, dtype=float) for a, b in zip(pictures, decoded)])


def contact_sheet(pictures, decoded):
    """Columns of original, decoded and 8 times the difference, scaled down to some 2048 pixels a side."""
    height, width = max(map(len, pictures)), sum(picture.shape[1] for picture in pictures)
    every = max(3 * height, width) // 2048 + 1
    columns = []
    for original, output in zip(pictures, decoded):
        error = np.minimum(8 * abs(np.int64(original) - output), 255)
        cells = np.array([original, output, error])[:, ::every, ::every]
        frame = (0, 0), (0, -(-height // every) - cells.shape[1] + 2), (0, 2)
        columns.append(np.vstack(np.pad(cells, frame, constant_values=128)))
    return np.uint8(np.hstack(columns))


def write_files(folder, files):
    """Write files, {name: bytes}, beside their places, then move all there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".", dir=folder) as beside:
            for name, content in files.items():
                Path(beside, name).write_bytes(content)
            for name in files:
                Path(beside, name).replace(folder / name)
    except OSError as error:
        raise Refused(f"OUTPUT_DIR: can't write to {folder} ({error.strerror})") from None


# ------------------------------------------------------------------------------------------------ report


def say(line):
    """Print a line; the work goes on if nobody reads."""
    try:
        print(line, flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            raise


def report(names, pictures, decoded, content, target_psnr):
    """Print what came back of each picture and of all together, and the bytes of the file."""
    errors = squared_errors(pictures, decoded)
    sizes = np.array([picture.size for picture in pictures])
    order = np.argsort(errors / sizes)
    for n in range(len(names)) if len(names) <= 12 else order[[-1, len(names) // 2, 0]]:
        say(f"{names[n]}: {quality(errors[n] / sizes[n])}")
    if len(names) > 12:
        say(f"(the worst, the median and the best of {len(names)} pictures)")

    loss, pixels = errors.sum() / sizes.sum(), sizes.sum()
    codes, decoder = (member.compress_size for member in ZipFile(io.BytesIO(content)).infolist())
    say(f"all pictures: {quality(loss)}, {8 * len(content) / pixels:.3f} bits per pixel")
    say(f"compressed.npz: {len(content)} bytes, codes {codes}, decoder {decoder}")
    say(f"that is {len(content) / pixels:.3f} of the {pixels} bytes of the pixels")
    if psnr(loss) < target_psnr < 100:
        say(f"TARGET_PSNR = {target_psnr} is out of reach: try a larger LATENT_DIM, or more EPOCHS")
    if len(content) > pixels:
        say("larger than the pixels: try WIDTH = HEIGHT = 8 and LATENT_DIM = 32, or a lower TARGET_PSNR")


# -------------------------------------------------------------------------------------------------- main


def check(name, value, least, most):
    """Refuse a constant out of range, or one that isn't a whole number though `least` is."""
    kind, words = (Integral, "whole number") if isinstance(least, int) else (Real, "number")
    if isinstance(value, bool) or not isinstance(value, kind) or not least <= value <= most:
        raise Refused(f"{name}: has to be a {words} from {least} to {most}")


def check_constants():
    """Refuse constants that can't be used, before anything else happens."""
    check("WIDTH", WIDTH, 1, 1_000_000)
    check("HEIGHT", HEIGHT, 1, 1_000_000)
    check("LATENT_DIM", LATENT_DIM, 1, 1_000_000)
    check("EPOCHS", EPOCHS, 1, 1_000_000_000)
    check("LEARNING_RATE", LEARNING_RATE, 0.001, 2)
    check("TARGET_PSNR", TARGET_PSNR, 1.0, 100)
    check("LOG_EVERY", LOG_EVERY, 1, 1_000_000_000)
    check("SEED", SEED, 0, 1_000_000_000)
    names = [*IMAGES, OUTPUT_DIR] if isinstance(IMAGES, (tuple, list)) and IMAGES else [None]
    if not all(isinstance(name, str) for name in names):
        raise Refused('IMAGES and OUTPUT_DIR: have to be like ("cat.pgm",), with a comma, and "outputs"')
    smaller = min(WIDTH, HEIGHT)
    if "sine" in IMAGES:
        check("SINE_FREQUENCY, for this WIDTH and HEIGHT", SINE_FREQUENCY, 0.0, (smaller - 1) / 2)
    if "checkerboard" in IMAGES:
        check("CHECKER_SQUARES, for this WIDTH and HEIGHT", CHECKER_SQUARES, 1, smaller)


def run():
    """Do what the constants say. Returns the exit status."""
    check_constants()
    here = Path(__file__).resolve().parent
    folder = here / Path(OUTPUT_DIR).expanduser()
    drawn = {name: draw(name, WIDTH, HEIGHT) for name in IMAGES if name in PATTERNS}
    pictures = [drawn[name] if name in drawn else read_pgm(here / name) for name in IMAGES]
    write_files(folder, {f"generated_{name}.pgm": pgm(picture) for name, picture in drawn.items()})

    targets = np.concatenate([cut(picture, WIDTH, HEIGHT) for picture in pictures]) / float32(255)
    codes, decoder = start(targets, LATENT_DIM, SEED)
    if __name__ == "__main__" and not is_compiled(choose_numbers):
        say("compiling, in the first run only ...")
        # In a process of its own, since what a process has compiled itself differs, in the last digits, from
        # what it reads from __pycache__: all runs read it.
        subprocess.run([sys.executable, __file__, "compile"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    sizes = f"patches of {WIDTH} x {HEIGHT}: {len(targets)}, numbers per code: {codes.shape[1]}"
    say(f"training on {sizes}, threads: {get_num_threads()}")
    codes, decoder, losses = train(targets, codes, decoder, EPOCHS, LEARNING_RATE, LOG_EVERY)

    content = compress(pictures, codes, decoder, WIDTH, HEIGHT, TARGET_PSNR)
    decoded = decompress(content)
    files = {f"final_decoded_{n}.pgm": pgm(picture) for n, picture in enumerate(decoded)}
    sheet = png(contact_sheet(pictures[:8], decoded[:8]))
    write_files(folder, {**files, "compressed.npz": content, "comparison.png": sheet})
    report(IMAGES, pictures, decoded, content, TARGET_PSNR)
    return 0 if len(losses) == EPOCHS else 130


def compile_kernels():
    """Compile all kernels, by a run on a few patches. Returns the exit status."""
    picture = np.uint8(np.arange(576) % 251).reshape(24, 24)
    targets = cut(picture, 8, 8) / float32(255)
    codes, decoder, _ = train(targets, *start(targets, 2, 0), 1)
    compress([picture], codes, decoder, 8, 8, 5)
    return 0


def main():
    """Run the program. Returns the exit status: 0, 2 after a mistake, 130 after Ctrl-C."""
    try:
        if sys.argv[1:] == ["compile"]:
            return compile_kernels()
        if len(sys.argv) > 1:
            raise Refused("takes no arguments; edit the constants at the top of the file")
        return run()
    except KeyboardInterrupt:
        status, words = 130, ["interrupted, no results were saved"]
    except (Refused, OSError, UnicodeError, MemoryError) as error:
        status, words = 2, str(error).split() or ["not enough memory"]
    with suppress(OSError):
        print("neural_compression.py:", *words, file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
