"""What Inspect WaveFT does: an adapter, or what a model carries, as text and as a picture."""

from __future__ import annotations

import re
from typing import Any

import torch

from ..adapters import recipe
from ..core import WaveFTError, as_text, summarize
from ..patching import carrying
from ..sockets import Carried
from . import picture

Shown = tuple[str, torch.Tensor]


def of_adapter(carried: Carried) -> Shown:
    """Returns the text and the picture of an adapter."""
    told = summarize(carried.adapter)
    hidden = (recipe.RECIPE, *recipe.GRAPH)  # long, and the recipe is shown below in words
    told["metadata"] = {key: value for key, value in told["metadata"].items() if key not in hidden}
    text = "\n".join((carried.title, "", as_text(told, rest=""), "", *_origin(carried)))
    return text, picture.draw(carried.title, told)


def of_model(model: Any, clip: Any = None) -> Shown:
    """Returns the text and the picture of what is applied to a model, to a CLIP, or to both: its sum."""
    found, called = carrying.carried_by(model, clip), carrying.called(model, clip)
    if not found:
        said = f"No WaveFT adapter is applied to the connected {called}."
        return said, picture.draw_words(called, said)
    rows = ["strength  layers  adapter"]
    for one in found:
        layers = f"{len(one.strengths)}/{len(one.carried.adapter.layers)}"
        rows.append(f"{carrying.strength_text(one):>8}  {layers:>6}  {one.carried.title}")
    rows += carrying.left_out(found, model, clip)
    heading = f"applied to the {called}: {len({id(one.carried) for one in found})}"
    try:
        text, drawn = of_adapter(carrying.total(found))
    except WaveFTError as error:  # different wavelets: there is no sum to describe, but all of them are applied
        each = [line for one in found for line in _origin(one.carried)]
        return "\n".join((heading, *rows, "", *each)), picture.draw_words(f"applied to the {called}", str(error))
    return "\n".join((heading, *rows, "", "their sum", text)), drawn


def summary(text: str) -> str:
    """Returns a text's first lines, without its tables and its columns: a node shows text in a proportional font."""
    head = text.partition("\n\nenergy by block")[0]
    return re.sub(r"(?<=\S) {2,}", "  ", head)


def _origin(carried: Carried) -> list[str]:
    return ["where it came from", *(f"  {line}" for line in recipe.lines(carried.origin))]
