"""LPIPS: nothing between equal pictures, symmetric, and the reference packages' on random weights."""

import re
import sys
import types

import pytest
import torch

from trainer.embedders import lpips
from trainer.system.errors import UserError

CPU = torch.device("cpu")
WIDTHS = (64, 128, 256, 512, 512)


def random_backbone(seed=0):
    generator, held, channels = torch.Generator().manual_seed(seed), {}, 3
    for stage, width in zip(lpips.STAGES, WIDTHS, strict=True):
        for place in stage:
            held[f"features.{place}.weight"] = 0.05 * torch.randn(width, channels, 3, 3, generator=generator)
            held[f"features.{place}.bias"] = 0.1 * torch.randn(width, generator=generator)
            channels = width
    return held


def random_heads(seed=1):
    generator = torch.Generator().manual_seed(seed)
    return {
        f"lin{number}.model.1.weight": torch.rand(1, width, 1, 1, generator=generator)
        for number, width in enumerate(WIDTHS)
    }


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lpips")
    torch.save(random_backbone(), folder / "vgg16.pth")
    torch.save(random_heads(), folder / "vgg.pth")
    return folder / "vgg16.pth", folder / "vgg.pth"


@pytest.fixture(scope="module")
def measure(files):
    return lpips.load(*files, CPU)


def random_pictures(seed):
    return torch.rand(2, 3, 40, 48, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_equal_pictures_are_at_no_distance_and_it_is_symmetric(measure):
    first, second = random_pictures(0), random_pictures(1)
    assert measure(first, first).tolist() == [0.0, 0.0]
    torch.testing.assert_close(measure(first, second), measure(second, first))
    assert bool((measure(first, second) > 0).all())


def test_it_grows_with_what_is_added(measure):
    first, noise = random_pictures(0), random_pictures(1)
    little, much = (measure(first, (first + share * noise).clamp(-1, 1)) for share in (0.1, 0.5))
    assert bool((little < much).all())


def vgg16(**_):
    """What the packages take from torchvision, which need not be there: VGG16's convolutions in one row."""
    layers, channels = [], 3
    for number, (stage, width) in enumerate(zip(lpips.STAGES, WIDTHS, strict=True)):
        layers += [torch.nn.MaxPool2d(2)] if number else []
        for _ in stage:
            layers += [torch.nn.Conv2d(channels, width, 3, padding=1), torch.nn.ReLU(inplace=False)]
            channels = width
    made = torch.nn.Module()
    made.features = torch.nn.Sequential(*layers)
    return made


@pytest.fixture
def without_torchvision(monkeypatch):
    """Gives the packages a torchvision that has VGG16's shape alone."""
    package = types.ModuleType("torchvision")
    package.models = types.ModuleType("torchvision.models")
    package.models.vgg16 = vgg16
    package.models.VGG16_Weights = types.SimpleNamespace(IMAGENET1K_V1=None, DEFAULT=None)
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.models", package.models)


def in_place_of(their_names):
    """Returns our random weights by the names of a package's own module."""
    backbone, heads, made = random_backbone(), random_heads(), {}
    for key, value in their_names.items():
        if found := re.search(r"slice\d\.(\d+\.(?:weight|bias))$", key):
            made[key] = backbone[f"features.{found[1]}"]
        elif found := re.search(r"(?:lins\.|lin)(\d)\.model\.1\.weight$", key):
            made[key] = heads[f"lin{found[1]}.model.1.weight"]
        else:
            assert "scaling_layer" in key, key
            made[key] = value
    return made


def test_it_is_the_package_lpips_s(measure, without_torchvision):
    theirs = pytest.importorskip("lpips").LPIPS(net="vgg", pnet_rand=True, pretrained=False, verbose=False)
    theirs.load_state_dict(in_place_of(theirs.state_dict()))
    first, second = random_pictures(0), random_pictures(1)
    with torch.no_grad():
        expected = theirs(first, second).flatten()
    torch.testing.assert_close(measure(first, second), expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("which", "change", "expected"),
    [
        (0, lambda held: held.pop("features.28.bias"), r"got none of features\.28\.bias"),
        (1, lambda held: held.pop("lin4.model.1.weight"), "expected five heads"),
        (1, lambda held: held.update({"lin0.model.1.weight": torch.ones(1, 3, 1, 1)}), "expected five heads"),
    ],
)
def test_other_files_are_refused(files, tmp_path, which, change, expected):
    given = list(files)
    held = torch.load(given[which], weights_only=True)
    change(held)
    given[which] = tmp_path / "other.pth"
    torch.save(held, given[which])
    with pytest.raises(UserError, match=expected):
        lpips.load(*given, CPU)
