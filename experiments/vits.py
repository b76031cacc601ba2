"""A vision transformer small enough to be pretrained here: on half of a set's classes, to be tuned on the others."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from trainer.system.files import write_atomically

from . import heads, pictures
from .heads import Recipe

SIZES = {"digits": (8, 2, 25), "fashion": (28, 4, 2)}  # pixels of a side and of a patch, epochs of pretraining
WIDTH, DEPTH = 64, 4


@lru_cache(maxsize=1)
def pretrained(data: str, folder: str | None, sizes: tuple[int, ...], kept: Path | None) -> tuple[Any, pictures.Task]:
    """Returns a ViT that was pretrained on the lower half of a set's classes, and the upper half as a task.

    Args:
        data, folder: as `pictures.plain` takes them.
        sizes: rows of training, validation and test.
        kept: folder where the ViT is looked for, and put.
    """
    pixels, labels = pictures.plain(data, Path(folder) if folder else None)
    lower, task = pictures.halves(pixels, labels, 0, sizes)
    model = fresh(data, int(labels.max() + 1) // 2)
    file = kept / "vit.safetensors" if kept else None
    if file is not None and file.is_file():
        model.load_state_dict(load_file(file))
    else:
        pretrain(model, lower, SIZES[data][2])
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, save(model.state_dict()))
    model.classifier = torch.nn.Linear(WIDTH, task.classes)
    return model, task


def pretrain(model: Any, rows: heads.Rows, epochs: int) -> None:
    """Trains all of a model, head and body."""
    heads.draw_head(model.classifier, 0)
    body = [one for name, one in model.named_parameters() if not name.startswith("classifier")]
    for _ in heads.fit(model, Recipe("full", epochs=epochs, batch=64, warm_up=0.1), rows, body, None):
        pass


def fresh(data: str, classes: int) -> Any:
    """Returns an untrained small ViT for a data set, always the same."""
    from transformers import ViTConfig, ViTForImageClassification

    side, patch, _ = SIZES[data]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = ViTConfig(
            hidden_size=WIDTH, num_hidden_layers=DEPTH, num_attention_heads=4, intermediate_size=2 * WIDTH,
            image_size=side, patch_size=patch, num_channels=1, num_labels=classes,
        )  # fmt: skip
        return ViTForImageClassification(config).eval()
