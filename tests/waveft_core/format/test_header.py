import json

import pytest

from waveft_core import WaveFTError
from waveft_core.errors import Refusal
from waveft_core.format.header import Header, parse_header

GOOD = {"level": 1, "mode": "periodization", "scaling": 25.0, "version": 1, "wavelet": "db1"}
FAIL = Refusal("a.safetensors")


def parse(content, metadata=None):
    if isinstance(content, dict):
        content = json.dumps(content)
    if isinstance(content, str):
        content = content.encode()
    return parse_header(content, metadata, FAIL)


def text(**changes):
    """The good header as JSON, with raw JSON text for some keys; None leaves a key out."""
    raw = {**{key: json.dumps(value) for key, value in GOOD.items()}, **changes}
    return "{" + ", ".join(f'"{key}": {value}' for key, value in raw.items() if value is not None) + "}"


def test_a_header_is_read():
    assert parse(GOOD) == Header("db1", "periodization", 25.0, None)
    assert parse({**GOOD, "mode": "zero", "wavelet": "sym4", "locations": "peft:777"}) == Header(
        "sym4", "zero", 25.0, "peft:777"
    )


def test_the_text_is_sorted_compact_json():
    expected = '{"level":1,"locations":"uniform:7","mode":"zero","scaling":25.0,"version":1,"wavelet":"db2"}'
    assert Header("db2", "zero", 25, "uniform:7").to_json() == expected
    assert '"locations"' not in Header("db2", "zero", 25).to_json()


@pytest.mark.parametrize("scaling", [25, 25.0, -1.5, 1e-30, 1e30, 0, 0.1])
def test_any_finite_scaling_is_read_as_written(scaling):
    assert parse({**GOOD, "scaling": scaling}).scaling == scaling
    assert parse(Header("db1", "zero", scaling).to_json()).scaling == scaling


def test_unknown_keys_are_ignored():
    assert parse({**GOOD, "colour": "red", "nested": {"a": [[1]]}, "null": None, "flag": True}) == parse(GOOD)


@pytest.mark.parametrize("locations", ["null", '"anything at all"', '"héllo"'])
def test_locations_are_information_only(locations):
    assert parse(text(locations=locations)).locations == json.loads(locations)


