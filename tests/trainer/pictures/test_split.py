import hashlib

import pytest

from trainer.pictures import split
from trainer.pictures.split import Share
from trainer.pictures.subsets import Remarks


def digests(count, first=0):
    return {hashlib.sha256(str(number).encode()).hexdigest() for number in range(first, first + count)}


def out(*shares, trained=()):
    remarks = Remarks()
    held = split.held_out([Share("[validation]", *share) for share in shares], set(trained), remarks)
    return held, remarks


@pytest.mark.parametrize(
    ("count", "part", "wanted"), [(20, 0.2, 4), (10, 0.25, 3), (5, 0.1, 1), (3, 0.99, 2), (9, 0, 0)]
)
def test_the_part_is_rounded_and_one_is_always_trained(count, part, wanted):
    held, remarks = out((part, 0, digests(count)))
    assert len(held) == wanted
    assert held <= digests(count)
    assert not remarks.problems


def test_it_depends_on_seed_and_content_alone():
    held = [out((0.3, seed, digests(20)))[0] for seed in (0, 0, 1)]
    assert held[0] == held[1] != held[2]
    more = out((0.3, 0, digests(21)))[0]
    assert len(held[0] & more) >= 5  # one picture more does not turn everything over


def test_what_one_dataset_keeps_out_no_other_trains():
    both, other = digests(10), digests(10, first=5)
    held, _ = out((0.3, 0, both), (0.0, 0, other))
    assert held == out((0.3, 0, both))[0]
    held, _ = out((0.3, 0, both), (0.3, 7, other))
    assert held >= out((0.3, 0, both))[0] | out((0.3, 7, other))[0]


def test_a_dataset_that_others_would_empty_keeps_one():
    few, all_of_them = digests(2), digests(10)
    held, _ = out((0.9, 0, all_of_them), (0.0, 0, few))
    assert not held >= few
    assert len(held) in (8, 9)


def test_regularisation_pictures_are_never_out():
    held, _ = out((0.5, 0, digests(10)), trained=digests(5))
    assert held
    assert not held & digests(5)


def test_too_few_pictures_for_the_part_are_said():
    _, remarks = out((0.04, 0, digests(8)))
    assert remarks.notices == ["[validation] validation_split: 0.04 of 8 pictures is none; 0.13 would be one"]
    assert "expected at least one picture to be kept out of training, got none" in remarks.problems[0]
    held, remarks = out((0.1, 0, digests(1, first=10)), (0.5, 0, digests(4)))
    assert len(held) == 2
    assert "has 1 picture that may be kept out, and one must stay" in remarks.notices[0]
    assert not remarks.problems
