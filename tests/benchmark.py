"""How fast training is, next to the same work in NumPy, PyTorch, JAX and C++, and what a run takes.

    python tests/benchmark.py                  all tables but `largest`: some 20 minutes on 2 cores
    python tests/benchmark.py WORD             only those with WORD in their name: epoch, scale,
                                               threads, startup, busy, search, memory, largest
    python tests/benchmark.py startup --against OTHER.py
                                               with whole runs of another version of the script

Contenders take turns, since a shared machine drifts: each figure is the median over the rounds,
with the range behind it, and ratios are taken round by round. Each contender is a process of its
own. Needs tests/requirements.txt; the peers torch, jax and g++ are left out if they aren't there.
`largest` takes 15 GB of memory and some 12 minutes.
"""

import functools
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numba
import numpy as np
import pictures
from pictures import SCRIPT, nc

nc.say = lambda line: None  # no log
ROUNDS = 7
PLAIN = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
NAMES = ("radial", "sine", "checkerboard")
TEMPORARY = tempfile.TemporaryDirectory()  # goes when the benchmark ends


# ------------------------------------------------------------------------------ contenders
#
# Each takes targets, float32 (patches, pixels), and latent_dim, and returns a function that
# trains for some epochs.


def samples(side, latent_dim, patches):
    """Targets of a case: pieces of photographs if 8 x 8, otherwise the patterns over and over."""
    if side == 8:
        pieces = [nc.cut(picture, 8, 8) for picture in pictures.photographs()[:6]]
        return np.concatenate(pieces)[:patches] / np.float32(255)
    return pictures.targets(pictures.patterns(side, side))[np.arange(patches) % 3]


