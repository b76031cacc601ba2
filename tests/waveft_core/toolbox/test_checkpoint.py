import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import waveft_core.toolbox.outputs
from waveft_core import Adapter, WaveFTError, load, merge, save
from waveft_core.format.container import Entry, read_layout, write_container
from waveft_core.format.keys import original_paths
from waveft_core.toolbox.checkpoint import MERGED, merge_files
from waveft_core.toolbox.weights import Weights

NANO = Path(__file__).resolve().parents[3] / "models" / "nano-sdxl"
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2)
TE2 = "conditioner.embedders.1.model.transformer.resblocks.0."
Q, V = (f"lora_te2_text_model_encoder_layers_0_self_attn_{kind}_proj" for kind in "qv")
SHAPES = {"lora_a": (8, 12), "lora_b_0": (6, 4, 3, 3), "lora_c": (10, 6)}


def base_file(path, dtype=torch.float16, metadata=None, seed=0):
    """A state dict with three layers that adapters change and tensors that none does."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return (torch.randn(shape, generator=generator) / 4).to(dtype)

    tensors = {"z.weight": draw(5, 7), "a.bias": draw(8), "steps": torch.tensor(3), "empty": torch.zeros(0, 4)}
    tensors |= {"a.weight": draw(8, 12), "b.0.weight": draw(6, 4, 3, 3), "c.weight": draw(10, 6)}
    save_file(tensors, path, {"format": "pt", "title": "base"} if metadata is None else metadata)
    return path


def metadata_of(path):
    with safe_open(path, "pt") as file:
        return file.metadata() or {}


def raw(path):
    """Every tensor's bytes by name, straight out of the file."""
    content, (layout, _) = path.read_bytes(), read_layout(path)
    return {name: content[held.start : held.start + held.size] for name, held in layout.items()}


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_file_holds_what_a_merge_in_memory_gives_bit_for_bit(tmp_path, make_adapter, bits, dtype):
    base, out = base_file(tmp_path / "base.safetensors", dtype), tmp_path / "new.safetensors"
    adapter = make_adapter(SHAPES, coefficients=20, scaling=0.3)
    written = merge_files(base, [(adapter, 0.7)], out)
    state = load_file(base)
    merge(state, adapter, 0.7)
    found = load_file(out)
    assert found.keys() == state.keys()
    for name, held in state.items():
        assert (found[name].dtype, bits(found[name])) == (held.dtype, bits(held)), name
    assert (written.path, written.size, written.layers) == (out, out.stat().st_size, 3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("wavelet", "mode"), [("db1", "periodization"), ("db2", "zero"), ("identity", "periodization")]
)
def test_the_file_holds_w_plus_dw_rounded_once(tmp_path, make_adapter, pywt_delta, dtype, wavelet, mode):
    base, out = base_file(tmp_path / "base.safetensors", dtype), tmp_path / "new.safetensors"
    adapter = make_adapter(SHAPES, coefficients=20, scaling=0.3, wavelet=wavelet, mode=mode)
    merge_files(base, [(adapter, -0.5)], out)
    before, after = load_file(base), load_file(out)
    step = torch.finfo(dtype).eps
    for name, key in (("lora_a", "a.weight"), ("lora_b_0", "b.0.weight"), ("lora_c", "c.weight")):
        expected = before[key].double().flatten(1).numpy() - 0.5 * pywt_delta(adapter, name)
        got = after[key].double().flatten(1).numpy()
        small = torch.finfo(dtype).smallest_normal * step
        assert np.all(
            np.abs(got - expected) <= step / 2 * np.abs(expected) + small + 4 * torch.finfo(torch.float32).eps
        )
        assert not np.array_equal(got, before[key].double().flatten(1).numpy())


