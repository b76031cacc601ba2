"""The real sizes: SDXL's whole UNet in bf16 (5 GB of memory), random weights. Marker slow."""

import pytest
import torch

from benchmarks.load import full_adapter, full_unet
from waveft_core import Spec, attach, load, merge, save
from waveft_core.update.targets import select

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def unet():
    return full_unet(torch.bfloat16)


def test_the_paper_s_adapter_goes_in_and_comes_out_bit_for_bit(unet, tmp_path):
    targets = select(unet, Spec().targets)
    originals = [target.weight.clone() for target in targets]
    adapter = full_adapter(unet, Spec())
    assert len(adapter.layers) == 560
    assert sum(layer.values.numel() for layer in adapter.layers.values()) == 1_451_520

    save(adapter, tmp_path / "full.safetensors")
    assert 11.5e6 < (tmp_path / "full.safetensors").stat().st_size < 11.9e6
    adapter = load(tmp_path / "full.safetensors")

    merged = merge(unet, adapter)
    for target, original in list(zip(targets, originals, strict=True))[::37]:
        expected = (original.float() + adapter.delta(target.name)).to(torch.bfloat16)
        assert torch.equal(target.weight, expected)
        assert not torch.equal(target.weight, original)
    merged.undo()
    assert all(torch.equal(target.weight, original) for target, original in zip(targets, originals, strict=True))


def test_attached_weights_are_the_merged_ones(unet):
    adapter = full_adapter(unet, Spec(wavelet="db2"))
    tuning = attach(unet, adapter)
    attached = [target.weight.clone() for target in select(unet, Spec().targets)]
    tuning.detach()
    merged = merge(unet, adapter)
    assert all(torch.equal(a.weight, b) for a, b in zip(select(unet, Spec().targets), attached, strict=True))
    merged.undo()
