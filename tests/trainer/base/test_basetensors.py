"""Every tensor of a base is read, known to be of no use, or refused: what nobody reads is another model."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from trainer import setup
from trainer.base import basetensors, headers, modelcheck, modelfacts, models
from trainer.base.modelfacts import TEXT, UNET, VAE
from trainer.base.precision import Precision
from trainer.job import schema
from trainer.system.errors import UserError

PLACE = Precision(torch.device("cpu"), torch.float32)
FOLDERS = {"unet": "unet", "vae": "vae", "text_encoder": "text", "text_encoder_2": "text"}
STRAY = {
    "a scale": ("conv_in.scale_weight", "scales of their own"),
    "ComfyUI's newer scale": ("conv_in.weight_scale", "scales of their own"),
    "a scale of inputs": ("conv_in.input_scale", "scales of their own"),
    "a marker of scaled fp8": ("scaled_fp8", "scales of their own"),
    "a marker of ComfyUI's": ("conv_in.comfy_quant", "scales of their own"),
    "bitsandbytes' blocks": ("conv_in.weight.absmax", "scales of their own"),
    "a spelling that is nobody's": ("conv_in.gain", "nothing here reads"),
    "a layer that no model has": ("adapter.down.weight", "nothing here reads"),
    "a LoRA left in it": ("conv_in.lora_down.weight", "nothing here reads"),
    "a line break": ("conv_in.x\nall is well", r"conv_in.x\nall is well"),
}


def weights(folder):
    return next(folder.glob("*.safetensors"))


def problems(path, **keys):
    return modelcheck.check(schema.Model(pretrained_model_name_or_path=str(path), **keys))[1]


@pytest.fixture
def base(base_folder, tmp_path):
    return shutil.copytree(base_folder, tmp_path / "copy")


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("name", STRAY)
def test_a_tensor_that_nothing_reads_is_named_and_refused(base, folder, name):
    assert not problems(base)
    tensor, words = STRAY[name]
    path = weights(base / folder)
    save_file({**load_file(path), tensor: torch.ones(1)}, path)
    (found,) = problems(base)
    assert f": {folder}: " in found
    assert words in found


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int64])
def test_weights_that_are_no_plain_numbers_are_refused(base, folder, dtype):
    path = weights(base / folder)
    tensors = load_file(path)
    name = next(iter(tensors))
    save_file({**tensors, name: tensors[name].to(dtype)}, path)
    (found,) = problems(base)
    assert "a quantised file" in found and name in found


def numbered(tensors, first):
    """Returns the tensors, each filled with a number of its own."""
    return {name: torch.full_like(tensor, first + at) for at, (name, tensor) in enumerate(sorted(tensors.items()))}


def test_no_tensor_of_a_folder_stays_unread_but_those_that_are_known(base):
    """Each holds another number: those that are found nowhere in the loaded base were not read."""
    first, held = 1, {}
    for folder in FOLDERS:
        path = weights(base / folder)
        tensors = load_file(path)
        if folder == "vae":
            tensors["loss.logvar"] = torch.zeros(1)
        elif folder != "unet":
            tensors["logit_scale"] = torch.zeros(1)
        made = numbered(tensors, first)
        save_file(made, path)
        held |= {first + at: (folder, name) for at, name in enumerate(sorted(made))}
        first += len(made)
    model = schema.Model(pretrained_model_name_or_path=str(base))
    facts, found = modelcheck.check(model)
    assert not found
    loaded = models.load(model, PLACE, facts)
    modules = (loaded.unet, loaded.vae, *(encoder for _, encoder in loaded.text))
    read = {number for module in modules for one in module.parameters() for number in one.unique().tolist()}
    unread = {held[number] for number in held.keys() - read}
    assert unread == {("vae", "loss.logvar"), ("text_encoder", "logit_scale"), ("text_encoder_2", "logit_scale")}
    assert all(basetensors.is_left(name, FOLDERS[folder]) for folder, name in unread)
    for folder, kind in FOLDERS.items():
        names = headers.read(weights(base / folder)).tensors
        assert {name for name in names if basetensors.is_left(name, kind)} == {n for f, n in unread if f == folder}


def test_a_base_of_which_something_was_not_read_is_refused_before_it_is_loaded(base):
    """A config that describes fewer layers than the file holds: each tensor's name is a good one of another UNet."""
    path = weights(base / "unet")
    tensors = load_file(path)
    more = {
        name.replace(".0.", ".7."): value.clone()
        for name, value in tensors.items()
        if "mid_block.attentions.0." in name
    }
    save_file({**tensors, **more}, path)
    model = schema.Model(pretrained_model_name_or_path=str(base))
    _, found = modelcheck.check(model)
    assert len(found) == 1
    assert "what they do to the model would be missing" in found[0]


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("unet", "down_blocks.7.resnets.0.conv1.weight"),
        ("vae", "decoder.up_blocks.7.resnets.0.conv1.weight"),
        ("text_encoder", "text_model.encoder.layers.7.mlp.fc1.weight"),
        ("text_encoder_2", "text_model.encoder.layers.7.mlp.fc1.weight"),
    ],
)
def test_a_layer_that_the_configs_do_not_describe_is_refused_when_it_is_loaded(base, folder, name):
    """Its name is a good one of another model of the kind: the libraries leave it out without a word."""
    path = weights(base / folder)
    save_file({**load_file(path), name: torch.zeros(3, 5)}, path)
    model = schema.Model(pretrained_model_name_or_path=str(base))
    facts, problems = modelcheck.check(model)
    assert not problems
    part = "text encoders" if folder.startswith("text") else folder
    with pytest.raises(UserError, match=rf"{part}: its files hold [\d,]+ numbers, the model that its configs describe"):
        models.load(model, Precision(torch.device("cpu"), torch.float32), facts)


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_broken_numbers_of_a_base_are_named_before_training(base, folder, number):
    path = weights(base / folder)
    tensors = load_file(path)
    name = sorted(name for name in tensors if name.endswith("weight"))[3]
    tensors[name].view(-1)[1] = number
    save_file(tensors, path)
    model = schema.Model(pretrained_model_name_or_path=str(base))
    with pytest.raises(
        UserError, match=r"expected finite numbers, got NaN or infinity in float32\. The file"
    ) as raised:
        models.load(model, PLACE, modelfacts.of_folder(model, base))
    assert folder in str(raised.value)
    assert name.removeprefix("text_model.") in str(raised.value)


