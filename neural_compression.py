"""Image compression by latent-code optimisation.

Pictures are cut into patches. Each patch gets a small vector of its own, its latent code. One decoder,
shared by all patches, turns a code into the pixels of a patch: a linear map with a bias, then a sigmoid.
Training moves the decoder and the codes by gradient descent on the mean squared error.

Run this file, look at the pictures in OUTPUT_DIR, edit a constant, run it again. Ctrl-C ends training
early and keeps what was learned. From a notebook, the same in five calls:

    targets = cut(pictures, width, height)
    codes, decoder = start(targets, latent_dim, seed)
    codes, decoder, losses = train(targets, codes, decoder, epochs)
    content = compress(pictures, codes, decoder, width, height, target_psnr)
    pictures = decompress(content)

Codes and pixels are two sides of one product. A patch i has the vector (its code, 1), a pixel p of a
patch the vector (its weights, its bias); k counts the numbers of a vector.

    logit      z[i, p] = sum over k of code[i, k] decoder[k, p]
    output     y[i, p] = sigmoid(z) = 1 / (1 + exp(-z))
    loss               = mean over i and p of (y - target)^2
    delta      d[i, p] = (y - target) y (1 - y), which is d loss / d z but for a constant factor
    gradient of the vector of patch i:  sum over p of d[i, p] times the vector of pixel p
    gradient of the vector of pixel p:  sum over i of d[i, p] times the vector of patch i

The file on disk, compressed.npz, holds one record, `numbers`, with codes and decoder as whole numbers:

    codes, transposed, (components, patches), and weights, (components, pixels), in the smallest types
    step, float64; patch, its width and height; shapes, height and width of each picture

Divide each row of the codes by its length, unless it is 0: then step * codes.T @ weights are the logits (see `decode`).
"""

# Left out are colour (three pictures do), an entropy coder of our own (zip's LZMA does), prediction from
# neighbouring patches, and deeper decoders.

import os
import re
import sys
import zlib
from contextlib import suppress
from inspect import getsource
from io import BytesIO
from math import cos, hypot, log10, pi, sqrt
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from zipfile import ZIP_LZMA, ZipFile

# Threads that wait for work soon sleep, so that two runs at once don't take each other's cores.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
# The last digits of NumPy's matrix products depend on the number of threads, so they take one.
os.environ["OPENBLAS_NUM_THREADS"] = "1"
# At numba's level 3, what is compiled and what is read from the cache differ in the last digits.
os.environ["NUMBA_OPT"] = "2"

import numpy as np
from numba import njit, prange
from numpy import float32
from numpy.linalg import norm, qr, svd

WIDTH = 256  # width of a patch in pixels
HEIGHT = 256  # height of a patch in pixels
IMAGES = ("radial", "sine", "checkerboard")  # names of patterns, or of PGM files beside this program
SINE_FREQUENCY = 40  # periods of the sine pattern along each side
CHECKER_SQUARES = 16  # squares of the checkerboard pattern along each side
LATENT_DIM = 16  # numbers per code, but never more than there are patches, or pixels in one
EPOCHS = 1000  # training steps, each over all pixels of all patches
LEARNING_RATE = 1.0  # how far a step goes, at most 2; 1 suits every picture that was tried
TARGET_PSNR = 100.0  # dB that the compressed file has to reach; 100 asks for all that was learned
LOG_EVERY = 10  # epochs per line of the log
SEED = 0  # seed of the random numbers that training starts from
OUTPUT_DIR = "outputs"  # folder for the results, beside this program


class Refused(Exception):
    """A mistake that the user can correct, told in one line."""


# ---------------------------------------------------------------------------------------------- learning

SOURCES = []  # the text of each kernel


