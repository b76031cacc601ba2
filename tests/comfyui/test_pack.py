"""What ComfyUI lists of the pack: nodes, files, and the API that it is written for."""

import json

import pytest

pytestmark = pytest.mark.comfyui


@pytest.fixture(scope="module")
def server(serve, adapters, tmp_path_factory):
    """A WaveFT file in both folders, and a LoRA."""
    from safetensors.torch import save_file
    from torch import zeros

    lora = tmp_path_factory.mktemp("loras") / "lora.safetensors"
    save_file({"lora_unet_x.lora_up.weight": zeros(2)}, lora)
    models = {
        "waveft": {"a.safetensors": adapters / "a.safetensors"},
        "loras": {
            "shared.safetensors": adapters / "a.safetensors",
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
    assert options == ["a.safetensors", "shared.safetensors"]
    assert "waveft" in server.get("/models")
    assert server.get("/models/waveft") == ["a.safetensors"]


def test_the_pinned_api_is_what_we_take_it_for(comfyui):
    found = json.loads(comfyui.script("in_process/api.py"))
    assert found["version"] == "0.0.2"
    # so the pinned name moves with ComfyUI: what these tests ran on is what is known to work
    assert found["same as latest"] == {"io": True, "ui": True, "ComfyExtension": True}


def test_the_pack_was_imported(server):
    assert "waveft" in server.import_s  # how long it took is the benchmark's to say
