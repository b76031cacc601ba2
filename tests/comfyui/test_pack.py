"""What ComfyUI lists of the pack: nodes, template, folder, and the API that it is written for."""

import json
from pathlib import Path

import pytest

from tests.comfyui.weights import TEXT_SHAPES, attention_shapes, write_adapter

pytestmark = pytest.mark.comfyui

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server(serve, checkpoint, adapters, tmp_path_factory):
    """Text encoders too; a WaveFT file and a LoRA in both folders."""
    from safetensors.torch import save_file
    from torch import zeros

    lora = tmp_path_factory.mktemp("loras") / "lora.safetensors"
    save_file({"lora_unet_x.lora_up.weight": zeros(2)}, lora)
    path = checkpoint("micro", clip=True)
    whole = write_adapter(lora.with_name("whole.safetensors"), {**attention_shapes(path), **TEXT_SHAPES})
    models = {
        "checkpoints": {"sd_xl_base_1.0.safetensors": path},
        "waveft": {"a.safetensors": adapters / "a.safetensors"},
        "loras": {
            "shared.safetensors": adapters / "a.safetensors",
            "waveft.safetensors": whole,
            "lora.safetensors": lora,
        },
    }
    with serve(models) as server:
        yield server


def test_every_node_has_its_texts(server):
    ours = {name: node for name, node in server.nodes().items() if name.startswith("WaveFT")}
    assert "WaveFTLoader" in ours
    for name, node in ours.items():
        assert node["python_module"] == "custom_nodes.waveft"
        assert node["display_name"] and node["description"], name
        assert len(node["output_tooltips"]) == len(node["output"]), name
        assert all(node["output_tooltips"]), name
        seen = [node["input"].get(kind, {}) for kind in ("required", "optional")]  # and not the hidden ones
        inputs = [(at, *given) for of in seen for at, given in of.items()]
        assert all(options and options[0].get("tooltip") for _, _, *options in inputs), name


def test_the_loader_s_inputs_keep_their_order(server):
    # saved workflows hold widgets by position
    info = server.nodes()["WaveFTLoader"]
    assert info["display_name"] == "Load WaveFT"
    assert list(info["input"]["required"]) == ["model", "adapter_name", "strength_model"]
    assert list(info["input"]["optional"])[:2] == ["clip", "strength_clip"]
    assert info["output_name"][:3] == ["MODEL", "CLIP", "report"]


def test_the_loader_lists_adapters_only(server):
    options = server.nodes()["WaveFTLoader"]["input"]["required"]["adapter_name"][1]["options"]
    assert options == ["a.safetensors", "shared.safetensors", "waveft.safetensors"]
    assert "waveft" in server.get("/models")
    assert server.get("/models/waveft") == ["a.safetensors"]


def test_comfyui_lists_the_templates(server):
    listed = server.get("/workflow_templates")["waveft"]
    assert sorted(listed) == sorted(path.stem for path in (REPOSITORY / "workflows").glob("*.json"))
    assert server.get("/api/workflow_templates/waveft/waveft_sdxl.json")["version"] == 0.4


def test_the_template_runs_as_it_is(server):
    """Opened as the front end does (links by socket, widgets by position), with text encoders and a file for them."""
    graph = as_prompt(server.get("/api/workflow_templates/waveft/waveft_sdxl.json"), server.nodes())
    assert graph == json.loads((REPOSITORY / "workflows/api/waveft_sdxl.json").read_text(encoding="utf-8"))
    graph["5"]["inputs"].update(width=64, height=64)
    graph["6"]["inputs"].update(steps=1)
    done = server.run(graph)
    assert done.outputs["9"]["text"][0].startswith("91/91 layers of waveft.safetensors")
    assert any(path.suffix == ".png" and path.stat().st_size for paths in done.files.values() for path in paths)


def as_prompt(graph, info):
    """Returns a template as an API prompt: what the front end does when a workflow is queued."""
    sources = {link[0]: [str(link[1]), link[2]] for link in graph["links"]}
    found = {}
    for node in (node for node in graph["nodes"] if node["type"] in info):
        kinds = info[node["type"]]["input"]
        values, inputs = iter(node["widgets_values"]), {}
        for name, (kind, *options) in {**kinds["required"], **kinds.get("optional", {})}.items():
            if kind in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO") or isinstance(kind, list):
                inputs[name] = next(values)
                if options and options[0].get("control_after_generate"):
                    next(values)
        inputs |= {i["name"]: sources[i["link"]] for i in node["inputs"] if i["link"] is not None}
        assert not list(values), node["type"]
        found[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return found


def test_the_pinned_api_is_what_we_take_it_for(comfyui):
    found = json.loads(comfyui.script("in_process/api.py"))
    assert found["version"] == "0.0.2"
    # so the pinned name moves with ComfyUI: what these tests ran on is what is known to work
    assert found["same as latest"] == {"io": True, "ui": True, "ComfyExtension": True}


def test_the_pack_was_imported(server):
    assert server.import_s["waveft"] < 2  # how long exactly is the benchmark's to say
