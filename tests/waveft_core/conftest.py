"""The oracles and the makers that several of core's tests share, as fixtures."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
import pywt
import torch
from torch import nn

from waveft_core import Adapter, Layer
from waveft_core.basis.atoms import axis, matrix_shape
from waveft_core.versions import OLDEST_TO_TRAIN

# On a torch that is too old to train (`nox -s old`), what trains is skipped, and so is what asks a library that such an
# environment lacks. Elsewhere nothing is.
_OLD = tuple(map(int, re.findall(r"\d+", torch.__version__)[:2])) < OLDEST_TO_TRAIN
_LIBRARIES = ("diffusers", "transformers", "peft", "ptwt", "matplotlib", "tqdm", "accelerate")
_LACKING = [name for name in _LIBRARIES if importlib.util.find_spec(name) is None] if _OLD else []
_AT_IMPORT = re.compile(rf"^(?:import|from) (?:{'|'.join(_LACKING) or 'none'})\b", re.MULTILINE)
collect_ignore = [
    str(path)
    for path in Path(__file__).parent.rglob("test_*.py")
    if _OLD and _AT_IMPORT.search(path.read_text(encoding="utf-8"))
]


def pytest_report_header():
    if _OLD:
        left_out = ", ".join(Path(path).name for path in collect_ignore) or "none"
        return f"torch {torch.__version__} does not train; modules that need {', '.join(_LACKING)}: {left_out}"
    return None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    return (yield from _skipping())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    return (yield from _skipping())


def _skipping():
    try:
        return (yield)
    except (Exception, pytest.fail.Exception) as error:
        reason = _reason(error) if _OLD else None
        if reason is None:
            raise
        pytest.skip(reason)


def _reason(error):
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] in _LACKING:
        return f"needs {error.name}"
    said = str(error)  # of the refusal itself, or of pytest.raises, which quotes it where a test expects another
    if "training: expected torch" in said:
        return "trains"
    return "computes in half precision on the CPU" if "not implemented for 'Half'" in said else None


def _plane(wavelet, mode, shape):
    """(M, N) as the format defines them, written apart from the code under test."""
    m, n = shape[0], int(np.prod(shape[1:]))
    if mode == "periodization":
        return m, n
    k = len(pywt.Wavelet(wavelet).rec_lo)
    return 2 * ((m + k - 1) // 2), 2 * ((n + k - 1) // 2)


def _idwt2(coeffs, wavelet, mode, shape):
    """IDWT2(C)[:m, :n] by PyWavelets, [m, n] float64."""
    if wavelet == "identity":
        return coeffs
    half_m, half_n = coeffs.shape[0] // 2, coeffs.shape[1] // 2
    aa, ad = coeffs[:half_m, :half_n], coeffs[:half_m, half_n:]
    da, dd = coeffs[half_m:, :half_n], coeffs[half_m:, half_n:]
    return pywt.idwt2((aa, (da, ad, dd)), wavelet, mode)[: shape[0], : int(np.prod(shape[1:]))]


@pytest.fixture(scope="session")
def plane():
    return _plane


@pytest.fixture(scope="session")
def idwt2():
    return _idwt2


@pytest.fixture(scope="session")
def pywt_delta():
    """delta(adapter, layer name) -> dW [m, n] float64, scaling included, by PyWavelets alone."""

    def delta(adapter, name):
        layer = adapter.layers[name]
        coeffs = np.zeros(_plane(adapter.wavelet, adapter.mode, layer.shape))
        coeffs.reshape(-1)[layer.indices.numpy()] = layer.values.detach().double().numpy()
        return adapter.scaling * _idwt2(coeffs, adapter.wavelet, adapter.mode, layer.shape)

    return delta


def _atoms(wavelet, mode, shape, indices):
    """Where each coefficient's atom lies and its entries: [p, k*k] flat in the weight (-1 where cropped), and taps."""
    m, n = matrix_shape(shape)
    rows, columns = axis(wavelet, mode, m), axis(wavelet, mode, n)
    i, j = np.divmod(indices.astype(np.int64), columns.count)
    row, column = rows.positions[i][:, :, None], columns.positions[j][:, None, :]
    entries = np.where((row < 0) | (column < 0), -1, row * n + column)
    taps = rows.taps[i][:, :, None] * columns.taps[j][:, None, :]
    return entries.reshape(len(indices), -1), taps.reshape(len(indices), -1)


@pytest.fixture(scope="session")
def atoms():
    return _atoms


@pytest.fixture(scope="session")
def make_adapter():
    """make(shapes by layer name, ...) -> an adapter with random places and values."""

    def make(
        shapes, coefficients=6, wavelet="db1", mode="periodization", scaling=1.7, seed=0, dtype=torch.float32, **more
    ):
        generator = np.random.default_rng(seed)
        layers = {}
        for name, shape in shapes.items():
            across, along = _plane(wavelet, mode, shape)
            p = min(coefficients, across * along)
            indices = np.sort(generator.choice(across * along, p, replace=False)).astype(np.int32)
            values = torch.from_numpy(generator.normal(size=p)).to(dtype)
            layers[name] = Layer(values, torch.from_numpy(indices), tuple(shape))
        return Adapter(layers, wavelet, mode, scaling, **more)

    return make


@pytest.fixture
def bits():
    """bits(tensor) -> its raw bytes: -0.0 is not 0.0 here, and a NaN equals itself."""

    def raw(tensor):
        return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()

    return raw


@pytest.fixture
def make_mlp():
    """make(dtype) -> 8 -> 12 -> 6 with a bias in one layer, weights drawn from a seed."""

    def make(dtype=torch.float32, seed=0, grad=False):
        generator = torch.Generator().manual_seed(seed)
        model = nn.Sequential(nn.Linear(8, 12, bias=False), nn.Tanh(), nn.Linear(12, 6))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 3)
        return model.to(dtype).requires_grad_(grad)

    return make


class _Quantised(nn.Linear):
    """Whole numbers and one scale: what quantisation libraries do, in a few lines; two entries a byte at 4 bits."""

    def whole(self):
        stored = self.weight
        if self.packed:
            low, high = stored.view(-1) % 16, stored.view(-1) // 16
            stored = torch.stack([low, high], dim=-1).view(self.out_features, self.in_features).float() - 8
        return stored.float() * self.scale

    def forward(self, x):
        return nn.functional.linear(x, self.whole().to(x.dtype), self.bias)


@pytest.fixture(scope="session")
def quantised():
    """quantised(linear, bits=8 or 4) -> the layer over int8 [m, n], or over packed uint8 [m * n / 2, 1]."""

    def quantise(linear, bits=8):
        held = _Quantised(linear.in_features, linear.out_features, bias=linear.bias is not None).requires_grad_(False)
        held.packed, most = bits == 4, 2 ** (bits - 1) - 1
        held.scale = float(linear.weight.abs().max()) / most
        stored = (linear.weight.detach() / held.scale).round().to(torch.int8)
        if held.packed:
            pairs = (stored + 8).to(torch.uint8).view(-1, 2)
            stored = (pairs[:, 0] + 16 * pairs[:, 1])[:, None]
        held.weight = nn.Parameter(stored, requires_grad=False)
        if linear.bias is not None:
            held.bias = nn.Parameter(linear.bias.detach().clone(), requires_grad=False)
        return held

    return quantise
