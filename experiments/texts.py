"""Texts with classes or ratings: GLUE's own files, or the rated sentences of a package."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trainer.system import rng
from trainer.system.errors import UserError

from . import sentences
from .heads import Batch, Rows

LONGEST = 512  # tokens


@dataclass(frozen=True)
class Form:
    """How a task of GLUE lies in its files.

    Attributes:
        texts: columns of the text, one or two.
        label: column of the class or rating.
        names: of the classes, in the order of their numbers; none = the column holds numbers.
        header: whether the first line is one.
        score: of scores.SCORES.
        epochs: FourierFT's.
        head_rate: FourierFT's.
        fourier: FourierFT's rate and scaling.
    """

    texts: tuple[int, ...]
    label: int
    names: tuple[str, ...]
    header: bool
    score: str
    epochs: int
    head_rate: float
    fourier: tuple[float, float]


NLI = ("entailment", "not_entailment")
# Columns of the files that GLUE ships; epochs and rates of FourierFT's experiments (Chaos96/fourierft, Apache-2.0).
TASKS = {
    "sst2": Form((0,), 1, (), True, "accuracy", 40, 0.006, (0.05, 140.0)),
    "mrpc": Form((3, 4), 0, (), True, "accuracy", 30, 0.006, (0.05, 151.0)),
    "cola": Form((3,), 1, (), False, "matthews", 100, 0.008, (0.12, 49.0)),
    "qnli": Form((1, 2), 3, NLI, True, "accuracy", 40, 0.001, (0.1, 29.0)),
    "rte": Form((1, 2), 3, NLI, True, "accuracy", 90, 0.011, (0.09, 110.0)),
    "stsb": Form((7, 8), 9, ("",), True, "pearson", 60, 0.009, (0.09, 84.0)),
}
FOLDERS = {"sst2": "SST-2", "mrpc": "MRPC", "cola": "CoLA", "qnli": "QNLI", "rte": "RTE", "stsb": "STS-B"}


@dataclass(frozen=True)
class Text:
    """A part of a data set.

    Attributes:
        texts: one or two of each row.
        labels: a class or a rating of each.
    """

    texts: Sequence[tuple[str, ...]]
    labels: torch.Tensor


def of_file(path: Path, form: Form) -> Text:
    """Returns what one of GLUE's files holds.

    Raises:
        UserError: it is not there, or a line is not as GLUE has it.
    """
    if not path.is_file():
        raise UserError(f'--glue: expected "{path}", got no file. It takes the folders that GLUE ships.')
    texts, labels = [], []
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    for number, line in enumerate(lines[form.header :], 1 + form.header):
        try:
            texts.append(tuple(line[column] for column in form.texts))
            labels.append(label_of(line[form.label], form))
        except (IndexError, ValueError):
            raise UserError(f'"{path}", line {number}: expected the columns of GLUE, got {len(line)}.') from None
    if not texts:
        raise UserError(f'"{path}": expected rows, got none.')
    kind = torch.float32 if form.score == "pearson" else torch.int64
    return Text(texts, torch.tensor(labels, dtype=kind))


def label_of(text: str, form: Form) -> float | int:
    """Returns a row's class or rating."""
    if form.score == "pearson":
        return float(text)
    return form.names.index(text) if form.names else int(text)


def of_ratings(path: Path, task: str, sizes: Sequence[int]) -> list[Text]:
    """Returns parts of the rated sentences: "sign" = is it praise, "rating" = how much, of short ones.

    Sentences whose raters saw hardly any feeling (less than 1 of 4) have no sign.

    Raises:
        UserError: too few of them.
    """
    texts, ratings = sentences.rated(path, None, longest=14)
    kept = [(text, rating) for text, rating in zip(texts, ratings, strict=True) if task == "rating" or abs(rating) >= 1]
    if len(kept) < sum(sizes):
        raise UserError(f'"{path}": expected {sum(sizes)} short sentences, got {len(kept)}.')
    order = torch.randperm(len(kept), generator=rng.generator(0, "sentences"))[: sum(sizes)]
    found = []
    for numbers in order.split(list(sizes)):
        rows = [kept[number] for number in numbers.tolist()]
        values = [rating for _, rating in rows]
        labels = torch.tensor(values) if task == "rating" else torch.tensor([int(value > 0) for value in values])
        found.append(Text([(text,) for text, _ in rows], labels))
    return found


def rows(part: Text, tokenizer: Any) -> Rows:
    """Returns the part as a model takes it, each batch padded to its longest row."""
    first, *second = ([row[at] for row in part.texts] for at in range(len(part.texts[0])))
    coded: Mapping[str, Any] = tokenizer(first, *second, truncation=True, max_length=LONGEST)
    names = [name for name in ("input_ids", "attention_mask", "token_type_ids") if name in coded]
    fill = {"input_ids": tokenizer.pad_token_id or 0}

    def take(numbers: torch.Tensor, view: tuple[int, int] | None) -> Batch:
        chosen = numbers.tolist()
        longest = max(len(coded["input_ids"][number]) for number in chosen)
        return {
            name: torch.tensor(
                [[*coded[name][at], *[fill.get(name, 0)] * (longest - len(coded[name][at]))] for at in chosen]
            )
            for name in names
        }

    return Rows(part.labels, take)
