"""What cells say together: fronts, differences at equal cost, the best point, and what the reader must know first."""

import numpy as np
import pytest

from trainer.comparison import plots, summary
from trainer.comparison.page import page


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
        "plain_seeds": {"2/0": 0.4},
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
    chosen = summary.best(summary.gather(records, ["waveft"]), "waveft")
    assert (chosen.rate, chosen.step) == (1e-4, 100)
    assert chosen.figures["held_out"].mean == pytest.approx(0.605)
    assert chosen.cells == {("dog", seed): f"c{seed}" for seed in range(3)}


def test_costs_are_medians(results):
    assert summary.cost(results, "waveft") == pytest.approx(
        {"seconds_per_step": 0.2, "peak_memory": 2**30, "file_bytes": 5000, "parameters": 1200}
    )


def test_one_rate_one_seed_one_subject_and_failures_are_said_first():
    records = {"a": record("waveft", 1e-4, 0, ladder(0)), "b": record("lora", 1e-3, 0, [], status="failed"), "c": None}
    found = summary.warnings(summary.gather(records, ["waveft", "lora"]))
    text = " ".join(found)
    assert "One learning rate alone was tried for waveft, lora" in text
    assert "factors of up to 700" in text
    assert "One subject alone" in text
    assert "One seed alone" in text
    assert "1 cells failed: b" in text
    assert "1 cells are not done yet" in text


def test_a_best_rate_at_the_edge_is_said():
    records = {f"{rate}": record("waveft", rate, 0, ladder(rate)) for rate in (0.1, 0.2, 0.3)}
    assert any("best at the highest rate that was tried, 0.3" in text for text in
               summary.warnings(summary.gather(records, ["waveft"])))  # fmt: skip


def test_nothing_done_is_a_page_too(tmp_path):
    empty = summary.gather({"a": None}, ["waveft", "lora"])
    assert plots.draw(empty) == ""
    assert summary.differences(empty) == []
    text = page("none", empty, tmp_path, {}, [])
    assert "1 cells are not done yet" in text


def test_the_page_shows_fronts_table_and_costs(results, tmp_path):
    text = page("both", results, tmp_path, {"dog": [], "cup": []}, [("interval", "prompts")])
    assert text.count("<svg") == 1
    assert "fidelity less waveft&#x27;s, at equal drift" in text
    assert "-0.060 [-0.060, -0.060] (n = 6)" in text
    assert "1,200" in text
    assert "200 ms" in text
