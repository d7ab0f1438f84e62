"""How good the pictures are and how small the file, over seeds, sizes and kinds of picture.

    python tests/quality.py        all tables
    python tests/quality.py WORD   only those with WORD in their name: patterns, start, choices, rounding,
                                   seconds, file, target, rate

`rate` draws outputs/rate_distortion.png. Runs on 2 cores take some minutes per table.
"""

import io
import sys
import tempfile
import time
import types
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pictures
from PIL import Image
from pictures import SCRIPT, learn, nc, patterns, psnr, targets

nc.say = lambda line: None  # no log


def edited(*changes):
    """The program as a module of its own, with pieces of its text replaced: pairs of old and new."""
    text = SCRIPT.read_text()
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    module = types.ModuleType("edited")
    module.__file__ = str(Path(tempfile.mkdtemp(), "edited.py"))
    sys.modules["edited"] = module
    exec(compile(text, module.__file__, "exec"), vars(module))
    module.say = lambda line: None
    return module


# ------------------------------------------------------------------------------- training


def row(name, samples, latent_dim, seeds, epochs=1000, program=nc):
    """Print a line over seeds: exact ones, and PSNR before rounding."""
    wanted, exact, decibels = targets(samples), 0, []
    for seed in range(seeds):
        codes, decoder, _ = program.train(wanted, *program.start(wanted, latent_dim, seed), epochs)
        output = 0.5 + np.tanh(codes @ decoder.astype(float) / 2) / 2
        exact += np.array_equal(nc.to_grey(output).ravel(), np.ravel(samples))
        decibels.append(-10 * np.log10(np.mean((output - wanted) ** 2)))
    print(f"  {name:34}{exact:3} of {seeds:2} exact   PSNR {min(decibels):.2f} to {max(decibels):.2f} dB", flush=True)


def table_patterns():
    """The three patterns, over seeds, latent_dim and sizes."""
    row("256 x 256, latent_dim 16", patterns(), 16, 20)
    row("latent_dim 16, 300 epochs", patterns(), 16, 20, 300)
    row("latent_dim 16, 100 epochs", patterns(), 16, 5, 100)
    row("latent_dim 2", patterns(), 2, 20)
    for latent_dim in (3, 4, 8, 32, 64, 327):
        row(f"latent_dim {latent_dim}", patterns(), latent_dim, 5)
    row("latent_dim 1", patterns(), 1, 20)
    for width, height in ((64, 64), (96, 40), (512, 512)):
        row(f"{width} x {height}, latent_dim 16", patterns(width, height), 16, 20)
    row("24 photographs, latent_dim 24", pictures.photographs(), 24, 3)


def table_start():
    """PSNR before rounding after some epochs, from principal components and from random codes."""
    names = "flower.jpg", "china.jpg", "chelsea.png"
    cases = [(name, nc.to_grey(nc.cut([pictures.photograph(name)], 8, 8)), 32) for name in names]
    cases += [("digits", pictures.digits(), 20), ("digits", pictures.digits(), 8)]
    cases += [("letters", nc.to_grey(nc.cut([pictures.letters_sheet()], 16, 16)), 32)]
    cases += [("24 photographs", pictures.photographs(), latent_dim) for latent_dim in (4, 8, 16)]
    for name, samples, latent_dim in cases:
        wanted = targets(samples)
        codes, decoder = nc.start(wanted, latent_dim, 0)
        random = np.random.default_rng(0).standard_normal(codes.shape)
        random[:, -1] = 1
        for start, first in (("components", codes), ("random", random)):
            results = []
            for epochs in (100, 300, 1000):
                loss = nc.train(wanted, first, decoder, epochs)[2][-1]
                results.append(f"{-10 * np.log10(loss):.2f}")
            print(f"  {name}, {latent_dim:2}, {start:10} {' / '.join(results)} dB after 100 / 300 / 1000 epochs", flush=True)


