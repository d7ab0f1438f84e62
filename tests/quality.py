"""How good the pictures are, over seeds, sizes and kinds of image, and what each choice of the optimiser is worth.

    python tests/quality.py           all tables (some 5 minutes on 2 cores)
    python tests/quality.py WORD      only those with WORD in their name: patterns, small, short, photographs, digits, descent, choices

The photographs are those that scikit-image and scikit-learn ship, the digits those of scikit-learn.
"""

import sys
import warnings
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import neural_compression as nc  # noqa: E402

warnings.simplefilter("ignore")


def patterns(width=256, height=256):
    """The three pictures of the default run, uint8 (3, pixels)."""
    drawn = nc.radial, partial(nc.sine, frequency=40), partial(nc.checkerboard, squares=16)
    return np.stack([nc.draw(pattern, width, height).ravel() for pattern in drawn])


def photographs():
    """24 grey crops of 256 x 256: the middle of 18 photographs, the top left of the 6 largest; uint8 (24, pixels)."""
    import skimage
    import sklearn

    folders = Path(skimage.__file__).parent / "data", Path(sklearn.__file__).parent / "datasets" / "images"
    names = (
        "astronaut.png brick.png camera.png cell.png chelsea.png clock_motion.png coffee.png coins.png grass.png gravel.png "
        "hubble_deep_field.jpg ihc.png moon.png motorcycle_left.png retina.jpg rocket.jpg china.jpg flower.jpg"
    ).split()
    crops = []
    for name in names:
        picture = np.asarray(Image.open(next(folder / name for folder in folders if (folder / name).exists())).convert("L"))
        top, left = (picture.shape[0] - 256) // 2, (picture.shape[1] - 256) // 2
        crops.append(picture[top : top + 256, left : left + 256])
        if name.split(".")[0] in ("astronaut", "camera", "hubble_deep_field", "retina", "china", "flower"):
            crops.append(picture[:256, :256])
    return np.stack(crops).reshape(len(crops), -1)


def digits():
    """1797 digits of 8 x 8, uint8 (1797, 64)."""
    from sklearn.datasets import load_digits

    return np.rint(load_digits().data * 255 / 16).astype(np.uint8)


def pca(samples, components):
    """PSNR of the whole set in dB with as many principal components, mean removed, clipped to [0, 1]."""
    values = samples / 255
    mean = values.mean(0)
    left, size, right = np.linalg.svd(values - mean, full_matrices=False)
    back = np.clip((left[:, :components] * size[:components]) @ right[:components] + mean, 0, 1)
    return -10 * np.log10(np.mean((back - values) ** 2))


def train(samples, latent_dim, seed, epochs=1000, learning_rate=1.0, codes=None, **choices):
    """PSNR before rounding in dB, largest error in grey levels, number of pixels that are off, number of images exact."""
    started, decoder = nc.start(*samples.shape, latent_dim, seed)
    codes = started if codes is None else codes
    for _ in nc.train(samples, [255] * len(samples), codes, decoder, epochs, learning_rate, **choices):
        pass
    rows = nc.join(decoder, samples.shape[1])
    square, largest, off, exact = 0.0, 0, 0, 0
    for code, sample in zip(codes, samples):
        output = 1 / (1 + np.exp(-(code @ rows[:-1] + rows[-1])))
        error = np.abs(nc.to_grey(output).astype(int) - sample)
        square += np.sum((output - sample / 255) ** 2)
        largest, off, exact = max(largest, error.max()), off + np.count_nonzero(error), exact + (not error.any())
    return -10 * np.log10(square / samples.size), largest, off, exact


def row(name, samples, latent_dim, seeds, **choices):
    """Print one line of a table: over the seeds, how often all is exact, the PSNR's range, the worst pixels."""
    results = [train(samples, latent_dim, seed, **choices) for seed in range(seeds)]
    decibels, largest, off, exact = zip(*results)
    all_exact = sum(count == len(samples) for count in exact)
    print(f"{name:34}{all_exact:4} of {seeds:2} exact   PSNR {min(decibels):6.2f} to {max(decibels):6.2f} dB   "
          f"largest error {max(largest):3}   pixels off {max(off) / samples.size:9.4%}", flush=True)  # fmt: skip
    return decibels


def against_pca(name, samples, latent_dim, seeds):
    reference = pca(samples, latent_dim)
    decibels = row(f"{name}, latent_dim {latent_dim}", samples, latent_dim, seeds)
    print(f"{'':34}PCA {reference:.2f} dB; ahead by {min(decibels) - reference:.2f} to {max(decibels) - reference:.2f} dB")


