"""What Extract WaveFT does: the difference of two models, or a LoRA, as the adapter that comes closest to it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from .. import folders, models
from ..core import (
    SDXL_ATTENTION,
    Adapter,
    TakenForRounding,
    WaveFTError,
    deltas,
    differences,
    extract_deltas,
    listed,
    matches,
    read_layout,
)
from ..sockets import Carried
from . import describe
from .progress import Progress
from .weights import Merged

PER_LAYER, IN_ALL = "coefficients per layer", "coefficients in all"
BUDGETS = {PER_LAYER: "coefficients", "share of energy": "energy", IN_ALL: "total"}
# Ends of module paths: the UNet's, then the text encoders'.
_ATTENTION = (*SDXL_ATTENTION, "q_proj", "k_proj", "v_proj", "out_proj")
_FEED_FORWARD = ("ff.net.0.proj", "ff.net.2", "mlp.fc1", "mlp.fc2")
LAYERS = {"attention": _ATTENTION, "attention and feed-forward": (*_ATTENTION, *_FEED_FORWARD)}
# What follows a layer's name in LoRA files: only counted with, for the bar; the core reads the files.
_PART = re.compile(r"\.(lora_|lora\.|hada_|lokr_|alpha$|diff$).*")
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
        deltas: of all layers that are read, wanted or not.
        count: how many of them there are, for the bar.
        origin: for the adapter's recipe.
        metadata: which model the adapter is for.
        rounding: what of the differences was taken for the rounding of a dtype.
    """

    title: str
    deltas: Deltas
    count: int
    origin: Mapping[str, Any]
    metadata: Mapping[str, str]
    rounding: TakenForRounding
    passed_over: int = 0


def from_models(base: Merged, tuned: Merged, wanted: Wanted) -> Given:
    """Returns the difference of two models, and of their text encoders where both come with them.

    Raises:
        WaveFTError: they have not the same layers, in the same shapes, or not the same text encoders.
    """
    encoders, others = base.text_encoders, tuned.text_encoders
    if encoders != others:
        raise WaveFTError(
            f"base_clip and tuned_clip: expected the same text encoders, got {listed(encoders) or 'none'} and "
            f"{listed(others) or 'none'}. Connect those of the two models that are compared."
        )
    rounding = TakenForRounding()
    found = differences(base, tuned, wanted.targets, rounding)
    count = sum(matches(place.path, wanted.targets) for name, place in base.slots.items() if name in tuned.slots)
    told = "two models and their text encoders" if encoders else "two models"
    return Given("the difference", found, count, {"from": told}, base.metadata, rounding)


def from_lora(base: Merged, name: str) -> Given:
    """Returns a LoRA file's product, layer by layer.

    Raises:
        WaveFTError: a file of another kind, layers that the base lacks, or a text encoder's without a CLIP.
    """
    path = models.lora_path(name)
    tensors, said = read_layout(path)
    of_text = sum(key.startswith(("lora_te", "text_encoder")) for key in tensors)
    if of_text and not base.text_encoders:
        raise WaveFTError(
            f'LoRA "{name}": expected a CLIP for its {of_text} text-encoder tensors, got none. Connect `base_clip` '
            "(strength_clip 0 leaves those layers out when the adapter is applied)."
        )
    count = len({_PART.sub("", key) for key in tensors})
    origin = {"lora": name, "sha256": folders.sha256(path)}
    rounding = TakenForRounding()
    found = deltas(path, base, base.spellings, rounding)
    return Given(name, found, count, origin, _trained_for(base, said), rounding)


def extract(base: Merged, given: Given, wanted: Wanted) -> tuple[Carried, str]:
    """Returns the adapter and the report; shows the progress, and ends where the user cancels.

    Raises:
        WaveFTError: nothing differs in the layers that are wanted, odd sizes, or a difference that is not finite.
    """
    bar = Progress(given.count)
    told: list[tuple[str, float, float]] = []
    try:
        with given.rounding.blamed():
            made = extract_deltas(
                _wanted(_watched(given.deltas, bar), base, wanted, given),
                **wanted.limit,
                wavelet=wanted.wavelet,
                scaling=wanted.scaling,
                metadata=given.metadata,
                report=lambda name, kept, whole: told.append((name, kept, whole)),
            )
    except WaveFTError as error:
        raise WaveFTError(f"{given.title}, {wanted.layers} layers: {error}") from None
    bar.to(given.count)
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
    if wanted.budget == IN_ALL and wanted.coefficients < len(told):
        lines.insert(
            0,
            f"warning: {describe.plural(wanted.coefficients, 'coefficient')} in all for {len(told)} layers keeps "
            f'{kept:.2%} of the energy. Did you mean the budget "{PER_LAYER}"?',
        )
    unchanged = sum(not whole for *_, whole in told)
    if unchanged:
        lines.append(f"left out: {describe.plural(unchanged, 'layer')} without a difference")
    lines += given.rounding.lines(made)
    return "\n".join(lines)
