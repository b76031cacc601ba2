"""Extract, Save, Inspect and the image grid in the real ComfyUI."""

import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors import safe_open

from tests.comfyui.graphs import Graph, loaded, plain, run
from tests.comfyui.server import Failed
from tests.comfyui.weights import TEXT_SHAPES, assert_same, attention_shapes, oracle, write_adapter, write_lora
from waveft_core import load

pytestmark = pytest.mark.comfyui

EVERYTHING = 2**26  # coefficients: more than there are
WIDGETS = {
    "budget": "coefficients per layer",
    "coefficients": EVERYTHING,
    "energy": 0.9,
    "layers": "attention",
    "wavelet": "db1",
    "scaling": 25.0,
    "lora_name": "None",
}
SAVED = {"filename_prefix": "waveft/test", "dtype": "fp32", "note": ""}


@pytest.fixture(scope="module")
def server(serve, checkpoint, adapters, tmp_path_factory):
    """Two micro models, a LoRA and the adapters; `server.base_weights`, `server.tuned_weights`: as ComfyUI has them."""
    folder = shutil.copytree(adapters, tmp_path_factory.mktemp("extract") / "files")
    shapes = attention_shapes(checkpoint("micro"))
    models = {
        "checkpoints": {"base.safetensors": checkpoint("micro"), "tuned.safetensors": checkpoint("micro", seed=1)},
        "loras": {"style.safetensors": write_lora(folder / "style.safetensors", shapes, seed=3)},
        "waveft": {path.name: folder / path.name for path in adapters.iterdir()},
    }
    with serve(models, flags=["--fp32-unet"]) as server:
        server.base_weights = run(server, plain("base.safetensors")).weights
        server.tuned_weights = run(server, plain("tuned.safetensors")).weights
        yield server


def close(weights, others):
    assert set(weights) == set(others)
    for layer, weight in weights.items():
        torch.testing.assert_close(weight, others[layer], rtol=0, atol=3e-6)


def extracted(graph, base, tuned=None, **changed):
    """Adds Extract and views of its report; returns its adapter."""
    sockets = {} if tuned is None else {"tuned_model": tuned}
    node = graph.add("WaveFTExtract", "extract", base_model=base, **{**WIDGETS, **changed}, **sockets)
    graph.show([node, 1], "report")
    return [node, 0]


def applied(graph, model, adapter, strength=1.0):
    node = graph.add("WaveFTApply", "applied", model=model, adapter=adapter, strength_model=strength)
    return [node, 0]


def saved(graph, **given):
    """Adds Save and a view of its report."""
    node = graph.add("WaveFTSave", "save", **{**SAVED, **given})
    graph.show([node, 0], "saved")


def file_of(server, result):
    """The file that a Save node's report names."""
    line = next(line for line in result.texts["saved"].splitlines() if line.startswith("to "))
    return server.base / "output" / line.removeprefix("to ").partition(" (")[0]


