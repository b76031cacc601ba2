"""A small network that answers questions about drawings, so that samples can be counted instead of looked at."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from tools.nano.precision import autocast
from tools.nano.state import cosine, save_atomically
from tools.nano.vae import normalised

Answers = Mapping[str, Sequence[str]]  # question -> its possible answers


@dataclass(frozen=True)
class Examples:
    """Pictures [N, 3, 64, 64] uint8 and the index [N] of each true answer by question."""

    pixels: Tensor
    truth: dict[str, Tensor]


class Judge(nn.Module):
    """Answers `answers`' questions about pictures [B, 3, 64, 64] in [-1, 1]."""

    def __init__(self, answers: Answers) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((3, 32), (32, 64), (64, 96), (96, 128)):
            layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.GroupNorm(8, outputs), nn.SiLU()]
            layers += [nn.Conv2d(outputs, outputs, 3, padding=1), nn.GroupNorm(8, outputs), nn.SiLU()]
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 16, 128), nn.SiLU())
        self.heads = nn.ModuleDict({name: nn.Linear(128, len(each)) for name, each in answers.items()})

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Returns the logits [B, answers] by question."""
        seen = self.body(pixels)
        return {name: head(seen) for name, head in self.heads.items()}


def roughen(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Returns the pictures as a base might draw them: half of them softer, all with noise and a drift of colour."""
    batch = len(pixels)
    soft = functional.avg_pool2d(functional.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    chosen = torch.rand(batch, 1, 1, 1, generator=generator) < 0.5
    pixels = torch.where(chosen, soft, pixels)
    drift = 0.05 * torch.randn(batch, 3, 1, 1, generator=generator)
    grain = 0.06 * torch.rand(batch, 1, 1, 1, generator=generator) * torch.randn(pixels.shape, generator=generator)
    return pixels + drift + grain


def trained(answers: Answers, examples: Callable[[], Examples], state: Path, steps: int, batch: int = 32) -> Judge:
    """Returns a judge of `answers`, from `state` where it is kept once it is trained.

    Args:
        answers: Its questions, with their answers.
        examples: Draws what it is trained on; called only where there is no state.
        state: The file.
        steps: How many steps of `batch` examples, one cosine of the learning rate.
        batch: Pictures a step.
    """
    torch.manual_seed(2)
    judge = Judge(answers)
    if state.exists():
        judge.load_state_dict(torch.load(state))
        return judge.eval()
    pool = examples()
    optimizer = torch.optim.AdamW(judge.parameters(), lr=1e-3, weight_decay=0.01)
    began = time.time()
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * cosine(step, steps, warmup=50)
        chosen = torch.randint(len(pool.pixels), (batch,), generator=generator)
        with autocast():
            said = judge(roughen(normalised(pool.pixels[chosen]), generator))
        losses = [functional.cross_entropy(said[name].float(), pool.truth[name][chosen]) for name in answers]
        loss = torch.stack(losses).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(judge.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 100 == 0:
            print(f"{state.stem} {step + 1}/{steps} loss {loss.item():.4f} {time.time() - began:.0f} s", flush=True)
    save_atomically(judge.state_dict(), state)
    return judge.eval()


@torch.no_grad()
def right(judge: nn.Module, examples: Examples) -> dict[str, Tensor]:
    """Returns by question, and for "all" of them together, which [N] of the pictures are as they should be."""
    parts = [judge(normalised(part)) for part in examples.pixels.split(256)]
    found = {
        name: torch.cat([part[name].argmax(dim=1) for part in parts]) == truth for name, truth in examples.truth.items()
    }
    return {**found, "all": torch.stack(list(found.values())).all(dim=0)}
