"""How good the pictures are and how small the file, over seeds, sizes and kinds of picture.

    python tests/quality.py                         all tables
    python tests/quality.py WORD                    only those with WORD in their name: patterns, start, choices, rounding,
                                                    parts, lapping, smoothing, seconds, file, target, rate, colour, bd, sides, blocks
    python tests/quality.py parts --against OLD.py  next to an older version of the script
    python tests/quality.py bd FOLDER               with the PNG files of a folder

`rate` draws outputs/rate_distortion.png, and `blocks` outputs/blocks.png. Runs on 2 cores take some minutes per table.
"""

import io
import sys
import time
import zlib
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import numpy as np
import pictures
from PIL import Image
from pictures import SCRIPT, learn, nc, patterns, psnr, targets

ARGUMENTS = sys.argv[1:]
AGAINST = ARGUMENTS.pop(ARGUMENTS.index("--against") + 1) if "--against" in ARGUMENTS else None
WORD, FOLDER = [*[word for word in ARGUMENTS if word != "--against"], "", ""][:2]
nc.say = lambda line: None  # no log


def with_settings(settings):
    """A block in which names of the program have other values: a dict."""
    stack = ExitStack()
    for name, value in settings.items():
        stack.enter_context(mock.patch.object(nc, name, value))
    return stack


PLAIN = {"few_levels": lambda pictures: True}
LAPPED = {"few_levels": lambda pictures: False}
NOT_SPARSE = {"sparse": lambda codes, decoder, step: (codes, decoder)}
NOT_SMOOTHED = {"SMOOTHINGS": 1}


# ------------------------------------------------------------------------------- training


def row(name, samples, latent_dim, seeds, epochs=1000):
    """Print a line over seeds: exact ones, and PSNR before rounding."""
    wanted, exact, decibels = targets(samples), 0, []
    for seed in range(seeds):
        codes, decoder, _ = nc.train(wanted, *nc.start(wanted, latent_dim, seed), epochs)
        output = (1 + np.tanh(codes @ decoder.astype(float) / 2)) / 2
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
    cases += [("digits", (targets(pictures.digits()), 1.0), latent_dim) for latent_dim in (20, 8)]
    cases += [("letters", nc.cut([pictures.letters_sheet()], 16, 16), 32)]
    cases += [("24 photographs", (targets(pictures.photographs()), 1.0), latent_dim) for latent_dim in (4, 8, 16)]
    for name, (wanted, gain), latent_dim in cases:
        codes, decoder = nc.start(wanted, latent_dim, 0)
        random = np.random.default_rng(0).standard_normal(codes.shape)
        random[:, -1] = 1
        for start, first in (("components", codes), ("random", random)):
            results = []
            for epochs in (100, 300, 1000):
                loss = nc.train(wanted, first, decoder, epochs, gain=gain)[2][-1]
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


def sizes_at(picture, side, latent_dim, goals, program=nc):
    """Bytes of the files at some targets, after 100 epochs, as if these were reached exactly: 1 dB is taken for 17 % of them."""
    model, sizes = learn([picture], side, side, latent_dim, 100, program)[:2], []
    for target in goals:
        content = program.compress([picture], *model, side, side, target)
        sizes.append(len(content) * 0.83 ** (psnr([picture], program.decompress(content)) - target))
    return sizes


def compare(choices, cases):
    """Print a line per choice, {name: settings}: bytes at the same PSNR, next to the first choice.

    cases  by name: a picture, the side of its patches, latent_dim, and targets in dB
    """
    print(f"  {'':26}" + "".join(f"{name.replace(' in colour', ', rgb'):>15}" for name in cases))
    first = None
    for choice, settings in choices.items():
        with with_settings(settings):
            sizes = [sum(sizes_at(*case)) for case in cases.values()]
        first = first or sizes
        print(f"  {choice:26}" + "".join(f"{size:9.0f} {size / one:.3f}" for size, one in zip(sizes, first)), flush=True)


