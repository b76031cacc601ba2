"""A UI in small: a model, the UI's loading of a prompt's tags, and its merging, of each family; on stand-ins.

A world draws a "picture": it activates the tags, merges as that UI does, and gives the weights that would be used.
"""

from __future__ import annotations

import sys
import types
from dataclasses import dataclass
from types import SimpleNamespace

import torch

from tests.waveft_webui import stand_in
from waveft_webui import extension, files

_TE2 = "lora_te2_text_model_encoder_layers_0_self_attn_"


def _settings(**members):
    """The UI's `shared`, as far as settings go."""
    return SimpleNamespace(
        OptionInfo=lambda default, label, *_: (default, label),
        options_section=lambda section, options: {name: (*held, section) for name, held in options.items()},
        options_templates={},
        opts=SimpleNamespace(),
        **members,
    )


@dataclass
class Drawn:
    """A picture: weights by layer name, what its infotext names, what is said below it."""

    weights: dict[str, torch.Tensor]
    hashes: dict[str, str]
    comments: list[str]


class World:
    """What the tests ask of a UI.

    Args:
        monkeypatch: for the modules' names, which are the UI's own.
        folder: of LoRA files.
    """

    def __init__(self, monkeypatch, folder, dtype=torch.float32):
        self.folder, self.dtype = folder, dtype
        self._patch = monkeypatch
        monkeypatch.setitem(sys.modules, "network", stand_in.network_module())
        lora = types.ModuleType("extra_networks_lora")
        lora.ExtraNetworkLora = type("ExtraNetworkLora", (stand_in.ExtraNetworkLora,), {})
        lora.ExtraNetworkLora.activate = stand_in.ExtraNetworkLora.activate
        monkeypatch.setitem(sys.modules, "extra_networks_lora", lora)
        self.callbacks = []
        modules = types.ModuleType("modules")
        self.tabs = []
        modules.script_callbacks = SimpleNamespace(
            on_before_ui=lambda call, **_: self.callbacks.append(call),
            on_ui_tabs=lambda call, **_: self.tabs.append(call),
        )
        modules.scripts = SimpleNamespace(scripts_data=[])
        modules.shared = _settings()
        monkeypatch.setitem(sys.modules, "modules.shared", modules.shared)
        monkeypatch.setitem(sys.modules, "modules", modules)
        for name in ("backend", "backend.patcher", "backend.patcher.lora", "ldm_patched", "ldm_patched.modules"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        self.modules = modules
        self.networks = self.make()
        monkeypatch.setitem(sys.modules, "networks", self.networks)
        self.lora = lora.ExtraNetworkLora()
        monkeypatch.setattr(extension, "GATE", None)
        files.PLANS.__init__(1 << 20)

    def register(self):
        """Runs the extension's script, as the UI does at its start and at each "Reload UI"."""
        extension.register()
        for call in self.callbacks:
            call()
        return extension.GATE

    def draw(self, *tags, processing=None):
        """Returns a picture of a prompt with these tags."""
        processing = processing or stand_in.Processing()
        self.lora.activate(processing, [stand_in.Params(tag) for tag in tags])
        self.merge()
        told = processing.extra_generation_params["Lora hashes"]
        return Drawn({name: held.clone() for name, held in self.weights().items()}, told, list(processing.comments))

    def _module(self, name, **members):
        """Puts a module of the UI's where it can be imported."""
        parent, _, last = name.rpartition(".")
        made = sys.modules.get(name) or types.ModuleType(name)
        made.__dict__.update(members)
        made.__path__, made.__spec__ = [], SimpleNamespace(name=name, loader=None)
        self._patch.setitem(sys.modules, name, made)
        if parent:
            setattr(self._module(parent), last, made)
        return made


class A1111World(World):
    title = "A1111"

    def make(self):
        self.shared = self.modules.shared
        self.switch()
        return stand_in.a1111_networks(self.folder, self.shared)

    def switch(self, shapes=None):
        """Loads another checkpoint."""
        layers = {name: module.to(self.dtype) for name, module in stand_in.a1111_layers().items()}
        for name, shape in (shapes or {}).items():
            layers[stand_in.a1111_name(name)] = torch.nn.Linear(shape[1], shape[0], bias=False)
        self.shared.sd_model = type("Model", (), {})()
        self.shared.sd_model.network_layer_mapping = layers

    def merge(self):
        for name, module in self.shared.sd_model.network_layer_mapping.items():
            if not name.endswith("_out_proj"):
                self.networks.network_apply_weights(module, name)

    def weights(self):
        held = self.shared.sd_model.network_layer_mapping
        fused = held[stand_in.a1111_name(_TE2).rstrip("_")]
        thirds = dict(zip("qkv", fused.in_proj_weight.detach().chunk(3), strict=True))
        thirds["out"] = fused.out_proj.weight.detach()
        names = (stand_in.UNET, stand_in.CROSS, stand_in.TE1)
        return {
            **{name: held[stand_in.a1111_name(name)].weight.detach() for name in names},
            **{name: thirds[part] for part, name in stand_in.TE2.items()},
        }


class ForgeWorld(World):
    by_class = False
    title = "Forge"

    def make(self):
        models = self._module("modules.sd_models", model_data=SimpleNamespace(get_sd_model=lambda: self.current))
        self.modules.sd_models = models
        lora = self.loader()
        self.switch()
        return stand_in.forge_networks(self.folder, models, lora, self.by_class)

    def loader(self):
        self.calculators = {}
        lora = self._module(
            "backend.patcher.lora",
            lora_collection_priority=[SimpleNamespace(load_lora=stand_in.stock_load_lora)],
            extra_weight_calculators=self.calculators,
            model_lora_keys_unet=stand_in.keys_unet,
            model_lora_keys_clip=stand_in.keys_clip,
            LoraLoader=object,
        )
        lora.load_lora = lambda tensors, to_load: lora.lora_collection_priority[0].load_lora(tensors, to_load)
        return lora

    def switch(self, shapes=None):
        paths = dict(stand_in.MODEL_PATHS)
        if shapes:
            paths = {path: shapes.get(stand_in.UNET, (8, 8)) if "attn1" in path else s for path, s in paths.items()}
        model = stand_in.Forgeish(paths).to(self.dtype)
        text = stand_in.Forgeish(stand_in.TEXT_PATHS, seed=4).to(self.dtype)
        plain = SimpleNamespace(unet=stand_in.Patcher(model), clip=stand_in.clip_patcher(text))
        self.current = SimpleNamespace(
            current_lora_hash=str([]), forge_objects=SimpleNamespace(**vars(plain)), forge_objects_original=plain
        )
        self.base = {side: {n: p.clone() for n, p in held.named_parameters()} for side, held in self._sides()}
        self.merged = {}

    def _sides(self):
        objects = self.current.forge_objects_original
        return ("unet", objects.unet.model), ("clip", objects.clip.cond_stage_model)

    def merge(self):
        for side, module in self._sides():
            patcher = getattr(self.current.forge_objects, side)
            names = getattr(patcher, "filename", ())
            if side == "unet" and self.merged.get(side) == names and not self.by_class:
                continue  # as Forge does: by name and strength alone
            self.merged[side] = names
            for name, parameter in module.named_parameters():
                weight = self.base[side][name].float()
                for strength, patch in patcher.patches.get(name, []):
                    weight = self.patched(weight.clone(), strength, patch)
                if getattr(parameter, "gguf_cls", None) is None:
                    parameter.copy_(weight.to(parameter.dtype))
                elif name in patcher.patches:
                    parameter.data = parameter.gguf_cls.quantize_blocks_pytorch(weight)

    def pack(self, layer, kind):
        """Stores a UNet's layer as GGUF of a kind; None: as one that holds floats."""
        place, name = self._place(layer)
        packed = stand_in.Packed(getattr(place, name), kind and getattr(stand_in, kind))
        place._parameters[name] = packed

    def unpacked(self, layer):
        """Returns the floats of such a layer."""
        packed = getattr(*self._place(layer))
        return packed.data.view(torch.float32)

    def _place(self, layer):
        model = self.current.forge_objects_original.unet.model
        above, _, name = self.keys_unet(model, {})[layer].rpartition(".")
        return model.get_submodule(above), name

    keys_unet = staticmethod(stand_in.keys_unet)

    def patched(self, weight, strength, patch):
        kind, held = patch
        return self.calculators[kind](weight, strength, held)

    def at_forward(self, layer):
        """Returns a UNet layer as a UI has it that merges at every forward: a copy, in the weight's own dtype."""
        key = stand_in.keys_unet(self.current.forge_objects_original.unet.model, {})[layer]
        weight = self.base["unet"][key].clone()
        for strength, patch in self.current.forge_objects.unet.patches[key]:
            weight = self.patched(weight, strength, patch)
        return weight

    def weights(self):
        found = {}
        for (_, module), keys in zip(self._sides(), (stand_in.keys_unet, stand_in.keys_clip), strict=True):
            held = dict(module.named_parameters())
            found |= {name: held[key].detach() for name, key in keys(module, {}).items()}
        return found


class ReForgeWorld(ForgeWorld):
    by_class, title = True, "reForge"

    def loader(self):
        base = type("WeightAdapterBase", (), {})
        kinds = self._module("ldm_patched.modules.weight_adapter", adapters=[], WeightAdapterBase=base)
        return self._module(
            "ldm_patched.modules.lora",
            weight_adapter=kinds,
            model_lora_keys_unet=stand_in.keys_unet,
            model_lora_keys_clip=stand_in.keys_clip,
        )

    def patched(self, weight, strength, patch):
        return patch.calculate_weight(weight, "key", strength, 1.0, None, lambda held: held)


class NeoWorld(ReForgeWorld):
    title = "Forge Neo"

    def make(self):
        return stand_in.without_ranks(super().make())

    def loader(self):
        base = type("WeightAdapterBase", (), {})
        kinds = self._module("modules_forge.packages.comfy.weight_adapter", adapters=[], WeightAdapterBase=base)
        return self._module(
            "backend.patcher.lora",
            weight_adapter=kinds,
            model_lora_keys_unet=stand_in.keys_unet,
            model_lora_keys_clip=stand_in.keys_clip,
        )


class ClassicWorld(ForgeWorld):
    title = "Forge Classic"

    def loader(self):
        self.calculators = {}
        self._module("ldm_patched.modules.model_patcher", extra_weight_calculators=self.calculators)
        return self._module(
            "ldm_patched.modules.lora",
            load_lora=stand_in.stock_load_lora,
            model_lora_keys_unet=stand_in.keys_unet,
            model_lora_keys_clip=stand_in.keys_clip,
        )


WORLDS = {world.title: world for world in (A1111World, ForgeWorld, ReForgeWorld, NeoWorld, ClassicWorld)}
