import gc

import pytest
import torch
from torch import nn

from waveft_core import WaveFTError
from waveft_core.basis.plan import arithmetic_dtype
from waveft_core.basis.planning import make_plan
from waveft_core.update.active import Update
from waveft_core.update.ledger import _BY_MEMORY, ledger_of
from waveft_core.update.storage import WEIGHT_DTYPES, check_weight


def update(indices=(0, 5), values=(1.0, 2.0), factor=1.0, shape=(4, 4), wavelet="db1", dtype=torch.float32):
    plan = make_plan(wavelet, "periodization", shape, torch.tensor(indices, dtype=torch.int32), arithmetic_dtype(dtype))
    return Update("lora_x", plan, torch.tensor(values, dtype=arithmetic_dtype(dtype)), factor)


def weight(dtype=torch.float32):
    return torch.randn(4, 4, generator=torch.Generator().manual_seed(0)).to(dtype)


def test_one_weight_has_one_ledger_as_long_as_someone_holds_it():
    held = weight()
    ledger = ledger_of(held, "x")
    ledger.add(update())
    assert ledger_of(held, "x") is ledger
    assert ledger_of(held.detach(), "x") is ledger  # the same memory by another tensor
    assert ledger_of(nn.Parameter(held, requires_grad=False), "x") is ledger
    assert ledger_of(weight(), "x") is not ledger
    del ledger
    gc.collect()
    assert ledger_of(held, "x").updates == []


def test_a_ledger_is_not_found_by_memory_that_was_handed_on():
    for _ in range(50):  # the allocator gives the same address again and again
        held = weight()
        ledger = ledger_of(held, "x")
        assert ledger.updates == []
        assert ledger.weight is held
        ledger.add(update())
        del held, ledger


def test_only_the_touched_entries_are_kept_and_written():
    held = weight()
    base = held.clone()
    ledger = ledger_of(held, "x")
    ledger.add(update())
    assert sorted(ledger.places.entries().tolist()) == [0, 1, 4, 5, 10, 11, 14, 15]
    assert torch.equal(ledger.originals, base.view(-1)[ledger.places.entries()])
    assert torch.equal(ledger.written, held.view(-1)[ledger.places.entries()])
    untouched = [2, 3, 6, 7, 8, 9, 12, 13]
    assert torch.equal(held.view(-1)[untouched], base.view(-1)[untouched])
    assert torch.equal(ledger.original_weight(), base)
    assert not torch.equal(held, base)


def test_write_reads_the_values_and_the_factor_anew(bits):
    held = weight()
    base = held.clone()
    ledger, one = ledger_of(held, "x"), update()
    ledger.add(one)
    first = held.clone()
    one.values.mul_(2)
    assert torch.equal(held, first)
    ledger.write()
    doubled = held.clone()
    torch.testing.assert_close(doubled - base, 2 * (first - base))
    one.factor = 0.0
    ledger.write()
    assert bits(held) == bits(base)


def test_an_update_of_zeros_leaves_the_same_numbers():
    held = weight()
    base = held.clone()
    ledger_of(held, "x").add(update(values=(0.0, 0.0)))
    assert torch.equal(held, base)


def test_removing_what_is_not_there_changes_nothing(bits):
    held = weight()
    ledger = ledger_of(held, "x")
    ledger.add(update())
    before = bits(held)
    ledger.remove(update())
    assert bits(held) == before
    assert len(ledger.updates) == 1


def test_a_weight_that_moved_in_memory_is_followed(bits):
    layer = nn.Linear(4, 4, bias=False).requires_grad_(False)
    base = layer.weight.clone()
    ledger, one = ledger_of(layer.weight, "x"), update()
    ledger.add(one)
    layer.weight.data = layer.weight.data.clone()
    assert ledger.changed()
    ledger.remove(one)
    assert bits(layer.weight) == bits(base)
    assert not ledger.changed()


def test_a_weight_that_moves_for_every_use_leaves_no_trail_of_addresses(bits):
    gc.collect()
    before = len(_BY_MEMORY)
    layer, kept = nn.Linear(4, 4, bias=False).requires_grad_(False), []
    base = bits(layer.weight)
    ledger, one = ledger_of(layer.weight, "x"), update()
    ledger.add(one)
    for _ in range(50):
        kept.append(layer.weight.data)  # so that no address is used twice
        layer.weight.data = layer.weight.data.clone()
        ledger.write()
        assert ledger_of(layer.weight.detach(), "x") is ledger
    assert len(_BY_MEMORY) == before + 1
    ledger.remove(one)
    assert bits(layer.weight) == base


def test_the_same_memory_in_another_dtype_is_another_weight():
    held = weight(torch.bfloat16)
    ledger = ledger_of(held, "x")
    other = ledger_of(held.view(torch.float16), "x")
    assert other is not ledger
    assert ledger_of(held.detach(), "x") is ledger


def test_a_fused_tensor_and_its_first_slice_have_each_their_own_ledger():
    fused = torch.randn(8, 4)
    whole, part = ledger_of(fused, "x"), ledger_of(fused[:4], "x")
    assert whole is not part
    assert ledger_of(fused.detach(), "x") is whole
    assert ledger_of(fused[:4], "x") is part


