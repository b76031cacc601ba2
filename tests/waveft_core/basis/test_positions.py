"""Positions of C, kept small, are those that they were made from."""

import pytest
import torch

from waveft_core.basis.positions import Positions


@pytest.mark.parametrize(
    ("across", "along", "count", "dtypes"),
    [
        (6, 8, 48, (torch.int16, torch.int16)),
        (40, 33_000, 50, (torch.int16, torch.int32)),
        (300, 200, 40_000, (torch.int32, torch.int16)),
        (1, 1, 1, (torch.int16, torch.int16)),
    ],
)
def test_indices_come_back_as_they_were(across, along, count, dtypes):
    places = torch.randperm(across * along, generator=torch.Generator().manual_seed(0))[:count]
    indices = places.sort().values.int()
    positions = Positions.of(indices, across, along)
    assert (positions.edges.dtype, positions.columns.dtype) == dtypes
    assert len(positions) == count
    assert positions.indices().dtype == torch.int32
    assert torch.equal(positions.indices(), indices)
    assert positions.to(torch.device("cpu")) is positions


@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_the_plane_holds_the_values_at_the_positions():
    values = torch.tensor([1.0, 2.0, 3.0])
    plane = Positions.of(torch.tensor([1, 4, 11], dtype=torch.int32), 3, 4).plane(values).to_dense()
    assert plane.tolist() == [[0, 1, 0, 0], [2, 0, 0, 0], [0, 0, 0, 3]]
