"""How good the pictures are and how small the file, over seeds, sizes and kinds of picture.

    python tests/quality.py        all tables: some 15 minutes on 2 cores
    python tests/quality.py WORD   only those with WORD in their name: patterns, small, short,
                                   photographs, digits, descent, choices, file, rate

`rate` takes half of the time and draws outputs/rate_distortion.png.
"""

import io
import sys
import time
import zlib

import numpy as np
import pictures
from PIL import Image
from pictures import nc, patterns, psnr, targets

nc.say = lambda line: None  # no log


def table_patterns():
    """The three patterns, over seeds, latent_dim and sizes."""
    row("256 x 256, latent_dim 16", patterns(), 16, 20)
    for latent_dim in (3, 4, 8, 32, 64):
        row(f"256 x 256, latent_dim {latent_dim}", patterns(), latent_dim, 5)
    row("256 x 256, latent_dim 327", patterns(), 327, 2)
    for width, height in ((64, 64), (96, 40), (512, 512)):
        row(f"{width} x {height}, latent_dim 16", patterns(width, height), 16, 5)


def table_small():
    """The three patterns with two numbers per code, and with one."""
    row("256 x 256, latent_dim 2", patterns(), 2, 20)
    decibels = row("256 x 256, latent_dim 1", patterns(), 1, 20)
    best = sum(value > max(decibels) - 0.2 for value in decibels)
    print(f"  within 0.2 dB of the best: {best} of 20")


def table_short():
    """The three patterns with fewer epochs."""
    row("latent_dim 16, 300 epochs", patterns(), 16, 20, epochs=300)
    row("latent_dim 16, 100 epochs", patterns(), 16, 20, epochs=100)


def table_photographs():
    """24 photographs, next to as many principal components."""
    for latent_dim in (4, 8, 16):
        against_pca("24 photographs", pictures.photographs(), latent_dim)
    row("24 photographs, latent_dim 24", pictures.photographs(), 24, 5)


def table_digits():
    """1797 digits, next to as many principal components."""
    for latent_dim in (4, 8, 16):
        against_pca("1797 digits", pictures.digits(), latent_dim)


def table_descent():
    """The same decoder by plain gradient descent: what the optimiser is worth."""
    wanted = targets(patterns())
    for rate in (0.01, 0.03, 0.1, 0.3, 1.0):  # of decoder and codes alike
        codes = nc.start_codes(3, 16, seed=0)
        weights, bias = np.zeros((16, wanted.shape[1]), np.float32), np.float32(0)
        for _ in range(1000):
            output = 1 / (1 + np.exp(-(codes @ weights + bias)))
            delta = (output - wanted) * output * (1 - output)
            code_gradient = delta @ weights.T / wanted.shape[1]
            weights -= rate * codes.T @ delta
            bias = bias - rate * delta.sum(axis=0)
            codes -= rate * code_gradient
        each = -10 * np.log10(np.mean((output - wanted) ** 2, axis=1))
        print(f"  rate {rate:<5} PSNR {', '.join(f'{value:.1f}' for value in each)} dB", flush=True)


def table_choices():
    """Each choice of the optimiser next to its neighbours."""
    cases = [
        ("1000 epochs", patterns(), 16, 1000),
        ("300 epochs", patterns(), 16, 300),
        ("100 epochs", patterns(), 16, 100),
        ("latent_dim 1", patterns(), 1, 1000),
        ("digits, 16", pictures.digits(), 16, 1000),
    ]
    choices = [
        ("as it is", {}),
        ("rate 0.5", {"rate": 0.5}),
        ("rate 2", {"rate": 2.0}),
        ("betas 0.8, 0.8", {"betas": (0.8, 0.8)}),
        ("betas 0.9, 0.9", {"betas": (0.9, 0.9)}),
        ("betas 0.95, 0.95", {"betas": (0.95, 0.95)}),
        ("code_rate 0.003", {"code_rate": 0.003}),
        ("code_rate 0.03", {"code_rate": 0.03}),
        ("normal codes", {"start": normal_codes}),
    ]
    for case, samples, latent_dim, epochs in cases:
        for choice, arguments in choices:
            row(f"{case}: {choice}", samples, latent_dim, 3, epochs=epochs, **arguments)


