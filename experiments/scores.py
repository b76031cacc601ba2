"""What tables score a model by: of its logits [N, ...] and the labels [N], higher is better."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

Score = Callable[[torch.Tensor, torch.Tensor], float]


def accuracy(guessed: torch.Tensor, labels: torch.Tensor) -> float:
    """Returns the share of rows whose largest logit is that of their class."""
    return float((guessed.argmax(1) == labels).double().mean())


def pearson(guessed: torch.Tensor, labels: torch.Tensor) -> float:
    """Returns the correlation of guesses and ratings; 0 where either does not vary."""
    both = torch.stack([guessed.flatten().double(), labels.double()])
    found = torch.corrcoef(both)[0, 1]
    return float(found) if torch.isfinite(found) else 0.0


def matthews(guessed: torch.Tensor, labels: torch.Tensor) -> float:
    """Returns the Matthews correlation of two classes: Pearson's of what is guessed and what is."""
    return pearson(guessed.argmax(1), labels)


SCORES: dict[str, Score] = {"accuracy": accuracy, "pearson": pearson, "matthews": matthews}


def best_epoch(scores: Sequence[float]) -> int:
    """Returns the first epoch with the highest score."""
    return max(range(len(scores)), key=lambda epoch: (scores[epoch], -epoch))
