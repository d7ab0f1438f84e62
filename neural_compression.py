"""Image compression by latent-code optimisation.

Each image gets a small vector of its own, its latent code; one decoder, shared by all images, turns a
code into the pixels: sigmoid(codes @ weights + bias). Training moves the decoder and the codes together,
by gradient descent on the mean squared error.

    python neural_compression.py            draw, train, report; pictures and compressed file land in OUTPUT_DIR
    python neural_compression.py --help     this text

There are no other flags: edit a constant at the top of the file and run again. Ctrl-C ends training early.
"""

import contextlib
import gc
import io
import math
import os
import re
import signal
import sys
import time
import zipfile
import zlib
from functools import cache, partial
from pathlib import Path

import numba
import numpy as np
from numba import cfunc, njit, prange

WIDTH = 256  # pixels
HEIGHT = 256  # pixels
SINE_FREQUENCY = 40  # periods of the sine pattern across the picture
CHECKER_SQUARES = 16  # squares along each side of the checkerboard
IMAGES = ("radial", "sine", "checkerboard")  # what is compressed: patterns, paths of PGM files
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


def read_pgm(path):
    """Samples of a PGM file, uint8 or uint16 (height, width), and the sample that means white.

    Reads binary (P5) and plain (P2) files of one picture, maxval 1 to 65535, as the Netpbm specification has
    them; like the Netpbm programs, it takes a comment for white space. Refuses anything else.
    """

    def check(good, problem):
        if not good:
            raise Refused(f"{path}: {problem}")

    try:
        check(path.is_file(), "is in IMAGES, but neither a pattern nor a file")
        content = path.read_bytes()
    except OSError as error:
        raise Refused(f"{path}: can't be read ({error.strerror})") from None
    space = rb"(?:\s|#[^\r\n]*[\r\n])"
    header = re.match(rb"P([25])%b+(\d{1,9})%b+(\d{1,9})%b+(\d{1,9})%b" % (space, space, space, space), content)
    check(header, "not a PGM file: has to start with P5 or P2, width, height and maxval")
    kind, width, height, maxval = map(int, header.groups())
    check(width and height, f"{width} x {height} pixels: has to be 1 x 1 or more")
    check(1 <= maxval <= 65535, f"maxval {maxval}: has to be from 1 to 65535")
    raster, size = content[header.end() :], width * height
    if kind == 5:
        dtype = np.dtype(np.uint8 if maxval < 256 else ">u2")
        end = size * dtype.itemsize
        check(end <= len(raster), f"{width} x {height} samples take {end} bytes, and {len(raster)} are there")
        check(not raster[end:].strip(), f"{len(raster) - end} bytes too many after the picture")
        samples = np.frombuffer(raster[:end], dtype)
    else:
        raster = re.sub(rb"#[^\r\n]*", b"", raster)
        check(re.fullmatch(rb"[\s\d]*", raster), "a plain PGM (P2) has to hold whole numbers and white space")
        samples = np.fromstring(raster, np.float64, sep=" ") if raster.strip() else np.empty(0)
        check(len(samples) == size, f"{width} x {height} takes {size} samples, and {len(samples)} are there")
    check(samples.max() <= maxval, f"sample {samples.max():.0f} is above maxval {maxval}")
    return samples.astype(np.uint8 if maxval < 256 else np.uint16).reshape(height, width), maxval


def pgm(picture):
    """Bytes of a binary PGM file (P5) of a uint8 picture, shape (height, width)."""
    height, width = picture.shape
    return b"P5\n%d %d\n255\n" % (width, height) + picture.tobytes()


