"""Holds what stands in for ComfyUI in `tests/comfy_nodes/conftest.py` to the real one, and prints what differs.

    stand_in.py COMFYUI_DIR PACK MODELS_DIR

First the stand-ins are put in place as the fixture `comfy` does, and described: their names, their signatures, and the
nodes' schemas as made with them. Then they are taken away, and the real ComfyUI has to have all of it.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import inside
import torch

COMFYUI, PACK, MODELS = sys.argv[1:4]
OURS = {"Patcher": {"merged"}}  # what a stand-in has for the tests' own use
UNLIKE = {"id", "kind", "options"}  # of an input: compared on their own


class Patches:
    """pytest's monkeypatch, as far as the fixture needs it; notes the modules that it puts in place."""

    def __init__(self) -> None:
        self.modules: dict[str, Any] = {}

    def setitem(self, mapping: dict[str, Any], key: str, value: Any) -> None:
        mapping[key] = value
        if mapping is sys.modules:
            self.modules[key] = value

    def delitem(self, mapping: dict[str, Any], key: str) -> None:
        del mapping[key]

    def setattr(self, target: Any, name: str, value: Any) -> None:
        setattr(target, name, value)


def conftest() -> ModuleType:
    """Returns the tests' conftest.py, whose fixtures are plain functions here: this Python need not have pytest."""
    sys.modules["pytest"] = SimpleNamespace(fixture=lambda made=None, **_: made or (lambda of: of))  # type: ignore
    spec = importlib.util.spec_from_file_location("stand_ins", Path(PACK, "tests/comfy_nodes/conftest.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def stand_ins(made: ModuleType) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Returns {module: {name: what stands in}} and {node: its schema}, and takes the stand-ins away again."""
    sys.path.insert(0, PACK)
    patches = Patches()
    importer = next(made.comfy(patches, Path(MODELS)))
    importer("folders").register()
    schemas = {schema.node_id: schema for schema in (node.define_schema() for node in importer("extension").NODES)}
    modules = {
        name: {key: value for key, value in vars(module).items() if key[0] != "_" and not inspect.ismodule(value)}
        for name, module in patches.modules.items()
    }
    for name in list(sys.modules):
        if name in patches.modules or name.split(".")[0] in ("comfy_nodes", "waveft_core"):
            del sys.modules[name]
    sys.path.remove(PACK)
    return modules, schemas


def misfits(title: str, stand_in: Any, real: Any) -> Iterator[str]:
    """Yields the calls that the stand-in takes and the real one does not."""
    try:
        taken = inspect.signature(stand_in).parameters.values()
        signature = inspect.signature(real)
    except (TypeError, ValueError):  # built in: nothing to compare
        return
    positional = [p for p in taken if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    keywords = {p.name: None for p in taken if p.kind is p.KEYWORD_ONLY}
    fewest = sum(p.default is p.empty for p in positional)
    for count in (fewest, len(positional)):
        try:
            signature.bind(*[None] * count, **keywords)
        except TypeError as error:
            yield f"{title}: the stand-in takes {count} arguments and {list(keywords)}, the real one does not: {error}"


def module_faults(modules: dict[str, dict[str, Any]]) -> Iterator[str]:
    for module, contents in modules.items():
        real_module = importlib.import_module(module)
        for name, stand_in in contents.items():
            title, real = f"{module}.{name}", getattr(real_module, name, None)
            if real is None:
                yield f"{title} does not exist"
            elif inspect.isclass(stand_in):
                for method, own in vars(stand_in).items():
                    if inspect.isfunction(own) and not method.startswith("_"):
                        yield from misfits(f"{title}.{method}", own, getattr(real, method, None))
            elif inspect.isfunction(stand_in):
                yield from misfits(title, stand_in, real)
            elif isinstance(stand_in, SimpleNamespace):
                missing = [part for part in vars(stand_in) if not hasattr(real, part)]
                yield from (f"{title}.{part} does not exist" for part in missing)


def patcher_faults(made: ModuleType) -> Iterator[str]:
    """The stand-in serves as MODEL and as CLIP: what it has, one of the two must have, and each that has it alike."""
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP

    model = ModelPatcher(torch.nn.Linear(1, 1), torch.device("cpu"), torch.device("cpu"))
    sources = inspect.getsource(CLIP.__init__)  # a CLIP is not made without weights
    for name in vars(made.Patcher({})):
        if not hasattr(model, name) and f"self.{name} =" not in sources:
            yield f"Patcher.{name}: neither MODEL nor CLIP has it"
    for name, own in vars(made.Patcher).items():
        if name.startswith("_") or name in OURS["Patcher"]:
            continue
        found = [getattr(kind, name) for kind in (ModelPatcher, CLIP) if hasattr(kind, name)]
        if not found and f"self.{name} =" not in sources:
            yield f"Patcher.{name}: neither MODEL nor CLIP has it"
        for real in found:
            yield from misfits(f"Patcher.{name}", own, real)


def schema_faults(schemas: dict[str, Any], nodes: dict[str, Any]) -> Iterator[str]:
    """What the nodes say through the stand-in must be what they say through the real API."""
    if set(schemas) != set(nodes):
        yield f"nodes: {sorted(schemas)} with the stand-in, {sorted(nodes)} with the real one"
    for name in schemas.keys() & nodes.keys():
        stand_in, real = schemas[name], nodes[name].GET_SCHEMA()
        for field, value in vars(stand_in).items():
            if field not in ("inputs", "outputs", "hidden") and getattr(real, field, None) != value:
                yield f"{name}: {field} {value!r}, really {getattr(real, field, None)!r}"
        for side in ("inputs", "outputs"):
            yield from part_faults(f"{name} {side}", getattr(stand_in, side, []), getattr(real, side) or [])


def part_faults(title: str, stand_in: list[Any], real: list[Any]) -> Iterator[str]:
    if [part.id for part in stand_in] != [part.id for part in real]:
        yield f"{title}: {[part.id for part in stand_in]}, really {[part.id for part in real]}"
        return
    for own, other in zip(stand_in, real, strict=True):
        if own.kind != str(other.get_io_type()):
            yield f"{title}: {own.id} is {own.kind}, really {other.get_io_type()}"
        for field, value in vars(own).items():
            is_artefact = field in UNLIKE or (field == "optional" and "outputs" in title)
            if not is_artefact and getattr(other, field, None) != value:
                yield f"{title}: {own.id}.{field} {value!r}, really {getattr(other, field, None)!r}"


def merge_faults(made: ModuleType) -> Iterator[str]:
    """A chain of patches, one of them another model with a chain of its own, merged by both."""
    import comfy.lora
    from comfy.weight_adapter import WeightAdapterBase

    class Added(WeightAdapterBase):
        name, loaded_keys, weights = "added", set[str](), list[Any]()

        def calculate_weight(self, weight, key, strength, strength_model, offset, function, *rest):  # type: ignore
            return weight.add_(function(torch.ones_like(weight)), alpha=strength)

    weight = torch.arange(12.0).reshape(3, 4)
    inner = [(weight / 7, lambda held, inplace=False: held), (0.3, Added(), 1.0, None, None)]
    patches = [(0.5, Added(), 1.0, None, None), (-0.25, inner, 0.75, None, None), (2.0, Added(), 1.0, None, None)]
    own, real = (
        merge(patches, weight.clone(), "key") for merge in (made.calculate_weight, comfy.lora.calculate_weight)
    )
    if not torch.equal(own, real):
        yield f"calculate_weight: {own.tolist()}, really {real.tolist()}"


def path_faults(modules: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Where a saved file goes, before and after there is one."""
    import folder_paths

    folder = Path(MODELS).parent / "saved"
    for _ in range(2):
        own, real = (
            find("waveft/adapter", str(folder))
            for find in (modules["folder_paths"]["get_save_image_path"], folder_paths.get_save_image_path)
        )
        if list(own) != list(real):
            yield f"get_save_image_path: {own}, really {real}"
        Path(real[0], f"{real[1]}_{real[2]:05}_.safetensors").touch()


def main() -> None:
    made = conftest()
    modules, schemas = stand_ins(made)
    inside.use(COMFYUI, MODELS)
    nodes, _ = inside.load_pack(PACK)
    faults = [
        *module_faults(modules),
        *patcher_faults(made),
        *schema_faults(schemas, nodes),
        *merge_faults(made),
        *path_faults(modules),
    ]
    print(json.dumps({"modules": sorted(modules), "nodes": sorted(schemas), "faults": faults}))


main()
