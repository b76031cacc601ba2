"""What the packs for other programs (ComfyUI, web UIs) take from the core, listed once.

Each pack has a shim that decides which copy of the core is meant and hands on these names.
"""

from . import (
    SDXL_ATTENTION,
    Adapter,
    WaveFTError,
    combine,
    energy,
    extract_deltas,
    load,
    prune,
    reproject,
    save,
    scale,
    summarize,
)
from .basis.atoms import wavelets
from .basis.plan import Plan
from .cli.console import size_text
from .cli.report import as_text
from .cli.transfer import differences_to, trained_on
from .errors import listed, nearest
from .format.container import read_layout
from .format.disk import stamp
from .format.file import from_tensors, read_header
from .format.hashes import sha256
from .format.header import HEADER
from .format.hub import hub_metadata, is_sdxl
from .format.sniff import is_waveft
from .format.wholefile import write_atomically
from .interop.lora import deltas
from .toolbox.checkpoint import merge_files
from .toolbox.filters import GROUPS, Emptied, Multipliers, compiled
from .toolbox.fit import Target, check_strength, fit, trained_for
from .toolbox.plans import Kept
from .toolbox.plot import plot
from .toolbox.precision import TakenForRounding
from .toolbox.rounding import rounded_to
from .toolbox.sources import differences, matches
from .toolbox.summary import BANDS
from .toolbox.weights import Weights
from .update.beside import added
from .update.gradient import Sampler

__all__ = [
    "BANDS",
    "GROUPS",
    "HEADER",
    "SDXL_ATTENTION",
    "Adapter",
    "Emptied",
    "Kept",
    "Multipliers",
    "Plan",
    "Sampler",
    "TakenForRounding",
    "Target",
    "WaveFTError",
    "Weights",
    "added",
    "as_text",
    "check_strength",
    "combine",
    "compiled",
    "deltas",
    "differences",
    "differences_to",
    "energy",
    "extract_deltas",
    "fit",
    "from_tensors",
    "hub_metadata",
    "is_sdxl",
    "is_waveft",
    "listed",
    "load",
    "matches",
    "merge_files",
    "nearest",
    "plot",
    "prune",
    "read_header",
    "read_layout",
    "reproject",
    "rounded_to",
    "save",
    "scale",
    "sha256",
    "size_text",
    "stamp",
    "summarize",
    "trained_for",
    "trained_on",
    "wavelets",
    "write_atomically",
]
