"""The command line: `python -m trainer --config job.toml`. Exit status 0 done, 1 stopped, 2 job refused.

Ctrl-C ends it with 130 and SIGTERM with 143, 128 + the signal's number.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from . import config, preflight
from .console import clock, say
from .errors import TrainingStopped, UserError, out_of_memory
from .files import readable_size


def parser() -> argparse.ArgumentParser:
    """Returns the options."""
    made = argparse.ArgumentParser(
        prog="python -m trainer",
        description="Trains a WaveFT adapter for SDXL as a job file says.",
        epilog="Relative paths, also in --set, are relative to the folder of the job file. All keys: docs/training.md",
    )
    made.add_argument("--config", type=Path, required=True, metavar="JOB.TOML", help="the job")
    made.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", dest="overrides",
        help="change one key of the job; may be given again. Example: --set train.seed=7",
    )  # fmt: skip
    made.add_argument(
        "--dry-run", action="store_true", help="check everything, print what would be done, train nothing"
    )
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    options = parser().parse_args(arguments)
    try:
        return start(options)
    except UserError as error:
        return refuse(error.problems)
    except TrainingStopped as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


def start(options: argparse.Namespace) -> int:
    """Checks the job and, unless it is a dry run, trains; returns the exit status."""
    began = time.perf_counter()
    ready = preflight.check(config.load(options.config, options.overrides))
    if options.dry_run:
        from .jobtext import job_toml

        say(preflight.dry_run_text(ready, job_toml(ready.job)))
        return 0
    for line in preflight.describe(ready):
        say(line)
    return train(ready, began)


def train(ready: preflight.Ready, began: float) -> int:
    """Runs the checked job, torch and the model libraries imported at last; returns the exit status.

    Raises:
        UserError: machine, base or adapter settings do not fit the job; nothing was trained.
        TrainingStopped: it did not get further, whatever the job says.
    """
    from .models import quiet_libraries

    quiet_libraries(ready.job.model.allow_download)
    import torch

    from waveft_core import WaveFTError

    from . import loop

    try:
        outcome = loop.run(ready)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise TrainingStopped(out_of_memory(error)) from error
    except WaveFTError as error:  # once a step was done, loop.run makes it a TrainingStopped
        raise UserError(str(error)) from error
    if outcome.warning:
        print(outcome.warning, file=sys.stderr)
    ending = "stopped" if outcome.warning else "done"
    say(f"{ending} after {outcome.steps} steps in {clock(time.perf_counter() - began)}")
    for path in outcome.files:
        say(f"  {path} ({readable_size(path)})")
    return outcome.exit_status


def refuse(problems: Sequence[str]) -> int:
    """Prints every fault of a job; returns the exit status for it."""
    count = "1 fault" if len(problems) == 1 else f"{len(problems)} faults"
    print(f"The job cannot be run, {count}:", file=sys.stderr)
    for problem in problems:
        print(f"  {problem}", file=sys.stderr)
    return 2
