"""The reference is training in plain float64 NumPy, textbook style. The program has to learn the same.

Read it first: it says in 30 lines what the program does in its kernels.
"""

import os
import re
import signal
import sys
import threading
from time import monotonic, sleep

import numba
import numpy as np
import pytest
from conftest import SCRIPT, finish, start


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def with_one(codes):
    return np.column_stack([codes, np.ones(len(codes))])


def reference(targets, codes, decoder, epochs, learning_rate=1.0):
    """Train codes (patches, latent_dim + 1), with a 1 at their end, and decoder (latent_dim + 1, samples).

    Yields codes, decoder and loss after each epoch.
    """
    weights, bias = decoder[:-1].astype(float), decoder[-1].astype(float)
    code_length = np.sqrt(np.mean(np.sum(codes**2, axis=1)))
    codes = codes[:, :-1].astype(float)
    means = [np.zeros_like(codes), np.zeros_like(weights), np.zeros_like(bias)]
    code_square, sample_square = np.zeros(len(codes)), np.zeros(targets.shape[1])
    count = 0.0
    for epoch in range(epochs):
        falling = np.cos(np.pi * epoch / epochs / 2) ** 2
        beta = 0.95 + (0.80 - 0.95) * falling
        count = beta * count + 1
        output = sigmoid(codes @ weights + bias)
        delta = (output - targets) * output * (1 - output)
        gradients = [delta @ weights.T, codes.T @ delta, delta.sum(axis=0)]
        means = [mean + (gradient - mean) / count for mean, gradient in zip(means, gradients)]
        code_square += (np.sum(gradients[0] ** 2, axis=1) - code_square) / count
        sample_square += (np.sum(gradients[1] ** 2, axis=0) + gradients[2] ** 2 - sample_square) / count
        code_rate = 0.15 * learning_rate * falling / (np.sqrt(code_square) + 1e-8)
        sample_rate = learning_rate / code_length * falling / (np.sqrt(sample_square) + 1e-8)
        codes = codes - code_rate[:, None] * means[0]
        weights, bias = weights - sample_rate * means[1], bias - sample_rate * means[2]
        yield with_one(codes), np.vstack([weights, bias]), np.mean((output - targets) ** 2)


def problem(patches, samples, latent_dim, seed=3):
    """Targets, and codes and decoder to start from, all random."""
    random = np.random.default_rng(seed)
    targets = random.integers(0, 256, (patches, samples)) / 255
    codes = with_one(random.normal(0, 1, (patches, latent_dim)))
    return targets, codes, random.normal(0, 0.1, (latent_dim + 1, samples))


SHAPES = [(3, 600, 4), (600, 3, 2), (20, 20, 5), (1, 1, 1), (1, 35, 2), (35, 1, 2), (6, 35, 2), (40, 511, 3),
          (40, 512, 3), (40, 513, 3), (513, 40, 7), (400, 64, 32), (2, 401, 1), (9, 7, 4)]  # fmt: skip


@pytest.mark.parametrize("patches, samples, latent_dim", SHAPES)
@pytest.mark.parametrize("epochs, learning_rate, tolerance", [(1, 1.0, 1e-4), (10, 0.5, 3e-3)])
def test_training_against_numpy(program, patches, samples, latent_dim, epochs, learning_rate, tolerance):
    targets, codes, decoder = problem(patches, samples, latent_dim)
    expected = list(reference(targets, codes, decoder, epochs, learning_rate))
    learned_codes, learned_decoder, losses = program.train(targets, codes, decoder, epochs, learning_rate)
    assert learned_codes.shape == codes.shape and learned_decoder.shape == decoder.shape
    np.testing.assert_allclose(losses, [loss for *_, loss in expected], rtol=tolerance)
    np.testing.assert_allclose(learned_codes, expected[-1][0], atol=tolerance)
    np.testing.assert_allclose(learned_decoder, expected[-1][1], atol=tolerance)


