"""`waveft sample JOB_OR_RUN --prompt TEXT`: a grid of a finished adapter, its strengths side by side, a row a seed."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..base import modelcheck
from ..job.schema import Job, Prompt
from ..preflight import preflight
from ..run.runfolder import RunFolder
from ..samples import prompts
from ..system import commandline
from ..system.console import counted, say
from ..system.errors import UserError
from ..system.quiet import quiet_libraries
from . import command

MOST_STRENGTHS = 12  # columns that a sheet can be looked at with
ENDING = "-strengths.png"


def parser() -> argparse.ArgumentParser:
    """Returns the options."""
    made = argparse.ArgumentParser(
        prog=f"{commandline.program()} sample",
        description="Draws a run's adapter at several strengths, each from the same seeds, on one labelled picture.",
        epilog=f'Example: {commandline.program()} sample job.toml --prompt "sks dog on the beach" --strengths 0,0.5,1 '
        "--seeds 4. Sampler, steps, guidance and size are those of [sample] in the job.",
    )
    made.add_argument("run", type=Path, metavar="JOB_OR_RUN", help="the job file, or the run's output_dir")
    made.add_argument(
        "--prompt", action="append", default=[], metavar="TEXT", dest="prompts",
        help="what to draw; may be given again; the job's own prompts unless given",
    )  # fmt: skip
    made.add_argument("--strengths", type=numbers, default=(0.0, 0.5, 1.0), metavar="0,0.5,1", help="0 is the base")
    made.add_argument("--seeds", type=int, default=1, metavar="N", help="pictures of each prompt, seeds counted up")
    made.add_argument("--adapter", type=Path, metavar="FILE", help="a checkpoint; the run's own adapter unless given")
    made.add_argument("--name", default="", metavar="NAME", help="the run's output_name, where a folder holds several")
    made.add_argument("--out", type=Path, metavar="PNG", help=f"NAME{ENDING} in the run's folder unless given")
    made.add_argument("--overwrite", action="store_true", help="replace a picture that is there")
    made.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", dest="overrides",
        help="change one key of the job, such as sample.guidance_scale=4 or train.seed=7; may be given again",
    )  # fmt: skip
    return made


def numbers(text: str) -> tuple[float, ...]:
    """Returns the numbers of "0,0.5,1"."""
    found = tuple(float(part) for part in text.split(","))
    if not 1 <= len(found) <= MOST_STRENGTHS:
        raise argparse.ArgumentTypeError(f"expected 1 to {MOST_STRENGTHS} numbers, got {len(found)}")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Draws the grid; returns the exit status.

    Raises:
        UserError: no such run or adapter, a picture that is there already, or the base or a prompt is not what it
            should be.
        TrainingStopped: a picture came out not finite.
    """
    options = parser().parse_args(arguments)
    job, folder = command.read(options.run, options.name, options.overrides, adapter="--adapter")
    adapter = finished(folder, options.adapter)
    out = options.out or folder.output(ENDING)
    check_new(out, options.overwrite)
    job = asked(job, options.prompts, options.seeds)
    facts, problems = modelcheck.check(job.model)
    resolution, multiple = preflight.sizes(job, facts)
    problems += prompts.faults(job, resolution, multiple)
    if problems:
        raise UserError(problems)
    shots = prompts.shots(job, resolution)
    say(f"drawing {counted(len(shots), 'picture')} at {len(options.strengths)} strengths with {adapter.name}")
    quiet_libraries(job.model.allow_download)
    from . import strengths

    say(f"  {strengths.draw(strengths.Request(job, facts, adapter, shots, options.strengths, out))}")
    return 0


def check_new(out: Path, overwrite: bool) -> None:
    """Refuses a picture that exists, as the words on files do, before it is drawn.

    Raises:
        UserError: it is there and may not be replaced, or no file could take its place.
    """
    try:
        there = out.exists()
    except (OSError, ValueError) as error:
        raise UserError(f'out "{out}": expected a name that a file can have, got another ({error}).') from None
    if there and not overwrite:
        raise UserError(
            f'out "{out}": expected a new name, got one that exists. Choose another with --out, or give --overwrite.'
        )
    if there and not out.is_file():
        raise UserError(f'out "{out}": expected a file, got something else of that name. Choose another with --out.')


def finished(folder: RunFolder, given: Path | None) -> Path:
    """Returns the adapter to draw with: the one given, the run's own, or its newest checkpoint.

    Raises:
        UserError: there is none.
    """
    if given is not None:
        if given.is_file():
            return given
        raise UserError(f'--adapter "{given}": expected a file, got nothing there. Correct the path.')
    there = [path for path in (*folder.checkpoints(), folder.adapter) if path.is_file()]
    if not there:
        raise UserError(
            f'run "{folder.folder}": expected {folder.adapter.name}, got no adapter there. Train it first, '
            "or name one with --adapter."
        )
    return there[-1]


def asked(job: Job, texts: Sequence[str], seeds: int) -> Job:
    """Returns the job with the prompts of the command line in the place of its own.

    Raises:
        UserError: there is none to draw.
    """
    sample: dict[str, object] = {"samples_per_prompt": seeds}
    if texts:
        sample |= {"prompts": [Prompt(prompt=text) for text in texts], "sample_prompts": ""}
    elif not (job.sample.prompts or job.sample.sample_prompts):
        raise UserError('--prompt: expected what to draw, since the job has no [sample] prompts. Write --prompt "...".')
    if seeds < 1:
        raise UserError(f"--seeds: expected 1 at least, got {seeds}.")
    return job.model_copy(update={"sample": job.sample.model_copy(update=sample)})