def this_program(targets, latent_dim):
    """Returns milliseconds per epoch by its log: without the first tenth, as in training.cpp."""
    codes, seen = nc.start_codes(len(targets), latent_dim, 0), []
    nc.say = lambda line: seen.append(time.perf_counter())

    def run(epochs):
        seen.clear()
        every = max(1, epochs // 10)
        nc.train(targets, codes, epochs, log_every=every)
        return 1e3 * (seen[-1] - seen[0]) / (epochs - every)

    return run


RATE, FIRST, SECOND, TINY = 0.01, 0.9, 0.95, 1e-8  # of the peers' Adam


def initial(targets, latent_dim):
    """Targets, codes, weights and bias, float32."""
    random = np.random.default_rng(0)
    patches, pixels = targets.shape
    codes = random.standard_normal((patches, latent_dim), np.float32)
    weights = random.standard_normal((latent_dim, pixels), np.float32) / 10
    return targets, codes, weights, np.zeros(pixels, np.float32)


def numpy_peer(targets, latent_dim):
    targets, *state = initial(targets, latent_dim)
    firsts, seconds = ([np.zeros_like(part) for part in state] for _ in range(2))
    done = 0

    def run(epochs):
        nonlocal done
        for _ in range(epochs):
            done += 1
            codes, weights, bias = state
            output = 1 / (1 + np.exp(-(codes @ weights + bias)))
            delta = (output - targets) * output * (1 - output)
            gradients = delta @ weights.T, codes.T @ delta, delta.sum(0)
            for part, first, second, gradient in zip(state, firsts, seconds, gradients):
                first += (1 - FIRST) * (gradient - first)
                second += (1 - SECOND) * (gradient * gradient - second)
                size = np.sqrt(second / (1 - SECOND**done)) + TINY
                part -= RATE / (1 - FIRST**done) * first / size

    return run


def torch_peer(targets, latent_dim):
    import torch

    targets, *state = map(torch.tensor, initial(targets, latent_dim))
    codes, weights, bias = state = [part.requires_grad_() for part in state]
    optimiser = torch.optim.Adam(state, lr=RATE, betas=(FIRST, SECOND), eps=TINY, fused=True)

    def run(epochs):
        for _ in range(epochs):
            optimiser.zero_grad()
            output = torch.sigmoid(torch.addmm(bias, codes, weights))
            torch.nn.functional.mse_loss(output, targets).backward()
            optimiser.step()

    return run


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
    zeros = [[jnp.zeros_like(part) for part in start] for _ in range(2)]
    state = jnp.float32(0), start, *zeros

    def run(epochs):
        nonlocal state
        for _ in range(epochs):
            state = step(state)
        jax.block_until_ready(state)

    return run


@numba.njit(parallel=True, fastmath=True)
def touch(a, b, c):
    """Read and write three arrays once: what Adam has to do with a weight and its two moments."""
    factor = np.float32(0.999)
    for n in numba.prange(a.size):
        a[n] *= factor
        b[n] *= factor
        c[n] *= factor


def memory_floor(targets, latent_dim):
    arrays = [np.ones((latent_dim + 1) * targets.shape[1], np.float32) for _ in range(3)]

    def run(epochs):
        for _ in range(epochs):
            touch(*arrays)

    return run


CONTENDERS = {
    "this program": this_program,
    "floor of Adam": memory_floor,
    "NumPy": numpy_peer,
    "PyTorch": torch_peer,
    "JAX": jax_peer,
}


def serve(name, *case):
    """In a process of its own: for each number of epochs read, print milliseconds per epoch."""
    if name != "this program":
        os.environ.pop("GOMP_SPINCOUNT", None)  # a choice of this program, not of its peers
    run = CONTENDERS[name](samples(*case), case[1])
    for line in sys.stdin:
        began = time.perf_counter()
        by_itself = run(int(line))
        print(by_itself or 1e3 * (time.perf_counter() - began) / int(line), flush=True)


def worker(name, case, **environment):
    """A function that lets a contender train in a process of its own; None if it can't start."""
    process = subprocess.Popen(
        [sys.executable, __file__, "serve", name, *map(str, case)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**PLAIN, **environment},
    )

    def run(epochs):
        if not epochs:
            return process.communicate()
        print(epochs, file=process.stdin, flush=True)
        return float(process.stdout.readline())

    try:
        run(2)
    except (OSError, ValueError):
        error = process.communicate()[1].strip().splitlines()[-1]
        print(f"  {name} is left out: {error}")
        return None
    return run


@functools.cache
def built(tile):
    """The program of training.cpp with this many pixels per tile; None without g++."""
    if not shutil.which("g++"):
        return None
    program = f"{TEMPORARY.name}/training{tile}"
    options = "-O3", "-march=native", "-ffast-math", "-fopenmp", f"-DTILE={tile}"
    source = SCRIPT.parent / "tests" / "training.cpp"
    subprocess.run(["g++", *options, str(source), "-o", program], check=True)
    return program


def cpp(case, losses):
    """Like `worker`, for C++ with the tile that suits the case best; adds its loss to `losses`."""
    side, latent_dim, patches = case
    targets = samples(*case)
    numbers = targets.tobytes() + nc.start_codes(patches, latent_dim, 0).tobytes()

    def run(epochs, tile=None):
        if not epochs:
            return None
        command = [built(tile or best), *map(str, (side * side, latent_dim, patches, epochs))]
        done = subprocess.run(command, input=numbers, stdout=subprocess.PIPE, check=True, env=PLAIN)
        milliseconds, loss = map(float, done.stdout.split())
        losses[epochs] = loss
        return milliseconds

    if not built(64):
        print("  C++ is left out: no g++")
        return None
    epochs = max(4, int(200 / run(10, 64)))
    tiles = [tile for tile in (64, 128, 256) if side * side % tile == 0]
    tried = {tile: min(run(epochs, tile) for _ in range(3)) for tile in tiles}
    best = min(tried, key=tried.get)
    print(f"  C++ with tiles of {best} pixels, the best of {', '.join(map(str, tiles))}")
    return run


# ------------------------------------------------------------------------------ measuring


def in_turns(contenders, seconds=0.4):
    """Milliseconds per epoch of each contender, a list over the rounds. Ends the contenders."""
    contenders = {name: run for name, run in contenders.items() if run}
    epochs = {}
    for name, run in contenders.items():
        epochs[name] = max(3, int(1e3 * seconds / run(max(3, int(50 / run(3))))))
    times = {name: [] for name in contenders}
    for _ in range(ROUNDS):
        for name, run in contenders.items():
            times[name].append(run(epochs[name]))
    for run in contenders.values():
        run(0)
    return times


def spread(values, digits=3):
    """Median and range."""
    median = statistics.median(values)
    return f"{median:.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def ratios(over, under):
    """Median and range of the ratios, round by round."""
    return spread([a / b for a, b in zip(over, under)], 2)


def whole_process(arguments, python=sys.executable, **environment):
    """Seconds that a Python process takes from start to end, and what it printed."""
    began = time.perf_counter()
    done = subprocess.run(
        [python, *map(str, arguments)], check=True, capture_output=True, text=True,
        env={**PLAIN, **environment},
    )
    return time.perf_counter() - began, done.stdout


def logged_seconds(output):
    """Seconds of training by the last line of a log."""
    return float(re.findall(r"time +([\d.]+) s", output)[-1])


def edited(folder, script=SCRIPT, **constants):
    """Copy a script into `folder` with the lines of some constants edited; returns its path."""
    text = Path(script).read_text()
    for name, value in constants.items():
        text, count = re.subn(rf"(?m)^{name} = .*?  #", lambda _: f"{name} = {value!r}  #", text)
        assert count == 1, f"no line for {name}"
    copy = Path(folder, "neural_compression.py")
    copy.write_text(text)
    return copy


def folder():
    """A new temporary folder."""
    return tempfile.mkdtemp(dir=TEMPORARY.name)


# ------------------------------------------------------------------------------ tables

CASES = (256, 16, 3), (256, 327, 3), (64, 16, 3), (1024, 16, 3), (256, 16, 100), (8, 32, 6144)


def table_epoch():
    """Milliseconds per epoch; behind each peer, how many times this program's."""
    for side, latent_dim, patches in CASES:
        print(f"{side} x {side}, latent_dim {latent_dim}, {patches} patches", flush=True)
        case, losses = (side, latent_dim, patches), {}
        contenders = {name: worker(name, case) for name in CONTENDERS}
        times = in_turns({**contenders, "C++": cpp(case, losses)})
        ours = times["this program"]
        for name, values in times.items():
            print(f"  {name:14}{spread(values):>30} ms   x {ratios(values, ours)}")
        # decoder and moments are read and written, targets read, each once per epoch
        moved = 4 * side * side * (2 * (latent_dim + 1) + 2 * (patches + 1) + patches)
        bandwidth = [moved / ms / 1e6 for ms in ours]
        floor = [24 * (latent_dim + 1) * side * side / ms / 1e6 for ms in times["floor of Adam"]]
        work = side * side * latent_dim * patches
        print(f"  memory {spread(bandwidth, 1)} GB/s; the floor's {spread(floor, 1)}")
        print(f"  {1e6 * statistics.median(ours) / work:.3f} ns per pixel x latent_dim x patch")
        if losses:
            epochs = max(losses)
            *_, last = nc.train(samples(*case), nc.start_codes(patches, latent_dim, 0), epochs)
            print(f"  loss after {epochs} epochs: C++ {losses[epochs]:.3e}, here {last[-1]:.3e}")


SCALE = (
    *((side, 16, 3) for side in (128, 256, 512, 1024)),
    *((256, latent_dim, 3) for latent_dim in (32, 64, 128, 327)),
    *((256, 16, patches) for patches in (10, 30, 100, 300)),
    (512, 64, 30),
)


def table_scale():
    """Time over work, which is pixels x latent_dim x patches."""
    times = in_turns({case: worker("this program", case) for case in SCALE}, seconds=0.3)
    unit = {}
    print("  side  latent_dim  patches        ms per epoch           ns by work")
    for (side, latent_dim, patches), values in times.items():
        work = side * side * latent_dim * patches
        unit[side, latent_dim, patches] = by_work = 1e6 * statistics.median(values) / work
        print(f"{side:6}{latent_dim:12}{patches:9}{spread(values):>30}{by_work:9.3f}")
    for axis, name in enumerate(("side", "latent_dim", "patches")):
        others = [n for n in range(3) if n != axis]
        line = [unit[case] for case in SCALE if all(case[n] == (256, 16, 3)[n] for n in others)]
        print(f"  along {name}: largest / smallest {max(line) / min(line):.2f}")


def table_threads():
    """One thread next to two; and the same bytes for 1, 2, 3 and 8."""
    for case in ((256, 16, 3), (8, 32, 6144)):
        runs = {n: worker("this program", case, NUMBA_NUM_THREADS=str(n)) for n in (1, 2)}
        times = in_turns(runs)
        print(f"  {case[0]} x {case[0]}, latent_dim {case[1]}, {case[2]} patches")
        for count, values in times.items():
            print(f"    {count} threads {spread(values)} ms, 1 is x {ratios(times[1], values)}")
    outputs = []
    for count in (1, 2, 3, 8):
        script = edited(folder())
        whole_process([script], NUMBA_NUM_THREADS=str(count))
        files = sorted(script.with_name("outputs").iterdir())
        outputs.append([(path.name, path.read_bytes()) for path in files])
    print(f"  same bytes for 1, 2, 3 and 8 threads: {all(one == outputs[0] for one in outputs)}")


def table_startup():
    """Seconds of the whole default run, with kernels to compile (cold) and from the cache.

    In an environment of requirements.txt alone, as the README's first command makes it: where
    SciPy is installed numba imports it, which takes longer than to compile the kernels.
    """
    environment = folder()
    python = f"{environment}/bin/python"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    install = [python, "-m", "pip", "install", "-q", "-r", SCRIPT.parent / "requirements.txt"]
    subprocess.run(install, check=True, stderr=subprocess.DEVNULL)
    scripts = {"this program": SCRIPT, **({"the other": AGAINST} if AGAINST else {})}
    times = {(name, kind): [] for name in scripts for kind in ("cold", "cached")}
    times["PyTorch", "1000 epochs"] = []
    for _ in range(ROUNDS):
        for name, script in scripts.items():
            copy = edited(folder(), script)
            times[name, "cold"].append(whole_process([copy], python)[0])
            times[name, "cached"].append(whole_process([copy], python)[0])
        try:
            seconds, _ = whole_process([__file__, "peer"])
            times["PyTorch", "1000 epochs"].append(seconds)
        except subprocess.CalledProcessError:
            print("  PyTorch is not installed")
    for (name, kind), values in times.items():
        if values:
            against = ""
            if name == "this program":
                for other in ("the other", kind), ("PyTorch", "1000 epochs"):
                    if times.get(other):
                        against += f", x {ratios(values, times[other])} of {' '.join(other)}"
            print(f"  {name}, {kind:12}{spread(values, 2)} s{against}")


def table_against():
    """Milliseconds per epoch by the log of whole runs, this script and the other in turns."""
    if not AGAINST:
        print("  needs --against OTHER.py")
        return
    for (side, latent_dim, images), epochs in zip(CASES[:-1], (2000, 200, 10000, 100, 100)):
        scripts = [
            edited(folder(), script, WIDTH=side, HEIGHT=side, LATENT_DIM=latent_dim,
                   IMAGES=(NAMES * images)[:images], EPOCHS=epochs, LOG_EVERY=epochs)
            for script in (SCRIPT, AGAINST)
        ]
        times = [[], []]
        for turn in range(ROUNDS + 1):
            for script, values in zip(scripts, times):
                _, output = whole_process([script])
                if turn:  # the first compiles
                    values.append(1e3 * logged_seconds(output) / epochs)
        here, other = times
        print(f"  {side} x {side}, latent_dim {latent_dim}, {images} images: {spread(here)} ms, "
              f"the other {spread(other)} ms, x {ratios(here, other)}", flush=True)


def table_busy(counts=(10_000, 0, 1000, 100_000, 300_000), rounds=5):
    """Training seconds of the default run on an idle machine, on a busy one, and of two at once.

    Threads that wait for work spin for a while before they sleep. GOMP_SPINCOUNT says how long:
    the program takes 10000, libgomp by itself 300000, and 0 if OMP_WAIT_POLICY is passive.
    """
    scripts = [edited(folder()) for _ in range(2)]
    for script in scripts:
        whole_process([script])
    spin = [sys.executable, "-c", "while True: pass"]
    loads = {"idle": (1, 0), "all cores busy": (1, os.cpu_count()), "two at once": (2, 0)}
    times = {(count, load): [] for count in counts for load in loads}
    for _ in range(rounds):
        for (count, load), seconds in times.items():
            together, spinning = loads[load]
            busy = [subprocess.Popen(spin) for _ in range(spinning)]
            runs = [
                subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True,
                                 env={**PLAIN, "GOMP_SPINCOUNT": str(count)})
                for script in scripts[:together]
            ]
            outputs = [run.communicate()[0] for run in runs]
            for process in busy:
                process.kill()
                process.wait()
            seconds.append(max(map(logged_seconds, outputs)))
    for (count, load), seconds in times.items():
        more = ratios(seconds, times[count, "idle"])
        print(f"  GOMP_SPINCOUNT {count:6} {load:16}{spread(seconds, 2):>22} s   x {more} of idle")