@pytest.mark.parametrize("patches, samples, latent_dim", [(4, 6, 2), (6, 4, 2), (5, 5, 3)])
def test_the_first_step_goes_against_the_gradient_by_finite_differences(program, patches, samples, latent_dim):
    targets, *point = problem(patches, samples, latent_dim)

    def loss(codes, decoder):
        return np.sum((sigmoid(codes @ decoder) - targets) ** 2)

    gradients = []
    for index, part in enumerate(point):
        gradient = np.empty_like(part)
        for place in np.ndindex(part.shape):
            shifted = [[p.copy() for p in point] for _ in range(2)]
            shifted[0][index][place] += 1e-6
            shifted[1][index][place] -= 1e-6
            gradient[place] = (loss(*shifted[0]) - loss(*shifted[1])) / 2e-6
        gradients.append(gradient)

    codes, decoder, _ = program.train(targets, *point, 1)
    gradients[0][:, -1] = 0  # the 1 stays
    unit = gradients[0] / np.linalg.norm(gradients[0], axis=1, keepdims=True)
    np.testing.assert_allclose(codes - point[0], -0.15 * unit, atol=2e-5)
    code_length = np.linalg.norm(point[0]) / np.sqrt(patches)
    unit = gradients[1] / np.linalg.norm(gradients[1], axis=0)
    np.testing.assert_allclose(decoder - point[1], -unit / code_length, atol=2e-4)


def test_the_callers_arrays_stay_and_any_layout_and_type_trains_the_same(program):
    targets, codes, decoder = problem(5, 40, 3)
    arrays = np.round(targets), codes, decoder
    expected = program.train(*arrays, 20)
    compiled = [len(kernel.signatures) for kernel in program.KERNELS]
    for kind in (np.float32, bool, np.uint8):
        for order in "CF":
            given = arrays[0].astype(kind, order), np.asarray(codes, order=order), np.asarray(decoder, order=order)
            before = [array.copy() for array in given]
            assert all(map(np.array_equal, expected, program.train(*given, 20)))
            assert all(map(np.array_equal, before, given))
    again = [np.asfortranarray(array) for array in (targets, *expected[:2])]  # what `train` returned, trained on
    before = [array.copy() for array in again]
    program.train(*again, 5)
    assert all(map(np.array_equal, before, again))
    program.train(*problem(40, 5, 3), 5, learning_rate=1)
    assert [len(kernel.signatures) for kernel in program.KERNELS] == compiled  # nothing had to be compiled again


def test_what_cannot_be_trained_on_is_a_value_error(program):
    targets, codes, decoder = problem(5, 40, 3)
    picture = np.zeros((8, 25), np.uint8)  # five patches of 5 x 8
    refused = [
        lambda: program.train(targets, codes[:4], decoder, 1),
        lambda: program.train(targets, codes, decoder[:3], 1),
        lambda: program.train(targets[:, :39], codes, decoder, 1),
        lambda: program.train(255 * targets, codes, decoder, 1),
        lambda: program.train(-targets, codes, decoder, 1),
        lambda: program.train(targets * np.nan, codes, decoder, 1),
        lambda: program.train(targets, codes, decoder, 0),
        lambda: program.train(targets, codes, decoder, 1, log_every=0),
        lambda: program.cut(picture, 5, 8),  # an array, not a list of arrays
        lambda: program.cut([], 5, 8),
        lambda: program.cut([picture / 255], 5, 8),
        lambda: program.cut([picture, np.zeros((8, 25, 3), np.uint8)], 5, 8),
        lambda: program.cut([np.zeros((8, 25, 4), np.uint8)], 5, 8),
        lambda: program.compress(picture, codes, decoder, 5, 8),
        lambda: program.compress([picture[:, 5:]], codes, decoder, 5, 8),
        lambda: program.compress([picture], codes, decoder, 8, 5),
        lambda: program.compress([picture], codes, decoder[:, :39], 5, 8),
    ]
    for number, call in enumerate(refused):
        with pytest.raises(ValueError, match=r"\A(pictures|targets|epochs)\b.* have to .*\Z"):
            pytest.fail(f"number {number} was taken: {call()}")


@pytest.mark.parametrize("patches, samples", [(1, 1), (3, 40), (300, 64)])
def test_equal_and_extreme_patches_train_without_nan(program, patches, samples):
    for grey in (0, 0.5, 1):
        targets = np.full((patches, samples), grey)
        codes, decoder, losses = program.train(targets, *program.start(targets, 4, 0), 1000)
        assert np.isfinite(codes).all() and abs(codes @ decoder).max() < 25 and losses[-1] < 1e-6


