"""Which files of a diffusers folder hold each component's weights: single, sharded, or a variant such as fp16."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path

from ..errors import WaveFTError, listed
from .container import PICKLES
from .disk import is_file, is_folder, names_in, read_json, resolved

COMPONENTS = {"unet": "unet", "text_encoder": "te1", "text_encoder_2": "te2"}
WEIGHT_FILES = (*PICKLES, ".safetensors", ".msgpack", ".h5", ".onnx", ".onnx_data")
_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")  # diffusers' and transformers' file names
_SHARD = re.compile(r"-\d{5}-of-\d{5}")


def is_pipeline(folder: Path) -> bool:
    """Returns whether a folder holds components in folders of their own, as `save_pretrained` of a pipeline writes."""
    return is_file(folder / "model_index.json") or any(
        is_folder(folder / name) for name in (*COMPONENTS, "transformer")
    )


def component_files(folder: Path) -> tuple[list[tuple[str | None, list[Path]]], list[str]]:
    """Returns each component with the files of its weights, and the folders that hold pickles alone.

    A component is called as in adapter files ("unet", "te1", "te2"), else by its folder's name; a folder that is one
    component is called None unless its name says more.

    Raises:
        WaveFTError: no safetensors files, or several of which none is the component's by name.
    """
    if not is_pipeline(folder):
        files = weight_files(folder)
        if not files:
            raise _none(folder, [folder])
        return [(COMPONENTS.get(resolved(folder).name), files)], []
    folders = [held for held in names_in(folder) if is_folder(held) and not held.name.startswith(".")]
    found = [(COMPONENTS.get(held.name, held.name), weight_files(held)) for held in folders]
    components: list[tuple[str | None, list[Path]]] = [(name, files) for name, files in found if files]
    if not components:
        raise _none(folder, folders)
    bare = [held for held, (_, files) in zip(folders, found, strict=True) if not files and _pickles(held)]
    return components, [held.name for held in bare]


def weight_files(folder: Path) -> list[Path]:
    """Returns the files of one component's weights, empty where it has none in safetensors.

    Of several versions beside each other the plain one is taken, before a variant (`.fp16.`).

    Raises:
        WaveFTError: shards without their index or an index without its shards, or several files that could be meant.
    """
    held = [file for file in names_in(folder) if is_file(file)]
    indexes = [file for file in held if fnmatch(file.name, "*.safetensors.index*.json")]
    versions = {index.name.replace(".index", "").removesuffix(".json"): index for index in indexes}
    every = [file for file in held if file.suffix == ".safetensors"]
    versions |= {file.name: file for file in every if not _SHARD.search(file.name)}
    if not versions:
        if every:
            raise WaveFTError(
                f'folder "{folder}": expected an index (*.safetensors.index.json) beside the shards, got none. '
                "Download the folder whole."
            )
        return []
    known = [name for name in versions if name.partition(".")[0] in _STEMS]
    if not known and len(versions) > 1:
        raise WaveFTError(f'folder "{folder}": expected one model, got {listed(versions)}. Give one of these files.')
    chosen = versions[min(known or versions, key=lambda name: (name.count("."), name))]
    return _shards(chosen) if chosen.suffix == ".json" else [chosen]


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(read_json(index, "an index of shards")["weight_map"].values()))  # type: ignore[index]
        files = [index.parent / name for name in names]
        wrong = [name for name, file in zip(names, files, strict=True) if Path(name).name != name or not is_file(file)]
    except WaveFTError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError):
        raise WaveFTError(
            f'file "{index}": expected an index of shards, got something else. Download it again.'
        ) from None
    if wrong or not files:
        raise WaveFTError(
            f'file "{index}": expected the shards that it names beside it, got none at {listed(wrong) or "all"}. '
            "Download the folder whole."
        )
    return files


def _pickles(folder: Path) -> list[str]:
    return [held.name for held in names_in(folder) if held.suffix in PICKLES]


def _none(folder: Path, within: list[Path]) -> WaveFTError:
    pickles = [name for held in within for name in _pickles(held)]
    if pickles:
        return WaveFTError(
            f'folder "{folder}": expected .safetensors files, got pickles ({listed(pickles, 3)}), which can run code '
            "when they are read. Save the model again with safe_serialization=True."
        )
    return WaveFTError(
        f'folder "{folder}": expected a diffusers folder with .safetensors files, got none. Check the path.'
    )
