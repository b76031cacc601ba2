"""What the frozen encoders have made, kept by what it depends on: in memory, and on disk for the next run.

An entry's name is a hash of everything that its content follows from, so that nothing in here is ever out of date: what
changes has another name. Torch is imported only where a tensor is read or written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..system.errors import reason
from ..system.files import write_atomically
from ..system.reading import parse_json, read_bytes

if TYPE_CHECKING:
    from torch import Tensor

    from ..pictures.picture import Picture

# To be raised when other latents, or another encoding of a text, come of the same file, text and weights.
LATENTS_VERSION, TEXTS_VERSION = 1, 1
LARGEST_ENTRY = 2**28  # bytes: latents of a picture of 16,384 px, with their deviation, twice
DAMAGED = (ValueError, KeyError, TypeError, AttributeError, RuntimeError)  # beside safetensors' own, of a broken file


def key(**what: Any) -> str:
    """Returns the name of an entry that follows from these plain values: 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(what, sort_keys=True, allow_nan=False).encode()).hexdigest()


def fixed_flips(picture: Picture) -> tuple[bool, ...]:
    """Returns which views of a picture are encoded beforehand: as it is, mirrored; none where each view is another."""
    if picture.color or picture.random_crop:
        return ()
    return (False, True) if picture.flip else (False,)


def latents_key(picture: Picture, flipped: bool, identity: str, dtype: str, posterior: bool) -> str:
    """Returns the name of the latents of a picture's fixed view.

    Args:
        picture: it is known by its content, not by its path.
        flipped: whether it is seen mirrored.
        identity: of the VAE's weights.
        dtype: that the VAE computes in, such as "float32".
        posterior: whether the deviation is kept beside the mean.
    """
    place = picture.geometry
    return key(
        what="latents",
        version=LATENTS_VERSION,
        image=picture.digest,
        resized=place.resized,
        offset=place.offset,
        bucket=place.bucket,
        flipped=flipped,
        background=picture.background,
        interpolation=picture.interpolation,
        vae=identity,
        dtype=dtype,
        posterior=posterior,
    )


def text_key(text: str, identity: str, dtype: str, chunks: int = 1) -> str:
    """Returns the name of a final text's encoding by the text encoders of that identity, in that dtype and length."""
    longer = {"chunks": chunks} if chunks > 1 else {}
    return key(what="text", version=TEXTS_VERSION, text=text, encoders=identity, dtype=dtype, **longer)


class Store:
    """Named sets of tensors, on the CPU.

    Attributes:
        folder: where each is a safetensors file, in a folder named by its first two digits; None = in memory only.
        hits, misses: how many of the entries that were wanted were there, and how many had to be made.
        damaged: how many files were broken and dropped.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.hits = self.misses = self.damaged = 0
        self._memory: dict[str, dict[str, Tensor]] = {}
        self._unwritable = ""  # why the folder takes no more files

    def path(self, name: str) -> Path | None:
        """Returns the file of an entry, whether it is there or not; None for a store without folder."""
        return self.folder / name[:2] / f"{name}.safetensors" if self.folder else None

    def contains(self, name: str) -> bool:
        """Returns whether the entry is there; a file is not opened."""
        path = self.path(name)
        return name in self._memory or (path is not None and path.is_file())

    def count(self, names: Iterable[str]) -> tuple[int, int]:
        """Returns how many of the entries are there, and how many are not."""
        there = [self.contains(name) for name in set(names)]
        return sum(there), len(there) - sum(there)

    def size(self) -> int:
        """Returns how many bytes the store's files take or, without folder, its tensors."""
        if self.folder:
            return sum(path.stat().st_size for path in self.folder.glob("??/*.safetensors"))
        return sum(tensor.nbytes for held in self._memory.values() for tensor in held.values())

    def notices(self) -> list[str]:
        """Returns what went wrong with the folder and was got over."""
        found = []
        if self.damaged:
            files = "1 damaged file was" if self.damaged == 1 else f"{self.damaged} damaged files were"
            found.append(f'cache "{self.folder}": {files} dropped and made anew')
        if self._unwritable:
            found.append(
                f'cache "{self.folder}": cannot be written to ({self._unwritable}), the rest is kept in memory for '
                "this run alone. Make room, or name another folder in [cache] cache_dir"
            )
        return found

    def get(self, name: str) -> dict[str, Tensor] | None:
        """Returns an entry, None where it is not there or its file is damaged; what is read stays in memory."""
        held = self._memory.get(name)
        if held is None and (held := self._read(name)) is not None:
            self._memory[name] = held
        return held

    def put(self, name: str, tensors: dict[str, Tensor]) -> None:
        """Keeps an entry; a folder that cannot be written to is noticed, and no fault."""
        self._memory[name] = tensors
        path = self.path(name)
        if path is None or self._unwritable or path.exists():
            return
        try:
            write_atomically(path, packed(name, tensors))
        except OSError as error:
            self._unwritable = error.strerror or reason(error)

    def _read(self, name: str) -> dict[str, Tensor] | None:
        path = self.path(name)
        if path is None:
            return None
        from safetensors import SafetensorError

        try:
            return unpacked(name, read_bytes(path, LARGEST_ENTRY))
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError, *DAMAGED):
            self.damaged += 1
            with suppress(OSError):
                path.unlink(missing_ok=True)
            return None


def packed(name: str, tensors: dict[str, Tensor]) -> bytes:
    """Returns an entry as a safetensors file that says what it should hold: the format itself notices no wrong bit."""
    from safetensors.torch import save

    return save(tensors, {"sha256": checksum(name, tensors)})


def unpacked(name: str, content: bytes) -> dict[str, Tensor]:
    """Returns the tensors of an entry's file; raises one of `DAMAGED`, or safetensors' own, where it is broken."""
    from safetensors.torch import load

    end = 8 + int.from_bytes(content[:8], "little")  # of the header: its length, then JSON
    tensors = load(content)
    if parse_json(content[8:end])["__metadata__"]["sha256"] != checksum(name, tensors):
        raise ValueError(f"entry {name}: expected the tensors that were written, got others")
    return tensors


def checksum(name: str, tensors: dict[str, Tensor]) -> str:
    """Returns a hash of an entry's name and tensors."""
    from safetensors.torch import save

    return hashlib.sha256(name.encode() + save(tensors)).hexdigest()
