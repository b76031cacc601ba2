import pytest
import pywt
import torch

from waveft_core import Adapter, Layer, WaveFTError, scale

A, B = "lora_unet_a", "lora_unet_b"


def make(wavelet="db2", mode="periodization", dtype=torch.float32, shapes=((8, 12), (6, 10)), scaling=3.0):
    generator, layers = torch.Generator().manual_seed(4), {}
    for name, (m, n) in zip((A, B), shapes, strict=True):
        size = m * n // 2
        indices = torch.randperm(m * n, generator=generator)[:size].sort().values.int()
        layers[name] = Layer(torch.randn(size, generator=generator).to(dtype), indices, (m, n))
    return Adapter(layers, wavelet, mode, scaling, "uniform:1", {"ss_base_model_version": "toy", "waveft.job": "x"})


def by_hand(adapter, name, factors):
    """dW with PyWavelets, each quadrant of C multiplied by its own factor."""
    layer = adapter.layers[name]
    m, n = layer.shape
    coeffs = torch.zeros(m * n, dtype=torch.float64)
    coeffs[layer.indices.long()] = layer.values.double()
    coeffs = coeffs.view(m, n).numpy()
    aa, ad = coeffs[: m // 2, : n // 2] * factors["aa"], coeffs[: m // 2, n // 2 :] * factors["ad"]
    da, dd = coeffs[m // 2 :, : n // 2] * factors["da"], coeffs[m // 2 :, n // 2 :] * factors["dd"]
    return torch.from_numpy(adapter.scaling * pywt.idwt2((aa, (da, ad, dd)), adapter.wavelet, "periodization"))


@pytest.mark.parametrize("wavelet", ["db1", "db2", "sym4"])
def test_a_factor_by_sub_band_is_that_quadrants(wavelet):
    adapter = make(wavelet)
    factors = {"aa": 0.5, "ad": -2.0, "da": 0.0, "dd": 1.0}
    made = scale(adapter, {A: factors})
    torch.testing.assert_close(made.delta(A, torch.float64), by_hand(adapter, A, factors), rtol=0, atol=1e-5)
    assert torch.equal(made.layers[B].values, adapter.layers[B].values)
    assert len(made.layers[A].indices) < len(adapter.layers[A].indices), "what is multiplied by 0 is dropped"


def test_a_number_multiplies_the_layer_and_0_drops_it():
    adapter = make()
    made = scale(adapter, {A: 0.25, B: 0.0})
    assert list(made.layers) == [A]
    assert torch.equal(made.layers[A].values, 0.25 * adapter.layers[A].values)


def test_missing_sub_bands_are_left_as_they_are():
    adapter = make()
    assert torch.equal(
        scale(adapter, {A: {"aa": 2.0}}).delta(A), scale(adapter, {A: {"aa": 2.0, "ad": 1, "da": 1, "dd": 1}}).delta(A)
    )


def test_the_adapter_itself_comes_back_where_nothing_changes():
    adapter = make()
    assert scale(adapter, {}) is adapter
    assert scale(adapter, {A: 1.0, B: {"dd": 1.0}}) is adapter


@pytest.mark.parametrize(
    ("dtype", "made"), [(torch.float16, torch.float32), (torch.bfloat16, torch.float32), (torch.float64, torch.float64)]
)
def test_products_are_rounded_once(dtype, made):
    adapter = make(dtype=dtype)
    values = scale(adapter, {A: 0.3, B: 0.3}).layers[A].values
    assert values.dtype == made
    assert torch.equal(values, (adapter.layers[A].values.double() * 0.3).to(made))


def test_it_says_what_it_is_for_and_no_longer_how_it_was_trained():
    made = scale(make(), {A: 2.0})
    assert dict(made.metadata) == {"ss_base_model_version": "toy"}
    assert made.locations is None


@pytest.mark.parametrize(
    ("factors", "words"),
    [
        ({"lora_unet_c": 1.0}, 'expected layers of the adapter, got "lora_unet_c"'),
        ({A: {"hl": 1.0}}, 'sub-bands aa, ad, da, dd, got "hl"'),
        ({A: float("nan")}, "finite"),
        ({A: 10**400}, "finite"),
        ({A: None}, "finite"),
        ({A: {"aa": "x"}}, "finite"),
        ({A: {"aa": float("inf")}}, "finite"),
        ({A: 0.0, B: 0.0}, "some coefficients left"),
    ],
)
def test_refusals(factors, words):
    with pytest.raises(WaveFTError, match=words):
        scale(make(), factors)


def test_identity_has_no_sub_bands():
    adapter = make("identity")
    assert torch.equal(scale(adapter, {A: 2.0}).delta(A), 2 * adapter.delta(A))
    with pytest.raises(WaveFTError, match="identity has no sub-bands"):
        scale(adapter, {A: {"aa": 0.0}})
