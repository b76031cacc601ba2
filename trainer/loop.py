"""The whole run, top to bottom: build, draw, train, save, draw again, report."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

from . import adapterfile, batch, grid, losses, report, sampling
from .console import Progress, say
from .errors import TrainingStopped, not_finite, out_of_memory
from .files import write_atomically
from .images import png_bytes
from .interrupt import StopRequest
from .preflight import Ready
from .setup import Parts, build


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
    """
    began = time.perf_counter()
    parts = build(ready)
    say(f"training {parts.tuning.numel} coefficients in {len(parts.tuning)} layers")
    before = draw_samples("before", parts)  # the coefficients are zero: this is the base

    outcome = train(parts)
    if outcome.steps:  # the adapter comes first: whatever fails after it, it is safe
        adapter = parts.tuning.adapter()
        path = adapterfile.save(adapter, ready, outcome.steps, parts.place.name, parts.prediction)
        outcome.files.insert(0, path)
    after = [] if outcome.exit_status else draw_after(parts, outcome)
    if after:
        sheet = png_bytes(grid.draw(before, after))
        outcome.files.append(write_atomically(ready.output("-grid.png"), sheet))
    made = report.Run(outcome.losses, before, after, list(outcome.files), outcome.warning, time.perf_counter() - began)
    outcome.files.append(write_atomically(ready.output("-report.html"), report.page(parts, made)))
    return outcome


def train(parts: Parts) -> Outcome:
    """Trains the coefficients; whatever ends the training, those of the last whole step stand."""
    total, outcome, scaler = parts.ready.job.train.max_train_steps, Outcome(), parts.place.scaler()
    metrics = parts.ready.output("-metrics.jsonl")
    with Progress(total, metrics) as progress, StopRequest() as request:
        outcome.losses, outcome.files = progress.losses, [metrics]
        while outcome.steps < total:
            try:
                loss, norm, pictures = backward(parts, scaler, outcome.steps)
            except torch.OutOfMemoryError as error:
                outcome.warning, outcome.exit_status = out_of_memory(error), 1
                break
            # with fp16 a gradient may overflow: the scaler then leaves the step out and lowers its factor
            if not math.isfinite(loss) or not (math.isfinite(norm) or scaler.is_enabled()):
                outcome.warning, outcome.exit_status = not_finite(outcome.steps + 1, loss, norm, pictures), 1
                break
            scaler.step(parts.optimizer)
            scaler.update()
            rate = parts.schedule.get_last_lr()[0]
            parts.schedule.step()
            outcome.steps += 1
            progress.step(loss, norm, rate)
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
    *each, total = torch.stack([*micro_losses, norm]).tolist()  # GPU sync: the one of an optimizer step
    broken = [names for value, names in zip(each, seen, strict=True) if not math.isfinite(value)]
    return sum(each) / count, total, [name for names in broken or seen for name in names]


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


def draw_after(parts: Parts, outcome: Outcome) -> list[sampling.Drawn]:
    """Returns the samples after training; the adapter is safe by now, so that a failure is told and not raised."""
    try:
        return draw_samples("after", parts)
    except (TrainingStopped, RuntimeError, OSError) as error:
        outcome.warning, outcome.exit_status = f"the adapter is written, but its samples failed: {error}", 1
        return []
