"""What a run needs to go on, in one file, whole or not at all, read without running code; and what may differ then.

The file is torch's own, a zip: tensors and plain values alone, no path of the machine. Torch is imported where a file
is written or read.
"""

from __future__ import annotations

import io
import os
import pickle
import platform
import zipfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ..job.values import MOST_STEPS
from ..system.errors import TrainingStopped, UserError, reason
from ..system.files import write_atomically
from ..system.interrupt import deferred
from ..system.reading import open_regular
from . import statecheck

if TYPE_CHECKING:
    import torch

FORMAT = 1
LARGEST = 2**32  # bytes: SDXL's has 20 MB
NEEDED: dict[str, type] = {"step": int, "values": dict, "optimizer": dict, "schedule": dict, "fingerprint": dict}
UNREADABLE = (RuntimeError, ValueError, LookupError, TypeError, AttributeError, EOFError, pickle.UnpicklingError)
REMEDY = "Resume from an earlier state (--resume FILE), or begin anew."

LIBRARIES = ("torch", "diffusers", "transformers")
# What a resumed run may have other than the one it goes on with. Everything else makes it another run.
SILENT = ("save.", "sample.", "logging.", "metadata.", "validation.", "evaluation.")
SILENT_KEYS = ("train.device", "model.allow_download")
CHANGING = ("cache.sample_posterior",)  # what is trained
NOTED = ("cache.", "train.gradient_checkpointing", "train.attention", "train.torch_compile")
LENGTH = ("train.max_train_steps", "train.max_train_epochs")
MACHINE = ("python", *LIBRARIES, "peft", "waveft", "threads", "train.threads", "device", "platform")
SHARES = ("train.gradient_accumulation_steps", "world_size")  # may differ where their product does not


def save(path: Path, content: dict[str, Any]) -> Path:
    """Writes a run's state whole or not at all, and returns its path; a signal that comes meanwhile waits.

    Args:
        path: the file; what is there is replaced.
        content: tensors on the CPU and plain values, with the keys of `NEEDED`; "format" is added.

    Raises:
        TrainingStopped: it holds what could not be read back, such as the objects of a foreign optimizer.
        OSError: it cannot be written; what was at `path` stands.
    """
    import torch

    buffer = io.BytesIO()
    with deferred():
        torch.save({**content, "format": FORMAT}, buffer)
        try:
            torch.load(io.BytesIO(buffer.getbuffer()), map_location="cpu", weights_only=True)
        except UNREADABLE as error:
            raise TrainingStopped(
                f'state "{path.name}": expected tensors and plain values, got what could not be read back '
                f"({reason(error)}). Use another optimizer or schedule, or [save] save_state = false."
            ) from error
        return write_atomically(path, buffer.getvalue())


def load(path: Path) -> dict[str, Any]:
    """Returns a run's state, its tensors on the CPU, every value of a kind that a run keeps.

    Raises:
        UserError: there is no such file, it is no state, of a later version, damaged in any byte, or made up.
    """
    what = f'state "{path}"'
    try:
        with open_regular(path) as file:
            found, size = unpacked(file, what), os.fstat(file.fileno()).st_size
    except OSError as error:
        raise UserError(f"{what}: cannot be read ({error.strerror or error}). Check the path.") from None
    if not isinstance(found, dict) or "format" not in found:
        raise UserError(f"{what}: expected a state that this trainer wrote, got something else. Check the path.")
    if found["format"] != FORMAT:
        raise UserError(
            f"{what}: expected format {FORMAT}, got {found['format']!r}. It was written by another version: use that "
            "one."
        )
    missing = [key for key, kind in NEEDED.items() if not isinstance(found.get(key), kind) or found[key] is True]
    if missing:
        raise UserError(f"{what}: expected {', '.join(NEEDED)}, got none of {', '.join(missing)}. {REMEDY}")
    if fault := statecheck.fault(found, size) or content_fault(found):
        raise UserError(f"{what}{fault}. {REMEDY}")
    return found


def unpacked(file: BinaryIO, what: str) -> Any:
    """Returns what an open state's file holds.

    Nothing is unpacked before it is known that it takes no more room than the file itself: torch stores, and packs
    nothing.

    Raises:
        UserError: it is no whole file of torch's, or larger than any state.
    """
    import torch

    size = os.fstat(file.fileno()).st_size
    if size > LARGEST:
        raise UserError(f"{what}: expected at most {LARGEST:,} bytes, got {size:,}. Check the path.")
    try:
        with zipfile.ZipFile(file) as held:
            entries = held.infolist()
            if any(one.compress_type != zipfile.ZIP_STORED for one in entries) or sum(map(room, entries)) > size:
                raise UserError(f"{what}: expected entries as torch stores them, got packed ones. {REMEDY}")
            if broken := held.testzip():  # torch's reader skips the check sums
                raise UserError(f"{what}: damaged (in {broken}). {REMEDY}")
        file.seek(0)
        return torch.load(file, map_location="cpu", weights_only=True)
    except (UserError, MemoryError):
        raise
    except Exception as error:
        raise UserError(
            f"{what}: expected a whole file of this trainer, got another ({reason(error)}). {REMEDY}"
        ) from error


