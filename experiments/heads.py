"""A pretrained model with a head of its own for a task: the method trains at one rate, the head beside it at another.

One loop serves every method: what trains is put in by the trainer's method interface, or is the model itself ("full"),
or nothing but the head ("LP").
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from trainer.job.networks import METHODS
from trainer.methods import registry
from trainer.methods.tuning import Host, Tuning
from trainer.system import rng
from trainer.system.errors import UserError

from . import bottlenecks
from .scores import Score

COMPONENT = "model"
HEADS = ("classifier", "score")  # what transformers calls a model's head
OF_MODEL = ("LP", "full", "Adapter")  # what needs no method of the trainer's
# What the tables call the trainer's methods.
OF_TRAINER = {
    "BitFit": "bitfit", "LoRA": "lora", "AdaLoRA": "adalora", "VeRA": "vera", "FourierFT": "fourierft",
    "SHiRA": "shira", "WaveFT": "waveft",
}  # fmt: skip
Batch = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Recipe:
    """How one model is tuned.

    Attributes:
        method: of OF_MODEL or OF_TRAINER.
        network: the method's keys of [network], targets among them; of "Adapter" `targets` and `width`.
        rate, head_rate: learning rates of the method and of the head.
        decay: AdamW's weight decay, of both.
        epochs: over the training rows.
        batch: rows of a step.
        warm_up: part of the steps over which the rates rise; then they fall to 0 in a straight line.
        seed: of the head's first values, of the order, of positions and of the method's first values.
    """

    method: str
    network: Mapping[str, Any] = field(default_factory=dict)
    rate: float = 1e-3
    head_rate: float = 1e-3
    decay: float = 0.0
    epochs: int = 10
    batch: int = 32
    warm_up: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Rows:
    """A part of a data set.

    Attributes:
        labels: [N], int64 classes or float32 ratings.
        take: gives the model's arguments of the rows of those numbers; the second is (seed, place) where an epoch's own
            random view of them is wanted, None where they are scored.
    """

    labels: torch.Tensor
    take: Callable[[torch.Tensor, tuple[int, int] | None], Batch]

    def __len__(self) -> int:
        return len(self.labels)


def in_memory(inputs: Batch, labels: torch.Tensor) -> Rows:
    """Returns rows of tensors [N, ...], always seen as they are."""
    return Rows(labels, lambda numbers, _: {name: held[numbers] for name, held in inputs.items()})


def run(model: Any, recipe: Recipe, train: Rows, valid: Rows, test: Rows, score: Score) -> dict[str, Any]:
    """Tunes a model and returns its scores after every epoch; the model is as it was, but for its head.

    Args:
        model: of transformers, with a head that `head_of` finds; its output has `.logits` [B, classes], or [B, 1].
        recipe: how.
        train, valid, test: rows.
        score: of logits [N, ...] and labels [N]; higher is better.

    Returns:
        `valid`, `test`: scores after each epoch; `loss`: its mean in each; `parameters`: that train beside the head.

    Raises:
        UserError: no such method, or none that goes with the model.
        WaveFTError: the same, from the core.
    """
    with placed(model, recipe, steps_of(recipe, train)) as (parameters, tuning):
        found: dict[str, Any] = {
            "parameters": sum(one.numel() for one in parameters),
            "loss": [],
            "valid": [],
            "test": [],
        }
        for loss in fit(model, recipe, train, parameters, tuning):
            found["loss"].append(round(loss, 5))
            for name, rows in (("valid", valid), ("test", test)):
                found[name].append(round(score(logits(model, rows, recipe.batch), rows.labels), 5))
    return found


def fit(
    model: Any, recipe: Recipe, train: Rows, parameters: Sequence[nn.Parameter], tuning: Tuning | None
) -> Iterator[float]:
    """Trains the head and `parameters`; yields the mean loss of each epoch when it is over."""
    steps, head = steps_of(recipe, train), list(head_of(model)[1].parameters())
    groups = [{"params": held, "lr": lr} for held, lr in ((parameters, recipe.rate), (head, recipe.head_rate)) if held]
    optimizer = torch.optim.AdamW(groups, weight_decay=recipe.decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor(step, steps, recipe.warm_up))
    step = 0
    for epoch in range(recipe.epochs):
        losses = []
        for inputs, labels in batches(train, recipe, epoch):
            optimizer.zero_grad()
            loss = loss_of(model(**inputs).logits, labels)
            penalty = tuning.penalty() if tuning else None
            (loss if penalty is None else loss + penalty).backward()
            optimizer.step()
            step += 1
            if tuning:
                tuning.stepped(step)
            schedule.step()
            losses.append(float(loss.detach()))
        yield sum(losses) / len(losses)


def steps_of(recipe: Recipe, train: Rows) -> int:
    """Returns how many optimizer steps a recipe takes."""
    return recipe.epochs * -(-len(train) // recipe.batch)


@contextlib.contextmanager
def placed(model: Any, recipe: Recipe, steps: int) -> Iterator[tuple[list[nn.Parameter], Tuning | None]]:
    """Inside, a recipe's method is in the model, and the head is drawn anew and trains; yields what else trains."""
    if recipe.method not in OF_MODEL and recipe.method not in OF_TRAINER:
        raise UserError(f"method: expected one of {', '.join((*OF_MODEL, *OF_TRAINER))}, got {recipe.method}.")
    name, head = head_of(model)
    model.requires_grad_(False).eval()  # without dropout: the methods differ in nothing else
    draw_head(head, recipe.seed)
    with contextlib.ExitStack() as stack:
        stack.callback(model.requires_grad_, False)
        tuning, parameters = None, []
        if recipe.method in OF_TRAINER:
            tuning = attach(model, recipe, name, steps)
            stack.callback(tuning.detach)
            parameters = tuning.parameters()
        elif recipe.method == "Adapter":
            keys = recipe.network
            parameters = stack.enter_context(bottlenecks.placed(model, keys["targets"], keys["width"], recipe.seed))
        elif recipe.method == "full":
            stack.callback(model.load_state_dict, {key: held.clone() for key, held in model.state_dict().items()})
            within = {id(one) for one in head.parameters()}
            parameters = [one for one in model.parameters() if id(one) not in within]
        for one in (*head.parameters(), *parameters):
            one.requires_grad_(True)
        yield parameters, tuning


