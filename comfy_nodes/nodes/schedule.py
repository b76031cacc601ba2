"""The node that makes keyframes: a strength that changes over the steps."""

from __future__ import annotations

from typing import Any

from .. import widgets
from ..api import io
from ..patching import hooks


class WaveFTStrengthSchedule(io.ComfyNode):
    """WaveFT Strength Schedule."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Returns the node's inputs, outputs and texts."""
        return io.Schema(
            node_id="WaveFTStrengthSchedule",
            display_name="WaveFT Strength Schedule",
            category="WaveFT",
            description=(
                "Makes keyframes for hooks (Set Hook Keyframes takes them): a strength that moves along a curve over "
                "the steps. It multiplies the hook's own strength. Schedules can be chained."
            ),
            inputs=[
                *(
                    widgets.strength(id, tooltip, default=default, min=-hooks.LIMIT, max=hooks.LIMIT)
                    for id, default, tooltip in (
                        ("start_strength", 0.0, "The strength until start_percent."),
                        ("end_strength", 1.0, "The strength from end_percent on."),
                    )
                ),
                *(
                    io.Float.Input(id, default=default, min=0.0, max=1.0, step=0.001, tooltip=tooltip)
                    for id, default, tooltip in (
                        ("start_percent", 0.0, "Where the change begins: 0 is the first step, 0.5 half of the way."),
                        ("end_percent", 1.0, "Where the change ends; the same as start_percent for a jump."),
                    )
                ),
                io.Combo.Input(
                    "curve", options=list(hooks.CURVES), default="linear", tooltip="How the strength moves in between."
                ),
                io.Int.Input(
                    "keyframes",
                    default=5,
                    min=2,
                    max=100,
                    tooltip="In how many levels it moves, both ends included. ComfyUI merges the weights at each.",
                ),
                io.HookKeyframes.Input(
                    "prev_hook_kf",
                    optional=True,
                    tooltip="Keyframes that these are added to; their range may touch this one, not overlap it.",
                ),
            ],
            outputs=[
                io.HookKeyframes.Output(
                    "hook_kf", display_name="HOOK_KF", tooltip="The keyframes, for Set Hook Keyframes."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        start_strength: float,
        end_strength: float,
        start_percent: float,
        end_percent: float,
        curve: str,
        keyframes: int,
        prev_hook_kf: Any = None,
    ) -> io.NodeOutput:
        """Returns the keyframes.

        Raises:
            WaveFTError: percents in the wrong order, or an overlap with the previous schedule.
        """
        curve = widgets.chosen("curve", curve, list(hooks.CURVES))
        strengths, percents = (start_strength, end_strength), (start_percent, end_percent)
        return io.NodeOutput(hooks.scheduled(strengths, percents, curve, keyframes, prev_hook_kf))
