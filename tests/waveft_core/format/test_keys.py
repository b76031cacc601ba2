import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_open_clip_checkpoint
from torch import nn

from waveft_core import SDXL_ATTENTION, Spec
from waveft_core.basis.locations import draw
from waveft_core.format.keys import (
    checkpoint_place,
    is_diffusers_unet,
    layer_names,
    openclip_path,
    original_paths,
    unwrapped,
)
from waveft_core.update.targets import select

SDXL = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": [1, 2, 10],
    "layers_per_block": 2,
    "attention_head_dim": [5, 10, 20],
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
ATTENDED_DOWN, ATTENDED_UP = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
SMALL = {"block_out_channels": (32, 64, 128), "attention_head_dim": 8, "cross_attention_dim": 16}
LAYOUTS = {
    "sdxl": {},
    "ssd-1b": {
        "transformer_layers_per_block": [0, [2, 2], [4, 4]],
        "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], 1],
    },
    "segmind-vega": {"transformer_layers_per_block": [1, 1, 2]},
    "one resnet a level": {**SMALL, "layers_per_block": 1},
    "three resnets a level": {**SMALL, "layers_per_block": 3, "transformer_layers_per_block": 1},
    "attention in every level": {
        **SMALL,
        "down_block_types": (ATTENDED_DOWN,) * 3,
        "up_block_types": (ATTENDED_UP,) * 3,
        "transformer_layers_per_block": [1, 1, 2],
    },
    "attention in the first level alone": {
        **SMALL,
        "down_block_types": (ATTENDED_DOWN, "DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D", ATTENDED_UP),
        "transformer_layers_per_block": 1,
    },
    "two levels": {
        **SMALL,
        "block_out_channels": (32, 64),
        "down_block_types": ("DownBlock2D", ATTENDED_DOWN),
        "up_block_types": (ATTENDED_UP, "UpBlock2D"),
        "transformer_layers_per_block": [1, 2],
    },
    "four levels": {
        **SMALL,
        "block_out_channels": (32, 32, 64, 64),
        "down_block_types": (ATTENDED_DOWN, ATTENDED_DOWN, ATTENDED_DOWN, "DownBlock2D"),
        "up_block_types": ("UpBlock2D", ATTENDED_UP, ATTENDED_UP, ATTENDED_UP),
        "transformer_layers_per_block": 1,
    },
    "twelve blocks of a transformer": {**SMALL, "transformer_layers_per_block": [1, 1, 12]},
}


def meta_unet(**changes):
    with torch.device("meta"):
        return UNet2DConditionModel(**{**SDXL, **changes})


@pytest.fixture(scope="module")
def sdxl():
    return meta_unet()


def paths_of(unet):
    return [path for path, _ in unet.named_modules()]


def assert_diffusers_agrees(unet):
    """Every weight and bias under its original path comes back under its own key from diffusers' own conversion."""
    originals = original_paths(paths_of(unet))
    checkpoint, expected = {}, {}
    for key in unet.state_dict():
        path, _, kind = key.rpartition(".")
        assert path in originals, f"no original path for {path}"
        original = f"model.diffusion_model.{originals[path]}.{kind}"
        assert original not in checkpoint, f"{original} twice"
        checkpoint[original] = expected[key] = object()
    config = dict(unet.config)
    assert convert_ldm_unet_checkpoint(checkpoint, config) == expected


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_original_paths_are_those_that_diffusers_converts(layout):
    assert_diffusers_agrees(meta_unet(**LAYOUTS[layout]))


def test_sdxl_has_560_layers_and_the_papers_count(sdxl):
    targets = select(sdxl, SDXL_ATTENTION)
    assert len(targets) == 560
    assert len({target.name for target in targets}) == 560
    assert 560 * Spec().coefficients == 1_451_520
    assert all("." not in target.name for target in targets)
    counts = {}
    for target in targets:
        counts[tuple(target.weight.shape)] = counts.get(tuple(target.weight.shape), 0) + 1
    assert counts == {(640, 640): 60, (640, 2048): 20, (1280, 1280): 360, (1280, 2048): 120}
    drawn = draw(Spec().locations, targets[0].name, "db1", "periodization", tuple(targets[0].weight.shape), 2592)
    assert drawn.numel() == 2592


