"""The list of nodes, and the entry point that ComfyUI calls for it."""

from . import folders
from .api import ComfyExtension, io
from .nodes.apply import WaveFTApply
from .nodes.apply_stack import WaveFTApplyStack
from .nodes.combine import WaveFTCombine
from .nodes.extract import WaveFTExtract
from .nodes.filter import WaveFTFilter
from .nodes.grid import WaveFTGrid
from .nodes.hook import WaveFTHook
from .nodes.inspect import WaveFTInspect
from .nodes.load_adapter import WaveFTLoadAdapter
from .nodes.loader import WaveFTLoader
from .nodes.save import WaveFTSave
from .nodes.scale import WaveFTScale
from .nodes.schedule import WaveFTStrengthSchedule
from .nodes.stack import WaveFTStack
from .nodes.sweep import WaveFTStrengthSweep
from .nodes.train import WaveFTTrain
from .patching import stock

NODES: list[type[io.ComfyNode]] = [
    WaveFTLoader,
    WaveFTLoadAdapter,
    WaveFTApply,
    WaveFTStack,
    WaveFTApplyStack,
    WaveFTFilter,
    WaveFTScale,
    WaveFTCombine,
    WaveFTHook,
    WaveFTStrengthSchedule,
    WaveFTExtract,
    WaveFTSave,
    WaveFTInspect,
    WaveFTStrengthSweep,
    WaveFTGrid,
    WaveFTTrain,
]


class WaveFTExtension(ComfyExtension):
    """What ComfyUI asks for our nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Returns the node classes."""
        return NODES


async def comfy_entrypoint() -> WaveFTExtension:
    """Makes the adapter folders and the file's format known to ComfyUI, and returns the extension."""
    folders.register()
    stock.register()
    return WaveFTExtension()
