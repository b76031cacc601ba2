"""`waveft compare JOB.toml`: methods side by side on the same photographs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..system import commandline
from ..system.console import say
from ..system.errors import UserError
from . import cells, contestants, workers


def parser() -> argparse.ArgumentParser:
    """Returns the options."""
    made = argparse.ArgumentParser(
        prog=f"{commandline.program()} compare",
        description="Trains several methods from one job with the same draws, evaluates all of them, and leaves one "
        "page. Interrupted, or with more methods, it goes on with what is missing.",
        epilog=f'Example: {commandline.program()} compare job.toml --methods waveft,lora:1,shira --rates "1e-4,3e-4" '
        "--seeds 3. A number behind a method's name is its size; name:key=value sets any key of its [network].",
    )
    made.add_argument("job", type=Path, metavar="JOB.TOML", help="what all of them share")
    made.add_argument("--methods", default="waveft,lora", metavar="NAMES", help="waveft,lora unless given")
    made.add_argument(
        "--rates", default="", metavar="RATES",
        help='learning rates of all, "1e-4,3e-4", or of each, "waveft=1e-4,3e-4;lora=1e-3"; unless given three a '
        "method, chosen so that all move the weights about as far",
    )  # fmt: skip
    made.add_argument("--seeds", type=int, default=3, metavar="N", help="runs of each, 3 unless given")
    made.add_argument("--points", type=int, default=cells.POINTS, metavar="N", help="steps of a run that are measured")
    made.add_argument("--subjects", type=Path, metavar="DIR", help="a folder of folders of pictures, a subject each")
    made.add_argument("--out", type=Path, default=Path("comparison"), metavar="DIR", help="comparison unless given")
    made.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", dest="overrides",
        help="change a key of the job",
    )  # fmt: skip
    made.add_argument("--workers", type=int, default=0, metavar="N", help="processes that share the cells")
    made.add_argument(
        "--slurm", action="append", default=[], metavar="KEY=VALUE",
        help="submit the workers through submitit with its own settings, such as slurm_partition=gpu",
    )  # fmt: skip
    made.add_argument("--page-only", action="store_true", help="train nothing: write the page of what is done")
    made.add_argument("--allow-download", action="store_true", help="fetch networks that are named by a hub id")
    made.add_argument("--dry-run", action="store_true", help="list the cells and train nothing")
    made.add_argument(workers.WORKER, action="store_true", help=argparse.SUPPRESS)
    return made


def main(arguments: Sequence[str]) -> int:
    """Runs the command line; returns the exit status: 1 where a cell failed.

    Raises:
        UserError: the job, a method or a network is not what it should be; nothing was trained.
    """
    options = parser().parse_args(arguments)
    job = cells.read(options.job, options.overrides)
    if options.seeds < 1 or options.points < 1:
        raise UserError("--seeds, --points: expected 1 at least.")
    own = job.model_dump(exclude_none=True, exclude_unset=True).get("network", {})
    found = contestants.parse(options.methods, options.rates, own, job.optimizer.learning_rate)
    subjects = options.subjects.expanduser().resolve() if options.subjects else None
    out = options.out.expanduser().resolve()
    every = cells.grid(job, found, options.seeds, subjects, out, options.points)
    if not options.worker:
        for line in contestants.in_words(found):
            say(line)
        say(f"{len(every)} cells: {len(found)} methods, their rates, {options.seeds} seeds; in {out}")
    if options.dry_run:
        for cell in every:
            say(f"  {cell.name}")
        return 0
    from ..system.quiet import quiet_libraries

    quiet_libraries(options.allow_download or job.model.allow_download)
    from . import comparing

    request = comparing.Request(job, found, comparing.grounded(every), out, options.allow_download)
    if options.worker:
        return comparing.as_worker(request)
    return comparing.compare(request, list(arguments), options.workers, options.slurm, options.page_only)
