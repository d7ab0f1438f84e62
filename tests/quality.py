"""How good the pictures are and how small the file, over seeds, sizes and kinds of picture.

    python tests/quality.py        all tables
    python tests/quality.py WORD   only those with WORD in their name: patterns, start, choices, rounding, parts,
                                   seconds, file, target, rate, colour, sides, blocks

`rate` draws outputs/rate_distortion.png, and `blocks` outputs/blocks.png. Runs on 2 cores take some minutes per table.
"""

import io
import sys
import time
import zlib
from contextlib import ExitStack
from unittest import mock

import numpy as np
import pictures
from PIL import Image
from pictures import SCRIPT, learn, nc, patterns, psnr, targets

nc.say = lambda line: None  # no log


def with_settings(settings):
    """A block in which names of the program have other values: a dict."""
    stack = ExitStack()
    for name, value in settings.items():
        stack.enter_context(mock.patch.object(nc, name, value))
    return stack


# ------------------------------------------------------------------------------- training


def row(name, samples, latent_dim, seeds, epochs=1000):
    """Print a line over seeds: exact ones, and PSNR before rounding."""
    wanted, exact, decibels = targets(samples), 0, []
    for seed in range(seeds):
        codes, decoder, _ = nc.train(wanted, *nc.start(wanted, latent_dim, seed), epochs)
        output = nc.sigmoids(codes @ decoder.astype(float))
        exact += np.array_equal(nc.to_levels(output).ravel(), np.ravel(samples))
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
    cases = [(name, nc.cut([pictures.photograph(name)], 8, 8), 32) for name in names]
    cases += [("digits", targets(pictures.digits()), 20), ("digits", targets(pictures.digits()), 8)]
    cases += [("letters", nc.cut([pictures.letters_sheet()], 16, 16), 32)]
    cases += [("24 photographs", targets(pictures.photographs()), latent_dim) for latent_dim in (4, 8, 16)]
    for name, wanted, latent_dim in cases:
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
    choices = [{}, {"CODE_RATE": 0.05}, {"CODE_RATE": 0.5}, {"CODE_NORM": 4}, {"CODE_NORM": 64}]
    choices += [{"SAMPLE_RATE": 0.5}, {"SAMPLE_RATE": 2}, {"BETAS": (0.8, 0.8)}, {"BETAS": (0.95, 0.95)}]
    for settings in choices:
        with with_settings(settings):
            for epochs in (100, 300, 1000):
                row(f"{settings or 'as it is'}, {epochs} epochs", patterns(), 16, 2, epochs)
            for epochs in (100, 1000):
                row(f"{settings or 'as it is'}, digits, {epochs} epochs", pictures.digits(), 16, 1, epochs)


# ----------------------------------------------------------------------------- the file


def cases_of_files():
    """Pictures, sides of patches, models after 100 epochs and targets in dB, by name: what `rounding` and `parts` are tried on."""
    photograph, sheets = pictures.photograph, (pictures.digits_sheet(), pictures.letters_sheet())
    cases = {
        "china": (photograph("china.jpg"), 8, 48, 25), "coffee": (photograph("coffee.png"), 8, 48, 29),
        "astronaut": (photograph("astronaut.png"), 8, 48, 32), "flower": (photograph("flower.jpg"), 8, 48, 35),
        "chelsea": (photograph("chelsea.png"), 8, 48, 31), "digits": (sheets[0], 8, 20, 24.5),
        "letters": (sheets[1], 16, 32, 30), "coffee in colour": (photograph("coffee.png", "RGB"), 8, 64, 32),
        "chelsea in colour": (photograph("chelsea.png", "RGB"), 8, 64, 31),
    }  # fmt: skip
    return {name: (picture, side, learn([picture], side, side, latent_dim, 100)[:2], target)
            for name, (picture, side, latent_dim, target) in cases.items()}


def bytes_at(picture, side, model, target):
    """Bytes of the file at a target, as if it was reached to the hundredth of a dB: 1 dB is taken for 17 % of the bytes."""
    content = nc.compress([picture], *model, side, side, target)
    return len(content) * 0.83 ** (psnr([picture], nc.decompress(content)) - target)


def compare(choices):
    """Print a line per choice, {name: settings}: bytes at the same PSNR, next to the first choice."""
    cases = cases_of_files()
    print(f"  {'':26}" + "".join(f"{name.replace(' in colour', ', rgb'):>15}" for name in cases))
    first = None
    for choice, settings in choices.items():
        with with_settings(settings):
            sizes = [bytes_at(*case) for case in cases.values()]
        first = first or sizes
        print(f"  {choice:26}" + "".join(f"{size:9.0f} {size / one:.3f}" for size, one in zip(sizes, first)), flush=True)


def table_rounding():
    """The price of a bit, the passes of choosing, and what becomes 0: bytes at the same PSNR, after 100 epochs."""
    choices = {"as it is": {}, "nearest numbers": {"PASSES": (0, 0)}}
    choices |= {f"price {price}": {"PRICE": price} for price in (0.12, 0.18, 0.32, 0.48)}
    choices |= {f"{passes} passes": {"PASSES": (passes, passes)} for passes in (2, 4, 7, 14, 28)}
    choices |= {f"0 below {zone}": {"ZERO_BELOW": zone} for zone in (0.5, 0.6, 0.8)}
    compare(choices)


