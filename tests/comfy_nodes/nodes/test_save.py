import json
import sys
from types import SimpleNamespace

import pytest
import torch

from waveft_core import load
from waveft_core.format.hashes import tensors_sha256

Q = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
TEXT = "lora_te1_text_model_encoder_layers_0_self_attn_q_proj"
HIDDEN = SimpleNamespace(prompt={"1": {"class_type": "WaveFTSave"}}, extra_pnginfo={"workflow": {}}, unique_id="1")


@pytest.fixture
def save(comfy, models):
    """Returns a function that runs the node, and gives its report and the output folder."""
    comfy("folders").register()
    node = comfy("nodes.save").WaveFTSave
    node.hidden = HIDDEN

    def run(prefix="waveft/dog", dtype="fp32", note="", **given):
        output = node.execute(prefix, dtype, note, **given)
        assert output.ui.value == output[0], "the report is shown in the node"
        return output[0]

    run.output = models.parent / "output"
    return run


def test_what_is_saved_is_the_adapter_and_the_loader_finds_it(comfy, save, carry, small):
    report = save(adapter=carry(small, "dog.safetensors"))
    made = load(save.output / "waveft/dog_00001_.safetensors")
    for name, layer in small.layers.items():
        assert torch.equal(made.layers[name].values, layer.values)
        assert torch.equal(made.layers[name].indices, layer.indices)
    assert "dog_00001_.safetensors" in comfy("folders").choices()
    held = comfy("folders").read("dog_00001_.safetensors")
    for line in (
        "saved dog.safetensors",
        "to waveft/dog_00001_.safetensors (",
        "2 layers, 32 coefficients",
        held.origin["sha256"],
    ):
        assert line in report


def test_a_file_is_never_overwritten(save, carry, small):
    for _ in range(3):
        save(adapter=carry(small))
    assert sorted(path.name for path in (save.output / "waveft").iterdir()) == [
        f"dog_0000{number}_.safetensors" for number in (1, 2, 3)
    ]


def test_the_file_says_where_it_came_from(comfy, save, make_adapter):
    said = {
        "modelspec.architecture": "x/waveft",
        "modelspec.description": "old",
        "modelspec.title": "a",
        "sshs_model_hash": "1",
    }
    adapter = make_adapter({Q: (8, 8)}, metadata=said)
    origin = {"filtered": {"attn1": 0.5}, "of": {"file": "a", "sha256": "12"}}
    carried = comfy("sockets").Carried(adapter, "a", origin)
    save(adapter=carried, note="a dog\n")
    save(adapter=carried)
    made, plain = (load(path).metadata for path in sorted((save.output / "waveft").iterdir()))
    assert json.loads(made["waveft.recipe"]) == origin
    assert made["modelspec.description"] == "a dog" and plain["modelspec.description"] == "old"
    assert made["modelspec.title"] == "dog_00001_"
    assert made["modelspec.architecture"] == "x/waveft"
    assert json.loads(made["prompt"]) == HIDDEN.prompt and made["workflow"] == "{}"
    digest = tensors_sha256(save.output / "waveft/dog_00001_.safetensors")
    assert made["sshs_model_hash"] == digest, "the old one was of other tensors"


def test_the_graph_is_left_out_where_the_user_wants_it(comfy, save, carry, small, monkeypatch):
    monkeypatch.setattr(comfy("adapters.weights").args, "disable_metadata", True)
    save(adapter=carry(small))
    assert not {"prompt", "workflow"} & set(load(save.output / "waveft/dog_00001_.safetensors").metadata)


def test_a_models_adapters_are_saved_as_their_sum(comfy, save, carry, small, make_adapter, unet):
    patch = comfy("patching.patch")
    other = carry(make_adapter({Q: (8, 8)}, seed=5), "b")
    parts = [patch.Part(carry(small, "a"), 0.5, 1.0), patch.Part(other, -1.0, 1.0)]
    report = save(model=patch.apply(unet, None, parts)[0])
    made = load(save.output / "waveft/dog_00001_.safetensors")
    torch.testing.assert_close(made.delta(Q), 0.5 * small.delta(Q) - other.adapter.delta(Q), rtol=0, atol=1e-6)
    assert report.splitlines()[-3:] == ["  sum of", "    0.5 * a", "    -1 * b"]


