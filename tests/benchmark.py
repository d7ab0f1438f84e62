"""How fast training is, next to the same work in NumPy, PyTorch and JAX (where installed), and next to the memory.

    python tests/benchmark.py            all tables (some 20 minutes on 2 cores)
    python tests/benchmark.py WORD       only those with WORD in their name: epoch, scale, threads, startup, memory, largest

Contenders take turns, since a shared machine drifts: each figure is the median over the rounds, with the range behind
it, and ratios are taken round by round. Needs tests/requirements.txt, and torch and jax for the peers. The largest case
takes 20 GB of memory.
"""

import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np

from conftest import SCRIPT, edit

import neural_compression as nc  # conftest has put its folder on the path

ROUNDS = 7


def pictures(side, images=3):
    """The three patterns of the default run, over and over; uint8 (images, side * side)."""
    drawn = nc.radial, partial(nc.sine, frequency=40), partial(nc.checkerboard, squares=16)
    three = np.stack([nc.draw(pattern, side, side).ravel() for pattern in drawn])
    return three[np.arange(images) % 3]


# ---------------------------------------------------------------- contenders: each a function that trains for n epochs


def this_program(samples, latent_dim):
    codes, decoder = nc.start(*samples.shape, latent_dim, seed=0)
    steps = nc.train(samples, [255] * len(samples), codes, decoder, 10**9, 1.0)

    def run(epochs):
        for _ in range(epochs):
            next(steps)

    return run


RATE, FIRST, SECOND, TINY = 0.01, 0.9, 0.95, 1e-8  # of the peers' Adam


def initial(samples, latent_dim):
    """Targets, codes, weights and bias, float32."""
    random = np.random.default_rng(0)
    images, pixels = samples.shape
    codes = random.standard_normal((images, latent_dim), np.float32)
    weights = random.standard_normal((latent_dim, pixels), np.float32) / 10
    return samples.astype(np.float32) / 255, codes, weights, np.zeros(pixels, np.float32)


def numpy_peer(samples, latent_dim):
    targets, *state = initial(samples, latent_dim)
    firsts, seconds = ([np.zeros_like(part) for part in state] for _ in range(2))
    done = 0

    def run(epochs):
        nonlocal done
        for _ in range(epochs):
            done += 1
            codes, weights, bias = state
            output = 1 / (1 + np.exp(-(codes @ weights + bias)))
            delta = (output - targets) * output * (1 - output)
            for part, first, second, gradient in zip(state, firsts, seconds, (delta @ weights.T, codes.T @ delta, delta.sum(0))):
                first += (1 - FIRST) * (gradient - first)
                second += (1 - SECOND) * (gradient * gradient - second)
                part -= RATE / (1 - FIRST**done) * first / (np.sqrt(second / (1 - SECOND**done)) + TINY)

    return run


def torch_peer(samples, latent_dim):
    import torch

    targets, *state = map(torch.tensor, initial(samples, latent_dim))
    codes, weights, bias = state = [part.requires_grad_() for part in state]
    optimiser = torch.optim.Adam(state, lr=RATE, betas=(FIRST, SECOND), eps=TINY, fused=True)

    def run(epochs):
        for _ in range(epochs):
            optimiser.zero_grad()
            torch.nn.functional.mse_loss(torch.sigmoid(torch.addmm(bias, codes, weights)), targets).backward()
            optimiser.step()

    return run


def jax_peer(samples, latent_dim):
    import jax
    import jax.numpy as jnp

    targets, *start = map(jnp.asarray, initial(samples, latent_dim))

    def loss(parts):
        codes, weights, bias = parts
        return jnp.mean((jax.nn.sigmoid(codes @ weights + bias) - targets) ** 2)

    def step(state):
        done, parts, firsts, seconds = state
        done += 1
        gradients = jax.grad(loss)(parts)
        firsts = [FIRST * first + (1 - FIRST) * gradient for first, gradient in zip(firsts, gradients)]
        seconds = [SECOND * second + (1 - SECOND) * gradient**2 for second, gradient in zip(seconds, gradients)]
        parts = [
            part - RATE * first / (1 - FIRST**done) / (jnp.sqrt(second / (1 - SECOND**done)) + TINY)
            for part, first, second in zip(parts, firsts, seconds)
        ]
        return done, parts, firsts, seconds

    step = jax.jit(step, donate_argnums=0)
    zeros = [[jnp.zeros_like(part) for part in start] for _ in range(2)]
    state = jnp.float32(0), start, *zeros

    def run(epochs):
        nonlocal state
        for _ in range(epochs):
            state = step(state)
        jax.block_until_ready(state)

    return run


@nc.njit(parallel=True, fastmath=True)
def touch(a, b, c):
    """Read and write three arrays once: what Adam has to do at the least with a weight and its two moments."""
    factor = np.float32(0.999)
    for n in nc.prange(a.size):
        a[n] *= factor
        b[n] *= factor
        c[n] *= factor


