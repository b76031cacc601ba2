import contextlib

import pytest
import torch

from trainer.base import precision
from trainer.job import schema
from trainer.system.errors import UserError


def test_the_cpu_is_fp32_by_itself():
    place = precision.choose(schema.Train(device="cpu"))
    assert (place.device.type, place.dtype, place.name) == ("cpu", torch.float32, "no")
    assert not place.scaler().is_enabled()
    with place.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_bf16_on_the_cpu_where_asked_for():
    place = precision.choose(schema.Train(device="cpu", mixed_precision="bf16"))
    assert place.name == "bf16"
    with place.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


def test_fp16_scales_the_loss():
    assert precision.choose(schema.Train(device="cpu", mixed_precision="fp16")).scaler().is_enabled()


class FakeCuda:
    """A GPU of this name that has bf16 by itself, emulated, or not at all."""

    def __init__(self, monkeypatch, native, emulated):
        self.native, self.emulated, self.current = native, emulated, None
        monkeypatch.setattr(precision, "best_device", lambda: torch.device("cuda:1"))
        monkeypatch.setattr(torch.cuda, "device", self.device)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", self.supported)

    @contextlib.contextmanager
    def device(self, device):
        self.current = device
        yield
        self.current = None

    def supported(self, including_emulation=True):
        assert self.current == torch.device("cuda:1")  # not of whichever GPU is the first
        return self.native or (including_emulation and self.emulated)


@pytest.mark.parametrize(
    ("native", "emulated", "auto"),
    [(True, False, torch.bfloat16), (False, True, torch.float32), (False, False, torch.float32)],
)
def test_auto_takes_what_the_gpu_has_by_itself(monkeypatch, native, emulated, auto):
    FakeCuda(monkeypatch, native, emulated)
    assert precision.choose(schema.Train()).dtype == auto
    if native or emulated:
        assert precision.choose(schema.Train(mixed_precision="bf16")).dtype == torch.bfloat16
    else:
        with pytest.raises(UserError, match="cuda:1 has no bf16"):
            precision.choose(schema.Train(mixed_precision="bf16"))


@pytest.mark.parametrize("name", ["cuda:99", "gpu"])
def test_a_device_that_is_not_there(name):
    with pytest.raises(UserError, match=r"\[train\] device: expected one that torch can use"):
        precision.choose(schema.Train(device=name))


@pytest.mark.parametrize(
    ("asked", "rank", "expected"), [("auto", 0, "cuda"), ("auto", 1, "cuda:1"), ("cuda", 1, "cuda:1")]
)
def test_each_process_takes_a_gpu_of_its_own(monkeypatch, asked, rank, expected):
    monkeypatch.setattr(precision, "best_device", lambda: torch.device("cuda"))
    monkeypatch.setattr(precision, "named_device", torch.device)
    monkeypatch.setattr(precision, "has_bf16", lambda device, emulated: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert str(precision.choose(schema.Train(device=asked), rank).device) == expected
    assert str(precision.choose(schema.Train(device="cuda:0"), rank).device) == "cuda:0"
    with pytest.raises(UserError, match="expected a GPU for each process, got process 3 on a machine with 2"):
        precision.choose(schema.Train(device=asked), 2)


def test_processes_share_the_cpu():
    assert precision.choose(schema.Train(device="cpu"), 3).device.type == "cpu"
