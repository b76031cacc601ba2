"""WaveFT's core: the wavelet update of a weight, its training, its merging and its file."""

from .adapter import Adapter, Layer
from .errors import WaveFTError
from .file import load, save
from .merge import Merged, merge
from .spec import SDXL_ATTENTION, Spec
from .tuning import Tuning, attach

__all__ = [
    "SDXL_ATTENTION",
    "Adapter",
    "Layer",
    "Merged",
    "Spec",
    "Tuning",
    "WaveFTError",
    "attach",
    "load",
    "merge",
    "save",
]
