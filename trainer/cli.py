"""The trainer's words: `train job.toml`, or `--config job.toml` without a word, and those of `WORDS`.

Exit status 0 done, 1 stopped, 2 job refused; Ctrl-C ends it with 130 and SIGTERM with 143, 128 + the signal's number.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

from .evaluation.command import proposal
from .job.schema import Job
from .preflight import dryrun, estimate, preflight
from .run.runfolder import RunFolder
from .system import commandline, console
from .system.console import clock, say
from .system.errors import TrainingStopped, UserError
from .system.files import readable_size

LATEST = "latest"
TRAIN = "train"
# word -> the module whose `main` it runs
WORDS = {
    "init": "preflight.newjob",
    "evaluate": "evaluation.command",
    "compare": "comparison.command",
    "publish": "result.publish",
}
JOB_REFUSED = "The job cannot be run"
REFUSED = {"evaluate": "Nothing can be evaluated", "compare": "Nothing can be compared"}


def parser(word: bool = False) -> argparse.ArgumentParser:
    """Returns the options; of the word `train`, which takes the job by itself, or of `--config` without a word."""
    program = commandline.program()
    made = argparse.ArgumentParser(
        prog=f"{program} {TRAIN}" if word else "python -m trainer",
        description="Trains a WaveFT adapter for SDXL as a job file says. "
        f"`{program} init --help` tells how to have a job file written, `{program} evaluate --help` how to choose "
        f"among a run's checkpoints, `{program} compare --help` how to compare methods.",
        epilog="Relative paths, also in --set, are relative to the folder of the job file. All keys: docs/job.md. "
        "Several GPUs: accelerate launch -m trainer --config JOB.TOML",
    )
    if word:
        made.add_argument("config", type=Path, metavar="JOB.TOML", help="the job")
    else:
        made.add_argument("--config", type=Path, required=True, metavar="JOB.TOML", help="the job")
    made.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", dest="overrides",
        help="change one key of the job; may be given again. Example: --set train.seed=7",
    )  # fmt: skip
    made.add_argument(
        "--resume", metavar="latest|FILE",
        help="go on exactly where the run was stopped: from its newest state in output_dir, or from that state",
    )  # fmt: skip
    made.add_argument(
        "--dry-run", action="store_true", help="check everything, print what would be done, train nothing"
    )
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if os.environ.get("RANK", "0") != "0":
        console.silence()  # the first process speaks for all
    try:
        if arguments and arguments[0] in WORDS:
            return int(importlib.import_module(f".{WORDS[arguments[0]]}", __package__).main(arguments[1:]))
        if arguments[:1] == [TRAIN]:
            return start(parser(word=True).parse_args(arguments[1:]))
        return start(parser().parse_args(arguments))
    except UserError as error:
        return refuse(error.problems, REFUSED.get(arguments[0] if arguments else TRAIN, JOB_REFUSED))
    except TrainingStopped as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


def start(options: argparse.Namespace) -> int:
    """Checks the job and, unless it is a dry run, trains; returns the exit status."""
    began = time.perf_counter()
    job = preflight.read(options.config, options.overrides)
    resume = state_to_resume(job, options.resume)
    ready = preflight.check(job, resume, console.counter("checking pictures"))
    if options.dry_run:
        say(dryrun.text(ready, resume))
        return 0
    for line in dryrun.describe(ready, resume):
        say(line)
    return train(ready, resume, began)


def state_to_resume(job: Job, wish: str | None) -> Path | None:
    """Returns the state that the run goes on from, None where it begins.

    Raises:
        UserError: a file was named that is not there.
    """
    if wish is None:
        return None
    if wish == LATEST:
        found = RunFolder(Path(job.save.output_dir), job.save.output_name).newest_state(is_whole)
        if found is None:
            say(f'nothing to resume in "{job.save.output_dir}": the run starts from the beginning')
        return found
    path = Path(wish).expanduser()
    if not path.is_file():
        raise UserError(f'--resume "{wish}": expected a .state file, or {LATEST}, got nothing there. Correct the path.')
    return path


def is_whole(path: Path) -> bool:
    """Returns whether a state's file is not damaged, without torch."""
    try:
        with zipfile.ZipFile(path) as file:
            return file.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False


def train(ready: preflight.Ready, resume: Path | None, began: float) -> int:
    """Runs the checked job, torch and the model libraries imported at last; returns the exit status.

    Raises:
        UserError: machine, base, adapter settings or state do not fit the job; nothing was trained.
        TrainingStopped: it did not get further, whatever the job says.
    """
    from .base.models import quiet_libraries

    quiet_libraries(ready.job.model.allow_download)
    import torch

    from waveft_core import WaveFTError

    from . import loop
    from .run import state

    try:
        outcome = loop.run(ready, state.load(resume) if resume else None)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise TrainingStopped(estimate.out_of_memory(error, ready)) from error
    except WaveFTError as error:  # once a step was done, loop.run makes it a TrainingStopped
        raise UserError(str(error)) from error
    if outcome.warning:
        print(outcome.warning, file=sys.stderr)
    ending = "stopped" if outcome.exit_status else "done"
    say(f"{ending} after {outcome.steps} steps in {clock(time.perf_counter() - began)}")
    for path in outcome.files:
        say(f"  {path} ({readable_size(path)})")
    say(proposal(ready.folder, outcome.best))
    return outcome.exit_status


def refuse(problems: Sequence[str], what: str = JOB_REFUSED) -> int:
    """Prints every fault, once on each machine; returns the exit status for it."""
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return 2
    count = "1 fault" if len(problems) == 1 else f"{len(problems)} faults"
    print(f"{what}, {count}:", file=sys.stderr)
    for problem in problems:
        print(f"  {problem}", file=sys.stderr)
    return 2
