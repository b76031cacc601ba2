from types import SimpleNamespace

import pytest
import torch

Q = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
K = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
TEXT = "lora_te1_text_model_encoder_layers_0_self_attn_q_proj"
Q_KEY = "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight"
TEXT_KEY = "clip_l.transformer.text_model.encoder.layers.0.self_attn.q_proj.weight"


@pytest.fixture
def weights(comfy):
    return comfy("adapters.weights")


def test_weights_are_listed_by_layer_without_being_read(weights, unet, clip):
    found = weights.Merged(unet, clip)
    assert set(found.slots) == {Q, K, TEXT}
    place = found.slots[Q]
    assert place.path == "input_blocks.4.1.transformer_blocks.0.attn1.to_q"
    assert (place.component, place.shape) == ("unet", (8, 8))
    assert found.slots[TEXT].path == "text_model.encoder.layers.0.self_attn.q_proj"
    assert found.slots[TEXT].component == "te1"
    assert set(weights.Merged(unet).slots) == {Q, K}


def test_a_weight_is_read_with_its_patches_and_left_alone(comfy, weights, unet, carry, small):
    patch = comfy("patching.patch")
    model = patch.apply(unet, None, [patch.Part(carry(small), 0.5, 1.0)])[0]
    before = unet.model.state_dict()[Q_KEY].clone()
    got = weights.Merged(model).read(Q)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, before + 0.5 * small.delta(Q), rtol=0, atol=1e-6)
    assert torch.equal(unet.model.state_dict()[Q_KEY], before)
    assert torch.equal(weights.Merged(unet).read(Q), before)


def test_a_scaled_fp8_weight_is_unscaled_first(weights, unet, monkeypatch):
    whole = unet.model.state_dict()[Q_KEY]
    held = (whole / 2).to(torch.float8_e4m3fn)
    unet.model.state_dict()[Q_KEY] = held
    doubled = lambda weight, inplace: weight.mul_(2)  # noqa: E731
    monkeypatch.setattr(weights.comfy.model_patcher, "get_key_weight", lambda model, key: (held, None, doubled))
    got = weights.Merged(unet).read(Q)
    assert torch.equal(got, held.float() * 2)
    torch.testing.assert_close(got, whole, rtol=0.07, atol=0.01)


def test_where_a_model_is_patched_just_now_its_original_is_read(weights, unet):
    whole = unet.model.state_dict()[Q_KEY].clone()
    unet.model.state_dict()[Q_KEY].zero_()
    unet.backup[Q_KEY] = SimpleNamespace(weight=whole)
    assert torch.equal(weights.Merged(unet).read(Q), whole)
    unet.hook_backup[Q_KEY] = (2 * whole, torch.device("cpu"))
    assert torch.equal(weights.Merged(unet).read(Q), 2 * whole)


def test_names_that_are_no_weights_are_never_asked_for(weights, unet, monkeypatch):
    """ComfyUI lists the scale of a quantised weight in its state dict, and has no tensor of that name."""
    names = {**unet.model.state_dict(), Q_KEY.replace("weight", "weight_scale"): torch.ones(())}
    monkeypatch.setattr(unet.model, "state_dict", lambda: names)
    assert set(weights.Merged(unet).slots) == {Q, K}


def test_a_quantised_weight_is_refused_in_words(comfy, weights, unet):
    unet.model.state_dict()[Q_KEY] = torch.zeros(8, 8, dtype=torch.uint8)
    with pytest.raises(comfy("core").WaveFTError, match=f'"{Q}".*quantised'):
        weights.Merged(unet).read(Q)


def test_every_spelling_leads_to_one_name(comfy, weights, unet, clip, monkeypatch):
    """As ComfyUI's maps have them; slices of fused weights and vectors are no layers."""
    other = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
    norm = "diffusion_model.norm.weight"
    unet.model.state_dict()[norm] = torch.zeros(8)
    spelled = {other: Q_KEY, Q: Q_KEY, "lora_unet_norm": norm, "lora_unet_fused": (Q_KEY, (0, 0, 4)), "lora_x": "gone"}
    monkeypatch.setattr(weights.comfy.lora, "model_lora_keys_unet", lambda model, found: spelled)
    encoders = {"lora_te_x": TEXT_KEY, TEXT: TEXT_KEY, "text_encoders.x": TEXT_KEY}
    monkeypatch.setattr(weights.comfy.lora, "model_lora_keys_clip", lambda model, found: encoders)
    found = weights.Merged(unet, clip)
    assert set(found.slots) == {Q, TEXT}
    assert found.spellings == {other: Q, Q: Q, **dict.fromkeys(encoders, TEXT)}


def test_sdxl_is_known_by_its_class(weights, unet):
    assert weights.Merged(unet).metadata == {}
    unet.model = type("SDXL", (SimpleNamespace,), {})(**vars(unet.model))
    assert weights.Merged(unet).metadata["modelspec.architecture"] == "stable-diffusion-xl-v1-base/waveft"


class TestGraph:
    hidden = SimpleNamespace(prompt={"1": {}}, extra_pnginfo={"workflow": {"nodes": []}})

    def test_the_graph_is_told_as_comfyuis_savers_do(self, weights):
        assert weights.graph_metadata(self.hidden) == {"prompt": '{"1": {}}', "workflow": '{"nodes": []}'}
        assert weights.graph_metadata(SimpleNamespace(prompt=None, extra_pnginfo=None)) == {}
        assert weights.graph_metadata(None) == {}

    def test_unless_the_user_wants_none(self, weights, monkeypatch):
        monkeypatch.setattr(weights.args, "disable_metadata", True)
        assert weights.graph_metadata(self.hidden) == {}
