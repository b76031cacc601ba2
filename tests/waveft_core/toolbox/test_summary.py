import json
import math
import struct
import zlib

import numpy as np
import pytest
import torch
from torch import nn

from waveft_core import Adapter, Layer, WaveFTError, load, save
from waveft_core.toolbox.plot import plot
from waveft_core.toolbox.sources import opened
from waveft_core.toolbox.summary import BANDS, band_of, block_of, kind_of, summarize

BLOCK = "lora_unet_input_blocks_4_1_transformer_blocks_0_"
SHAPES = {
    f"{BLOCK}attn1_to_q": (8, 12),
    f"{BLOCK}attn2_to_out_0": (8, 6),
    "lora_unet_output_blocks_2_1_transformer_blocks_1_attn1_to_q": (10, 6),
    "lora_unet_middle_block_1_transformer_blocks_3_attn1_to_q": (6, 6),
    "lora_te1_text_model_encoder_layers_2_self_attn_q_proj": (4, 4),
}


@pytest.mark.parametrize(("wavelet", "mode"), [("db1", "periodization"), ("sym2", "periodization"), ("db2", "zero")])
def test_the_norms_are_those_of_the_dense_dw(make_adapter, pywt_delta, wavelet, mode):
    adapter = make_adapter(SHAPES, coefficients=9, wavelet=wavelet, mode=mode)
    told = summarize(adapter)
    norms = {name: np.linalg.norm(pywt_delta(adapter, name)) for name in SHAPES}
    for name, norm in norms.items():
        assert told["by_layer"][name]["norm"] == pytest.approx(norm, rel=1e-9)
    assert told["norm"] == pytest.approx(math.hypot(*norms.values()), rel=1e-9)


def test_the_energies_sum_to_the_whole_whichever_way_they_are_grouped(make_adapter):
    adapter = make_adapter(SHAPES, coefficients=9, wavelet="db2")
    energy = summarize(adapter)["energy"]
    expected = sum(float((layer.values.double() * adapter.scaling).square().sum()) for layer in adapter.layers.values())
    assert energy["total"] == pytest.approx(expected, rel=1e-12)
    for parts in (energy["kind"], energy["band"], {name: held["total"] for name, held in energy["block"].items()}):
        assert sum(parts.values()) == pytest.approx(expected, rel=1e-12)
    for held in energy["block"].values():
        assert sum(held[band] for band in BANDS) == pytest.approx(held["total"], rel=1e-12)
    assert list(energy["block"]) == ["input_blocks.4", "middle_block", "output_blocks.2", "te1 layer 2"]
    assert list(energy["kind"]) == ["attn1_to_q", "attn2_to_out_0", "self_attn_q_proj"]


@pytest.mark.parametrize(("wavelet", "mode"), [("db1", "periodization"), ("db2", "zero")])
def test_a_coefficients_band_is_the_quadrant_that_pywt_puts_it_in(plane, wavelet, mode):
    shape = (6, 8)
    across, along = plane(wavelet, mode, shape)
    coeffs = np.empty((across, along), dtype=object)
    half = across // 2, along // 2
    for band, rows, columns in (("aa", 0, 0), ("ad", 0, 1), ("da", 1, 0), ("dd", 1, 1)):
        coeffs[rows * half[0] : (rows + 1) * half[0], columns * half[1] : (columns + 1) * half[1]] = band
    indices = torch.arange(across * along, dtype=torch.int32)
    layer = Layer(torch.ones(across * along), indices, shape)
    found = band_of(Adapter({"lora_a": layer}, wavelet, mode), layer)
    assert [BANDS[band] for band in found] == coeffs.reshape(-1).tolist()


def test_a_case_worked_by_hand():
    # scaling 2; (0, 0) is aa, (0, 3) ad, (3, 0) da, (3, 3) dd of a [4, 4] plane
    layer = Layer(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([0, 3, 12, 15], dtype=torch.int32), (4, 4))
    told = summarize(Adapter({"lora_a": layer}, scaling=2.0, metadata={"ss_base_model_version": "sdxl_base_v1-0"}))
    assert told["energy"]["band"] == {"aa": 4.0, "ad": 16.0, "da": 36.0, "dd": 64.0}
    assert told["norm"] == pytest.approx(math.sqrt(120))
    assert told["coefficients"] == {"total": 4, "min": 4, "median": 4.0, "max": 4}
    assert (told["weights"], told["layers"], told["base_model"]) == (16, 1, "sdxl_base_v1-0")
    assert told["bytes"] is None