def table_choices():
    """Each choice of the optimiser next to its neighbours: three patterns, and digits at 16."""
    rate, length = "0.15 * learning_rate", "size = 16 if"
    choices = {
        "as it is": [],
        "code rate 0.05": [(rate, "0.05 * learning_rate")],
        "code rate 0.5": [(rate, "0.5 * learning_rate")],
        "code length 4": [(length, "size = 4 if")],
        "code length 64": [(length, "size = 64 if")],
        "pixel rate 0.5": [("learning_rate * sqrt", "0.5 * learning_rate * sqrt")],
        "pixel rate 2": [("learning_rate * sqrt", "2 * learning_rate * sqrt")],
        "beta 0.8": [("0.95 - 0.15 * falling", "0.8")],
        "beta 0.95": [("0.95 - 0.15 * falling", "0.95")],
    }
    for name, changes in choices.items():
        program = edited(*changes)
        for epochs in (100, 300, 1000):
            row(f"{name}, {epochs} epochs", patterns(), 16, 2, epochs, program)
        for epochs in (100, 1000):
            row(f"{name}, digits, {epochs} epochs", pictures.digits(), 16, 1, epochs, program)


# ----------------------------------------------------------------------------- the file


def table_rounding():
    """The price of a bit and the rounds of choosing: bytes at the same PSNR, after 100 epochs."""
    cases = [("china", pictures.photograph("china.jpg"), 32, 25), ("flower", pictures.photograph("flower.jpg"), 32, 34)]
    cases += [("digits", pictures.digits_sheet(), 20, 24.5)]
    models = {name: learn([picture], 8, 8, latent_dim, 100)[:2] for name, picture, latent_dim, _ in cases}
    price, rounds, slope, damping = "0.12 * step**2", "0.01 else 7", "float32(0.005)", "float32(0.2 * price)"
    choices = [("nearest numbers", [(rounds, "0.01 else 1")])]
    choices += [(f"price {p}", [(price, f"{p} * step**2")]) for p in (0.03, 0.06, 0.12, 0.24)]
    choices += [(f"{n} rounds", [(rounds, f"0.01 else {n + 1}")]) for n in (1, 2, 4, 6, 8)]
    choices += [(f"slopes from {least}", [(slope, f"float32({least})")]) for least in (0, 0.001, 0.02)]
    choices += [(f"damping {d}", [(damping, f"float32({d} * price)")]) for d in (0.05, 0.8)]
    for choice, changes in choices:
        program, sizes = edited(*changes), []
        for name, picture, _, target in cases:
            sizes.append(f"{name} {len(program.compress([picture], *models[name], 8, 8, target))}")
        print(f"  {choice:16} {', '.join(sizes)} bytes", flush=True)


def table_seconds():
    """Seconds of `compress`, all tries of a step and the file, as a share of 1000 epochs of training."""
    china = pictures.photograph("china.jpg")
    cases = [
        ("three patterns, 16", patterns(), 256, 16, 100),
        ("sheet of digits, 20", [pictures.digits_sheet()], 8, 20, 25),
        ("photograph in 8 x 8, 32", [china], 8, 32, 25),
        ("12 megapixels in 8 x 8, 32", [np.tile(china, (8, 7))[:3000, :4000]], 8, 32, 25),
    ]
    for name, originals, side, latent_dim, target in cases:
        epochs = 100 if "mega" in name else 1000
        wanted = nc.cut(originals, side, side)
        first = nc.start(wanted, latent_dim, 0)
        nc.train(wanted, *first, 1)
        began = time.perf_counter()
        codes, decoder, _ = nc.train(wanted, *first, epochs)
        training = (time.perf_counter() - began) * 1000 / epochs
        nc.compress(originals[:1], codes[: len(nc.cut(originals[:1], side, side))], decoder, side, side, 5)  # compiles
        began = time.perf_counter()
        content = nc.compress(originals, codes, decoder, side, side, target)
        seconds = time.perf_counter() - began
        print(f"  {name:28} 1000 epochs {training:.2f} s, compress {seconds:.2f} s, share {seconds / training:.2f},"
              f" {len(content)} bytes", flush=True)