def write_file(path, content):
    """Write bytes beside `path` and move them there: a reader finds the old file or the new, never half of one."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(content)
        os.replace(beside, path)
    except OSError as error:
        raise Refused(f"{path}: can't be written ({error.strerror}); OUTPUT_DIR has to be a folder with room") from None
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()


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


# tanh(x) = x P(x^2) / Q(x^2) from -9 to 9, by Eigen (generic_fast_tanh_float)
P0, P1, P2, P3 = map(np.float32, (4.89352455891786e-03, 6.37261928875436e-04, 1.48572235717979e-05, 5.12229709037114e-08))
P4, P5, P6 = map(np.float32, (-8.60467152213735e-11, 2.00018790482477e-13, -2.76076847742355e-16))
Q0, Q1, Q2, Q3 = map(np.float32, (4.89352518554385e-03, 2.26843463243900e-03, 1.18534705686654e-04, 1.19825839466702e-06))
ZERO, HALF, ONE, NINE, TINY = map(np.float32, (0, 0.5, 1, 9, 1e-12))  # a Python number would turn all into float64


@njit(inline="always")
def sigmoid(z):
    """1 / (1 + exp(-z)) = (1 + tanh(z / 2)) / 2 of a float32, to 2e-7, by arithmetic that the compiler can vectorise."""
    x = HALF * z
    x = -NINE if x < -NINE else NINE if x > NINE else x
    s = x * x
    numerator = P0 + s * (P1 + s * (P2 + s * (P3 + s * (P4 + s * (P5 + s * P6)))))
    denominator = Q0 + s * (Q1 + s * (Q2 + s * Q3))
    return HALF + HALF * (x * numerator / denominator)


def step_block(block, decoder, codes, samples, maxvals, moments, sums, scratch, pixels, rate, beta):
    """One training step for the tiles of one block; the arguments are those of `step_epoch`."""
    tiles, rows, tile_pixels = decoder.shape
    blocks, images, _ = sums.shape
    bias = rows - 1
    rate, beta = np.float32(rate), np.float32(beta)
    logits, work = scratch[block, 0], scratch[block, 1]  # work: delta, then what a pixel's weights move by
    for tile in range(block, tiles, blocks):
        left = pixels - tile * tile_pixels
        used = left if left < tile_pixels else tile_pixels
        weights = decoder[tile]
        moment = moments[tile]
        keep = beta
        for i in range(images):
            for k in range(bias):
                code = codes[i, k]
                for p in range(used):
                    logits[p] += code * weights[k, p]
            loss = ZERO
            maxval = maxvals[i]
            for p in range(used):
                output = sigmoid(logits[p] + weights[bias, p])
                error = output - samples[tile, i, p] / maxval
                delta = error * output * (ONE - output)
                loss += error * error
                moment[i, p] = beta * moment[i, p] + delta
                moment[images, p] = keep * moment[images, p] + delta * delta
                work[p] = delta
                logits[p] = ZERO  # for the next image
            keep = ONE  # delta^2 of the images after the first is added up
            sums[block, i, bias] += loss
            for k in range(bias):
                gradient = ZERO
                for p in range(used):
                    gradient += weights[k, p] * work[p]
                sums[block, i, k] += gradient
        for i in range(images):
            for p in range(used):
                work[p] = rate * moment[i, p] / (math.sqrt(moment[images, p]) + TINY)
            for k in range(rows):
                code = codes[i, k]
                for p in range(used):
                    weights[k, p] -= code * work[p]


@cache
def compile_step_block(samples_type):
    """`step_block` compiled for samples of type "uint8" or "uint16", as a function to hand to `step_epoch`.

    Called by name from a `prange` loop, it would be compiled anew with each of the layers that numba puts around the
    loop: 1.5 s instead of 0.85 for the first call of `python tests/benchmark.py startup`. Left out as well: a pass that
    rewrites array expressions, and the garbage collector's walks through all that numba made at import, which stays.
    """
    gc.freeze()
    vector, matrix, tiles = "float32[::1]", "float32[:, ::1]", "float32[:, :, ::1]"
    arrays = f"{tiles}, {matrix}, {samples_type}[:, :, ::1], {vector}, {tiles}, {tiles}, {tiles}"
    signature = f"void(int64, {arrays}, int64, float64, float64)"
    return cfunc(signature, fastmath=True, error_model="numpy", no_rewrites=True, cache=True)(step_block)


@njit(parallel=True, cache=True, no_cfunc_wrapper=True)  # it is called from Python only
def step_epoch(step_block, decoder, codes, samples, maxvals, moments, sums, scratch, pixels, rate, beta):
    """One training step of the whole decoder; the codes are left to the caller. Arrays are float32 but for samples.

    step_block  from `compile_step_block`
    decoder     (tiles, latent_dim + 1, tile_pixels), moved: weights, and the bias in the last row
    codes       (images, latent_dim + 1), 1 in the last column
    samples     uint8 or uint16 (tiles, images, tile_pixels): targets times maxvals
    maxvals     (images,): the samples that mean white
    moments     (tiles, images + 1, tile_pixels), moved: running sums of delta, and of delta^2 over all images
    sums        (blocks, images, latent_dim + 1), added to: gradient of the codes, and sum of squared errors, by block
    scratch     (blocks, 2, tile_pixels): room to work in, zero before and after in [:, 0]
    pixels      of an image; the tiles may have more, which stay as they are
    rate, beta  length of the step, memory of the running sums
    """
    for block in prange(len(sums)):
        step_block(np.int64(block), decoder, codes, samples, maxvals, moments, sums, scratch, pixels, rate, beta)


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
    """Grey levels of one code's image, uint8 (pixels,): sigmoid(code @ weights + bias), rounded."""
    return to_grey(1 / (1 + np.exp(-np.clip(code @ weights + bias, -80, 80))))


