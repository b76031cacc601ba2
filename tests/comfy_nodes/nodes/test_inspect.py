from types import SimpleNamespace

import pytest

Q = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
K = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"

TEXT = "lora_te1_text_model_encoder_layers_0_self_attn_q_proj"


@pytest.fixture
def inspect(comfy):
    node = comfy("nodes.inspect").WaveFTInspect
    node.hidden = SimpleNamespace(unique_id="1")
    return node.execute


@pytest.fixture
def apply(comfy):
    patch = comfy("patching.patch")
    return lambda model, *parts: patch.apply(model, None, [patch.Part(*part, 0.0) for part in parts])[0]


def test_an_adapter_is_told_and_drawn(inspect, comfy, make_adapter):
    said = {"ss_base_model_version": "toy", "waveft.recipe": "{...}", "prompt": "{...}", "modelspec.author": "me"}
    adapter = make_adapter({Q: (8, 8), K: (8, 12)}, metadata=said)
    origin = {"scaled": 0.5, "of": {"file": "dog", "sha256": "0123456789ab"}}
    output = inspect(adapter=comfy("sockets").Carried(adapter, "dog", origin))
    table, picture = output
    for part in ("toy", "db1, periodization", "sub-bands", "input_blocks.4", "attn1_to_q", "modelspec.author: me"):
        assert part in table
    assert table.splitlines()[0] == "dog"
    assert table.splitlines()[-3:] == ["where it came from", "  0.5 times", "    dog (sha256 0123456789)"]
    assert "{...}" not in table, "the recipe is told in words, and the graph not at all"
    assert picture.shape[2:] == (1024, 3)
    assert output.ui["text"] == (table,)
    assert output.ui["images"][0] is picture


def test_a_model_tells_what_is_applied(inspect, apply, unet, carry, small, make_adapter):
    other = carry(make_adapter({Q: (8, 8)}, seed=5), "b")
    table, picture = inspect(model=apply(unet, (carry(small, "a"), 0.5), (other, -2.0)))
    lines = table.splitlines()
    assert lines[0] == "applied to the model: 2"
    assert [line.split() for line in lines[1:4]] == [
        ["strength", "layers", "adapter"],
        ["0.5", "2/2", "a"],
        ["-2", "1/1", "b"],
    ]
    assert "0.5 * a + -2 * b" in table
    assert picture.shape[2:] == (1024, 3)


def test_both_give_two_pictures(inspect, apply, unet, carry, small, make_adapter):
    table, picture = inspect(carry(small, "a"), apply(unet, (carry(make_adapter({Q: (8, 8)}), "b"), 1.0)))
    assert picture.shape[0] == 2
    assert table.index("a\n") < table.index("applied to the model: 1")


def test_a_model_without_any_says_so(inspect, unet):
    table, picture = inspect(model=unet)
    assert table == "No WaveFT adapter is applied to the connected model."
    assert picture.shape[2] == 1024


def test_adapters_in_different_wavelets_are_listed_without_a_sum(inspect, apply, unet, carry, small, make_adapter):
    other = carry(make_adapter({Q: (8, 8)}, wavelet="db2"), "b")
    table, picture = inspect(model=apply(unet, (carry(small, "a"), 1.0), (other, 1.0)))
    assert "applied to the model: 2" in table and "their sum" not in table
    assert table.count("where it came from") == 2
    assert picture.shape[2] == 1024


def test_one_of_the_two_is_wanted(inspect, comfy):
    with pytest.raises(comfy("core").WaveFTError, match=r"adapter, model and clip: .* got none"):
        inspect()


def test_text_encoders_are_shown_with_their_clip(inspect, comfy, unet, clip, carry, make_adapter):
    patch = comfy("patching.patch")
    both = carry(make_adapter({Q: (8, 8), TEXT: (6, 6)}), "both")
    model, text, _ = patch.apply(unet, clip, [patch.Part(both, 0.5, 2.0)])
    table, _ = inspect(model=model)
    assert table.startswith("applied to the model: 1\n")
    assert "left out: 1 text-encoder layer (connect clip)" in table
    table, _ = inspect(model=model, clip=text)
    assert [line.split() for line in table.splitlines()[2:4]] == [["0.5", "1/2", "both"], ["2", "1/2", "both"]]
    assert table.startswith("applied to the model and CLIP: 1\n") and "left out" not in table
    assert "te1 layer 0" in table, "the sum has their energy too"
    assert inspect(clip=text)[0].startswith("applied to the CLIP: 1\n")
    assert inspect(clip=clip)[0] == "No WaveFT adapter is applied to the connected CLIP."
