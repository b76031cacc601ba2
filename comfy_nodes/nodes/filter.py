"""The node that makes a filter, for the nodes that apply or load adapters."""

from __future__ import annotations

from typing import Any

from .. import widgets
from ..adapters import filters
from ..api import io
from ..sockets import WAVEFT_FILTER


class WaveFTFilter(io.ComfyNode):
    """WaveFT Filter."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Returns the node's inputs, outputs and texts."""
        return io.Schema(
            node_id="WaveFTFilter",
            display_name="WaveFT Filter",
            category="WaveFT",
            description=(
                "Turns parts of an adapter up or down: attention kinds, projections, blocks, wavelet sub-bands, layers "
                "by name. Factors multiply; connect it to the `filter` input of a node that loads or applies."
            ),
            inputs=[*widgets.multipliers(), widgets.filter_input("previous")],
            outputs=[
                WAVEFT_FILTER.Output("made_filter", display_name="WAVEFT_FILTER", tooltip="The filter."),
            ],
        )

    @classmethod
    def validate_inputs(cls, only_layers: str | None = None) -> bool | str:
        """Returns True, or why the text is no regular expression.

        Not for both: ComfyUI repeats what this says for each input that is named here. The other is looked at next.
        """
        return filters.checked("only_layers", only_layers)

    @classmethod
    def execute(cls, previous: filters.Filter | None = None, **multipliers: Any) -> io.NodeOutput:
        """Returns the filter."""
        return io.NodeOutput(filters.from_widgets(previous, **multipliers))
