"""One layer's trained values, and the hooks that keep its weight, its gradient and its state dict right."""

from __future__ import annotations

import weakref
from abc import abstractmethod
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..errors import WaveFTError
from .active import Update
from .gradient import Sampler
from .ledger import Ledger
from .lock import LOCK, locked
from .tap import layer_input, tapped


class Coefficients(nn.Module):
    """One layer's trained values, registered below the layer it adapts so that optimizers and DDP find them.

    They stay float32 (float64 on a float64 base) under `.half()` and `.to(dtype)`, and out of every state dict: a state
    dict of an attached model holds W0.

    Attributes:
        path: the layer's, for messages.
        values: [p].
        owner: the tuning, which lives as long as the model that it is attached to, whoever else lets go.
        shown: False at strength 0 and while disabled. A compiled graph depends on this, not on the strength itself.
    """

    way: str  # "weight" or "beside": where the update is

    def __init__(self, path: str, values: Tensor, sampler: Sampler) -> None:
        super().__init__()
        self.path, self.values, self.sampler = path, nn.Parameter(values), sampler
        self.owner: object = None
        self.shown = True
        self.ran_with_grad = self.ran_without_grad = False

    @abstractmethod
    def write(self) -> None:
        """Puts the present values to use."""

    @abstractmethod
    def check(self) -> None:
        """Refuses a weight that somebody else wrote to."""

    @abstractmethod
    def hooks(self, module: nn.Module) -> list[RemovableHandle]:
        """Registers the hooks that serve this layer and returns their handles."""

    @abstractmethod
    def release(self) -> None:
        """Takes the update out of the layer; its hooks are gone."""

    def set_factor(self, factor: float, applied: float) -> None:
        """Takes scaling * strength: the one that gradients use, and the one that the layer shows (0 while disabled)."""
        self.sampler.factor = factor
        self.shown = applied != 0.0

    def hook(self, module: nn.Module, name: str) -> list[RemovableHandle]:
        """Registers this layer below `module` and returns the handles of the hooks that serve it."""
        self.name = name
        module.add_module(name, self)
        return self.hooks(module)

    def unhook(self, module: nn.Module) -> None:
        """Takes this layer's name off `module`; the handles are their holder's to remove."""
        delattr(module, self.name)

    def _trains(self) -> bool:
        """Returns whether this forward is one to send a gradient back through; keeps note of it."""
        trains = torch.is_grad_enabled() and self.values.requires_grad and self.shown
        if not torch.compiler.is_compiling():
            if trains and not self.ran_with_grad:  # a module's attributes are slow to set
                self.ran_with_grad = True
            if not trains and not self.ran_without_grad:
                self.ran_without_grad = True
        return trains

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

    def __deepcopy__(self, memo: Any) -> NoReturn:
        raise WaveFTError(f'layer "{self.path}": {_NO_COPY}')

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise WaveFTError(f'layer "{self.path}": {_NO_COPY}')

    def _replicate_for_data_parallel(self) -> NoReturn:
        raise WaveFTError(f'layer "{self.path}": {NO_DATA_PARALLEL}')


