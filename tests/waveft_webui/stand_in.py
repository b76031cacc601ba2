"""Small stand-ins for what the extension meets in a web UI, written for these tests: the Lora extension's modules.

They do what the real ones do at the places that matter here, faults included: files known by name, modules applied
where a name or a number differs. `tests/webui` runs the same tests on the real ones.
"""

from __future__ import annotations

import abc
import functools
import sys
import types
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import safetensors
import torch
from safetensors.torch import load_file
from torch import nn

UNET = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
CROSS = "lora_unet_output_blocks_0_1_transformer_blocks_0_attn2_to_k"
TE1 = "lora_te1_text_model_encoder_layers_0_self_attn_q_proj"
TE2 = {part: f"lora_te2_text_model_encoder_layers_0_self_attn_{part}_proj" for part in ("q", "k", "v", "out")}
SHAPES = {UNET: (8, 8), CROSS: (8, 6), TE1: (4, 4), **dict.fromkeys(TE2.values(), (8, 8))}


class Processing:
    """A picture that is drawn."""

    def __init__(self):
        self.comments, self.extra_generation_params = {}, {}

    def comment(self, text):
        self.comments[text] = 1


class Params:
    """One tag's items, split as the UIs do."""

    def __init__(self, tag):
        self.items = tag.strip("<>").split(":")[1:]
        parts = [item.split("=", 2) for item in self.items]
        self.named = {part[0]: part[1] for part in parts if len(part) == 2}
        self.positional = [item for item, part in zip(self.items, parts, strict=True) if len(part) != 2]


class ExtraNetworkLora:
    """What the UI calls for each picture with the prompt's tags."""

    def __init__(self):
        self.errors = {}

    def activate(self, p, params_list):
        self.errors.clear()
        names, te, unet, dyn = [], [], [], []
        for params in params_list:
            names.append(params.positional[0])
            both = float(params.positional[1]) if len(params.positional) > 1 else 1.0
            te.append(float(params.named.get("te", both)))
            unet.append(float(params.named.get("unet", te[-1] if "te" in params.named else both)))
            dyn.append(None)
        networks = sys.modules["networks"]
        networks.load_networks(names, te, unet, *([dyn] if networks.has_ranks else []))
        held = {net.mentioned_name: net.network_on_disk.shorthash for net in networks.loaded_networks}
        p.extra_generation_params["Lora hashes"] = held


class NetworkOnDisk:
    def __init__(self, name, filename):
        self.name, self.filename = name, filename
        with safetensors.safe_open(filename, "pt") as file:
            self.metadata = file.metadata() or {}
        self.alias = self.metadata.get("ss_output_name", name)
        self.shorthash = self.metadata.get("sshs_model_hash", "")[:12]

    def detect_version(self):
        return "SDXL" if self.metadata.get("ss_base_model_version", "").startswith("sdxl_") else "SD1"


def network_module():
    """Returns the module `network`."""
    made = types.ModuleType("network")
    made.NetworkOnDisk = NetworkOnDisk
    made.NetworkWeights = namedtuple("NetworkWeights", ["network_key", "sd_key", "w", "sd_module"])

    class Network:
        def __init__(self, name, on_disk):
            self.name, self.network_on_disk = name, on_disk
            self.te_multiplier = self.unet_multiplier = 1.0
            self.dyn_dim, self.modules, self.mtime, self.mentioned_name = None, {}, None, None

    class ModuleType:
        def create_module(self, net, weights):
            return None

    class NetworkModule:
        def __init__(self, net, weights):
            self.network, self.sd_module = net, weights.sd_module
            self.network_key, self.sd_key, self.ops, self.extra_kwargs = weights.network_key, weights.sd_key, None, {}
            if isinstance(self.sd_module, nn.Linear):
                self.ops = nn.functional.linear

        def multiplier(self):
            return self.network.te_multiplier if "transformer" in self.sd_key[:20] else self.network.unet_multiplier

    made.Network, made.ModuleType, made.NetworkModule = Network, ModuleType, NetworkModule
    return made


