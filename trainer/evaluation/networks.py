"""The networks that an evaluation sees with, as the job names them: looked for first, loaded when they are needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..embedders import folders, lite0, lpips
from ..embedders.embedder import Embedder
from ..embedders.folders import Clip, Folder
from ..embedders.lpips import Lpips
from ..job.evalschema import Evaluation
from ..pictures import folders as picture_folders
from ..system.errors import UserError


@dataclass(frozen=True)
class Networks:
    """What an evaluation sees with.

    Attributes:
        images: sees the subject.
        clip: sees, and reads prompts; None where the job names none.
        lpips: LPIPS; None where the job names none.
        reference: CLIP's embeddings [n, d] of the pictures that CMMD holds the drawn ones against, or None.
    """

    images: Embedder
    clip: Clip | None = None
    lpips: Lpips | None = None
    reference: Tensor | None = None


@dataclass(frozen=True)
class Found:
    """The same before anything is loaded: what is missing is said at once, not after an hour of drawing."""

    settings: Evaluation
    image_folder: Folder | None
    clip_folder: Folder | None

    def load(self, device: torch.device) -> Networks:
        """Returns the networks on a device.

        Raises:
            UserError: one cannot be loaded.
        """
        from ..pictures.decode import open_rgb

        settings, clip, distance, reference = self.settings, None, None, None
        if self.image_folder is None:
            images = lite0.load(device)
        else:
            images = folders.load_pictures(self.image_folder, device, settings.clip_embedding)
        if self.clip_folder is not None:
            clip = folders.load_clip(self.clip_folder, device)
        if settings.lpips_backbone:
            distance = lpips.load(Path(settings.lpips_backbone), Path(settings.lpips_heads), device)
        if settings.cmmd_reference and clip:
            held = picture_folders.image_files(Path(settings.cmmd_reference), recursive=True)
            reference = clip.pictures([open_rgb(path) for path in held])
        return Networks(images, clip, distance, reference)


def find(settings: Evaluation, allow_download: bool = False) -> Found:
    """Returns where the networks are.

    Raises:
        UserError: with everything that is missing, and what to install or to name.
    """
    problems: list[str] = []
    looked: dict[str, Folder | None] = {}
    for key in ("image_model", "clip_model"):
        looked[key] = None
        try:
            if text := getattr(settings, key):
                looked[key] = folders.look(text, f"[evaluation] {key}", allow_download)
            elif key == "image_model":
                lite0.find()
        except UserError as error:
            problems += error.problems
    clip = looked["clip_model"]
    if clip is not None and not clip.is_clip:
        problems.append(f'[evaluation] clip_model "{settings.clip_model}": expected a CLIP, got {clip.kind}.')
    for key in ("lpips_backbone", "lpips_heads"):
        path = Path(getattr(settings, key))
        if getattr(settings, key) and not path.is_file():
            problems.append(f'[evaluation] {key} "{path}": expected a file, got nothing there. Correct the path.')
    problems += reference_faults(settings)
    if problems:
        raise UserError(problems)
    return Found(settings, looked["image_model"], clip)


def reference_faults(settings: Evaluation) -> list[str]:
    """Returns what is wrong with the folder of CMMD's pictures."""
    path = Path(settings.cmmd_reference)
    if not settings.cmmd_reference:
        return []
    if not path.is_dir():
        return [f'[evaluation] cmmd_reference "{path}": {picture_folders.not_a_folder(path)}']
    if not picture_folders.image_files(path, recursive=True):
        return [f'[evaluation] cmmd_reference "{path}": {picture_folders.no_images(path)}']
    return []
