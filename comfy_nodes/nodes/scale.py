"""The node that turns an adapter, or parts of it, up or down."""

from __future__ import annotations

from typing import Any

from .. import widgets
from ..adapters import arithmetic, describe, filters
from ..api import io
from ..sockets import WAVEFT, Carried


class WaveFTScale(io.ComfyNode):
    """Scale WaveFT."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Returns the node's inputs, outputs and texts."""
        return io.Schema(
            node_id="WaveFTScale",
            display_name="Scale WaveFT",
            category="WaveFT",
            description=(
                "Multiplies an adapter as a whole, and its parts: attention kinds, projections, blocks, wavelet "
                "sub-bands, layers by name. What is multiplied by 0 is taken out. Save the result to keep it."
            ),
            inputs=[
                widgets.adapter(tooltip="The adapter to scale."),
                widgets.strength("strength", "Multiplies the whole adapter, whatever it is applied with later."),
                *widgets.multipliers(),
            ],
            outputs=[
                WAVEFT.Output("scaled", display_name="WAVEFT", tooltip="The scaled adapter."),
                widgets.report("What is left of the adapter, and of its energy."),
            ],
        )

    @classmethod
    def validate_inputs(cls, only_layers: str | None = None) -> bool | str:
        """Returns True, or why the text is no regular expression.

        Not for both: ComfyUI repeats what this says for each input that is named here. The other is looked at next.
        """
        return filters.checked("only_layers", only_layers)

    @classmethod
    def execute(cls, adapter: Carried, strength: float, **multipliers: Any) -> io.NodeOutput:
        """Returns the adapter and the report.

        Raises:
            WaveFTError: nothing is left.
        """
        scaled = arithmetic.weighted(filters.kept(filters.from_widgets(**multipliers), adapter), strength)
        return io.NodeOutput(scaled, describe.change(adapter, scaled))
