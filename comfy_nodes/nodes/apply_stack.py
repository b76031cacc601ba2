"""The node that applies a stack: all of its adapters or none."""

from __future__ import annotations

from typing import Any

from .. import widgets
from ..adapters.filters import Filter
from ..api import io
from ..patching import patch
from ..sockets import WAVEFT_STACK, Row, present


class WaveFTApplyStack(io.ComfyNode):
    """Apply WaveFT Stack."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Returns the node's inputs, outputs and texts."""
        return io.Schema(
            node_id="WaveFTApplyStack",
            display_name="Apply WaveFT Stack",
            category="WaveFT",
            description="Applies all adapters of a stack, or none if one of them does not fit.",
            inputs=[
                widgets.model(),
                WAVEFT_STACK.Input("stack", tooltip="The adapters and their strengths."),
                widgets.strength("strength_model", "Multiplies the strength of every row for the diffusion model."),
                widgets.clip_inputs()[0],
                widgets.strength(
                    "strength_clip",
                    "Multiplies the strength of every row for the text encoders; 0 leaves their layers out.",
                    optional=True,
                ),
                widgets.filter_input(),
            ],
            outputs=widgets.patched_outputs(),
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        stack: tuple[Row, ...],
        strength_model: float,
        clip: Any = None,
        strength_clip: float = 1.0,
        filter: Filter | None = None,
    ) -> io.NodeOutput:
        """Returns MODEL, CLIP (None if none came in) and the report.

        Raises:
            WaveFTError: an adapter does not fit, whole, what is connected. Nothing is changed then.
        """
        present("stack", stack)
        parts = [patch.Part(row.carried, row.strength * strength_model, row.strength * strength_clip) for row in stack]
        return io.NodeOutput(*patch.apply(model, clip, parts, filter))
