"""Files of plain tensors, read without running any code that is in them."""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from waveft_core import WaveFTError
from waveft_core.format.container import read_layout, read_tensor

from ..system.errors import UserError, reason
from ..system.reading import open_regular


def read(path: Path, what: str, sha256: str | None = None) -> dict[str, Tensor]:
    """Returns the tensors of a `.safetensors` file, or of one that `torch.save` wrote, on the CPU.

    Args:
        path: the file.
        what: what it is, as a fault says it.
        sha256: hexadecimal, of the content that is expected; None = any.

    Raises:
        UserError: it is not there, is another content, or holds something else than tensors.
    """
    where = f'{what} "{path}"'
    if not path.is_file():
        raise UserError(f"{where}: expected a file of tensors, got nothing there. Correct the path.")
    if sha256 and (got := digest(path)) != sha256:
        raise UserError(f"{where}: expected the content with SHA-256 {sha256}, got {got}. Install it anew.")
    try:
        if path.suffix == ".safetensors":
            found = {name: read_tensor(path, stored) for name, stored in read_layout(path)[0].items()}
        else:  # weights_only: a pickle that calls anything but torch's own tensor makers is refused
            found = torch.load(path, map_location="cpu", weights_only=True)
    except (WaveFTError, pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, ValueError, EOFError) as error:
        raise UserError(
            f"{where}: expected a file of tensors, got something else ({reason(error)}). Fetch it anew."
        ) from None
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise UserError(f"{where}: expected names with tensors, got {type(found).__name__}. Name another file.")
    return found


def digest(path: Path) -> str:
    """Returns the hexadecimal SHA-256 of a file."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
