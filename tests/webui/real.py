"""The worlds of tests/waveft_webui on a real checkout's own modules: its Lora extension, its patchers, its merging.

Only what surrounds them is a stand-in: the UI's `modules` (settings, hashes, the model), and the classes of models, of
which none is made. Nothing of a checkout is written to.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import os
import sys
import types
from pathlib import Path
from types import SimpleNamespace

import safetensors
import torch
from safetensors.torch import load_file

from tests.waveft_webui import stand_in
from tests.waveft_webui.worlds import A1111World, Drawn, ForgeWorld
from waveft_webui import extension, files

# Of the UIs' ported ComfyUI, what is real here; of the rest (dozens of models and encoders) names are enough.
LDM_REAL = (
    *("ldm_patched", "ldm_patched.modules", "ldm_patched.hooks", "ldm_patched.float"),
    *(f"ldm_patched.modules.{name}" for name in ("lora", "lora_convert", "model_patcher", "sd", "utils", "options")),
    *(f"ldm_patched.modules.{name}" for name in ("model_management", "args_parser", "patcher_extension", "types")),
    *("ldm_patched.modules.weight_adapter", "ldm_patched.modules.checkpoint_pickle"),
)
NOT_NEEDED = (
    "einops",
    "torchsde",
    "yaml",
    "gradio",
    "kornia",
    "modules_forge",
    "clip",
    "pytorch_lightning",
    "sentencepiece",
    "psutil",
)


class _Anything(types.ModuleType):
    """A module that has whatever is asked of it, as an empty class."""

    __path__: list[str] = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        made = type(name, (), {"__getattr__": lambda self, _: None})
        setattr(self, name, made)
        return made


class _Stubs(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds what is not real here."""

    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        ported = top == "ldm_patched" and not any(name == real or name.startswith(f"{real}.") for real in LDM_REAL[3:])
        if (ported and name not in LDM_REAL) or (top in NOT_NEEDED and not _is_installed(top)):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        return _Anything(spec.name)

    def exec_module(self, module):
        pass


def _is_installed(top):
    return any(
        isinstance(found, importlib.machinery.ModuleSpec) for found in [importlib.machinery.PathFinder.find_spec(top)]
    )


def family_of(checkout):
    """Returns the title of the family that a checkout is of."""
    if (checkout / "modules_forge/packages/comfy/weight_adapter").is_dir():
        return "Forge Neo"
    if (checkout / "backend/patcher/lora.py").is_file():
        return "Forge"
    if (checkout / "ldm_patched/modules/weight_adapter").is_dir():
        return "reForge"
    return "Forge Classic" if (checkout / "ldm_patched/modules/lora.py").is_file() else "A1111"


