"""Ways to run the program: imported, or as its user does, an edited copy in a process of its own.

The constants are those of DEFAULTS unless a test names others, whatever the script says now.
"""

import ast
import json
import os
import re
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
    "ROUNDING_LOSS": 0.05,
    "LOG_EVERY": 10,
    "SEED": 0,
    "OUTPUT_DIR": "outputs",
}
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
    """Function that runs main() with some constants replaced: (status, stdout, stderr).

    What isn't named is as in DEFAULTS, and the script's folder is the test's own.
    """
    monkeypatch.setattr(program, "__file__", str(tmp_path / "neural_compression.py"))

    def run(**constants):
        for name, value in {**DEFAULTS, **constants}.items():
            monkeypatch.setattr(program, name, value)
        status = program.main([])
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
def adjustable(tmp_path_factory):
    """A compiled copy that takes constants from the environment: one compilation for many runs."""
    folder = tmp_path_factory.mktemp("adjustable")
    copy = edit(folder)
    hook = "import json\nglobals().update(json.loads(os.environ['CONSTANTS']))\n\n"
    copy.write_text(re.sub(r"(?m)^(class|def|@)", hook + r"\1", copy.read_text(), count=1))
    small = constants(WIDTH=8, HEIGHT=8, IMAGES=["radial"], EPOCHS=1, OUTPUT_DIR="compiling")
    status, _, errors = run_process(copy, **small)
    assert (status, errors) == (0, "")
    return copy


def constants(**values):
    """The environment that sets constants of the `adjustable` copy."""
    return {"CONSTANTS": json.dumps({**DEFAULTS, **values}, default=str)}


def start(command, environment, **options):
    """Start a process whose output can be read; it ends with the test, or after 5 minutes."""
    inherited = {**os.environ}
    for name in ("PYTHONUNBUFFERED", "PYTHONIOENCODING", "NUMBA_CACHE_DIR", "GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        inherited.pop(name, None)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "encoding": "utf-8", "errors": "replace"}
    process = subprocess.Popen(command, env={**inherited, **environment}, **{**pipes, **options})
    CHILDREN.append(process)
    timer = threading.Timer(300, process.kill)
    timer.daemon = True
    timer.start()
    return process


def finish(process):
    """Wait for the end of a process: (status, stdout, stderr)."""
    try:
        output, errors = process.communicate()
    finally:
        process.kill()
        process.wait()
    return process.returncode, output, errors


@pytest.fixture(autouse=True)
def no_child_is_left():
    yield
    while CHILDREN:
        process = CHILDREN.pop()
        process.kill()
        process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe:
                pipe.close()


def start_process(copy, *arguments, **environment):
    """Start a copy of the script."""
    return start([sys.executable, str(copy), *arguments], environment)


def run_process(copy, *arguments, **environment):
    """Run a copy of the script to its end: (status, stdout, stderr)."""
    return finish(start_process(copy, *arguments, **environment))


def contents(folder):
    """Name and content of each file in a folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
