"""Table 5: language understanding with an encoder, and the numbers that it takes.

Full: any encoder folder that `AutoModelForSequenceClassification` reads, and GLUE's own files. Small: MiniLM-L6 and
rated sentences of film reviews: their sign as SST-2 asks it, and the rating itself as STS-B does.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.system.errors import UserError

from . import heads, scores, sentences, table, texts
from .experiment import Cell, Result
from .heads import Recipe, Rows
from .running import Measured

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SEEDS = (0, 11111, 22222, 33333, 44444)  # FourierFT's
TARGETS = r".*attention\.self\.(query|value)"
FEED_FORWARD = r".*layer\.\d+\.output\.dense"
# The paper's 0.024M = 1000 a layer of query and value; LoRA's 0.3M is rank 8, the adapters' 16 wide. DyLoRA is a method
# that neither the trainer nor HF PEFT has.
FULL: dict[str, dict[str, Any]] = {
    "LP": {"method": "LP", "rates": [1e-3]},
    "full": {"method": "full", "rates": [1e-5, 2e-5, 5e-5]},
    "BitFit": {"method": "BitFit", "network": {"targets": ".*"}, "rates": [4e-4, 1e-3]},
    "Adapter 16": {"method": "Adapter", "network": {"targets": FEED_FORWARD, "width": 16}, "rates": [3e-4, 1e-3]},
    "LoRA 8": {"method": "LoRA", "network": {"network_dim": 8}, "rates": [2e-4, 5e-4, 1e-3]},
    "AdaLoRA 8": {"method": "AdaLoRA", "network": {"target_r": 8, "init_r": 12}, "rates": [5e-4, 1e-3, 3e-3]},
    "FourierFT": {"method": "FourierFT", "network": {"n_frequency": 1000}, "rates": [0.05, 0.1]},
    "SHiRA": {"method": "SHiRA", "network": {"coefficients": 1000}, "rates": [1e-4, 3e-4, 1e-3]},
    "WaveFT": {"method": "WaveFT", "network": {"coefficients": 1000}, "rates": [1e-4, 3e-4, 1e-3]},
}
SMALL_P = 768  # of a layer of 384 x 384: LoRA rank 1's budget
SMALL: dict[str, dict[str, Any]] = {
    "LP": {"method": "LP", "rates": [1e-2]},
    "full": {"method": "full", "rates": [1e-4, 3e-4, 1e-3]},
    "BitFit": {"method": "BitFit", "network": {"targets": ".*"}, "rates": [3e-3, 1e-2, 3e-2, 1e-1]},
    "Adapter 1": {"method": "Adapter", "network": {"targets": FEED_FORWARD, "width": 1}, "rates": [1e-2, 3e-2, 1e-1]},
    "LoRA 1": {"method": "LoRA", "network": {"network_dim": 1}, "rates": [3e-3, 1e-2, 3e-2, 1e-1]},
    "AdaLoRA 1": {
        "method": "AdaLoRA", "network": {"target_r": 1, "init_r": 2, "tinit": 0.1, "tfinal": 0.5},
        "rates": [3e-3, 1e-2, 3e-2, 1e-1],
    },
    "FourierFT": {
        "method": "FourierFT", "network": {"n_frequency": SMALL_P, "scaling": 100.0}, "rates": [0.1, 0.3, 1.0],
    },
    "SHiRA": {"method": "SHiRA", "network": {"coefficients": SMALL_P}, "rates": [1e-3, 3e-3, 1e-2, 3e-2]},
    "WaveFT": {"method": "WaveFT", "network": {"coefficients": SMALL_P}, "rates": [1e-3, 3e-3, 1e-2, 3e-2]},
}  # fmt: skip
TITLES = {
    "sign": "is a film review friendly? (accuracy)",
    "rating": "how friendly is it? (Pearson correlation)",
    **{name: f"{name} ({form.score})" for name, form in texts.TASKS.items()},
}
SMALL_TASKS = {"sign": "accuracy", "rating": "pearson"}
SIZES = (256, 128, 256)  # sentences to train on, to choose by, to score


class Glue(Measured):
    """Methods on language tasks, medians of five seeds."""

    NAME = "glue"
    PAPER = "Table 5"
    ABOUT = "Scores of an encoder tuned by nine methods on GLUE's tasks; best and last epoch."
    SMALL = (
        "MiniLM-L6 (extra `paper`) and --sentences: film reviews' sign and rating, hours; --seeds 1 --epochs 2 is less"
    )
    SEE = "Sentences: score by what trains beside the head"

    def options(self, parser: argparse.ArgumentParser) -> None:
        """Adds the reader's encoder and files."""
        sentences.options(parser)
        parser.add_argument("--glue", type=Path, metavar="DIR", help=f"with {', '.join(FOLDERS)} in it")
        parser.add_argument("--tasks", default="", metavar="NAMES", help=f"some of {', '.join(texts.TASKS)}")
        parser.add_argument("--epochs", type=int, metavar="N", help="each task's own unless given, 3 small")
        parser.add_argument("--batch", type=int, metavar="N", help="rows of a step; 32 unless given, 16 small")
        parser.add_argument("--seeds", type=int, default=len(SEEDS), metavar="N", help="5 unless given")
        table.options(parser, FULL, SMALL)

    def cells(self, options: argparse.Namespace) -> list[Cell]:
        """Returns a cell a task, method, rate and seed."""
        seeds = SEEDS[: options.seeds]
        if options.glue and not options.small:
            return self.full(options, seeds)
        found = sentences.found(options)
        if found is None:
            raise UserError(
                f"glue: expected --sentences FILE, {sentences.SOURCE}, or --encoder and --glue with your own."
            )
        held = {**found, "sizes": list(SIZES), "head_rate": 3e-3, "epochs": options.epochs or 3}
        held |= {"batch": options.batch or 16, "warm_up": 0.1}
        tasks = chosen(options.tasks, list(SMALL_TASKS))
        methods = table.picked(SMALL, options.methods, options.rates)
        return [cell for task in tasks for cell in table.cells(task, held, methods, seeds)]

    def full(self, options: argparse.Namespace, seeds: tuple[int, ...]) -> list[Cell]:
        """Returns the cells of GLUE's own tasks."""
        if options.encoder is None:
            raise UserError("--glue: expected --encoder DIR beside it, the encoder that is tuned.")
        folder, place = sentences.encoder(options.encoder), options.glue.expanduser().resolve()
        made = []
        for task in chosen(options.tasks, list(texts.TASKS)):
            form = texts.TASKS[task]
            held = {
                "encoder": str(folder), "glue": str(place), "head_rate": form.head_rate, "warm_up": 0.06,
                "epochs": options.epochs or form.epochs, "batch": options.batch or 32,
            }  # fmt: skip
            rate, scaling = form.fourier
            fourier = {**FULL["FourierFT"], "network": {"n_frequency": 1000, "scaling": scaling}, "rates": [rate]}
            methods = table.picked({**FULL, "FourierFT": fourier}, options.methods, options.rates)
            made += table.cells(task, held, methods, seeds)
        return made

    def measure(self, cell: Cell) -> dict[str, Any]:
        """Returns the scores after each epoch."""
        held = cell.settings
        train, valid, test = parts(cell)
        score = texts.TASKS[held["task"]].score if "glue" in held else SMALL_TASKS[held["task"]]
        model = encoder(held["encoder"], 1 if score == "pearson" else int(train.labels.max()) + 1)
        network = {"targets": TARGETS, **held.get("network", {})}
        recipe = Recipe(
            held["method"], network, held["rate"], held["head_rate"], 0.0, held["epochs"], held["batch"],
            held["warm_up"], held["seed"],
        )  # fmt: skip
        return heads.run(model, recipe, train, valid, test, scores.SCORES[score])

    def summary(self, results: Mapping[str, tuple[Cell, Result]]) -> dict[str, Any]:
        """Returns medians at the last epoch, and what a choice of the epoch on the scored rows would give."""
        return table.summary(results, "last")

    def lines(self, summary: Mapping[str, Any]) -> list[str]:
        """Returns a line a method."""
        return table.lines(summary)

    def draw(self, summary: Mapping[str, Any], figure: Figure) -> None:
        """Draws the medians."""
        table.draw(summary, figure, TITLES, "score on the test part, x 100")


