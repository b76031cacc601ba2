import pytest
import torch

Q = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
Q_KEY = "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight"
TEXT = "lora_te1_text_model_encoder_layers_0_self_attn_q_proj"
TEXT_KEY = "clip_l.transformer.text_model.encoder.layers.0.self_attn.q_proj.weight"


@pytest.fixture
def node(comfy):
    return comfy("nodes.sweep").WaveFTStrengthSweep


@pytest.fixture
def both(carry, make_adapter):
    """An adapter for a model and text encoders."""
    return carry(make_adapter({Q: (8, 8), TEXT: (6, 6)}))


def close(got, expected):
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


def test_its_inputs_are_final(node):
    # saved workflows hold widgets by position
    schema = node.define_schema()
    assert [i.id for i in schema.inputs] == ["model", "adapter", "strengths", "clip", "strength_clip", "filter"]
    found = [(o.id, o.kind, o.is_output_list) for o in schema.outputs]
    assert found == [("models", "MODEL", True), ("clips", "CLIP", True), ("labels", "STRING", True)]


@pytest.mark.parametrize(
    "text", ["0, 0.25,-1e-1", "0 0.25 -0.1", "0;0.25;-0.1", "0\n0.25\n\n-.1", " ,0 ,, 0.25; -0.10,"]
)
def test_numbers_are_read_however_they_are_parted(comfy, text):
    assert comfy("patching.sweep").strengths(text) == [0.0, 0.25, -0.1]


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ("", "got none"),
        (" , ;", "got none"),
        ("0, half", 'got "half"'),
        ("0..1", 'got "0..1"'),
        ("1, 100.5", 'got "100.5"'),
        ("-101", 'got "-101"'),
        ("nan", 'got "nan"'),
        ("0 inf", 'got "inf"'),
    ],
)
def test_what_is_no_strength_is_said(comfy, node, text, got):
    with pytest.raises(comfy("core").WaveFTError, match=rf"strengths: expected numbers .*{got}"):
        comfy("patching.sweep").strengths(text)
    assert got in node.validate_inputs(text)


def test_good_and_linked_texts_are_valid(node):
    assert node.validate_inputs("0, 1") is True
    assert node.validate_inputs() is True


def test_each_strength_is_what_the_loader_makes_of_it(node, unet, clip, both):
    models, clips, labels = node.execute(unet, both, "1, 0, -0.5", clip, 0.5)
    adapter = both.adapter
    for model, text, strength in zip(models, clips, (1.0, 0.0, -0.5), strict=True):
        close(model.merged(Q_KEY), unet.model.state_dict()[Q_KEY] + strength * adapter.delta(Q))
        close(
            text.merged(TEXT_KEY), clip.cond_stage_model.state_dict()[TEXT_KEY] + 0.5 * strength * adapter.delta(TEXT)
        )
    assert labels == ["strength 1", "strength 0", "strength -0.5"]
    assert models[1] is unet and clips[1] is clip
    assert unet.patches == clip.patches == {}


def test_the_adapter_is_fitted_once(comfy, node, unet, both, clip, monkeypatch):
    lora, calls = comfy("patching.patch").comfy.lora, []
    listed = lora.model_lora_keys_unet
    monkeypatch.setattr(lora, "model_lora_keys_unet", lambda *given: calls.append(1) or listed(*given))
    node.execute(unet, both, "0.1 0.2 0.3 0.4", clip)
    assert len(calls) == 1


def test_text_layers_need_a_clip_or_are_left_out(comfy, node, unet, both, clip):
    with pytest.raises(comfy("core").WaveFTError, match="Connect `clip`"):
        node.execute(unet, both, "1")
    models, clips, _ = node.execute(unet, both, "1, 2", None, 0.0)
    assert [list(model.patches) for model in models] == [[Q_KEY], [Q_KEY]] and clips == [None, None]
    assert node.execute(unet, both, "1, 2", clip, 0.0)[1] == [clip, clip]
    assert node.execute(unet, both, "0, 0")[0] == [unet, unet]  # at strength 0 the model comes back, whatever the file


def test_what_does_not_fit_is_refused(comfy, node, unet, carry, make_adapter):
    with pytest.raises(comfy("core").WaveFTError, match=r'"wrong".*lora_unet_nowhere'):
        node.execute(unet, carry(make_adapter({"lora_unet_nowhere": (8, 8)}), "wrong"), "0, 1")


def test_the_filter_is_applied(comfy, node, unet, carry, small):
    kept = comfy("adapters.filters").Filter(factors={"attn2": 0.0})
    models, _, _ = node.execute(unet, carry(small), "1", filter=kept)
    assert list(models[0].patches) == [Q_KEY]
