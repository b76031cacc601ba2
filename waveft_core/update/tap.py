"""Where autograd asks for the coefficients' gradient: a node on each layer's output, which hands it on unchanged."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .gradient import SAMPLERS, Sampler
from .shared import Shared, shared_of

if hasattr(torch.library, "custom_op"):  # older torches apply and merge adapters, and refuse to train: see `attach`

    @torch.library.custom_op("waveft::coefficient_gradient", mutates_args=())
    def _in_graph(x: Tensor, grad: Tensor, handle: int, count: int, dtype: torch.dtype) -> Tensor:
        """Returns a sampler's gradient, [count], as one step of a compiled graph, which its parts would break."""
        return SAMPLERS[handle](x, grad).to(dtype)

    @_in_graph.register_fake
    def _(x: Tensor, grad: Tensor, handle: int, count: int, dtype: torch.dtype) -> Tensor:
        SAMPLERS[handle].in_graph = True
        return x.new_empty(count, dtype=dtype)


class Tap(torch.autograd.Function):
    """Hands the layer's output on unchanged, and gives the coefficients their gradient on the way back."""

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx, output: Tensor, x: Tensor, values: Tensor, handle: int, shared: Shared | None = None
    ) -> Tensor:
        """Returns `output`, the same memory; saves the layer's input `x`."""
        ctx.save_for_backward(x)
        ctx.handle, ctx.count, ctx.dtype, ctx.shared = handle, values.numel(), values.dtype, shared
        if not torch.compiler.is_compiling():
            ctx.sampler = SAMPLERS[handle]  # kept by the graph: a backward pass may come after the hooks are gone
        return output.detach()  # not a view for autograd: the model may go on to change it in place

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        """Returns the output's gradient unchanged and the values' own."""
        (x,) = ctx.saved_tensors
        if torch.compiler.is_compiling():
            return grad, None, _in_graph(x, grad, ctx.handle, ctx.count, ctx.dtype), None, None
        found = ctx.sampler(x, grad, ctx.shared).to(ctx.dtype)
        if ctx.shared is not None:
            ctx.shared.done()
        return grad, None, found, None, None


def tap(values: Tensor, sampler: Sampler) -> Callable[..., Tensor]:
    """Returns a forward hook (with kwargs) through which `values` get their gradient."""

    def after_forward(module: object, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], output: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return output
        return tapped(args, kwargs, output, values, sampler)

    return after_forward


def layer_input(args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> Tensor:
    """Returns what a layer was called with, whatever its forward calls it (`input`, or bitsandbytes' `x`)."""
    return args[0] if args else next(iter(kwargs.values()))


def tapped(
    args: tuple[Tensor, ...], kwargs: dict[str, Tensor], output: Tensor, values: Tensor, sampler: Sampler
) -> Tensor:
    """Returns a layer's output with `values` tapped into its gradient; args, kwargs: what the layer was called with."""
    x = layer_input(args, kwargs)
    shared = None if torch.compiler.is_compiling() else shared_of(x)
    if x.dtype != output.dtype:  # autocast: what the matmul saw, and half the memory to keep
        x = x.detach().to(output.dtype) if shared is None else shared.cast(x, output.dtype)
    if shared is not None:
        shared.layers += 1
    out: Tensor = Tap.apply(output, x, values, sampler.handle, shared)  # type: ignore[no-untyped-call]
    return out
