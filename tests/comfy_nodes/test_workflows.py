"""Every workflow against its prompt and the nodes' own schemas; tests/comfyui proves that they run."""

import itertools
import json
import tomllib
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "workflows"
TEMPLATES = sorted(FOLDER.glob("*.json"))
PROMPTS = sorted((FOLDER / "api").glob("*.json"))
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
AFTER_GENERATE = {"fixed", "increment", "decrement", "randomize"}

each_template = pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)


@pytest.fixture
def schemas(comfy):
    nodes = comfy("extension").NODES
    comfy("folders").register()
    return {schema.node_id: schema for schema in (node.define_schema() for node in nodes)}


def load(path):
    return json.loads(path.read_text(encoding="utf-8"))


def is_widget(given):
    return given.kind in WIDGETS and not getattr(given, "force_input", False)


def is_valid(widget, value):
    if widget.kind == "COMBO":
        return value in widget.options or value.endswith(".safetensors")
    if widget.kind in ("INT", "FLOAT"):
        return widget.min <= value <= widget.max
    return isinstance(value, {"STRING": str, "BOOLEAN": bool}[widget.kind])


def without_notes(graph):
    return {str(node["id"]): node for node in graph["nodes"] if "Note" not in node["type"]}


def test_comfyui_serves_the_folder():
    # it serves the first of these that a pack has and lists the files of all: with two, ours would answer 404
    names = ["example_workflows", "example", "examples", "workflow", "workflows"]
    assert [name for name in names if (FOLDER.parent / name).exists()] == ["workflows"]


def test_each_has_a_prompt_and_a_layout():
    assert len(TEMPLATES) >= 6
    for kind in ("json", "toml"):
        assert {path.stem for path in (FOLDER / "api").glob(f"*.{kind}")} == {path.stem for path in TEMPLATES}


@each_template
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
        assert nodes[target]["inputs"][into]["type"] == kind, number
        assert kind in ("*", nodes[source]["outputs"][out]["type"]), number


@each_template
def test_a_template_is_its_prompt(path):
    graph, prompt = load(path), load(FOLDER / "api" / path.name)
    sources = {link[0]: [str(link[1]), link[2]] for link in graph["links"]}
    nodes = without_notes(graph)
    assert list(nodes) == list(prompt)
    for key, node in nodes.items():
        inputs = prompt[key]["inputs"]
        values = [
            value
            for before, value in itertools.pairwise([None, *node["widgets_values"]])
            if not (value in AFTER_GENERATE and isinstance(before, int))
        ]
        assert node["type"] == prompt[key]["class_type"]
        assert values == [value for value in inputs.values() if not isinstance(value, list)]
        linked = {i["name"]: sources[i["link"]] for i in node["inputs"] if i["link"] is not None}
        assert linked == {name: value for name, value in inputs.items() if isinstance(value, list)}


@each_template
def test_our_nodes_in_templates_match_their_schema(path, schemas):
    graph, prompt = load(path), load(FOLDER / "api" / path.name)
    ours = {key: node for key, node in without_notes(graph).items() if node["type"].startswith("WaveFT")}
    assert ours
    for key, node in ours.items():
        schema, inputs = schemas[node["type"]], prompt[key]["inputs"]
        sockets = [given for given in schema.inputs if not is_widget(given)]
        widgets = [given for given in schema.inputs if is_widget(given)]
        assert [(i["name"], i["type"]) for i in node["inputs"]] == [(given.id, given.kind) for given in sockets]
        assert [(o["name"], o["type"]) for o in node["outputs"]] == [(o.display_name, o.kind) for o in schema.outputs]
        assert {given.id for given in sockets if not given.optional} <= set(inputs)
        assert [name for name, value in inputs.items() if not isinstance(value, list)] == [w.id for w in widgets]
        assert all(is_valid(widget, inputs[widget.id]) for widget in widgets)


@each_template
def test_a_note_says_what_a_template_does_and_expects(path):
    graph, layout = load(path), tomllib.loads((FOLDER / "api" / f"{path.stem}.toml").read_text(encoding="utf-8"))
    (note,) = (node for node in graph["nodes"] if node["type"] == "MarkdownNote")
    assert note["widgets_values"] == [layout["note"].strip()]
    assert "adapter" in note["widgets_values"][0]
    for key, title in layout.get("titles", {}).items():
        assert without_notes(graph)[key]["title"] == title


@each_template
def test_the_template_browser_has_a_small_picture_of_it(path):
    picture = path.with_suffix(".jpg").read_bytes()
    assert picture.startswith(b"\xff\xd8") and len(picture) < 50_000


@each_template
def test_nothing_covers_anything(path):
    graph = load(path)
    boxes = [(*node["pos"], *node["size"]) for node in graph["nodes"]]
    with_titles = [(x, y - 30, x + width, y + height) for x, y, width, height in boxes]
    for one, other in itertools.combinations(with_titles, 2):
        assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
    groups = [group["bounding"] for group in graph["groups"]]
    around = [sum(gx <= x and x + w <= gx + gw and gy <= y and y + h <= gy + gh for gx, gy, gw, gh in groups)
              for x, y, w, h in boxes]  # fmt: skip
    assert sorted(around) == [0, *[1] * (len(boxes) - 1)]  # the note alone is in none