def test_several_adapters_are_summed_before_the_weight_is_rounded(tmp_path, make_adapter, pywt_delta):
    base, out = base_file(tmp_path / "base.safetensors", torch.bfloat16), tmp_path / "new.safetensors"
    first = make_adapter(SHAPES, coefficients=30, seed=1)
    second = make_adapter({"lora_a": (8, 12)}, coefficients=30, seed=2, wavelet="db2", scaling=0.4)
    merge_files(base, [(first, 0.5), (second, -1.5)], out)
    total = 0.5 * pywt_delta(first, "lora_a") - 1.5 * pywt_delta(second, "lora_a")
    before = load_file(base)["a.weight"].float()
    expected = (before + torch.from_numpy(total).float()).bfloat16()
    got = load_file(out)["a.weight"]
    close = torch.isclose(got.float(), expected.float(), rtol=torch.finfo(torch.bfloat16).eps, atol=0)
    assert bool(close.all())
    assert (got == expected).float().mean() > 0.95  # float32's own order of adding may move a tie, no more
    one_by_one = tmp_path / "twice.safetensors"
    merge_files(base, [(first, 0.5)], tmp_path / "once.safetensors")
    merge_files(tmp_path / "once.safetensors", [(second, -1.5)], one_by_one)
    assert not torch.equal(load_file(one_by_one)["a.weight"], got)


def test_an_adapter_and_its_opposite_leave_every_byte(tmp_path, make_adapter):
    base, out = base_file(tmp_path / "base.safetensors"), tmp_path / "new.safetensors"
    adapter = make_adapter(SHAPES)
    merge_files(base, [(adapter, 1.0), (adapter, -1.0)], out)
    assert raw(out) == raw(base)
    merge_files(base, [(adapter, 0.0)], out, overwrite=True)
    assert raw(out) == raw(base)


def test_untouched_tensors_keep_their_bytes_and_all_tensors_their_places(tmp_path, make_adapter):
    base, out = base_file(tmp_path / "base.safetensors"), tmp_path / "new.safetensors"
    merge_files(base, [(make_adapter({"lora_c": (10, 6)}), 1.0)], out)
    before, after = raw(base), raw(out)
    assert list(before) == list(after)
    assert [name for name in before if before[name] != after[name]] == ["c.weight"]


def test_the_metadata_keep_what_they_said_and_tell_what_was_merged(tmp_path, make_adapter):
    base, out = base_file(tmp_path / "base.safetensors"), tmp_path / "new.safetensors"
    save(make_adapter({"lora_c": (10, 6)}, wavelet="sym2", scaling=2.5), tmp_path / "pony.safetensors")
    adapter = load(tmp_path / "pony.safetensors")
    merge_files(base, [(adapter, 0.5)], out)
    found = metadata_of(out)
    assert {key: found[key] for key in ("format", "title")} == metadata_of(base)
    digest = hashlib.sha256((tmp_path / "pony.safetensors").read_bytes()).hexdigest()
    said = {"name": "pony", "strength": 0.5, "sha256": digest, "wavelet": "sym2", "scaling": 2.5, "layers": 1}
    assert json.loads(found[MERGED]) == [said]
    assert str(tmp_path) not in str(found)
    merge_files(out, [(adapter, -0.5)], tmp_path / "again.safetensors")
    assert json.loads(metadata_of(tmp_path / "again.safetensors")[MERGED]) == [said, {**said, "strength": -0.5}]


@pytest.mark.parametrize(("before", "kept"), [("not json", ["not json"]), ('{"a": 1}', [{"a": 1}])])
def test_what_another_tool_wrote_under_our_key_is_kept(tmp_path, make_adapter, before, kept):
    base = base_file(tmp_path / "base.safetensors", metadata={MERGED: before})
    merge_files(base, [(make_adapter(SHAPES), 1.0)], tmp_path / "new.safetensors")
    assert json.loads(metadata_of(tmp_path / "new.safetensors")[MERGED])[:-1] == kept


