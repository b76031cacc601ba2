"""Trains coefficients in a model's own weights: `attach` finds the layers, puts the update in, and hands out parameters.

The frozen layer's weight holds round(W0 + factor * dW) all the while, so the forward is the model's own matmul and what
is trained is bit for bit what is merged.  Values that changed are written before the next forward needs them: after the
step of any torch optimizer that holds them, and by a check of version and memory before each layer's forward.
"""

from __future__ import annotations

import contextlib
import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from .adapter import Adapter, Layer
from .atoms import check_wavelet
from .errors import WaveFTError, listed
from .gradient import Sampler, Tap
from .ledger import Ledger, Update, check_weight, ledger_of
from .locations import draw, parse_locations
from .plan import arithmetic_dtype, make_plan
from .targets import Models, Target, resolve, select

SDXL_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


@dataclass(frozen=True)
class Spec:
    """What to train; the defaults are the paper's (section 4): 1,451,520 coefficients on SDXL, LoRA rank 1's budget.

    Attributes:
        coefficients: p, for each layer.
        scaling: the lambda that multiplies IDWT(C).
        locations: `uniform:SEED` or `peft:SEED`.
        targets: path suffixes matched at a component's boundary, or one regular expression for the whole path.

    Raises:
        WaveFTError: a value that cannot be.
    """

    coefficients: int = 2592
    scaling: float = 25.0
    wavelet: str = "db1"
    mode: str = "periodization"
    locations: str = "uniform:777"
    targets: tuple[str, ...] | str = SDXL_ATTENTION

    def __post_init__(self) -> None:
        check_wavelet(self.wavelet, self.mode)
        parse_locations(self.locations)
        if type(self.coefficients) is not int or self.coefficients < 1:
            raise WaveFTError(f"coefficients: expected a whole number of at least 1, got {self.coefficients!r}.")
        if not abs(float(self.scaling)) < float("inf") or self.scaling == 0:
            raise WaveFTError(f"scaling: expected a finite number other than 0, got {self.scaling!r}.")
        if not self.targets:
            raise WaveFTError(f"targets: expected path suffixes or a regular expression, got {self.targets!r}.")
        if not isinstance(self.targets, str):
            object.__setattr__(self, "targets", tuple(self.targets))


class Coefficients(nn.Module):
    """One layer's trained values, registered below the layer it adapts so that optimizers and DDP find them.

    They stay float32 (float64 on a float64 base) under `.half()` and `.to(dtype)`, and out of every state dict: a state
    dict of an attached model holds W0.
    """

    def __init__(self, values: Tensor, indices: Tensor, update: Update, ledger: Ledger, sampler: Sampler) -> None:
        super().__init__()
        self.values = nn.Parameter(values)
        self.indices, self.update, self.ledger, self.sampler = indices, update, ledger, sampler
        self.ran_with_grad = self.ran_without_grad = False
        self._seen = self._mark()

    def _mark(self) -> tuple[int, int]:
        return self.values._version, self.values.data_ptr()

    def stale(self) -> bool:
        """Returns whether the values' version or memory changed since they were last written."""
        return self._mark() != self._seen

    def write(self) -> None:
        """Writes the layer's weight from the present values."""
        self.update.values = self.values
        self.ledger.write()
        self._seen = self._mark()

    def _apply(self, fn: Any, recurse: bool = True) -> Coefficients:
        device = fn(torch.empty(0, dtype=self.values.dtype, device=self.values.device)).device
        if device != self.values.device:  # move, never cast
            self.values.data = self.values.data.to(device)
            if self.values.grad is not None:
                self.values.grad.data = self.values.grad.data.to(device)
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """Saves nothing: `Tuning.state_dict` does."""

    def _load_from_state_dict(self, *args: Any) -> None:
        """Expects nothing."""

    def __deepcopy__(self, memo: Any) -> Coefficients:
        raise WaveFTError(f'layer "{self.update.layer}": {_NO_COPY}')

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise WaveFTError(f'layer "{self.update.layer}": {_NO_COPY}')


_NO_COPY = (
    "expected a model without an adapter attached to copy or pickle, got an attached one, whose hooks and saved originals "
    "a copy would not have. Detach first, or copy `tuning.adapter()` and attach it to the copy."
)


