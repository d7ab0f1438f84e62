"""Image compression by latent-code optimisation.

Pictures are cut into patches. Each patch gets a small vector of its own, its latent code. One decoder, shared by all
patches, turns a code into the samples of a patch: a linear map with a bias, then a sigmoid. Training moves the decoder
and the codes by gradient descent on the mean squared error. Then both are rounded to whole numbers, chosen by what
they cost, and written to a file by an entropy coder.

Run this file, look at the pictures in OUTPUT_DIR, edit a constant, run it again. Ctrl-C ends training early and keeps
what was learned; while the file is made, it ends the search. From a notebook, the same in five calls:

    targets = cut(pictures, width, height)
    codes, decoder = start(targets, latent_dim, seed)
    codes, decoder, losses = train(targets, codes, decoder, epochs)
    content = compress(pictures, codes, decoder, width, height, target_psnr)
    pictures = decompress(content)

Glossary, with the sizes of a grey photograph of 768 x 512 in patches of 8 x 8, and latent_dim 32:

    pictures   list of uint8 (height, width), or (height, width, 3) in colour
    samples    numbers in a patch: width * height * channels                               64
    targets    the patches' samples, from 0 to 1         (patches, samples)                6144 x 64
    codes      the latent codes, each followed by a 1    (patches, latent_dim + 1)         6144 x 33
    decoder    a row per number, the bias as the last    (latent_dim + 1, samples)         33 x 64
    logits     codes @ decoder                           (patches, samples)                6144 x 64
    scores     the codes in the basis of components      (components, patches)             33 x 6144
    weights    logits = scores.T @ weights               (components, samples)             33 x 64
    code_numbers       whole numbers in the place of scores: about scores / step
    weight_numbers     whole numbers in the place of weights, perhaps of their cosines: about weights * lengths, the lengths
                       being those of the rows of code_numbers, as vectors, so that one step suits both

Scores and weights give the same logits as codes and decoder, the bias included; so there are up to latent_dim + 1 components.
(If there are few patches, logits are clipped: see `components`.) Components whose numbers all became 0 are left out of the file.

The decoder, and what training minimises; i is a patch, p a sample, k a number of a code:

    logit      z[i, p] = sum over k of codes[i, k] decoder[k, p]
    output     y[i, p] = sigmoid(z) = 1 / (1 + exp(-z))
    loss               = mean over i and p of (y - target)^2
    delta      d[i, p] = (y - target) y (1 - y), which is d loss / d z but for a constant factor
    gradient of codes[i, k]:    sum over p of d[i, p] decoder[k, p]
    gradient of decoder[k, p]:  sum over i of d[i, p] codes[i, k]

If each picture is one patch, the pictures are whole. Otherwise they are cut, all of them: then the weights are smooth, and are
stored as cosines if patches have up to 128 a side (see `patch_bases`), and the borders between patches are smoothed (see
`smooth`).

The file on disk, compressed.bin, is one sequence of whole numbers:

    1                               the version of this layout
    channels, width, height         of a patch; channels are 1 for grey, 3 for colour
    exponent                        the rounding step is 2^(exponent / 64)
    components, pictures            how many there are
    shapes                          the heights of all pictures, then their widths
    correction                      (reach, reach), in 1/64: see `smooth`; reach is half the shorter side of a patch, at most 4
    code numbers                    cut pictures, one after the other: (components, rows, columns of patches)
                                    whole pictures: (components, pictures, 1)
    weight numbers                  (channels * components, height, width), the components of a channel one after the other;
                                    if there are as many components as patches, each by itself: (channels, height, width)

The first byte says how the sequence is written. 0: by the range coder below, each array by `transfer_planes`; three groups have
chances of their own: all up to the correction, the code numbers, and the weight numbers. 1: as differences from number to
number, two bytes each, by LZMA. `decompress` refuses a file if the samples that it announces, or 64 times the pictures, are more
than 256 * bytes + 2^20: so a damaged file can't ask for much memory. `compress` appends zeros to files too short for that.

To decode, turn the weight numbers of cut pictures, with patches of up to 128 a side, back from cosines and opponent colours.
With the lengths of the rows of code numbers as vectors (or 1 for a row of zeros):

    scores = step * code_numbers
    weights = weight_numbers / lengths
    outputs = sigmoid(scores.T @ weights), put together to pictures, smoothed if they are cut, and rounded to 256 levels
"""

# Left out are deeper decoders, prediction of a patch from its neighbours, and transparency.

import os
import re
import signal
import sys
import zlib
from contextlib import contextmanager, redirect_stdout, suppress
from glob import escape, glob
from inspect import getsource
from io import StringIO
from math import ceil, cos, hypot, inf, log, log2, log10, pi, prod, sqrt
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import current_thread, main_thread
from time import perf_counter
from typing import NamedTuple

# Threads wait awake for the next epoch, and sleep soon after: so two runs at once don't take each other's cores.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")
# The last digits of NumPy's matrix products depend on the number of threads, so they take one.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
from numba import config, njit, prange
from numba.core.event import Listener, install_listener
from numpy import float32
from numpy.linalg import lstsq, norm, qr, svd

try:
    import lzma
except ImportError:  # Python can be built without it: `main` refuses then, and the functions do without
    lzma = None

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
SEED = 0  # seed of the random numbers that training starts from
OUTPUT_DIR = "outputs"  # folder for the results, beside this program

HERE = Path(__file__).resolve().parent


def run():
    """Do what the constants say. Returns the exit status: 0, or 130 after Ctrl-C."""
    check_constants()
    folder = HERE / os.path.expanduser(OUTPUT_DIR)
    names, pictures = load_pictures(IMAGES, WIDTH, HEIGHT, folder)
    write_patterns(folder, names, pictures)
    load_kernels()

    # Patches are never larger than the largest picture.
    width = min(WIDTH, max(picture.shape[1] for picture in pictures))
    height = min(HEIGHT, max(picture.shape[0] for picture in pictures))
    targets = cut(pictures, width, height)
    codes, decoder = start(targets, LATENT_DIM, SEED)
    say_sizes(targets, codes, LATENT_DIM)

    # `train` and `compress` note Ctrl-C for themselves, and pass it on: here it is noted for the exit status.
    with ctrl_c_noted() as interrupts:
        codes, decoder, _ = train(targets, codes, decoder, EPOCHS, LEARNING_RATE, LOG_EVERY)
        content = compress(pictures, codes, decoder, width, height, TARGET_PSNR)
        decoded = decompress(content)
        write_results(folder, pictures, decoded, content)
        report(names, pictures, decoded, content)
        advise(pictures, codes, decoder, width, height, TARGET_PSNR, content)
    return 130 if interrupts else 0