def table_search():
    """Seconds of the search for the step next to those of 1000 epochs of training."""
    nc.compiled()
    patterns, sheet = pictures.patterns(), [pictures.digits_sheet()]
    cases = [
        ("three patterns, latent_dim 16", patterns, 256, 16, 0.05),
        ("three patterns, latent_dim 327", patterns, 256, 327, 0.05),
        ("three patterns of 1024 x 1024, 16", pictures.patterns(1024, 1024), 1024, 16, 0.05),
        ("24 photographs, latent_dim 4", pictures.photographs(), 256, 4, 0.05),
        ("24 photographs, latent_dim 16", pictures.photographs(), 256, 16, 0.05),
        ("1797 pictures of digits, 4", pictures.digits(), 8, 4, 0.05),
        ("1797 pictures of digits, 16", pictures.digits(), 8, 16, 0.05),
        ("sheet of digits, 20, loss 1", sheet, 8, 20, 1),
        ("photograph in 8 x 8, 32, loss 6", [pictures.photograph("china.jpg")], 8, 32, 6),
    ]
    for name, originals, side, latent_dim, loss in cases:
        patches = np.concatenate([nc.cut(picture, side, side) for picture in originals])
        codes = nc.start_codes(len(patches), latent_dim, 0)
        began = time.perf_counter()
        *trained, _ = nc.train(patches / np.float32(255), codes, 1000)
        training, searches = time.perf_counter() - began, []
        for _ in range(3):
            began = time.perf_counter()
            nc.compress(nc.principal_components(*trained), originals, side, side, loss)
            searches.append(time.perf_counter() - began)
        share = statistics.median(searches) / training
        print(f"  {name:34} training {training:6.2f} s, search {spread(searches, 2)} s, "
              f"share {share:.3f}", flush=True)


