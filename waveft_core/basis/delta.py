"""Dense IDWT(C) of one layer: a sum of atoms where they are few, the transform D_m^T C D_n where they are many."""

from __future__ import annotations

from torch import Tensor

from .atoms import IDENTITY, axis, coeffs_shape, filters, matrix_shape
from .planning import MOST_BLOCKS, block_count, make_plan

# One CPU core's nanoseconds, of which only the ratio matters (python -m benchmarks.scaling): an atom's block, made and
# added, in turns (a sweep takes half of it, and this keeps the way, and so the bits, that a dW always had); a filter
# tap applied to one entry, both ways.
_BLOCK_NS, _TAP_NS = 100.0, 3.0
# Entries; below this either way is done in a millisecond, and the atoms' sums are merge's to the last bit.
_SMALL = 2**16


def dense_delta(
    wavelet: str, mode: str, shape: tuple[int, ...], indices: Tensor, values: Tensor, factor: float = 1.0
) -> Tensor:
    """Returns factor * IDWT(C) in the weight's shape, in the dtype and on the device of `values`.

    By atoms the sums are those of `merge` bit for bit; by the transform they are so to rounding.

    Args:
        indices: [p] int32, flat in C, ascending.
        values: [p] float32 or float64.
    """
    m, n = matrix_shape(shape)
    if transform_pays(wavelet, (m, n), len(indices)):
        across, along = coeffs_shape(wavelet, mode, shape)
        coeffs = values.new_zeros(across * along)
        coeffs.index_copy_(0, indices.to(values.device).long(), values)
        half = axis(wavelet, mode, m).synthesize(coeffs.view(across, along))  # [N, m]
        return axis(wavelet, mode, n).synthesize(half).mul_(factor).view(shape)
    plan = make_plan(wavelet, mode, shape, indices, values.dtype).to(values.device, values.dtype)
    return plan.dense(values, factor)


def transform_pays(wavelet: str, shape: tuple[int, int], coefficients: int) -> bool:
    """Returns whether the transform is the cheaper way: for `db1` at 1280 x 1280 from 98,000 coefficients on."""
    if wavelet == IDENTITY or shape[0] * shape[1] < _SMALL:
        return False
    k, blocks = int(filters(wavelet).shape[1]), block_count(wavelet, coefficients)
    return blocks > MOST_BLOCKS or blocks * _BLOCK_NS > shape[0] * shape[1] * k * _TAP_NS
