"""The list of nodes, and the entry point that ComfyUI calls for it."""

from . import folders
from .api import ComfyExtension, io
from .nodes.apply import WaveFTApply
from .nodes.apply_stack import WaveFTApplyStack
from .nodes.combine import WaveFTCombine
from .nodes.filter import WaveFTFilter
from .nodes.load_adapter import WaveFTLoadAdapter
from .nodes.loader import WaveFTLoader
from .nodes.scale import WaveFTScale
from .nodes.stack import WaveFTStack

NODES: list[type[io.ComfyNode]] = [
    WaveFTLoader,
    WaveFTLoadAdapter,
    WaveFTApply,
    WaveFTStack,
    WaveFTApplyStack,
    WaveFTFilter,
    WaveFTScale,
    WaveFTCombine,
]


class WaveFTExtension(ComfyExtension):
    """What ComfyUI asks for our nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Returns the node classes."""
        return NODES


async def comfy_entrypoint() -> WaveFTExtension:
    """Registers the adapter folders with ComfyUI and returns the extension."""
    folders.register()
    return WaveFTExtension()
