"""The gradient of the loss with respect to a layer's coefficients, from the layer's input and its output's gradient.

    dL/dC = factor * D_m (dL/dW) D_n^T,   dL/dW = sum over tokens t of dy_t x_t^T

Two ways to the same numbers: `sampled` transforms dy and x and takes p dot products over tokens; `dense` makes dL/dW
with one GEMM (a convolution's own backward) and gathers each atom's k*k entries.  Neither makes a tensor of the
weight's size that outlives its layer.
"""

from __future__ import annotations

import contextlib
import itertools
import warnings
from functools import cache, lru_cache
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from ..basis.atoms import axis, coeffs_shape, matrix_shape
from ..basis.plan import arithmetic_dtype
from ..basis.positions import Positions
from .shared import Shared

TOKENS_PER_CHUNK = 64  # two transposed slices of this many tokens stay in a core's cache at SDXL's widths

GATHERED_AT_ONCE = 2**16  # entries of dL/dW: 0.8 MB of places and values, well below a weight
KEPT = 2**14  # entries of a layer's atoms whose places and taps are kept from step to step: 128 kB

# Nanoseconds on one CPU core, read off SDXL's shapes (python -m benchmarks.gradient): one token of one channel, read
# and transposed; a filter tap applied to it; a term of a dot product; a multiply-add of the GEMM. Only ratios matter.
_CHANNEL_NS, _TAP_NS, _TERM_NS, _GEMM_NS = 1.2, 0.4, 0.4, 0.0155


