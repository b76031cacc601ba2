"""Whether the base draws what its prompts say: shape, colour and ground."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from tools.nano.grid import PROMPTS
from tools.nano.judge import Examples, Judge, right, trained
from tools.nano.vae import to_pixels
from tools.nano_pictures import COLORS, SCENES, SHAPES, Picture, draw, random_picture

GROUNDS = (*COLORS, *SCENES)
ANSWERS = {"shape": SHAPES, "color": tuple(COLORS), "ground": GROUNDS}


def drawings(count: int, name: str) -> Examples:
    """Returns `count` drawings and what they show; `name` seeds them, so that other names give others."""
    images, pictures = [], []
    for index in range(count):
        rng = random.Random(f"{name} {index}")
        pictures.append(random_picture(rng))
        images.append(draw(pictures[-1], rng))
    return Examples(to_pixels(images), truth_of(pictures))


def truth_of(pictures: list[Picture]) -> dict[str, Tensor]:
    """Returns the index [B] of the true answer by question."""
    return {
        name: torch.tensor([names.index(getattr(picture, name)) for picture in pictures])
        for name, names in ANSWERS.items()
    }


def train_judge(work: Path, steps: int = 5000, count: int = 24_000) -> Judge:
    """Returns the judge of the base's samples, kept in `work`."""
    return trained(ANSWERS, lambda: drawings(count, "judge"), work / "judge.pt", steps)


def accuracy(judge: Judge, count: int = 2000) -> dict[str, float]:
    """Returns the shares of right answers about drawings that the judge never saw."""
    found = right(judge, drawings(count, "judge held out"))
    return {name: each.float().mean().item() for name, each in found.items()}


def obedient(judge: Judge, rows: list[list[Image.Image]]) -> dict[str, int]:
    """Returns how many samples obey; `rows` holds those of each of `PROMPTS`, in that order."""
    pictures = [picture for images, picture in zip(rows, PROMPTS.values(), strict=True) for _ in images]
    samples = to_pixels([image for images in rows for image in images])
    return {name: int(each.sum()) for name, each in right(judge, Examples(samples, truth_of(pictures))).items()}