def test_an_adapter_made_in_memory_is_told_apart_by_its_values(tmp_path, make_adapter):
    base, hashes = base_file(tmp_path / "base.safetensors"), set()
    for number, seed in enumerate((1, 1, 2)):
        merge_files(base, [(make_adapter(SHAPES, seed=seed), 1.0)], tmp_path / f"{number}.safetensors")
        hashes.add(json.loads(metadata_of(tmp_path / f"{number}.safetensors")[MERGED])[0]["sha256"])
    assert len(hashes) == 2


def test_thirds_of_open_clips_fused_attention(tmp_path, make_adapter, pywt_delta, bits):
    base, out = tmp_path / "base.safetensors", tmp_path / "new.safetensors"
    fused = torch.randn(24, 8, generator=torch.Generator().manual_seed(1))
    save_file({f"{TE2}attn.in_proj_weight": fused, f"{TE2}attn.in_proj_bias": torch.zeros(24)}, base)
    adapter = make_adapter({Q: (8, 8), V: (8, 8)}, coefficients=12)
    assert merge_files(base, [(adapter, 1.0)], out).layers == 2
    got = load_file(out)[f"{TE2}attn.in_proj_weight"]
    for name, rows in ((Q, slice(0, 8)), (V, slice(16, 24))):
        expected = fused[rows].double().numpy() + pywt_delta(adapter, name)
        np.testing.assert_allclose(got[rows].double().numpy(), expected, rtol=0, atol=1e-6)
        assert not torch.equal(got[rows], fused[rows])
    assert bits(got[8:16]) == bits(fused[8:16])


def refused(tmp_path, base, adapters, match, out=None, **more):
    """Checks that a merge is refused and that the folder is left as it was."""
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    with pytest.raises(WaveFTError, match=match):
        merge_files(base, adapters, out or tmp_path / "new.safetensors", **more)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == before


def test_an_adapter_that_does_not_fit_whole_is_refused_before_a_byte_is_written(tmp_path, make_adapter):
    base, fits = base_file(tmp_path / "base.safetensors"), make_adapter(SHAPES)
    strange = {f"lora_x{number:02}": (4, 4) for number in range(13)}
    other = make_adapter({**SHAPES, **strange}, metadata={"modelspec.architecture": "another-model/waveft"})
    refused(
        tmp_path, base, [(fits, 1.0), (other, 1.0)], r"13 of 16 layers.*lora_x09\" and 3 more.*another-model/waveft"
    )
    wrong = make_adapter({"lora_a": (8, 12), "lora_c": (6, 10)})
    refused(tmp_path, base, [(fits, 1.0), (wrong, 1.0)], r"lora_c.*\[6, 10\], got \[10, 6\]")
    refused(tmp_path, base, [], "at least one")
    refused(tmp_path, base, [(fits, math.nan)], "finite number")


def test_weights_that_hold_no_plain_numbers_are_refused(tmp_path, make_adapter):
    adapter, file = make_adapter({"lora_a": (8, 12)}), tmp_path / "base.safetensors"
    save_file({"a.weight": torch.zeros(8, 12, dtype=torch.int8)}, file)
    refused(tmp_path, file, [(adapter, 1.0)], "unquantised")
    for scale in ("scaled_fp8", "a.scale_weight", "a.weight_scale"):
        save_file({"a.weight": torch.zeros(8, 12).to(torch.float8_e4m3fn), scale: torch.ones(1)}, file)
        refused(tmp_path, file, [(adapter, 1.0)], "scale of its own")


@pytest.mark.parametrize("dtype", [torch.float16, torch.float8_e4m3fn, torch.float8_e5m2])
def test_a_merged_weight_that_is_not_finite_leaves_no_file(tmp_path, make_adapter, dtype):
    base, adapter = base_file(tmp_path / "base.safetensors", dtype), make_adapter(SHAPES)
    refused(tmp_path, base, [(adapter, 1e7)], "finite merged weight")