def test_a_sum_that_overflows_is_no_broken_number():
    module = torch.nn.Linear(2, 1)
    module.weight.data.fill_(3e38)
    assert models.first_broken(module) == ""
    module.weight.data[0, 1] = float("-inf")
    assert models.first_broken(module) == "weight"


def checkpoint(path, *names):
    """Writes a checkpoint's header over sparse numbers."""
    shapes = {modelcheck.FIRST: [2, 4, 1, 1], modelcheck.DEEPEST: [2, 2], f"{TEXT[1]}ln_final.bias": [2]}
    shapes |= {f"{TEXT[0]}text_model.final_layer_norm.bias": [2], f"{VAE}quant_conv.bias": [2]}
    shapes |= {name: [2] for name in names}
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(end))
    return path


@pytest.fixture
def vocabulary(tmp_path):
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "vocab.json").write_text('{"a": 0}')
    (tmp_path / "clip" / "merges.txt").write_text("#version: 0.2\n")
    return str(tmp_path / "clip")


@pytest.mark.parametrize("prefix", [UNET, VAE, *TEXT, "", "control_model."])
@pytest.mark.parametrize("name", STRAY)
def test_a_stray_tensor_of_a_checkpoint_is_refused_wherever_it_lies(tmp_path, vocabulary, prefix, name):
    tensor, words = STRAY[name]
    (found,) = problems(checkpoint(tmp_path / "a.safetensors", prefix + tensor), tokenizer=vocabulary)
    assert words in found


@pytest.mark.parametrize(
    "name",
    [
        "model_ema.diffusion_modelout2bias", "model_ema.decay", "denoiser.sigmas", "betas", "v_pred",
        "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod",
        "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod", "logvar",
        "posterior_log_variance_clipped", "posterior_mean_coef1", f"{VAE}loss.logvar", f"{TEXT[1]}logit_scale",
        f"{TEXT[0]}text_model.embeddings.position_ids", "conditioner.embedders.0.logit_scale",
    ],
)  # fmt: skip
def test_what_checkpoints_carry_and_nobody_misses_is_let_through(tmp_path, vocabulary, name):
    assert not problems(checkpoint(tmp_path / "a.safetensors", name), tokenizer=vocabulary)
    both = checkpoint(tmp_path / "b.safetensors", name, "v_pred", "ztsnr")
    assert not problems(both, tokenizer=vocabulary)


def test_sdxls_own_names_are_read():
    """Every name that the core's own rule gives SDXL's UNet in the original layout."""
    from waveft_core.format.keys import original_paths

    config = json.loads((modelfacts.ASSETS / "unet" / "config.json").read_text())
    from accelerate import init_empty_weights
    from diffusers import UNet2DConditionModel

    with init_empty_weights():
        unet = UNet2DConditionModel.from_config(config)
    names = [name for name, _ in unet.named_parameters()]
    entry = {"dtype": "F16"}
    assert not basetensors.faults("unet", dict.fromkeys(names, entry))
    paths = original_paths({name.rpartition(".")[0] for name in names})
    original = [f"{paths[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}" for name in names]
    assert len(set(original)) == len(names)
    assert not basetensors.faults("unet", dict.fromkeys(original, entry))


def test_the_parts_of_a_run_are_built_of_a_whole_base(job, write_job):
    from trainer.preflight import preflight

    assert setup.build(preflight.check(preflight.read(write_job(job))))
