"""The pictures of each candidate, drawn once: what lies in the folder already, of this adapter and base, stays."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..base import cache, encode, models, precision
from ..base.models import Base
from ..base.precision import Precision
from ..preflight.preflight import Ready
from ..samples import sampling
from ..samples.prompts import Shot
from ..system.console import counted, say
from ..system.files import write_atomically
from ..system.reading import parse_json, read_json
from .applying import applied
from .asking import Key
from .candidates import Candidate

MADE = "made.json"


@dataclass
class Painter:
    """Draws with the job's base, which is loaded when the first picture is missing.

    Attributes:
        ready: the checked job.
        folder: of a folder of pictures for each candidate.
        progress: called with how many pictures of a candidate are there, and how many there will be.
    """

    ready: Ready
    folder: Path
    progress: Callable[[int, int], None] | None = None
    _held: tuple[Base, Precision] | None = field(default=None, init=False)

    def pictures(self, candidate: Candidate, shots: Mapping[Key, Shot]) -> dict[Key, Path]:
        """Returns each picture's file, the missing ones drawn now.

        Raises:
            UserError: the adapter does not fit the base.
            TrainingStopped: a picture came out not finite.
        """
        place = self.folder / candidate.name
        begin(place, self.told(candidate, shots))
        paths = {key: place / f"{key[0]:02d}-seed{key[1]}.png" for key in shots}
        missing = [key for key, path in paths.items() if not path.is_file()]
        if missing:
            say(f"drawing {counted(len(missing), 'picture')} of {candidate.label}")
            self.draw(candidate, shots, {key: paths[key] for key in missing})
        return paths

    def told(self, candidate: Candidate, shots: Mapping[Key, Shot]) -> dict[str, Any]:
        """Returns all that the pictures depend on."""
        asked = {f"{number:02d}-seed{seed}": asdict(shot) for (number, seed), shot in shots.items()}
        return {
            "base": self.ready.facts.identity,
            "adapter": candidate.digest,
            "strength": candidate.strength,
            "precision": self.ready.job.train.mixed_precision,
            "shots": asked,
        }

    def draw(self, candidate: Candidate, shots: Mapping[Key, Shot], missing: Mapping[Key, Path]) -> None:
        """Draws and writes the missing pictures, a batch at a time: an interrupted evaluation loses one at most.

        A batch is drawn whole, whichever picture of it is missing: so what was there already shows in no picture.
        """
        base, place = self.base()
        keys, done = list(shots), 0
        with applied(base, candidate.path, candidate.strength) as reaches_text:
            texts = encode.Texts(base, place.device, cache.Store(None), trained=reaches_text)
            for numbers in sampling.batches(list(shots.values())):
                batch = [keys[number] for number in numbers]
                if not any(key in missing for key in batch):
                    continue
                drawn = sampling.draw_together(base, [shots[key] for key in batch], texts, place)
                for key, one in zip(batch, drawn, strict=True):
                    if key in missing:
                        write_atomically(missing[key], sampling.png(one))
                        done += 1
                if self.progress:
                    self.progress(done, len(missing))

    def share(self, other: Painter) -> None:
        """Takes the base that another painter of the same job loaded, if it did."""
        self._held = self._held or other._held

    def base(self) -> tuple[Base, Precision]:
        """Returns the base and what it computes in, loaded at the first call."""
        if self._held is None:
            job = self.ready.job
            place = precision.choose(job.train)
            say(f"loading the base (device {place.device}, mixed_precision {place.name})")
            self._held = models.load(job.model, place, self.ready.facts, job.train.attention), place
        return self._held


def begin(folder: Path, told: Mapping[str, Any]) -> None:
    """Makes the folder ready for these pictures: those of another adapter, base or prompt there are deleted.

    Pictures whose own shot is unchanged stay, so that a new prompt costs its own pictures alone.
    """
    path = folder / MADE
    try:
        before = read_json(path)
    except (OSError, ValueError):
        before = {}
    if before == parse_json(json.dumps(told)):
        return
    same = before and all(before.get(key) == told[key] for key in told if key != "shots")
    for picture in folder.glob("*.png"):
        if not same or before["shots"].get(picture.stem) != told["shots"].get(picture.stem):
            picture.unlink()
    write_atomically(path, json.dumps(told, indent=1))
