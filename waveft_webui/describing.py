"""What an adapter is, in lines, and where its energy lies, in a picture."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from .core import Adapter, as_text, plot, summarize


def described(adapter: Adapter, metadata: bool = False) -> tuple[str, Any]:
    """Returns the text, and the energy picture (PIL, None where the UI has no matplotlib).

    Args:
        metadata: whether the text lists the file's; the Lora tab's dialog shows them too.
    """
    told = summarize(adapter)
    if not metadata:
        told["metadata"] = {}
    return as_text(told, rest=""), _picture(adapter, told)


def _picture(adapter: Adapter, told: Any) -> Any:
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "energy.png"
        try:
            plot(adapter, path, summary=told)
        except ImportError:
            return None
        with Image.open(path, formats=("PNG",)) as picture:
            return picture.convert("RGB")
