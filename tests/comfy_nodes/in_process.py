"""Run by test_in_comfyui.py with ComfyUI's own Python: what a server on the CPU cannot show.

`--lowvram` and `--cpu` exclude each other on ComfyUI's command line, and no stock node dumps a CLIP. So the pack is
loaded here as ComfyUI loads it, its node is executed, and ComfyUI's own classes merge: whole, and layer by layer at
each forward (`LowVramPatch`). Prints one JSON object of figures; judging them is the test's.

    python in_process.py COMFYUI_DIR PACK CHECKPOINT MODELS_DIR ADAPTER
"""

import asyncio
import importlib.util
import json
import sys
from pathlib import Path

import torch

COMFYUI, PACK, CHECKPOINT, MODELS, ADAPTER = sys.argv[1:6]
sys.path.insert(0, COMFYUI)
sys.argv = sys.argv[:1]

import comfy.options  # noqa: E402
from comfy.cli_args import args  # noqa: E402

args.cpu = True  # before model_management looks for CUDA

import comfy.lora  # noqa: E402
import comfy.model_management  # noqa: E402
import comfy.sd  # noqa: E402
import folder_paths  # noqa: E402

folder_paths.models_dir = MODELS


def load_node():
    """Returns the node class, its pack imported as ComfyUI's load_custom_node does."""
    name = PACK.replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, str(Path(PACK) / "__init__.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    extension = asyncio.run(module.comfy_entrypoint())
    return asyncio.run(extension.get_node_list())[0], sys.modules[f"{name}.comfy_nodes.folders"]


def errors(merged, base, adapter, keys):
    """Returns the largest |merged - (base + dW)|, and the largest excess of it over one rounding to the dtype."""
    worst = excess = 0.0
    for layer, key in keys.items():
        exact = base[key].double() + adapter.delta(layer, torch.float64)
        error = (merged[key].double() - exact).abs()
        allowed = torch.finfo(merged[key].dtype).eps / 2 * exact.abs()
        worst, excess = max(worst, float(error.max())), max(excess, float((error - allowed).max()))
    return {"layers": len(keys), "error": worst, "excess": excess}


def low_vram(model, keys, device):
    """Returns {key: weight} as merged at each forward by ComfyUI's LowVramPatch; one layer's forward is checked."""
    model.load(device, lowvram_model_memory=1)
    modules = dict(model.model.named_modules())
    merged = {}
    for key in keys.values():
        module = modules[key.removesuffix(".weight")]
        (patch,) = module.weight_function
        merged[key] = patch(module.weight.detach().clone())
    key = next(iter(keys.values()))
    module = modules[key.removesuffix(".weight")]
    x = torch.randn(3, module.weight.shape[1], dtype=module.weight.dtype)
    torch.testing.assert_close(module(x), torch.nn.functional.linear(x, merged[key], module.bias), rtol=0, atol=0)
    return merged


def main():
    node, folders = load_node()
    adapter, found, device = folders.read(ADAPTER), {}, torch.device("cpu")
    of_text = [layer for layer in adapter.layers if layer.startswith("lora_te")]
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        options = {"dtype": dtype}
        model, clip, *_ = comfy.sd.load_checkpoint_guess_config(
            CHECKPOINT, output_vae=False, model_options=options, te_model_options=options
        )
        names = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, comfy.lora.model_lora_keys_unet(model.model, {}))
        unet_keys = {layer: names[layer] for layer in adapter.layers if layer not in of_text}
        text_keys = {layer: names[layer] for layer in of_text}
        base = {key: value.clone() for key, value in model.model.state_dict().items() if key in unet_keys.values()}
        text_base = {key: clip.cond_stage_model.state_dict()[key].clone() for key in text_keys.values()}
        patched, text, report = tuple(node.execute(model, ADAPTER, 1.0, clip, 1.0).result)

        result = {"report": report, "stored": str(base[next(iter(unet_keys.values()))].dtype)}
        result["low_vram"] = errors(low_vram(patched, unet_keys, device), base, adapter, unet_keys)
        patched.unpatch_model(device)
        untouched = model.model.state_dict()
        result["restored"] = all(torch.equal(untouched[key], value) for key, value in base.items())
        comfy.model_management.load_models_gpu([text.patcher], force_full_load=True)
        result["text"] = errors(clip.cond_stage_model.state_dict(), text_base, adapter, text_keys)
        comfy.model_management.load_models_gpu([clip.patcher], force_full_load=True)
        untouched = clip.cond_stage_model.state_dict()
        result["text_restored"] = all(torch.equal(untouched[key], value) for key, value in text_base.items())
        found[str(dtype)] = result
    print(json.dumps(found))


with torch.inference_mode():  # as ComfyUI executes nodes
    main()