def table_rounding():
    """The price of a bit, the passes of choosing, what becomes 0, and `sparse`: bytes at the same PSNR, after 100 epochs."""
    photograph = pictures.photograph
    cases = {
        "china": (photograph("china.jpg"), 8, 48, [25]), "coffee": (photograph("coffee.png"), 8, 48, [29]),
        "astronaut": (photograph("astronaut.png"), 8, 48, [32]), "flower": (photograph("flower.jpg"), 8, 48, [35]),
        "chelsea": (photograph("chelsea.png"), 8, 48, [31]), "digits": (pictures.digits_sheet(), 8, 20, [24.5]),
        "letters": (pictures.letters_sheet(), 16, 32, [30]), "coffee in colour": (photograph("coffee.png", "RGB"), 8, 64, [32]),
        "chelsea in colour": (photograph("chelsea.png", "RGB"), 8, 64, [31]),
    }  # fmt: skip
    choices = {"as it is": {}, "nearest numbers": {"PASSES": (0, 0)}}
    choices |= {f"price {price}": {"PRICE": price} for price in (0.1, 0.125, 0.18, 0.22)}
    choices |= {f"{passes} passes": {"PASSES": (passes, passes)} for passes in (2, 4, 7, 14, 28)}
    choices |= {f"0 below {zone}": {"ZERO_BELOW": zone} for zone in (0.5, 0.65, 1)}
    choices |= {"not sparse": NOT_SPARSE}
    compare(choices, cases)


def table_parts():
    """What lapping, cosines, `sparse` and smoothing are worth: bytes at the same PSNR, after 100 epochs; also of an older version."""
    goals = {
        ("china.jpg", "L"): (23, 25, 28), ("coffee.png", "L"): (28, 31, 34), ("astronaut.png", "L"): (29, 32, 36),
        ("flower.jpg", "L"): (32, 35, 39), ("chelsea.png", "L"): (30, 33, 37), ("coffee.png", "RGB"): (29, 32, 35),
        ("astronaut.png", "RGB"): (29, 32, 35), ("flower.jpg", "RGB"): (31, 34, 37), ("chelsea.png", "RGB"): (30, 33, 36),
    }  # fmt: skip
    cases = {f"{name}, {mode}": (pictures.photograph(name, mode), 8, 64 if mode == "L" else 96, aims)
             for (name, mode), aims in goals.items()}
    cases["digits"] = pictures.digits_sheet(), 8, 32, (22, 26, 30)
    cases["letters"] = pictures.letters_sheet(), 16, 32, (25, 28, 31)
    choices = {"as it is": {}, "not lapped": PLAIN, "no cosines": {"LARGEST_BASIS": 0}, "not sparse": NOT_SPARSE,
               "not smoothed": NOT_SMOOTHED}  # fmt: skip
    older = pictures.older_version(AGAINST) if AGAINST else None
    names = [*choices, *(["older version"] if older else [])]
    print(f"  {'':26}" + "".join(f"{name:>16}" for name in names))
    ratios = []
    for name, case in cases.items():
        columns = []
        for settings in choices.values():
            with with_settings(settings):
                columns.append(sizes_at(*case))
        if older:
            columns.append(sizes_at(*case, older))
        for target, *sizes in zip(case[-1], *columns):
            ratios.append([size / sizes[0] for size in sizes])
            print(f"  {f'{name}, {target} dB':26}" + "".join(f"{size:10.0f} {size / sizes[0]:.3f}" for size in sizes), flush=True)
    print(f"  {'geometric mean':26}" + "".join(f"{ratio:16.3f}" for ratio in np.exp(np.mean(np.log(ratios), axis=0))))


