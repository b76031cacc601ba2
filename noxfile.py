"""The developers' commands, in the environment that start.py made: `python3 start.py nox -s check`."""

import sys

import nox

nox.options.default_venv_backend = "none"  # start.py made the environment; one is enough
nox.options.sessions = ["check", "test"]


@nox.session
def check(session: nox.Session) -> None:
    """Lint, format, types: ruff and mypy; changes nothing (`ruff check --fix . && ruff format .` does)."""
    session.run(sys.executable, "-m", "ruff", "check", ".")
    session.run(sys.executable, "-m", "ruff", "format", "--check", ".")
    session.run(sys.executable, "-m", "mypy")


@nox.session
def test(session: nox.Session) -> None:
    """The quick tests: on the CPU, without a network; takes pytest's arguments after `--`."""
    session.run(sys.executable, "-m", "pytest", *session.posargs)


@nox.session
def slow(session: nox.Session) -> None:
    """The tests that take minutes; those for a GPU and for ComfyUI too, where there is one."""
    session.run(sys.executable, "-m", "pytest", "-m", "slow or gpu or comfyui", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """The documents' own tests: commands, links, tables."""
    session.run(sys.executable, "-m", "pytest", "tests/test_readme.py", "tests/test_format_doc.py", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """A benchmark, by its name after `--`: step (the default), memory, load, delta, scaling, gradient, frontier,
    comfyui.
    """
    name, *arguments = session.posargs or ["step"]
    session.run(sys.executable, "-m", f"benchmarks.{name}", *arguments)
