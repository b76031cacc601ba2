"""The developers' commands, in the environment that start.py made: `python3 start.py nox -s check`."""

import os
import shutil
import sys
from pathlib import Path

import nox

nox.options.default_venv_backend = "none"  # start.py made the environment; one is enough
nox.options.sessions = ["check", "test"]

# A1111 1.10.1's own versions, which are the oldest of the web UIs; the last PyWavelets for its Python; test tools.
OLD = ("torch==2.1.2", "numpy==1.26.2", "safetensors==0.4.2", "PyWavelets==1.8.0", "pytest>=8.2", "hypothesis>=6.100")


@nox.session
def check(session: nox.Session) -> None:
    """Lint, format, types: ruff and mypy; changes nothing (`ruff check --fix . && ruff format .` does)."""
    session.run(sys.executable, "-m", "ruff", "check", ".")
    session.run(sys.executable, "-m", "ruff", "format", "--check", ".")
    session.run(sys.executable, "-m", "mypy")


@nox.session
def test(session: nox.Session) -> None:
    """The quick tests: on the CPU, without a network; takes pytest's arguments after `--`."""
    session.run(sys.executable, "start.py", "test", *session.posargs)


@nox.session
def slow(session: nox.Session) -> None:
    """The tests that take minutes; those for a GPU, for ComfyUI and for a web UI too, where there is one."""
    session.run(sys.executable, "-m", "pytest", "-m", "slow or gpu or comfyui or webui", *session.posargs)


@nox.session
def old(session: nox.Session) -> None:
    """The core's tests of inference on the oldest Python and torch that it runs on, those of a web UI of 2023.

    Makes `.nox/old` (5 GB: torch of that time comes with CUDA) once, with the Python that WAVEFT_OLD_PYTHON names, else
    `python3.10`.
    """
    asked = os.environ.get("WAVEFT_OLD_PYTHON") or shutil.which("python3.10")
    if asked is None:
        session.skip("no python3.10 on the path: install one, or name it in WAVEFT_OLD_PYTHON")
    folder = Path(".nox/old")
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not (folder / "complete").is_file():
        session.run(asked, "-m", "venv", "--clear", str(folder), external=True)
        session.run(str(python), "-m", "pip", "install", *OLD, external=True)
        (folder / "complete").touch()
    session.run(str(python), "-m", "pytest", "tests/waveft_core", *session.posargs, external=True)


@nox.session
def docs(session: nox.Session) -> None:
    """The documents' own tests: commands, links, tables."""
    pages = [f"tests/test_{name}.py" for name in ("documents", "readme", "format_doc")]
    session.run(sys.executable, "-m", "pytest", *pages, *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """A benchmark, by its name after `--`: step (the default), causes, memory, load, delta, scaling, gradient,
    roofline, gpu, frontier, comfyui.
    """
    name, *arguments = session.posargs or ["step"]
    session.run(sys.executable, "-m", f"benchmarks.{name}", *arguments)
