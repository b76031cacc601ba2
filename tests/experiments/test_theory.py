"""The experiments on the paper's theory: identities, an independent count, and the figures of single draws."""

import argparse
import json
import math

import numpy as np
import pytest
import torch

from experiments import bottleneck, coverage, energy, interference, interpolation, rank, running
from experiments.experiment import Cell
from waveft_core import Adapter, Layer


def small(**more):
    return argparse.Namespace(small=True, **more)


def places(shape, p, seed=0):
    return np.random.default_rng(seed).permutation(shape[0] * shape[1])[:p]


@pytest.mark.parametrize(("shape", "p"), [((30, 30), 90), ((20, 50), 60), ((50, 20), 70), ((12, 12), 144), ((9, 9), 5)])
def test_the_largest_matching_is_the_rank_of_almost_every_matrix(shape, p):
    for seed in range(10):
        held = places(shape, p, seed)
        matrix = np.zeros(shape[0] * shape[1])
        matrix[held] = np.random.default_rng(seed).standard_normal(p)
        assert rank.generic_rank(held, shape) == np.linalg.matrix_rank(matrix.reshape(shape))


def test_a_matching_by_hand():
    # rows 0 and 1 have column 0 alone, row 2 has columns 0 and 2: one of the first two is left out
    assert rank.generic_rank(np.array([0, 3, 6, 8]), (3, 3)) == 2
    assert rank.generic_rank(np.array([0, 1, 3]), (3, 3)) == 2, "a first choice that has to be taken back"


@pytest.mark.parametrize(("side", "expected"), [(640, (624, 639, 639)), (1280, (1009, 1244, 1274))])
def test_the_rank_at_whole_budgets_is_that_of_single_draws_by_singular_values(side, expected):
    for r, one in zip((1, 2, 3), expected, strict=True):
        ranks = [rank.generic_rank(places((side, side), rank.P * r, seed), (side, side)) for seed in range(8)]
        assert abs(np.mean(ranks) - one) <= 3 * max(1, np.std(ranks))


def test_full_at_rank_3_holds_only_nearly():
    ranks = [rank.generic_rank(places((1280, 1280), 3 * rank.P, seed), (1280, 1280)) for seed in range(5)]
    assert max(ranks) < 1280
    assert 3 * rank.P < 1280 * math.log(1280) < 4 * rank.P, "lemma 1's threshold lies between the two"


@pytest.mark.parametrize("basis", rank.BASES)
def test_the_update_has_its_coefficients_rank(basis):
    found = rank.dense(basis, (64, 96), 90, 3)
    assert found["update"] == found["coefficients"] == found["by_matching"] < 64


def test_lemma_2_is_checked_by_a_number_that_could_be_large():
    experiment = bottleneck.Bottleneck()
    found = experiment.measure(Cell("a", {"rank": 2, "shape": [24, 32], "seed": 0}))
    assert max(found["image_outside"], found["kernel_seen"]) < 1e-12
    assert found["sparse_outside"] > 0.5, "a sparse update does leave the image"
    assert found["sparse_rank"] > 10


def test_the_proofs_construction_is_exact():
    found = interpolation.construction(*interpolation.task(784, 5, 0))
    assert found["error"] < 1e-11
    assert found["rank"] == found["rank_of_z"] == 5
    assert found["outside"] == 0


def test_the_least_loss_falls_to_nothing_where_the_paper_has_it():
    inputs, outputs = (held.double().numpy() for held in interpolation.task(784, 5, 0))
    few, many = (interpolation.least(inputs, outputs, places((784, 784), p)) for p in (9800, 15_680))
    assert many["short_rows"] == 0
    assert many["least"] < 1e-20
    assert 1 <= few["short_rows"] <= 8
    assert 1e-5 < few["least"] < 5e-3, "the study's draw left 5.2e-4, with two such rows"


@pytest.mark.parametrize("wavelet", ["identity", "db1"])
def test_training_reaches_the_least_loss(wavelet, monkeypatch):
    monkeypatch.setattr(interpolation, "RATE", 0.03)  # so small a task bears thrice the paper's
    inputs, outputs = interpolation.task(16, 2, 0)
    found = interpolation.trained(inputs, outputs, wavelet, 128, 0, 300)
    assert found["loss"] < 1e-6
    short = interpolation.trained(inputs, outputs, wavelet, 30, 0, 400)
    assert short["loss"] == pytest.approx(short["least"], rel=1e-2)
    assert short["least"] > 1e-2


def test_table_1_by_formula_and_by_chance():
    table = coverage.by_chance(0.1, 256, 0)
    assert [round(table[name]["formula"], 3) for name in ("SHiRA", "WaveFT", "FourierFT")] == [0.1, 0.344, 1.0]
    for one in table.values():
        assert one["chance"] == pytest.approx(one["formula"], abs=0.01)


def test_coverage_by_hand():
    mask = np.zeros((4, 4), dtype=bool)
    mask[0, 3] = True
    assert coverage.covered(mask, "identity").sum() == 1
    held = coverage.covered(mask, "db1")
    assert held.sum() == 4, "the four bands of one cell"
    assert held[0, 1]
    assert held[2, 3]


