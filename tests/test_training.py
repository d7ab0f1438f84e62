"""Kernel, training and compressed file against float64 NumPy written another way, and against finite differences."""

import io
import re
import sys
import time
import zipfile

import numba
import numpy as np
import pytest
from conftest import SCRIPT, finish, start


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


# ------------------------------------------------------------------------------ kernel


def problem(patches, pixels, latent_dim, seed=0):
    """Targets, codes, weights and bias: float32 values in float64."""
    random = np.random.default_rng(seed)
    parts = (
        random.integers(0, 256, (patches, pixels)) / 255,
        random.normal(0, 1, (patches, latent_dim)),
        random.normal(0, 0.3, (latent_dim, pixels)),
        random.normal(0, 0.3, pixels),
    )
    return [part.astype(np.float32).astype(np.float64) for part in parts]


def kernel_step(program, targets, codes, weights, bias, tiles, groups, rate, beta, moment):
    """Call the kernel once, with all moments at `moment` before.

    Returns what was added to `steps` (groups, latent_dim + 1, pixels), the moments (patches, pixels)
    and (groups, pixels), the gradients of the codes and the squared error of each patch.
    """
    (patches, pixels), rows = targets.shape, len(weights) + 1

    def tiled(array):  # (rows, pixels) as (tiles, rows, pixels of a tile)
        return np.stack(np.split(np.float32(array), tiles, axis=1))

    def whole(array):
        return np.concatenate(list(array), axis=-1).astype(np.float64)

    decoder, moments = tiled(np.vstack([weights, bias])), tiled(np.full((patches + groups, pixels), moment))
    codes_and_one = np.float32(np.hstack([codes, np.ones((patches, 1))]))
    sums = np.full((tiles, patches, rows), np.nan, np.float32)
    steps = decoder[None] if groups == 1 else np.zeros((groups, *decoder.shape), np.float32)
    program.compiled()(decoder, codes_and_one, tiled(targets), moments, sums, steps, np.float32(rate), np.float32(beta))
    moved, moments, total = whole(steps.swapaxes(0, 1)), whole(moments), sums.sum(axis=0, dtype=np.float64)
    if groups == 1:
        moved -= np.vstack([weights, bias])
    else:
        assert np.array_equal(whole(decoder), np.vstack([weights, bias]))
    return moved, moments[:patches], moments[patches:], total[:, :-1], total[:, -1]


def test_sigmoid_within_2e_7(program):
    z = np.concatenate([np.linspace(-40, 40, 500_001), np.linspace(-1e-3, 1e-3, 1001), [-1e30, 1e30, 0]]).astype(np.float32)
    of_one = program.sigmoid

    @numba.njit(fastmath=True, error_model="numpy")
    def apply(z, out):
        for n in range(z.size):
            out[n] = of_one(z[n])

    out = np.empty_like(z)
    apply(z, out)
    with np.errstate(over="ignore"):
        exact = sigmoid(z.astype(np.float64))
    assert np.abs(out - exact).max() < 2e-7
    assert out[-1] == 0.5  # so that what fills up a tile has no error


SHAPES = [(3, 36, 4, 3, 1), (5, 16, 2, 1, 1), (1, 1, 1, 1, 1), (2, 70, 3, 2, 1), (5, 36, 3, 3, 2), (7, 16, 2, 1, 3), (4, 6, 2, 2, 4)]


