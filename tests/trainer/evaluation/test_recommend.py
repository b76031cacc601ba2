"""The advice for runs that overfit, that learned nothing, that copy, and for those with little to go by."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from trainer.evaluation import recommend
from trainer.evaluation.candidates import Candidate
from trainer.evaluation.photos import Photos
from trainer.evaluation.scoring import Scores, Subject

PHOTOS = Photos((object(),) * 4, (object(),) * 2)
SUBJECT = Subject(torch.eye(4), torch.eye(2), None, None, {"held_out": [0.8] * 4, "trained": [0.82] * 4}, 0.85)
KEYS = [(number, seed) for number in range(6) for seed in range(3)]
PLAIN = [(number, seed) for number in range(6, 9) for seed in range(3)]


def scores(fidelity, drift=0.0, prompt=30.0, copy=0.5, seeds=0.4, measure="held_out", noise=0.02, seed=0):
    """Scores about these means, the same noise for each candidate."""
    rng = np.random.default_rng(seed)
    hard = {key: rng.normal(scale=0.1) for key in (*KEYS, *PLAIN)}

    def column(mean, keys=KEYS):
        values = {key: mean + hard[key] + rng.normal(scale=noise) for key in keys}
        shift = mean - sum(values.values()) / len(values)
        return {key: value + shift for key, value in values.items()}

    columns = {measure: column(fidelity), "copy": dict.fromkeys(KEYS, copy), "seeds": column(seeds, KEYS[::3])}
    columns |= {"drift": dict.fromkeys(PLAIN, drift), "plain_apart": dict.fromkeys(PLAIN, 0.4)}
    if prompt is not None:
        columns |= {"prompt": column(prompt), "prompt_by_chance": dict.fromkeys(KEYS, 20.0)}
    return Scores(columns)


def step(number, strength=1.0):
    return Candidate(number, strength, Path(f"step{number}.safetensors"), str(number))


def advise(found, photos=PHOTOS, subject=SUBJECT):
    return recommend.advise({Candidate(0): scores(0.3)} | found, subject, photos, "prompts")


def test_an_overfitted_end_is_not_taken_and_its_price_is_told():
    found = {
        step(100): scores(0.5, 0.02, 29.0),
        step(200): scores(0.7, 0.05, 28.5),
        step(500): scores(0.74, 0.3, 22.0),
        step(900): scores(0.75, 0.38, 20.5),
    }
    advice = advise(found)
    assert advice.candidate == step(200)
    assert "80% of the way" in advice.reason
    assert "step 900 is more like the photos, at a price: kept of the base 88% -> 5%" in advice.reason


def test_the_weaker_strength_wins_where_it_drifts_less():
    advice = advise({step(500, 0.6): scores(0.68, 0.05), step(500): scores(0.7, 0.3)})
    assert advice.candidate == step(500, 0.6)
    assert "strength 0.6" in advice.reason


def test_noise_is_called_nothing():
    advice = advise({step(100): scores(0.3, 0.01, seed=0, noise=0.05), step(200): scores(0.295, 0.2)})
    assert advice.candidate is None
    assert advice.verdict == "nothing learned"
    assert "0 inside the interval" in advice.reason


def seen_twice(image, clip, seed=0):
    """Scores of which the CLIP has its own."""
    both = scores(image, 0.05, seed=seed)
    both.columns["clip_held_out"] = scores(clip, seed=seed).columns["held_out"]
    return both


TWO_SEE = Subject(torch.eye(4), torch.eye(2), None, None, SUBJECT.ceilings | {"clip_held_out": [0.8] * 4}, 0.85)


def test_what_the_clip_alone_sees_was_learned():
    base, blind = seen_twice(0.3, 0.3), seen_twice(0.3, 0.5, seed=1)
    advice = recommend.advise({Candidate(0): base, step(100): blind}, TWO_SEE, PHOTOS, "prompts")
    assert advice.candidate == step(100)
    assert "40% of the way" in advice.reason
    assert "So the CLIP says, at 99%; at best step 100 is +0.000 from the base to the image network" in advice.reason


def test_the_clip_is_held_to_more_than_who_looked_first():
    base, close = seen_twice(0.3, 0.3), seen_twice(0.3, 0.3, seed=1)
    shift = dict(zip(KEYS, np.repeat([0.012, -0.001, 0.004, 0.009, 0.006, -0.003], 3), strict=True))
    close.columns["clip_held_out"] = {key: base.columns["clip_held_out"][key] + shift[key] for key in KEYS}
    column, before = close.columns["clip_held_out"], base.columns["clip_held_out"]
    assert recommend.difference(column, before, "prompts").is_above_zero
    advice = recommend.advise({Candidate(0): base, step(100): close}, TWO_SEE, PHOTOS, "prompts")
    assert advice.verdict == "nothing learned"
    assert "the CLIP sees no more" in advice.reason


def test_where_both_see_it_the_image_network_decides_and_the_clip_is_told():
    found = {Candidate(0): seen_twice(0.3, 0.3), step(100): seen_twice(0.5, 0.75, seed=1)}
    advice = recommend.advise(found, TWO_SEE, PHOTOS, "prompts")
    assert "40% of the way" in advice.reason
    assert "The CLIP has it go 90% of the way from" in advice.reason


def test_past_the_photos_own_score_no_percentage_is_said():
    found = {Candidate(0): seen_twice(0.3, 0.78), step(100): seen_twice(0.85, 0.9, seed=1)}
    reason = recommend.advise(found, TWO_SEE, PHOTOS, "prompts").reason
    assert "it goes all of the way from the base" in reason
    assert "The CLIP has it go all of the way" in reason


def test_a_clip_that_cannot_tell_them_apart_is_quoted_so():
    base, taught = seen_twice(0.3, 0.79), seen_twice(0.5, 0.79, seed=1)
    reason = recommend.advise({Candidate(0): base, step(100): taught}, TWO_SEE, PHOTOS, "prompts").reason
    assert "The CLIP sees +0.000, with 0 inside the interval." in reason
    worse = seen_twice(0.5, 0.6, seed=1)
    reason = recommend.advise({Candidate(0): base, step(100): worse}, TWO_SEE, PHOTOS, "prompts").reason
    assert reason.endswith("The CLIP sees -0.190.")


@pytest.mark.parametrize("ceilings", [{"held_out": []}, {"held_out": [0.25, 0.28]}])
def test_without_a_way_to_go_the_gain_is_said_and_ranks(ceilings):
    """One photo has no score of its own, and the base may be as like the photos as they are to each other."""
    subject = dataclasses.replace(SUBJECT, ceilings=ceilings)
    advice = advise({step(100): scores(0.4, 0.05), step(200): scores(0.6, 0.05)}, subject=subject)
    assert advice.candidate == step(200)
    assert "it goes +0.300 from the base;" in advice.reason


def test_copies_of_the_photos_are_reported_and_not_taken():
    advice = advise({step(100): scores(0.7, copy=0.99), step(200): scores(0.75, copy=0.999)})
    assert advice.candidate is None
    assert advice.verdict == "copies"
    assert "100% of the pictures are nearer" in advice.reason
    assert advise({step(50): scores(0.5), step(100): scores(0.8, copy=0.99)}).candidate == step(50)


def test_steps_that_all_changed_the_base_beyond_another_prompt_are_not_taken():
    advice = advise({step(100): scores(0.7, 0.5), step(200): scores(0.75, 0.6)})
    assert advice.candidate is None
    assert advice.verdict == "changed"
    assert "with step 100" in advice.reason
    assert "125% as far" in advice.reason
    assert advise({step(50): scores(0.4, 0.1), step(100): scores(0.7, 0.5)}).candidate == step(50)


def test_past_the_photos_own_score_nothing_is_better():
    """A later step that outdoes the photographs themselves is only further from the base."""
    assert advise({step(100): scores(0.8, 0.05), step(200): scores(0.9, 0.1)}).candidate == step(100)


def test_without_a_held_out_photo_it_says_what_that_costs():
    found = {Candidate(0): scores(0.3, measure="trained"), step(100): scores(0.7, measure="trained")}
    photos = Photos((object(),) * 3, ())
    advice = recommend.advise(found, SUBJECT, photos, "prompts")
    assert advice.candidate == step(100)
    assert "the photos that it was trained on" in advice.reason
    assert "rewards copying them. With so few photos" in advice.reason
    assert "validation_split" in Photos((object(),) * 5, ()).cost()
    assert "One photo was held out" in Photos((object(),) * 5, (object(),)).cost()
    assert PHOTOS.cost() == ""


def test_what_was_not_measured_does_not_count():
    bare = scores(0.5, prompt=None)
    bare.columns.pop("drift")
    shares = recommend.weigh(bare, scores(0.3), SUBJECT, "held_out")
    assert shares.learned == pytest.approx(0.4)
    assert math.isnan(shares.kept)
    assert math.isnan(shares.obeyed)
    assert shares.worth == pytest.approx(0.4)


def test_nothing_drawn_is_nothing_to_compare():
    assert advise({}).candidate is None
    assert recommend.advise({Candidate(0): Scores(), step(1): Scores()}, SUBJECT, PHOTOS, "prompts").candidate is None


def test_a_single_photo_has_no_pair_to_copy_against():
    lonely = Subject(torch.eye(1), torch.empty(0, 0), None, None, {}, math.nan)
    assert math.isnan(recommend.copies(scores(0.5, copy=1.0), lonely))
    assert advise({step(9): scores(0.6, copy=1.0)}, subject=lonely).verdict == "take"
