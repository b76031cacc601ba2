"""THE definition of the atoms: what one coefficient of C is worth in dW.

    dW = D_m^T C D_n          C [M, N],  dW [m, n]           (paper section 3, equation 3)

Coefficient (i, j) is worth the outer product of column i of D_m^T and column j of D_n^T: two short filters, so k*k
entries of dW for filters of length k.  With C cut into quadrants,

    C = [[aa, ad],        first letter: rows, second: columns;  a = low-pass, d = high-pass
         [da, dd]]

the first M/2 rows use the low-pass filter and the others the high-pass one, likewise for columns.  Training, merging,
dense dW and gradients all read these atoms; nothing else in the project knows what a wavelet is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import pywt
import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import WaveFTError

IDENTITY = "identity"
MODES = ("periodization", "zero")


@lru_cache(maxsize=1)
def wavelets() -> tuple[str, ...]:
    """Returns every wavelet that the format knows: PyWavelets' db, sym and coif families, and `identity`."""
    return (*(name for family in ("db", "sym", "coif") for name in pywt.wavelist(family)), IDENTITY)


def check_wavelet(wavelet: object, mode: object) -> None:
    """Refuses what is no wavelet or mode of the format.

    Raises:
        WaveFTError: naming what was expected.
    """
    if wavelet not in wavelets():
        hint = ' Use "db1".' if wavelet == "haar" else ""
        raise WaveFTError(
            f"wavelet: expected one of PyWavelets' db1..db38, sym2..sym20, coif1..coif17, or identity, "
            f"got {wavelet!r}.{hint}"
        )
    if mode not in MODES:
        raise WaveFTError(f"mode: expected one of {', '.join(MODES)}, got {mode!r}.")
    if wavelet == IDENTITY and mode != "periodization":
        raise WaveFTError(f'mode: expected "periodization" with wavelet "identity", got {mode!r}.')


@lru_cache(maxsize=128)
def filters(wavelet: str) -> np.ndarray:
    """Returns the synthesis filters, low-pass first, [2, k] float64: PyWavelets' `rec_lo` and `rec_hi`."""
    if wavelet == IDENTITY:
        return np.ones((1, 1))
    found = pywt.Wavelet(wavelet)
    taps = np.array([found.rec_lo, found.rec_hi])
    taps.flags.writeable = False
    return taps


@lru_cache(maxsize=128)
def _recipe(wavelet: str) -> tuple[tuple[float, tuple[tuple[int, float], ...]], ...]:
    """Returns, for each band, its filter's largest tap and every tap's place and ratio to it, the largest first."""
    bands = []
    for taps in filters(wavelet):
        order = [int(t) for t in np.argsort(-np.abs(taps), kind="stable")]  # so that no ratio exceeds 1
        lead = float(taps[order[0]])
        bands.append((lead, tuple((t, float(taps[t]) / lead) for t in order)))
    return tuple(bands)


