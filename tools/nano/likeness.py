"""A judge of the quick start's samples: which of the mushroom's parts a picture shows, and on what ground it stands."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from PIL import Image

from tools.draw_mushroom import PARTS, draw_view
from tools.nano.judge import Examples, Judge, right, trained
from tools.nano.obedience import GROUNDS
from tools.nano.vae import to_pixels
from tools.nano_pictures import SIZE_PX, draw, random_picture
from tools.subject import View

ANSWERS = {"subject": ("other", "mushroom"), **dict.fromkeys(PARTS, ("without", "with")), "ground": GROUNDS}


def random_view(rng: random.Random) -> View:
    """Returns the mushroom anywhere near the middle, upright or nearly so, on any ground of the base's."""
    return View(
        ground=rng.choice(GROUNDS),
        center=(rng.uniform(0.42, 0.58), rng.uniform(0.45, 0.57)),
        radius=rng.uniform(0.3, 0.46),
        tilt_deg=rng.uniform(-10, 10),
    )


def examples(count: int, name: str) -> Examples:
    """Returns `count` pictures, half of them the quick start's mushroom; `name` seeds them.

    Of those two thirds lack parts, so that each part is told by itself; the others are the base's own drawings.
    """
    images, truth = [], []
    for index in range(count):
        rng = random.Random(f"{name} {index}")
        if index % 2:
            picture = random_picture(rng)
            images.append(draw(picture, rng))
            truth.append([0, *(0 for _ in PARTS), GROUNDS.index(picture.ground)])
            continue
        whole = rng.random() < 1 / 3
        parts = [part for part in PARTS if whole or rng.random() < 0.5]
        view = random_view(rng)
        drawn = draw_view(view, rng.randrange(1_000_000), parts)
        images.append(drawn.resize((SIZE_PX, SIZE_PX), Image.Resampling.BOX))
        truth.append([1, *(int(part in parts) for part in PARTS), GROUNDS.index(view.ground)])
    columns = torch.tensor(truth).unbind(dim=1)
    return Examples(to_pixels(images), dict(zip(ANSWERS, columns, strict=True)))


def train_likeness(work: Path, steps: int = 2500, count: int = 12_000) -> Judge:
    """Returns the judge of the quick start's samples, kept in `work`."""
    return trained(ANSWERS, lambda: examples(count, "likeness"), work / "likeness.pt", steps)


def accuracy(judge: Judge, count: int = 2000) -> dict[str, float]:
    """Returns the shares of right answers about pictures that the judge never saw."""
    found = right(judge, examples(count, "likeness held out"))
    return {name: each.float().mean().item() for name, each in found.items()}
