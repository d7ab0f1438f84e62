"""Kernels and training against float64 NumPy written another way, and against finite differences."""

import numpy as np
import pytest


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def problem(images, pixels, latent_dim, seed=0):
    """Samples, targets, codes, weights and bias, the last three float32 values in float64."""
    random = np.random.default_rng(seed)
    samples = random.integers(0, 256, (images, pixels), np.uint8)
    parts = [random.normal(0, size, shape).astype(np.float32).astype(np.float64)
             for size, shape in ((1, (images, latent_dim)), (0.3, (latent_dim, pixels)), (0.3, pixels))]  # fmt: skip
    return samples, samples / 255, *parts


def one_step(program, samples, codes, weights, bias, tile_pixels, rate=0.0, beta=0.0, moment=0.0):
    """Call the kernel once, with all moments at `moment`; weights, bias, momentum, second moment, code gradient, loss after it."""
    images, pixels = samples.shape
    decoder = program.cut(np.vstack([weights, bias]).astype(np.float32), tile_pixels)
    tiles, rows, _ = decoder.shape
    codes_and_one = np.hstack([codes, np.ones((images, 1))]).astype(np.float32)
    blocks = max(1, tiles - 1)
    moments = np.full((tiles, images + 1, tile_pixels), moment, np.float32)
    sums = np.zeros((blocks, images, rows), np.float32)
    scratch = np.zeros((blocks, 2, tile_pixels), np.float32)
    scratch[:, 1] = np.nan
    program.step_epoch(
        program.compile_step_block("uint8"), decoder, codes_and_one, program.cut(samples, tile_pixels), np.full(images, 255, np.float32), moments, sums, scratch,
        pixels, rate, beta,
    )  # fmt: skip
    assert not scratch[:, 0].any()
    moved = program.join(decoder, pixels).astype(np.float64)
    *momentum, second_moment = program.join(moments, pixels)
    total = sums.sum(0)
    return moved[:-1], moved[-1], np.array(momentum), second_moment, total[:, :-1], total[:, -1].sum() / samples.size


def test_sigmoid_within_2e_7(program):
    z = np.concatenate([np.linspace(-40, 40, 2_000_001), np.linspace(-1e-3, 1e-3, 1001), [-1e30, 1e30]]).astype(np.float32)

    @program.njit(fastmath=True, error_model="numpy")
    def apply(z, out):
        for n in range(z.size):
            out[n] = program_sigmoid(z[n])

    program_sigmoid = program.sigmoid
    out = np.empty_like(z)
    apply(z, out)
    with np.errstate(over="ignore"):
        exact = sigmoid(z.astype(np.float64))
    assert np.abs(out - exact).max() < 2e-7


@pytest.mark.parametrize("images, pixels, latent_dim, tile_pixels", [(3, 35, 4, 16), (5, 16, 2, 16), (1, 1, 1, 16), (2, 70, 3, 32)])
def test_gradients_against_finite_differences(program, images, pixels, latent_dim, tile_pixels):
    """With no memory and rate r, a step is -r times the gradient over the norm of delta: it gives the gradient away."""
    samples, targets, *point = problem(images, pixels, latent_dim)

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
    weights, bias, _, second_moment, code_gradient, loss = one_step(program, samples, *point, tile_pixels, rate)
    norm = np.sqrt(second_moment.astype(np.float64)) / rate
    tolerance = {"rtol": 1e-4, "atol": 3e-6}
    np.testing.assert_allclose(code_gradient, differences[0], **tolerance)
    np.testing.assert_allclose((point[1] - weights) * norm, differences[1], **tolerance)
    np.testing.assert_allclose((point[2] - bias) * norm, differences[2], **tolerance)
    np.testing.assert_allclose(loss, 2 * half_squared_error(*point) / samples.size, rtol=1e-5)