def table_file():
    """Bytes of the whole file with TARGET_PSNR 100, after 1000 epochs."""
    sets = [
        ("three patterns", patterns(), (2, 16, 327)),
        ("24 photographs", pictures.photographs(), (4, 8, 16, 24)),
        ("1797 digits", pictures.digits(), (4, 8, 16)),
        ("60 digits", pictures.digits()[:60], (16,)),
    ]
    for name, originals, dims in sets:
        print(f"  {name}: {originals.size} bytes raw, {len(zlib.compress(originals, 9))} with zlib,"
              f" {sum(map(png_bytes, originals))} as PNG files")
        height, width = originals.shape[1:]
        for latent_dim in dims:
            model = learn(originals, width, height, latent_dim, 1000)[:2]
            content = nc.compress(originals, *model, width, height, 100)
            decibels = psnr(originals, nc.decompress(content))
            print(f"    latent_dim {latent_dim:3}: {len(content):8} bytes, {len(content) / originals.size:.3f} of raw,"
                  f" PSNR {decibels:.2f} dB", flush=True)


def table_target():
    """TARGET_PSNR on three photographs in 8 x 8, latent_dim 48, 300 epochs."""
    for name in ("china.jpg", "flower.jpg", "chelsea.png"):
        picture = pictures.photograph(name)
        codes, decoder, loss = learn([picture], 8, 8, 48, 300)
        for target in (25, 30, 35, 40):
            content = nc.compress([picture], codes, decoder, 8, 8, target)
            decibels = psnr([picture], nc.decompress(content))
            words = f"{decibels - target:+.2f}" if decibels >= target else "out of reach"
            print(f"  {name}, target {target}: {decibels:.2f} dB ({words}), {len(content)} bytes;"
                  f" training {-10 * np.log10(loss):.2f} dB", flush=True)


def table_rate():
    """PSNR at equal bytes, next to PCA chosen the same way and to Pillow's codecs; 100 epochs."""
    digits = {20: (22, 24.5, 26), 32: (30, 34)}
    letters = {24: (25, 28), 32: (28, 30, 32)}
    panels = {
        "1797 digits of 8 x 8": curves("digits", pictures.digits_sheet(), 8, digits),
        "1040 letters of 16 x 16": curves("letters", pictures.letters_sheet(), 16, letters),
    }
    aims = {"china": (24, 25, 26), "flower": (33, 35, 37), "astronaut": (30, 32, 33.5), "coffee": (29, 30.5, 32)}
    for name, picture in pictures.large_photographs().items():
        goals = {32: aims.get(name, (31, 33, 35)), 48: aims.get(name, (31, 33, 35))}
        panels["a photograph in 8 x 8"] = curves(name, picture, 8, goals)
    draw_rates(panels)


def curves(name, picture, side, goals):
    """Print a table of one picture; returns the curves: a dict of name and points (bytes, PSNR in dB).

    goals  for each latent_dim the values of TARGET_PSNR
    """
    print(f"  {name}, {picture.shape[1]} x {picture.shape[0]} in patches of {side} x {side},"
          f" {picture.size} bytes raw, PNG {png_bytes(picture)}")
    others = {"PCA": pca_points(picture, side)}
    for codec in CODECS:
        try:
            others[codec] = codec_points(picture, codec)
        except (KeyError, OSError):
            print(f"    Pillow has no {codec} here")
    print("    latent_dim  target    bytes  bits/pixel  here dB" + "".join(f"{other:>15}" for other in others))
    points = []
    for latent_dim, targets_of_run in goals.items():
        model = learn([picture], side, side, latent_dim, 100)[:2]
        for target in targets_of_run:
            content = nc.compress([picture], *model, side, side, target)
            size, decibels = len(content), psnr([picture], nc.decompress(content))
            points.append((size, decibels))
            line = f"{latent_dim:14}{target:8}{size:9}{8 * size / picture.size:12.3f}{decibels:9.2f}"
            for other in others.values():
                theirs = at_bytes(other, size)
                line += f"{'-':>15}" if np.isnan(theirs) else f"{theirs:8.2f} {decibels - theirs:+6.2f}"
            print(line, flush=True)
    return {"this program": points, **others}


