"""What cells say together: fronts, differences at equal cost, the best point, and what the reader must know first."""

import numpy as np
import pytest

from trainer.comparison import cautions, choice, plots, summary, verdict
from trainer.comparison.page import page
from trainer.measures.intervals import Figure


def record(method, rate, seed, points, subject="dog", status="done"):
    base = {"step": 0, "cmmd": None, "columns": columns(0.3, 0.0, 30.0)}
    return {
        "subject": subject, "method": method, "rate": rate, "seed": seed, "digest": "d", "status": status,
        "error": "no memory", "points": [base, *points],
        "train": {"seconds_per_step": 0.1 * (seed + 1), "peak_memory": 2**30, "file_bytes": 5000, "parameters": 1200},
    }  # fmt: skip


def columns(fidelity, drift, prompt):
    """Two prompts of two seeds each about these means; the base's own room for drift is 0.4."""
    keys = [f"{number}/{seed}" for number in range(2) for seed in range(2)]
    return {
        "held_out": {key: fidelity + 0.01 * at for at, key in enumerate(keys, -1)},
        "drift": dict.fromkeys(("2/0", "2/1"), drift),
        "seeds": {"0/0": 0.4, "1/0": 0.4},
        "plain_apart": {"2/0": 0.4},
        "prompt": dict.fromkeys(keys, prompt),
        "prompt_by_chance": dict.fromkeys(keys, 20.0),
        "copy": dict.fromkeys(keys, 0.5),
    }


def point(step, fidelity, drift, prompt=30.0):
    return {"step": step, "cmmd": None, "columns": columns(fidelity, drift, prompt)}


def ladder(gain):
    """A method's points: fidelity rises with drift, by `gain` more than the other's."""
    return [point(step, 0.3 + gain + 2 * drift, drift) for step, drift in ((50, 0.05), (100, 0.1), (200, 0.2))]


@pytest.fixture
def results():
    records = {
        f"{subject}-{method}-{seed}": record(method, rate, seed, ladder(gain), subject)
        for subject in ("dog", "cup")
        for seed in range(3)
        for method, rate, gain in (("waveft", 1e-4, 0.1), ("lora:1", 1e-3, 0.04))
    }
    return summary.gather(records, ["waveft", "lora:1"])


def test_at_equal_drift_the_difference_is_the_gain(results):
    found = summary.differences(results)
    assert [cost for cost, _ in found] == pytest.approx([0.05, 0.1, 0.2])
    for _, each in found:
        assert each["lora:1"].mean == pytest.approx(-0.06)
        assert each["lora:1"].values == 6
        assert each["lora:1"].groups == 2, "intervals are drawn over subjects"
        assert each["lora:1"].is_below_zero


def test_the_base_is_the_front_s_beginning(results):
    held = summary.front(results, "waveft")
    assert set(held) == {(subject, seed) for subject in ("dog", "cup") for seed in range(3)}
    np.testing.assert_allclose(sorted(held["dog", 0].tolist())[:2], [[0, 0], [0.05, 0.2]], atol=1e-9)


def test_the_prompt_s_plane_costs_what_reading_loses():
    records = {
        method: record(method, 1e-4, 0, [point(50, 0.4, 0.1, 29.0), point(99, 0.4 + gain, 0.1, 27.0)])
        for method, gain in (("waveft", 0.2), ("shira", 0.1))
    }
    found = summary.differences(summary.gather(records, ["waveft", "shira"]), "prompt")
    assert [cost for cost, _ in found] == pytest.approx([1, 3**0.5, 3])
    assert found[-1][1]["shira"].mean == pytest.approx(-0.1)


def test_the_best_point_is_neither_the_first_nor_the_one_that_drifts_most():
    points = [point(50, 0.35, 0.01), point(100, 0.6, 0.08), point(200, 0.65, 0.35)]
    records = {f"c{seed}": record("waveft", 1e-4, seed, points) for seed in range(3)}
    chosen = choice.best(summary.gather(records, ["waveft"]), "waveft")
    assert (chosen.rate, chosen.step) == (1e-4, 100)
    assert chosen.figures["held_out"].mean == pytest.approx(0.605)
    assert chosen.cells == {("dog", seed): f"c{seed}" for seed in range(3)}