def kernel(function):
    """Compile a function at its first call, and keep the machine code in __pycache__."""
    compiled = njit(function, fastmath=True, error_model="numpy", parallel="prange" in function.__code__.co_names)
    # By itself numba compiles anew when anything in the file has changed, and here the constants change all
    # the time. So the stamp of the machine code is the text of the kernels. Numba names its files by a function's name
    # and line, so every kernel pretends to be in line 1; with the module's name behind its own, the program and a
    # notebook don't overwrite each other's files. Where numba can't write, or keeps its files otherwise, each run
    # compiles.
    with suppress(Exception):
        SOURCES.append(getsource(function))
        function.__code__ = function.__code__.replace(co_firstlineno=1)
        function.__qualname__ += __name__
        compiled.enable_caching()
        compiled._cache._cache_file._source_stamp = SOURCES
    return compiled


def announce(compiled):
    """Tell the user if a kernel has to be compiled now, which takes some seconds."""
    with suppress(AttributeError):
        if compiled.signatures or compiled._cache._cache_file._load_index():
            return
    say("compiling ...")


@kernel
def sigmoid(z):
    """1 / (1 + exp(-z)) of a float32, to 1e-6, in a form that the compiler vectorises."""
    # exp(-z) is exp(x)^64, where x is so small that three terms of the series do. It is squared six times, as 1 + e,
    # so that no digits get lost: (1 + e)^2 is 1 + (e e + e + e). The last line is 1 / (2 + e), in a form that is
    # exactly 1/2 for z = 0.
    x = max(float32(-18), min(float32(18), z)) / float32(-64)
    e = x + x * x * (float32(0.5) + x / float32(6))
    for _ in range(6):
        e = e * e + e + e
    return float32(0.5) - e / (float32(4) + e + e)


@kernel
def adam(vectors, gradient, mean, square, rate, share):
    """Move vectors against their gradients, in place: Adam with one second moment per vector.

    vectors, gradient  float32 (rows, count), a vector in each column
    mean, square       float32 (learned rows, count) and (count): running means of gradients, squared lengths
    """
    # In the running means, this gradient has the weight `share`. Only the learned rows move; a vector as a whole
    # moves by about `rate`. Adam is by Kingma and Ba (2015), and so is the 1e-8: where black and white leave next to
    # no gradient, next to nothing moves. One second moment per vector takes less memory than one per number, and
    # doesn't depend on the basis of the codes.
    rows, count = mean.shape
    scale = np.zeros(count, float32)
    for k in range(rows):
        for n in range(count):
            number = gradient[k, n]
            scale[n] += number * number
            mean[k, n] += float32(share) * (number - mean[k, n])

    for n in range(count):
        square[n] += float32(share) * (scale[n] - square[n])
        scale[n] = float32(rate) / (sqrt(square[n]) + float32(1e-8))

    for k in range(rows):
        for n in range(count):
            vectors[k, n] -= scale[n] * mean[k, n]


@kernel
def add_gradients(long, short, targets, long_gradient, short_gradient):
    """Add what up to four vectors of the shorter side give to the gradients of both. Returns the squared error.

    long, short, targets           float32 (rows, size), (rows, 4; filled up with 0), (up to 4, size); rows is even
    long_gradient, short_gradient  float32 (rows, size), to which their part is added, and (rows, 4), out
    """
    # Four at a time, and the logits from two rows at a time: then most numbers come from registers and the nearest
    # cache, and 6144 patches of 8 x 8 train in half the time. With 0 in the place of `rows % 2`, which is 0, they take
    # 1.05 of the time: numba makes other code of it.
    rows, size = long.shape
    total = float32(0)

    # The logits come first; delta takes their place.
    delta = np.zeros((4, size), float32)
    for k in range(rows % 2, rows, 2):
        first, second = short[k], short[k + 1]
        for n in range(size):
            one, two = long[k, n], long[k + 1, n]
            for i in range(4):
                delta[i, n] += first[i] * one + second[i] * two
    for i in range(len(targets)):
        for n in range(size):
            output = sigmoid(delta[i, n])
            error = output - targets[i, n]
            delta[i, n] = error * (output - output * output)
            total += error * error

    # On either side, the gradient is the sum of delta times the other side's vectors.
    for k in range(rows):
        first = short[k]
        a = b = c = d = float32(0)
        for n in range(size):
            number = long[k, n]
            a += delta[0, n] * number
            b += delta[1, n] * number
            c += delta[2, n] * number
            d += delta[3, n] * number
            number = long_gradient[k, n]
            for i in range(4):
                number += delta[i, n] * first[i]
            long_gradient[k, n] = number
        for i, number in enumerate((a, b, c, d)):
            short_gradient[k, i] = number
    return total