class TestExtract:
    def test_the_difference_of_two_models_applied_to_the_first_is_the_second(self, server):
        graph = Graph()
        base, tuned = (graph.checkpoint(f"{name}.safetensors")[0] for name in ("base", "tuned"))
        graph.dump(applied(graph, base, extracted(graph, base, tuned)))
        result = run(server, graph)
        close(result.weights, server.tuned_weights)
        assert "100.00% of the energy kept" in result.texts["report"]

    def test_a_lora_becomes_what_it_does(self, server):
        graph = Graph()
        base = graph.checkpoint("base.safetensors")[0]
        graph.dump(applied(graph, base, extracted(graph, base, lora_name="style.safetensors"), 0.5))
        stock = Graph()
        stock.dump(stock.lora(stock.checkpoint("base.safetensors")[0], "style.safetensors", 0.5))
        close(run(server, graph).weights, run(server, stock).weights)

    def test_patches_are_seen_whether_the_model_is_loaded_or_not(self, server):
        """The first run merges the patches into the weights in memory, where they are when the second begins."""
        run(server, loaded("base.safetensors", {"a.safetensors": 0.5, "b.safetensors": 1.0}))
        graph = Graph()
        base = graph.checkpoint("base.safetensors")[0]
        tuned = graph.waveft(graph.lora(base, "style.safetensors", 0.25), "a.safetensors", -2.0)
        graph.dump(applied(graph, base, extracted(graph, base, tuned)))
        direct = Graph()
        model = direct.checkpoint("base.safetensors")[0]
        direct.dump(direct.waveft(direct.lora(model, "style.safetensors", 0.25), "a.safetensors", -2.0))
        close(run(server, graph).weights, run(server, direct).weights)
        assert_same(run(server, plain("base.safetensors")).weights, server.base_weights)

    def test_a_budget_is_kept_and_the_report_is_true(self, server):
        graph = Graph()
        base, tuned = (graph.checkpoint(f"{name}.safetensors")[0] for name in ("base", "tuned"))
        adapter = extracted(graph, base, tuned, coefficients=200, wavelet="sym4")
        saved(graph, adapter=adapter)
        graph.dump(applied(graph, base, adapter))
        result = run(server, graph)
        whole = sum(
            float((server.tuned_weights[name] - weight).square().sum()) for name, weight in server.base_weights.items()
        )
        lost = sum(
            float((server.tuned_weights[name] - weight).square().sum()) for name, weight in result.weights.items()
        )
        assert f"{1 - lost / whole:.2%} of the energy kept" in result.texts["report"]
        made = load(file_of(server, result))
        assert {layer.values.numel() for layer in made.layers.values()} == {200}
        assert made.metadata["modelspec.architecture"] == "stable-diffusion-xl-v1-base/waveft"
        assert json.loads(made.metadata["waveft.recipe"])["extracted"]["coefficients"] == 200

    def test_a_lora_that_is_trained_again_is_read_again(self, server):
        graph = Graph()
        base = graph.checkpoint("base.safetensors")[0]
        graph.dump(applied(graph, base, extracted(graph, base, lora_name="style.safetensors", coefficients=50)))
        first = run(server, graph).weights
        assert "extract" in run(server, graph).done.cached
        path = (server.base / "models/loras/style.safetensors").resolve()
        before = path.read_bytes()
        write_lora(path, {layer: tuple(weight.shape) for layer, weight in server.base_weights.items()}, seed=8)
        again = run(server, graph).weights
        path.write_bytes(before)
        assert not torch.equal(next(iter(first.values())), next(iter(again.values())))

    def test_what_cannot_be_is_said(self, server):
        graph = Graph()
        base = graph.checkpoint("base.safetensors")[0]
        extracted(graph, base, lora_name="gone.safetensors")
        with pytest.raises(Failed, match=r'(?s)"gone\.safetensors".*models/loras'):
            run(server, graph)
        graph = Graph()
        base = graph.checkpoint("base.safetensors")[0]
        extracted(graph, base, base, lora_name="style.safetensors")
        with pytest.raises(Failed, match="expected one of the two, got both"):
            run(server, graph)


