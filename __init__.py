"""ComfyUI's way in: a clone under `custom_nodes` is a package, and ComfyUI asks it for `comfy_entrypoint`.

Everywhere else (pytest imports a folder's `__init__.py` on its own, as no package) this file does nothing. The guard
asks only whether ComfyUI loads us: an error of our own is never taken for its absence.
"""

import importlib.util

if __package__ and importlib.util.find_spec("comfy") is not None:
    from .comfy_nodes import comfy_entrypoint

    WEB_DIRECTORY = "./comfy_nodes/web"  # the help pages; there is no JavaScript

    __all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
