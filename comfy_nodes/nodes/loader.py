"""The node that loads a WaveFT adapter onto a model: what LoraLoader is for LoRAs."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from .. import folders, widgets
from ..adapters.filters import Emptied, Filter, kept
from ..api import io
from ..patching import patch
from ..sockets import WAVEFT


class WaveFTLoader(io.ComfyNode):
    """Load WaveFT."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Returns the node's inputs, outputs and texts. Saved workflows hold widgets by position: only ever append."""
        return io.Schema(
            node_id="WaveFTLoader",
            display_name="Load WaveFT",
            category="WaveFT",
            description=(
                "Applies a WaveFT adapter (wavelet fine-tuning) to a model, and to its text encoders if the file holds "
                "layers for them. Nodes can be chained. A file that does not fit the model whole is refused."
            ),
            inputs=[
                widgets.model(),
                widgets.adapter_name(),
                widgets.strength_model(),
                *widgets.clip_inputs(),
                widgets.filter_input(),
            ],
            outputs=[
                *widgets.patched_outputs(),
                WAVEFT.Output("loaded", display_name="WAVEFT", tooltip="The adapter itself, the filter applied."),
            ],
        )

    @classmethod
    def validate_inputs(cls, adapter_name: str | None = None) -> bool | str:
        """Returns True, or why the file cannot be loaded; reads its header alone, before anything runs.

        Only `adapter_name` is asked for: naming an input here switches ComfyUI's own check of its range off.
        """
        return folders.checked(adapter_name)

    @classmethod
    def fingerprint_inputs(cls, adapter_name: str | None = None, **_inputs: Any) -> str | float:
        """Returns what changes when the file is written anew, so that a re-trained adapter is read again."""
        return folders.fingerprint(adapter_name)

    @classmethod
    def execute(
        cls,
        model: Any,
        adapter_name: str,
        strength_model: float,
        clip: Any = None,
        strength_clip: float = 1.0,
        filter: Filter | None = None,
    ) -> io.NodeOutput:
        """Returns MODEL, CLIP (None if none came in), the report and the adapter.

        Raises:
            WaveFTError: the file does not fit, whole, what is connected. Nothing is changed then.
        """
        carried = folders.read(adapter_name)
        applied = patch.apply(model, clip, [patch.Part(carried, strength_model, strength_clip)], filter)
        with suppress(Emptied):  # at strength 0 alone: nothing was applied, and there is an adapter to hand on
            carried = kept(filter, carried)
        return io.NodeOutput(*applied, carried)
