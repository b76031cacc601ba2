"""The trainer as a child process: started, followed by the files that it writes, stopped with its state saved."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..adapters.progress import Progress, cancelled
from .paths import Run
from .python import ROOT, Python, environment
from .watch import Watch, stamps

CHILD = Path(__file__).resolve().with_name("child.py")
LOOK_EVERY_S = 0.25
STOP_WITHIN_S = 180.0  # a step, samples that are being drawn, and writing the state
STOPPING = "stopping: the step at hand is finished and its state is saved. Cancel once more to stop at once"

Show = Callable[[str], None]


def run(python: Python, arguments: Sequence[str], place: Run, steps: int, show: Show) -> int:
    """Runs `python -m trainer` to its end and returns its exit status.

    Where the user cancels, it is asked to stop and waited for, and ComfyUI's interrupt goes on its way.

    Args:
        place: the files that it writes; its log is written anew.
        steps: of the whole run.
        show: told what goes on, whenever that changes.
    """
    progress, watch, states = Progress(steps), Watch(place, steps), stamps(place.states())
    command = [python.path, str(CHILD), "--config", str(place.job), *arguments]
    with place.log.open("wb") as log:
        # in a group of its own: Ctrl-C in a terminal ends ComfyUI, whose end it then sees, and is not its own as well
        own: dict[str, Any] = {"start_new_session": True}
        if os.name == "nt":
            own = {"creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)}
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment(python), stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT,
            **own,
        )  # fmt: skip
    try:
        while process.poll() is None:
            time.sleep(LOOK_EVERY_S)
            progress.check()
            tell(watch, progress, show)
    except BaseException:
        stop(process, show)
        show(stopped(place, states))
        raise
    stop(process, show)  # lets go of its standard input
    return process.returncode


def tell(watch: Watch, progress: Progress, show: Show) -> None:
    """Passes on what is new."""
    if watch.look():
        progress.to(watch.step, watch.picture())
        show(watch.text())


def stop(process: subprocess.Popen[bytes], show: Show) -> None:
    """Has a process that still runs save its state and end; kills it where that takes too long, or at a second wish.

    Files of the trainer appear whole or not at all, so that killing it loses the steps since its last state alone.
    """
    assert process.stdin is not None
    with suppress(OSError):
        process.stdin.close()  # what child.py waits for
    until = time.monotonic() + STOP_WITHIN_S
    if process.poll() is None:
        show(STOPPING)
    while process.poll() is None and time.monotonic() < until and not cancelled():
        time.sleep(LOOK_EVERY_S)
    if process.poll() is None:
        process.kill()
    process.wait()


def stopped(place: Run, before: Mapping[Path, tuple[int, int]]) -> str:
    """Returns what a run that was stopped has saved, and what to do.

    Args:
        before: the states that were there when it began, with their stamps.
    """
    states = stamps(place.states())
    if not states:
        return "stopped; no step was saved"
    newest = max(states)
    step = int(newest.stem.rpartition("-step")[2])
    if before.get(newest) == states[newest]:
        return f"stopped; nothing was added to the state of step {step}, which was there"
    return f"stopped after step {step}, state saved; run it again with `resume` on to go on"
