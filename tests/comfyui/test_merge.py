"""The weights that ComfyUI really merged, against float64 and PyWavelets."""

from pathlib import Path

import pytest
import torch

from tests.comfyui.graphs import Graph, loaded, run
from tests.comfyui.weights import (
    assert_same,
    attention_shapes,
    attention_weights,
    largest_error,
    oracle,
    write_adapter,
)
from waveft_core import load
from waveft_core.interop.diff import write_diff
from waveft_core.toolbox.checkpoint import merge_files

pytestmark = pytest.mark.comfyui

LAYER_COUNT = {"micro": 88, "narrow": 560}
FLAGS = {torch.float32: "--fp32-unet", torch.bfloat16: "--bf16-unet", torch.float16: "--fp16-unet"}


@pytest.mark.parametrize("dtype", list(FLAGS), ids=str)
def test_every_layer_that_comfyui_merged_is_w_plus_strength_dw(serve, checkpoint, tmp_path, dtype):
    files = {arch: tmp_path / f"{arch}_adapter.safetensors" for arch in LAYER_COUNT}
    for arch, path in files.items():
        write_adapter(path, attention_shapes(checkpoint(arch)), wavelet="db1" if arch == "narrow" else "db2")
    models = {
        "checkpoints": {f"{arch}.safetensors": checkpoint(arch) for arch in files},
        "waveft": {path.name: path for path in files.values()},
    }
    with serve(models, packs={"ComfyUI-WaveFT.1": Path(__file__).parents[2]}, flags=[FLAGS[dtype]]) as server:
        for arch, path in files.items():
            plain = run(server, loaded(f"{arch}.safetensors", {path.name: 0.0}, sample=True))
            assert_same(plain.weights, {k: w.to(dtype) for k, w in attention_weights(checkpoint(arch)).items()})
            for strength in (1.0, -0.7):
                merged = run(server, loaded(f"{arch}.safetensors", {path.name: strength}, sample=True))
                assert next(iter(merged.weights.values())).dtype == dtype
                error = largest_error(merged.weights, plain.weights, [(path, strength)])
                print(f"\n{arch} {dtype} strength {strength}: largest error {error:.2e}", end="")
                count = LAYER_COUNT[arch]
                assert merged.texts["w0 report"].startswith(f"{count}/{count} layers of {path.name}")
                assert bool(torch.isfinite(merged.latent).all())
                assert not torch.equal(merged.latent, plain.latent)


def test_two_loaders_add_up_in_any_order_and_leave_the_base_as_it_was(micro):
    both = {"a.safetensors": 0.5, "b.safetensors": -1.5}
    merged = run(micro, loaded("micro.safetensors", both))
    changes = [(micro.adapters / name, strength) for name, strength in both.items()]
    print(f"\ntwo loaders: largest error {largest_error(merged.weights, micro.unpatched, changes):.2e}", end="")
    assert merged.texts["w0 report"].startswith("88/88") and merged.texts["w1 report"].startswith("88/88")
    turned = run(micro, loaded("micro.safetensors", dict(reversed(both.items()))))
    for layer, weight in merged.weights.items():
        torch.testing.assert_close(turned.weights[layer], weight, rtol=1e-6, atol=1e-6)
    assert_same(run(micro, loaded("micro.safetensors", {"a.safetensors": 0.0})).weights, micro.unpatched)


def test_opposite_strengths_cancel(micro):
    graph = Graph()
    model = graph.checkpoint("micro.safetensors")[0]
    graph.dump(graph.waveft(graph.waveft(model, "a.safetensors", 0.8), "a.safetensors", -0.8))
    for layer, weight in run(micro, graph).weights.items():
        torch.testing.assert_close(weight, micro.unpatched[layer], rtol=1e-6, atol=1e-6)


def test_a_retrained_file_of_the_same_name_is_read_again(micro):
    graph, path = loaded("micro.safetensors", {"b.safetensors": 1.0}), micro.adapters / "b.safetensors"
    before = path.read_bytes()
    largest_error(run(micro, graph).weights, micro.unpatched, [(path, 1.0)])
    assert "w0" in run(micro, graph).done.cached  # unchanged: not run again
    write_adapter(path, {layer: tuple(weight.shape) for layer, weight in micro.unpatched.items()}, seed=77)
    largest_error(run(micro, graph).weights, micro.unpatched, [(path, 1.0)])
    path.write_bytes(before)