@pytest.mark.parametrize("wavelet", ["db1", "db2"])
def test_a_coefficients_gradient_is_autograds(wavelet):
    layer = Layer(torch.arange(1.0, 97), torch.arange(96, dtype=torch.int32), (8, 12))
    gradient = torch.randn(8, 12, generator=torch.Generator().manual_seed(0))
    # dW is linear in C: the inner product of dW and dL/dW is that of C and dL/dC
    update = Adapter({"lora_a": layer}, wavelet, scaling=1.0).delta("lora_a")
    found = coverage.coefficients(gradient, wavelet)
    assert float((update * gradient).sum()) == pytest.approx(float((layer.values.view(8, 12) * found).sum()), rel=1e-4)


def test_how_sparse_a_gradient_is():
    one = torch.zeros(8, 8)
    one[2, 2] = 1.0
    assert coverage.share_for(one, 0.9) == 1 / 64
    even = torch.ones(8, 8)
    assert coverage.share_for(even, 0.5) == 0.5
    noise = torch.randn(500, 400, generator=torch.Generator().manual_seed(0))
    assert coverage.concentration(noise) == pytest.approx(list(coverage.EVEN.values()), abs=0.01)


def test_orthonormal_bases_change_no_gradients_size_and_fourier_as_peft_has_it_does():
    noise = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    found = interference.both(noise)
    assert found["rms_haar"] == pytest.approx(1, rel=1e-5)
    assert found["rms_fourier"] == pytest.approx(1, rel=1e-5)
    assert found["peft_haar"] == pytest.approx(25, rel=1e-5)
    assert found["peft_fourier"] == pytest.approx(64 / 64 / 2**0.5, rel=0.05)
    assert found["haar"] == pytest.approx(found["haar_shuffled"], rel=0.05)
    whole = interference.both(torch.ones(64, 64))
    assert whole["haar"] == pytest.approx(0.25), "one sign of four agrees"
    assert whole["fourier"] == pytest.approx(0, abs=1e-6)


def test_cancellation_by_hand():
    plane = torch.tensor([[1.0, -2.0], [3.0, 4.0]])
    expected = np.mean([abs(1 - 2 + 3 + 4), abs(1 + 2 + 3 - 4), abs(1 - 2 - 3 - 4), abs(1 + 2 - 3 + 4)]) / 10
    assert interference.cells(plane) == pytest.approx(expected)


def test_energy_is_shared_by_the_mean_of_a_bands_coefficients():
    values, indices = torch.tensor([3.0, 1.0, 1.0, 1.0, 1.0]), torch.tensor([0, 1, 2, 8, 10], dtype=torch.int32)
    found = energy.shares(Adapter({"lora_a": Layer(values, indices, (4, 4))}, scaling=2.0))
    # aa: 9 and 1; ad, da, dd: 1 each
    assert found["layers"]["lora_a"] == pytest.approx({"aa": 5 / 8, "ad": 1 / 8, "da": 1 / 8, "dd": 1 / 8})
    assert found["total"]["aa"] == pytest.approx(10 / 13)


class Counting(bottleneck.Bottleneck):
    """Lemma 2 on a small matrix, counting what is measured."""

    def __init__(self):
        self.measured = []

    def cells(self, options):
        return [Cell(f"rank{r}", {"rank": r, "shape": [8, 12], "seed": options.seed}) for r in (1, 2)]

    def measure(self, cell):
        self.measured.append(cell.name)
        return super().measure(cell)


def test_cells_are_measured_once_and_again_where_their_settings_changed(tmp_path):
    experiment = Counting()
    options = small(dry_run=False, page_only=False, out=tmp_path, seed=0)
    assert experiment.run(options) == 0
    record = json.loads((tmp_path / "cells" / "rank1.json").read_text())
    assert record["settings"]["seed"] == 0
    assert record["versions"]["torch"]
    assert (tmp_path / "bottleneck.png").read_bytes()[:4] == b"\x89PNG"
    before = (tmp_path / "summary.json").read_bytes()
    (tmp_path / "cells" / "rank2.json").unlink()
    assert experiment.run(options) == 0
    assert experiment.measured == ["rank1", "rank2", "rank2"]
    assert (tmp_path / "summary.json").read_bytes() == before
    options.seed = 1
    assert experiment.run(options) == 0
    assert experiment.measured[3:] == ["rank1", "rank2"]


def test_a_cell_that_fails_is_said_and_the_rest_is_measured(tmp_path, capsys):
    class Failing(Counting):
        def measure(self, cell):
            if cell.name == "rank1":
                raise running.UserError("no such thing")
            return super().measure(cell)

    assert Failing().run(small(dry_run=False, page_only=False, out=tmp_path, seed=0)) == 1
    assert "rank1: failed: no such thing" in capsys.readouterr().out
    assert not (tmp_path / "cells" / "rank1.json").exists()
    assert (tmp_path / "cells" / "rank2.json").exists()
