"""One layer's trained values, and the hooks that keep its weight, its gradient and its state dict right."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .errors import WaveFTError
from .gradient import Sampler, Tap
from .ledger import Ledger, Update


class Coefficients(nn.Module):
    """One layer's trained values, registered below the layer it adapts so that optimizers and DDP find them.

    They stay float32 (float64 on a float64 base) under `.half()` and `.to(dtype)`, and out of every state dict: a state
    dict of an attached model holds W0.
    """

    def __init__(self, values: Tensor, indices: Tensor, update: Update, ledger: Ledger, sampler: Sampler) -> None:
        super().__init__()
        self.values = nn.Parameter(values)
        self.indices, self.update, self.ledger, self.sampler = indices, update, ledger, sampler
        self.owner: object = None
        self.ran_with_grad = self.ran_without_grad = self._loading = False
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

    def hook(self, module: nn.Module) -> list[RemovableHandle]:
        """Registers this layer below `module` and returns the handles of the hooks that serve it."""
        taken = dict(module.named_children())
        self.name = next(name for name in ("waveft", *(f"waveft_{k}" for k in range(2, 100))) if name not in taken)
        module.add_module(self.name, self)
        return [
            module.register_forward_pre_hook(self._before_forward),
            module.register_forward_hook(self._after_forward, with_kwargs=True),
            module.register_state_dict_post_hook(partial(self._after_saving)),  # type: ignore[no-untyped-call]
            module.register_load_state_dict_pre_hook(self._before_loading),  # type: ignore[no-untyped-call]
            module.register_load_state_dict_post_hook(self._after_loading),  # type: ignore[no-untyped-call]
        ]

    def unhook(self, module: nn.Module) -> None:
        """Takes this layer's name off `module`; the handles are their holder's to remove."""
        delattr(module, self.name)

    def _before_forward(self, module: nn.Module, args: Any) -> None:
        if torch.compiler.is_compiling():
            return
        self._check_weight(module)
        if self.stale() or self.ledger.changed():
            self.write()

    def _after_forward(self, module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Tensor:
        if not torch.is_grad_enabled() or not self.values.requires_grad or self.update.factor == 0.0:
            self.ran_without_grad = True
            return output
        self.ran_with_grad = True
        x = args[0] if args else kwargs["input"]
        if x.dtype != output.dtype:
            x = x.detach().to(output.dtype)  # autocast: what the matmul saw, and half the memory to keep
        tapped: Tensor = Tap.apply(output, x, self.values, self.sampler)  # type: ignore[no-untyped-call]
        return tapped

    def _after_saving(self, module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
        self._check_weight(module)
        state[prefix + "weight"] = self.ledger.original_weight()

    def _before_loading(
        self, module: nn.Module, state: dict[str, Any], prefix: str, metadata: dict[str, Any], *_: Any
    ) -> None:
        self._check_weight(module)
        self.ledger.follow()  # what changed before must not be taken for what is loaded now
        self._loading = prefix + "weight" in state
        if self._loading and metadata.get("assign_to_params_buffers"):
            raise WaveFTError(
                f'layer "{self.update.layer}": expected load_state_dict without assign=True, which would put another '
                "tensor in the place of the attached weight. Detach first, or load with assign=False."
            )

    def _after_loading(self, module: nn.Module, keys: Any) -> None:
        if self._loading:
            self.ledger.recapture()
        self._loading = False

    def _check_weight(self, module: nn.Module) -> None:
        """Refuses a module whose weight is another tensor than the one that was attached to."""
        if module.weight is not self.ledger.weight:
            raise WaveFTError(
                f'layer "{self.update.layer}": expected the weight that the adapter was attached to, got another '
                "in its place (an offload, perhaps). Detach first, then attach again."
            )

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
    "expected a model without an adapter attached to copy or pickle, got an attached one, whose hooks and saved "
    "originals a copy would not have. Detach first, or copy `tuning.adapter()` and attach it to the copy."
)