# ---------------------------------------------------------------------------------------------- learning
#
# The columns of the decoder are treated like codes: a logit is the product of two vectors, the code of a patch and the column
# of a sample, and both are learned by the same rule. Patches and samples are the two sides; the one that has more vectors is
# called long, the other one short. The vectors of the long side are cut into tiles of 512, which the threads share out, and
# those of the short side into fours.

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

    vectors, gradient  float32 (rows, size), a vector in each column
    mean               float32 (learned rows, size): running mean of the gradients; rows beyond don't move
    square             float32 (size): running mean of the gradients' squared lengths
    rate, share        how far a vector moves, about; the weight of this gradient in the running means
    """
    # Adam is by Kingma and Ba (2015), and so is the 1e-8: where black and white leave next to no gradient, next to
    # nothing moves. One second moment per vector takes less memory than one per number, and doesn't depend on the
    # basis of the codes.
    learned, size = mean.shape
    squared_lengths = np.zeros(size, float32)
    for k in range(learned):
        for n in range(size):
            number = gradient[k, n]
            squared_lengths[n] += number * number
            mean[k, n] += float32(share) * (number - mean[k, n])

    rates = np.zeros(size, float32)
    for n in range(size):
        square[n] += float32(share) * (squared_lengths[n] - square[n])
        rates[n] = float32(rate) / (sqrt(square[n]) + float32(1e-8))

    for k in range(learned):
        for n in range(size):
            vectors[k, n] -= rates[n] * mean[k, n]


def aligned_zeros(rows, size):
    """A float32 array (rows, size) of 0 whose address is a multiple of 4096."""
    # Multiples of 64 let processors with registers of 64 bytes read 16 numbers at once; otherwise training takes 1.1 to 1.4
    # times as long. Multiples of 4096, a page, keep arrays from getting into each other's way in the cache by chance.
    room = np.zeros(rows * size + 1024, float32)
    first = -room.ctypes.data % 4096 // 4
    return room[first : first + rows * size].reshape((rows, size))


# For kernels. Outside of them the plain function is better, as NumPy asks for large pages of memory: training of large
# pictures takes 0.9 of the time.
aligned_zeros_in_kernel = njit(aligned_zeros)


@njit(forceinline=True, fastmath=True, error_model="numpy")
def add_gradients(long, short, targets, delta, long_gradient, short_gradient):
    """For four vectors of the short side: add to the gradient of a tile of the long side, and overwrite their own.

    Returns the squared error.

    long, long_gradient    float32 (rows, size)
    short, short_gradient  float32 (rows, 4)
    targets                float32 (up to 4, size); if fewer, the vectors that are missing are 0, and so is their delta
    delta                  float32 (4, size), overwritten
    """
    # Four at a time, so that each number of the long side is read once for four of the short side.
    rows, size = long.shape
    # `delta` first holds the logits, which are no longer needed when delta is known.
    delta[:] = 0
    for k in range(rows):
        for n in range(size):
            for i in range(4):
                delta[i, n] += short[k, i] * long[k, n]

    # Vectors that are missing keep their logits, which are 0: the right delta.
    squared_error = float32(0)
    for i in range(len(targets)):
        for n in range(size):
            output = sigmoid(delta[i, n])
            error = output - targets[i, n]
            delta[i, n] = error * (output - output * output)
            squared_error += error * error

    # On either side, the gradient is the sum of delta times the other side's vectors. The four sums of the short side have
    # names of their own, so that they stay in registers.
    for k in range(rows):
        a = b = c = d = float32(0)
        for n in range(size):
            a += delta[0, n] * long[k, n]
            b += delta[1, n] * long[k, n]
            c += delta[2, n] * long[k, n]
            d += delta[3, n] * long[k, n]
            gradient = long_gradient[k, n]
            for i in range(4):
                gradient += delta[i, n] * short[k, i]
            long_gradient[k, n] = gradient
        short_gradient[k, 0] = a
        short_gradient[k, 1] = b
        short_gradient[k, 2] = c
        short_gradient[k, 3] = d
    return squared_error


@njit(fastmath=True, error_model="numpy")
def add_up(parts):
    """Add all parts (parts, fours, rows, 4) to the first, in a fixed order, so that threads make no difference."""
    count, fours, rows, size = parts.shape
    for part in range(1, count):
        for four in range(fours):
            for k in range(rows):
                for i in range(size):
                    parts[0, four, k, i] += parts[part, four, k, i]


@njit(parallel=True, fastmath=True, error_model="numpy")
def train_epoch(long_side, long_rate, short_side, short_rate, targets, share):
    """One epoch, in place: both sides move. Returns the squared error. Threads share out the tiles.

    long_side, short_side         vectors and their two moments, each in tiles: see `with_moments`
    long_rate, short_rate, share  as in `adam`
    targets                       float32 (tiles of the long side, vectors of the short side, size)
    """
    vectors, mean, square = long_side
    short_vectors, short_mean, short_square = short_side
    tiles, rows, size = vectors.shape
    fours = len(short_vectors)
    errors = np.empty(tiles, float32)
    short_gradients = np.empty((tiles, *short_vectors.shape), float32)
    for tile in prange(tiles):
        room = aligned_zeros_in_kernel(rows + 4, size)  # one piece of memory for both: 6 % faster with three pictures
        gradient = room[:rows]
        delta = room[rows:]
        errors[tile] = 0
        for four in range(fours):
            errors[tile] += add_gradients(vectors[tile], short_vectors[four], targets[tile, 4 * four : 4 * four + 4],
                                          delta, gradient, short_gradients[tile, four])
        adam(vectors[tile], gradient, mean[tile], square[tile], long_rate, share)

    add_up(short_gradients)
    for four in range(fours):
        adam(short_vectors[four], short_gradients[0, four], short_mean[four], short_square[four], short_rate, share)

    squared_error = 0.0
    for tile in range(tiles):
        squared_error += errors[tile]
    return squared_error


def tiled(array, size, fill):
    """An array (rows, count), filled up and cut into tiles, float32 (tiles, rows, size)."""
    rows, count = array.shape
    padded = np.pad(float32(array), ((0, 0), (0, -count % size)), constant_values=fill)
    tiles = aligned_zeros(padded.size // size, size).reshape(-1, rows, size)
    tiles[:] = np.hsplit(padded, len(tiles))
    return tiles


def with_moments(vectors, learned, size):
    """Vectors (rows, count) cut into tiles, and Adam's two moments of them; the rows from `learned` on stay."""
    tiles = tiled(vectors, size, 0)
    mean = aligned_zeros(len(tiles) * learned, size).reshape(-1, learned, size)
    return tiles, mean, aligned_zeros(len(tiles), size)


def start(targets, latent_dim, seed):
    """Codes, (patches, latent_dim + 1), and decoder, (latent_dim + 1, samples), to start from; each code ends in a 1.

    targets are (patches, samples), from 0 to 1. latent_dim, at least 1, is lowered to the number of patches, or of samples,
    if above: a matrix of logits has no higher rank, so more numbers would be of no use.
    """
    if latent_dim < 1:
        raise ValueError("latent_dim has to be at least 1")
    patches, samples = targets.shape
    latent_dim = min(latent_dim, patches, samples)
    clipped = np.clip(targets, 0.02, 0.98)
    logits = np.log(clipped / (1 - clipped))
    logits -= logits.mean(axis=0)

    # The codes are the principal components of the targets' logits, scaled to equal length: training then needs a tenth
    # of the epochs (`tests/quality.py start`). They are found by subspace iteration, among the patches or among the
    # samples, whichever are fewer.
    wide = logits if patches <= samples else logits.T
    basis = np.random.default_rng(seed).standard_normal((len(wide), latent_dim), float32)
    for _ in range(4):
        basis = qr(wide @ (wide.T @ basis))[0]

    # A basis among the samples gives codes by projection.
    codes = basis if patches <= samples else qr(logits @ basis)[0]

    if latent_dim == patches:
        # So far the codes have a length of 1, and are orthogonal but for the 1 behind each: a step for one patch changes the
        # others only through that 1, that is, through the bias. Long codes make this influence small. (If there is one
        # patch more, `components` treats patches likewise, but codes can't be orthogonal, and keep the ordinary length.)
        factor = CODE_NORM
    else:
        # The numbers of codes get a mean square of 1, like the 1 behind them.
        factor = sqrt(patches)
    return np.insert(factor * codes, latent_dim, 1, axis=1), np.zeros((latent_dim + 1, samples))


def train(targets, codes, decoder, epochs, learning_rate=1.0, log_every=10):
    """Train codes and decoder, one step over all samples per epoch; Ctrl-C ends it after the current epoch.

    targets  (patches, samples), from 0 to 1
    codes    (patches, latent_dim + 1), the last number of each being 1, as from `start`
    decoder  (latent_dim + 1, samples), the bias in its last row
    Returns both, float32, and the loss before each epoch. Raises ValueError if an argument can't be used.
    """
    patches, samples = targets.shape
    rows = len(decoder)
    if codes.shape != (patches, rows) or decoder.shape[1] != samples:
        raise ValueError("targets, codes and decoder have to fit together")
    if not 0 <= targets.min() <= targets.max() <= 1:
        raise ValueError("targets have to lie between 0 and 1")
    if epochs < 1 or log_every < 1 or not 0 < learning_rate < inf:
        raise ValueError("epochs and log_every have to be at least 1, and learning_rate above 0")

    # How far a logit moves with its sample's vector depends on how long codes are. A code's last number, the 1, isn't learned.
    code_rate = CODE_RATE * learning_rate
    code_length = sqrt(np.sum(np.square(codes, dtype=float)) / patches)
    sample_rate = SAMPLE_RATE * learning_rate / code_length

    # What is filled up has vectors of 0, and on the long side targets of 1/2: no error, so it never moves.
    if patches > samples:
        code_side = long_side = with_moments(codes.T, rows - 1, 512)
        sample_side = short_side = with_moments(decoder, rows, 4)
        long_rate, short_rate = code_rate, sample_rate
        targets = targets.T
    else:
        code_side = short_side = with_moments(codes.T, rows - 1, 4)
        sample_side = long_side = with_moments(decoder, rows, 512)
        long_rate, short_rate = sample_rate, code_rate
    targets = tiled(targets, 512, 0.5)

    losses = []
    total_weight = 0
    began = perf_counter()
    with ctrl_c_noted() as interrupts:
        for epoch in range(epochs):
            # The rates fall to 0 along half a cosine (Loshchilov and Hutter 2017), while the running means grow longer,
            # from 5 epochs to 20: this acts like larger batches (Smith and others 2018). In a running mean, the weight of a
            # gradient falls by the factor beta per epoch. With the share 1 / total weight for the newest, it is a mean from
            # the first epoch on (Adam's bias correction).
            falling = (1 + cos(pi * epoch / epochs)) / 2
            beta = falling * BETAS[0] + (1 - falling) * BETAS[1]
            total_weight = 1 + beta * total_weight
            share = 1 / total_weight
            squared_error = train_epoch(long_side, falling * long_rate, short_side, falling * short_rate, targets, share)
            losses.append(squared_error / (patches * samples))
            log_epoch(losses, epochs, log_every, perf_counter() - began)
            if interrupts:
                say(f"Ctrl-C: training ends after epoch {epoch + 1}")
                break
    # The vectors of a side are its first array, in tiles.
    codes, decoder = (np.concatenate(side[0], axis=1) for side in (code_side, sample_side))
    return codes[:, :patches].T, decoder[:, :samples], losses


