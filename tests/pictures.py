"""Pictures that the tests, quality.py and benchmark.py share, and how they are measured.

Pictures are uint8 (height, width), or (height, width, 3) in colour; sets of them are lists. All of them
come with scikit-learn and scikit-image, or are drawn here.
"""

import importlib.util
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


def path_of(name):
    """Path of one of the pictures of scikit-image or scikit-learn, like "chelsea.png"."""
    import skimage
    import sklearn

    packages = Path(skimage.__file__).parent, Path(sklearn.__file__).parent
    paths = packages[0] / "data" / name, packages[1] / "datasets" / "images" / name
    return next(path for path in paths if path.exists())


def photograph(name, mode="L"):
    """One of these: grey, or in colour with mode "RGB"."""
    return np.asarray(Image.open(path_of(name)).convert(mode))


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


def typeface(name, size):
    """A font of those that come with matplotlib."""
    import matplotlib

    path = Path(matplotlib.get_data_path(), "fonts", "ttf", f"{name}.ttf")
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


def letters_sheet():
    """52 letters across, 20 typefaces down, as one picture of 832 x 320; white on black."""
    cells = []
    for name in TYPEFACES:
        font = typeface(name, 13)
        for letter in LETTERS:
            cell = Image.new("L", (16, 16))
            ImageDraw.Draw(cell).text((8, 12), letter, 255, font, "ms")
            cells.append(np.asarray(cell))
    return sheet(cells, len(LETTERS))


def text(mode="1"):
    """A page of text, 320 x 320, black on white; in two levels, or with mode "L" with soft edges."""
    words = "the quick brown fox jumps over a lazy dog while seven wizards box five quacking zephyrs near my pond".split()
    random = np.random.default_rng(0)
    page = Image.new(mode, (320, 320), "white")
    for top in range(4, 306, 15):
        ImageDraw.Draw(page).text((4, top), " ".join(random.choice(words, 12)), "black", typeface("DejaVuSerif", 11))
    return np.asarray(page.convert("L"))


def sprites():
    """Pixel art, 368 x 368: 30 small symmetric figures of five greys, enlarged 5 times, over and over."""
    halves = np.random.default_rng(1).integers(0, 5, (30, 8, 4))
    figures = np.concatenate([halves, halves[:, :, ::-1]], axis=2)
    cells = np.pad(np.kron(figures, np.ones((1, 5, 5), int)), ((0, 0), (3, 3), (3, 3)))
    return np.uint8([20, 90, 150, 200, 240])[sheet([cells[7 * n % 30] for n in range(64)], 8)]


def diagram():
    """Boxes with a word in them, and lines, 640 x 480; drawn twice as large, so edges are soft."""
    random = np.random.default_rng(2)
    drawing = Image.new("L", (1280, 960), 255)
    draw = ImageDraw.Draw(drawing)
    for n in range(14):
        left, top = random.integers(40, 1000), random.integers(40, 800)
        draw.rectangle([left, top, left + 200, top + 90], int(random.integers(170, 250)), 0, 4)
        draw.text((left + 16, top + 24), f"Module {n}", 0, typeface("DejaVuSans", 30))
        draw.line([left, top, *random.integers(0, 900, 2)], 0, 4)
    return np.asarray(drawing.resize((640, 480), Image.Resampling.LANCZOS))


def targets(pictures):
    """What `train` wants for a set of pictures, one patch each: float32 (pictures, pixels)."""
    return np.stack(pictures).reshape(len(pictures), -1) / np.float32(255)


def psnr(originals, outputs):
    """PSNR in dB of pictures all together; infinite if they are the same."""
    pairs = [(np.ravel(a).astype(float), np.ravel(b)) for a, b in zip(originals, outputs)]
    square = sum(np.sum((a - b) ** 2) for a, b in pairs)
    pixels = sum(a.size for a, _ in pairs)
    return 10 * np.log10(255**2 * pixels / square) if square else np.inf


def learn(pictures, width, height, latent_dim, epochs, program=nc):
    """Codes, decoder and loss after training on the patches of some pictures; program can be an older version, as a module."""
    patches = program.cut(pictures, width, height)
    gain = {}
    if isinstance(patches, tuple):  # in older versions, patches are all that there is
        patches, gain["gain"] = patches
    codes, decoder, losses = program.train(patches, *program.start(patches, latent_dim, 0), epochs, **gain)
    return codes, decoder, losses[-1]


def older_version(path):
    """Another version of the script as a module, silent, with its machine code loaded."""
    spec = importlib.util.spec_from_file_location("version", path)
    version = importlib.util.module_from_spec(spec)
    sys.modules["version"] = version
    spec.loader.exec_module(version)
    version.say = lambda line: None
    version.load_kernels()
    return version


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