class Sampler:
    """What one layer's gradient needs to know.

    Attributes:
        wavelet, mode, shape: the basis; `shape` is the weight's own.
        factor: scaling * strength.
        convolution: the layer where it is one, for its stride, padding and dilation.
        handle: names this sampler to a compiled graph.
        in_graph: whether one was compiled.

    Args:
        indices: [p] int32, flat in C, ascending.
    """

    def __init__(
        self,
        wavelet: str,
        mode: str,
        shape: tuple[int, ...],
        indices: Tensor,
        factor: float,
        convolution: nn.Conv2d | None = None,
    ) -> None:
        self.wavelet, self.mode, self.shape, self.factor = wavelet, mode, shape, factor
        self.convolution, self.in_graph, self.handle = convolution, False, next(_HANDLES)
        self._positions = Positions.of(indices, *coeffs_shape(wavelet, mode, shape))
        self._kept: tuple[Tensor, Tensor] | None = None
        self._kept_of: tuple[torch.device, torch.dtype, float] | None = None
        SAMPLERS[self.handle] = self

    @property
    def indices(self) -> Tensor:
        """The positions, [p] int32, flat in C, ascending; made anew."""
        return self._positions.indices()

    def __call__(self, x: Tensor, grad: Tensor, shared: Shared | None = None) -> Tensor:
        """Returns dL/dvalues, [p] in float32 (float64 where the input is).

        Args:
            x: [..., n], the layer's input; a convolution's is [B, in, h, w] (or without B).
            grad: [..., m], the gradient of its output; a convolution's is [B, out, h', w'].
            shared: with the other layers that saw this input.
        """
        x, grad = x.detach(), grad.detach()
        kind = x.device.type
        rounding = torch.is_autocast_enabled(kind)  # of a backward pass that is run within autocast
        with torch.autocast(kind, enabled=False) if rounding else contextlib.nullcontext():
            if self.convolution is not None:
                weight_grad = _convolution_weight_grad(self.convolution, self.shape, x, grad)
                return self.gathered(weight_grad.reshape(self.matrix)).mul_(self.factor)
            m, n = self.matrix
            x, grad = x.reshape(-1, n), grad.reshape(-1, m)  # [T, n], [T, m]
            if has_matrix_units(x.device):
                return self.dense(x, grad, self.factor)  # a kernel less for each layer
            found = self.sampled(x, grad, shared) if self.sampling_pays() else self.dense(x, grad)
            return found.mul_(self.factor)

    @property
    def matrix(self) -> tuple[int, int]:
        """The shape (m, n) that the weight is seen in."""
        return matrix_shape(self.shape)

    def sampling_pays(self) -> bool:
        """Returns whether the sampled way is the cheaper one on a CPU, per token."""
        m, n = self.matrix
        taps = axis(self.wavelet, self.mode, n).length
        transform = (m + n) * (_CHANNEL_NS + taps * _TAP_NS)
        return transform + len(self._positions) * _TERM_NS < m * n * _GEMM_NS

    def sampled(self, x: Tensor, grad: Tensor, shared: Shared | None = None) -> Tensor:
        """Returns sum_t (D_m dy_t)_i (D_n x_t)_j at the p positions, [p]; x: [T, n], grad: [T, m]."""
        m, n = self.matrix
        wide = arithmetic_dtype(x.dtype)
        rows, columns = axis(self.wavelet, self.mode, m), axis(self.wavelet, self.mode, n)
        total = self.plane(x.new_zeros(len(self._positions), dtype=wide))
        ready, kept = (None, None) if shared is None else shared.columns(x, (self.wavelet, self.mode))
        left = right = x.new_empty(0, dtype=wide)
        for start in range(0, x.shape[0], TOKENS_PER_CHUNK):
            some = slice(start, start + TOKENS_PER_CHUNK)
            tokens = x[some].shape[0]
            if left.shape[1:] != (tokens,):  # made for the first chunk, and for a shorter last one
                left = x.new_empty(rows.count, tokens, dtype=wide)
            rows.unscaled(grad[some].to(wide), left)  # [M, T]
            if ready is not None:
                right = ready[start // TOKENS_PER_CHUNK]
            else:
                if kept is not None or right.shape[1:] != (tokens,):
                    right = x.new_empty(columns.count, tokens, dtype=wide)
                columns.unscaled(x[some].to(wide), right)  # [N, T]
                if kept is not None:
                    kept.append(right)
            torch.sparse.sampled_addmm(total, left, right.t(), out=total)
        return total.values().mul_(self._scales(x.device, wide))

    def dense(self, x: Tensor, grad: Tensor, factor: float = 1.0) -> Tensor:
        """Returns the same, times `factor`, from dL/dW = dy^T x, [m, n], which lives for this call alone."""
        wide = arithmetic_dtype(x.dtype)
        if grad.dtype != x.dtype:
            grad, x = grad.to(wide), x.to(wide)
        if x.dtype != wide and has_matrix_units(x.device):
            weight_grad = torch.mm(grad.t(), x, out_dtype=wide)  # 16-bit inputs, accumulated and kept in float32
        else:
            weight_grad = grad.to(wide).t() @ x.to(wide)
        return self.gathered(weight_grad, factor)

    def gathered(self, weight_grad: Tensor, factor: float = 1.0) -> Tensor:
        """Returns factor * D_m (dL/dW) D_n^T at the p positions, [p]; weight_grad: [m, n] contiguous."""
        device, wide, flat = weight_grad.device, weight_grad.dtype, weight_grad.view(-1)
        positions = self._moved(device)
        width = _table(self.wavelet, self.mode, self.matrix[1], device, wide)[1].shape[1] ** 2
        if len(positions) * width > KEPT:  # longer filters: a part at a time, and nothing kept
            parts = torch.split(positions.indices(), max(1, GATHERED_AT_ONCE // width))
            return torch.cat([_dots(flat, *self._atoms(part, wide, factor)) for part in parts])
        of = device, wide, factor
        if self._kept is None or self._kept_of != of:
            self._kept, self._kept_of = self._atoms(positions.indices(), wide, factor), of
        return _dots(flat, *self._kept)

    def _atoms(self, indices: Tensor, dtype: torch.dtype, factor: float) -> tuple[Tensor, Tensor]:
        """Returns coefficients' entries, flat in the weight, and their taps times `factor`: [p * k * k], [p, k * k]."""
        m, n = self.matrix
        along = coeffs_shape(self.wavelet, self.mode, self.shape)[1]
        row_places, row_taps = _table(self.wavelet, self.mode, m, indices.device, dtype)
        column_places, column_taps = _table(self.wavelet, self.mode, n, indices.device, dtype)
        i, j = indices // along, indices % along
        entries = row_places[i][:, :, None] * n + column_places[j][:, None, :]  # [p, k, k]
        taps = row_taps[i][:, :, None] * column_taps[j][:, None, :]
        return entries.view(-1).int(), taps.view(len(indices), -1).mul_(factor)

    def plane(self, values: Tensor) -> Tensor:
        """Returns C [M, N] in CSR form, `values` [p] at the p positions."""
        _warn_once()
        return self._moved(values.device).plane(values)

    def _scales(self, device: torch.device, dtype: torch.dtype) -> Tensor | float:
        """Returns what `Axis.unscaled` leaves out, for each coefficient [p], or for all where it is one number."""
        leads = axis(self.wavelet, self.mode, self.matrix[0]).leads()
        products = [row * column for row in leads for column in leads]  # of aa, ad, da, dd
        if len(set(products)) == 1:
            return products[0]
        across, along = coeffs_shape(self.wavelet, self.mode, self.shape)
        indices = self._moved(device).indices()
        bands = (indices >= across // 2 * along).int() * 2 + (indices % along >= along // 2).int()
        return torch.tensor(products, dtype=dtype).to(device).index_select(0, bands)

    def _moved(self, device: torch.device) -> Positions:
        """Returns the positions on `device`, moved there once."""
        self._positions = self._positions.to(device)
        return self._positions


@cache
def _warn_once() -> None:
    """Lets PyTorch say, once a process and to nobody, that its CSR tensors are in beta."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        torch.sparse_csr_tensor(torch.tensor([0, 1]), torch.tensor([0]), torch.ones(1), (1, 1), check_invariants=True)


def has_matrix_units(device: torch.device) -> bool:
    """Returns whether a product of whole 16-bit matrices is cheap there, and may be kept in float32."""
    return device.type == "cuda"


def _dots(flat: Tensor, entries: Tensor, taps: Tensor) -> Tensor:
    """Returns each coefficient's sum of taps times entries, [p]."""
    if has_matrix_units(flat.device):  # one kernel instead of three
        starts = _starts(taps.shape[0], taps.shape[1], flat.device)
        table = flat.unsqueeze(1)  # of "embeddings" of one number each
        return nn.functional.embedding_bag(entries, table, starts, mode="sum", per_sample_weights=taps.view(-1))[:, 0]
    return (flat.index_select(0, entries).view_as(taps) * taps).sum(dim=1)


SAMPLERS: WeakValueDictionary[int, Sampler] = WeakValueDictionary()
_HANDLES = itertools.count()


def _convolution_weight_grad(layer: nn.Conv2d, shape: tuple[int, ...], x: Tensor, grad: Tensor) -> Tensor:
    """Returns dL/dW of a convolution, [out, in / groups, kh, kw] in float32 (float64): PyTorch's own backward."""
    wide = arithmetic_dtype(x.dtype)
    x, grad = x.to(wide), grad.to(wide)
    if x.dim() == 3:
        x, grad = x.unsqueeze(0), grad.unsqueeze(0)
    padding: tuple[int, ...] | str = layer.padding
    if isinstance(padding, str) or layer.padding_mode != "zeros":
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        x = nn.functional.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
        padding = (0, 0)
    stride, dilation, groups = layer.stride, layer.dilation, layer.groups
    found: Tensor = conv2d_weight(x, shape, grad, stride, padding, dilation, groups)  # type: ignore[no-untyped-call]
    return found


@lru_cache(maxsize=64)
def _starts(count: int, each: int, device: torch.device) -> Tensor:
    """Returns where each of `count` runs of `each` begins, [count] int32 on `device`."""
    return torch.arange(0, count * each, each, dtype=torch.int32, device=device)


@lru_cache(maxsize=64)
def _table(wavelet: str, mode: str, size: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Returns an axis's positions (cropped ones at 0, their taps being 0) and its taps, on `device`."""
    side = axis(wavelet, mode, size)
    return torch.from_numpy(side.positions.clip(min=0)).to(device), torch.from_numpy(side.taps).to(device, dtype)
