import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from trainer.base import modelcheck, models
from trainer.base.precision import Precision
from trainer.job import schema
from trainer.system.errors import UserError

CPU = torch.device("cpu")


def load(folder, dtype=torch.float32, attention="sdpa", **keys):
    model = schema.Model(pretrained_model_name_or_path=str(folder), **keys)
    facts, problems = modelcheck.check(model)
    assert not problems
    return models.load(model, Precision(CPU, dtype), facts, attention)


def test_a_folder_is_loaded_frozen(base_folder):
    base = load(base_folder)
    assert not any(p.requires_grad for module in (base.unet, base.vae, base.text[0][1]) for p in module.parameters())
    assert not base.unet.training
    assert base.empty_is_zero


def test_the_place_decides_the_dtype_of_unet_and_text_encoders(base_folder):
    base = load(base_folder, torch.bfloat16)
    assert (base.unet.dtype, base.text[1][1].dtype, base.vae.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)


def test_fp16_files_are_taken_where_there_are_no_others(base_folder, tmp_path):
    folder = shutil.copytree(base_folder, tmp_path / "copy")
    for path in folder.rglob("*.safetensors"):
        path.rename(path.with_name(path.stem + ".fp16.safetensors"))
    base, original = load(folder), load(base_folder)
    assert torch.equal(base.unet.conv_in.weight, original.unet.conv_in.weight)


def zeroed_vae(base_folder, folder):
    """Writes the base's VAE with one weight zeroed, in diffusers' layout."""
    from diffusers import AutoencoderKL

    other = AutoencoderKL.from_pretrained(base_folder / "vae")
    other.encoder.conv_in.weight.data.zero_()
    other.save_pretrained(folder)
    return folder


def test_another_vae(base_folder, tmp_path):
    folder = zeroed_vae(base_folder, tmp_path / "vae")
    assert not load(base_folder, vae=str(folder)).vae.encoder.conv_in.weight.any()
    file = folder / "diffusion_pytorch_model.safetensors"
    assert not load(base_folder, vae=str(file)).vae.encoder.conv_in.weight.any(), "a file in diffusers' own layout"
    file.rename(folder / "diffusion_pytorch_model.fp16.safetensors")
    assert not load(base_folder, vae=str(folder)).vae.encoder.conv_in.weight.any(), "fp16 alone"


def test_another_vae_that_is_not_whole(base_folder, tmp_path):
    file = zeroed_vae(base_folder, tmp_path / "vae") / "diffusion_pytorch_model.safetensors"
    save_file({k: v for k, v in load_file(file).items() if "up_blocks.1" not in k}, file)
    with pytest.raises(UserError, match=r"\[model\] vae .*cannot be loaded: it lacks weights"):
        load(base_folder, vae=str(file))


@pytest.mark.parametrize(
    ("asked", "upcast", "place", "got"),
    [
        ("auto", True, torch.bfloat16, torch.float32),
        ("auto", False, torch.bfloat16, torch.bfloat16),
        ("fp32", False, torch.bfloat16, torch.float32),
        ("bf16", True, torch.float32, torch.bfloat16),
        ("fp16", True, torch.bfloat16, torch.float16),
    ],
)
def test_the_vaes_dtype(base_folder, tmp_path, asked, upcast, place, got):
    folder = shutil.copytree(base_folder, tmp_path / "copy")
    config = folder / "vae" / "config.json"
    config.write_text(config.read_text().replace('"force_upcast": true', f'"force_upcast": {str(upcast).lower()}'))
    assert load(folder, place, vae_dtype=asked).vae.dtype == got


def test_fp32_weights_under_a_half_place(base_folder):
    base = load(base_folder, torch.bfloat16, base_dtype="fp32")
    assert (base.unet.dtype, base.dtype, base.text[0][1].dtype) == (torch.float32, torch.bfloat16, torch.bfloat16)
    assert torch.equal(base.unet.conv_in.weight, load(base_folder).unet.conv_in.weight)


def test_eight_bit_weights_ask_for_the_update_beside_them(base_folder):
    base = load(base_folder, torch.bfloat16, base_dtype="fp8")
    assert base.beside
    assert base.unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q.weight.dtype == torch.float8_e4m3fn
    assert not load(base_folder).beside