@pytest.mark.parametrize("patches, pixels, latent_dim, tiles, groups", SHAPES)
def test_gradients_against_finite_differences(program, patches, pixels, latent_dim, tiles, groups):
    """With no memory, a step is the gradient but for a factor per pixel: rate / sqrt(sum of delta^2) in one group."""
    targets, *point = problem(patches, pixels, latent_dim)

    def half_squared_error(codes, weights, bias):
        return np.sum((sigmoid(codes @ weights + bias) - targets) ** 2) / 2

    differences = []
    for index, part in enumerate(point):
        gradient = np.empty_like(part)
        for place in np.ndindex(part.shape):
            ends = []
            for shift in (1e-5, -1e-5):
                shifted = [p.copy() for p in point]
                shifted[index][place] += shift
                ends.append(half_squared_error(*shifted))
            gradient[place] = (ends[0] - ends[1]) / 2e-5
        differences.append(gradient)

    rate = 0.5
    steps, _, squares, code_gradient, losses = kernel_step(program, targets, *point, tiles, groups, rate, beta=0, moment=0.3)
    gradient = -steps.sum(axis=0)
    if groups == 1:
        gradient *= np.sqrt(squares[0]) / rate
    tolerance = {"rtol": 1e-4, "atol": 3e-6}
    np.testing.assert_allclose(code_gradient, differences[0], **tolerance)
    np.testing.assert_allclose(gradient[:-1], differences[1], **tolerance)
    np.testing.assert_allclose(gradient[-1], differences[2], **tolerance)
    np.testing.assert_allclose(losses.sum(), 2 * half_squared_error(*point), rtol=1e-5)


