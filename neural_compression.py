"""Image compression by latent-code optimisation.

Pictures are cut into patches. Each gets a small vector of its own, its latent code; one decoder, shared by all, turns a code
into samples: a linear map with a bias, then a sigmoid. Training moves both by gradient descent on the mean squared error. Then
both are rounded to whole numbers, chosen by what they cost, and written by an entropy coder. Decoded pictures may be smoothed.

Run this file, look at the pictures in OUTPUT_DIR, edit a constant, run it again. From a notebook, the same in five calls: cut,
start, train, compress and decompress, as in `run`. Left out are deeper decoders, prediction of samples, and transparency.
"""

import signal
if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until training begins, Ctrl-C ends the program at once
import os
import re
import sys
import zlib
from contextlib import redirect_stdout, suppress
from ctypes import CDLL
from glob import escape, glob
from inspect import getsource
from io import StringIO
from math import ceil, cos, hypot, inf, log2, log10, pi, sqrt
from numbers import Integral, Real
from pathlib import Path
from time import perf_counter
from traceback import extract_tb
from typing import NamedTuple

# The last digits of NumPy's products depend on how many threads share them out. With one, the same seed gives the same bytes.
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ.setdefault("GOMP_SPINCOUNT", "2000")  # threads wait awake for the next epoch, and sleep soon after
import numpy as np
from numba import config, get_thread_id, njit, prange
from numba.core.caching import InTreeCacheLocator
from numpy import float32
from numpy.lib.stride_tricks import sliding_window_view
from numpy.linalg import eigh, inv, norm, qr, svd

WIDTH = 256  # width of a pattern, and of the patches that pictures are cut into, in pixels
HEIGHT = 256  # height of both
IMAGES = ("radial", "sine", "checkerboard")  # patterns, or PGM and PPM files beside this program; * stands for any name
SINE_FREQUENCY = 40  # periods of the sine pattern along each side
CHECKER_SQUARES = 16  # squares of the checkerboard pattern along each side
LATENT_DIM = 16  # numbers per code, but never more than there are patches, or samples in one
EPOCHS = 1000  # training steps, each over all samples of all patches
LEARNING_RATE = 1.0  # how far a step goes, at most 2; 1 suits every picture that was tried
TARGET_PSNR = None  # dB that the compressed file has to reach; None asks for all that was learned
LOG_EVERY = 10  # epochs per line of the log
SEED = 0  # seed of the random numbers that training starts from; with as many numbers per code as patches there are none
OUTPUT_DIR = "outputs"  # folder for the results, beside this program

HERE = Path(__file__).resolve().parent


def run():
    """Do what the constants say. Ctrl-C ends training after the current epoch, and the search for a rounding step soon."""
    check_constants()
    folder = HERE / os.path.expanduser(OUTPUT_DIR)
    names, pictures = load_pictures(IMAGES, WIDTH, HEIGHT, folder)

    # Patches are no wider than the widest picture, and no higher than the highest.
    width = min(WIDTH, max(picture.shape[1] for picture in pictures))
    height = min(HEIGHT, max(picture.shape[0] for picture in pictures))
    targets, gain = cut(pictures, width, height)
    write_patterns(folder, names, pictures)
    load_kernels()

    codes, decoder = start(targets, LATENT_DIM, SEED)
    say_sizes(targets, codes, LATENT_DIM)

    catch_ctrl_c()
    codes, decoder, _ = train(targets, codes, decoder, EPOCHS, LEARNING_RATE, LOG_EVERY, gain)
    content = compress(pictures, codes, decoder, width, height, TARGET_PSNR)
    decoded = decompress(content)
    write_results(folder, pictures, decoded, content)
    report(folder, names, pictures, decoded, content, TARGET_PSNR)


# ---------------------------------------------------------------------------------------------- learning
#
# Names, with the sizes of a grey photograph of 768 x 512 in patches of 8 x 8, and latent_dim 32:
#
#     samples    numbers in a patch: width * height * channels                        64
#     targets    the patches' samples, from 0 to 1         (patches, samples)         6144 x 64
#     codes      the latent codes, each followed by a 1    (patches, latent_dim + 1)  6144 x 33
#     decoder    a row per number, the bias as the last    (latent_dim + 1, samples)  33 x 64
#     logits     codes @ decoder                           (patches, samples)         6144 x 64
#
# The decoder, and what training minimises; i is a patch, p a sample, k a number of a code:
#
#     logit      z[i, p] = sum over k of codes[i, k] decoder[k, p]
#     output     y[i, p] = sigmoid(z) = 1 / (1 + exp(-z))
#     loss               = mean over i and p of (y - target)^2
#     delta      d[i, p] = (y - target) y (1 - y), which is d loss / d z but for a constant factor
#     gradient of codes[i, k]:    sum over p of d[i, p] decoder[k, p]
#     gradient of decoder[k, p]:  sum over i of d[i, p] codes[i, k]
#
# The columns of the decoder are treated like codes: a logit is the product of two vectors, the code of a patch and the column
# of a sample, and both are learned by the same rule. Patches and samples are the two sides; the one that has more vectors is
# called long, the other one short. The vectors of the long side are cut into tiles of TILE, which the threads share out. Those
# of the short side are taken four at a time.

TILE = 512
# These four were found by `tests/quality.py choices`.
CODE_RATE = 0.15  # how far a code moves per epoch, at first
SAMPLE_RATE = 1.0  # how far the logits of a sample move per epoch, at first, about
CODE_NORM = 16  # length of a code as a vector, if there are as many numbers per code as patches
BETAS = 0.8, 0.95  # of both of Adam's running means: in the first epoch, and in the last


@njit(fastmath=True, error_model="numpy")
def sigmoid(z):
    """1 / (1 + exp(-z)) of a float32, to 1e-6, in a form that the compiler vectorises."""
    # exp(-z) = exp(x)^64 with x = -z / 64. Three terms of the series give e = exp(x) - 1, and six squarings the power:
    # (1 + e)^2 = 1 + (e e + 2 e), so no digits get lost. The error of the series, x^4 / 24, is below 1e-6 in the result:
    # 64 x^4 / 24 times y (1 - y) is largest at z = 4. The last line is 1 / (2 + e), in a form that is exactly 1/2 for z = 0
    # even if the compiler approximates the division: `train` fills up with logits of 0 and targets of 1/2.
    x = max(float32(-18), min(float32(18), z)) / float32(-64)
    e = x + x * x * (float32(0.5) + x / float32(6))
    for _ in range(6):
        e = e * e + e + e
    return float32(0.5) - e / (float32(4) + e + e)


@njit(forceinline=True, fastmath=True, error_model="numpy")
def adam(vectors, gradient, mean, square, rate, share):
    """Move vectors against their gradients, in place: Adam with one second moment per vector.

    vectors      float32 (rows, size), a vector in each column
    gradient     float32 (rows + 2 or more, size); two rows behind those of the vectors are overwritten
    mean         float32 (learned rows, size): running mean of the gradients; rows beyond don't move
    square       float32 (1, size): running mean of the gradients' squared lengths
    rate, share  how far a vector moves, about; the weight of this gradient in the running means
    """
    # Adam is by Kingma and Ba (2015), and so is the 1e-8: it keeps steps small where the gradient almost vanishes, as in
    # pictures in black and white. One second moment per vector takes less memory than one per number, and doesn't depend on
    # the basis of the codes.
    rows, size = vectors.shape
    squared_length = rows
    step = rows + 1
    for n in range(size):
        gradient[squared_length, n] = 0
    for k in range(len(mean)):
        for n in range(size):
            number = gradient[k, n]
            gradient[squared_length, n] += number * number
            change = number - mean[k, n]
            mean[k, n] += float32(share) * change
    for n in range(size):
        change = gradient[squared_length, n] - square[0, n]
        square[0, n] += float32(share) * change
        length = sqrt(square[0, n])
        gradient[step, n] = float32(rate) / (length + float32(1e-8))
    for k in range(len(mean)):
        for n in range(size):
            vectors[k, n] -= gradient[step, n] * mean[k, n]


@njit(forceinline=True, fastmath=True, error_model="numpy")
def train_tile(tile, thread, long, mean, square, short, targets, rooms, gradients, errors, rate, share):
    """One epoch of a tile of the long side, and its part in the gradient of the short side: see `train_epoch`."""
    vectors = long[tile]
    gradient = gradients[tile]
    room = rooms[thread]
    rows, size = vectors.shape
    delta = room[rows:]
    for k in range(rows):
        for n in range(size):
            room[k, n] = 0
    squared_error = float32(0)
    for first in range(0, short.shape[1], 4):
        # Four at a time, so that each number of the long side is read once for four of the short side. `delta` first holds the
        # logits, which are no longer needed when delta is known.
        for i in range(4):
            for n in range(size):
                delta[i, n] = 0
        for k in range(rows):
            for n in range(size):
                for i in range(4):
                    delta[i, n] += short[k, first + i] * vectors[k, n]

        # Vectors that are missing keep their logits, which are 0: the right delta.
        for i in range(min(4, targets.shape[1] - first)):
            for n in range(size):
                output = sigmoid(delta[i, n])
                error = output - targets[tile, first + i, n]
                delta[i, n] = error * (output - output * output)
                squared_error += error * error

        # On either side, the gradient is the sum of delta times the other side's vectors. The four sums of the short side have
        # names of their own, so that they stay in registers.
        for k in range(rows):
            a = b = c = d = float32(0)
            for n in range(size):
                a += delta[0, n] * vectors[k, n]
                b += delta[1, n] * vectors[k, n]
                c += delta[2, n] * vectors[k, n]
                d += delta[3, n] * vectors[k, n]
                total = room[k, n]
                for i in range(4):
                    total += delta[i, n] * short[k, first + i]
                room[k, n] = total
            gradient[k, first] = a
            gradient[k, first + 1] = b
            gradient[k, first + 2] = c
            gradient[k, first + 3] = d
    adam(vectors, room, mean[tile], square[tile], rate, share)
    errors[tile] = squared_error


