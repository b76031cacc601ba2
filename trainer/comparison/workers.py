"""Several processes at one comparison: on this machine, or on a cluster through submitit. They share a folder.

A worker is the same command with `--worker`: it does what nobody else does, and ends. What a dead one left, this
process does at the end; so an engine needs to know nothing of cells.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..system import commandline
from ..system.console import say
from ..system.errors import UserError

WORKER = "--worker"


def command(arguments: Sequence[str]) -> list[str]:
    """Returns the command line of a worker."""
    return [sys.executable, "-m", "trainer", "compare", *arguments, WORKER]


def here(arguments: Sequence[str], count: int, out: Path) -> list[subprocess.Popen[bytes]]:
    """Starts workers on this machine; what each says goes into a file of `out`."""
    started = []
    for number in range(1, count + 1):
        path = out / f"worker-{number}.log"
        with path.open("wb") as log:
            started.append(subprocess.Popen(command(arguments), stdout=log, stderr=subprocess.STDOUT))
        say(f"worker {number}: process {started[-1].pid}, {path}")
    return started


def on_cluster(arguments: Sequence[str], count: int, out: Path, settings: Sequence[str]) -> list[Any]:
    """Submits workers through submitit, to SLURM unless the settings say `cluster=local`; returns its jobs.

    Args:
        arguments: of the comparison; its paths must be seen by every machine.
        count: how many workers.
        out: the comparison's folder, on a disk that they share.
        settings: submitit's own, such as "slurm_partition=gpu" or "gpus_per_node=1".

    Raises:
        UserError: submitit is not installed, or does not take a setting.
    """
    try:
        import submitit
    except ImportError:
        raise UserError(f"--slurm: submitit is not installed. Run: {commandline.install('submitit')}") from None
    table = dict(read(text) for text in settings)
    cluster = table.pop("cluster", "slurm")
    try:
        executor = submitit.AutoExecutor(folder=out / "submitit", cluster=cluster)
        executor.update_parameters(name="waveft-compare", **table)
        run = submitit.helpers.CommandFunction(command(arguments), cwd=str(Path.cwd()))
        jobs = [executor.submit(run) for _ in range(count)]
    except (RuntimeError, NameError, ValueError, TypeError, AssertionError) as error:
        raise UserError(f"--slurm: submitit refused: {error}") from error
    say(f"submitted {count} workers to {cluster}: {', '.join(job.job_id for job in jobs)}")
    return jobs


def read(text: str) -> tuple[str, Any]:
    """Returns a setting as submitit takes it: whole numbers as such."""
    key, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"--slurm {text}: expected KEY=VALUE, such as slurm_partition=gpu.")
    return key, int(value) if value.isdigit() else value


def wait(started: Sequence[Any]) -> None:
    """Waits until every worker has ended, however it did."""
    for one in started:
        if isinstance(one, subprocess.Popen):
            one.wait()
            continue
        error = one.exception()  # of a submitit job; waits
        if error is not None:
            say(f"worker {one.job_id} ended: {str(error).splitlines()[0]}")
