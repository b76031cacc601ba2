"""Which Python trains, and whether it has what training needs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..core import WaveFTError

ROOT = Path(__file__).resolve().parents[2]  # of the clone
VARIABLE = "WAVEFT_PYTHON"
OLDEST = (3, 11)
LOOK_WITHIN_S = 120.0
# install.py tells what of a list is missing; it imports nothing but the standard library.
_LOOK = (
    "import json, sys; sys.path.insert(0, sys.argv[1]); import install; "
    "print(json.dumps([sys.version_info[:2], install.unmet(json.loads(sys.argv[2]))]))"
)
_SETUP = "train jobs/quickstart.toml --help"  # of start.py: installs, shows the trainer's options and trains nothing


@dataclass(frozen=True)
class Python:
    """An interpreter, and why it is taken."""

    path: str
    why: str


def choose(wish: str) -> Python:
    """Returns the Python to train with.

    Args:
        wish: the widget; empty for the first of those that this machine's owner has set up. A workflow comes from
            anywhere and is run by a click, so that it can choose among them, and cannot name a program of its own.

    Raises:
        WaveFTError: another one is wished for.
    """
    known = candidates()
    if not wish.strip():
        return known[0]
    for one in known:
        if _same(one.path, wish.strip()):
            return one
    raise WaveFTError(
        f'python "{wish}": expected nothing, or one of {", ".join(one.path for one in known)}, got another. A workflow '
        f"may come from anyone and must not start programs of its choice. To train with that Python, set the "
        f"environment variable {VARIABLE} to it (several: with {os.pathsep} between) and start ComfyUI again."
    )


def candidates() -> list[Python]:
    """Returns those that this machine's owner has set up, the one to take first."""
    named = [Python(path, f"of {VARIABLE}") for path in os.environ.get(VARIABLE, "").split(os.pathsep) if path.strip()]
    own = ROOT / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    made = [Python(str(own), "WaveFT's own .venv")] if own.is_file() else []
    return [*named, *made, Python(sys.executable, "ComfyUI's own")]


def check(python: Python) -> None:
    """Refuses a Python that cannot train.

    Raises:
        WaveFTError: it does not run, is too old, or lacks packages; with the command that installs them.
    """
    required = requirements()
    command = [python.path, "-c", _LOOK, str(ROOT), json.dumps(required)]
    what = f'Python "{python.path}" ({python.why})'
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment(python), capture_output=True, stdin=subprocess.DEVNULL,
            timeout=LOOK_WITHIN_S, check=True,
        )  # fmt: skip
        version, missing = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        told = getattr(error, "stderr", None) or str(error).encode()
        raise WaveFTError(
            f"{what}: expected one that runs, got: {_last_line(told)}. Correct {VARIABLE}, or run: {_setup()}"
        ) from None
    if tuple(version) < OLDEST:
        expected, got = (".".join(map(str, numbers)) for numbers in (OLDEST, version))
        raise WaveFTError(f"{what}: expected {expected} or newer, got {got}. Name another in {VARIABLE}.")
    if missing:
        lacks = ", ".join(f"{name} {f'{old} (too old)' if old else ''}".strip() for name, old in missing.items())
        raise WaveFTError(
            f"{what}: expected what training needs, got one without {lacks}. {_remedy(python, missing, required)}"
        )


def requirements() -> dict[str, str]:
    """Returns {package: lowest version} of all that training needs, as pyproject.toml lists it."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")  # read by hand: a Python of 3.10 has no tomllib
    found: dict[str, str] = {}
    for name in ("dependencies", "train"):
        listed = re.search(rf"^{name} = \[(.*?)\]", text, re.DOTALL | re.MULTILINE)
        assert listed is not None
        found |= dict(line.split(">=") for line in re.findall(r'"(.*?)"', listed[1]))
    return found


def environment(python: Python) -> dict[str, str]:
    """Returns the child's environment: ours, but for what belongs to ComfyUI's own Python alone."""
    own = {"PYTHONHOME", "PYTHONPATH", "__PYVENV_LAUNCHER__"} if not _same(python.path, sys.executable) else set()
    return {**{key: value for key, value in os.environ.items() if key not in own}, "PYTHONUTF8": "1"}


def _remedy(python: Python, missing: Mapping[str, str | None], required: Mapping[str, str]) -> str:
    packages = " ".join(f'"{name}>={required[name]}"' for name in missing)
    install = f'"{python.path}" -m pip install {packages}'
    if python.why.startswith("of "):
        return f"Run: {install}"
    alone = f"Run: {_setup()} (it installs them into WaveFT's own .venv)"
    if _same(python.path, sys.executable) and "torch" not in missing:
        return f"{alone}, or, into ComfyUI's own Python: {install}"
    return alone


def _setup() -> str:
    return f'"{sys.executable}" "{ROOT / "start.py"}" {_SETUP}'


def _same(one: str, other: str) -> bool:
    """Returns whether two paths are one, links not followed: an environment's Python is a link to another's."""
    first, second = (os.path.normcase(Path(path).expanduser().absolute()) for path in (one, other))
    return first == second


def _last_line(told: bytes) -> str:
    return (told.decode(errors="replace").strip().splitlines() or ["nothing"])[-1].rstrip(".")