@njit(parallel=True, fastmath=True, error_model="numpy")
def train_epoch(long, mean, square, short_vectors, short_mean, short_square, targets, rooms, gradients, errors, rates, share):
    """One epoch, in place: both sides move. Returns the squared error. Threads share out the tiles of the long side.

    long, mean, square  float32 (tiles, ...): the long side, see `with_moments`
    short_vectors, ...  the same of the short side, in one tile, whose size is a multiple of 4
    targets             float32 (tiles, vectors of the short side, TILE); for what fills up, see `train`
    rooms               float32 (threads, rows + 4, TILE), overwritten: the gradient of a tile, then delta
    gradients, errors   float32 (tiles, rows + 2, size of the short side) and (tiles), overwritten
    rates, share        see `adam`; a rate for each side
    """
    # `prange` counts in uint64, which slows the kernel down. The body is a function of its own, since that compiles faster.
    short = short_vectors[0]
    for tile in prange(len(long)):
        thread = get_thread_id()
        train_tile(np.int64(tile), thread, long, mean, square, short, targets, rooms, gradients, errors, rates[0], share)

    # The gradients of the short side are added in a fixed order, whatever the threads did.
    squared_error = 0.0
    for tile in range(len(errors)):
        squared_error += errors[tile]
    for tile in range(1, len(gradients)):
        for k in range(len(short)):
            for n in range(short.shape[1]):
                gradients[0, k, n] += gradients[tile, k, n]
    adam(short, gradients[0], short_mean[0], short_square[0], rates[1], share)
    return squared_error


def aligned_zeros(*shape):
    """A float32 array of 0 whose address is a multiple of 4096."""
    # Multiples of 64 let processors with registers of 64 bytes read 16 numbers at once; otherwise training takes 1.1 to 1.4
    # times as long. Multiples of 4096, a page, keep arrays from getting into each other's way in the cache by chance.
    size = int(np.prod(shape))
    room = np.zeros(size + 1024, float32)
    first = -room.ctypes.data % 4096 // 4
    return room[first : first + size].reshape(shape)


