"""WaveFT's core: the wavelet update of a weight, its training, its merging and its file."""

from .adapter import Adapter, Layer
from .algebra import combine, energy, prune, reproject
from .errors import WaveFTError
from .extract import extract, extract_deltas
from .file import load, save
from .locate import Probe, locate
from .merge import Merged, merge
from .spec import SDXL_ATTENTION, Spec
from .tuning import Tuning, attach, attached

__all__ = [
    "SDXL_ATTENTION",
    "Adapter",
    "Layer",
    "Merged",
    "Probe",
    "Spec",
    "Tuning",
    "WaveFTError",
    "attach",
    "attached",
    "combine",
    "energy",
    "extract",
    "extract_deltas",
    "load",
    "locate",
    "merge",
    "prune",
    "reproject",
    "save",
]
