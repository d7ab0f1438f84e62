"""Ways to run the program: imported, with its constants replaced, or as its user does, an edited copy in a subprocess."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "neural_compression.py"
sys.path.insert(0, str(SCRIPT.parent))


@pytest.fixture(scope="session")
def program():
    """The script as a module."""
    import neural_compression

    return neural_compression


@pytest.fixture
def run_imported(program, monkeypatch, tmp_path, capsys):
    """Function that runs main() with some constants replaced, in a folder of its own: (status, stdout, stderr)."""
    monkeypatch.setattr(program, "__file__", str(tmp_path / "neural_compression.py"))

    def run(**constants):
        for name, value in constants.items():
            assert hasattr(program, name)
            monkeypatch.setattr(program, name, value)
        status = program.main([])
        return status, *capsys.readouterr()

    return run


def edit(folder, **constants):
    """Copy the script into `folder` with the lines of some constants edited; returns the copy's path."""
    text = SCRIPT.read_text()
    for name, value in constants.items():
        text, count = re.subn(rf"(?m)^{name} = .*?  #", lambda _: f"{name} = {value!r}  #", text)
        assert count == 1, f"no line for {name}"
    copy = folder / "neural_compression.py"
    copy.write_text(text)
    return copy


def start_process(copy, *arguments, **environment):
    return subprocess.Popen(
        [sys.executable, str(copy), *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment},
    )  # fmt: skip


def run_process(copy, *arguments, **environment):
    """Run a copy of the script to its end: (status, stdout, stderr)."""
    process = start_process(copy, *arguments, **environment)
    output, errors = process.communicate(timeout=120)
    return process.returncode, output, errors


def contents(folder):
    """Name and content of each file in a folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
