"""The node that loads a WaveFT adapter onto a model."""

from __future__ import annotations

from typing import Any

from . import folders, patch
from .api import io
from .core import WaveFTError


class WaveFTLoader(io.ComfyNode):
    """Load WaveFT: what LoraLoader is for LoRAs."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Returns the node's inputs, outputs and texts. Saved workflows hold widgets by position: only ever append."""
        return io.Schema(
            node_id="WaveFTLoader",
            display_name="Load WaveFT",
            category="loaders",
            description=(
                "Applies a WaveFT adapter (wavelet fine-tuning) to a model, and to its text encoders if the file holds "
                "layers for them. Nodes can be chained. A file that does not fit the model whole is refused."
            ),
            inputs=[
                io.Model.Input("model", tooltip="The diffusion model that the adapter is applied to."),
                io.Combo.Input(
                    "adapter_name",
                    options=folders.choices(),
                    tooltip="The adapter: a file in models/waveft, or a WaveFT file in models/loras.",
                ),
                io.Float.Input(
                    "strength_model",
                    default=1.0,
                    min=-100.0,
                    max=100.0,
                    step=0.01,
                    tooltip="How strongly the diffusion model is changed: 1 as trained, 0 not at all; may be negative.",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="The text encoders. Needed only for a file that holds layers for them.",
                ),
                io.Float.Input(
                    "strength_clip",
                    default=1.0,
                    min=-100.0,
                    max=100.0,
                    step=0.01,
                    optional=True,
                    tooltip="How strongly the text encoders are changed. 0 leaves the file's text-encoder layers out.",
                ),
            ],
            outputs=[
                io.Model.Output("patched_model", display_name="MODEL", tooltip="The model with the adapter applied."),
                io.Clip.Output(
                    "patched_clip",
                    display_name="CLIP",
                    tooltip="The text encoders, with the adapter applied where the file holds layers for them.",
                ),
                io.String.Output("report", display_name="report", tooltip='What was applied, e.g. "560/560 layers".'),
            ],
        )

    @classmethod
    def validate_inputs(cls, adapter_name: str | None = None) -> bool | str:
        """Returns True, or why the file cannot be loaded; reads its header alone, before anything runs.

        Only `adapter_name` is asked for: naming an input here switches ComfyUI's own check of its range off.
        """
        if adapter_name is None:  # linked to another node: known when the graph runs
            return True
        try:
            folders.check(adapter_name)
        except WaveFTError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, adapter_name: str | None = None, **_inputs: Any) -> str | float:
        """Returns what changes when the file is written anew, so that a re-trained adapter is read again."""
        if adapter_name is None:
            return float("nan")  # linked: never equal to the last, so the node runs and sees for itself
        return folders.stamp(folders.find(adapter_name)[0])

    @classmethod
    def execute(
        cls, model: Any, adapter_name: str, strength_model: float, clip: Any = None, strength_clip: float = 1.0
    ) -> io.NodeOutput:
        """Returns MODEL, CLIP (None if none came in) and the report.

        Raises:
            WaveFTError: the file does not fit, whole, what is connected. Nothing is changed then.
        """
        if strength_model == 0 and (strength_clip == 0 or clip is None):
            return io.NodeOutput(model, clip, f"0 layers of {adapter_name}: strength 0")
        adapter = folders.read(adapter_name)
        return io.NodeOutput(*patch.apply(model, clip, adapter, adapter_name, strength_model, strength_clip))
