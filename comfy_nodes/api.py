"""ComfyUI's node interface, pinned: the one place that names its version."""

try:
    from comfy_api.v0_0_2 import ComfyExtension, io, ui
except ImportError as error:
    if not (error.name or "").startswith("comfy_api"):
        raise
    raise ImportError(
        "ComfyUI: expected 0.3.48 or newer, whose comfy_api.v0_0_2 WaveFT's nodes are written for; "
        f"got one without it ({error}). Update ComfyUI."
    ) from error

__all__ = ["ComfyExtension", "io", "ui"]