def log_epoch(losses, epochs, log_every, seconds):
    """Print a line every log_every epochs and at the last, with the time that is left."""
    epoch = len(losses)
    loss = losses[-1]
    if epoch % log_every == 0 or epoch == epochs:
        left = seconds * (epochs / epoch - 1)
        say(f"epoch {epoch:4}/{epochs}  loss {loss:.3e}  {quality(loss)}  {seconds:.2f} s, {left:.1f} s left")


# --------------------------------------------------------------------------------------- compressed file

VERSION = 1  # of the layout of the file
STEPS = 64  # rounding steps to choose from, per factor of two: a step is 2^(exponent / STEPS)
PRICE = 0.18  # squared error allowed per bit saved; 1 is what a number wrong by 1 adds (`tests/quality.py rounding`)
PASSES = 3, 20  # least and most passes in which `choose` improves the numbers
OWN_SCORE = 16  # score of a patch that has a component of its own
ZERO_BELOW = 0.7  # weights in cosines below this share of a step become 0 (`tests/quality.py rounding`)


class Record(NamedTuple):
    """All that the file holds, in whole numbers."""

    channels: int
    width: int
    height: int
    exponent: int
    shapes: np.ndarray  # (pictures, 2)
    correction: np.ndarray  # (reach, reach)
    code_numbers: np.ndarray  # (components, patches)
    weight_numbers: np.ndarray  # (components, samples)


def compress(pictures, codes, decoder, width, height, target_psnr=None):
    """The bytes of the file with the coarsest rounding found that gives pictures with target_psnr dB over all their samples.

    Small pictures get the smallest file near by. pictures are as in `cut`; codes and decoder are what `train` returns for
    their patches. Without a target, or if that is out of reach, the file is as good as what was learned, to 0.05 dB, or
    better, and pictures that training made exact stay so. Ctrl-C ends the search as soon as a file will do. Raises
    ValueError if the arguments don't fit together.
    """
    targets = cut(pictures, width, height)
    if codes.shape != (len(targets), len(decoder)) or decoder.shape[1] != targets.shape[1]:
        raise ValueError("pictures, codes and decoder have to fit together")
    if not abs(codes).max() * abs(decoder).max() < 1e12:
        raise ValueError("codes and decoder have to be finite, and not so large")

    width, height = int(width), int(height)
    if target_psnr is not None and not target_psnr > 0:
        raise ValueError("target_psnr has to be above 0")

    # Pictures that training made exact have to stay exact, unless training surpassed the target, which gives room.
    learned_losses, learned_loss = losses_before_rounding(pictures, codes, decoder, width, height)
    exact = learned_losses == 0
    if target_psnr is None:
        allowed = 1.01 * learned_loss
    else:
        allowed = 10 ** (-float(target_psnr) / 10)
        if learned_loss < allowed:
            exact[:] = False

    # More passes of choosing make smaller files; large pictures get fewer of them. Choosing trades error for bits, so there
    # is none where all has to be exact.
    passes = 0 if exact.all() else int(np.clip(1e7 / targets.size, *PASSES))

    # At the finest step, the longest row of scores is 2^22 steps long: float32 holds such whole numbers. It is the last
    # resort, so there is no choosing either. The 1e-9 is for scores that are all 0.
    shapes = np.array([picture.shape[:2] for picture in pictures])
    scores, weights = components(codes, decoder)
    finest = ceil(STEPS * log2(norm(scores, axis=1).max() / 2**22 + 1e-9))

    def attempt(exponent):
        """The record for a step, its loss, and whether exact pictures are still exact."""
        passes_now = passes if exponent > finest else 0
        record = quantise(shapes, targets, scores, weights, exponent, passes_now, width, height)
        record, losses, loss = fit_smoothing(record, pictures, exact)
        return record, loss, not losses[exact].any()

    with ctrl_c_noted() as interrupts:
        if allowed < learned_loss:
            # Training missed the target. Choosing may reach it, far better than few epochs of training: a try with a fine step
            # shows that. Its step is the root of learned_loss. Per logit, rounding the weights adds step^2 / 12 times
            # components / patches to the squared error, and rounding the scores step^2 / 12 times components / samples. With
            # the square of the sigmoid's slope, at most 1/16, that is 1 % of learned_loss at most.
            fine = max(finest, round(STEPS * log2(sqrt(learned_loss))))
            _, fine_loss, _ = attempt(fine)
            if fine_loss > allowed:
                # Out of reach. What is asked for instead is what was learned, or 1.5 times the loss that choosing reached (this
                # leaves room for a coarser step), whichever is better.
                allowed = 1.01 * min(learned_loss, 1.5 * fine_loss)
        best = search(attempt, finest, allowed, interrupts)
        content = pack(best)

        # From step to step, loss and bytes jump a little. If a try costs next to nothing, the smallest file near by is taken.
        found = best.exponent
        near_by = set(range(max(finest, found - 20), found + 21)) - {found}
        for exponent in sorted(near_by) if targets.size < 1e5 else ():
            if interrupts:
                break
            record, loss, unharmed = attempt(exponent)
            packed = pack(record)
            if unharmed and loss <= allowed and len(packed) < len(content):
                best, content = record, packed
        say(f"rounding step {step_of(best.exponent):.4g} is taken")
    return content


def losses_before_rounding(pictures, codes, decoder, width, height):
    """Mean squared errors of what was learned, as pictures: of each, and of all samples."""
    outputs = join(sigmoids(codes @ decoder), [picture.shape for picture in pictures], width, height)
    return mean_squares(pictures, [to_levels(output) for output in outputs])


def search(attempt, finest, allowed, interrupts):
    """The record with the coarsest step found whose loss is allowed, or with the finest; `attempt` is that of `compress`.

    As soon as interrupts holds something, the first record that will do is taken.
    """
    # `good` is the coarsest exponent that has passed, `bad` the finest that has failed; nothing between them has been tried.
    best = None
    exponent = max(0, finest)
    good, good_loss, bad, bad_loss = -inf, 0, inf, inf
    while bad - good > 1:
        record, loss, unharmed = attempt(exponent)
        say(f"rounding step {step_of(exponent):.4g}: {quality(loss)}")
        passed = unharmed and loss <= allowed
        if passed:
            best, good, good_loss = record, exponent, loss
        else:
            bad, bad_loss = exponent, loss

        if exponent == finest and not passed:
            return record
        near_enough = passed and loss > 0.97 * allowed > 0
        all_zero = passed and record.code_numbers.size == 0
        if near_enough or all_zero or interrupts and best:
            break
        exponent = max(finest, next_exponent(good, good_loss, bad, bad_loss, allowed))
    return best


def next_exponent(good, good_loss, bad, bad_loss, allowed):
    """The exponent to try next: see `search`."""
    # Until one try has passed and one has failed, steps change by a factor of 4. But the loss of the first try, that of the
    # exponent 0, says how far away the target is: as measured, half the loss takes about 1.3 halvings of the step. (Some of
    # the loss is left by training, and doesn't shrink with the step.)
    if bad - good == inf:
        tried, loss, sign = (good, good_loss, 1) if bad == inf else (bad, bad_loss, -1)
        doublings = 2.0
        if tried == 0 and loss > 0 and allowed > 0:
            doublings = min(max(1.3 * abs(log2(loss / allowed)), 0.25), 2.0)
        return tried + sign * ceil(STEPS * doublings)

    # Then the logarithm of the loss is interpolated over the exponent; where that says nothing, the interval is halved.
    fraction = 0.5
    if good_loss > 0 and bad_loss > allowed:
        fraction = log(0.99 * allowed / good_loss) / log(bad_loss / good_loss)
    return good + ceil((bad - good - 1) * min(max(fraction, 0.1), 0.9))


def decompress(content):
    """The pictures in the bytes of a file, in the form in which they went into `compress`.

    Raises ValueError if these can't be the bytes of a file. There is no checksum: other damage gives other pictures.
    """
    record = unpack(content)
    return finish(reconstruct(record), record)


def components(codes, decoder):
    """Scores, (components, patches), and weights, (components, samples): scores.T @ weights are the logits."""
    # If patches <= min(latent_dim + 1, samples), each patch can have a component of its own. Then a row of weights is the logits
    # of one patch / OWN_SCORE, and what repeats in a picture repeats in the file (7,000 bytes for the three patterns; principal
    # components 60,000). Logits are clipped: beyond -8 and 8 they are black or white in 8 bits. The code number of a patch is
    # OWN_SCORE / step, and its weight numbers are its logits / step, so OWN_SCORE cancels out. It has to be above 8, so that
    # the code number doesn't round to 0 before all weight numbers do. (In cosines, these can be larger; no harm was seen.)
    if len(codes) <= min(codes.shape[1], decoder.shape[1]):
        return OWN_SCORE * np.eye(len(codes)), np.clip(codes @ decoder, -8, 8) / OWN_SCORE

    # Otherwise components come from the singular value decomposition of the logits: then most of the bits are in few of
    # them. The rows of weights have length 1.
    basis, triangle = qr(np.float64(codes))
    rotation, lengths, weights = svd(triangle @ decoder, full_matrices=False)
    return (rotation * lengths).T @ basis.T, weights


