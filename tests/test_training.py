"""The reference is training in plain float64 NumPy, textbook style. The program has to learn the same.

Read it first: it says in 30 lines what the program does in its kernels.
"""

import os
import re
import signal
import sys
import threading
from time import monotonic

import numba
import numpy as np
import pytest
from conftest import SCRIPT, finish, photograph, start


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
    learning_rate *= min(1, 20 * np.sqrt(np.mean((targets - 0.5) ** 2)))  # grey pictures: small steps
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


def problem(patches, samples, latent_dim, contrast=1.0):
    """Targets, and codes and decoder to start from, all random."""
    random = np.random.default_rng(3)
    targets = 0.5 + contrast * (random.integers(0, 256, (patches, samples)) / 255 - 0.5)
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


@pytest.mark.parametrize("patches, samples", [(40, 9), (9, 40)])
@pytest.mark.parametrize("contrast", [0.2, 0.05, 0.01])
def test_steps_are_smaller_where_all_is_nearly_grey(program, patches, samples, contrast):
    targets, codes, decoder = problem(patches, samples, 3, contrast)
    *_, (expected_codes, expected_decoder, _) = reference(targets, codes, decoder, 10)
    learned_codes, learned_decoder, _ = program.train(targets, codes, decoder, 10)
    np.testing.assert_allclose(learned_codes, expected_codes, atol=3e-3)
    np.testing.assert_allclose(learned_decoder, expected_decoder, atol=3e-3)


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("epochs", [5, 10, 20])
def test_few_epochs_on_nearly_grey_pictures_do_no_harm(program, size, epochs):
    y, x = np.mgrid[:24, :24]
    for picture in (128 + 2 * np.sin(x / 9 + y / 13), np.random.default_rng(0).integers(126, 131, (24, 24))):
        targets, gain = program.cut([np.uint8(picture)], size, size)
        codes, decoder, losses = program.train(targets, *program.start(targets, 16, 0), epochs, gain=gain)
        assert np.mean((sigmoid(np.float64(codes) @ decoder) - targets) ** 2) <= losses[0]


@pytest.mark.parametrize("shape, latent_dim", [((96, 128), 4), ((96, 128), 16), ((96, 120, 3), 8)])
def test_the_psnr_in_the_log_is_that_of_lapped_pictures(program, capsys, shape, latent_dim):
    picture = photograph(*shape)
    targets, gain = program.cut([picture], 8, 8)
    codes, decoder, losses = program.train(targets, *program.start(targets, latent_dim, 0), 100, gain=gain)
    output = program.assemble(np.float64(codes) @ decoder, [picture.shape], 8, 8, True)[0]
    psnr = -10 * np.log10(np.mean((picture / 255 - np.clip(output, 0, 1)) ** 2))
    assert gain > 1 and psnr < 40
    assert abs(float(LINE.search(capsys.readouterr().out.splitlines()[-1])[4]) - psnr) < 0.2
    assert abs(-10 * np.log10(losses[-1]) - psnr) < 0.2


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
    for number in (1, np.float64(1), np.float32(1)):
        program.train(*problem(40, 5, 3), np.int64(5), learning_rate=number, log_every=np.uint8(5), gain=number)
    assert [len(kernel.signatures) for kernel in program.KERNELS] == compiled  # nothing had to be compiled again


def refused(call):
    """The message of the ValueError that a call raises: one line."""
    with pytest.raises(ValueError) as error, np.errstate(all="ignore"):
        pytest.fail(f"was taken: {call()}")
    assert "\n" not in str(error.value)
    return str(error.value)


MODEL = problem(5, 40, 3)
PICTURE = np.uint8(np.rint(255 * MODEL[0].reshape(5, 8, 5).swapaxes(0, 1).reshape(8, 25)))  # five patches of 5 x 8


def put(array, place, value):
    changed = array.copy()
    changed[place] = value
    return changed