def tiled(array, size, fill):
    """An array (rows, count), filled up and cut into tiles, float32 (tiles, rows, size)."""
    rows, count = array.shape
    missing = -count % size
    padded = np.pad(float32(array), ((0, 0), (0, missing)), constant_values=fill)
    tiles = aligned_zeros(padded.shape[1] // size, rows, size)
    tiles[:] = np.hsplit(padded, len(tiles))
    return tiles


def with_moments(vectors, learned, size):
    """Vectors (rows, count) cut into tiles, and Adam's two moments of them; the rows from `learned` on stay."""
    tiles = tiled(vectors, size, 0)
    mean = aligned_zeros(len(tiles), learned, size)
    square = aligned_zeros(len(tiles), 1, size)
    return tiles, mean, square


def start(targets, latent_dim, seed):
    """Codes, (patches, latent_dim + 1), and decoder, (latent_dim + 1, samples), to start from; each code ends in a 1.

    targets are (patches, samples), from 0 to 1. latent_dim, at least 1, is lowered to the number of patches, or of samples,
    if above: a matrix of logits has no higher rank, so more numbers would be of no use.
    """
    targets = check_targets(targets)
    check("latent_dim", latent_dim)
    check("seed", seed)
    patches, samples = targets.shape
    latent_dim = min(int(latent_dim), patches, samples)
    if latent_dim == patches:
        # Each patch has a direction of its own. A step for one patch changes the others only through the 1 behind each code,
        # that is, through the bias. Long codes make this influence small.
        codes = CODE_NORM * np.eye(patches)
    else:
        # The codes are the principal components of the targets' logits: training then needs a tenth of the epochs
        # (`tests/quality.py start`).
        clipped = np.clip(np.float64(targets), 0.02, 0.98)
        logits = np.log(clipped / (1 - clipped))
        logits -= logits.mean(axis=0)
        long = logits if patches > samples else logits.T
        axes = eigh(long.T @ long)[1][:, -latent_dim:]
        codes = logits @ axes if patches > samples else axes
        # The numbers get a mean square of 1, like the 1 behind them, and a little noise, so that all of them learn.
        codes = codes * (sqrt(patches) / np.maximum(norm(codes, axis=0), 1e-3))
        codes += 0.01 * np.random.default_rng(seed).standard_normal(codes.shape)
    codes = np.insert(codes, latent_dim, 1, axis=1)
    return codes, np.zeros((latent_dim + 1, samples))


def train(targets, codes, decoder, epochs, learning_rate=1.0, log_every=10, gain=1.0):
    """Train codes and decoder, one step over all samples per epoch; Ctrl-C ends it after the current epoch.

    targets  (patches, samples), from 0 to 1
    codes    (patches, latent_dim + 1), the last number of each being 1, as from `start`
    decoder  (latent_dim + 1, samples), the bias in its last row
    gain     as from `cut`: with it, losses are those of pictures, to 0.2 dB
    Returns both, float32, and the loss before each epoch. Raises ValueError if an argument can't be used.
    """
    targets, codes, decoder = check_model(targets, codes, decoder)
    check("epochs", epochs)
    check("log_every", log_every)
    check("learning_rate", learning_rate)
    epochs, log_every = int(epochs), int(log_every)
    load_kernels()

    # Where all is nearly middle grey, logits have only a little way to go: larger steps would go too far.
    patches, samples = targets.shape
    rows = len(decoder)
    contrast = sqrt(np.mean((targets - 0.5) ** 2, dtype=float))
    learning_rate = float(learning_rate) * min(1, 20 * contrast)

    # How far a logit moves with its sample's vector depends on how long codes are. A code's last number, the 1, isn't learned.
    code_length = sqrt(np.sum(np.square(codes, dtype=float)) / patches)
    code_side = codes.T, rows - 1, CODE_RATE * learning_rate
    sample_side = decoder, rows, SAMPLE_RATE * learning_rate / code_length
    sides = [code_side, sample_side]
    if patches > samples:
        targets = targets.T
    else:
        sides.reverse()
    (long, long_learned, long_rate), (short, short_learned, short_rate) = sides

    # What is filled up has vectors of 0, and on the long side targets of 1/2: no error, so it never moves.
    long_side = with_moments(long, long_learned, TILE)
    short_side = with_moments(short, short_learned, len(targets) + -len(targets) % 4)
    targets = tiled(targets, TILE, 0.5)
    rooms = aligned_zeros(config.NUMBA_NUM_THREADS, rows + 4, TILE)
    gradients = aligned_zeros(len(targets), rows + 2, short_side[0].shape[2])
    errors = np.zeros(len(targets), float32)

    losses = []
    total_weight = 0
    scale = float(gain) / (patches * samples)
    began = perf_counter()
    try:
        for epoch in range(epochs):
            # The rates fall to 0 along half a cosine (Loshchilov and Hutter 2017), while the running means grow longer,
            # from 5 epochs to 20, which acts like larger batches (Smith and others 2018). In a running mean, the weight of a
            # gradient falls by the factor beta per epoch. With the share 1 / total weight for the newest, it is a mean from
            # the first epoch on (Adam's bias correction).
            falling = (1 + cos(pi * epoch / epochs)) / 2
            beta = falling * BETAS[0] + (1 - falling) * BETAS[1]
            total_weight = 1 + beta * total_weight
            rates = falling * long_rate, falling * short_rate
            squared_error = train_epoch(*long_side, *short_side, targets, rooms, gradients, errors, rates, 1 / total_weight)
            losses.append(scale * squared_error)
            log_epoch(losses, epochs, log_every, perf_counter() - began)
            if PRESSES:
                say(f"Ctrl-C: training ends after epoch {epoch + 1}")
                break
    except KeyboardInterrupt:
        if PRESSES or not losses:  # a second press in the program; in a notebook, one before anything is learned
            raise
    # The vectors of a side are its first array, in tiles.
    vectors = [np.concatenate(side[0], axis=1) for side in (long_side, short_side)]
    codes, decoder = vectors if patches > samples else reversed(vectors)
    return codes[:, :patches].T, decoder[:, :samples], losses


def log_epoch(losses, epochs, log_every, seconds):
    """Print a line every log_every epochs and at the last, with the time that is left."""
    epoch = len(losses)
    loss = losses[-1]
    if epoch % log_every == 0 or epoch == epochs:
        left = seconds * (epochs / epoch - 1)
        times = f"{seconds:.2f} s, {left:.1f} s left"
        say(f"epoch {epoch:4}/{epochs}  loss {loss:.3e}  {quality(loss)}  {times}")


# ---------------------------------------------------------------------------------------------- rounding
#
# From `components` on, codes are transposed, and the bias is a row of the decoder like others. Both are expressed in
# components, most of whose numbers round to 0:
#
#     codes      (components, patches), decoder (components, samples): logits = codes.T @ decoder
#
# Their whole numbers have the same names and layouts. With |codes| the length of a component's row of whole codes:
#
#     logits = step * (codes / |codes|).T @ decoder, which is turned back if it is expressed in cosines
#
# The decoder's rows have a length of 1 at first, but for components of single patches, and get that of the codes before being
# rounded. So 1 more in a code and 1 more in the decoder add about as much to the logits' squared error: step^2.

STEPS = 64  # rounding steps to choose from, per factor of two: a step is 2^(exponent / STEPS)
PRICE = 0.15  # squared error allowed per bit saved; 1 is what a number wrong by 1 adds (`tests/quality.py rounding`)
PASSES = 4, 15  # least and most passes in which `choose` improves the numbers; see `compress` for where there are fewer
SMOOTHINGS = 4  # strengths of smoothing to choose from; 0 is none
ENOUGH_PATCHES = 2**14  # to find what is shared by all: see `thinning`
OWN_CODE = 16  # code of a patch that has a component of its own
ZERO_BELOW = 0.8  # cosines of the decoder with absolute values below this become 0 (`tests/quality.py rounding`)


def components(codes, decoder, apart):
    """Of what `train` returns, codes, (components, patches), and decoder, (components, samples), with the same logits.

    If apart, each patch gets a component of its own, and logits are clipped to -8 to 8.
    """
    decoder = np.float64(decoder)
    if apart:
        # A row of the decoder is the logits of one patch, so what repeats in it repeats in the file. Logits beyond -8 and 8 are
        # black or white in 8 bits. OWN_CODE is above 8, so that the code doesn't round to 0 before the decoder does.
        logits = np.clip(codes @ decoder, -8, 8)
        return OWN_CODE * np.eye(len(codes), dtype=float32), logits / OWN_CODE

    # Otherwise components are those of the singular value decomposition of the logits. Its right singular vectors, the rows of
    # the decoder, depend on the codes only through codes.T @ codes = root.T @ root, so a small matrix is decomposed.
    root = qr(np.float64(codes), mode="r")
    rows = svd(root @ decoder, full_matrices=False)[2]
    return float32(rows @ decoder.T) @ codes.T, rows


def sparse(codes, decoder, step):
    """Codes and decoder, rotated so that more codes are below the step: `choose` makes most of these 0. The logits stay."""
    # This is the sparse orthonormal transform (Sezer, Harmanci and Guleryuz 2008). Codes below a limit become 0, and the
    # rotation of the codes that comes nearest to what is left follows by a singular value decomposition. Both are repeated,
    # while the limit falls (`tests/quality.py rounding`). What is found for one step suits those near by, too.
    some = codes[:, :: thinning(codes)]
    rotation = np.eye(len(codes))
    for limit in np.geomspace(3 * step, 0.7 * step, 40):
        rotated = float32(rotation) @ some
        rotated[abs(rotated) < limit] = 0
        left, _, right = svd(rotated @ some.T)
        rotation = left @ right
    codes = float32(rotation) @ codes
    order = np.argsort(-norm(codes, axis=1), kind="stable")
    return codes[order], (rotation @ decoder)[order]


def thinning(codes):
    """Every how many patches one is used to find what is shared by all."""
    return codes.shape[1] // ENOUGH_PATCHES + 1


def step_of(exponent):
    """The rounding step: what 1 in a whole number is worth."""
    return 2 ** (exponent / STEPS)


def choose(codes, decoder, step, passes, targets, bases):
    """Whole numbers in the place of codes and decoder, int64 in the same layout, improved in so many passes."""
    # First both are rounded. As the whole codes still point nearly where the codes did, this decoder suits them.
    codes = codes / float32(step)
    lengths = norm(codes, axis=1, keepdims=True)
    codes = np.rint(codes)
    codes, decoder = without_zeros(codes, round_decoder(decoder * lengths, bases))

    # To the squared error of the outputs, 1 more adds about step^2 times the mean square of the sigmoid's slope. PRICE times
    # as much is allowed per bit saved. The 1e-4 is for pictures in black and white, which have no slope.
    some = targets[:: thinning(codes)]
    slopes = some - some**2
    price = PRICE * step**2 * np.mean(slopes**2 + 1e-4)
    some_by_sample = np.ascontiguousarray(some.T)
    for _ in range(passes):
        # The codes move, with logits = step * codes.T @ per_length, where per_length stays though lengths change.
        per_length = turn_back(decoder, bases) / row_lengths(codes)
        units = np.ascontiguousarray(step * per_length, float32)
        move(codes, units, targets, bit_costs(codes, price))

        # Then the decoder is fitted to these codes, at no cost: it moves in eighths, since it is rounded once more.
        lengths = row_lengths(codes)
        eighths = np.ascontiguousarray(np.rint(8 * per_length * lengths), float32)
        units = float32(step / 8 / lengths) * codes[:, :: thinning(codes)]
        no_costs = np.zeros(len(eighths), float32)
        move(eighths, units, some_by_sample, no_costs)
        codes, decoder = without_zeros(codes, round_decoder(eighths / 8, bases))
    return np.int64(codes), np.int64(decoder)


def without_zeros(codes, decoder):
    """Both without the components whose codes are all 0, or whose row of the decoder is: these add nothing to the logits."""
    used = codes.any(axis=1) & decoder.any(axis=1)
    return codes[used], decoder[used]


def round_decoder(scaled, bases):
    """Whole numbers of a decoder, (components, samples), expressed in bases."""
    # In cosines most are small. Some more of them become 0: that adds little error, and zeros take few bits.
    scaled = turn(scaled, bases)
    numbers = np.rint(scaled)
    if bases is not None:
        numbers[abs(scaled) < ZERO_BELOW] = 0
    return numbers


def row_lengths(numbers):
    """Lengths of rows, (rows, 1), or 1 for a row of zeros."""
    return np.maximum(norm(numbers, axis=1, keepdims=True), 1)


def bit_costs(numbers, price):
    """What it costs if the absolute value of a whole number in a row grows by 1, float32 (rows)."""
    # In a geometric distribution with the mean of the row, m, a value that is larger by 1 takes log2(1 + 1 / m) bits more.
    means = np.mean(abs(numbers), axis=1)
    return float32(price * np.log2(1 + 1 / means))


@njit(forceinline=True, fastmath=True, error_model="numpy")
def move_vector(i, numbers, units, targets, costs):
    """Move the whole numbers of column i: see `move`."""
    rows, others = units.shape
    logits = np.zeros(others, float32)
    outputs = np.empty(others, float32)
    moved = np.empty(others, float32)
    for k in range(rows):
        for n in range(others):
            logits[n] += numbers[k, i] * units[k, n]
    square = float32(0)
    for n in range(others):
        output = sigmoid(logits[n])
        error = output - targets[i, n]
        outputs[n] = output
        square += error * error

    for k in range(rows):
        # The squared error is taken for a parabola (Gauss and Newton), curvature * (number - bottom)^2, but for a
        # constant. With cost * |number| added, it is least where the bottom is drawn nearer to 0 by cost / (2 curvature)
        # (soft thresholding). The 1e-9 is for pictures in black and white, where all may be flat.
        gradient = float32(0)
        curvature = float32(1e-9)
        for n in range(others):
            output = outputs[n]
            slope = (output - output * output) * units[k, n]
            gradient += (output - targets[i, n]) * slope
            curvature += slope * slope
        number = numbers[k, i]
        cost = costs[k]
        bottom = number - gradient / curvature
        nearer = float32(0.5) * cost / curvature
        size = max(abs(bottom) - nearer, float32(0))
        proposed = np.rint(np.copysign(size, bottom))
        change = proposed - number
        if change == 0:
            continue

        # The parabola only proposes. The number moves if the true squared error plus cost falls.
        moved_square = float32(0)
        for n in range(others):
            output = sigmoid(logits[n] + change * units[k, n])
            error = output - targets[i, n]
            moved[n] = output
            moved_square += error * error
        growth = abs(proposed) - abs(number)
        if moved_square + cost * growth < square:
            numbers[k, i] = proposed
            square = moved_square
            for n in range(others):
                logits[n] += change * units[k, n]
                outputs[n] = moved[n]


@njit(parallel=True, fastmath=True, error_model="numpy")
def move(numbers, units, targets, costs):
    """Move whole numbers, one at a time, to where squared error and cost are least, in place. Threads share the vectors.

    numbers  float32 (rows, count): a vector in each column
    units    float32 (rows, others): what logits get if a number grows by 1, so numbers.T @ units are the logits
    targets  float32 (count, others)
    costs    float32 (rows): what it costs if an absolute value grows by 1, as a squared error
    """
    for i in prange(len(targets)):
        move_vector(np.int64(i), numbers, units, targets, costs)


def cosines(size):
    """Cosines of rising frequency, orthonormal (size, size): the discrete cosine transform, type 2."""
    places = np.arange(size)
    rows = np.cos(pi / size * np.outer(places, places + 0.5))
    return rows / norm(rows, axis=1, keepdims=True)


def patch_bases(width, height, colour):
    """Orthonormal bases for the rows, columns and channels of a patch: cosines, and opponent colours."""
    # The decoder of cut pictures is smooth, so in these bases most of its numbers are 0. As they are orthonormal, an error of
    # one step costs the same as in pixels.
    opponents = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]])
    colours = opponents / norm(opponents, axis=1, keepdims=True) if colour else np.eye(1)
    return cosines(height), cosines(width), colours


def turn(rows, bases):
    """A decoder, or multiples of it, (components, samples), expressed in bases; None stands for pixels."""
    if bases is None:
        return rows
    grid = rows.reshape(len(rows), *map(len, bases))
    return np.einsum("khwc,ih,jw,lc->kijl", grid, *bases, optimize=True).reshape(rows.shape)


def turn_back(rows, bases):
    """What `turn` was given, from what it returned: the inverse of an orthonormal basis is its transpose."""
    return turn(rows, bases and [basis.T for basis in bases])


# ---------------------------------------------------------------------------------- compress, decompress


class Record(NamedTuple):
    """All that the file holds, and all that `decompress` has to know, in whole numbers."""

    colour: int  # 1 if a pixel has three channels, 0 if one
    width: int  # of a patch, as is the height
    height: int
    lapped: int  # 1 if patches lap over into their neighbours: see `lap`
    cosines: int  # 1 if the decoder is expressed in `patch_bases`, 0 for pixels
    smoothing: int  # of decoded pictures, below SMOOTHINGS: see `finish`
    exponent: int  # the rounding step is 2^(exponent / STEPS)
    shapes: np.ndarray  # (pictures, 2): height and width
    codes: np.ndarray  # (components, patches)
    decoder: np.ndarray  # (components, samples)


