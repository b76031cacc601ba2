"""What a run paints, and how far that is from unseen pictures and from the base's own."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from trainer.base import encode
from trainer.pictures import images

from .bench import Bench, Samples
from .lockstep import Lockstep
from .runs import Run


def is_painted(run: Run) -> bool:
    return run.seed == 0 and run.c in (0.1, 1) and run.wavelet == "db1" and run.arm in ("uniform", "gradient 16")


@torch.no_grad()
def paint(
    bench: Bench, subjects: list[str], lockstep: Lockstep | None = None, runs: list[int] | None = None
) -> list[tuple[Tensor, Tensor]]:
    """Returns for each run 8 latents of the subject with the unseen pictures' captions, and 8 of ordinary captions.

    20 steps of the base's own Euler scheduler, guidance 4, the same first noise for every run.
    """
    if lockstep is not None and runs is not None:
        lockstep.write(runs)
    eight, count = list(range(8)), len(subjects)
    asked = [
        Samples.joined([bench.tasks[s].unseen.samples.rows(eight), bench.ordinary.samples.rows(eight)])
        for s in subjects
    ]
    nothing = Samples(asked[0].latents, bench.empty.context.repeat(16, 1, 1), bench.empty.pooled.repeat(16, 1))
    both = Samples.joined([Samples.joined([one, nothing]) for one in asked])
    scheduler = type(bench.base.scheduler).from_config(bench.base.scheduler.config)
    scheduler.set_timesteps(20)
    noise = torch.randn(16, 4, 16, 16, generator=torch.Generator().manual_seed(7)) * scheduler.init_noise_sigma
    latents = noise.repeat(count, 1, 1, 1, 1)  # [R, 16, 4, 16, 16]
    for timestep in scheduler.timesteps:
        noisy = scheduler.scale_model_input(torch.cat([latents, latents], 1), timestep).flatten(0, 1)
        predicted = bench.predict(noisy, timestep.expand(len(noisy)), both).view(count, 2, 16, 4, 16, 16)
        guided = predicted[:, 1] + 4 * (predicted[:, 0] - predicted[:, 1])
        latents = scheduler.step(guided, timestep, latents).prev_sample
    return [(one[:8], one[8:]) for one in latents]


def compare(bench: Bench, subject: str, drawn: Tensor, other: Tensor) -> dict[str, float]:
    """Returns how far the subject's pictures are from unseen ones, and ordinary latents from the base's own.

    Args:
        drawn, other: latents [8, 4, 16, 16] of the subject and of ordinary captions.
    """
    unseen = bench.tasks[subject].unseen.samples.latents[:8]
    moved = (other - plain_pictures(bench, subject)[1]).square().mean().sqrt()
    distance = patch_distance(pixels(decoded(bench, drawn)), pixels(decoded(bench, unseen)))
    return {"distance": round(distance, 5), "moved": round(float(moved), 5)}


@cache
def plain_pictures(bench: Bench, subject: str) -> tuple[Tensor, Tensor]:
    """Returns what the base itself paints."""
    hidden = {target.module: target.module.__dict__.pop("forward", None) for target in bench.targets if target.module}
    made = paint(bench, [subject])[0]
    for module, forward in hidden.items():
        if forward is not None:
            module.forward = forward
    return made


def patch_distance(a: Tensor, b: Tensor) -> float:
    """Returns the sliced Wasserstein distance between small patches of two sets of pictures [B, 3, 64, 64] in [0, 1].

    Patches are of 10 px, averaged down to 5, from the middle 36 px: it asks which pieces there are and how often, not
    where, since the subject may stand anywhere.
    """
    size, middle = 5, slice(14, 50)
    axes = torch.randn(3 * size * size, 64, generator=torch.Generator().manual_seed(0))
    levels = torch.linspace(0.005, 0.995, 100)
    first, second = (
        torch.quantile(
            F.unfold(F.avg_pool2d(part[:, :, middle, middle], 2), size).transpose(1, 2).reshape(-1, len(axes))
            @ F.normalize(axes, dim=0),
            levels,
            dim=0,
        )
        for part in (a, b)
    )
    return float((first - second).abs().mean())


def decoded(bench: Bench, latents: Tensor) -> list[Image.Image]:
    """Returns the pictures of latents [B, 4, 16, 16]."""
    with torch.no_grad():
        return [images.from_tensor(encode.decode_latents(bench.base, one)) for one in latents]


def pixels(pictures: list[Image.Image]) -> Tensor:
    """Returns [B, 3, 64, 64] float32 in [0, 1]."""
    return torch.stack([images.to_tensor(picture) for picture in pictures]) / 2 + 0.5


def show(bench: Bench, latents: Tensor, path: Path) -> None:
    """Writes pictures side by side."""
    sheet = Image.new("RGB", (64 * len(latents), 64))
    for number, picture in enumerate(decoded(bench, latents)):
        sheet.paste(picture, (64 * number, 0))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
