"""Which ComfyUI the tests run, from COMFYUI_DIR and COMFYUI_PYTHON, and this folder's scripts run by its Python.

COMFYUI_DIR may name several checkouts, separated as in PATH, and COMFYUI_PYTHON one Python for all, or one for each.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
# What ComfyUI needs and a Python for something else lacks; PyWavelets is ours.
NEEDED = ("aiohttp", "torch", "torchvision", "torchsde", "einops", "transformers", "safetensors", "yaml", "pywt")


class Unavailable(Exception):
    """There is no ComfyUI to run; the message says which setting is missing."""


class Failed(Exception):
    """ComfyUI refused or failed what was asked; the message is its own words."""


@dataclass(frozen=True)
class Settings:
    """A ComfyUI to run.

    Attributes:
        comfyui: the checkout.
        python: a Python with its requirements and ours.
    """

    comfyui: Path
    python: str

    def environment(self) -> dict[str, str]:
        """Returns the environment of its processes: no network, and torchvision importable beside a CPU torch."""
        path = os.pathsep.join([str(HERE / "shims"), *filter(None, [os.environ.get("PYTHONPATH")])])
        return os.environ | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}

    def script(self, name: str, *arguments: object) -> str:
        """Returns what a script of this folder printed, run by ComfyUI's Python; its first argument is the checkout.

        Raises:
            Failed: it ended with an error.
        """
        command = [self.python, str(HERE / name), str(self.comfyui), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=self.environment())
        if done.returncode:
            raise Failed(f"{name} ended with {done.returncode}\n{done.stderr[-4000:]}")
        return done.stdout


def checkouts() -> list[str]:
    """Returns the checkouts that COMFYUI_DIR names."""
    return [named for named in os.environ.get("COMFYUI_DIR", "").split(os.pathsep) if named]


def settings(number: int = 0) -> Settings:
    """Returns what COMFYUI_DIR and COMFYUI_PYTHON say of one checkout; the latter may be left out if it has a venv.

    Args:
        number: which of several.

    Raises:
        Unavailable: no checkout is named, or the Python lacks what ComfyUI needs.
    """
    every = checkouts()
    if not every:
        raise Unavailable("set COMFYUI_DIR to a ComfyUI checkout")
    comfyui = Path(every[number]).expanduser().resolve()
    if not (comfyui / "main.py").is_file():
        raise Unavailable(f"COMFYUI_DIR: expected a ComfyUI checkout, got {comfyui} without main.py")
    pythons = [named for named in os.environ.get("COMFYUI_PYTHON", "").split(os.pathsep) if named]
    if len(pythons) not in (0, 1, len(every)):
        raise Unavailable(f"COMFYUI_PYTHON: expected one Python, or one for each of {len(every)}, got {len(pythons)}")
    own = [comfyui / folder / path for folder in ("venv", ".venv") for path in ("bin/python", "Scripts/python.exe")]
    found = next((path for path in own if path.is_file()), sys.executable)
    python = str(pythons[number if len(pythons) > 1 else 0] if pythons else found)
    look = f"from importlib.util import find_spec as f; print(*[n for n in {NEEDED!r} if f(n) is None])"
    try:
        done = subprocess.run([python, "-c", look], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise Unavailable(f"COMFYUI_PYTHON: expected a Python, got {python} ({error})") from error
    if missing := done.stdout.split():
        raise Unavailable(f"{python} lacks {', '.join(missing)}: set COMFYUI_PYTHON to the Python that runs ComfyUI")
    return Settings(comfyui, python)
