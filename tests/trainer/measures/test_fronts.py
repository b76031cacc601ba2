"""Fronts worked by hand: what beats what, what is out of reach, and differences at equal cost."""

import numpy as np
import pytest

from trainer.measures import fronts


def points(*pairs):
    return np.array(pairs, dtype=float)


def test_a_point_that_another_beats_is_not_on_the_front():
    held = points((0, 0), (1, 0.5), (2, 0.4), (3, 0.9))
    assert fronts.at(held, np.array([1, 2, 3.0])).tolist() == pytest.approx([0.5, 0.7, 0.9])
    assert fronts.at(held[::-1], np.array([2.0])).tolist() == pytest.approx([0.7])
    assert fronts.ahead(held[::-1]).tolist() == [[0, 0], [1, 0.5], [3, 0.9]]


def test_between_points_it_is_a_straight_line_and_beyond_them_nothing():
    held = points((1, 0.2), (3, 0.4))
    found = fronts.at(held, np.array([0.5, 2, 4]))
    assert np.isnan(found[[0, 2]]).all()
    assert found[1] == pytest.approx(0.3)


def test_of_costs_below_the_least_training_nothing_is_said():
    held = points((0, 0), (1, 0.5), (2, 0.6))
    assert np.isnan(fronts.at(held, np.array([0.5]))).all()
    assert np.isnan(fronts.at(points((0, 0)), np.array([0.0]))).all()


def test_past_its_best_point_a_front_stays_level():
    assert fronts.at(points((0, 0), (1, 0.8), (4, 0.5)), np.array([3.0])).tolist() == [0.8]


def test_of_equal_costs_the_better_counts():
    assert fronts.at(points((1, 0.9), (1, 0.1), (2, 0.9)), np.array([1.0])).tolist() == [0.9]


def test_equal_fronts_differ_by_nothing_and_shifted_ones_by_the_shift():
    one = {("dog", seed): points((0, 0), (1, 0.5 + seed / 10)) for seed in range(3)}
    better = {pair: held + np.array([0, 0.1]) for pair, held in one.items()}
    assert fronts.difference(one, one, 1.0).mean == 0
    found = fronts.difference(better, one, 1.0)
    assert (found.mean, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))
    by_subject = fronts.difference(better, one, 1.0, {pair: pair[0] for pair in one})
    assert by_subject.groups == 1


def test_only_pairs_that_both_reach_are_compared():
    one = {"a": points((0, 0), (1, 1)), "b": points((0, 0), (2, 1), (3, 1))}
    other = {pair: points((0, 0), (1, 0), (3, 0)) for pair in "abc"}
    assert fronts.difference(one, other, 2.0).values == 1


def test_costs_that_all_reach():
    one = {seed: points((0, 0), (0.1, 1), (1, 1)) for seed in range(3)}
    other = {seed: points((0, 0), (0.01, 1), (0.5, 1)) for seed in range(3)}
    assert fronts.costs_in_reach([one, other], 3).tolist() == pytest.approx([0.1, 0.1 * 5**0.5, 0.5])
    apart = {0: points((0, 0), (2, 1), (3, 1))}
    assert len(fronts.costs_in_reach([other, apart], 3)) == 0
    assert len(fronts.costs_in_reach([{0: points((0, 0))}], 3)) == 0
