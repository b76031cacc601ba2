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


def merged(base, *parts):
    """Returns the weights with (adapter, UNet's strength, text encoders') in them: summed wide, rounded once."""
    found = {}
    for layer, weight in base.items():
        wide = weight.to(torch.float32, copy=True)  # `float()` of float32 is the base itself
        for adapter, unet, te in parts:
            if layer in adapter.layers:
                adapter.add_(wide, layer, te if layer.startswith("lora_te") else unet)
        found[layer] = wide.to(weight.dtype)
    return found


def differing(first, second):
    return [layer for layer in first if not torch.equal(first[layer], second[layer])]


def test_all_layers_are_merged_exactly_named_in_the_infotext_and_taken_out_again(webui, plain, write):
    (picture, base), (dog, path) = plain, write("waveft-dog")
    assert len(base) >= 560
    drawn = webui.draw("a dog <lora:waveft-dog:0.8>")
    assert differing(merged(base, (dog, 0.8, 0.8)), webui.weights()) == []
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
    assert differing(merged(base, (dog, 1.5, 0.5)), webui.weights()) == []
    cat, path = write("waveft-dog", seed=7)
    later = path.stat().st_mtime_ns + 10**9
    os.utime(path, ns=(later, later))
    webui.draw("a dog <lora:waveft-dog:te=0.5:unet=1.5>")
    assert differing(merged(base, (cat, 1.5, 0.5)), webui.weights()) == []
    webui.draw("a dog <lora:waveft-dog:te=0.5:unet=1.5:attn2=0>")
    left = {layer: held for layer, held in cat.layers.items() if "_attn2_" not in layer}
    kept = merged(base, (Adapter(left, "db1", scaling=25.0), 1.5, 0.5))
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


def test_several_adapters_are_summed_and_one_at_strength_0_is_none(webui, plain, write):
    picture, base = plain
    (dog, _), (cat, _) = write("waveft-dog"), write("waveft-cat", seed=7)
    webui.draw("a dog <lora:waveft-dog:0.5> <lora:waveft-cat:-0.7>")
    assert differing(merged(base, (dog, 0.5, 0.5), (cat, -0.7, -0.7)), webui.weights()) == []
    webui.draw("a dog <lora:waveft-dog:te=0:unet=0.5> <lora:waveft-cat:0>")
    assert differing(merged(base, (dog, 0.5, 0.0)), webui.weights()) == []
    assert webui.draw("a dog <lora:waveft-dog:0>").pixels == picture.pixels


def test_a_scheduled_prompt_and_a_batch_are_drawn_with_one_strength(webui, plain, write):
    _, base = plain
    dog, _ = write("waveft-dog")
    webui.draw("a [cat:dog:0.5] [red|blue] <lora:waveft-dog:0.5>", steps=2, batch_size=2, n_iter=2)
    assert differing(merged(base, (dog, 0.5, 0.5)), webui.weights()) == []


def test_the_axes_of_an_xyz_plot_draw_what_the_tags_would(webui, plain, write):
    picture, base = plain
    dog, _ = write("waveft-dog")
    script = "x/y/z plot"
    info = webui.call("/sdapi/v1/script-info")
    given = next(one for one in info if one["name"] == script and not one["is_img2img"])["args"]
    place = {one["label"]: number for number, one in reversed(list(enumerate(given)))}
    told = [one["value"] for one in given]
    axes = {"X": ("Strength", ["0.5", "1"]), "Y": ("Multipliers (dd=0 attn2=0.5)", ["attn2=0", "dd=0.5 aa=0"])}
    for axis, (title, values) in axes.items():
        told[place[f"{axis} type"]] = given[place[f"{axis} type"]]["choices"].index(f"[WaveFT] {title}")
        told[place[f"{axis} values"]] = ", ".join(values)
    told[place["Z type"]] = 0
    told[place["Draw legend"]], told[place["Include Sub Images"]] = False, True
    found, infotexts = webui.draw_all("a dog <lora:waveft-dog:0.8>", script_name=script, script_args=told)
    cells = [f"{0.8 * float(x):g}:{y.replace(' ', ':')}" for y in axes["Y"][1] for x in axes["X"][1]]
    drawn = [webui.draw(f"a dog <lora:waveft-dog:{cell}>").pixels for cell in cells]
    assert len(set(drawn)) == 4 and found[-4:] == drawn
    assert "WaveFT strength: 0.5, WaveFT multipliers: attn2=0" in infotexts[-4]
    assert "WaveFT strength" not in infotexts[-1] and "WaveFT multipliers: dd=0.5 aa=0" in infotexts[-1]
    assert webui.draw("a dog <lora:waveft-dog:0.8>").pixels not in drawn
    assert differing(merged(base, (dog, 0.8, 0.8)), webui.weights()) == []
    assert webui.draw("a dog").pixels == picture.pixels


