"""The templates in the real ComfyUI: made of their prompts and its own node list, and run, small, as they are."""

import json
from pathlib import Path

import pytest
from PIL import Image
from safetensors import safe_open

from tests.comfyui.weights import TEXT_SHAPES, attention_shapes, attention_weights, largest_error, write_adapter
from tools.make_workflows import as_text, read
from waveft_core import load

pytestmark = pytest.mark.comfyui

FOLDER = Path(__file__).parents[2] / "workflows"
PROMPTS = sorted((FOLDER / "api").glob("*.json"))
SMALL = {"width": 64, "height": 64, "steps": 2}
TEXT_KEYS = (  # of TEXT_SHAPES, in a checkpoint
    "0.transformer.text_model.encoder.layers.0.self_attn.q_proj",
    "0.transformer.text_model.encoder.layers.11.mlp.fc1",
    "1.model.transformer.resblocks.31.attn.out_proj",
)


@pytest.fixture(scope="module")
def server(serve, checkpoint, tmp_path_factory):
    """What the templates name: a base, its fine-tune (another draw), and two adapters, one with text-encoder layers."""
    base, folder = checkpoint("micro", clip=True), tmp_path_factory.mktemp("adapters")
    shapes = attention_shapes(base)
    models = {
        "checkpoints": {
            "sd_xl_base_1.0.safetensors": base,
            "fine_tuned.safetensors": checkpoint("micro", clip=True, seed=1),
        },
        "waveft": {
            "waveft.safetensors": write_adapter(folder / "waveft.safetensors", {**shapes, **TEXT_SHAPES}, seed=1),
            "style.safetensors": write_adapter(folder / "style.safetensors", shapes, seed=2),
        },
    }
    with serve(models, flags=["--fp32-unet"]) as server:
        server.checkpoint, server.adapters = base, folder
        yield server


@pytest.fixture
def ran(server):
    """Returns a function from a template's name to what it gave, run with small pictures and few steps."""

    def run(name):
        prompt = json.loads((FOLDER / "api" / f"{name}.json").read_text(encoding="utf-8"))
        for node in prompt.values():
            node["inputs"] |= {key: value for key, value in SMALL.items() if key in node["inputs"]}
        return server.run(prompt)

    return run


def text(done, node):
    return done.outputs[node]["text"][0]


def adapted_weights(checkpoint):
    """Returns {layer: weight} of the layers that waveft.safetensors holds."""
    with safe_open(checkpoint, framework="pt") as file:
        texts = [file.get_tensor(f"conditioner.embedders.{key}.weight") for key in TEXT_KEYS]
    return attention_weights(checkpoint) | dict(zip(TEXT_SHAPES, texts, strict=True))


def picture_size(done, node):
    (path,) = done.files[node]
    with Image.open(path) as picture:
        return picture.size


@pytest.mark.parametrize("path", PROMPTS, ids=lambda path: path.stem)
def test_a_template_is_what_the_tool_makes(server, path):
    """If this fails: `python -m tools.make_workflows URL`, with the URL of a running ComfyUI."""
    shipped = (FOLDER / path.name).read_text(encoding="utf-8")
    made = read(path, server.nodes())
    for node, known in zip(made["nodes"], json.loads(shipped)["nodes"], strict=True):
        # a newer ComfyUI's own nodes may have gained outputs at their end, which a graph may leave out
        if not node["type"].startswith("WaveFT") and not any(
            out["links"] for out in node["outputs"][len(known["outputs"]) :]
        ):
            del node["outputs"][len(known["outputs"]) :]
    assert as_text(made) == shipped


def test_comfyui_lists_and_serves_them(server):
    (pack,) = (listed for listed in server.get("/workflow_templates").values() if "waveft_sdxl" in listed)
    assert sorted(pack) == [path.stem for path in PROMPTS]
    for name in pack:
        assert server.get(f"/api/workflow_templates/waveft/{name}.json")["version"] == 0.4


def test_load_and_generate(ran):
    done = ran("waveft_sdxl")
    assert text(done, "9").startswith("91/91 layers of waveft.safetensors")
    assert picture_size(done, "8") == (64, 64)


def test_a_grid_holds_a_picture_for_each_strength(ran):
    done = ran("waveft_stack_grid")
    assert "88/88 layers of style.safetensors" in text(done, "4")
    width, height = picture_size(done, "13")
    assert width >= 5 * 64
    assert height > 64  # labels below


def test_a_schedule_draws(ran):
    assert picture_size(ran("waveft_schedule"), "12") == (64, 64)


def test_what_is_combined_is_saved(ran, server):
    done = ran("waveft_combine_save")
    assert "88 layers" in text(done, "5")
    assert "91 layers" in text(done, "6")
    (path,) = (server.base / "output/waveft").glob("combined_*.safetensors")
    saved = load(path)
    whole, style = (load(server.adapters / f"{name}.safetensors") for name in ("waveft", "style"))
    assert set(saved.layers) == set(whole.layers)
    for layer in style.layers:
        factor = 0.35 if "_attn1_" in layer else 0.7
        expected = whole.delta(layer) + factor * style.delta(layer)
        assert (saved.delta(layer) - expected).abs().max() < 1e-6 * expected.abs().max(), layer
    assert done.files["7"]  # the picture in the node


def test_what_is_extracted_is_saved_and_applied(ran, server):
    done = ran("waveft_extract")
    (path,) = (server.base / "output/waveft").glob("extracted_*.safetensors")
    saved = load(path)
    assert set(saved.layers) == set(attention_shapes(server.checkpoint))
    assert all(len(layer.values) == 2592 for layer in saved.layers.values())
    assert "88 layers" in text(done, "4")
    assert picture_size(done, "13") == picture_size(done, "16") == (64, 64)


def test_a_baked_checkpoint_holds_the_sum(ran, server):
    ran("waveft_bake")
    (path,) = (server.base / "output/checkpoints").glob("waveft_baked_*.safetensors")
    baked, plain = adapted_weights(path), adapted_weights(server.checkpoint)
    plain = {layer: weight.to(baked[layer].dtype) for layer, weight in plain.items()}
    largest_error(baked, plain, [(server.adapters / "waveft.safetensors", 1.0)])
    path.unlink()  # gigabytes