def networks_module(folder):
    """Returns what all UIs' `networks` have: the list of files."""
    made = types.ModuleType("networks")
    made.available_networks, made.available_network_aliases, made.forbidden_network_aliases = {}, {}, {}
    made.loaded_networks, made.networks_in_memory, made.extra_network_lora = [], {}, None
    made.has_ranks = True  # whether a tag's `dyn=` is handed on

    def list_available_networks():
        for held in (made.available_networks, made.available_network_aliases):
            held.clear()
        for path in sorted(Path(folder).rglob("*.safetensors")):
            entry = sys.modules["network"].NetworkOnDisk(path.stem, str(path))
            made.available_networks[path.stem] = entry
            made.available_network_aliases[path.stem] = made.available_network_aliases[entry.alias] = entry

    def find(names):
        if any(name not in made.available_network_aliases for name in names):
            made.list_available_networks()
        return [made.available_network_aliases.get(name) for name in names]

    made.list_available_networks, made.find = list_available_networks, find
    list_available_networks()
    return made


# --- A1111 -----------------------------------------------------------------------------------------------------------


def a1111_layers():
    """Returns the modules of a model by A1111's names of them."""
    torch.manual_seed(3)
    attention = nn.MultiheadAttention(8, 2, bias=False)
    return {
        "diffusion_model_input_blocks_4_1_transformer_blocks_0_attn1_to_q": nn.Linear(8, 8, bias=False),
        "diffusion_model_output_blocks_0_1_transformer_blocks_0_attn2_to_k": nn.Linear(6, 8, bias=False),
        "0_transformer_text_model_encoder_layers_0_self_attn_q_proj": nn.Linear(4, 4, bias=False),
        "1_model_transformer_resblocks_0_attn": attention,
        "1_model_transformer_resblocks_0_attn_out_proj": attention.out_proj,
    }


def a1111_name(layer):
    """Returns A1111's name of the module that a file's layer is in, and of the layer itself."""
    name = layer.replace("lora_unet", "diffusion_model").replace("lora_te1_text_model", "0_transformer_text_model")
    name = name.replace("lora_te2_text_model_encoder_layers_", "1_model_transformer_resblocks_")
    return name.replace("self_attn", "attn") if name.startswith("1_") else name


def a1111_networks(folder, shared):
    made = networks_module(folder)
    made.module_types = []

    def load_network(name, entry):
        network = sys.modules["network"]
        net = network.Network(name, entry)
        net.mtime = Path(entry.filename).stat().st_mtime
        found = {}
        for key, tensor in load_file(entry.filename).items():
            layer, _, part = key.partition(".")
            own = a1111_name(layer)
            mapping = shared.sd_model.network_layer_mapping
            module = mapping.get(own) or mapping.get(own.rpartition("_")[0].rpartition("_")[0])
            if module is None or part == "header":
                continue  # said in a debug log alone
            weights = found.setdefault(own, network.NetworkWeights(key, own, {}, module))
            weights.w[part] = tensor
        for own, weights in found.items():
            made_modules = (kind.create_module(net, weights) for kind in made.module_types)
            net.modules[own] = next((module for module in made_modules if module is not None), None)
            if net.modules[own] is None:
                raise AssertionError(f"Could not find a module type that would accept {sorted(weights.w)}")
        return net

    def load_networks(names, te_multipliers=None, unet_multipliers=None, dyn_dims=None):
        already = {net.name: net for net in made.loaded_networks if net.name in names}
        entries = made.find(names)
        made.loaded_networks.clear()
        for place, (name, entry) in enumerate(zip(names, entries, strict=True)):
            net = already.get(name) or made.networks_in_memory.get(name)
            if entry is None:
                continue
            if net is None or Path(entry.filename).stat().st_mtime > net.mtime:
                try:
                    net = made.load_network(name, entry)
                except Exception as error:  # noqa: BLE001 - as theirs
                    made.shown.append(str(error))
                    continue
                made.networks_in_memory[name] = net
            net.mentioned_name = name
            net.te_multiplier, net.unet_multiplier = te_multipliers[place], unet_multipliers[place]
            net.dyn_dim = dyn_dims[place]
            made.loaded_networks.append(net)
        made.networks_in_memory.clear()  # the UI's default

    def network_apply_weights(module, own):
        wanted = tuple((net.name, net.te_multiplier, net.unet_multiplier, net.dyn_dim) for net in made.loaded_networks)
        fused = isinstance(module, nn.MultiheadAttention)
        held = [module.in_proj_weight, module.out_proj.weight] if fused else [module.weight]
        with torch.no_grad():
            if getattr(module, "backup", None) is None and wanted:
                module.backup = [weight.clone() for weight in held]
            if wanted == getattr(module, "now", ()):
                return
            for weight, before in zip(held, module.backup, strict=True):
                weight.copy_(before)
            for net in made.loaded_networks:
                if fused:
                    parts = [net.modules.get(f"{own}_{part}_proj") for part in ("q", "k", "v", "out")]
                    if all(parts):
                        thirds = module.in_proj_weight.chunk(3)
                        updowns = [part.calc_updown(third)[0] for part, third in zip(parts, thirds, strict=False)]
                        module.in_proj_weight.add_(torch.vstack(updowns))
                        module.out_proj.weight.add_(parts[3].calc_updown(module.out_proj.weight)[0])
                elif net.modules.get(own) is not None and own.rpartition("_")[0][-3:] != "out":
                    updown, _ = net.modules[own].calc_updown(module.weight)
                    module.weight.copy_((module.weight.to(updown.dtype) + updown).to(module.weight.dtype))
            module.now = wanted

    made.load_network, made.load_networks, made.network_apply_weights = (
        load_network,
        load_networks,
        network_apply_weights,
    )
    made.shown = []
    return made


