"""All of ComfyUI's ways to load a LoRA on our files: text encoders, the switch, and code that loads them itself."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.comfyui.graphs import Graph, run
from tests.comfyui.server import Failed
from tests.comfyui.weights import ATTENTION, assert_same, write_lora

pytestmark = pytest.mark.comfyui

PACK = Path(__file__).parents[2]
PATTERNS = f"{ATTENTION},*self_attn.*_proj.weight,*mlp.fc?.weight"


@pytest.fixture(scope="module")
def files(adapters, tmp_path_factory):
    """The adapters, and files that are almost some."""
    folder = tmp_path_factory.mktemp("almost")
    tensors = load_file(adapters / "a.safetensors")
    some = next(name for name in tensors if name.endswith(".waveft_indices"))
    layer = some.removesuffix(".waveft_indices")
    save_file({**tensors, f"{layer}.lora_up.weight": torch.zeros(8, 1)}, folder / "mixed.safetensors")
    save_file({name: t for name, t in tensors.items() if name != some}, folder / "incomplete.safetensors")
    save_file({name: t for name, t in tensors.items() if name != "waveft.header"}, folder / "headless.safetensors")
    return {path.name: path for path in [*adapters.iterdir(), *folder.iterdir()]}


@pytest.fixture(scope="module")
def models(checkpoint, files):
    return {"checkpoints": {"micro.safetensors": checkpoint("micro", clip=True)}, "waveft": files, "loras": files}


@pytest.fixture(scope="module")
def server(serve, models):
    with serve(models, flags=["--fp32-unet"]) as server:
        yield server


def merged(server, loader, name, **strengths):
    graph = Graph()
    model, clip, _ = graph.checkpoint("micro.safetensors")
    node = graph.add(loader, model=model, clip=clip, **{FILE[loader]: name}, **strengths)
    graph.dump([node, 0], [node, 1], patterns=PATTERNS)
    return run(server, graph).weights


FILE = {"LoraLoader": "lora_name", "WaveFTLoader": "adapter_name"}


def test_the_stock_loader_does_model_and_text_encoders_as_ours(server):
    strengths = {"strength_model": 0.7, "strength_clip": -0.4}
    ours = merged(server, "WaveFTLoader", "text.safetensors", **strengths)
    theirs = merged(server, "LoraLoader", "text.safetensors", **strengths)
    assert_same(theirs, ours)
    assert_same(
        merged(server, "LoraLoader", "text.safetensors", strength_model=0.0, strength_clip=-0.4),
        merged(server, "WaveFTLoader", "text.safetensors", strength_model=0.0, strength_clip=-0.4),
    )
    base = merged(server, "WaveFTLoader", "text.safetensors", strength_model=0.0, strength_clip=0.0)
    changed = [name for name, weight in ours.items() if not torch.equal(weight, base[name])]
    assert len(changed) == 91
    assert "lora key not loaded" not in server.log


def loaded_by_stock(name, strength=0.7):
    graph = Graph()
    graph.dump(graph.lora(graph.checkpoint("micro.safetensors")[0], name, strength))
    return graph


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mixed.safetensors", "lora_up.weight"),
        ("incomplete.safetensors", "waveft_indices"),
        ("headless.safetensors", "a tensor waveft.header, got none"),
    ],
)
def test_a_wrong_file_stops_the_stock_node(server, name, words):
    with pytest.raises(Failed, match=f"(?s)LoraLoaderModelOnly.*WaveFTError.*{words}"):
        run(server, loaded_by_stock(name))


def test_a_stock_loader_and_ours_add_up(server):
    both, graph = Graph(), Graph()
    for into, first in ((both, "lora"), (graph, "waveft")):
        model = into.checkpoint("micro.safetensors")[0]
        model = into.lora(model, "a.safetensors", 0.5) if first == "lora" else into.waveft(model, "a.safetensors", 0.5)
        into.dump(into.waveft(model, "b.safetensors", -1.0))
    assert_same(run(server, both).weights, run(server, graph).weights)


def test_the_switch_leaves_stock_nodes_as_they_are(serve, models):
    with serve(models, flags=["--fp32-unet"], environment={"WAVEFT_STOCK_LOADERS": "0"}) as server:
        off = run(server, loaded_by_stock("a.safetensors")).weights
        graph = Graph()
        graph.dump(graph.checkpoint("micro.safetensors")[0])
        assert_same(off, run(server, graph).weights)
        assert "lora key not loaded: waveft.header" in server.log


def test_code_that_loads_loras_itself(comfyui, checkpoint, adapters, tmp_path):
    """`load_lora_for_models` as other packs call it, what becomes of the tensors, and what it costs plain LoRAs."""
    (tmp_path / "models/waveft").mkdir(parents=True)
    shapes = {f"lora_unet_{number}": (8, 8) for number in range(4)}
    lora = write_lora(tmp_path / "lora.safetensors", shapes)
    said = comfyui.script(
        "in_process/stock_loaders.py", PACK, checkpoint("micro"), tmp_path / "models", adapters / "a.safetensors", lora
    )
    found = json.loads(said.splitlines()[-1])
    print(f"\n{found}", end="")
    assert found["kinds named WaveFTAdapter"] == 1  # with the pack loaded twice, under two names
    assert found["layers"] == 88 and found["not loaded"] == []
    assert found["same as ours"]
    assert found["read once"] and found["read anew when a tensor is exchanged"] and found["a removed layer stays out"]
    assert found["forgotten with the file"]
    assert found["us for each name of a plain LoRA"] < 5
