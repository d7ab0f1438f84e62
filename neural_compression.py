"""Image compression by latent-code optimisation.

Each patch of a picture gets a small vector of its own, its latent code. One decoder, shared
by all patches, turns codes into pixels: sigmoid(codes @ weights + bias). Training moves the
decoder and the codes by gradient descent on the mean squared error.

Run this file; edit a constant and run it again. Ctrl-C ends training early.
"""

import signal
if __name__ == "__main__":  # Ctrl-C ends the imports
    signal.signal(signal.SIGINT, signal.SIG_DFL)
import io
import math
import os
import re
import sys
import time
import zipfile
import zlib
from contextlib import suppress
from functools import cache, partial
from numbers import Integral, Real
from pathlib import Path
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # waiting threads soon sleep
import numpy as np
from numba import cfunc, float32, get_num_threads, int64, njit, prange, typeof, void

WIDTH = 256  # of a patch, in pixels
HEIGHT = 256  # of a patch, in pixels
IMAGES = ("radial", "sine", "checkerboard")  # patterns or PGM files
SINE_FREQUENCY = 40  # periods along each side
CHECKER_SQUARES = 16  # along each side
LATENT_DIM = 16  # numbers per code
EPOCHS = 1000  # full-batch training steps
LEARNING_RATE = 1.0  # of the first epoch; 1 suits all
ROUNDING_LOSS = 0.05  # dB to lose for a smaller file; exact stays exact
LOG_EVERY = 10  # epochs per line of the log
SEED = 0  # of the codes that training starts from
OUTPUT_DIR = "outputs"  # folder, relative to this file


class Refused(Exception):
    """A mistake that the user can correct."""


def constant(name, kind, least, most):
    """Value of a constant; refused if it isn't of this kind and range."""
    value = globals()[name]
    if isinstance(value, bool) or not isinstance(value, kind) or not least <= value <= most:
        whole = "a whole number" if kind is Integral else "a number"
        raise Refused(f"{name} = {value!r}: has to be {whole} from {least} to {most}")
    return int(value) if kind is Integral else float(value)


# ---- images
def radial(x, y, width, height):
    """Brightness falls from 1 in the centre to 0 in a corner."""
    return 1 - np.hypot(x - width / 2, y - height / 2) / math.hypot(width / 2, height / 2)


def sine(x, y, width, height):
    """Product of two sine waves, SINE_FREQUENCY periods along each side."""
    turn = 2 * np.pi * constant("SINE_FREQUENCY", Real, 0, 1e6)
    return (1 + np.sin(turn * x / width) * np.sin(turn * y / height)) / 2


