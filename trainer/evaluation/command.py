"""`waveft evaluate JOB_OR_RUN`: draws, measures and says which step to take."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..job import config, notjob
from ..job.notjob import JOB
from ..job.schema import Job
from ..run.runfolder import RunFolder
from ..system import commandline
from ..system.console import say
from ..system.errors import UserError


def parser() -> argparse.ArgumentParser:
    """Returns the options."""
    made = argparse.ArgumentParser(
        prog=f"{commandline.program()} evaluate",
        description="Says which step of a run to take: draws the same prompts and seeds with the base and with each "
        "checkpoint, measures the pictures, and leaves a page. Interrupted, it goes on where it was.",
        epilog="What is drawn and measured is [evaluation] of the job. Without the extra `eval`, name a network there.",
    )
    made.add_argument("run", type=Path, metavar="JOB_OR_RUN", help="the job file, or the run's output_dir")
    made.add_argument(
        "--name", default="", metavar="NAME", help="the run's output_name, where the folder holds several"
    )
    made.add_argument(
        "--config", type=Path, metavar="JOB.TOML", help="the run's job, where its folder does not hold it"
    )
    made.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", dest="overrides",
        help="change one key of the job, such as evaluation.images_per_prompt=2; may be given again",
    )  # fmt: skip
    made.add_argument(
        "--strengths", type=strengths, default=(1.0,), metavar="0.6,0.8,1", help="also try the adapters at these"
    )
    made.add_argument("--steps", type=steps, default=(), metavar="100,500", help="these steps alone; all unless given")
    made.add_argument("--samples-only", action="store_true", help="draw nothing: measure the samples that the run drew")
    made.add_argument("--allow-download", action="store_true", help="fetch networks that are named by a hub id")
    return made


def strengths(text: str) -> tuple[float, ...]:
    """Returns the numbers of "0.6,0.8,1"."""
    found = tuple(float(part) for part in text.split(","))
    if not all(found):
        raise argparse.ArgumentTypeError("0 is the base, which is always there")
    return found


def steps(text: str) -> tuple[int, ...]:
    """Returns the numbers of "100,500"."""
    return tuple(int(part) for part in text.split(","))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status.

    Raises:
        UserError: no such run, or something that it needs is missing; with what to install or to give.
        TrainingStopped: a picture came out not finite.
    """
    options = parser().parse_args(arguments)
    job, folder = read(options.run, options.name, options.overrides, options.config)
    from ..system.quiet import quiet_libraries

    quiet_libraries(options.allow_download or job.model.allow_download)
    from . import evaluating

    request = evaluating.Request(
        job, folder, options.strengths, options.steps, options.samples_only, options.allow_download
    )
    for path in evaluating.evaluate(request):
        say(f"  {path}")
    return 0


def proposal(folder: RunFolder, best: tuple[int, float] | None) -> str:
    """Returns what to do next with a run that ended, in one line.

    Args:
        folder: of the run.
        best: (optimizer steps done, loss) of the least loss on the validation pictures, or None.
    """
    several = len(list(folder.folder.glob(f"*{JOB}"))) > 1
    name = f" --name {commandline.line([folder.name])}" if several else ""
    how = f"{commandline.program()} evaluate {commandline.line([str(folder.folder)])}{name}"
    if best is None:
        return f"which step draws best: {how}"
    return f"least validation loss after step {best[0]} ({best[1]:.4f}); which step draws best: {how}"


def read(
    run: Path, name: str, overrides: Sequence[str], given: Path | None = None, adapter: str = ""
) -> tuple[Job, RunFolder]:
    """Returns the job of a job file or of a run's folder, and where the run's files are.

    Args:
        run: a job file, whose output_dir is the run's folder, or that folder.
        name: the run's output_name, where the folder holds several; "" = the only one, or the job's.
        overrides: "SECTION.KEY=VALUE" of the command line.
        given: the run's job, where a folder does not hold it or holds another.
        adapter: the option that takes an adapter, "" where the command has none.

    Raises:
        UserError: it cannot be read, or there is no such run, or there are several.
    """
    if told := notjob.told_of_run(run, adapter):
        raise UserError(f'run "{run}": expected a job file or the output_dir of a run, {told}')
    if run.is_file():
        if given is not None:
            raise UserError(f'--config "{given}": expected none, since "{run}" is a job itself. Leave one of them out.')
        job = config.load(run, overrides)
        return job, RunFolder(Path(job.save.output_dir), name or job.save.output_name)
    folder = find(run, name, given)
    path = given or folder.job
    if not path.is_file():
        raise UserError(f'job "{path}": expected the run\'s job, got nothing there. Give it with --config.')
    return config.load(path, overrides), folder


def find(folder: Path, name: str, job: Path | None) -> RunFolder:
    """Returns the run that is meant.

    Raises:
        UserError: none, or several.
    """
    where = f'run "{folder}"'
    if not folder.is_dir():
        raise UserError(f"{where}: expected a job file or the output_dir of a run, got neither. Correct the path.")
    if job is not None and not name:
        name = config.load(job).save.output_name
    names = sorted(path.name.removesuffix(JOB) for path in folder.glob(f"*{JOB}"))
    if name:
        return RunFolder(folder, name)
    if len(names) == 1:
        return RunFolder(folder, names[0])
    if names:
        raise UserError(f"{where}: expected one run, got {', '.join(names)}. Choose with --name.")
    inside = sorted({path.parent for path in folder.glob(f"*/*{JOB}")})
    hint = f' Is it "{inside[0]}"?' if inside else " A run of an older version has none: give its job with --config."
    raise UserError(f"{where}: expected a run's NAME{JOB}, got none.{hint}")
