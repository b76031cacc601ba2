"""Every workflow against the nodes' own schemas; that they run is proved in test_in_comfyui.py."""

import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "workflows"
TEMPLATES = sorted(FOLDER.glob("*.json"))
PROMPTS = sorted((FOLDER / "api").glob("*.json"))
SOCKETS = {"MODEL", "CLIP"}


@pytest.fixture
def schemas(comfy):
    nodes = comfy("extension").NODES
    comfy("folders").register()
    return {schema.node_id: schema for schema in (node.define_schema() for node in nodes)}


def load(path):
    return json.loads(path.read_text(encoding="utf-8"))


def widget_is_valid(widget, value):
    if widget.kind == "COMBO":
        return isinstance(value, str) and value.endswith(".safetensors")
    return widget.kind == "FLOAT" and widget.min <= value <= widget.max


def test_comfyui_serves_the_folder():
    # it serves the first of these that a pack has and lists the files of all: with two, ours would answer 404
    names = ["example_workflows", "example", "examples", "workflow", "workflows"]
    assert [name for name in names if (FOLDER.parent / name).exists()] == ["workflows"]


def test_there_are_some():
    assert TEMPLATES
    assert {path.name for path in PROMPTS} == {path.name for path in TEMPLATES}


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_templates_are_graphs_whose_links_hold(path):
    # the template browser lists every .json at the top level, so an API prompt there would open as an empty graph
    graph = load(path)
    assert graph["version"] == 0.4
    nodes = {node["id"]: node for node in graph["nodes"]}
    assert len(nodes) == len(graph["nodes"])
    assert graph["last_node_id"] == max(nodes)
    assert graph["last_link_id"] == max(link[0] for link in graph["links"])
    ends = {
        (nodes[n]["id"], slot, link) for n in nodes for slot, i in enumerate(nodes[n]["inputs"]) if (link := i["link"])
    }
    starts = {(n, slot, link) for n in nodes for slot, o in enumerate(nodes[n]["outputs"]) for link in o["links"]}
    assert ends == {(link[3], link[4], link[0]) for link in graph["links"]}
    assert starts == {(link[1], link[2], link[0]) for link in graph["links"]}
    for number, source, out, target, into, kind in graph["links"]:
        assert nodes[source]["outputs"][out]["type"] in (kind, "STRING"), number
        assert nodes[target]["inputs"][into]["type"] == kind, number


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_our_nodes_in_templates_match_their_schema(path, schemas):
    ours = [node for node in load(path)["nodes"] if node["type"].startswith("WaveFT")]
    assert ours
    for node in ours:
        schema = schemas[node["type"]]
        sockets = [(i.id, i.kind) for i in schema.inputs if i.kind in SOCKETS]
        widgets = [i for i in schema.inputs if i.kind not in SOCKETS]
        assert [(i["name"], i["type"]) for i in node["inputs"]] == sockets
        assert [(o["name"], o["type"]) for o in node["outputs"]] == [(o.display_name, o.kind) for o in schema.outputs]
        assert len(node["widgets_values"]) == len(widgets)
        assert all(widget_is_valid(w, value) for w, value in zip(widgets, node["widgets_values"], strict=True))


@pytest.mark.parametrize("path", PROMPTS, ids=lambda path: path.name)
def test_prompts_match_the_schema_and_their_template(path, schemas):
    prompt, graph = load(path), load(FOLDER / path.name)
    types = sorted(node["class_type"] for node in prompt.values())
    assert types == sorted(node["type"] for node in graph["nodes"] if "Note" not in node["type"])
    for node in prompt.values():
        for value in node["inputs"].values():
            assert not isinstance(value, list) or value[0] in prompt
        if node["class_type"] in schemas:
            inputs = {i.id: i for i in schemas[node["class_type"]].inputs}
            assert set(node["inputs"]) <= set(inputs)
            assert {name for name, i in inputs.items() if not i.optional} <= set(node["inputs"])
            for name, value in node["inputs"].items():
                assert isinstance(value, list) or widget_is_valid(inputs[name], value)
