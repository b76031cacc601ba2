"""Just enough of ComfyUI to run the nodes without it, and adapters to run them on.

What stands in for ComfyUI here is what the nodes call and nothing more; `test_in_comfyui.py` proves the same code in
the real one.
"""

import importlib
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[2]
PATHS = [f"input_blocks.4.1.transformer_blocks.0.{name}" for name in ("attn1.to_q", "attn2.to_k")]
LAYERS = {f"lora_unet_{path.replace('.', '_')}": f"diffusion_model.{path}" for path in PATHS}
TEXT_LAYER = "lora_te1_text_model_encoder_layers_0_self_attn_q_proj"
TEXT_KEY = "clip_l.transformer.text_model.encoder.layers.0.self_attn.q_proj"


class Module(SimpleNamespace):
    """A module, of which weak references can be made."""


class Patcher:
    """ModelPatcher's part that the nodes use: a model that is shared, a patch list that is copied."""

    def __init__(self, weights, patches=None):
        self.model = self.cond_stage_model = Module(
            state_dict=lambda: weights, named_parameters=lambda remove_duplicate=True: iter(weights.items())
        )
        self.patches = dict(patches or {})
        self.load_device = torch.device("cpu")
        self.backup, self.hook_backup = {}, {}  # originals, where a model is patched just now
        self.callbacks = []

    def clone(self):
        return Patcher(self.model.state_dict(), self.patches)

    @property
    def patcher(self):
        return self

    def add_callback(self, kind, callback):
        self.callbacks.append((kind, callback))

    def add_patches(self, patches, strength_patch=1.0, strength_model=1.0):
        taken = [key for key in patches if key in self.model.state_dict()]
        for key in taken:
            added = (strength_patch, patches[key], strength_model, None, None)
            self.patches[key] = [*self.patches.get(key, []), added]
        return taken

    def get_key_patches(self):
        return {
            key: [(weight, lambda a, **_: a), *self.patches.get(key, [])]
            for key, weight in self.model.state_dict().items()
        }

    def merged(self, key):
        return calculate_weight(self.patches.get(key, []), self.model.state_dict()[key].clone(), key)


def calculate_weight(patches, weight, key, intermediate_dtype=torch.float32, original_weights=None):
    """Merges patches as ComfyUI does: the part of `comfy.lora.calculate_weight` that the nodes meet."""
    for strength, value, strength_model, offset, function in patches:
        weight *= strength_model
        if isinstance(value, list):
            (held, convert), *rest = value
            value = calculate_weight(rest, convert(held.clone(), inplace=True), key)
        if isinstance(value, torch.Tensor):
            weight += strength * value
        else:
            weight = value.calculate_weight(
                weight, key, strength, strength_model, offset, function or (lambda a: a), intermediate_dtype
            )
    return weight


class NodeOutput(tuple):
    """What a node returns: its outputs, and what the front end shows in it."""

    def __new__(cls, *values, ui=None):
        self = super().__new__(cls, values)
        self.ui = ui
        return self


class ProgressBar:
    """ComfyUI's bar; `seen` is what every bar of a test was set to."""

    seen = []

    def __init__(self, total):
        self.total = total
        ProgressBar.seen = []

    def update_absolute(self, value, total=None, preview=None):
        ProgressBar.seen.append(value)


class HookKeyframe:
    """A strength, from a place in the sampling on."""

    def __init__(self, strength, start_percent=0.0, guarantee_steps=1):
        self.strength, self.start_percent, self.guarantee_steps = strength, start_percent, guarantee_steps

    def clone(self):
        return HookKeyframe(self.strength, self.start_percent, self.guarantee_steps)


class HookKeyframeGroup:
    """Keyframes in their order."""

    def __init__(self):
        self.keyframes = []

    def add(self, keyframe):
        self.keyframes = sorted([*self.keyframes, keyframe], key=lambda held: held.start_percent)

    def clone(self):
        made = HookKeyframeGroup()
        made.keyframes = [keyframe.clone() for keyframe in self.keyframes]
        return made


