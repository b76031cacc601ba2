"""The node that shows what an adapter is, and what is applied to a model."""

from __future__ import annotations

from typing import Any

from .. import messages, widgets
from ..api import io, ui
from ..core import WaveFTError
from ..drawing import drawing, inspecting
from ..sockets import Carried


class WaveFTInspect(io.ComfyNode):
    """Inspect WaveFT."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Returns the node's inputs, outputs and texts."""
        return io.Schema(
            node_id="WaveFTInspect",
            display_name="Inspect WaveFT",
            category="WaveFT",
            description=(
                "Shows what an adapter is, where it came from and where its energy lies, as a picture and as text; or "
                "which adapters a model carries, and how strongly."
            ),
            is_output_node=True,
            inputs=[
                widgets.adapter(tooltip="The adapter to look at.", optional=True),
                io.Model.Input("model", optional=True, tooltip="A model: what is applied to it is shown."),
                io.Clip.Input(
                    "clip", optional=True, tooltip="The text encoders: what is applied to them is shown too."
                ),
            ],
            outputs=[
                io.String.Output("table", display_name="table", tooltip="All numbers, as text."),
                io.Image.Output(
                    "picture", display_name="IMAGE", tooltip="Energy by block, sub-band and kind of layer."
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, adapter: Carried | None = None, model: Any = None, clip: Any = None) -> io.NodeOutput:
        """Returns the table and the picture, of two pictures where an adapter and something else are connected.

        Raises:
            WaveFTError: nothing is connected.
        """
        shown = [] if adapter is None else [inspecting.of_adapter(adapter)]
        shown += [] if model is None and clip is None else [inspecting.of_model(model, clip)]
        if not shown:
            raise WaveFTError("adapter, model and clip: expected one of them at least, got none. Connect one.")
        table = "\n\n\n".join(text for text, _ in shown)
        picture = drawing.stacked([drawn for _, drawn in shown])
        messages.show(cls.hidden, "\n\n".join(inspecting.summary(text) for text, _ in shown))
        preview = {**ui.PreviewImage(picture, cls=cls).as_dict(), **ui.PreviewText(table).as_dict()}
        return io.NodeOutput(table, picture, ui=preview)
