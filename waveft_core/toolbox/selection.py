"""Which coefficients to keep: the largest, in an orthonormal basis, and how many of them hold a share of the energy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from ..basis.atoms import IDENTITY, axis, check_wavelet, matrix_shape
from ..errors import WaveFTError, listed
from ..format.header import is_finite


def analyzed(delta: Tensor, wavelet: str) -> Tensor:
    """Returns C = D_m dW D_n^T [m, n], the orthonormal analysis of `delta`, in its dtype.

    A convolution's [out, in, kh, kw] is seen as [out, in*kh*kw].
    """
    m, n = matrix_shape(tuple(delta.shape))
    across = axis(wavelet, "periodization", n).analyze(delta.reshape(m, n))  # [n, m] = D_n dW^T
    return axis(wavelet, "periodization", m).analyze(across)  # [m, n]


def largest(sizes: np.ndarray, count: int) -> np.ndarray:
    """Returns the places of the `count` largest of `sizes`, ascending; of equal ones, the first."""
    if count >= sizes.size:
        return np.arange(sizes.size)
    edge = np.partition(sizes, sizes.size - count)[sizes.size - count]
    above = np.flatnonzero(sizes > edge)
    level = np.flatnonzero(sizes == edge)[: count - above.size]
    return np.sort(np.concatenate([above, level]))


def largest_of_all(sizes: Sequence[np.ndarray], count: int) -> list[np.ndarray]:
    """Returns, for each of `sizes`, the places that are among the `count` largest of all; of equal ones, the first."""
    best = largest(np.concatenate(sizes), count)
    starts = np.cumsum([0, *(held.size for held in sizes)])
    bounds = np.searchsorted(best, starts)
    return [best[low:high] - start for low, high, start in zip(bounds[:-1], bounds[1:], starts[:-1], strict=True)]


def fewest(sizes: np.ndarray, share: float) -> int:
    """Returns how many of the largest of `sizes` hold `share` of the sum of their squares; all but zeros for 1."""
    nonzero = int(np.count_nonzero(sizes))
    if share == 1 or nonzero == 0:
        return nonzero
    sums = np.cumsum(np.square(np.sort(sizes.astype(np.float64))[::-1]))
    return min(nonzero, int(np.searchsorted(sums, share * sums[-1])) + 1)


def check_basis(wavelet: str, mode: str) -> None:
    """Refuses what is no orthonormal basis, in which alone the largest coefficients are the best.

    Raises:
        WaveFTError: an unknown wavelet, or `mode = "zero"`.
    """
    check_wavelet(wavelet, mode)
    if mode == "zero":
        raise WaveFTError(
            'mode: expected "periodization", whose atoms are an orthonormal basis, got "zero", whose atoms are not: '
            'the largest coefficients would not be the best ones. Use mode = "periodization".'
        )


def check_even(name: str, shape: tuple[int, ...], wavelet: str) -> None:
    """Refuses an odd size, which periodization has no basis for.

    Raises:
        WaveFTError: naming the layer.
    """
    m, n = matrix_shape(shape)
    if wavelet != IDENTITY and (m % 2 or n % 2):
        raise WaveFTError(
            f'layer "{name}": expected even sizes for wavelet "{wavelet}", got [{m}, {n}]. '
            'Leave the layer out, or use wavelet = "identity", which has no such need.'
        )


def check_scaling(scaling: float) -> None:
    """Refuses a scaling that nothing can be divided by.

    Raises:
        WaveFTError: not a finite number, or 0.
    """
    if isinstance(scaling, bool) or not isinstance(scaling, int | float) or not is_finite(scaling) or scaling == 0:
        raise WaveFTError(f"scaling: expected a finite number other than 0, got {scaling!r}. The paper's is 25.")


def check_count(name: str, count: int | None) -> None:
    """Refuses a `count` that is neither None nor a whole number of at least 1.

    Raises:
        WaveFTError: naming it.
    """
    if count is not None and (type(count) is not int or count < 1):
        raise WaveFTError(f"{name}: expected a whole number of at least 1, got {count!r}. Give, say, 2592.")


def check_share(name: str, share: float | None) -> None:
    """Refuses a `share` that is neither None nor within (0, 1].

    Raises:
        WaveFTError: naming it.
    """
    if share is not None and (type(share) not in (int, float) or not 0 < share <= 1):
        raise WaveFTError(f"{name}: expected a share above 0, at most 1, got {share!r}. Half is 0.5.")


def check_one(given: Mapping[str, object]) -> None:
    """Refuses other than exactly one of the arguments in `given`.

    Raises:
        WaveFTError: naming those that were given.
    """
    named = [name for name, value in given.items() if value is not None]
    if len(named) != 1:
        raise WaveFTError(
            f"budget: expected exactly one of {', '.join(given)}, got {listed(named) or 'none'}. Give one."
        )
