"""Adapters that HF PEFT wrote for a diffusers UNet, converted: all 560 layers find the weights that they are of."""

import json
import warnings

import pytest
import torch

from tests.comfyui.graphs import loaded, plain, run
from tests.comfyui.weights import attention_shapes, largest_error
from waveft_core import load, save
from waveft_core.cli.parser import main
from waveft_core.interop.peft import read_peft

pytestmark = pytest.mark.comfyui

WIDTHS = {"narrow": (320, 320, 320), "sdxl": (320, 640, 1280)}
SDXL = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 2,
    "transformer_layers_per_block": [1, 2, 10],
    "cross_attention_dim": 2048,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
    "use_linear_projection": True,
}


def unet_of(architecture):
    """Returns a diffusers UNet on the meta device."""
    from diffusers import UNet2DConditionModel

    widths = WIDTHS[architecture]
    with torch.device("meta"):
        return UNet2DConditionModel(
            block_out_channels=widths, attention_head_dim=[width // 64 for width in widths], **SDXL
        )


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Returns a function from an architecture to PEFT's folder and the paths of its layers.

    The UNet is on the meta device: PEFT asks for paths and shapes alone. Every layer's coefficients are one number, and
    each layer's another, so that no two could be exchanged unnoticed.
    """
    peft = pytest.importorskip("peft")

    def write(architecture):
        folder = tmp_path_factory.mktemp(architecture)
        config = peft.WaveFTConfig(
            target_modules=["to_q", "to_k", "to_v", "to_out.0"], n_frequency=64, scaling=25.0, random_loc_seed=777
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wrapped = peft.get_peft_model(unet_of(architecture), config, autocast_adapter_dtype=False)
            paths = []
            for path, module in wrapped.base_model.model.named_modules():
                if hasattr(module, "waveft_spectrum"):
                    paths.append(path)
                    number = 1e-4 * len(paths)
                    module.waveft_spectrum["default"] = torch.nn.Parameter(torch.full((64,), number))
            wrapped.save_pretrained(folder)
        return folder, paths

    return write


def test_all_560_layers_of_a_converted_file_are_merged(serve, checkpoint, comfyui, written, tmp_path):
    folder, paths = written("narrow")
    path, base = tmp_path / "converted.safetensors", checkpoint("narrow")
    assert main(["convert", str(folder), "--to", "waveft", "--base", str(base), "--out", str(path)]) == 0
    models = {"checkpoints": {"narrow.safetensors": base}, "waveft": {path.name: path}}
    with serve(models, flags=["--fp32-unet"]) as server:
        before = run(server, plain("narrow.safetensors")).weights
        merged = run(server, loaded("narrow.safetensors", {path.name: 1.0}))
    assert merged.texts["w0 report"].startswith("560/560 layers of converted.safetensors")
    print(f"\nconverted: largest error {largest_error(merged.weights, before, [(path, 1.0)]):.2e}", end="")

    # ComfyUI knows diffusers' spelling too: by its own table, each layer is the weight that PEFT trained
    adapter, keys = load(path), json.loads(comfyui.script("in_process/keys.py", base))
    numbers = {float(layer.values[0]): name for name, layer in adapter.layers.items()}
    assert len(paths) == len(numbers) == 560
    for number, module in enumerate(paths, 1):
        spelled = f"lora_unet_{module.replace('.', '_')}"
        name = numbers[float(torch.tensor(1e-4 * number))]
        assert keys[name] == keys[spelled], module


def test_the_full_sizes_convert_to_the_same_560_names(checkpoint, written, tmp_path):
    folder, _ = written("sdxl")
    save(read_peft(folder, {"unet": unet_of("sdxl")}), tmp_path / "sdxl.safetensors")
    adapter = load(tmp_path / "sdxl.safetensors")
    assert set(adapter.layers) == set(attention_shapes(checkpoint("narrow")))
    assert {layer.shape for layer in adapter.layers.values()} == {
        (640, 640), (1280, 1280), (640, 2048), (1280, 2048)
    }  # fmt: skip