# --- Forge and its kin -----------------------------------------------------------------------------------------------


class Forgeish(nn.Module):
    """A model or its text encoders with the parameters that Forge's name."""

    def __init__(self, shapes, seed=3):
        super().__init__()
        torch.manual_seed(seed)
        self.model_config = SimpleNamespace(unet_config={})
        for path, shape in shapes.items():
            at = self
            *above, last = path.split(".")
            for name in above:
                if not hasattr(at, name):
                    at.add_module(name, nn.Module())
                at = getattr(at, name)
            at.register_parameter(last, nn.Parameter(torch.randn(shape), requires_grad=False))


class Kind(abc.ABC):
    """A kind of GGUF: bytes in the place of floats. Forge's BF16 and K kinds cannot be packed again."""

    @classmethod
    @abc.abstractmethod
    def quantize_blocks_pytorch(cls, weight):
        raise NotImplementedError


class Q8_0(Kind):
    @classmethod
    def quantize_blocks_pytorch(cls, weight):
        return weight.float().contiguous().view(torch.uint8)


class BF16(Kind):
    """One of those."""


class Packed(nn.Parameter):
    """Forge's parameter of such bytes; one of floats has no kind."""

    def __new__(cls, weight, kind):
        made = super().__new__(cls, Q8_0.quantize_blocks_pytorch(weight) if kind else weight, requires_grad=False)
        made.gguf_cls, made.real_shape = kind, weight.shape
        return made

    shape = property(lambda self: self.real_shape)


MODEL_PATHS = {
    "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight": (8, 8),
    "diffusion_model.output_blocks.0.1.transformer_blocks.0.attn2.to_k.weight": (8, 6),
}
TEXT_PATHS = {
    "clip_l.transformer.text_model.encoder.layers.0.self_attn.q_proj.weight": (4, 4),
    **{
        f"clip_g.transformer.text_model.encoder.layers.0.self_attn.{part}_proj.weight": (8, 8)
        for part in ("q", "k", "v", "out")
    },
}


class Patcher:
    """What holds a model and its patches."""

    def __init__(self, model):
        self.model, self.patches = model, {}

    def clone(self):
        made = Patcher(self.model)
        made.patches = {key: list(held) for key, held in self.patches.items()}
        return made

    def add_patches(self, patches, strength, filename="", **_):
        for key, patch in patches.items():
            self.patches.setdefault(key, []).append((strength, patch))
        self.filename = (*getattr(self, "filename", ()), (filename, strength))
        return set(patches)


