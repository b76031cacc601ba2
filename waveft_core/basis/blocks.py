"""The atoms of `atoms.py` by blocks: four neighbouring entries of the weight at a time, two rows by two columns.

Filters have an even number of taps and atoms start on entries of one parity, so that every atom covers whole blocks.
All is arithmetic on the coefficients' own places: memory follows them, never a weight's size, which may be a claim.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .atoms import IDENTITY, coefficient_count, filters, matrix_shape


class Cells:
    """One side of the transform by cells: the runs of two neighbouring entries that filters cover whole.

    All atoms start on entries of one parity, so that a filter of k taps covers k/2 cells, and two atoms share a cell or
    have no entry in common there.  `identity` has cells of one entry.  Nothing is tabled: a size may be a file's claim.

    Attributes:
        number: of cells.
        width: entries of a cell.
        taps: [2 * k / width, width] float64, a filter's taps in each of its cells.
        count: of coefficients.
        even: every cell lies within the weight, on an even entry.
    """

    def __init__(self, wavelet: str, mode: str, size: int) -> None:
        bank = filters(wavelet)
        count, k = coefficient_count(wavelet, mode, size), bank.shape[1]
        self._size, self._mode, self.width = size, mode, 1 if wavelet == IDENTITY else 2
        self._half, self._covered = max(1, count // self.width), max(1, k // 2)
        self.number = self._half if mode == "periodization" else self._half + k // 2 - 1
        self._before = 0 if wavelet == IDENTITY else k // 2 - 1 if mode == "periodization" else k - 2
        self.taps = bank.reshape(-1, self.width)
        self.count = count
        self.even = (
            self.width == 2 and size % 2 == 0 and (k == 2 or (mode == "periodization" and self._before % 2 == 0))
        )

    def covered(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the cells that the coefficients at `places` [p] cover, in the order of their taps, and which taps.

        Both are [p, k / 2] in the dtype of `places`; the second are rows of `taps`.
        """
        band = (places >= self._half).astype(places.dtype)  # numpy divides slowly; there are two bands at most
        start = places - band * self._half
        if self._covered == 1:
            return start[:, None], band[:, None]
        each = np.arange(self._covered, dtype=places.dtype)
        return (start[:, None] + each) % self.number, band[:, None] * self._covered + each

    def whole(self, cells: np.ndarray) -> np.ndarray | bool:
        """Returns which of `cells` [B] are neighbours within the weight: True where all are."""
        if self.width == 1 or self.even:
            return True
        first = self.width * cells - self._before
        found: np.ndarray = (first >= 0) & (first < self._size - 1)
        return found

    def first(self, cells: np.ndarray) -> np.ndarray:
        """Returns the first entry of each of `cells` [B], which are whole or begin before the weight."""
        first = self.width * cells - self._before if self._before else self.width * cells
        if self._mode != "periodization" or not self._before:
            return first
        if self._before > self._size:  # a filter that is longer than the weight goes round it several times
            return first % self._size
        first += np.multiply(first < 0, self._size, dtype=first.dtype)  # numpy divides slowly
        return first

    def entries(self, cells: np.ndarray) -> list[np.ndarray]:
        """Returns the entries of `cells` [B]: a [B] int64 for each of a cell's, -1 beyond the weight's edge."""
        first = self.width * cells - self._before
        found = [first + number for number in range(self.width)]
        if self._mode == "periodization":
            return [entries % self._size for entries in found] if self._before else found
        return [np.where((entries >= 0) & (entries < self._size), entries, -1) for entries in found]


@lru_cache(maxsize=256)
def cells(wavelet: str, mode: str, size: int) -> Cells:
    """Returns one side of the transform by cells."""
    return Cells(wavelet, mode, size)


@dataclass(frozen=True)
class Blocks:
    """What p coefficients of a layer are worth, by blocks: the weight's entries where a row cell meets a column cell.

    Attributes:
        of_coefficient: [p, A] whole numbers, the blocks that each coefficient's atom covers.
        codes: [p, A] int16, the row of `block_taps` that holds the atom's entries there.
        inside: [p, A], whether its entries are neighbours within the weight; True where all are.
    """

    of_coefficient: np.ndarray
    codes: np.ndarray
    inside: np.ndarray | bool


def blocks(wavelet: str, mode: str, shape: tuple[int, ...], indices: np.ndarray) -> Blocks:
    """Returns the blocks of the coefficients at `indices`, [p] flat in C, in the dtype of `indices`."""
    m, n = matrix_shape(shape)
    rows, columns = cells(wavelet, mode, m), cells(wavelet, mode, n)
    i = indices // columns.count  # numpy's divmod takes four times as long
    (row_cells, row_codes), (column_cells, column_codes) = rows.covered(i), columns.covered(indices - i * columns.count)
    size = len(indices), row_cells.shape[1] * column_cells.shape[1]
    covered = row_cells[:, :, None] * columns.number + column_cells[:, None, :]  # [p, k/2, k/2]
    row_codes = row_codes.astype(np.int16) * np.int16(len(columns.taps))  # k * k at most
    codes = row_codes[:, :, None] + column_codes.astype(np.int16)[:, None, :]
    below, along = rows.whole(row_cells), columns.whole(column_cells)
    inside: np.ndarray | bool = True
    if below is not True or along is not True:
        below, along = np.broadcast_to(below, row_cells.shape), np.broadcast_to(along, column_cells.shape)
        inside = (below[:, :, None] & along[:, None, :]).reshape(size)
    return Blocks(covered.reshape(size), codes.reshape(size), inside)


def block_taps(wavelet: str) -> np.ndarray:
    """Returns an atom's entries in a block by the block's code: [codes, s] float64; s is 4, and 1 for `identity`."""
    taps = cells(wavelet, "periodization", 2).taps
    found: np.ndarray = (taps[:, None, :, None] * taps[None, :, None, :]).reshape(len(taps) ** 2, -1)
    return found


def block_starts(wavelet: str, mode: str, shape: tuple[int, ...], block: np.ndarray) -> np.ndarray:
    """Returns the first entry of blocks [B] that are `whole`, flat in the weight."""
    m, n = matrix_shape(shape)
    rows, columns = cells(wavelet, mode, m), cells(wavelet, mode, n)
    row_cell = block // columns.number
    found: np.ndarray = rows.first(row_cell) * n + columns.first(block - row_cell * columns.number)
    return found


def block_entries(wavelet: str, mode: str, shape: tuple[int, ...], block: np.ndarray) -> np.ndarray:
    """Returns the entries of blocks [B], flat in the weight, -1 beyond its edge: [B, s] int64."""
    m, n = matrix_shape(shape)
    across = cells(wavelet, mode, n)
    row_cell, column_cell = np.divmod(block, across.number)
    rows = cells(wavelet, mode, m).entries(row_cell)  # [B] each, not [B, 2]: numpy's loops are long or slow
    columns = across.entries(column_cell)
    entries = np.empty((len(block), len(rows) * len(columns)), np.int64)
    for corner, (row, column) in enumerate(itertools.product(rows, columns)):
        entries[:, corner] = row * n + column
        if mode == "zero":
            entries[(row < 0) | (column < 0), corner] = -1
    return entries