def memory_floor(samples, latent_dim):
    arrays = [np.ones((latent_dim + 1) * samples.shape[1], np.float32) for _ in range(3)]

    def run(epochs):
        for _ in range(epochs):
            touch(*arrays)

    return run


# ---------------------------------------------------------------- tables


def in_turns(contenders, seconds=0.4):
    """Milliseconds an epoch of each contender, a list over the rounds; every contender once a round."""
    epochs = {}
    for name, run in contenders.items():
        run(2)
        began = time.perf_counter()
        run(3)
        epochs[name] = max(3, int(seconds * 3 / (time.perf_counter() - began)))
    times = {name: [] for name in contenders}
    for _ in range(ROUNDS):
        for name, run in contenders.items():
            began = time.perf_counter()
            run(epochs[name])
            times[name].append(1e3 * (time.perf_counter() - began) / epochs[name])
    return times


def spread(values, digits=3):
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def ratios(over, under):
    return spread([a / b for a, b in zip(over, under)], 2)


def table_epoch():
    """Milliseconds an epoch; behind each peer, how many times as long as this program it takes."""
    for side, latent_dim in ((256, 16), (256, 327), (64, 16), (1024, 16)):
        samples = pictures(side)
        contenders = {"this program": this_program(samples, latent_dim), "floor of Adam": memory_floor(samples, latent_dim)}
        for name, peer in (("NumPy", numpy_peer), ("PyTorch", torch_peer), ("JAX", jax_peer)):
            try:
                contenders[name] = peer(samples, latent_dim)
            except ImportError:
                print(f"{name} is not installed")
        times = in_turns(contenders)
        print(f"{side} x {side}, latent_dim {latent_dim}")
        for name, values in times.items():
            print(f"  {name:14}{spread(values):>28} ms   x {ratios(values, times['this program'])}")
        moved = 8 * (latent_dim + 1) * side * side + samples.size * 9 + 8 * side * side  # bytes an epoch has to move
        rate = [moved / ms / 1e6 for ms in times["this program"]]
        floor = [24 * (latent_dim + 1) * side * side / ms / 1e6 for ms in times["floor of Adam"]]
        print(f"  memory: {spread(rate, 1)} GB/s of {spread(floor, 1)}: share {ratios(rate, floor)}")


CASES = [
    *((side, 16, 3) for side in (128, 256, 512, 1024)),
    *((256, latent_dim, 3) for latent_dim in (32, 64, 128, 327)),
    *((256, 16, images) for images in (10, 30, 100, 300)),
    (512, 64, 30),
]


def predicted(pixels, latent_dim, images):
    """Milliseconds an epoch on the machine of the README, by the formula there (fitted to two runs of `table_scale`)."""
    state = 4 * latent_dim + 5 * images + 8  # bytes a pixel: weights, bias, moments, samples
    nanoseconds = 0.9 + images * (0.35 + 0.1 * latent_dim) + 0.023 * state * (pixels * state > 16e6)
    return 0.045 + 1e-6 * pixels * nanoseconds


def table_scale():
    """Time over work, which is pixels x latent_dim x images, and time next to the README's formula."""
    runs = {case: this_program(pictures(case[0], case[2]), case[1]) for case in CASES}
    times = in_turns(runs, seconds=0.3)
    unit = {(n, *by): 1e6 * statistics.median(values) / (n * n * by[0] * by[1]) for (n, *by), values in times.items()}
    print("  side  latent_dim  images         ms an epoch           ns by work   formula ms   measured / formula")
    for case, values in times.items():
        guess = predicted(case[0] ** 2, *case[1:])
        measured = statistics.median(values)
        print(f"{case[0]:6}{case[1]:12}{case[2]:8}{spread(values):>30}{unit[case]:13.3f}{guess:13.3f}{measured / guess:14.2f}")
    for axis, name in enumerate(("side", "latent_dim", "images")):
        line = [unit[case] for case in CASES if all(case[n] == (256, 16, 3)[n] for n in range(3) if n != axis)]
        print(f"  time over work along {name}: largest / smallest {max(line) / min(line):.2f}")


def table_threads():
    """Two threads against one; and the same bytes for 1, 2, 3 and 8."""
    run = this_program(pictures(256), 16)
    most = nc.numba.get_num_threads()

    def with_threads(count, epochs):
        nc.numba.set_num_threads(count)
        run(epochs)
        nc.numba.set_num_threads(most)

    times = in_turns({count: partial(with_threads, count) for count in (1, 2) if count <= most})
    for count, values in times.items():
        print(f"  {count} threads {spread(values)} ms, 1 thread is x {ratios(times[1], values)}")
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(SCRIPT, folder)
        outputs = []
        for count in (1, 2, 3, 8):
            whole_process([f"{folder}/{SCRIPT.name}"], NUMBA_NUM_THREADS=str(count))
            outputs.append({path.name: path.read_bytes() for path in Path(folder, "outputs").iterdir()})
        print(f"  same bytes for 1, 2, 3 and 8 threads: {all(output == outputs[0] for output in outputs)}")