class TestSave:
    def test_the_sum_on_a_model_is_saved_and_the_loader_has_it_at_once(self, server):
        graph = Graph()
        model = graph.checkpoint("base.safetensors")[0]
        first = graph.waveft(graph.waveft(model, "a.safetensors", 0.5), "a.safetensors", 0.25)
        saved(graph, model=first, note="three quarters")
        graph.dump(first)
        result = run(server, graph)
        path = file_of(server, result)
        assert path.name in server.nodes()["WaveFTLoader"]["input"]["required"]["adapter_name"][1]["options"]
        close(run(server, loaded("base.safetensors", {path.name: 1.0})).weights, result.weights)
        told = server.get(f"/view_metadata/waveft?filename={path.name}")
        assert told["modelspec.description"] == "three quarters"
        assert json.loads(told["prompt"]).keys() == graph.nodes.keys()
        assert json.loads(told["waveft.recipe"])["scaled"] == 0.75

    def test_a_file_saved_twice_is_two_files(self, server):
        graph = Graph()
        saved(graph, adapter=[graph.add("WaveFTLoadAdapter", adapter_name="a.safetensors"), 0])
        paths = set()
        for note in ("one", "two"):
            graph.nodes["save"]["inputs"]["note"] = note
            paths.add(file_of(server, run(server, graph)))
        assert len(paths) == 2
        original = load(server.base / "models/waveft/a.safetensors")
        for path in paths:
            made = load(path)
            assert all(torch.equal(made.layers[name].values, layer.values) for name, layer in original.layers.items())

    def test_half_precision(self, server):
        graph = Graph()
        saved(graph, adapter=[graph.add("WaveFTLoadAdapter", adapter_name="a.safetensors"), 0], dtype="bf16")
        result = run(server, graph)
        with safe_open(file_of(server, result), framework="pt") as file:
            key = next(key for key in file.keys() if key.endswith("waveft_values"))  # noqa: SIM118 - it is no mapping
            assert file.get_slice(key).get_dtype() == "BF16"
        assert "rounded to bf16: relative error 0.00" in result.texts["saved"]

    def test_a_dtype_that_is_none_is_one_clear_error(self, server):
        """By ComfyUI's own check of lists, which older versions did not make of nodes such as ours; else by ours."""
        graph = Graph()
        saved(graph, adapter=[graph.add("WaveFTLoadAdapter", adapter_name="a.safetensors"), 0], dtype="fp64")
        with pytest.raises(
            Failed, match=r"WaveFTError.*dtype: expected one of|Value not in list.*dtype: 'fp64' not in"
        ):
            run(server, graph)

    @pytest.mark.parametrize("prefix", ["../outside", "/tmp/outside", "waveft/"])
    def test_a_place_outside_is_one_clear_error(self, server, prefix):
        graph = Graph()
        saved(graph, adapter=[graph.add("WaveFTLoadAdapter", adapter_name="a.safetensors"), 0], filename_prefix=prefix)
        with pytest.raises(Failed, match=r"WaveFTError.*filename_prefix.*expected a name"):
            run(server, graph)


class TestInspect:
    def test_a_models_adapters_are_told_and_drawn(self, server):
        graph = Graph()
        model = graph.checkpoint("base.safetensors")[0]
        adapter = [graph.add("WaveFTLoadAdapter", adapter_name="a.safetensors"), 0]
        node = graph.add("WaveFTInspect", "inspect", adapter=adapter, model=graph.waveft(model, "a.safetensors", 0.5))
        graph.show([node, 0], "table")
        graph.add("SaveImage", "picture", images=[node, 1], filename_prefix="inspect")
        result = run(server, graph)
        assert result.texts["inspect"] == result.texts["table"]
        assert "trained for   test/waveft" in result.texts["table"]
        assert (
            "applied to the model: 1\nstrength  layers  adapter\n     0.5   88/88  a.safetensors"
            in result.texts["table"]
        )
        for shown in ("inspect", "picture"):
            pictures = result.done.files[shown]
            assert len(pictures) == 2
            for path in pictures:
                with Image.open(path) as picture:
                    assert picture.width == 1024

    def test_a_model_without_any(self, server):
        graph = Graph()
        graph.add("WaveFTInspect", "inspect", model=graph.checkpoint("base.safetensors")[0])
        assert run(server, graph).texts["inspect"].startswith("No WaveFT adapter")


def test_a_grid_of_pictures(server):
    graph = Graph()
    image = [graph.add("EmptyImage", width=64, height=48, batch_size=6, color=255), 0]
    label = [graph.add("PrimitiveString", value="strength 1"), 0]
    grid = graph.add("WaveFTGrid", "grid", images=image, columns=0, title="a title", labels=label)
    graph.add("SaveImage", "sheet", images=[grid, 0], filename_prefix="grid")
    (path,) = run(server, graph).done.files["sheet"]
    with Image.open(path) as sheet:
        assert sheet.width == 3 * 64 + 4 * 8
        colours = dict(sheet.convert("RGB").getcolors(1 << 16))
        assert colours[6 * 64 * 48] == (0, 0, 255)


