"""Inputs that several nodes share. Saved workflows hold widgets by position: their order is final, only ever append."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import folders
from .api import io
from .core import GROUPS, WaveFTError, listed
from .patching.patch import STRENGTH_LIMIT
from .sockets import WAVEFT, WAVEFT_FILTER

NONE = "None"  # the first choice of a list that may stay empty, as ComfyUI's own nodes have it
STEP = 0.01


def adapter_name() -> Any:
    """Returns the list of files."""
    return io.Combo.Input(
        "adapter_name",
        options=folders.choices(),
        tooltip="The adapter: a file in models/waveft or output/waveft, or a WaveFT file in models/loras.",
    )


def model() -> Any:
    """Returns the MODEL socket of the nodes that apply something."""
    return io.Model.Input("model", tooltip="The diffusion model that the adapter is applied to.")


def adapter(id: str = "adapter", tooltip: str = "The adapter.", **options: Any) -> Any:
    """Returns a WAVEFT socket."""
    return WAVEFT.Input(id, tooltip=tooltip, **options)


def strength(id: str, tooltip: str, **options: Any) -> Any:
    """Returns a strength widget, with the stock LoRA loader's range."""
    return io.Float.Input(
        id,
        **{"default": 1.0, "min": -STRENGTH_LIMIT, "max": STRENGTH_LIMIT, "step": STEP, "tooltip": tooltip, **options},
    )


def strength_model() -> Any:
    """Returns the strength for the diffusion model."""
    return strength(
        "strength_model", "How strongly the diffusion model is changed: 1 as trained, 0 not at all; may be negative."
    )


def clip_inputs() -> list[Any]:
    """Returns the optional CLIP socket and its strength."""
    return [
        io.Clip.Input(
            "clip", optional=True, tooltip="The text encoders. Needed only for a file that holds layers for them."
        ),
        strength(
            "strength_clip",
            "How strongly the text encoders are changed. 0 leaves the file's text-encoder layers out.",
            optional=True,
        ),
    ]


def filter_input(id: str = "filter") -> Any:
    """Returns the optional WAVEFT_FILTER socket."""
    return WAVEFT_FILTER.Input(
        id, optional=True, tooltip="Turns parts of the adapter up or down: layers by kind and place, sub-bands, names."
    )


def multipliers() -> list[Any]:
    """Returns the widgets of a filter: a factor for each kind of layer and sub-band, and two regular expressions."""
    factors = [strength(id, f"{told} 1 leaves them as they are, 0 takes them out.") for id, told in GROUPS.items()]
    return [
        *factors,
        io.String.Input(
            "only_layers",
            default="",
            tooltip="A regular expression: only layers in whose names it is found are kept. "
            'Empty for all. Example: "output_blocks_[3-5]_1".',
        ),
        io.String.Input(
            "except_layers",
            default="",
            tooltip="A regular expression: layers in whose names it is found are taken out. Empty for none.",
        ),
    ]


def patched_outputs() -> list[Any]:
    """Returns MODEL, CLIP and report."""
    return [
        io.Model.Output("patched_model", display_name="MODEL", tooltip="The model with the adapter applied."),
        io.Clip.Output(
            "patched_clip",
            display_name="CLIP",
            tooltip="The text encoders, with the adapter applied where the file holds layers for them. "
            "Empty while no `clip` is connected.",
        ),
        report('What was applied, e.g. "560/560 layers".'),
    ]


def report(tooltip: str) -> Any:
    """Returns the report output."""
    return io.String.Output("report", display_name="report", tooltip=tooltip)


def chosen(id: str, value: Any, options: Sequence[str]) -> str:
    """Returns a list's value; ComfyUI checks the lists of such nodes as ours in the front end alone.

    Raises:
        WaveFTError: it is not on the list.
    """
    if value not in options:
        raise WaveFTError(f"{id}: expected one of {listed(options)}, got {value!r}. Choose one.")
    return str(value)
