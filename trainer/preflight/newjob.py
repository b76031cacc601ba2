"""`waveft init`: a commented job.toml for the pictures and the base that are there."""

from __future__ import annotations

import argparse
import itertools
import tomllib
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from ..base import modelcheck
from ..job import config
from ..job.faults import describe_all
from ..job.schema import Job, Model
from ..pictures import folders
from ..pictures.contents import look
from ..run.runfolder import RunFolder
from ..system import commandline
from ..system.console import say
from ..system.errors import RELATIVE, UserError
from ..system.files import write_atomically
from ..system.reading import read_text
from . import jobcheck, kohyajob, preflight
from .newjobtext import FETCHES, OUTPUT, head, job_lines, plain_name

VOCABULARY = commandline.install("--no-deps", "open_clip_torch")


def parser() -> argparse.ArgumentParser:
    """Returns the options."""
    made = argparse.ArgumentParser(
        prog=f"{commandline.program()} init",
        description="Writes a commented job file for the pictures and the base that are there, and checks it.",
        epilog=f'Example: {commandline.program()} init --images dog --model sdxl.safetensors --trigger "sks dog"',
    )
    made.add_argument("--images", type=Path, metavar="DIR", help="folder of pictures")
    made.add_argument(
        "--model", metavar="FILE",
        help="SDXL base: a diffusers folder, a .safetensors file, or a hub id (its download is then allowed)",
    )  # fmt: skip
    made.add_argument(
        "--from-kohya", type=Path, metavar="FILE",
        help="a config file (flat TOML) or the text of a command line of kohya's sd-scripts, instead of --images and "
        "--model",
    )  # fmt: skip
    made.add_argument(
        "--output", type=Path, metavar="FILE",
        help="job.toml unless given; where that exists, a name after the pictures",
    )  # fmt: skip
    made.add_argument("--trigger", metavar="TEXT", help='trigger phrase; "sks" and the folder\'s name unless given')
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the job; returns the exit status.

    Raises:
        UserError: something is in the way; nothing was written.
    """
    made = parser()
    options = made.parse_args(arguments)
    if options.from_kohya:
        path = free_path(options.output, options.from_kohya.stem)
        to_mend = kohyajob.write(options.from_kohya, path)
        say(f"wrote {path}, whose head says what was not taken over")
        for problem in to_mend:
            say(f"to mend     {problem}")
    elif options.images is None or options.model is None:
        made.error("expected --images and --model, or --from-kohya")
    else:
        path = write(options.images, options.model, options.output, options.trigger)
        say(f"wrote {path}")
        if f"\n# {FETCHES}" in read_text(path, "job"):
            say("to mend     CLIP's vocabulary, which a single file lacks, is not here. Take the # away before")
            say(f"            {FETCHES}, which fetches it once, or run: {VOCABULARY}")
    say(f"What it would do: {commandline.program()} train {path} --dry-run")
    return 0


def free_path(output: Path | None, name: str) -> Path:
    """Returns where the job is written: where it was said, or the first of job.toml, NAME.toml, NAME-2.toml ... free.

    Raises:
        UserError: the file that was named is there already.
    """
    names = itertools.chain([f"{name}.toml"], (f"{name}-{number}.toml" for number in itertools.count(2)))
    if output is None:
        return next(path for path in map(Path, itertools.chain(["job.toml"], names)) if not path.exists())
    output = output.expanduser()
    if output.exists():
        free = next(path for path in map(output.with_name, names) if not path.exists())
        raise UserError(f'job file "{output}": exists. Name another with --output, such as {free}, or remove it.')
    return output


def write(images: Path, model: str, output: Path | None = None, trigger: str | None = None) -> Path:
    """Writes a job that passes all checks, and returns its path.

    Where CLIP's vocabulary alone is missing, the key that fetches it stands in the job as a comment.

    Raises:
        UserError: the file is there already, or the pictures or the base cannot be trained.
    """
    images = images.expanduser().resolve()
    output = free_path(output, plain_name(images.name))
    is_hub = config.is_hub_id(model) and not Path(model).expanduser().exists()
    base = model if is_hub else str(Path(model).expanduser().resolve())
    facts, problems = modelcheck.check(Model(pretrained_model_name_or_path=base, allow_download=is_hub))
    fetches = is_hub
    if problems and not is_hub:  # of a file or a folder, the key fetches the vocabulary and nothing else
        fetched, others = modelcheck.check(Model(pretrained_model_name_or_path=base, allow_download=True))
        if not others:
            facts, problems, fetches = fetched, [], True
    problems = [problem.replace("[model] pretrained_model_name_or_path", "--model") for problem in problems]
    found = look(images) if images.is_dir() else None
    if found is None or not found.files:
        what = folders.no_images(images) if found else folders.not_a_folder(images)
        problems.append(f'--images "{images}": {what}')
    if problems or found is None:
        here = "Relative paths start from the folder that you are in."  # there is no job file yet, and no key of it
        raise UserError(text.replace(RELATIVE, here).replace(modelcheck.TO_DOWNLOAD, "") for text in problems)
    folder = output.resolve().parent
    name = free_name(plain_name(images.name), folder)
    lines = [*head(found, output), *job_lines(found, base, (is_hub, fetches), facts, trigger, folder, name)]
    text = "\n".join(lines) + "\n"
    check(text.replace(f"\n# {FETCHES}", f"\n{FETCHES}"), folder)
    return write_atomically(output, text)


def free_name(name: str, folder: Path) -> str:
    """Returns an output_name that no run in the folder's `output` has, and no other job of the folder."""
    taken = set()
    for path in folder.glob("*.toml"):
        try:
            taken.add(tomllib.loads(read_text(path, "job"))["save"]["output_name"])
        except (OSError, ValueError, LookupError, TypeError):
            continue  # no job, or one that has the default
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(one for one in names if one not in taken and jobcheck.earlier(RunFolder(folder / OUTPUT, one)) is None)


def check(text: str, folder: Path) -> None:
    """Refuses a job that would be refused when it is run."""
    try:
        job = Job.model_validate(tomllib.loads(text))
    except ValidationError as error:
        raise UserError(describe_all(error.errors())) from None
    preflight.check(config.rooted(job, folder))