UNFIT = {
    "a code too few": lambda t, c, d: (t, c[:4], d),
    "a row of the decoder too few": lambda t, c, d: (t, c, d[:3]),
    "a sample too few": lambda t, c, d: (t, c, d[:, :39]),
    "codes that are numbers": lambda t, c, d: (t, c[:, 0], d),
    "a decoder of pictures": lambda t, c, d: (t, c, d.reshape(4, 5, 8)),
    "nothing": lambda t, c, d: (t, None, None),
    "no columns": lambda t, c, d: (t, c[:, :0], d[:0]),
    "only the 1": lambda t, c, d: (t, c[:, 3:], d[3:]),
    "no 1": lambda t, c, d: (t, c[:, :3], d[:3]),
    "a 2 for the 1": lambda t, c, d: (t, put(c, (4, 3), 2), d),
    "NaN for the 1": lambda t, c, d: (t, put(c, (0, 3), np.nan), d),
}


@pytest.mark.parametrize("name", UNFIT)
def test_arrays_that_do_not_fit_together_are_a_value_error(program, name):
    targets, codes, decoder = UNFIT[name](*MODEL)
    for call in (lambda: program.train(targets, codes, decoder, 1), lambda: program.compress([PICTURE], codes, decoder, 5, 8)):
        assert re.match(r"((targets, )?codes and decoder|codes) have to \w", refused(call))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e7, -1e7, 1e300])
@pytest.mark.parametrize("side", ["codes", "decoder"])
@pytest.mark.parametrize("place", [(0, 0), (3, 2)])
def test_codes_and_decoders_that_are_not_finite_or_huge_are_a_value_error(program, side, place, value):
    targets, codes, decoder = MODEL
    codes, decoder = (put(codes, place, value), decoder) if side == "codes" else (codes, put(decoder, place, value))
    for call in (lambda: program.train(targets, codes, decoder, 1), lambda: program.compress([PICTURE], codes, decoder, 5, 8)):
        assert refused(call).startswith("codes and decoder have to be finite")


def test_what_cannot_be_used_is_a_value_error_that_names_what_is_wanted(program):
    targets, codes, decoder = MODEL
    whole, number = "{}: has to be a whole number from 1 to", "{}: has to be a number from"

    def trained(*rest, **named):
        return lambda: program.train(targets, codes, decoder, *rest, **named)

    def compressed(pictures, width, height, *rest):
        return lambda: program.compress(pictures, codes, decoder, width, height, *rest)

    cases = [("targets have to be a matrix of numbers from 0 to 1", lambda bad=bad: program.train(bad, codes, decoder, 1))
             for bad in (255 * targets, -targets, put(targets, (2, 3), np.nan), put(targets, (2, 3), 1.001))]
    cases += [("targets", lambda n=n: program.train(targets[:n], codes[:n], decoder[:, n:], 1))
              for n in (0, 4)]
    cases += [(whole.format("epochs"), trained(bad)) for bad in (0, -1, 1.5, 3.0, True, None, "3", np.nan, 10**400)]
    cases += [(whole.format("log_every"), trained(1, log_every=bad)) for bad in (0, 1.5, True)]
    cases += [(number.format("learning_rate"), trained(1, bad))
              for bad in (0, -1, np.nan, np.inf, True, 10**400, None, "1", 2.001, np.float32(np.nan))]
    cases += [(number.format("target_psnr"), compressed([PICTURE], 5, 8, bad))
              for bad in (0, 101, np.nan, np.inf, True, 10**400, "30")]
    cases += [("pictures have to be", compressed(PICTURE, 5, 8)),  # an array, not a list of arrays
              ("pictures have to be", compressed([PICTURE / 255], 5, 8)),
              (whole.format("width"), compressed([PICTURE], 5.0, 8)), (whole.format("height"), compressed([PICTURE], 5, 0)),
              ("targets, codes and decoder have to fit together", compressed([PICTURE], 8, 5)),
              ("targets, codes and decoder have to fit together", compressed([PICTURE[:, 5:]], 5, 8))]
    cases += [(whole.format("latent_dim"), lambda bad=bad: program.start(targets, bad, 0)) for bad in (0, -1, 2.5, True, "2")]
    cases += [("content has to be the bytes", lambda bad=bad: program.decompress(bad)) for bad in ("name", None, 5, [1, 2])]
    for words, call in cases:
        assert refused(call).startswith(words)