def table_patterns():
    row("256 x 256, latent_dim 16", patterns(), 16, 20)
    for latent_dim in (3, 4, 8, 32, 64):
        row(f"256 x 256, latent_dim {latent_dim}", patterns(), latent_dim, 5)
    row("256 x 256, latent_dim 327", patterns(), 327, 2)
    for width, height in ((64, 64), (96, 40), (512, 512)):
        row(f"{width} x {height}, latent_dim 16", patterns(width, height), 16, 5)


def table_small():
    row("256 x 256, latent_dim 2", patterns(), 2, 20)
    decibels = row("256 x 256, latent_dim 1", patterns(), 1, 20)
    print(f"{'':34}within 0.2 dB of the best: {sum(d > max(decibels) - 0.2 for d in decibels)} of 20")


def table_short():
    row("latent_dim 16, 300 epochs", patterns(), 16, 20, epochs=300)
    row("latent_dim 16, 100 epochs", patterns(), 16, 20, epochs=100)


def table_photographs():
    samples = photographs()
    for latent_dim in (4, 8, 16):
        against_pca("24 photographs", samples, latent_dim, 5)
    row("24 photographs, latent_dim 24", samples, 24, 5)


def table_digits():
    for latent_dim in (4, 8, 16):
        against_pca("1797 digits", digits(), latent_dim, 5)


def table_descent():
    """The same decoder by plain gradient descent, for 1000 epochs, at several rates: what the optimiser is worth."""
    samples = patterns()
    targets = samples / np.float32(255)
    for rate in (0.01, 0.03, 0.1, 0.3, 1.0):  # of decoder and codes, for the sum of squares over a pixel's images
        codes, weights, bias = nc.start(3, targets.shape[1], 16, seed=0)[0], np.zeros((16, 65536), np.float32), np.zeros(65536, np.float32)
        for _ in range(1000):
            output = 1 / (1 + np.exp(-(codes @ weights + bias)))
            delta = (output - targets) * output * (1 - output)
            code_gradient = delta @ weights.T / targets.shape[1]
            weights -= rate * codes.T @ delta
            bias -= rate * delta.sum(0)
            codes -= rate * code_gradient
        each = -10 * np.log10(np.mean((output - targets) ** 2, axis=1))
        print(f"plain gradient descent, rate {rate:<5} PSNR {', '.join(f'{value:.1f}' for value in each)} dB", flush=True)


def table_choices():
    """Each choice of the optimiser against its neighbours, where it matters most."""
    cases = [
        ("1000 epochs", patterns(), 16, 1000), ("300 epochs", patterns(), 16, 300), ("100 epochs", patterns(), 16, 100),
        ("latent_dim 1", patterns(), 1, 1000), ("digits, 16", digits(), 16, 1000),
    ]  # fmt: skip
    choices = [
        ("as it is", {}),
        ("learning_rate 0.5", {"learning_rate": 0.5}),
        ("learning_rate 2", {"learning_rate": 2.0}),
        ("betas 0.8, 0.8", {"betas": (0.8, 0.8)}),
        ("betas 0.9, 0.9", {"betas": (0.9, 0.9)}),
        ("betas 0.95, 0.95", {"betas": (0.95, 0.95)}),
        ("code_rate 0.003", {"code_rate": 0.003}),
        ("code_rate 0.03", {"code_rate": 0.03}),
    ]
    for case, samples, latent_dim, epochs in cases:
        for choice, arguments in choices:
            row(f"{case}: {choice}", samples, latent_dim, 3, epochs=epochs, **arguments)
        for seeds in (3,):  # codes from a standard normal, wherever they are
            results = [
                train(samples, latent_dim, seed, epochs, codes=np.random.default_rng(seed)
                      .standard_normal((len(samples), latent_dim)).astype(np.float32)) for seed in range(seeds)
            ]  # fmt: skip
            print(f"{case + ': normal codes':34}{sum(r[3] == len(samples) for r in results):4} of {seeds:2} exact   PSNR "
                  f"{min(r[0] for r in results):6.2f} to {max(r[0] for r in results):6.2f} dB", flush=True)  # fmt: skip


if __name__ == "__main__":
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    for name, table in list(globals().items()):
        if name.startswith("table_") and word in name:
            print(f"\n{name[6:]}")
            table()
