import pytest
import torch

A, B = "lora_unet_a", "lora_unet_b"


@pytest.fixture
def arithmetic(comfy):
    return comfy("adapters.arithmetic")


@pytest.fixture
def one(make_adapter, carry):
    return carry(make_adapter({A: (8, 8)}, seed=1), "one")


@pytest.fixture
def two(make_adapter, carry):
    return carry(make_adapter({A: (8, 8), B: (6, 4)}, seed=2, scaling=3.0), "two")


def close(got, expected):
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


def test_a_sum_is_the_sum_of_the_deltas(arithmetic, one, two):
    made = arithmetic.combined([(one, 0.5), (two, -2.0)])
    close(made.adapter.delta(A), 0.5 * one.adapter.delta(A) - 2 * two.adapter.delta(A))
    close(made.adapter.delta(B), -2 * two.adapter.delta(B))
    assert made.title == "0.5 * one + -2 * two"
    assert made.origin == {"combined": [{"weight": 0.5, "of": one.origin}, {"weight": -2.0, "of": two.origin}]}


def test_weights_of_0_are_left_out_and_one_alone_is_itself(arithmetic, comfy, one, two):
    assert arithmetic.combined([(one, 1.0), (two, 0.0)]) is one
    halved = arithmetic.combined([(one, 0.5), (two, 0.0)])
    close(halved.adapter.delta(A), 0.5 * one.adapter.delta(A))
    assert halved.origin == {"scaled": 0.5, "of": one.origin}
    with pytest.raises(comfy("core").WaveFTError, match="zeros alone"):
        arithmetic.combined([(one, 0.0), (two, 0.0)])
    with pytest.raises(comfy("core").WaveFTError, match="other than 0"):
        arithmetic.weighted(one, 0)


def test_titles_are_read_as_they_are_meant(arithmetic, comfy, one, two):
    both = arithmetic.combined([(one, 1.0), (two, 1.0)])
    assert arithmetic.weighted(one, 0.5).title == "0.5 * one"
    half = arithmetic.weighted(both, 0.5)
    assert half.title == "0.5 * (one + two)"
    assert arithmetic.combined([(both, 0.5), (one, 2.0)]).title == "0.5 * (one + two) + 2 * one"
    assert arithmetic.combined([(both, 1.0), (one, 1.0)]).title == "one + two + one"
    assert arithmetic.weighted(half, 3.0).title == "3 * 0.5 * (one + two)"
    assert arithmetic.weighted(arithmetic.pruned(both, 5), 0.5).title == "0.5 * (one + two)"
    assert comfy("adapters.describe").combination([(both, 0.5)], half, half).startswith("0.5 * (one + two): ")


def test_trigger_phrases_of_what_is_added_stay(arithmetic, make_adapter, carry):
    phrases = {"a": "zwx dog", "b": "blue", "c": "", "d": "zwx dog"}
    parts = [
        (carry(make_adapter({A: (8, 8)}, seed=seed, metadata={"modelspec.trigger_phrase": phrase}), title), 1.0)
        for seed, (title, phrase) in enumerate(phrases.items())
    ]
    assert arithmetic.combined(parts).adapter.metadata == {"modelspec.trigger_phrase": "zwx dog, blue"}
    (dog, _), (blue, _), *_ = parts
    assert arithmetic.combined([(dog, 1.0), (blue, -1.0)]).adapter.metadata["modelspec.trigger_phrase"] == "zwx dog"


def test_another_wavelet_is_refused_with_the_nodes_own_remedy(arithmetic, comfy, one, make_adapter, carry):
    other = carry(make_adapter({A: (8, 8)}, wavelet="db2"), "other")
    with pytest.raises(comfy("core").WaveFTError, match='set other_basis to "reproject"'):
        arithmetic.combined([(one, 1.0), (other, 1.0)])


def test_another_wavelet_is_rewritten_and_its_loss_told(arithmetic, one, make_adapter, carry):
    other = carry(make_adapter({A: (8, 8)}, wavelet="db2", p=4), "other")
    parts, lines = arithmetic.in_one_basis([(one, 1.0), (other, 2.0)])
    assert parts[0] == (one, 1.0)
    rewritten = parts[1][0]
    assert rewritten.adapter.wavelet == "db1"
    lost = rewritten.origin["relative_error"]
    whole = other.adapter.delta(A)
    assert lost == pytest.approx(float((rewritten.adapter.delta(A) - whole).norm() / whole.norm()), rel=1e-4)
    assert lines == [f"other: db2 periodization -> db1 periodization, relative error {lost:.2%}"]
    told = []
    again = (carry(make_adapter({A: (8, 8), B: (6, 4)}, wavelet="db3"), "again"), 1.0)
    arithmetic.in_one_basis([*parts[:1], (other, 2.0), again], lambda *step: told.append(step))
    assert told == [(1, 3)] * 3, "of all layers that are rewritten, and no others"
    assert arithmetic.combined(parts).adapter.layers


def test_pruning_keeps_the_largest(arithmetic, two):
    made = arithmetic.pruned(two, 5)
    for name, layer in two.adapter.layers.items():
        kept = made.adapter.layers[name]
        assert set(kept.values.abs().tolist()) == set(layer.values.abs().topk(5).values.tolist())
    assert made.origin == {"pruned": {"coefficients": 5}, "of": two.origin}
    assert arithmetic.pruned(two, 1000) is two
