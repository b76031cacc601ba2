"""ComfyUI's files and folders that are no adapters': checkpoints, LoRAs, input, output."""

from __future__ import annotations

from pathlib import Path

import folder_paths

from .core import WaveFTError
from .folders import EXTENSION, is_waveft


def lora_choices() -> list[str]:
    """Returns the names of the LoRA files in `models/loras`: what is safetensors there and no WaveFT adapter."""
    names = [name for name in folder_paths.get_filename_list("loras") if name.endswith(EXTENSION)]
    return [name for name in names if not is_waveft(folder_paths.get_full_path("loras", name))]


def lora_path(name: str) -> Path:
    """Returns the path of a file in `models/loras`.

    Raises:
        WaveFTError: there is none of that name.
    """
    path = folder_paths.get_full_path("loras", name)
    if path is None:
        raise WaveFTError(
            f'LoRA "{name}": expected a file in models/loras, got none of that name. '
            "Put it there and press R in ComfyUI to read the folders again, or choose another."
        )
    return Path(path)


def in_output(path: Path) -> str:
    """Returns a file's path as seen from ComfyUI's output folder, with forward slashes."""
    return path.resolve().relative_to(Path(folder_paths.get_output_directory()).resolve()).as_posix()


def safetensors(kind: str) -> list[str]:
    """Returns the names of the safetensors files among ComfyUI's models of a kind, such as "checkpoints"."""
    return [name for name in folder_paths.get_filename_list(kind) if name.endswith(EXTENSION)]


def model_path(kind: str, name: str) -> Path | None:
    """Returns the path of a model's file, None where there is none."""
    path = folder_paths.get_full_path(kind, name)
    return None if path is None else Path(path)


def roots(kind: str) -> list[Path]:
    """Returns the folders in which ComfyUI looks for models of a kind; of "input" and "output", that folder itself."""
    own = {"input": folder_paths.get_input_directory, "output": folder_paths.get_output_directory}
    return [Path(own[kind]())] if kind in own else [Path(path) for path in folder_paths.get_folder_paths(kind)]


def comfyui() -> Path:
    """Returns the folder of ComfyUI's code; --base-directory moves models, input and output, and not that."""
    return Path(folder_paths.__file__).resolve().parent
