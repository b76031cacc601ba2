"""One adapter on one model at several strengths, for comparisons side by side."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from ..core import WaveFTError
from ..sockets import Carried
from . import patch


def strengths(text: str) -> list[float]:
    """Returns the numbers of a text, in its order.

    Raises:
        WaveFTError: no number, something that is none, or one that is out of the loader's range.
    """
    words = [word for word in re.split(r"[\s,;]+", text) if word]
    if not words:
        raise WaveFTError('strengths: expected numbers such as "0, 0.5, 1", got none. Write one or more.')
    return [_strength(word) for word in words]


def checked(text: str | None) -> bool | str:
    """Returns True, or what is wrong with the text; None is linked."""
    try:
        if text is not None:
            strengths(text)
    except WaveFTError as error:
        return str(error)
    return True


def label(strength: float) -> str:
    """Returns what stands under a picture."""
    return f"strength {strength:g}"


def swept(
    model: Any, clip: Any, carried: Carried, strengths: Sequence[float], strength_clip: float
) -> tuple[list[Any], list[Any]]:
    """Returns a model and text encoders (None if none came in) for each strength; for 0 what came in itself.

    The adapter is fitted once for all of them.

    Args:
        strength_clip: multiplies each strength for the text encoders.

    Raises:
        WaveFTError: the adapter does not fit, whole, what is connected.
    """
    if not any(strengths):
        return [model] * len(strengths), [clip] * len(strengths)
    most = max(strengths, key=abs)  # at which the weights must stay finite
    in_model, in_text = patch.fitted(model, clip, patch.Part(carried, most, most * strength_clip))
    models = [patch.patched(model, in_model, strength) if in_model and strength else model for strength in strengths]
    clips = [
        patch.patched(clip, in_text, strength * strength_clip) if in_text and strength else clip
        for strength in strengths
    ]
    return models, clips


def _strength(word: str) -> float:
    try:
        number = float(word)
    except ValueError:
        number = math.nan
    if not abs(number) <= patch.STRENGTH_LIMIT:
        raise WaveFTError(
            f'strengths: expected numbers from {-patch.STRENGTH_LIMIT:g} to {patch.STRENGTH_LIMIT:g}, got "{word}". '
            'Write them with a point and put commas or spaces between them: "0, 0.25, 0.5".'
        )
    return number