def compress(pictures, codes, decoder, width, height, target_psnr=None):
    """The bytes of the file with the coarsest rounding found that gives pictures with target_psnr dB over all their samples.

    pictures are as in `cut`; codes and decoder are what `train` returns for their patches. Without a target, the file is as
    good as what was learned, to 0.05 dB, and pictures that training made exact stay so. If the target is out of reach, the file
    is nearly as good as can be, and a line says so. Raises ValueError if an argument can't be used.
    """
    targets, gain = cut(pictures, width, height)
    width, height = int(width), int(height)
    targets, codes, decoder = check_model(targets, codes, decoder)
    check("target_psnr", target_psnr)
    load_kernels()

    colour = int(pictures[0].ndim == 3)
    lapped = int(gain != 1)  # `cut` returns 1 if patches are plain
    are_cut = len(targets) > len(pictures)
    in_cosines = int(are_cut and max(width, height) <= LARGEST_BASIS)
    head = colour, width, height, lapped, in_cosines
    bases = patch_bases(width, height, colour) if in_cosines else None
    shapes = [picture.shape for picture in pictures]
    sizes = np.array(shapes)[:, :2]

    # Pictures that training made exact have to stay exact, unless training surpassed the target, which gives room.
    learned = assemble(codes @ decoder, shapes, width, height, lapped)
    losses, learned_loss = mean_squares(pictures, map(to_levels, learned))
    asked = 1.01 * learned_loss if target_psnr is None else 10 ** (-float(target_psnr) / 10)
    exact = (losses == 0) & (asked <= 1.01 * learned_loss)

    # Large pictures get fewer passes of choosing, which trades error for bits, so there is none where all has to be exact. The
    # step is a guess for photographs. Where numbers are chosen, and the decoder is smooth enough for cosines, `sparse` pays;
    # otherwise, if there would be as many components as patches, it pays that each patch has its own.
    most = int(np.clip(1e7 / targets.size, *PASSES))
    if exact.all():
        most = 0
    step = 16 * sqrt(max(learned_loss, asked)) or 1
    pays = in_cosines and most
    apart = not pays and len(targets) <= min(decoder.shape)
    codes, decoder = components(codes, decoder, apart)
    if pays:
        codes, decoder = sparse(codes, decoder, step)
    options = [0] if exact.any() or not in_cosines else range(SMOOTHINGS)
    say(f"before rounding: {quality(learned_loss)}")

    # If numbers are chosen, up to four tries of one pass come first, and only say where to go on. If training missed a target,
    # choosing may still meet it: the first try has all passes and a fine step instead.
    out_of_reach = learned_loss > asked
    quick = 0 if out_of_reach or not most else 4
    allowed = asked
    stride = 1
    if out_of_reach:
        allowed = inf
        step /= 64
        stride = 2 * STEPS
    # At the finest step, the longest row of codes is 2^22 steps long: float32 holds such whole numbers. It is the last
    # resort, where numbers are only rounded, and always passes. The 1e-9 is for codes that are all 0.
    longest = norm(codes, axis=1).max()
    finest = ceil(STEPS * log2(longest / 2**22 + 1e-9))
    exponent = max(finest, round(STEPS * log2(step)))

    # `good` is the coarsest exponent that has passed, `bad` the finest that has failed; nothing between them has been tried
    # with all passes. What is kept in `best` has passed. `way` is how far to go, coarser if above 0, and `stride` how far at
    # least. The search ends when a try passes with nearly all of the loss that is allowed, or without any component.
    best = None
    good, bad = -inf, inf
    while bad - good > 1:
        passes = 1 if quick else most
        if exponent == finest:
            passes = quick = 0
        numbers = choose(codes, decoder, step_of(exponent), passes, targets, bases)
        record = Record(*head, 0, exponent, sizes, *numbers)
        record, losses, loss = best_smoothing(record, pictures, options)
        say(f"rounding step {step_of(exponent):.4g}: {quality(loss)}{', a first look' if quick else ''}")

        # The aim is a little below what is allowed; more so for one pass: more passes trade more error for bits.
        if quick:
            way = distance(loss, 0.95 * allowed, learned_loss)
            quick = 0 if abs(way) <= STEPS // 8 or PRESSES else quick - 1
            exponent = max(finest, exponent + way)
            continue

        # In reach, what was asked stays allowed. Out of reach, it is what is nearly as good as the best try so far.
        keeps_exact = not losses[exact].any()
        if keeps_exact:
            enough = asked if loss <= asked else 1.06 * loss
            allowed = min(allowed, enough)
        way = distance(loss, 0.985 * allowed, learned_loss)
        if exponent == finest or loss <= allowed and keeps_exact:
            best = record, loss
            good = exponent
            way = max(way, stride)
            if numbers[0].size == 0 or loss > 0.97 * allowed > 0:
                break
        else:
            bad = exponent
            way = min(way, -stride)
        if best and PRESSES:
            break

        # The stride doubles, so that flat stretches are passed. If it leads out of the interval, the middle is taken.
        stride *= 2
        exponent = max(finest, exponent + way)
        if not good < exponent < bad:
            exponent = (good + bad) // 2
    record, loss = best
    if target_psnr is not None and loss > asked:
        say(f"TARGET_PSNR {target_psnr} is out of reach: more EPOCHS or a larger LATENT_DIM may allow more")
    say(f"rounding step {step_of(record.exponent):.4g} is taken")
    return pack(record)


def best_smoothing(record, pictures, options):
    """The record with the first of some strengths of smoothing beyond which the loss rises; and losses as of `mean_squares`."""
    outputs = decode_roughly(record)
    best = record, None, inf
    for option in options:
        record = record._replace(smoothing=option)
        losses, loss = mean_squares(pictures, finish(outputs, record))
        if loss > best[2]:
            break
        best = record, losses, loss
    return best


def distance(loss, aim, learned_loss):
    """How many exponents lie between a loss and a loss of `aim`, about; at most two octaves."""
    # What exceeds the learned loss, an eighth at least, is taken to grow as step^1.5: this took fewest tries. Losses can be 0.
    added = max(loss - learned_loss, loss / 8) + 1e-15
    wanted = max(aim - learned_loss, aim / 8) + 1e-12
    return round(STEPS * np.clip(log2(wanted / added) / 1.5, -2, 2))


def decompress(content):
    """The pictures in the bytes of a file, in the form in which they went into `compress`.

    Raises ValueError if these can't be the bytes of a file. There is no checksum: other damage gives other pictures.
    """
    load_kernels()
    record = unpack(content)
    return finish(decode_roughly(record), record)


def decode_roughly(record):
    """Pictures, float32, of a record, before they are smoothed."""
    bases = patch_bases(record.width, record.height, record.colour) if record.cosines else None
    codes = np.ascontiguousarray(record.codes, float32)  # in one layout, since the last digits of products depend on it
    scale = step_of(record.exponent) / row_lengths(codes)
    per_length = turn_back(record.decoder, bases) * scale
    logits = codes.T @ float32(per_length)
    shapes = [(*shape, *record.colour * [3]) for shape in record.shapes]
    return assemble(logits, shapes, record.width, record.height, record.lapped)


def assemble(logits, shapes, width, height, lapped):
    """Pictures, float32, of these shapes, from the logits of their patches, float32, which are overwritten."""
    # The sigmoid of z is 1/2 + tanh(z / 2) / 2. This never overflows, and needs no room but that of the logits.
    logits /= 2
    outputs = np.tanh(logits, out=logits)
    outputs *= STRETCH / 2 if lapped else 1 / 2
    outputs += 0.5
    pictures = join(outputs, shapes, width, height)
    if lapped:
        inverse = inv(LAPPING)
        for picture in pictures:
            lap(picture, width, height, inverse)
    return pictures


def finish(pictures, record):
    """Pictures, uint8, of what `decode_roughly` makes of a record."""
    if record.smoothing:
        # The strength that is best grows about as the root of the step (`tests/quality.py smoothing`).
        strength = 0.04 * 1.5**record.smoothing * sqrt(step_of(record.exponent))
        pictures = [smooth(picture, strength) for picture in pictures]
    return [to_levels(picture) for picture in pictures]


def mean_squares(pictures, decoded):
    """Mean squared error of each picture, and of all samples together, black and white being 1 apart."""
    losses = []
    for picture, output in zip(pictures, decoded):
        error = np.subtract(picture, output, dtype=float32)
        losses.append(np.mean(error**2, dtype=float) / 255**2)
    sizes = [picture.size for picture in pictures]
    return np.array(losses), np.average(losses, weights=sizes)


# ---------------------------------------------------------------------------------------------- the file
#
# compressed.bin is a sequence of arrays of whole numbers, (rows, columns, planes):
#
#     head       10 numbers, (10, 1, 1): VERSION; colour, width, height, lapped, cosines, smoothing and exponent, as in
#                `Record`; how many components there are, and how many pictures
#     shapes     height and width of each picture: (pictures, 2, 1)
#     codes      for each picture, the rows and columns of its patches: (rows, columns, components)
#     decoder    for each component: (height, width, channels)
#
# They are written in three groups: head and shapes, codes, and decoder. Behind the end of the file, zeros are read.
#
# The coder is a binary range coder with adaptive chances (Martin 1979), in integers only, so that it decodes alike on every
# machine. One function serves both directions: the decoder knows the same as the encoder when a bit comes, so both learn the
# same. A number is written as its length in bits, in unary, its digits, and its sign. Each of these bits has four contexts,
# one for each of four models, which have a chance for each context. The chances are mixed as in PAQ (Mahoney 2005): the logit
# of the result is a weighted sum of their logits, and the weights are learned, too.

