"""Intervals of constants, of known spreads, and against percentiles worked out by hand."""

import math

import numpy as np
import pytest

from trainer.measures.intervals import bootstrap, paired, quantile, student, student_paired


def test_a_constant_has_an_interval_without_width():
    found = bootstrap([0.25] * 20, [number // 4 for number in range(20)])
    assert (found.mean, found.low, found.high) == (0.25, 0.25, 0.25)
    assert (found.values, found.groups) == (20, 5)


def test_it_is_numpy_s_percentiles_of_the_same_draws():
    values = np.random.default_rng(3).normal(size=30)
    picks = np.random.default_rng(7).integers(0, 30, (500, 30))
    expected = np.percentile(values[picks].mean(axis=1), (5, 95))
    found = bootstrap(values, resamples=500, level=0.9, seed=7)
    assert (found.low, found.high) == pytest.approx(tuple(expected))
    assert found.mean == pytest.approx(values.mean())
    assert bootstrap(values, seed=7) == bootstrap(values, seed=7) != bootstrap(values, seed=8)


def test_its_width_is_the_standard_error_s():
    values = np.random.default_rng(0).normal(size=400)
    found = bootstrap(values)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.05)


def test_groups_that_differ_make_it_wider_than_their_pictures_do():
    groups = [number // 100 for number in range(500)]
    values = [group + 0.01 * (number % 100) for number, group in enumerate(groups)]
    by_group, by_value = (bootstrap(values, groups, unit) for unit in ("groups", "values"))
    assert by_group.mean == pytest.approx(by_value.mean)
    assert by_group.high - by_group.low > 5 * (by_value.high - by_value.low)


def test_a_group_weighs_the_same_however_many_pictures_it_has():
    assert bootstrap([0, 0, 0, 1], ["a", "a", "a", "b"]).mean == 0.5
    assert bootstrap([0, 0, 0, 1], ["a", "a", "a", "b"], "values").mean == 0.25


def test_one_group_says_nothing_of_others():
    found = bootstrap([1, 2, 3], ["a"] * 3)
    assert found.mean == 2
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert not found.is_above_zero
    assert math.isnan(bootstrap([]).mean)
    assert bootstrap([]).values == 0


def test_pairs_cancel_what_both_sides_share():
    rng = np.random.default_rng(0)
    hard = {key: rng.normal(scale=10) for key in range(40)}
    first = {key: value + 0.1 + rng.normal(scale=0.01) for key, value in hard.items()}
    found = paired(first, hard)
    assert found.is_above_zero
    assert found.low < 0.1 < found.high or found.mean == pytest.approx(0.1, abs=0.01)
    assert paired(hard, first).is_below_zero
    assert paired(hard, hard) == bootstrap([0.0] * 40)


def test_only_shared_keys_are_paired_and_groups_follow_them():
    found = paired({1: 1.0, 2: 5.0, 3: 7.0}, {2: 1.0, 3: 1.0, 4: 0.0}, {1: "a", 2: "b", 3: "b", 4: "c"})
    assert (found.mean, found.values, found.groups) == (5.0, 2, 1)


def test_values_without_a_group_are_refused():
    with pytest.raises(ValueError, match="one for each of 2 values, got 1"):
        bootstrap([1, 2], ["a"])


def test_student_s_interval_of_three_groups_is_the_textbook_s():
    found = student([1.0, 3.0, 2.0, 5.0], ["a", "a", "b", "c"])  # means 2, 2, 5: standard deviation sqrt(3)
    assert (found.mean, found.values, found.groups) == (3.0, 4, 3)
    assert found.high - found.mean == pytest.approx(4.303, rel=1e-3)  # t of two degrees, times sqrt(3) / sqrt(3)
    assert found.mean - found.low == pytest.approx(found.high - found.mean)
    one = student([1.0, 3.0], ["a", "a"])
    assert one.mean == 2 and math.isnan(one.low) and not one.is_above_zero and not one.is_below_zero
    assert student([], []).values == 0


def test_student_s_interval_of_pairs_is_that_of_their_differences():
    first, second = {1: 1.0, 2: 9.0, 3: 4.0, 4: 7.0}, {2: 8.0, 3: 1.0, 4: 2.0, 5: 0.0}  # apart by 1, 3, 5
    groups = {1: "a", 2: "a", 3: "b", 4: "c", 5: "c"}
    assert student_paired(first, second, groups) == student([1.0, 3.0, 5.0], "abc")
    assert student_paired(first, second, groups, 0.9) == student([1.0, 3.0, 5.0], "abc", 0.9)
    assert student_paired(first, {5: 1.0}, groups).values == 0


def test_student_s_quantiles_are_the_tables():
    found = [quantile(degrees) for degrees in (1, 2, 5, 10, 60, 10_000)]
    assert found == pytest.approx([12.706, 4.303, 2.571, 2.228, 2.000, 1.960], abs=1e-3)
    assert quantile(4, 0.99) == pytest.approx(4.604, abs=1e-3)


def test_student_s_interval_misses_the_truth_once_in_twenty():
    rng = np.random.default_rng(0)
    found = [student(rng.normal(size=3).tolist(), "abc") for _ in range(2000)]
    assert np.mean([one.low <= 0 <= one.high for one in found]) == pytest.approx(0.95, abs=0.015)
    drawn = [bootstrap(rng.normal(size=3).tolist(), resamples=500) for _ in range(300)]
    assert np.mean([one.low <= 0 <= one.high for one in drawn]) < 0.85, "why few groups are not resampled"