class _Real:
    """What the real worlds have in common; in front of a stand-in's world."""

    def __init__(self, monkeypatch, folder, dtype=torch.float32):
        self.folder, self.dtype, self._patch = folder, dtype, monkeypatch
        checkout = Path(os.environ["WAVEFT_TESTS_ON_CHECKOUT"])
        own = ("network", "lora", "extra_networks_lora", "modules", "backend", "ldm_patched", "packages_3rdparty")
        for name in [name for name in sys.modules if name.partition(".")[0].startswith(own)]:
            monkeypatch.delitem(sys.modules, name)
        lora = next(checkout.glob("extensions-builtin/*ora/networks.py")).parent
        for path in (checkout, checkout / "packages_3rdparty", checkout / "modules_forge" / "packages", lora):
            monkeypatch.syspath_prepend(str(path))
        monkeypatch.setattr(sys, "meta_path", [_Stubs(), *sys.meta_path])
        monkeypatch.setattr(sys, "argv", ["webui", "--always-cpu"])
        self.callbacks, self.modules = [], self._modules(checkout)
        self.prepare()
        self.networks = importlib.import_module("networks")
        self.lora = importlib.import_module("extra_networks_lora").ExtraNetworkLora()
        self.networks.extra_network_lora = self.lora
        monkeypatch.setattr(extension, "GATE", None)
        files.PLANS.__init__(1 << 20)

    def _modules(self, checkout):
        """Returns the UI's `modules`, in small."""
        options = {
            **dict.fromkeys(
                ("lora_functional", "lora_not_found_warning_console", "lora_not_found_gradio_warning"), False
            ),
            "lora_in_memory_limit": 0,
            "lora_preferred_name": "Filename",
            "sd_lora": "None",
            "forge_lora_online": False,
            "lora_add_hashes_to_infotext": True,
            "extra_networks_default_multiplier": 1.0,
        }
        self.shared = self._module(
            "modules.shared",
            cmd_opts=SimpleNamespace(
                lora_dir=str(self.folder), lora_dirs=[], lyco_dir_backcompat=str(self.folder / "none")
            ),
            walk_files=lambda path, allowed_extensions: sorted(map(str, Path(path).glob("*.safetensors"))),
            opts=SimpleNamespace(**options),
            OptionInfo=lambda default, label, *_: (default, label),
            options_section=lambda section, held: held,
            options_templates={},
        )
        self.shown = []
        self._module("modules.errors", display=lambda error, *_: self.shown.append(str(error)), report=print)
        self._module("modules.scripts", scripts_txt2img=SimpleNamespace(infotext_fields=[]))
        self._module("modules.devices", torch_gc=lambda: None, cond_cast_unet=lambda x: x, cpu=torch.device("cpu"))
        comments = SimpleNamespace(embedding_db=SimpleNamespace(word_embeddings={}), comments=[])
        self._module("modules.sd_hijack", model_hijack=comments)
        self._module("modules.cache", cached_data_for_file=lambda _kind, _title, _path, make: make())
        self._module("modules.hashes", sha256_from_cache=lambda *_, **__: None, sha256=lambda *_, **__: "0" * 64)
        self._module("modules.patches", patch=lambda *_: None, undo=lambda *_: None)
        self._module("modules.textual_inversion.textual_inversion")
        self._module("modules.models.sd3.mmdit", QkvLinear=type("QkvLinear", (), {}))
        self._module(
            "modules.sd_models",
            read_state_dict=load_file,
            read_metadata_from_safetensors=_metadata,
            model_data=SimpleNamespace(get_sd_model=lambda: self.current),
        )
        self._module("modules.safe", load=None, unsafe_torch_load=None)
        spec = importlib.util.spec_from_file_location("modules.extra_networks", checkout / "modules/extra_networks.py")
        self.extra = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.extra)
        self._patch.setitem(sys.modules, "modules.extra_networks", self.extra)
        found = self._module("modules")
        found.extra_networks = self.extra
        found.scripts = SimpleNamespace(scripts_data=[])
        found.script_callbacks = SimpleNamespace(
            on_before_ui=lambda call, **_: self.callbacks.append(call), on_ui_tabs=lambda *_, **__: None
        )
        return found

    def prepare(self):
        """Makes what the UI's own modules ask for when they are imported."""

    def draw(self, *tags, processing=None):
        processing = processing or stand_in.Processing()
        _, given = self.extra.parse_prompt(" ".join(tags))
        self.lora.activate(processing, given["lora"])
        self.merge()
        told = processing.extra_generation_params.get("Lora hashes", "")
        hashes = dict(part.split(": ") for part in told.split(", ")) if told else {}
        return Drawn({name: held.clone() for name, held in self.weights().items()}, hashes, list(processing.comments))


def _metadata(path):
    with safetensors.safe_open(path, "pt") as file:
        return file.metadata() or {}


class RealA1111(_Real, A1111World):
    def prepare(self):
        self.switch()

    def switch(self, shapes=None):
        super().switch(shapes)
        self.shared.sd_model.is_sdxl = True
        for name, module in self.shared.sd_model.network_layer_mapping.items():
            module.network_layer_name = name
        for module in self.shared.sd_model.network_layer_mapping.values():
            module.requires_grad_(False)

    def merge(self):
        for name, module in self.shared.sd_model.network_layer_mapping.items():
            if not name.endswith("_out_proj"):
                self.networks.network_apply_weights(module)


class _RealForge(_Real, ForgeWorld):
    """Forge and its kin: the checkout's own patchers hold the models."""

    def prepare(self):
        self.switch()

    def switch(self, shapes=None):
        paths = dict(stand_in.MODEL_PATHS)
        if shapes:
            paths = {path: shapes.get(stand_in.UNET, (8, 8)) if "attn1" in path else s for path, s in paths.items()}
        model = stand_in.Forgeish(paths).to(self.dtype)
        text = stand_in.Forgeish(self.text_paths(), seed=4).to(self.dtype)
        model.storage_dtype, model.diffusion_model.config = self.dtype, {}
        lists = ("num_res_blocks", "channel_mult", "transformer_depth", "transformer_depth_output")
        model.model_config.unet_config = {**{name: [] for name in lists}, "transformer_depth_middle": 0}
        model.config = SimpleNamespace(huggingface_repo="stabilityai/stable-diffusion-xl-base-1.0")
        unet, clip = self.patcher(model), self.patcher(text)
        plain = SimpleNamespace(unet=unet, clip=_Clip(clip, text))
        objects = _Objects(**vars(plain))
        self.current = SimpleNamespace(
            current_lora_hash=str([]),
            forge_objects=objects,
            forge_objects_original=plain,
            forge_objects_after_applying_lora=None,
        )

    def at_forward(self, layer):
        patcher = self.current.forge_objects.unet
        key = self.keys.model_lora_keys_unet(patcher.model, {})[layer]
        return self.merged_at_forward(patcher, key, dict(patcher.model.named_parameters())[key].detach().clone())

    def text_paths(self):
        # the names of a second encoder are only given where the first one has come before it in each list
        return {"clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.weight": (4, 4), **stand_in.TEXT_PATHS}

    def weights(self):
        held, text = dict(self._model.named_parameters()), dict(self._text.named_parameters())
        found = {name: key for name, key in self.keys.model_lora_keys_unet(self._model, {}).items() if key in held}
        found = {name: held[key].detach() for name, key in found.items() if name in stand_in.SHAPES}
        keys = self.keys.model_lora_keys_clip(self._text, {})
        return found | {n: text[k].detach() for n, k in keys.items() if n in stand_in.SHAPES and k in text}

    @property
    def _model(self):
        return self.current.forge_objects_original.unet.model

    @property
    def _text(self):
        return self.current.forge_objects_original.clip.cond_stage_model