def test_numbers_of_numpy_are_taken_like_those_of_python(program):
    eight, five = np.int64(8), np.int32(5)
    assert np.array_equal(program.cut([PICTURE], five, eight)[0], program.cut([PICTURE], 5, 8)[0])
    assert np.array_equal(program.start(MODEL[0], np.int32(2), np.int64(1))[0], program.start(MODEL[0], 2, 1)[0])
    content = program.compress([PICTURE], *MODEL[1:], five, eight, np.float32(8))
    assert content == program.compress([PICTURE], *MODEL[1:], 5, 8, 8)
    assert program.decompress(bytearray(content))[0].shape == PICTURE.shape


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
    assert np.array_equal(codes[:, :-1], 16 * np.eye(patches))


@pytest.mark.parametrize("patches, samples", [(200, 30), (30, 200)])
def test_without_room_the_codes_are_the_principal_components(program, patches, samples):
    random = np.random.default_rng(0)
    noise = 0.01 * random.normal(size=(patches, samples))
    targets = sigmoid(random.normal(size=(patches, 4)) @ random.normal(size=(4, samples)) + noise)
    codes = program.start(targets, 4, 0)[0][:, :-1]
    np.testing.assert_allclose(codes.T @ codes / patches, np.eye(4), atol=0.02)
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


@pytest.mark.parametrize("patches, samples", [(100, 9), (100, 120)])
def test_the_seed_adds_a_little_noise_to_the_start(program, patches, samples):
    targets = np.random.default_rng(0).random((patches, samples))
    starts = [program.start(targets, 4, seed)[0][:, :-1] for seed in (5, 6)]
    plain = [codes - 0.01 * np.random.default_rng(seed).normal(size=codes.shape) for seed, codes in zip((5, 6), starts)]
    np.testing.assert_allclose(*plain, atol=1e-9)
    assert np.ptp(plain[0]) > 1 and 0.01 < np.std(starts[0] - starts[1]) < 0.02


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