def test_the_target_is_looked_at_first(tmp_path, make_adapter, monkeypatch):
    base, adapter = base_file(tmp_path / "base.safetensors"), make_adapter(SHAPES)
    parts = [(adapter, 1.0)]
    link = tmp_path / "link.safetensors"
    link.symlink_to(base)
    for same in (base, tmp_path / "." / "base.safetensors", link):
        refused(tmp_path, base, parts, "another place than the base", same, overwrite=True)
    save(adapter, tmp_path / "dog.safetensors")
    held = [(load(tmp_path / "dog.safetensors"), 1.0)]
    refused(tmp_path, base, held, "another place than the adapters", tmp_path / "dog.safetensors", overwrite=True)
    taken = tmp_path / "taken.safetensors"
    taken.write_bytes(b"mine")
    refused(tmp_path, base, parts, "one that exists", taken)
    refused(tmp_path, base, parts, "existing folder", tmp_path / "no" / "new.safetensors")
    refused(tmp_path, base, parts, r"expected a \.safetensors file", tmp_path / "new.ckpt")
    (tmp_path / "folder.safetensors").mkdir()
    refused(tmp_path, base, parts, "something else", tmp_path / "folder.safetensors", overwrite=True)
    monkeypatch.setattr(
        waveft_core.toolbox.outputs.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 90, 10)
    )
    refused(tmp_path, base, parts, "GB of free space")


