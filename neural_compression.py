"""Image compression by latent-code optimisation.

Each image gets a small vector of its own, its latent code; one decoder, shared by all images, turns a
code into the pixels: sigmoid(codes @ weights + bias). Training moves the decoder and the codes together,
by gradient descent on the mean squared error.

    python neural_compression.py            draw, train, report; the pictures land in OUTPUT_DIR
    python neural_compression.py --help     this text

There are no flags: edit a constant below and run again.
"""

import math
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

import numba
import numpy as np
from numba import njit, prange
from numba.core import event

WIDTH = 256  # pixels
HEIGHT = 256  # pixels
SINE_FREQUENCY = 40  # periods of the sine pattern across the picture
CHECKER_SQUARES = 16  # squares along each side of the checkerboard
IMAGES = ("radial", "sine", "checkerboard")  # what is compressed, by pattern name
LATENT_DIM = 16  # numbers in the code of one image
EPOCHS = 1000  # full-batch training steps
LEARNING_RATE = 1.0  # scale of the first steps; the default suits every size
LOG_EVERY = 10  # epochs between two lines of the log
SEED = 0  # of the random numbers that training starts from
OUTPUT_DIR = "outputs"  # folder for the results, relative to this script


class Refused(Exception):
    """Something that the user can put right; the message is the one line they get to see."""


# ---------------------------------------------------------------- images and PGM


def radial(x, y, width, height):
    """Brightness falls in proportion to the distance from the centre: 1 there, 0 in the corner (0, 0)."""
    return 1 - np.hypot(x - width / 2, y - height / 2) / math.hypot(width / 2, height / 2)


def sine(x, y, width, height, frequency):
    """Product of two sine waves, `frequency` periods along each side."""
    return (1 + np.sin(2 * np.pi * frequency * x / width) * np.sin(2 * np.pi * frequency * y / height)) / 2


