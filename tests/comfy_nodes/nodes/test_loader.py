import pytest
from safetensors.torch import save_file
from torch import zeros


@pytest.fixture
def node(comfy, models, small):
    from waveft_core import save

    comfy("folders").register()
    save(small, models / "waveft/a.safetensors")
    save_file({"lora_unet_x.lora_up.weight": zeros(2)}, models / "waveft/plain.safetensors")
    return comfy("nodes.loader").WaveFTLoader


def test_its_files_are_listed(node):
    assert node.define_schema().inputs[1].options == ["a.safetensors", "plain.safetensors"]


def test_a_file_is_checked_before_anything_runs(node):
    assert node.validate_inputs("a.safetensors") is True
    assert node.validate_inputs(None) is True  # linked: not known yet
    assert "plain.safetensors" in node.validate_inputs("plain.safetensors")
    assert "models/waveft" in node.validate_inputs("gone.safetensors")


def test_the_fingerprint_changes_with_the_file_alone(node, models, small):
    from waveft_core import save

    first = node.fingerprint_inputs(adapter_name="a.safetensors", strength_model=1.0)
    assert node.fingerprint_inputs(adapter_name="a.safetensors", strength_model=2.0) == first
    save(small, models / "waveft/a.safetensors")
    assert node.fingerprint_inputs(adapter_name="a.safetensors") != first
    linked = node.fingerprint_inputs(adapter_name=None)
    assert linked != linked


def test_strength_0_returns_the_inputs_themselves(node, unet, clip):
    model, text, report, carried = node.execute(unet, "a.safetensors", 0.0, clip, 0.0)
    assert model is unet
    assert text is clip
    assert report.startswith("0/2 layers of a.safetensors")
    assert carried.title == "a.safetensors"
    assert node.execute(unet, "a.safetensors", 0.0)[0] is unet


def test_at_strength_0_text_encoder_layers_need_no_clip(node, unet, models, make_adapter):
    from waveft_core import save

    save(make_adapter({"lora_te1_text_model_x": (4, 4)}), models / "waveft/text.safetensors")
    model, clip, report, _ = node.execute(unet, "text.safetensors", 0.0)
    assert model is unet and clip is None
    assert "CLIP: 0/1 layers, left out by strength 0" in report


def test_model_text_encoders_report_and_adapter_come_out(node, unet, clip):
    model, text, report, carried = node.execute(unet, "a.safetensors", 0.5, clip, 1.0)
    assert len(model.patches) == 2
    assert text is clip
    assert report.startswith("2/2 layers of a.safetensors")
    assert len(carried.adapter.layers) == 2


def test_a_filter_is_applied_to_both_the_model_and_the_adapter(node, comfy, unet):
    model, _, report, carried = node.execute(
        unet, "a.safetensors", 1.0, filter=comfy("adapters.filters").Filter({"attn1": 0})
    )
    assert len(model.patches) == len(carried.adapter.layers) == 1
    assert report.startswith("1/1 layers of a.safetensors")


def test_at_strength_0_a_filter_that_leaves_nothing_stops_nothing(node, comfy, unet):
    nothing = comfy("adapters.filters").Filter(only="no such layer")
    model, _, _, carried = node.execute(unet, "a.safetensors", 0.0, filter=nothing)
    assert model is unet and len(carried.adapter.layers) == 2
    with pytest.raises(comfy("adapters.filters").Emptied):
        node.execute(unet, "a.safetensors", 1.0, filter=nothing)
