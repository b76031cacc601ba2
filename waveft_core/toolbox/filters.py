"""Turns parts of an adapter up or down: by attention kind, projection, block, wavelet sub-band and name.

A layer's name says its place (`lora_unet_output_blocks_3_1_transformer_blocks_0_attn2_to_k`), as ComfyUI, kohya's tools
and diffusers spell it. A group of factors touches the layers that its members name and leaves all others alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import WaveFTError
from ..format.adapter import Adapter
from ..pattern import Pattern, compile_pattern
from .scale import scale
from .summary import BANDS

# The names of factors, as widgets, settings and prompts have them, and what each stands for, in the order of showing.
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


@dataclass(frozen=True)
class Multipliers:
    """Factors by group.

    Attributes:
        factors: by name of `GROUPS`; one that is missing is 1.
        only, without: regular expressions, searched for in layer names; "" for none.
    """

    factors: Mapping[str, float] = field(default_factory=dict)
    only: str = ""
    without: str = ""

    def apply(self, adapter: Adapter, called: str) -> Adapter:
        """Returns what is left of an adapter, the object itself where nothing changes.

        Args:
            called: the adapter's name, for messages.

        Raises:
            Emptied: nothing is left.
            WaveFTError: a regular expression that is none, or sub-bands of an adapter that has none.
        """
        factors = self._by_layer(adapter)
        if not any(any(of.values()) if isinstance(of, dict) else of for of in factors.values()):
            raise Emptied(
                f'filter of "{called}": expected some layers left, got none of {len(factors)}. '
                "Raise a factor, or correct only_layers and except_layers; their layers are named such as "
                f'"{next(iter(factors))}".'
            )
        try:
            return scale(adapter, factors)
        except WaveFTError as error:
            kind = Emptied if "some coefficients left" in str(error) else WaveFTError
            raise kind(f'filter of "{called}": {error}') from None

    def said(self) -> dict[str, Any]:
        """Returns what differs from leaving all as it is; JSON."""
        told: dict[str, Any] = {name: factor for name, factor in self.factors.items() if factor != 1}
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


def compiled(expression: str, called: str) -> Pattern | None:
    """Returns a regular expression, None for an empty one.

    Args:
        called: what messages call it.

    Raises:
        WaveFTError: it is none, or one that cannot be searched for in bounded time: workflows and prompts are shared,
            and nothing can interrupt a search.
    """
    return compile_pattern(expression, called) if expression else None
