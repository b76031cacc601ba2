"""Uploads a finished run to the Hugging Face hub: `waveft publish FOLDER --repo owner/name`.

The adapter, its card as README.md, and the pictures that the card names: all in one commit, after all was checked.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from ..job.config import is_hub_id
from ..run.runfolder import CARD
from ..system import commandline
from ..system.console import complain, say
from ..system.errors import TrainingStopped, UserError, reason
from ..system.files import readable_size
from ..system.reading import read_text, tensors

TOKENS = "https://huggingface.co/settings/tokens"


@dataclass(frozen=True)
class Upload:
    """A file, and its name in the repository."""

    path: Path
    name: str


def parser() -> argparse.ArgumentParser:
    """Returns the options."""
    made = argparse.ArgumentParser(
        prog=f"{commandline.program()} publish",
        description="Uploads a finished run to the Hugging Face hub: its adapter, its card, and the card's pictures.",
        epilog=f"It needs a token that may write ({TOKENS}): run `hf auth login` once, or set HF_TOKEN.",
    )
    made.add_argument("folder", type=Path, metavar="FOLDER", help="the run's output_dir")
    made.add_argument("--repo", required=True, metavar="OWNER/NAME", help="repository; made where there is none")
    made.add_argument(
        "--name", default="", metavar="NAME", help="the run's output_name, where the folder holds several"
    )
    made.add_argument("--private", action="store_true", help="make the repository a private one")
    made.add_argument("--dry-run", action="store_true", help="check everything, list what would go up, upload nothing")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status: 0 done, 1 the hub refused, 2 nothing to upload."""
    options = parser().parse_args(arguments)
    try:
        uploads = plan(options.folder, options.name, options.repo)
        say(f"to {options.repo}{' (private)' if options.private else ''}:")
        for upload in uploads:
            say(f"  {upload.name} ({readable_size(upload.path)})")
        if not options.dry_run:
            say(f"done: {send(uploads, options.repo, options.private)}")
    except UserError as error:
        for problem in error.problems:
            complain(problem)
        return 2
    except TrainingStopped as error:
        complain(str(error))
        return 1
    return 0


def plan(folder: Path, name: str, repo: str) -> list[Upload]:
    """Returns what is uploaded, every file checked.

    Raises:
        UserError: no such run, a damaged adapter, a picture that is missing; with every fault found.
    """
    from ..methods import shipped

    check_repo(repo)
    name = find_run(folder, name)
    adapter, card = folder / f"{name}.safetensors", folder / f"{name}{CARD}"
    problems = []
    try:
        shipped.load(adapter)
    except UserError as error:
        problems += error.problems
    shown = pictures(read_text(card, f'"{card}"', "Name a run that is done."))
    for picture in shown:
        path = folder / picture
        if not path.resolve().is_relative_to(folder.resolve()):
            problems.append(f'"{card.name}": expected pictures below "{folder}", got "{picture}". Remove it.')
        elif not path.is_file():
            problems.append(
                f'"{card.name}": names the picture "{picture}", which is not there. Remove it from the card.'
            )
    if problems:
        raise UserError(problems)
    return [Upload(adapter, adapter.name), Upload(card, "README.md"), *(Upload(folder / one, one) for one in shown)]


def check_repo(repo: str) -> None:
    """Refuses a name that the hub would refuse, by its library's own rule where that is installed."""
    if not is_hub_id(repo):
        raise UserError(f"--repo: expected OWNER/NAME, got {repo!r}.")
    try:
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id
    except ImportError:  # `send` says what to install
        return
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(f"--repo: expected a name that the hub takes, got {repo!r} ({reason(error)}).") from None


def find_run(folder: Path, name: str) -> str:
    """Returns the name of the run to upload: the one asked for, or the only one in the folder."""
    if folder.is_file():
        got = tensors(folder) or "a file"
        raise UserError(
            f'"{folder}": expected the output folder of a run, got {got}. Name "{folder.parent}", its folder.'
        )
    if not folder.is_dir():
        raise UserError(f'"{folder}": expected the output folder of a run, got nothing there.')
    cards = (path.name.removesuffix(CARD) for path in folder.glob(f"*{CARD}"))
    names = sorted(found for found in cards if (folder / f"{found}.safetensors").is_file())
    among = f"It holds {', '.join(names)}." if names else f"A run that is done leaves NAME.safetensors and NAME{CARD}."
    if name and name not in names:
        raise UserError(f'"{folder}": expected a finished run named "{name}", got none. {among}')
    if not names:
        raise UserError(f'"{folder}": expected a finished run, got none. {among}')
    if not name and len(names) > 1:
        raise UserError(f'"{folder}": expected one run, got {len(names)}: {", ".join(names)}. Choose with --name.')
    return name or names[0]


def pictures(card: str) -> list[str]:
    """Returns the local pictures that a card shows, as paths from it: its links, and the samples at its head."""
    found = re.findall(r"!\[[^\]]*\]\(<?([^)>\s]+)>?[^)]*\)", card)
    for text in re.findall(r"^\s+url:\s*(.+?)\s*$", card, re.MULTILINE):
        try:
            found.append(str(json.loads(text)))
        except ValueError:
            found.append(text.strip("'\""))
    return list(dict.fromkeys(unquote(one) for one in found if not re.match(r"[a-z]+:", one)))


def send(uploads: Sequence[Upload], repo: str, private: bool) -> str:
    """Uploads everything in one commit, the repository made where there is none; returns its address.

    Raises:
        UserError: huggingface_hub or a token is missing.
        TrainingStopped: the hub cannot be reached, or refuses.
    """
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError:
        raise UserError(f"huggingface_hub is not installed. Run: {commandline.install('huggingface_hub')}") from None
    if not huggingface_hub.get_token():
        raise UserError(
            f"no token: expected one that may write. Make it at {TOKENS}, then run `hf auth login` or set HF_TOKEN."
        )
    # its HTTP library is requests, httpx or httpx2, by its version; all that each raises is one of these
    network: tuple[type[Exception], ...] = (OSError, getattr(errors, "HTTPError", OSError))
    try:
        api = huggingface_hub.HfApi()
        url = api.create_repo(repo, private=private, repo_type="model", exist_ok=True)
        api.create_commit(
            repo, operations=operations(huggingface_hub, uploads), commit_message="WaveFT adapter", repo_type="model"
        )
    except (errors.HfHubHTTPError, ValueError) as error:
        raise TrainingStopped(
            f"{repo}: the hub refused: {reason(error)} Check that the name is right and that the token may write there."
        ) from error
    except network as error:
        raise TrainingStopped(
            f"{repo}: the hub cannot be reached: {reason(error)} Nothing is lost; try again."
        ) from error
    return str(url)


def operations(hub: Any, uploads: Sequence[Upload]) -> list[Any]:
    """Returns the uploads as the library wants them."""
    return [hub.CommitOperationAdd(path_in_repo=one.name, path_or_fileobj=str(one.path)) for one in uploads]
