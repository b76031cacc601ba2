"""A1111: its Lora extension asks a list of module types for each layer of a file; ours is one more of them.

It applies what it finds and says nothing of the rest, keeps a file's modules by the name in the prompt, and applies
anew only where a name or a number differs. What we add to that: all layers or none, a file that was written anew, other
multipliers, and the fused attention of OpenCLIP, which takes its four parts together or not at all.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import torch

from ..applying import Patch, check
from ..core import Target, WaveFTError, is_waveft
from ..files import Loaded, read
from ..gate import Gate, wrapped

KEY = "waveft_values"  # of a file's three tensors a layer, the one that every layer must have
_PARTS = ("_q_proj", "_k_proj", "_v_proj", "_out_proj")  # of a torch.nn.MultiheadAttention, in the order of its rows


class A1111:
    """How A1111 is told. See `gate.Family`.

    Args:
        networks, network: its Lora extension's modules.
        shared: the UI's own, which holds the model.
    """

    title = "A1111"

    def __init__(self, networks: Any, network: Any, shared: Any) -> None:
        self._networks, self._network, self._shared = networks, network, shared
        self._module = _module_class(network)
        self.gate: Gate | None = None

    def install(self) -> None:
        """Adds our kind to the list, in place of one that was there before, and wraps what reads a file."""
        kinds = self._networks.module_types
        kinds[:] = [kind for kind in kinds if not getattr(kind, "waveft", False)]
        kinds.append(self._kind())
        self._networks.load_network = wrapped(self._networks.load_network, self._load_network)

    def is_ready(self) -> bool:
        """Says whether a model is loaded."""
        return self._shared.sd_model is not None

    def changed(self) -> None:
        """Nothing: `applied` says what changed in a number that A1111 compares."""

    def prepare(self, entry: Any, loaded: Loaded, unet: float, te: float) -> None:
        """Reads the file as A1111 does, and checks what it made of it; keeps it where A1111 will look for it."""
        name = loaded.name
        networks = self._networks
        stale = [net for net in (*networks.loaded_networks, networks.networks_in_memory.get(name)) if net is not None]
        net = next((one for one in stale if one.name == name and self._is_current(one, loaded)), None)
        if net is None:
            networks.loaded_networks[:] = [one for one in networks.loaded_networks if one.name != name]
            networks.networks_in_memory.pop(name, None)
            net = networks.load_network(name, entry)
        self._check(net, loaded, unet, te)
        networks.networks_in_memory[name] = net

    def applied(self, by_name: Mapping[str, Loaded]) -> None:
        """Gives each file's modules their adapter, and A1111 a number that differs where it does."""
        for net in self._networks.loaded_networks:
            loaded = by_name.get(net.name)
            if loaded is not None:
                _equip(net, loaded)
                net.dyn_dim = loaded.token  # stands for a LoRA's rank, which A1111 compares and only LoRAs use

    def _is_current(self, net: Any, loaded: Loaded) -> bool:
        model = getattr(net, "waveft_model", None)
        return model is not None and model() is self._shared.sd_model and net.waveft.whole is loaded.whole

    def _load_network(self, original: Callable[..., Any], name: str, entry: Any) -> Any:
        if not is_waveft(entry.filename):
            return original(name, entry)
        if any(hasattr(self._shared.sd_model, mark) for mark in ("diffusers_weight_map", "diffusers_weight_mapping")):
            raise WaveFTError(
                f'adapter "{name}": expected a model of SDXL\'s kind, got one whose layers A1111 names in another way '
                "(SD3). Choose the checkpoint that the file was trained for."
            )
        use = self.gate.loaded(entry.filename) if self.gate is not None else None
        loaded = use.loaded if use is not None else read(entry.filename, name)
        net = original(name, entry)
        self._complete(net)
        net.waveft_model = weakref.ref(self._shared.sd_model)
        _equip(net, loaded)
        if use is None:  # somebody else asks: there is no other place where it is checked
            self._check(net, loaded, 1.0, 1.0)
        return net

    def _check(self, net: Any, loaded: Loaded, unet: float, te: float) -> None:
        weights = {
            module.layer: _weight(module.sd_module, module.sd_key)
            for module in net.modules.values()
            if getattr(module, "layer", None) is not None
        }
        target = Target("this checkpoint", {layer: layer for layer in weights}, weights)
        check(loaded, target, target, unet, te)

    def _kind(self) -> Any:
        module_class = self._module
        base: Any = self._network.ModuleType

        class ModuleTypeWaveFT(base):
            waveft = True

            def create_module(self, net: Any, weights: Any) -> Any:
                if KEY not in weights.w:
                    return None
                return module_class(net, weights, weights.network_key.partition(".")[0])

        return ModuleTypeWaveFT()

    def _complete(self, net: Any) -> None:
        """Adds the parts of fused attentions that a file leaves as they are: A1111 takes all four or none."""
        for key, module in list(net.modules.items()):
            part = next((part for part in _PARTS if key.endswith(part)), None)
            fused = None if part is None else self._fused(key.removesuffix(part))
            if part is None or fused is None:
                continue
            stem = key.removesuffix(part)
            for other in _PARTS:
                if stem + other not in net.modules:
                    target = fused.out_proj if other == "_out_proj" else fused
                    weights = self._network.NetworkWeights(
                        network_key=module.network_key, sd_key=stem + other, w={}, sd_module=target
                    )
                    net.modules[stem + other] = self._module(net, weights, None)

    def _fused(self, key: str) -> torch.nn.MultiheadAttention | None:
        found = self._shared.sd_model.network_layer_mapping.get(key)
        return found if isinstance(found, torch.nn.MultiheadAttention) else None


