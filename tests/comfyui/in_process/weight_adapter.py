"""What ComfyUI does with a weight adapter, asked of its source; and whether ours stands all of it.

    weight_adapter.py COMFYUI_DIR PACK CHECKPOINT MODELS_DIR ADAPTER

Printed: the methods and attributes of its class, the places in its source that handle adapters, and figures of a copy
(dynamic VRAM), a forward beside the layer (bypass), a merge in float16 (GPUs), its trainer and a deep copy; null for
what this ComfyUI does not have.
"""

from __future__ import annotations

import ast
import copy
import inspect
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import inside
import torch

COMFYUI, PACK, CHECKPOINT, MODELS, ADAPTER = sys.argv[1:6]
inside.use(COMFYUI, MODELS)

import comfy.lora  # noqa: E402
import comfy.model_management  # noqa: E402
import comfy.model_patcher  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.utils  # noqa: E402
import comfy.weight_adapter  # noqa: E402

CPU = torch.device("cpu")
# What a place that handles adapters cannot do without; `weights` alone is also a layer's, so it does not count.
SIGNS = {"WeightAdapterBase", "loaded_keys", "weight_adapter", "adapter_maps"}
OWN = "comfy/weight_adapter/"  # the kinds themselves; its base and its bypass are looked at


def interface(base: type) -> dict[str, str | None]:
    """Returns {name: parameters} of all that a class of adapters has, None for what is no function."""
    names = {name for name in {*vars(base), *getattr(base, "__annotations__", {})} if not name.startswith("_")}
    found: dict[str, str | None] = {}
    for name in sorted(names):
        member = inspect.getattr_static(base, name, None)
        function = member.__func__ if isinstance(member, classmethod) else member
        found[name] = ", ".join(inspect.signature(function).parameters) if inspect.isfunction(function) else None
    return found


def places() -> list[str]:
    """Returns "file: function" of every function of ComfyUI that names one of the signs."""
    found = set()
    for path in sorted(Path(COMFYUI).rglob("*.py")):
        name = path.relative_to(COMFYUI).as_posix()
        own = name.startswith(OWN) and name not in (f"{OWN}base.py", f"{OWN}bypass.py")
        if own or name.split("/")[0] in ("custom_nodes", "tests", "tests-unit", "venv", ".venv"):
            continue
        text = path.read_text(encoding="utf-8")
        if any(sign in text for sign in SIGNS):
            signs = SIGNS | {"adapter"} if name == f"{OWN}bypass.py" else SIGNS
            found |= {f"{name}: {function}" for function in functions(ast.parse(text), signs)}
    return sorted(found)


def functions(tree: ast.AST, signs: set[str], inside_of: str = "") -> Iterator[str]:
    """Yields the qualified names of the functions that name a sign, annotations and imports left out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            name = f"{inside_of}{node.name}"
            body = [part for statement in node.body for part in ast.walk(statement)]
            names = {part.id for part in body if isinstance(part, ast.Name)}
            names |= {part.attr for part in body if isinstance(part, ast.Attribute)}
            names |= {part.name.split(".")[-1] for part in body if isinstance(part, ast.alias)}
            if names & signs:
                yield name
            yield from functions(node, signs, f"{name}.")
        elif isinstance(node, ast.ClassDef):
            yield from functions(node, signs, f"{inside_of}{node.name}.")


def dynamic(patcher: Any) -> dict[str, Any] | None:
    """Returns how many copies merge the bits of their patch, and what they ask for beside what their values take."""
    if not hasattr(comfy.model_patcher.LowVramPatch, "prepare"):
        return None
    from comfy.memory_management import vram_aligned_size

    same, asked, needed = 0, 0, 0
    for key, patches in patcher.patches.items():
        weight = comfy.utils.get_attr(patcher.model, key).detach()
        lazy = comfy.model_patcher.LowVramPatch(key, patcher.patches)
        wanted = lazy(weight.clone())
        room = torch.empty(lazy.memory_required(), dtype=torch.uint8)
        lazy.prepare(room, None, copy=False, commit=True)  # committed first and filled then, as ops.py does
        lazy.prepare(room, None, copy=True, commit=False)
        same += bool(torch.equal(lazy(weight.clone()), wanted) and not torch.equal(wanted, weight))
        asked += room.numel()
        values = [patch[1].carried.adapter.layers[patch[1].layer].values for patch in patches]
        needed += vram_aligned_size(values)
    return {"layers": len(patcher.patches), "same": same, "asked": asked, "needed": needed}


def bypass(model: Any, lora: dict[str, torch.Tensor], adapter: Any, dtype: torch.dtype) -> dict[str, Any] | None:
    """Returns the largest error of a layer's output, over the largest change, and how a file that does not fit ends."""
    load = getattr(comfy.sd, "load_bypass_lora_for_models", None)
    if load is None:
        return None
    patched, _ = load(model, None, lora, 0.5, 0.0)
    keys = {layer: key for layer, key in inside.attention_keys(model).items() if layer in adapter.layers}
    inputs = {}
    for layer, key in keys.items():
        module = model.model.get_submodule(key.removesuffix(".weight"))
        generator = torch.Generator().manual_seed(len(layer))
        inputs[layer] = module, torch.randn(2, module.weight.shape[1], generator=generator).to(dtype)
    before = {layer: module(x).double() for layer, (module, x) in inputs.items()}
    patched.inject_model()
    worst = 0.0
    for layer, (module, x) in inputs.items():
        wanted = before[layer] + 0.5 * x.double() @ adapter.delta(layer, torch.float64).T
        worst = max(worst, float((module(x).double() - wanted).abs().max() / wanted.abs().max()))
    patched.eject_model()
    restored = all(torch.equal(module(x).double(), before[layer]) for layer, (module, x) in inputs.items())
    return {"layers": len(inputs), "error": worst, "restored": restored}