VERSION = 5  # of the layout of the file
MOST_SAMPLES, MOST_PICTURES = 2**28, 2**16  # that a file may hold
LARGEST_BASIS = 256  # longest side of patches whose decoder is expressed in cosines
LEAST = np.array([VERSION, 0, 1, 1, 0, 0, 0, -64 * STEPS, 0, 1])  # of the numbers in the head
MOST = np.array([VERSION, 1, MOST_SAMPLES, MOST_SAMPLES, 1, 1, SMOOTHINGS - 1, 64 * STEPS, MOST_SAMPLES, MOST_PICTURES])
HEAD, CODES, DECODER = range(3)  # the groups of arrays
LOW, HIGH, VALUE, PLACE, DECODING = range(5)  # places in the state of the coder
LENGTHS = 32  # numbers have fewer bits than that
DIGIT, SIGN = np.int64([LENGTHS, LENGTHS + 1])  # kinds of bits; lower ones are the places in a length
CONTEXTS = 65521  # chances per model; a prime, since contexts are taken modulo this
# The logits, in 1/256, of chances from 1/8192 to 8191/8192, and the chances, in 1/65536, of logits from -1920 to 1920. None is
# so near to a half before it is rounded that mathematics libraries could differ: a test checks this.
LOGITS = np.int64(np.rint(-256 * np.log(4096 / (np.arange(4096) + 0.5) - 1)))
CHANCES = np.int64(np.rint(65536 / (1 + np.exp(np.arange(1920, -1921, -1) / 256))))


@njit
def transfer_bit(state, stream, chances, weights, contexts, kind, bit):
    """Write a bit to the stream, or read one, and learn from it. Returns the bit.

    state     int64 (5): see LOW and so on
    stream    uint8: the bytes of the file; behind them, nothing is written and zeros are read
    chances   int64 (4, CONTEXTS, 2): for each model and context the chance of a 1, of 65536, and its uses, up to 127
    weights   int64 (kinds, 4): of the models, in 1/65536
    contexts  int64 (4): one for each model
    kind      what the bit is about: a place in a length, or DIGIT, or SIGN
    """
    total = 0
    for j in range(4):
        place = (64 * contexts[j] + kind) % CONTEXTS
        total += weights[kind, j] * LOGITS[chances[j, place, 0] >> 4]
    chance = CHANCES[min(max(total >> 16, -1920), 1920) + 1920]

    # Bytes that are certain are written. low and high bound the next four bytes, read as one number, and value is these bytes
    # in the file: low <= value <= high. The first bytes of low and high differ, as the loop at the end sees to, so low < high.
    # A 1 takes the lower part of the interval, as large as its chance, and a 0 the rest; neither is empty.
    low = state[LOW]
    high = state[HIGH]
    middle = low + ((high - low) * chance >> 16)
    if state[DECODING]:
        bit = int(state[VALUE] <= middle)
    if bit:
        high = middle
    else:
        low = middle + 1

    # A model's weight grows if it leaned to the side of the bit, and so much more as the bit was unexpected.
    surprise = 65536 * bit - chance
    for j in range(4):
        place = (64 * contexts[j] + kind) % CONTEXTS
        own = chances[j, place, 0]
        used = chances[j, place, 1]
        weights[kind, j] += surprise * LOGITS[own >> 4] >> 15
        own += (65535 * bit - own) // (used + 2)
        chances[j, place, 0] = own
        chances[j, place, 1] = min(used + 1, 127)

    # Bytes that low and high share are certain.
    while low >> 24 == high >> 24:
        place = state[PLACE]
        inside = place < len(stream)
        if state[DECODING]:
            state[VALUE] = (state[VALUE] << 8 & 0xFFFFFFFF) + (stream[place] if inside else 0)
        elif inside:
            stream[place] = low >> 24
        state[PLACE] += 1
        low = low << 8 & 0xFFFFFFFF
        high = (high << 8 & 0xFFFFFFFF) + 255
    state[LOW] = low
    state[HIGH] = high
    return bit


@njit
def bit_length(number):
    """Length in bits of a whole number, at least 0."""
    length = 0
    while number >> length:
        length += 1
    return length


@njit
def transfer_planes(state, stream, chances, weights, found, group, numbers, first, rows, columns, count):
    """Write planes of whole numbers, or read them in place: those of `numbers` from `first` on, (rows, columns, count).

    A number is written as its length in bits, in unary; then its digits below the first; then its sign. What is written is its
    difference from a base: the median of left, above, and left + above - corner, if such differences were smaller so far in its
    plane, otherwise 0. Outside of the plane, all is 0. When numbers are read, they are 0 at first, and the bits given to
    `transfer_bit` are ignored. Chances and weights go on, and `found` within a group; all else begins anew.
    """
    # np.int64 in the place of plain numbers saves numba from compiling functions once more for each of them.
    row_size = count * columns
    gains = np.zeros(count, np.int64)  # how much smaller the differences were, for each plane
    totals = np.zeros((rows + 1, columns + 1), np.int64)  # of the sizes in all planes, with zeros around
    contexts = np.zeros(4, np.int64)
    place = first
    back = row_size
    streak = recent = 0
    for row in range(rows):
        for column in range(columns):
            totals_near = totals[row + 1, column] + totals[row, column + 1]  # left and above
            total = used = before = signs = np.int64(0)
            for k in range(count):
                if state[PLACE] > len(stream) + 3:  # the file was cut off: see `transfer`
                    return
                left = numbers[place - count] if column else 0
                above = numbers[place - row_size] if row else 0
                corner = numbers[place - row_size - count] if row and column else 0
                above_right = numbers[place - row_size + count] if row and column + 1 < columns else 0
                planar = left + above - corner
                median = max(min(left, above), min(max(left, above), planar))
                base = median if gains[k] > 0 else 0
                left -= base
                above -= base
                near = 2 * (abs(left) + abs(above))
                near += abs(corner - base) + abs(above_right - base)
                number = numbers[place] - base
                size = abs(number)
                # The number `back` places ago is guessed to come again, and trusted the more, the longer the streak: see below.
                guess = numbers[place - back] - base if back <= place else 0
                trust = 2 * min(streak, 15)
                plane = 256 * group + k

                # Contexts of a length: 0, the neighbours, with how many planes before had a size other than 0; 1, the sizes in
                # all planes near by and here, with those of the planes before, in one context for many planes; 2, the sizes in
                # this plane near by; 3, the guess, with how often that was right. Contexts may collide: that only costs bits.
                neighbours = 4 * min(abs(left), 3) + min(abs(above), 3)
                contexts[0] = (16 * plane + neighbours) * 8 + min(used, 7)
                sizes = 32 * bit_length(totals_near + total) + bit_length(before)
                contexts[1] = (16 * group + bit_length(k)) * 1024 + sizes
                contexts[2] = 32 * plane + bit_length(near)
                length = np.int64(0)
                while length < LENGTHS - 1:
                    contexts[3] = trust + int(abs(guess) >> length > 0)
                    longer = int(size >> length > 0)
                    if not transfer_bit(state, stream, chances, weights, contexts, length, longer):
                        break
                    length += 1

                # A digit keeps contexts 1 and 2; the others are its place, and the guess's digit. A sign keeps context 2; the
                # others are the signs of left and above, those of the planes before, and the guess's sign.
                digits = min(length, 1)
                for digit in range(length - 2, -1, -1):
                    contexts[0] = (LENGTHS * plane + length) * LENGTHS + digit
                    contexts[3] = trust + (abs(guess) >> digit & 1)
                    bit = transfer_bit(state, stream, chances, weights, contexts, DIGIT, size >> digit & 1)
                    digits = 2 * digits + bit
                total += digits
                used += min(digits, 1)
                before = digits + before // 2  # the last plane counts 1, each earlier one half as much
                if digits:
                    neighbours = 3 * np.sign(left) + np.sign(above)
                    contexts[0] = 9 * plane + neighbours
                    contexts[1] = 128 * plane + signs
                    contexts[3] = trust + int(guess < 0)
                    if transfer_bit(state, stream, chances, weights, contexts, SIGN, int(number < 0)):
                        digits = -digits
                signs = (3 * signs + np.sign(digits) + 1) % CONTEXTS
                number = base + digits
                gains[k] += abs(number) - abs(number - median)

                # What repeats: after a wrong guess, and at first, the streak is 0. Then the place that followed the same six
                # numbers the last time is looked up by a hash of them: 40^6 is a multiple of 2^18, so older ones drop out. If
                # there is one, the streak begins at 1, and grows while guesses are right; otherwise `back` stays.
                if streak and number == numbers[place - back]:
                    streak += 1
                else:
                    streak = 0
                numbers[place] = number
                place += 1
                recent = (40 * recent + number) & 0x3FFFF
                if streak == 0 and found[recent]:
                    streak = 1
                    back = place - found[recent]
                found[recent] = place
            totals[row + 1, column + 1] = total


def fresh_coder(stream, *state):
    """What `transfer_planes` needs, before it has learned anything."""
    chances = np.tile(np.int64([32768, 0]), (4, CONTEXTS, 1))
    weights = np.full((SIGN + 1, 4), 20000, np.int64)
    found = np.zeros(2**18, np.int64)
    return np.int64(state), stream, chances, weights, found


def transfer(coder, group, shapes, numbers=None):
    """Write arrays of these shapes, or read them if no numbers are given. Returns their numbers, one array after the other."""
    sizes = [rows * columns * planes for rows, columns, planes in shapes]
    if numbers is None:
        numbers = np.zeros(sum(sizes), np.int64)
    else:
        numbers = np.array(numbers, np.int64).ravel()
    state, stream, *_, found = coder
    found[:] = 0  # these are places in numbers, and 0 is none
    first = 0
    for shape, size in zip(shapes, sizes):
        transfer_planes(*coder, group, numbers, first, *shape)
        # Reading begins 4 bytes ahead of writing, so a whole file, which has one more byte than was certain, ends at + 3.
        if state[PLACE] > len(stream) + 3:
            raise ValueError("the file is cut off")
        first += size
    return numbers


