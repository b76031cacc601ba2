import pytest
import torch

from trainer import precision, schema
from trainer.errors import UserError


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


def test_auto_takes_what_the_gpu_has(monkeypatch):
    monkeypatch.setattr(precision, "best_device", lambda: torch.device("cuda"))
    for has, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda has=has: has)
        assert precision.choose(schema.Train()).dtype == dtype
    with pytest.raises(UserError, match="cuda has no bf16"):
        precision.choose(schema.Train(mixed_precision="bf16"))


@pytest.mark.parametrize("name", ["cuda:99", "gpu"])
def test_a_device_that_is_not_there(name):
    with pytest.raises(UserError, match=r"\[train\] device: expected one that torch can use"):
        precision.choose(schema.Train(device=name))