def unsmoothed(record, pictures, exact):
    """In the place of `fit_smoothing`."""
    return record, *nc.mean_squares(pictures, nc.finish(nc.reconstruct(record), record))


def table_parts():
    """What smoothing and cosines are worth: bytes at the same PSNR, after 100 epochs."""
    pixels = {"patch_bases": lambda *arguments: None}
    compare({"as it is": {}, "no smoothing": {"fit_smoothing": unsmoothed}, "no cosines": pixels,
             "neither": {"fit_smoothing": unsmoothed, **pixels}})


def table_seconds():
    """Seconds of `compress`, all tries of a step and the file, next to training."""
    china = pictures.photograph("china.jpg")
    large = np.tile(china, (8, 7))[:2400, :3600]
    cases = [
        ("three patterns, 16", patterns(), 256, 16, None, 1000),
        ("sheet of digits, 20", [pictures.digits_sheet()], 8, 20, 25, 100),
        ("photograph in 8 x 8, 64", [china], 8, 64, 25, 100),
        ("8.6 megapixels in 8 x 8, 64", [large], 8, 64, 25, 100),
    ]
    for name, originals, side, latent_dim, target, epochs in cases:
        times = [time.perf_counter()]
        wanted = nc.cut(originals, side, side)
        first = nc.start(wanted, latent_dim, 0)
        times.append(time.perf_counter())
        codes, decoder, _ = nc.train(wanted, *first, epochs)
        times.append(time.perf_counter())
        content = nc.compress(originals, codes, decoder, side, side, target)
        times.append(time.perf_counter())
        nc.decompress(content)
        times.append(time.perf_counter())
        starting, training, compressing, decompressing = np.diff(times)
        print(f"  {name:28} start {starting:.2f} s, {epochs} epochs {training:.2f} s, compress {compressing:.2f} s,"
              f" decompress {decompressing:.2f} s, {len(content)} bytes", flush=True)


