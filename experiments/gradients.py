"""Gradients of whole weights, of a base that nothing was trained in yet: what the paper's coverage is a claim about."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainer import setup
from trainer.job.schema import Job
from trainer.methods import targets
from trainer.preflight import preflight

Gradients = dict[str, torch.Tensor]


def of_pictures(job: Job, batches: int) -> Gradients:
    """Returns dL/dW [m, n] float32 of every attention layer of a job's base, summed over its first batches.

    Raises:
        UserError: what the trainer says of the job.
    """
    parts = setup.build(preflight.check(job))
    parts.tuning.detach()
    components = targets.components(parts.forward.base, job.network)
    chosen = targets.choose(components, job.network)
    weights: dict[str, Any] = {one.path: components[one.component].get_submodule(one.place).weight for one in chosen}
    with trained(weights):
        setup.Gradients(parts.forward, parts.world).backward(batches)
        return {path: held.grad.detach().flatten(1).float().cpu() for path, held in weights.items()}


def of_sentences(folder: Path, texts: list[str], ratings: list[float], pattern: str) -> Gradients:
    """Returns dL/dW [m, n] float32 of an encoder's layers whose paths `pattern` matches whole.

    The task is to tell a sentence's rating from the mean of its tokens, by a head that was fitted before: the gradient
    of a random head would say nothing of the task.

    Args:
        folder: of a transformers encoder with its tokenizer.
        texts, ratings: as many of each.
        pattern: a regular expression.
    """
    import re

    from transformers import AutoModel, AutoTokenizer

    encoder, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    encoder.requires_grad_(False)
    given = dict(tokenizer(texts, padding=True, truncation=True, max_length=64, return_tensors="pt"))
    wanted = torch.tensor(ratings)[:, None]
    with torch.no_grad():
        features = pooled(encoder, given)
    features = torch.cat([features, torch.ones(len(features), 1)], 1)
    ridge = features.T @ features + 0.1 * torch.eye(features.shape[1])
    head = torch.linalg.solve(ridge, features.T @ wanted)
    weights: dict[str, Any] = {
        path: module.weight
        for path, module in encoder.named_modules()
        if isinstance(module, nn.Linear) and re.fullmatch(pattern, path)
    }
    with trained(weights):
        guess = pooled(encoder, given) @ head[:-1] + head[-1]
        (guess - wanted).square().mean().backward()
        return {path: held.grad.detach().float() for path, held in weights.items()}


def pooled(encoder: Any, given: dict[str, torch.Tensor]) -> torch.Tensor:
    """Returns the mean of each sentence's tokens, [B, D]."""
    hidden = encoder(**given).last_hidden_state
    mask = given["attention_mask"][..., None].to(hidden.dtype)
    return (hidden * mask).sum(1) / mask.sum(1)


@contextmanager
def trained(weights: dict[str, Any]) -> Iterator[None]:
    """Inside, the weights take gradients; afterwards they are frozen again and hold none."""
    for held in weights.values():
        held.requires_grad_(True)
    try:
        yield
    finally:
        for held in weights.values():
            held.requires_grad_(False)
            held.grad = None
