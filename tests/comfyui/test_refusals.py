"""What the loader refuses in the real ComfyUI, and that a refusal or a cancelled prompt leaves no trace."""

import time

import pytest
import torch
from safetensors.torch import save_file

from tests.comfyui.graphs import Graph, loaded, plain, run
from tests.comfyui.server import Failed, Interrupted
from tests.comfyui.weights import assert_same, attention_shapes, largest_error, write_adapter

pytestmark = pytest.mark.comfyui


@pytest.fixture(scope="module")
def micro(micro):
    save_file({"lora_unet_x.lora_up.weight": torch.zeros(2)}, micro.base / "models/waveft/lora.safetensors")
    return micro


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lora.safetensors", ["Custom validation failed", "lora.safetensors", "no WaveFT adapter"]),
        ("damaged.safetensors", ["Custom validation failed", "damaged.safetensors"]),
        ("gone.safetensors", ["gone.safetensors"]),  # newer versions of ComfyUI hold it to the list themselves
        ("sdxl.safetensors", ['adapter "sdxl.safetensors"', "does not have", "choose another"]),
        ("wide.safetensors", ['adapter "wide.safetensors"', "got [64, 64]", "choose another"]),
        ("text.safetensors", ["lora_te2_", "Connect `clip`, or set strength_clip to 0"]),
    ],
)
def test_a_wrong_file_stops_the_node_and_says_why(micro, name, words):
    with pytest.raises(Failed) as failed:
        run(micro, loaded("micro.safetensors", {name: 1.0}))
    for word in ["node w0 (WaveFTLoader)", *words]:
        assert word in str(failed.value)
    assert_same(run(micro, plain("micro.safetensors")).weights, micro.unpatched)


def test_naming_the_text_encoder_out_lets_the_file_through(micro):
    graph = Graph()
    graph.waveft(graph.checkpoint("micro.safetensors")[0], "text.safetensors", node="w0", strength_clip=0.0)
    assert run(micro, graph).texts["w0 report"].startswith("88/91 layers")


def test_a_strength_out_of_range_is_refused(micro):
    with pytest.raises(Failed, match="bigger than max"):
        run(micro, loaded("micro.safetensors", {"a.safetensors": 101.0}))


def test_an_interrupted_prompt_leaves_the_next_one_whole(micro):
    graph = Graph()
    graph.sample(graph.waveft(graph.checkpoint("micro.safetensors")[0], "a.safetensors"), steps=5000, seed=1)
    started = micro.start(graph.nodes)
    until = time.monotonic() + 60
    while "/5000" not in micro.log:  # the sampler's progress bar
        assert time.monotonic() < until
        time.sleep(0.05)
    micro.interrupt()
    with pytest.raises(Interrupted, match="KSampler"):
        micro.wait(started, timeout_s=60)
    merged = run(micro, loaded("micro.safetensors", {"a.safetensors": 0.5})).weights
    largest_error(merged, micro.unpatched, [(micro.adapters / "a.safetensors", 0.5)])
    assert_same(run(micro, plain("micro.safetensors")).weights, micro.unpatched)


def test_a_strength_at_which_half_precision_overflows_is_refused(serve, checkpoint, tmp_path):
    path = checkpoint("micro")
    large = write_adapter(tmp_path / "large.safetensors", attention_shapes(path), scaling=75000.0)
    models = {"checkpoints": {"micro.safetensors": path}, "waveft": {large.name: large}}
    with serve(models, flags=["--fp16-unet"]) as server:
        with pytest.raises(Failed, match=r"(?s)within torch.float16, got up to .* at strength 100"):
            run(server, loaded("micro.safetensors", {large.name: 100.0}))
        small = run(server, loaded("micro.safetensors", {large.name: 0.01})).weights
        assert all(bool(torch.isfinite(weight).all()) for weight in small.values())