def test_sdxl_names_known_from_kohyas_files(sdxl):
    names = layer_names(paths_of(sdxl))
    attention = "transformer_blocks.0.attn1.to_q"
    expected = {
        f"down_blocks.1.attentions.0.{attention}": "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q",
        f"down_blocks.1.attentions.1.{attention}": "lora_unet_input_blocks_5_1_transformer_blocks_0_attn1_to_q",
        f"down_blocks.2.attentions.1.{attention}": "lora_unet_input_blocks_8_1_transformer_blocks_0_attn1_to_q",
        f"mid_block.attentions.0.{attention}": "lora_unet_middle_block_1_transformer_blocks_0_attn1_to_q",
        f"up_blocks.0.attentions.2.{attention}": "lora_unet_output_blocks_2_1_transformer_blocks_0_attn1_to_q",
        f"up_blocks.1.attentions.0.{attention}": "lora_unet_output_blocks_3_1_transformer_blocks_0_attn1_to_q",
        "down_blocks.2.attentions.0.transformer_blocks.9.attn2.to_out.0": (
            "lora_unet_input_blocks_7_1_transformer_blocks_9_attn2_to_out_0"
        ),
        "down_blocks.0.downsamplers.0.conv": "lora_unet_input_blocks_3_0_op",
        "up_blocks.1.upsamplers.0.conv": "lora_unet_output_blocks_5_2_conv",
        "down_blocks.0.resnets.1.time_emb_proj": "lora_unet_input_blocks_2_0_emb_layers_1",
        "time_embedding.linear_2": "lora_unet_time_embed_2",
        "add_embedding.linear_1": "lora_unet_label_emb_0_0",
    }
    assert {path: names[path] for path in expected} == expected


def test_every_weight_of_sdxl_has_a_name_of_its_own(sdxl):
    weighted = {key.rpartition(".")[0] for key in sdxl.state_dict()}
    names = layer_names(paths_of(sdxl))
    assert len({names[path] for path in weighted}) == len(weighted)


def test_names_from_the_weights_alone_are_those_from_the_modules(sdxl):
    modules = layer_names(paths_of(sdxl))
    weights = layer_names(key.removesuffix(".weight") for key in sdxl.state_dict() if key.endswith(".weight"))
    assert len(weights) > 700
    assert weights == {path: modules[path] for path in weights}


def test_the_original_checkpoints_keys_give_the_same_names(sdxl):
    plain = layer_names(paths_of(sdxl))
    originals = original_paths(paths_of(sdxl))
    checkpoint = layer_names([f"model.diffusion_model.{original}" for original in originals.values()])
    bare = layer_names(list(originals.values()))
    for path, original in originals.items():
        assert checkpoint[f"model.diffusion_model.{original}"] == bare[original] == plain[path]


def test_a_whole_checkpoint_names_its_first_text_encoder_too():
    paths = [
        "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q",
        "conditioner.embedders.0.transformer.text_model.encoder.layers.0.self_attn.q_proj",
        "first_stage_model.decoder.conv_in",
    ]
    assert list(layer_names(paths).values()) == [
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q",
        "lora_te1_text_model_encoder_layers_0_self_attn_q_proj",
        "lora_first_stage_model_decoder_conv_in",
    ]


OPENCLIP = "conditioner.embedders.1.model."


def test_open_clips_paths_are_those_that_diffusers_converts():
    inner = ("attn.out_proj", "mlp.c_fc", "mlp.c_proj", "ln_1", "ln_2")
    paths = [f"transformer.resblocks.{number}.{path}" for number in (0, 11, 31) for path in inner]
    checkpoint = {f"{OPENCLIP}{path}.weight": torch.zeros(1) for path in (*paths, "token_embedding", "ln_final")}
    fused = [f"{OPENCLIP}transformer.resblocks.{number}.attn.in_proj_weight" for number in (0, 11, 31)]
    checkpoint |= dict.fromkeys(fused, torch.zeros(24, 8))
    model = nn.Module()
    model.config = type("Config", (), {"hidden_size": 8})()
    expected = {key.removesuffix(".weight") for key in convert_open_clip_checkpoint(model, checkpoint, OPENCLIP)}
    thirds = [f"transformer.resblocks.{number}.attn.{kind}_proj" for number in (0, 11, 31) for kind in "qkv"]
    assert {openclip_path(path) for path in (*paths, *thirds, "token_embedding", "ln_final")} == expected
    assert openclip_path("transformer.resblocks.0.attn") is None
    assert openclip_path("text_projection") is None


