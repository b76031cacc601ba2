"""The UI's own folders and lists: the checkpoints and adapters that it has, and where new ones go."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .core import WaveFTError, is_waveft, nearest

LOADED = "the loaded one"  # among checkpoints: what is chosen at the top of the page
_NAME = re.compile(r"[\w(][\w .,()+@=-]{0,98}[\w)]|\w")  # nothing that leads out of a folder, or that a system forbids
_SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Places:
    """What a UI has.

    Attributes:
        shared, models: its modules `modules.shared` and `modules.sd_models`.
        networks: its Lora extension's module of that name.
        entry: returns its object of the file that a prompt's name stands for, None for none.
    """

    shared: Any
    models: Any
    networks: Any
    entry: Callable[[str], Any]

    def checkpoints(self) -> list[str]:
        """Returns the names to choose from."""
        return [LOADED, *self.models.checkpoint_tiles()]

    def adapters(self) -> list[str]:
        """Returns the names of WaveFT files."""
        return [name for name, entry in self.networks.available_networks.items() if _is_ours(entry)]

    def loras(self) -> list[str]:
        """Returns the names of all files of the Lora folder."""
        return list(self.networks.available_networks)

    def refresh(self) -> None:
        """Looks at the folders again."""
        self.models.list_models()
        self.networks.list_available_networks()

    def checkpoint(self, chosen: str) -> Path:
        """Returns the file of a checkpoint.

        Raises:
            WaveFTError: there is none of that name, or none at all.
        """
        try:
            found = self.models.select_checkpoint() if chosen == LOADED else self.models.checkpoint_aliases.get(chosen)
        except FileNotFoundError:  # A1111's word for an empty folder; Forge returns None
            found = None
        if found is None:
            near = ", ".join(nearest(str(chosen), self.models.checkpoint_tiles(), 3)) or "none at all"
            raise WaveFTError(f'checkpoint: expected one that the UI has, got "{chosen or ""}". Near it: {near}.')
        return Path(found.filename)

    def adapter(self, name: str) -> Path:
        """Returns the file of a WaveFT adapter by the name that a prompt has for it.

        Raises:
            WaveFTError: there is none of that name, or it is another kind of file.
        """
        path = self.lora(name)
        if not is_waveft(str(path)):
            raise WaveFTError(f'adapter "{name}": expected a WaveFT file, got another kind. Choose one of ours.')
        return path

    def lora(self, name: str) -> Path:
        """Returns the file of an adapter of any kind.

        Raises:
            WaveFTError: there is none of that name.
        """
        entry = self.entry(name) if name else None
        if entry is None:
            near = ", ".join(nearest(str(name), self.loras(), 3)) or "none at all"
            raise WaveFTError(f'adapter: expected one of the Lora folder, got "{name or ""}". Near it: {near}.')
        return Path(entry.filename)

    def new_checkpoint(self, name: str) -> Path:
        """Returns where a new checkpoint goes.

        Raises:
            WaveFTError: a name that is none, or that is taken.
        """
        given = self.shared.cmd_opts
        folders = given.ckpt_dirs if hasattr(given, "ckpt_dirs") else [given.ckpt_dir]  # Neo has a list
        return _new(Path(next(filter(None, folders), self.models.model_path)), name)

    def new_adapter(self, name: str) -> Path:
        """Returns where a new adapter goes.

        Raises:
            WaveFTError: a name that is none, or that is taken.
        """
        return _new(Path(self.shared.cmd_opts.lora_dir), name)


def _new(folder: Path, name: str) -> Path:
    stem = (name or "").strip().removesuffix(_SUFFIX)
    if not _NAME.fullmatch(stem):
        raise WaveFTError(
            f'new name: expected letters, digits, spaces and .,()+@=- without a folder, got "{stem}". '
            "Write dog-merged, say."
        )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem}{_SUFFIX}"
    if path.exists():
        raise WaveFTError(f'new name: expected one that is free, got "{stem}", which is in {folder}. Choose another.')
    return path


def _is_ours(entry: Any) -> bool:
    """Says whether a file is WaveFT's; one with metadata says so there, which the UI has read already."""
    return "waveft" in entry.metadata if entry.metadata else is_waveft(entry.filename)