def table_lapping():
    """The factor in LAPPING and STRETCH next to their neighbours; where it pays to lap, and what the rule says; how much blocks show."""
    photograph = pictures.photograph
    cases = {
        "china": (photograph("china.jpg"), 8, 64, (24, 28)), "flower": (photograph("flower.jpg"), 8, 64, (33, 37)),
        "coffee": (photograph("coffee.png"), 8, 64, (29, 33)), "chelsea": (photograph("chelsea.png"), 8, 64, (31, 35)),
        "chelsea in colour": (photograph("chelsea.png", "RGB"), 8, 96, (31, 35)),
    }  # fmt: skip
    choices = {"as it is": {}}
    choices |= {f"times {factor}": {"LAPPING": factor / 1.2 * nc.LAPPING} for factor in (1, 1.1, 1.15, 1.3)}
    choices |= {f"STRETCH {stretch}": {"STRETCH": stretch} for stretch in (1.5, 2)}
    compare(choices, cases)

    drawn = {
        "page.png, scanned": (photograph("page.png"), 30), "text in two levels": (pictures.text(), 30),
        "text in greys": (pictures.text("L"), 30), "sprites": (pictures.sprites(), 32), "diagram": (pictures.diagram(), 32),
        "sheet of digits": (pictures.digits_sheet(), 26), "sheet of letters": (pictures.letters_sheet(), 28),
    }  # fmt: skip
    names = {"china.jpg": 25, "flower.jpg": 35, "chelsea.png": 33, "coffee.png": 30, "astronaut.png": 32, "camera.png": 32,
             "coins.png": 32, "moon.png": 36, "brick.png": 28, "rocket.jpg": 34, "hubble_deep_field.jpg": 30, "cell.png": 38}
    for name, (picture, target) in (drawn | {name: (photograph(name), target) for name, target in names.items()}).items():
        sizes = []
        for settings in (PLAIN, LAPPED):
            with with_settings(settings):
                sizes += sizes_at(picture, 8, 64, [target])
        levels = np.sort(np.bincount(picture.ravel(), minlength=256))
        rule = "lap" if nc.cut([picture], 8, 8)[1] > 1 else "don't"
        print(f"  {name + f', {target} dB':30} lapped takes {sizes[1] / sizes[0]:.3f} of the bytes; the eight most frequent"
              f" levels are {levels[-8:].sum() / levels.sum():.2f}; the rule says: {rule}", flush=True)

    for name, target in (("flower.jpg", 33.7), ("chelsea.png", 29.5)):
        picture = photograph(name)
        words = [f"the original {blocks(picture):.3f}"]
        for word, settings in (("as it is", {}), ("not lapped", PLAIN)):
            with with_settings(settings):
                content = nc.compress([picture], *learn([picture], 8, 8, 64, 100)[:2], 8, 8, target)
                rate = 8 * len(content) / picture.size
                words.append(f"{word} {blocks(nc.decompress(content)[0]):.3f} ({rate:.3f} bits per pixel)")
        print(f"  steps at borders, as a multiple of those inside: {name}, {target} dB: {', '.join(words)}", flush=True)


def table_smoothing():
    """What each strength of smoothing adds to the PSNR, at several rounding steps: the best is nearly the same number at all."""
    for name, mode in (("china.jpg", "L"), ("flower.jpg", "L"), ("chelsea.png", "L"), ("coffee.png", "RGB")):
        picture = pictures.photograph(name, mode)
        *model, loss = learn([picture], 8, 8, 64, 100)
        learned = -10 * np.log10(loss)
        for lost in (2, 4, 7, 11):
            record = nc.unpack(nc.compress([picture], *model, 8, 8, min(learned, 44) - lost))
            rough = nc.decode_roughly(record)
            outputs = [nc.finish(rough, record._replace(smoothing=strength)) for strength in range(nc.SMOOTHINGS + 2)]
            none, *others = [psnr([picture], output) for output in outputs]
            gains = "".join(f"{other - none:+7.2f}" for other in others)
            print(f"  {name}, {mode:3}  step {nc.step_of(record.exponent):5.2f}  {none:.2f} dB  {gains}  taken: {record.smoothing}", flush=True)


def blocks(picture):
    """How much borders between patches of 8 x 8 show: the mean absolute step across them over that inside; the larger of both axes."""
    ratios = []
    for axis in (0, 1):
        lines = abs(np.diff(picture.astype(float), axis=axis)).swapaxes(0, axis)
        steps = [lines[phase::8].mean() for phase in range(8)]
        ratios.append(steps[7] / np.mean(steps[:7]))
    return max(ratios)


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
        wanted, gain = nc.cut(originals, side, side)
        first = nc.start(wanted, latent_dim, 0)
        times.append(time.perf_counter())
        codes, decoder, _ = nc.train(wanted, *first, epochs, gain=gain)
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


def without_sigmoid(logits, shapes, width, height, lapped):
    """In the place of `assemble`, for PCA: the logits are the samples."""
    outputs = np.clip(logits, 0, 1)
    outputs = nc.join(0.5 + nc.STRETCH * (outputs - 0.5) if lapped else outputs, shapes, width, height)
    for output in outputs if lapped else ():
        nc.lap(output, width, height, np.linalg.inv(nc.LAPPING))
    return outputs


