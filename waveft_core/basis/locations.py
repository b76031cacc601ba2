"""Which p positions of C a layer trains: `uniform:SEED`, or `peft:SEED` for the positions that HF PEFT would draw.

`gradient:SEED` is chosen, not drawn: `locate.py`.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ..errors import WaveFTError
from .atoms import IDENTITY, coeffs_shape, filters, matrix_shape

KINDS = ("uniform", "peft", "gradient")


def parse_locations(locations: str) -> tuple[str, int]:
    """Returns the kind and the seed of `locations`.

    Raises:
        WaveFTError: not `uniform:SEED`, `peft:SEED` or `gradient:SEED`, SEED a whole number from 0 to 2**63 - 1.
    """
    kind, _, seed = str(locations).partition(":")
    if kind not in KINDS or not (seed.isascii() and seed.isdigit() and len(seed) <= 19) or int(seed) >= 2**63:
        raise WaveFTError(
            'locations: expected "uniform:SEED", "peft:SEED" or "gradient:SEED", SEED a whole number, '
            f"got {locations!r}."
        )
    return kind, int(seed)


def draw(locations: str, layer: str, wavelet: str, mode: str, shape: tuple[int, ...], coefficients: int) -> Tensor:
    """Returns `coefficients` distinct positions, flat in C and ascending: [p] int32.

    `uniform` draws O(p) numbers, from the seed and the layer's name alone, so that neither the order of layers nor any
    global state matters.  `peft` repeats PEFT's draw, which is the same for every layer of one shape.

    Raises:
        WaveFTError: more coefficients than C has entries; `peft` where PEFT's atoms are not this basis's.
    """
    across, along = coeffs_shape(wavelet, mode, shape)
    if not 1 <= coefficients <= across * along:
        raise WaveFTError(
            f'layer "{layer}": expected 1 to {across * along} coefficients for its {across} x {along} plane, '
            f"got {coefficients}. Ask for fewer, or leave the layer out of the targets."
        )
    kind, seed = parse_locations(locations)
    if kind == "gradient":
        raise WaveFTError(
            f"locations {locations!r}: expected positions that can be drawn, got some that batches must choose. "
            "Call `locate`, and attach the adapter that it returns."
        )
    if kind == "peft":
        drawn = peft_order(wavelet, mode, matrix_shape(shape), coefficients, seed)
        return torch.from_numpy(np.sort(drawn).astype(np.int32))
    digest = hashlib.sha256(f"{seed}|locations|{layer}".encode()).digest()
    generator = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))
    chosen = generator.choice(across * along, coefficients, replace=False, shuffle=False)
    return torch.from_numpy(np.sort(chosen).astype(np.int32))


@lru_cache(maxsize=64)
def peft_order(wavelet: str, mode: str, shape: tuple[int, int], coefficients: int, seed: int) -> np.ndarray:
    """Returns PEFT's positions in our C, in the order of its values, [p] int64.

    PEFT draws on the m x n window inside its padded plane and feeds the right half of the columns to the *row*
    high-pass filter: its off-diagonal quadrants are ours swapped.
    """
    m, n = shape
    k = filters(wavelet).shape[1]
    if wavelet != IDENTITY and mode == "periodization" and k > 2:
        raise WaveFTError(
            f'locations "peft:{seed}": expected wavelet "db1" under periodization, got "{wavelet}", whose atoms PEFT '
            'pads with zeros instead. Use mode = "zero", or locations = "uniform:SEED".'
        )
    if coefficients > m * n:
        raise WaveFTError(f'locations "peft:{seed}": expected at most m*n = {m * n} coefficients, got {coefficients}.')
    drawn = torch.randperm(m * n, generator=torch.Generator().manual_seed(seed))[:coefficients].numpy()
    row, column = np.divmod(drawn, n)
    across, along = coeffs_shape(wavelet, mode, shape)
    if wavelet != IDENTITY:
        row, column = row + (across - m) // 2, column + (along - n) // 2
        a, b = row >= across // 2, column >= along // 2
        row, column = row + (b.astype(np.int64) - a) * (across // 2), column + (a.astype(np.int64) - b) * (along // 2)
    places: np.ndarray = row * along + column
    return places
