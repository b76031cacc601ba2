"""How alike pictures, photographs and texts are, by the cosines of their embeddings.

Every function takes embeddings [n, d] as the networks give them, of any length, and works in float64: a cosine of two
float32 vectors of 1280 numbers is otherwise wrong in the seventh digit, which identities would show.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Reference = Literal["mean", "pairwise"]


def unit(rows: Tensor) -> Tensor:
    """Returns the rows at length 1, float64; a row of zeros stays one."""
    return F.normalize(rows.double(), dim=-1)


def fidelity(
    pictures: Tensor, photos: Tensor, reference: Reference = "mean", normalise_before_mean: bool = True
) -> Tensor:
    """Returns how alike each picture is to the photographs of a subject, [n] float64 in [-1, 1].

    Args:
        pictures: [n, d].
        photos: [m, d], at least one.
        reference: "mean" = cosine to the mean of the photographs' embeddings, as the WaveFT paper has it; "pairwise" =
            mean of the cosines to each, as DreamBooth has it, which is lower wherever the photographs differ.
        normalise_before_mean: for "mean": each photograph weighs the same, whatever its embedding's length.

    Raises:
        ValueError: no photograph.
    """
    if not len(photos):
        raise ValueError("photos: expected at least one embedding, got none.")
    if reference == "pairwise":
        return (unit(pictures) @ unit(photos).T).mean(dim=1)
    held = unit(photos) if normalise_before_mean else photos.double()
    return unit(pictures) @ unit(held.mean(dim=0))


def leave_one_out(photos: Tensor, reference: Reference = "mean", normalise_before_mean: bool = True) -> Tensor:
    """Returns the fidelity of each photograph to the others, [m] float64: what a perfect picture can hope for.

    Empty where there are not two.
    """
    if len(photos) < 2:
        return torch.empty(0, dtype=torch.float64)
    others = (torch.cat([photos[:at], photos[at + 1 :]]) for at in range(len(photos)))
    return torch.cat(
        [fidelity(photos[at : at + 1], rest, reference, normalise_before_mean) for at, rest in enumerate(others)]
    )


def nearest(pictures: Tensor, photos: Tensor) -> tuple[Tensor, Tensor]:
    """Returns each picture's copy score, its cosine to the nearest photograph [n] float64, and which that is [n]."""
    found = (unit(pictures) @ unit(photos).T).max(dim=1)
    return found.values, found.indices


def closest_pair(photos: Tensor) -> float:
    """Returns the highest cosine of two different photographs; NaN where there are not two.

    A picture that is nearer than this to a training photograph is nearer than any two photographs of the subject are.
    """
    if len(photos) < 2:
        return float("nan")
    cosines = unit(photos) @ unit(photos).T
    cosines.fill_diagonal_(-2.0)
    return float(cosines.max())


def agreement(pictures: Tensor, texts: Tensor) -> Tensor:
    """Returns each picture's cosine to the text in its row, [n] float64."""
    return (unit(pictures) * unit(texts)).sum(dim=-1)


def clip_score(pictures: Tensor, texts: Tensor) -> Tensor:
    """Returns the same as CLIPScore has it: in hundredths, and never below 0."""
    return 100 * agreement(pictures, texts).clamp(min=0)


def chance_agreement(pictures: Tensor, texts: Tensor) -> Tensor:
    """Returns each picture's mean cosine to the texts of the other rows, [n] float64: what not reading is worth.

    Rows with the same text do not count as others. NaN where all texts are the same.
    """
    cosines, held = unit(pictures) @ unit(texts).T, unit(texts)
    others = ~torch.isclose(held @ held.T, torch.ones((), dtype=torch.float64), atol=1e-9, rtol=0)
    return (cosines * others).sum(dim=1) / others.sum(dim=1)


def distance(first: Tensor, second: Tensor) -> Tensor:
    """Returns 1 - cosine of each row of the one with that of the other, [n] float64 in [0, 2].

    Of pictures that the base and the adapter draw from the same prompt and seed, this is the drift.
    """
    return (1 - agreement(first, second)).clamp(min=0)  # rounding puts equal rows a hair past 1


def seed_distance(pictures: Tensor) -> Tensor:
    """Returns the mean distance of pictures that one prompt gave for different seeds, by prompt.

    Args:
        pictures: [prompts, seeds, d], at least two seeds.

    Returns:
        [prompts] float64.

    Raises:
        ValueError: one seed alone.
    """
    count = pictures.shape[1]
    if count < 2:
        raise ValueError(f"pictures: expected at least 2 seeds a prompt, got {count}.")
    held = unit(pictures)
    first, second = torch.triu_indices(count, count, offset=1)
    return (1 - (held[:, first] * held[:, second]).sum(dim=-1)).clamp(min=0).mean(dim=1)
