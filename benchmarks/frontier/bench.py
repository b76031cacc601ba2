"""The frozen base with every subject encoded, its fixed questions, and the positions that a run trains."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from trainer.base import encode, modelcheck, models, precision
from trainer.job.schema import Model
from trainer.learning.noising import Noising
from trainer.pictures import images, plan
from trainer.system import rng
from trainer.system.quiet import quiet_libraries
from waveft_core import SDXL_ATTENTION, Adapter, Layer, Probe, Spec
from waveft_core.basis.locations import draw
from waveft_core.update.targets import select

from .subjects import Captioned, ordinary, photographs, robots, square, totems

CPU = torch.device("cpu")
BATCH = 4
WARM_UP_BATCHES = 8
UNSEEN, ORDINARY = 32, 48  # (picture, timestep, noise) triples that fidelity and drift are measured on


@dataclass
class Samples:
    """Captioned pictures as the base sees them: latents [B, 4, 16, 16], context [B, 77, D], pooled [B, P]."""

    latents: Tensor
    context: Tensor
    pooled: Tensor

    def rows(self, numbers: list[int]) -> Samples:
        """Returns some of the samples, by number."""
        return Samples(self.latents[numbers], self.context[numbers], self.pooled[numbers])

    @staticmethod
    def joined(parts: list[Samples]) -> Samples:
        """Returns all samples of several, one after the other."""
        return Samples(
            *(torch.cat([getattr(part, name) for part in parts]) for name in ("latents", "context", "pooled"))
        )


@dataclass
class Task:
    """A subject: what it is learned from, and the fixed questions about it with their noise and timesteps."""

    train: Samples
    unseen: Exam


@dataclass
class Exam:
    """Samples with the noise [B, 4, 16, 16] and the timesteps [B] at which the loss on them is measured."""

    samples: Samples
    noise: Tensor
    timesteps: Tensor

    @classmethod
    def of(cls, samples: Samples, size: int) -> Exam:
        """Returns `size` questions: the samples in turn, timesteps spread evenly over the schedule."""
        count = len(samples.latents)
        held = samples.rows([number % count for number in range(size)])
        noise = torch.randn(held.latents.shape, generator=torch.Generator().manual_seed(size))
        order = torch.randperm(size, generator=torch.Generator().manual_seed(size + 1))
        return cls(held, noise, ((order + 0.5) / size * 1000).long())


class Bench:
    """The frozen base, the subjects encoded once, and the ordinary pictures."""

    def __init__(self, folder: str, photos: list[Path]) -> None:
        quiet_libraries(allow_download=False)
        model, place = Model(pretrained_model_name_or_path=folder), precision.Precision(CPU, torch.float32)
        self.base = models.load(model, place, modelcheck.check(model)[0])
        self.unet: nn.Module = self.base.unet
        self.noising = Noising(self.base.scheduler, CPU, False, False)
        self.tasks: dict[str, Task] = {}
        self.empty = self.encoded([(Image.new("RGB", (64, 64)), "")])
        for name, (train, unseen) in self._subjects(photos):
            self.tasks[name] = Task(self.encoded(train), Exam.of(self.encoded(unseen), UNSEEN))
        self.ordinary = Exam.of(self.encoded(ordinary(ORDINARY)), ORDINARY)
        self.targets = sorted(select(self.unet, SDXL_ATTENTION), key=lambda target: tuple(target.weight.shape))
        self.before = self.predict_exam(self.ordinary)

    @staticmethod
    def _subjects(photos: list[Path]) -> Iterator[tuple[str, tuple[Captioned, Captioned]]]:
        yield "robot", robots()
        yield "totem", totems()
        for folder in photos:
            yield folder.name, photographs(folder)

    @torch.no_grad()
    def encoded(self, pictures: Captioned) -> Samples:
        """Returns captioned pictures as the base sees them."""
        shift, scale = encode.latent_scale(self.base)
        latents, contexts, pooled = [], [], []
        for image, caption in pictures:
            mean = self.base.vae.encode(images.to_tensor(square(image))[None]).latent_dist.mean[0]
            latents.append((mean - shift) * scale)
            context, projection = encode.encode_batch(self.base, [caption], CPU)
            contexts.append(context[0])
            pooled.append(projection[0])
        return Samples(torch.stack(latents), torch.stack(contexts), torch.stack(pooled))

    def predict(self, noisy: Tensor, timesteps: Tensor, samples: Samples) -> Tensor:
        """Returns the noise that the UNet sees in `noisy`, [B, 4, 16, 16]."""
        sizes = torch.tensor([64.0, 64, 0, 0, 64, 64]).expand(len(noisy), 6)
        conditions = {"text_embeds": samples.pooled, "time_ids": sizes}
        return self.unet(noisy, timesteps, samples.context, added_cond_kwargs=conditions).sample

    def errors(self, samples: Samples, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Returns each sample's mean squared error, [B]."""
        noisy = self.noising.mix(samples.latents, noise, timesteps)
        return (self.predict(noisy, timesteps, samples) - noise).square().mean(dim=(1, 2, 3))

    @torch.no_grad()
    def predict_exam(self, exam: Exam) -> Tensor:
        """Returns the same for every question of `exam`, without gradients."""
        noisy = self.noising.mix(exam.samples.latents, exam.noise, exam.timesteps)
        return self.predict(noisy, exam.timesteps, exam.samples)

    def batch(self, subject: str, seed: int, purpose: str, step: int) -> tuple[Samples, Tensor, Tensor]:
        """Returns samples, noise and timesteps of a step: a function of the arguments alone."""
        train = self.tasks[subject].train
        count, numbers = len(train.latents), []
        for place in range(step * BATCH, (step + 1) * BATCH):
            epoch, rest = divmod(place, count)
            numbers.append(plan.shuffled(seed, "order", epoch, range(count))[rest])
        noise = [
            torch.randn(4, 16, 16, generator=rng.generator(seed, f"{purpose} noise", step, at)) for at in range(BATCH)
        ]
        draws = [rng.uniform(seed, f"{purpose} timestep", step, at) for at in range(BATCH)]
        timesteps = torch.tensor([int(draw * self.noising.steps) for draw in draws])
        return train.rows(numbers), torch.stack(noise), timesteps

    @cache  # noqa: B019 - one bench a process
    def adapter(self, subject: str, c: float, arm: str, seed: int, wavelet: str) -> Adapter:
        """Returns an adapter of zeros at a run's positions.

        `squares` goes by the sum of the batches' squared gradients, `gradient` and `across` by the square of their sum.
        """
        shapes = {target.name: tuple(target.weight.shape) for target in self.targets}
        counts = {name: max(1, round(c * sum(shape))) for name, shape in shapes.items()}
        kind, _, pool = arm.partition(" ")
        if kind == "uniform":
            layers = {}
            for name, shape in shapes.items():
                indices = draw(f"uniform:{seed}", name, wavelet, "periodization", shape, counts[name])
                layers[name] = Layer(torch.zeros(counts[name]), indices, shape)
            return Adapter(layers, wavelet)
        spec = Spec(locations=f"gradient:{seed}", wavelet=wavelet, coefficients=1)
        with Probe(self.unet, spec, int(pool), counts) as probe:
            before, squares = probe.gradients(), {name: torch.tensor(0.0) for name in shapes}
            for step in range(WARM_UP_BATCHES):
                self.errors(*self.batch(subject, seed, "warm-up", step)).mean().backward()
                now = {name: total.clone() for name, total in probe.gradients().items()}
                squares = {name: held + (now[name] - before[name]).square() for name, held in squares.items()}
                before = now
        if kind == "squares":
            for name, total in probe.gradients().items():
                total.copy_(squares[name])  # what the choice goes by
        return probe.choose(across_layers=kind == "across")
