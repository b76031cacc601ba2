"""Every translation of the nodes' texts is whole, and of the texts that are there now."""

import json
import re
from pathlib import Path

import pytest

LOCALES = Path(__file__).resolve().parents[2] / "locales"
LANGUAGES = sorted(folder.name for folder in LOCALES.iterdir() if folder.is_dir())
WRITTEN_IN = {"zh": r"[\u4e00-\u9fff]"}  # a letter of the language, where its letters are not English ones
# What a reader types or finds again in ComfyUI: numbers, paths, quoted values, and what is filled in.
SAME_IN_EVERY_LANGUAGE = r'\d+(?:\.\d+)?|\w+(?:/\w+)+|"[^"]+"|\{\w+\}|%\w+%'
# The front end reads texts as messages of vue-i18n: {'{'} is how a special character of theirs is written.
ESCAPED = r"\{'([{}@|])'\}"


@pytest.fixture
def schemas(comfy):
    comfy("folders").register()
    return {schema.node_id: schema for schema in (node.define_schema() for node in comfy("extension").NODES)}


@pytest.fixture(params=LANGUAGES)
def language(request):
    return request.param


@pytest.fixture
def texts(language):
    return json.loads((LOCALES / language / "nodeDefs.json").read_text(encoding="utf-8"), object_pairs_hook=once)


def once(pairs):
    """Returns a JSON object; Python would keep the last of two equal keys and say nothing."""
    keys = [key for key, _ in pairs]
    assert len(set(keys)) == len(keys), keys
    return dict(pairs)


def parts(schema, given):
    """Yields where a text belongs, the English one and the translation, None where there is none."""
    yield "display_name", schema.display_name, given.get("display_name")
    yield "description", schema.description, given.get("description")
    for part in schema.inputs:
        found = given["inputs"][part.id]
        yield f"inputs.{part.id}.tooltip", part.tooltip, found.get("tooltip")
        if "name" in found:  # else the front end shows the id
            yield f"inputs.{part.id}.name", part.id, found["name"]
    for number, part in enumerate(schema.outputs):
        found = given["outputs"][str(number)]
        yield f"outputs.{number}.tooltip", part.tooltip, found.get("tooltip")
        if part.display_name != part.kind:  # else the front end shows the type, which it translates itself
            yield f"outputs.{number}.name", part.display_name, found.get("name")


def test_there_is_a_translation():
    assert LANGUAGES


def test_nodes_inputs_and_outputs_are_those_that_exist(schemas, texts):
    assert set(texts) == set(schemas)
    for id, schema in schemas.items():
        assert set(texts[id]) == {"display_name", "description", "inputs", "outputs"}, id
        assert list(texts[id]["inputs"]) == [part.id for part in schema.inputs], id
        assert list(texts[id]["outputs"]) == [str(number) for number in range(len(schema.outputs))], id
        for part in [*texts[id]["inputs"].values(), *texts[id]["outputs"].values()]:
            assert set(part) <= {"name", "tooltip"}, (id, part)


def test_nothing_is_empty_or_left_in_english(schemas, texts, language):
    for id, schema in schemas.items():
        for where, english, text in parts(schema, texts[id]):
            assert text and text.strip() == text, (id, where)
            if where.endswith(".name") and text == english:
                assert where.startswith("inputs."), (id, where)  # an id may stand for itself
                continue
            assert text != english, (id, where)
            assert re.search(WRITTEN_IN.get(language, ""), text), (id, where, text)
        assert "WaveFT" in texts[id]["display_name"], id


def test_no_two_nodes_have_one_name(texts):
    assert len({given["display_name"] for given in texts.values()}) == len(texts)


def test_numbers_paths_and_quoted_values_are_those_of_the_english_text(schemas, texts):
    for id, schema in schemas.items():
        for where, english, text in parts(schema, texts[id]):
            if not where.endswith("name"):
                wanted = set(re.findall(SAME_IN_EVERY_LANGUAGE, english, re.ASCII))
                found = set(re.findall(SAME_IN_EVERY_LANGUAGE, re.sub(ESCAPED, r"\1", text), re.ASCII))
                assert wanted == found, (id, where)


def test_characters_that_the_front_end_takes_for_syntax_are_escaped(schemas, texts):
    for id, schema in schemas.items():
        for where, _, text in parts(schema, texts[id]):
            assert not re.search(r"[{}@|]", re.sub(ESCAPED, "", text)), (id, where, text)


def test_one_english_text_has_one_translation(schemas, texts):
    """Widgets that several nodes share read alike in all of them."""
    known = {}
    for id, schema in schemas.items():
        for where, english, text in parts(schema, texts[id]):
            kind = where.rpartition(".")[2]
            assert known.setdefault((kind, english), text) == text, (id, where)
