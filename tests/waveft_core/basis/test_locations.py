import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from waveft_core import WaveFTError
from waveft_core.basis.locations import draw, parse_locations


def uniform(layer="lora_x", shape=(8, 12), p=20, seed=777, wavelet="db1", mode="periodization"):
    return draw(f"uniform:{seed}", layer, wavelet, mode, shape, p)


@pytest.mark.parametrize(
    "case",
    [
        ("db1", "periodization", (8, 12), 96),
        ("db4", "zero", (5, 7), 12 * 14),
        ("identity", "periodization", (3, 5), 15),
        ("db2", "periodization", (4, 2, 1, 3), 24),
    ],
    ids=str,
)
def test_uniform_positions_are_distinct_ascending_and_within_the_plane(case):
    wavelet, mode, shape, count = case
    for p in (1, count // 2, count):
        got = draw("uniform:0", "lora_x", wavelet, mode, shape, p)
        assert (got.dtype, got.shape) == (torch.int32, (p,))
        assert (got[1:] > got[:-1]).all()
        assert got[0] >= 0
        assert got[-1] < count
    assert got.tolist() == list(range(count))


def test_uniform_depends_on_the_seed_and_the_layers_name_alone():
    first = uniform()
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 - the global state must not matter
    assert torch.equal(uniform(), first)
    assert not torch.equal(uniform(seed=778), first)
    assert not torch.equal(uniform(layer="lora_y"), first)


def test_uniform_is_the_same_in_another_process():
    code = (
        "from waveft_core.basis.locations import draw; "
        "print(draw('uniform:777', 'lora_x', 'db1', 'periodization', (8, 12), 20).tolist())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "5"},
    )
    assert done.stdout.strip() == str(uniform().tolist())


def test_uniform_draws_no_global_numbers():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    uniform()
    draw("peft:777", "lora_x", "db1", "periodization", (8, 12), 20)
    assert torch.equal(torch.rand(1), expected)


def test_uniform_covers_the_plane_evenly():
    drawn = torch.cat([uniform(f"lora_{k}", (64, 64), 400).long() for k in range(50)])
    quadrant = (drawn // 64 >= 32) * 2 + (drawn % 64 >= 32)
    shares = torch.bincount(quadrant, minlength=4) / drawn.numel()
    assert (shares - 0.25).abs().max() < 0.015  # five standard deviations of a share


def test_peft_positions_have_the_fingerprint_of_peft():
    shape = (1280, 1280)
    got = draw("peft:777", "lora_x", "db1", "periodization", shape, 2592)
    raw = torch.randperm(1280 * 1280, generator=torch.Generator().manual_seed(777))[:2592]
    assert raw[:6].tolist() == [325735, 1032654, 1000557, 315859, 1024227, 1486917]
    assert int(raw.sum()) == 2121785005
    row, column = raw // 1280, raw % 1280
    # PEFT feeds the right half of the columns to the row filter: its off-diagonal quadrants are ours swapped
    a, b = row >= 640, column >= 640
    swapped = (row - 640 * a.long() + 640 * b.long()) * 1280 + (column - 640 * b.long() + 640 * a.long())
    assert torch.equal(got.long(), swapped.sort().values)


def test_peft_positions_do_not_depend_on_the_layer_and_are_copies():
    first = draw("peft:1", "lora_x", "db1", "periodization", (4, 6), 5)
    second = draw("peft:1", "lora_y", "db1", "periodization", (4, 6), 5)
    assert torch.equal(first, second)
    first.zero_()
    assert second.any()


def test_peft_positions_of_identity_are_its_draw():
    got = draw("peft:5", "lora_x", "identity", "periodization", (3, 5), 7)
    raw = torch.randperm(15, generator=torch.Generator().manual_seed(5))[:7]
    assert torch.equal(got.long(), raw.sort().values)


@pytest.mark.parametrize("wavelet", ["db2", "sym4", "coif1"])
def test_peft_positions_need_zero_mode_for_longer_filters(wavelet):
    with pytest.raises(WaveFTError, match=r'expected wavelet "db1" under periodization.*mode = "zero"'):
        draw("peft:777", "lora_x", wavelet, "periodization", (8, 8), 4)
    assert draw("peft:777", "lora_x", wavelet, "zero", (8, 8), 4).numel() == 4


def test_peft_cannot_draw_more_than_its_window():
    with pytest.raises(WaveFTError, match=r"expected at most m\*n = 64 coefficients, got 65"):
        draw("peft:777", "lora_x", "db2", "zero", (8, 8), 65)


@pytest.mark.parametrize("kind", ["uniform", "peft"])
@pytest.mark.parametrize("p", [0, -1, 97])
def test_more_coefficients_than_the_plane_names_the_largest(kind, p):
    with pytest.raises(WaveFTError, match=rf'layer "lora_x": expected 1 to 96 coefficients.* got {p}\.'):
        draw(f"{kind}:777", "lora_x", "db1", "periodization", (8, 12), p)


@pytest.mark.parametrize(
    "locations",
    [
        "",
        "uniform",
        "uniform:",
        "uniform:-1",
        "uniform:1.5",
        "uniform:x",
        "uniform:²",
        f"uniform:{2**63}",
        "random:1",
        "peft: 1",
        None,
        777,
    ],
)
def test_other_words_for_locations_are_refused(locations):
    with pytest.raises(
        WaveFTError, match='locations: expected "uniform:SEED", "peft:SEED" or "gradient:SEED"'
    ) as caught:
        parse_locations(locations)
    assert repr(locations) in str(caught.value)


def test_a_seed_of_thousands_of_digits_is_refused_in_words():
    with pytest.raises(WaveFTError, match="locations: expected"):
        parse_locations("uniform:" + "9" * 5000)


def test_the_kind_and_the_seed_are_read():
    assert parse_locations("uniform:0") == ("uniform", 0)
    assert parse_locations("peft:9223372036854775807") == ("peft", 2**63 - 1)