def test_the_log_tells_the_time_that_has_gone_and_that_is_left_without_compiling(program, monkeypatch):
    lines, clock = [], [7.0]

    def wait(seconds):
        clock[0] += seconds

    monkeypatch.setattr(program, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(program, "load_kernels", lambda: wait(100))
    monkeypatch.setattr(program, "say", lambda line: lines.append(line) or wait(1.5))
    program.train(*problem(3, 35, 4), 4, log_every=1)
    assert [LINE.fullmatch(line).group(5, 6) for line in lines] == [
        ("0.00", "0.0"), ("1.50", "1.5"), ("3.00", "1.0"), ("4.50", "0.0")]


@pytest.fixture
def on_ctrl_c(program, monkeypatch):
    """Function that sets what Ctrl-C does. At first nothing has been pressed, and Ctrl-C raises KeyboardInterrupt."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(program, "PRESSES", [])
    yield lambda handler: signal.signal(signal.SIGINT, handler)
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
        try:
            return *program.train(*arrays, epochs, log_every=log_every), lines
        except KeyboardInterrupt:  # would end pytest
            pytest.fail("what was learned is lost")


def epochs_without_haste(program, monkeypatch, arrays, epochs, count):
    """Codes and decoder after the first `count` of so many epochs."""
    with monkeypatch.context() as patched:
        patched.setattr(program, "PRESSES", [])
        note = program.PRESSES.append
        return train_and_press(program, monkeypatch, arrays, epochs, lambda: note(signal.SIGINT), log_every=count)[:2]


def test_a_press_that_was_noted_ends_training_and_a_line_says_after_which_epoch(program, monkeypatch, on_ctrl_c):
    arrays = problem(3, 35, 4)
    expected = list(reference(*arrays, 10))[4]
    codes, decoder, losses, lines = train_and_press(
        program, monkeypatch, arrays, 10, lambda: program.PRESSES.append(signal.SIGINT), log_every=5)
    assert len(losses) == 5 and lines[1:] == ["Ctrl-C: training ends after epoch 5"]
    np.testing.assert_allclose(codes, expected[0], atol=1e-3)
    np.testing.assert_allclose(decoder, expected[1], atol=1e-3)


def test_a_keyboard_interrupt_keeps_what_was_learned(program, monkeypatch, on_ctrl_c):
    """As in a notebook, where Ctrl-C isn't the program's: training leaves it alone."""
    arrays = problem(3, 35, 4)

    def press():
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        signal.raise_signal(signal.SIGINT)

    *learned, losses, lines = train_and_press(program, monkeypatch, arrays, 10, press, log_every=5)
    assert len(losses) == 5 and len(lines) == 1
    assert all(map(np.array_equal, learned, epochs_without_haste(program, monkeypatch, arrays, 10, 5)))


@pytest.mark.skipif(os.name == "nt", reason="no signal can be sent to oneself here")
@pytest.mark.parametrize("noted", [True, False])
@pytest.mark.parametrize("patches, samples", [(3, 1000), (300, 64)])
def test_ctrl_c_at_any_moment_ends_training_between_two_epochs(program, monkeypatch, on_ctrl_c, patches, samples, noted):
    arrays = problem(patches, samples, 4)
    if noted:
        on_ctrl_c(program.note_ctrl_c)
    for n in range(40):
        program.PRESSES.clear()
        timer = threading.Timer(n * 5e-5, os.kill, (os.getpid(), signal.SIGINT))
        *learned, losses, lines = train_and_press(program, monkeypatch, arrays, 10**9, timer.start)
        timer.join()
        if noted:
            assert lines.pop() == f"Ctrl-C: training ends after epoch {len(losses)}"
        assert len(lines) in (len(losses), len(losses) if noted else len(losses) - 1)
        if n % 8 == 0:  # a KeyboardInterrupt can come between the end of an epoch and its loss
            counts = [len(losses)] if noted else [len(losses), len(losses) + 1]
            again = [epochs_without_haste(program, monkeypatch, arrays, 10**9, count) for count in counts]
            assert any(all(map(np.array_equal, learned, each)) for each in again)


# ----------------------------------------------------------------------- threads, sigmoid

THREADS = """
import numpy as np  # first, and so before the program asks for one BLAS thread
import hashlib, sys
sys.path.insert(0, sys.argv[1])
import neural_compression as program
from numba import get_num_threads
from threadpoolctl import threadpool_info
lines = []
program.say = lines.append
random = np.random.default_rng(0)
cases = (3, 12, 60, 50), (300, 12, 4, 8), (64, 12, 8, 8), (200, 12, 8, 8, 3), (100, 12, 12, 12), (120, 100, 12, 12), (300, 96, 8, 8, 3)
for patches, latent_dim, width, height, *colour in cases:
    waves = np.sin(np.arange(height * patches)[:, None] / 7 + np.arange(width) / 5)
    picture = random.integers(0, 40, (height * patches, width, *colour)) + 100 + 60 * waves.reshape(*waves.shape, *colour and [1])
    pictures = [np.uint8(picture)]
    targets, gain = program.cut(pictures, width, height)
    codes, decoder, losses = program.train(targets, *program.start(targets, latent_dim, 0), 20, gain=gain)
    content = program.compress(pictures, codes, decoder, width, height, 27)
    for part in (codes.tobytes(), decoder.tobytes(), repr(losses).encode(), content):
        print(hashlib.sha256(part).hexdigest())
assert "compiling ..." not in lines
blas = {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}
print(get_num_threads(), *blas, file=sys.stderr)
"""


def test_the_number_of_threads_changes_no_byte(program):
    """Neither of what is learned nor of the file: more samples than patches, fewer, equally many; in colour; lapped or not."""
    program.load_kernels()  # so that all three load its machine code: what a process has compiled can differ a little
    command, outputs = [sys.executable, "-c", THREADS, str(SCRIPT.parent)], []
    settings = [("1", "2"), ("2", "1"), ("3", "2")]
    processes = [start(command, {"NUMBA_NUM_THREADS": n, "OPENBLAS_NUM_THREADS": blas}) for n, blas in settings]
    for (threads, _), process in zip(settings, processes):
        status, output, errors = finish(process)
        assert status == 0 and errors.split()[0] == threads, errors
        outputs.append(output)
    assert len(set(outputs)) == 1 and len(set(outputs[0].split())) == 28


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


def test_ctrl_c_before_the_first_epoch_is_not_taken_for_the_end_of_training(program, monkeypatch):
    """As in a notebook, while it compiles."""
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(program, "train_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        program.train(np.full((2, 2), 0.4), np.ones((2, 2)), np.ones((2, 2)), 5)
