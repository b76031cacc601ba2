"""Pictures with classes: the reader's folders, Debian's Fashion-MNIST, or the digits that scikit-learn carries."""

from __future__ import annotations

import gzip
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from trainer.pictures import folders, images
from trainer.system import rng
from trainer.system.errors import UserError

from .heads import Batch, Rows, in_memory

FASHION = Path("/usr/share/datasets/fashion-mnist")  # where Debian's package dataset-fashion-mnist puts it
PARTS = ("train", "valid", "test")
VALID = 0.1  # of the training rows, where a folder has no validation part, as FourierFT's experiments have it
SCALE = (0.08, 1.0)  # of a random crop's area, and its aspect: torchvision's RandomResizedCrop
ASPECT = (3 / 4, 4 / 3)


@dataclass(frozen=True)
class Task:
    """A data set to be learned.

    Attributes:
        train, valid, test: its parts.
        classes: how many.
    """

    train: Rows
    valid: Rows
    test: Rows
    classes: int


def plain(name: str, fashion: Path | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns small grey pictures [N, 1, H, W] float32 in [-1, 1] and their classes [N]: "digits" or "fashion".

    Raises:
        UserError: the package, or the folder, is not there.
    """
    if name == "fashion":
        return fashion_mnist(fashion or FASHION)
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UserError(
            "classification: expected scikit-learn for its digits (pip install '.[paper]'), or --data fashion, "
            "or --model and --images with your own."
        ) from None
    held = load_digits()
    return torch.tensor(held.images, dtype=torch.float32)[:, None] / 8 - 1, torch.tensor(held.target)


def fashion_mnist(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns Fashion-MNIST's training pictures, of its files in the IDX format."""
    parts = []
    for part, start in (("images-idx3", 16), ("labels-idx1", 8)):
        path = folder / f"train-{part}-ubyte.gz"
        if not path.is_file():
            raise UserError(f'--fashion "{folder}": expected {path.name} of Debian\'s package dataset-fashion-mnist.')
        parts.append(np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=start))
    pixels, labels = parts
    shaped = torch.from_numpy(pixels.reshape(len(labels), 1, 28, 28).copy()).float()
    return shaped / 127.5 - 1, torch.from_numpy(labels.copy()).long()


