"""What a prompt says of an adapter beyond its strengths: `<lora:dog:0.8:dd=0:attn2=0.5:only=to_v>`.

The UIs split a tag at its colons and hand on `name=value` as it is, so that ours stand beside `te=` and `unet=`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .core import GROUPS, Multipliers, WaveFTError, compiled, nearest

ONLY, WITHOUT = "only", "except"  # regular expressions, searched for in layer names; a tag cannot hold ":", ">" or "="


def multipliers(called: str, named: Mapping[str, Any], *more: Mapping[str, Any]) -> Multipliers:
    """Returns the multipliers that a tag asks for.

    Args:
        called: the adapter's name in the prompt, for messages.
        named: the tag's `name=value` parts; those that are not ours are left to the UI and to other extensions.
        more: what the settings and an X/Y/Z axis ask for beside them; factors are multiplied, of expressions the last
            one holds.

    Raises:
        WaveFTError: a factor that is no finite number, or an expression that is none.
    """
    factors: dict[str, float] = {}
    texts = {ONLY: "", WITHOUT: ""}
    for given in (*more[:-1], named, *more[-1:]):
        for name, value in given.items():
            if name in GROUPS:
                factors[name] = factors.get(name, 1.0) * _number(called, name, value)
            elif name in texts:
                texts[name] = str(value).strip()
    for name, text in texts.items():
        compiled(text, f"{called}, {name}")
    return Multipliers(factors, texts[ONLY], texts[WITHOUT])


def strengths(called: str, tag: Any) -> tuple[float, float]:
    """Returns a tag's strengths (UNet, text encoders), by the UIs' own rule.

    Args:
        tag: the UI's object of it, with `positional` and `named`.

    Raises:
        WaveFTError: one that is no finite number.
    """
    plain = [*tag.positional[1:3], *(1.0, None)[len(tag.positional[1:3]) :]]
    te = _number(called, "te", tag.named.get("te", plain[0]))
    unet = tag.named.get("unet", te if plain[1] is None else plain[1])
    return _number(called, "unet", unet), te


def parsed(text: str) -> dict[str, str]:
    """Returns the factors in a text such as `dd=0 attn2=0.5`, for X/Y/Z axes and settings.

    Raises:
        WaveFTError: a word that is not `name=value`, or a name that is none.
    """
    found = {}
    for word in text.replace(":", " ").split():
        name, equals, value = word.partition("=")
        if not equals or name not in (*GROUPS, ONLY, WITHOUT):
            near = ", ".join(nearest(name, GROUPS, 3))
            raise WaveFTError(
                f'factor "{word}": expected name=number with a name such as {near}, got none. '
                f"Names are {', '.join(GROUPS)}, and {ONLY} and {WITHOUT} for layer names."
            )
        found[name] = value
    return found


def _number(called: str, name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise WaveFTError(f'{called}, {name}: expected a finite number, got "{value}". Write {name}=0.5, say.')
    return number