FOLDERS = tuple(texts.FOLDERS.values())


def chosen(names: str, known: list[str]) -> list[str]:
    """Returns the tasks of a command line, all of them where none is named."""
    wanted = [name.strip() for name in names.split(",") if name.strip()] or known
    if unknown := [name for name in wanted if name not in known]:
        raise UserError(f"--tasks: expected some of {', '.join(known)}, got {unknown[0]}.")
    return wanted


def parts(cell: Cell) -> tuple[Rows, Rows, Rows]:
    """Returns a cell's rows: to train on, to choose by, to score; both GLUE's dev part, since its test is secret."""
    held = cell.settings
    tokenizer = read_tokenizer(held["encoder"])
    if "glue" in held:
        form, folder = texts.TASKS[held["task"]], Path(held["glue"]) / texts.FOLDERS[held["task"]]
        train, dev = (texts.rows(texts.of_file(folder / f"{part}.tsv", form), tokenizer) for part in ("train", "dev"))
        return train, dev, dev
    first, second, third = texts.of_ratings(Path(held["data"]), held["task"], held["sizes"])
    return texts.rows(first, tokenizer), texts.rows(second, tokenizer), texts.rows(third, tokenizer)


def encoder(folder: str, classes: int) -> Any:
    """Returns the encoder with a head of so many outputs."""
    from transformers import AutoModelForSequenceClassification
    from transformers.utils import logging

    logging.disable_progress_bar()
    return AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=classes, ignore_mismatched_sizes=True, local_files_only=True
    )


@lru_cache(maxsize=1)
def read_tokenizer(folder: str) -> Any:
    """Returns the encoder's tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True)
