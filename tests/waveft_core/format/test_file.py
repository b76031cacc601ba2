import hashlib
import itertools
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from waveft_core import Adapter, Layer, WaveFTError, load, save
from waveft_core.format.file import from_tensors, read_header
from waveft_core.format.wholefile import write_atomically

GOOD = {"level": 1, "mode": "periodization", "scaling": 25.0, "version": 1, "wavelet": "db1"}
NAME = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
DTYPES = {"F32": np.float32, "F16": np.float16, "F64": np.float64, "I32": np.int32, "I64": np.int64, "U8": np.uint8}


def array(dtype, content, shape=None):
    """(dtype word, shape, bytes), as a safetensors header declares them; BF16 is given as its raw 16 bits."""
    content = np.array(content, dtype=np.uint16 if dtype == "BF16" else DTYPES[dtype])
    return dtype, list(content.shape if shape is None else shape), content.tobytes()


def header_tensor(content=None, **changes):
    content = json.dumps({**GOOD, **changes}) if content is None else content
    return array("U8", list(content.encode() if isinstance(content, str) else content))


def layer(name=NAME, values=(0.5, 1.0), indices=(1, 10), shape=(4, 4), dtype="F32"):
    return {
        f"{name}.waveft_values": array(dtype, values),
        f"{name}.waveft_indices": array("I32", indices),
        f"{name}.waveft_shape": array("I32", shape),
    }


def parts(header=None, metadata=None, **changes):
    """The tensors of a good file, some replaced: `values=`, `indices=`, `shape=` take a triple, or None to drop it."""
    tensors = {"waveft.header": header or header_tensor(), **layer()}
    for part, triple in changes.items():
        tensors.pop(f"{NAME}.waveft_{part}")
        if triple is not None:
            tensors[f"{NAME}.waveft_{part}"] = triple
    return tensors, metadata


