import json
import os
import struct

import pytest

from trainer.base import headers


def write(path, tensors, metadata=None, cut=0):
    """Writes name -> (shape, bytes) as a safetensors file of F16, or of what the third says."""
    header, data = {"__metadata__": metadata} if metadata else {}, b""
    for name, (shape, content) in tensors.items():
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    whole = struct.pack("<Q", len(text)) + text + data
    path.write_bytes(whole[: len(whole) - cut])
    return path


TENSORS = {"vae.a": ([2, 3], bytes(range(12))), "vae.b": ([4], bytes(8)), "other": ([1], b"xy")}


def test_a_header_says_names_shapes_and_metadata(tmp_path):
    header = headers.read(write(tmp_path / "a.safetensors", TENSORS, {"k": "v"}))
    assert list(header.tensors) == list(TENSORS)
    assert header.metadata == {"k": "v"}
    assert header.path.read_bytes()[header.start :] == bytes(range(12)) + bytes(8) + b"xy"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "is not a safetensors file, or was cut short"),
        (b"<html>" * 30, "is not a safetensors file, or was cut short"),
        (b"\x04\0\0\0\0\0\0\0nope", "its header cannot be read"),
        (b"\x02\0\0\0\0\0\0\0[]", "its header cannot be read"),
        (b'\x07\0\0\0\0\0\0\0{"a":1}', "its header cannot be read"),
    ],
)
def test_what_is_no_safetensors_file(tmp_path, content, what):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ValueError, match=what):
        headers.read(tmp_path / "a")


def test_a_file_cut_short_says_how_long_it_should_be(tmp_path):
    path = write(tmp_path / "a.safetensors", TENSORS, cut=3)
    size = path.stat().st_size
    with pytest.raises(ValueError, match=f"expected {size + 3} bytes, got {size}"):
        headers.read(path)
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        headers.read(tmp_path / "b")


def test_a_component_is_counted_without_its_prefix(tmp_path):
    part = headers.part([headers.read(write(tmp_path / "a.safetensors", TENSORS))], "vae.")
    assert (part.parameters, part.size, part.shapes) == (10, 20, {"a": (2, 3), "b": (4,)})
    assert headers.part([headers.read(tmp_path / "a.safetensors")], "unet.") == headers.Part(0, 0, "", {})


def test_a_digest_is_of_the_component_wherever_it_lies(tmp_path):
    def digest(name, tensors, prefix="", **keys):
        return headers.part([headers.read(write(tmp_path / name, tensors, **keys))], prefix).digest

    alone = {"b": TENSORS["vae.b"], "a": TENSORS["vae.a"]}
    first = digest("a", TENSORS, "vae.")
    assert first == digest("b", alone, metadata={"title": "another"})
    changed = {**alone, "a": ([2, 3], bytes(6) + b"\x07" * 6)}  # the same header to the letter
    assert headers.read(write(tmp_path / "c", changed)).tensors == headers.read(write(tmp_path / "d", alone)).tensors
    assert first != digest("c", changed)
    assert first != digest("e", {**alone, "a": ([3, 2], alone["a"][1])})


def test_shards_are_one_component(tmp_path):
    whole = headers.part([headers.read(write(tmp_path / "a", TENSORS))])
    shards = [headers.read(write(tmp_path / str(n), dict([item]))) for n, item in enumerate(TENSORS.items())]
    assert headers.part(shards) == whole


def test_however_many_tensors_few_are_read(tmp_path, monkeypatch):
    path = write(tmp_path / "a", {f"{n}": ([2000], bytes([n]) * 4000) for n in range(200)})
    reads, sample = [], headers.sample
    monkeypatch.setattr(headers, "sample", lambda *where: reads.append(len(sample(*where))) or sample(*where))
    headers.part([headers.read(path)])
    assert reads == [headers.SAMPLE_BYTES] * headers.SAMPLES


