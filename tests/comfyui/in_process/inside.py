"""What the scripts of this folder share: ComfyUI's modules on the CPU, and the pack as ComfyUI loads it.

They are run by ComfyUI's Python for what a server on the CPU cannot show (`--lowvram` and `--cpu` exclude each other),
print one JSON object of figures, and leave the judging to the tests.
"""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from pathlib import Path
from typing import Any

import torch

Weights = dict[str, torch.Tensor]


def use(comfyui: str, models: str | None = None) -> None:
    """Makes ComfyUI's modules importable, on the CPU; `models` becomes its models folder."""
    sys.path.insert(0, comfyui)
    import comfy.options  # noqa: F401 - keeps comfy.cli_args from reading our command line
    from comfy.cli_args import args

    args.cpu = True  # before model_management looks for CUDA
    if models is not None:
        import folder_paths

        folder_paths.models_dir = models


def load_pack(pack: str) -> tuple[dict[str, Any], Any]:
    """Returns {node id: node class} and the pack's package, imported as ComfyUI's load_custom_node does."""
    name = pack.replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, str(Path(pack) / "__init__.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    extension = asyncio.run(module.comfy_entrypoint())
    nodes = asyncio.run(extension.get_node_list())
    return {node.define_schema().node_id: node for node in nodes}, sys.modules[f"{name}.comfy_nodes"]


def read_adapter(package: Any, path: str) -> Any:
    """Returns an adapter, read by the pack's own core."""
    return importlib.import_module(f"{package.__name__}.core").load(path)


def attention_keys(model: Any) -> dict[str, str]:
    """Returns {layer: key} of a MODEL's attention layers, by kohya's names."""
    keys = [key for key in model.model.state_dict() if ".attn" in key and ".to_" in key and key.endswith(".weight")]
    inner = {key: key.removeprefix("diffusion_model.").removesuffix(".weight") for key in keys}
    return {f"lora_unet_{inner[key].replace('.', '_')}": key for key in keys}


def exact(base: Weights, adapter: Any, keys: dict[str, str], scales: Weights | None = None) -> Weights:
    """Returns {key: W + dW} in float64; W is `base`, times its scale where there are `scales`."""
    found = {}
    for layer, key in keys.items():
        scale = 1.0 if scales is None else scales[key].double()
        found[key] = base[key].double() * scale + adapter.delta(layer, torch.float64)
    return found


def errors(got: Weights, wanted: Weights) -> dict[str, float]:
    """Returns the largest |got - wanted|, and its largest excess over half a unit of the dtype: one rounding."""
    worst = excess = 0.0
    for key, exactly in wanted.items():
        error = (got[key].double() - exactly).abs()
        allowed = torch.finfo(got[key].dtype).eps / 2 * exactly.abs()
        worst, excess = max(worst, float(error.max())), max(excess, float((error - allowed).max()))
    return {"layers": len(wanted), "error": worst, "excess": excess}


def off(got: Weights, wanted: Weights, scales: Weights | None = None) -> dict[str, float]:
    """Returns the share of entries that are not what ComfyUI's own rounding makes of `wanted`, for fp8.

    It is stochastic, seeded by the key, and works in float16: it moves a few entries that fp8 could have held, and may
    be two units off. So there is no bound to hold a merge to but its own result on the exact sum. What float32's last
    bit decides may differ: one entry in a hundred thousand, not more.
    """
    from comfy.float import stochastic_rounding
    from comfy.model_patcher import string_to_seed

    differing = entries = 0
    for key, exactly in wanted.items():
        stored = exactly.float() if scales is None else exactly.float() / scales[key]
        rounded = stochastic_rounding(stored, got[key].dtype, seed=string_to_seed(key))
        differing += int((rounded.float() != got[key].float()).sum())
        entries += exactly.numel()
    return {"layers": len(wanted), "off": differing / entries}


def copied(model: Any, keys: dict[str, str]) -> Weights:
    """Returns the weights as they are stored now."""
    weights = model.model.state_dict()
    return {key: weights[key].clone() for key in keys.values()}


def same(weights: Weights, others: Weights) -> bool:
    """Says whether both are the same, bit for bit (as numbers: torch cannot compare all of the small dtypes)."""
    return all(torch.equal(weights[key].float(), others[key].float()) for key in others)


def forward_error(model: Any, key: str, weight: torch.Tensor, dtype: torch.dtype) -> float:
    """Returns how far a layer's own forward is from that of `weight`, float64, over the largest output."""
    module = model.model.get_submodule(key.removesuffix(".weight"))
    x = torch.randn(3, weight.shape[1], generator=torch.Generator().manual_seed(0)).to(dtype)
    bias = None if module.bias is None else module.bias.double()
    wanted = torch.nn.functional.linear(x.double(), weight.double(), bias)
    return float((module(x).double() - wanted).abs().max() / wanted.abs().max())