def _module_class(network: Any) -> Any:
    class NetworkModuleWaveFT(network.NetworkModule):
        """One layer; `layer` is None for a part that the file leaves as it is."""

        waveft = True

        def __init__(self, net: Any, weights: Any, layer: str | None) -> None:
            super().__init__(net, weights)
            self.layer = layer
            # sd-webui-lora-block-weight multiplies `up_model.weight`, whatever the module is; dW is linear in it
            self.up_model = SimpleNamespace(weight=torch.zeros(1))

        def calc_updown(self, target: torch.Tensor) -> tuple[torch.Tensor, None]:
            """Returns what A1111 adds to the weight: made in float32, the strength inside, as the core's own merge."""
            loaded = self.network.waveft
            strength = self.multiplier()
            if self.layer is None or strength == 0 or not loaded.has(self.layer):  # at 0 it was not fitted
                wide = torch.float64 if target.dtype == torch.float64 else torch.float32
                return torch.zeros(target.shape, dtype=wide, device=target.device), None
            return Patch(loaded.adapter, self.layer).dense(target, strength, self.up_model.weight), None

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            """Returns the layer's output with ours added, for the setting "use old method"."""
            if self.ops is None:
                return super().forward(x, y)
            updown, _ = self.calc_updown(self.sd_module.weight)
            return y + self.ops(x, weight=updown.to(x.dtype), **self.extra_kwargs)

    return NetworkModuleWaveFT


def _equip(net: Any, loaded: Loaded) -> None:
    if getattr(net, "waveft", None) is loaded:
        return
    net.waveft = loaded
    for module in net.modules.values():
        if getattr(module, "layer", None) is not None and loaded.has(module.layer):
            assert loaded.adapter is not None
            module.up_model.weight = loaded.adapter.layers[module.layer].values


def _weight(module: Any, key: str) -> torch.Tensor:
    """Returns the weight that a layer's name stands for: of a fused attention, a third."""
    if isinstance(module, torch.nn.MultiheadAttention):
        place = next(number for number, part in enumerate(_PARTS) if key.endswith(part))
        return module.in_proj_weight.chunk(3)[place]
    weight: torch.Tensor = module.weight
    return weight