@kernel
def train_long_side(tiles, mean, square, short, targets, gradients, rate, share):
    """One epoch for the side that has more vectors, in place. Returns the squared error. Threads share its tiles.

    tiles         float32 (tiles, rows, size): the vectors of the longer side
    mean, square  float32 (tiles, learned rows, size) and (tiles, size): as in `adam`
    short         float32 (rows, count): the vectors of the shorter side, filled up to a multiple of four
    targets       float32 (tiles, vectors of the shorter side, size)
    gradients     float32 (tiles, rows, count), out: what each tile adds to the gradient of the shorter side
    """
    # The tiles' parts are added in a fixed order, so that the result doesn't depend on the number of threads.
    errors = np.empty(len(tiles), float32)
    for tile in prange(len(tiles)):
        vectors = tiles[tile]
        gradient = np.zeros_like(vectors)
        errors[tile] = 0
        for j in range(0, short.shape[1], 4):
            four = slice(j, j + 4)
            errors[tile] += add_gradients(
                vectors, short[:, four], targets[tile, four], gradient, gradients[tile, :, four])
        adam(vectors, gradient, mean[tile], square[tile], rate, share)
    return sum(errors)


def tiled(array, multiple, size, fill):
    """An array (rows, count) cut into tiles, float32 (tiles, rows, size); rows are filled up to a multiple."""
    rows, count = array.shape
    padded = np.pad(float32(array), ((0, -rows % multiple), (0, -count % size)), constant_values=fill)
    return np.array(np.hsplit(padded, padded.shape[1] // size))


def start(targets, latent_dim, seed):
    """Codes, (patches, latent_dim + 1), and decoder, (latent_dim + 1, pixels), to start from; each code ends in a 1.

    targets are (patches, pixels), from 0 to 1. latent_dim is lowered to the number of patches, or of pixels, if above.
    """
    # More numbers would be of no use: a matrix of logits has no higher rank.
    patches, pixels = targets.shape
    latent_dim = min(latent_dim, patches, pixels)
    clipped = np.clip(targets, 0.02, 0.98)
    logits = np.log(clipped / (1 - clipped))
    logits -= logits.mean(axis=0)

    # The codes are the principal components of the targets' logits, by subspace iteration, scaled to
    # equal length: training then needs a tenth of the epochs (`tests/quality.py start`).
    codes = np.random.default_rng(seed).standard_normal((patches, latent_dim))
    for _ in range(4):
        codes = qr(logits @ (logits.T @ float32(codes)))[0]
    # If latent_dim is the number of patches, a code has a length of 16, which outweighs its 1
    # (`tests/quality.py choices`).
    size = 16 if latent_dim == patches else sqrt(patches)
    return np.insert(size * codes, latent_dim, 1, axis=1), np.zeros((latent_dim + 1, pixels))


def train(targets, codes, decoder, epochs, learning_rate=1.0, log_every=10):
    """Train codes and decoder, one step over all pixels per epoch; Ctrl-C ends it.

    targets  (patches, pixels), from 0 to 1
    codes    (patches, latent_dim + 1), the last number of each being 1, as from `start`
    decoder  (latent_dim + 1, pixels), the bias in its last row
    Returns both, float32, and the loss before each epoch. Raises ValueError if the shapes don't fit.
    """
    patches, pixels = targets.shape
    if codes.shape != (patches, len(decoder)) or decoder.shape[1] != pixels:
        raise ValueError("targets, codes and decoder have to fit together")

    # A side is its vectors, how many of their numbers are learned (the 1 of a code stays), and its rate. At
    # first a code moves by 0.15 per epoch, and the logits of a pixel by about 1 (`tests/quality.py choices`).
    # With few patches, the codes are the short side; with more patches than pixels, the sides change places. Rates
    # are plain floats: for NumPy's float32, numba would compile again.
    sides = [(codes.T, len(decoder) - 1, 0.15 * learning_rate),
             (decoder, len(decoder), float(learning_rate * sqrt(patches) / norm(codes)))]
    if patches > pixels:
        sides.reverse()
        targets = targets.T
    (short, short_learned, short_rate), (long, long_learned, long_rate) = sides

    # What is filled up has vectors of 0, and targets of 1/2 or none: no error, so it never moves.
    tiles = tiled(long, 2, 512, 0)
    targets = tiled(targets, 1, 512, 0.5)
    moments = np.zeros_like(tiles[:, :long_learned]), np.zeros_like(tiles[:, 0])
    short = np.concatenate(tiled(short, 2, 4, 0), axis=1)
    short_moments = np.zeros_like(short[:short_learned]), np.zeros_like(short[0])
    gradients = np.zeros((len(tiles), *short.shape), float32)

    # What has to be compiled is compiled here, by a step on no tiles.
    announce(train_long_side)
    train_long_side(tiles[:0], *moments, short, targets, gradients, 0.0, 0.0)

    losses = []
    weight = 0
    began = perf_counter()
    # Ctrl-C ends the loop. Keep `if` out of it: in Python 3.13, a conditional jump back to its head isn't covered
    # by `suppress`, so that Ctrl-C could get lost there.
    with suppress(KeyboardInterrupt):
        for epoch in range(epochs):
            # The rates fall to 0 along half a cosine (Loshchilov and Hutter 2017), while the running means grow
            # longer, from 5 epochs to 20 (Smith and others 2018). `weight` is that of all gradients so far.
            falling = cos(pi / 2 * epoch / epochs) ** 2
            weight = 1 + (0.95 - 0.15 * falling) * weight
            share = 1 / weight
            error = train_long_side(tiles, *moments, short, targets, gradients, falling * long_rate, share)
            adam(short, gradients.sum(axis=0), *short_moments, falling * short_rate, share)
            losses.append(error / (patches * pixels))
            log(losses, epochs, log_every, perf_counter() - began)
    # Before the end of the first epoch there is nothing to keep.
    if not losses:
        raise KeyboardInterrupt

    long = np.concatenate(tiles, axis=1)
    codes, vectors = (long, short) if patches > pixels else (short, long)
    return codes[: len(decoder), :patches].T, vectors[: len(decoder), :pixels], losses


def log(losses, epochs, log_every, seconds):
    """Print a line every log_every epochs and at the last, with the time that is left."""
    epoch = len(losses)
    loss = losses[-1]
    if epoch % log_every == 0 or epoch == epochs:
        left = seconds * (epochs / epoch - 1)
        say(f"epoch {epoch:4}/{epochs}  loss {loss:.3e}  {quality(loss)}  {seconds:.2f} s, {left:.1f} s left")


def quality(mean_square):
    """PSNR in words, of a mean squared error of values from 0 to 1."""
    return f"PSNR {-10 * log10(mean_square):.2f} dB" if mean_square else "exact"


# --------------------------------------------------------------------------------------- compressed file


@kernel
def choose_numbers(numbers, other, logits, targets, costs, damping):
    """Choose the whole numbers of one side by what they cost, in place. The threads share out its vectors.

    numbers  float32 (rows, count): the vectors of this side
    other    float32 (rows, others): the vectors of the other side
    logits   float32 (count, others): numbers.T @ other, overwritten; targets have the same shape
    costs    float32 (rows): the price of a size larger by 1, in units of half the squared error
    """
    # Each number in turn goes where half the squared error + cost is least. The squared error is taken for a parabola
    # (Gauss and Newton); the cost draws its bottom nearer to 0, by `pull`. Where it is flat, `damping` holds numbers.
    # At a black or white pixel the sigmoid is so flat that nothing seems to matter, and its logit would be moved to
    # the other colour: so slopes are at least 0.005.
    for i in prange(len(logits)):
        errors = logits[i]
        slopes = np.zeros_like(errors)
        for n in range(len(errors)):
            output = sigmoid(errors[n])
            errors[n] = output - targets[i, n]
            slopes[n] = max(float32(0.005), output - output * output)
        for k in range(len(numbers)):
            first = float32(0)
            second = damping
            for n in range(len(errors)):
                slope = slopes[n] * other[k, n]
                first += errors[n] * slope
                second += slope * slope

            pull = costs[k] / second
            bottom = numbers[k, i] - first / second
            moved = np.rint(bottom - max(-pull, min(pull, bottom))) - numbers[k, i]
            numbers[k, i] += moved
            if moved:
                for n in range(len(errors)):
                    errors[n] += moved * slopes[n] * other[k, n]


def choose(numbers, other, targets, price):
    """Choose whole numbers, float32 (rows, count), in place: see `choose_numbers`."""
    # If the sizes of a row's numbers have a geometric distribution, with mean m, a size larger by 1 takes
    # log2(1 + 1 / m) bits more. A quarter of the damping, or four times as much, makes files larger
    # (`tests/quality.py rounding`).
    costs = price * np.log2(1 + 1 / np.mean(abs(numbers) + 1e-9, axis=1))
    other = float32(other)
    announce(choose_numbers)
    choose_numbers(numbers, other, numbers.T @ other, targets, float32(costs), float32(0.2 * price))


def change_basis(codes, decoder):
    """Codes, transposed, and weights, (components, patches) and (components, pixels): same logits, no bias."""
    # If there are as many numbers per code as patches, the best basis to round is the patches' own: in each
    # code one number isn't 0, and a row of weights is the logits of one patch, over 16: so what repeats in a picture
    # repeats in the file. Beyond -8 and 8 a logit is black or white in 8 bits.
    if codes.shape[1] > len(codes):
        return 16 * np.eye(len(codes)), np.clip(codes @ decoder, -8, 8) / 16

    # Otherwise it is that of the principal components of the logits: most of the bits are in few rows.
    basis, triangle = qr(np.float64(codes))
    turn, lengths, weights = svd(triangle @ decoder, full_matrices=False)
    return (turn * lengths).T @ basis.T, weights


def row_lengths(numbers):
    """Lengths of rows, (rows, 1), but at least 1."""
    return np.maximum(norm(numbers, axis=1, keepdims=True), 1)


def quantise(codes, weights, step, rounds, targets, turned, patch, shapes):
    """The record for the file: the nearest whole numbers; in all rounds but the first, chosen by what they cost."""
    # One step suits all numbers: as the rows of the codes are brought to length 1, and those of principal components
    # have it, an error of one step in a weight adds as much squared error to the logits, over all patches, as one in a
    # code adds over all pixels.
    # `numbers` are the whole numbers of the codes, `whole` those of the weights, which are weights * scale rounded.
    # The logits are numbers.T @ weights; turned is targets.T.
    numbers = np.rint(float32(codes / step))
    weights = weights * step
    # How much squared error is accepted to save a bit, next to that of one step (`tests/quality.py rounding`). The 1e-4
    # is for pictures in black and white.
    price = 0.12 * step**2 * np.mean((targets - targets**2) ** 2 + 1e-4)
    for chosen in range(rounds):
        if chosen:
            choose(numbers, weights, targets, price)
        scale = row_lengths(numbers) / step
        whole = np.rint(float32(weights * scale))
        if chosen:
            choose(whole, numbers / scale, turned, price)
        weights = whole / scale

    codes, weights = (array.astype(np.min_scalar_type(~int(abs(array).max()))) for array in (numbers, whole))
    fields = [("codes", codes.dtype, codes.shape), ("weights", weights.dtype, weights.shape), ("step", "f8"),
              ("patch", "u4", 2), ("shapes", "u4", (len(shapes), 2))]
    return np.array((codes, weights, step, patch, shapes), fields)


def decode(record):
    """The pictures in a record of the file, uint8 (height, width) each."""
    codes = record["codes"]
    logits = (codes / row_lengths(codes) * record["step"]).T @ record["weights"]
    return join(to_grey(0.5 + np.tanh(logits / 2) / 2), record["shapes"].tolist(), *record["patch"].tolist())


def compress(pictures, codes, decoder, width, height, target_psnr):
    """The file with the largest step found that decodes to pictures with target_psnr dB over all their pixels.

    pictures are uint8 (height, width) each; codes and decoder are what `train` returns for their patches.
    Returns the bytes of compressed.npz. If training missed target_psnr, up to 0.05 dB gets lost, and pictures that it
    made exact stay so, as they do at 100. Raises ValueError if codes and pictures don't fit.
    """
    targets = cut(pictures, width, height)
    if len(codes) != len(targets):
        raise ValueError("codes and pictures have to fit together")
    shared = targets, targets.T.copy(), (width, height), [picture.shape for picture in pictures]
    codes, weights = change_basis(codes, decoder)

    # A step of 1e-6 is as good as none: it tells what training reached, and which pictures are exact.
    losses, loss = mean_squares(pictures, decode(quantise(codes, weights, 1e-6, 1, *shared)))
    asked = 10 ** (-target_psnr / 10) if target_psnr < 100 else 0
    allowed = asked if loss < asked else 1.01 * loss
    exact = (losses == 0) & (loss >= asked)
    if 0 < asked < loss:
        say("TARGET_PSNR is out of reach: try a larger LATENT_DIM, or more EPOCHS")

    # The largest step that will do is looked for from the coarse side, since the error doesn't always grow with
    # the step. The step is halved until one will do, then the exponent is bisected: 2**exponent is the finest step
    # that is too large, for which 16 is taken unseen. Choosing numbers by cost could spoil exact pictures, so then
    # they are only rounded, and also at steps below 0.01, where choosing hasn't worked. Below 1e-6 any result is taken,
    # so that the search ends.
    exponent, stride, shrink = 4, 1, 1
    while stride > 1 / 80:
        step = 2 ** (exponent - stride)
        rounds = 1 if exact.any() or step < 0.01 else 7
        record = quantise(codes, weights, step, rounds, *shared)
        losses, loss = mean_squares(pictures, decode(record))
        say(f"rounding step {step:.4f}: {quality(loss)}")
        if step < 1e-6 or loss <= allowed and not losses[exact].any():
            best = record
            shrink = 2
        else:
            exponent -= stride
        stride /= shrink

    file = BytesIO()
    with ZipFile(file, "w", ZIP_LZMA) as archive, archive.open("numbers.npy", "w") as member:
        np.save(member, best)
    return file.getvalue()


def decompress(content):
    """The pictures in the bytes of compressed.npz, uint8 (height, width) each."""
    return decode(np.load(BytesIO(content))["numbers"])


# ---------------------------------------------------------------------------------------------- pictures


def radial(x, y, width, height):
    """Brightness falls from 1 in the centre to 0 in a corner."""
    return 1 - np.hypot(x - width / 2, y - height / 2) / hypot(width / 2, height / 2)


def sine(x, y, width, height):
    """Product of two sine waves, SINE_FREQUENCY periods along each side."""
    check("SINE_FREQUENCY, for this WIDTH and HEIGHT", SINE_FREQUENCY, 0.0, (min(width, height) - 1) / 2)
    across, down = np.sin(2 * pi * SINE_FREQUENCY * np.array([x / width, y / height]))
    return (1 + across * down) / 2


def checkerboard(x, y, width, height):
    """CHECKER_SQUARES along each side, white at the top left."""
    check("CHECKER_SQUARES, for this WIDTH and HEIGHT", CHECKER_SQUARES, 1, min(width, height))
    return (x * CHECKER_SQUARES // width + y * CHECKER_SQUARES // height) % 2 == 0


PATTERNS = {"radial": radial, "sine": sine, "checkerboard": checkerboard}


def draw(name, width, height):
    """Picture of the pattern PATTERNS[name], uint8 (height, width)."""
    y, x = np.indices((height, width))
    with suppress(TypeError, ValueError):
        values = np.broadcast_to(PATTERNS[name](x, y, width, height), x.shape)
        if np.all(abs(values - 0.5) <= 0.500000001):
            return to_grey(values)
    raise Refused(f"pattern {name}: has to return {height} x {width} numbers from 0 to 1")


def to_grey(values):
    """Values from 0 to 1 as the nearest grey levels, uint8; halves go up."""
    return np.uint8(values * 255.0 + 0.500000001)


def read_pgm(path):
    """Picture of a PGM file, P5 or P2 with up to 16 bits, uint8 (height, width)."""
    if not path.is_file():
        raise Refused(f"IMAGES: {path} is neither a file nor one of the patterns {', '.join(PATTERNS)}")
    content = path.read_bytes()
    space = rb"(?:\s|#[^\r\n]*[\r\n])"
    header = re.match(rb"P([25])" + 3 * (space + rb"+0*([1-9]\d{0,8})") + rb"(?:\r\n|%b)" % space, content[:4096])
    try:
        kind, width, height, maxval = map(int, header.groups())
        raster = content[header.end() :]
        if kind == 5:
            samples = np.frombuffer(raster, "u1" if maxval < 256 else ">u2")
        else:
            samples = np.fromiter(map(int, re.sub(rb"#[^\r\n]*", b" ", raster).split()), "i8").view("u8")
        if not samples.max() <= maxval <= 65535:
            raise ValueError
        return to_grey(samples.reshape(height, width) / maxval)
    except (AttributeError, ValueError, OverflowError):
        raise Refused(f"{path}: isn't a whole PGM file, P5 or P2; the README shows how to convert a picture") from None


def pgm(picture):
    """Bytes of a binary PGM file of a uint8 picture."""
    return b"P5\n%d %d\n255\n" % picture.shape[::-1] + picture.tobytes()


def png(picture):
    """Bytes of a grey PNG file of a uint8 picture."""
    size = np.array(picture.shape[::-1], ">u4").tobytes()
    file = b"\x89PNG\r\n\x1a\n"
    for chunk in (b"IHDR" + size + b"\x08\0\0\0\0", b"IDAT" + zlib.compress(np.insert(picture, 0, 0, axis=1)), b"IEND"):
        file += (len(chunk) - 4).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    return file


def cut(pictures, width, height):
    """Targets: the patches of pictures, filled up with their edges, float32 (patches, width * height), 0 to 1."""
    patches = []
    for picture in pictures:
        tall, wide = picture.shape
        padded = np.pad(picture, ((0, -tall % height), (0, -wide % width)), "edge")
        grid = padded.reshape(-1, height, padded.shape[1] // width, width)
        patches.append(grid.swapaxes(1, 2).reshape(-1, height * width))
    return np.concatenate(patches) / float32(255)


def join(patches, shapes, width, height):
    """A list of pictures of these shapes, put together from the patches that `cut` makes of them."""
    pictures = []
    for tall, wide in shapes:
        rows = -(-tall // height)
        columns = -(-wide // width)
        grid, patches = np.split(patches, [rows * columns])
        picture = grid.reshape(rows, columns, height, width).swapaxes(1, 2).reshape(rows * height, -1)
        pictures.append(picture[:tall, :wide])
    return pictures


def mean_squares(pictures, decoded):
    """Mean squared error of each picture, and of all pixels together, black and white being 1 apart."""
    losses = [np.mean(((a - float32(b)) / 255) ** 2, dtype=float) for a, b in zip(pictures, decoded)]
    return np.array(losses), np.average(losses, weights=[picture.size for picture in pictures])


def contact_sheet(pictures, decoded):
    """Columns of original, decoded and 8 times the difference, scaled down to some 2048 pixels a side."""
    tallest = max(map(len, pictures))
    total = sum(picture.shape[1] for picture in pictures)
    every = max(3 * tallest, total) // 2048 + 1
    columns = []
    for original, output in zip(pictures, decoded):
        difference = np.minimum(8 * abs(np.int64(original) - output), 255)
        column = np.vstack([original, output, difference])[::every, ::every]
        columns.append(np.pad(column, ((0, 3 * tallest // every + 1 - len(column)), (0, 2)), constant_values=128))
    return np.uint8(np.hstack(columns))


def write_files(folder, files):
    """Write files, {name: bytes}, to a folder beside their places, then move all there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".", dir=folder) as beside:
            for name, content in files.items():
                Path(beside, name).write_bytes(content)
            for name in files:
                Path(beside, name).replace(folder / name)
    except (OSError, ValueError) as error:
        raise Refused(f"OUTPUT_DIR: can't write: {error}") from None


# ------------------------------------------------------------------------------------------------ report


def say(line):
    """Print a line; if its reader has gone away, the work goes on without."""
    try:
        print(line, flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            raise


def report(names, pictures, decoded, content):
    """Print what came back: the bytes, and up to 13 pictures, spread evenly from the worst to the best."""
    losses, loss = mean_squares(pictures, decoded)
    for n in np.argsort(-losses)[np.unique(np.linspace(0, len(losses) - 1, 13, dtype=int))]:
        say(f"{names[n]}: {quality(losses[n])}")
    size = len(content)
    pixels = sum(picture.size for picture in pictures)
    say(f"all pictures: {quality(loss)}")
    say(f"compressed.npz: {size} bytes, {8 * size / pixels:.3f} bits per pixel, {size / pixels:.3f} of raw")
    if size > pixels:
        say("larger than the pixels: try WIDTH = HEIGHT = 8 and LATENT_DIM = 32, or a lower TARGET_PSNR")


# -------------------------------------------------------------------------------------------------- main


def check(name, value, least, most):
    """Refuse a constant out of range, or one that isn't of the type of `least` or int."""
    kind = type(least)
    if type(value) not in (int, kind) or not least <= value <= most:
        raise Refused(f"{name}: has to be of type {kind.__name__}, from {least} to {most}")


def check_constants():
    """Refuse constants that can't be used; patterns check their own."""
    check("WIDTH", WIDTH, 1, 1_000_000)
    check("HEIGHT", HEIGHT, 1, 1_000_000)
    check("LATENT_DIM", LATENT_DIM, 1, 1_000_000)
    check("EPOCHS", EPOCHS, 1, 1_000_000_000)
    check("LEARNING_RATE", LEARNING_RATE, 0.001, 2)
    check("TARGET_PSNR", TARGET_PSNR, 1.0, 100)
    check("LOG_EVERY", LOG_EVERY, 1, 1_000_000_000)
    check("SEED", SEED, 0, 1_000_000_000)
    if not isinstance(IMAGES, (tuple, list)) or not IMAGES or not all(
            isinstance(name, str) for name in (OUTPUT_DIR, *IMAGES)):
        raise Refused('IMAGES and OUTPUT_DIR: have to be like ("cat.pgm",), with a comma, and "outputs"')


def run():
    """Do what the constants say. Returns the exit status."""
    check_constants()
    here = Path(__file__).resolve().parent
    folder = here / os.path.expanduser(OUTPUT_DIR)
    pictures = [draw(name, WIDTH, HEIGHT) if name in PATTERNS else read_pgm(here / name) for name in IMAGES]
    named = zip(IMAGES, pictures)
    write_files(folder, {f"generated_{name}.pgm": pgm(picture) for name, picture in named if name in PATTERNS})

    targets = cut(pictures, WIDTH, HEIGHT)
    codes, decoder = start(targets, LATENT_DIM, SEED)
    say(f"codes to train: {len(codes)}, numbers per code: {len(decoder) - 1}")
    codes, decoder, losses = train(targets, codes, decoder, EPOCHS, LEARNING_RATE, LOG_EVERY)

    content = compress(pictures, codes, decoder, WIDTH, HEIGHT, TARGET_PSNR)
    decoded = decompress(content)
    files = {f"final_decoded_{n}.pgm": pgm(picture) for n, picture in enumerate(decoded)}
    files["compressed.npz"] = content
    files["comparison.png"] = png(contact_sheet(pictures[:8], decoded[:8]))
    write_files(folder, files)
    report(IMAGES, pictures, decoded, content)
    return 0 if len(losses) == EPOCHS else 130


def main():
    """Run the program. Returns the exit status: 0, 2 after a mistake, 130 after Ctrl-C."""
    try:
        return run()
    except KeyboardInterrupt:
        status, words = 130, "interrupted before all results were saved"
    except (Refused, OSError, UnicodeError, MemoryError) as error:
        status, words = 2, str(error) or "not enough memory"
    print("neural_compression.py:", words, file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
