"""The job written out as TOML again, checked to be readable before a run depends on it. Torch is not imported."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import toml

from .config import is_hub_id, map_paths
from .schema import Job, Save


def public_job(job: Job, resolution: int) -> Job:
    """Returns the job with the resolution filled in and every path cut to its last name.

    Where the run wrote is left out too: the same training gives the same file in any folder.
    """
    job = map_paths(job, lambda text: text if is_hub_id(text) else Path(text).name)
    general = job.general.model_copy(update={"resolution": resolution})
    save = job.save.model_copy(update={key: Save.model_fields[key].default for key in ("output_dir", "overwrite")})
    return job.model_copy(update={"general": general, "save": save})


def job_toml(job: Job) -> str:
    """Returns the job as TOML, with every default written out."""
    return toml.dumps(job.model_dump(exclude_none=True), encoder=Encoder())


def quoted(text: str) -> str:
    """Returns the text as a basic string of TOML, which is JSON's but for U+007F."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


class Encoder(toml.TomlEncoder):
    """The toml package's, with strings of our own: its own break at U+00A0, control characters and backslashes."""

    def __init__(self) -> None:
        super().__init__()
        self.dump_funcs[str] = quoted


def faults(job: Job) -> list[str]:
    """Returns why the job could not be written into the adapter file, and read back from it, after the training."""
    table = job.model_dump(exclude_none=True)
    return [
        f"[{name}]: expected values that a TOML file can hold, got others ({fault}). Write them in plainer words."
        for name, section in table.items()
        if (fault := lost({name: section}))
    ]


def lost(table: dict) -> str:
    """Returns what the table loses on its way through a file, or ""."""
    try:
        text = toml.dumps(table, encoder=Encoder())
        text.encode()
        found = tomllib.loads(text)
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        return str(error) or type(error).__name__
    return "" if found == table else "they are read back as something else"
