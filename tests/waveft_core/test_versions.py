import re
from pathlib import Path

import pytest
import torch

from waveft_core import Spec, WaveFTError, attach
from waveft_core.versions import OLDEST_TO_TRAIN, check_torch_trains

ROOT = Path(__file__).resolve().parents[2]


def _bound(lines):
    return tuple(map(int, re.match(r"torch>=([\d.]+)", lines[0])[1].split(".")))


def test_the_bounds_are_those_of_pyproject():
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert _bound(project["optional-dependencies"]["train"]) == OLDEST_TO_TRAIN
    assert _bound(project["dependencies"]) == (2, 1) < OLDEST_TO_TRAIN


@pytest.mark.parametrize("version", ["2.1.2+cu121", "2.7.1", "1.13.0a0+git123"])
def test_an_older_torch_is_refused_in_words(version):
    with pytest.raises(WaveFTError, match=rf"training: expected torch 2.8 or newer, got {re.escape(version)}, .*start"):
        check_torch_trains(version)


@pytest.mark.parametrize("version", ["2.8.0", "2.10.0+cpu", "3.0.0.dev20270101"])
def test_a_newer_one_trains(version):
    check_torch_trains(version)


def test_it_is_asked_before_anything_changes(monkeypatch):
    monkeypatch.setattr("waveft_core.versions.OLDEST_TO_TRAIN", (99, 0))
    model = torch.nn.Sequential(torch.nn.Linear(4, 4))
    before = model[0].weight.requires_grad
    with pytest.raises(WaveFTError, match=r"training: expected torch 99\.0"):
        attach(model, Spec(coefficients=2, targets=("0",)))
    assert model[0].weight.requires_grad == before
    assert not model[0]._forward_hooks


def test_what_a_compiled_graph_needs_is_registered_where_torch_can():
    # an older torch lacks the function itself; the core must import there all the same
    assert hasattr(torch.ops.waveft, "coefficient_gradient") == hasattr(torch.library, "custom_op")