def transfer_record(coder, record=None):
    """Write a record, or read one if none is given. Returns it."""
    head = record and [VERSION, *record[:7], len(record.codes), len(record.shapes)]
    head = transfer(coder, HEAD, [(10, 1, 1)], head)
    if np.any((head < LEAST) | (head > MOST)):
        raise ValueError("not a file of this version of the program")
    _, *head, count, pictures = head.tolist()
    colour, width, height, _, in_cosines, *_ = head

    shapes = transfer(coder, HEAD, [(pictures, 2, 1)], record and record.shapes)
    shapes = shapes.reshape(pictures, 2)
    channels = 3 if colour else 1
    samples = width * height * channels
    grids = patch_grids(shapes.tolist(), width, height)
    patches = sum(rows * columns for rows, columns in grids)
    # A number takes 1/2048 of a bit at least, since all chances are below 1 - 1/2048.
    numbers = count * (patches + samples)
    too_many = patches * samples > MOST_SAMPLES or numbers > 2**14 * len(coder[1])
    too_large = count > min(patches, samples) or in_cosines and max(width, height) > LARGEST_BASIS
    if shapes.min() < 1 or too_many or too_large:
        raise ValueError("the file announces more than it can hold")

    planes = [(rows, columns, count) for rows, columns in grids]
    codes = transfer(coder, CODES, planes, record and record.codes.T)
    codes = codes.reshape(patches, count).T
    planes = count * [(height, width, channels)]
    decoder = transfer(coder, DECODER, planes, record and record.decoder)
    return Record(*head, shapes, codes, decoder.reshape(count, samples))


def pack(record):
    """The bytes of a file."""
    # Room for 80 bytes per number, of at most 62 decisions, few of which take more than 10 bits. Unused, it takes no memory.
    numbers = 10 + record.shapes.size + record.codes.size + record.decoder.size
    coder = fresh_coder(np.zeros(80 * numbers, np.uint8), 0, 0xFFFFFFFF, 0, 0, 0)
    transfer_record(coder, record)
    state, stream, *_ = coder
    end = state[PLACE]
    stream[end] = (state[LOW] >> 24) + 1  # a number between low and high, with zeros behind
    return stream[: end + 1].tobytes()


def unpack(content):
    """The record in the bytes of a file. Raises ValueError if they are damaged, or of another program."""
    if not isinstance(content, (bytes, bytearray, memoryview)):
        raise ValueError("content has to be the bytes of a file")
    content = bytes(content)
    stream = np.frombuffer(bytearray(content), np.uint8)  # can be written, like that of `pack`: one type, compiled once
    value = int.from_bytes(content[:4].ljust(4, b"\0"), "big")
    return transfer_record(fresh_coder(stream, 0, 0xFFFFFFFF, value, 4, 1))


# ---------------------------------------------------------------------------------------------- pictures


def radial(x, y, width, height):
    """Brightness falls from 1 in the centre to 0 in a corner."""
    across, down = width / 2, height / 2
    distances = np.hypot(x - across, y - down)
    return 1 - distances / hypot(across, down)


def sine(x, y, width, height):
    """Product of two sine waves, SINE_FREQUENCY periods along each side."""
    phase = 2 * pi * SINE_FREQUENCY
    across = np.sin(phase * x / width)
    down = np.sin(phase * y / height)
    return (1 + across * down) / 2


def checkerboard(x, y, width, height):
    """CHECKER_SQUARES along each side, white at the top left."""
    column = x * CHECKER_SQUARES // width
    row = y * CHECKER_SQUARES // height
    return (row + column) % 2 == 0


PATTERNS = {"radial": radial, "sine": sine, "checkerboard": checkerboard}


def draw(name, width, height):
    """Picture of the pattern PATTERNS[name], uint8 (height, width), or (height, width, 3) if it returns three channels."""
    if width * height > MOST_SAMPLES:
        raise Refused(f"WIDTH * HEIGHT: has to be at most {MOST_SAMPLES}")
    y, x = np.indices((height, width))
    values = np.asarray(PATTERNS[name](x, y, width, height))
    fits = values.shape in ((height, width), (height, width, 3))
    if not fits or not np.allclose(values, np.clip(values, 0, 1), rtol=0, atol=1e-6):
        raise Refused(f"pattern {name}: has to return {height} x {width} numbers from 0 to 1, or three times as many")
    return to_levels(values)


def to_levels(values):
    """Values from 0 to 1 as the nearest of 256 levels, uint8. Halves go up, and so do float64 values a hair below."""
    levels = values * 255.0
    levels += 0.500000001
    return np.uint8(np.clip(levels, 0, 255, out=levels))


def read_picture(path):
    """Picture of a PGM or PPM file, with up to 16 bits, uint8 (height, width), or (height, width, 3)."""
    # As Netpbm specifies it: a magic number, width, height and maxval, with white space or comments between them; a
    # single white space; and the raster, in P2 and P3 as decimal numbers. What lies behind the raster isn't read.
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}") from None
    if not re.match(rb"P[2356]", content):
        raise Refused(f"{path}: isn't a PGM or PPM file (P2, P3, P5, P6); the README shows how to convert a picture")
    space = rb"(?:\s|#[^\r\n]*[\r\n])"
    header = re.match(rb"P([2356])" + 3 * (space + rb"+(\d{1,9})") + space, content)
    kind, width, height, maxval = map(int, header.groups()) if header else (0, 0, 0, 0)
    if min(width, height, maxval) < 1 or maxval > 65535:
        raise Refused(f"{path}: its header has to have a width, a height, and a maxval from 1 to 65535")
    shape = (height, width, 3) if kind in (3, 6) else (height, width)
    count = width * height * (3 if kind in (3, 6) else 1)
    raster = content[header.end() :]
    if kind in (2, 3):
        words = re.sub(rb"#[^\r\n]*", b" ", raster).split()[:count]
        if not all(word.isdigit() and len(word) < 10 for word in words):
            raise Refused(f"{path}: its samples have to be decimal numbers")
        samples = np.array(words, int)
    else:
        depth = 1 if maxval < 256 else 2
        whole = len(raster) // depth
        samples = np.frombuffer(raster, f">u{depth}", min(count, whole))
    if len(samples) < count:
        raise Refused(f"{path}: is cut off: it has {len(samples)} of {count} samples")
    if samples.max() > maxval:
        raise Refused(f"{path}: has samples above its maxval, {maxval}")
    if maxval > 255:
        say(f"{path.name}: 16 bits: 256 levels are kept")
    return to_levels(np.arange(maxval + 1) / maxval)[samples].reshape(shape)


def netpbm(picture):
    """Bytes of a binary PGM or PPM file of a uint8 picture."""
    height, width = picture.shape[:2]
    return b"P%d\n%d %d\n255\n" % (6 if picture.ndim == 3 else 5, width, height) + picture.tobytes()


def png(picture):
    """Bytes of a PNG file of a uint8 picture, grey or in colour."""
    height, width = picture.shape[:2]
    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    colour_type = b"\2" if picture.ndim == 3 else b"\0"
    lines = np.insert(picture.reshape(height, -1), 0, 0, axis=1)  # each begins with a 0: no filter
    head = b"IHDR" + size + b"\x08" + colour_type + b"\0\0\0"
    data = b"IDAT" + zlib.compress(lines)
    file = b"\x89PNG\r\n\x1a\n"
    for chunk in (head, data, b"IEND"):
        length = len(chunk) - 4
        checksum = zlib.crc32(chunk)
        file += length.to_bytes(4, "big") + chunk + checksum.to_bytes(4, "big")
    return file


REACH = 4  # pixels on each side of a border that are lapped
STRETCH = 1.75  # lapped samples leave the range from 0 to 1: they are squeezed by this, and then clipped
# What `lap` does with the differences of pixels across a border. This is the rotation of the lapped orthogonal transform
# (Malvar 1990), times 1.2, to 1/64: a DCT-IV from the far end to the border, odd frequencies made negative, and an inverse
# DCT-II. The factor makes the rounding of differences finer, since an error of theirs is spread over pixels of two patches
# (Tran, Liang and Tu 2003, with other matrices; `tests/quality.py lapping`).
LAPPING = np.array([[62, 43, 11, 9], [-44, 54, 32, 6], [9, -34, 66, 17], [-6, -2, -19, 74]]) / 64


def lap(picture, width, height, matrix):
    """Let patches lap over into their neighbours, in place, by LAPPING; its inverse undoes this.

    With d the differences of the pixels at the same distance from a border between patches, right - left or lower - upper, from
    the border outwards, d becomes matrix @ d, while their sums stay. Patches are rounded apart from each other, so steps would
    show at their borders; once lapping is undone, the errors of a patch fade out across its borders instead.
    """
    half = float32(matrix - np.eye(REACH)) / 2
    for axis, size in enumerate((height, width)):
        lines = picture.swapaxes(0, axis)
        if len(lines) < 2 * REACH:
            continue
        # A view of the pixels beside each border that has REACH of them on both sides: (borders, ..., 2 * REACH).
        beside = sliding_window_view(lines, 2 * REACH, axis=0, writeable=True)[size - REACH :: size]
        lefts = beside[..., REACH - 1 :: -1]
        rights = beside[..., REACH:]
        changes = np.einsum("ij,...j->...i", half, rights - lefts)
        lefts -= changes
        rights += changes


AROUND = 2  # neighbours as far as this, along both axes, are averaged


