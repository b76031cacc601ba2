"""What an adapter is, in lines, and where its energy lies, in a picture."""

from __future__ import annotations

import html
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from .core import Adapter, as_text, plot, summarize


def described(adapter: Adapter, metadata: bool = False, called: str = "") -> tuple[str, Any]:
    """Returns the text, and the energy picture (PIL, None where the UI has no matplotlib).

    Args:
        metadata: whether the text lists the file's; the Lora tab's dialog shows them too.
        called: the picture's title, of an adapter that is no file's as it is; "" for its file's name.
    """
    told = summarize(adapter)
    if not metadata:
        told["metadata"] = {}
    return as_text(told, rest=""), _picture(replace(adapter, source=called) if called else adapter, told)


def preformatted(text: str, wraps: bool = False) -> str:
    """Returns lines as HTML in which columns stand below each other; what a file says is shown, never obeyed.

    Args:
        wraps: for sentences, which may be longer than the page is wide; columns that do not fit can be scrolled.
    """
    # 35 lines: what is said of SDXL's 560 layers is 33, and a browser may show no bar until one scrolls
    style = "max-height: 46em; overflow: auto; font-family: monospace; font-size: 0.8em; line-height: 1.3"
    style += "; margin: 0.5em 0; white-space: " + ("pre-wrap" if wraps else "pre")
    return f'<pre style="{style}">{html.escape(text)}</pre>'


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
