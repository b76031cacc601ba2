"""WaveFT's core: the wavelet update of a weight, its training, its merging and its file."""

from .adapter import Adapter, Layer
from .algebra import combine, energy, prune, reproject
from .attach import attach, attached
from .checkpoint import merge_files
from .errors import WaveFTError
from .extract import extract, extract_deltas
from .file import load, save
from .locate import Probe, locate
from .merge import Merged, merge
from .scale import scale
from .spec import SDXL_ATTENTION, Spec
from .summary import summarize
from .tuning import Tuning
from .weights import Weights

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