@pytest.mark.parametrize("patches, pixels, latent_dim, tiles, groups", SHAPES)
def test_one_step_against_numpy(program, patches, pixels, latent_dim, tiles, groups):
    targets, codes, weights, bias = problem(patches, pixels, latent_dim)
    output = sigmoid(codes @ weights + bias)
    delta = (output - targets) * output * (1 - output)
    steps, momentum, squares, code_gradient, losses = kernel_step(
        program, targets, codes, weights, bias, tiles, groups, rate=0.5, beta=0.75, moment=0.01
    )
    np.testing.assert_allclose(losses, ((output - targets) ** 2).sum(axis=1), rtol=1e-5)
    np.testing.assert_allclose(code_gradient, delta @ weights.T, rtol=1e-4, atol=3e-6)
    np.testing.assert_allclose(momentum, 0.0075 + delta, rtol=1e-4, atol=1e-7)
    assert (squares > 0.0075).all()  # each group has patches of its own
    np.testing.assert_allclose(squares.sum(axis=0), groups * 0.0075 + (delta**2).sum(axis=0), rtol=1e-4)
    scaled = (0.0075 + delta) * (0.5 / np.sqrt(squares[0]) if groups == 1 else 1)
    expected = -np.vstack([codes.T @ scaled, scaled.sum(axis=0)])
    np.testing.assert_allclose(steps.sum(axis=0), expected, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------------------- training


def reference(targets, codes, epochs, learning_rate, first=0.80, last=0.95, code_rate=0.01):
    """The training in plain float64 NumPy, textbook style: moments are weighted means. Yields each loss."""
    patches, pixels = targets.shape
    latent_dim = codes.shape[1]
    weights, bias = np.zeros((latent_dim, pixels)), np.zeros(pixels)
    means = [np.zeros((patches, pixels)), np.zeros(pixels), np.zeros((patches, latent_dim)), np.zeros((patches, 1))]
    total = 0.0
    for epoch in range(epochs):
        falling = np.cos(np.pi * epoch / epochs / 2) ** 2
        beta = last + (first - last) * falling
        past, total = beta * total, beta * total + 1
        output = sigmoid(codes @ weights + bias)
        delta = (output - targets) * output * (1 - output)
        code_gradient = delta @ weights.T
        news = [delta, (delta**2).sum(0), code_gradient, (code_gradient**2).mean(1, keepdims=True)]
        means = [np.average([mean, new], axis=0, weights=[past, 1]) for mean, new in zip(means, news)]
        delta_mean, delta_square, code_mean, code_square = means
        with np.errstate(invalid="ignore"):
            step = learning_rate * falling / np.sqrt(latent_dim * max(latent_dim, patches)) * delta_mean / np.sqrt(delta_square)
            code_step = np.nan_to_num(code_rate * learning_rate * falling * code_mean / np.sqrt(code_square))
        weights, bias, codes = weights - codes.T @ step, bias - step.sum(0), codes - code_step
        yield np.mean((output - targets) ** 2), codes, weights, bias


def random_targets(patches, pixels, seed=3):
    return np.random.default_rng(seed).integers(0, 256, (patches, pixels)) / np.float32(255)


@pytest.mark.parametrize(
    "patches, pixels, latent_dim, epochs, rate, tolerance",
    [
        (3, 3072, 4, 1, 1.0, 1e-6),
        (3, 3072, 4, 2, 1.0, 1e-5),
        (3, 3072, 4, 10, 1.0, 1e-4),
        (3, 3072, 4, 10, 0.1, 1e-4),
        (1, 1, 1, 5, 1.0, 1e-4),
        (1, 35, 2, 10, 1.0, 1e-4),
        (2, 35, 2, 10, 1.0, 1e-4),
        (6, 35, 2, 10, 1.0, 1e-3),
        (3, 257, 4, 10, 1.0, 1e-4),  # the last tile is filled up
        (140, 35, 4, 6, 1.0, 1e-4),  # several groups
        (140, 300, 3, 6, 1.0, 1e-4),  # several groups and tiles, the last one filled up
        (1100, 20, 3, 4, 1.0, 1e-4),  # 16 groups
    ],
)
def test_training_against_numpy(program, patches, pixels, latent_dim, epochs, rate, tolerance):
    targets = random_targets(patches, pixels)
    codes = program.start_codes(patches, latent_dim, seed=1)
    expected = list(reference(targets.astype(np.float64), codes.astype(np.float64), epochs, rate))
    *learned, losses = program.train(targets, codes, epochs, rate)
    assert len(losses) == epochs and all(type(loss) is float for loss in losses)
    np.testing.assert_allclose(losses, [loss for loss, *_ in expected], rtol=tolerance)
    assert [part.shape for part in learned] == [(patches, latent_dim), (latent_dim, pixels), (pixels,)]
    for part, expected_part in zip(learned, expected[-1][1:]):
        assert part.dtype == np.float32
        np.testing.assert_allclose(part, expected_part, atol=100 * tolerance)


def test_betas_and_code_rate_against_numpy(program):
    targets, codes = random_targets(3, 35), program.start_codes(3, 4, seed=1)
    expected = list(reference(targets.astype(np.float64), codes.astype(np.float64), 8, 0.5, 0.5, 0.7, 0.1))
    *learned, losses = program.train(targets, codes, 8, 0.5, betas=(0.5, 0.7), code_rate=0.1)
    np.testing.assert_allclose(losses, [loss for loss, *_ in expected], rtol=1e-4)
    for part, expected_part in zip(learned, expected[-1][1:]):
        np.testing.assert_allclose(part, expected_part, atol=1e-3)


def test_codes_weights_and_bias_all_move(program):
    targets, codes = random_targets(3, 35), program.start_codes(3, 4, seed=1)
    first = codes.copy()
    moved, weights, bias, _ = program.train(targets, codes, 3)
    assert (moved != first).all() and weights.all() and bias.all()
    assert np.array_equal(codes, first)  # the caller's own codes stay


@pytest.mark.parametrize("patches, pixels", [(3, 257), (3, 300), (140, 300)])
def test_pixels_that_fill_up_a_tile_never_move(program, monkeypatch, patches, pixels):
    seen, step = [], program.compiled()

    def watched(decoder, *others):
        step(decoder, *others)
        seen.append(decoder)

    monkeypatch.setattr(program, "compiled", lambda: watched)
    program.train(random_targets(patches, pixels), program.start_codes(patches, 4, seed=0), 20)
    moved = seen[-1].any(axis=1).ravel()  # tile by tile
    assert moved.size > pixels and moved[:pixels].all() and not moved[pixels:].any()


def test_any_layout_and_type_of_targets_and_codes_train_the_same(program):
    targets, codes = random_targets(5, 40), program.start_codes(5, 3, seed=0)
    *learned, losses = program.train(targets, codes, 20)
    copies = [
        (targets.astype(np.float64), codes),
        (np.asfortranarray(targets), np.asfortranarray(codes)),
        (targets, codes.astype(np.float64)),
        (np.repeat(targets, 2, axis=1)[:, ::2], np.repeat(codes, 2, axis=0)[::2]),
    ]
    for other_targets, other_codes in copies:
        *again, others = program.train(other_targets, other_codes, 20)
        assert others == losses and all(map(np.array_equal, again, learned))


THREADS = """
import hashlib, numba, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
import neural_compression as program
program.say = lambda line: None
for patches, pixels in ((3, 3000), (300, 100), (140, 300)):
    targets = np.random.default_rng(0).random((patches, pixels))
    *learned, losses = program.train(targets, program.start_codes(patches, 8, 0), 30)
    print(hashlib.sha256(b"".join(part.tobytes() for part in learned)).hexdigest(), losses[-1])
print(numba.get_num_threads(), file=sys.stderr)
"""


def test_the_number_of_threads_changes_no_byte():
    """Of codes, weights and bias, with one group of patches and with several."""
    command, outputs = [sys.executable, "-c", THREADS, str(SCRIPT.parent)], []
    processes = [start(command, {"NUMBA_NUM_THREADS": threads}) for threads in "123"]
    for threads, process in zip("123", processes):
        status, output, errors = finish(process)
        assert status == 0 and errors.split() == [threads], errors
        outputs.append(output)
    assert outputs[0] == outputs[1] == outputs[2] and len(set(outputs[0].split())) == 6


def test_targets_and_codes_of_different_number_are_refused(program):
    for codes in (4, 50):  # before the kernel reads or writes outside of its arrays
        with pytest.raises(ValueError):
            program.train(np.zeros((5, 30)), np.zeros((codes, 3)), 1)


@pytest.mark.parametrize("patches, latent_dim", [(1, 1), (3, 3), (3, 16), (24, 24)])
def test_start_codes_are_orthogonal_where_there_is_room(program, patches, latent_dim):
    codes = program.start_codes(patches, latent_dim, seed=5)
    np.testing.assert_allclose(codes @ codes.T, latent_dim * np.eye(patches), atol=1e-4)
    assert codes.dtype == np.float32 and codes.shape == (patches, latent_dim)


@pytest.mark.parametrize("patches, latent_dim", [(2, 1), (25, 24), (100, 3)])
def test_start_codes_are_nearly_alike_where_there_is_no_room(program, patches, latent_dim):
    codes = program.start_codes(patches, latent_dim, seed=5)
    assert codes.dtype == np.float32 and codes.shape == (patches, latent_dim)
    assert len(np.unique(codes, axis=0)) == patches
    assert np.abs(codes / codes.mean() - 1).max() < 0.1


@pytest.mark.parametrize("patches, latent_dim", [(3, 16), (16, 3)])
def test_start_codes_depend_on_the_seed_alone(program, patches, latent_dim):
    codes = [program.start_codes(patches, latent_dim, seed) for seed in (5, 6, 5)]
    assert np.array_equal(codes[0], codes[2]) and (codes[0] != codes[1]).all()


LINE = re.compile(r"epoch ( *\d+)/(\d+)  loss (\d\.\d{3}e[-+]\d\d)  time (\d+\.\d\d) s")


@pytest.mark.parametrize(
    "epochs, log_every, expected", [(12, 5, [5, 10, 12]), (10, 5, [5, 10]), (3, 1, [1, 2, 3]), (1, 7, [1]), (12, None, [12])]
)
def test_a_line_every_log_every_epochs_and_at_the_last(program, capsys, epochs, log_every, expected):
    targets, codes = random_targets(3, 35), program.start_codes(3, 4, seed=0)
    *_, losses = program.train(targets, codes, epochs, **({} if log_every is None else {"log_every": log_every}))
    matches = [LINE.fullmatch(line) for line in capsys.readouterr().out.splitlines()]
    assert all(matches)
    assert [int(match[1]) for match in matches] == expected
    assert {match[2] for match in matches} == {str(epochs)} and {len(match[1]) for match in matches} == {len(str(epochs))}
    assert [match[3] for match in matches] == [f"{losses[epoch - 1]:.3e}" for epoch in expected]


def test_the_seconds_of_the_log_count_from_the_start(program, monkeypatch, capsys):
    say = program.say

    def slowly(line):
        say(line)
        time.sleep(0.05)

    monkeypatch.setattr(program, "say", slowly)
    began = time.perf_counter()
    program.train(random_targets(3, 35), program.start_codes(3, 4, seed=0), 6, log_every=1)
    took = time.perf_counter() - began
    seconds = [float(LINE.fullmatch(line)[4]) for line in capsys.readouterr().out.splitlines()]
    assert len(seconds) == 6
    assert all(0.05 * n - 0.006 <= now <= took - 0.05 * (6 - n) + 0.006 for n, now in enumerate(seconds))


@pytest.mark.parametrize("patches", [3, 140])
def test_ctrl_c_returns_what_was_learned(program, monkeypatch, patches):
    targets, codes = random_targets(patches, 35), program.start_codes(patches, 4, seed=0)
    expected = list(reference(targets.astype(np.float64), codes.astype(np.float64), 10, 1.0))

    def interrupt(line):
        if line.split()[1].startswith("4/"):
            raise KeyboardInterrupt

    monkeypatch.setattr(program, "say", interrupt)
    *learned, losses = program.train(targets, codes, 10, log_every=2)
    np.testing.assert_allclose(losses, [loss for loss, *_ in expected[:4]], rtol=1e-4)
    for part, expected_part in zip(learned, expected[3][1:]):
        np.testing.assert_allclose(part, expected_part, atol=1e-2)


@pytest.mark.parametrize("steps", [0, 3])
def test_ctrl_c_before_a_step_returns_what_the_steps_before_learned(program, monkeypatch, steps):
    targets, codes = random_targets(3, 35), program.start_codes(3, 4, seed=0)
    step, calls = program.compiled(), []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) > steps:
            raise KeyboardInterrupt
        step(*arguments)

    monkeypatch.setattr(program, "compiled", lambda: interrupted)
    moved, weights, bias, losses = program.train(targets, codes, 10)
    assert len(losses) == steps
    assert (moved == codes).all() if steps == 0 else (moved != codes).all()
    assert weights.any() == bias.any() == (steps > 0)


