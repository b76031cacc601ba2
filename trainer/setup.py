"""Everything that a run needs before its first step, built in the order in which it can fail."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import torch

import waveft_core

from . import resume
from .base import encode, models, precision
from .base.models import Base
from .learning import classimages, layers, optim, sources
from .learning.forward import Forward
from .learning.noising import Noising
from .pictures.plan import Micro
from .preflight import preflight
from .preflight.preflight import Ready
from .result.runparts import Parts
from .samples import prompts
from .system.console import say
from .system.distributed import World, join

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
        say(f"notice      {text}")
    say(f"loading the base (device {place.device}, mixed_precision {place.name})")
    base = models.load(job.model, place, ready.facts, job.train.attention)
    drawn = initial_adapter(ready, base)
    attach_adapter(ready, base, drawn)[0].detach()  # what does not fit is refused now, not after minutes of encoding

    ready, forward, shots = encode_inputs(ready, base, place, world)
    base.unet.to(place.device)
    if job.train.gradient_checkpointing is True or (
        job.train.gradient_checkpointing == "auto" and place.device.type == "cuda"
    ):
        base.unet.enable_gradient_checkpointing()
    if job.train.torch_compile:
        base.unet = torch.compile(base.unet)
    if saved:
        drawn = resume.positions(saved, drawn)
    elif job.network.locations.startswith("gradient:") and not job.network.network_weights:
        drawn = place_by_gradient(forward, world)
    tuning, optimizer, schedule = attach_adapter(ready, base, drawn)
    ema = running_mean(job.train.ema_decay, tuning)
    notices = [*ready.notices, *notices]
    parts = Parts(ready, world, forward, tuning, optimizer, schedule, place.scaler(), ema, shots, notices)
    if saved:
        resume.restore(parts, saved)
    return parts


def initial_adapter(ready: Ready, base: Base) -> waveft_core.Adapter:
    """Returns the adapter that the run begins with: zeros where the job draws them, or another run's file."""
    network = ready.job.network
    if network.network_weights:
        return waveft_core.load(network.network_weights)
    return layers.zeros(network, layers.choose(layers.models(base, network), network))


def attach_adapter(
    ready: Ready, base: Base, adapter: waveft_core.Adapter
) -> tuple[waveft_core.Tuning, torch.optim.Optimizer, Any]:
    """Returns the adapter's coefficients in the base's weights, their optimizer, and the schedule of its rates."""
    components = layers.models(base, ready.job.network)
    tuning = waveft_core.attach(components, adapter, beside=base.beside)
    groups = layers.groups(tuning, layers.paths(components, adapter), ready.job.optimizer)
    return tuning, *optim.make(ready.job.optimizer, groups, ready.steps)


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
        say(f"notice      {text}")
    ready = replace(ready, notices=(*ready.notices, *notices))
    noising = Noising(base.scheduler, place.device, base.prediction == "v_prediction", base.zero_terminal_snr)
    return ready, Forward(ready, place, base, found, noising), shots


def place_by_gradient(forward: Forward, world: World) -> waveft_core.Adapter:
    """Returns zeros at the positions where the base's own gradient, over the plan's first batches, is largest."""
    network, plan = forward.ready.job.network, forward.sources.plan
    say(f"placing the coefficients by the gradient of {network.location_batches} batches")
    batches = [plan.batch(number) for number in range(network.location_batches)]

    def backward() -> None:
        for number in range(world.rank, max(len(batches), world.size), world.size):
            views = batches[number % len(batches)]
            first = sum(map(len, batches[:number]))
            # a process without a batch of its own runs one at no weight: the sum needs all of them
            share = 1.0 if number < len(batches) else 0.0
            one = forward.batch(BEFORE_THE_FIRST, Micro(views, first, sum(map(len, batches))))
            (share * (forward.loss(one) * one.weights).sum()).backward()

    components = layers.models(forward.base, network)
    return layers.by_gradient(components, network, layers.choose(components, network), backward, world.sum_)


def running_mean(decay: float, tuning: waveft_core.Tuning) -> Any:
    """Returns the coefficients' exponential moving average, or None where the job has none."""
    if not decay:
        return None
    from diffusers.training_utils import EMAModel

    return EMAModel(tuning.parameters(), decay=decay, foreach=True)
