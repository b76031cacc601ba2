"""The names that `from waveft_core import ...` gives, listed once. They stand on torch."""

from .errors import WaveFTError
from .format.adapter import Adapter, Layer
from .format.file import load, save
from .toolbox.algebra import combine, energy, prune, reproject
from .toolbox.checkpoint import merge_files
from .toolbox.extract import extract, extract_deltas
from .toolbox.scale import scale
from .toolbox.summary import summarize
from .toolbox.weights import Weights
from .update.attach import attach, attached
from .update.locate import Probe, locate
from .update.merge import Merged, merge
from .update.spec import SDXL_ATTENTION, Spec
from .update.tuning import Tuning

__all__ = [
    "SDXL_ATTENTION",
    "Adapter",
    "Layer",
    "Merged",
    "Probe",
    "Spec",
    "Tuning",
    "WaveFTError",
    "Weights",
    "attach",
    "attached",
    "combine",
    "energy",
    "extract",
    "extract_deltas",
    "load",
    "locate",
    "merge",
    "merge_files",
    "prune",
    "reproject",
    "save",
    "scale",
    "summarize",
]