def test_hires_fix_has_a_set_of_its_own(webui, plain, write):
    picture, base = plain
    (dog, _), (cat, _) = write("waveft-dog"), write("waveft-cat", seed=7)
    latent = [mode["name"] for mode in webui.call("/sdapi/v1/latent-upscale-modes")]  # Forge Neo has none
    more = {"enable_hr": True, "hr_scale": 2, "hr_second_pass_steps": 1, "hr_upscaler": [*latent, "None"][0]}
    more |= {"denoising_strength": 0.7, "hr_additional_modules": ["Use same choices"]}
    drawn = webui.draw("a dog <lora:waveft-dog:0.5>", **more, hr_prompt="a dog <lora:waveft-cat:1>")
    assert differing(merged(base, (cat, 1.0, 1.0)), webui.weights()) == []
    (lora,) = webui.checkout.glob("extensions-builtin/*/extra_networks_lora.py")
    told = [name for name in ("waveft-dog: ", "waveft-cat: ") if name in drawn.info]
    # Forge Classic's infotext names the last pass's LoRAs alone
    assert told == ["waveft-dog: ", "waveft-cat: "][0 if "is_hr_pass" in lora.read_text(encoding="utf-8") else 1 :]
    same = webui.draw("a dog <lora:waveft-dog:0.5>", **more, hr_prompt="a dog <lora:waveft-dog:0.5>")
    assert differing(merged(base, (dog, 0.5, 0.5)), webui.weights()) == []
    assert same.pixels != drawn.pixels
    assert webui.draw("a dog").pixels == picture.pixels


def test_a_truncated_file_and_one_that_is_none_change_nothing(webui, plain, write):
    picture, base = plain
    _, path = write("waveft-dog")
    whole = path.read_bytes()
    for held in (whole[: len(whole) // 2], whole[:4], b"", b"not safetensors at all" * 100):
        path.write_bytes(held)
        drawn = webui.draw("a dog <lora:waveft-dog:1>")
        assert drawn.pixels == picture.pixels
        assert differing(base, webui.weights()) == []
    path.write_bytes(whole)
    assert webui.draw("a dog <lora:waveft-dog:1>").pixels != picture.pixels
    assert webui.draw("a dog").pixels == picture.pixels


def test_a_lora_beside_ours_and_alone_is_the_uis_own(webui, plain, write):
    _, base = plain
    dog, path = write("waveft-dog")
    layer, weight = next((name, held) for name, held in base.items() if name.startswith("lora_unet"))
    draw = torch.Generator().manual_seed(0)
    down, up = (torch.randn(size, generator=draw) for size in ((1, weight.shape[1]), (weight.shape[0], 1)))
    lora = path.with_name("waveft-rank1.safetensors")
    save_file(
        {f"{layer}.lora_down.weight": down, f"{layer}.lora_up.weight": up, f"{layer}.alpha": torch.ones(())}, lora
    )
    try:
        webui.draw("a dog <lora:waveft-rank1:0.5> <lora:waveft-dog:0.5>")
        found, expected = webui.weights(), merged(base, (dog, 0.5, 0.5))
        assert differing({name: held for name, held in expected.items() if name != layer}, found) == []
        added = found[layer].double() - base[layer].double() - 0.5 * dog.delta(layer, torch.float64)
        assert torch.allclose(added, 0.5 * (up @ down).double(), atol=4e-3)
    finally:
        lora.unlink()


def test_a_renamed_file_is_found_again_by_its_hash(webui, plain, write):
    write("waveft-dog")
    drawn = webui.draw("a dog <lora:waveft-dog:0.8>")
    _, path = write("waveft-renamed")  # the same numbers
    path.with_name("waveft-dog.safetensors").unlink()
    webui.call("/sdapi/v1/refresh-loras", {})
    assert "waveft-dog" not in [held["name"] for held in webui.call("/sdapi/v1/loras")]
    pasted = webui.call("/sdapi/v1/png-info", {"image": drawn.png})["parameters"]
    assert "<lora:waveft-renamed:0.8>" in pasted["Prompt"]
    assert webui.draw(pasted["Prompt"]).pixels == drawn.pixels


def _hash(path):
    from waveft_core import load

    return load(path).metadata["sshs_model_hash"][:12]
