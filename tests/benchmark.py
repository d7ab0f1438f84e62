"""How fast training is, next to the same work in C++, PyTorch, JAX and NumPy, and what a run takes.

    python tests/benchmark.py                    all tables
    python tests/benchmark.py WORD               only those with WORD in their name: epoch, startup, threads, compress
    python tests/benchmark.py WORD --against OLD.py    next to an older version of the script

Contenders take turns, since a shared machine drifts: each figure is the median over the rounds, with the range
behind it, and ratios are taken round by round. Each contender is a process of its own. Needs
tests/requirements.txt; torch, jax and g++ are left out if they aren't there.
"""

import functools
import importlib.util
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SCRIPT = Path(__file__).resolve().parent.parent / "neural_compression.py"
AGAINST = sys.argv[sys.argv.index("--against") + 1] if "--against" in sys.argv else None
ROUNDS = 7
PLAIN = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OPENBLAS_NUM_THREADS")}
TEMPORARY = tempfile.TemporaryDirectory()  # goes when the benchmark ends
RATE, FIRST, SECOND, TINY = 0.01, 0.9, 0.95, 1e-8  # of the peers' Adam
CASES = (256, 16, 3), (256, 327, 3), (64, 16, 3), (1024, 16, 3), (256, 16, 100), (8, 32, 6144)


def module(path):
    """A version of the script as a module, silent."""
    spec = importlib.util.spec_from_file_location("version", path)
    version = importlib.util.module_from_spec(spec)
    sys.modules["version"] = version
    spec.loader.exec_module(version)
    version.say = lambda line: None
    version.load_kernels()
    return version


def samples(side, patches):
    """Targets of a case: random but smooth patches if 8 x 8, otherwise three pictures over and over."""
    random, (y, x) = np.random.default_rng(0), np.mgrid[0:side, 0:side] / side
    if side == 8:
        return np.float32(np.clip(0.5 + random.normal(size=(patches, 12)) @ random.normal(size=(12, 64)) / 20, 0, 1))
    pictures = np.stack([x, (1 + np.sin(40 * x) * np.sin(40 * y)) / 2, (8 * x + 8 * y) % 1]).reshape(3, -1)
    return np.float32(pictures[np.arange(patches) % 3])


# Each contender takes targets, float32 (patches, pixels), and latent_dim, and returns a function that trains for some epochs
# and may return milliseconds per epoch.


