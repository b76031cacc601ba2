"""A node's progress bar, the Cancel button, and room on the device for a process beside ComfyUI's own."""

from __future__ import annotations

from collections.abc import Callable

import comfy.model_management
import comfy.utils
from PIL import Image

PREVIEW_PX = 512  # the longer side of what is sent to the front end


class Progress:
    """The bar in the node that runs now.

    Args:
        total: steps in all.
    """

    def __init__(self, total: int) -> None:
        self._bar = comfy.utils.ProgressBar(total)
        self._done = 0

    def step(self, count: int = 1) -> None:
        """Moves the bar on."""
        self.to(self._done + count)

    def to(self, value: int, preview: Image.Image | None = None) -> None:
        """Sets the bar, and shows a picture in the node; raises ComfyUI's interrupt where the user cancelled."""
        self._done = value
        shown = None if preview is None else ("JPEG", preview.convert("RGB"), PREVIEW_PX)
        self._bar.update_absolute(value, preview=shown)

    def check(self) -> None:
        """Raises ComfyUI's interrupt where the user cancelled, and leaves the bar alone."""
        comfy.model_management.throw_exception_if_processing_interrupted()


def told_by_core() -> Callable[[int, int], None]:
    """Returns a bar for the core's functions, which say with each step how many there are in all.

    Made at the first step: work that needs none shows no bar.
    """
    bars: list[Progress] = []

    def step(done: int, total: int) -> None:
        if not bars:
            bars.append(Progress(total))
        bars[0].check()
        bars[0].step(done)

    return step


def cancelled() -> bool:
    """Returns whether the user cancelled, and since the last raised interrupt; raises nothing."""
    return bool(comfy.model_management.processing_interrupted())


def free_memory() -> None:
    """Lets go of the models that ComfyUI keeps on the device: it loads them again when it needs them."""
    comfy.model_management.unload_all_models()
    comfy.model_management.soft_empty_cache()