# ---------------------------------------------------------------- training


def start(images, pixels, latent_dim, seed):
    """What training starts from: codes, float32 (images, latent_dim), and a decoder of zeros in tiles.

    Where a code has a number for each image, the codes are orthogonal, of length sqrt(latent_dim): no image's
    step disturbs another's. Otherwise all start nearly alike, and training spreads them. `tests/quality.py choices`
    has codes from a standard normal next to these.
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
    The loss is that before the epoch's step; the seconds are those since the first epoch began.

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
    kernel = compile_step_block(samples.dtype.name)
    maxvals = np.asarray(maxvals, np.float32)
    codes_and_one = np.ones((images, latent_dim + 1), np.float32)
    moments = np.zeros((tiles, images + 1, tile_pixels), np.float32)
    sums = np.empty((blocks, images, latent_dim + 1), np.float32)
    scratch = np.zeros((blocks, 2, tile_pixels), np.float32)
    code_momentum = np.zeros_like(codes)
    code_second_moment = np.zeros((images, 1), np.float32)
    counted = 0.0  # epochs in a running sum, as it weighs them: what makes it a mean (Adam's correction of bias)
    began = time.perf_counter()
    for epoch in range(1, epochs + 1):
        decay = (1 + math.cos(math.pi * (epoch - 1) / epochs)) / 2
        beta = betas[1] - (betas[1] - betas[0]) * decay
        counted = beta * counted + 1
        rate = learning_rate * decay / math.sqrt(counted)  # for mean over root of mean square
        pixel_rate = rate / math.sqrt(latent_dim * max(latent_dim, images))
        codes_and_one[:, :-1] = codes
        sums[:] = 0
        step_epoch(kernel, decoder, codes_and_one, samples, maxvals, moments, sums, scratch, pixels, pixel_rate, beta)
        total = sums.sum(axis=0)  # block by block, in order
        gradient, loss = total[:, :-1], float(total[:, -1].sum()) / (images * pixels)
        code_momentum = beta * code_momentum + gradient
        code_second_moment = beta * code_second_moment + (gradient**2).mean(axis=1, keepdims=True)
        codes -= code_rate * rate * code_momentum / (np.sqrt(code_second_moment) + TINY)
        yield epoch, loss, time.perf_counter() - began


# ---------------------------------------------------------------- compressed file


def quantise(values, bits, axis):
    """Whole numbers of `bits` bits, and the float32 scale along `axis` that makes them `values` again, nearly."""
    most = 2 ** (bits - 1) - 1
    scale = np.abs(values).max(axis, keepdims=True) / np.float32(most)
    scale = ((scale.view(np.uint32) + 0x200000) & 0xFFE00000).view(np.float32)  # up, to 11 bits: the rest zips to nothing
    numbers = values / scale
    return np.rint(numbers, out=numbers).astype(np.min_scalar_type(-most)), scale


def pack(codes, weights, bias, code_bits, decoder_bits):
    """The numbers as the compressed file holds them, a dict of arrays; `unpack` is its inverse, nearly."""
    packed = {}
    for name, values in (("codes", codes), ("weights", weights), ("bias", bias)):
        packed[name], packed[name + "_scale"] = quantise(values, code_bits if name == "codes" else decoder_bits, axis=-1)
    return packed


def unpack(packed):
    """Codes, weights and bias, floats, from what `pack` returned or numpy.load found in the file."""
    return [packed[name] * packed[name + "_scale"] for name in ("codes", "weights", "bias")]


def fewest_bits(codes, weights, bias, originals):
    """Fewest bits, of 2 to 24, for codes and for the decoder that cost nothing, found by decoding and halving the range.

    Pictures that came back exact have to stay so; the squared error of the others may grow by 0.05 dB in all.
    The larger of the two parts comes first, while the other has all its bits.
    """

    def squared_errors(codes, weights, bias):
        differences = (original.ravel().astype(int) - decode(code, weights, bias) for original, code in zip(originals, codes))
        return np.array([np.sum(difference**2) for difference in differences])

    before = squared_errors(codes, weights, bias)
    bits = [24, 24]
    for part in (0, 1) if codes.size > weights.size else (1, 0):
        low, high = 2, 24
        while low < high:
            bits[part] = (low + high) // 2
            after = squared_errors(*unpack(pack(codes, weights, bias, *bits)))
            if not after[before == 0].any() and after.sum() <= before.sum() * 10**0.005:
                high = bits[part]
            else:
                low = bits[part] + 1
        bits[part] = low
    return bits


def compress(codes, weights, bias, originals, names):
    """Content of the compressed file, the pictures decoded from it, bits of codes and decoder, bytes of a code on disk.

    originals  list of uint8 (height, width); the file has their size and `names`, too, and numpy.load reads it
    """
    bits = fewest_bits(codes, weights, bias, originals)
    packed = pack(codes, weights, bias, *bits)
    height, width = originals[0].shape
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **packed, width=width, height=height, names=names)
    on_disk = {entry.filename: entry.compress_size for entry in zipfile.ZipFile(buffer).infolist()}
    code_bytes = (on_disk["codes.npy"] + on_disk["codes_scale.npy"]) / len(codes)
    codes, weights, bias = unpack(packed)
    return buffer.getvalue(), [decode(code, weights, bias).reshape(height, width) for code in codes], bits, code_bytes


# ---------------------------------------------------------------- report


def psnr(original, decoded):
    """Peak signal-to-noise ratio in dB of two uint8 pictures; infinite where they are the same."""
    mean_square = np.mean((original.astype(float) - decoded) ** 2)
    return math.inf if mean_square == 0 else 10 * math.log10(255**2 / mean_square)


def report(names, originals, decoded, code_bytes, file_bytes, raw_bytes, zlib_bytes):
    """Lines that say what came back, and what it cost.

    originals, decoded  lists of uint8 (height, width), as saved
    code_bytes          of one code, file_bytes of everything, as they lie on disk
    raw_bytes           of all images, zlib_bytes of the same zipped
    """
    images, pixels = len(names), originals[0].size
    width = max(5, *map(len, names))
    yield f"{'image':{width}}  code bytes   PSNR dB  largest error  exact pixels"
    for name, original, output in zip(names, originals, decoded):
        error = np.abs(original.astype(int) - output)
        exact = np.count_nonzero(error == 0)
        yield f"{name:{width}}{code_bytes:12.0f}{psnr(original, output):10.2f}{error.max():15}{exact:14} of {pixels}"
    decoder_bytes = file_bytes - images * code_bytes
    saved = raw_bytes / images - code_bytes  # by each image, once the decoder is there
    enough = max(1, int(decoder_bytes / saved) + 1) if saved > 0 else "no number of"
    yield f"compressed file {file_bytes} bytes, of which the decoder takes {decoder_bytes:.0f}"
    yield f"{8 * file_bytes / images / pixels:.3f} bits a pixel, {8 * code_bytes / pixels:.3f} without the decoder"
    yield f"images {raw_bytes} bytes raw, {zlib_bytes} with zlib"
    verdict = f"{1 - file_bytes / raw_bytes:.0%} is saved" if file_bytes < raw_bytes else "nothing is saved"
    yield f"with {images} image{'s' * (images > 1)} {verdict}: the file is {file_bytes / raw_bytes:.2f} times the raw images"
    yield f"it pays from {enough} images of this size on, as far as their codes hold them"


def contact_sheet(originals, decoded):
    """Picture with a column an image: original, decoded, difference; and the factor that stretches the difference."""
    differences = [np.abs(a.astype(int) - b) for a, b in zip(originals, decoded)]
    factor = 255 // max(1, max(difference.max() for difference in differences))
    rows = originals, decoded, [(factor * difference).astype(np.uint8) for difference in differences]
    return np.block([[np.pad(picture, 2, constant_values=128) for picture in row] for row in rows]), factor


# ---------------------------------------------------------------- main


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


def load_images(names, patterns, folder, width, height, outputs):
    """Draw or read the images: a list of their samples, each uint8 or uint16 (height, width), and one of their maxvals.

    `patterns` has functions by name; another name is a file in `folder`, and must be none of the paths `outputs`.
    """

    def identity(path):
        return path.stat().st_dev, path.stat().st_ino

    written = {identity(path) for path in outputs if path.exists()}
    pictures, maxvals = [], []
    for name in names:
        if name in patterns:
            picture, maxval = draw(patterns[name], width, height), 255
        else:
            picture, maxval = read_pgm(folder / name)
            size = picture.shape[::-1]
            if size != (width, height):
                raise Refused(f"{folder / name}: is {size[0]} x {size[1]} pixels, but WIDTH = {width} and HEIGHT = {height}; "
                              "set these to the size of your images, which has to be the same for all")  # fmt: skip
            if identity(folder / name) in written:
                raise Refused(f"{folder / name}: is in IMAGES, and this run would write over it; move or rename it")
        pictures.append(picture)
        maxvals.append(maxval)
    return pictures, maxvals


def memory_needed(images, pixels, latent_dim):
    """Bytes that a run takes at its peak, an upper estimate: decoder in tiles, joined and unpacked, samples, momentum."""
    return (pixels + 256) * (16 * (latent_dim + 1) + 16 * images + 64) + 256 * images * (latent_dim + 1)


def memory_there():
    """Bytes of the machine's memory that a run may take: nine tenths; no bound where the system doesn't tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 9 // 10
    except (AttributeError, ValueError, OSError):
        return math.inf