def test_more_patches_than_numbers_end_at_the_least_error(program):
    """Where the code can't hold the patches, training ends where the gradient is zero, and beats PCA."""
    random = np.random.default_rng(6)
    samples = np.clip(random.normal(128, 60, (12, 2)) @ random.normal(0, 1, (2, 64)) / 2 + random.normal(128, 20, (12, 64)), 0, 255)
    targets = samples.astype(np.uint8) / 255
    codes, weights, bias, losses = program.train(targets, program.start_codes(12, 2, seed=0), 2000)
    left, values, right = np.linalg.svd(targets - targets.mean(0), full_matrices=False)
    pca = np.clip((left[:, :2] * values[:2]) @ right[:2] + targets.mean(0), 0, 1)
    assert losses[-1] < np.mean((pca - targets) ** 2)
    codes, weights, bias = (part.astype(np.float64) for part in (codes, weights, bias))
    output = sigmoid(codes @ weights + bias)
    delta = (output - targets) * output * (1 - output)
    for gradient in (codes.T @ delta, delta @ weights.T):
        assert np.abs(gradient).max() < 1e-2 * np.abs(delta).max()


# --------------------------------------------------------------------- compressed file


def decoder_of(patches, latent_dim, pixels, seed=0):
    random = np.random.default_rng(seed)
    shapes = ((patches, latent_dim), (latent_dim, pixels), (pixels,))
    return [random.normal(0.3, 1, shape).astype(np.float32) for shape in shapes]


