"""`python -m experiments list`, and `python -m experiments NAME`: one table or figure of the paper."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from trainer.system.console import say
from trainer.system.errors import UserError
from trainer.system.quiet import quiet_libraries
from waveft_core import WaveFTError

from . import registry
from .experiment import Experiment

OUT = Path("runs/paper")


def parser(experiment: Experiment) -> argparse.ArgumentParser:
    """Returns an experiment's options."""
    made = argparse.ArgumentParser(
        prog=f"python -m experiments {experiment.NAME}",
        description=f"{experiment.PAPER}: {experiment.ABOUT}",
        epilog="Each cell is one file in --out/cells; interrupted, it goes on with what is missing. docs/paper.md sets "
        "what came out beside the paper's numbers.",
    )
    made.add_argument("--small", action="store_true", help=f"the small form, which needs nothing: {experiment.SMALL}")
    made.add_argument("--out", type=Path, metavar="DIR", help=f"{OUT}/{experiment.NAME} unless given")
    made.add_argument("--dry-run", action="store_true", help="list the cells and measure nothing")
    made.add_argument("--page-only", action="store_true", help="measure nothing: write table and plot of what is done")
    experiment.options(made)
    return made


def listed() -> list[str]:
    """Returns a line for each experiment."""
    width = max(map(len, registry.BY_NAME))
    return [f"{one.NAME:<{width}}  {one.PAPER}: {one.ABOUT} Small: {one.SMALL}." for one in registry.ALL]


def main(arguments: Sequence[str]) -> int:
    """Runs the command line; returns the exit status: 2 for what could not be begun, 1 where a cell failed."""
    name, *rest = arguments or ["list"]
    if name in ("list", "-h", "--help"):
        for line in ["python -m experiments NAME [--small] [--help]", "", *listed()]:
            say(line)
        return 0
    if name not in registry.BY_NAME:
        say(f"experiments: expected list or one of {', '.join(registry.BY_NAME)}, got {name}.")
        return 2
    experiment = registry.BY_NAME[name]
    options = parser(experiment).parse_args(rest)
    options.out = options.out or OUT / name
    quiet_libraries(allow_download=False)
    try:
        return experiment.run(options)
    except (UserError, WaveFTError) as error:
        say(f"experiments {name}: {error}")
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