@pytest.mark.parametrize(("folder", "stem"), [("unet", "diffusion_pytorch_model"), ("text_encoder_2", "model")])
def test_the_files_that_are_loaded(tmp_path, folder, stem):
    place = tmp_path / folder
    place.mkdir()

    def names(*files, index=(), variant=""):
        for path in place.iterdir():
            path.unlink()
        for file in files:
            (place / file).write_bytes(b"")
        if index:
            table = {"weight_map": {str(number): name for number, name in enumerate(index)}}
            (place / f"{stem}.safetensors.index{variant}.json").write_text(json.dumps(table))
        return [path.name for path in headers.weight_files(place)]

    whole, half = f"{stem}.safetensors", f"{stem}.fp16.safetensors"
    assert names("model.onnx", f"{stem}.bin", f"{stem}.non_ema.safetensors") == []
    assert names(whole, half, f"{stem}.bin") == [whole]
    assert names(half) == [half]
    assert headers.is_half(place / half) and not headers.is_half(place / whole)
    shards = [f"{stem}-0000{n}-of-00002.safetensors" for n in (1, 2)]
    assert names(*shards, index=[*shards, shards[0]]) == shards
    halves = [f"{stem}.fp16-0000{n}-of-00002.safetensors" for n in (1, 2)]
    assert names(*halves, index=halves, variant=".fp16") == halves
    assert all(map(headers.is_half, map(place.joinpath, halves)))
    with pytest.raises(ValueError, match=r"00002-of-00002.safetensors, not there. Fetch the whole model."):
        names(shards[0], index=shards)
    with pytest.raises(ValueError, match="expected names of files beside it"):
        names(index=["../../secret.safetensors"])


@pytest.mark.parametrize("text", ["[]", "{", '{"weight_map": [1]}', '{"weight_map": {"a": 1}}', '{"weight_map": {}}'])
def test_an_index_of_another_form_is_told(tmp_path, text):
    (tmp_path / "diffusion_pytorch_model.safetensors.index.json").write_text(text)
    with pytest.raises(ValueError, match="Fetch it again"):
        headers.weight_files(tmp_path)


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
ODD = {
    "a shape that is null": {**ENTRY, "shape": None},
    "no shape": {key: value for key, value in ENTRY.items() if key != "shape"},
    "offsets of text": {**ENTRY, "data_offsets": ["a", "b"]},
    "one offset": {**ENTRY, "data_offsets": [8]},
    "three offsets": {**ENTRY, "data_offsets": [0, 8, 8]},
    "an offset before the file": {**ENTRY, "data_offsets": [-5, 3]},
    "offsets the wrong way round": {**ENTRY, "data_offsets": [8, 0]},
    "a hole": {**ENTRY, "data_offsets": [4, 12]},
    "a shape that is larger than its bytes": {**ENTRY, "shape": [1 << 40]},
    "a side below 0": {**ENTRY, "shape": [-2, -1]},
    "a side that is true": {**ENTRY, "shape": [2, True]},
    "a fraction": {**ENTRY, "shape": [2.0]},
    "a dtype that is none": {**ENTRY, "dtype": 7},
    "a text for an entry": "F32",
    "null for an entry": None,
}


@pytest.mark.parametrize("name", ODD)
def test_a_header_of_another_form_is_no_safetensors_file(tmp_path, name):
    text = json.dumps({"a": ODD[name]}).encode()
    (tmp_path / "a.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    with pytest.raises(ValueError, match=r"its header cannot be read. Fetch it again"):
        headers.read(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    "text",
    [b"[1]", b"null", b'{"__metadata__": [1]}', b'{"__metadata__": {"a": 1}}', b'{"a":' + b"[" * 10**5 + b"]" * 10**5],
)  # fmt: skip
def test_a_header_that_is_no_table_of_tensors(tmp_path, text):
    (tmp_path / "a.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(ValueError, match=r"its header cannot be read. Fetch it again"):
        headers.read(tmp_path / "a.safetensors")


def test_what_is_no_plain_file_is_never_opened(tmp_path):
    (tmp_path / "folder.safetensors").mkdir()
    os.mkfifo(tmp_path / "pipe.safetensors")
    for name, kind in (("folder", "a folder"), ("pipe", "a pipe")):
        with pytest.raises(ValueError, match=f"it is {kind}, not a file"):
            headers.read(tmp_path / f"{name}.safetensors")