def attach(model: Any, recipe: Recipe, head: str, steps: int) -> Tuning:
    """Puts a method of the trainer's into the model, its head left out."""
    method = OF_TRAINER[recipe.method]
    table: dict[str, Any] = {"exclude": [rf"\b{head}\b"], **recipe.network, "method": method}
    if "locations" in METHODS[method].model_fields:
        table.setdefault("locations", f"uniform:{recipe.seed}")
    if method == "fourierft":
        table.setdefault("random_loc_seed", recipe.seed)
    network = METHODS[method].model_validate(table)
    return registry.of(network).attach(Host({COMPONENT: model}, False, recipe.seed, steps))


def head_of(model: Any) -> tuple[str, nn.Module]:
    """Returns the name and the module of a model's head; UserError where it has none that we know."""
    for name in HEADS:
        if isinstance(held := getattr(model, name, None), nn.Module):
            return name, held
    raise UserError(f"model: expected a head called {' or '.join(HEADS)}, {type(model).__name__} has none.")


@torch.no_grad()
def draw_head(head: nn.Module, seed: int) -> None:
    """Gives a head its first values, which depend on the seed alone: 0.02 times normal, biases 0."""
    for number, one in enumerate(head.parameters()):
        if one.dim() > 1:
            one.copy_(torch.randn(one.shape, generator=rng.generator(seed, "head", number)) * 0.02)
        else:
            one.zero_()


def batches(rows: Rows, recipe: Recipe, epoch: int) -> Iterator[tuple[Batch, torch.Tensor]]:
    """Yields an epoch's batches, in an order that depends on seed and epoch alone."""
    order = torch.randperm(len(rows), generator=rng.generator(recipe.seed, "order", epoch))
    for at, numbers in enumerate(order.split(recipe.batch)):
        yield rows.take(numbers, (recipe.seed, epoch * len(rows) + at * recipe.batch)), rows.labels[numbers]


@torch.no_grad()
def logits(model: Any, rows: Rows, batch: int) -> torch.Tensor:
    """Returns the model's logits of all rows, in their order."""
    parts = torch.arange(len(rows)).split(4 * batch)
    return torch.cat([model(**rows.take(numbers, None)).logits for numbers in parts])


def loss_of(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Returns cross entropy of classes, squared error of ratings."""
    if labels.is_floating_point():
        return nn.functional.mse_loss(logits.squeeze(-1), labels)
    return nn.functional.cross_entropy(logits, labels)


def factor(step: int, steps: int, warm_up: float) -> float:
    """Returns what the rates are multiplied by: up in a straight line, then down to 0."""
    first = round(warm_up * steps)
    return (step + 1) / first if step < first else (steps - step) / max(1, steps - first)
