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
from dataclasses import replace
from pathlib import Path
from typing import Any

from .evaluation.command import proposal
from .job import strayoptions
from .job.schema import Job
from .preflight import dryrun, levers, preflight
from .run.runfolder import ADAPTER, STATE, RunFolder
from .system import commandline, console
from .system.console import clock, counted, say
from .system.errors import TrainingStopped, UserError, traceback_of
from .system.files import readable_size
from .system.quiet import quiet_libraries
from .system.reading import is_file, open_regular

LATEST = "latest"
TRAIN = "train"
# word -> the module whose `main` it runs
WORDS = {
    "init": "preflight.newjob",
    "sample": "evaluation.sample",
    "evaluate": "evaluation.command",
    "compare": "comparison.command",
    "publish": "result.publish",
}
JOB_REFUSED = "The job cannot be run"
REFUSED = {
    "sample": "Nothing can be drawn",
    "evaluate": "Nothing can be evaluated",
    "compare": "Nothing can be compared",
}


class Options(argparse.ArgumentParser):
    """The command line, which knows what other trainers call things."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Returns the options; what is none, or is missing, ends the process with status 2 and a remedy."""
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error("; ".join(strayoptions.told(unknown)))
        if found.config is None:
            self.error("the following arguments are required: --config JOB.TOML")
        return found


def parser(word: bool = False) -> argparse.ArgumentParser:
    """Returns the options; of the word `train`, which takes the job by itself, or of `--config` without a word."""
    program = commandline.program()
    made = Options(
        prog=f"{program} {TRAIN}" if word else "python -m trainer",
        description="Trains a WaveFT adapter for SDXL as a job file says. "
        f"`{program} init --help` tells how to have a job file written, `{program} evaluate --help` how to choose "
        f"among a run's checkpoints, `{program} compare --help` how to compare methods.",
        epilog="Relative paths, also in --set, are relative to the folder of the job file. All keys: docs/job.md. "
        "Several GPUs: accelerate launch -m trainer --config JOB.TOML",
    )
    if word:
        made.add_argument("config", type=Path, metavar="JOB.TOML", nargs="?", help="the job")
    else:
        made.add_argument("--config", type=Path, metavar="JOB.TOML", help="the job")
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
    made.add_argument("--verbose", action="store_true", help="of a dry run: also every default, size and caption")
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
        console.complain(str(error))
        console.complain(traceback_of(error))
        return 1
    except KeyboardInterrupt:
        console.complain("stopped")
        return 130
    finally:
        console.let_go()


def start(options: argparse.Namespace) -> int:
    """Checks the job and, unless it is a dry run, trains; returns the exit status."""
    began = time.perf_counter()
    job = preflight.read(options.config, options.overrides)
    quiet_libraries(job.model.allow_download)
    resume = state_to_resume(job, options.resume)
    home = options.config.resolve().parent
    ready = preflight.check(job, resume, console.counter("checking pictures"), home)
    if options.dry_run:
        if resume:
            ready = replace(ready, notices=(*ready.notices, *agreed(ready, resume)))
        say(dryrun.text(ready, resume, options.verbose))
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
    if not is_file(path):
        raise UserError(f'--resume "{wish}": expected a .state file, or {LATEST}, got nothing there. Correct the path.')
    if path.suffix == ADAPTER:
        beside = path.with_suffix(STATE)
        there = f'Its state is "{beside.name}" beside it: name that one' if is_file(beside) else "Name its .state file"
        raise UserError(
            f'--resume "{wish}": expected a .state file, got an adapter, which holds the coefficients alone. {there}, '
            "or --resume latest; or begin a new run from it with [network] network_weights."
        )
    return path


def is_whole(path: Path) -> bool:
    """Returns whether a state's file is not damaged, without torch."""
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as held:
            # torch packs nothing: what is packed was made up, and might unpack without end
            stored = all(one.compress_type == zipfile.ZIP_STORED for one in held.infolist())
            return stored and held.testzip() is None
    except (OSError, ValueError, RuntimeError, NotImplementedError, EOFError, zipfile.BadZipFile):
        return False


def agreed(ready: preflight.Ready, saved: Path) -> list[str]:
    """Returns what may surprise in going on from a state, torch imported for it, as the run itself does it.

    Raises:
        UserError: the state is of another run, or this machine has no such device.
    """
    from . import resume
    from .base import precision
    from .run import state

    return resume.agree(ready, state.load(saved), precision.choose(ready.job.train, 0).device)


def train(ready: preflight.Ready, resume: Path | None, began: float) -> int:
    """Runs the checked job, torch and the model libraries imported at last; returns the exit status.

    Raises:
        UserError: machine, base, adapter settings or state do not fit the job; nothing was trained.
        TrainingStopped: it did not get further, whatever the job says.
    """
    import torch

    from waveft_core import WaveFTError

    from . import loop
    from .run import state

    try:
        outcome = loop.run(ready, state.load(resume) if resume else None)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise TrainingStopped(levers.out_of_memory(error, ready)) from error
    except WaveFTError as error:  # once a step was done, loop.run makes it a TrainingStopped
        raise UserError(str(error)) from error
    if outcome.warning:
        console.complain(outcome.warning)
    ending = "stopped" if outcome.exit_status else "done"
    say(f"{ending} after {counted(outcome.steps, 'step')} in {clock(time.perf_counter() - began)}")
    for path in outcome.files:
        say(f"  {path} ({readable_size(path) if path.is_file() else 'which is gone again'})")
    say(proposal(ready.folder, outcome.best))
    console.complain(outcome.traceback)  # last, when everything is saved and told
    return outcome.exit_status


def refuse(problems: Sequence[str], what: str = JOB_REFUSED) -> int:
    """Prints every fault, once on each machine; returns the exit status for it."""
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return 2
    console.complain(f"{what}, {counted(len(problems), 'fault')}:")
    for problem in problems:
        console.complain(f"  {problem}")
    return 2