def run():
    """Do what the constants say: draw or read, save, train, compress, decode, save, report. Returns the exit status."""
    patterns = {
        "radial": radial,
        "sine": partial(sine, frequency=SINE_FREQUENCY),
        "checkerboard": partial(checkerboard, squares=CHECKER_SQUARES),
    }
    require(is_whole(WIDTH, 1), "WIDTH", WIDTH, "a whole number of pixels, 1 or more")
    require(is_whole(HEIGHT, 1), "HEIGHT", HEIGHT, "a whole number of pixels, 1 or more")
    require(is_number(SINE_FREQUENCY, 0, 1e6), "SINE_FREQUENCY", SINE_FREQUENCY, "a number from 0 to 1e6")
    fit = is_whole(CHECKER_SQUARES, 1) and CHECKER_SQUARES <= min(WIDTH, HEIGHT)
    require(fit, "CHECKER_SQUARES", CHECKER_SQUARES, f"a whole number from 1 to {min(WIDTH, HEIGHT)}, the shorter side")
    named = type(IMAGES) in (tuple, list) and IMAGES and all(type(name) is str and name for name in IMAGES)
    require(named, "IMAGES", IMAGES, '("one", "two"): names in quotes, each followed by a comma, in parentheses')
    require(is_whole(LATENT_DIM, 1), "LATENT_DIM", LATENT_DIM, "a whole number, 1 or more")
    require(is_whole(EPOCHS, 1), "EPOCHS", EPOCHS, "a whole number, 1 or more")
    require(is_number(LEARNING_RATE, 1e-9, 100), "LEARNING_RATE", LEARNING_RATE, "from 1e-9 to 100; 1 suits every size")
    require(is_whole(LOG_EVERY, 1), "LOG_EVERY", LOG_EVERY, "a whole number of epochs, 1 or more")
    require(is_whole(SEED, 0), "SEED", SEED, "a whole number, 0 or more")
    path = type(OUTPUT_DIR) is str and OUTPUT_DIR and "\0" not in OUTPUT_DIR
    require(path, "OUTPUT_DIR", OUTPUT_DIR, "the path of a folder")
    needed, there = memory_needed(len(IMAGES), WIDTH * HEIGHT, LATENT_DIM), memory_there()
    gigabytes = f"{needed // 10**9 + 1} GB are needed, of {there / 1e9:.1f}"  # whole: the number may be too large for a float
    fit = f"smaller: with {len(IMAGES)} images of WIDTH {WIDTH} x HEIGHT {HEIGHT}, {gigabytes}"
    require(needed <= there, "LATENT_DIM", LATENT_DIM, fit)

    here = Path(__file__).resolve().parent
    folder = here / OUTPUT_DIR
    generated = {name: folder / f"generated_{name}.pgm" for name in IMAGES if name in patterns}
    decoded_paths = [folder / f"final_decoded_{index}.pgm" for index in range(len(IMAGES))]
    file_path, sheet_path = folder / "compressed.npz", folder / "comparison.pgm"
    outputs = *generated.values(), *decoded_paths, file_path, sheet_path
    pictures, maxvals = load_images(IMAGES, patterns, here, WIDTH, HEIGHT, outputs)
    originals = [to_grey(picture / maxval) for picture, maxval in zip(pictures, maxvals)]
    for name, path in generated.items():
        write_file(path, pgm(pictures[IMAGES.index(name)]))

    interrupts = []  # from here on Ctrl-C is noted, and heeded where nothing is half done
    signal.signal(signal.SIGINT, lambda *_: interrupts.append(True))
    samples = np.stack([picture.ravel() for picture in pictures])
    codes, decoder = start(len(IMAGES), WIDTH * HEIGHT, LATENT_DIM, SEED)
    print(f"training on {len(IMAGES)} images of {WIDTH} x {HEIGHT}: latent_dim {LATENT_DIM}, "
          f"decoder {decoder.nbytes / 1e6:.1f} MB, {numba.get_num_threads()} threads", flush=True)  # fmt: skip
    if not compile_step_block(samples.dtype.name).cache_hits:
        print("compiling the rest of the kernels, once after each edit of this file ...", flush=True)
    list(train(samples[:1, :1], [1], *start(1, 1, 1, 0), epochs=1, learning_rate=1.0))  # compiles that rest
    if interrupts:
        raise KeyboardInterrupt
    for epoch, loss, seconds in train(samples, maxvals, codes, decoder, EPOCHS, LEARNING_RATE):
        if epoch == 1:
            first_loss = loss
        if epoch % LOG_EVERY == 0 or epoch == EPOCHS or interrupts:
            print(f"epoch {epoch:{len(str(EPOCHS))}}/{EPOCHS}  loss {loss:.3e}  time {seconds:.2f} s", flush=True)
        if interrupts:
            print(f"interrupted: stopped after epoch {epoch}", flush=True)
            break
    if loss > first_loss and LEARNING_RATE > 1 and not interrupts:
        rise = f"the loss went from {first_loss:.3g} to {loss:.3g}"
        raise Refused(f"{rise}: LEARNING_RATE = {LEARNING_RATE!r} is too high for this; 1 suits every size")

    decoder = join(decoder, WIDTH * HEIGHT)
    content, decoded, bits, code_bytes = compress(codes, decoder[:-1], decoder[-1], originals, IMAGES)
    write_file(file_path, content)
    for path, picture in zip(decoded_paths, decoded):
        write_file(path, pgm(picture))
    sheet, factor = contact_sheet(originals[:8], decoded[:8])
    write_file(sheet_path, pgm(sheet))
    print(f"bits a number: {bits[0]} in a code, {bits[1]} in the decoder; differences in {sheet_path.name}: {factor} times")
    raw = b"".join(picture.tobytes() for picture in pictures)
    print("\n".join(report(IMAGES, originals, decoded, code_bytes, len(content), len(raw), len(zlib.compress(raw, 9)))))
    return 130 if interrupts else 0


def main(arguments):
    """Run the program; returns the exit status: 0, 2 after a line on standard error, 130 after Ctrl-C."""
    if arguments == ["--help"]:
        print(__doc__.strip())
        return 0
    handler = signal.getsignal(signal.SIGINT)
    try:
        if arguments:
            raise Refused(f"takes no argument but --help, and got {' '.join(arguments)}: edit the constants in the file")
        return run()
    except Refused as refused:
        print(f"neural_compression.py: {refused}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("neural_compression.py: interrupted", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGINT, handler)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