REFUSED = {
    "no bytes": ("", "a strict UTF-8 JSON object"),
    "not JSON": ("version 1", "a strict UTF-8 JSON object"),
    "half of it": (text()[:-4], "a strict UTF-8 JSON object"),
    "something after it": (text() + "{}", "a strict UTF-8 JSON object"),
    "a byte order mark": ("\ufeff" + text(), "a strict UTF-8 JSON object"),
    "not UTF-8": (text().encode() + b"\xff", "a strict UTF-8 JSON object"),
    "UTF-16": (text().encode("utf-16"), "a strict UTF-8 JSON object"),
    "a list": ("[1]", "a JSON object, got list"),
    "a string": ('"header"', "a JSON object, got str"),
    "null": ("null", "a JSON object, got NoneType"),
    "single quotes": (text().replace('"', "'"), "a strict UTF-8 JSON object"),
    "a comma too many": (text()[:-1] + ",}", "a strict UTF-8 JSON object"),
    "too long": (text(note='"' + "x" * 4096 + '"'), "at most 4096 bytes, got 41"),
    "too long by blanks": (text() + " " * 4096, "at most 4096 bytes"),
    "five deep": (text(note="[[[[1]]]]"), "nesting 5 deep, at most 4"),
    "very deep": (text(note="[" * 1900 + "]" * 1900), "nesting 1901 deep"),
    "very deep, never closed": ("[" * 4000, "nesting 4000 deep"),
    "a key twice": (text()[:-1] + ', "scaling": 25.0}', "key 'scaling' given twice"),
    "an unknown key twice": (text(note="1")[:-1] + ', "note": 1}', "key 'note' given twice"),
    "a key twice further in": (text(note='{"a": 1, "a": 1}'), "key 'a' given twice"),
    "a key twice by escape": (text()[:-1] + ', "scalin\\u0067": 1}', "key 'scaling' given twice"),
    "NaN": (text(scaling="NaN"), "NaN is no JSON number"),
    "Infinity": (text(scaling="Infinity"), "Infinity is no JSON number"),
    "-Infinity": (text(scaling="-Infinity"), "-Infinity is no JSON number"),
    "1e999": (text(scaling="1e999"), "1e999 is beyond a float"),
    "-1e999": (text(scaling="-1e999"), "-1e999 is beyond a float"),
    "NaN under an unknown key": (text(note="[NaN]"), "NaN is no JSON number"),
    "1e999 under an unknown key": (text(note="1e999"), "1e999 is beyond a float"),
    "scaling of 400 digits": (text(scaling="1" + "0" * 400), '"scaling": expected a finite number'),
    "scaling true": (text(scaling="true"), '"scaling": expected a finite number, got True'),
    "scaling null": (text(scaling="null"), '"scaling": expected a finite number, got None'),
    "scaling a string": (text(scaling='"25"'), "\"scaling\": expected a finite number, got '25'"),
    "scaling a list": (text(scaling="[25]"), '"scaling": expected a finite number'),
    "no scaling": (text(scaling=None), 'a key "scaling", got none'),
    "no version": (text(version=None), 'a key "version", got none'),
    "no level": (text(level=None), 'a key "level", got none'),
    "no mode": (text(mode=None), 'a key "mode", got none'),
    "no wavelet": (text(wavelet=None), 'a key "wavelet", got none'),
    "version 2": (text(version="2"), '"version": expected 1, got 2'),
    "version 0": (text(version="0"), '"version": expected 1, got 0'),
    "version true": (text(version="true"), '"version": expected 1, got True'),
    "version a string": (text(version='"1"'), "\"version\": expected 1, got '1'"),
    "level 2": (text(level="2"), '"level": expected 1, got 2'),
    "level true": (text(level="true"), '"level": expected 1, got True'),
    "level null": (text(level="null"), '"level": expected 1, got None'),
    "haar": (text(wavelet='"haar"'), "wavelet: expected one of .* got 'haar'. Use \"db1\""),
    "dmey": (text(wavelet='"dmey"'), "wavelet: expected one of .* got 'dmey'"),
    "bior2.2": (text(wavelet='"bior2.2"'), "wavelet: expected one of .* got 'bior2.2'"),
    "db39": (text(wavelet='"db39"'), "wavelet: expected one of .* got 'db39'"),
    "wavelet a number": (text(wavelet="1"), "wavelet: expected one of .* got 1"),
    "wavelet an object": (text(wavelet="{}"), "wavelet: expected one of .* got {}"),
    "mode symmetric": (text(mode='"symmetric"'), "mode: expected one of periodization, zero, got 'symmetric'"),
    "mode a list": (text(mode='["zero"]'), r"mode: expected one of periodization, zero, got \['zero'\]"),
    "identity in zero mode": (text(wavelet='"identity"', mode='"zero"'), 'mode: expected "periodization"'),
    "locations a number": (text(locations="777"), '"locations": expected a string, got 777'),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_header_is_refused_by_file_and_fault(case):
    content, message = REFUSED[case]
    with pytest.raises(WaveFTError, match=message) as caught:
        parse(content)
    said = str(caught.value)
    assert said.startswith('adapter "a.safetensors", waveft.header')
    assert ": expected " in said
    assert ", got " in said
    assert said.endswith(("update WaveFT.", "newer WaveFT: update."))


def test_exactly_the_largest_header_and_depth_are_read():
    content = text(note='"' + "x" * (4096 - len(text(note='""'))) + '"')
    assert len(content) == 4096
    assert parse(content) == parse(GOOD)
    assert parse(text(note="[[[1]]]")) == parse(GOOD)
    assert parse(text(note='"[[[[[[\\"[[[[{{"')) == parse(GOOD)  # brackets within a string are no nesting


@pytest.mark.parametrize(
    "copy",
    [text(), text(version="1.0"), text(scaling="25"), json.dumps(dict(reversed(GOOD.items()))), f"\n {text()} "],
    ids=["same", "1.0 is 1", "25 is 25.0", "another order", "other blanks"],
)
def test_the_metadatas_copy_is_compared_as_parsed_json(copy):
    assert parse(GOOD, {"waveft": copy, "other": "x"}) == parse(GOOD)


@pytest.mark.parametrize(
    "copy",
    [
        text(scaling="24"),
        text(wavelet='"db2"'),
        text(note="1"),
        text(level=None),
        "",
        "nonsense",
        "null",
        "[" * 3000,
        text()[:-1] + ', "scaling": 25.0}',
        text(scaling="NaN"),
    ],
    ids=["scaling", "wavelet", "a key more", "a key less", "empty", "no JSON", "null", "deep", "a key twice", "NaN"],
)
def test_a_copy_that_differs_is_refused(copy):
    with pytest.raises(WaveFTError, match=r"metadata waveft: expected the header tensor's own JSON .*, got ") as caught:
        parse(GOOD, {"waveft": copy})
    assert str(caught.value).startswith('adapter "a.safetensors", ')


@pytest.mark.parametrize("key", ["version", "level"])
def test_a_copy_that_says_true_for_one_differs(key):
    with pytest.raises(WaveFTError, match="metadata waveft: expected"):
        parse(GOOD, {"waveft": text(**{key: "true"})})


def test_a_copy_must_repeat_unknown_keys_too():
    content = {**GOOD, "colour": "red"}
    assert parse(content, {"waveft": json.dumps(content)}) == parse(GOOD)
    with pytest.raises(WaveFTError, match="metadata waveft"):
        parse(content, {"waveft": json.dumps(GOOD)})


def test_what_a_header_writes_is_what_it_reads():
    for header in (
        Header("db1", "periodization", 25.0),
        Header("coif3", "zero", -1e-7, "peft:9"),
        Header("db2", "zero", 3),
    ):
        assert parse(header.to_json(), {"waveft": header.to_json()}) == header