def encode(tensors, metadata=None):
    """The bytes of a safetensors file, written by hand so that nothing is checked."""
    declared, data = {}, b""
    if metadata is not None:
        declared["__metadata__"] = metadata
    for name, (dtype, shape, content) in tensors.items():
        declared[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    head = json.dumps(declared).encode()
    head += b" " * (-len(head) % 8)
    return len(head).to_bytes(8, "little") + head + data


def write(path, tensors, metadata=None):
    path.write_bytes(encode(tensors, metadata))
    return path


def as_torch(tensors):
    """The same tensors as a loader without metadata hands them on."""
    return {
        name: (
            torch.from_numpy(np.frombuffer(content, dtype=DTYPES.get(dtype, np.int16)).copy())
            .view(torch.bfloat16 if dtype == "BF16" else getattr(torch, np.dtype(DTYPES[dtype]).name))
            .reshape(shape)
        )
        for name, (dtype, shape, content) in tensors.items()
    }


def test_a_file_written_by_hand_is_read(tmp_path):
    path = write(tmp_path / "a.safetensors", *parts(metadata={"waveft": json.dumps(GOOD), "author": "me"}))
    adapter = load(path)
    assert (adapter.wavelet, adapter.mode, adapter.scaling, adapter.locations) == ("db1", "periodization", 25.0, None)
    assert dict(adapter.metadata) == {"author": "me"}
    assert list(adapter.layers) == [NAME]
    assert adapter.layers[NAME].values.tolist() == [0.5, 1.0]
    assert adapter.layers[NAME].indices.tolist() == [1, 10]
    assert adapter.layers[NAME].shape == (4, 4)
    assert read_header(str(path)) == {**GOOD, "layers": 1, "coefficients": 2, "metadata": {"author": "me"}}
    assert from_tensors(as_torch(parts()[0]), "a").layers[NAME].values.tolist() == [0.5, 1.0]


def test_unknown_header_keys_are_ignored(tmp_path):
    path = write(tmp_path / "a.safetensors", *parts(header_tensor(colour="red", nested={"a": [1]})))
    assert load(path).wavelet == "db1"
    assert "colour" not in read_header(path)


GONE = "The file is damaged"
UPDATE = "update WaveFT"
# What is wrong -> (tensors and metadata, what the message says, whether it names the layer, the remedy)
BROKEN = {
    "no header tensor": ((layer(), None), r"expected a tensor waveft\.header, got none", False, "no WaveFT adapter"),
    "a header of I32": (parts(array("I32", [1, 2])), r"expected U8 \[len\], got (I32|torch.int32) \[2\]", False, GONE),
    "a header of two axes": (
        parts(array("U8", [1, 2], shape=[1, 2])),
        r"expected U8 \[len\], got (U8|torch.uint8) \[1, 2\]",
        False,
        GONE,
    ),
    "a header of no axis": (parts(array("U8", [1], shape=[])), r"expected U8 \[len\]", False, GONE),
    "an empty header": (parts(header_tensor(b"")), "a strict UTF-8 JSON object", False, UPDATE),
    "a header that is no JSON": (parts(header_tensor("hello")), "a strict UTF-8 JSON object", False, UPDATE),
    "a header that is a list": (parts(header_tensor("[]")), "a JSON object, got list", False, UPDATE),
    "a header over 4096 bytes": (parts(header_tensor(note="x" * 4096)), "at most 4096 bytes", False, UPDATE),
    "a header nested five deep": (parts(header_tensor(note=[[[[1]]]])), "nesting 5 deep", False, UPDATE),
    "a header key twice": (
        parts(header_tensor(json.dumps(GOOD)[:-1] + ', "level": 1}')),
        "key 'level' given twice",
        False,
        UPDATE,
    ),
    "version 2": (parts(header_tensor(version=2)), '"version": expected 1, got 2', False, "newer WaveFT"),
    "version true": (parts(header_tensor(version=True)), '"version": expected 1, got True', False, "newer WaveFT"),
    "level 2": (parts(header_tensor(level=2)), '"level": expected 1, got 2', False, "newer WaveFT"),
    "an unknown wavelet": (parts(header_tensor(wavelet="dmey")), "wavelet: expected one of .*'dmey'", False, UPDATE),
    "an unknown mode": (parts(header_tensor(mode="symmetric")), "mode: expected one of .*'symmetric'", False, UPDATE),
    "scaling true": (parts(header_tensor(scaling=True)), '"scaling": expected a finite number', False, UPDATE),
    "scaling NaN": (parts(header_tensor(scaling=float("nan"))), "NaN is no JSON number", False, UPDATE),
    "scaling infinite": (parts(header_tensor(scaling=float("inf"))), "Infinity is no JSON number", False, UPDATE),
    "scaling 1e999": (
        parts(header_tensor(json.dumps(GOOD).replace("25.0", "1e999"))),
        "1e999 is beyond a float",
        False,
        UPDATE,
    ),
    "another header in the metadata": (
        parts(metadata={"waveft": json.dumps({**GOOD, "scaling": 1.0})}),
        "metadata waveft: expected the header tensor's own JSON",
        False,
        "get the original file",
    ),
    "no layer": (
        ({"waveft.header": header_tensor()}, None),
        "layers: expected at least one layer, got none",
        False,
        "",
    ),
    "no values": (parts(values=None), "waveft_shape, waveft_values, got waveft_indices, waveft_shape", True, GONE),
    "no indices": (parts(indices=None), "got waveft_shape, waveft_values", True, GONE),
    "no shape": (parts(shape=None), "got waveft_indices, waveft_values", True, GONE),
    "a stranger's tensor": (
        ({**parts()[0], "lora_x.lora_up.weight": array("F32", [1.0])}, None),
        'expected <layer>.waveft_indices|waveft_shape|waveft_values, got "lora_x.lora_up.weight"',
        False,
        "of a later version",
    ),
    "a fourth tensor of a layer": (
        ({**parts()[0], f"{NAME}.waveft_bias": array("F32", [1.0])}, None),
        f'got "{NAME}.waveft_bias"',
        False,
        "of a later version",
    ),
    "a layer name with a dot": (
        ({"waveft.header": header_tensor(), **layer("a.b")}, None),
        'got "a.b.waveft',
        False,
        "",
    ),
    "a layer without a name": (({"waveft.header": header_tensor(), **layer("")}, None), 'got ".waveft', False, ""),
    "a tensor without a dot": (({**parts()[0], "values": array("F32", [1.0])}, None), 'got "values"', False, ""),
    "a second header": (({**parts()[0], "waveft.header2": header_tensor()}, None), 'got "waveft.header2"', False, ""),
    "values of F64": (
        parts(values=array("F64", [0.5, 1.0])),
        "waveft_values: expected F32 or F16 or BF16, got (F64|torch.float64)",
        True,
        GONE,
    ),
    "values of I32": (
        parts(values=array("I32", [1, 2])),
        "waveft_values: expected F32 or F16 or BF16, got I32",
        True,
        GONE,
    ),
    "values of two axes": (parts(values=array("F32", [[0.5, 1.0]])), "waveft_values: expected one axis", True, GONE),
    "values of no axis": (
        parts(values=array("F32", 0.5), indices=array("I32", 1)),
        "waveft_(values|indices): expected one axis",
        True,
        GONE,
    ),
    "indices of I64": (
        parts(indices=array("I64", [1, 10])),
        "waveft_indices: expected I32, got (I64|torch.int64)",
        True,
        GONE,
    ),
    "indices of F32": (parts(indices=array("F32", [1, 10])), "waveft_indices: expected I32, got F32", True, GONE),
    "indices of two axes": (parts(indices=array("I32", [[1], [10]])), "waveft_indices: expected one axis", True, GONE),
    "shape of I64": (
        parts(shape=array("I64", [4, 4])),
        "waveft_shape: expected I32, got (I64|torch.int64)",
        True,
        GONE,
    ),
    "shape of two axes": (parts(shape=array("I32", [[4, 4]])), "waveft_shape: expected one axis", True, GONE),
    "shape of no size": (parts(shape=array("I32", [])), "waveft_shape: expected two to four sizes", True, GONE),
    "shape of one size": (parts(shape=array("I32", [16])), "waveft_shape: expected two to four sizes", True, GONE),
    "shape of five sizes": (parts(shape=array("I32", [2] * 5)), "waveft_shape: expected two to four sizes", True, GONE),
    "a size of zero": (parts(shape=array("I32", [4, 0])), r"each at least 1, got \[4, 0\]", True, GONE),
    "negative sizes": (parts(shape=array("I32", [-4, -4])), r"each at least 1, got \[-4, -4\]", True, GONE),
    "an odd size": (
        parts(shape=array("I32", [4, 5])),
        "expected even sizes under periodization",
        True,
        "Leave the layer out",
    ),
    "a plane of 2**31": (parts(shape=array("I32", [2**16, 2**15])), r"fewer than 2\*\*31 coefficients", True, GONE),
    "sizes of 2**31 - 2": (parts(shape=array("I32", [2**31 - 2] * 4)), r"fewer than 2\*\*31 coefficients", True, GONE),
    "p = 0": (
        parts(values=array("F32", []), indices=array("I32", [])),
        "at least one, got 0 values and 0 indices",
        True,
        GONE,
    ),
    "fewer indices": (parts(indices=array("I32", [1])), "got 2 values and 1 indices", True, GONE),
    "fewer values": (parts(values=array("F32", [1.0])), "got 1 values and 2 indices", True, GONE),
    "a negative index": (parts(indices=array("I32", [-1, 10])), "got -1, out of range", True, GONE),
    "an index out of range": (
        parts(indices=array("I32", [1, 16])),
        r"within \[0, 16\), got 16, out of range",
        True,
        GONE,
    ),
    "a repeated index": (parts(indices=array("I32", [10, 10])), "got 10 after 10 at position 1", True, GONE),
    "decreasing indices": (parts(indices=array("I32", [10, 1])), "got 1 after 10 at position 1", True, GONE),
    "a value NaN": (
        parts(values=array("F32", [0.5, float("nan")])),
        "finite numbers, got NaN or inf",
        True,
        "earlier file",
    ),
    "a value infinite": (
        parts(values=array("F32", [float("-inf"), 1])),
        "finite numbers, got NaN",
        True,
        "earlier file",
    ),
    "an F16 infinity": (parts(values=array("F16", [float("inf"), 1])), "finite numbers", True, "earlier file"),
    "a BF16 NaN": (parts(values=array("BF16", [0x7FC0, 0])), "finite numbers", True, "earlier file"),
    "a product beyond float32": (
        parts(values=array("F32", [2e38, 1])),
        r"scaling \* values within float32",
        True,
        GONE,
    ),
    "a product beyond float32 by the scaling": (
        parts(header_tensor(scaling=1e300)),
        r"scaling \* values within float32",
        True,
        GONE,
    ),
}
# Faults of the values, which `read_header` does not read.
UNREAD = {
    "a size of zero",
    "negative sizes",
    "an odd size",
    "a plane of 2**31",
    "sizes of 2**31 - 2",
    "a negative index",
    "an index out of range",
    "a repeated index",
    "decreasing indices",
    "a value NaN",
    "a value infinite",
    "an F16 infinity",
    "a BF16 NaN",
    "a product beyond float32",
    "a product beyond float32 by the scaling",
}


def assert_words(error, source, message, names_layer, remedy):
    said = str(error)
    assert said.startswith(f'adapter "{source}", ')
    assert (f'layer "{NAME}"' in said) == names_layer
    assert ": expected " in said
    assert ", got " in said
    assert remedy in said


@pytest.mark.parametrize("case", BROKEN)
def test_load_refuses(case, tmp_path):
    (tensors, metadata), message, names_layer, remedy = BROKEN[case]
    path = write(tmp_path / "a.safetensors", tensors, metadata)
    with pytest.raises(WaveFTError, match=message) as caught:
        load(path)
    assert_words(caught.value, path, message, names_layer, remedy)


@pytest.mark.parametrize("case", BROKEN)
def test_from_tensors_refuses(case):
    (tensors, metadata), message, names_layer, remedy = BROKEN[case]
    message = message.replace("got I32", "got (I32|torch.int32)").replace("got F32", "got (F32|torch.float32)")
    with pytest.raises(WaveFTError, match=message) as caught:
        from_tensors(as_torch(tensors), "memory", metadata)
    remedy = "no WaveFT adapter" if case == "no header tensor" else remedy
    assert_words(caught.value, "memory", message, names_layer, remedy)


@pytest.mark.parametrize("case", sorted(set(BROKEN) - UNREAD))
def test_read_header_refuses_what_it_can_see_without_reading_a_coefficient(case, tmp_path):
    (tensors, metadata), _, names_layer, remedy = BROKEN[case]
    path = write(tmp_path / "a.safetensors", tensors, metadata)
    with pytest.raises(WaveFTError) as caught:
        read_header(path)
    assert_words(caught.value, path, "", names_layer, remedy)


def whole():
    return encode(*parts())


NO_FILE = {
    "empty": b"",
    "a few bytes": b"hello",
    "text": b"this is not a safetensors file at all, it is text" * 20,
    "a header's length alone": whole()[:8],
    "cut short in the header": whole()[:40],
    "cut short in the data": whole()[:-1],
    "cut short by a tensor": whole()[:-8],
    "bytes after its end": whole() + b"\0" * 8,
    "a header length beyond the file": (2**40).to_bytes(8, "little") + whole()[8:],
    "a header length of 2**63": (2**63).to_bytes(8, "little") + whole()[8:],
    "a zip file": b"PK\x03\x04" + b"\0" * 200,
    "a hole in the data": whole().replace(b'"data_offsets": [0,', b'"data_offsets": [1,'),
}


@pytest.mark.parametrize("read", [load, read_header])
@pytest.mark.parametrize("case", NO_FILE)
def test_what_is_no_whole_safetensors_file_is_refused(case, read, tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(NO_FILE[case])
    with pytest.raises(
        WaveFTError, match=r"file: expected a whole safetensors file, got .*\. Copy or download"
    ) as caught:
        read(path)
    assert str(caught.value).startswith(f'adapter "{path}", ')


def test_a_tensor_larger_than_the_file_is_refused_without_allocating(tmp_path):
    tensors, _ = parts()
    declared = {
        name: {"dtype": dtype, "shape": shape, "data_offsets": [0, len(content)]}
        for name, (dtype, shape, content) in tensors.items()
    }
    declared[f"{NAME}.waveft_values"] = {"dtype": "F32", "shape": [2**38], "data_offsets": [0, 2**40]}
    head = json.dumps(declared).encode()
    (tmp_path / "a.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + b"\0" * 64)
    with pytest.raises(WaveFTError, match="a whole safetensors file"):
        load(tmp_path / "a.safetensors")


@pytest.mark.parametrize("read", [load, read_header])
def test_a_missing_file_and_a_folder_are_refused(read, tmp_path):
    peft = tmp_path / "peft"
    peft.mkdir()
    (peft / "adapter_config.json").write_text("{}")
    for path, got in (
        (tmp_path / "none.safetensors", "no such file. Check the path."),
        (tmp_path / "none.safetensors:0,8", "no such file. A strength is written with a point: FILE:0.8."),
        (tmp_path, "a folder. Give the file in it."),
        (peft, "PEFT's folder of an adapter. Make a file of it first: convert --to waveft."),
    ):
        with pytest.raises(WaveFTError, match=rf"an existing .safetensors file, got {got}") as caught:
            read(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        (
            "lora_unet_x.lora_up.weight",
            "This is no WaveFT adapter but seems to be a LoRA: load it as that, or make an adapter of it: `extract",
        ),
        (
            "lora_unet_x.diff",
            "This is no WaveFT adapter but holds full differences: load it as that, or make an adapter of it: `extract",
        ),
        (
            "base_model.model.x.waveft_spectrum",
            "This is no WaveFT adapter's file but PEFT's: give its folder to `convert",
        ),
        (
            "model.diffusion_model.out.2.weight",
            "This is no WaveFT adapter but seems to be a whole model: put it with the checkpoints",
        ),
        ("x.weight", "This is a safetensors file but no WaveFT adapter"),
    ],
)
def test_what_is_no_adapter_is_told_what_to_do_with_it(name, remedy, tmp_path):
    safetensors.torch.save_file({name: torch.zeros(2)}, tmp_path / "a.safetensors")
    with pytest.raises(WaveFTError, match=rf"expected a tensor waveft.header, got none. {remedy}"):
        load(tmp_path / "a.safetensors")


def test_a_pickle_is_not_opened(tmp_path):
    (tmp_path / "a.ckpt").write_bytes(b"anything")
    with pytest.raises(WaveFTError, match=r"got a pickle \(.ckpt\). It can run code when it is read"):
        load(tmp_path / "a.ckpt")


def test_a_huge_shape_makes_nothing_before_it_is_asked_to(tmp_path):
    shape = (2**15 - 2, 2**16)  # a plane just below the limit: 8 GB in float32
    path = write(
        tmp_path / "a.safetensors", *parts(shape=array("I32", shape), indices=array("I32", [0, 2**31 - 2**18]))
    )
    tracemalloc.start()
    adapter = load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20
    with pytest.raises(WaveFTError, match="Give a larger max_entries"):
        adapter.delta(NAME)


def two_layers(**more):
    first = Layer(torch.tensor([0.5, -1.25]), torch.tensor([1, 10], dtype=torch.int32), (4, 4))
    second = Layer(torch.tensor([2.0]), torch.tensor([7], dtype=torch.int32), (2, 2, 1, 2))
    return Adapter({"lora_b": second, "lora_a": first}, "db1", "periodization", 25.0, "uniform:777", **more)


GOLDEN = (
    '{"__metadata__":{"author":"é","waveft":"{\\"level\\":1,\\"locations\\":\\"uniform:777\\",\\"mode\\":\\"periodization\\",'
    '\\"scaling\\":25.0,\\"version\\":1,\\"wavelet\\":\\"db1\\"}"},'
)


GOLDEN_SHA256 = "66daeb8d3d24dbe2fba58c78e50ef1432e303512fab47914e0d024fc8850218d"


def split(content):
    length = int.from_bytes(content[:8], "little")
    return content[8 : 8 + length], content[8 + length :]


def test_the_golden_bytes_of_a_tiny_adapter(tmp_path):
    save(two_layers(metadata={"author": "é"}), tmp_path / "a.safetensors")
    content = (tmp_path / "a.safetensors").read_bytes()
    head, data = split(content)
    assert head.decode().startswith(GOLDEN)
    assert hashlib.sha256(content).hexdigest() == GOLDEN_SHA256
    header = b'{"level":1,"locations":"uniform:777","mode":"periodization","scaling":25.0,"version":1,"wavelet":"db1"}'
    assert header in data
    assert np.array([0.5, -1.25], np.float32).tobytes() in data


def test_header_keys_are_sorted_and_the_data_is_aligned(tmp_path):
    save(two_layers(metadata={"b": "2", "a": "1", "ss_x": "é", "modelspec.title": "t"}), tmp_path / "a.safetensors")
    head, data = split((tmp_path / "a.safetensors").read_bytes())
    assert len(head) % 8 == 0
    declared = json.loads(head)
    assert list(declared) == sorted(declared)
    assert list(declared["__metadata__"]) == sorted(declared["__metadata__"])
    tensors = {name: entry for name, entry in declared.items() if name != "__metadata__"}
    assert all(list(entry) == sorted(entry) for entry in tensors.values())
    ends = sorted(tuple(entry["data_offsets"]) for entry in tensors.values())
    assert ends[0][0] == 0
    assert ends[-1][1] == len(data)
    assert all(before[1] == after[0] for before, after in itertools.pairwise(ends))
    for entry in tensors.values():
        size = {"F32": 4, "I32": 4, "U8": 1}[entry["dtype"]]
        assert entry["data_offsets"][0] % size == 0
    assert json.loads(declared["__metadata__"]["waveft"]) == {**GOOD, "locations": "uniform:777"}


def test_the_same_adapter_is_the_same_bytes_in_every_process(tmp_path, monkeypatch):
    code = """
import sys, torch
from waveft_core import Adapter, Layer, save
layers = {
    f"lora_{k}": Layer(torch.full((3,), float(k)), torch.tensor([0, 5, 9], dtype=torch.int32), (4, 4)) for k in %s
}
metadata = dict(sorted({f"key{k}": str(k) for k in range(20)}.items(), key=lambda item: hash(item)))
save(Adapter(layers, metadata=metadata), sys.argv[1])
"""
    here, there = tmp_path / "here.safetensors", tmp_path / "there.safetensors"
    monkeypatch.setattr(sys, "argv", ["-c", str(here)])
    exec(code % "range(9)", {})
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"  # not that of this process
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    subprocess.run([sys.executable, "-c", code % "reversed(range(9))", str(there)], check=True, env=environment)
    assert here.read_bytes() == there.read_bytes()


def test_saving_what_was_loaded_gives_the_same_bytes(tmp_path):
    save(two_layers(metadata={"a": "1"}), tmp_path / "a.safetensors")
    save(load(tmp_path / "a.safetensors"), tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_values_come_back_bit_for_bit_in_each_dtype(dtype, tmp_path, bits, make_adapter):
    adapter = make_adapter({"lora_a": (4, 6), "lora_b": (2, 2, 3, 1)}, mode="zero", wavelet="db2", dtype=dtype)
    save(adapter, tmp_path / "a.safetensors", dtype=dtype)
    back = load(tmp_path / "a.safetensors")
    assert (back.wavelet, back.mode, back.scaling) == ("db2", "zero", 1.7)
    for name, expected in adapter.layers.items():
        got = back.layers[name]
        assert got.values.dtype == dtype
        assert bits(got.values) == bits(expected.values)
        assert torch.equal(got.indices, expected.indices)
        assert got.shape == expected.shape
    assert list(safetensors.torch.load_file(tmp_path / "a.safetensors"))  # any reader of safetensors reads it


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_values_are_saved_in_float32_by_default(dtype, tmp_path, make_adapter):
    adapter = make_adapter({"lora_a": (4, 6)}, dtype=dtype)
    save(adapter, tmp_path / "a.safetensors")
    got = load(tmp_path / "a.safetensors").layers["lora_a"].values
    assert torch.equal(got, adapter.layers["lora_a"].values.float())


def test_values_that_the_dtype_cannot_hold_are_refused_and_nothing_is_written(tmp_path):
    adapter = Adapter({"lora_a": Layer(torch.tensor([1e5]), torch.zeros(1, dtype=torch.int32), (2, 2))})
    with pytest.raises(WaveFTError, match='layer "lora_a", waveft_values: expected finite'):
        save(adapter, tmp_path / "a.safetensors", dtype=torch.float16)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", [torch.float64, torch.int32, torch.float8_e4m3fn], ids=str)
def test_other_dtypes_are_refused(dtype, tmp_path):
    with pytest.raises(WaveFTError, match="dtype: expected float32, float16 or bfloat16"):
        save(two_layers(), tmp_path / "a.safetensors", dtype=dtype)


def test_metadata_is_merged_over_the_adapters_own(tmp_path):
    save(two_layers(metadata={"a": "1", "b": "1"}), tmp_path / "a.safetensors", {"b": "2", "waveft": "nonsense"})
    assert dict(load(tmp_path / "a.safetensors").metadata) == {"a": "1", "b": "2"}


def test_metadata_that_is_no_string_is_refused(tmp_path):
    with pytest.raises(WaveFTError, match='metadata: expected strings, got other values under "ss_steps"'):
        save(two_layers(), tmp_path / "a.safetensors", {"ss_steps": 500, "fine": "x"})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        pytest.param({"notes": "x" * 100_000_000}, "at most 100000000 bytes", id="over 100 MB"),
        pytest.param({"notes": "a\ud800b"}, "valid Unicode.*notes", id="a lone surrogate"),
        pytest.param({"a\ud800b": "notes"}, "valid Unicode.*ud800", id="a lone surrogate in a key"),
        pytest.param({None: "notes"}, "valid Unicode.*None", id="a key that is no string"),
    ],
)
def test_metadata_that_no_reader_takes_is_refused_and_the_old_file_stays(metadata, message, tmp_path):
    path = tmp_path / "a.safetensors"
    save(two_layers(), path)
    before = path.read_bytes()
    with pytest.raises(WaveFTError, match=f"metadata: expected .*{message}"):
        save(two_layers(), path, metadata)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_layers_that_share_a_tensor_are_saved(tmp_path):
    indices, values = torch.tensor([0, 5], dtype=torch.int32), torch.tensor([1.0, 2.0])
    adapter = Adapter({"lora_a": Layer(values, indices, (4, 4)), "lora_b": Layer(values, indices, (4, 4))})
    save(adapter, tmp_path / "a.safetensors")
    assert load(tmp_path / "a.safetensors").layers["lora_b"].values.tolist() == [1.0, 2.0]


def test_views_are_saved(tmp_path):
    long = torch.arange(20.0)
    first = Layer(long[::2][:3], torch.arange(0, 12, 2, dtype=torch.int32)[::2], (4, 4))
    second = Layer(long[6:8], torch.tensor([0, 1], dtype=torch.int32), (4, 4))
    save(Adapter({"lora_a": first, "lora_b": second}), tmp_path / "a.safetensors")
    layers = load(tmp_path / "a.safetensors").layers
    assert [layers[name].values.tolist() for name in sorted(layers)] == [[0, 2, 4], [6, 7]]
    assert layers["lora_a"].indices.tolist() == [0, 4, 8]


def test_parameters_are_taken_for_values_without_a_warning(tmp_path):
    values = torch.nn.Parameter(torch.tensor([4.0, 5.0]))
    adapter = Adapter({"lora_a": Layer(values, torch.tensor([0, 1], dtype=torch.int32), (4, 4))})
    assert not adapter.delta("lora_a").requires_grad
    save(adapter, tmp_path / "a.safetensors")
    assert load(tmp_path / "a.safetensors").layers["lora_a"].values.tolist() == [4.0, 5.0]


@pytest.mark.parametrize(
    "adapter",
    [
        pytest.param(lambda layers: Adapter(layers, locations="x" * 5000), id="a header too long"),
        pytest.param(lambda layers: Adapter(layers, locations=777), id="locations a number"),
        pytest.param(lambda layers: Adapter(layers, locations="\ud800"), id="a lone surrogate"),
    ],
)
def test_what_no_reader_would_take_is_not_written(adapter, tmp_path):
    layers = dict(two_layers().layers)
    with pytest.raises(WaveFTError):
        save(adapter(layers), tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_header_with_a_lone_surrogate_is_refused(tmp_path):
    content = json.dumps({**GOOD, "locations": "\ud800"})  # valid JSON text, yet no Unicode string
    path = write(tmp_path / "a.safetensors", *parts(header_tensor(content)))
    with pytest.raises(WaveFTError, match=r"waveft.header"):
        load(path)


def test_a_missing_folder_is_refused_by_name(tmp_path):
    with pytest.raises(WaveFTError, match=r"expected an existing folder, got none at .*none.\. Make it first"):
        save(two_layers(), tmp_path / "none" / "a.safetensors")


@pytest.mark.parametrize("step", ["replace", "fsync"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(step, tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    save(two_layers(), path)
    before = path.read_bytes()

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="No space left"):
        save(two_layers(metadata={"new": "yes"}), path)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_is_interrupted_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"old")

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_is_whole_before_it_has_its_name(tmp_path, monkeypatch):
    seen = []
    replace = os.replace

    def watch(source, target):
        seen.append((Path(source).read_bytes(), Path(source).parent))
        replace(source, target)

    monkeypatch.setattr(os, "replace", watch)
    write_atomically(tmp_path / "a.bin", b"content")
    assert seen == [(b"content", tmp_path)]


def test_a_new_file_has_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    save(two_layers(), tmp_path / "a.safetensors")
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_file_overwritten_after_load_does_not_change_the_adapter(tmp_path):
    path = tmp_path / "a.safetensors"
    save(two_layers(), path)
    adapter = load(path)
    content = path.read_bytes()
    with path.open("r+b") as file:  # in place: a mapping of the file would see it
        file.write(b"\xff" * len(content))
    assert adapter.layers["lora_a"].values.tolist() == [0.5, -1.25]
    assert adapter.layers["lora_a"].indices.tolist() == [1, 10]