def whole_process(arguments, python=sys.executable, **environment):
    """Seconds that a Python process takes from start to end."""
    began = time.perf_counter()
    subprocess.run([python, *arguments], check=True, stdout=subprocess.DEVNULL, env={**os.environ, **environment})
    return time.perf_counter() - began


FIRST_CALLS = """
import sys, time
import numpy as np
from numba import njit, prange

@njit(parallel=True)
def trivial(a):
    for n in prange(a.size):
        a[n] *= np.float32(0.5)

sys.path.insert(0, sys.argv[1])
import neural_compression as nc

def ours():
    list(nc.train(np.zeros((1, 1), np.uint8), [1], *nc.start(1, 1, 1, 0), epochs=1, learning_rate=1.0))

for call in (lambda: trivial(np.ones(9, np.float32)), ours) if sys.argv[2] == "trivial first" else (ours,):
    began = time.perf_counter()
    call()
    print(time.perf_counter() - began)
"""


def table_startup():
    """First call and whole process, with kernels to compile and from the cache.

    In an environment of requirements.txt alone, as the README's first command makes it: where SciPy is installed, numba
    imports it, and that takes longer than the training kernels.
    """
    environment = tempfile.TemporaryDirectory()
    subprocess.run([sys.executable, "-m", "venv", environment.name], check=True)
    python = f"{environment.name}/bin/python"
    install = [python, "-m", "pip", "install", "-q", "-r", str(SCRIPT.parent / "requirements.txt")]
    subprocess.run(install, check=True, stderr=subprocess.DEVNULL)
    trivial, cold, cached = [], [], []
    whole = {"cold": [], "cached": [], "PyTorch": []}
    torch = [__file__, "peer-process"]
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(SCRIPT, folder)

            def first_calls(order, folder=folder):
                done = subprocess.run([python, "-c", FIRST_CALLS, folder, order], check=True, capture_output=True, text=True)
                return [float(line) for line in done.stdout.split()]

            one, two = first_calls("trivial first")
            trivial.append(one)
            cold.append(two)
            cached.append(*first_calls("ours alone"))
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(SCRIPT, folder)
            whole["cold"].append(whole_process([f"{folder}/{SCRIPT.name}"], python))
            whole["cached"].append(whole_process([f"{folder}/{SCRIPT.name}"], python))
            try:
                whole["PyTorch"].append(whole_process(torch))
            except subprocess.CalledProcessError:
                print("PyTorch is not installed")
    print(f"  first call, trivial prange kernel {spread(trivial, 2)} s")
    print(f"  first call, this program, cold    {spread(cold, 2)} s, x {ratios(cold, trivial)}")
    print(f"  first call, from the cache        {spread(cached, 2)} s")
    environment.cleanup()
    for name, values in whole.items():
        if values:
            over = f", x {ratios(values, whole['PyTorch'])} of PyTorch's" if whole["PyTorch"] else ""
            print(f"  whole process, {name:8} {spread(values, 2)} s{over}")


def whole_program(side, latent_dim, images, epochs):
    """Output of the program with these constants, the seconds that it took, and the bytes of memory at its peak."""
    names = (("radial", "sine", "checkerboard") * images)[:images]
    with tempfile.TemporaryDirectory() as folder:
        script = edit(Path(folder), WIDTH=side, HEIGHT=side, LATENT_DIM=latent_dim, IMAGES=names, EPOCHS=epochs)
        began = time.perf_counter()
        process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        assert status == 0
        return output, time.perf_counter() - began, 1024 * usage.ru_maxrss


def table_memory():
    """Memory at the peak of the whole program, next to the README's formula."""
    for case in ((256, 16, 3), (256, 16, 300), (1024, 16, 3), (512, 64, 30), (256, 327, 3), (1024, 64, 3), (2048, 64, 3)):
        side, latent_dim, images = case
        allowed = nc.memory_needed(images, side * side, latent_dim)  # with 16 bytes a sample; 10 do if it has 8 bits
        gigabytes, guess = whole_program(*case, epochs=2)[2] / 1e9, 0.15 + (allowed - 6 * images * side * side) / 1e9
        print(f"{side:6}{latent_dim:5}{images:5}{gigabytes:8.2f} GB, formula {guess:.2f}, ratio {gigabytes / guess:.2f}")


def table_largest():
    """The largest case: the whole program on 8 images of 4096 x 4096 pixels at latent_dim 64, 300 epochs."""
    output, seconds, peak = whole_program(4096, 64, 8, epochs=300)
    print(re.sub(r"(?m)^epoch +(?!300)\d+/.*\n", "", output), f"{seconds:.0f} s, {peak / 1e9:.1f} GB")


if __name__ == "__main__":
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    if word == "peer-process":
        torch_peer(pictures(256), 16)(1000)
    else:
        for name, table in list(globals().items()):
            if name.startswith("table_") and word in name:
                print(f"\n{name[6:]}: {table.__doc__.splitlines()[0]}", flush=True)
                table()
