"""The whole run, top to bottom: build, draw, train, save, draw again, report."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

from waveft_core import WaveFTError

from . import adapterfile, batch, grid, losses, report, sampling
from .console import Progress, say
from .errors import TrainingStopped, not_finite, out_of_memory, reason
from .files import write_atomically
from .images import png_bytes
from .interrupt import StopRequest
from .preflight import Ready
from .setup import Parts, build

# What a machine, its libraries and a disk raise once a run has begun; a bug of the trainer's shows itself in full.
FAILURES = (WaveFTError, TrainingStopped, RuntimeError, OSError, MemoryError)


@dataclass
class Outcome:
    """What a run came to.

    Attributes:
        steps: optimizer steps done.
        losses: of each of them.
        warning: why the run is not whole, or "".
        exit_status: 0 done, 1 stopped by a fault, 128 + signal number when interrupted.
        files: what was written.
    """

    steps: int = 0
    losses: list[float] = field(default_factory=list)
    warning: str = ""
    exit_status: int = 0
    files: list[Path] = field(default_factory=list)


def run(ready: Ready) -> Outcome:
    """Runs a checked job to its end and returns what came of it.

    Raises:
        UserError, WaveFTError: machine, base or adapter settings do not fit the job; nothing was trained.
        OutOfMemoryError, MemoryError: the base does not fit the machine; nothing was trained.
        TrainingStopped: what was trained could not be written as it should.
    """
    began = time.perf_counter()
    parts = build(ready)
    say(f"training {parts.tuning.numel} coefficients in {len(parts.tuning)} layers")
    before = draw_before(parts)  # the coefficients are zero: this is the base

    outcome = train(parts)
    if outcome.steps:  # the adapter comes first: whatever fails after it, it is safe
        outcome.files.insert(0, save_adapter(parts, outcome))
    after = [] if outcome.exit_status else draw_after(parts, outcome)
    try:
        if before and after:
            sheet = png_bytes(grid.draw(before, after))
            outcome.files.append(write_atomically(ready.output("-grid.png"), sheet))
        seconds = time.perf_counter() - began
        made = report.Run(outcome.losses, before, after, list(outcome.files), outcome.warning, seconds)
        outcome.files.append(write_atomically(ready.output("-report.html"), report.page(parts, made)))
    except FAILURES as error:
        told = f"the report could not be written: {reason(error)}"
        outcome.warning = f"{outcome.warning}; {told}" if outcome.warning else told
        outcome.exit_status = outcome.exit_status or 1
    return outcome


def save_adapter(parts: Parts, outcome: Outcome) -> Path:
    """Returns the path of the adapter after the outcome's steps; TrainingStopped where it is not whole."""
    try:
        adapter = parts.tuning.adapter()
    except (WaveFTError, RuntimeError) as error:  # RuntimeError: a device that is lost
        raise TrainingStopped(f"after step {outcome.steps}: {error}") from error
    return adapterfile.save(adapter, parts.ready, outcome.steps, parts.place.name, parts.prediction)


def train(parts: Parts) -> Outcome:
    """Trains the coefficients; whatever ends the training, those of the last whole step stand."""
    total, outcome, scaler = parts.ready.job.train.max_train_steps, Outcome(), parts.place.scaler()
    metrics = parts.ready.output("-metrics.jsonl")
    with Progress(total, metrics) as progress, StopRequest() as request:
        outcome.losses, outcome.files = progress.losses, [metrics]
        while outcome.steps < total:
            try:
                loss, norm, pictures = backward(parts, scaler, outcome.steps)
                # with fp16 a gradient may overflow: the scaler then leaves the step out and lowers its factor
                if not math.isfinite(loss) or not (math.isfinite(norm) or scaler.is_enabled()):
                    outcome.warning, outcome.exit_status = not_finite(outcome.steps + 1, loss, norm, pictures), 1
                    break
                rate = parts.schedule.get_last_lr()[0]
                scaler.step(parts.optimizer)
                outcome.steps += 1  # the coefficients have moved
                scaler.update()
                parts.schedule.step()
                progress.step(loss, norm, rate)
            except (torch.OutOfMemoryError, MemoryError) as error:
                outcome.warning, outcome.exit_status = out_of_memory(error), 1
                break
            except FAILURES as error:
                if not outcome.steps:  # nothing is lost, and nobody is told that something was trained
                    raise
                outcome.warning, outcome.exit_status = f"stopped after step {outcome.steps}: {reason(error)}", 1
                break
            if request.signal_number is not None:
                outcome.warning = f"stopped on request after step {outcome.steps}"
                outcome.exit_status = 128 + request.signal_number
                break
    return outcome


