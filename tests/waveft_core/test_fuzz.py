"""Damaged files by the thousand: each is refused in words or read as a valid adapter, at no more than its own size.

python tests/waveft_core/test_fuzz.py 10000 FOLDER      the slow test's child, with a memory limit
"""

import collections
import contextlib
import faulthandler
import functools
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import pywt
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir
from torch.utils._python_dispatch import TorchDispatchMode

from waveft_core import Adapter, Layer, WaveFTError, load, save
from waveft_core.format.container import read_layout
from waveft_core.format.file import read_header

QUICK, THOROUGH = 300, 10_000
PYTHON_BYTES = 2**17  # the constant beside the file's own size: parsed headers, messages
TORCH_BYTES = 2**12
HEADROOM = 2**26  # of address space while the child reads: far below any number that a file may lie about
EXAMPLE_S, CHILD_S = 5, 1200


def plane(wavelet, mode, shape):
    """(M, N), written apart from the code under test; None for odd sizes under periodization."""
    m, n = shape[0], int(np.prod([int(size) for size in shape[1:]], dtype=object))
    if wavelet == "identity":
        return m, n
    if mode == "zero":
        k = len(pywt.Wavelet(wavelet).rec_lo)
        return 2 * ((m + k - 1) // 2), 2 * ((n + k - 1) // 2)
    return None if m % 2 or n % 2 else (m, n)


def adapter_of(wavelet, mode, shapes, **more):
    generator = np.random.default_rng(len(wavelet) + len(shapes))
    layers = {}
    for number, shape in enumerate(shapes):
        m, n = plane(wavelet, mode, shape)
        p = min(7, m * n)
        indices = np.sort(generator.choice(m * n, p, replace=False)).astype(np.int32)
        values = torch.from_numpy(generator.normal(size=p).astype(np.float32))
        layers[f"lora_unet_{number}"] = Layer(values, torch.from_numpy(indices), shape)
    return Adapter(layers, wavelet, mode, 25.0, **more)


@functools.cache
def whole_files():
    """Valid small files of every kind, as (tensors {name: [dtype, shape, bytes]}, metadata)."""
    kinds = [
        (adapter_of("db1", "periodization", [(4, 6)], locations="uniform:777"), torch.float32),
        (
            adapter_of("db4", "periodization", [(10, 8), (4, 4)], metadata={"ss_tag": "é", "author": "me"}),
            torch.float32,
        ),
        (adapter_of("sym5", "periodization", [(6, 6)]), torch.bfloat16),
        (adapter_of("identity", "periodization", [(5, 7)]), torch.float16),
        (adapter_of("coif2", "zero", [(5, 3), (7, 8)]), torch.float32),
        (adapter_of("db2", "periodization", [(4, 2, 3, 3), (2, 3, 2)]), torch.bfloat16),
        (adapter_of("db1", "zero", [(3, 3)] * 5), torch.float16),
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "whole.safetensors")
        return [(save(adapter, path, dtype=dtype), decode(path.read_bytes()))[1] for adapter, dtype in kinds]


def decode(content):
    length = int.from_bytes(content[:8], "little")
    declared, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    metadata = declared.pop("__metadata__", None)
    tensors = {name: [e["dtype"], e["shape"], data[slice(*e["data_offsets"])]] for name, e in declared.items()}
    return tensors, metadata


def encode(tensors, metadata, lie=None):
    """The file's bytes; `lie` = (tensor, field, JSON text) is told in the header in the place of the truth."""
    declared, data = {}, b""
    if metadata is not None:
        declared["__metadata__"] = metadata
    for name, (dtype, shape, content) in tensors.items():
        declared[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    if lie:
        name, field, _ = lie
        if field is None:
            declared[name] = "@lie@"
        elif field == "twice":
            declared["@lie@"] = 0
        else:
            declared[name][field] = "@lie@"
    head = json.dumps(declared)
    if lie and lie[1] == "twice":
        head = head.replace('"@lie@": 0', f"{json.dumps(lie[0])}: {lie[2]}")
    elif lie:
        head = head.replace('"@lie@"', lie[2])
    head = head.encode("utf-8", "surrogatepass")
    head += b" " * (-len(head) % 8)
    return len(head).to_bytes(8, "little") + head + data


GOOD = {"level": 1, "mode": "periodization", "scaling": 25.0, "version": 1, "wavelet": "db1"}
# JSON texts that take the place of a true one.
NUMBERS = (
    *("0", "-1", "1", "2", "-0", "0.5", "1e999", "-1e999", "1e308", "NaN", "Infinity", "4294967296", "2147483647"),
    *("18446744073709551615", "18446744073709551616", "1" + "0" * 300, "1" * 4000),
)
ODD = (
    *("null", "true", "false", '""', '"x"', "[]", "{}", "[[[[[[1]]]]]]", "[" * 2000 + "]" * 2000, '"\\ud800"'),
    *('"\\u0000"', '{"a": 1, "a": 2}', "[1, 2", "db1", "\ufeff1", '{"a": {"b": {"c": 1}}}'),
)
KEYS = ("version", "level", "wavelet", "mode", "scaling", "locations", "colour")
NAMES = (
    *('"db1"', '"db2"', '"haar"', '"dmey"', '"db39"', '"bior2.2"', '"identity"', '"coif17"', '"db38"'),
    *('"zero"', '"periodization"', '"symmetric"'),
)
SHAPES = (
    *("[]", "[0]", "[1]", "[2]", "[7]", "[1, 7]", "[7, 1]", "[-7]", "[4294967296]", "[18446744073709551615]"),
    *("[18446744073709551615, 2]", "[4611686018427387904, 4]", "[7.0]", "[1e2]", '["7"]', "[" + "1," * 500 + "1]"),
)
SPANS = (
    *("[0, 0]", "[0, 4]", "[4, 0]", "[0, 28]", "[1, 29]", "[-4, 24]", "[0]", "[0, 4, 8]", "[0.0, 28.0]"),
    *("[0, 18446744073709551615]", "[18446744073709551615, 3]"),
)
DTYPES = (
    *('"F64"', '"F32"', '"F16"', '"BF16"', '"F8_E4M3"', '"F8_E5M2"', '"F8_E8M0"', '"F4"', '"C64"', '"f32"'),
    *('"I64"', '"I32"', '"I16"', '"I8"', '"U64"', '"U32"', '"U16"', '"U8"', '"BOOL"'),
)
ENTRIES = (
    '{"dtype": "F32", "shape": [1099511627776], "data_offsets": [0, 4398046511104]}',
    '{"dtype": "I32", "shape": [0], "data_offsets": [0, 0]}',
    *('{"dtype": "F32"}', "{}", '{"waveft": 1}', '{"waveft": "{}"}'),
)
SIZES = (0, -1, 1, 2, 3, 4, 6, 2**15, 2**16, 2**31 - 1, -(2**31))
FLOATS = (0.0, -0.0, float("nan"), float("inf"), -float("inf"), 1e38, -3e38, 1e-45, 65504.0, 1.5)


def numbers_of(dtype, content):
    kind = {"F32": np.float32, "F16": np.float16, "I32": np.int32}.get(dtype, np.uint16)
    return np.frombuffer(content[: len(content) // np.dtype(kind).itemsize * np.dtype(kind).itemsize], kind).copy()


def change_header_json(draw, tensors, metadata):
    pairs = [(key, json.dumps(value)) for key, value in GOOD.items()]
    for _ in range(draw(st.integers(1, 2))):
        kind = draw(st.sampled_from(["replace", "replace", "twice", "drop", "add", "cut"]))
        key = draw(st.sampled_from(KEYS))
        text = draw(st.sampled_from(NUMBERS + ODD + NAMES))
        if kind == "replace":
            pairs = [(name, text if name == key else old) for name, old in pairs]
        elif kind == "drop":
            pairs = [pair for pair in pairs if pair[0] != key]
        else:
            pairs.insert(draw(st.integers(0, len(pairs))), (key if kind == "twice" else f"new {key}", text))
    content = "{" + ", ".join(f"{json.dumps(key)}: {text}" for key, text in pairs) + "}"
    if kind == "cut":
        content = content[: draw(st.integers(0, len(content)))]
    raw = content.encode("utf-8", "surrogatepass")
    if "waveft.header" in tensors:
        tensors["waveft.header"] = ["U8", [len(raw)], raw]
    if draw(st.booleans()):
        metadata["waveft"] = content
    return metadata


def change_metadata(draw, tensors, metadata):
    kind = draw(st.sampled_from(["none", "empty", "edit", "drop", "text", "long"]))
    if kind in ("none", "empty"):
        return None if kind == "none" else {}
    copy = metadata.get("waveft", "")
    text = {"edit": copy.replace("25.0", "24.0"), "text": draw(st.sampled_from(NUMBERS + ODD)), "long": "[" * 5000}
    metadata["waveft"] = text.get(kind, copy)
    if kind == "drop":
        del metadata["waveft"]
    return metadata


def change_indices(draw, tensors, metadata):
    name = draw(st.sampled_from([name for name in tensors if name.endswith("indices")] or ["none"]))
    if name in tensors:
        dtype, shape, content = tensors[name]
        held = numbers_of("I32", content)
        kind = draw(st.sampled_from(["swap", "repeat", "set", "reverse", "shift"]))
        at, to = draw(st.integers(0, 9)) % max(1, held.size), draw(st.sampled_from(SIZES))
        if held.size:
            if kind == "swap":
                held[[at, at - 1]] = held[[at - 1, at]]
            elif kind == "repeat":
                held[at] = held[at - 1]
            elif kind == "set":
                held[at] = to
            else:
                held = held[::-1] if kind == "reverse" else held + np.int32(to % 50 - 25)
        tensors[name] = [dtype, shape, held.astype(np.int32).tobytes()]
    return metadata


def change_values(draw, tensors, metadata):
    name = draw(st.sampled_from([name for name in tensors if name.endswith("values")] or ["none"]))
    if name in tensors:
        dtype, shape, content = tensors[name]
        held = numbers_of(dtype, content)
        with np.errstate(over="ignore"):
            if held.size:
                number = draw(st.sampled_from(FLOATS))
                raw = torch.tensor(number).bfloat16().view(torch.int16).item() & 0xFFFF if dtype == "BF16" else number
                held[draw(st.integers(0, 9)) % held.size] = raw if held.dtype != np.int32 else 0
        tensors[name] = [dtype, shape, held.tobytes()]
    return metadata


def change_shape(draw, tensors, metadata):
    name = draw(st.sampled_from([name for name in tensors if name.endswith("waveft_shape")] or ["none"]))
    if name in tensors:
        sizes = draw(st.lists(st.sampled_from(SIZES), min_size=0, max_size=5))
        if draw(st.booleans()):  # one size alone
            sizes = [*numbers_of("I32", tensors[name][2]).tolist(), *sizes[:1]][-4:]
        tensors[name] = ["I32", [len(sizes)], np.array(sizes, np.int32).tobytes()]
    return metadata


def change_tensors(draw, tensors, metadata):
    name = draw(st.sampled_from(sorted(tensors)))
    kind = draw(st.sampled_from(["drop", "rename", "copy", "cast", "shorten", "stranger", "axes"]))
    dtype, shape, content = tensors[name]
    if kind in ("drop", "rename"):
        del tensors[name]
    if kind in ("rename", "copy"):
        layer = draw(st.sampled_from(["lora_unet_0", "lora_unet_9", "", "a.b", "é", "waveft", "\0", " ", "x" * 3000]))
        part = draw(st.sampled_from(["waveft_values", "waveft_indices", "waveft_shape", "header", "waveft_bias", ""]))
        tensors[f"{layer}.{part}"] = [dtype, shape, content]
    elif kind == "cast":
        width = {"F32": 4, "I32": 4, "F16": 2, "BF16": 2, "U8": 1, "F64": 8, "I64": 8}
        to = draw(st.sampled_from(sorted(width)))
        tensors[name] = [to, [len(content) // width[to]], content[: len(content) // width[to] * width[to]]]
    elif kind == "shorten":
        keep = draw(st.integers(0, 6))
        width = len(content) // max(1, shape[0]) if shape else 1
        tensors[name] = [dtype, [min(keep, shape[0] if shape else 0)], content[: keep * width]]
    elif kind == "stranger":
        tensors["lora_x.lora_up.weight"] = ["F32", [1], b"\0" * 4]
    elif kind == "axes":
        tensors[name] = [dtype, [1, *shape], content]
    return metadata


CONTENTS = (change_header_json, change_metadata, change_indices, change_values, change_shape, change_tensors)


def change_bytes(draw, content):
    """Cuts, flips, inserts: at the length word, in the header or in the data, as often as each other."""
    kind = draw(st.sampled_from(["cut", "flip", "flip", "flip", "set", "insert", "remove", "length"]))
    length = min(int.from_bytes(content[:8], "little"), len(content))
    first, last = draw(st.sampled_from([(0, 8), (8, 8 + length), (8 + length, len(content))]))
    at = draw(st.integers(0, 2**20)) % max(1, min(last, len(content)) - first) + min(first, len(content))
    changed = bytearray(content)
    if kind == "cut":
        del changed[at:]
    elif kind == "flip":
        for _ in range(draw(st.sampled_from([1, 1, 2, 8]))):
            if at < len(changed):
                changed[at] ^= 1 << draw(st.integers(0, 7))
            at += draw(st.integers(0, 9))
    elif kind == "set":
        run = draw(st.integers(1, 16))
        changed[at : at + run] = bytes([draw(st.sampled_from([0, 0xFF, 0x7F, 0x80, 0x20]))]) * len(
            changed[at : at + run]
        )
    elif kind == "insert":
        changed[at:at] = bytes([draw(st.integers(0, 255))]) * draw(st.sampled_from([1, 4, 8, 1000]))
    elif kind == "remove":
        del changed[at : at + draw(st.sampled_from([1, 4, 8, 100]))]
    else:
        lie = draw(
            st.sampled_from([0, 1, 8, length - 1, length + 1, length + 8, 10**8, 2**32, 2**40, 2**63, 2**64 - 1])
        )
        changed[:8] = max(0, lie).to_bytes(8, "little")
    return bytes(changed)


@st.composite
def damaged(draw):
    """A file's bytes: changed contents, or a header that lies about them, or changed bytes; or two of these."""
    found, metadata = draw(st.sampled_from(whole_files()))
    tensors, metadata = {name: list(parts) for name, parts in found.items()}, dict(metadata)
    contents, container, raw = draw(
        st.sampled_from(
            [
                (1, 0, 0),
                (1, 0, 0),
                (1, 0, 0),
                (0, 1, 0),
                (0, 1, 0),
                (0, 0, 1),
                (0, 0, 1),
                (2, 0, 0),
                (1, 0, 1),
                (1, 1, 0),
            ]
        )
    )
    for _ in range(contents):
        metadata = draw(st.sampled_from(CONTENTS))(draw, tensors, {} if metadata is None else metadata)
    lie = None
    if container and tensors:
        field = draw(st.sampled_from(["dtype", "shape", "data_offsets", "twice", None]))
        told = {"dtype": DTYPES, "shape": SHAPES, "data_offsets": SPANS}.get(field, ENTRIES)
        name = draw(st.sampled_from([*sorted(tensors), *(["__metadata__"] if field in (None, "twice") else [])]))
        lie = name, field, draw(st.sampled_from(told + NUMBERS + ODD if draw(st.booleans()) else told))
    content = encode(tensors, metadata, lie)
    for _ in range(raw):
        content = change_bytes(draw, content)
    return content


class Made(TorchDispatchMode):
    """The bytes of the storages that operations make, in all and the largest."""

    def __init__(self):
        super().__init__()
        self.total = self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {leaf.untyped_storage()._cdata for leaf in args if isinstance(leaf, torch.Tensor)}
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.untyped_storage()._cdata not in given:
            size = out.untyped_storage().nbytes()
            self.total, self.largest = self.total + size, max(self.largest, size)
        return out


def attempt(read, path):
    """What a reader returns; what the refusal is about where it refuses in the right form. Other exceptions go on."""
    try:
        return read(path)
    except WaveFTError as error:
        said = str(error)
        assert str(path) in said, f"a refusal that does not name the file: {said}"
        assert ": expected " in said, f"a refusal in another form: {said}"
        subject = re.sub(r"\[.*?\]", "", said.split(": expected ")[0])  # a shape has commas of its own
        return subject.rsplit(", ", 1)[-1].split(" ")[0].replace(str(path), "path")


def examine(content, path, limit=contextlib.nullcontext):
    """Reads the file with every reader, each held to its promises; gives "read", or what was refused."""
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with limit():
            with Made() as made:
                adapter = attempt(load, path)
            told, layout = attempt(read_header, path), attempt(read_layout, path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert made.largest <= len(content), (made.largest, len(content))
    assert made.total <= 6 * len(content) + TORCH_BYTES, (made.total, len(content))
    assert peak <= 8 * len(content) + PYTHON_BYTES, (peak, len(content))
    if isinstance(adapter, str):
        return adapter
    assert told["layers"] == len(adapter.layers)
    assert told["coefficients"] == sum(layer.values.numel() for layer in adapter.layers.values())
    assert len(layout[0]) == 1 + 3 * len(adapter.layers)
    check_header(content, adapter)
    check_valid(adapter, len(content))
    check_saves(adapter, path.with_name("again.safetensors"))
    return "read"


def strict(text):
    def once(pairs):
        assert len(dict(pairs)) == len(pairs), "a key given twice"
        return dict(pairs)

    def finite(number):
        assert math.isfinite(float(number)), f"{number} was taken"
        return float(number)

    return json.loads(text, object_pairs_hook=once, parse_constant=finite, parse_float=finite)


def check_header(content, adapter):
    """The adapter is what the header says; the header is strict JSON, and its copy in the metadata says the same."""
    tensors, metadata = decode(content)
    found = strict(tensors["waveft.header"][2])
    assert {**adapter.header.to_dict(), "locations": adapter.locations} == {
        "locations": None,
        **{key: value for key, value in found.items() if key in KEYS[:-1]},
    }
    assert type(found["version"]) is int
    assert type(found["level"]) is int
    if "waveft" in (metadata or {}):
        assert strict(metadata["waveft"]) == found


def check_valid(adapter, size):
    """The format's rules, written apart from the code under test."""
    known = {name for family in ("db", "sym", "coif") for name in pywt.wavelist(family)} | {"identity"}
    assert adapter.wavelet in known
    assert adapter.mode in (("periodization",) if adapter.wavelet == "identity" else ("periodization", "zero"))
    assert type(adapter.scaling) is float
    assert np.isfinite(adapter.scaling)
    assert adapter.locations is None or isinstance(adapter.locations, str)
    assert adapter.layers
    assert sum(layer.values.numel() for layer in adapter.layers.values()) * 6 <= size
    for name, layer in adapter.layers.items():
        assert name
        assert "." not in name
        assert 2 <= len(layer.shape) <= 4
        assert all(type(length) is int and length >= 1 for length in layer.shape)
        m, n = plane(adapter.wavelet, adapter.mode, layer.shape)
        indices = layer.indices.numpy()
        assert indices.dtype == np.int32
        assert 1 <= indices.size == layer.values.numel()
        assert m * n < 2**31
        assert 0 <= indices[0] <= indices[-1] < m * n
        assert (np.diff(indices.astype(np.int64)) > 0).all()
        assert layer.values.dtype in (torch.float32, torch.float16, torch.bfloat16)
        values = layer.values.double().numpy()
        assert np.isfinite(values).all()
        assert np.abs(values).max() * abs(adapter.scaling) <= np.finfo(np.float32).max


def check_saves(adapter, path):
    """Saved and loaded again it is the same, and its first dW is made, or refused for its size."""
    save(adapter, path)
    again = load(path)
    assert again.header == adapter.header
    assert dict(again.metadata) == dict(adapter.metadata)
    assert list(again.layers) == list(adapter.layers)
    for name, layer in adapter.layers.items():
        assert torch.equal(again.layers[name].values, layer.values.float())
        assert torch.equal(again.layers[name].indices, layer.indices)
        assert again.layers[name].shape == layer.shape
    with contextlib.suppress(WaveFTError):
        name = next(iter(adapter.layers))
        delta = adapter.delta(name, max_entries=4096)
        assert delta.shape == adapter.layers[name].shape


def run(count, path, limit=contextlib.nullcontext):
    """Examines `count` damaged files, always the same ones; returns how many were read, and refused by subject."""
    outcomes = collections.Counter()
    set_hypothesis_home_dir(path.parent / "hypothesis")

    @settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(damaged())
    def each(content):
        begun = time.process_time()  # of this process's own work, however busy the machine is
        outcomes[examine(content, path, limit)] += 1
        assert time.process_time() - begun < EXAMPLE_S

    path.write_bytes(encode(*whole_files()[0]))
    with Made():  # what is imported and cached once a process is no file's cost
        attempt(load, path)
    for tensors, metadata in whole_files():
        assert examine(encode(tensors, metadata), path) == "read"
    each()
    return outcomes


def test_hundreds_of_damaged_files_are_refused_or_valid(tmp_path):
    outcomes = run(QUICK, tmp_path / "damaged.safetensors")
    check_spread(outcomes, QUICK)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the child's memory limit is Linux's")
def test_ten_thousand_damaged_files_are_refused_or_valid_within_a_memory_limit(tmp_path):
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, str(THOROUGH), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=CHILD_S + 60)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    outcomes = json.loads(done.stdout.splitlines()[-1])
    check_spread(outcomes, THOROUGH)


def check_spread(outcomes, count):
    """The mutations are not so gross that the first check refuses all, nor so mild that nothing is wrong."""
    assert sum(outcomes.values()) >= count
    assert count / 25 < outcomes["read"] < count / 2
    assert outcomes["file"] < count * 2 / 3
    assert outcomes.keys() >= {
        "waveft_indices",
        "waveft_shape",
        "waveft_values",
        "waveft.header",
        "tensors",
        "metadata",
    }


@contextlib.contextmanager
def limited():
    """Inside, the process has HEADROOM more address space than it uses: to ask for more is an error, or its end."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + HEADROOM, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


if __name__ == "__main__":
    torch.set_num_threads(1)
    faulthandler.dump_traceback_later(CHILD_S, exit=True)
    print(json.dumps(run(int(sys.argv[1]), Path(sys.argv[2], "damaged.safetensors"), limited)))
