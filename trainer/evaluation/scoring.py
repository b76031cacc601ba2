"""From pictures to numbers: one for each picture and measure, keyed so that two candidates can be compared pairwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import torch
from torch import Tensor

from ..job.evalschema import Evaluation
from ..measures import similarity
from ..measures.mmd import mmd
from ..pictures import images
from .asking import Asked, Key
from .embedding import Kept, drawn, open_drawn
from .networks import Networks
from .photos import Photos, seen

Column = dict[Key, float]


@dataclass
class Scores:
    """What was measured of one candidate.

    Attributes:
        columns: measure -> picture -> number; of measures of a whole prompt the key's seed is the first one. Two are
            yardsticks and shown nowhere: "prompt_by_chance", and "plain_apart", how far plain prompts' pictures of one
            seed are from each other.
        nearest: picture -> number of the training photograph that is most like it.
        cmmd: of all its pictures of the subject, or None.
    """

    columns: dict[str, Column] = field(default_factory=dict)
    nearest: dict[Key, int] = field(default_factory=dict)
    cmmd: float | None = None


@dataclass
class Subject:
    """The photographs' side, measured once.

    Attributes:
        trained, held_out: embeddings [m, d] by the image network.
        clip_trained, clip_held_out: the same by the CLIP, or None.
        ceilings: measure -> what the photographs themselves score, by photograph.
        closest_pair: highest cosine of two photographs; NaN of one alone.
    """

    trained: Tensor
    held_out: Tensor
    clip_trained: Tensor | None
    clip_held_out: Tensor | None
    ceilings: dict[str, list[float]]
    closest_pair: float


class Scorer:
    """Measures candidates of one run.

    Args:
        settings: the definitions.
        networks: what sees.
        photos: of the subject.
        questions: the prompts.
        folder: where embeddings are kept.
    """

    def __init__(
        self, settings: Evaluation, networks: Networks, photos: Photos, questions: Sequence[Asked], folder: Path
    ) -> None:
        self.settings, self.networks, self.questions = settings, networks, {one.number: one for one in questions}
        self._images = Kept(networks.images, folder)
        self._clip = Kept(networks.clip.pictures, folder) if networks.clip else None
        self.subject = self._measure_photos(photos)

    def _measure_photos(self, photos: Photos) -> Subject:
        parts = [seen(side) for side in (photos.trained, photos.held_out)]
        trained, held_out = (self._images.of(part) for part in parts)
        clip_trained, clip_held_out = (self._clip.of(part) if self._clip else None for part in parts)
        ceilings = self._ceilings("", trained, held_out)
        if clip_trained is not None and clip_held_out is not None:
            ceilings |= self._ceilings("clip_", clip_trained, clip_held_out)
        closest = similarity.closest_pair(torch.cat([trained, held_out]) if len(held_out) else trained)
        return Subject(trained, held_out, clip_trained, clip_held_out, ceilings, closest)

    def _ceilings(self, seer: str, trained: Tensor, held_out: Tensor) -> dict[str, list[float]]:
        """Returns what the photographs themselves score, by measure: each trained one against the others."""
        return {
            f"{seer}trained": similarity.leave_one_out(trained, *self._reference).tolist(),
            f"{seer}held_out": self._fidelity(trained, held_out).tolist() if len(held_out) else [],
        }

    @property
    def _reference(self) -> tuple[similarity.Reference, bool]:
        return self.settings.reference, self.settings.normalise_before_mean

    def _fidelity(self, pictures: Tensor, photos: Tensor) -> Tensor:
        return similarity.fidelity(pictures, photos, *self._reference)

    def score(self, pictures: Mapping[Key, Path], of_base: Mapping[Key, Path]) -> Scores:
        """Returns what a candidate's pictures measure.

        Args:
            pictures: the candidate's.
            of_base: the base's, of the same prompts and seeds.
        """
        keys = [key for key in pictures if not self.questions[key[0]].is_plain]
        plain = [key for key in pictures if self.questions[key[0]].is_plain and key in of_base]
        made = Scores()
        if keys:
            self._score_subject(made, keys, pictures)
        if plain:
            moved, before = (self._images.of(drawn([side[key] for key in plain])) for side in (pictures, of_base))
            made.columns["drift"] = dict(zip(plain, similarity.distance(moved, before).tolist(), strict=True))
            made.columns["plain_apart"] = apart(plain, moved)
        return made

    def _score_subject(self, made: Scores, keys: list[Key], pictures: Mapping[Key, Path]) -> None:
        paths, subject = [pictures[key] for key in keys], self.subject
        looked = self._images.of(drawn(paths))
        for name, photos in (("held_out", subject.held_out), ("trained", subject.trained)):
            if len(photos):
                made.columns[name] = dict(zip(keys, self._fidelity(looked, photos).tolist(), strict=True))
        copy, which = similarity.nearest(looked, subject.trained)
        made.columns["copy"] = dict(zip(keys, copy.tolist(), strict=True))
        made.nearest = dict(zip(keys, which.tolist(), strict=True))
        made.columns["seeds"] = self._by_prompt(keys, looked)
        if self._clip and self.networks.clip:
            self._score_by_clip(made, keys, paths)
        if self.networks.lpips:
            made.columns["lpips_distance"] = self._lpips(keys, pictures)
            made.columns["paper_div"] = {key: 1 - value for key, value in made.columns["lpips_distance"].items()}

    def _score_by_clip(self, made: Scores, keys: list[Key], paths: list[Path]) -> None:
        assert self._clip and self.networks.clip
        all_looked, subject = self._clip.of(drawn(paths)), self.subject
        for name, photos in (("clip_held_out", subject.clip_held_out), ("clip_trained", subject.clip_trained)):
            if photos is not None and len(photos):
                made.columns[name] = dict(zip(keys, self._fidelity(all_looked, photos).tolist(), strict=True))
        read = [(number, key) for number, key in enumerate(keys) if self.questions[key[0]].read]
        if read:
            texts = self.networks.clip.texts([self.questions[key[0]].read for _, key in read])
            looked, asked = all_looked[[number for number, _ in read]], [key for _, key in read]
            made.columns["prompt"] = dict(zip(asked, similarity.clip_score(looked, texts).tolist(), strict=True))
            chance = 100 * similarity.chance_agreement(looked, texts)
            if chance.isfinite().all():
                made.columns["prompt_by_chance"] = dict(zip(asked, chance.tolist(), strict=True))
        if self.networks.reference is not None:
            made.cmmd = mmd(all_looked, self.networks.reference)

    def _by_prompt(self, keys: list[Key], looked: Tensor) -> Column:
        """Returns each prompt's mean distance between seeds, where it has two at least."""
        found: Column = {}
        for number in dict.fromkeys(number for number, _ in keys):
            rows = [at for at, key in enumerate(keys) if key[0] == number]
            if len(rows) > 1:
                found[keys[rows[0]]] = float(similarity.seed_distance(looked[rows][None])[0])
        return found

    def _lpips(self, keys: list[Key], pictures: Mapping[Key, Path]) -> Column:
        """Returns each prompt's mean LPIPS over its pairs of seeds."""
        assert self.networks.lpips
        found: Column = {}
        device = self.networks.images.device
        for number in dict.fromkeys(number for number, _ in keys):
            own = [key for key in keys if key[0] == number]
            tensors = [images.to_tensor(open_drawn(pictures[key])) for key in own]
            pairs = list(combinations(tensors, 2))
            if pairs:
                distances = [float(self.networks.lpips(a[None].to(device), b[None].to(device))) for a, b in pairs]
                found[own[0]] = sum(distances) / len(distances)
        return found


def apart(keys: Sequence[Key], looked: Tensor) -> Column:
    """Returns each picture's mean distance to those of other prompts, same seed: what a picture of no prompt would be.

    Args:
        keys: prompt and seed of each.
        looked: their embeddings [n, d].
    """
    found: Column = {}
    for row, (number, seed) in enumerate(keys):
        others = [at for at, key in enumerate(keys) if key[1] == seed and key[0] != number]
        if others:
            own = looked[row].expand(len(others), -1)
            found[number, seed] = float(similarity.distance(own, looked[others]).mean())
    return found
