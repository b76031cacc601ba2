"""The node that adds adapters up into one."""

from __future__ import annotations

from .. import widgets
from ..adapters import arithmetic, describe, progress
from ..api import io
from ..sockets import WAVEFT, Carried, present

REFUSE, REPROJECT = "refuse", "reproject"


class WaveFTCombine(io.ComfyNode):
    """Combine WaveFT."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Returns the node's inputs, outputs and texts."""
        return io.Schema(
            node_id="WaveFTCombine",
            display_name="Combine WaveFT",
            category="WaveFT",
            description=(
                "Makes one adapter of up to four, the sum of each times its weight. In one wavelet the sum is exact: "
                "applying it is applying the parts. Optionally keeps the largest coefficients alone."
            ),
            inputs=[
                widgets.adapter("adapter_1", "The first adapter; the sum is written in its wavelet."),
                *(
                    widgets.strength(f"weight_{number}", f"What adapter_{number} is multiplied by.")
                    for number in range(1, 5)
                ),
                io.Int.Input(
                    "coefficients",
                    default=0,
                    min=0,
                    max=2**24,
                    tooltip="How many of each layer's coefficients are kept, the largest: 0 for all of them. "
                    "2592 is the paper's budget for SDXL.",
                ),
                io.Combo.Input(
                    "other_basis",
                    options=[REFUSE, REPROJECT],
                    default=REFUSE,
                    tooltip="Adapters in another wavelet than the first: refuse them, or rewrite them in the first's, "
                    "which loses what the report says.",
                ),
                *(
                    widgets.adapter(f"adapter_{number}", "Another adapter, times its weight.", optional=True)
                    for number in range(2, 5)
                ),
            ],
            outputs=[
                WAVEFT.Output("combined", display_name="WAVEFT", tooltip="The sum."),
                widgets.report("What went in, what came out, and what was lost, if anything."),
            ],
        )

    @classmethod
    def execute(
        cls,
        adapter_1: Carried,
        weight_1: float,
        weight_2: float,
        weight_3: float,
        weight_4: float,
        coefficients: int,
        other_basis: str,
        adapter_2: Carried | None = None,
        adapter_3: Carried | None = None,
        adapter_4: Carried | None = None,
    ) -> io.NodeOutput:
        """Returns the adapter and the report.

        Raises:
            WaveFTError: shapes or wavelets that do not go together, or a way that is none of the list's.
        """
        present("adapter_1", adapter_1)
        widgets.chosen("other_basis", other_basis, (REFUSE, REPROJECT))
        given = zip((adapter_1, adapter_2, adapter_3, adapter_4), (weight_1, weight_2, weight_3, weight_4), strict=True)
        parts = [(adapter, weight) for adapter, weight in given if adapter is not None]
        lines: list[str] = []
        if other_basis == REPROJECT:
            parts, lines = arithmetic.in_one_basis(parts, progress.told_by_core())
        total = arithmetic.combined(parts)
        kept = arithmetic.pruned(total, coefficients) if coefficients else total
        return io.NodeOutput(kept, "\n".join((describe.combination(parts, total, kept), *lines)))