def this_program(targets, latent_dim, path=SCRIPT):
    """By its log: without the first tenth of the epochs."""
    version, seen = module(path), []
    version.say = lambda line: seen.append(time.perf_counter())
    start = version.start(targets, latent_dim, 0)

    def run(epochs):
        seen.clear()
        every = max(1, epochs // 10)
        version.train(targets, *start, epochs, 1.0, every)
        return 1e3 * (seen[-1] - seen[0]) / (epochs - every)

    return run


def initial(targets, latent_dim):
    """Targets, codes, weights and bias, float32."""
    codes = np.random.default_rng(0).standard_normal((len(targets), latent_dim), np.float32)
    weights = np.random.default_rng(1).standard_normal((latent_dim, targets.shape[1]), np.float32) / 10
    return targets, codes, weights, np.zeros(targets.shape[1], np.float32)


def numpy_peer(targets, latent_dim):
    targets, *state = initial(targets, latent_dim)
    firsts, seconds = [np.zeros_like(part) for part in state], [np.zeros_like(part) for part in state]

    def train(epochs):
        for epoch in range(1, epochs + 1):
            codes, weights, bias = state
            output = 1 / (1 + np.exp(-(codes @ weights + bias)))
            delta = (output - targets) * output * (1 - output)
            gradients = delta @ weights.T, codes.T @ delta, delta.sum(0)
            for part, first, second, gradient in zip(state, firsts, seconds, gradients):
                first += (1 - FIRST) * (gradient - first)
                second += (1 - SECOND) * (gradient * gradient - second)
                part -= RATE / (1 - FIRST**epoch) * first / (np.sqrt(second / (1 - SECOND**epoch)) + TINY)

    return train


def torch_peer(targets, latent_dim):
    import torch

    targets, *state = map(torch.tensor, initial(targets, latent_dim))
    codes, weights, bias = state = [part.requires_grad_() for part in state]
    optimiser = torch.optim.Adam(state, lr=RATE, betas=(FIRST, SECOND), eps=TINY, fused=True)

    def train(epochs):
        for _ in range(epochs):
            optimiser.zero_grad()
            output = torch.sigmoid(torch.addmm(bias, codes, weights))
            torch.nn.functional.mse_loss(output, targets).backward()
            optimiser.step()

    return train


def jax_peer(targets, latent_dim):
    import jax
    import jax.numpy as jnp

    targets, *start = map(jnp.asarray, initial(targets, latent_dim))

    def loss(parts):
        codes, weights, bias = parts
        return jnp.mean((jax.nn.sigmoid(codes @ weights + bias) - targets) ** 2)

    def step(state):
        done, parts, firsts, seconds = state
        done += 1
        gradients = jax.grad(loss)(parts)
        firsts = [FIRST * a + (1 - FIRST) * b for a, b in zip(firsts, gradients)]
        seconds = [SECOND * a + (1 - SECOND) * b**2 for a, b in zip(seconds, gradients)]
        parts = [
            part - RATE * a / (1 - FIRST**done) / (jnp.sqrt(b / (1 - SECOND**done)) + TINY)
            for part, a, b in zip(parts, firsts, seconds)
        ]
        return done, parts, firsts, seconds

    step = jax.jit(step, donate_argnums=0)
    state = [jnp.float32(0), start, *([jnp.zeros_like(part) for part in start] for _ in range(2))]

    def train(epochs):
        nonlocal state
        for _ in range(epochs):
            state = step(state)
        jax.block_until_ready(state)

    return train


def cpp(targets, latent_dim):
    """tests/training.cpp, built once, on what `start` gives."""
    version = module(SCRIPT)
    codes, decoder = version.start(targets, latent_dim, 0)
    (patches, pixels), rows = targets.shape, len(decoder)
    sides = codes.T, decoder
    rates = 0.15, np.sqrt(patches) / np.linalg.norm(codes)
    pixels_are_long = pixels >= patches
    if pixels_are_long:
        sides, rates = sides[::-1], rates[::-1]
    numbers = [targets if pixels_are_long else targets.T, *sides, rates]
    numbers = b"".join(np.float32(part).tobytes() for part in numbers)
    binary = Path(TEMPORARY.name, "training")
    build = ["g++", "-O3", "-march=native", "-ffast-math", "-fopenmp", "-DTILE=512", "-o", binary]
    subprocess.run([*build, Path(__file__).with_name("training.cpp")], check=True)

    def run(epochs):
        command = [binary, max(patches, pixels), min(patches, pixels), rows, int(pixels_are_long), epochs]
        done = subprocess.run(list(map(str, command)), input=numbers, stdout=subprocess.PIPE, check=True, env=PLAIN)
        milliseconds, loss = map(float, done.stdout.split())
        if epochs == 30:  # the warm-up: the same losses as here
            losses = version.train(targets, codes, decoder, epochs)[2]
            assert abs(losses[-1] / loss - 1) < 1e-2, (losses[-1], loss)
        return milliseconds

    return run


def compressing(case, path=SCRIPT):
    """A function that compresses a picture and returns seconds and bytes."""
    import pictures

    name, target = case.split(",")
    picture = pictures.photograph("coffee.png" if name == "coffee" else "china.jpg")
    if name == "tiled":  # 637 across, so that patches differ from tile to tile
        picture = np.ascontiguousarray(np.tile(picture[:, :637], (10, 7))[:4096, :4096])
    version = module(path)
    codes, decoder, _ = pictures.learn([picture], 8, 8, 64, 100, version)

    def run(_):
        began = time.perf_counter()
        content = version.compress([picture], codes, decoder, 8, 8, float(target))
        return time.perf_counter() - began, len(content)

    return run


VERSIONS = {"this program": SCRIPT, **({"older version": AGAINST} if AGAINST else {})}
CONTENDERS = {"this program": this_program, "C++": cpp, "PyTorch": torch_peer, "JAX": jax_peer, "NumPy": numpy_peer}
if AGAINST:
    CONTENDERS["older version"] = functools.partial(this_program, path=AGAINST)


def serve(name, *case):
    """Be a contender: read numbers of epochs, print milliseconds per epoch; or print seconds of `compress`, and bytes."""
    if len(case) == 1:
        run = compressing(*case, VERSIONS[name])
        for line in sys.stdin:
            print(*run(line), flush=True)
        return
    side, latent_dim, patches = map(int, case)
    run = CONTENDERS[name](samples(side, patches), latent_dim)
    for line in sys.stdin:
        began = time.perf_counter()
        milliseconds = run(int(line))
        print(milliseconds or 1e3 * (time.perf_counter() - began) / int(line), flush=True)


def contender(name, case, **environment):
    """A contender in a process of its own: function of a number that returns those that it prints."""
    command = [sys.executable, __file__, "serve", name, *map(str, case), *(["--against", AGAINST] if AGAINST else [])]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    process = subprocess.Popen(command, env={**PLAIN, **environment}, **pipes)

    def run(number):
        process.stdin.write(f"{number}\n")
        process.stdin.flush()
        return list(map(float, process.stdout.readline().split()))

    return run


def worker(name, case, **environment):
    """One that trains: function of epochs, or None if it can't run here."""
    process = contender(name, case, **environment)

    def run(epochs):
        try:
            return process(epochs)[0]
        except (OSError, ValueError, IndexError):
            return None

    return run if run(30) else None


def spread(values, digits=2):
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def ratios(over, under):
    return spread([a / b for a, b in zip(over, under)])


def in_turns(runs, seconds=0.3, rounds=ROUNDS):
    """Milliseconds per epoch of each contender, a list over the rounds."""
    runs = {name: run for name, run in runs.items() if run}
    epochs = {name: max(10, int(1e3 * seconds / run(10))) for name, run in runs.items()}
    times = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            time.sleep(0.3)  # until the threads of the last contender sleep
            times[name].append(run(epochs[name]))
    return times


def table_epoch():
    """Milliseconds per epoch; behind each contender, how many times this program's."""
    for case in CASES:
        times = in_turns({name: worker(name, case) for name in CONTENDERS})
        print("{0} x {0}, latent_dim {1}, {2} patches".format(*case), flush=True)
        for name, values in times.items():
            print(f"  {name:14}{spread(values, 3):>26} ms   x {ratios(values, times['this program'])}", flush=True)


def copied(path):
    """A copy of a script in a folder of its own."""
    copy = Path(tempfile.mkdtemp(dir=TEMPORARY.name), "neural_compression.py")
    copy.write_text(Path(path).read_text())
    return copy


def whole_run(copy, python=sys.executable, **environment):
    """Seconds of a whole run, and what it printed."""
    began = time.perf_counter()
    done = subprocess.run([python, str(copy)], capture_output=True, text=True, check=True, env={**PLAIN, **environment})
    return time.perf_counter() - began, done.stdout


def table_startup():
    """Seconds of the whole default run: cold, from the cache, and right after an edited constant.

    In an environment of requirements.txt alone: where SciPy is installed, numba imports it.
    """
    python = f"{TEMPORARY.name}/environment/bin/python"
    subprocess.run([sys.executable, "-m", "venv", f"{TEMPORARY.name}/environment"], check=True)
    requirements = SCRIPT.parent / "requirements.txt"
    subprocess.run([python, "-m", "pip", "install", "-q", "-r", requirements], check=True, stderr=subprocess.DEVNULL)
    times = {(name, kind): [] for name in VERSIONS for kind in ("cold", "cached", "edited")}
    for n in range(ROUNDS):
        for name, script in VERSIONS.items():
            copy = copied(script)
            for kind in ("cold", "cached", "edited"):
                if kind == "edited":
                    copy.write_text(re.sub(r"(?m)^SEED = 0", f"SEED = {n + 1}", copy.read_text()))
                times[name, kind].append(whole_run(copy, python)[0])
    for (name, kind), values in times.items():
        print(f"  {name}, {kind:8}{spread(values):>22} s, x {ratios(values, times[name, 'cached'])} of cached,"
              f" x {ratios(values, times['this program', kind])} of this program")


def table_threads():
    """One thread next to two; and the same bytes for 1, 2, 3 and 8, of the default run and of a photograph in 8 x 8."""
    for case in (CASES[0], CASES[-1]):
        times = in_turns({n: worker("this program", case, NUMBA_NUM_THREADS=str(n)) for n in (1, 2)})
        print("  {0} x {0}, latent_dim {1}, {2} patches: ".format(*case) + f"one thread is x {ratios(times[1], times[2])} of two")
    import pictures

    photograph = {"WIDTH": 8, "HEIGHT": 8, "IMAGES": ("photograph.pgm",), "LATENT_DIM": 64, "EPOCHS": 100, "TARGET_PSNR": 32}
    for name, constants in (("the default run", {}), ("a photograph", photograph)):
        script, outputs = copied(SCRIPT), []
        for constant, value in constants.items():
            script.write_text(re.sub(rf"(?m)^{constant} = .*", f"{constant} = {value!r}", script.read_text()))
        pictures.write_pgm(script.with_name("photograph.pgm"), pictures.photograph("coffee.png"))
        for count in (1, 2, 3, 8):
            whole_run(script, NUMBA_NUM_THREADS=str(count), OPENBLAS_NUM_THREADS=str(count))
            outputs.append([path.read_bytes() for path in sorted(script.with_name("outputs").iterdir())])
        same = all(one == outputs[0] for one in outputs)
        print(f"  {name}: same bytes for 1, 2, 3 and 8 threads: {same}", flush=True)


def table_compress():
    """Seconds of `compress` and bytes: a photograph of 600 x 400 at two targets, and 16.8 megapixels of one over and over; grey."""
    for case, rounds in (("coffee,29", ROUNDS), ("coffee,34", ROUNDS), ("tiled,25", 3)):
        runs = {name: contender(name, [case]) for name in VERSIONS}
        results = {name: [run(0)] for name, run in runs.items()}  # the first one warms up
        for _ in range(rounds):
            for name, run in runs.items():
                time.sleep(0.3)  # until the threads of the last contender sleep
                results[name].append(run(0))
        ours = [seconds for seconds, _ in results["this program"][1:]]
        for name, values in results.items():
            seconds, sizes = zip(*values[1:])
            print(f"  {case.replace(',', ', ')} dB, {name:14}{spread(seconds):>22} s, x {ratios(seconds, ours)};"
                  f" {sizes[0]:.0f} bytes, x {sizes[0] / results['this program'][0][1]:.3f}", flush=True)


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word not in ("--against", AGAINST)]
    if words[:1] == ["serve"]:
        serve(*words[1:])
    else:
        for name, table in list(globals().items()):
            if name.startswith("table_") and (words or [""])[0] in name:
                print(f"\n{name[6:]}: {table.__doc__.splitlines()[0]}", flush=True)
                table()
