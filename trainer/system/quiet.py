"""Keeps the libraries' own remarks off the console: what they warn of is nothing that whoever trains could mend."""

from __future__ import annotations

import os
import warnings

# Whose warnings speak to programmers. Those of a class that a job names stay.
LIBRARIES = (
    "PIL",
    "accelerate",
    "bitsandbytes",
    "diffusers",
    "huggingface_hub",
    "numpy",
    "safetensors",
    "torch",
    "transformers",
)


def quiet_libraries(allow_download: bool) -> None:
    """Sets the switches that keep the model libraries offline and their notes on missing extras off the console.

    They are read when those libraries are imported, so that this must run first; what the user has set stays.
    """
    for name in ("TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY"):
        os.environ.setdefault(name, "error")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if not allow_download:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
    for name in LIBRARIES:
        warnings.filterwarnings("ignore", module=rf"{name}(\\.|$)")
