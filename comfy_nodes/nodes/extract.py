"""The node that makes an adapter of a fine-tuned model or of a LoRA."""

from __future__ import annotations

from typing import Any

from .. import folders, models, widgets
from ..adapters import extracting
from ..adapters.weights import Merged
from ..api import io
from ..core import WaveFTError, wavelets
from ..sockets import WAVEFT, present


class WaveFTExtract(io.ComfyNode):
    """Extract WaveFT."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Returns the node's inputs, outputs and texts."""
        return io.Schema(
            node_id="WaveFTExtract",
            display_name="Extract WaveFT",
            category="WaveFT",
            description=(
                "Makes an adapter of the difference between two models, or of a LoRA. It keeps the largest wavelet "
                "coefficients, than which no others of their number come closer; the report says how close."
            ),
            inputs=[
                io.Model.Input("base_model", tooltip="The model that the adapter is to be applied to."),
                *_budget(),
                *_basis(),
                _lora(),
                io.Model.Input("tuned_model", optional=True, tooltip="The fine-tuned model, in place of lora_name."),
                io.Clip.Input(
                    "base_clip",
                    optional=True,
                    tooltip="The text encoders: needed for a LoRA that holds layers for them, and for tuned_clip.",
                ),
                io.Clip.Input(
                    "tuned_clip",
                    optional=True,
                    tooltip="The fine-tuned model's text encoders, where they are to be compared too.",
                ),
            ],
            outputs=[
                WAVEFT.Output("extracted", display_name="WAVEFT", tooltip="The adapter."),
                widgets.report("How many coefficients there are and what share of the energy they hold."),
            ],
        )

    @classmethod
    def validate_inputs(cls, lora_name: str | None = None) -> bool | str:
        """Returns True, or that there is no such LoRA."""
        try:
            if lora_name not in (None, widgets.NONE):
                models.lora_path(str(lora_name))
        except WaveFTError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, lora_name: str | None = None, **_inputs: Any) -> str | float:
        """Returns what changes when the LoRA's file is written anew; NaN, which equals nothing, where it is linked."""
        if lora_name is None:
            return float("nan")
        return "" if lora_name == widgets.NONE else folders.stamp(models.lora_path(lora_name))

    @classmethod
    def execute(
        cls,
        base_model: Any,
        budget: str,
        coefficients: int,
        energy: float,
        layers: str,
        wavelet: str,
        scaling: float,
        lora_name: str,
        tuned_model: Any = None,
        base_clip: Any = None,
        tuned_clip: Any = None,
    ) -> io.NodeOutput:
        """Returns the adapter and the report.

        Raises:
            WaveFTError: not exactly one of a model and a LoRA, one of another architecture, text encoders of one side
                alone, or no difference.
        """
        present("base_model", base_model)
        _check_sources(tuned_model, lora_name, base_clip, tuned_clip)
        wanted = extracting.Wanted(
            widgets.chosen("budget", budget, list(extracting.BUDGETS)),
            coefficients,
            energy,
            widgets.chosen("layers", layers, list(extracting.LAYERS)),
            widgets.chosen("wavelet", wavelet, list(wavelets())),
            scaling,
        )
        base = Merged(base_model, base_clip)
        if tuned_model is not None:
            given = extracting.from_models(base, Merged(tuned_model, tuned_clip), wanted)
        else:
            given = extracting.from_lora(base, lora_name)
        return io.NodeOutput(*extracting.extract(base, given, wanted))


def _check_sources(tuned_model: Any, lora_name: str, base_clip: Any, tuned_clip: Any) -> None:
    """Refuses inputs that do not say what is to be compared with what."""
    if (tuned_model is None) == (lora_name == widgets.NONE):
        got = "neither" if tuned_model is None else "both"
        raise WaveFTError(
            f"tuned_model and lora_name: expected one of the two, got {got}. Connect tuned_model and set lora_name "
            'to "None", or choose a LoRA and connect no tuned_model.'
        )
    if tuned_model is None and tuned_clip is not None:
        raise WaveFTError("tuned_clip: expected it beside tuned_model, got a LoRA. Disconnect tuned_clip.")
    if tuned_model is not None and (base_clip is None) != (tuned_clip is None):
        alone, missing = ("tuned_clip", "base_clip") if base_clip is None else ("base_clip", "tuned_clip")
        raise WaveFTError(
            f"{missing}: expected text encoders to compare those of {alone} with, got none. Connect {missing}, or "
            f"disconnect {alone} to compare the diffusion models alone."
        )


def _budget() -> list[Any]:
    return [
        io.Combo.Input(
            "budget",
            options=list(extracting.BUDGETS),
            default="coefficients per layer",
            tooltip="What limits the adapter: the best p of each layer, the fewest that hold a share of each layer's "
            "energy, or the best of all layers together.",
        ),
        io.Int.Input(
            "coefficients",
            default=2592,
            min=1,
            max=2**26,
            tooltip="How many, for the two budgets that count: 2592 a layer is the paper's for SDXL, 1451520 in all.",
        ),
        io.Float.Input(
            "energy",
            default=0.9,
            min=0.01,
            max=1.0,
            step=0.01,
            tooltip='The share of each layer\'s energy that is kept, for the budget "share of energy".',
        ),
    ]


def _basis() -> list[Any]:
    return [
        io.Combo.Input(
            "layers",
            options=list(extracting.LAYERS),
            default="attention",
            tooltip="Which layers are compared: those that WaveFT trains by default, or feed-forward ones too.",
        ),
        io.Combo.Input(
            "wavelet",
            options=list(wavelets()),
            default="db1",
            tooltip="The wavelet: db1 (Haar) is the paper's and the fastest; identity keeps single weights.",
        ),
        io.Float.Input(
            "scaling",
            default=25.0,
            min=0.01,
            max=10000.0,
            step=0.01,
            tooltip="The constant in the file that multiplies the coefficients; pictures do not depend on it.",
        ),
    ]


def _lora() -> Any:
    return io.Combo.Input(
        "lora_name",
        options=[widgets.NONE, *models.lora_choices()],
        default=widgets.NONE,
        tooltip="A file in models/loras, in place of tuned_model: a LoRA, LoCon, LoHa, LoKr or full diff.",
    )
