"""A model that ComfyUI-GGUF loaded, quantised: weights are dequantised, and our layers added, at each forward.

Beside COMFYUI_DIR, COMFYUI_GGUF_DIR names a checkout of https://github.com/city96/ComfyUI-GGUF, and `gguf` must be
installed here and for ComfyUI.
"""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.comfyui.graphs import Graph, run
from tests.comfyui.weights import attention_shapes, write_adapter

pytestmark = pytest.mark.comfyui

REPOSITORY = Path(__file__).parents[2]
PREFIX = "model.diffusion_model."


@pytest.fixture
def quantised(checkpoint, tmp_path):
    """Returns two files of one UNet: its attention layers in Q8_0, and the same numbers in float32."""
    gguf = pytest.importorskip("gguf", reason="gguf is not installed")
    writer, plain = gguf.GGUFWriter(str(tmp_path / "micro.gguf"), "sdxl"), {}
    for key, weight in load_file(checkpoint("micro")).items():
        if key.startswith(PREFIX):
            name, weight = key.removeprefix(PREFIX), weight.float()
            if ".to_" in name and weight.dim() == 2:
                packed = gguf.quants.quantize(weight.numpy(), gguf.GGMLQuantizationType.Q8_0)
                writer.add_tensor(name, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
                weight = torch.from_numpy(gguf.quants.dequantize(packed, gguf.GGMLQuantizationType.Q8_0).copy())
            else:
                writer.add_tensor(name, weight.numpy())
            plain[name] = weight.contiguous()
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    save_file(plain, tmp_path / "plain.safetensors")
    return tmp_path / "micro.gguf", tmp_path / "plain.safetensors"


def test_a_quantised_model_draws_what_its_numbers_draw(serve, checkpoint, quantised, tmp_path):
    pack = os.environ.get("COMFYUI_GGUF_DIR")
    if not pack:
        pytest.skip("set COMFYUI_GGUF_DIR to a checkout of ComfyUI-GGUF")
    packed, plain = quantised
    adapter = write_adapter(tmp_path / "a.safetensors", attention_shapes(checkpoint("micro")))
    models = {
        "unet": {packed.name: packed},
        "diffusion_models": {plain.name: plain},
        "waveft": {adapter.name: adapter},
    }

    def drawn(server, loader, strength, **file):
        graph = Graph()
        model = [graph.add(loader, **file), 0]
        graph.sample(graph.waveft(model, adapter.name, strength, "w0"), steps=2)
        result = run(server, graph)
        assert result.texts["w0 report"].startswith(f"{88 if strength else 0}/88 layers")
        return result.latent

    with serve(models, packs={"waveft": REPOSITORY, "ComfyUI-GGUF": Path(pack)}) as server:
        base = drawn(server, "UNETLoader", 0.0, unet_name=plain.name, weight_dtype="default")
        for strength in (0.0, 1.0, -0.5, 1.0):
            if strength:
                wanted = drawn(server, "UNETLoader", strength, unet_name=plain.name, weight_dtype="default")
            else:
                wanted = base
            got = drawn(server, "UnetLoaderGGUF", strength, unet_name=packed.name)
            effect, error = float((wanted - base).abs().max()), float((got - wanted).abs().max())
            print(f"\nstrength {strength}: effect {effect:.1f}, error {error:.2f}", end="")
            # it dequantises to float16, which costs some without an adapter too
            assert error <= 4e-3 * float(wanted.abs().max())
            assert strength == 0 or effect > 100 * error