def test_fp8_weights_and_metadata_that_the_user_does_not_want(serve, checkpoint, adapters, tmp_path):
    """fp8 rounds the weights, not the difference: it is made in float32, as ComfyUI merges it."""
    shutil.copy(adapters / "a.safetensors", tmp_path)
    models = {
        "checkpoints": {"base.safetensors": checkpoint("micro")},
        "waveft": {"a.safetensors": tmp_path / "a.safetensors"},
    }
    with serve(models, flags=["--fp8_e4m3fn-unet", "--disable-metadata"]) as server:
        graph = Graph()
        base = graph.checkpoint("base.safetensors")[0]
        saved(graph, adapter=extracted(graph, base, graph.waveft(base, "a.safetensors", 0.5)))
        path = file_of(server, run(server, graph))
        made = load(path)
    assert "prompt" not in made.metadata
    for layer, delta, largest in oracle(tmp_path / "a.safetensors"):
        torch.testing.assert_close(made.delta(layer).double(), 0.5 * delta, rtol=0, atol=2e-6 * (1 + largest))


def test_text_encoders_are_saved_shown_and_extracted_with_their_clip(serve, checkpoint, adapters, tmp_path):
    shutil.copy(adapters / "text.safetensors", tmp_path)
    models = {
        "checkpoints": {"base.safetensors": checkpoint("micro", clip=True)},
        "waveft": {"text.safetensors": tmp_path / "text.safetensors"},
    }
    original = load(tmp_path / "text.safetensors")
    with serve(models, flags=["--fp32-unet", "--fp32-text-enc"]) as server:
        graph = Graph()
        base, clip, _ = graph.checkpoint("base.safetensors")
        model = graph.waveft(base, "text.safetensors", 0.5, "load", clip=clip, strength_clip=2.0)
        saved(graph, model=model, clip=["load", 1])
        graph.show([graph.add("WaveFTInspect", model=model, clip=["load", 1]), 0], "table")
        both = {"tuned_model": model, "base_clip": clip, "tuned_clip": ["load", 1]}
        changed = {**WIDGETS, "layers": "attention and feed-forward", **both}
        node = graph.add("WaveFTExtract", "extract", base_model=base, **changed)
        graph.add("WaveFTSave", "made", adapter=[node, 0], **{**SAVED, "filename_prefix": "waveft/made"})
        result = run(server, graph)
        made = load(file_of(server, result))
        extracted_file = load(next((server.base / "output/waveft").glob("made_*")))
    assert "left out" not in result.texts["saved"]
    assert result.texts["table"].startswith("applied to the model and CLIP: 1\n")
    assert set(made.layers) == set(extracted_file.layers) == set(original.layers)
    for name in original.layers:
        exact = (2.0 if name in TEXT_SHAPES else 0.5) * original.delta(name)
        torch.testing.assert_close(made.delta(name), exact, rtol=0, atol=1e-6)
        torch.testing.assert_close(extracted_file.delta(name), exact, rtol=0, atol=3e-6)


def test_an_adapter_may_be_written_while_the_graph_holds_it(server):
    """What was read stays what it was: ComfyUI keeps it, and the file is another one now."""
    path = (server.base / "models/waveft/b.safetensors").resolve()
    before = path.read_bytes()
    graph = Graph()
    adapter = [graph.add("WaveFTLoadAdapter", adapter_name="b.safetensors"), 0]
    saved(graph, adapter=adapter, filename_prefix="waveft/first")
    first = load(file_of(server, run(server, graph)))
    write_adapter(path, {name: layer.shape for name, layer in first.layers.items()}, seed=99)
    graph.nodes["save"]["inputs"]["filename_prefix"] = "waveft/second"
    second = load(file_of(server, run(server, graph)))
    path.write_bytes(before)
    name = next(iter(first.layers))
    assert not torch.equal(first.layers[name].values, second.layers[name].values)
