"""Adapters on a pipeline by name: what `waveft_core.diffusers` loads, dials, refuses and takes off."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from waveft_core import WaveFTError, attached, merge, save
from waveft_core import diffusers as pipeline

A, B, TEXT = "lora_unet_0", "lora_unet_2", "lora_te1_text_model_q_proj"
SHAPES = {A: (12, 8), B: (6, 12)}
REFUSED = 'layer "unet.2": expected the weight as it was last written'


class Pipe:
    """What a pipeline is here: components as attributes, and weak references to it."""

    def __init__(self, unet, **more):
        self.unet = unet
        vars(self).update(more)


@pytest.fixture
def make_text(make_mlp):
    return lambda: nn.ModuleDict({"text_model": nn.ModuleDict({"q_proj": make_mlp(seed=1)[0]})})


@pytest.fixture
def pipe(make_mlp, make_text):
    return Pipe(make_mlp(), text_encoder=make_text(), text_encoder_2=None)


@pytest.fixture
def mixed(make_mlp, quantised):
    """A UNet whose first layer is quantised and whose last is float16."""
    unet = make_mlp()
    return Pipe(nn.Sequential(quantised(unet[0]), unet[1], unet[2].half()))


@pytest.fixture
def snapshot(bits):
    """snapshot(pipe) -> the bits in the weights now, not what a state dict would show of them."""

    def take(pipe):
        models = {name: held for name, held in vars(pipe).items() if held is not None}
        return {
            f"{name}.{path}": bits(weight)
            for name, model in models.items()
            for path, weight in model.named_parameters()
            if "waveft" not in path
        }

    return take


def hooks(pipe):
    return [len(layer._forward_hooks) + len(layer._forward_pre_hooks) for layer in pipe.unet]


def output(pipe):
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return pipe.unet[2](pipe.unet[1](pipe.unet[0](x)).to(pipe.unet[2].weight.dtype))


# Whole pipes: the weights hold it


@pytest.mark.parametrize("strength", [1.0, -0.6, 0.0])
def test_load_is_merge_at_that_strength_and_unload_is_the_base(
    strength, pipe, make_mlp, make_text, make_adapter, snapshot, tmp_path
):
    before, adapter = snapshot(pipe), make_adapter({**SHAPES, TEXT: (12, 8)}, 20)
    save(adapter, tmp_path / "dog.safetensors")
    twin = Pipe(make_mlp(), text_encoder=make_text())
    merge({"unet": twin.unet, "te1": twin.text_encoder}, adapter, strength)
    for given in (adapter, tmp_path / "dog.safetensors", str(tmp_path / "dog.safetensors")):
        held = pipeline.load(pipe, given, strength)
        assert held.strength == strength
        assert snapshot(pipe) == snapshot(twin)
        assert (snapshot(pipe) == before) is (strength == 0)
        assert hooks(pipe) == [0, 0, 0], "an adapter in whole weights costs nothing"
        pipeline.unload(pipe)
        assert snapshot(pipe) == before
        assert pipeline.loaded(pipe) == {}


def test_the_dial_is_merges(pipe, make_mlp, make_adapter, snapshot, bits):
    before, adapter, unet = snapshot(pipe), make_adapter(SHAPES, 20), make_mlp()
    held, other = pipeline.load(pipe, adapter), merge({"unet": unet}, adapter)
    for strength in (0.3, -2.0):
        held.strength = other.strength = strength
        assert bits(pipe.unet[0].weight) == bits(unet[0].weight)
    held.strength = 0
    assert snapshot(pipe) == before


def test_adapters_have_names_and_leave_in_any_order(pipe, make_adapter, snapshot):
    before = snapshot(pipe)
    dog = pipeline.load(pipe, make_adapter(SHAPES, 20, seed=1), name="dog")
    alone = snapshot(pipe)
    style = pipeline.load(pipe, make_adapter(SHAPES, 20, seed=2), 0.5, name="style")
    assert pipeline.loaded(pipe) == {"dog": dog, "style": style}
    pipeline.unload(pipe, "style")
    assert snapshot(pipe) == alone
    assert list(pipeline.loaded(pipe)) == ["dog"]
    pipeline.load(pipe, make_adapter(SHAPES, 20, seed=2), name="style")
    pipeline.unload(pipe, "dog")
    assert list(pipeline.loaded(pipe)) == ["style"]
    pipeline.unload(pipe)
    assert snapshot(pipe) == before
    pipeline.unload(pipe)  # with nothing in it, nothing to do


def test_what_loaded_returns_is_a_copy(pipe, make_adapter):
    pipeline.load(pipe, make_adapter(SHAPES))
    pipeline.loaded(pipe).clear()
    assert list(pipeline.loaded(pipe)) == ["default"]


def test_two_pipes_know_their_own_alone(pipe, make_mlp, make_adapter):
    other = Pipe(make_mlp())
    pipeline.load(pipe, make_adapter(SHAPES), name="dog")
    pipeline.load(other, make_adapter(SHAPES), name="cat")
    assert (list(pipeline.loaded(pipe)), list(pipeline.loaded(other))) == (["dog"], ["cat"])


def test_a_name_that_is_in_use_or_that_nobody_has_is_refused(pipe, make_adapter, snapshot):
    with pytest.raises(WaveFTError, match="expected one of the loaded adapters"):
        pipeline.unload(pipe, "dog")
    pipeline.load(pipe, make_adapter(SHAPES, seed=1), name="dog")
    inside = snapshot(pipe)
    with pytest.raises(WaveFTError, match="name: expected one that is not in use, got 'dog'"):
        pipeline.load(pipe, make_adapter(SHAPES, seed=2), name="dog")
    with pytest.raises(WaveFTError, match=r"""expected one of the loaded adapters \("dog"\), got 'cat'"""):
        pipeline.unload(pipe, "cat")
    assert snapshot(pipe) == inside
    assert list(pipeline.loaded(pipe)) == ["dog"]


def test_a_component_that_is_left_out_keeps_its_bits(pipe, make_adapter, snapshot):
    before, adapter = snapshot(pipe), make_adapter({**SHAPES, TEXT: (12, 8)}, 20)
    pipeline.load(pipe, adapter, leave_out={"te1"})
    after = snapshot(pipe)
    assert {name for name in before if after[name] != before[name]} == {"unet.0.weight", "unet.2.weight"}
    pipeline.unload(pipe)
    assert snapshot(pipe) == before
    pipe.text_encoder = None
    with pytest.raises(WaveFTError, match=TEXT):
        pipeline.load(pipe, adapter)
    pipeline.load(pipe, adapter, leave_out=["te1", "te2"])
    assert list(pipeline.loaded(pipe)) == ["default"]


@pytest.mark.parametrize("unet", [None, "unet", SimpleNamespace()])
def test_a_pipe_without_a_unet_is_refused(unet, make_adapter):
    with pytest.raises(WaveFTError, match="pipe: expected a pipeline with a UNet, got Pipe"):
        pipeline.load(Pipe(unet), make_adapter(SHAPES))


# What others wrote meanwhile


def test_unload_after_a_foreign_write_is_refused_and_can_be_tried_again(pipe, make_adapter, snapshot):
    before = snapshot(pipe)
    held = pipeline.load(pipe, make_adapter(SHAPES, 20))
    own = pipe.unet[2].weight.clone()
    pipe.unet[2].weight.mul_(2)
    after = snapshot(pipe)
    for _ in range(2):
        with pytest.raises(WaveFTError, match=REFUSED):
            pipeline.unload(pipe)
        assert snapshot(pipe) == after
        assert pipeline.loaded(pipe) == {"default": held}
    pipe.unet[2].weight.copy_(own)
    pipeline.unload(pipe)
    assert snapshot(pipe) == before


def test_of_several_those_that_left_before_the_refused_one_are_gone(pipe, make_adapter, snapshot):
    before = snapshot(pipe)
    pipeline.load(pipe, make_adapter({A: (12, 8)}, 20), name="first")
    second = pipeline.load(pipe, make_adapter({B: (6, 12)}, 20), name="second")
    pipe.unet[2].weight.mul_(2)
    with pytest.raises(WaveFTError, match=REFUSED):
        pipeline.unload(pipe)
    assert pipeline.loaded(pipe) == {"second": second}
    assert snapshot(pipe)["unet.0.weight"] == before["unet.0.weight"]


# Partly quantised pipes: beside the layers that cannot hold it


def test_a_partly_quantised_pipe_gets_the_update_in_both_ways_and_trains_nothing(
    mixed, make_mlp, make_adapter, snapshot, bits
):
    before, base, adapter = snapshot(mixed), output(mixed), make_adapter(SHAPES, 20)
    held = pipeline.load(mixed, adapter, 0.5)
    assert held.strength == 0.5
    assert held.ways == {A: "beside", B: "weight"}
    assert not any(parameter.requires_grad for parameter in mixed.unet.parameters())
    twin = Pipe(make_mlp())
    twin.unet[2].half()
    twin.unet[0].weight.copy_(mixed.unet[0].whole())
    merged = merge({"unet": twin.unet}, adapter, 0.5)
    assert bits(mixed.unet[0].weight) == before["unet.0.weight"]
    for strength in (0.5, -1.5):
        held.strength = merged.strength = strength
        assert bits(mixed.unet[2].weight) == bits(twin.unet[2].weight)
        torch.testing.assert_close(output(mixed), output(twin), rtol=4e-3, atol=4e-3)
        assert not torch.equal(output(mixed), base)
    held.strength = 0
    assert torch.equal(output(mixed), base)
    held.strength = 1
    pipeline.unload(mixed)
    assert snapshot(mixed) == before
    assert torch.equal(output(mixed), base)
    assert hooks(mixed) == [0, 0, 0]


def test_several_on_a_partly_quantised_pipe(mixed, make_adapter, snapshot):
    before, base = snapshot(mixed), output(mixed)
    pipeline.load(mixed, make_adapter(SHAPES, 20, seed=1), name="dog")
    alone, inside = output(mixed), snapshot(mixed)
    # the first runs beside both, the second is in a whole weight alone
    pipeline.load(mixed, make_adapter({A: (12, 8)}, 20, seed=2), name="style")
    pipeline.load(mixed, make_adapter({B: (6, 12)}, 20, seed=3), name="last")
    assert list(pipeline.loaded(mixed)) == ["dog", "style", "last"]
    pipeline.unload(mixed, "style")
    pipeline.unload(mixed, "last")
    assert torch.equal(output(mixed), alone)
    assert snapshot(mixed) == inside
    pipeline.unload(mixed)
    assert torch.equal(output(mixed), base)
    assert snapshot(mixed) == before


def test_a_component_is_left_out_of_a_partly_quantised_pipe(mixed, make_text, make_adapter, snapshot):
    mixed.text_encoder = make_text()
    before = snapshot(mixed)
    held = pipeline.load(mixed, make_adapter({**SHAPES, TEXT: (12, 8)}, 20), leave_out={"te1"})
    assert held.names == [A, B]
    assert attached(mixed.text_encoder) == {}
    after = snapshot(mixed)
    assert {name for name in before if after[name] != before[name]} == {"unet.2.weight"}
    pipeline.unload(mixed)
    assert snapshot(mixed) == before


@pytest.mark.parametrize(
    ("strength", "message"),
    [
        (1e6, r'layer "unet\.2": expected a finite merged weight'),
        (float("nan"), "strength: expected a finite number, got nan"),
        (float("-inf"), "strength: expected a finite number, got -inf"),
    ],
)
def test_a_refused_strength_leaves_nothing_behind(strength, message, mixed, make_adapter, snapshot):
    before, base, adapter = snapshot(mixed), output(mixed), make_adapter(SHAPES, 20)
    with pytest.raises(WaveFTError, match=message):
        pipeline.load(mixed, adapter, strength)
    assert snapshot(mixed) == before
    assert (pipeline.loaded(mixed), attached(mixed.unet), hooks(mixed)) == ({}, {}, [0, 0, 0])
    assert torch.equal(output(mixed), base)
    held = pipeline.load(mixed, adapter, 0.5)
    inside = snapshot(mixed), output(mixed)
    with pytest.raises(WaveFTError, match=message):
        held.strength = strength
    assert held.strength == 0.5
    assert snapshot(mixed) == inside[0]
    assert torch.equal(output(mixed), inside[1])


@pytest.mark.parametrize("strength", [float("nan"), float("inf")])
def test_a_strength_that_is_no_number_is_refused_where_every_layer_runs_beside(strength, mixed, make_adapter):
    with pytest.raises(WaveFTError, match="strength: expected a finite number"):
        pipeline.load(mixed, make_adapter({A: (12, 8)}), strength)
    assert (pipeline.loaded(mixed), attached(mixed.unet), hooks(mixed)) == ({}, {}, [0, 0, 0])


@pytest.mark.parametrize("whole", [False, True], ids=["partly quantised", "whole"])
def test_a_small_strength_is_taken_where_one_would_overflow(whole, mixed, make_mlp, make_adapter, snapshot):
    pipe = Pipe(make_mlp().half()) if whole else mixed
    before, adapter = snapshot(pipe), make_adapter(SHAPES, 20, scaling=2e5)
    with pytest.raises(WaveFTError, match="finite merged weight"):
        pipeline.load(pipe, adapter)
    assert snapshot(pipe) == before
    held = pipeline.load(pipe, adapter, 1e-4)
    assert torch.isfinite(pipe.unet[2].weight).all()
    assert held.strength == 1e-4
    pipeline.unload(pipe)
    assert snapshot(pipe) == before


def test_unload_of_a_partly_quantised_pipe_after_a_foreign_write(mixed, make_adapter, snapshot):
    before = snapshot(mixed)
    held = pipeline.load(mixed, make_adapter(SHAPES, 20))
    own = mixed.unet[2].weight.clone()
    mixed.unet[2].weight.mul_(2)
    with pytest.raises(WaveFTError, match=REFUSED):
        pipeline.unload(mixed)
    assert pipeline.loaded(mixed) == {"default": held}
    mixed.unet[2].weight.copy_(own)
    pipeline.unload(mixed)
    assert snapshot(mixed) == before
    assert hooks(mixed) == [0, 0, 0]