def room(entry: zipfile.ZipInfo) -> int:
    """Returns the bytes that an entry of a zip takes when it is unpacked."""
    return entry.file_size


def content_fault(found: Mapping[str, Any]) -> str:
    """Returns which of a state's values is none that a run keeps, or ""."""
    step, fingerprint = found["step"], found["fingerprint"]
    if not 0 <= step <= MOST_STEPS:
        return f"/step: expected 0 to {MOST_STEPS}, got {step}"
    if strange := [key for key, value in fingerprint.items() if not isinstance(value, str | int | float | None)]:
        return f"/fingerprint: expected texts and numbers, got others at {strange[0]}"
    if any(type(fingerprint.get(key, 1)) is not int or fingerprint.get(key, 1) < 1 for key in SHARES):
        return f"/fingerprint: expected counts at {' and '.join(SHARES)}, got others"
    pictures = found.get("pictures")
    if pictures is None:
        return ""
    pairs = isinstance(pictures, list) and all(isinstance(one, tuple | list) and len(one) == 2 for one in pictures)
    if not pairs or not all(isinstance(text, str) for one in pictures for text in one):
        return "/pictures: expected pairs of names, got others"
    return ""


def readable(path: Path) -> bool:
    """Returns whether the file is a whole state."""
    try:
        load(path)
    except UserError:
        return False
    return True


def environment(device: torch.device | None = None) -> dict[str, str | int]:
    """Returns what a run's numbers depend on beside its job: versions, CPU threads, device and platform.

    Args:
        device: that the run trains on; None = the CPU.
    """
    import torch

    is_cuda = device is not None and device.type == "cuda"
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
        "waveft": version("waveft"),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if is_cuda else device.type if device is not None else "cpu",
        "platform": f"{platform.system()} {platform.machine()}",
    }


def version(name: str) -> str:
    """Returns the version of an installed package, "" where it is not installed, as of a clone that is run in place."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def differences(
    saved: Mapping[str, Any], now: Mapping[str, Any], words: Mapping[str, str] | None = None
) -> tuple[list[str], list[str]]:
    """Returns what keeps a job from going on with a saved run, and what may surprise where it does.

    Args:
        saved: what the saved run was: "section.key" of its job and other names, each with a text or number.
        now: the same of the job at hand.
        words: what to say of keys whose values tell people nothing, in place of "expected ..., got ...".
    """
    same_step = batches_a_step(saved) == batches_a_step(now)
    faults, notices = [], []
    for key in dict.fromkeys((*saved, *now)):
        before, after = shown(saved.get(key)), shown(now.get(key))
        if before == after or key.startswith(SILENT) or key in SILENT_KEYS:
            continue
        if key in LENGTH:
            notices.append(f"{place(key)}: {before} in the saved run, {after} now; the learning rate follows it.")
        elif key in MACHINE or (key.startswith(NOTED) and key not in CHANGING) or (key in SHARES and same_step):
            notices.append(f"{place(key)}: {before} in the saved run, {after} now; the last digits may differ.")
        elif key in SHARES:
            faults.append(
                f"{place(key)}: expected {before} as in the saved run, got {after}. Keep gradient_accumulation_steps x "
                f"processes at {batches_a_step(saved)}."
            )
        else:
            told = (words or {}).get(key) or f"expected {before} as in the saved run, got {after}"
            faults.append(f"{place(key)}: {told}. Set it back, or begin a new run under another [save] output_name.")
    return faults, notices


def batches_a_step(fingerprint: Mapping[str, Any]) -> int:
    """Returns how many batches make one optimizer step, whichever process computes each."""
    return int(fingerprint.get(SHARES[0], 1)) * int(fingerprint.get(SHARES[1], 1))


def place(key: str) -> str:
    """Returns where a key of a fingerprint is found: "[section] key", or the thing by its name."""
    section, dot, rest = key.partition(".")
    return f"[{section}] {rest}" if dot else key


def shown(value: Any) -> str:
    """Returns a value as it is told."""
    return "nothing" if value in (None, "") else repr(value)