@pytest.mark.parametrize(
    "patches, latent_dim, pixels, kept",
    [
        (3, 16, 100, 2),  # three codes differ in two directions
        (2, 1, 100, 1),
        (40, 5, 100, 5),
        (40, 5, 3, 3),  # three pixels
        (1, 4, 100, 0),
        (1, 1, 1, 0),
    ],
)
def test_principal_components_give_the_same_logits(program, patches, latent_dim, pixels, kept):
    codes, weights, bias = (part.astype(np.float64) for part in decoder_of(patches, latent_dim, pixels))
    turned, sizes, rows, shift = program.principal_components(*map(np.float32, (codes, weights, bias)))
    assert turned.shape == (patches, kept) and sizes.shape == (kept,) and rows.shape == (kept, pixels)
    logits = turned @ (rows / sizes[:, None]) + shift
    np.testing.assert_allclose(logits, codes @ weights + bias, atol=1e-5)
    np.testing.assert_allclose(turned.T @ turned, np.diag(sizes**2), atol=1e-8 * sizes.max(initial=1) ** 2)
    np.testing.assert_allclose(rows @ rows.T, np.diag(sizes**2), atol=1e-8 * sizes.max(initial=1) ** 2)
    np.testing.assert_allclose(turned.sum(axis=0), 0, atol=1e-6)
    assert all(part.dtype == np.float64 for part in (turned, sizes, rows, shift))


