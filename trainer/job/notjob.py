"""What is said of an adapter, a model or a state that is named where a job belongs; and where its job lies."""

from __future__ import annotations

import re
from pathlib import Path

from ..system.reading import is_file, tensors

JOB = "-job.toml"  # what a run writes of its job begins with the run's name and ends so
OF_A_STEP = re.compile(r"-step\d{8,}$")


def job_beside(path: Path) -> Path | None:
    """Returns the job that the run of an adapter or state wrote beside it, None where there is none."""
    job = path.with_name(OF_A_STEP.sub("", path.stem) + JOB)
    return job if is_file(job) else None


def told(path: Path) -> str:
    """Returns what stands in a job's place and what to name instead; "" where that may be a job."""
    held = tensors(path)
    if not held:
        return ""
    job = job_beside(path)
    remedy = f'Its job is "{job.name}" beside it: name that one' if job else "Name the job that it was trained by"
    return f"got {held}. {remedy}."


def told_of_run(path: Path, by_itself: str = "") -> str:
    """Returns the same of what stands in a run's place, whose folder will do as well.

    Args:
        path: the file.
        by_itself: the option that takes an adapter, "" where there is none.
    """
    held = tensors(path)
    if not held:
        return ""
    job = job_beside(path)
    remedy = (
        f'Name "{path.parent}", its folder, or "{job}", its job' if job else "Name the folder of its run, or its job"
    )
    also = f"; the file itself goes to {by_itself}" if by_itself and path.suffix == ".safetensors" else ""
    return f"got {held}. {remedy}{also}."