class InWeight(Coefficients):
    """The layer's own weight holds the update, and the model runs its own unchanged matmul."""

    way = "weight"

    def __init__(self, path: str, values: Tensor, sampler: Sampler, update: Update, ledger: Ledger) -> None:
        super().__init__(path, values, sampler)
        self.update, self.ledger = update, ledger
        self._loading = False
        self._proven = False  # that the layer's forward is the linear map whose gradient is taken
        self.saw()

    def saw(self) -> None:
        """Takes the present values for written."""
        self.update.values = self.values
        self._seen = self._mark()

    def forget(self) -> None:
        """Takes the present values for not written: fused optimizers change them without a trace."""
        self._seen = (-1, -1)

    def _mark(self) -> tuple[int, int]:
        return self.values._version, self.values.data_ptr()

    def stale(self) -> bool:
        """Returns whether the values' version or memory changed since they were last written."""
        return self._mark() != self._seen

    def write(self) -> None:
        """Writes the layer's weight from the present values."""
        self.update.values = self.values
        self.ledger.write()
        self.saw()

    def catch_up(self) -> None:
        """Writes the layer's weight where the values changed, or where it was cast; else leaves it alone."""
        if self.ledger.changed() or self.stale():  # nearly never: no lock for a look
            with LOCK:
                if self.ledger.behind() or self.stale():
                    self.write()

    def check(self) -> None:
        """Refuses a weight that somebody else wrote to; goes over to one that has come in its place."""
        self.take()
        self.ledger.follow()

    def take(self) -> None:
        """Goes over to the weight that has come in the place of the attached one; costs nothing where none has."""
        module = self._module()
        if module is not None:
            assert isinstance(module.weight, Tensor)
            self.ledger.take(module.weight)

    def release(self) -> None:
        """Takes the update out of the weight: W0 is back, and its flag."""
        self.ledger.remove(self.update)
        self.ledger.thaw()

    def set_factor(self, factor: float, applied: float) -> None:
        """Takes the two factors; the next write uses them."""
        super().set_factor(factor, applied)
        self.update.factor = applied

    def hooks(self, module: nn.Module) -> list[RemovableHandle]:
        """Freezes the weight and registers the hooks around its layer's forward, saving and loading."""
        self.ledger.freeze()
        self._module = weakref.ref(module)
        return [
            # first of the hooks: the gradient is that of the layer's own output
            module.register_forward_pre_hook(self._before_forward),
            module.register_forward_hook(self._after_forward, with_kwargs=True, prepend=True),
            module.register_state_dict_post_hook(partial(self._after_saving)),  # type: ignore[no-untyped-call]
            module.register_load_state_dict_pre_hook(self._before_loading),  # type: ignore[no-untyped-call]
            module.register_load_state_dict_post_hook(self._after_loading),  # type: ignore[no-untyped-call]
        ]

    def _before_forward(self, module: nn.Module, args: Any) -> None:
        if torch.compiler.is_compiling():
            return  # a graph cannot: the optimizer's hook and `Tuning.refresh` write
        self._check_weight(module)
        self.catch_up()

    def _after_forward(self, module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Tensor:
        if not self._trains():
            return output
        if not self._proven and not torch.compiler.is_compiling():
            self._prove(module, layer_input(args, kwargs), output)
        return tapped(args, kwargs, output, self.values, self.sampler)

    @locked
    def _after_saving(self, module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
        self._check_weight(module)
        state[prefix + "weight"] = self.ledger.original_weight()

    @locked
    def _before_loading(
        self, module: nn.Module, state: dict[str, Any], prefix: str, metadata: dict[str, Any], *_: Any
    ) -> None:
        self._check_weight(module)
        self.ledger.follow()  # what changed before must not be taken for what is loaded now
        self._loading = prefix + "weight" in state
        if self._loading and metadata.get("assign_to_params_buffers"):
            raise WaveFTError(
                f'layer "{self.path}": expected load_state_dict without assign=True, which would put another '
                "tensor in the place of the attached weight. Detach first, or load with assign=False."
            )

    @locked
    def _after_loading(self, module: nn.Module, keys: Any) -> None:
        if self._loading:
            self.ledger.recapture()
        self._loading = False

    def _prove(self, module: nn.Module, x: Tensor, output: Tensor) -> None:
        """Refuses a subclass whose forward is not its base's: weight standardisation, or an activation of its own.

        A subclass's first forward is made a second time and compared; this waits for the device.
        """
        assert isinstance(module, nn.Linear | nn.Conv2d)
        if type(module) not in (nn.Linear, nn.Conv2d):
            x, weight = x.to(output.dtype), module.weight.to(output.dtype)
            bias = None if module.bias is None else module.bias.to(output.dtype)
            with torch.no_grad():
                if isinstance(module, nn.Linear):
                    expected = nn.functional.linear(x, weight, bias)
                else:
                    expected = nn.Conv2d._conv_forward(module, x, weight, bias)
            if not expected.numel():
                return  # an empty batch shows nothing: the next one will
            slack = 0.05 * float(expected.abs().max())
            if expected.shape != output.shape or not torch.allclose(
                expected, output, rtol=0.05, atol=slack, equal_nan=True
            ):
                raise WaveFTError(
                    f'layer "{self.path}": expected a forward that is x W^T + b, got another in '
                    f"{type(module).__name__}, whose coefficients would train on a wrong gradient. Leave it out."
                )
        self._proven = True

    def _check_weight(self, module: nn.Module) -> None:
        """Refuses a module whose weight is another tensor than the one that was attached to."""
        if module.weight is not self.ledger.weight:
            raise WaveFTError(
                f'layer "{self.path}": expected the weight that the adapter was attached to, got another '
                "in its place (an offload, perhaps). Detach first, then attach again."
            )


_NO_COPY = (
    "expected a model without an adapter attached to copy or pickle, got an attached one, whose hooks and saved "
    "originals a copy would not have. Detach first, or copy `tuning.adapter()` and attach it to the copy."
)
NO_DATA_PARALLEL = (
    "expected a model that one process runs on one device, got nn.DataParallel, whose replicas would train copies of "
    "the values. Use DistributedDataParallel, one process a device."
)
