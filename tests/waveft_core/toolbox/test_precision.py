import pytest
import torch

from waveft_core import WaveFTError, extract
from waveft_core.toolbox.precision import difference, unrounded

NARROW = (torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2)
SHAPE = (64, 48)


def weights(seed=0):
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)) * 0.05


def held(weight, dtype, wide=torch.float32):
    return weight.to(dtype).to(wide)


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("as_fp32", [False, True])
def test_the_tuned_files_own_rounding_is_no_difference(dtype, as_fp32):
    base, told = weights(), []
    tuned = held(base, dtype) if as_fp32 else base.to(dtype)
    if as_fp32 and dtype.itemsize == 1:
        return  # fp8's numbers in a wider file are not looked for
    found = difference("a", base, tuned, lambda *said: told.append(said))
    assert not found.any()
    assert told == [("a", int((held(base, dtype) != base).sum()), dtype)]


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("tuned", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_a_base_that_was_rounded_itself_is_no_difference_either(dtype, tuned):
    whole = weights()
    if tuned in (torch.float16, torch.bfloat16) and dtype.itemsize == 2 and tuned == dtype:
        return
    told = []
    assert not difference("a", whole.to(dtype), whole.to(tuned), lambda *said: told.append(said)).any()
    assert told


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("of_base", [torch.float32, torch.bfloat16, torch.float16])
def test_training_is_kept_whatever_the_two_are_stored_in(dtype, of_base):
    """As small as half a step of bf16 of a typical weight: entries near 0 show that it is no rounding."""
    before, change = held(weights(), of_base), 1e-4 * weights(1).sign()
    tuned = (before + change).to(dtype)
    found = difference("a", before.to(of_base), tuned)
    kept = found != 0
    assert torch.equal(found[kept], (tuned.float() - before)[kept])
    expected = held(before, dtype) != tuned.float() if dtype != torch.float32 else torch.ones(SHAPE, dtype=torch.bool)
    assert torch.equal(kept, expected & (found != 0))
    assert kept.float().mean() > (0.9 if dtype != torch.bfloat16 else 0.2)


def test_an_entry_that_changed_is_kept_among_rounded_ones():
    base = weights()
    tuned = base.clone()
    tuned[3] += 0.01
    told = []
    found = difference("a", base, tuned.bfloat16(), lambda *said: told.append(said))
    assert found[3].all()
    found[3] = 0
    assert not found.any()
    assert told[0][1] == int((held(base, torch.bfloat16) != base).sum()) - int(
        (held(base, torch.bfloat16) != base)[3].sum()
    )


def test_equal_weights_are_told_of_nothing():
    told = []
    assert not difference("a", weights(), weights(), lambda *said: told.append(said)).any()
    assert told == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
def test_a_stored_difference_of_rounding_is_none(dtype, stored):
    base, told = weights(), []
    delta = held(held(base, dtype) - base, stored)
    assert not unrounded("a", base, delta, stored, lambda *said: told.append(said)).any()
    assert told == [("a", int((delta != 0).sum()), dtype)]
    delta[0, 0] += 0.1
    assert torch.equal(unrounded("a", base, delta, stored), delta)


def test_extract_leaves_out_what_storage_explains_and_says_so():
    base = {f"{name}.weight": weights(number) for number, name in enumerate("abc")}
    tuned = {name: weight.bfloat16() for name, weight in base.items()}
    told = []
    arguments = {"coefficients": 20, "targets": ("a", "b", "c"), "rounding": lambda *said: told.append(said)}
    with pytest.raises(WaveFTError, match="none that differs"):
        extract(base, tuned, **arguments)
    assert [name for name, *_ in told] == ["lora_a", "lora_b", "lora_c"]
    tuned["b.weight"] = (base["b.weight"] + 0.01 * weights(9)).bfloat16()
    assert list(extract(base, tuned, **arguments).layers) == ["lora_b"]
