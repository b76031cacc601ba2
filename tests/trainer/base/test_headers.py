import json
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


def test_pickled_weights_have_a_size_and_a_digest(tmp_path):
    (tmp_path / "a.bin").write_bytes(bytes(range(250)) * 1000)
    part = headers.pickled([tmp_path / "a.bin"])
    assert (part.parameters, part.size) == (0, 250_000)
    (tmp_path / "a.bin").write_bytes(bytes(range(1, 251)) * 1000)
    assert headers.pickled([tmp_path / "a.bin"]).digest != part.digest


def test_the_files_that_are_loaded(tmp_path):
    def names(*files):
        for path in tmp_path.iterdir():
            path.unlink()
        for file in files:
            (tmp_path / file).write_bytes(b"")
        return [path.name for path in headers.weight_files(tmp_path)]

    assert names("model.onnx", "openvino_model.bin") == []
    assert names("pytorch_model.bin", "openvino_model.bin") == ["pytorch_model.bin"]
    assert names("model.safetensors", "model.fp16.safetensors", "pytorch_model.bin") == ["model.safetensors"]
    assert names("model.fp16-00001-of-00002.safetensors") == ["model.fp16-00001-of-00002.safetensors"]