def quantise(shapes, targets, scores, weights, exponent, passes, width, height):
    """The record for a rounding step of 2^(exponent / STEPS), without smoothing; numbers are chosen in so many passes."""
    channels = targets.shape[1] // (width * height)
    bases = patch_bases(shapes, width, height, channels)
    numbers = choose(scores, weights, step_of(exponent), passes, targets, bases)
    reach = reach_of(width, height)
    return Record(channels, width, height, exponent, shapes, np.zeros((reach, reach), int), *numbers)


def step_of(exponent):
    """The rounding step: what 1 in a whole number is worth."""
    return 2 ** (exponent / STEPS)


def reach_of(width, height):
    """How many pixels on both sides of a border are smoothed, for patches of this size."""
    return min(4, width // 2, height // 2)


def are_whole(shapes, width, height):
    """Whether each picture, of these shapes (pictures, 2), is one patch: then patches have no neighbours."""
    return bool(np.all(shapes <= [height, width]))


def choose(scores, weights, step, passes, targets, bases):
    """Whole numbers of scores and weights, (components, patches) and (components, samples), by what they cost."""
    # With c and w the whole numbers of a component, its part of the logits is step * (c / |c|) * w. First c is rounded. As it
    # still points nearly where the scores do, w = weights * |scores| / step is nearly best for it. Where rows of weights have a
    # length of 1, as from `svd`, |w| is about |c|, and 1 more in c or in w adds about step^2 to the squared error of the
    # logits: one step suits all numbers.
    code_numbers = np.rint(float32(scores / step))
    weight_numbers = round_weights(weights * norm(scores / step, axis=1, keepdims=True), bases)
    code_numbers, weight_numbers = without_zeros(code_numbers, weight_numbers)

    # To the squared error of the outputs, 1 more adds about step^2 times the mean square of the sigmoid's slope, here that
    # at the targets. PRICE times as much is allowed per bit saved. The 1e-4 is for pictures in black and white, which have
    # no slope.
    price = PRICE * step**2 * np.mean((targets - targets**2) ** 2 + 1e-4)
    targets_by_sample = np.ascontiguousarray(targets.T)
    for _ in range(passes):
        # The code numbers move, while the weights stay: `move` gets the code of a patch in each column. (The weight numbers are
        # expressed in bases, the weights are those of pixels.)
        old_lengths = row_lengths(code_numbers)
        pixel_weights = turn_back(weight_numbers, bases) / old_lengths
        move(code_numbers, np.ascontiguousarray(step * pixel_weights, float32), targets, bit_costs(code_numbers, price))

        # Then the weights are fitted to these code numbers: `move` gets the weights of a sample in each column, at no cost.
        # They begin as they are, now times the new lengths of the code numbers. The grid is eight times finer than that of
        # the weight numbers, since `round_weights` rounds once more, perhaps in cosines: the logits are
        # step * (c / |c|) * pixel_eighths / 8.
        new_lengths = row_lengths(code_numbers)
        pixel_eighths = np.ascontiguousarray(np.rint(8 * pixel_weights * new_lengths), float32)
        no_costs = np.zeros(len(pixel_eighths), float32)
        move(pixel_eighths, float32(step / 8 * code_numbers / new_lengths), targets_by_sample, no_costs)
        code_numbers, weight_numbers = without_zeros(code_numbers, round_weights(pixel_eighths / 8, bases))
    return np.int64(code_numbers), np.int64(weight_numbers)


def without_zeros(code_numbers, weight_numbers):
    """Both without the components whose numbers are all 0 on either side: these add nothing to the logits."""
    used = code_numbers.any(axis=1) & weight_numbers.any(axis=1)
    return code_numbers[used], weight_numbers[used]


def round_weights(scaled, bases):
    """Whole numbers, (components, samples), of weights times lengths, expressed in bases."""
    # In cosines most are small. Some more of them become 0: that adds little error, and zeros take few bits.
    scaled = turn(scaled, bases)
    numbers = np.rint(scaled)
    if bases is not None:
        numbers[abs(scaled) < ZERO_BELOW] = 0
    return numbers


def bit_costs(numbers, price):
    """What it costs in each row of whole numbers if an absolute value grows by 1, float32 (rows)."""
    # If absolute values have a geometric distribution with mean m, one that is larger by 1 takes log2(1 + 1 / m) bits more.
    return float32(price * np.log2(1 + 1 / np.mean(abs(numbers), axis=1)))


@njit(parallel=True, fastmath=True, error_model="numpy")
def move(numbers, units, targets, costs):
    """Move whole numbers where squared error and cost are least, in place. Threads share the vectors.

    numbers  float32 (rows, count): a vector in each column
    units    float32 (rows, others): what logits get if a number grows by 1, so numbers.T @ units are the logits
    targets  float32 (count, others)
    costs    float32 (rows): what it costs if an absolute value grows by 1, as a squared error
    """
    rows, others = units.shape
    for i in prange(len(targets)):
        logits = np.zeros(others, float32)
        errors = np.zeros(others, float32)
        slopes = np.zeros(others, float32)
        moved_errors = np.zeros(others, float32)
        for k in range(rows):
            for n in range(others):
                logits[n] += numbers[k, i] * units[k, n]
        square = float32(0)
        for n in range(others):
            output = sigmoid(logits[n])
            errors[n] = output - targets[i, n]
            slopes[n] = output - output * output
            square += errors[n] * errors[n]

        for k in range(rows):
            # The squared error is taken for a parabola (Gauss and Newton), curvature * (number - bottom)^2, but for a
            # constant. With cost * |number| added, it is least where the bottom is drawn nearer to 0 by cost / (2 curvature)
            # (soft thresholding). The 1e-9 is for pictures in black and white, where all may be flat.
            gradient = float32(0)
            curvature = float32(1e-9)
            for n in range(others):
                slope = slopes[n] * units[k, n]
                gradient += errors[n] * slope
                curvature += slope * slope
            bottom = numbers[k, i] - gradient / curvature
            size = max(abs(bottom) - costs[k] / 2 / curvature, float32(0))
            proposed = np.rint(np.copysign(size, bottom))
            change = proposed - numbers[k, i]
            if change == 0:
                continue

            # The parabola only proposes. The number moves if the true squared error plus cost falls.
            moved_square = float32(0)
            for n in range(others):
                moved_errors[n] = sigmoid(logits[n] + change * units[k, n]) - targets[i, n]
                moved_square += moved_errors[n] * moved_errors[n]
            if moved_square + costs[k] * (abs(proposed) - abs(numbers[k, i])) < square:
                numbers[k, i] = proposed
                square = moved_square
                for n in range(others):
                    logits[n] += change * units[k, n]
                    errors[n] = moved_errors[n]
                    output = errors[n] + targets[i, n]
                    slopes[n] = output - output * output


def sigmoids(logits):
    """The sigmoid of logits, by NumPy: the hyperbolic tangent never overflows."""
    return 0.5 + np.tanh(logits / 2) / 2


def row_lengths(numbers):
    """Lengths of rows, (rows, 1), or 1 for a row of zeros."""
    return np.maximum(norm(numbers, axis=1, keepdims=True), 1)


def cosines(size):
    """Cosines of rising frequency, orthonormal (size, size): the discrete cosine transform, type 2."""
    rows = np.cos(pi * np.arange(size)[:, None] * (np.arange(size) + 0.5) / size)
    return rows / norm(rows, axis=1, keepdims=True)


def patch_bases(shapes, width, height, channels):
    """Orthonormal bases for the rows, columns and channels of a patch; None if its weights are stored as pixels."""
    # The weights of cut pictures are smooth, so in cosines and opponent colours most of them are 0. As the bases are
    # orthonormal, an error of one step costs the same as in pixels. Whole pictures are stored as pixels, and so are patches
    # of more than 128 a side, for which bases would be large.
    if are_whole(shapes, width, height) or max(width, height) > 128:
        return None
    colours = np.eye(channels)
    if channels == 3:
        opponents = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]])
        colours = opponents / norm(opponents, axis=1, keepdims=True)
    return cosines(height), cosines(width), colours


def turn(rows, bases):
    """Weights, or multiples of them, (components, samples), expressed in bases."""
    if bases is None:
        return rows
    grid = rows.reshape(len(rows), *map(len, bases))
    return np.einsum("khwc,ih,jw,lc->kijl", grid, *bases, optimize=True).reshape(rows.shape)


def turn_back(rows, bases):
    """What `turn` was given, from what it returned: the inverse of an orthonormal basis is its transpose."""
    return turn(rows, bases and [basis.T for basis in bases])