def test_a_whole_checkpoint_names_its_second_text_encoder_as_the_model_alone_does():
    paths = ["attn.out_proj", "mlp.c_fc", "mlp.c_proj", "attn.q_proj"]
    alone = ["self_attn.out_proj", "mlp.fc1", "mlp.fc2", "self_attn.q_proj"]
    whole = layer_names(f"{OPENCLIP}transformer.resblocks.7.{path}" for path in paths)
    model = layer_names((f"text_model.encoder.layers.7.{path}" for path in alone), "te2")
    assert list(whole.values()) == list(model.values())
    assert list(whole.values())[1] == "lora_te2_text_model_encoder_layers_7_mlp_fc1"


@pytest.mark.parametrize(
    ("path", "component", "inner"),
    [
        ("model.diffusion_model.input_blocks.0.0", "unet", "input_blocks.0.0"),
        ("diffusion_model.out.2", "unet", "out.2"),
        ("conditioner.embedders.0.transformer.text_model.final_layer_norm", "te1", "text_model.final_layer_norm"),
        (f"{OPENCLIP}ln_final", "te2", "text_model.final_layer_norm"),
        (f"{OPENCLIP}positional_embedding", "te2", "text_model.embeddings.position_embedding"),
        (f"{OPENCLIP}text_projection", "te2", "text_projection"),
        ("first_stage_model.decoder.conv_in", None, "first_stage_model.decoder.conv_in"),
    ],
)
def test_a_checkpoints_path_is_its_component_and_the_path_within(path, component, inner):
    assert checkpoint_place(path) == (component, inner)


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "_checkpoint_wrapped_module.", "module._orig_mod.", "_orig_mod.module."]
)
def test_wrapper_prefixes_do_not_change_a_name(sdxl, prefix):
    plain = layer_names(paths_of(sdxl))
    wrapped = layer_names([f"{prefix}{path}" for path in plain])
    assert list(wrapped.values()) == list(plain.values())


def test_a_wrapper_inside_the_path_does_not_change_a_name(sdxl):
    plain = layer_names(paths_of(sdxl))
    inside = [path.replace("attentions.0.", "attentions.0._checkpoint_wrapped_module.") for path in plain]
    assert list(layer_names(inside).values()) == list(plain.values())


@pytest.mark.parametrize(
    ("path", "plain"),
    [
        ("module.a.b", "a.b"),
        ("a.module.b", "a.b"),
        ("a.module.module.b", "a.b"),
        ("a.b_module.c", "a.b_module.c"),
        ("submodule.c", "submodule.c"),
        ("a.module", "a.module"),
        ("_orig_mod._checkpoint_wrapped_module.module.x", "x"),
        ("", ""),
    ],
)
def test_unwrapped(path, plain):
    assert unwrapped(path) == plain


@pytest.mark.parametrize("component", ["te1", "te2"])
@pytest.mark.parametrize("prefix", ["", "text_model.", "module.text_model.", "_orig_mod."])
def test_a_text_encoders_name_always_holds_text_model(component, prefix):
    path = f"{prefix}encoder.layers.0.self_attn.q_proj"
    expected = f"lora_{component}_text_model_encoder_layers_0_self_attn_q_proj"
    assert layer_names([path], component) == {path: expected}


def test_transformers_own_clip_has_kohyas_names():
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    sizes = {
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vocab_size": 9,
    }
    with torch.device("meta"):
        models = {
            "te1": CLIPTextModel(CLIPTextConfig(**sizes)),
            "te2": CLIPTextModelWithProjection(CLIPTextConfig(**sizes, projection_dim=8)),
        }
    for component, model in models.items():
        found = layer_names((path for path, _ in model.named_modules()), component).values()
        assert f"lora_{component}_text_model_encoder_layers_1_self_attn_out_proj" in found
        assert f"lora_{component}_text_model_encoder_layers_0_mlp_fc1" in found


def test_any_other_model_keeps_its_path():
    assert layer_names(["a.b.0"]) == {"a.b.0": "lora_a_b_0"}
    assert layer_names(["a.b.0"], "prior") == {"a.b.0": "lora_prior_a_b_0"}
    assert layer_names(["a.b.0"], "unet") == {"a.b.0": "lora_unet_a_b_0"}


def test_the_unets_component_is_the_unet_alone(sdxl):
    assert layer_names(paths_of(sdxl), "unet") == layer_names(paths_of(sdxl))
    assert is_diffusers_unet(paths_of(sdxl))
    assert not is_diffusers_unet(["down_blocks.0", "up_blocks.0"])
    assert not is_diffusers_unet(path for path, _ in nn.Sequential(nn.Linear(2, 2)).named_modules())
