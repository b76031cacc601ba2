"""Installs what using WaveFT adapters misses, into the Python that runs this file: `python install.py`.

ComfyUI-Manager calls it after cloning; A1111, Forge and their kin at every start, and show what it prints: where
nothing is missing it says so at a terminal alone. It installs the packages of requirements.txt that are missing or too
old, and nothing else; it never installs, upgrades or replaces torch, nor what the UI has pinned and is new enough; it
can be run again at any time. Setting up a virtual environment to train in is another matter: see the README.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

OLDEST_PYTHON = (3, 10)
REQUIREMENTS = Path(__file__).resolve().parent / "requirements.txt"
# They belong to one another and to the machine's driver: whatever is installed, pip is told to leave it so.
UNTOUCHED = ("torch", "torchvision", "torchaudio")
TORCH_PAGE = "https://pytorch.org/get-started/locally/"


def parse(text: str) -> dict[str, str]:
    """Returns {package: lowest version} of a requirements file whose lines all read `name>=version`."""
    found = {}
    for line in text.splitlines():
        line = line.split("#")[0].strip()
        if line:
            name, lowest = line.split(">=")
            found[name] = lowest
    return found


def installed(package: str) -> str | None:
    """Returns the version installed in the running interpreter, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def release(version: str) -> tuple[int, ...]:
    """Returns the numbers that a version begins with: (2, 1, 0) for "2.1.0rc1+cpu"."""
    leading = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in leading.group().split(".")) if leading else ()


def unmet(required: dict[str, str]) -> dict[str, str | None]:
    """Returns {package: installed version or None} of what is missing or too old."""
    versions = {name: installed(name) for name in required}
    return {
        name: version
        for name, version in versions.items()
        if version is None or release(version) < release(required[name])
    }


def at_terminal() -> bool:
    """Returns whether somebody reads what is printed, rather than a UI that shows it at each start."""
    return sys.stdout.isatty()


def installer() -> list[str]:
    """Returns the command that installs into the running interpreter: pip, or uv where an environment has no pip."""
    if importlib.util.find_spec("pip") is None and importlib.util.find_spec("uv") is not None:
        return [sys.executable, "-m", "uv", "pip", "install", "--python", sys.executable]
    return [sys.executable, "-m", "pip", "install"]


def install(required: dict[str, str], wanted: dict[str, str | None]) -> int:
    """Runs the installer for `wanted` and returns its exit status; what else is there is pinned as it is."""
    kept = [*UNTOUCHED, *(name for name in required if name not in wanted)]
    pins = [f"{name}=={installed(name)}" for name in kept if installed(name)]
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text("\n".join(pins) + "\n", encoding="utf-8")
        asked = [f"{name}>={required[name]}" for name in wanted]
        return subprocess.run([*installer(), "-c", str(constraints), *asked], check=False).returncode


def main() -> int:
    """Installs what is missing, says what it did, and returns the exit status: 0 when nothing is missing any more."""
    if sys.version_info < OLDEST_PYTHON:
        expected = ".".join(map(str, OLDEST_PYTHON))
        print(f"WaveFT: Python: expected {expected} or newer, got {sys.version.split()[0]} ({sys.executable}).")
        return 1
    required = parse(REQUIREMENTS.read_text(encoding="utf-8"))
    wanted, torch_before = unmet(required), installed("torch")
    for name, version in wanted.items():
        print(
            f"WaveFT: {name}: expected {required[name]} or newer, got {version or 'none'}: installing it.", flush=True
        )
    if wanted:
        status = install(required, wanted)
        left = unmet(required)
        if status != 0 or left:
            asked = " ".join(f'"{name}>={required[name]}"' for name in left or wanted)
            print(
                f"WaveFT: the installer ended with status {status}; still missing or too old: "
                f"{', '.join(left) or 'nothing'}. Its messages are above. "
                f'Then run: "{sys.executable}" -m pip install {asked}'
            )
            return status or 1
    told = bool(wanted) or at_terminal()
    if told:
        print("WaveFT: " + ", ".join(f"{name} {installed(name)}" for name in required) + " are in place.")
    if torch_before is None:
        print(f"WaveFT: torch: expected an installed one, got none. Install the build for your machine: {TORCH_PAGE}")
    elif installed("torch") != torch_before:
        print(f"WaveFT: torch: expected {torch_before} untouched, got {installed('torch')}. Please report this.")
        return 1
    elif told:
        print(f"WaveFT: torch {torch_before} was left as it is.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