@dataclass(frozen=True)
class Axis:
    """One side of the transform: D [count, size], a row per coefficient, `k` taps in each.

    Attributes:
        size: length of the weight's axis (m or n).
        count: number of coefficients along it (M or N).
        length: k, of the filters.
        positions: [count, k] int64, the entry that each tap falls on; -1 where it falls outside and is cropped.
        taps: [count, k] float64, zero where cropped.

    The two tables are made when they are first asked for: a size may be a file's mere claim.
    """

    wavelet: str
    mode: str
    size: int
    count: int
    length: int

    @cached_property
    def positions(self) -> np.ndarray:  # noqa: D102 - above
        return touched(self.wavelet, self.mode, self.size, np.arange(self.count))[0]

    @cached_property
    def taps(self) -> np.ndarray:  # noqa: D102 - above
        return touched(self.wavelet, self.mode, self.size, np.arange(self.count))[1]

    def analyze(self, x: Tensor) -> Tensor:
        """Returns `D x` of every row of `x` [T, size], transposed: [count, T], in x's dtype."""
        out = self.unscaled(x)
        for band, lead in zip(torch.split(out, max(1, self.count // 2)), self.leads(), strict=False):
            band.mul_(lead)
        return out

    def leads(self) -> tuple[float, ...]:
        """Returns the largest tap of each band's filter, low-pass first."""
        return tuple(lead for lead, _ in _recipe(self.wavelet))

    def unscaled(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Returns `analyze(x)` with each band divided by its lead: one pass over memory less; in `out` where given.

        Transposed because the gradient's dot products run over tokens.  The band's filter is applied in polyphase form,
        as adds of every other entry, never as a matrix.
        """
        out = x.new_empty(self.count, x.shape[0]) if out is None else out
        if self.wavelet == IDENTITY:
            return out.copy_(x.t())
        k, half = self.length, self.count // 2
        padded = self._padded(x, k, 2 * half).t()  # [size or more, T]
        if k > 2:  # read k times: transposed once
            padded = padded.contiguous()
        phases = [padded[t : t + 2 * half - 1 : 2] for t in range(k)]  # each [half, T], no copy
        for part, (_, ((first, _), (second, ratio), *rest)) in zip(
            torch.split(out, half), _recipe(self.wavelet), strict=True
        ):
            torch.add(phases[first], phases[second], alpha=ratio, out=part)
            for t, ratio in rest:
                part.add_(phases[t], alpha=ratio)
        return out

    def synthesize(self, coeffs: Tensor) -> Tensor:
        """Returns `D^T coeffs`, transposed: [T, size] from `coeffs` [count, T], in their dtype; `analyze` backwards."""
        if self.wavelet == IDENTITY:
            return coeffs.t().contiguous()
        bank = filters(self.wavelet)
        k, half = bank.shape[1], self.count // 2
        length = 2 * half + k - 2
        padded = coeffs.new_zeros(coeffs.shape[1], length)
        for band, taps in zip(torch.split(coeffs, half), bank, strict=True):
            for t in range(k):
                padded[:, t : t + 2 * half - 1 : 2].add_(band.t(), alpha=float(taps[t]))
        if self.mode == "zero":
            return padded[:, k - 2 : k - 2 + self.size].contiguous()
        if k == 2:
            return padded
        out = coeffs.new_zeros(coeffs.shape[1], self.size)
        before = k // 2 - 1  # entries that wrap round to the end
        for begin in range(before - self.size * math.ceil(before / self.size), length, self.size):
            low, high = max(begin, 0), min(begin + self.size, length)
            out[:, low - begin : high - begin] += padded[:, low:high]
        return out

    def _padded(self, x: Tensor, k: int, length: int) -> Tensor:
        """Returns x with what the filter's taps see beyond its ends: [T, length + k - 2]."""
        if self.mode == "zero":
            return F.pad(x, (k - 2, length - self.size)) if (k > 2 or length > self.size) else x
        if k == 2:
            return x
        source = np.arange(length + k - 2) - (k // 2 - 1)
        return x.index_select(1, torch.from_numpy(source % self.size).to(x.device))


def coefficient_count(wavelet: str, mode: str, size: int) -> int:
    """Returns how many coefficients an axis of `size` entries has (M from m, N from n)."""
    if mode == "zero":
        return 2 * ((size + int(filters(wavelet).shape[1]) - 1) // 2)
    return size


def coeffs_shape(wavelet: str, mode: str, shape: tuple[int, ...]) -> tuple[int, int]:
    """Returns (M, N), the shape of C for a weight of `shape`.

    Raises:
        WaveFTError: an odd size under periodization.
    """
    m, n = matrix_shape(shape)
    if wavelet != IDENTITY and mode == "periodization" and (m % 2 or n % 2):
        raise WaveFTError(
            f"weight shape {list(shape)}: expected even sizes under periodization, got [{m}, {n}]. "
            'Leave the layer out, or use mode = "zero".'
        )
    return coefficient_count(wavelet, mode, m), coefficient_count(wavelet, mode, n)


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Returns (m, n) of a weight: a convolution [out, in, kh, kw] is seen as [out, in*kh*kw]."""
    m, *rest = shape
    return m, math.prod(rest)


@lru_cache(maxsize=256)
def axis(wavelet: str, mode: str, size: int) -> Axis:
    """Returns one side of the transform; `pywt.idwt(..., mode)` of a unit coefficient gives the same taps."""
    return Axis(wavelet, mode, size, coefficient_count(wavelet, mode, size), int(filters(wavelet).shape[1]))


def touched(wavelet: str, mode: str, size: int, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the entries that the taps of the coefficients at `places` [p] along an axis fall on, and the taps.

    Both are [p, k], int64 and float64; -1 and 0 where a tap falls outside and is cropped.
    """
    bank = filters(wavelet)
    k = bank.shape[1]
    if wavelet == IDENTITY:
        return places[:, None].copy(), np.ones((len(places), 1))
    half = coefficient_count(wavelet, mode, size) // 2
    start = 2 * (places % half)[:, None] + np.arange(k)
    if mode == "periodization":
        return (start - (k // 2 - 1)) % size, bank[places // half]
    found = start - (k - 2)
    inside = (found >= 0) & (found < size)
    return np.where(inside, found, -1), np.where(inside, bank[places // half], 0.0)
