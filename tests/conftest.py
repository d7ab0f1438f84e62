"""Ways to run the program: imported, or as its user does, an edited copy in a process of its own.

The constants are those of DEFAULTS unless a test names others, whatever the script says now.
"""

import ast
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "neural_compression.py"
DEFAULTS = dict(
    WIDTH=256, HEIGHT=256, IMAGES=("radial", "sine", "checkerboard"), SINE_FREQUENCY=40, CHECKER_SQUARES=16,
    LATENT_DIM=16, EPOCHS=1000, LEARNING_RATE=1.0, TARGET_PSNR=None, LOG_EVERY=10, SEED=0, OUTPUT_DIR="outputs",
)  # fmt: skip
SMALL = {"WIDTH": 32, "HEIGHT": 24, "EPOCHS": 60, "SINE_FREQUENCY": 5}
NOT_INHERITED = ("PYTHONUNBUFFERED", "PYTHONIOENCODING", "NUMBA_CACHE_DIR", "GOMP_SPINCOUNT")
CHILDREN = []  # processes started by the test that is running
sys.path.insert(0, str(SCRIPT.parent))


@pytest.fixture(scope="session")
def program():
    """The script as a module, with its machine code."""
    import neural_compression

    vars(neural_compression).update(DEFAULTS)
    neural_compression.load_kernels()
    return neural_compression


@pytest.fixture
def run_imported(program, monkeypatch, tmp_path, capsys):
    """Function that runs main() with some constants replaced: (status, stdout, stderr). The script's folder is the test's."""
    monkeypatch.setattr(program, "HERE", tmp_path)
    monkeypatch.setattr(sys, "argv", ["neural_compression.py"])

    def run(**constants):
        for name, value in {**DEFAULTS, **constants}.items():
            monkeypatch.setattr(program, name, value)
        status = program.main()
        return status, *capsys.readouterr()

    return run


def edit(folder, **constants):
    """Copy the script into `folder` with DEFAULTS and these constants; returns the copy's path."""
    lines = SCRIPT.read_text().splitlines(keepends=True)
    constants = {**DEFAULTS, **constants}
    for node in reversed(ast.parse("".join(lines)).body):
        name = node.targets[0].id if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) else None
        if name in constants:
            lines[node.lineno - 1 : node.end_lineno] = [f"{name} = {constants.pop(name)!r}\n"]
    assert not constants, f"no line for {list(constants)}"
    script = folder / "neural_compression.py"
    script.write_text("".join(lines))
    return script


@pytest.fixture(scope="session")
def default_run(tmp_path_factory):
    """Folder and output of one run with DEFAULTS, which compiles all kernels."""
    folder = tmp_path_factory.mktemp("default")
    status, output, errors = run_process(edit(folder), NUMBA_NUM_THREADS="2")
    assert (status, errors) == (0, "")
    return folder, output


@pytest.fixture
def copy(default_run, tmp_path):
    """Function that makes an edited copy of the script in the test's folder, with the machine code of the default run."""

    def make(**constants):
        shutil.copytree(default_run[0] / "__pycache__", tmp_path / "__pycache__", dirs_exist_ok=True)
        return edit(tmp_path, **constants)

    return make


def photograph(*shape):
    """Something smooth with edges and some noise, uint8 (height, width) or (height, width, 3)."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    values = 120 + 60 * np.sin(x / 9 + y / 23) + 50 * (np.hypot(x - 30, y - 40) < 17) - 40 * (x > y + 20)
    values = np.stack([values, 0.8 * values + 20, 200 - 0.5 * values], axis=-1) if shape[2:] else values
    return np.uint8(np.clip(values + np.random.default_rng(1).normal(0, 4, values.shape), 0, 255))


def start(command, environment=None, **options):
    """Start a process whose output can be read; it ends with the test, or after an hour."""
    inherited = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "encoding": "utf-8", "errors": "replace"}
    process = subprocess.Popen(command, env={**inherited, **(environment or {})}, **pipes, **options)
    CHILDREN.append(process)
    timer = threading.Timer(3600, process.kill)
    timer.daemon = True
    timer.start()
    return process


def finish(process):
    """Wait for the end of a process: (status, stdout, stderr), without the lines that were read before."""
    output, errors = process.stdout.read(), process.stderr.read()
    return process.wait(), output, errors


def run_process(script, **environment):
    """Run a copy of the script to its end: (status, stdout, stderr)."""
    return finish(start([sys.executable, str(script)], environment))


@pytest.fixture(autouse=True)
def no_child_is_left():
    yield
    while CHILDREN:
        process = CHILDREN.pop()
        process.kill()
        process.wait()


def contents(folder):
    """Content of each file in a folder, and None for each folder in it."""
    return {path.name: None if path.is_dir() else path.read_bytes() for path in folder.iterdir()}
