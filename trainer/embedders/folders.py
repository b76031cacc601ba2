"""DINOv2, DINO, ViT and CLIP out of a folder as `transformers` writes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..system.errors import UserError, reason
from ..system.reading import read_json
from . import tensors
from .embedder import Embedder
from .preparing import Preparing, from_config

CLS = {"dinov2": "Dinov2Model", "dinov2_with_registers": "Dinov2WithRegistersModel", "vit": "ViTModel"}
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
CONTEXT = 77  # tokens that CLIP reads

ClipEmbedding = Literal["projected", "pooled"]


@dataclass(frozen=True)
class Folder:
    """A model's folder, looked at without loading it.

    Attributes:
        path: of the folder; a hub id where fetching is allowed.
        kind: `model_type` of its config.
        name: as columns call it.
    """

    path: str
    kind: str
    name: str

    @property
    def is_clip(self) -> bool:
        """Whether it reads texts too."""
        return self.kind == "clip"


@dataclass(frozen=True)
class Clip:
    """A CLIP: its pictures' side, and what reads texts for it."""

    pictures: Embedder
    texts: Callable[[Sequence[str]], Tensor]


def look(text: str, key: str, allow_download: bool = False) -> Folder:
    """Returns what is in a model's folder.

    Args:
        text: the folder, or a hub id where fetching is allowed.
        key: what named it, for messages.
        allow_download: whether a hub id may be fetched.

    Raises:
        UserError: no such folder, or none of these networks.
    """
    path = Path(text)
    if not path.is_dir() and allow_download:
        path = fetched(text, key)
    where = f'{key} "{text}"'
    if not path.is_dir():
        raise UserError(
            f"{where}: expected a folder with config.json and {WEIGHTS[0]}, got nothing there. Correct the path, or "
            "give a hub id such as facebook/dinov2-base together with --allow-download."
        )
    try:
        kind = read_json(path / "config.json")["model_type"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{where}: expected a config.json that names its model_type ({reason(error)}).") from None
    if kind != "clip" and kind not in CLS:
        raise UserError(f"{where}: expected {', '.join((*CLS, 'clip'))}, got {kind}. Name another model.")
    if not any((path / name).is_file() for name in WEIGHTS):
        raise UserError(f"{where}: expected {' or '.join(WEIGHTS)} in it, got neither. Fetch the whole folder.")
    return Folder(str(path), kind, Path(text).name)


def fetched(text: str, key: str) -> Path:
    """Returns the local folder of a hub id, fetched once; UserError where the hub does not give it."""
    import huggingface_hub

    wanted = ["*.json", "*.txt", *WEIGHTS[:1]]
    try:
        return Path(huggingface_hub.snapshot_download(text, allow_patterns=wanted))
    except (OSError, ValueError, RuntimeError) as error:  # the hub's errors are these
        raise UserError(f'{key} "{text}": cannot be fetched ({reason(error)}). Name a folder.') from error


def load_pictures(folder: Folder, device: torch.device, clip_embedding: ClipEmbedding = "projected") -> Embedder:
    """Returns the network as what sees pictures: the class token after the last norm; of CLIP its embedding."""
    if folder.is_clip:
        return load_clip(folder, device, clip_embedding).pictures
    model = _model(folder, CLS[folder.kind], device)
    return Embedder(
        folder.name, _identity(folder, "cls"), _preparing(folder), lambda x: model(x).last_hidden_state[:, 0], device
    )


def load_clip(folder: Folder, device: torch.device, embedding: ClipEmbedding = "projected") -> Clip:
    """Returns a CLIP.

    Args:
        folder: of the model and its tokenizer.
        device: that it works on.
        embedding: of pictures alone: "projected" = as they are compared with texts; "pooled" = before the projection,
            which says less of what people would call the same.

    Raises:
        UserError: it cannot be loaded.
    """
    from transformers import CLIPTokenizer

    model = _model(folder, "CLIPModel", device)
    tokenizer = CLIPTokenizer.from_pretrained(folder.path, local_files_only=True)

    def see(x: Tensor) -> Tensor:
        pooled = model.vision_model(pixel_values=x).pooler_output
        return pooled if embedding == "pooled" else model.visual_projection(pooled)

    @torch.no_grad()
    def read(texts: Sequence[str]) -> Tensor:
        ids = tokenizer(list(texts), padding="max_length", max_length=CONTEXT, truncation=True, return_tensors="pt")
        held = {name: value.to(device) for name, value in ids.items() if name in ("input_ids", "attention_mask")}
        return model.text_projection(model.text_model(**held).pooler_output).float().cpu()

    return Clip(Embedder(folder.name, _identity(folder, embedding), _preparing(folder), see, device), read)


def _model(folder: Folder, class_name: str, device: torch.device) -> Any:
    """Returns the model, fp32 and in evaluation mode, all of its weights from the folder."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    options: dict[str, Any] = {"add_pooling_layer": False} if class_name == "ViTModel" else {}
    try:
        model, told = getattr(transformers, class_name).from_pretrained(
            folder.path, local_files_only=True, dtype=torch.float32, output_loading_info=True, **options
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f'model "{folder.path}": cannot be loaded ({reason(error)}). Fetch the folder anew.') from None
    if told["missing_keys"]:
        raise UserError(
            f'model "{folder.path}": expected all weights of {class_name}, got none for '
            f"{', '.join(sorted(told['missing_keys'])[:3])}. Fetch the folder anew."
        )
    return model.requires_grad_(False).eval().to(device)


def _identity(folder: Folder, what: str) -> str:
    weights = next(path for name in WEIGHTS if (path := Path(folder.path) / name).is_file())
    return f"{folder.kind} {tensors.digest(weights)[:16]} {what}"


def _preparing(folder: Folder) -> Preparing:
    """Returns how the model wants its pictures; CLIP's way at its own size where the folder does not say."""
    path = Path(folder.path) / "preprocessor_config.json"
    try:
        if path.is_file():
            return from_config(read_json(path))
    except ValueError as error:
        raise UserError(f'file "{path}": {reason(error)} Fetch it anew.') from None
    config = read_json(Path(folder.path) / "config.json")
    side = config.get("vision_config", config).get("image_size", 224)
    return from_config({"size": {"shortest_edge": side}, "crop_size": side})
