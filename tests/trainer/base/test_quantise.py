import sys
import types

import pytest
import torch
from torch import nn

from trainer.base import quantise
from waveft_core import Spec, attach

LINEAR = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"


def load_unet(folder, dtype=torch.float32):
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel.from_pretrained(folder, subfolder="unet").to(dtype).requires_grad_(False).eval()


def gradients(unet, beside, dtype=torch.float32):
    """Returns the loss, and the coefficients' gradients, of one forward and backward pass."""
    tuning = attach(unet, Spec(coefficients=64), beside=beside)
    generator = torch.Generator().manual_seed(0)
    latents, context, pooled = (
        torch.randn(shape, generator=generator).to(dtype) for shape in ((1, 4, 8, 8), (1, 77, 24), (1, 16))
    )
    latents.requires_grad_(True)  # for checkpointing
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        conditions = {"text_embeds": pooled, "time_ids": torch.ones(1, 6)}
        loss = unet(latents, torch.tensor([500]), context, added_cond_kwargs=conditions).sample.float().square().mean()
    loss.backward()
    made = torch.cat([values.grad.flatten() for values in tuning.parameters()])
    tuning.detach()
    return loss.detach(), made


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_eight_bits_compute_as_weights_rounded_to_them(base_folder, dtype, checkpointing):
    """The forward and the backward pass both see the rounded weights, in the place's dtype."""
    rounded, casted = load_unet(base_folder, dtype), load_unet(base_folder, dtype)
    for name, layer in rounded.named_modules():
        if type(layer) is nn.Linear and "norm" not in name:
            for parameter in layer.parameters():
                parameter.data = parameter.data.to(torch.float8_e4m3fn).to(dtype)
    quantise.to_fp8(casted, dtype)
    if checkpointing:
        casted.enable_gradient_checkpointing()
        casted.train()
    expected = gradients(rounded, beside=True, dtype=dtype)
    loss, made = gradients(casted, beside=True, dtype=dtype)
    assert loss == expected[0]
    assert torch.equal(made, expected[1])
    assert made.any()


def test_eight_bits_are_what_is_stored(base_folder):
    unet = load_unet(base_folder, torch.bfloat16)
    quantise.to_fp8(unet, torch.bfloat16)
    kinds = {name: parameter.dtype for name, parameter in unet.named_parameters()}
    assert kinds[f"{LINEAR}.weight"] == torch.float8_e4m3fn
    assert kinds["conv_in.weight"] == torch.bfloat16
    assert all(kind == torch.bfloat16 for name, kind in kinds.items() if "norm" in name)
    assert unet.dtype == torch.bfloat16, "what it computes in"


class Params4bit(nn.Parameter):
    """bitsandbytes' weight, as far as it goes: whole until it is moved."""

    def __new__(cls, data, requires_grad=False, quant_type="fp4", module=None):
        made = torch.Tensor._make_subclass(cls, data, requires_grad)
        made.quant_type, made.module = quant_type, module
        return made


class Linear4bit(nn.Linear):
    def __init__(self, input_features, output_features, bias=True, compute_dtype=None, quant_type="fp4", device=None):
        super().__init__(input_features, output_features, bias, device)
        self.weight = Params4bit(self.weight.data, quant_type=quant_type, module=self)
        self.compute_dtype = compute_dtype


@pytest.fixture
def bitsandbytes(monkeypatch):
    fake = types.ModuleType("bitsandbytes")
    fake.nn = types.ModuleType("bitsandbytes.nn")
    fake.nn.Linear4bit, fake.nn.Params4bit = Linear4bit, Params4bit
    monkeypatch.setitem(sys.modules, "bitsandbytes", fake)
    monkeypatch.setitem(sys.modules, "bitsandbytes.nn", fake.nn)


def test_four_bit_layers_take_the_place_of_linear_ones(base_folder, bitsandbytes):
    unet, original = load_unet(base_folder), load_unet(base_folder)
    quantise.to_nf4(unet, torch.bfloat16)
    layers = dict(unet.named_modules())
    made, before = layers[LINEAR], original.get_submodule(LINEAR)
    assert (type(made), type(made.weight), made.weight.quant_type) == (Linear4bit, Params4bit, "nf4")
    assert (made.weight.module, made.compute_dtype, made.training) == (
        made,
        torch.bfloat16,
        True,
    )  # or it repacks itself
    assert torch.equal(made.weight, before.weight)
    assert torch.equal(layers[f"{LINEAR[:-4]}to_out.0"].bias, original.get_submodule(f"{LINEAR[:-4]}to_out.0").bias)
    assert not any(parameter.requires_grad or parameter.is_meta for parameter in unet.parameters())
    kinds = {name: type(layer) for name, layer in layers.items() if isinstance(layer, nn.Linear)}
    assert kinds["time_embedding.linear_1"] is nn.Linear
    assert all(kind is Linear4bit for name, kind in kinds.items() if "attentions." in name)


def test_updates_run_beside_four_bit_layers(base_folder, bitsandbytes):
    unet, plain = load_unet(base_folder), load_unet(base_folder)
    expected = gradients(plain, beside=False)
    quantise.to_nf4(unet, torch.float32)
    loss, made = gradients(unet, beside=False)  # the core sees by itself that the weight is no plain one
    assert torch.allclose(loss, expected[0])
    assert torch.allclose(made, expected[1], atol=1e-7)
    tuning = attach(unet, Spec(coefficients=64))
    assert set(tuning.ways.values()) == {"beside"}


@pytest.mark.filterwarnings("ignore")  # its own, as it loads
def test_the_real_bitsandbytes(base_folder):
    pytest.importorskip("bitsandbytes")
    unet = load_unet(base_folder)
    quantise.to_nf4(unet, torch.float32)
    unet.to("cpu")  # quantises
    assert unet.get_submodule(LINEAR).weight.dtype == torch.uint8
    tuning = attach(unet, Spec(coefficients=64))
    assert set(tuning.ways.values()) == {"beside"}
    tuning.detach()
    with torch.no_grad():  # as samples before training do
        conditions = {"text_embeds": torch.zeros(1, 16), "time_ids": torch.ones(1, 6)}
        unet(torch.zeros(1, 4, 8, 8), torch.tensor([500]), torch.zeros(1, 77, 24), added_cond_kwargs=conditions)
    loss, made = gradients(unet, beside=False)
    expected = gradients(load_unet(base_folder), beside=False)
    assert torch.allclose(loss, expected[0], rtol=0.1)
    assert torch.nn.functional.cosine_similarity(made, expected[1], dim=0) > 0.9