def test_what_some_method_has_not_done_yet_is_in_no_mean():
    pairs = {f"{method}-{seed}": ("dog", seed) for method in ("waveft", "shira") for seed in range(2)}
    records = {name: record(name.partition("-")[0], 1e-4, seed, ladder(seed / 10)) for name, (_, seed) in pairs.items()}
    whole = summary.gather(records, ["waveft", "shira"], pairs)
    assert not whole.left_out
    unfinished = summary.gather(records | {"shira-1": None}, ["waveft", "shira"], pairs)
    assert {point.pair for point in unfinished.points} == {("dog", 0)}
    assert unfinished.left_out == [("dog", 1)]
    best = [choice.best(one, "waveft").figures["held_out"].mean for one in (whole, unfinished)]
    assert best[0] - best[1] == pytest.approx(0.05), "the mean over the pair that both have"
    assert "1 pair of subject and seed that every method has done; 1 that some" in cautions.warnings(unfinished)[-1]
    none = summary.gather(records | {"shira-1": None, "shira-0": None}, ["waveft", "shira"], pairs)
    assert len(none.points) == 6, "no pair is whole: what there is"
    assert "No subject and seed is done by all methods" not in cautions.warnings(none)[-1], "one method alone"
    none = summary.gather(records | {"shira-1": None, "waveft-0": None}, ["waveft", "shira"], pairs)
    assert "No subject and seed is done by all methods" in cautions.warnings(none)[-1]


def test_costs_are_medians(results):
    assert summary.cost(results, "waveft") == pytest.approx(
        {"seconds_per_step": 0.2, "peak_memory": 2**30, "file_bytes": 5000, "parameters": 1200}
    )


def test_one_rate_one_seed_one_subject_and_failures_are_said_first():
    records = {"a": record("waveft", 1e-4, 0, ladder(0)), "b": record("lora", 1e-3, 0, [], status="failed"), "c": None}
    found = cautions.warnings(summary.gather(records, ["waveft", "lora"]))
    text = " ".join(found)
    assert "One learning rate alone was tried for waveft, lora" in text
    assert "factors of up to 700" in text
    assert "One subject alone" in text
    assert "One seed alone" in text
    assert "1 cells failed: b" in text
    assert "1 of 3 cells are not done yet" in text


def test_a_best_rate_at_the_edge_is_said_of_all_methods_at_once():
    records = {f"{rate}": record("waveft", rate, 0, ladder(rate)) for rate in (0.1, 0.2, 0.3)}
    records |= {f"shira {rate}": record("shira", rate, 0, ladder(-rate)) for rate in (0.1, 0.2)}
    records |= {f"lora {rate}": record("lora", rate, 0, ladder(gain)) for rate, gain in ((1, 0), (2, 0.4), (3, 0))}
    results = summary.gather(records, ["waveft", "shira", "lora"])
    [said] = cautions.at_the_edge(results)
    assert said.startswith("Best at the lowest rate that was tried: shira (0.1); at the highest rate that was tried: ")
    assert ": waveft (0.3). Try beyond it" in said and "lora" not in said
    assert said in cautions.warnings(results)


def side_by_side(gains, subjects=("dog", "cup", "hat"), seeds=1):
    """Results of waveft and of shira, whose fidelity is by each subject's gain above it."""
    records = {
        f"{method}-{subject}-{seed}": record(method, 1e-4, seed, ladder(gain if method == "shira" else 0), subject)
        for subject, gain in zip(subjects, gains, strict=False)
        for seed in range(seeds)
        for method in ("waveft", "shira")
    }
    return summary.gather(records, ["waveft", "shira"])


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        ((0.05, 0.04, 0.06), "shira is more faithful than waveft at every drift that was looked at (+0.050 [+0.025"),
        ((-0.05, -0.04, -0.06), "shira is less faithful than waveft at every drift"),
        ((0.05, -0.06, 0.02), "shira beside waveft: no difference that chance could not make (+0.003 ["),
        ((0.05,), "shira beside waveft: fidelity +0.050 at drift 0.05, of 1 pair of subject and seed. That is too few"),
    ],
)
def test_the_verdict_says_what_the_intervals_do(gains, expected):
    [said] = verdict.verdict(side_by_side(gains))
    assert said.startswith(expected)


