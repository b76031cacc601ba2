"""Everything that a run needs before its first step, built in the order in which it can fail."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

import torch

from . import resume
from .base import encode, models, precision
from .base.models import Base
from .job import optim
from .learning import classimages, rates, sources
from .learning.forward import Forward
from .learning.noising import Noising
from .methods import registry, targets
from .methods.tuning import Host, Tuning, WarmUp
from .pictures.plan import Micro
from .preflight import preflight
from .preflight.preflight import Ready
from .result.runparts import Parts
from .samples import prompts
from .system.console import notice, say
from .system.distributed import World, join
from .system.errors import UserError, reason

BEFORE_THE_FIRST = -1  # the optimizer step under which the noise is drawn for batches that place the coefficients


def build(ready: Ready, saved: dict[str, Any] | None = None) -> Parts:
    """Returns the parts of a run, as they are at its beginning or in a saved state.

    Raises:
        UserError: machine, base, optimizer or pictures do not fit the job.
        WaveFTError: [network] does not fit the base.
    """
    job = ready.job
    if job.train.threads:
        torch.set_num_threads(job.train.threads)
    place = precision.choose(job.train, int(os.environ.get("LOCAL_RANK", "0")))
    world = join(place.device)
    notices = resume.agree(ready, saved, place.device) if saved else []
    for text in notices:
        notice(text)
    say(f"loading the base (device {place.device}, mixed_precision {place.name})")
    base = models.load(job.model, place, ready.facts, job.train.attention)
    attach(ready, base)[0].detach()  # what does not fit is refused now, not after minutes of encoding

    ready, forward, shots = encode_inputs(ready, base, place, world)
    base.unet.to(place.device)
    if job.train.gradient_checkpointing is True or (
        job.train.gradient_checkpointing == "auto" and place.device.type == "cuda"
    ):
        base.unet.enable_gradient_checkpointing()
    if job.train.torch_compile:
        base.unet = torch.compile(base.unet)
    tuning, optimizer, schedule = attach(ready, base, saved, None if saved else Gradients(forward, world))
    ema = running_mean(job.train.ema_decay, tuning)
    notices = [*ready.notices, *notices]
    parts = Parts(ready, world, forward, tuning, optimizer, schedule, place.scaler(), ema, shots, notices)
    if saved:
        resume.restore(parts, saved)
    return parts


def attach(
    ready: Ready, base: Base, saved: dict[str, Any] | None = None, warm_up: WarmUp | None = None
) -> tuple[Tuning, torch.optim.Optimizer, Any]:
    """Returns what trains, in the base from now on, its optimizer, and the schedule of its rates.

    Args:
        ready: the checked job.
        base: that is adapted.
        saved: the state that the run goes on from, if it does.
        warm_up: the untrained base's gradients; without them a method that asks for some only finds out if it fits.
    """
    job = ready.job
    host = Host(targets.components(base, job.network), base.beside, job.train.seed, ready.steps)
    try:
        tuning = registry.of(job.network).attach(host, resume.memory(saved) if saved else None, warm_up)
    except UserError:
        raise
    except Exception as error:
        if not saved:
            raise
        raise UserError(f"the saved run/method: {reason(error)}. {resume.REMEDY}") from error
    groups = rates.groups(tuning, job.optimizer)
    return tuning, *optim.make(job.optimizer, groups, ready.steps)


def encode_inputs(
    ready: Ready, base: Base, place: precision.Precision, world: World
) -> tuple[Ready, Forward, list[prompts.Shot]]:
    """Returns what the base is trained on and drawn with, encoded; class pictures that are missing are drawn first."""
    kept, trained = sources.store(ready, "texts"), ready.job.network.train_text_encoder
    texts = encode.Texts(base, place.device, kept, ready.facts.text_identity, trained)
    if classimages.lacking(ready):
        if world.is_main:
            classimages.draw(ready, base, texts, place)
        world.wait()
        ready = preflight.again(ready)
    shots = prompts.shots(ready.job, ready.resolution)
    found, notices = sources.prepare(ready, base, texts, shots, place.device, world)
    for text in notices:
        notice(text)
    ready = replace(ready, notices=(*ready.notices, *notices))
    noising = Noising(base.scheduler, place.device, base.prediction == "v_prediction", base.zero_terminal_snr)
    return ready, Forward(ready, place, base, found, noising), shots


@dataclass(frozen=True)
class Gradients:
    """The untrained base's gradients over the plan's first batches, shared by the processes."""

    forward: Forward
    world: World

    def backward(self, batches: int) -> None:
        """Runs `loss.backward()` for this process's share of the batches."""
        plan, world = self.forward.sources.plan, self.world
        views = [plan.batch(number) for number in range(batches)]
        for number in range(world.rank, max(batches, world.size), world.size):
            first = sum(map(len, views[:number]))
            # a process without a batch of its own runs one at no weight: the sum needs all of them
            share = 1.0 if number < batches else 0.0
            micro = Micro(views[number % batches], first, sum(map(len, views)))
            one = self.forward.batch(BEFORE_THE_FIRST, micro)
            (share * (self.forward.loss(one) * one.weights).sum()).backward()

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sums a tensor over the processes in place; returns it."""
        return self.world.sum_(tensor)


def running_mean(decay: float, tuning: Tuning) -> Any:
    """Returns the trained numbers' exponential moving average, or None where the job has none."""
    if not decay:
        return None
    from diffusers.training_utils import EMAModel

    return EMAModel(tuning.parameters(), decay=decay, foreach=True)