def png_bytes(picture):
    """Bytes of a picture as a PNG file, by Pillow."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", optimize=True)
    return file.tell()


def pca_points(picture, side):
    """Points of principal components, with the program's step, choice by cost, and file.

    The rows of weights are orthonormal and there is no sigmoid, so each number is chosen by itself: of the
    nearest, its neighbours and 0, the one with the least (number step - value)^2 + price bits.
    """
    values = np.float64(nc.cut([picture], side, side))
    mean = values.mean(axis=0)
    left, lengths, right = np.linalg.svd(values - mean, full_matrices=False)
    points = []
    for count in (4, 8, 12, 16, 20, 24, 32, 48, 64):
        codes, rows = left[:, :count] * lengths[:count], right[:count]
        for exponent in range(-3, 12):
            step = 2 ** (-exponent / 2)
            numbers = np.int64(np.rint(codes / step))
            for _ in range(4):
                lowest, most = numbers.min() - 1, numbers.max() + 2
                counts = np.array([np.bincount(column - lowest, minlength=most - lowest) for column in numbers.T])
                bits = -np.log2(np.maximum(counts, 0.5) / len(numbers))
                near = np.int64(np.rint(codes / step))
                tries = np.stack([near, near - np.sign(near), 0 * near]).clip(lowest, most - 1)
                price = bits[np.arange(count), tries - lowest]
                numbers = np.take_along_axis(tries, np.argmin((tries * step - codes) ** 2 + 0.12 * step**2 * price, axis=0)[None], 0)[0]
            rounded = step * np.column_stack([numbers, np.ones(len(numbers))])
            record = nc.quantise(rounded.T, np.vstack([rows, mean / step]), step, 1, values, values.T, (side, side), [picture.shape])
            linear = (record["codes"] / nc.row_lengths(record["codes"]) * step).T @ record["weights"]
            output = nc.join(nc.to_grey(np.clip(linear, 0, 1)), [picture.shape], side, side)
            size = zipped(record)
            points.append((size, psnr([picture], output)))
            if size > 0.5 * picture.size:
                break
    return points


def zipped(record):
    """Bytes of a record as a file of the program."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_LZMA) as archive, archive.open("numbers.npy", "w") as member:
        np.save(member, record)
    return len(file.getvalue())


CODECS = {  # options of Pillow, and the qualities to try
    "JPEG": ({"optimize": True, "progressive": True}, range(1, 101)),
    "WebP": ({"method": 6}, range(0, 101, 3)),
    "AVIF": ({"speed": 4, "subsampling": "4:0:0"}, range(4, 100, 6)),
}


def codec_points(picture, codec):
    """Points of one of Pillow's codecs over its qualities."""
    options, qualities = CODECS[codec]
    points = []
    for quality in qualities:
        file = io.BytesIO()
        Image.fromarray(picture).save(file, codec, quality=quality, **options)
        points.append((file.tell(), psnr([picture], [np.asarray(Image.open(file).convert("L"))])))
    return points


def outline(points):
    """The points that no smaller file beats: bytes and PSNR, both rising."""
    best = []
    for size, decibels in sorted(points):
        if not best or decibels > best[-1][1]:
            best.append((size, decibels))
    return np.transpose(best)


def at_bytes(points, size):
    """PSNR at this many bytes, between the points around it; nan below the smallest file."""
    sizes, decibels = outline(points)
    return np.interp(np.log(size), np.log(sizes), decibels, left=np.nan)


def draw_rates(panels):
    """Draw outputs/rate_distortion.png: for each picture PSNR over bytes, near this program's."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(panels), figsize=(9.6, 3.4), layout="constrained")
    for axis, (title, named) in zip(axes, panels.items()):
        sizes, decibels = outline(named["this program"])
        for name, points in named.items():
            style = {"color": "black", "linewidth": 2.4} if name == "this program" else {}
            x, y = outline(points)
            axis.plot(x / 1000, y, label=name, **style)
        axis.set(title=title, xlabel="kilobytes of the whole file")
        axis.set_xlim(sizes[0] / 1500, sizes[-1] / 1000 * 1.1)
        axis.set_ylim(decibels[0] - 4, decibels[-1] + 4)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("PSNR, dB")
    axes[0].legend(fontsize="small")
    figure.savefig(SCRIPT.parent / "outputs" / "rate_distortion.png", dpi=100)


if __name__ == "__main__":
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    for name, table in list(globals().items()):
        if name.startswith("table_") and word in name:
            print(f"\n{name[6:]}: {table.__doc__.splitlines()[0]}", flush=True)
            table()
