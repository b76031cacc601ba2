"""What Extract WaveFT does: the difference of two models, or a LoRA, as the adapter that comes closest to it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from . import describe, folders, models
from .core import SDXL_ATTENTION, Adapter, WaveFTError, deltas, differences, extract_deltas, matches, read_layout
from .progress import Progress
from .sockets import Carried
from .weights import Merged

BUDGETS = {"coefficients per layer": "coefficients", "share of energy": "energy", "coefficients in all": "total"}
# Ends of module paths: the UNet's, then the text encoders'.
_ATTENTION = (*SDXL_ATTENTION, "q_proj", "k_proj", "v_proj", "out_proj")
_FEED_FORWARD = ("ff.net.0.proj", "ff.net.2", "mlp.fc1", "mlp.fc2")
LAYERS = {"attention": _ATTENTION, "attention and feed-forward": (*_ATTENTION, *_FEED_FORWARD)}
_WORST = 3  # layers that are named: those of which least was kept

Deltas = Iterator[tuple[str, torch.Tensor]]


@dataclass(frozen=True)
class Wanted:
    """The widgets."""

    budget: str
    coefficients: int
    energy: float
    layers: str
    wavelet: str
    scaling: float

    @property
    def targets(self) -> tuple[str, ...]:
        """The ends of module paths of the layers that are wanted."""
        return LAYERS[self.layers]

    @property
    def limit(self) -> dict[str, Any]:
        """The budget, as the core's argument."""
        name = BUDGETS[self.budget]
        return {name: self.energy if name == "energy" else self.coefficients}


@dataclass
class Given:
    """What an adapter is made of, and what of it was passed over.

    Attributes:
        origin: for the adapter's recipe.
        metadata: which model the adapter is for.
    """

    title: str
    deltas: Deltas
    origin: Mapping[str, Any]
    metadata: Mapping[str, str]
    passed_over: int = 0


def from_models(base: Merged, tuned: Merged, wanted: Wanted) -> Given:
    """Returns the difference of two models.

    Raises:
        WaveFTError: they have not the same layers, in the same shapes.
    """
    found = differences(base, tuned, wanted.targets)
    return Given("the difference", found, {"from": "two models"}, base.metadata)


def from_lora(base: Merged, name: str, wanted: Wanted, has_clip: bool) -> Given:
    """Returns a LoRA file's product, layer by layer.

    Raises:
        WaveFTError: a file of another kind, layers that the base lacks, or a text encoder's without a CLIP.
    """
    path = models.lora_path(name)
    tensors, said = read_layout(path)
    of_text = sum(key.startswith(("lora_te", "text_encoder")) for key in tensors)
    if of_text and not has_clip:
        raise WaveFTError(
            f'LoRA "{name}": expected a CLIP for its {of_text} text-encoder tensors, got none. Connect `base_clip` '
            "(strength_clip 0 leaves those layers out when the adapter is applied)."
        )
    given = Given(name, iter(()), {"lora": name, "sha256": folders.sha256(path)}, _trained_for(base, said))
    given.deltas = _wanted(deltas(path, base, base.spellings), base, wanted, given)
    return given


def extract(base: Merged, given: Given, wanted: Wanted) -> tuple[Carried, str]:
    """Returns the adapter and the report; shows the progress, and ends where the user cancels.

    Raises:
        WaveFTError: nothing differs in the layers that are wanted, odd sizes, or a difference that is not finite.
    """
    count = sum(matches(place.path, wanted.targets) for place in base.slots.values())
    told: list[tuple[str, float, float]] = []
    try:
        made = extract_deltas(
            _watched(given.deltas, Progress(count)),
            **wanted.limit,
            wavelet=wanted.wavelet,
            scaling=wanted.scaling,
            metadata=given.metadata,
            report=lambda name, kept, whole: told.append((name, kept, whole)),
        )
    except WaveFTError as error:
        raise WaveFTError(f"{given.title}, {wanted.layers} layers: {error}") from None
    kept = sum(kept for _, kept, _ in told) / sum(whole for *_, whole in told)
    said = {**wanted.limit, "layers": wanted.layers, "energy_kept": round(kept, 6), **given.origin}
    carried = Carried(made, f"extracted from {given.title}", {"extracted": said})
    return carried, _report(made, given, wanted, told, kept)


def _watched(found: Deltas, progress: Progress) -> Deltas:
    for item in found:
        progress.check()
        yield item
        progress.step()


def _wanted(found: Deltas, base: Merged, wanted: Wanted, given: Given) -> Deltas:
    for name, delta in found:
        if matches(base.slots[name].path, wanted.targets):
            yield name, delta
        else:
            given.passed_over += 1


def _trained_for(base: Merged, said: Mapping[str, str]) -> dict[str, str]:
    """Returns which model the adapter is for: as the LoRA's file says it, else as the connected model shows."""
    found = dict(base.metadata)
    if said.get("modelspec.architecture"):
        found["modelspec.architecture"] = said["modelspec.architecture"].partition("/")[0] + "/waveft"
    if said.get("ss_base_model_version"):
        found["ss_base_model_version"] = said["ss_base_model_version"]
    return found


def _report(made: Adapter, given: Given, wanted: Wanted, told: list[tuple[str, float, float]], kept: float) -> str:
    worst = sorted((line for line in told if line[2]), key=lambda line: line[1] / line[2])[:_WORST]
    lines = [
        f"extracted from {given.title}: {describe.plural(len(made.layers), 'layer')}",
        describe.basis(made),
        f"{kept:.2%} of the energy kept, relative error {math.sqrt(max(0.0, 1 - kept)):.2%}",
        "least kept:",
        *(f"  {held / whole:7.2%}  {name}" for name, held, whole in worst),
    ]
    if given.passed_over:
        lines.append(f"left out: {describe.plural(given.passed_over, 'layer')} of another kind than {wanted.layers}")
    unchanged = sum(not whole for *_, whole in told)
    if unchanged:
        lines.append(f"left out: {describe.plural(unchanged, 'layer')} without a difference")
    return "\n".join(lines)
