"""Where a training finds its base and its pictures, and where it writes: ComfyUI's folders, for WaveFT Train."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .. import folders, models
from ..core import WaveFTError

DIFFUSERS = "diffusers/"  # before the name of a folder in models/diffusers
LONGEST_NAME = 100
# The last part keeps off the names that a run gives to its checkpoints.
_NAME = re.compile(r"(?!.*-step\d{8,}$)[A-Za-z0-9][A-Za-z0-9_-]*")
_VOCABULARY = "comfy/sd1_tokenizer"


@dataclass(frozen=True)
class Run:
    """The files of one training, all in one folder of ComfyUI's output and all beginning with its name."""

    folder: Path
    name: str

    @property
    def job(self) -> Path:
        """What is trained."""
        return self._file(".toml")

    @property
    def adapter(self) -> Path:
        """What came of it."""
        return self._file(".safetensors")

    @property
    def metrics(self) -> Path:
        """The trainer's log, a line of JSON a step."""
        return self._file("-metrics.jsonl")

    @property
    def log(self) -> Path:
        """What the trainer said."""
        return self._file("-console.txt")

    @property
    def marker(self) -> Path:
        """Which job the adapter came of."""
        return self._file("-trained.json")

    def states(self) -> list[Path]:
        """Returns what the trainer can go on from."""
        return sorted(self.folder.glob(f"{self.name}-step*.state"))

    def samples(self) -> list[tuple[int, Path]]:
        """Returns when each picture was drawn, in nanoseconds, and its path; oldest first."""
        found = []
        for path in (self.folder / "samples").glob(f"{self.name}-*-seed*.png"):
            with suppress(OSError):  # a run that begins anew takes the old ones away
                found.append((path.stat().st_mtime_ns, path))
        return sorted(found)

    def last_samples(self, before: Collection[tuple[int, Path]]) -> list[Path]:
        """Returns the pictures of the last moment at which some were drawn, in the order of their prompts.

        Args:
            before: what `samples` gave before: an earlier run's, of prompts that this one need not have.
        """
        drawn = [path for when, path in self.samples() if (when, path) not in before]
        return sorted(path for path in drawn if _moment(path) == _moment(drawn[-1]))

    def _file(self, ending: str) -> Path:
        return self.folder / f"{self.name}{ending}"


def run(name: str) -> Run:
    """Returns the files of a training.

    Raises:
        WaveFTError: no name for a file.
    """
    if not _NAME.fullmatch(name) or len(name) > LONGEST_NAME:
        raise WaveFTError(
            f'name "{name}": expected 1 to {LONGEST_NAME} letters (a to z), digits, - and _, the first no sign, and no '
            "ending like -step00000100. Choose another."
        )
    (output,) = models.roots("output")
    return Run(output.resolve() / "waveft" / "training" / name, name)


def bases() -> list[str]:
    """Returns the names of what can be trained: single files among the checkpoints, and folders in models/diffusers."""
    found = {
        index.parent.relative_to(root).as_posix()
        for root in models.roots("diffusers")
        for depth in ("*", "*/*")
        for index in root.glob(f"{depth}/model_index.json")
    }
    return [*models.safetensors("checkpoints"), *(DIFFUSERS + name for name in sorted(found))]


def base(name: str) -> Path:
    """Returns the path of a name that `bases` lists, and of no other: a linked input can name anything.

    Raises:
        WaveFTError: it is not there.
    """
    path = models.model_path("checkpoints", name)
    if path is not None:
        return path
    if name.startswith(DIFFUSERS) and name in bases():  # not `..`, nor a whole path, which would leave the folder
        for root in models.roots("diffusers"):
            folder = root / name.removeprefix(DIFFUSERS)
            if (folder / "model_index.json").is_file():
                return folder
    raise WaveFTError(
        f'checkpoint_name "{name}": expected a .safetensors file in models/checkpoints or a folder in '
        "models/diffusers, got nothing of that name. Put it there and press R in ComfyUI, or choose another."
    )


def vocabulary(base: Path) -> Path | None:
    """Returns the folder with CLIP's vocabulary, which a single file lacks and ComfyUI has; None where not needed."""
    root = models.comfyui()
    if base.is_dir() or (base.parent / "tokenizer").is_dir() or not (root / _VOCABULARY).is_dir():
        return None
    return root


def pictures(name: str) -> Path:
    """Returns the folder with the pictures: an absolute one, or one inside ComfyUI's input folder.

    Raises:
        WaveFTError: it is not there.
    """
    given = Path(name.strip()).expanduser()
    (root,) = models.roots("input")
    path = root / given  # an absolute one stays as it is
    if not name.strip() or not path.is_dir():
        got = f"nothing at {path}" if name.strip() else "no name"
        raise WaveFTError(
            f'image_folder "{name}": expected a folder of pictures, by its whole path or as a folder inside ComfyUI\'s '
            f"input folder, got {got}. Make it, or correct the name."
        )
    return path.resolve()


def stamp(checkpoint_name: str, image_folder: str) -> str:
    """Returns what changes when the base, a picture or a caption is written anew: of names, sizes and times.

    Raises:
        WaveFTError: one of them is not there.
    """
    model, root = base(checkpoint_name), pictures(image_folder)
    files = [model / "model_index.json" if model.is_dir() else model]
    for folder in (root, *(path for path in root.iterdir() if path.is_dir())):  # as deep as the trainer looks
        files += [path for path in folder.iterdir() if path.is_file()]
    lines = "\n".join(sorted(f"{path.as_posix()} {folders.stamp(path)}" for path in files))
    return hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest()[:16]


def _moment(path: Path) -> str:
    """Returns "after" of a sample "NAME-after-01-seed42.png"."""
    return path.name.rpartition("-seed")[0].rpartition("-")[0]
