"""What a training step allocates: the claim is about tensors, so tensors are counted, not bytes of a process."""

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from waveft_core import Spec, attach
from waveft_core.update import gradient
from waveft_core.update.gradient import Sampler

M, N, TOKENS = 96, 64, 40  # no activation has M * N entries


class WeightSized(TorchDispatchMode):
    """Counts new tensors with as many entries as the weight, and how many of them live at once."""

    def __init__(self):
        super().__init__()
        self.made, self.most, self.alive = [], 0, {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {
            leaf.untyped_storage()._cdata for leaf in args if isinstance(leaf, torch.Tensor) and not leaf.is_sparse_csr
        }
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if not isinstance(tensor, torch.Tensor) or tensor.layout is not torch.strided or tensor.numel() < M * N:
                continue
            storage = tensor.untyped_storage()
            if storage._cdata in given or storage._cdata in self.alive:
                continue  # a view, or the weight written in place
            self.made.append(str(func))
            key = storage._cdata
            self.alive[key] = weakref.finalize(tensor, self.alive.pop, key, None)
            self.most = max(self.most, len(self.alive))
        return out


def count(way, monkeypatch, wavelet="db1"):
    monkeypatch.setattr(Sampler, "sampling_pays", lambda self: way == "sampled")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(N, M), nn.Linear(M, N)).requires_grad_(False)
    x = torch.randn(TOKENS, N, requires_grad=True)
    tuning = (
        attach(model, Spec(coefficients=10 if wavelet == "db8" else 50, wavelet=wavelet, targets=("0", "1")))
        if way != "frozen"
        else None
    )
    optimizer = torch.optim.AdamW(tuning.parameters()) if tuning else None
    gc.collect()
    with WeightSized() as seen:
        for _ in range(3):
            model(x).square().sum().backward()
            if optimizer:
                optimizer.step()
                optimizer.zero_grad()
    return seen


def test_the_sampled_way_makes_no_tensor_of_a_weights_size(monkeypatch):
    assert count("sampled", monkeypatch).made == count("frozen", monkeypatch).made == []


@pytest.mark.parametrize("wavelet", ["db1", "db8"])
def test_the_dense_way_holds_at_most_one_at_a_time(wavelet, monkeypatch):
    monkeypatch.setattr(gradient, "GATHERED_AT_ONCE", M * N // 8)  # as far below a weight as it is at SDXL's sizes
    seen = count("dense", monkeypatch, wavelet)
    assert len(seen.made) >= 6  # the count sees what it should: a GEMM a layer and step
    assert seen.most == 1


def test_the_forward_alone_allocates_what_the_frozen_model_does():
    model = nn.Sequential(nn.Linear(N, M)).requires_grad_(False)
    x = torch.randn(TOKENS, N)

    class Allocations(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            calls.append(str(func))
            return func(*args, **(kwargs or {}))

    calls: list[str] = []
    with Allocations():
        model(x)
    frozen = list(calls)
    attach(model, Spec(coefficients=50, targets=("0",)))
    calls.clear()
    with Allocations():
        model(x)
    assert [call for call in calls if "detach" not in call and "alias" not in call] == frozen
