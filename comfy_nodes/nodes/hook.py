"""The node that makes a hook of an adapter: for a part of the picture, of the prompts, or of the steps."""

from __future__ import annotations

from typing import Any

from .. import widgets
from ..adapters.filters import Filter, kept
from ..api import io
from ..patching import hooks
from ..sockets import Carried


class WaveFTHook(io.ComfyNode):
    """WaveFT Hook."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Returns the node's inputs, outputs and texts."""
        limits = {"min": -hooks.LIMIT, "max": hooks.LIMIT}
        return io.Schema(
            node_id="WaveFTHook",
            display_name="WaveFT Hook",
            category="WaveFT",
            description=(
                "Makes a hook of an adapter. It rides on conditioning, so that the adapter acts for some prompts or "
                "regions alone, and at a strength that changes over the steps. Goes where a stock LoRA hook goes."
            ),
            inputs=[
                widgets.adapter(tooltip="The adapter that acts where the hook does."),
                widgets.strength(
                    "strength_model",
                    "How strongly the diffusion model is changed: 1 as trained, 0 not at all; keyframes multiply it.",
                    **limits,
                ),
                widgets.strength(
                    "strength_clip",
                    "How strongly the text encoders are changed, where Set CLIP Hooks puts the hook on a CLIP. "
                    "0 leaves the adapter's text-encoder layers out.",
                    **limits,
                ),
                widgets.filter_input(),
                io.Hooks.Input("prev_hooks", optional=True, tooltip="Hooks that this one is added to."),
            ],
            outputs=[
                io.Hooks.Output(
                    "hooks",
                    display_name="HOOKS",
                    tooltip="The hooks, for Set CLIP Hooks or the nodes that set a condition's properties.",
                ),
                widgets.report("What the hook carries, and what it needs to act."),
            ],
        )

    @classmethod
    def execute(
        cls,
        adapter: Carried,
        strength_model: float,
        strength_clip: float,
        filter: Filter | None = None,
        prev_hooks: Any = None,
    ) -> io.NodeOutput:
        """Returns the hooks. Whether the adapter fits shows where they are put onto a model or text encoders.

        Raises:
            WaveFTError: the filter leaves nothing.
        """
        carried = kept(filter, adapter)
        made = hooks.hooked(carried, strength_model, strength_clip, prev_hooks)
        return io.NodeOutput(made, hooks.report(carried, strength_model, strength_clip))
