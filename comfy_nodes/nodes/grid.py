"""The node that lays pictures out on one sheet."""

from __future__ import annotations

import torch

from ..api import io
from ..drawing import montage


class WaveFTGrid(io.ComfyNode):
    """WaveFT Image Grid."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Returns the node's inputs, outputs and texts."""
        return io.Schema(
            node_id="WaveFTGrid",
            display_name="WaveFT Image Grid",
            category="WaveFT",
            description="Lays pictures out on one sheet, a label under each: those of a WaveFT Strength Sweep, say.",
            is_input_list=True,
            inputs=[
                io.Image.Input("images", tooltip="The pictures: a list, batches, or both. Their sizes may differ."),
                io.Int.Input(
                    "columns",
                    default=0,
                    min=0,
                    max=64,
                    tooltip="Pictures in a row. 0 for one row of up to five pictures, else about a square.",
                ),
                io.String.Input("title", default="", tooltip="Written above the pictures; empty for none."),
                io.String.Input(
                    "labels",
                    optional=True,
                    force_input=True,
                    tooltip="A list of labels, one for each picture: the labels of WaveFT Strength Sweep.",
                ),
            ],
            outputs=[io.Image.Output("grid", display_name="IMAGE", tooltip="The sheet.")],
        )

    @classmethod
    def execute(
        cls, images: list[torch.Tensor], columns: list[int], title: list[str], labels: list[str] | None = None
    ) -> io.NodeOutput:
        """Returns the sheet. All inputs are lists, of one element where a widget gives them.

        Raises:
            WaveFTError: another number of labels than of pictures.
        """
        return io.NodeOutput(montage.montage(images, labels, columns[0], title[0]))