def backward(parts: Parts, scaler: torch.amp.GradScaler, step: int) -> tuple[float, float, list[str]]:
    """Fills the coefficients' gradients for one optimizer step.

    Returns:
        the step's loss, the gradients' norm before clipping, and the names of the pictures to blame where either is
        not finite: those of the micro batches whose loss is not, or all of the step's.
    """
    numbers, seen = accumulate(parts, scaler, step)
    *each, norm = numbers.tolist()  # GPU sync: the one of an optimizer step
    broken = [names for value, names in zip(each, seen, strict=True) if not math.isfinite(value)]
    return sum(each) / len(each), norm, [name for names in broken or seen for name in names]


def accumulate(parts: Parts, scaler: torch.amp.GradScaler, step: int) -> tuple[torch.Tensor, list[list[str]]]:
    """Fills the coefficients' gradients for one optimizer step without waiting for the device.

    Returns:
        [micro batches + 1] on the device: the losses, and the gradients' norm before clipping; and the names of the
        pictures of each micro batch.
    """
    job, place, noising = parts.ready.job, parts.place, parts.noising
    count, seen, micro_losses = job.train.gradient_accumulation_steps, [], []
    parts.optimizer.zero_grad(set_to_none=True)
    for micro in range(count):
        one = batch.make(parts.cache, job, noising, place, step, micro)
        noisy = noising.mix(one.latents, one.noise, one.timesteps).to(place.dtype)
        with place.autocast():
            conditions = {"text_embeds": one.pooled, "time_ids": one.time_ids}
            predicted = parts.base.unet(noisy, one.timesteps, one.context, added_cond_kwargs=conditions).sample
        target = noising.target(one.latents, one.noise, one.timesteps)
        weights = noising.weights(one.timesteps, job.loss.min_snr_gamma)
        loss = losses.mean_squared_error(predicted, target, weights)
        scaler.scale(loss / count).backward()
        micro_losses.append(loss.detach())
        seen.append([picture.path.name for picture in one.pictures])
    scaler.unscale_(parts.optimizer)
    # an infinite bound measures alone; either way no number leaves the device here
    norm = torch.nn.utils.clip_grad_norm_(parts.tuning.parameters(), job.optimizer.max_grad_norm or math.inf)
    return torch.stack([*micro_losses, norm]), seen


def draw_samples(moment: str, parts: Parts) -> list[sampling.Drawn]:
    """Returns the job's samples as the base draws them now, and writes them."""
    job = parts.ready.job
    count = len(job.sample.prompts) * job.sample.samples_per_prompt
    if not count:
        return []
    say(f"drawing {count} samples {moment} training")
    drawn = sampling.draw(parts.base, parts.ready, parts.cache.texts, parts.place)
    sampling.save_all(drawn, Path(job.save.output_dir) / "samples", f"{job.save.output_name}-{moment}")
    return drawn


def draw_before(parts: Parts) -> list[sampling.Drawn]:
    """Returns the samples before training; a failure is a notice, since the training needs none of them."""
    try:
        return draw_samples("before", parts)
    except FAILURES as error:
        parts.notices.append(f"the samples before training failed: {reason(error)}")
        say(f"notice      {parts.notices[-1]}")
        return []


def draw_after(parts: Parts, outcome: Outcome) -> list[sampling.Drawn]:
    """Returns the samples after training; the adapter is safe by now, so that a failure is told and not raised."""
    try:
        return draw_samples("after", parts)
    except FAILURES as error:
        outcome.warning, outcome.exit_status = f"the adapter is written, but its samples failed: {reason(error)}", 1
        return []
