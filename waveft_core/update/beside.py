"""The update beside a layer whose weight cannot hold it: y + factor * D_m^T (C (D_n x)), for quantised linear layers.

The numbers are those of W0 + factor * dW to rounding.  Nothing of the weight's size is made: two 1-D transforms of what
the layer saw and a sparse product between them, in float32, and the same backwards.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.hooks import RemovableHandle

from ..basis.atoms import axis
from ..basis.plan import arithmetic_dtype
from .coefficients import Coefficients
from .gradient import Sampler
from .ledger import ledger_of
from .storage import can_hold
from .tap import layer_input


class Beside(Coefficients):
    """Adds the update's share to the layer's output; the weight is never read or written."""

    way = "beside"

    def write(self) -> None:
        """Does nothing: the values are read at every forward."""

    def check(self) -> None:
        """Does nothing: there is no weight to be written to."""

    def release(self) -> None:
        """Restores the weight's flag, unless another tuning still holds it."""
        if self._ledger is not None:
            self._ledger.thaw()

    def hooks(self, module: nn.Module) -> list[RemovableHandle]:
        """Freezes the weight, as if it held the update, and registers the one hook, on the layer's output."""
        assert isinstance(module.weight, Tensor)
        # the count is the ledger's, which the tunings in the weight share; quantised weights have no flag to restore
        self._ledger = ledger_of(module.weight, self.path) if can_hold(module.weight) else None
        if self._ledger is not None:
            self._ledger.freeze()
        # sparse products break a graph, which goes on after the layer; not as a decorator: it would load the compiler
        after_forward = torch.compiler.disable(self._after_forward)  # type: ignore[no-untyped-call]
        return [module.register_forward_hook(after_forward, with_kwargs=True, prepend=True)]

    def _after_forward(self, module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Tensor:
        self._trains()
        if not self.shown:
            return output
        return added(output, layer_input(args, kwargs), self.values, self.sampler)


def added(output: Tensor, x: Tensor, values: Tensor, sampler: Sampler) -> Tensor:
    """Returns y + factor * x dW^T, [..., m], rounded once to y's dtype; differentiable in y, x and the values.

    Args:
        output: [..., m], y, what the linear layer gave.
        x: [..., n], what it was called with.
        values: [p], on the device of `x`.
    """
    found: Tensor = _Added.apply(output, x, values, sampler)  # type: ignore[no-untyped-call]
    return found


class _Added(torch.autograd.Function):
    """y + factor * D_m^T (C (D_n x)), rounded once to y's dtype."""

    @staticmethod
    def forward(ctx, output: Tensor, x: Tensor, values: Tensor, sampler: Sampler) -> Tensor:  # type: ignore[no-untyped-def]
        """Returns [..., m]; output: [..., m], x: [..., n], values: [p]."""
        ctx.save_for_backward(x, values)
        ctx.sampler = sampler
        m, n = sampler.matrix
        with torch.autocast(x.device.type, enabled=False):
            wide = arithmetic_dtype(values.dtype)
            coeffs = axis(sampler.wavelet, sampler.mode, n).analyze(x.reshape(-1, n).to(wide))  # [N, T]
            coeffs = sampler.plane(values.to(wide)) @ coeffs  # [M, T]
            added = axis(sampler.wavelet, sampler.mode, m).synthesize(coeffs)  # [T, m]
            return added.mul_(sampler.factor).view(output.shape).add_(output).to(output.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        """Returns the gradients of y, of x and of the values."""
        x, values = ctx.saved_tensors
        sampler: Sampler = ctx.sampler
        m, n = sampler.matrix
        x_grad = values_grad = None
        with torch.autocast(x.device.type, enabled=False):
            if ctx.needs_input_grad[1]:
                wide = arithmetic_dtype(values.dtype)
                coeffs = axis(sampler.wavelet, sampler.mode, m).analyze(grad.reshape(-1, m).to(wide))  # [M, T]
                coeffs = sampler.plane(values.to(wide)).t() @ coeffs  # [N, T]
                x_grad = axis(sampler.wavelet, sampler.mode, n).synthesize(coeffs)  # [T, n]
                x_grad = x_grad.mul_(sampler.factor).view(x.shape).to(x.dtype)
        if ctx.needs_input_grad[2]:
            values_grad = sampler(x, grad).to(values.dtype)
        return grad, x_grad, values_grad, None