class WeightHook:
    """A hook that patches weights."""

    def __init__(self, strength_model=1.0, strength_clip=1.0):
        self.hook_ref = object()
        self._strength_model, self._strength_clip = strength_model, strength_clip

    def should_register(self, model, model_options, target_dict, registered):
        return True

    def clone(self):
        made = self.__class__()
        made.hook_ref = self.hook_ref
        made._strength_model, made._strength_clip = self._strength_model, self._strength_clip
        return made

    def __eq__(self, other):
        return self.__class__ == other.__class__ and self.hook_ref == other.hook_ref

    def __hash__(self):
        return hash(self.hook_ref)


class HookGroup:
    """Hooks, each once."""

    def __init__(self):
        self.hooks = []

    def add(self, hook):
        if hook not in self.hooks:
            self.hooks.append(hook)

    def clone_and_combine(self, other):
        made = HookGroup()
        for hook in [*self.hooks, *other.hooks]:
            made.add(hook.clone())
        return made


def _socket(kind):
    def make(id=None, **options):
        return SimpleNamespace(
            id=id, kind=kind, **{"optional": False, "display_name": None, "tooltip": None, **options}
        )

    return SimpleNamespace(Input=make, Output=make)


def _io():
    names = ("Model", "Clip", "Combo", "Float", "Int", "Boolean", "String", "Image", "Hooks")
    kinds = {name: _socket(name.upper()) for name in names}
    kinds["HookKeyframes"] = _socket("HOOK_KEYFRAMES")

    def schema(**fields):
        return SimpleNamespace(**{"is_output_node": False, "is_input_list": False, "is_experimental": False, **fields})

    hidden = SimpleNamespace(prompt="PROMPT", extra_pnginfo="EXTRA_PNGINFO", unique_id="UNIQUE_ID")
    return SimpleNamespace(
        ComfyNode=object, Schema=schema, NodeOutput=NodeOutput, Custom=_socket, Hidden=hidden, **kinds
    )


def _ui():
    def preview(kind):
        return lambda value, **options: SimpleNamespace(kind=kind, value=value, as_dict=lambda: {kind: (value,)})

    return SimpleNamespace(PreviewText=preview("text"), PreviewImage=preview("images"))


def _keys(prefix, names):
    return lambda module, found: (
        found | {layer: f"{path}.weight" for layer, path in names.items() if f"{path}.weight" in module.state_dict()}
    )


def _folder_paths(models):
    entries = {
        "checkpoints": ([str(models / "checkpoints")], {".safetensors", ".ckpt"}),
        "diffusers": ([str(models / "diffusers")], {"folder"}),
        "loras": ([str(models / "loras")], {".safetensors", ".pt"}),
    }

    def add(name, path, is_default=False):
        paths, _extensions = entries.setdefault(name, ([], set()))
        if path not in paths:
            paths.append(path)

    def listed(name):
        paths, extensions = entries[name]
        files = {str(f.relative_to(p)) for p in paths for f in Path(p).rglob("*") if f.is_file()}
        return sorted(f for f in files if not extensions or Path(f).suffix in extensions)

    def full(name, file):
        return next((str(Path(p) / file) for p in entries[name][0] if (Path(p) / file).is_file()), None)

    def save_path(prefix, output, *_sizes):
        folder, name = Path(output, prefix).parent, Path(prefix).name
        folder.mkdir(parents=True, exist_ok=True)
        numbers = [int(found[1]) for f in folder.iterdir() if (found := re.match(rf"{re.escape(name)}_(\d+)_", f.name))]
        return str(folder), name, max(numbers, default=0) + 1, str(Path(prefix).parent), prefix

    output = models.parent / "output"
    output.mkdir()
    module = ModuleType("folder_paths")
    vars(module).update(
        __file__=str(models.parent / "comfyui/folder_paths.py"),
        models_dir=str(models),
        get_folder_paths=lambda kind: entries[kind][0],
        get_input_directory=lambda: str(models.parent / "input"),
        get_output_directory=lambda: str(output),
        get_save_image_path=save_path,
        folder_names_and_paths=entries,
        add_model_folder_path=add,
        get_filename_list=listed,
        get_full_path=full,
    )
    return module


def put(monkeypatch, name, **contents):
    module = ModuleType(name)
    vars(module).update(contents)
    module.__path__ = []
    monkeypatch.setitem(sys.modules, name, module)
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)
    return module