def test_a_ledger_goes_over_to_an_equal_weight_in_the_place_of_its_own(bits):
    held = weight()
    before = bits(held)
    ledger, one = ledger_of(held, "x"), update()
    ledger.add(one)
    other = held.clone()
    ledger.take(other)
    assert ledger_of(other, "x") is ledger
    ledger.remove(one)
    assert bits(other) == before


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda w: w + 1, "as it was last written"),
        (lambda w: w[:2].clone(), r"a weight of \[4, 4\], got one of \[2, 4\]"),
    ],
)
def test_a_ledger_stays_with_its_own_where_the_other_differs(spoil, message, bits):
    held = weight()
    before = bits(held)
    ledger, one = ledger_of(held, "x"), update()
    ledger.add(one)
    other = spoil(held)
    content = bits(other)
    with pytest.raises(WaveFTError, match=f'layer "x": expected .*{message}'):
        ledger.take(other)
    assert bits(other) == content
    assert ledger.weight is held
    ledger.remove(one)
    assert bits(held) == before


def test_an_entry_that_nobody_touched_may_change_meanwhile():
    held = weight()
    base = held.clone()
    ledger, one = ledger_of(held, "x"), update()
    ledger.add(one)
    held[0, 2] = 9.0
    ledger.remove(one)
    base[0, 2] = 9.0
    assert torch.equal(held, base)


def test_a_weight_whose_memory_layout_changes_is_followed(bits):
    layer = nn.Linear(4, 4, bias=False).requires_grad_(False)
    before, plain = bits(layer.weight), layer.weight.clone()
    ledger, other = ledger_of(layer.weight, "lora_x"), ledger_of(plain, "y")
    one = update()
    ledger.add(one)
    other.add(update())
    layer.weight.data = layer.weight.data.t().contiguous().t()
    one.values.mul_(2)
    ledger.write()
    one.values.div_(2)
    ledger.write()
    assert torch.equal(layer.weight, plain)
    ledger.remove(one)
    assert bits(layer.weight) == before


@pytest.mark.parametrize("dtype", WEIGHT_DTYPES, ids=str)
def test_the_last_one_out_leaves_w0_after_many_rounds(dtype, bits):
    wide = weight(dtype).double()  # an older torch cannot write single entries of fp8
    wide[0, 0], wide[1, 1] = -0.0, torch.finfo(dtype).smallest_normal / 2
    held = wide.to(dtype)
    before = bits(held)
    ledger = ledger_of(held, "x")
    generator = torch.Generator().manual_seed(7)
    inside = []
    for round_ in range(40):
        if inside and torch.rand(1, generator=generator) < 0.5:
            ledger.remove(inside.pop(int(torch.randint(len(inside), (1,), generator=generator))))
        else:
            start = int(torch.randint(14, (1,), generator=generator))
            one = update((start, start + 1), wavelet=("db1", "db3")[round_ % 2], dtype=dtype, factor=0.3 * round_)
            ledger.add(one)
            inside.append(one)
        for one in inside:
            one.values.add_(0.01)
        ledger.write()
    while inside:
        ledger.remove(inside.pop(0))
    assert bits(held) == before
    assert len(ledger.places) == 0


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int64, torch.bool, torch.complex64])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(
        WaveFTError, match=r'layer "here": expected a weight of float32, bfloat16, float16, float64, .*, got'
    ):
        check_weight(torch.zeros(4, 4).to(dtype), "here")


def test_a_meta_weight_is_refused_before_its_dtype_is_looked_at():
    with pytest.raises(WaveFTError, match='layer "here": expected a weight with data, got a meta tensor'):
        check_weight(torch.zeros(4, 4, device="meta"), "here")


STRIDED = {
    "transposed": lambda w: w.t().contiguous().t(),
    "steps": lambda w: torch.stack([w, w + 1], dim=-1)[..., 0],
    "columns": lambda w: torch.cat([w + 1, w, w + 2], dim=1)[:, w.shape[1] : 2 * w.shape[1]],
}


@pytest.mark.parametrize("lay", STRIDED.values(), ids=STRIDED.keys())
def test_a_strided_weight_is_written_where_it_lies_and_nowhere_else(lay, bits):
    plain = torch.randn(4, 4, generator=torch.Generator().manual_seed(1))
    held = lay(plain.clone())
    assert not held.is_contiguous()
    whole = torch.empty(0).set_(held.untyped_storage())  # with what lies between the entries
    before = bits(whole)
    ledger, one = ledger_of(held, "here"), update()
    ledger.add(one)
    ledger_of(plain, "plain").add(update())
    assert torch.equal(held, plain)
    ledger.remove(one)
    assert bits(whole) == before


@pytest.mark.parametrize(
    "make", [lambda: torch.zeros(4, 1).expand(4, 4), lambda: torch.zeros(10).as_strided((4, 4), (1, 2))]
)
def test_a_weight_whose_entries_share_memory_is_refused(make):
    with pytest.raises(WaveFTError, match="expected a weight whose entries have memory of their own, got strides"):
        ledger_of(make(), "here")