def test_moments_against_numpy(program):
    samples, targets, codes, weights, bias = problem(3, 50, 4)
    output = sigmoid(codes @ weights + bias)
    delta = (output - targets) * output * (1 - output)
    _, _, momentum, second_moment, _, _ = one_step(program, samples, codes, weights, bias, 16, beta=0.75, moment=0.01)
    np.testing.assert_allclose(momentum, 0.0075 + delta, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(second_moment, 0.0075 + (delta**2).sum(0), rtol=1e-4, atol=1e-9)


def reference(samples, maxvals, codes, epochs, learning_rate, first=0.80, last=0.95, code_rate=0.01):
    """The training in plain float64 NumPy, textbook style: moments are weighted means. Yields each loss."""
    targets = samples / np.asarray(maxvals, float)[:, None]
    images, pixels = samples.shape
    latent_dim = codes.shape[1]
    weights, bias = np.zeros((latent_dim, pixels)), np.zeros(pixels)
    means = [np.zeros((images, pixels)), np.zeros(pixels), np.zeros((images, latent_dim)), np.zeros((images, 1))]
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
            step = learning_rate * falling / np.sqrt(latent_dim * max(latent_dim, images)) * delta_mean / np.sqrt(delta_square)
            code_step = np.nan_to_num(code_rate * learning_rate * falling * code_mean / np.sqrt(code_square))
        weights, bias, codes = weights - codes.T @ step, bias - step.sum(0), codes - code_step
        yield np.mean((output - targets) ** 2), codes, weights, bias


@pytest.mark.parametrize(
    "images, width, height, latent_dim, epochs, tolerance",
    [
        (3, 64, 48, 4, 1, 1e-6),
        (3, 64, 48, 4, 2, 1e-5),
        (3, 64, 48, 4, 10, 1e-4),
        (1, 1, 1, 1, 5, 1e-4),
        (1, 7, 5, 2, 10, 1e-4),
        (2, 7, 5, 2, 10, 1e-4),
        (6, 7, 5, 2, 10, 1e-3),
    ],
)
def test_training_against_numpy(program, images, width, height, latent_dim, epochs, tolerance):
    samples = np.random.default_rng(3).integers(0, 256, (images, width * height), np.uint8)
    codes, decoder = program.start(images, width * height, latent_dim, seed=1)
    expected = list(reference(samples, [255] * images, codes.astype(np.float64), epochs, 1.0))
    losses = []
    for epoch, loss, seconds in program.train(samples, [255] * images, codes, decoder, epochs, 1.0):
        losses.append(loss)
        assert epoch == len(losses) and seconds >= 0
    np.testing.assert_allclose(losses, [loss for loss, *_ in expected], rtol=tolerance)
    _, expected_codes, expected_weights, expected_bias = expected[-1]
    rows = program.join(decoder, width * height)
    np.testing.assert_allclose(codes, expected_codes, atol=100 * tolerance)
    np.testing.assert_allclose(rows[:-1], expected_weights, atol=100 * tolerance)
    np.testing.assert_allclose(rows[-1], expected_bias, atol=100 * tolerance)


def test_all_three_groups_move(program):
    samples = np.random.default_rng(3).integers(0, 256, (3, 35), np.uint8)
    codes, decoder = program.start(3, 35, 4, seed=1)
    first = codes.copy()
    list(program.train(samples, [255] * 3, codes, decoder, 3, 1.0))
    rows = program.join(decoder, 35)
    assert (codes != first).all() and rows[:-1].all() and rows[-1].all()


def test_two_byte_samples_and_maxvals(program):
    """The same picture in other units trains the same way."""
    samples = np.random.default_rng(4).integers(0, 256, (2, 35), np.uint8)
    ends = []
    for factor, dtype in ((1, np.uint8), (257, np.uint16)):
        codes, decoder = program.start(2, 35, 2, seed=0)
        *_, (_, loss, _) = program.train(samples.astype(dtype) * factor, [255 * factor] * 2, codes, decoder, 20, 1.0)
        ends.append(loss)
    assert ends[0] == pytest.approx(ends[1], rel=1e-3)


@pytest.mark.parametrize("images, latent_dim", [(1, 1), (3, 3), (3, 16), (24, 24)])
def test_start_codes_are_orthogonal_where_there_is_room(program, images, latent_dim):
    codes, decoder = program.start(images, 100, latent_dim, seed=5)
    np.testing.assert_allclose(codes @ codes.T, latent_dim * np.eye(images), atol=1e-4)
    assert codes.dtype == decoder.dtype == np.float32 and not decoder.any()
    assert latent_dim == 1 or not np.array_equal(codes, program.start(images, 100, latent_dim, seed=6)[0])


@pytest.mark.parametrize("pixels", [64, 3072])
def test_small_pictures_have_tiles_for_several_threads(program, pixels):
    assert len(program.start(3, pixels, 16, seed=0)[1]) >= 4


def test_cut_and_join(program):
    array = np.arange(70, dtype=np.float32).reshape(2, 35)
    tiles = program.cut(array, 16)
    assert tiles.shape == (3, 2, 16) and tiles.flags.c_contiguous
    assert tiles[1, 0].tolist() == list(range(16, 32)) and not tiles[2, :, 3:].any()
    assert np.array_equal(program.join(tiles, 35), array)


def test_more_images_than_numbers_end_at_the_least_error(program):
    """Where the code can't hold the images, training ends where the gradient is zero, and beats PCA."""
    random = np.random.default_rng(6)
    samples = np.clip(random.normal(128, 60, (12, 2)) @ random.normal(0, 1, (2, 64)) / 2 + random.normal(128, 20, (12, 64)), 0, 255)
    samples = samples.astype(np.uint8)
    codes, decoder = program.start(12, 64, 2, seed=0)
    *_, (_, loss, _) = program.train(samples, [255] * 12, codes, decoder, 2000, 1.0)
    targets = samples / 255
    left, values, right = np.linalg.svd(targets - targets.mean(0), full_matrices=False)
    pca = np.clip((left[:, :2] * values[:2]) @ right[:2] + targets.mean(0), 0, 1)
    assert loss < np.mean((pca - targets) ** 2)
    rows = program.join(decoder, 64).astype(np.float64)
    output = sigmoid(codes @ rows[:-1] + rows[-1])
    delta = (output - targets) * output * (1 - output)
    for gradient in (codes.T @ delta, delta @ rows[:-1].T):
        assert np.abs(gradient).max() < 1e-2 * np.abs(delta).max()