@pytest.fixture
def models(tmp_path):
    """ComfyUI's models folder."""
    for name in ("loras", "waveft"):
        (tmp_path / "models" / name).mkdir(parents=True)
    return tmp_path / "models"


@pytest.fixture
def comfy(monkeypatch, models):
    """Puts the stand-ins for ComfyUI in place and returns a function that imports a module of `comfy_nodes` on them."""
    for name in [name for name in sys.modules if name.split(".")[0] == "comfy_nodes"]:
        monkeypatch.delitem(sys.modules, name)
    put(monkeypatch, "comfy")
    put(
        monkeypatch,
        "comfy.lora",
        calculate_weight=calculate_weight,
        model_lora_keys_unet=_keys("lora_unet_", LAYERS),
        model_lora_keys_clip=_keys("lora_te1_", {TEXT_LAYER: TEXT_KEY}),
    )
    put(monkeypatch, "comfy.model_patcher", get_key_weight=lambda model, key: (model.state_dict()[key], None, None))
    put(monkeypatch, "comfy.weight_adapter", WeightAdapterBase=type("WeightAdapterBase", (), {}), adapters=[])
    put(monkeypatch, "comfy.patcher_extension", CallbacksMP=SimpleNamespace(ON_DETACH="on_detach"))
    put(monkeypatch, "comfy.cli_args", args=SimpleNamespace(disable_metadata=False))
    put(
        monkeypatch,
        "comfy.model_management",
        throw_exception_if_processing_interrupted=lambda: None,
        unload_all_models=lambda: None,
        soft_empty_cache=lambda: None,
    )
    put(monkeypatch, "comfy.utils", ProgressBar=ProgressBar, get_attr=lambda module, key: module.state_dict().get(key))
    put(
        monkeypatch,
        "comfy.hooks",
        EnumWeightTarget=SimpleNamespace(Model="model", Clip="clip"),
        HookGroup=HookGroup,
        HookKeyframe=HookKeyframe,
        HookKeyframeGroup=HookKeyframeGroup,
        WeightHook=WeightHook,
    )
    put(monkeypatch, "comfy_api")
    put(monkeypatch, "comfy_api.v0_0_2", ComfyExtension=type("ComfyExtension", (), {}), io=_io(), ui=_ui())
    monkeypatch.setitem(sys.modules, "folder_paths", _folder_paths(models))

    yield lambda name="": importlib.import_module(f"comfy_nodes.{name}".rstrip("."))

    for name in [name for name in sys.modules if name.split(".")[0] == "comfy_nodes"]:
        del sys.modules[name]


@pytest.fixture
def unet():
    """A model of two attention layers, and one that no adapter names."""
    generator = torch.Generator().manual_seed(1)
    shapes = dict(zip(LAYERS.values(), ((8, 8), (8, 12)), strict=True)) | {"diffusion_model.out": (4, 4)}
    return Patcher({f"{path}.weight": torch.randn(shape, generator=generator) for path, shape in shapes.items()})


@pytest.fixture
def clip():
    """Text encoders of one layer."""
    return Patcher({f"{TEXT_KEY}.weight": torch.randn(6, 6, generator=torch.Generator().manual_seed(2))})


@pytest.fixture
def make_adapter():
    """Returns a function from {layer: shape} to a random adapter."""
    from waveft_core import Adapter, Layer

    def make(shapes, seed=0, p=16, scale=0.02, **fields):
        generator, layers = torch.Generator().manual_seed(seed), {}
        for name, shape in shapes.items():
            count = min(p, shape[0] * shape[1])
            indices = torch.randperm(shape[0] * shape[1], generator=generator)[:count].sort().values.int()
            layers[name] = Layer(torch.randn(count, generator=generator) * scale, indices, tuple(shape))
        return Adapter(**{"layers": layers, "wavelet": "db1", "mode": "periodization", "scaling": 25.0, **fields})

    return make


@pytest.fixture
def small(make_adapter):
    """An adapter that fits `unet`."""
    return make_adapter(dict(zip(LAYERS, ((8, 8), (8, 12)), strict=True)), metadata={"ss_base_model_version": "toy"})


@pytest.fixture
def carry(comfy):
    """Returns a function from an adapter and a title to what travels on a WAVEFT wire."""
    return lambda adapter, title="a.safetensors": comfy("sockets").Carried(adapter, title, {"file": title})