def figure(mean, low, high, pairs):
    return Figure(mean, low, high, pairs, 3)


def test_a_verdict_quotes_the_figures_that_decide_it_and_names_both_sides():
    level, ahead = figure(0.007, -0.02, 0.039, 9), figure(0.022, 0.002, 0.042, 3)
    wider, behind = figure(0.03, 0.01, 0.05, 5), figure(-0.011, -0.017, -0.004, 4)
    assert verdict.beside("fourierft", "waveft", [(0.25, level), (0.23, ahead)]) == (
        "fourierft is more faithful than waveft at 1 of 2 drifts (+0.022 [+0.002, +0.042] at drift 0.23, 3 pairs)."
    )
    assert verdict.beside("shira", "waveft", [(0.2, behind), (0.22, level), (0.25, ahead), (0.3, wider)]) == (
        "shira is more faithful than waveft at 2 of 4 drifts (+0.030 [+0.010, +0.050] at drift 0.3, 5 pairs), "
        "and less faithful than waveft at 1 of 4 drifts (-0.011 [-0.017, -0.004] at drift 0.2, 4 pairs)."
    )


def test_a_drift_that_one_subject_alone_reaches_is_no_figure_while_others_are():
    alone, three = Figure(0.5, float("nan"), float("nan"), 1, 1), figure(0.007, -0.02, 0.039, 3)
    said = verdict.beside("shira", "waveft", [(0.3, alone), (0.2, three)])
    assert said.endswith("no difference that chance could not make (+0.007 [-0.020, +0.039] at drift 0.2, 3 pairs).")
    said = verdict.beside("shira", "waveft", [(0.3, alone)])
    assert (
        said == "shira beside waveft: fidelity +0.500 at drift 0.3, of 1 pair of subject and seed. "
        "That is too few to say more."
    )


def test_a_method_that_came_to_nothing_is_said():
    spoilt = [point(50, 0.9, 0.5)]  # drift beyond another prompt's
    records = {"a": record("waveft", 1e-4, 0, ladder(0.1)), "b": record("shira", 1e-4, 0, spoilt)}
    said = verdict.verdict(summary.gather(records, ["waveft", "shira"]))
    assert said[-1].startswith("shira came to nothing")
    assert not any(text.startswith("waveft came to nothing") for text in said)


def test_a_plane_in_which_nothing_was_lost_is_not_drawn():
    read_better = [point(step, 0.4, 0.1 * step, 31.0) for step in (1, 2)]
    lost = summary.gather({"a": record("waveft", 1e-4, 0, [*ladder(0), point(300, 0.9, 0.3, 29.0)])}, ["waveft"])
    gained = summary.gather({"a": record("waveft", 1e-4, 0, read_better)}, ["waveft"])
    assert [len(plots.figure(one).axes) for one in (lost, gained)] == [2, 1]


def test_nothing_done_is_a_page_too(tmp_path):
    empty = summary.gather({"a": None}, ["waveft", "lora"])
    assert plots.draw(empty) == ""
    assert summary.differences(empty) == []
    text = page("none", empty, tmp_path, {}, [])
    assert "1 of 1 cells are not done yet" in text


def test_the_page_shows_fronts_table_and_costs(results, tmp_path):
    text = page("both", results, tmp_path, {"dog": [], "cup": []}, [("interval", "prompts")])
    assert text.count("<svg") == 1
    assert "fidelity above waveft&#x27;s</th><th>at drift 0.0" in text
    assert "-0.060 [-0.060, -0.060] (6 pairs)" in text
    assert "lora:1 is less faithful than waveft at every drift that was looked at" in text
    assert "lite0_similarity, held-out photos" in text
    assert "1,200" in text
    assert "200 ms" in text