def table_file():
    """Bytes of the whole compressed file, and the seconds of the search for its step."""
    sets = [
        ("three patterns", patterns(), (16, 327)),
        ("24 photographs", pictures.photographs(), (4, 8, 16, 24)),
        ("1797 digits", pictures.digits(), (4, 8, 16)),
    ]
    nc.compiled()
    for name, originals, dims in sets:
        print(f"  {name}: {originals.size} bytes raw, {len(zlib.compress(originals, 9))} with zlib,"
              f" {sum(map(png_bytes, originals))} as PNG files")
        names = [f"{index}.pgm" for index in range(len(originals))]
        height, width = originals.shape[1:]
        for latent_dim in dims:
            began = time.perf_counter()
            *trained, _ = nc.train(
                targets(originals), nc.start_codes(len(originals), latent_dim, 0), 1000
            )
            training = time.perf_counter() - began
            components = nc.principal_components(*trained)
            arrays, decoded = nc.compress(components, originals, width, height, 0.05)
            search = time.perf_counter() - began - training
            file = pictures.whole_file(arrays, names, originals, width, height)
            ratio, decibels = len(file) / originals.size, psnr(originals, decoded)
            print(
                f"    latent_dim {latent_dim:3}: {len(file):8} bytes, {ratio:.3f} of raw,"
                f" PSNR {decibels:6.2f} dB; training {training:6.2f} s,"
                f" search {search:5.2f} s, share {search / training:.2f}",
                flush=True,
            )


def table_rate():
    """PSNR at equal bytes, next to Pillow's codecs and to PCA with the same rounding and coding.

    PCA has the number of components that suits it best at these bytes. The codecs work hard:
    JPEG optimised and progressive, WebP with method 6, AVIF with speed 4.
    """
    losses = {8: (0.5, 2), 12: (0.5, 2), 16: (0.5, 2), 20: (1, 3), 24: (1, 3), 32: (2, 4, 6.8)}
    panels = {
        "1797 digits of 8 x 8": curves("digits", pictures.digits_sheet(), 8, losses),
        "1040 letters of 16 x 16": curves("letters", pictures.letters_sheet(), 16, losses),
    }
    for name, picture in pictures.large_photographs().items():
        if name == "chelsea":
            losses = {8: (1, 3), 16: (1, 3, 5), 24: (3, 6), 32: (1, 3, 6), 48: (4, 8)}
            panels["a photograph in 8 x 8"] = curves(name, picture, 8, losses)
        else:
            curves(name, picture, 8, {32: (6,)})
    draw_rates(panels)


# --------------------------------------------------------------------- training over seeds


def normal_codes(patches, latent_dim, seed):
    """Codes from a standard normal, in place of `start_codes`."""
    random = np.random.default_rng(seed)
    return np.float32(random.standard_normal((patches, latent_dim)))


def trained(samples, latent_dim, seed, epochs=1000, rate=1.0, start=nc.start_codes, **choices):
    """PSNR before rounding in dB, largest error in grey levels, pixels off, pictures exact."""
    codes = start(len(samples), latent_dim, seed)
    codes, weights, bias, _ = nc.train(targets(samples), codes, epochs, rate, **choices)
    square, largest, off, exact = 0.0, 0, 0, 0
    for code, sample in zip(codes, samples.reshape(len(samples), -1)):
        output = (1 + np.tanh((code @ weights + bias) / 2)) / 2  # the sigmoid
        error = np.abs(nc.to_grey(output).astype(int) - sample)
        square += np.sum((output - sample / 255) ** 2)
        largest, off = max(largest, error.max()), off + np.count_nonzero(error)
        exact += not error.any()
    return -10 * np.log10(square / samples.size), largest, off, exact


def row(name, samples, latent_dim, seeds, **choices):
    """Print a line: how many seeds are exact, their PSNR, the worst pixels. Returns the PSNRs."""
    results = [trained(samples, latent_dim, seed, **choices) for seed in range(seeds)]
    decibels, largest, off, exact = zip(*results)
    print(
        f"  {name:32}{sum(count == len(samples) for count in exact):3} of {seeds:2} exact"
        f"   PSNR {min(decibels):6.2f} to {max(decibels):6.2f} dB   largest error {max(largest):3}"
        f"   pixels off {max(off) / samples.size:9.4%}",
        flush=True,
    )
    return decibels


def against_pca(name, samples, latent_dim):
    """Print a line over 5 seeds, and one about PCA."""
    reference = pictures.pca_psnr(samples, latent_dim)
    decibels = row(f"{name}, latent_dim {latent_dim}", samples, latent_dim, 5)
    ahead = f"{min(decibels) - reference:.2f} to {max(decibels) - reference:.2f} dB"
    print(f"  {'':32}PCA {reference:.2f} dB; ahead by {ahead}")


