"""Text that the front end shows in a node, below its widgets."""

from __future__ import annotations

import html
import sys
from typing import Any

_SPACE = "\N{NO-BREAK SPACE}"


def show(hidden: Any, text: str) -> None:
    """Shows a text in the node that is running; without a front end, nothing happens.

    The front end takes the text for HTML: it is escaped, since titles and notes come out of files that others made, and
    runs of spaces are kept, since tables need them.

    Args:
        hidden: the node's, with `unique_id`.
    """
    server = sys.modules.get("server")  # loaded long before any node runs, where ComfyUI is a server at all
    instance = getattr(getattr(server, "PromptServer", None), "instance", None)
    if instance is not None and hidden is not None and hidden.unique_id is not None:
        escaped = html.escape(text).replace("  ", _SPACE * 2)
        instance.send_progress_text(escaped, hidden.unique_id)