def test_components_that_do_nothing_are_dropped(program):
    codes, weights, bias = decoder_of(10, 4, 50)
    alike = np.repeat(codes[:1], 10, axis=0)
    for same, rows, kept in (
        (alike, weights, 0),
        (codes, 0 * weights, 0),
        (codes, np.float32(1e-13) * weights, 0),
        (codes * [1, 1, 1e-3, 1e-3], weights, 4),  # weak ones stay
        (codes * [1, 1, 0, 0], weights, 2),
        (codes, weights[[0, 1, 1, 0]], 2),
    ):
        turned, sizes, turned_rows, shift = program.principal_components(np.float32(same), rows, bias)
        assert turned.shape == (10, kept) and turned_rows.shape == (kept, 50)
        logits = turned @ (turned_rows / sizes[:, None]) + shift
        np.testing.assert_allclose(logits, np.float64(same) @ np.float64(rows) + bias, atol=1e-5)


def test_one_pixel_that_differs_by_a_level_comes_back(program):
    """Two pictures are black and white, of opposite signs; the third differs from the first in one pixel."""
    random = np.random.default_rng(0)
    first = np.where(random.random(200_000) < 0.5, 12.0, -12.0)
    first[7] = 0.0
    third = first.copy()
    third[7] = 0.02  # 129 and not 128
    rows = np.float32([first, -first, third])
    codes = np.float32(np.linalg.qr(random.standard_normal((3, 3)))[0])
    parts = program.principal_components(codes, np.float32(codes.T @ rows), np.zeros(rows.shape[1], np.float32))
    pictures = list(np.uint8(np.floor(255 * sigmoid(rows) + 0.5)).reshape(3, 400, 500))
    _, decoded = program.compress(parts, pictures, 500, 400, 0.05)
    assert pictures[2][0, 7] == 129 and all(np.array_equal(a, b) for a, b in zip(pictures, decoded))


def whole_numbers(digits):
    """What digits in base 256 stand for, least first."""
    return sum(digit.astype(np.float64) * 256.0**place for place, digit in enumerate(digits))


@pytest.mark.parametrize("step", [2.0**-18, 2.0**-8, 0.1, 1.0, 100.0])
@pytest.mark.parametrize("patches", [1, 40])
def test_quantised_numbers_are_within_half_a_step(program, patches, step):
    codes, sizes, weights, bias = program.principal_components(*decoder_of(patches, 5, 70))
    arrays = program.quantise(codes, sizes, weights, bias, step)
    assert list(arrays) == ["codes", "weights", "bias", "scales"]
    bias_step = step / np.sqrt(patches)
    for name, exact, its_step in (("codes", codes.T, step), ("weights", weights, step), ("bias", bias, bias_step)):
        digits = arrays[name]
        assert digits.dtype == np.int8 and digits.shape[1:] == exact.shape
        assert digits.flags.c_contiguous  # one component after the other in the file
        assert np.abs(whole_numbers(digits) * its_step - exact).max(initial=0) <= its_step / 2 * (1 + 1e-9)
        assert len(digits) == 1 or digits[-1].any()  # no digit too many
    np.testing.assert_allclose(arrays["scales"], [*(step * step / sizes), bias_step], rtol=1e-12)


