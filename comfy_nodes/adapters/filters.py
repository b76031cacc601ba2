"""Turns parts of an adapter up or down: by attention kind, projection, block, wavelet sub-band and name.

A layer's name says its place (`lora_unet_output_blocks_3_1_transformer_blocks_0_attn2_to_k`), as ComfyUI, kohya's tools
and diffusers spell it. A group of factors touches the layers that its members name and leaves all others alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..core import BANDS, Adapter, Pattern, WaveFTError, compile_pattern, scale
from ..sockets import Carried, present

# id of the widget -> what it says of itself; the order is that of the widgets
GROUPS = {
    "attn1": "Self-attention layers, which see the picture alone (style, texture).",
    "attn2": "Cross-attention layers, which see the prompt (subject, concepts).",
    "to_q": "Query projections.",
    "to_k": "Key projections.",
    "to_v": "Value projections.",
    "to_out": "Output projections.",
    "input_blocks": "Layers of the UNet's input (down) blocks.",
    "middle_block": "Layers of the UNet's middle block.",
    "output_blocks": "Layers of the UNet's output (up) blocks.",
    "aa": "Sub-band aa: what changes slowly over a weight's rows and columns.",
    "ad": "Sub-band ad: slow over rows, fast over columns (inputs).",
    "da": "Sub-band da: fast over rows (outputs), slow over columns.",
    "dd": "Sub-band dd: what changes fast over both.",
}
LONGEST_NAME = 200  # a search takes time in proportion to it
_NAMED = {
    "attn1": re.compile(r"_attn1_"),
    "attn2": re.compile(r"_attn2_"),
    **{f"to_{part}": re.compile(rf"_to_{part}(?:_0)?$|_{part}_proj$") for part in ("q", "k", "v", "out")},
    "input_blocks": re.compile(r"^lora_unet_(?:input|down)_blocks_"),
    "middle_block": re.compile(r"^lora_unet_mid(?:dle)?_block_"),
    "output_blocks": re.compile(r"^lora_unet_(?:output|up)_blocks_"),
}


class Emptied(WaveFTError):
    """A filter left nothing of an adapter."""

    __module__ = WaveFTError.__module__  # for ComfyUI's dialog


@dataclass(frozen=True)
class Filter:
    """Factors by group; `previous` is applied before it.

    Attributes:
        factors: by id of `GROUPS`; one that is missing is 1.
        only, without: regular expressions, searched for in layer names; "" for none.
    """

    factors: Mapping[str, float] = field(default_factory=dict)
    only: str = ""
    without: str = ""
    previous: Filter | None = None

    def apply(self, carried: Carried) -> Carried:
        """Returns what is left of an adapter, the object itself where nothing changes.

        Raises:
            Emptied: nothing is left.
            WaveFTError: a regular expression that is none, or sub-bands of an adapter that has none.
        """
        if self.previous is not None:
            carried = self.previous.apply(carried)
        factors = self._by_layer(carried.adapter)
        if not any(any(of.values()) if isinstance(of, dict) else of for of in factors.values()):
            raise Emptied(
                f'filter of "{carried.title}": expected some layers left, got none of {len(factors)}. '
                "Raise a factor, or correct only_layers and except_layers; their layers are named such as "
                f'"{next(iter(factors))}".'
            )
        try:
            made = scale(carried.adapter, factors)
        except WaveFTError as error:
            kind = Emptied if "some coefficients left" in str(error) else WaveFTError
            raise kind(f'filter of "{carried.title}": {error}') from None
        if made is carried.adapter:
            return carried
        title = carried.title if "filtered" in carried.origin else f"{carried.title} (filtered)"
        return Carried(made, title, {"filtered": self.said(), "of": carried.origin})

    def said(self) -> dict[str, Any]:
        """Returns what differs from leaving all as it is; JSON."""
        told: dict[str, Any] = {id: factor for id, factor in self.factors.items() if factor != 1}
        if self.only:
            told["only_layers"] = self.only
        if self.without:
            told["except_layers"] = self.without
        return told

    def _by_layer(self, adapter: Adapter) -> dict[str, float | dict[str, float]]:
        only, without = compiled(self.only, "only_layers"), compiled(self.without, "except_layers")
        bands = {band: self.factors.get(band, 1.0) for band in BANDS}
        plain = len(set(bands.values())) == 1  # one factor for all of a layer, which `identity` can take too
        found: dict[str, float | dict[str, float]] = {}
        for layer in adapter.layers:
            if (only or without) and len(layer) > LONGEST_NAME:
                raise WaveFTError(
                    f'layer "{layer[:40]}...": expected a name of at most {LONGEST_NAME} letters to search in, '
                    f"got {len(layer)}. Leave only_layers and except_layers empty for this file."
                )
            factor = 1.0
            if (only and not only.search(layer)) or (without and without.search(layer)):
                factor = 0.0
            for id, named in _NAMED.items():
                if named.search(layer):
                    factor *= self.factors.get(id, 1.0)
            found[layer] = factor * bands["aa"] if plain else {band: factor * value for band, value in bands.items()}
        return found


def from_widgets(previous: Filter | None = None, **widgets: Any) -> Filter:
    """Returns the filter that the widgets of `widgets.multipliers` say."""
    factors = {id: float(widgets[id]) for id in GROUPS}
    only, without = (widgets[input].strip() for input in ("only_layers", "except_layers"))
    compiled(without, "except_layers")
    return Filter(factors, only, without, previous)


def kept(filter: Filter | None, adapter: Carried | None) -> Carried:
    """Returns what a filter leaves of a node's `adapter`, all of it without a filter.

    Raises:
        WaveFTError: no adapter came in, or what `Filter.apply` raises.
    """
    present("adapter", adapter)
    assert adapter is not None
    return adapter if filter is None else filter.apply(adapter)


def checked(input: str, text: str | None) -> bool | str:
    """Returns True, or what is wrong with a text as a regular expression; None is linked."""
    try:
        compiled((text or "").strip(), input)
    except WaveFTError as error:
        return str(error)
    return True


def compiled(expression: str, input: str) -> Pattern | None:
    """Returns a regular expression, None for an empty one.

    Raises:
        WaveFTError: it is none, or one that the core cannot search for in bounded time: workflows are shared, and
            nothing can interrupt a search.
    """
    return compile_pattern(expression, input) if expression else None
