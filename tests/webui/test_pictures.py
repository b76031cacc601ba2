"""Pictures of the real UI by its API, and the weights that lie in its model after each."""

import os

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from waveft_core import Adapter, Layer, save
from waveft_core.format.hub import hub_metadata

pytestmark = pytest.mark.webui


@pytest.fixture(scope="module")
def plain(webui):
    """A picture without an adapter, and the weights then."""
    return webui.draw("a dog"), webui.weights()


@pytest.fixture
def write(webui, plain):
    """write(name, seed, shapes) -> an adapter in the UI's folder, gone afterwards."""
    written = []

    def make(name, seed=0, shapes=None):
        draw = np.random.default_rng(seed)
        layers = {}
        for layer, shape in (shapes or {layer: tuple(held.shape) for layer, held in plain[1].items()}).items():
            places = np.sort(draw.choice(shape[0] * shape[1], 64, replace=False)).astype(np.int32)
            layers[layer] = Layer(
                torch.from_numpy(draw.normal(size=64) * 0.02).float(), torch.from_numpy(places), tuple(shape)
            )
        said = {"ss_base_model_version": "sdxl_base_v1-0", "ss_output_name": name}
        adapter = Adapter(layers, "db1", scaling=25.0, metadata=said)
        path = webui.loras / f"{name}.safetensors"
        save(adapter, path, hub_metadata(adapter))
        written.append(path)
        return adapter, path

    yield make
    for path in written:
        path.unlink(missing_ok=True)


def merged(base, adapter, unet, te):
    found = {}
    for layer, weight in base.items():
        found[layer] = weight.clone()
        if layer in adapter.layers:
            adapter.add_(found[layer], layer, te if layer.startswith("lora_te") else unet)
    return found


def differing(first, second):
    return [layer for layer in first if not torch.equal(first[layer], second[layer])]


def test_all_layers_are_merged_exactly_named_in_the_infotext_and_taken_out_again(webui, plain, write):
    (picture, base), (dog, path) = plain, write("waveft-dog")
    assert len(base) >= 560
    drawn = webui.draw("a dog <lora:waveft-dog:0.8>")
    assert differing(merged(base, dog, 0.8, 0.8), webui.weights()) == []
    assert drawn.pixels != picture.pixels
    assert "<lora:waveft-dog:0.8>" in drawn.info and f"waveft-dog: {_hash(path)}" in drawn.info
    assert webui.call("/sdapi/v1/png-info", {"image": drawn.png})["info"] == drawn.info
    again = webui.draw("a dog")
    assert again.pixels == picture.pixels
    assert differing(base, webui.weights()) == []


def test_the_same_update_as_full_differences_gives_the_same_picture(webui, plain, write):
    dog, path = write("waveft-dog")
    diff = path.with_name("waveft-dog-diff.safetensors")
    save_file({f"{layer}.diff": dog.delta(layer).contiguous() for layer in dog.layers}, str(diff))
    try:
        assert webui.draw("a dog <lora:waveft-dog:1>").pixels == webui.draw("a dog <lora:waveft-dog-diff:1>").pixels
    finally:
        diff.unlink()


def test_strengths_apart_multipliers_and_a_file_that_is_written_anew(webui, plain, write):
    _, base = plain
    dog, _ = write("waveft-dog")
    webui.draw("a dog <lora:waveft-dog:te=0.5:unet=1.5>")
    assert differing(merged(base, dog, 1.5, 0.5), webui.weights()) == []
    cat, path = write("waveft-dog", seed=7)
    later = path.stat().st_mtime_ns + 10**9
    os.utime(path, ns=(later, later))
    webui.draw("a dog <lora:waveft-dog:te=0.5:unet=1.5>")
    assert differing(merged(base, cat, 1.5, 0.5), webui.weights()) == []
    webui.draw("a dog <lora:waveft-dog:te=0.5:unet=1.5:attn2=0>")
    left = {layer: held for layer, held in cat.layers.items() if "_attn2_" not in layer}
    kept = merged(base, Adapter(left, "db1", scaling=25.0), 1.5, 0.5)
    assert differing(kept, webui.weights()) == []


def test_what_does_not_fit_changes_nothing_and_is_said(webui, plain, write):
    picture, base = plain
    shapes = {layer: tuple(held.shape) for layer, held in base.items()}
    last = "lora_unet_output_blocks_5_1_transformer_blocks_1_attn2_to_v"
    write("waveft-wrong", shapes={**shapes, last: (64, 64)})
    drawn = webui.draw("a dog <lora:waveft-wrong:1>")
    assert drawn.pixels == picture.pixels and "waveft-wrong: " not in drawn.info.splitlines()[-1]
    assert differing(base, webui.weights()) == []
    assert webui.draw("a dog").pixels == picture.pixels


def _hash(path):
    from waveft_core import load

    return load(path).metadata["sshs_model_hash"][:12]