@pytest.mark.parametrize("kind", ["ModelMergeSimple", "ModelMergeSubtract", "ModelMergeAdd"])
def test_model_merging_nodes_see_the_adapter(micro, kind):
    graph, file = Graph(), micro.adapters / "a.safetensors"
    model = graph.checkpoint("micro.safetensors")[0]
    patched = graph.waveft(model, "a.safetensors")
    extra = {"ModelMergeSimple": {"ratio": 0.25}, "ModelMergeSubtract": {"multiplier": 1.0}, "ModelMergeAdd": {}}[kind]
    merged = [graph.add(kind, model1=patched, model2=model, **extra), 0]
    graph.dump(merged)
    expected = {  # of W and dW
        "ModelMergeSimple": lambda weight, delta: weight + 0.25 * delta,
        "ModelMergeSubtract": lambda weight, delta: delta,
        "ModelMergeAdd": lambda weight, delta: 2 * weight + delta,
    }[kind]
    deltas = {layer: delta for layer, delta, _ in oracle(file)}
    for layer, weight in run(micro, graph).weights.items():
        wanted = expected(micro.unpatched[layer].double(), deltas[layer])
        torch.testing.assert_close(weight.double(), wanted, rtol=0, atol=1e-6)


def test_saving_a_checkpoint_bakes_the_adapters_in(micro):
    graph, files = Graph(), {"a.safetensors": 1.0, "b.safetensors": -0.5}
    model = graph.checkpoint("micro.safetensors")[0]
    for name, strength in files.items():
        model = graph.waveft(model, name, strength)
    graph.add("ModelSave", model=model, filename_prefix="baked")
    run(micro, graph)
    (baked,) = Path(micro.base, "output").glob("baked*.safetensors")
    changes = [(micro.adapters / name, strength) for name, strength in files.items()]
    largest_error(attention_weights(baked), micro.unpatched, changes)


def test_comfyuis_own_lora_loader_applies_our_diff_file(serve, checkpoint, adapters, tmp_path):
    """W + strength * dW to fp16's rounding of dW, in a UI that knows nothing of us."""
    write_diff(load(adapters / "a.safetensors"), tmp_path / "diff.safetensors")
    models = {
        "checkpoints": {"micro.safetensors": checkpoint("micro")},
        "loras": {"diff.safetensors": tmp_path / "diff.safetensors"},
    }
    with serve(models, flags=["--fp32-unet"]) as server:
        graph = Graph()
        model = graph.checkpoint("micro.safetensors")[0]
        graph.dump(graph.lora(model, "diff.safetensors", 0.8))
        merged = run(server, graph).weights
    half, single = torch.finfo(torch.float16), torch.finfo(torch.float32).eps
    base = attention_weights(checkpoint("micro"))
    for layer, delta, _ in oracle(adapters / "a.safetensors"):
        before = base[layer].double()
        error = (merged[layer].double() - (before + 0.8 * delta)).abs()
        allowed = 0.8 * (half.eps / 2 * delta.abs() + half.smallest_normal * half.eps)
        assert bool((error <= allowed + 4 * single * (before.abs() + delta.abs())).all()), layer
        assert not torch.equal(merged[layer], base[layer].float())


def test_a_checkpoint_that_adapters_were_merged_into_is_what_two_loaders_give(serve, checkpoint, adapters, tmp_path):
    names, merged = {"a.safetensors": 1.0, "b.safetensors": -0.5}, tmp_path / "merged.safetensors"
    merge_files(checkpoint("micro"), [(load(adapters / name), strength) for name, strength in names.items()], merged)
    models = {
        "checkpoints": {"micro.safetensors": checkpoint("micro"), "merged.safetensors": merged},
        "waveft": {name: adapters / name for name in names},
    }
    with serve(models, flags=["--fp32-unet"]) as server:
        baked = run(server, loaded("merged.safetensors", {})).weights
        both = run(server, loaded("micro.safetensors", names)).weights
    stored, source = attention_weights(merged), attention_weights(checkpoint("micro"))
    changes = [(adapters / name, strength) for name, strength in names.items()]
    assert largest_error(stored, source, changes) < 0.01
    for layer, weight in baked.items():
        assert torch.equal(weight, stored[layer].float()), layer
        info = torch.finfo(stored[layer].dtype)
        assert bool(((both[layer] - weight).abs() <= info.eps * weight.abs() + info.smallest_normal).all()), layer
