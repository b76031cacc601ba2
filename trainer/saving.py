"""What was trained, written: checkpoints on the way, the adapter at the end, elsewhere where its folder takes none."""

from __future__ import annotations

from pathlib import Path

from waveft_core import WaveFTError

from . import resume
from .result import adapterfile, rescue
from .result.runlog import Outcome, RunLog
from .result.runparts import Parts
from .run import state
from .system.errors import TrainingStopped, reason
from .system.interrupt import deferred


def checkpoint(parts: Parts, outcome: Outcome, log: RunLog) -> None:
    """Saves on the way; what cannot be written is a notice: the last good one stays, and the training goes on."""
    if parts.world.is_main:
        try:
            save(parts, outcome)
        except Exception as error:  # noqa: BLE001 - the training needs none of them
            outcome.blame(error)
            log.notice(f"the checkpoint of step {outcome.steps} was not saved: {reason(error)}")
    parts.world.wait()


def save(parts: Parts, outcome: Outcome) -> None:
    """Writes the adapter of this step and the state to go on from; a signal that comes meanwhile waits.

    Raises:
        TrainingStopped: the adapter could not be written as it should.
        OSError: it is written, the state is not.
    """
    ready, step = parts.ready, outcome.steps
    folder, place, path = ready.folder, parts.forward.place, adapter_path(parts, outcome)
    with deferred():
        try:
            with parts.shipped():
                product = parts.tuning.product()
        except (WaveFTError, RuntimeError) as error:  # RuntimeError: a device that is lost
            raise TrainingStopped(f"after step {step}: {error}") from error
        on_the_way = ready.job.save.save_state and step < ready.steps
        try:
            if on_the_way:  # first: killed in between, a checkpoint without state would stand in the way of going on
                state.save(folder.state(step), resume.collect(parts, step))
        finally:  # whatever becomes of the state, what was trained is written
            outcome.wrote(adapterfile.save(product, path, ready, step, place.name, parts.forward.base))
        if ready.job.save.save_state and not on_the_way:
            state.save(folder.state(step), resume.collect(parts, step))
        gone = folder.keep_last(ready.job.save.keep_last, step, outcome.validated)
        outcome.files = [file for file in outcome.files if file not in gone]


def adapter_path(parts: Parts, outcome: Outcome) -> Path:
    """Returns where the adapter goes as it is now: into the run's own file, or a checkpoint's before the last step."""
    folder, step = parts.ready.folder, outcome.steps
    return folder.adapter if step == parts.ready.steps else folder.checkpoint(step)


def at_the_end(parts: Parts, outcome: Outcome) -> None:
    """Saves what the run came to; where the run's folder does not take it, wherever it can be.

    Raises:
        TrainingStopped: the adapter itself could not be written as it should; with where everything is instead.
    """
    ready, done = parts.ready, outcome.steps
    try:
        save(parts, outcome)
    except Exception as error:
        where = ""
        if ready.job.save.save_state and not ready.folder.state(done).is_file():
            ending = ready.folder.state(done).name.removeprefix(ready.folder.name)
            kept = rescue.elsewhere(ready, ending, lambda path: state.save(path, resume.collect(parts, done)))
            where = f' The state to resume from is in "{kept}".' if kept else " No state could be written."
        if adapter_path(parts, outcome) not in outcome.files:
            before = f"{outcome.warning}; " if outcome.warning else ""
            raise TrainingStopped(f"{before}{error}{where}") from error
        text = f"the adapter is written, but not the state to resume from: {reason(error)}.{where}"
        outcome.fail(text.replace("..", "."), error)
    if outcome.steps == parts.ready.steps:
        export(parts, outcome)


def export(parts: Parts, outcome: Outcome) -> None:
    """Writes the finished adapter in its other forms too; where that fails, it is safe in its own."""
    try:
        with parts.shipped():
            product = parts.tuning.product()
        for path in adapterfile.export(product, parts.ready):
            outcome.wrote(path)
    except Exception as error:  # noqa: BLE001 - the adapter is written: nothing that comes after it may hide that
        outcome.fail(f"the adapter is written, but not in every form that the job asks for: {reason(error)}", error)