def checkerboard(x, y, width, height):
    """CHECKER_SQUARES along each side, white at the top left."""
    squares = constant("CHECKER_SQUARES", Integral, 1, min(width, height))
    return (x * squares // width + y * squares // height) % 2 == 0


PATTERNS = {"radial": radial, "sine": sine, "checkerboard": checkerboard}


def draw(name, width, height):
    """Picture of the pattern PATTERNS[name], uint8 (height, width)."""
    y, x = np.mgrid[0:height, 0:width]
    values = PATTERNS[name](x, y, width, height)
    with suppress(TypeError, ValueError):
        values = np.broadcast_to(values, (height, width))
        if np.all((values >= -1e-9) & (values <= 1 + 1e-9)):
            return to_grey(values)
    raise Refused(f"pattern {name}: has to return {height} x {width} numbers from 0 to 1")


def to_grey(values):
    """Values from 0 to 1 as the nearest grey levels, uint8; halves go up."""
    return np.floor(values * 255.0 + (0.5 + 1e-9)).astype(np.uint8)


def parse_pgm(content):
    """Picture in the bytes of a PGM file, float64 from 0 to 1, and its maxval."""
    space = rb"(?:\s|#[^\r\n]*[\r\n])"
    header = re.match(rb"P([25])" + 3 * (space + rb"+(\d{1,9})") + space, content)
    kind, width, height, maxval = map(int, header.groups() if header else (0, 0, 0, 0))
    if not width * height or not 1 <= maxval <= 65535:
        raise Refused("neither a pattern nor a PGM file, P5 or P2 with maxval 1 to 65535")
    size, start = width * height, header.end()
    if kind == 5:
        dtype = np.dtype(np.uint8 if maxval < 256 else ">u2")
        end = start + size * dtype.itemsize
        whole = end <= len(content) <= end + 99 and not bytes(content[end:]).strip()
        samples = np.frombuffer(content, dtype, size if whole else 0, start)
    else:
        raster = re.sub(rb"#[^\r\n]*", b"", content[start : start + 99 * size + 9999])
        samples = np.array(raster.split() if re.fullmatch(rb"[\s\d]*", raster) else [], float)
    if samples.size != size or samples.max() > maxval:
        raise Refused(f"has to hold {width} x {height} samples from 0 to {maxval}, no more")
    return samples.reshape(height, width) / maxval, maxval


def read_picture(path):
    """Picture of a PGM file, uint8 (height, width)."""
    try:
        picture, maxval = parse_pgm(np.memmap(path, np.uint8, "r") if path.is_file() else b"")
    except (Refused, OSError, ValueError) as error:
        raise Refused(f"{path}: {error} (see IMAGES)") from None
    if maxval > 255:
        say(f"{path.name}: has {maxval.bit_length()} bits per pixel, 8 are kept")
    return to_grey(picture)


def pgm(picture):
    """Bytes of a binary PGM file of a uint8 picture."""
    return b"P5\n%d %d\n255\n" % picture.shape[::-1] + picture.tobytes()


def png(picture):
    """Bytes of a grey PNG file of a uint8 picture."""
    size = np.array(picture.shape[::-1], ">u4").tobytes()
    rows = zlib.compress(np.pad(picture, ((0, 0), (1, 0))))
    file = b"\x89PNG\r\n\x1a\n"
    for chunk in (b"IHDR" + size + b"\x08\0\0\0\0", b"IDAT" + rows, b"IEND"):
        file += (len(chunk) - 4).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    return file


def write_files(folder, files):
    """Write files, {name: bytes}, beside their places, then move all there."""
    beside = [folder / f".{name}.{os.getpid()}" for name in [*files, "trial"]]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, content in zip(beside, [*files.values(), b""]):
            path.write_bytes(content)
        for path, name in zip(beside, files):
            os.replace(path, folder / name)
    except OSError as error:
        raise Refused(f"{error.filename2 or folder}: can't be written ({error.strerror})") from None
    finally:
        for path in beside:
            with suppress(OSError):
                path.unlink()


def cut(picture, width, height):
    """Patches of a picture, (patches, width * height), filled up with its edge."""
    fill = (0, -picture.shape[0] % height), (0, -picture.shape[1] % width)
    padded = np.pad(picture, fill, "edge")
    grid = padded.reshape(-1, height, padded.shape[1] // width, width)
    return grid.swapaxes(1, 2).reshape(-1, height * width)


def join(patches, shapes, width, height):
    """Undo `cut`: yields the pictures of these shapes."""
    for tall, wide in shapes:
        rows, columns = -(-tall // height), -(-wide // width)
        grid, patches = np.split(patches, [rows * columns])
        grid = grid.reshape(rows, columns, height, width).swapaxes(1, 2)
        yield grid.reshape(rows * height, -1)[:tall, :wide]


# ---- decoder and gradients
#   logits     z[i, p] = sum_k codes[i, k] weights[k, p] + bias[p]    patch i, pixel p
#   output     y       = sigmoid(z) = 1 / (1 + exp(-z))
#   loss               = mean over i and p of (y - target)^2
#   delta      d[i, p] = (y - target) y (1 - y)    d loss / dz but for a factor
#   gradients  codes[i, k]:   sum_p weights[k, p] d[i, p]
#              weights[k, p]: sum_i codes[i, k] d[i, p]      bias[p]: sum_i d[i, p]
# The bias is the last row of the weights; each code ends in a 1 that stays. The pixels
# are cut into tiles that fit the cache, many patches into groups for the threads.
# tanh(x) = x P(x^2) / Q(x^2) from -9 to 9, by Eigen (generic_fast_tanh_float)
P0, P1, P2, P3 = np.float32([4.89352456e-3, 6.37261929e-4, 1.48572236e-5, 5.12229709e-8])
P4, P5, P6 = np.float32([-8.60467152e-11, 2.00018790e-13, -2.76076848e-16])
Q0, Q1, Q2, Q3 = np.float32([4.89352519e-3, 2.26843463e-3, 1.18534706e-4, 1.19825839e-6])
ZERO, HALF, ONE, NINE, TINY = np.float32([0, 0.5, 1, 9, 1e-12])  # a literal is float64


@njit(inline="always")
def sigmoid(z):
    """(1 + tanh(z / 2)) / 2 of a float32, to 2e-7; the compiler can vectorise it."""
    x = max(-NINE, min(NINE, HALF * z))
    s = x * x
    p = x * (P0 + s * (P1 + s * (P2 + s * (P3 + s * (P4 + s * (P5 + s * P6))))))
    return HALF + HALF * p / (Q0 + s * (Q1 + s * (Q2 + s * Q3)))


def step_piece(piece, decoder, codes, targets, moments, sums, steps, rate, beta):
    """One training step for the pixels of one tile and the patches of one group.

    decoder  float32 (tiles, latent_dim + 1, pixels of a tile)
    codes    float32 (patches, latent_dim + 1)
    targets  float32 (tiles, patches, pixels of a tile)
    moments  (tiles, patches + groups, ...): running sums of delta, of delta^2
    sums     float32 (tiles, patches, latent_dim + 1): codes' gradients, squared error
    steps    float32 (groups, *decoder.shape): with one group, the decoder itself
    """
    (patches, rows), groups = codes.shape, len(steps)
    tile, group = divmod(piece, groups)
    first, last = group * patches // groups, (group + 1) * patches // groups
    weights, target, moment = decoder[tile], targets[tile], moments[tile]
    step, square = steps[group, tile], moment[patches + group]
    bias, pixels = rows - 1, len(square)
    logits, delta = np.empty((2, pixels), np.float32)
    for p in range(pixels):
        square[p] *= beta
    for i in range(first, last):
        for p in range(pixels):
            logits[p] = weights[bias, p]
        for k in range(bias):
            for p in range(pixels):
                logits[p] += codes[i, k] * weights[k, p]
        loss = ZERO
        for p in range(pixels):
            output = sigmoid(logits[p])
            error = output - target[i, p]
            loss += error * error
            delta[p] = error * output * (ONE - output)
            moment[i, p] = beta * moment[i, p] + delta[p]
            square[p] += delta[p] * delta[p]
        sums[tile, i, bias] = loss
        for k in range(bias):
            gradient = ZERO
            for p in range(pixels):
                gradient += weights[k, p] * delta[p]
            sums[tile, i, k] = gradient
    for i in range(first, last):  # square is complete
        for p in range(pixels):
            scale = rate / (math.sqrt(square[p]) + TINY) if groups == 1 else ONE
            delta[p] = scale * moment[i, p]
        for k in range(rows):
            for p in range(pixels):
                step[k, p] -= codes[i, k] * delta[p]


def step_pieces(step, decoder, codes, targets, moments, sums, steps, rate, beta):
    """Step all pieces, shared out among the threads."""
    for piece in prange(len(decoder) * len(steps)):
        step(np.int64(piece), decoder, codes, targets, moments, sums, steps, rate, beta)


@cache
def compiled():
    """`step_pieces` and `step_piece`, compiled."""
    matrix, tiles, groups = float32[:, ::1], float32[:, :, ::1], float32[:, :, :, ::1]
    types = tiles, matrix, tiles, tiles, tiles, groups, float32, float32
    options = {"fastmath": True, "error_model": "numpy"}
    for keep in (True, False):  # uncached if the cache fails
        with suppress(Exception if keep else ()):
            step = cfunc(void(int64, *types), cache=keep, **options)(step_piece)
            loop = njit(void(typeof(step), *types), cache=keep, parallel=True)(step_pieces)
            return partial(loop, step)


# ---- training
def start_codes(patches, latent_dim, seed):
    """Codes to start from, float32 (patches, latent_dim)."""
    random = np.random.default_rng(seed)
    if patches > latent_dim:  # nearly equal: training spreads them
        return np.float32(0.3 + 0.003 * random.standard_normal((patches, latent_dim)))
    orthonormal, _ = np.linalg.qr(random.standard_normal((latent_dim, patches)))
    return np.float32(math.sqrt(latent_dim) * orthonormal.T)


def train(targets, codes, epochs, rate=1, log_every=10**9, betas=(0.80, 0.95), code_rate=0.01):
    """Train decoder and codes, a full-batch step per epoch; Ctrl-C ends it.

    targets    (patches, pixels), from 0 to 1
    codes      (patches, latent_dim), as from `start_codes`
    rate       of the first epoch; falls along half a cosine (Loshchilov, Hutter 2017)
    betas      decay of the moments, first and last: grows as rates fall (Smith 2018)
    code_rate  rate of the codes, as a share of `rate`
    Returns codes, weights (latent_dim, pixels), bias and the loss before each step.
    Adam (Kingma, Ba 2015), one second moment per pixel, per code: `tests/quality.py choices`.
    """
    (patches, pixels), latent_dim = targets.shape, codes.shape[1]
    step, size = compiled(), min(256, pixels)
    tiles = -(-pixels // size)  # filled with 1/2: zeros decode to it
    groups = max(1, min(-(-16 // tiles), patches // 64))  # shares out the patches
    targets = np.pad(targets, ((0, 0), (0, tiles * size - pixels)), constant_values=0.5)
    targets = targets.reshape(patches, tiles, size).swapaxes(0, 1).astype(np.float32, "C")
    codes = np.hstack([codes, np.ones((patches, 1))]).astype(np.float32, "C")
    decoder = np.zeros((tiles, latent_dim + 1, size), np.float32)
    steps = decoder[None] if groups == 1 else np.zeros((groups, *decoder.shape), np.float32)
    moments = np.zeros((tiles, patches + groups, size), np.float32)
    sums = np.empty((tiles, patches, latent_dim + 1), np.float32)
    momentum = square = np.float32(0)  # of the codes
    weight, losses, began = 0.0, [], time.perf_counter()
    with suppress(KeyboardInterrupt):
        for epoch in range(1, epochs + 1):
            decay = (1 + math.cos(math.pi * (epoch - 1) / epochs)) / 2
            beta = np.float32(betas[1] - (betas[1] - betas[0]) * decay)
            weight = beta * weight + 1  # sum of weights so far
            now = rate * decay / math.sqrt(weight)  # for mean / sqrt(mean square)
            pixel_rate = np.float32(now / math.sqrt(latent_dim * max(latent_dim, patches)))
            step(decoder, codes, targets, moments, sums, steps, pixel_rate, beta)
            if groups > 1:
                squares = moments[:, patches:].sum(axis=1, keepdims=True)
                decoder += pixel_rate * steps.sum(axis=0) / (np.sqrt(squares) + TINY)
                steps[:] = 0
            total = sums.sum(axis=0)
            gradient, loss = total[:, :-1], total[:, -1].sum() / (patches * pixels)
            momentum = beta * momentum + gradient
            square = beta * square + (gradient**2).mean(axis=1, keepdims=True)
            codes[:, :-1] -= code_rate * now / (np.sqrt(square) + TINY) * momentum
            losses.append(float(loss))
            if epoch % log_every == 0 or epoch == epochs:
                done = f"epoch {epoch:{len(str(epochs))}}/{epochs}  loss {loss:.3e}"
                say(f"{done}  time {time.perf_counter() - began:.2f} s")
    rows = decoder.swapaxes(0, 1).reshape(latent_dim + 1, -1)[:, :pixels]
    return codes[:, :-1], rows[:-1], rows[-1], losses


# ---- compressed file and report
def principal_components(codes, weights, bias):
    """Fewest components with the same logits, codes @ (weights / sizes[:, None]) + bias.

    Returns codes U s (patches, components), sizes s, weights s V (components, pixels)
    and bias, with U s V the singular value decomposition of centred codes @ weights.
    """
    mean = codes.mean(axis=0, dtype=np.float64)
    left, values, right = np.linalg.svd(codes - mean, full_matrices=False)
    right = (values[:, None] * right) @ weights
    squares, turn = np.linalg.eigh(right @ right.T)
    keep = squares > 1e-14 * squares.max() + 1e-20
    sizes, turn = np.sqrt(squares[keep]), turn[:, keep]
    return left @ turn * sizes, sizes, turn.T @ right, bias + mean @ weights


def quantise(codes, sizes, weights, bias, step):
    """Arrays for the file, in multiples of `step`; finer for the bias."""
    arrays = {"codes": codes.T, "weights": weights, "bias": bias * len(codes) ** 0.5}
    for name, values in arrays.items():
        rest, digits = np.rint(values / step).astype(np.int64), []  # in base 256
        while rest.any() or not digits:
            digits.append(rest.astype(np.int8))
            rest = (rest - digits[-1]) >> 8
        arrays[name] = np.array(digits)
    return {**arrays, "scales": np.append(step**2 / sizes, step / len(codes) ** 0.5)}


def decode(arrays):
    """Patches from the arrays of the file, uint8 (patches, pixels)."""
    digits = arrays["codes"], arrays["weights"], arrays["bias"]
    codes, weights, bias = (np.tensordot(256.0 ** np.arange(len(a)), a, 1) for a in digits)
    codes, bias = codes.T * arrays["scales"][:-1], bias * arrays["scales"][-1]
    chunks = np.array_split(codes, 1 + len(codes) * bias.size // 2**15)  # fit the cache
    return np.concatenate([to_grey((1 + np.tanh((c @ weights + bias) / 2)) / 2) for c in chunks])


def compress(components, pictures, width, height, rounding_loss):
    """Arrays for the file, with the largest step that will do; decoded pictures."""
    shapes, exponent = [p.shape for p in pictures], -320
    for stride in (0, 256, 128, 64, 32, 16, 8, 4, 2, 1):
        arrays = quantise(*components, 2 ** ((exponent + stride) / 16))
        decoded = [*join(decode(arrays), shapes, width, height)]
        pairs = zip(pictures, decoded)
        errors = np.array([np.linalg.norm(np.subtract(a, b, dtype=float)) for a, b in pairs]) ** 2
        before = errors if stride == 0 else before
        # exact stays exact; in all, rounding_loss dB may be lost
        small = errors.sum() <= before.sum() * 10 ** (rounding_loss / 10)
        if small and not errors[before == 0].any():
            exponent, best = exponent + stride, (arrays, decoded)
    return best


def pack(arrays):
    """Bytes of an .npz file of these arrays, with LZMA; numpy.load reads it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_LZMA) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as member:
                np.save(member, array)
    return file.getvalue()


def report(names, originals, decoded, file):
    """Print what came back, and the bytes of the file."""
    for name, original, output in zip(names, originals, decoded):
        error = np.abs(original.astype(int) - output)
        psnr = 10 * math.log10(255**2 / np.mean(error**2)) if error.any() else math.inf
        exact = f"{np.sum(error == 0)} of {error.size} pixels exact"
        say(f"{name}: PSNR {psnr:.2f} dB, error at most {error.max()}, {exact}")
    parts = zipfile.ZipFile(io.BytesIO(file)).infolist()
    codes, weights, bias = (part.compress_size for part in parts[:3])
    rest = f"names and headers {len(file) - codes - weights - bias}"
    say(f"compressed.npz: {len(file)} bytes: codes {codes}, decoder {weights + bias}, {rest}")
    raw = b"".join(picture.tobytes() for picture in originals)
    zipped = f"{len(raw)} bytes, {len(zlib.compress(raw, 9))} with zlib"
    say(f"pictures: {zipped}; ratio {len(file) / len(raw):.3f}")


def contact_sheet(originals, decoded):
    """Picture with columns of original, decoded, 8 times the difference."""
    height, width = np.max([picture.shape for picture in originals], axis=0) + 2
    sheet = np.full((3, height, len(originals), width), 128, np.uint8)
    for column, (original, output) in enumerate(zip(originals, decoded)):
        error = np.minimum(8 * np.abs(original.astype(int) - output), 255)
        sheet[:, : len(error), column, : len(error[0])] = original, output, error
    return sheet.reshape(3 * height, -1)


# ---- main
def say(line):
    """Print a line; the work goes on if nobody reads."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        print(line.encode(encoding, "replace").decode(encoding), flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            raise Refused(f"standard output: {error.strerror}") from None


def check_memory(patches, pixels, latent_dim):
    """Refuse sizes that don't fit into memory."""
    limits = [2**63]
    with suppress(ImportError, OSError, ValueError):  # if the system tells
        import resource
        limits.append(resource.getrlimit(resource.RLIMIT_AS)[0] % 2**63)  # -1: none
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    need = 16 * pixels * (latent_dim + patches + 4) + 48 * patches * latent_dim
    if need > 0.9 * min(limits):
        sizes = f"WIDTH x HEIGHT = {pixels}, LATENT_DIM = {latent_dim}, {patches} patches"
        raise Refused(f"{sizes}: need {need:.1e} bytes, allowed {0.9 * min(limits):.1e}")


def run():
    """Do what the constants say. Returns the exit status."""
    names = "WIDTH", "HEIGHT", "LATENT_DIM", "EPOCHS", "LOG_EVERY"
    sizes = (constant(name, Integral, 1, 10**9) for name in names)
    width, height, latent_dim, epochs, log_every = sizes
    rate = constant("LEARNING_RATE", Real, 1e-9, 100)
    rounding_loss = constant("ROUNDING_LOSS", Real, 0, 20)
    seed = constant("SEED", Integral, 0, 10**18)
    names = [*IMAGES, OUTPUT_DIR] if isinstance(IMAGES, (tuple, list)) and IMAGES else [0]
    if not all(isinstance(name, str) and name and "\0" not in name for name in names):
        raise Refused(f'IMAGES = {IMAGES!r}, OUTPUT_DIR = {OUTPUT_DIR!r}: not ("name",), "name"')
    check_memory(len(IMAGES), width * height, latent_dim)
    here = Path(__file__).resolve().parent
    folder, pictures = Path(os.path.realpath(here / OUTPUT_DIR)), []
    drawn = {name: draw(name, width, height) for name in IMAGES if name in PATTERNS}
    for name in IMAGES:
        if name not in drawn and folder in Path(os.path.realpath(here / name)).parents:
            raise Refused(f"{name}: is in OUTPUT_DIR: a run may overwrite it")
        pictures.append(drawn[name] if name in drawn else read_picture(here / name))
    patches = np.concatenate([cut(picture, width, height) for picture in pictures])
    check_memory(len(patches), width * height, latent_dim)
    write_files(folder, {f"generated_{n}.pgm": pgm(picture) for n, picture in drawn.items()})
    shape = f"{len(pictures)} pictures, {len(patches)} patches of {width} x {height}"
    say(f"training on {shape}: latent_dim {latent_dim}, {get_num_threads()} threads")
    codes = start_codes(len(patches), latent_dim, seed)
    *model, losses = train(patches / np.float32(255), codes, epochs, rate, log_every)
    say(f"after epoch {len(losses)}: looking for the largest rounding step ...")
    components = principal_components(*model)
    arrays, decoded = compress(components, pictures, width, height, rounding_loss)
    shapes = [(height, width), *(p.shape for p in pictures)]
    files = {f"final_decoded_{n}.pgm": pgm(picture) for n, picture in enumerate(decoded)}
    files["comparison.png"] = png(contact_sheet(pictures[:8], decoded[:8]))
    files["compressed.npz"] = pack({**arrays, "names": IMAGES, "shapes": shapes})
    write_files(folder, files)
    report(IMAGES, pictures, decoded, files["compressed.npz"])
    return 130 if len(losses) < epochs else 0


def main(arguments):
    """Run the program. Returns 0, 2 after a mistake, 130 after Ctrl-C."""
    try:
        if arguments == ["--help"]:
            say(__doc__.strip())
        elif arguments:
            raise Refused("takes no arguments but --help; edit the constants")
        return 0 if arguments else run()
    except (Refused, MemoryError, KeyboardInterrupt) as error:
        print("neural_compression.py:", *str(error).split() or [type(error).__name__], file=sys.stderr)
        return 130 if isinstance(error, KeyboardInterrupt) else 2


if __name__ == "__main__":
    if len(sys.argv) == 1:
        compiled()  # before Ctrl-C raises
    status = 130
    with suppress(KeyboardInterrupt):
        signal.signal(signal.SIGINT, signal.default_int_handler)
        status = main(sys.argv[1:])
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run is over
    sys.exit(status)
