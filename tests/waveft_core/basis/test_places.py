"""Touched entries: read and written as they lie, whatever the dtype, the strides and where the memory begins."""

import pytest
import torch

from waveft_core.basis.places import Places, same_bits
from waveft_core.basis.planning import make_plan

DTYPES = [torch.float32, torch.bfloat16, torch.float64, torch.float8_e5m2]


def places_of(wavelet="db1", mode="periodization", shape=(8, 12)):
    return make_plan(wavelet, mode, shape, torch.tensor([0, 7, 30, 31, 95], dtype=torch.int32), torch.float32).places


def lying(how, dtype, shape=(8, 12)):
    """Returns a weight of small whole numbers, its entries in their order."""
    numbers = torch.arange(shape[0] * shape[1]) % 17 + 1.0
    if how == "whole":
        return numbers.to(dtype).view(shape)
    if how == "at an odd place":
        return torch.cat([torch.zeros(3), numbers]).to(dtype)[3:].view(shape)
    return numbers.view(shape).t().contiguous().to(dtype).t()  # strided


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("how", ["whole", "at an odd place", "strided"])
@pytest.mark.parametrize(
    ("wavelet", "mode"),
    [
        ("db1", "periodization"),
        ("db3", "periodization"),
        ("db2", "periodization"),
        ("db2", "zero"),
        ("identity", "periodization"),
    ],
)
def test_what_is_read_and_written_is_what_entries_say(wavelet, mode, how, dtype):
    places = places_of(wavelet, mode)
    assert places.paired == (wavelet in ("db1", "db3"))
    assert len(places) == len(places.entries()) == len(set(places.entries().tolist()))
    weight = lying(how, dtype)
    flat = weight.float().reshape(-1)
    assert torch.equal(places.read(weight).float(), flat[places.entries().long()])
    content = (torch.arange(len(places)) % 5 + 20.0).to(dtype)
    padded = torch.cat([content[:1], content])[1:]  # begins at an odd place itself
    places.write(weight, padded)
    flat[places.entries().long()] = content.float()
    assert torch.equal(weight.float().reshape(-1), flat)


def test_an_exchange_writes_only_where_the_expected_bits_stand():
    places, weight = places_of(), lying("whole", torch.float32)
    before, expected = weight.clone(), places.read(weight)
    content = expected + 1
    other = expected.clone()
    other[-1] += 1
    assert not places.exchange(weight, other, content)
    assert torch.equal(weight, before)
    assert places.exchange(weight, expected, content)
    assert torch.equal(places.read(weight), content)
    zero = torch.zeros(len(places))
    places.write(weight, zero)
    assert not places.exchange(weight, -zero, content), "-0.0 is not 0.0"


def test_autograd_sees_a_write_and_entries_of_ones_own_are_places_too():
    weight = lying("whole", torch.float32)
    version = weight._version
    places = Places.of(torch.tensor([5, 3], dtype=torch.int32))
    places.write(weight, torch.tensor([1.5, 2.5]))
    assert weight._version > version
    assert weight.view(-1)[[5, 3]].tolist() == [1.5, 2.5]
    assert places.to(torch.device("cpu")) is places


def test_same_bits_tells_zeros_apart_and_nans_together():
    nan = torch.tensor([float("nan")])
    assert same_bits(nan, nan.clone())
    assert not same_bits(torch.tensor([0.0]), torch.tensor([-0.0]))