def pca_points(picture, side):
    """Points of principal components, coded by the program: the same lapping, choice by cost, cosines and coder.

    There is no sigmoid, so the choice and the fit have closed forms: a code is drawn nearer to 0 by its cost, and the
    decoder is fitted by least squares.
    """
    values, gain = nc.cut([picture], side, side)
    values = np.float64(values)
    left, lengths, right = np.linalg.svd(values, full_matrices=False)
    bases = nc.patch_bases(side, side, picture.ndim == 3)
    points = []
    for count in (4, 8, 12, 16, 24, 32, 48, 64):
        for exponent in range(128, -416, -32):
            step = nc.step_of(exponent)
            codes = (left[:, :count] * lengths[:count]).T / step
            numbers = np.rint(codes)
            for _ in range(4):
                used = numbers.any(axis=1)
                codes, numbers = codes[used], numbers[used]
                pull = nc.bit_costs(numbers, nc.PRICE)[:, None] / 2
                numbers = np.rint(np.sign(codes) * np.maximum(abs(codes) - pull, 0))
            rows = np.linalg.lstsq(numbers.T, values, rcond=None)[0]
            whole = nc.round_decoder(rows * nc.row_lengths(numbers) / step, bases)
            numbers, whole = map(np.int64, nc.without_zeros(numbers, whole))
            shapes = np.array([picture.shape[:2]])
            record = nc.Record(int(picture.ndim == 3), side, side, int(gain > 1), 1, 0, exponent, shapes, numbers, whole)
            with with_settings({"assemble": without_sigmoid}):
                record, _, loss = nc.best_smoothing(record, [picture], range(nc.SMOOTHINGS))
            points.append((len(nc.pack(record)), -10 * np.log10(loss)))
            if points[-1][0] > 0.3 * picture.size:
                break
    return points


CODECS = {  # options of Pillow, subsampling of colour, and the qualities to try
    "JPEG": ({"optimize": True, "progressive": True}, ("4:2:0", "4:4:4"), range(1, 101)),
    "WebP": ({"method": 6}, (None,), (0, 1, 2, 3, *range(4, 101, 4))),
    "AVIF": ({"speed": 4}, ("4:2:0", "4:4:4"), range(4, 100, 6)),
}


def codec_outputs(picture, codec, enough=np.inf):
    """(bytes, PSNR, picture) of one of Pillow's codecs over its qualities, until PSNR is enough; in colour with and without
    subsampling, if it has both."""
    options, subsamplings, qualities = CODECS[codec]
    mode = "RGB" if picture.ndim == 3 else "L"
    if mode == "L":
        subsamplings = ("4:0:0" if codec == "AVIF" else None,)
    for subsampling in subsamplings:
        extra = {"subsampling": subsampling} if subsampling else {}
        for quality in qualities:
            file = io.BytesIO()
            Image.fromarray(picture).save(file, codec, quality=quality, **options, **extra)
            output = np.asarray(Image.open(file).convert(mode))
            decibels = psnr([picture], [output])
            yield file.tell(), decibels, output
            if decibels > enough:
                break


def codec_points(picture, codec, enough=np.inf):
    """Points of one of Pillow's codecs."""
    return [(size, decibels) for size, decibels, _ in codec_outputs(picture, codec, enough)]


def table_bd():
    """Bytes next to Pillow's codecs, over all qualities from 27 to 39 dB (BD-rate); 100 epochs, patches of 8 x 8.

    The photographs of scikit-image and scikit-learn, but for those by microscopes and telescopes, of eyes, the second of a pair,
    and a blurred one that codecs can't make as bad as 36 dB; or those of a folder. -10 % says that this program takes 0.9 of the
    codec's bytes, in the mean over PSNR.
    """
    names = (
        "china.jpg flower.jpg astronaut.png chelsea.png coffee.png rocket.jpg motorcycle_left.png "
        "camera.png coins.png brick.png grass.png gravel.png"
    ).split()
    files = {path.name: path for path in sorted(Path(FOLDER).glob("*.png"))} if FOLDER else dict.fromkeys(names)
    for mode, latent_dim in (("L", 64), ("RGB", 96)):
        differences = []
        print(f"  {'grey' if mode == 'L' else 'colour':22}{'targets in dB':22}" + "".join(f"{codec:>9}" for codec in CODECS))
        for name, path in files.items():
            image = Image.open(path or pictures.path_of(name))
            if mode == "RGB" and image.mode not in ("RGB", "RGBA", "P"):
                continue
            picture = np.asarray(image.convert(mode))
            model, points, reached = learn([picture], 8, 8, latent_dim, 100)[:2], [], []
            for target in (27, 30, 33, 36, 39):
                content = nc.compress([picture], *model, 8, 8, target)
                decibels = psnr([picture], nc.decompress(content))
                if target <= decibels < target + 1:  # otherwise it is out of reach, or nearly no file reaches more
                    points.append((len(content), decibels))
                    reached.append(str(target))
            row = [bd_rate(points, codec_points(picture, codec, 41)) for codec in CODECS]
            differences.append(row)
            print(f"  {name:22}{', '.join(reached):22}" + "".join(map(percent, row)), flush=True)
        if differences:
            for word, numbers in (("mean", np.nanmean(differences, axis=0)), ("worst", np.nanmax(differences, axis=0))):
                print(f"  {word:44}" + "".join(map(percent, numbers)), flush=True)