# --------------------------------------------------------------------- rate and distortion
#
# A curve is a list of points (bytes of the whole file, PSNR in dB).


def curves(name, picture, side, losses):
    """Print a table of one picture; returns the curves: a dict of name and points.

    losses  for each latent_dim the values of ROUNDING_LOSS
    """
    lossless = io.BytesIO()
    print(f"  {name}, {picture.shape[1]} x {picture.shape[0]} in patches of {side} x {side}")
    print(f"    {picture.size} bytes raw, PNG {png_bytes(picture)}", end="")
    others = {"PCA": pca_points(picture, side)}
    for codec in CODECS:
        try:
            others[codec] = codec_points(picture, codec)
        except (KeyError, OSError):
            print(f"; Pillow has no {codec} here", end="")
    with_webp = "WebP" in others
    if with_webp:
        Image.fromarray(picture).save(lossless, "WebP", lossless=True, quality=100, method=6)
    print(f", lossless WebP {lossless.tell()}" if with_webp else "")
    print("    latent_dim  loss    bytes  of raw   here dB", end="")
    print("".join(f"{other:>14}" for other in others), flush=True)
    points = []
    for latent_dim, allowed in losses.items():
        for loss, (size, decibels) in zip(allowed, our_points(picture, side, latent_dim, allowed)):
            points.append((size, decibels))
            line = f"{latent_dim:14}{loss:6}{size:9}{size / picture.size:8.3f}{decibels:10.2f}"
            for other in others.values():
                theirs = at_bytes(other, size)
                small = np.isnan(theirs)  # no file of the other is that small
                line += f"{'-':>14}" if small else f"{theirs:7.2f} {decibels - theirs:+6.2f}"
            print(line, flush=True)
    return {"this program": points, **others}


def png_bytes(picture):
    """Bytes of a picture as a PNG file, by Pillow."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", optimize=True)
    return file.tell()


def our_points(picture, side, latent_dim, losses):
    """Points of this program, one for each rounding loss."""
    patches = nc.cut(picture, side, side)
    codes = nc.start_codes(len(patches), latent_dim, 0)
    *decoder, _ = nc.train(targets(patches), codes, 1000)
    components = nc.principal_components(*decoder)
    for loss in losses:
        arrays, decoded = nc.compress(components, [picture], side, side, loss)
        file = pictures.whole_file(arrays, ["sheet.pgm"], [picture], side, side)
        yield len(file), psnr([picture], decoded)


def pca_points(picture, side):
    """Points of principal components of the patches, with the program's rounding and file.

    The numbers of components and the steps are tried in all combinations.
    """
    values = nc.cut(picture, side, side) / 255
    mean = values.mean(axis=0)
    left, sizes, right = np.linalg.svd(values - mean, full_matrices=False)
    points = []
    for count in (4, 8, 12, 16, 20, 24, 32, 48, 64):
        kept = left[:, :count] * sizes[:count], sizes[:count], sizes[:count, None] * right[:count]
        size, exponent = 0, 4
        while size < 0.6 * picture.size and exponent > -16:  # steps from 4 down, by sqrt(2)
            arrays = nc.quantise(*kept, mean, 2 ** (exponent / 2))
            codes, weights, bias = (whole(arrays[name]) for name in ("codes", "weights", "bias"))
            scales = arrays["scales"]
            linear = (codes.T * scales[:-1]) @ weights + bias * scales[-1]
            output = nc.join(nc.to_grey(np.clip(linear, 0, 1)), [picture.shape], side, side)
            size = len(pictures.whole_file(arrays, ["sheet.pgm"], [picture], side, side))
            points.append((size, psnr([picture], output)))
            exponent -= 1
    return points


def whole(digits):
    """Whole numbers from their digits, as `quantise` splits them."""
    return sum(digit * 256.0**place for place, digit in enumerate(digits))


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
        size = file.tell()
        points.append((size, psnr([picture], [np.asarray(Image.open(file).convert("L"))])))
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
    figure.savefig(pictures.SCRIPT.parent / "outputs" / "rate_distortion.png", dpi=100)


if __name__ == "__main__":
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    for name, table in list(globals().items()):
        if name.startswith("table_") and word in name:
            print(f"\n{name[6:]}: {table.__doc__.splitlines()[0]}", flush=True)
            table()
