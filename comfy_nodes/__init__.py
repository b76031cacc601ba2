"""WaveFT's nodes for ComfyUI."""

from .extension import NODES, WaveFTExtension, comfy_entrypoint

__all__ = ["NODES", "WaveFTExtension", "comfy_entrypoint"]