class Tuning:
    """The coefficients that train in a model. Made by `attach`; ended by `detach`."""

    def __init__(self, layers: Sequence[tuple[Target, Coefficients]], basis: Spec | Adapter) -> None:
        self._targets = [target for target, _ in layers]
        self._layers = [layer for _, layer in layers]
        self._basis = basis
        self._strength = 1.0
        self._on = True
        self._checked = False
        self._thawed = [target.weight for target in self._targets if target.weight.requires_grad]
        self._handles: list[Any] = []
        for target, layer in layers:
            target.weight.requires_grad_(False)
            self._hook(target, layer)
        me = weakref.ref(self)
        self._handles.append(register_optimizer_step_pre_hook(lambda optimizer, *_: _call(me, "_before_step", optimizer)))
        self._handles.append(register_optimizer_step_post_hook(lambda optimizer, *_: _call(me, "_after_step", optimizer)))

    @property
    def names(self) -> list[str]:
        """The layers' names in the file, in the order of `parameters`."""
        return [target.name for target in self._targets]

    @property
    def numel(self) -> int:
        """The number of coefficients in all layers."""
        return sum(layer.values.numel() for layer in self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def parameters(self) -> list[nn.Parameter]:
        """Returns each layer's values, [p] float32 (float64 on a float64 base)."""
        return [layer.values for layer in self._layers]

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the values by layer name, detached and sharing memory with the parameters."""
        return {name: layer.values.detach() for name, layer in zip(self.names, self._layers, strict=True)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes the values from `state` and writes the weights.

        Raises:
            WaveFTError: other layers, or other numbers of values, than this tuning's.
        """
        own = self.state_dict()
        if own.keys() != state.keys():
            odd = sorted(own.keys() ^ state.keys())
            raise WaveFTError(f"state dict: expected the tuning's {len(own)} layers, got a difference in {listed(odd)}.")
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
            target.name: Layer(layer.values.detach().clone(), layer.indices.clone(), tuple(target.weight.shape))
            for target, layer in zip(self._targets, self._layers, strict=True)
        }
        return Adapter(layers, basis.wavelet, basis.mode, basis.scaling, basis.locations)

    @property
    def strength(self) -> float:
        """A dial on dW, 1 by default. Setting it rewrites the weights; 0 gives W0's own bits."""
        return self._strength

    @strength.setter
    def strength(self, strength: float) -> None:
        self._strength = float(strength)
        self.refresh()

    def refresh(self) -> None:
        """Writes every layer's weight from the present values.

        Needed only after values were changed behind PyTorch's back (through `.data`, as diffusers' `EMAModel.copy_to` does).
        """
        factor = self._basis.scaling * self._strength if self._on else 0.0
        for layer in self._layers:
            layer.update.factor = factor
            layer.sampler.factor = self._basis.scaling * self._strength
            layer.write()

    @contextlib.contextmanager
    def disabled(self) -> Iterator[None]:
        """Inside, the weights are W0 bit for bit (as far as this tuning goes)."""
        self._on = False
        self.refresh()
        try:
            yield
        finally:
            self._on = True
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
            raise WaveFTError(f"swapped: expected {len(expected)} tensors shaped as parameters(), got {len(shapes)} others.")
        own = [layer.values.detach().clone() for layer in self._layers]
        self._fill(values)
        try:
            yield
        finally:
            self._fill(own)

    def detach(self) -> None:
        """Takes the update out: W0's bits, flags and hooks as before `attach`. A second call does nothing.

        Raises:
            WaveFTError: something else wrote to one of the weights meanwhile; the tuning then stays attached.
        """
        for layer in self._layers:
            layer.ledger.follow()
        for handle in self._handles:
            handle.remove()
        for target, layer in zip(self._targets, self._layers, strict=True):
            layer.ledger.remove(layer.update)
            for name, child in list(target.module.named_children()):  # type: ignore[union-attr]
                if child is layer:
                    delattr(target.module, name)
        for weight in self._thawed:
            weight.requires_grad_(True)
        self._handles, self._layers, self._targets, self._thawed = [], [], [], []

    def _fill(self, values: Sequence[Tensor]) -> None:
        with torch.no_grad():
            for layer, value in zip(self._layers, values, strict=True):
                layer.values.copy_(value)
        self.refresh()

    def _hook(self, target: Target, layer: Coefficients) -> None:
        module = target.module
        assert module is not None

        def before(module: nn.Module, args: Any) -> None:
            if torch.compiler.is_compiling():
                return
            if module.weight is not layer.ledger.weight:
                raise WaveFTError(
                    f'layer "{target.path}": expected the weight that the adapter was attached to, got another tensor in its '
                    "place (an offload, or load_state_dict with assign=True). Detach first, then attach again."
                )
            if layer.stale():
                layer.write()

        def after(module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Tensor:
            if not torch.is_grad_enabled() or not layer.values.requires_grad or layer.update.factor == 0.0:
                layer.ran_without_grad = True
                return output
            layer.ran_with_grad = True
            x = args[0] if args else kwargs["input"]
            tapped: Tensor = Tap.apply(output, x, layer.values, layer.sampler)  # type: ignore[no-untyped-call]
            return tapped

        def saving(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
            state[prefix + "weight"] = layer.ledger.original_weight()

        def loaded(module: nn.Module, keys: Any) -> None:
            layer.ledger.recapture()

        self._handles += [
            module.register_forward_pre_hook(before),
            module.register_forward_hook(after, with_kwargs=True),
            module.register_state_dict_post_hook(saving),
            module.register_load_state_dict_post_hook(loaded),
        ]

    def _held_by(self, optimizer: torch.optim.Optimizer) -> list[Coefficients]:
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        return [layer for layer in self._layers if id(layer.values) in held]

    def _before_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Before the first step, says which layers have no gradient, and why."""
        layers = [] if self._checked else self._held_by(optimizer)
        if not layers:
            return
        self._checked = True
        idle = [layer for layer in layers if layer.values.grad is None]
        unrun = [layer.update.layer for layer in idle if not (layer.ran_with_grad or layer.ran_without_grad)]
        blocked = [layer.update.layer for layer in idle if layer.ran_without_grad and not layer.ran_with_grad]
        if len(idle) == len(layers) and blocked:
            raise WaveFTError(
                f"layers {listed(blocked)}: expected gradients after the backward pass, got none, since they ran under no_grad "
                "only. With reentrant gradient checkpointing an input must require grad: use use_reentrant=False."
            )
        if unrun:
            warnings.warn(f"WaveFT: {len(unrun)} attached layers did not run before the first step: {listed(unrun)}", stacklevel=2)

    def _after_step(self, optimizer: torch.optim.Optimizer) -> None:
        for layer in self._held_by(optimizer):  # fused optimizers leave the version counter as it was
            layer.write()


def _call(reference: weakref.ref[Tuning], method: str, optimizer: torch.optim.Optimizer) -> None:
    tuning = reference()
    if tuning is not None:
        getattr(tuning, method)(optimizer)


def attach(models: Models, spec: Spec | Adapter) -> Tuning:
    """Puts trainable coefficients into the models' layers and returns them.

    Args:
        models: one model, or a mapping of components such as `{"unet": ..., "te1": ..., "te2": ...}`.
        spec: what to train, from zero; or an adapter to go on from.

    Raises:
        WaveFTError: no layer matched, a layer that cannot be trained, or more coefficients than a layer's C has entries.
    """
    targets = select(models, spec.targets) if isinstance(spec, Spec) else resolve(models, spec)
    for target in targets:
        if not isinstance(target.module, nn.Linear):
            got = type(target.module).__name__
            raise WaveFTError(f'layer "{target.path}": expected nn.Linear to train, got {got}. Merge the adapter instead.')
        check_weight(target.weight, target.path)
    drawn = [_start(target, spec) for target in targets]  # every refusal comes before the first change
    layers: list[tuple[Target, Coefficients]] = []
    for target, (values, indices) in zip(targets, drawn, strict=True):
        layers.append((target, _install(target, values, indices, spec)))
    return Tuning(layers, spec)


def _start(target: Target, spec: Spec | Adapter) -> tuple[Tensor, Tensor]:
    """Returns a layer's first values [p] and its indices [p] int32, on the weight's device."""
    weight = target.weight
    wide = arithmetic_dtype(weight.dtype)
    if isinstance(spec, Adapter):
        held = spec.layers[target.name]
        return held.values.to(weight.device, wide, copy=True), held.indices.clone()
    shape = tuple(weight.shape)
    indices = draw(spec.locations, target.name, spec.wavelet, spec.mode, shape, spec.coefficients)
    return torch.zeros(spec.coefficients, dtype=wide, device=weight.device), indices


def _install(target: Target, values: Tensor, indices: Tensor, spec: Spec | Adapter) -> Coefficients:
    weight = target.weight
    shape = tuple(weight.shape)
    plan = make_plan(spec.wavelet, spec.mode, shape, indices, arithmetic_dtype(weight.dtype))
    update = Update(target.path, plan, values, spec.scaling)
    ledger = ledger_of(weight, target.path)
    ledger.add(update)
    sampler = Sampler.of(spec.wavelet, spec.mode, shape, indices, spec.scaling)
    layer = Coefficients(values, indices, update, ledger, sampler)
    assert target.module is not None
    taken = dict(target.module.named_children())
    name = next(name for name in ("waveft", *(f"waveft_{k}" for k in range(2, 100))) if name not in taken)
    target.module.add_module(name, layer)
    return layer
