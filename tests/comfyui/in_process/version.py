"""Prints what the tests run on: ComfyUI's version and commit, torch's and Python's."""

import platform
import subprocess
import sys

sys.path.insert(0, sys.argv[1])

import comfyui_version
import torch

commit = subprocess.run(
    ["git", "-C", sys.argv[1], "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
).stdout.strip()
print(
    f"ComfyUI {comfyui_version.__version__} ({commit or 'no commit'}), torch {torch.__version__}, "
    f"Python {platform.python_version()}"
)
