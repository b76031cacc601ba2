"""Stacks, filters and arithmetic in the real ComfyUI: what was merged, against the same by hand."""

import pytest
import torch

from tests.comfyui.graphs import Graph, loaded, run
from tests.comfyui.server import Failed
from tests.comfyui.weights import assert_same, largest_error, oracle, write_adapter

pytestmark = pytest.mark.comfyui

MULTIPLIERS = {
    **dict.fromkeys(("attn1", "attn2", "to_q", "to_k", "to_v", "to_out"), 1.0),
    **dict.fromkeys(("input_blocks", "middle_block", "output_blocks", "aa", "ad", "da", "dd"), 1.0),
    "only_layers": "",
    "except_layers": "",
}


def stack(**rows):
    """Returns the widgets of a stack; rows as `row_1=(name, strength, enabled)`."""
    found = {}
    for number in range(1, 9):
        name, strength, enabled = rows.get(f"row_{number}", ("None", 1.0, True))
        found |= {f"adapter_{number}": name, f"strength_{number}": strength, f"enabled_{number}": enabled}
    return found


def applied(widgets, strength=1.0, previous=None):
    graph = Graph()
    model = graph.checkpoint("micro.safetensors")[0]
    chained = {} if previous is None else {"previous": [graph.add("WaveFTStack", "first", **previous), 0]}
    rows = [graph.add("WaveFTStack", "stack", **widgets, **chained), 0]
    node = graph.add("WaveFTApplyStack", "applied", model=model, stack=rows, strength_model=strength)
    graph.show([node, 2], "report")
    graph.dump([node, 0])
    return graph


def test_a_stack_is_what_a_chain_of_loaders_is(micro):
    rows = {
        "row_1": ("a.safetensors", 0.5, True),
        "row_2": ("damaged.safetensors", 1.0, False),  # off: not looked at
        "row_8": ("b.safetensors", -1.5, True),
    }
    got = run(micro, applied(stack(**rows)))
    chain = run(micro, loaded("micro.safetensors", {"a.safetensors": 0.5, "b.safetensors": -1.5}))
    assert_same(got.weights, chain.weights)
    assert "88/88 layers of a.safetensors" in got.texts["report"]
    assert "88/88 layers of b.safetensors" in got.texts["report"]
    first, second = stack(row_3=("a.safetensors", 1.0, True)), stack(row_1=("b.safetensors", -3.0, True))
    assert_same(run(micro, applied(second, strength=0.5, previous=first)).weights, chain.weights)


def test_a_stack_notices_a_file_that_was_trained_again(micro):
    path = micro.adapters / "b.safetensors"
    before, graph = path.read_bytes(), applied(stack(row_1=("b.safetensors", 1.0, True)))
    run(micro, graph)
    assert {"stack", "applied"} <= set(run(micro, graph).done.cached)
    write_adapter(path, {layer: tuple(weight.shape) for layer, weight in micro.unpatched.items()}, seed=78)
    largest_error(run(micro, graph).weights, micro.unpatched, [(path, 1.0)])
    path.write_bytes(before)


@pytest.mark.parametrize(("name", "words"), [("damaged.safetensors", "row 2: "), ("sdxl.safetensors", "does not have")])
def test_one_bad_file_stops_the_whole_stack(micro, name, words):
    with pytest.raises(Failed, match=f"(?s){words}") as failed:
        run(micro, applied(stack(row_1=("a.safetensors", 1.0, True), row_2=(name, 1.0, True))))
    assert name in str(failed.value)
    assert_same(run(micro, loaded("micro.safetensors", {"a.safetensors": 0.0})).weights, micro.unpatched)


def filtered(**changed):
    graph = Graph()
    model = graph.checkpoint("micro.safetensors")[0]
    made = [graph.add("WaveFTFilter", "filter", **{**MULTIPLIERS, **changed}), 0]
    graph.dump(graph.waveft(model, "a.safetensors", node="w0", filter=made))
    return graph


def test_a_filter_keeps_what_it_says(micro):
    got = run(micro, filtered(attn1=0.0, to_q=0.5)).weights
    whole = {layer: delta for layer, delta, _ in oracle(micro.adapters / "a.safetensors")}
    for layer, weight in micro.unpatched.items():
        factor = 0.0 if "_attn1_" in layer else 0.5 if layer.endswith("_to_q") else 1.0
        torch.testing.assert_close(got[layer].double(), weight + factor * whole[layer], rtol=0, atol=1e-6)
        assert factor or torch.equal(got[layer], weight)


def test_sub_bands_add_up_to_the_whole(micro):
    total = dict.fromkeys(micro.unpatched, 0.0)
    for band in ("aa", "ad", "da", "dd"):
        others = {other: 0.0 for other in ("aa", "ad", "da", "dd") if other != band}
        got = run(micro, filtered(**others)).weights
        total = {layer: total[layer] + (got[layer].double() - weight) for layer, weight in micro.unpatched.items()}
    for layer, delta, _ in oracle(micro.adapters / "a.safetensors"):
        torch.testing.assert_close(total[layer], delta, rtol=0, atol=2e-6)


def test_an_expression_that_is_none_is_said_before_anything_runs(micro):
    with pytest.raises(Failed, match=r'(?s)only_layers "\(".*regular expression'):
        run(micro, filtered(only_layers="("))


def test_scaled_and_combined_adapters_are_applied_as_their_sum(micro, checkpoint):
    shapes = {layer: tuple(weight.shape) for layer, weight in micro.unpatched.items()}
    path = write_adapter(micro.base / "models/waveft/c.safetensors", shapes, seed=9)
    graph = Graph()
    model = graph.checkpoint("micro.safetensors")[0]
    a, c = ([graph.add("WaveFTLoadAdapter", adapter_name=name), 0] for name in ("a.safetensors", "c.safetensors"))
    scaled = [graph.add("WaveFTScale", "scaled", adapter=a, strength=0.5, **MULTIPLIERS), 0]
    weights = {"weight_1": 1.0, "weight_2": -0.25, "weight_3": 1.0, "weight_4": 1.0}
    combined = graph.add(
        "WaveFTCombine", "sum", adapter_1=scaled, adapter_2=c, **weights, coefficients=0, other_basis="refuse"
    )
    graph.show([combined, 1], "report")
    node = graph.add("WaveFTApply", "applied", model=model, adapter=[combined, 0], strength_model=2.0)
    graph.dump([node, 0])
    got = run(micro, graph)
    largest_error(got.weights, micro.unpatched, [(micro.adapters / "a.safetensors", 1.0), (path, -0.5)])
    assert "sum: 88 layers" in got.texts["report"]
