"""The node that writes an adapter to a file."""

from __future__ import annotations

from typing import Any

from .. import folders, messages, widgets
from ..adapters import saving
from ..adapters.weights import graph_metadata
from ..api import io, ui
from ..core import WaveFTError
from ..patching import carrying
from ..sockets import Carried


class WaveFTSave(io.ComfyNode):
    """Save WaveFT."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Returns the node's inputs, outputs and texts."""
        return io.Schema(
            node_id="WaveFTSave",
            display_name="Save WaveFT",
            category="WaveFT",
            description=(
                "Writes an adapter to a new file in ComfyUI's output folder: one of the graph, or the exact sum of "
                "those that are applied to a model. In output/waveft the loader finds it at once."
            ),
            is_output_node=True,
            inputs=[
                io.String.Input(
                    "filename_prefix",
                    default="waveft/adapter",
                    tooltip="Folder and beginning of the name, inside the output folder; a number is added. %year% and "
                    "its like are filled in.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=list(saving.DTYPES),
                    default="fp32",
                    tooltip="How the coefficients are stored: fp32 exactly, bf16 and fp16 in less room, rounded.",
                ),
                io.String.Input(
                    "note", default="", multiline=True, tooltip="A description, kept in the file; empty for none."
                ),
                widgets.adapter(tooltip="The adapter to save.", optional=True),
                io.Model.Input(
                    "model", optional=True, tooltip="In place of an adapter: a model, for the sum of what it carries."
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="With or without a model: the text encoders, whose layers belong to the sum.",
                ),
            ],
            outputs=[widgets.report("Where the file is, what it holds, and its hash.")],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo, io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        filename_prefix: str,
        dtype: str,
        note: str,
        adapter: Carried | None = None,
        model: Any = None,
        clip: Any = None,
    ) -> io.NodeOutput:
        """Returns the report.

        Raises:
            WaveFTError: not either an adapter or a model with or without its CLIP, a place outside the output folder,
                a dtype that is none of the list's, or a value that the dtype cannot hold.
        """
        widgets.chosen("dtype", dtype, list(saving.DTYPES))
        if (adapter is None) == (model is None and clip is None):
            got = "none of them" if adapter is None else f"an adapter and a {carrying.called(model, clip)}"
            raise WaveFTError(
                f"adapter, model and clip: expected an adapter, or what adapters are applied to, got {got}. Connect "
                "`adapter`, or `model` and `clip`."
            )
        if adapter is not None:
            carried, remarks = adapter, []
        else:
            found = carrying.carried_by(model, clip)
            carried, remarks = carrying.total(found), carrying.left_out(found, model, clip)
        path = folders.output_path(filename_prefix)
        report = saving.save(carried, path, dtype, note, graph_metadata(cls.hidden), remarks)
        messages.show(cls.hidden, report)
        return io.NodeOutput(report, ui=ui.PreviewText(report))
