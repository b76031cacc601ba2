"""The whole run, top to bottom: build, draw, train, save, draw again, report."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable
from contextlib import nullcontext

import torch

from . import saving
from .job.jobtext import job_toml
from .learning import validation
from .learning.wholestep import WholeStep
from .pictures.plan import micro_batches
from .preflight import levers
from .preflight.preflight import Ready
from .result import artifacts
from .result.runlog import Outcome, RunLog
from .result.runparts import Parts
from .samples import sampling
from .setup import build
from .system.console import counted, say
from .system.distributed import rank
from .system.errors import TrainingStopped, not_finite, reason
from .system.files import write_atomically
from .system.interrupt import StopRequest


def run(ready: Ready, saved: dict | None = None) -> Outcome:
    """Runs a checked job to its end, from its beginning or a saved state, and returns what came of it.

    Raises:
        UserError, WaveFTError: machine, base or adapter settings do not fit the job; nothing was trained.
        OutOfMemoryError, MemoryError: the base does not fit the machine; nothing was trained.
        TrainingStopped: what was trained could not be written as it should.
    """
    with ready.folder.lock() if rank() == 0 else nullcontext():
        return locked_run(ready, saved)


def locked_run(ready: Ready, saved: dict | None) -> Outcome:
    """Runs a job whose output folder nobody else writes to."""
    began = time.perf_counter()
    parts = build(ready, saved)
    ready = parts.ready
    if parts.world.is_main:
        ready.folder.sweep()
        if not saved:
            ready.folder.clear()
    say(f"training {parts.tuning.numel} {parts.method.UNIT} in {counted(len(parts.tuning), 'layer')}")
    outcome = Outcome(saved["step"] if saved else 0, parameters=parts.tuning.numel)
    with RunLog(parts, outcome.steps) as log:
        outcome.validated = dict(log.validations)
        keep_job(ready, log)
        if not saved:
            with parts.tuning.disabled():  # the base: most methods begin at it, not all
                look(parts, outcome, log, sampling.BEFORE)
        train(parts, outcome, log)
        outcome.peak_memory = log.peak_memory
        if outcome.steps and parts.world.is_main:  # the adapter comes first: whatever fails after it, it is safe
            saving.at_the_end(parts, outcome)
        if not outcome.exit_status:
            look(parts, outcome, log, sampling.AFTER)
    if parts.world.is_main:
        outcome.wrote(ready.folder.metrics)
        try:
            for path in artifacts.write(parts, outcome, log, time.perf_counter() - began):
                outcome.wrote(path)
        except Exception as error:  # noqa: BLE001 - the adapter is written: nothing that comes after it may hide that
            outcome.fail(f"the report could not be written: {reason(error)}", error)
    parts.world.leave()
    return outcome


def keep_job(ready: Ready, log: RunLog) -> None:
    """Writes the job beside what it makes, for whoever asks later what that came from; a failure is a notice."""
    if rank() == 0:
        try:
            write_atomically(ready.folder.job, job_toml(ready.job))
        except OSError as error:
            log.notice(f"the job was not written into the output folder: {reason(error)}")


def train(parts: Parts, outcome: Outcome, log: RunLog) -> None:
    """Trains; whatever ends the training, the numbers of the last whole step stand."""
    total, begun_at = parts.ready.steps, outcome.steps
    whole = WholeStep(parts.tuning.parameters(), parts.movers)
    with StopRequest() as request:
        while outcome.steps < total:
            try:
                if not step(parts, outcome, log, whole, request):
                    break
                milestones(parts, outcome, log)
            except BaseException as error:
                parts.world = parts.world.alone()  # the others do not know, and would be waited for in vain
                if isinstance(error, KeyboardInterrupt) and request.signal_number is not None:
                    raise  # the second Ctrl-C: at once
                out_of_memory = isinstance(error, torch.OutOfMemoryError | MemoryError)
                if outcome.steps == begun_at and not out_of_memory:
                    raise  # nothing is lost, and nobody is told that something was trained
                why = f"stopped after step {outcome.steps}: {reason(error)}"
                outcome.fail(levers.out_of_memory(error, parts.ready) if out_of_memory else why, error)
                break


def step(parts: Parts, outcome: Outcome, log: RunLog, whole: WholeStep, request: StopRequest) -> bool:
    """Takes one optimizer step; returns whether the training goes on."""
    loss, norm, wish, pictures = backward(parts, outcome.steps, lambda: request.signal_number is not None)
    if not math.isfinite(loss) or not (math.isfinite(norm) or parts.scaler.is_enabled()):
        blamed = parts.world.gather(pictures)
        outcome.stop(not_finite(outcome.steps + 1, loss, norm, blamed), 1)
        return False
    rates = parts.schedule.get_last_lr()
    with whole.taken():
        move(parts, outcome.steps + 1, norm)
    outcome.steps += 1
    log.step(outcome.steps, loss, norm, rates[0])
    if wish:
        why = f"stopped on request after step {outcome.steps}; --resume latest goes on from there"
        outcome.stop(why, 128 + (request.signal_number or signal.SIGTERM))
    return not wish


def move(parts: Parts, number: int, norm: float) -> None:
    """Moves the numbers by their gradients, of that norm, in that optimizer step; and everything that follows them.

    Raises:
        TrainingStopped: the optimizer or the schedule, which may be anybody's, raised.
    """
    settings = parts.ready.job.optimizer
    try:
        # with fp16 a gradient may overflow: the scaler then leaves the step out and lowers its factor
        parts.scaler.step(parts.optimizer)
        if math.isfinite(norm):  # else the scaler left the step out
            parts.tuning.stepped(number)
        parts.scaler.update()
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        raise TrainingStopped(f'[optimizer] optimizer_type "{settings.optimizer_type}": {reason(error)}') from error
    try:
        parts.schedule.step()
    except Exception as error:
        raise TrainingStopped(f'[optimizer] lr_scheduler "{settings.lr_scheduler}": {reason(error)}') from error
    if parts.ema is not None:
        parts.ema.step(parts.tuning.parameters())


def backward(parts: Parts, step: int, wants_to_stop: Callable[[], bool]) -> tuple[float, float, bool, list[str]]:
    """Fills the trained numbers' gradients for one optimizer step.

    Returns:
        the step's loss, the gradients' norm before clipping, whether any process was asked to stop, and the names of
        the pictures to blame where loss or norm is not finite: those of this process's micro batches whose loss is
        not, or all of them.
    """
    numbers, seen = accumulate(parts, step, wants_to_stop)
    *each, loss, norm, wishes = numbers.tolist()  # GPU sync: the one of an optimizer step
    broken = [names for value, names in zip(each, seen, strict=True) if not math.isfinite(value)]
    return loss, norm, wishes > 0, [name for names in broken or seen for name in names]


def accumulate(parts: Parts, step: int, wants_to_stop: Callable[[], bool]) -> tuple[torch.Tensor, list[list[str]]]:
    """Fills the trained numbers' gradients for one optimizer step without waiting for the device.

    Returns:
        [micro batches + 3] on the device: this process's share of the loss by micro batch, the whole loss, the
        gradients' norm before clipping, and how many processes were asked to stop; and the names of the pictures of
        each micro batch.
    """
    ready, forward, world = parts.ready, parts.forward, parts.world
    accumulation = ready.job.train.gradient_accumulation_steps
    seen, shares = [], []
    parts.optimizer.zero_grad(set_to_none=True)
    for micro in micro_batches(forward.sources.plan, step, accumulation, world.rank, world.size):
        one = forward.batch(step, micro)
        share = (forward.loss(one) * one.weights).sum()
        parts.scaler.scale(share).backward()
        shares.append(share.detach())
        seen.append([picture.path.name for picture in one.pictures])
    if (penalty := parts.tuning.penalty()) is not None:  # of the whole step: each process adds its part
        parts.scaler.scale(penalty / world.size).backward()
    wish = shares[0].new_tensor(float(wants_to_stop()))
    sums = share_out(parts, torch.stack([torch.stack(shares).sum(), wish]))
    parts.scaler.unscale_(parts.optimizer)
    # an infinite bound measures alone; either way no number leaves the device here
    norm = torch.nn.utils.clip_grad_norm_(parts.tuning.parameters(), ready.job.optimizer.max_grad_norm or math.inf)
    return torch.stack([*shares, sums[0], norm, sums[1]]), seen


def share_out(parts: Parts, sums: torch.Tensor) -> torch.Tensor:
    """Sums the gradients and `sums` [k] over the processes, in one message; returns the summed `sums`."""
    if parts.world.size == 1:
        return sums
    parameters = parts.tuning.parameters()
    gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in parameters]
    message = parts.world.sum_(torch.cat([*(gradient.flatten() for gradient in gradients), sums]))
    *shared, sums = message.split([*(one.numel() for one in parameters), len(sums)])
    for parameter, gradient in zip(parameters, shared, strict=True):
        parameter.grad = gradient.view_as(parameter)
    return sums


def milestones(parts: Parts, outcome: Outcome, log: RunLog) -> None:
    """Saves, validates and samples after the step that was just done, where the job asks for it."""
    job, step = parts.ready.job, outcome.steps
    if step == parts.ready.steps:
        return  # the run's end does all of it
    if is_due(parts, step, job.save.save_every_n_steps, job.save.save_every_n_epochs):
        saving.checkpoint(parts, outcome, log)
    if is_due(parts, step, job.validation.validate_every_n_steps):
        validate(parts, outcome, log)
    if is_due(parts, step, job.sample.sample_every_n_steps, job.sample.sample_every_n_epochs):
        draw(parts, outcome, log, sampling.at_step(step))


def is_due(parts: Parts, step: int, steps: int, epochs: int = 0) -> bool:
    """Returns whether something that happens every so many steps or epochs happens after that step."""
    if steps and step % steps == 0:
        return True
    batches = parts.ready.job.train.gradient_accumulation_steps * parts.world.size
    before, after = (parts.forward.sources.plan.epochs(number * batches) for number in (step - 1, step))
    return bool(epochs) and after // epochs > before // epochs


def look(parts: Parts, outcome: Outcome, log: RunLog, moment: str) -> None:
    """Validates and draws the samples before or after training."""
    validate(parts, outcome, log)
    if moment == sampling.AFTER or parts.ready.job.sample.sample_at_first:
        draw(parts, outcome, log, moment)


def validate(parts: Parts, outcome: Outcome, log: RunLog) -> None:
    """Measures the loss on the pictures that are never trained, where there are any; a failure is a notice."""
    if parts.world.is_main and validation.pictures(parts.ready):
        try:
            with parts.shipped():
                loss = validation.measure(parts.forward)
            log.validation(outcome.steps, loss)
            outcome.validated[outcome.steps] = loss
        except Exception as error:  # noqa: BLE001 - as above
            outcome.blame(error)
            log.notice(f"the validation after step {outcome.steps} failed: {reason(error)}")
    parts.world.wait()


def draw(parts: Parts, outcome: Outcome, log: RunLog, moment: str) -> None:
    """Draws and writes the job's samples; a failure is a notice, since the training needs none of them."""
    if parts.world.is_main and parts.shots:
        say(f"drawing {counted(len(parts.shots), 'sample')} ({moment})")
        try:
            with parts.shipped():
                drawn = sampling.draw(parts.forward.base, parts.shots, parts.forward.sources.texts, parts.forward.place)
            folder = parts.ready.folder
            sampling.save_all(drawn, folder.samples, f"{folder.name}-{moment}")
            log.samples(outcome.steps, drawn)
        except Exception as error:  # noqa: BLE001 - as above
            outcome.blame(error)
            log.notice(f"the samples ({moment}) failed: {reason(error)}")
    parts.world.wait()
