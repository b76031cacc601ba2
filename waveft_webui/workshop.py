"""What the WaveFT tab does: the core's toolbox on the UI's own files. It knows nothing of the page."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from . import tags
from .applying import is_text
from .core import (
    SDXL_ATTENTION,
    Adapter,
    TakenForRounding,
    WaveFTError,
    Weights,
    combine,
    differences_to,
    extract_deltas,
    hub_metadata,
    matches,
    merge_files,
    reproject,
    rounded_to,
    save,
    size_text,
    trained_on,
)
from .describing import described
from .files import read
from .places import Places

Tell = Callable[[int, int], None]  # told what was done since the last call, and how much there is
BUDGETS = {
    "coefficients a layer": "coefficients",
    "share of each layer's energy": "energy",
    "coefficients in all": "total",
}
_TITLE = "modelspec.title"


@dataclass(frozen=True)
class Workshop:
    """The tab's four tools.

    Attributes:
        places: the UI's files.
        tags_of: splits a text as the UI splits a prompt: (what is left, {kind of network: its tags}).
    """

    places: Places
    tags_of: Callable[[str], tuple[str, Mapping[str, Sequence[Any]]]]

    def merge(self, checkpoint: str, prompt: str, name: str, tell: Tell) -> str:
        """Writes a checkpoint with adapters in it, and returns a report.

        Args:
            checkpoint: one of `Places.checkpoints`.
            prompt: tags, as a prompt has them.
            name: of the new file.

        Raises:
            WaveFTError: bad input, or adapters that do not fit whole; nothing is written then.
        """
        base, out = self.places.checkpoint(checkpoint), self.places.new_checkpoint(name)
        parts = self._parts(prompt)
        written = merge_files(base, parts, out, progress=tell)
        config = base.with_suffix(".yaml")
        if config.is_file():  # A1111 reads what kind of model it is there
            shutil.copyfile(config, out.with_suffix(".yaml"))
        self.places.refresh()
        return "\n".join(
            [
                *(f"merged {_stem(adapter)} at {strength:g}" for adapter, strength in parts),
                f"{written.layers:,} of {written.touched:,} layers changed, the rest byte for byte that of {base.name}",
                f"wrote {out} ({size_text(written.size)}). Refresh the list of checkpoints to choose it.",
            ]
        )

    def combine(self, prompt: str, convert: bool, name: str, tell: Tell) -> str:
        """Writes the weighted sum of adapters as one, and returns a report.

        Args:
            convert: whether those of another wavelet are rewritten in the first one's, with a loss that is said.

        Raises:
            WaveFTError: as `merge`, or adapters in different bases.
        """
        out = self.places.new_adapter(name)
        parts, lines = self._parts(prompt), []
        if convert:
            first = parts[0][0]
            for number, (adapter, weight) in enumerate(parts):
                if adapter.wavelet != first.wavelet:
                    made, error = reproject(adapter, first.wavelet, progress=tell)
                    parts[number] = made, weight
                    lines.append(f"{_stem(adapter)}: {adapter.wavelet} -> {first.wavelet}, relative error {error:.2%}")
        return "\n".join([*lines, self._write(combine(parts), out)])

    def extract(
        self, checkpoint: str, tuned: str, budget: str, amount: float, wavelet: str, name: str, tell: Tell
    ) -> str:
        """Writes the adapter that comes closest to what was made of a checkpoint, and returns a report.

        Args:
            tuned: a fine-tuned checkpoint, or an adapter of any kind that was trained on this one.
            budget: one of `BUDGETS`.
            amount: of that.

        Raises:
            WaveFTError: bad input, or two that do not belong together; nothing is written then.
        """
        out, base = self.places.new_adapter(name), self.places.checkpoint(checkpoint)
        other = self.places.lora(tuned) if tuned in self.places.loras() else self.places.checkpoint(tuned)
        kind = BUDGETS.get(budget)
        if kind is None:
            raise WaveFTError(f'budget: expected one of {", ".join(BUDGETS)}, got "{budget}".')
        whole_number = amount is not None and float(amount).is_integer()  # the page gives all numbers as floats
        chosen: dict[str, Any] = {kind: int(amount) if whole_number and kind != "energy" else amount}
        held = Weights.open(base)
        count = sum(matches(slot.path, SDXL_ATTENTION) for slot in held.slots.values())
        kept = whole = 0.0

        def report(_layer: str, energy: float, energy_in_all: float) -> None:
            nonlocal kept, whole
            kept, whole = kept + energy, whole + energy_in_all
            tell(1, count)

        rounded = TakenForRounding()
        with rounded.blamed():
            made = extract_deltas(
                differences_to(other, held, None, rounded),
                wavelet=wavelet,
                metadata=trained_on(held, other),
                report=report,
                **chosen,
            )
        share = f"{kept / whole:.2%} of the energy of the difference" if whole else "no energy"
        return "\n".join([f"kept {share}", *rounded.lines(made), self._write(made, out)])

    def inspect(self, name: str) -> tuple[str, Any]:
        """Returns what an adapter is, and the picture of its energy (PIL, None for none).

        Raises:
            WaveFTError: there is none of that name, or it is damaged.
        """
        return described(read(str(self.places.adapter(name)), name).whole, metadata=True)

    def _parts(self, prompt: str) -> list[tuple[Adapter, float]]:
        """Returns the adapters that the tags name, and how strongly: in two parts where the sides differ."""
        left, found = self.tags_of(prompt or "")
        others = [kind for kind in found if kind != "lora"]
        if left.strip() or others or not found.get("lora"):
            got = left.strip() or ", ".join(others) or "none"
            raise WaveFTError(f"adapters: expected tags such as <lora:dog:0.8>, got {got}. Choose an adapter to add.")
        parts: list[tuple[Adapter, float]] = []
        for tag in found["lora"]:
            name = str(tag.positional[0]) if tag.positional else ""
            unet, te = tags.strengths(name, tag)
            path = str(self.places.adapter(name))
            loaded = read(path, name, tags.multipliers(name, tag.named))
            if loaded.adapter is not None:
                adapter = loaded.adapter
                if loaded.factors:  # a checkpoint's metadata and the report call it so
                    adapter = replace(adapter, source=f"{loaded.title}.safetensors")
                parts += _sides(adapter, unet, te)
        if not parts:
            raise WaveFTError("adapters: expected a strength other than 0, got none. Raise one.")
        return parts

    def _write(self, adapter: Adapter, out: Path) -> str:
        made = rounded_to(adapter, torch.float32).adapter
        made = replace(made, metadata={**made.metadata, _TITLE: out.stem}, source="")
        save(made, out, hub_metadata(made))
        self.places.refresh()
        count = sum(layer.values.numel() for layer in made.layers.values())
        size = size_text(out.stat().st_size)
        return f"wrote {out}: {len(made.layers):,} layers, {count:,} coefficients ({size}). It is in the Lora tab."


def _sides(adapter: Adapter, unet: float, te: float) -> list[tuple[Adapter, float]]:
    if unet == te:
        return [(adapter, unet)] if unet else []
    found = []
    for strength, text in ((unet, False), (te, True)):
        layers = {name: layer for name, layer in adapter.layers.items() if is_text(name) == text}
        if layers and strength:
            found.append((replace(adapter, layers=layers), strength))
    return found


def _stem(adapter: Adapter) -> str:
    return Path(adapter.source).stem or "an adapter"