def reconstruct(record):
    """Pictures as the decoder makes them, float64 from 0 to 1, before smoothing."""
    bases = patch_bases(record.shapes, record.width, record.height, record.channels)
    scores = step_of(record.exponent) * record.code_numbers
    weights = turn_back(record.weight_numbers, bases) / row_lengths(record.code_numbers)
    shapes = [(*shape, record.channels) for shape in record.shapes.tolist()]
    return join(sigmoids(scores.T @ weights), shapes, record.width, record.height)


def finish(outputs, record):
    """Pictures, uint8, of what `reconstruct` returns: smoothed, which overwrites the outputs, and rounded to levels."""
    if record.correction.any():
        outputs = [smooth(output, record) for output in outputs]
    return [to_levels(output if record.channels == 3 else output[..., 0]) for output in outputs]


def borders(picture, record):
    """Views of the pixels to the left and to the right of all borders between patches: two lists, from the border outwards.

    First of the borders between columns, then of those between rows, where left is above and right is below.
    """
    reach = len(record.correction)
    for view, size in ((picture.swapaxes(0, 1), record.width), (picture, record.height)):
        count = max(0, (len(view) - reach) // size)  # a border needs `reach` pixels on both sides
        lefts = [view[size - 1 - j :: size][:count] for j in range(reach)]
        rights = [view[size + j :: size][:count] for j in range(reach)]
        yield lefts, rights


def differences(lefts, rights):
    """Right minus left, a list from the border outwards."""
    return [np.subtract(right, left, dtype=float) for left, right in zip(lefts, rights)]


def products(some, others):
    """The sums of the products of each of some arrays with each of others."""
    return np.array([[np.sum(one * other) for other in others] for one in some])


def smooth(picture, record):
    """Move both sides of each border towards each other, in place: columns first, then rows. Returns the picture.

    left[i] += sum over j of c[i, j] (right[j] - left[j]), and right[i] -= the same, where c is the correction.
    """
    for lefts, rights in borders(picture, record):
        across = differences(lefts, rights)
        for left, right, row in zip(lefts, rights, record.correction / 64):
            shift = sum(c * difference for c, difference in zip(row, across))
            left += shift
            right -= shift
    return picture


def fit_smoothing(record, pictures, exact):
    """The record with the smoothing that suits it, and the mean squared errors: of each picture, and of all samples."""
    # With d[j] the difference across a border at distance j, and e[i] how far d[i] is from that of the original, least squares
    # fit e[i] by the sum over j of d[j] solution[j, i]. Each side moves by half of that, so the correction is half of the
    # solution transposed. The fit ignores that rows are smoothed after columns.
    reach = len(record.correction)
    gram, moment = np.zeros((2, reach, reach))
    outputs = reconstruct(record)
    for output, picture in zip(outputs, pictures):
        original = picture.reshape(output.shape)
        for sides, original_sides in zip(borders(output, record), borders(original, record)):
            across = differences(*sides)
            levels_across = differences(*original_sides)
            errors = [difference - levels / 255 for difference, levels in zip(across, levels_across)]
            gram += products(across, across)
            moment += products(across, errors)
    solution = lstsq(gram, moment, rcond=1e-3)[0]
    corrected = record._replace(correction=np.int64(np.rint(64 * solution.T / 2)))

    # Where a picture doesn't go on across borders, as in pages of letters, smoothing gains less than 1 %: the file does
    # without. Exact pictures stay exact. What is plain is measured first, since smoothing overwrites the outputs.
    plain_losses, plain_loss = mean_squares(pictures, finish(outputs, record))
    if corrected.correction.any():
        losses, loss = mean_squares(pictures, finish(outputs, corrected))
        if loss < 0.99 * plain_loss and not losses[exact].any():
            return corrected, losses, loss
    return record, plain_losses, plain_loss


# The coder of the whole numbers is a binary range coder with adaptive chances (Martin 1979; Mahoney 2005), in integers only,
# so that it decodes alike on every machine. One function serves both directions: the decoder knows the same as the encoder
# when a bit comes, so both learn the same chances.

LOW, HIGH, VALUE, PLACE, DECODING = range(5)  # places in the state of the coder
SETS = 12  # sets of chances: planes 0 to 10 have one each, all later planes share the last
SURROUNDINGS = 13  # classes of the sizes around a number: their length in bits
LENGTHS = 32  # numbers have fewer bits than that


@njit
def transfer_bit(coder, stream, chances, context, bit):
    """Write a bit to the stream, or read one, and learn from it. Returns the bit.

    coder    int64 (5): the state
    stream   uint8: the bytes of the file; behind them, nothing is written and zeros are read
    chances  int64 (contexts, 2): the chance of a 1, of 65536, and how often it was used
    """
    # Bytes that are certain are written. low and high bound the next four bytes, read as one number, and value is these bytes
    # in the file: low <= value <= high. The first bytes of low and high differ, as the loop at the end sees to, so low < high.
    # A 1 takes the lower part of the interval, as large as its chance, and a 0 the rest; neither is empty.
    chance = chances[context, 0]
    used = chances[context, 1]
    low = coder[LOW]
    high = coder[HIGH]
    middle = low + ((high - low) * chance >> 16)
    if coder[DECODING]:
        bit = int(coder[VALUE] <= middle)
    if bit:
        high = middle
        chance += (65536 - chance) // (used + 2)
    else:
        low = middle + 1
        chance -= chance // (used + 2)
    chances[context, 0] = min(max(chance, 64), 65536 - 64)
    chances[context, 1] = min(used + 1, 127)

    # Bytes that low and high share are certain.
    while low >> 24 == high >> 24:
        place = coder[PLACE]
        inside = place < len(stream)
        if coder[DECODING]:
            coder[VALUE] = (coder[VALUE] << 8 & 0xFFFFFFFF) + (stream[place] if inside else 0)
        elif inside:
            stream[place] = low >> 24
        coder[PLACE] += 1
        low = low << 8 & 0xFFFFFFFF
        high = (high << 8 & 0xFFFFFFFF) + 255
    coder[LOW] = low
    coder[HIGH] = high
    return bit


@njit
def bit_length(number):
    """Length in bits of a whole number, at least 0."""
    length = 0
    while number >> length:
        length += 1
    return length


@njit
def expected(plane, row, column):
    """What the known neighbours of a number suggest: the median of left, above, and left + above - corner."""
    left = plane[row, column - 1] if column else 0
    above = plane[row - 1, column] if row else 0
    if row == 0 or column == 0:
        return left + above  # one of them, or 0
    return max(min(left, above), min(max(left, above), left + above - plane[row - 1, column - 1]))


@njit
def predictable(plane):
    """1 if the differences from what is expected are smaller than the numbers, otherwise 0."""
    gain = 0
    for row in range(plane.shape[0]):
        for column in range(plane.shape[1]):
            number = plane[row, column]
            gain += abs(number) - abs(number - expected(plane, row, column))
    return int(gain > 0)


@njit
def transfer_planes(coder, stream, planes, size_chances, digit_chances, flag_chances):
    """Write planes of whole numbers, int64 (planes, rows, columns), or read them in place."""
    # Of a predictable plane, the differences from what is expected are written. A number is written as its length in
    # bits, in unary; then its digits below the first; then its sign. How likely a length is depends on the plane, on the
    # sizes of the neighbours that are known, and on the numbers of the planes before, at the same place. When planes are
    # read, they hold zeros at first, and the bits given to `transfer_bit` are ignored. Of the flag_chances, the first SETS are
    # for signs, the others say which planes are predictable.
    count, rows, columns = planes.shape
    by_difference = np.zeros(count, np.int64)
    for k in range(count):
        by_difference[k] = transfer_bit(coder, stream, flag_chances, SETS + min(k, SETS - 1), predictable(planes[k]))
    for row in range(rows):
        for column in range(columns):
            sizes_before = 0
            for k in range(count):
                if coder[PLACE] > len(stream) + 3:  # the file was cut off: see `read_by_coder`
                    return
                plane = planes[k]
                # The context is the bit length of a weighted sum of absolute values near by: of the four neighbours, as
                # distances from `base`, with weights 2, 2, 1, 1; and of the planes before, with weights 3, 3/2, 3/4 ...
                # (rounded up): see the end of the loop.
                base = expected(plane, row, column) if by_difference[k] else 0
                around = 0
                if column:
                    around += 2 * abs(plane[row, column - 1] - base)
                if row:
                    around += 2 * abs(plane[row - 1, column] - base)
                if row and column:
                    around += abs(plane[row - 1, column - 1] - base)
                if row and column + 1 < columns:
                    around += abs(plane[row - 1, column + 1] - base)

                own = min(k, SETS - 1)
                context = (own * SURROUNDINGS + min(bit_length(around + 3 * sizes_before), SURROUNDINGS - 1)) * LENGTHS
                size = abs(plane[row, column] - base)
                length = 0
                goal = bit_length(size)
                while length < LENGTHS - 1 and transfer_bit(coder, stream, size_chances, context + length, int(length < goal)):
                    length += 1
                number = min(length, 1)
                for digit in range(length - 2, -1, -1):
                    context = length * LENGTHS + digit
                    number = 2 * number + transfer_bit(coder, stream, digit_chances, context, size >> digit & 1)
                # The sizes of the planes before, at this place: the last counts 1, each earlier one half as much.
                sizes_before = number + (sizes_before + 1) // 2
                if number and transfer_bit(coder, stream, flag_chances, own, int(plane[row, column] < base)):
                    number = -number
                plane[row, column] = base + number


def fresh_chances():
    """Chances of lengths, digits and flags that know nothing yet, int64 (contexts, 2)."""
    contexts = SETS * SURROUNDINGS * LENGTHS, LENGTHS * LENGTHS, 2 * SETS
    return [np.tile([32768, 0], (count, 1)) for count in contexts]


def grids(shapes, width, height):
    """Rows and columns of the grids of patches: one of each picture, or one column for all whole pictures."""
    if are_whole(shapes, width, height):
        return [(len(shapes), 1)]
    return [(-(-tall // height), -(-wide // width)) for tall, wide in shapes.tolist()]


LZMA_FILTERS = [{"id": 0x4000000000000001, "preset": 6}]  # lzma.FILTER_LZMA1: as a number it needs no lzma
HEAD, CODES, WEIGHTS = range(3)  # the groups of arrays in a file, each with chances of its own


def weight_parts(count, patches):
    """How many parts the weights of so many components are written in."""
    # The singular value decomposition is only used if it gives fewer components than patches (see `components`). So if there
    # are as many, each patch began with its own: these have little to do with each other, and are written one by one. (If one
    # was left out, the others are written together, which may take a little more.)
    return count if count == patches else 1


def pack(record):
    """The bytes of a file: see its layout at the top."""
    count, patches = record.code_numbers.shape
    head = VERSION, record.channels, record.width, record.height, record.exponent, count, len(record.shapes)
    sizes = grids(record.shapes, record.width, record.height)
    ends = np.cumsum([rows * columns for rows, columns in sizes])
    grid_parts = zip(np.split(record.code_numbers, ends[:-1], axis=1), sizes)

    weight_grids = record.weight_numbers.reshape(count, record.height, record.width, record.channels)
    weight_groups = np.split(weight_grids, weight_parts(count, patches))
    groups = [
        [np.array([[head]]), record.shapes.T[:, :, None], record.correction[None]],
        [part.reshape(count, *size) for part, size in grid_parts],
        [part.transpose(3, 0, 1, 2).reshape(-1, record.height, record.width) for part in weight_groups],
    ]

    # By the coder. Here is room for 80 bytes per number, of at most 62 decisions; most decisions take less than a bit, and few
    # more than 10. What isn't used takes no memory.
    numbers = np.concatenate([np.ravel(array) for arrays in groups for array in arrays])
    stream = np.zeros(80 * numbers.size, np.uint8)
    coder = np.array([0, 0xFFFFFFFF, 0, 0, 0])
    for arrays in groups:
        chances = fresh_chances()
        for array in arrays:
            transfer_planes(coder, stream, np.ascontiguousarray(array, np.int64), *chances)
    stream[coder[PLACE]] = (coder[LOW] >> 24) + 1  # a number between low and high, with zeros behind
    content = b"\0" + stream[: coder[PLACE] + 1].tobytes()

    # By LZMA, if the numbers fit into two bytes; it is better where a picture repeats itself.
    if lzma and np.array_equal(numbers, np.int16(numbers)):
        changes = np.diff(np.int16(numbers), prepend=np.int16(0))
        repeated = b"\1" + lzma.compress(changes.astype("<i2").tobytes(), lzma.FORMAT_RAW, filters=LZMA_FILTERS)
        content = min(content, repeated, key=len)
    # `unpack` refuses a file that is too short for the samples that it announces, so it is filled up.
    all_samples = max(patches * record.weight_numbers.shape[1], 64 * len(record.shapes))
    return content.ljust(ceil((all_samples - 2**20) / 256), b"\0")


def unpack(content):
    """The record in the bytes of a file. Raises ValueError if they are damaged, or of another program."""
    content = bytes(content)
    # No file of this length holds more samples, nor more pictures than a 64th of that: see `pack`. By LZMA it has two bytes for
    # each of at most `most` code numbers and `most` weight numbers, which makes 4 * most, and some for few others.
    most = 256 * len(content) + 2**20
    if content[:1] not in (b"\0", b"\1"):
        raise ValueError("not a file of this program")
    read = read_by_coder(content[1:]) if content[:1] == b"\0" else read_by_lzma(content[1:], 5 * most)
    version, channels, width, height, exponent, count, pictures = read(HEAD, 1, 1, 7).ravel().tolist()
    if version != VERSION or channels not in (1, 3) or abs(exponent) > 64 * STEPS:
        raise ValueError("not a file of this version of the program")
    if min(width, height, pictures) < 1 or 64 * pictures > most:
        raise ValueError("the file announces more than it can hold")
    shapes = read(HEAD, 2, pictures, 1)[..., 0].T
    if shapes.min() < 1 or shapes.max() > most:
        raise ValueError("the file announces more than it can hold")
    sizes = grids(shapes, width, height)
    patches = sum(rows * columns for rows, columns in sizes)
    samples = width * height * channels
    if patches * samples > most or not 0 <= count <= min(patches, samples):
        raise ValueError("the file announces more than it can hold")

    reach = reach_of(width, height)
    correction = read(HEAD, 1, reach, reach)[0]
    code_numbers = np.concatenate([read(CODES, count, *size).reshape(count, prod(size)) for size in sizes], axis=1)
    parts = weight_parts(count, patches)
    planes = [read(WEIGHTS, channels * count // parts, height, width) for _ in range(parts)]
    pixels = [part.reshape(channels, count // parts, height, width).transpose(1, 2, 3, 0) for part in planes]
    weight_numbers = np.concatenate(pixels).reshape(count, samples)
    return Record(channels, width, height, exponent, shapes, correction, code_numbers, weight_numbers)


def read_by_coder(content):
    """Function that reads the next array of whole numbers, of this group and of this shape."""
    stream = np.frombuffer(bytearray(content), np.uint8)  # can be written, like that of `pack`: one type, compiled once
    coder = np.array([0, 0xFFFFFFFF, int.from_bytes(content[:4].ljust(4, b"\0"), "big"), 4, 1])
    chances = [fresh_chances() for _ in range(3)]

    def read(group, *shape):
        array = np.zeros(shape, np.int64)
        transfer_planes(coder, stream, array, *chances[group])
        # Reading begins 4 bytes ahead of writing, so a whole file, which has one more byte than was certain, ends at + 3.
        if coder[PLACE] > len(content) + 3:
            raise ValueError("the file is cut off")
        return array

    return read


def read_by_lzma(content, most):
    """The same for a sequence that LZMA holds, of at most so many bytes."""
    if lzma is None:
        raise ValueError("this Python was built without lzma, which the file needs")
    try:
        differences = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=LZMA_FILTERS).decompress(content, most)
    except lzma.LZMAError as error:
        raise ValueError(f"the file is damaged: {error}") from None
    numbers = np.cumsum(np.frombuffer(differences[: len(differences) // 2 * 2], "<i2"), dtype=np.int16).astype(np.int64)

    def read(group, *shape):
        nonlocal numbers
        array, numbers = np.split(numbers, [prod(shape)])
        if len(array) < prod(shape):
            raise ValueError("the file is cut off")
        return array.reshape(shape)

    return read


# ---------------------------------------------------------------------------------------------- pictures


def radial(x, y, width, height):
    """Brightness falls from 1 in the centre to 0 in a corner."""
    return 1 - np.hypot(x - width / 2, y - height / 2) / hypot(width / 2, height / 2)


def sine(x, y, width, height):
    """Product of two sine waves, SINE_FREQUENCY periods along each side."""
    check("SINE_FREQUENCY", SINE_FREQUENCY, (int, float), -1e9, 1e9)
    across, down = np.sin(2 * pi * SINE_FREQUENCY * np.array([x / width, y / height]))
    return (1 + across * down) / 2


def checkerboard(x, y, width, height):
    """CHECKER_SQUARES along each side, white at the top left."""
    check("CHECKER_SQUARES", CHECKER_SQUARES, (int, float), -1e9, 1e9)
    return (x * CHECKER_SQUARES // width + y * CHECKER_SQUARES // height) % 2 == 0


PATTERNS = {"radial": radial, "sine": sine, "checkerboard": checkerboard}


def draw(name, width, height):
    """Picture of the pattern PATTERNS[name], uint8 (height, width), or (height, width, 3) if it returns three channels."""
    y, x = np.indices((height, width))
    values = PATTERNS[name](x, y, width, height)
    with suppress(TypeError, ValueError):
        values = np.asarray(values)
        shape = (height, width, 3) if values.ndim == 3 else (height, width)
        if np.isrealobj(values) and np.allclose(values, np.clip(values, 0, 1), rtol=0, atol=1e-6):
            return to_levels(np.broadcast_to(values, shape))
    raise Refused(f"pattern {name}: has to return {height} x {width} numbers from 0 to 1")


def to_levels(values):
    """Values from 0 to 1 as the nearest of 256 levels, uint8. Halves go up, and so do float64 values a hair below."""
    levels = values * 255.0 + 0.500000001
    return np.uint8(np.clip(levels, 0, 255, out=levels))


def read_picture(path):
    """Picture of a PGM or PPM file, with up to 16 bits, uint8 (height, width), or (height, width, 3)."""
    # As Netpbm specifies it: a magic number, width, height and maxval, with white space or comments between them; a
    # single white space; and the raster, in P2 and P3 as decimal numbers. What lies behind the raster isn't read.
    refusal = Refused(f"{path}: isn't a whole PGM or PPM file (P2, P3, P5, P6); the README shows how to convert a picture")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}") from None
    space = rb"(?:\s|#[^\r\n]*[\r\n])"
    header = re.match(rb"P([2356])" + 3 * (space + rb"+(\d{1,9})") + space, content)
    if header is None:
        raise refusal
    kind, width, height, maxval = map(int, header.groups())
    channels = 3 if kind in (3, 6) else 1
    count = width * height * channels
    raster = content[header.end() :]
    if kind in (2, 3):
        words = re.sub(rb"#[^\r\n]*", b" ", raster).split()[:count]
        if not all(word.isdigit() and len(word) < 10 for word in words):
            raise refusal
        samples = np.array(words, int)
    else:
        depth = 1 if maxval < 256 else 2
        samples = np.frombuffer(raster, f">u{depth}", min(count, len(raster) // depth))
    if count == 0 or len(samples) < count:
        raise refusal
    if not max(1, samples.max()) <= maxval < 65536:
        raise refusal
    levels = to_levels(np.arange(maxval + 1) / maxval)
    return levels[samples].reshape((height, width, 3) if channels == 3 else (height, width))


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
    file = b"\x89PNG\r\n\x1a\n"
    for chunk in (b"IHDR" + size + b"\x08" + colour_type + b"\0\0\0", b"IDAT" + zlib.compress(lines), b"IEND"):
        file += (len(chunk) - 4).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    return file


def cut(pictures, width, height):
    """Targets: the patches of pictures, filled up with their edges, float32 (patches, samples), from 0 to 1.

    pictures are a list of uint8 arrays, (height, width) or all (height, width, 3). The samples of a patch lie row by row,
    and the channels of a pixel next to each other. Raises ValueError if it is given something else.
    """
    if not isinstance(pictures, (list, tuple)) or not all(
            isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.size for picture in pictures):
        raise ValueError("pictures have to be a list of uint8 arrays")
    if {picture.ndim for picture in pictures} != {2} and {picture.shape[2:] for picture in pictures} != {(3,)}:
        raise ValueError("pictures have to be all (height, width), or all (height, width, 3)")

    width, height = int(width), int(height)
    if width < 1 or height < 1:
        raise ValueError("width and height have to be at least 1")

    patches = []
    for picture in pictures:
        tall, wide = picture.shape[:2]
        picture = picture.reshape(tall, wide, -1)
        padded = np.pad(picture, ((0, -tall % height), (0, -wide % width), (0, 0)), "edge")
        grid = padded.reshape(len(padded) // height, height, -1, width * padded.shape[2])
        patches.append(grid.swapaxes(1, 2).reshape(-1, height * width * padded.shape[2]))
    return np.ascontiguousarray(np.concatenate(patches)) / float32(255)


def join(patches, shapes, width, height):
    """A list of pictures, of these shapes, put together from the patches that `cut` makes of them."""
    pictures = []
    for shape in shapes:
        tall, wide = shape[:2]
        rows = -(-tall // height)
        columns = -(-wide // width)
        grid, patches = np.split(patches, [rows * columns])
        grid = grid.reshape(rows, columns, height, -1).swapaxes(1, 2)
        pictures.append(grid.reshape(rows * height, columns * width, *shape[2:])[:tall, :wide])
    return pictures


def mean_squares(pictures, decoded):
    """Mean squared error of each picture, and of all samples together, black and white being 1 apart."""
    losses = [np.mean(((a - float32(b)) / 255) ** 2, dtype=float) for a, b in zip(pictures, decoded)]
    return np.array(losses), np.average(losses, weights=[picture.size for picture in pictures])


def comparison(pictures, decoded):
    """A column per picture: original, decoded, and 8 times the difference; scaled down to some 2048 pixels a side."""
    tallest = max(map(len, pictures))
    total = sum(picture.shape[1] for picture in pictures)
    every = max(3 * tallest, total) // 2048 + 1
    columns = []
    for original, output in zip(pictures, decoded):
        difference = np.uint8(np.minimum(8 * abs(np.int64(original) - output), 255))
        cells = [picture[::every, ::every] for picture in (original, output, difference)]
        cell_height = tallest // every + 2
        margins = [(0, cell_height - len(cells[0])), (0, 2)] + [(0, 0)] * (original.ndim - 2)  # grey lines between the cells
        columns.append(np.vstack([np.pad(cell, margins, constant_values=128) for cell in cells]))
    return np.hstack(columns)


# ---------------------------------------------------------------------------------------------- plumbing
#
# What any program needs: checks, files, printing, Ctrl-C, machine code.


class Refused(Exception):
    """A mistake that the user can correct, told in one line."""


def check(name, value, kinds, least, most):
    """Refuse a constant that is of none of these types, or out of range."""
    if type(value) not in kinds or not least <= value <= most:
        words = " or ".join(kind.__name__ for kind in kinds)
        raise Refused(f"{name}: has to be of type {words}, from {least} to {most}")


def check_constants():
    """Refuse constants that can't be used; patterns check their own."""
    check("WIDTH", WIDTH, (int,), 1, 1_000_000)
    check("HEIGHT", HEIGHT, (int,), 1, 1_000_000)
    check("LATENT_DIM", LATENT_DIM, (int,), 1, 1_000_000)
    check("EPOCHS", EPOCHS, (int,), 1, 1_000_000_000)
    check("LEARNING_RATE", LEARNING_RATE, (int, float), 0.001, 2)
    if TARGET_PSNR is not None:
        check("TARGET_PSNR", TARGET_PSNR, (int, float), 1, 100)
    check("LOG_EVERY", LOG_EVERY, (int,), 1, 1_000_000_000)
    check("SEED", SEED, (int,), 0, 1_000_000_000)
    if not isinstance(IMAGES, (tuple, list)) or not IMAGES or not all(
            isinstance(name, str) and "\0" not in name for name in (OUTPUT_DIR, *IMAGES)):
        raise Refused('IMAGES and OUTPUT_DIR: have to be like ("cat.pgm",), with a comma, and "outputs"')


def load_pictures(images, width, height, folder):
    """Names and pictures of what IMAGES holds; patterns are width x height, and folder is for the results."""
    names = []
    for name in images:
        found = [name]
        if name not in PATTERNS and not os.path.isfile(HERE / name):
            found = sorted(path for path in glob(name, root_dir=HERE) if os.path.isfile(HERE / path))
        if not found:
            raise Refused(f"IMAGES: {HERE / name} matches no file, and {name} none of the patterns {', '.join(PATTERNS)}")
        names += found

    # A run replaces its results, so they can't be its input, neither by themselves nor through a link.
    results = "final_decoded_", "generated_", "comparison.png", "compressed.bin"
    for path in [HERE / name for name in names]:
        for place in (path, Path(os.path.realpath(path))):
            if place.name.startswith(results) and os.path.realpath(place.parent) == os.path.realpath(folder):
                raise Refused(f"IMAGES: {path} would be replaced by this run: copy it out of OUTPUT_DIR")

    pictures = [draw(name, width, height) if name in PATTERNS else read_picture(HERE / name) for name in names]
    for name, picture in zip(names, pictures):
        if picture.ndim != pictures[0].ndim:
            raise Refused(f"IMAGES: {names[0]} and {name}: grey and colour can't be mixed")
    return names, pictures


def write_patterns(folder, names, pictures):
    """Save the pictures of patterns; even if there are none, a folder that can't be written is found out here."""
    drawn = [(name, picture) for name, picture in zip(names, pictures) if name in PATTERNS]
    write_files(folder, {f"generated_{name}.{ending(picture)}": netpbm(picture) for name, picture in drawn})


def write_results(folder, pictures, decoded, content):
    """Save the results, and delete decoded pictures of an earlier run that had more of them."""
    files = {f"final_decoded_{n}.{ending(picture)}": netpbm(picture) for n, picture in enumerate(decoded)}
    files["compressed.bin"] = content
    files["comparison.png"] = png(comparison(pictures[:8], decoded[:8]))
    write_files(folder, files)
    with suppress(OSError):  # if it belongs to somebody else, it stays
        for path in folder.iterdir():
            if path.name not in files and path.is_file() and re.fullmatch(r"final_decoded_\d+\.p[gp]m", path.name):
                path.unlink(missing_ok=True)


def ending(picture):
    """Ending of the name of a picture's file."""
    return "ppm" if picture.ndim == 3 else "pgm"


def write_files(folder, files):
    """Write files, {name: bytes}, to a folder beside their places, then move all there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in files:
            if (folder / name).is_dir():
                raise OSError(f"{folder / name} is a folder")
        with TemporaryDirectory(prefix=".", dir=folder) as beside:
            for name, content in files.items():
                Path(beside, name).write_bytes(content)
            for name in files:
                Path(beside, name).replace(folder / name)
    except (OSError, ValueError) as error:
        raise Refused(f"OUTPUT_DIR: can't write: {error}") from None


def printable(text):
    """A text in one line, with a ? in the place of what the terminal can't print."""
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text.encode(encoding, "replace").decode(encoding)


def say(line):
    """Print a line; if its reader has gone away, the work goes on without."""
    try:
        print(printable(line), flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            raise Refused(f"can't print: {error}") from None


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


def report(names, pictures, decoded, content):
    """Print what came back of each picture, and the bytes."""
    losses, loss = mean_squares(pictures, decoded)
    for name, each in zip(names, losses):
        say(f"{name}: {quality(each)}")
    say(f"all pictures: {quality(loss)}")
    size = len(content)
    raw = sum(picture.size for picture in pictures)
    pixels = sum(picture[..., 0].size if picture.ndim == 3 else picture.size for picture in pictures)
    say(f"compressed.bin: {size} bytes, {8 * size / pixels:.3f} bits per pixel, {size / raw:.3f} of raw")


def advise(pictures, codes, decoder, width, height, target_psnr, content):
    """Print what to change if training hardly reached the target, which makes files large, or if the file is large anyway."""
    if target_psnr is not None:
        _, loss = losses_before_rounding(pictures, codes, decoder, width, height)
        if loss > 10 ** (-(target_psnr + 1) / 10):
            used = codes.shape[1] - 1
            more = min(2 * used, len(codes), decoder.shape[1])
            words = f"more EPOCHS or LATENT_DIM = {more}" if more > used else "more EPOCHS or smaller patches"
            say(f"TARGET_PSNR {target_psnr}: training reached {-10 * log10(loss):.1f} dB; {words} would allow more")
    if len(content) > len(codes) * decoder.shape[1] / 2:
        say("a large file: WIDTH = HEIGHT = 8, LATENT_DIM = 64 and a TARGET_PSNR suit photographs")


@contextmanager
def ctrl_c_noted():
    """Within this block, Ctrl-C appends to the list that the block gets, and ends nothing."""
    presses = []
    before = signal.getsignal(signal.SIGINT)

    def note(number, frame):
        presses.append(number)
        if callable(before) and before is not signal.default_int_handler:
            before(number, frame)  # of a block around this one, or of a program that imports this one

    heard = before not in (signal.SIG_IGN, None) and current_thread() is main_thread()
    if heard:
        signal.signal(signal.SIGINT, note)
    try:
        yield presses
    finally:
        if heard:
            signal.signal(signal.SIGINT, before)


KERNELS = (
    sigmoid, adam, aligned_zeros_in_kernel, add_gradients, add_up, train_epoch,
    move,
    transfer_bit, bit_length, expected, predictable, transfer_planes,
)
MACHINE_CODE = HERE / "__pycache__"  # folder where numba keeps what it compiled


class Locator:
    """Tells numba where machine code is kept, and how it knows that it is up to date."""

    # By itself numba compiles anew if anything in the file has changed, and here constants change all the time. Kernels call
    # each other, so the machine code of each is up to date as long as the text of all is, and the numbers that they use.
    def __init__(self, function):
        self.function = function

    @classmethod
    def from_function(cls, function, path):
        return cls(function)

    def get_cache_path(self):
        return str(MACHINE_CODE)

    def ensure_cache_path(self):
        MACHINE_CODE.mkdir(exist_ok=True)

    def get_source_stamp(self):
        sources = [getsource(kernel.py_func) for kernel in KERNELS]
        return "".join(sources) + repr((LOW, HIGH, VALUE, PLACE, DECODING, SETS, SURROUNDINGS, LENGTHS))

    def get_disambiguator(self):
        return self.function.__module__  # machine code can only be loaded in a module of the same name


# NUMBA_CACHE_LOCATOR_CLASSES, a setting of numba 0.62 and newer, says how numba finds its cache; a Locator has the methods
# of numba's own locators. The setting is the whole process's, so it is put back.
locators = config.CACHE_LOCATOR_CLASSES
config.CACHE_LOCATOR_CLASSES = f"{__name__}.Locator"
if os.access(HERE, os.W_OK):
    # Numba finds the class by the name of its module. Under a profiler `__main__` is the profiler, which has no Locator: a
    # RuntimeError. If numba was told not to compile, kernels are plain functions: an AttributeError. Then nothing is kept.
    with suppress(RuntimeError, AttributeError):
        for kernel in KERNELS:
            kernel.enable_caching()
config.CACHE_LOCATOR_CLASSES = locators


class Missing(Listener, Exception):
    """Raised where a rehearsal needs the compiler: numba calls on_start as it begins to compile, and lets this through."""

    def on_start(self, event):
        raise self

    def on_end(self, event):
        pass


PARTS = "train", "choose", "pack"  # of the work, each with kernels of its own


def rehearse(part):
    """Do a part of the work for a picture of one pixel, in silence: then its kernels are compiled, or loaded."""
    targets = cut([np.zeros((1, 1), np.uint8)], 1, 1)
    shapes = np.array([[1, 1]])
    one = np.ones((1, 1))
    with redirect_stdout(StringIO()):
        if part == "train":
            train(targets, *start(targets, 1, 0), 1)
        elif part == "choose":
            quantise(shapes, targets, one, one, exponent=0, passes=1, width=1, height=1)
        else:
            pack(quantise(shapes, targets, one, one, exponent=0, passes=0, width=1, height=1))


def load_kernels():
    """Load the machine code of all kernels; what is missing is compiled first, which takes some seconds."""
    # Everything is rehearsed. If that needs no compiler, all is loaded. While numba compiles, Ctrl-C is only noted: numba
    # could lose the exception.
    loaded = []
    with ctrl_c_noted() as interrupts:
        try:
            with install_listener("numba:compile", Missing()):
                for part in PARTS:
                    rehearse(part)
                    loaded.append(part)
        except Missing:
            compile_parts(may_fork=not loaded)
        except Exception:  # from a damaged file, probably
            compile_parts(may_fork=False)
    if interrupts:
        raise KeyboardInterrupt


def compile_parts(may_fork):
    """Compile what is missing. may_fork says that no part could be loaded, so no kernel has started threads here yet."""
    # On Linux a child process, which begins as a copy of this one, compiles all but the first part, and saves it; this process
    # then loads it. A copy of threads wouldn't work.
    say("compiling ...")
    first, *others = PARTS
    child = None
    if may_fork and __name__ == "__main__" and sys.platform == "linux" and os.access(HERE, os.W_OK):
        child = get_context("fork").Process(target=compile_for_parent, args=(others,))
        child.start()
    compile_part(first)
    if child:
        child.join()
    for part in others:
        compile_part(part)


def compile_for_parent(parts):
    """The work of the child process. What goes wrong here goes wrong in its parent again, which tells it."""
    with suppress(Exception):
        for part in parts:
            compile_part(part)


def compile_part(part):
    """Compile a part's kernels, or load them."""
    # If numba can't save a kernel's machine code, it raises an OSError; but it already has the kernel in memory, so each
    # attempt gets past one more kernel at least. Anything else comes from a damaged file, probably: then all files go.
    for _ in range(len(KERNELS) + 1):
        try:
            return rehearse(part)
        except OSError as error:
            reason = error
        except Exception as error:
            reason = error
            delete_machine_code()
    raise Refused(f"machine code: {reason}")


def delete_machine_code():
    """Delete what numba has kept of this file."""
    try:
        for path in MACHINE_CODE.glob(f"{escape(Path(__file__).stem)}.*.nb[ci]"):
            path.unlink(missing_ok=True)
    except OSError:
        raise Refused(f"the machine code in {MACHINE_CODE} is damaged: delete that folder") from None


def main():
    """Run the program. Returns the exit status: 0, 2 after a mistake, 130 after Ctrl-C."""
    arguments = sys.argv[1:]
    try:
        if arguments:
            raise Refused("takes no arguments: edit the constants at the top of the file, and run it again")
        if lzma is None:
            raise Refused("this Python was built without lzma, which the program needs")
        return run()
    except KeyboardInterrupt:
        status, words = 130, "interrupted before there were results to save"
    except (Refused, UnicodeError, MemoryError) as error:  # UnicodeError: a name of a file that can't be encoded
        status, words = 2, str(error) or "not enough memory"
    print("neural_compression.py:", printable(words), file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
