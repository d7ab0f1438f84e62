"""Pictures that the tests, quality.py and benchmark.py share, and how they are measured.

Pictures are uint8 (height, width), or (height, width, 3) in colour; sets of them are lists. All of them
come with scikit-learn and scikit-image, or are drawn here.
"""

import sys
from pathlib import Path
from unittest import mock

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SCRIPT = Path(__file__).resolve().parent.parent / "neural_compression.py"
sys.path.insert(0, str(SCRIPT.parent))
import neural_compression as nc  # noqa: E402

TYPEFACES = (
    "DejaVuSans DejaVuSans-Bold DejaVuSans-Oblique DejaVuSans-BoldOblique DejaVuSansMono "
    "DejaVuSansMono-Bold DejaVuSansMono-Oblique DejaVuSerif DejaVuSerif-Bold DejaVuSerif-Italic "
    "DejaVuSerif-BoldItalic STIXGeneral STIXGeneralBol STIXGeneralItalic STIXGeneralBolIta "
    "cmr10 cmb10 cmss10 cmtt10 cmti10"
).split()
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def patterns(width=256, height=256):
    """The three patterns of the default run, whatever the constants are at the moment."""
    with mock.patch.multiple(nc, SINE_FREQUENCY=min(40, width // 3, height // 3), CHECKER_SQUARES=16):
        drawn = [nc.draw(name, width, height) for name in ("radial", "sine", "checkerboard")]
    return drawn


def photograph(name, mode="L"):
    """One of the photographs of scikit-image or scikit-learn, like "chelsea.png": grey, or in colour with mode "RGB"."""
    import skimage
    import sklearn

    packages = Path(skimage.__file__).parent, Path(sklearn.__file__).parent
    paths = packages[0] / "data" / name, packages[1] / "datasets" / "images" / name
    path = next(path for path in paths if path.exists())
    return np.asarray(Image.open(path).convert(mode))


def photographs():
    """24 crops of 256 x 256: the middle of 18 photographs, and the top left of the 6 largest."""
    names = (
        "astronaut.png brick.png camera.png cell.png chelsea.png clock_motion.png coffee.png "
        "coins.png grass.png gravel.png hubble_deep_field.jpg ihc.png moon.png motorcycle_left.png "
        "retina.jpg rocket.jpg china.jpg flower.jpg"
    ).split()
    largest = "astronaut.png camera.png hubble_deep_field.jpg retina.jpg china.jpg flower.jpg"
    crops = []
    for name in names:
        picture = photograph(name)
        top, left = (picture.shape[0] - 256) // 2, (picture.shape[1] - 256) // 2
        crops.append(picture[top:top + 256, left:left + 256])
        if name in largest.split():
            crops.append(picture[:256, :256])
    return crops


def large_photographs():
    """Photographs at their full size, from 451 x 300 to 640 x 427: a dict of name and picture."""
    names = "china.jpg", "flower.jpg", "astronaut.png", "coffee.png", "chelsea.png"
    return {name.split(".")[0]: photograph(name) for name in names}


def digits():
    """1797 handwritten digits of 8 x 8."""
    from sklearn.datasets import load_digits

    return list(np.rint(load_digits().images * 255 / 16).astype(np.uint8))


def sheet(cells, columns):
    """One picture with these cells side by side, row by row; the last row filled up with black."""
    height, width = cells[0].shape
    count = len(cells)
    rows = -(-count // columns)
    grid = np.zeros((rows * columns, height, width), np.uint8)
    grid[:count] = cells
    return grid.reshape(rows, columns, height, width).swapaxes(1, 2).reshape(rows * height, -1)


def digits_sheet():
    """All digits as one picture of 344 x 336: 43 across and 42 down, 9 cells unused."""
    return sheet(digits(), 43)


def letters_sheet():
    """52 letters across, 20 typefaces down, as one picture of 832 x 320; white on black."""
    import matplotlib

    cells = []
    for name in TYPEFACES:
        path = Path(matplotlib.get_data_path(), "fonts", "ttf", f"{name}.ttf")
        font = ImageFont.truetype(path, 13, layout_engine=ImageFont.Layout.BASIC)
        for letter in LETTERS:
            cell = Image.new("L", (16, 16))
            ImageDraw.Draw(cell).text((8, 12), letter, 255, font, "ms")
            cells.append(np.asarray(cell))
    return sheet(cells, len(LETTERS))


def targets(pictures):
    """What `train` wants for a set of pictures, one patch each: float32 (pictures, pixels)."""
    return np.stack(pictures).reshape(len(pictures), -1) / np.float32(255)


def psnr(originals, outputs):
    """PSNR in dB of pictures all together; infinite if they are the same."""
    pairs = [(np.ravel(a).astype(float), np.ravel(b)) for a, b in zip(originals, outputs)]
    square = sum(np.sum((a - b) ** 2) for a, b in pairs)
    pixels = sum(a.size for a, _ in pairs)
    return 10 * np.log10(255**2 * pixels / square) if square else np.inf


def learn(pictures, width, height, latent_dim, epochs):
    """Codes, decoder and loss after training on the patches of some pictures."""
    patches = nc.cut(pictures, width, height)
    codes, decoder, losses = nc.train(patches, *nc.start(patches, latent_dim, 0), epochs)
    return codes, decoder, losses[-1]


def pca_psnr(pictures, components):
    """PSNR in dB with this many principal components, mean removed, clipped, not rounded."""
    values = np.stack(pictures).reshape(len(pictures), -1) / 255
    mean = values.mean(axis=0)
    left, size, right = np.linalg.svd(values - mean, full_matrices=False)
    back = (left[:, :components] * size[:components]) @ right[:components] + mean
    return -10 * np.log10(np.mean((np.clip(back, 0, 1) - values) ** 2))


def write_pgm(path, picture):
    """Write a picture as a PGM file, by Pillow."""
    Image.fromarray(np.uint8(picture)).save(path, format="PPM")