def halves(pixels: torch.Tensor, labels: torch.Tensor, seed: int, sizes: Sequence[int]) -> tuple[Rows, Task]:
    """Returns the lower half of the classes to pretrain on, and the upper half as a task of those sizes.

    Args:
        pixels, labels: of the whole set.
        seed: of the draw.
        sizes: rows of training, validation and test.

    Raises:
        UserError: fewer rows than that.
    """
    classes = int(labels.max()) + 1
    lower, upper = ((labels < classes // 2).nonzero().flatten(), (labels >= classes // 2).nonzero().flatten())
    if len(upper) < sum(sizes):
        raise UserError(f"classification: expected {sum(sizes)} pictures of the upper classes, got {len(upper)}.")
    order = upper[torch.randperm(len(upper), generator=rng.generator(seed, "halves"))]
    parts = order[: sum(sizes)].split(list(sizes))
    first, second, third = (in_memory({"pixel_values": pixels[held]}, labels[held] - classes // 2) for held in parts)
    return in_memory({"pixel_values": pixels[lower]}, labels[lower]), Task(first, second, third, classes - classes // 2)


def in_folders(folder: Path, size: int, mean: Sequence[float], deviation: Sequence[float], seed: int) -> Task:
    """Returns a folder's task: train/CLASS/, test/CLASS/ and, where there is one, valid/CLASS/, files of pictures.

    Args:
        folder: of the data set.
        size: pixels of a side, as the model takes them.
        mean, deviation: of each channel, in [0, 1], as the model's processor has them.
        seed: of the validation part, where it is drawn from the training part.

    Raises:
        UserError: a part or a class is missing.
    """
    found = {part: listed(folder / part) for part in PARTS if (folder / part).is_dir()}
    if missing := [part for part in ("train", "test") if not found.get(part)]:
        raise UserError(f'--images "{folder}": expected {missing[0]}/CLASS/ with pictures in it, got none.')
    names = sorted({name for name, _ in found["train"]})
    if strange := sorted({name for part in found.values() for name, _ in part} - set(names)):
        raise UserError(f'--images "{folder}": expected the classes of train/, got {strange[0]} beside them.')
    if "valid" not in found:
        order = torch.randperm(len(found["train"]), generator=rng.generator(seed, "valid")).tolist()
        cut = max(1, round(VALID * len(order)))
        found["valid"] = [found["train"][number] for number in order[:cut]]
        found["train"] = [found["train"][number] for number in order[cut:]]
    normal = Normal(size, tuple(mean), tuple(deviation))
    rows = {
        part: Rows(
            torch.tensor([names.index(name) for name, _ in held]), Files([path for _, path in held], normal, part)
        )
        for part, held in found.items()
    }
    return Task(rows["train"], rows["valid"], rows["test"], len(names))


def listed(folder: Path) -> list[tuple[str, Path]]:
    """Returns (class, file) of every picture."""
    return [(inside.name, path) for inside in folders.folders_in(folder) for path in folders.image_files(inside)]


@dataclass(frozen=True)
class Normal:
    """How a model takes pictures.

    Attributes:
        size: pixels of a side.
        mean, deviation: of each channel.
    """

    size: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    def tensor(self, image: Image.Image) -> torch.Tensor:
        """Returns a picture [3, size, size], of whatever size, cut to its middle square."""
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        return self.of(image, (left, top, left + side, top + side))

    def of(self, image: Image.Image, box: tuple[float, float, float, float]) -> torch.Tensor:
        """Returns a part of a picture."""
        part = image.resize((self.size, self.size), Image.Resampling.BILINEAR, box=box)
        pixels = images.to_tensor(part) / 2 + 0.5
        return (pixels - torch.tensor(self.mean)[:, None, None]) / torch.tensor(self.deviation)[:, None, None]


def crop(size: tuple[int, int], seed: int, number: int) -> tuple[float, float, float, float]:
    """Returns the box of a random crop: its area and aspect drawn evenly, the aspect on a log scale."""
    area, shape, left, top = (rng.uniform(seed, "crop", number, part) for part in range(4))
    target = (SCALE[0] + area * (SCALE[1] - SCALE[0])) * size[0] * size[1]
    aspect = math.exp(math.log(ASPECT[0]) + shape * (math.log(ASPECT[1]) - math.log(ASPECT[0])))
    width, height = min(size[0], math.sqrt(target * aspect)), min(size[1], math.sqrt(target / aspect))
    x, y = left * (size[0] - width), top * (size[1] - height)
    return x, y, x + width, y + height


@dataclass(frozen=True)
class Files:
    """Takes rows of a part out of its files."""

    paths: Sequence[Path]
    normal: Normal
    part: str

    def __call__(self, numbers: torch.Tensor, view: tuple[int, int] | None) -> Batch:
        """Returns pictures [B, 3, size, size]: in training random crops, half of them mirrored."""
        made = []
        for at, number in enumerate(numbers.tolist()):
            image = images.open_rgb(self.paths[number])
            if view is None or self.part != "train":
                made.append(self.normal.tensor(image))
                continue
            seed, place = view
            seen = self.normal.of(image, crop(image.size, seed, place + at))
            made.append(seen.flip(-1) if rng.uniform(seed, "flip", place + at) < 0.5 else seen)
        return {"pixel_values": torch.stack(made)}


def digest(pixels: torch.Tensor) -> str:
    """Returns what tells one data set from another."""
    return hashlib.sha256(pixels.numpy().tobytes()).hexdigest()[:16]