def table_file():
    """Bytes of the whole file without a target, after 1000 epochs."""
    sets = [
        ("three patterns", patterns(), (2, 16, 327)),
        ("24 photographs", pictures.photographs(), (4, 8, 16, 24)),
        ("1797 digits", pictures.digits(), (4, 8, 16)),
        ("60 digits", pictures.digits()[:60], (16,)),
    ]
    for name, originals, dims in sets:
        raw = np.stack(originals)
        print(f"  {name}: {raw.size} bytes raw, {len(zlib.compress(raw, 9))} with zlib,"
              f" {sum(map(png_bytes, originals))} as PNG files")
        height, width = originals[0].shape
        for latent_dim in dims:
            model = learn(originals, width, height, latent_dim, 1000)[:2]
            content = nc.compress(originals, *model, width, height)
            decibels = psnr(originals, nc.decompress(content))
            print(f"    latent_dim {latent_dim:3}: {len(content):8} bytes, {len(content) / raw.size:.3f} of raw,"
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
    """PSNR at equal bytes, next to PCA coded the same way and to Pillow's codecs; 100 epochs."""
    digits = {20: (22, 24.5, 26), 32: (30, 34)}
    letters = {24: (25, 28), 32: (28, 30, 32)}
    panels = {
        "1797 digits of 8 x 8": curves("digits", pictures.digits_sheet(), 8, digits),
        "1040 letters of 16 x 16": curves("letters", pictures.letters_sheet(), 16, letters),
    }
    aims = {"china": (24, 25, 26), "flower": (33, 35, 37), "astronaut": (30, 32, 33.5), "coffee": (29, 30.5, 32)}
    for name, picture in pictures.large_photographs().items():
        goals = {48: aims.get(name, (31, 33, 35)), 64: aims.get(name, (31, 33, 35))}
        panels["a photograph in 8 x 8"] = curves(name, picture, 8, goals)
    draw_rates(panels)


def table_colour():
    """The same for photographs in colour; PSNR over red, green and blue."""
    goals = {"coffee.png": (30, 32, 34), "astronaut.png": (30, 32), "chelsea.png": (31, 33)}
    for name, aims in goals.items():
        curves(name, pictures.photograph(name, "RGB"), 8, {64: aims, 96: aims})


def curves(name, picture, side, goals):
    """Print a table of one picture; returns the curves: a dict of name and points (bytes, PSNR in dB).

    goals  for each latent_dim the values of TARGET_PSNR
    """
    tall, wide = picture.shape[:2]
    print(f"  {name}, {wide} x {tall} in patches of {side} x {side}, {picture.size} bytes raw, PNG {png_bytes(picture)}")
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
            line = f"{latent_dim:14}{target:8}{size:9}{8 * size / (tall * wide):12.3f}{decibels:9.2f}"
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
    """Points of principal components, coded by the program: the same choice by cost, cosines, smoothing and coder.

    There is no sigmoid, so the choice and the fit have closed forms: a score is drawn nearer to 0 by its cost, and the
    weights are fitted by least squares.
    """
    values = np.float64(nc.cut([picture], side, side))
    left, lengths, right = np.linalg.svd(values, full_matrices=False)
    shape = np.array([picture.shape[:2]])
    bases = nc.patch_bases(shape, side, side, values.shape[1] // side**2)
    points = []
    for count in (4, 8, 12, 16, 24, 32, 48, 64):
        for exponent in range(-192, 320, 32):
            step = 2 ** (-exponent / nc.STEPS)
            scores = (left[:, :count] * lengths[:count]).T / step
            numbers = np.rint(scores)
            for _ in range(4):
                pull = nc.PRICE / 2 * np.log2(1 + 1 / np.mean(abs(numbers) + 1e-9, axis=1, keepdims=True))
                numbers = np.rint(np.sign(scores) * np.maximum(abs(scores) - pull, 0))
            numbers = numbers[numbers.any(axis=1)]
            rows = np.linalg.lstsq(numbers.T, values, rcond=None)[0]
            whole = nc.round_weights(rows * nc.row_lengths(numbers) / step, bases)
            fields = len(bases[2]), side, side, -exponent, shape, np.zeros((4, 4), int), np.int64(numbers), np.int64(whole)
            with with_settings({"sigmoids": lambda logits: np.clip(logits, 0, 1)}):
                record, _, loss = nc.fit_smoothing(nc.Record(*fields), [picture], np.array([False]))
            points.append((len(nc.pack(record)), -10 * np.log10(loss)))
            if points[-1][0] > 0.3 * picture.size:
                break
    return points


CODECS = {  # options of Pillow, subsampling of colour, and the qualities to try
    "JPEG": ({"optimize": True, "progressive": True}, ("4:2:0", "4:4:4"), range(1, 101)),
    "WebP": ({"method": 6}, (None,), range(0, 101, 2)),
    "AVIF": ({"speed": 4}, ("4:2:0", "4:4:4"), range(4, 100, 5)),
}


def codec_points(picture, codec):
    """Points of one of Pillow's codecs over its qualities; in colour with and without subsampling, if it has both."""
    options, subsamplings, qualities = CODECS[codec]
    mode = "RGB" if picture.ndim == 3 else "L"
    if mode == "L":
        subsamplings = ("4:0:0" if codec == "AVIF" else None,)
    points = []
    for subsampling in subsamplings:
        extra = {"subsampling": subsampling} if subsampling else {}
        for quality in qualities:
            file = io.BytesIO()
            Image.fromarray(picture).save(file, codec, quality=quality, **options, **extra)
            points.append((file.tell(), psnr([picture], [np.asarray(Image.open(file).convert(mode))])))
    return points


def table_sides():
    """Bytes at the same PSNR for larger patches with more numbers per code, after 100 epochs."""
    cases = [("retina.jpg", 38), ("hubble_deep_field.jpg", 30), ("coffee.png", 32)]
    for name, target in cases:
        for mode in ("L", "RGB"):
            picture, sizes = pictures.photograph(name, mode), []
            for side, latent_dim in ((8, 64), (12, 96), (16, 96)):
                model = learn([picture], side, side, latent_dim, 100)[:2]
                sizes.append(bytes_at(picture, side, model, target))
            ratios = ", ".join(f"{size / sizes[0]:.3f}" for size in sizes)
            print(f"  {name} {picture.shape}, {target} dB: {sizes[0]:.0f} bytes; 8 x 8 with 64, 12 x 12 and 16 x 16 with 96: {ratios}", flush=True)


def table_blocks():
    """A photograph at some 0.15 bits per pixel next to JPEG at as many bytes: outputs/blocks.png."""
    picture = pictures.photograph("chelsea.png", "RGB")
    codes, decoder, _ = learn([picture], 8, 8, 64, 100)
    content = nc.compress([picture], codes, decoder, 8, 8, 29.0)
    (ours,) = nc.decompress(content)
    for quality in range(100, 0, -1):
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=quality, optimize=True, progressive=True)
        if file.tell() <= len(content):
            break
    theirs = np.asarray(Image.open(file))
    for name, size, output in (("this program", len(content), ours), ("JPEG", file.tell(), theirs)):
        print(f"  {name:14}{size:7} bytes, {8 * size / ours[..., 0].size:.3f} bits per pixel, {psnr([picture], [output]):.2f} dB")
    top, left, side = 30, 100, 240
    crops = [output[top : top + side, left : left + side] for output in (picture, ours, theirs)]
    Image.fromarray(np.hstack(crops)).quantize(256).save(SCRIPT.parent / "outputs" / "blocks.png", optimize=True)


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
    for part in nc.PARTS:
        nc.rehearse(part)
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    for name, table in list(globals().items()):
        if name.startswith("table_") and word in name:
            print(f"\n{name[6:]}: {table.__doc__.splitlines()[0]}", flush=True)
            table()