def test_an_old_file_is_replaced_whole_or_not_at_all(tmp_path, make_adapter):
    base, out = base_file(tmp_path / "base.safetensors"), tmp_path / "new.safetensors"
    adapter = make_adapter(SHAPES)
    out.write_bytes(b"old")
    with pytest.raises(WaveFTError, match="finite merged weight"):
        merge_files(base, [(adapter, 1e7)], out, overwrite=True)
    assert out.read_bytes() == b"old"

    def stop(size, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge_files(base, [(adapter, 1.0)], out, overwrite=True, progress=stop)
    assert out.read_bytes() == b"old"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["base.safetensors", "new.safetensors"]
    merge_files(base, [(adapter, 1.0)], out, overwrite=True)
    assert load_file(out)


def test_progress_tells_every_byte(tmp_path, make_adapter):
    base, told = base_file(tmp_path / "base.safetensors"), []
    merge_files(base, [(make_adapter(SHAPES), 1.0)], tmp_path / "new.safetensors", progress=lambda *it: told.append(it))
    assert sum(size for size, _ in told) == sum(map(len, raw(base).values()))
    assert {total for _, total in told} == {base.stat().st_size}


@pytest.fixture
def nano_adapter(make_adapter):
    slots = Weights.open(NANO).slots
    names = [name for name in slots if "attn" in name and name.startswith(("lora_unet_", "lora_te1_"))]
    return make_adapter({name: slots[name].shape for name in names}, coefficients=40, scaling=0.05)


def files_of(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_pipelines_folder_becomes_one_of_the_same_layout(tmp_path, nano_adapter, bits):
    out = tmp_path / "new"
    written = merge_files(NANO, [(nano_adapter, 1.0)], out)
    before, after = files_of(NANO), files_of(out)
    assert before.keys() - after.keys() == {"README.md", "samples.png"} == set(written.left_out)
    assert after.keys() < before.keys()
    changed = {name for name in after if before[name] != after[name]}
    assert changed == {"unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"}
    assert written.size == sum(map(len, after.values()))
    merged, old = Weights.open(out), Weights.open(NANO)
    for name, slot in old.slots.items():
        weight = old.read(name)
        if name in nano_adapter.layers:
            state = {f"{slot.path}.weight": weight}
            nano_adapter.add_(state[f"{slot.path}.weight"], name)
        assert bits(merged.read(name)) == bits(weight), name
    counts = {file: json.loads(metadata_of(out / file)[MERGED])[0]["layers"] for file in changed}
    assert sum(counts.values()) == len(nano_adapter.layers) == written.layers


def test_diffusers_reads_the_merged_folder(tmp_path, nano_adapter):
    from diffusers import UNet2DConditionModel

    merge_files(NANO, [(nano_adapter, 1.0)], tmp_path / "new")
    unet = UNet2DConditionModel.from_pretrained(NANO / "unet", torch_dtype=torch.float16)
    merge(unet, nano_adapter, leave_out={"te1"})
    found = UNet2DConditionModel.from_pretrained(tmp_path / "new" / "unet", torch_dtype=torch.float16)
    for name, held in unet.state_dict().items():
        assert torch.equal(found.state_dict()[name], held), name


def test_other_forms_of_the_touched_weights_are_left_behind(tmp_path, make_adapter):
    base, out = tmp_path / "base", tmp_path / "new"
    shutil.copytree(NANO / "unet", base / "unet")
    shutil.copytree(NANO / "vae", base / "vae")
    (base / "model_index.json").write_text("{}")
    (base / ".git").mkdir()
    (base / ".git" / "object").write_bytes(b"x")
    for stale in ("unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.fp16.safetensors", "whole.ckpt"):
        (base / stale).write_bytes(b"x")
    index = base / "unet/diffusion_pytorch_model.safetensors.index.fp16.json"
    index.write_text('{"weight_map": {"a.weight": "diffusion_pytorch_model.fp16-00001-of-00001.safetensors"}}')
    (base / "vae" / "diffusion_pytorch_model.bin").write_bytes(b"x")
    name, slot = next((name, slot) for name, slot in Weights.open(base).slots.items() if name.endswith("to_q"))
    written = merge_files(base, [(make_adapter({name: slot.shape}), 1.0)], out)
    assert set(written.left_out) == {
        str(Path("unet/diffusion_pytorch_model.bin")),
        str(index.relative_to(base)),
        str(Path("unet/diffusion_pytorch_model.fp16.safetensors")),
        "whole.ckpt",
    }
    left = {"unet/config.json", "unet/diffusion_pytorch_model.safetensors", "model_index.json", "vae/config.json"}
    left |= {"vae/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.bin"}
    assert {name.replace(os.sep, "/") for name in files_of(out)} == left


def test_what_presents_the_unmerged_model_is_left_behind_and_a_licence_is_not(tmp_path, make_adapter):
    base, out = tmp_path / "base", tmp_path / "new"
    shutil.copytree(NANO / "unet", base / "unet")
    (base / "model_index.json").write_text("{}")
    (base / "images").mkdir()
    telling = {"README.md", "unet/readme.md", "images/a.JPG", "samples.png"}
    staying = {"LICENSE.md", "LICENSE", "NOTICE.txt", "model_index.json", "unet/config.json", ".gitattributes"}
    for name in (telling | staying) - {"model_index.json", "unet/config.json"}:
        (base / name).write_text("of the base")
    name, slot = next((name, slot) for name, slot in Weights.open(base).slots.items() if name.endswith("to_q"))
    written = merge_files(base, [(make_adapter({name: slot.shape}), 1.0)], out)
    assert {name.replace(os.sep, "/") for name in written.left_out} == telling
    weights = {"unet/diffusion_pytorch_model.safetensors"}
    assert {name.replace(os.sep, "/") for name in files_of(out)} == staying | weights


def test_shards_stay_shards(tmp_path, make_adapter, bits):
    base, out = tmp_path / "base", tmp_path / "new"
    base.mkdir()
    base_file(tmp_path / "one.safetensors")
    tensors, shards = load_file(tmp_path / "one.safetensors"), {}
    for number, names in enumerate((["a.weight", "a.bias"], ["b.0.weight", "c.weight", "z.weight"]), 1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in names}, base / file)
        shards |= dict.fromkeys(names, file)
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    merge_files(base, [(make_adapter({"lora_c": (10, 6)}), 1.0)], out)
    before, after = files_of(base), files_of(out)
    assert before.keys() == after.keys()
    assert {name for name in before if before[name] != after[name]} == {"model-00002-of-00002.safetensors"}


def test_a_folders_target_is_looked_at_too(tmp_path, nano_adapter, make_adapter):
    base = tmp_path / "base"
    shutil.copytree(NANO, base)
    parts = [(nano_adapter, 1.0)]
    refused(tmp_path, base, parts, "another place", base, overwrite=True)
    refused(tmp_path, base, parts, "another place", base / "new")
    refused(tmp_path, base, parts, "expected a folder", tmp_path / "new.safetensors")
    diary = tmp_path / "home"
    diary.mkdir()
    (diary / "diary.txt").write_text("dear diary")
    refused(tmp_path, base, parts, "one that exists", diary)
    refused(tmp_path, base, parts, "holds other things", diary, overwrite=True)
    missing = make_adapter({"lora_unet_nowhere": (4, 4)})
    refused(tmp_path, base, [(missing, 1.0)], "1 of 1 layers", tmp_path / "new")
    refused(tmp_path, base, [(nano_adapter, 1e9)], "finite merged weight", tmp_path / "new")


def test_an_old_folder_is_replaced_whole(tmp_path, nano_adapter):
    out = tmp_path / "new"
    merge_files(NANO, [(nano_adapter, 1.0)], out)
    (out / "stale.txt").write_text("of the old one")
    merge_files(NANO, [(nano_adapter, 0.5)], out, overwrite=True)
    assert not (out / "stale.txt").exists()
    said = json.loads(metadata_of(out / "unet" / "diffusion_pytorch_model.safetensors")[MERGED])
    assert [one["strength"] for one in said] == [0.5]
    assert [file.name for file in tmp_path.iterdir()] == ["new"]


def test_an_interrupt_leaves_the_old_folder_as_it_was(tmp_path, nano_adapter):
    out = tmp_path / "new"
    merge_files(NANO, [(nano_adapter, 1.0)], out)
    before = files_of(out)

    def stop(size, total):
        if size < total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge_files(NANO, [(nano_adapter, 0.5)], out, overwrite=True, progress=stop)
    assert files_of(out) == before
    assert [file.name for file in tmp_path.iterdir()] == ["new"]


def test_folders_of_pickles_are_named_when_layers_are_missing(tmp_path, nano_adapter):
    shutil.copytree(NANO / "unet", tmp_path / "base" / "unet")
    (tmp_path / "base" / "text_encoder").mkdir()
    (tmp_path / "base" / "text_encoder" / "pytorch_model.bin").write_bytes(b"x")
    refused(tmp_path, tmp_path / "base", [(nano_adapter, 1.0)], '"text_encoder" hold no safetensors', tmp_path / "new")


def sdxl_shapes():
    """SDXL's tensors as the single-file checkpoint names them, by the published configs; 6.9 GB in fp16."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=128,
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=[1, 2, 10],
            attention_head_dim=[5, 10, 20],
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        )
        te1 = CLIPTextModel(CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12))
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
        )
    paths = original_paths(path for path, _ in unet.named_modules())
    shapes = {}
    for key, held in unet.state_dict().items():
        path, _, kind = key.rpartition(".")
        shapes[f"model.diffusion_model.{paths[path]}.{kind}"] = tuple(held.shape)
    for key, held in te1.state_dict().items():
        path = key if key.startswith("text_model.") else f"text_model.{key}"
        shapes[f"conditioner.embedders.0.transformer.{path}"] = tuple(held.shape)
    open_clip = "conditioner.embedders.1.model."
    for number in range(32):
        block = f"{open_clip}transformer.resblocks.{number}."
        for path, (m, n) in (("attn.out_proj", (1280, 1280)), ("mlp.c_fc", (5120, 1280)), ("mlp.c_proj", (1280, 5120))):
            shapes |= {f"{block}{path}.weight": (m, n), f"{block}{path}.bias": (m,)}
        shapes |= {f"{block}attn.in_proj_weight": (3840, 1280), f"{block}attn.in_proj_bias": (3840,)}
        shapes |= {f"{block}{norm}.{kind}": (1280,) for norm in ("ln_1", "ln_2") for kind in ("weight", "bias")}
    shapes |= {f"{open_clip}token_embedding.weight": (49408, 1280), f"{open_clip}positional_embedding": (77, 1280)}
    shapes |= {f"{open_clip}text_projection": (1280, 1280), f"{open_clip}logit_scale": ()}
    return shapes | {f"first_stage_model.{key}": tuple(held.shape) for key, held in vae.state_dict().items()}


def write_random(path, shapes):
    """Writes fp16 tensors cut out of one random block, each from another place; 128 MB of memory."""
    block = (torch.randn(2**26, generator=torch.Generator().manual_seed(0)) / 32).half()

    def maker(key, count):
        start = zlib.crc32(key.encode()) % 2**20
        return lambda: block[start : start + count]

    entries = [Entry.of(key, torch.float16, shape, maker(key, math.prod(shape))) for key, shape in shapes.items()]
    write_container(path, entries, {"format": "pt", "title": "random"})


MEASURED = """
import sys, time
from pathlib import Path
from waveft_core import load
from waveft_core.toolbox.checkpoint import merge_files

def peak():  # not getrusage's: that one begins with what the process had that started this one
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024

adapters = [(load(file), 0.8) for file in sys.argv[3:]]
before, start = peak(), time.perf_counter()
written = merge_files(sys.argv[1], adapters, sys.argv[2])
print(written.layers, time.perf_counter() - start, before, peak())
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from Linux's /proc")
def test_a_full_size_sdxl_is_merged_in_little_memory(tmp_path, make_adapter):
    base, out = tmp_path / "sdxl.safetensors", tmp_path / "new.safetensors"
    write_random(base, sdxl_shapes())
    assert 6.9e9 < base.stat().st_size < 7.0e9
    slots = Weights.open(base).slots
    attention = {name: slot.shape for name, slot in slots.items() if ".attn" in slot.path and "unet" in name}
    text = {name: slot.shape for name, slot in slots.items() if slot.component == "te2" and "self_attn" in name}
    assert (len(attention), len(text)) == (560, 128)
    for number, shapes in enumerate((attention, attention | text)):
        save(make_adapter(shapes, coefficients=2592, scaling=0.02, seed=number), tmp_path / f"{number}.safetensors")
    files = [str(tmp_path / f"{number}.safetensors") for number in range(2)]
    run = [sys.executable, "-c", MEASURED, str(base), str(out), *files]
    done = subprocess.run(run, capture_output=True, text=True, check=True, cwd=NANO.parents[1])
    layers, seconds, started, peak = map(float, done.stdout.split())
    print(
        f"{layers:.0f} layers in {seconds:.1f} s, peak RSS {peak / 1e9:.2f} GB, {(peak - started) / 1e9:.2f} of merging"
    )
    assert layers == 688
    assert peak < 1.5e9
    assert peak - started < 0.25e9
    adapters, merged, before = [load(file) for file in files], Weights.open(out), Weights.open(base)
    assert list(merged.files[out][0]) == list(before.files[base][0])
    for name in [*list(attention)[::97], *list(text)[::31], "lora_unet_out_2", "lora_unet_input_blocks_0_0"]:
        state = {"a.weight": before.read(name)}
        alone = [
            Adapter({"lora_a": adapter.layers[name]}, scaling=adapter.scaling)
            for adapter in adapters
            if name in adapter.layers
        ]
        held = [merge(state, adapter, 0.8) for adapter in alone]  # held: on one ledger, rounded once
        assert torch.equal(merged.read(name), state["a.weight"]), name
        assert bool(held) != torch.equal(merged.read(name), before.read(name))
    base.unlink()
    out.unlink()