class _Objects(SimpleNamespace):
    def shallow_copy(self):
        return _Objects(**vars(self))


class _Clip:
    """The UIs' CLIP, as far as LoRAs go: a patcher, and its model."""

    def __init__(self, patcher, model):
        self.patcher, self.cond_stage_model = patcher, model

    def clone(self):
        return _Clip(self.patcher.clone(), self.cond_stage_model)

    def add_patches(self, *args, **kwargs):
        return self.patcher.add_patches(*args, **kwargs)


class RealForge(_RealForge):
    def prepare(self):
        self.base_module = importlib.import_module("backend.patcher.base")
        self.keys = importlib.import_module("backend.patcher.lora")
        super().prepare()

    def patcher(self, model):
        cpu = torch.device("cpu")
        return self.base_module.ModelPatcher(model, load_device=cpu, offload_device=cpu)

    def keys_unet(self, model, keys):
        return self.keys.model_lora_keys_unet(model, keys)

    def pack(self, layer, kind):
        gguf, packing = importlib.import_module("gguf"), importlib.import_module("backend.operations_gguf")
        place, name = self._place(layer)
        weight = getattr(place, name).detach()
        number = getattr(gguf.GGMLQuantizationType, kind or "F16")
        data = gguf.quantize(weight.float().numpy().reshape(2, -1), number) if kind else weight.numpy()
        held = SimpleNamespace(tensor_type=number, shape=list(reversed(weight.shape)), data=data)
        place._parameters[name] = packing.ParameterGGUF(held)
        if kind:
            place._parameters[name].gguf_cls.bake(place._parameters[name])

    def unpacked(self, layer):
        return importlib.import_module("backend.operations_gguf").dequantize_tensor(getattr(*self._place(layer)))

    def merged_at_forward(self, patcher, key, _):
        (patches,) = patcher.lora_patches.values()
        weight = patcher.lora_loader.backup[key].detach().clone()
        return self.keys.merge_lora_to_weight(patches[key], weight, computation_dtype=weight.dtype)

    def merge(self):
        self.current.forge_objects.unet.refresh_loras()
        self.current.forge_objects.clip.patcher.refresh_loras()


class _RealPorted(_RealForge):
    """Those that carry ComfyUI's modules: a model is patched for a picture, and unpatched after it."""

    def prepare(self):
        given = importlib.import_module("ldm_patched.modules.args_parser").args
        given.always_cpu = given.cpu = True
        self.keys = importlib.import_module("ldm_patched.modules.lora")
        self.base_module = importlib.import_module("ldm_patched.modules.model_patcher")
        self.patched_now = []
        super().prepare()

    def patcher(self, model):
        cpu = torch.device("cpu")
        return self.base_module.ModelPatcher(model, load_device=cpu, offload_device=cpu)

    def draw(self, *tags, processing=None):
        try:
            return super().draw(*tags, processing=processing)
        finally:
            for patcher in self.patched_now:
                patcher.unpatch_model()
            self.patched_now = []

    def merged_at_forward(self, patcher, key, weight):
        if not hasattr(self.base_module, "LowVramPatch"):  # Forge Classic
            return patcher.calculate_weight(patcher.patches[key], weight, key)
        return self.base_module.LowVramPatch(key, patcher.patches)(weight)

    def merge(self):
        for patcher in (self.current.forge_objects.unet, self.current.forge_objects.clip.patcher):
            patcher.patch_model()
            self.patched_now.append(patcher)


class RealReForge(_RealPorted):
    title = "reForge"


class RealClassic(_RealPorted):
    title = "Forge Classic"


class RealNeo(_RealPorted):
    """Forge Neo, which is tried in a Python that has its packages: more of them are asked for than can be stood in."""

    title = "Forge Neo"

    def prepare(self):
        importlib.import_module("backend.args").args.cpu = True
        self.keys = importlib.import_module("backend.patcher.lora")
        self.base_module = importlib.import_module("backend.patcher.base")
        self.patched_now = []
        _RealForge.prepare(self)

    def merge(self):
        for patcher in (self.current.forge_objects.unet, self.current.forge_objects.clip.patcher):
            patcher.patch_model(torch.device("cpu"))
            self.patched_now.append(patcher)


REAL = {"A1111": RealA1111, "Forge": RealForge, "reForge": RealReForge, "Forge Classic": RealClassic}
REAL["Forge Neo"] = RealNeo
