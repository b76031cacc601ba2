"""Coefficients that train in a model's own weights: what `attach` hands out.

The frozen layer's weight holds round(W0 + factor * dW) all the while, so the forward is the model's own matmul and what
is trained is bit for bit what is merged.  Values that changed are written before the next forward needs them: after the
step of any torch optimizer that holds them, and by a check of version and memory before each layer's forward.  A layer
whose weight is quantised runs its update beside it instead (`Tuning.ways` tells which).
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from ..errors import WaveFTError, listed
from ..format.adapter import Adapter, Layer
from . import firststep
from .coefficients import Coefficients, InWeight
from .ledger import refuse_overflow
from .lock import LOCK, locked
from .spec import Spec, check_strength
from .targets import Target
from .writes import Batch, alike, together_pays


class Tuning:
    """The coefficients that train in a model. Made by `attach`; ended by `detach`.

    Attributes:
        name: of this tuning among those that are attached to the same model.
    """

    def __init__(
        self, name: str, layers: Sequence[tuple[Target, Coefficients]], basis: Spec | Adapter, strength: float
    ) -> None:
        self.name = name
        self._targets = [target for target, _ in layers]
        self._layers = [layer for _, layer in layers]
        self._basis = basis
        self._strength = float(strength)
        self._disabled = 0
        self._checked = False
        self._batches: dict[object, Batch] = {}
        self._handles: list[Any] = []
        for target, layer in layers:
            assert target.module is not None
            self._handles += layer.hook(target.module, name)
            layer.owner, layer.shown = self, strength != 0.0
        _watch_optimizers()
        _TUNINGS.add(self)

    @property
    def names(self) -> list[str]:
        """The layers' names in the file, in the order of `parameters`."""
        return [target.name for target in self._targets]

    @property
    def ways(self) -> dict[str, str]:
        """Where each layer's update is: in its "weight", or "beside" one that cannot hold it."""
        return {name: layer.way for name, layer in zip(self.names, self._layers, strict=True)}

    @property
    def numel(self) -> int:
        """The number of coefficients in all layers."""
        return sum(layer.values.numel() for layer in self._layers)

    def __repr__(self) -> str:
        return f'<Tuning "{self.name}", {len(self)} layers, {self.numel:,} coefficients, strength {self._strength:g}>'

    def __len__(self) -> int:
        return len(self._layers)

    def parameters(self) -> list[nn.Parameter]:
        """Returns each layer's values, [p] float32 (float64 on a float64 base)."""
        return [layer.values for layer in self._layers]

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the values by layer name, detached and sharing memory with the parameters."""
        return {name: layer.values.detach() for name, layer in zip(self.names, self._layers, strict=True)}

    @locked
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes the values from `state` and writes the weights.

        Raises:
            WaveFTError: other layers, or other numbers of values, than this tuning's.
        """
        own = self.state_dict()
        if own.keys() != state.keys():
            odd = sorted(own.keys() ^ state.keys())
            raise WaveFTError(
                f"state dict: expected the tuning's {len(own)} layers, got a difference in {listed(odd)}."
            )
        for name, values in own.items():
            if state[name].shape != values.shape:
                got = list(state[name].shape)
                raise WaveFTError(f'state dict, layer "{name}": expected {list(values.shape)} values, got {got}.')
        with torch.no_grad():
            for name, values in own.items():
                values.copy_(state[name])
        self.refresh()

    def adapter(self) -> Adapter:
        """Returns the present values as an adapter, copied."""
        basis = self._basis
        layers = {
            target.name: Layer(layer.values.detach().clone(), layer.sampler.indices, target.shape)
            for target, layer in zip(self._targets, self._layers, strict=True)
        }
        return Adapter(layers, basis.wavelet, basis.mode, basis.scaling, basis.locations)

    @property
    def strength(self) -> float:
        """A dial on dW, 1 by default. Setting it rewrites the weights; 0 gives W0's own bits."""
        return self._strength

    @strength.setter
    @locked
    def strength(self, strength: float) -> None:
        check_strength(strength)
        for layer in self._layers:
            layer.check()
        before, self._strength = self._strength, float(strength)
        try:
            self.refresh()
            refuse_overflow(layer.ledger for layer in self._layers if isinstance(layer, InWeight))
        except BaseException:
            self._strength = before
            self.refresh()
            raise

    @locked
    def refresh(self) -> None:
        """Writes every layer's weight from the present values.

        Needed only after values were changed behind PyTorch's back: through `.data`, as diffusers' `EMAModel.copy_to`
        does.
        """
        factor = self._basis.scaling * self._strength
        for layer in self._layers:
            layer.set_factor(factor, 0.0 if self._disabled else factor)
        self._write(self._layers)

    @contextlib.contextmanager
    def disabled(self) -> Iterator[None]:
        """Inside, the weights are W0 bit for bit (as far as this tuning goes).

        Entering and leaving rewrite the weights, so that a forward pass before it cannot be followed by its backward
        pass after it: PyTorch refuses. Where the base's output is wanted too, compute it first.
        """
        try:
            self._disable(1)
            yield
        finally:
            self._disable(-1)

    @locked
    def _disable(self, more: int) -> None:
        self._disabled += more
        self.refresh()

    @contextlib.contextmanager
    def swapped(self, values: Sequence[Tensor]) -> Iterator[None]:
        """Inside, the layers hold `values` (an EMA's, say), in the order of `parameters`; afterwards their own again.

        Raises:
            WaveFTError: another number of tensors, or of values in one.
        """
        shapes = [list(value.shape) for value in values]
        expected = [list(layer.values.shape) for layer in self._layers]
        if shapes != expected:
            raise WaveFTError(
                f"swapped: expected {len(expected)} tensors shaped as parameters(), got {len(shapes)} others."
            )
        own = self._fill(values)
        try:
            yield
        finally:
            self._fill(own)

    def detach(self) -> None:
        """Takes the update out: W0's bits, flags and hooks as before `attach`. A second call does nothing.

        Raises:
            WaveFTError: something else wrote to one of the weights meanwhile; the tuning then stays attached.
        """
        with LOCK:
            in_graph = any(layer.sampler.in_graph for layer in self._layers)
            self._take_out()
        if in_graph:
            torch.compiler.reset()  # compiled graphs do not notice that a hook is gone, nor that one has come

    def _take_out(self) -> None:
        for layer in self._layers:
            layer.check()
        for handle in self._handles:
            handle.remove()
        for target, layer in zip(self._targets, self._layers, strict=True):
            assert target.module is not None
            layer.unhook(target.module)
            layer.release()
        self._handles, self._layers, self._targets, self._batches = [], [], [], {}
        _TUNINGS.discard(self)

    @locked
    def _write(self, layers: Sequence[Coefficients]) -> None:
        """Puts the values of `layers` to use, all weights of one device and dtype together."""
        groups: dict[object, list[InWeight]] = {}
        for layer in layers:
            if isinstance(layer, InWeight):
                layer.take()
                groups.setdefault((layer.ledger.weight.device, layer.ledger.weight.dtype), []).append(layer)
        for key, group in groups.items():
            batch = self._batches.get(key)
            if batch is None or not batch.holds(group):
                self._batches.pop(key, None)
                batch = Batch(group) if together_pays(group) and alike(group) else None
            if batch is not None:
                self._batches[key] = batch
                batch.write()
            else:  # a weight that two adapters share, or that was moved: each by itself, with a look at its weight
                for layer in group:
                    layer.forget()  # where one is refused, the next forward must still write the others
                for layer in group:
                    layer.write()

    def watch(self, entrance: nn.Module) -> None:
        """Writes the layers whose values changed, as far as PyTorch knows, whenever `entrance` is called."""

        def before_forward(module: nn.Module, args: Any) -> None:
            for layer in self._layers:
                if isinstance(layer, InWeight):
                    layer.catch_up()

        self._handles.append(entrance.register_forward_pre_hook(before_forward))

    @locked
    def _fill(self, values: Sequence[Tensor]) -> list[Tensor]:
        """Puts `values` into the layers and returns those that they held; none is put where one is refused."""
        own = [layer.values.detach().clone() for layer in self._layers]
        try:
            self._copy(values)
            self.refresh()
        except BaseException:
            self._copy(own)
            self.refresh()
            raise
        return own

    @torch.no_grad()
    def _copy(self, values: Sequence[Tensor]) -> None:
        for layer, value in zip(self._layers, values, strict=True):
            layer.values.copy_(value)

    def _held_by(self, optimizer: torch.optim.Optimizer) -> list[Coefficients]:
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        return [layer for layer in self._layers if id(layer.values) in held]

    @locked
    def _before_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Before the first step, says which layers have no gradient, and why."""
        layers = [] if self._checked else self._held_by(optimizer)
        if not layers:
            return
        self._checked = True
        firststep.check(layers, self.name, self._strength, self._disabled > 0)

    @locked
    def _after_step(self, optimizer: torch.optim.Optimizer) -> None:
        self._write(self._held_by(optimizer))  # fused optimizers leave the version counter as it was


_TUNINGS: weakref.WeakSet[Tuning] = weakref.WeakSet()


@locked
def _all() -> list[Tuning]:
    return list(_TUNINGS)


@cache
def _watch_optimizers() -> None:
    """Registers, once a process, PyTorch's hooks on the steps of all optimizers."""

    def before(optimizer: torch.optim.Optimizer, *_: object) -> None:
        for tuning in _all():
            tuning._before_step(optimizer)

    def after(optimizer: torch.optim.Optimizer, *_: object) -> None:
        for tuning in _all():
            tuning._after_step(optimizer)

    register_optimizer_step_pre_hook(before)
    register_optimizer_step_post_hook(after)
