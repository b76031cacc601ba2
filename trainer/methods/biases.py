"""Differences of biases, added to the layers' outputs: the base's own biases stay as they are, in whatever dtype."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from waveft_core import WaveFTError
from waveft_core.format.keys import layer_names, unwrapped

from ..base.layershapes import chosen, matches
from ..job.networks import Bitfit
from ..system.console import counted
from ..system.errors import UserError
from . import targets
from .method import Method
from .tensorfile import TensorProduct
from .tuning import Host, Tuning

KINDS = (nn.Linear, nn.Conv2d)


def attach(kind: type[Method], network: Bitfit, host: Host) -> Biases:
    """Puts a difference behind every layer that has a bias, zero at first; UserError where none has."""
    wanted = targets.targets(network)
    found: dict[str, tuple[str, nn.Module]] = {}
    for component, model in host.components.items():
        modules = dict(model.named_modules())
        names = layer_names(modules, component)
        for place, module in modules.items():
            path = targets.shown(f"{component}.{place}")
            biased = isinstance(module, KINDS) and module.bias is not None
            if biased and matches(unwrapped(place), wanted) and chosen(path, network):
                found[names[place]] = (path, module)
    if not found:
        raise UserError("[network] targets: expected layers with a bias, got none. Leave the key out for all of them.")
    targets.check_patterns("[network] include", network.include, [path for path, _ in found.values()])
    made = Biases(kind, found)
    if any(hasattr(model, "_orig_mod") for model in host.components.values()):
        torch.compiler.reset()
    return made


class Biases(Tuning):
    """Differences of biases, trained.

    Args:
        kind: the method whose they are.
        found: each layer's name in the file, with its path as patterns see it and its module.
    """

    def __init__(self, kind: type[Method], found: Mapping[str, tuple[str, nn.Module]]) -> None:
        self._kind = kind
        self.paths = {name: path for name, (path, _) in found.items()}
        self.layers = {name: [nn.Parameter(zeros(module))] for name, (_, module) in found.items()}
        self._modules = {name: module for name, (_, module) in found.items()}
        self._off = False
        self._handles = [
            module.register_forward_hook(self._adder(self.layers[name][0], isinstance(module, nn.Conv2d)))
            for name, (_, module) in found.items()
        ]

    def _adder(self, values: nn.Parameter, convolution: bool) -> Any:
        def add(_: nn.Module, __: Any, output: torch.Tensor) -> torch.Tensor:
            if self._off:
                return output
            # its device is the layer's: the differences follow a model that was moved after they were made
            wide = values.to(output.device, output.dtype)
            return output + (wide[:, None, None] if convolution else wide)

        return add

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Returns the differences by layer."""
        return {name: held[0].detach() for name, held in self.layers.items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Takes the differences."""
        own = self.state_dict()
        if own.keys() != state.keys() or any(own[name].shape != state[name].shape for name in own):
            raise WaveFTError(f"state: expected the biases of {counted(len(self), 'layer')}, got others.")
        for name, values in own.items():
            values.copy_(state[name])

    @contextlib.contextmanager
    def disabled(self) -> Iterator[None]:
        """Inside, nothing is added."""
        self._off = True
        try:
            yield
        finally:
            self._off = False

    def detach(self) -> None:
        """Takes the differences away."""
        for handle in self._handles:
            handle.remove()
        self._handles, self.layers, self._modules = [], {}, {}

    def product(self) -> TensorProduct:
        """Returns the differences for the file."""
        tensors = {f"{name}.diff_b": held[0].detach().clone() for name, held in self.layers.items()}
        shapes = {name: shape_of(module) for name, module in self._modules.items()}
        return TensorProduct(self._kind, tensors, shapes, {"network_module": self._kind.NAME})


def zeros(module: nn.Module) -> torch.Tensor:
    """Returns a difference of zeros [m] float32 where the layer is."""
    bias = module.bias
    assert isinstance(bias, torch.Tensor)
    return torch.zeros(bias.shape, dtype=torch.float32, device=bias.device)


def shape_of(module: nn.Module) -> tuple[int, ...]:
    """Returns the shape of a layer's weight."""
    weight = module.weight
    assert isinstance(weight, torch.Tensor)
    return tuple(weight.shape)
