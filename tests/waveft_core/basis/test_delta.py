import numpy as np
import pytest
import torch

from waveft_core.basis import delta
from waveft_core.basis.delta import dense_delta, transform_pays

BASES = [
    ("db1", "periodization"),
    ("db3", "periodization"),
    ("coif2", "zero"),
    ("db1", "zero"),
    ("sym4", "periodization"),
]


@pytest.mark.parametrize(("wavelet", "mode"), BASES)
@pytest.mark.parametrize("ways", ["atoms", "transform"])
def test_either_way_gives_pywts_idwt2(ways, wavelet, mode, make_adapter, pywt_delta, monkeypatch):
    monkeypatch.setattr(delta, "transform_pays", lambda *_: ways == "transform")
    shape = (6, 2, 1, 5) if mode == "periodization" else (7, 9)
    adapter = make_adapter({"a": shape}, 40, wavelet, mode, scaling=1.0, dtype=torch.float64)
    layer = adapter.layers["a"]
    made = dense_delta(wavelet, mode, shape, layer.indices, layer.values)
    assert made.shape == shape
    np.testing.assert_allclose(made.numpy().reshape(shape[0], -1), pywt_delta(adapter, "a"), rtol=0, atol=1e-12)


def test_the_transform_is_for_many_coefficients_and_never_for_identity():
    assert not transform_pays("db1", (1280, 1280), 2592)
    assert not transform_pays("coif2", (1280, 1280), 2592)
    assert transform_pays("db1", (1280, 1280), 400_000)
    assert not transform_pays("identity", (1280, 1280), 1280 * 1280)
    assert not transform_pays("db1", (64, 64), 64 * 64)
