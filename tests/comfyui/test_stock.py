"""ComfyUI's own LoRA nodes on our files: our loader's weights, and no harm from a file that does not fit."""

import contextlib

import pytest

from tests.comfyui.graphs import Graph, loaded, plain, run
from tests.comfyui.server import Failed
from tests.comfyui.weights import assert_same, largest_error

pytestmark = pytest.mark.comfyui


@pytest.fixture(scope="module")
def server(serve, checkpoint, adapters):
    """The adapters in both folders, in a ComfyUI that has loaded nothing else."""
    files = {path.name: path for path in adapters.iterdir()}
    models = {"checkpoints": {"micro.safetensors": checkpoint("micro")}, "waveft": files, "loras": files}
    with serve(models, flags=["--fp32-unet"]) as server:
        server.unpatched = run(server, plain("micro.safetensors")).weights
        yield server


def stock(name, strength=1.0):
    graph = Graph()
    graph.dump(graph.lora(graph.checkpoint("micro.safetensors")[0], name, strength))
    return graph


def test_the_stock_loader_s_weights_are_our_loader_s_bit_for_bit(server, adapters):
    ours = run(server, loaded("micro.safetensors", {"a.safetensors": 0.7})).weights
    theirs = run(server, stock("a.safetensors", 0.7)).weights
    assert_same(theirs, ours)
    largest_error(theirs, server.unpatched, [(adapters / "a.safetensors", 0.7)])


@pytest.mark.parametrize("name", ["wide.safetensors", "sdxl.safetensors", "damaged.safetensors"])
def test_a_file_that_does_not_fit_leaves_the_next_prompt_s_base_as_it_was(server, adapters, name):
    """Whether ComfyUI skips the file or stops half-way: which weights it has changed by then must not matter."""
    with contextlib.suppress(Failed):
        run(server, stock(name))
    assert_same(run(server, plain("micro.safetensors")).weights, server.unpatched)
    merged = run(server, loaded("micro.safetensors", {"a.safetensors": 1.0})).weights
    largest_error(merged, server.unpatched, [(adapters / "a.safetensors", 1.0)])