@njit(parallel=True, fastmath=True, error_model="numpy")
def average_alike(padded, averages, scale):
    """For each pixel the mean of those near it; the more similar their surroundings, the more they count.

    Threads share out the lines.

    padded    float32 (channels, height + 6, width + 6): a picture with margins of AROUND + 1
    averages  float32 (channels, height, width), overwritten
    scale     float32: 1 / the sum of squared differences of surroundings from which a neighbour doesn't count
    """
    channels, height, width = averages.shape
    for y in prange(height):
        total = np.zeros(width, float32)
        weights = np.empty(width + 2, float32)
        averages[:, y] = 0
        for down in range(2 * AROUND + 1):
            for right in range(2 * AROUND + 1):
                # Surroundings are 3 x 3 pixels. First, the squared differences of each column of three are summed.
                for n in range(width + 2):
                    weights[n] = 0
                for c in range(channels):
                    for line in range(y, y + 3):
                        for n in range(width + 2):
                            here = padded[c, line + AROUND, n + AROUND]
                            difference = padded[c, line + down, n + right] - here
                            weights[n] += difference * difference
                for n in range(width):
                    distance = weights[n] + weights[n + 1] + weights[n + 2]
                    likeness = max(1 - distance * scale, float32(0))
                    weights[n] = likeness * likeness
                    total[n] += weights[n]
                for c in range(channels):
                    for n in range(width):
                        neighbour = padded[c, y + down + 1, n + right + 1]
                        averages[c, y, n] += weights[n] * neighbour
        for c in range(channels):
            for n in range(width):
                averages[c, y, n] /= total[n]


def smooth(picture, strength):
    """A picture smoothed by non-local means (Buades, Coll and Morel 2005), float32: see `average_alike`.

    picture   from 0 to 1, (height, width) or (height, width, channels)
    strength  above 0: pixels whose surroundings differ by as much, as a root mean square, don't count
    """
    tall, wide = picture.shape[:2]
    channels_first = float32(picture.reshape(tall, wide, -1).transpose(2, 0, 1))
    margin = AROUND + 1, AROUND + 1
    padded = np.pad(channels_first, ((0, 0), margin, margin), "edge")
    averages = np.empty(channels_first.shape, float32)
    scale = 1 / (9 * len(averages) * strength**2)
    average_alike(np.ascontiguousarray(padded), averages, float32(scale))
    return averages.transpose(1, 2, 0).reshape(picture.shape)


def few_levels(pictures):
    """Whether pictures are drawings, text or pixel art, with few levels, and sharp edges between flat parts."""
    # Lapped, these take up to 3 times the bytes. In photographs the eight most frequent levels make up to 0.6 of all samples,
    # in the others more than 0.75 (`tests/quality.py lapping`).
    counts = sum(np.bincount(picture.ravel(), minlength=256) for picture in pictures)
    return np.sort(counts)[-8:].sum() > 0.7 * counts.sum()


def patch_grids(shapes, width, height):
    """Rows and columns of the patches of each picture, from the pictures' shapes."""
    return [(ceil(tall / height), ceil(wide / width)) for tall, wide, *_ in shapes]


