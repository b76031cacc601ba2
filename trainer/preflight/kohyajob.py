"""`waveft init --from-kohya FILE`: a job from a config file or a command line of kohya's sd-scripts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..job import config, kohyarun
from ..job.jobtext import toml_value
from ..job.kohyarun import Converted
from ..job.networks import Waveft
from ..job.tables import sections
from ..system import commandline
from ..system.errors import UserError
from ..system.files import write_atomically
from . import preflight


def write(source: Path, output: Path) -> list[str]:
    """Writes the job; returns what its check still finds to mend, such as paths of another machine.

    Relative paths are kept: kohya reads them from the folder that it is started in, a job from the folder it lies in.

    Raises:
        UserError: the file cannot be read, or says nothing of a run.
    """
    made = kohyarun.convert(kohyarun.read(source))
    write_atomically(output, "\n".join([*head(made, source, output), *body(made)]) + "\n")
    try:
        preflight.check(config.load(output))
    except UserError as error:
        return error.problems
    return []


def head(made: Converted, source: Path, output: Path) -> Iterator[str]:
    """Yields the comment that opens the job: its command, and what was not taken over."""
    yield f"# {commandline.program()} train {output.name}"
    yield "#"
    yield f"# Made of {source.name}. Relative paths are relative to this file's folder. Every key: docs/job.md."
    default = Waveft.model_fields["coefficients"].default
    if made.rank:
        yield f"# A LoRA of rank {made.rank} on SDXL's attention has as many numbers as {made.rank * default}"
        yield f"# coefficients a layer; {default}, rank 1's budget, is the paper's: begin there (docs/migration.md)."
    if made.notes:
        yield "#"
        yield "# Not taken over:"
        yield from (f"#   {line}" for note in made.notes for line in note.splitlines())


def body(made: Converted) -> Iterator[str]:
    """Yields the job's tables."""
    if "dataset_config" in made.tables:
        yield ""
        yield f"dataset_config = {toml_value(made.tables['dataset_config'])}"
    for name in sections():
        if name == "datasets":
            for dataset in made.tables.get("datasets", []):
                yield from ("", "[[datasets]]")
                yield from keys({key: value for key, value in dataset.items() if key != "subsets"}, "")
                for subset in dataset["subsets"]:
                    yield "  [[datasets.subsets]]"
                    yield from keys(subset, "  ")
        elif name in made.tables or name == "network":
            yield from ("", f"[{name}]")
            table = made.tables.get(name, {})
            own = {key: Waveft.model_fields[key].default for key in ("coefficients", "scaling")}
            yield from keys({**own, **table} if name == "network" else table, "")


def keys(table: Mapping[str, Any], indent: str) -> Iterator[str]:
    """Yields a table's keys."""
    return (f"{indent}{key} = {toml_value(value)}" for key, value in table.items())
