"""Files of the trainer's other methods in the real ComfyUI: its own loader merges what was trained, to the rounding."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests.comfyui.weights import attention_shapes
from trainer.job import networks
from trainer.methods import registry, tensorfile
from trainer.methods.tuning import Host

pytestmark = pytest.mark.comfyui

SETTINGS = {
    "lora": {"network_dim": 2, "network_alpha": 3.0},
    "loha": {"network_dim": 2},
    "lokr": {},  # both matrices whole, where loaders ignore alpha
    "lokr of products": {"network_dim": 2, "network_alpha": 5.0},
    "adalora": {"init_r": 3, "target_r": 3},
    "vera": {"network_dim": 20},
    "fourierft": {"n_frequency": 500},
    "bitfit": {},
}
DIFF_ONLY = ("vera", "fourierft")  # whose own files no UI knows


def tree(shapes):
    """Returns linear layers at the paths of the original checkpoint, which is where the names lead."""
    root = nn.Module()
    for name, (rows, columns) in shapes.items():
        *folders, last = path_of(name).split(".")
        place = root
        for folder in folders:
            if not hasattr(place, folder):
                place.add_module(folder, nn.Module())
            place = getattr(place, folder)
        place.add_module(last, nn.Linear(columns, rows, bias=name.endswith("to_out_0")))
    return root.requires_grad_(False)


def path_of(name):
    """Returns the path that a layer's name was made of: lora_unet_input_blocks_2_1_..._attn1_to_q."""
    inner = name.removeprefix("lora_unet_")
    for words in (
        "input_blocks",
        "output_blocks",
        "middle_block",
        "transformer_blocks",
        "to_q",
        "to_k",
        "to_v",
        "to_out",
    ):
        inner = inner.replace(words, words.replace("_", "-"))
    return inner.replace("_", ".").replace("-", "_")


@pytest.fixture(scope="module")
def judged(comfyui, checkpoint, tmp_path_factory):
    """What ComfyUI made of every file, by method."""
    pytest.importorskip("peft")
    folder, base = tmp_path_factory.mktemp("methods"), checkpoint("micro")
    model = tree(attention_shapes(base))
    for title, given in SETTINGS.items():
        name = title.partition(" ")[0]
        network = networks.METHODS[name](targets=["to_q", "to_k", "to_v", "to_out.0"], **given)
        tuning = registry.of(network).attach(Host({"unet": model}, False, 0, 9))
        draw = torch.Generator().manual_seed(1)
        state = tuning.state_dict()
        tuning.load_state_dict({key: 0.1 * torch.randn(held.shape, generator=draw) for key, held in state.items()})
        product, path = tuning.product(), folder / f"{title}.safetensors"
        if name in DIFF_ONLY:
            product.save_diff(path, torch.float32, {})
        else:
            product.save(path, torch.float32)
        with torch.no_grad():
            if name == "bitfit":
                gained = {f"{layer}.bias": held[0].detach() for layer, held in tuning.layers.items()}
            else:  # PEFT's own word for what its layers add
                gained = {f"{site.name}.weight": site.layer.get_delta_weight("default") for site in tuning.sites}
        save_file({key: held.contiguous() for key, held in gained.items()}, path.with_suffix(".expected"))
        tuning.detach()
    assert tensorfile.load(folder / "lora.safetensors")
    return json.loads(comfyui.script("in_process/methods.py", base, folder))


@pytest.mark.parametrize("title", SETTINGS)
def test_comfyui_merges_what_was_trained(judged, title):
    found = judged[title]
    assert found["not loaded"] == []
    assert found["weights"] == found["patched"] > 20
    assert found["gained"] > 1e-3
    eps = torch.finfo(torch.float32).eps
    assert found["error"] <= 16 * eps * max(1.0, found["gained"])  # a product's own rounding, then one of the weight's