def test_digits_at_their_ends(program):
    numbers = np.array([0, 1, -1, 127, 128, -128, -129, 255, 256, 32767, 32768, -32768, -32769, 65536, 10**9, -(10**9)], float)
    arrays = program.quantise(numbers[:, None], np.ones(1), numbers[None], numbers / 4, 1.0)
    for name in ("codes", "weights", "bias"):
        assert whole_numbers(arrays[name]).ravel().tolist() == numbers.tolist()
    small = program.quantise(np.array([[127.0], [-128]]), np.ones(1), np.array([[127.0, -128]]), np.zeros(2), 1.0)
    assert [len(small[name]) for name in ("codes", "weights", "bias")] == [1, 1, 1]


def decoded_by_hand(arrays):
    """Grey levels of all patches in plain float64."""
    codes, weights, bias = (whole_numbers(arrays[name]) for name in ("codes", "weights", "bias"))
    patches = []
    for number in range(codes.shape[1]):
        logits = bias * arrays["scales"][-1]
        for component, row in enumerate(weights):
            logits = logits + codes[component, number] * arrays["scales"][component] * row
        patches.append(np.floor(255 * sigmoid(logits) + 0.5))
    return np.array(patches)


@pytest.mark.parametrize("patches, latent_dim, pixels, step", [(40, 5, 70, 0.01), (3, 16, 500, 2.0**-18), (1, 2, 9, 0.1)])
def test_decode_against_numpy(program, patches, latent_dim, pixels, step):
    codes, weights, bias = decoder_of(patches, latent_dim, pixels)
    arrays = program.quantise(*program.principal_components(codes, weights, bias), step)
    decoded = program.decode(arrays)
    assert decoded.dtype == np.uint8 and decoded.shape == (patches, pixels)
    assert np.array_equal(decoded, decoded_by_hand(arrays))
    exact = 255 * sigmoid(np.float64(codes) @ np.float64(weights) + bias)
    assert np.abs(decoded - exact).max() < (0.501 if step < 1e-4 else 20)


def squared_errors(pictures, decoded):
    return np.array([np.sum((a.astype(float) - b) ** 2) for a, b in zip(pictures, decoded)])


@pytest.fixture(scope="module")
def two_pictures(program):
    """Components of a decoder in patches of 6 x 5, and the pictures that it stands for: one exact, one with errors."""
    components = program.principal_components(*decoder_of(18, 6, 30))
    random, shapes = np.random.default_rng(1), [(15, 18), (14, 13)]
    pictures = list(program.join(program.decode(program.quantise(*components, 2.0**-20)), shapes, 6, 5))
    noise = random.integers(-9, 10, pictures[1].shape)
    return components, [pictures[0], np.uint8(np.clip(pictures[1] + noise, 0, 255))]


def step_of(arrays):
    return arrays["scales"][-1] * np.sqrt(arrays["codes"].shape[2])


def result_of_step(program, components, pictures, step):
    arrays = program.quantise(*components, step)
    return list(program.join(program.decode(arrays), [picture.shape for picture in pictures], 6, 5))


@pytest.mark.parametrize("loss", [0, 0.05, 1, 20])
@pytest.mark.parametrize("which", [[0, 1], [1, 0], [1], [0]])
def test_compress_takes_the_largest_step_that_is_good(program, two_pictures, which, loss):
    (codes, *decoder), pictures = two_pictures
    patches = {0: codes[:9], 1: codes[9:]}
    components, pictures = [np.concatenate([patches[n] for n in which]), *decoder], [pictures[n] for n in which]
    before = squared_errors(pictures, result_of_step(program, components, pictures, 2.0**-20))
    assert [error > 0 for error in before] == [n == 1 for n in which]

    def good(decoded):
        errors = squared_errors(pictures, decoded)
        return not errors[before == 0].any() and errors.sum() <= before.sum() * 10 ** (loss / 10)

    arrays, decoded = program.compress(components, pictures, 6, 5, loss)
    step = step_of(arrays)
    assert 2.0**-20 < step < 2.0**11
    assert all(map(np.array_equal, decoded, result_of_step(program, components, pictures, step)))
    assert good(decoded)
    assert not good(result_of_step(program, components, pictures, step * 2 ** (1 / 16)))


