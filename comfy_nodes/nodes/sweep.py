"""The node that applies an adapter at several strengths, for pictures side by side."""

from __future__ import annotations

from typing import Any

from .. import widgets
from ..adapters.filters import Filter, kept
from ..api import io
from ..patching import sweep
from ..sockets import Carried, present


class WaveFTStrengthSweep(io.ComfyNode):
    """WaveFT Strength Sweep."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Returns the node's inputs, outputs and texts."""
        return io.Schema(
            node_id="WaveFTStrengthSweep",
            display_name="WaveFT Strength Sweep",
            category="WaveFT",
            description=(
                "Applies an adapter at each of several strengths. What follows runs once for each; WaveFT Image Grid "
                "puts the pictures side by side, with the labels under them."
            ),
            inputs=[
                widgets.model(),
                widgets.adapter(tooltip="The adapter to apply."),
                io.String.Input(
                    "strengths",
                    default="0, 0.25, 0.5, 0.75, 1",
                    tooltip="The strengths, with commas or spaces between them. 0 is the model without the adapter.",
                ),
                widgets.clip_inputs()[0],
                widgets.strength(
                    "strength_clip",
                    "Multiplies each strength for the text encoders; 0 leaves the adapter's layers for them out.",
                    optional=True,
                ),
                widgets.filter_input(),
            ],
            outputs=[
                io.Model.Output(
                    "models", display_name="MODEL", is_output_list=True, tooltip="A model for each strength."
                ),
                io.Clip.Output(
                    "clips", display_name="CLIP", is_output_list=True, tooltip="Text encoders for each strength."
                ),
                io.String.Output(
                    "labels",
                    display_name="labels",
                    is_output_list=True,
                    tooltip='A label for each strength, e.g. "strength 0.25".',
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, strengths: str | None = None) -> bool | str:
        """Returns True, or which strength is none."""
        return sweep.checked(strengths)

    @classmethod
    def execute(
        cls,
        model: Any,
        adapter: Carried,
        strengths: str,
        clip: Any = None,
        strength_clip: float = 1.0,
        filter: Filter | None = None,
    ) -> io.NodeOutput:
        """Returns the models, the text encoders (None each if none came in) and the labels.

        Raises:
            WaveFTError: the adapter does not fit, whole, what is connected.
        """
        present("model", model)
        found = sweep.strengths(strengths)
        models, clips = sweep.swept(model, clip, kept(filter, adapter), found, strength_clip)
        return io.NodeOutput(models, clips, [sweep.label(strength) for strength in found])