def keys_unet(model, key_map={}):  # noqa: B006 - as theirs: one dict for the whole session
    names = [name for name, _ in model.named_parameters()]
    key_map.update(
        {"lora_unet_" + name[len("diffusion_model.") : -len(".weight")].replace(".", "_"): name for name in names}
    )
    return key_map


def keys_clip(model, key_map={}):  # noqa: B006
    for name, _ in model.named_parameters():
        inner = name[name.index("text_model") : -len(".weight")].replace(".", "_")
        key_map[f"lora_te{1 if name.startswith('clip_l') else 2}_{inner}"] = name
    return key_map


def stock_load_lora(tensors, to_load):
    """Reads nothing: the tests' files of other kinds are none that it knows."""
    return {}, dict(tensors)


def forge_networks(folder, models, lora, by_class):
    """Returns Forge's `networks`, or with `by_class` reForge's."""
    made = networks_module(folder)

    @functools.lru_cache(maxsize=5)
    def load_lora_state_dict(filename):
        return load_file(filename)

    def load_lora_for_models(model, clip, tensors, strength_model, strength_clip, filename="default", **_):
        new_model, new_clip = model.clone(), clip.clone()
        if by_class:
            keys = {**(lora.model_lora_keys_unet(model.model, {}) if strength_model else {})}
            keys |= lora.model_lora_keys_clip(clip.cond_stage_model, {}) if strength_clip else {}
            known = set()
            loaded = {}
            for name, key in keys.items():
                for kind in lora.weight_adapter.adapters:
                    adapter = kind.load(name, tensors, None, None, known)
                    if adapter is not None:
                        loaded[key] = adapter
                        known |= adapter.loaded_keys
            left = [name for name in tensors if name not in known]
            made.logged += left
            if not made.has_ranks and len(left) / len(tensors) > 0.5:  # as Forge Neo
                return model, clip
            sides = [{k: v for k, v in loaded.items() if k in dict(p.model.named_parameters())} for p in (model, clip)]
        else:
            in_model, left = lora.load_lora(tensors, lora.model_lora_keys_unet(model.model, {}))
            in_text, left = lora.load_lora(left, lora.model_lora_keys_clip(clip.cond_stage_model, {}))
            if len(left) > 12:
                made.logged.append(f"LoRA version mismatch: {filename}")
                return model, clip
            sides = [in_model, in_text]
        new_model.add_patches(sides[0], strength_model, filename=filename)
        new_clip.add_patches(sides[1], strength_clip, filename=filename)
        return new_model, new_clip

    def load_networks(names, te_multipliers=None, unet_multipliers=None, dyn_dims=None):
        current = models.model_data.get_sd_model()
        made.loaded_networks.clear()
        entries = made.find(names)
        for name, entry in zip(names, entries, strict=True):
            net = sys.modules["network"].Network(name, entry)
            net.mentioned_name = name
            made.loaded_networks.append(net)
        wanted = str([[e.filename, u, t] for e, u, t in zip(entries, unet_multipliers, te_multipliers, strict=True)])
        if current.current_lora_hash == wanted:
            return
        current.current_lora_hash = wanted
        objects, plain = current.forge_objects, current.forge_objects_original
        objects.unet, objects.clip = plain.unet, plain.clip
        for entry, unet, te in zip(entries, unet_multipliers, te_multipliers, strict=True):
            tensors = made.load_lora_state_dict(entry.filename)
            objects.unet, objects.clip = made.load_lora_for_models(
                objects.unet, objects.clip, tensors, unet, te, filename=entry.filename
            )

    made.load_lora_state_dict, made.load_lora_for_models = load_lora_state_dict, load_lora_for_models
    made.load_networks, made.logged = load_networks, []
    return made


def without_ranks(networks):
    """Has Forge's `networks` be newer Forge Neos': `dyn=` is gone there, the argument too."""
    load_networks, networks.has_ranks = networks.load_networks, False

    def shorter(names, te_multipliers=None, unet_multipliers=None):
        load_networks(names, te_multipliers, unet_multipliers)

    networks.load_networks = shorter
    return networks


def clip_patcher(model):
    made = Patcher(model)
    made.cond_stage_model = model
    clone = made.clone

    def again():
        new = clip_patcher(model)
        new.patches = clone().patches
        return new

    made.clone = again
    return made