class TestTextEncoders:
    @pytest.fixture
    def both(self, carry, make_adapter):
        return carry(make_adapter({Q: (8, 8), TEXT: (6, 6)}), "both")

    @pytest.fixture
    def apply(self, comfy, unet, clip, both):
        """Returns a function from the two strengths to MODEL and CLIP."""
        patch = comfy("patching.patch")
        return lambda *strengths: patch.apply(unet, clip, [patch.Part(both, *strengths)])[:2]

    def test_with_a_clip_their_layers_belong_to_the_sum(self, save, apply, both):
        model, clip = apply(0.5, -2.0)
        report = save(model=model, clip=clip)
        made = load(save.output / "waveft/dog_00001_.safetensors")
        torch.testing.assert_close(made.delta(Q), 0.5 * both.adapter.delta(Q), rtol=0, atol=1e-6)
        torch.testing.assert_close(made.delta(TEXT), -2 * both.adapter.delta(TEXT), rtol=0, atol=1e-6)
        assert "left out" not in report
        assert report.splitlines()[-5:] == [
            "  sum of",
            "    0.5 * applied: layers 1 of 2",
            "      both",
            "    -2 * applied: layers 1 of 2",
            "      both",
        ]

    def test_at_one_strength_it_is_one_adapter(self, save, apply, both):
        model, clip = apply(1.0, 1.0)
        report = save(model=model, clip=clip)
        assert report.splitlines()[0] == "saved both" and report.splitlines()[-1] == "  both"
        made = load(save.output / "waveft/dog_00001_.safetensors")
        assert all(torch.equal(made.layers[name].values, both.adapter.layers[name].values) for name in (Q, TEXT))

    def test_without_one_the_report_says_what_is_missing(self, save, apply):
        model, clip = apply(1.0, 1.0)
        assert "left out: 1 text-encoder layer (connect clip)" in save(model=model)
        assert "left out: 1 layer of the model (connect model)" in save(clip=clip)
        assert list(load(save.output / "waveft/dog_00001_.safetensors").layers) == [Q]
        assert list(load(save.output / "waveft/dog_00002_.safetensors").layers) == [TEXT]


def test_what_helps_the_user_stays(save, comfy, make_adapter, carry):
    """The trained file's title where it is saved as it was, its trigger phrase always, its job with its own values."""
    said = {"modelspec.title": "My dog", "modelspec.trigger_phrase": "zwx dog", "ss_tag_frequency": "{}"}
    trained = carry(make_adapter({Q: (8, 8)}, metadata={**said, "waveft.job": "seed = 1"}), "dog")
    other = carry(make_adapter({Q: (8, 8)}, seed=2, metadata={"modelspec.trigger_phrase": "blue style"}), "style")
    arithmetic = comfy("adapters.arithmetic")
    for carried in (trained, arithmetic.weighted(trained, 0.5), arithmetic.combined([(trained, 1.0), (other, 0.5)])):
        save(adapter=carried)
    same, half, both = (load(path).metadata for path in sorted((save.output / "waveft").iterdir()))
    assert {key: same[key] for key in said} == said and same["waveft.job"] == "seed = 1"
    assert {key: half[key] for key in said} == {**said, "modelspec.title": "dog_00002_"}
    assert both["modelspec.trigger_phrase"] == "zwx dog, blue style"
    assert both["modelspec.title"] == "dog_00003_"


def test_half_precision_tells_what_it_costs(save, carry, make_adapter):
    adapter = make_adapter({Q: (8, 8)}, scale=1e-7)
    report = save(dtype="fp16", adapter=carry(adapter))
    made = load(save.output / "waveft/dog_00001_.safetensors").layers[Q].values
    vanished = int((made == 0).sum())
    assert made.dtype == torch.float16 and vanished > 0
    assert "rounded to fp16: relative error 0." in report
    assert f"{vanished} coefficient" in report and "too small for fp16" in report
    assert "rounded" not in save(adapter=carry(adapter))


def test_a_value_too_large_is_refused_before_a_file_is_there(comfy, save, carry, make_adapter):
    with pytest.raises(comfy("core").WaveFTError, match=r"at most 65504 for float16.*bfloat16"):
        save(dtype="fp16", adapter=carry(make_adapter({Q: (8, 8)}, scale=1e6)))
    assert list((save.output / "waveft").iterdir()) == []


@pytest.mark.parametrize("prefix", ["../dog", "/tmp/dog", "waveft/", ""])
def test_a_place_outside_is_refused(comfy, save, carry, small, prefix):
    with pytest.raises(comfy("core").WaveFTError, match=r"filename_prefix.*expected a name"):
        save(prefix, adapter=carry(small))


def test_exactly_one_of_the_two_is_wanted(comfy, save, carry, small, unet, clip):
    with pytest.raises(comfy("core").WaveFTError, match=r"adapter, model and clip: .* got none of them"):
        save()
    with pytest.raises(comfy("core").WaveFTError, match="got an adapter and a model"):
        save(adapter=carry(small), model=unet)
    with pytest.raises(comfy("core").WaveFTError, match="got an adapter and a CLIP"):
        save(adapter=carry(small), clip=clip)
    with pytest.raises(comfy("core").WaveFTError, match="got none on what is connected"):
        save(model=unet, clip=clip)


def test_a_dtype_that_is_none_is_refused(comfy, save, carry, small):
    with pytest.raises(comfy("core").WaveFTError, match=r"^dtype: expected one of .*, got 'fp64'"):
        save(adapter=carry(small), dtype="fp64")
    assert list((save.output / "waveft").iterdir()) == []


def test_the_front_end_is_sent_the_report_as_text_not_html(comfy, monkeypatch):
    sent = []
    instance = SimpleNamespace(send_progress_text=lambda text, id: sent.append((text, id)))
    monkeypatch.setitem(sys.modules, "server", SimpleNamespace(PromptServer=SimpleNamespace(instance=instance)))
    comfy("messages").show(HIDDEN, "<img src=x>\n  a  b")
    assert sent == [("&lt;img src=x&gt;\n\u00a0\u00a0a\u00a0\u00a0b", "1")]
    comfy("messages").show(None, "x")
    assert len(sent) == 1
