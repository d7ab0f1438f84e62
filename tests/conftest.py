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

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "neural_compression.py"
DEFAULTS = {
    "WIDTH": 256,
    "HEIGHT": 256,
    "IMAGES": ("radial", "sine", "checkerboard"),
    "SINE_FREQUENCY": 40,
    "CHECKER_SQUARES": 16,
    "LATENT_DIM": 16,
    "EPOCHS": 1000,
    "LEARNING_RATE": 1.0,
    "TARGET_PSNR": 100.0,
    "LOG_EVERY": 10,
    "SEED": 0,
    "OUTPUT_DIR": "outputs",
}
SMALL = {"WIDTH": 32, "HEIGHT": 24, "EPOCHS": 60, "SINE_FREQUENCY": 5}
CHILDREN = []  # processes started by the test that is running
sys.path.insert(0, str(SCRIPT.parent))


@pytest.fixture(scope="session")
def program():
    """The script as a module."""
    import neural_compression

    assert set(DEFAULTS) <= set(vars(neural_compression))
    vars(neural_compression).update(DEFAULTS)
    return neural_compression


@pytest.fixture
def run_imported(program, monkeypatch, tmp_path, capsys):
    """Function that runs main() with some constants replaced: (status, stdout, stderr). The script's folder is the test's."""
    monkeypatch.setattr(program, "__file__", str(tmp_path / "neural_compression.py"))
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
    copy = folder / "neural_compression.py"
    copy.write_text("".join(lines))
    return copy


@pytest.fixture(scope="session")
def machine_code(tmp_path_factory):
    """A __pycache__ with all kernels compiled, for copies of the script: it depends on the kernels alone."""
    folder = tmp_path_factory.mktemp("machine_code")
    assert finish(start([sys.executable, str(edit(folder)), "compile"]))[::2] == (0, "")
    return folder / "__pycache__"


@pytest.fixture
def copy(machine_code, tmp_path):
    """Function that makes an edited copy of the script, with the kernels compiled, in the test's folder."""

    def make(folder=tmp_path, **constants):
        folder.mkdir(exist_ok=True)
        shutil.copytree(machine_code, folder / "__pycache__", dirs_exist_ok=True)
        return edit(folder, **constants)

    return make


def start(command, environment=None, **options):
    """Start a process whose output can be read; it ends with the test, or after 5 minutes."""
    inherited = {**os.environ}
    for name in ("PYTHONUNBUFFERED", "PYTHONIOENCODING", "NUMBA_CACHE_DIR", "GOMP_SPINCOUNT"):
        inherited.pop(name, None)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "encoding": "utf-8", "errors": "replace"}
    process = subprocess.Popen(command, env={**inherited, **(environment or {})}, **{**pipes, **options})
    CHILDREN.append(process)
    timer = threading.Timer(300, process.kill)
    timer.daemon = True
    timer.start()
    return process


def finish(process):
    """Wait for the end of a process: (status, stdout, stderr)."""
    output, errors = process.communicate()
    return process.returncode, output, errors


def run_process(copy, **environment):
    """Run a copy of the script to its end: (status, stdout, stderr)."""
    return finish(start([sys.executable, str(copy)], environment))


@pytest.fixture(autouse=True)
def no_child_is_left():
    yield
    while CHILDREN:
        process = CHILDREN.pop()
        process.kill()
        process.wait()


def contents(folder):
    """Name and content of each file in a folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