def in_half(node: Any, dtype: torch.dtype) -> dict[str, Any] | None:
    """Returns, of a merge in float16 of a base in `dtype`, how many untouched entries changed; ours and a LoRA's."""
    dtypes = getattr(comfy.model_management, "LORA_COMPUTE_DTYPES", None)
    if dtypes is None:
        return None
    model, *_ = comfy.sd.load_checkpoint_guess_config(
        CHECKPOINT, output_vae=False, output_clip=False, model_options={"dtype": dtype}
    )
    ours = node.execute(model=model, adapter_name=ADAPTER, strength_model=1.0).result[0]
    adapter = next(iter(ours.patches.values()))[0][1].carried.adapter
    keys = {layer: key for layer, key in inside.attention_keys(model).items() if layer in adapter.layers}
    for key in keys.values():  # what float16 cannot hold: more bits, and less than it reaches down to
        weight = comfy.utils.get_attr(model.model, key)
        weight.mul_(1.0003)
        weight[::9].mul_(1e-4)
    base = inside.copied(model, keys)
    stock, _ = comfy.sd.load_lora_for_models(
        model, None, comfy.utils.load_torch_file(str(Path(MODELS, "waveft", ADAPTER))), 1.0, 0.0
    )
    found: dict[str, Any] = {}
    dtypes[CPU] = torch.float16
    for name, patched in (("ours", ours), ("stock", stock)):
        patched.load(CPU, full_load=True)
        merged = inside.copied(patched, keys)
        patched.unpatch_model(CPU)
        changed = total = 0
        for layer, key in keys.items():
            untouched = adapter.delta(layer, torch.float64) == 0
            changed += int((merged[key] != base[key])[untouched].sum())
            total += untouched.numel()
        found[name] = {"changed": changed, "of": total, **inside.errors(merged, inside.exact(base, adapter, keys))}
    del dtypes[CPU]
    return found


def trained(lora: dict[str, torch.Tensor], model: Any) -> str | None:
    """Returns what Train LoRA's own function says of our file as its existing_lora."""
    from comfy_extras import nodes_train

    module, path = next((module, name) for name, module in model.model.named_modules() if name.endswith("attn1.to_q"))
    create = getattr(nodes_train, "_create_weight_adapter", None)
    try:
        if create is not None:
            create(module, path, lora, "LoRA", torch.float32, 4)
        else:  # older: the same call, written into the node
            for kind in comfy.weight_adapter.adapters:
                kind.load(path, lora, 1.0, None)
    except ValueError as error:
        return str(error)
    return None


def main() -> None:
    nodes, package = inside.load_pack(PACK)
    ours = sys.modules[f"{package.__name__}.patching.stock"].WaveFTAdapter
    file = str(Path(MODELS, "waveft", ADAPTER))
    adapter, lora = inside.read_adapter(package, file), comfy.utils.load_torch_file(file)
    found: dict[str, Any] = {
        "interface": interface(comfy.weight_adapter.WeightAdapterBase),
        "ours": interface(ours) | interface(ours.__mro__[1]),
        "places": places(),
        "bypass": {},
    }
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        model, *_ = comfy.sd.load_checkpoint_guess_config(
            CHECKPOINT, output_vae=False, output_clip=False, model_options={"dtype": dtype}
        )
        found["bypass"][str(dtype)] = bypass(model, lora, adapter, dtype)
    patched = nodes["WaveFTLoader"].execute(model=model, adapter_name=ADAPTER, strength_model=0.7).result[0]
    found["dynamic"] = dynamic(patched)
    found["trained"] = trained(lora, model)
    (patch,) = next(iter(patched.patches.values()))
    weight = torch.zeros(patch[1].carried.adapter.layers[patch[1].layer].shape)
    pair = [comfy.lora.calculate_weight([one], weight.clone(), "key") for one in (patch, copy.deepcopy(patch))]
    found["deep copy"] = torch.equal(*pair) and bool(pair[0].any())
    found["half"] = {str(dtype): in_half(nodes["WaveFTLoader"], dtype) for dtype in (torch.float32, torch.bfloat16)}
    print(json.dumps(found))


with torch.inference_mode():  # as ComfyUI executes nodes
    main()
