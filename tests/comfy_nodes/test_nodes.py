"""What holds for every node: ids and widgets are final, everything explains itself, and schemas fit the code."""

import inspect
import json
from pathlib import Path

import pytest

FROZEN = Path(__file__).with_name("nodes.json")  # what saved workflows rely on


@pytest.fixture
def nodes(comfy):
    comfy("folders").register()
    return comfy("extension").NODES


def shape(schema):
    """Returns what a saved workflow relies on: ids, kinds and the order of inputs and outputs."""
    return {
        "inputs": [[i.id, i.kind, "optional" if i.optional else "required"] for i in schema.inputs],
        "outputs": [[o.id, o.kind, o.display_name] for o in schema.outputs],
    }


def test_ids_are_unique_and_prefixed(nodes):
    ids = [node.define_schema().node_id for node in nodes]
    assert len(set(ids)) == len(ids)
    assert all(id.startswith("WaveFT") for id in ids)
    assert [node.__name__ for node in nodes] == ids


def test_inputs_and_outputs_are_those_of_the_first_release(nodes):
    """Nodes may be added, inputs and outputs appended: then they are added to nodes.json, and nothing there changes."""
    frozen = json.loads(FROZEN.read_text())
    assert {node.__name__: shape(node.define_schema()) for node in nodes} == frozen


def test_everything_explains_itself(nodes):
    for node in nodes:
        schema = node.define_schema()
        assert schema.category == "WaveFT"
        assert schema.description.endswith("."), node
        for part in [*schema.inputs, *schema.outputs]:
            assert part.tooltip and part.tooltip.endswith((".", '".', ")", "?")), (node, part.id)


def test_required_inputs_come_first_and_no_id_is_used_twice(nodes):
    for node in nodes:
        schema = node.define_schema()
        optional = [i.optional for i in schema.inputs]
        assert optional == sorted(optional), node
        ids = [part.id for part in [*schema.inputs, *schema.outputs]]
        assert len(set(ids)) == len(ids), node


def test_execute_takes_every_input_and_defaults_are_within_range(nodes):
    for node in nodes:
        schema = node.define_schema()
        signature = inspect.signature(node.execute)
        open_ended = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
        for given in schema.inputs:
            parameter = signature.parameters.get(given.id)
            assert parameter is not None or open_ended, (node, given.id)
            if given.optional and parameter is not None:
                assert parameter.default is not parameter.empty, (node, given.id)
            if given.kind in ("FLOAT", "INT"):
                assert given.min <= given.default <= given.max, (node, given.id)


def test_the_apis_own_checks_of_ranges_stay_on(nodes):
    """Naming an input in validate_inputs switches ComfyUI's check of it off: only what it must look at is named."""
    for node in nodes:
        if hasattr(node, "validate_inputs"):
            kinds = {i.id: i.kind for i in node.define_schema().inputs}
            for name, parameter in inspect.signature(node.validate_inputs).parameters.items():
                assert parameter.kind is not parameter.VAR_KEYWORD, node
                assert kinds[name] in ("COMBO", "STRING", "BOOLEAN"), (node, name)


def test_every_node_has_a_help_page_that_names_its_inputs_and_outputs(nodes):
    folder = Path(inspect.getfile(nodes[0])).parents[1] / "web/docs"
    assert {page.stem for page in folder.glob("*.md")} == {node.__name__ for node in nodes}
    for node in nodes:
        schema, text = node.define_schema(), (folder / f"{node.__name__}.md").read_text(encoding="utf-8")
        assert text.startswith(f"# {schema.display_name}\n")
        for part in schema.inputs:
            stem = part.id.rstrip("12345678")
            assert f"`{part.id}`" in text or (stem != part.id and f"`{stem}1`" in text), (node, part.id)
        for part in schema.outputs:
            assert f"`{part.display_name}`" in text, (node, part.display_name)
