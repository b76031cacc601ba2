"""||IDWT(C)||_F from the coefficients alone, in either mode, without the entries that they touch.

Under periodization the atoms are an orthonormal basis: it is C's own norm (Parseval).  In mode `zero` those that reach
over an edge of the weight are cropped there, and are orthonormal no more; all others still are, to them too.  With G
the Gram matrices of the few cropped ones along an axis (at most 2k of a filter of k taps), and I for the others,

    ||IDWT(C)||^2 = <C, G_m C G_n>

is a sum of four parts, C's rows and columns each cropped or not.
"""

from __future__ import annotations

import math

import numpy as np

from .atoms import IDENTITY, coefficient_count, filters, matrix_shape, touched

_AT_ONCE = 4096  # columns of C


def norm(wavelet: str, mode: str, shape: tuple[int, ...], indices: np.ndarray, values: np.ndarray) -> float:
    """Returns ||IDWT(C)||_F; time and memory follow the coefficients, whatever the shape.

    Args:
        shape: of the weight itself.
        indices: [p] whole numbers, flat in C, each once.
        values: [p] float64.
    """
    if mode != "zero" or wavelet == IDENTITY:
        return math.sqrt(float(np.square(values).sum()))
    m, n = matrix_shape(shape)
    row, column = np.divmod(indices.astype(np.int64), coefficient_count(wavelet, mode, n))
    low, left = _cropped(wavelet, mode, m, row), _cropped(wavelet, mode, n, column)
    total = float(np.square(values[~low & ~left]).sum())
    for which, size, cropped, other in ((low & ~left, m, row, column), (left & ~low, n, column, row)):
        if which.any():
            total += _one_side(wavelet, mode, size, cropped[which], other[which], values[which])
    both = low & left
    if both.any():
        rows, i = np.unique(row[both], return_inverse=True)
        columns, j = np.unique(column[both], return_inverse=True)
        coeffs = np.zeros((rows.size, columns.size))
        coeffs[i, j] = values[both]
        seen = _gram(wavelet, mode, m, rows) @ coeffs @ _gram(wavelet, mode, n, columns)
        total += float((coeffs * seen).sum())
    return math.sqrt(max(0.0, total))


def _cropped(wavelet: str, mode: str, size: int, places: np.ndarray) -> np.ndarray:
    """Returns which of the coefficients at `places` [p] along an axis reach over one of its ends."""
    k, half = filters(wavelet).shape[1], coefficient_count(wavelet, mode, size) // 2
    start = 2 * (places % half)
    found: np.ndarray = (start < k - 2) | (start > size - 2)
    return found


def _gram(wavelet: str, mode: str, size: int, places: np.ndarray) -> np.ndarray:
    """Returns the inner products of the atoms at `places` along an axis, as they are cropped: [p, p]."""
    entries, taps = touched(wavelet, mode, size, places)
    _, column = np.unique(entries, return_inverse=True)
    atoms = np.zeros((len(places), int(column.max()) + 1))
    np.add.at(atoms, (np.arange(len(places))[:, None], column.reshape(entries.shape)), taps)  # a cropped tap adds 0
    found: np.ndarray = atoms @ atoms.T
    return found


def _one_side(wavelet: str, mode: str, size: int, cropped: np.ndarray, other: np.ndarray, values: np.ndarray) -> float:
    """Returns the part of coefficients whose atoms are cropped along one axis alone, of `size` entries."""
    places, i = np.unique(cropped, return_inverse=True)
    gram = _gram(wavelet, mode, size, places)
    order = np.argsort(other, kind="stable")
    i, j, values = i[order], np.unique(other[order], return_inverse=True)[1], values[order]
    total = 0.0
    for start in range(0, int(j[-1]) + 1, _AT_ONCE):
        some = slice(*np.searchsorted(j, (start, start + _AT_ONCE)))
        coeffs = np.zeros((places.size, int(j[some][-1]) + 1 - start))
        coeffs[i[some], j[some] - start] = values[some]
        total += float((coeffs * (gram @ coeffs)).sum())
    return total