# --------------------------------------------------------------------------------- start


@pytest.mark.parametrize("patches, latent_dim", [(1, 1), (3, 3), (3, 327), (24, 24)])
def test_with_room_the_codes_are_orthogonal_one_number_per_patch(program, patches, latent_dim):
    codes, decoder = program.start(np.random.default_rng(0).random((patches, 50)), latent_dim, 5)
    assert codes.shape == (patches, patches + 1) and decoder.shape == (patches + 1, 50) and not decoder.any()
    assert (codes[:, -1] == 1).all()
    np.testing.assert_allclose(codes[:, :-1] @ codes[:, :-1].T, 256 * np.eye(patches), atol=1e-3)


@pytest.mark.parametrize("patches, samples", [(200, 30), (30, 200)])
def test_without_room_the_codes_are_the_principal_components(program, patches, samples):
    random = np.random.default_rng(0)
    noise = 0.01 * random.normal(size=(patches, samples))
    targets = sigmoid(random.normal(size=(patches, 4)) @ random.normal(size=(4, samples)) + noise)
    codes = program.start(targets, 4, 0)[0][:, :-1]
    np.testing.assert_allclose(codes.T @ codes, patches * np.eye(4), atol=1e-2)
    clipped = np.clip(targets, 0.02, 0.98)
    logits = np.log(clipped / (1 - clipped))
    left = np.linalg.svd(logits - logits.mean(axis=0), full_matrices=False)[0][:, :4]
    np.testing.assert_allclose(np.linalg.svd(left.T @ codes)[1], np.sqrt(patches), rtol=1e-2)  # the same space


def test_the_start_depends_on_the_seed_and_codes_are_no_longer_than_patches_have_samples(program):
    random = np.random.default_rng(0).random((100, 9))
    for targets in (random, np.full((100, 9), 0.3)):
        codes, decoder = program.start(targets, 20, 5)
        assert codes.shape == (100, 10) and decoder.shape == (10, 9) and np.isfinite(codes).all()
        assert np.array_equal(codes, program.start(targets, 20, 5)[0])
    assert not np.allclose(program.start(random, 4, 5)[0], program.start(random, 4, 6)[0])


# ------------------------------------------------------------------------ log and Ctrl-C

LINE = re.compile(r"epoch ( *\d+)/(\d+)  loss (\d\.\d{3}e[-+]\d\d)  PSNR (\d+\.\d\d) dB  (\d+\.\d\d) s, (\d+\.\d) s left")


@pytest.mark.parametrize("epochs, log_every, expected", [(12, 5, [5, 10, 12]), (10, 5, [5, 10]), (1, 7, [1])])
def test_a_line_every_log_every_epochs_and_at_the_last(program, capsys, epochs, log_every, expected):
    *_, losses = program.train(*problem(3, 35, 4), epochs, log_every=log_every)
    matches = [LINE.fullmatch(line) for line in capsys.readouterr().out.splitlines()]
    assert [int(match[1]) for match in matches] == expected
    assert {(len(match[1]), int(match[2])) for match in matches} == {(4, epochs)}
    for match in matches:
        loss = losses[int(match[1]) - 1]
        assert match[3] == f"{loss:.3e}" and match[4] == f"{-10 * np.log10(loss):.2f}"


def test_the_log_tells_the_time_that_has_gone_and_that_is_left(program, monkeypatch):
    lines = []
    monkeypatch.setattr(program, "say", lambda line: lines.append(line) or sleep(0.15))
    program.train(*problem(3, 35, 4), 5, log_every=1)
    for epoch, line in enumerate(lines, 1):
        seconds, left = map(float, LINE.fullmatch(line).group(5, 6))
        assert seconds >= 0.14 * (epoch - 1) and abs(left - seconds * (5 - epoch) / epoch) < 0.05 + 0.005 * 4 + 1e-6


