"""A base with its features in another order computes the same, and its weights' neighbours are others."""

import shutil
from pathlib import Path

import pytest
import torch

from experiments import permuted
from trainer.system.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
NANO = ROOT / "models" / "nano-sdxl"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return permuted.make(NANO, tmp_path_factory.mktemp("permuted") / "base")


def unet(folder):
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float64)


def test_the_function_is_the_same_and_the_weights_are_not(folder):
    before, after = unet(NANO), unet(folder)
    generator = torch.Generator().manual_seed(0)
    width = before.config.cross_attention_dim
    pooled = before.config.projection_class_embeddings_input_dim - 6 * before.config.addition_time_embed_dim
    given = {
        "sample": torch.randn(1, 4, 16, 16, generator=generator, dtype=torch.float64),
        "timestep": torch.tensor([500]),
        "encoder_hidden_states": torch.randn(1, 77, width, generator=generator, dtype=torch.float64),
        "added_cond_kwargs": {
            "text_embeds": torch.randn(1, pooled, generator=generator, dtype=torch.float64),
            "time_ids": torch.tensor([[64.0, 64, 0, 0, 64, 64]], dtype=torch.float64),
        },
    }
    with torch.no_grad():
        expected, found = (model(**given).sample for model in (before, after))
    # diffusers computes some embeddings in float32 whatever the dtype: equal up to its rounding
    assert torch.allclose(expected, found, atol=1e-4 * float(expected.abs().max()))
    held = dict(after.named_parameters())
    attention = [name for name in held if ".to_" in name and name.endswith("weight")]
    moved = [name for name, one in before.named_parameters() if name in attention and not torch.equal(one, held[name])]
    assert sorted(moved) == sorted(attention), "every weight that trains is another"
    assert all(
        torch.equal(one.flatten().sort().values, held[name].flatten().sort().values)
        for name, one in before.named_parameters()
    ), "of the same numbers"


def test_one_side_left_alone_changes_the_function():
    """The test above could fail: without the columns of proj_out the base computes something else."""
    from safetensors.torch import load_file

    (file,) = (NANO / "unet").glob("*.safetensors")
    before = load_file(file)
    config = permuted.read_json(NANO / "unet" / "config.json")
    after = permuted.permute(before, permuted.head_widths(config), 0)
    broken = after | {name: before[name] for name in before if name.endswith("proj_out.weight")}
    model = unet(NANO)
    given = (torch.ones(1, 4, 16, 16, dtype=torch.float64), torch.tensor([10]))
    rest = {
        "encoder_hidden_states": torch.ones(1, 7, model.config.cross_attention_dim, dtype=torch.float64),
        "added_cond_kwargs": {
            "text_embeds": torch.ones(
                1,
                model.config.projection_class_embeddings_input_dim - 6 * model.config.addition_time_embed_dim,
                dtype=torch.float64,
            ),
            "time_ids": torch.ones(1, 6, dtype=torch.float64),
        },
    }
    outputs = []
    with torch.no_grad():
        for tensors in (before, broken):
            model.load_state_dict({name: held.double() for name, held in tensors.items()})
            outputs.append(model(*given, **rest).sample)
    assert not torch.allclose(*outputs, atol=1e-2 * float(outputs[0].abs().max()))


def test_it_is_made_once_and_of_the_seed_alone(folder, tmp_path):
    (file,) = (folder / "unet").glob("*.safetensors")
    stamp = file.stat().st_mtime_ns
    assert permuted.make(NANO, folder) == folder
    assert file.stat().st_mtime_ns == stamp
    again = permuted.make(NANO, tmp_path / "again")
    assert (again / "unet" / file.name).read_bytes() == file.read_bytes()
    for part in ("vae", "text_encoder", "text_encoder_2"):
        (own,) = (NANO / part).glob("*.safetensors")
        assert (again / part / own.name).read_bytes() == own.read_bytes()


def test_what_is_no_such_base_is_refused(tmp_path):
    with pytest.raises(UserError, match="expected a diffusers folder"):
        permuted.make(tmp_path, tmp_path / "out")
    shutil.copytree(NANO / "unet", tmp_path / "unet")
    (file,) = (tmp_path / "unet").glob("*.safetensors")
    shutil.copy(file, file.with_name("second.safetensors"))
    with pytest.raises(UserError, match="got 2"):
        permuted.make(tmp_path, tmp_path / "out")