def checkerboard(x, y, width, height, squares):
    """`squares` along each side, white at the top left; sizes differ by one pixel where they must."""
    return (x * squares // width + y * squares // height) % 2 == 0


def draw(pattern, width, height):
    """Picture of a pattern, uint8, shape (height, width).

    `pattern(x, y, width, height)` takes the pixels' integer coordinates and returns values in [0, 1].
    """
    y, x = np.mgrid[0:height, 0:width]
    return to_grey(pattern(x, y, width, height))


def to_grey(values):
    """Values in [0, 1] as the nearest of 256 grey levels, uint8.

    Halves go up, also those that the rounding of a sine or a square root left a hair below.
    """
    return np.floor(np.asarray(values, np.float64) * 255 + (0.5 + 1e-9)).astype(np.uint8)


def write_pgm(path, picture):
    """Save a uint8 picture, shape (height, width), as binary PGM (P5)."""
    height, width = picture.shape
    write_file(path, b"P5\n%d %d\n255\n" % (width, height) + picture.tobytes())


def write_file(path, content):
    """Write bytes beside `path` and move them there: a reader finds the old file or the new, never half of one."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(content)
        os.replace(beside, path)
    except OSError as error:
        raise Refused(f"{path}: can't be written ({error.strerror}); OUTPUT_DIR has to be a folder with room") from None
    finally:
        beside.unlink(missing_ok=True)


# ---------------------------------------------------------------- decoder and gradients
#
#   logits      z[i, p] = sum_k codes[i, k] weights[k, p] + bias[p]        image i, pixel p, code number k
#   output      y       = sigmoid(z)
#   loss                = mean over i and p of (y - target)^2
#   delta       d[i, p] = (y - target) y (1 - y)                           d loss / d z but for a constant factor
#   gradients   weights[k, p]: sum_i codes[i, k] d[i, p]     bias[p]: sum_i d[i, p]
#               codes[i, k]:   sum_p weights[k, p] d[i, p]
#
# The bias is one more row of weights, and each code ends in a 1 that stays. The pixels are cut into tiles, each
# a contiguous array that fits the cache, so that an epoch reads and writes every weight once. What is summed
# over pixels is summed tile by tile and block by block, in an order that has nothing to do with threads.


@njit(inline="always")
def sigmoid(z):
    """1 / (1 + exp(-z)) of a float32, to 1e-7, by arithmetic that the compiler can vectorise.

    (1 + tanh(z / 2)) / 2 with the rational approximation of tanh from Eigen (generic_fast_tanh_float).
    """
    x = min(max(np.float32(0.5) * z, np.float32(-9)), np.float32(9))
    s = x * x
    numerator = np.float32(-2.76076847742355e-16) * s + np.float32(2.00018790482477e-13)
    numerator = numerator * s + np.float32(-8.60467152213735e-11)
    numerator = numerator * s + np.float32(5.12229709037114e-08)
    numerator = numerator * s + np.float32(1.48572235717979e-05)
    numerator = numerator * s + np.float32(6.37261928875436e-04)
    numerator = numerator * s + np.float32(4.89352455891786e-03)
    denominator = np.float32(1.19825839466702e-06) * s + np.float32(1.18534705686654e-04)
    denominator = denominator * s + np.float32(2.26843463243900e-03)
    denominator = denominator * s + np.float32(4.89352518554385e-03)
    return np.float32(0.5) + np.float32(0.5) * (x * numerator / denominator)


@njit(fastmath=True, error_model="numpy", cache=True)
def step_tile(weights, codes, samples, maxvals, momentum, second_moment, code_gradient, scratch, pixels, rate, beta):
    """One training step for the first `pixels` pixels of a tile; arguments as in `step_epoch`, for this tile.

    Moves `weights`, adds to `code_gradient` and returns the sum of squared errors.
    `scratch` is two rows of tile_pixels numbers whose values don't matter.
    """
    images, rows = codes.shape
    one = np.float32(1)
    loss = np.float32(0)
    delta = scratch[0]  # first the logits, then delta, then the step of one image
    norm = scratch[1]  # first the sum of delta^2 over the images, then the factor of the step
    norm[:] = 0
    for i in range(images):
        delta[:] = 0
        for k in range(rows):
            for p in range(pixels):
                delta[p] += codes[i, k] * weights[k, p]
        for p in range(pixels):
            output = sigmoid(delta[p])
            error = output - samples[i, p] / maxvals[i]
            loss += error * error
            delta[p] = error * output * (one - output)
            norm[p] += delta[p] * delta[p]
            momentum[i, p] = beta * momentum[i, p] + (one - beta) * delta[p]
        for k in range(rows):
            gradient = np.float32(0)
            for p in range(pixels):
                gradient += weights[k, p] * delta[p]
            code_gradient[i, k] += gradient
    for p in range(pixels):
        second_moment[p] = beta * second_moment[p] + (one - beta) * norm[p]
        norm[p] = rate / (np.sqrt(second_moment[p]) + np.float32(1e-12))
    for i in range(images):
        for p in range(pixels):
            delta[p] = norm[p] * momentum[i, p]
        for k in range(rows):
            for p in range(pixels):
                weights[k, p] -= codes[i, k] * delta[p]
    return loss


@njit(parallel=True, fastmath=True, error_model="numpy", cache=True)
def step_epoch(decoder, codes, samples, maxvals, momentum, second_moment, code_gradient, losses, scratch, pixels, rate, beta):
    """One training step of the whole decoder, in place; the codes' own step is left to the caller.

    decoder        float32 (tiles, latent_dim + 1, tile_pixels): weights, and the bias as the last row
    codes          float32 (images, latent_dim + 1), the last number 1
    samples        uint8 or uint16 (tiles, images, tile_pixels): targets times `maxvals`
    maxvals        float32 (images,): the sample that means white
    momentum       float32 (tiles, images, tile_pixels): running mean of delta
    second_moment  float32 (tiles, tile_pixels): running mean of delta^2, summed over images
    code_gradient  float32 (blocks, images, latent_dim + 1), set to each block's part of the codes' gradient
    losses         float32 (blocks,), set to each block's part of the sum of squared errors
    scratch        float32 (blocks, 2, tile_pixels), overwritten
    pixels         pixels of an image; those that fill up the last tile are left alone
    rate, beta     float32: length of the step, memory of the running means
    """
    tiles, _, tile_pixels = decoder.shape
    blocks = losses.size
    for block in prange(blocks):
        code_gradient[block] = 0
        losses[block] = 0
        for tile in range(block * tiles // blocks, (block + 1) * tiles // blocks):
            losses[block] += step_tile(
                decoder[tile], codes, samples[tile], maxvals, momentum[tile], second_moment[tile],
                code_gradient[block], scratch[block], min(tile_pixels, pixels - tile * tile_pixels), rate, beta,
            )  # fmt: skip


def cut(array, tile_pixels):
    """Array of shape (rows, pixels) cut into tiles: (tiles, rows, tile_pixels), the last one filled up with zeros."""
    rows, pixels = array.shape
    tiles = -(-pixels // tile_pixels)
    padded = np.zeros((rows, tiles * tile_pixels), array.dtype)
    padded[:, :pixels] = array
    return np.ascontiguousarray(padded.reshape(rows, tiles, tile_pixels).swapaxes(0, 1))


def join(tiles, pixels):
    """Undo `cut`: (tiles, rows, tile_pixels) back to (rows, pixels)."""
    return tiles.swapaxes(0, 1).reshape(tiles.shape[1], -1)[:, :pixels]


def decode(code, weights, bias):
    """Image of one code, float32 (pixels,) in [0, 1]: the decoder as the report and the files use it."""
    return 1 / (1 + np.exp(-(code @ weights + bias)))


# ---------------------------------------------------------------- training


def start(images, pixels, latent_dim, seed):
    """What training starts from: codes, float32 (images, latent_dim), and a decoder of zeros in tiles.

    Where a code has a number for each image, the codes are orthogonal, of length sqrt(latent_dim): no image's
    step disturbs another's. Otherwise all start nearly alike, and training spreads them.
    """
    random = np.random.default_rng(seed)
    if images <= latent_dim:
        orthonormal, _ = np.linalg.qr(random.standard_normal((latent_dim, images)))
        codes = math.sqrt(latent_dim) * orthonormal.T
    else:
        codes = 0.3 + 0.003 * random.standard_normal((images, latent_dim))
    tile_pixels = 256
    while tile_pixels > 16 and pixels < 16 * tile_pixels:  # a small picture, too, has tiles for several threads
        tile_pixels //= 2
    return codes.astype(np.float32), np.zeros((-(-pixels // tile_pixels), latent_dim + 1, tile_pixels), np.float32)


def train(samples, maxvals, codes, decoder, epochs, learning_rate, betas=(0.80, 0.95), code_rate=0.01):
    """Train `codes` and `decoder` in place, a full-batch step an epoch; yields (epoch, loss, seconds).

    samples        uint8 or uint16 (images, pixels); the target is samples / maxvals
    maxvals        (images,)
    codes, decoder as from `start`
    learning_rate  of the first epoch; falls to 0 along half a cosine (Loshchilov and Hutter 2017)
    betas          memory of the moments in the first epoch and the last: longer as the rate falls (Smith 2018)
    code_rate      rate of the codes, as a share of learning_rate
    The loss is that before the epoch's step; seconds are counted from the first epoch, after compilation.

    The optimiser is Adam (Kingma and Ba 2015) with one second moment for each vector instead of each number: the
    weights of a pixel share theirs, and so do the numbers of a code. Momentum is kept on delta, from which the
    gradient of every weight follows. The decoder's rate is divided by sqrt(latent_dim max(latent_dim, images)), so
    that a logit moves as far in a step whatever the sizes. `tests/quality.py` measures these choices.
    """
    images, pixels = samples.shape
    latent_dim = codes.shape[1]
    tiles, _, tile_pixels = decoder.shape
    blocks = min(tiles, 64)
    samples = cut(samples, tile_pixels)
    maxvals = np.asarray(maxvals, np.float32)
    codes_and_one = np.ones((images, latent_dim + 1), np.float32)
    momentum = np.zeros((tiles, images, tile_pixels), np.float32)
    second_moment = np.zeros((tiles, tile_pixels), np.float32)
    code_momentum = np.zeros_like(codes)
    code_second_moment = np.zeros((images, 1), np.float32)
    code_gradient = np.empty((blocks, images, latent_dim + 1), np.float32)
    losses = np.empty(blocks, np.float32)
    scratch = np.empty((blocks, 2, tile_pixels), np.float32)

    def step(pixels, rate, beta):
        step_epoch(decoder, codes_and_one, samples, maxvals, momentum, second_moment, code_gradient, losses,
                   scratch, pixels, np.float32(rate), np.float32(beta))  # fmt: skip

    step(0, 0, 0)  # no pixel at all: compiles, and changes nothing
    unseen = 1.0  # share of a running mean that is still the zero it started from
    began = time.perf_counter()
    for epoch in range(1, epochs + 1):
        decay = (1 + math.cos(math.pi * (epoch - 1) / epochs)) / 2
        beta = betas[1] - (betas[1] - betas[0]) * decay
        unseen *= beta
        rate = learning_rate * decay / math.sqrt(1 - unseen)  # Adam's corrections of both moments, in one
        codes_and_one[:, :latent_dim] = codes
        step(pixels, rate / math.sqrt(latent_dim * max(latent_dim, images)), beta)
        loss = float(losses.sum(dtype=np.float64)) / (images * pixels)
        gradient = code_gradient.sum(axis=0)[:, :latent_dim]
        code_momentum += (1 - beta) * (gradient - code_momentum)
        code_second_moment += (1 - beta) * ((gradient**2).mean(axis=1, keepdims=True) - code_second_moment)
        codes -= code_rate * rate * code_momentum / (np.sqrt(code_second_moment) + 1e-12)
        yield epoch, loss, time.perf_counter() - began


# ---------------------------------------------------------------- report


def psnr(error):
    """Peak signal-to-noise ratio in dB of an error in units of white; infinite for none."""
    mean_square = np.mean(np.square(error, dtype=np.float64))
    return math.inf if mean_square == 0 else -10 * math.log10(mean_square)


def break_even(decoder_bytes, code_bytes, raw_bytes):
    """Smallest number of images for which decoder and codes are smaller than the raw pixels; None if there is none."""
    return None if code_bytes >= raw_bytes else decoder_bytes // (raw_bytes - code_bytes) + 1


def report(names, samples, decoded, code_bytes, decoder_bytes):
    """Lines that say what came back and what it cost.

    samples  uint8 (images, pixels); decoded: list of float32 (pixels,) in [0, 1], before rounding
    """
    images, pixels = samples.shape
    width = max(map(len, names)) + 2
    yield f"{'image':{width}}{'code bytes':>10}{'PSNR dB':>10}{'largest error':>15}{'pixels exact':>20}"
    for name, sample, output in zip(names, samples, decoded):
        error = np.abs(to_grey(output).astype(int) - sample)
        exact = f"{np.count_nonzero(error == 0)} of {pixels}"
        yield f"{name:{width}}{code_bytes:10}{psnr(output - sample / 255):10.2f}{error.max():15}{exact:>20}"
    whole, raw = decoder_bytes + images * code_bytes, images * pixels
    yield f"decoder {decoder_bytes} bytes + codes {images * code_bytes} = {whole}; raw pixels {raw} bytes"
    enough = break_even(decoder_bytes, code_bytes, pixels)
    verdict = f"nothing is saved: {whole / raw:.1f} times the raw pixels" if whole >= raw else f"{whole / raw:.1%} of the raw pixels"
    when = f"pays from {enough} images of this size on" if enough else "never pays: a code is as large as an image"
    yield f"{images} image{'s' * (images > 1)}: {verdict}; it {when}"


# ---------------------------------------------------------------- main


class CompilationNotice(event.Listener):
    """Says so when numba compiles, once: a numba event, which does not come when the cache has the kernels."""

    said = False

    def on_start(self, _):
        if not self.said:
            print("compiling the training kernels (once after each edit of the file) ...", flush=True)
        self.said = True

    def on_end(self, _):
        pass


def require(allowed, name, value, what):
    """Refuse the constant `name` unless `allowed`; `what` says which values are."""
    if not allowed:
        raise Refused(f"{name} = {value!r}: has to be {what}")


def is_whole(value, least):
    """Whether `value` is an int, and not less than `least`."""
    return type(value) is int and value >= least


def is_number(value, least, most):
    """Whether `value` is an int or float from `least` to `most`; nan is not."""
    return type(value) in (int, float) and least <= value <= most


def memory_needed(images, pixels, latent_dim):
    """Bytes that a run takes at its peak: the decoder twice (in tiles, and joined), samples and momentum."""
    return 8 * pixels * (latent_dim + 1) + 6 * pixels * images + 256 * images * (latent_dim + 1)


def memory_there():
    """Bytes of the machine's memory that a run may take: nine tenths; no bound where the system doesn't tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 9 // 10
    except (AttributeError, ValueError, OSError):
        return math.inf


def run():
    """Do what the constants say: draw, save, train, decode, save, report."""
    patterns = {
        "radial": radial,
        "sine": partial(sine, frequency=SINE_FREQUENCY),
        "checkerboard": partial(checkerboard, squares=CHECKER_SQUARES),
    }
    require(is_whole(WIDTH, 1), "WIDTH", WIDTH, "a whole number of pixels, 1 or more")
    require(is_whole(HEIGHT, 1), "HEIGHT", HEIGHT, "a whole number of pixels, 1 or more")
    require(is_number(SINE_FREQUENCY, 0, 1e6), "SINE_FREQUENCY", SINE_FREQUENCY, "a number from 0 to 1e6")
    squares_fit = is_whole(CHECKER_SQUARES, 1) and CHECKER_SQUARES <= min(WIDTH, HEIGHT)
    require(squares_fit, "CHECKER_SQUARES", CHECKER_SQUARES, f"a whole number from 1 to {min(WIDTH, HEIGHT)}, the shorter side")
    known = type(IMAGES) in (tuple, list) and IMAGES and all(type(name) is str and name in patterns for name in IMAGES)
    require(known, "IMAGES", IMAGES, f"one or more of {', '.join(patterns)}, in parentheses, each followed by a comma")
    require(is_whole(LATENT_DIM, 1), "LATENT_DIM", LATENT_DIM, "a whole number, 1 or more")
    require(is_whole(EPOCHS, 1), "EPOCHS", EPOCHS, "a whole number, 1 or more")
    require(is_number(LEARNING_RATE, 1e-30, 1e30), "LEARNING_RATE", LEARNING_RATE, "a number above 0; 1 is a good one")
    require(is_whole(LOG_EVERY, 1), "LOG_EVERY", LOG_EVERY, "a whole number of epochs, 1 or more")
    require(is_whole(SEED, 0), "SEED", SEED, "a whole number, 0 or more")
    named = type(OUTPUT_DIR) is str and OUTPUT_DIR and "\0" not in OUTPUT_DIR
    require(named, "OUTPUT_DIR", OUTPUT_DIR, "the path of a folder")
    needed, there = memory_needed(len(IMAGES), WIDTH * HEIGHT, LATENT_DIM), memory_there()
    fits = f"small enough for memory: {len(IMAGES)} images of WIDTH {WIDTH} x HEIGHT {HEIGHT} need {needed / 1e9:.1f} GB of {there / 1e9:.1f}"
    require(needed <= there, "LATENT_DIM", LATENT_DIM, fits)

    folder = Path(__file__).resolve().parent / OUTPUT_DIR
    samples = np.stack([draw(patterns[name], WIDTH, HEIGHT).ravel() for name in IMAGES])
    for name, sample in zip(IMAGES, samples):
        write_pgm(folder / f"generated_{name}.pgm", sample.reshape(HEIGHT, WIDTH))

    codes, decoder = start(len(IMAGES), WIDTH * HEIGHT, LATENT_DIM, SEED)
    print(f"training on {len(IMAGES)} images of {WIDTH} x {HEIGHT}: latent_dim {LATENT_DIM}, "
          f"decoder {decoder.nbytes / 1e6:.1f} MB, {numba.get_num_threads()} threads", flush=True)  # fmt: skip
    with event.install_listener("numba:compile", CompilationNotice()):
        for epoch, loss, seconds in train(samples, [255] * len(IMAGES), codes, decoder, EPOCHS, LEARNING_RATE):
            if not math.isfinite(loss):
                raise Refused(f"loss {loss} at epoch {epoch}: LEARNING_RATE = {LEARNING_RATE!r} is too high; 1 is a good one")
            if epoch % LOG_EVERY == 0 or epoch == EPOCHS:
                print(f"epoch {epoch:{len(str(EPOCHS))}}/{EPOCHS}  loss {loss:.3e}  time {seconds:.2f} s", flush=True)

    weights = join(decoder, WIDTH * HEIGHT)
    decoded = [decode(code, weights[:-1], weights[-1]) for code in codes]
    for index, output in enumerate(decoded):
        write_pgm(folder / f"final_decoded_{index}.pgm", to_grey(output).reshape(HEIGHT, WIDTH))
    print("\n".join(report(IMAGES, samples, decoded, codes[0].nbytes, weights.nbytes)))


def main(arguments):
    """Run the program; returns the exit status: 0, or 2 after a line on standard error."""
    if arguments == ["--help"]:
        print(__doc__.strip())
        return 0
    try:
        if arguments:
            raise Refused(f"takes no argument but --help, not {' '.join(arguments)!r}: edit the constants at the top of the file")
        run()
    except Refused as refused:
        print(f"neural_compression.py: {refused}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