def test_against_a_base_the_norms_are_relative():
    model = nn.ModuleDict({"a": nn.Linear(4, 4, bias=False), "b": nn.Linear(4, 4, bias=False)})
    with torch.no_grad():
        model["a"].weight.fill_(0.5)  # ||W|| = 2
        model["b"].weight.fill_(1.0)  # ||W|| = 4
    one = torch.tensor([0], dtype=torch.int32)
    adapter = Adapter(
        {"lora_a": Layer(torch.ones(1), one, (4, 4)), "lora_b": Layer(2 * torch.ones(1), one, (4, 4))}, scaling=1.0
    )
    steps = []
    told = summarize(adapter, opened(model.half()), lambda done, total: steps.append((done, total)))
    assert told["by_layer"]["lora_a"]["relative"] == pytest.approx(0.5)
    assert told["by_layer"]["lora_b"]["relative"] == pytest.approx(0.5)
    assert (told["base_norm"], told["relative"]) == (pytest.approx(math.sqrt(20)), pytest.approx(0.5))
    assert steps == [(1, 2), (1, 2)]
    with pytest.raises(WaveFTError, match="base has"):
        summarize(adapter, opened(nn.ModuleDict({"a": nn.Linear(4, 4)})))
    with pytest.raises(WaveFTError, match=r"weight of the base: expected \[4, 4\], got \[6, 4\]"):
        summarize(adapter, opened(nn.ModuleDict({"a": nn.Linear(4, 6), "b": nn.Linear(4, 4)})))


def test_identity_has_no_bands(make_adapter):
    told = summarize(make_adapter(SHAPES, wavelet="identity"))
    assert told["energy"]["band"] == {}
    assert all(set(held) == {"total"} for held in told["energy"]["block"].values())


def test_an_adapter_of_zeros_is_told_too():
    layer = Layer(torch.zeros(2), torch.tensor([0, 3], dtype=torch.int32), (4, 4))
    assert summarize(Adapter({"lora_a": layer}))["norm"] == 0


def test_a_summary_is_json(tmp_path, make_adapter):
    save(make_adapter(SHAPES), tmp_path / "a.safetensors", {"ss_output_name": "dog"})
    told = summarize(load(tmp_path / "a.safetensors"))
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert told["bytes"] == (tmp_path / "a.safetensors").stat().st_size
    assert told["metadata"] == {"ss_output_name": "dog"}


@pytest.mark.parametrize(
    ("name", "block", "kind"),
    [
        (f"{BLOCK}attn1_to_q", "input_blocks.4", "attn1_to_q"),
        (f"{BLOCK}ff_net_0_proj", "input_blocks.4", "ff_net_0_proj"),
        ("lora_unet_middle_block_1_transformer_blocks_9_attn2_to_out_0", "middle_block", "attn2_to_out_0"),
        ("lora_unet_output_blocks_11_0_in_layers_2", "output_blocks.11", "in_layers_2"),
        ("lora_unet_input_blocks_4_1_proj_in", "input_blocks.4", "proj_in"),
        ("lora_te2_text_model_encoder_layers_31_mlp_fc1", "te2 layer 31", "mlp_fc1"),
        ("lora_transformer_blocks_12_attn_to_q", "transformer_blocks.12", "attn_to_q"),
        ("lora_vit_encoder_layer_7_attention_query", "vit_encoder_layer.7", "attention_query"),
        ("lora_head", "head", "head"),
    ],
)
def test_blocks_and_kinds_follow_from_the_name(name, block, kind):
    assert (block_of(name), kind_of(name)) == (block, kind)


def png_size(path):
    """Returns a PNG's width and height, having checked its chunks."""
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    place, size = 8, None
    while place < len(content):
        length, kind = struct.unpack(">I4s", content[place : place + 8])
        body = content[place + 4 : place + 8 + length]
        assert zlib.crc32(body) == struct.unpack(">I", content[place + 8 + length : place + 12 + length])[0]
        size = struct.unpack(">II", body[4:12]) if kind == b"IHDR" else size
        place += 12 + length
    return size


@pytest.mark.parametrize("wavelet", ["db2", "identity"])
def test_the_picture_is_a_whole_png(tmp_path, make_adapter, wavelet):
    plot(make_adapter(SHAPES, wavelet=wavelet), tmp_path / "a.png")
    width, height = png_size(tmp_path / "a.png")
    assert width > 1000
    assert height > 600
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


def test_the_picture_of_a_single_layer_of_zeros(tmp_path):
    layer = Layer(torch.zeros(2), torch.tensor([0, 3], dtype=torch.int32), (4, 4))
    plot(Adapter({"lora_a": layer}), tmp_path / "a.png", layers=["lora_a"])
    assert png_size(tmp_path / "a.png")


def test_a_picture_of_layers_that_are_not_there_is_refused(tmp_path, make_adapter):
    adapter = make_adapter(SHAPES)
    with pytest.raises(WaveFTError, match=rf"Nearest names: .*{BLOCK}attn1_to_q"):
        plot(adapter, tmp_path / "a.png", layers=[f"{BLOCK}attn1_to_x"])
    with pytest.raises(WaveFTError, match="at most 3"):
        plot(adapter, tmp_path / "a.png", layers=list(SHAPES)[:4])
    assert not list(tmp_path.iterdir())


def test_a_long_list_says_where_the_rest_is():
    from waveft_core.cli.report import as_text

    held = Layer(torch.ones(1), torch.zeros(1, dtype=torch.int32), (4, 4))
    told = summarize(Adapter({f"lora_te2_text_model_encoder_layers_{number}_x": held for number in range(50)}))
    assert "... and 10 more (--json lists all)" in as_text(told)
    assert "... and 10 more\n" in as_text(told, rest="")
