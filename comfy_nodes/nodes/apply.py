"""The node that applies an adapter of the graph."""

from __future__ import annotations

from typing import Any

from .. import widgets
from ..adapters.filters import Filter
from ..api import io
from ..patching import patch
from ..sockets import Carried


class WaveFTApply(io.ComfyNode):
    """Apply WaveFT."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Returns the node's inputs, outputs and texts."""
        return io.Schema(
            node_id="WaveFTApply",
            display_name="Apply WaveFT",
            category="WaveFT",
            description=(
                "Applies an adapter that other nodes loaded, combined, scaled, extracted or trained. "
                "An adapter that does not fit the model whole is refused."
            ),
            inputs=[
                widgets.model(),
                widgets.adapter(tooltip="The adapter to apply."),
                widgets.strength_model(),
                *widgets.clip_inputs(),
                widgets.filter_input(),
            ],
            outputs=widgets.patched_outputs(),
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        adapter: Carried,
        strength_model: float,
        clip: Any = None,
        strength_clip: float = 1.0,
        filter: Filter | None = None,
    ) -> io.NodeOutput:
        """Returns MODEL, CLIP (None if none came in) and the report.

        Raises:
            WaveFTError: the adapter does not fit, whole, what is connected. Nothing is changed then.
        """
        part = patch.Part(adapter, strength_model, strength_clip)
        return io.NodeOutput(*patch.apply(model, clip, [part], filter))