def test_a_larger_loss_is_used_and_gives_a_smaller_file(program, two_pictures):
    (codes, *decoder), (_, picture) = two_pictures
    components, sizes, losses = [codes[9:], *decoder], [], []
    before = squared_errors([picture], result_of_step(program, components, [picture], 2.0**-20)).sum()
    for loss in (0.05, 1, 6):
        arrays, decoded = program.compress(components, [picture], 6, 5, loss)
        sizes.append(len(program.pack(arrays)))
        losses.append(10 * np.log10(squared_errors([picture], decoded).sum() / before))
        assert losses[-1] <= loss + 1e-9
    assert sizes[0] > sizes[1] > sizes[2] and losses[1] > 0.5 and losses[2] > 3


def test_a_bad_picture_costs_an_exact_one_no_pixel(program, two_pictures):
    components, pictures = two_pictures
    _, decoded = program.compress(components, pictures, 6, 5, 20)
    assert np.array_equal(decoded[0], pictures[0])
    (codes, *decoder), _ = two_pictures
    alone, _ = program.compress([codes[9:], *decoder], pictures[1:], 6, 5, 20)
    both, _ = program.compress(components, pictures, 6, 5, 20)
    assert step_of(alone) > 2 * step_of(both)  # the bad one would have allowed far more


def test_pictures_without_components_are_compressed(program):
    """One picture alone, equal pictures, and a decoder that has learned nothing."""
    targets = random_targets(1, 35)
    picture = np.uint8(np.rint(255 * targets)).reshape(5, 7)
    logits = np.log((targets + 1e-4) / (1 - targets + 1e-4))[0].astype(np.float32)
    for count in (1, 3):
        components = program.principal_components(np.ones((count, 2), np.float32), np.zeros((2, 35), np.float32), logits)
        arrays, decoded = program.compress(components, [picture] * count, 7, 5, 0.05)
        assert arrays["codes"].size == arrays["weights"].size == 0
        assert len(decoded) == count and all(np.array_equal(output, picture) for output in decoded)
    untrained = program.principal_components(*[np.zeros(shape, np.float32) for shape in ((2, 2), (2, 35), 35)])
    _, decoded = program.compress(untrained, [picture] * 2, 7, 5, 0.05)
    assert all((output == 128).all() for output in decoded)


def test_pictures_of_one_grey_are_compressed_exactly(program):
    pictures = [np.full((5, 7), grey, np.uint8) for grey in (0, 99, 255)]
    targets = np.array([picture.ravel() for picture in pictures]) / np.float32(255)
    *learned, _ = program.train(targets, program.start_codes(3, 4, seed=0), 1000)
    _, decoded = program.compress(program.principal_components(*learned), pictures, 7, 5, 0.05)
    assert all(map(np.array_equal, decoded, pictures))


def test_the_file_is_read_by_numpy_and_compressed_by_lzma(program):
    arrays = {
        "codes": np.arange(24, dtype=np.int8).reshape(2, 3, 4),
        "weights": np.zeros((1, 0, 5), np.int16),
        "scales": np.array([0.1, 2.0]),
        "names": ("radial", "Übung.pgm"),
        "shapes": [(5, 7), (1, 2)],
        "many": np.zeros(100_000),
    }
    file = program.pack(arrays)
    with np.load(io.BytesIO(file)) as loaded:
        assert sorted(loaded.files) == sorted(arrays)
        for name, array in arrays.items():
            assert np.array_equal(loaded[name], array) and loaded[name].dtype == np.asarray(array).dtype
    with zipfile.ZipFile(io.BytesIO(file)) as archive:
        entries = archive.infolist()
        assert archive.testzip() is None
    assert {entry.compress_type for entry in entries} == {zipfile.ZIP_LZMA}
    assert len({entry.date_time for entry in entries} | {(1980, 1, 1, 0, 0, 0)}) == 1  # the bytes don't depend on the clock
    assert len(file) < 5000
    assert program.pack(arrays) == file
