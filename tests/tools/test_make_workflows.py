import json

import pytest

from tools.make_workflows import as_text, make

INFO = {
    "Loader": {
        "input": {"required": {"name": [["a", "b"], {}]}},
        "output": ["MODEL", "CLIP"],
        "output_name": ["MODEL", "CLIP"],
    },
    "Sampler": {
        "input": {
            "required": {
                "model": ["MODEL", {}],
                "seed": ["INT", {"control_after_generate": True}],
                "text": ["STRING", {"multiline": True}],
            },
            "optional": {"labels": ["STRING", {"forceInput": True}], "kind": ["COMBO", {"options": ["x"]}]},
        },
        "output": ["IMAGE"],
        "output_name": ["picture"],
    },
}
PROMPT = {
    "1": {"class_type": "Sampler", "inputs": {"model": ["2", 0], "seed": 7, "text": "dog", "kind": "x"}},
    "2": {"class_type": "Loader", "inputs": {"name": "b"}},
}
LAYOUT = {
    "note": "\nWhat it does.\n",
    "titles": {"1": "Draw"},
    "sizes": {"2": [400, 90]},
    "groups": [{"title": "Left", "columns": [["2"]]}, {"title": "Right", "top": 50, "columns": [["1"]]}],
}


def test_a_prompt_becomes_a_graph():
    graph = make("name", PROMPT, LAYOUT, INFO)
    sampler, loader, note = graph["nodes"]
    assert sampler["widgets_values"] == [7, "fixed", "dog", "x"]
    assert [(i["name"], i["link"]) for i in sampler["inputs"]] == [("model", 1), ("labels", None)]
    assert [output["links"] for output in loader["outputs"]] == [[1], []]
    assert graph["links"] == [[1, 2, 0, 1, 0, "MODEL"]]
    assert (loader["order"], sampler["order"]) == (0, 1)
    assert sampler["title"] == "Draw"
    assert (note["id"], note["widgets_values"]) == (3, ["What it does."])
    assert graph["last_node_id"] == 3


def test_columns_stand_from_left_to_right_in_their_groups():
    graph = make("name", PROMPT, LAYOUT, INFO)
    sampler, loader, note = graph["nodes"]
    assert note["pos"][0] + note["size"][0] < loader["pos"][0]
    assert loader["size"] == [400, 90]
    assert loader["pos"][0] + 400 < sampler["pos"][0]
    assert sampler["pos"][1] == loader["pos"][1] + 50
    for group, node in zip(graph["groups"], (loader, sampler), strict=True):
        x, y, width, height = group["bounding"]
        assert x < node["pos"][0] and node["pos"][0] + node["size"][0] < x + width
        assert y < node["pos"][1] - 30 and node["pos"][1] + node["size"][1] < y + height


def test_nodes_of_a_column_are_below_one_another_and_equally_wide():
    layout = {**LAYOUT, "groups": [{"title": "All", "columns": [["2", "1"]]}]}
    sampler, loader, _ = make("name", PROMPT, layout, INFO)["nodes"]
    assert sampler["pos"][0] == loader["pos"][0]
    assert sampler["size"][0] == loader["size"][0] == 400
    assert sampler["pos"][1] - 30 > loader["pos"][1] + 90


def test_the_same_input_gives_the_same_text():
    text = as_text(make("name", PROMPT, LAYOUT, INFO))
    assert text == as_text(make("name", PROMPT, LAYOUT, INFO))
    assert json.loads(text) == make("name", PROMPT, LAYOUT, INFO)
    assert json.loads(text)["id"] != make("other", PROMPT, LAYOUT, INFO)["id"]


def changed(key, **inputs):
    given = {name: value for name, value in {**PROMPT[key]["inputs"], **inputs}.items() if value is not None}
    return {**PROMPT, key: {**PROMPT[key], "inputs": given}}


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        (changed("1", text=None), 'node 1 (Sampler), input "text": expected a value'),
        (changed("1", other=3), "node 1 (Sampler): it has no input other"),
        (changed("1", model=None), 'node 1 (Sampler), input "model": expected a link'),
        ({**PROMPT, "3": {"class_type": "Saver", "inputs": {}}}, "expected nodes Saver"),
    ],
)
def test_inputs_that_are_not_the_node_s_are_named(prompt, words):
    with pytest.raises(ValueError) as raised:
        make("name", prompt, LAYOUT, INFO)
    assert words in str(raised.value)


def test_a_layout_names_every_node_once():
    with pytest.raises(ValueError, match="expected nodes"):
        make("name", PROMPT, {**LAYOUT, "groups": LAYOUT["groups"][:1]}, INFO)