def cut(pictures, width, height):
    """Targets, the patches of pictures, float32 (patches, samples), from 0 to 1; and their gain.

    The gain is the squared error of pictures divided by that of targets: 1 if patches are plain, and more if they are lapped,
    about.

    pictures are a list of uint8 arrays, (height, width) or all (height, width, 3). They are filled up with their edges. The
    samples of a patch lie row by row, and the channels of a pixel next to each other. Raises ValueError if it is given
    something else.
    """
    kinds = set()
    for picture in pictures if isinstance(pictures, (list, tuple)) else ():
        usable = isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.size > 0
        kinds.add(picture.shape[2:] if usable and picture.ndim > 1 else None)
    if kinds not in ({()}, {(3,)}):
        raise Refused("pictures have to be a list of uint8 arrays, all (height, width), or all (height, width, 3)")
    check("width", width)
    check("height", height)
    width, height = int(width), int(height)
    grids = patch_grids([picture.shape for picture in pictures], width, height)
    count = sum(rows * columns for rows, columns in grids)
    samples = width * height * (1 if kinds == {()} else 3)
    if count * samples > MOST_SAMPLES or len(pictures) > MOST_PICTURES:
        raise Refused(f"IMAGES: has to hold at most {MOST_PICTURES} pictures, and {MOST_SAMPLES} samples in their patches")

    # Patches lap over if they have room, and neighbours, and gain by it. Undoing this multiplies squared errors by STRETCH^2,
    # and those of 2 * REACH pixels of each row and column by 0.85: sums keep their errors, and those of differences are
    # divided by 1.2^2.
    have_room = count > len(pictures) and min(width, height) >= 2 * REACH
    lapped = have_room and not few_levels(pictures)
    gain = 1.0
    for size in (width, height) if lapped else ():
        gain *= STRETCH * (1 - 0.15 * 2 * REACH / size)

    patches = []
    for picture in pictures:
        tall, wide = picture.shape[:2]
        values = picture.reshape(tall, wide, -1) / float32(255)
        if lapped:
            lap(values, width, height, LAPPING)
            values = np.clip((values - 0.5) / STRETCH + 0.5, 0, 1)
        margins = (0, -tall % height), (0, -wide % width), (0, 0)
        values = np.pad(values, margins, "edge")
        line = width * values.shape[2]
        grid = values.reshape(len(values) // height, height, -1, line)
        patches.append(grid.swapaxes(1, 2).reshape(-1, height * line))
    return np.ascontiguousarray(np.concatenate(patches)), gain


def join(patches, shapes, width, height):
    """A list of pictures, of these shapes, put together from the patches that `cut` makes of them."""
    pictures = []
    for shape, (rows, columns) in zip(shapes, patch_grids(shapes, width, height)):
        tall, wide = shape[:2]
        grid, patches = np.split(patches, [rows * columns])
        grid = grid.reshape(rows, columns, height, -1).swapaxes(1, 2)
        picture = grid.reshape(rows * height, columns * width, *shape[2:])
        pictures.append(picture[:tall, :wide])
    return pictures


def comparison(pictures, decoded):
    """A column per picture: original, decoded, and 8 times the difference, unless all is exact; some 2048 pixels at most."""
    rows = 2 if all(map(np.array_equal, pictures, decoded)) else 3
    tallest = max(map(len, pictures))
    total = sum(picture.shape[1] for picture in pictures)
    every = max(rows * tallest, total) // 2048 + 1
    columns = []
    for original, output in zip(pictures, decoded):
        difference = np.minimum(8 * abs(np.int64(original) - output), 255)
        cells = np.stack([original, output, np.uint8(difference)])
        cells = cells[:rows, ::every, ::every]
        below = tallest // every + 2 - cells.shape[1]
        margins = [(0, 0), (0, below), (0, 2), (0, 0)]  # grey lines between the cells
        cells = np.pad(cells, margins[: cells.ndim], constant_values=128)
        columns.append(np.concatenate(cells))
    return np.hstack(columns)


# ---------------------------------------------------------------------------------------------- plumbing
#
# What any program needs: checks, files, printing, Ctrl-C, machine code.


class Refused(ValueError):
    """A mistake that the user can correct, told in one line."""


# Least and most of the constants that are numbers, and of arguments of the same name. All but NOT_WHOLE have to be whole.
LIMITS = {
    "WIDTH": (1, 10**6),
    "HEIGHT": (1, 10**6),
    "SINE_FREQUENCY": (-(10**9), 10**9),
    "CHECKER_SQUARES": (-(10**9), 10**9),
    "LATENT_DIM": (1, 10**6),
    "EPOCHS": (1, 10**9),
    "LEARNING_RATE": (0.001, 2),
    "TARGET_PSNR": (1, 100),
    "LOG_EVERY": (1, 10**9),
    "SEED": (0, 10**9),
}
NOT_WHOLE = "SINE_FREQUENCY", "CHECKER_SQUARES", "LEARNING_RATE", "TARGET_PSNR"


def check(name, value):
    """Refuse a number that is of another kind, or out of range."""
    constant = name.upper()
    if value is None and constant == "TARGET_PSNR":
        return
    least, most = LIMITS[constant]
    kind, words = (Real, "a number") if constant in NOT_WHOLE else (Integral, "a whole number")
    usable = isinstance(value, kind) and not isinstance(value, bool)
    if not usable or not least <= value <= most:
        raise Refused(f"{name}: has to be {words} from {least} to {most}")


def check_targets(targets):
    """Targets as float32, if they can be trained on."""
    targets = np.asarray(targets, float32)
    if targets.ndim != 2 or targets.size == 0 or not 0 <= targets.min() <= targets.max() <= 1:
        raise Refused("targets have to be a matrix of numbers from 0 to 1")
    return targets


def check_model(targets, codes, decoder):
    """Targets, codes and decoder as float32, if they can be trained on."""
    targets = check_targets(targets)
    codes = np.asarray(codes, float32)
    decoder = np.asarray(decoder, float32)
    patches, samples = targets.shape
    rows = codes.size // patches
    if codes.shape != (patches, rows) or decoder.shape != (rows, samples):
        raise Refused("targets, codes and decoder have to fit together")
    if rows < 2 or np.any(codes[:, -1] != 1):
        raise Refused("codes have to have a 1 at their ends, behind one number at least")
    if not (abs(codes).max() < 1e6 and abs(decoder).max() < 1e6):
        raise Refused("codes and decoder have to be finite, and below a million")
    return targets, codes, decoder


def check_constants():
    """Refuse constants that can't be used."""
    for name in LIMITS:
        check(name, globals()[name])
    names = IMAGES if isinstance(IMAGES, (tuple, list)) else ()
    if not names or not all(isinstance(name, str) for name in names):
        raise Refused('IMAGES: has to hold names, like ("cat.pgm",), with a comma')
    if not isinstance(OUTPUT_DIR, str) or "\0" in OUTPUT_DIR:
        raise Refused('OUTPUT_DIR: has to be a name, like "outputs"')


def load_pictures(images, width, height, folder):
    """Names and pictures of what IMAGES holds; patterns are width x height, and folder is for the results."""
    names = []
    folder = os.path.realpath(folder)
    for name in images:
        if name in PATTERNS:
            names.append(name)
            continue
        path = os.path.join(HERE, os.path.expanduser(name))
        found = [path]
        if not os.path.isfile(path):
            pattern = escape(path).replace("[*]", "*")
            found = sorted(filter(os.path.isfile, glob(pattern)))
        if not found:
            raise Refused(f"IMAGES: {path} matches no file, and {name} none of the patterns {', '.join(PATTERNS)}")
        for path in found:
            if os.path.dirname(os.path.realpath(path)) == folder:
                raise Refused(f"IMAGES: {path} lies in OUTPUT_DIR, where results are replaced: copy it to another folder")
        names += found

    pictures = []
    for name in names:
        picture = draw(name, width, height) if name in PATTERNS else read_picture(Path(name))
        pictures.append(picture)
        if picture.ndim != pictures[0].ndim:
            raise Refused(f"IMAGES: {names[0]} and {name}: grey and colour can't be mixed")
    return [name.removeprefix(f"{HERE}{os.sep}") for name in names], pictures


def write_patterns(folder, names, pictures):
    """Save the pictures of patterns; even if there are none, a folder that can't be written is found out here."""
    files = {}
    for name, picture in zip(names, pictures):
        if name in PATTERNS:
            files[f"generated_{name}.{ending(picture)}"] = netpbm(picture)
    write_files(folder, files)


def write_results(folder, pictures, decoded, content):
    """Save the results."""
    files = {"compressed.bin": content}
    for n, picture in enumerate(decoded):
        files[f"final_decoded_{n}.{ending(picture)}"] = netpbm(picture)
    files["comparison.png"] = png(comparison(pictures[:8], decoded[:8]))
    write_files(folder, files)


def ending(picture):
    """Ending of the name of a picture's file."""
    return "ppm" if picture.ndim == 3 else "pgm"


def write_files(folder, files):
    """Write files, {name: bytes}, to a folder: each beside its place, then it is moved there."""
    beside = folder / f".{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        beside.touch()  # even if there are no files, the folder is tried
        for name, content in files.items():
            beside.write_bytes(content)
            beside.replace(folder / name)
    except OSError as error:
        raise Refused(f"OUTPUT_DIR: can't write: {error}") from None
    finally:
        with suppress(OSError):
            beside.unlink()


def say(line):
    """Print a line at once."""
    print(line, flush=True)


def say_sizes(targets, codes, asked):
    """Print how many codes there are, how many numbers they have, and why fewer than asked for."""
    patches, samples = targets.shape
    used = codes.shape[1] - 1
    line = f"codes to train: {patches}, numbers per code: {used}"
    if used < asked:
        line += f" ({asked} asked; no more are needed for {patches} patches of {samples} samples)"
    say(line)


def quality(mean_square):
    """PSNR in words, of a mean squared error of values from 0 to 1."""
    return f"PSNR {-10 * log10(mean_square):.2f} dB" if mean_square else "exact"


def report(folder, names, pictures, decoded, content, target_psnr):
    """Print what came back of each picture, and the bytes."""
    losses, loss = mean_squares(pictures, decoded)
    kind = ending(pictures[0])
    for n, (name, each) in enumerate(zip(names, losses)):
        say(f"final_decoded_{n}.{kind}: {name}: {quality(each)}")
    say(f"all pictures: {quality(loss)}")
    size = len(content)
    raw = sum(picture.size for picture in pictures)
    pixels = sum(picture.shape[0] * picture.shape[1] for picture in pictures)
    if size > raw and target_psnr is None:
        say("the file is larger than the samples themselves: a TARGET_PSNR, like 35, makes it smaller")
    bits = 8 * size / pixels
    share = size / raw
    say(f"compressed.bin: {size} bytes, {bits:.3f} bits per pixel, {share:.3f} of raw; all results are in {folder}")


PRESSES = []  # what `note_ctrl_c` has noted


def catch_ctrl_c():
    """From here on, the program notes Ctrl-C; in a notebook it stays a KeyboardInterrupt, and where it is ignored, ignored."""
    if __name__ == "__main__" and signal.getsignal(signal.SIGINT) == signal.SIG_DFL:
        signal.signal(signal.SIGINT, note_ctrl_c)


def note_ctrl_c(number, frame):
    """Note Ctrl-C: `train` and `compress` then come to an end. A second press ends the program."""
    PRESSES.append(number)
    if len(PRESSES) > 1:
        raise KeyboardInterrupt


# The variable OPENBLAS_NUM_THREADS comes too late for a NumPy that was imported before this file. Its OpenBLAS, if it came in a
# wheel, is told to use one thread.
for library in Path(np.__file__).parents[1].glob("numpy.libs/*openblas*"):
    for setter in ("scipy_openblas_set_num_threads64_", "openblas_set_num_threads64_"):
        with suppress(AttributeError, OSError):
            getattr(CDLL(str(library)), setter)(1)

KERNELS = [thing for thing in list(globals().values()) if hasattr(thing, "enable_caching")]
LOADED = []  # holds something from the first call of `load_kernels` on, unless it failed


class Locator(InTreeCacheLocator):
    """Tells numba what machine code is called, and that it is up to date if it is called so."""

    # By itself, numba compiles anew if anything in the file changes. But kernels call each other, so the machine code of each
    # is up to date as long as the text of all is, and the numbers and tables that they use. It can only be loaded in a module
    # of the same name.
    name = ""

    def get_source_stamp(self):
        return ""

    def get_disambiguator(self):
        return self.name


def stamp():
    """A number that changes with the kernels, and with what they use."""
    number = 0
    for kernel in KERNELS:
        number = zlib.crc32(getsource(kernel.py_func).encode(), number)
        for name in filter(str.isupper, kernel.py_func.__code__.co_names):
            number = zlib.crc32(np.array(globals()[name]), number)
    return number


def machine_code(name):
    """The files in which numba keeps machine code of this name."""
    stem = escape(Path(__file__).stem)
    return list(HERE.glob(f"__pycache__/{stem}.*-{name}*.nb[ci]"))


def load_kernels():
    """Load the machine code of all kernels, once; what is missing is compiled, which takes some seconds."""
    if LOADED:
        return
    LOADED.append(True)
    # Numba takes the class by its name from a setting of numba 0.62 and newer, which is put back. A RuntimeError says that
    # the folder can't be written, or that `__main__` is a profiler, which has no Locator; an OSError that there is no text, as
    # in a frozen copy: then nothing is kept.
    kept = []
    locators = config.CACHE_LOCATOR_CLASSES
    config.CACHE_LOCATOR_CLASSES = f"{__name__}.Locator"
    with suppress(RuntimeError, OSError):
        Locator.name = f"{__name__}-{stamp()}"
        for kernel in KERNELS:
            kernel.enable_caching()
        kept = machine_code(Locator.name)
    config.CACHE_LOCATOR_CLASSES = locators

    # Numba keeps two files for each kernel. If some are missing, or can't be loaded, all are made anew, and what is outdated is
    # deleted. On Linux a child process, which begins as a copy of this one, compiles half of them, and this one loads what it
    # has kept. Where there may be threads already, as in a notebook, there can't be a copy.
    missing = len(kept) < 2 * len(KERNELS)
    may_fork = missing and __name__ == "__main__" and sys.platform == "linux"
    while True:
        if missing:
            say("compiling ...")
            for path in machine_code(__name__):
                with suppress(OSError):
                    path.unlink()
        try:
            return rehearse(may_fork)
        except Exception as error:
            if missing or not failed_to_load(error):
                LOADED.clear()
                raise Refused(f"machine code: {error}") from None
        missing = True


def failed_to_load(error):
    """Whether an exception comes from numba as it loaded machine code, which then is damaged, and not as it started threads."""
    files = {Path(frame.filename).name for frame in extract_tb(error.__traceback__)}
    return "caching.py" in files and "parallel.py" not in files


def rehearse(may_fork):
    """Do all that needs kernels for a picture of one pixel: then they are compiled, or loaded."""
    child = os.fork() if may_fork else None
    if child == 0:
        with suppress(BaseException):  # what goes wrong here goes wrong in the parent again, which tells it
            rehearse_file()
        os._exit(0)
    one = np.ones((1, 1), float32)
    with redirect_stdout(StringIO()):
        train(one, np.ones((1, 2)), np.ones((2, 1)), 1)
    if child:
        os.waitpid(child, 0)
    rehearse_file()


def rehearse_file():
    """The half of `rehearse` that can be done in a process of its own."""
    one = np.ones((1, 1), float32)
    numbers = choose(one, one, 1, 1, one, None)
    shapes = np.array([[1, 1]])
    record = Record(0, 1, 1, 0, 0, 0, 0, shapes, *numbers)
    unpack(pack(record))
    smooth(one, 1)


def main():
    """Run the program. Returns the exit status: 0, 2 after a mistake, 130 after Ctrl-C."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # names of files can hold what can't be printed
    try:
        if sys.argv[1:]:
            raise Refused("takes no arguments: edit the constants at the top of the file, and run it again")
        run()
        return 130 if PRESSES else 0
    except KeyboardInterrupt:
        status, words = 130, "interrupted: results of this run may be missing"
    except (Refused, MemoryError, OSError) as error:  # OSError: what is printed can't be written
        status, words = 2, str(error) or "not enough memory"
    print("neural_compression.py:", " ".join(words.split()), file=sys.stderr)
    return status


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # if nobody reads any more, the program ends
    sys.exit(main())
