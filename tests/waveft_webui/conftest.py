import os
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.waveft_webui.stand_in import SHAPES
from tests.waveft_webui.worlds import WORLDS
from waveft_core import Adapter, Layer, save
from waveft_core.format.hub import hub_metadata


@pytest.fixture
def write(tmp_path):
    """write(name, shapes, ...) -> an adapter, written into the UI's folder of LoRAs."""

    def make(name, shapes=SHAPES, seed=0, scaling=1.7, wavelet="db1", **metadata):
        draw = np.random.default_rng(seed)
        layers = {}
        for layer, shape in shapes.items():
            places = np.sort(draw.choice(shape[0] * shape[1], 6, replace=False)).astype(np.int32)
            values = torch.from_numpy(draw.normal(size=6)).float()
            layers[layer] = Layer(values, torch.from_numpy(places), tuple(shape))
        adapter = Adapter(
            layers, wavelet, scaling=scaling, metadata={"ss_base_model_version": "sdxl_base_v1-0", **metadata}
        )
        path = tmp_path / f"{name}.safetensors"
        save(adapter, path, hub_metadata(adapter))
        return adapter

    return make


# The same tests run on a real checkout's modules where tests/webui starts them so.
REAL_CHECKOUT = os.environ.get("WAVEFT_TESTS_ON_CHECKOUT")


def _worlds():
    if not REAL_CHECKOUT:
        return WORLDS
    from tests.webui.real import REAL, family_of

    title = family_of(Path(REAL_CHECKOUT))
    return {f"{title}, real": REAL[title]}


@pytest.fixture(params=list(_worlds()))
def world(request, monkeypatch, tmp_path):
    """A UI of each family in turn, without the extension."""
    return _worlds()[request.param](monkeypatch, tmp_path)


@pytest.fixture
def ui(world):
    """The same with the extension registered; pictures are `ui.draw("<lora:dog:0.8>")`."""
    world.register()
    return world
