"""Weights that are written together: the bits of each written alone, in as few kernels as there can be."""

from collections import Counter

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from waveft_core import Spec, WaveFTError, attach
from waveft_core.update.storage import end_to_end, lay_together, shared_memory
from waveft_core.update.writes import Batch

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn]


class Calls(TorchDispatchMode):
    """The calls that do something, by name."""

    def __init__(self):
        super().__init__()
        self.names = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix("aten::")
        if not func.is_view and not name.startswith(("empty", "detach", "_unsafe_view", "new_empty")):
            self.names[name] += 1
        return func(*args, **(kwargs or {}))


def stack(layers=5, together=True, dtype=torch.float32):
    torch.manual_seed(3)
    sizes = [(8, 12), (6, 8), (10, 4)]
    model = nn.ModuleList(nn.Linear(*reversed(sizes[number % 3])) for number in range(layers))
    model = model.to(dtype).requires_grad_(False)
    if together:
        lay_together(layer.weight for layer in model)
    return model


def tuned(model, spec=None):
    tuning = attach(model, spec or Spec(coefficients=9, targets=r"\d+"))
    torch.manual_seed(4)
    for values in tuning.parameters():
        values.grad = torch.randn_like(values)
    return tuning, torch.optim.SGD(tuning.parameters(), lr=0.1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("wavelet", ["db1", "db3"])
def test_together_or_apart_the_bits_are_the_same_and_undone_to_w0(dtype, wavelet):
    spec = Spec(coefficients=9, targets=r"\d+", wavelet=wavelet, mode="zero" if wavelet == "db3" else "periodization")
    apart, together = stack(together=False, dtype=dtype), stack(dtype=dtype)
    before = [layer.weight.clone() for layer in apart]
    tunings = []
    for model in (apart, together):
        tuning, optimizer = tuned(model, spec)
        optimizer.step()
        optimizer.step()  # the second with the batch that the first made
        tunings.append(tuning)
    for one, other, base in zip(apart, together, before, strict=True):
        assert torch.equal(one.weight.view(torch.uint8), other.weight.view(torch.uint8))
        assert not torch.equal(one.weight.view(torch.uint8), base.view(torch.uint8))
    for model, tuning in zip((apart, together), tunings, strict=True):
        tuning.strength = 0.0
        assert all(
            torch.equal(layer.weight.view(torch.uint8), base.view(torch.uint8))
            for layer, base in zip(model, before, strict=True)
        )
        tuning.strength = 0.7
        tuning.detach()
        assert all(
            torch.equal(layer.weight.view(torch.uint8), base.view(torch.uint8))
            for layer, base in zip(model, before, strict=True)
        )


def test_weights_that_lie_together_are_written_in_a_constant_number_of_kernels():
    found = []
    for layers in (3, 30):
        tuning, optimizer = tuned(stack(layers), Spec(9, wavelet="identity", targets=r"\d+"))  # no two meet in an entry
        optimizer.step()
        with Calls() as calls:
            tuning.refresh()
        found.append(calls.names)
    assert found[0] == found[1]
    assert found[0]["index_copy_"] == 1


def test_weights_that_lie_apart_take_one_kernel_each():
    tuning, _ = tuned(stack(30, together=False))
    batch = Batch(tuning._layers)  # on a CPU they are written one by one: no launches are saved
    with Calls() as calls:
        batch.write()
    assert calls.names["index_copy_"] == 30
    assert sum(calls.names.values()) < 30 + 40


def test_laying_together_moves_weights_and_nothing_else():
    model = stack(together=False)
    model[1].weight.requires_grad_(True)
    ids, copies = [id(layer.weight) for layer in model], [layer.weight.clone() for layer in model]
    lay_together([*(layer.weight for layer in model), model[0].weight])
    assert [id(layer.weight) for layer in model] == ids
    assert [layer.weight.requires_grad for layer in model] == [False, True, False, False, False]
    assert all(torch.equal(layer.weight, copy) for layer, copy in zip(model, copies, strict=True))
    assert shared_memory([layer.weight for layer in model]).numel() == sum(copy.numel() for copy in copies)
    assert all(isinstance(layer.weight, nn.Parameter) for layer in model)


def test_what_cannot_lie_together_stays_where_it_is():
    convolution = nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last)
    linear, wide = nn.Linear(4, 6), nn.Linear(4, 6).double()
    places = convolution.weight.data_ptr()
    lay_together([convolution.weight, linear.weight, wide.weight])
    assert convolution.weight.data_ptr() == places
    assert shared_memory([linear.weight, wide.weight]) is None


def test_a_rewrite_between_forward_and_backward_is_still_refused():
    model = stack(2)
    tuning, _ = tuned(model)
    tuning.refresh()
    x = torch.randn(3, 12, requires_grad=True)
    loss = model[0](x).sum()
    tuning.strength = 0.5
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_foreign_write_is_refused_where_weights_lie_together():
    model = stack()
    _tuning, optimizer = tuned(model)
    optimizer.step()
    with torch.no_grad():
        model[2].weight.add_(1.0)
    with pytest.raises(WaveFTError, match='layer "2"'):
        optimizer.step()
    with torch.no_grad():
        model[2].weight.sub_(1.0)


@pytest.mark.parametrize("change", ["cast", "laid together"])
def test_weights_that_move_are_followed(change):
    model, reference = stack(dtype=torch.float64), stack(dtype=torch.float64)
    tuning, optimizer = tuned(model)
    other, twin = tuned(reference)
    for one in (optimizer, twin):
        one.step()
    if change == "cast":
        model.float()
        reference.float()
    else:
        lay_together([layer.weight for layer in model][::-1])
    for one in (optimizer, twin):
        one.step()
    assert all(torch.equal(a.weight, b.weight) for a, b in zip(model, reference, strict=True))
    tuning.detach()
    other.detach()
    assert (
        all(torch.equal(a.weight, b.weight) for a, b in zip(model, stack(dtype=model[0].weight.dtype), strict=True))
        or change == "cast"
    )


def test_values_lie_end_to_end_and_move_apart():
    tuning, _ = tuned(stack())
    values = tuning.parameters()
    assert shared_memory(values) is not None
    assert end_to_end(values).data_ptr() == values[0].data_ptr()
    assert torch.equal(end_to_end(values), torch.cat(values))
    values[1].data = values[1].data.clone()
    assert end_to_end(values).data_ptr() != values[0].data_ptr()
    swapped = [values[0], values[3], values[2]]
    assert torch.equal(end_to_end(swapped), torch.cat(swapped))


def test_each_values_have_a_version_of_their_own():
    tuning, _ = tuned(stack())
    first, second, *_ = tuning.parameters()
    before = second._version
    with torch.no_grad():
        first.add_(1.0)
    assert second._version == before
