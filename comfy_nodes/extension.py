"""The list of nodes, and the entry point that ComfyUI calls for it."""

from . import folders
from .api import ComfyExtension, io
from .loader import WaveFTLoader

NODES: list[type[io.ComfyNode]] = [WaveFTLoader]


class WaveFTExtension(ComfyExtension):
    """What ComfyUI asks for our nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Returns the node classes."""
        return NODES


async def comfy_entrypoint() -> WaveFTExtension:
    """Registers models/waveft with ComfyUI and returns the extension."""
    folders.register()
    return WaveFTExtension()