def percent(share):
    """A share in nine letters; a dash for nan."""
    return f"{'-':>9}" if np.isnan(share) else f"{100 * share:+8.1f}%"


def bd_rate(points, others):
    """How many more bytes points take than others at equal PSNR, as a share, in the mean over PSNR (Bjontegaard 2001).

    The logarithms of bytes are interpolated by piecewise cubics, where both have points, from 27 to 39 dB; nan if that is less
    than 3 dB.
    """
    from scipy.interpolate import PchipInterpolator

    curves = [outline(each) for each in (points, others) if len(each) > 1]
    least, most = max(27, *(decibels[0] for _, decibels in curves)), min(39, *(decibels[-1] for _, decibels in curves))
    if len(curves) < 2 or most - least < 3:
        return np.nan
    ours, theirs = (PchipInterpolator(decibels, np.log(sizes)).integrate(least, most) for sizes, decibels in curves)
    return np.expm1((ours - theirs) / (most - least))


def table_sides():
    """Bytes at the same PSNR for larger patches with more numbers per code, after 100 epochs."""
    cases = [("retina.jpg", 38), ("hubble_deep_field.jpg", 30), ("coffee.png", 32)]
    for name, target in cases:
        for mode in ("L", "RGB"):
            picture, sizes = pictures.photograph(name, mode), []
            for side, latent_dim in ((8, 64), (12, 96), (16, 96)):
                sizes += sizes_at(picture, side, latent_dim, [target])
            ratios = ", ".join(f"{size / sizes[0]:.3f}" for size in sizes)
            print(f"  {name} {picture.shape}, {target} dB: {sizes[0]:.0f} bytes; 8 x 8 with 64, 12 x 12 and 16 x 16 with 96: {ratios}", flush=True)


def table_blocks():
    """A photograph at some 0.2 bits per pixel next to JPEG and WebP at as many bytes: outputs/blocks.png."""
    picture = pictures.photograph("chelsea.png", "RGB")
    codes, decoder, _ = learn([picture], 8, 8, 96, 100)
    content = nc.compress([picture], codes, decoder, 8, 8, 31.13)
    (ours,) = nc.decompress(content)
    cells = {"this program": (len(content), psnr([picture], [ours]), ours)}
    for codec in ("JPEG", "WebP"):
        small = [each for each in codec_outputs(picture, codec) if each[0] <= len(content)]
        cells[codec] = max(small, key=lambda each: each[1])
    for name, (size, decibels, output) in cells.items():
        print(f"  {name:14}{size:7} bytes, {8 * size / output[..., 0].size:.3f} bits per pixel, {decibels:.2f} dB,"
              f" steps at borders {blocks(output):.3f}")
    # Original and this program, below them JPEG and WebP.
    crops = [output[40:216, 102:340] for output in (picture, *(output for _, _, output in cells.values()))]
    (one, two, three, four) = [np.pad(crop, ((1, 1), (1, 1), (0, 0)), constant_values=255) for crop in crops]
    drawing = Image.fromarray(np.vstack([np.hstack([one, two]), np.hstack([three, four])])).quantize(256)
    drawing = drawing.resize((2 * drawing.width, 2 * drawing.height), Image.Resampling.NEAREST)
    drawing.save(SCRIPT.parent / "outputs" / "blocks.png", optimize=True)


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
    nc.load_kernels()
    for name, table in list(globals().items()):
        if name.startswith("table_") and WORD in name:
            print(f"\n{name[6:]}: {table.__doc__.splitlines()[0]}", flush=True)
            table()
