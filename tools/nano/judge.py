"""A judge of the base's samples: a small network that names a drawing's shape, colour and ground."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from tools.nano.grid import PROMPTS
from tools.nano.state import cosine, save_atomically
from tools.nano.vae import normalised, to_pixels
from tools.nano_pictures import COLORS, SCENES, SHAPES, Picture, draw, random_picture

GROUNDS = (*COLORS, *SCENES)
ANSWERS = {"shape": SHAPES, "color": tuple(COLORS), "ground": GROUNDS}


class Judge(nn.Module):
    """Names what a picture [B, 3, 64, 64] in [-1, 1] shows: logits for each of `ANSWERS`."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((3, 32), (32, 64), (64, 96), (96, 128)):
            layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.GroupNorm(8, outputs), nn.SiLU()]
            layers += [nn.Conv2d(outputs, outputs, 3, padding=1), nn.GroupNorm(8, outputs), nn.SiLU()]
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 16, 128), nn.SiLU())
        self.heads = nn.ModuleDict({name: nn.Linear(128, len(names)) for name, names in ANSWERS.items()})

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Returns the logits [B, answers] by question."""
        seen = self.body(pixels)
        return {name: head(seen) for name, head in self.heads.items()}


@dataclass(frozen=True)
class Drawings:
    """Drawings [N, 3, 64, 64] uint8 and the index [N] of each true answer by question."""

    pixels: Tensor
    truth: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.pixels)


def drawings(count: int, name: str) -> Drawings:
    """Returns `count` drawings; `name` seeds them, so that other names give others."""
    images, pictures = [], []
    for index in range(count):
        rng = random.Random(f"{name} {index}")
        pictures.append(random_picture(rng))
        images.append(draw(pictures[-1], rng))
    return Drawings(to_pixels(images), truth_of(pictures))


def truth_of(pictures: list[Picture]) -> dict[str, Tensor]:
    """Returns the index [B] of the true answer by question."""
    return {
        name: torch.tensor([names.index(getattr(picture, name)) for picture in pictures])
        for name, names in ANSWERS.items()
    }


def roughen(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Returns the pictures as a base might draw them: half of them softer, all with noise and a drift of colour."""
    batch = len(pixels)
    soft = functional.avg_pool2d(functional.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    chosen = torch.rand(batch, 1, 1, 1, generator=generator) < 0.5
    pixels = torch.where(chosen, soft, pixels)
    drift = 0.05 * torch.randn(batch, 3, 1, 1, generator=generator)
    grain = 0.06 * torch.rand(batch, 1, 1, 1, generator=generator) * torch.randn(pixels.shape, generator=generator)
    return pixels + drift + grain


def train_judge(work: Path, steps: int = 5000, batch: int = 32, count: int = 24_000) -> Judge:
    """Returns the judge, kept in `work` once it is trained."""
    torch.manual_seed(2)
    judge = Judge()
    state = work / "judge.pt"
    if state.exists():
        judge.load_state_dict(torch.load(state))
        return judge.eval()
    pool = drawings(count, "judge")
    optimizer = torch.optim.AdamW(judge.parameters(), lr=1e-3, weight_decay=0.01)
    began = time.time()
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * cosine(step, steps, warmup=50)
        chosen = torch.randint(len(pool), (batch,), generator=generator)
        with torch.autocast("cpu", torch.bfloat16):
            said = judge(roughen(normalised(pool.pixels[chosen]), generator))
        loss = torch.stack(
            [functional.cross_entropy(said[name].float(), pool.truth[name][chosen]) for name in ANSWERS]
        ).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(judge.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 100 == 0:
            print(f"judge {step + 1}/{steps} loss {loss.item():.4f} {time.time() - began:.0f} s", flush=True)
    save_atomically(judge.state_dict(), state)
    return judge.eval()


@torch.no_grad()
def right(judge: Judge, pixels: Tensor, truth: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns by question, and for "all" of them together, which [B] of the uint8 pictures are as they should be."""
    said = judge(normalised(pixels))
    found = {name: said[name].argmax(dim=1) == truth[name] for name in ANSWERS}
    return {**found, "all": torch.stack(list(found.values())).all(dim=0)}


def judged(judge: Judge, rows: list[list[Image.Image]]) -> dict[str, Mapping[str, float]]:
    """Returns the shares of right answers on 2,000 drawings that the judge never saw, and the grid's right samples.

    Args:
        judge: The trained judge.
        rows: The samples of each of `PROMPTS`, in that order.
    """
    held = drawings(2000, "judge held out")
    known = {name: found.float().mean().item() for name, found in right(judge, held.pixels, held.truth).items()}
    samples = dict.fromkeys((*ANSWERS, "all"), 0)
    for images, picture in zip(rows, PROMPTS.values(), strict=True):
        for name, found in right(judge, to_pixels(images), truth_of([picture] * len(images))).items():
            samples[name] += int(found.sum())
    return {"judge on drawings": known, "samples that obey": samples}