@pytest.fixture
def ctrl_c_heard():
    """Ctrl-C isn't ignored, as it is in the jobs of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def train_and_press(program, monkeypatch, arrays, epochs, press, log_every=1):
    """Train, and call press() at the first line of the log: what `train` returns, and all lines."""
    lines = []
    late = monotonic() + 60

    def say(line):
        lines.append(line)
        if len(lines) == 1:
            press()
        assert monotonic() < late, "Ctrl-C had no effect"

    with monkeypatch.context() as patched:
        patched.setattr(program, "say", say)
        return *program.train(*arrays, epochs, log_every=log_every), lines


def test_ctrl_c_keeps_what_was_learned_and_says_after_which_epoch(program, monkeypatch, ctrl_c_heard):
    arrays = problem(3, 35, 4)
    expected = list(reference(*arrays, 10))[4]
    codes, decoder, losses, lines = train_and_press(
        program, monkeypatch, arrays, 10, lambda: signal.raise_signal(signal.SIGINT), log_every=5)
    assert len(losses) == 5 and lines[1:] == ["Ctrl-C: training ends after epoch 5"]
    np.testing.assert_allclose(codes, expected[0], atol=1e-3)
    np.testing.assert_allclose(decoder, expected[1], atol=1e-3)


@pytest.mark.skipif(os.name == "nt", reason="no signal can be sent to oneself here")
@pytest.mark.parametrize("patches, samples", [(3, 1000), (300, 64)])
def test_ctrl_c_at_any_moment_ends_training_between_two_epochs(program, monkeypatch, ctrl_c_heard, patches, samples):
    arrays = problem(patches, samples, 4)
    before = signal.getsignal(signal.SIGINT)
    for n in range(40):
        timer = threading.Timer(n * 5e-5, os.kill, (os.getpid(), signal.SIGINT))
        *learned, losses, lines = train_and_press(program, monkeypatch, arrays, 10**9, timer.start)
        assert lines[-1] == f"Ctrl-C: training ends after epoch {len(losses)}" and len(lines) == len(losses) + 1
        timer.join()
        if n % 8 == 0:  # the same epochs without haste
            *again, _, _ = train_and_press(
                program, monkeypatch, arrays, 10**9, lambda: signal.raise_signal(signal.SIGINT), log_every=len(losses))
            assert all(map(np.array_equal, learned, again))
        assert signal.getsignal(signal.SIGINT) is before


# ----------------------------------------------------------------------- threads, sigmoid

THREADS = """
import hashlib, sys
sys.path.insert(0, sys.argv[1])
import neural_compression as program
import numba, numpy as np
program.say = lambda line: None
for patches, width, height in ((3, 60, 50), (700, 4, 8), (64, 8, 8)):
    pictures = [np.random.default_rng(0).integers(0, 256, (height * patches, width), np.uint8)]
    targets = program.cut(pictures, width, height)
    codes, decoder, losses = program.train(targets, *program.start(targets, 12, 0), 30)
    content = program.compress(pictures, codes, decoder, width, height, 14)
    print(hashlib.sha256(codes.tobytes() + decoder.tobytes()).hexdigest(), losses[-1], hashlib.sha256(content).hexdigest())
print(numba.get_num_threads(), file=sys.stderr)
"""


def test_the_number_of_threads_changes_no_byte(program):
    """Neither of what is learned nor of the file; more samples than patches, fewer, equally many; whatever is set for BLAS."""
    for part in program.PARTS:  # so that all three load their machine code: what a process has compiled can differ a little
        program.rehearse(part)
    command, outputs = [sys.executable, "-c", THREADS, str(SCRIPT.parent)], []
    processes = [start(command, {"NUMBA_NUM_THREADS": n, "OPENBLAS_NUM_THREADS": n}) for n in "123"]
    for threads, process in zip("123", processes):
        status, output, errors = finish(process)
        assert status == 0 and errors.split() == [threads], errors
        outputs.append(output)
    assert len(set(outputs)) == 1 and len(set(outputs[0].split())) == 9


def test_sigmoid_within_1e_6(program):
    z = np.float32(np.concatenate([np.linspace(-40, 40, 100_001), [-1e30, 1e30, 0]]))
    of_one = program.sigmoid

    @numba.njit(fastmath=True, error_model="numpy")
    def apply(z, out):
        for n in range(z.size):
            out[n] = of_one(z[n])

    out = np.empty_like(z)
    apply(z, out)
    with np.errstate(over="ignore"):
        assert np.abs(out - sigmoid(z.astype(float))).max() < 1e-6
    assert out[-1] == 0.5 and out.min() > -2e-7 and out.max() < 1 + 2e-7