@pytest.mark.parametrize(
    ("config", "keys", "expected"),
    [
        ({}, {}, ("epsilon", False)),
        ({"prediction_type": "v_prediction"}, {}, ("v_prediction", False)),
        ({"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}, {}, ("v_prediction", True)),
        ({}, {"v_parameterization": True, "zero_terminal_snr": True}, ("v_prediction", True)),
        ({"prediction_type": "v_prediction"}, {"v_parameterization": False}, ("epsilon", False)),
    ],
)
def test_the_schedule_is_set_to_what_the_base_predicts(base_folder, tmp_path, config, keys, expected):
    folder = shutil.copytree(base_folder, tmp_path / "copy")
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    base = load(folder, **keys)
    said = base.scheduler.config
    assert (base.prediction, base.zero_terminal_snr) == expected
    assert (said.prediction_type, said.rescale_betas_zero_snr) == expected
    assert (base.scheduler.alphas_cumprod[-1] < 1e-6) == expected[1]
    assert said.timestep_spacing == "leading", "the rest stays"


def test_of_a_hub_id_the_loaded_scheduler_speaks(base_folder, tmp_path):
    """The facts of a hub id are open until it is loaded."""
    folder = shutil.copytree(base_folder, tmp_path / "copy")
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(path.read_text().replace('"rescale_betas_zero_snr": false', '"rescale_betas_zero_snr": true'))
    model = schema.Model(pretrained_model_name_or_path=str(folder))
    with pytest.raises(UserError, match="zero_terminal_snr: expected a base that predicts velocity"):
        models.load(model, Precision(CPU, torch.float32), modelcheck.ModelFacts())
    path.write_text(path.read_text().replace('"epsilon"', '"v_prediction"'))
    base = models.load(model, Precision(CPU, torch.float32), modelcheck.ModelFacts())
    assert (base.prediction, base.zero_terminal_snr) == ("v_prediction", True)


@pytest.fixture
def hub(base_folder, tmp_path, monkeypatch):
    """The snapshot of `someone/sdxl` in a cache of the hub, which is not asked; returns its folder."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("diffusers.pipelines.pipeline_utils.DIFFUSERS_CACHE", str(tmp_path / "cache"), raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "cache" / "models--someone--sdxl"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("a" * 40)
    return shutil.copytree(base_folder, repository / "snapshots" / ("a" * 40))


def test_a_base_of_a_hub_id_is_checked_as_the_folder_that_was_fetched(hub, base_folder):
    base = load("someone/sdxl", allow_download=True)
    assert torch.equal(base.unet.conv_in.weight, load(base_folder).unet.conv_in.weight)
    path = hub / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "conv_in.scale_weight": torch.ones(1)}, path)
    with pytest.raises(UserError, match=r'base "someone/sdxl": unet: .*scales of their own'):
        load("someone/sdxl", allow_download=True)
    save_file({**tensors, "down_blocks.7.resnets.0.conv1.weight": torch.ones(3, 5)}, path)
    with pytest.raises(UserError, match=r'base "someone/sdxl": unet: its files hold'):
        load("someone/sdxl", allow_download=True)


def test_a_vae_of_a_hub_id_is_checked_as_the_folder_that_was_fetched(hub, base_folder):
    repository = hub.parents[2] / "models--someone--vae"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("b" * 40)
    folder = zeroed_vae(base_folder, repository / "snapshots" / ("b" * 40))
    base = load(base_folder, vae="someone/vae", allow_download=True)
    assert not base.vae.encoder.conv_in.weight.any()
    path = folder / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "decoder.conv_in.scale_weight": torch.ones(1)}, path)
    with pytest.raises(UserError, match=r'\[model\] vae "someone/vae": .*scales of their own'):
        load(base_folder, vae="someone/vae", allow_download=True)


def test_a_hub_id_that_cannot_be_fetched_is_said(hub, base_folder):
    with pytest.raises(UserError, match=r'base "someone/else": cannot be fetched: '):
        load("someone/else", allow_download=True)
    with pytest.raises(UserError, match=r'\[model\] vae "someone/else": cannot be fetched: '):
        load(base_folder, vae="someone/else", allow_download=True)


def test_eager_attention_is_the_same_numbers(base_folder):
    plain, eager = load(base_folder).unet, load(base_folder, attention="eager").unet
    assert {type(each).__name__ for each in eager.attn_processors.values()} == {"AttnProcessor"}
    assert {type(each).__name__ for each in plain.attn_processors.values()} == {"AttnProcessor2_0"}
    generator = torch.Generator().manual_seed(0)
    conditions = {"text_embeds": torch.randn(1, 16, generator=generator), "time_ids": torch.ones(1, 6)}
    given = torch.randn(1, 4, 8, 8, generator=generator), torch.tensor([7]), torch.randn(1, 77, 24, generator=generator)
    with torch.no_grad():
        one, two = (unet(*given, added_cond_kwargs=conditions).sample for unet in (plain, eager))
    assert torch.allclose(one, two, atol=1e-5)


def test_xformers_that_is_not_there(base_folder):
    if "xformers" in sys.modules or modelcheck.importlib.util.find_spec("xformers"):
        pytest.skip("it is there")
    with pytest.raises(UserError, match=r"\[train\] attention: xformers cannot be used here .*pip install xformers"):
        load(base_folder, attention="xformers")


def test_nf4_is_quantised_by_bitsandbytes_layers(base_folder, monkeypatch):
    monkeypatch.setattr(modelcheck, "not_installed", lambda *what: [])
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match="pip install bitsandbytes"):
        load(base_folder, base_dtype="nf4")


def test_what_cannot_be_loaded_or_trained(base_folder, tmp_path):
    folder = shutil.copytree(base_folder, tmp_path / "copy")
    config = folder / "scheduler" / "scheduler_config.json"
    text = config.read_text()
    model = schema.Model(pretrained_model_name_or_path=str(folder))
    config.write_text(text.replace('"epsilon"', '"sample"'))
    with pytest.raises(UserError, match='expected prediction_type "epsilon" or "v_prediction", got "sample"'):
        models.load(model, Precision(CPU, torch.float32), modelcheck.ModelFacts())
    config.unlink()
    with pytest.raises(UserError, match="cannot be loaded"):
        models.load(model, Precision(CPU, torch.float32), modelcheck.ModelFacts())


def test_a_schedule_without_betas_is_refused(base_folder, tmp_path):
    from diffusers import EDMEulerScheduler, FlowMatchEulerDiscreteScheduler

    for number, kind in enumerate((EDMEulerScheduler, FlowMatchEulerDiscreteScheduler)):
        folder = shutil.copytree(base_folder, tmp_path / str(number))
        kind().save_pretrained(folder / "scheduler")
        index = folder / "model_index.json"
        index.write_text(index.read_text().replace("EulerDiscreteScheduler", kind.__name__))
        with pytest.raises(UserError, match=f"expected one with a beta_schedule, got {kind.__name__}.*Name a base"):
            load(folder)