def whole_program(side, latent_dim, images, epochs):
    """Output of the program with these constants, its seconds, and its peak of memory in bytes."""
    script = edited(
        folder(), WIDTH=side, HEIGHT=side, LATENT_DIM=latent_dim, EPOCHS=epochs,
        IMAGES=(NAMES * images)[:images],
    )
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=PLAIN
    )
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert status == 0
    shutil.rmtree(script.parent)
    return output, time.perf_counter() - began, 1024 * usage.ru_maxrss


def table_memory():
    """Memory of the whole program at its peak, next to what `check_memory` counts."""
    print("    side  latent_dim  images  GB at peak  GB counted  peak / counted")
    for case in (
        (256, 16, 3), (256, 16, 300), (1024, 16, 3), (512, 64, 30), (256, 327, 3), (1024, 64, 3),
        (2048, 64, 3),
    ):
        side, latent_dim, images = case
        peak = whole_program(*case, epochs=2)[2]
        counted = 16 * side**2 * (latent_dim + images + 4) + 48 * images * latent_dim
        print(f"{side:8}{latent_dim:12}{images:8}{peak / 1e9:12.2f}{counted / 1e9:12.2f}"
              f"{peak / counted:16.2f}", flush=True)


def table_largest(side=4096, latent_dim=64, images=8, epochs=300):
    """The largest case: a whole run on 8 images of 4096 x 4096 at latent_dim 64, 300 epochs."""
    output, seconds, peak = whole_program(side, latent_dim, images, epochs)
    print(re.sub(rf"(?m)^epoch +(?!{epochs})\d+/.*\n", "", output), end="")
    training = logged_seconds(output)
    each = f"{1e3 * training / epochs:.0f} ms per epoch"
    print(f"{seconds:.0f} s, training {training:.0f} s of them, {each}; {peak / 1e9:.1f} GB")


def run_tables(word):
    """The tables with this word in their name; `largest` only if it is asked for."""
    for name, table in list(globals().items()):
        if name.startswith("table_") and word in name and (word or name != "table_largest"):
            print(f"\n{name[6:]}: {table.__doc__.splitlines()[0]}", flush=True)
            table()


if __name__ == "__main__":
    arguments, AGAINST = sys.argv[1:], None
    if "--against" in arguments:
        place = arguments.index("--against")
        AGAINST = arguments[place + 1]
        del arguments[place:place + 2]
    if arguments[:1] == ["serve"]:
        serve(arguments[1], *map(int, arguments[2:]))
    elif arguments == ["peer"]:
        torch_peer(samples(256, 16, 3), 16)(1000)
    else:
        run_tables(arguments[0] if arguments else "")
