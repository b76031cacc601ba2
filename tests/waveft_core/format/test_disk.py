import ast
import json
import os
import socket
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.processes import run
from waveft_core import Adapter, Layer, WaveFTError, Weights, load, merge_files, save
from waveft_core.format import disk, wholefile
from waveft_core.format.container import read_layout, read_pieces, read_tensor
from waveft_core.format.file import read_header
from waveft_core.format.sniff import is_waveft

ROOT = Path(__file__).resolve().parents[3]
POSIX = pytest.mark.skipif(os.name == "nt", reason="FIFOs, devices and holes are made here as POSIX has them")
# Who may ask the file system, and for what; everybody else asks `format/disk.py`, which looks before it opens.
ALLOWED = {
    "format/disk.py": {"stat", "open", "fdopen", "iterdir", "walk", "fstat"},
    "format/wholefile.py": {"open", "fdopen", "fsync", "unlink", "replace"},  # to write
    "toolbox/outputs.py": {"mkdir", "rename"},
    "toolbox/checkpoint.py": {"mkdir"},
    "interop/peft.py": {"mkdir"},
    "diffusers.py": {"load_file"},  # `format.file.load` by another name
    "cli/parser.py": {"open"},  # the null device, for a reader that left
}
ASKING = {
    *("open", "fdopen", "safe_open", "read_text", "read_bytes", "write_text", "write_bytes", "stat", "fstat", "lstat"),
    *("is_file", "is_dir", "exists", "is_symlink", "iterdir", "glob", "rglob", "walk", "scandir", "listdir"),
    *("isfile", "isdir", "getsize", "load_file", "memmap", "mmap", "from_file", "unlink", "mkdir", "rename", "fsync"),
}


def test_one_module_alone_opens_files_to_read():
    for file in sorted((ROOT / "waveft_core").rglob("*.py")):
        name = file.relative_to(ROOT / "waveft_core").as_posix()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = getattr(node.func, "attr", getattr(node.func, "id", ""))
                own = isinstance(node.func, ast.Name) and called in dir(disk)
                ours = isinstance(node.func, ast.Attribute) and getattr(node.func.value, "id", "") == "Weights"
                if called in ASKING and not own and not ours:
                    assert called in ALLOWED.get(name, set()), (name, node.lineno, called)


@pytest.fixture
def adapter():
    layers = {f"lora_unet_{n}": Layer(torch.ones(100_000), torch.arange(100_000).int(), (512, 512)) for n in range(4)}
    return Adapter(layers)


@pytest.fixture
def dog(tmp_path, adapter):
    save(adapter, tmp_path / "dog.safetensors")
    return tmp_path / "dog.safetensors"


READERS = {"load": load, "read_header": read_header, "read_layout": read_layout, "Weights": Weights.open}


@POSIX
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", ["FIFO", "device", "folder", "socket", "link to itself", "dangling", "long", "NUL"])
def test_what_is_no_file_is_refused_at_once(tmp_path, reader, kind):
    path = tmp_path / "x.safetensors"
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        if len(str(path)) > 100:
            pytest.skip("a socket's path has 108 bytes at most")
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(path))
    elif kind == "link to itself":
        path.symlink_to(path)
    elif kind == "dangling":
        path.symlink_to(tmp_path / "nowhere")
    else:
        path = tmp_path / ("x" * 300 if kind == "long" else "x\0y")
    with pytest.raises(WaveFTError, match=r"expected .* got ") as refused:
        READERS[reader](path)
    assert str(refused.value).isprintable()


@POSIX
def test_a_fifo_that_takes_a_files_place_is_not_waited_for(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "x.safetensors")
    monkeypatch.setattr(disk, "is_file", lambda path: True)
    with pytest.raises(WaveFTError, match="got a FIFO"):
        read_layout(tmp_path / "x.safetensors")


CHANGED = """
import os, sys
from pathlib import Path
from waveft_core import Adapter, WaveFTError, load, save
from waveft_core.format import file

dog = Path(sys.argv[1])
adapter, checked, whole = load(dog), file._check_declared, dog.read_bytes()

def then_change(*arguments):
    checked(*arguments)
    if change == "replaced":
        other = dog.with_name("other")
        save(Adapter(adapter.layers, scaling=1.0), other)
        other.rename(dog)
    elif change == "rewritten":
        dog.write_bytes(whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2))
    else:
        os.truncate(dog, len(whole) // 2 if change == "cut" else 0)

file._check_declared = then_change
for change in sys.argv[2:]:
    dog.write_bytes(whole)
    try:
        print(change, "read", load(dog).scaling, flush=True)
    except WaveFTError as error:
        print(change, "refused", dog.name in str(error), flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="SIGBUS is how Linux ends a reader of a cut map")
def test_a_file_that_is_changed_while_it_is_read_is_refused_or_read_whole(dog):
    """In a process of its own: a reader through a memory map would end by a signal, and this process with it."""
    done = run("-c", CHANGED, dog, "cut", "emptied", "rewritten", "replaced")
    assert done.returncode == 0, done
    assert done.stdout.splitlines() == [
        "cut refused True",
        "emptied refused True",
        "rewritten refused True",
        "replaced read 25.0",
    ]


def test_another_file_in_the_place_of_the_one_whose_header_was_read_is_refused(tmp_path):
    path = tmp_path / "base.safetensors"
    save_file({"a.weight": torch.ones(4, 4), "b.weight": torch.ones(4, 4)}, path)
    weights, (layout, _) = Weights.open(path), read_layout(path)
    save_file({"b.weight": torch.zeros(4, 4), "a.weight": torch.ones(4, 4)}, tmp_path / "other.safetensors")
    (tmp_path / "other.safetensors").replace(path)
    for read in (
        lambda: weights.read("lora_a"),
        lambda: read_tensor(path, layout["a.weight"]),
        lambda: list(read_pieces(path, layout["a.weight"])),
    ):
        with pytest.raises(WaveFTError, match="expected the file whose header was read"):
            read()


def hollow(path, tensors):
    """A file with a true header and nothing but a hole for its data."""
    header, start = {}, 0
    for name, (dtype, shape, size) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, start + size]}
        start += size
    head = json.dumps(header).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head)
    os.truncate(path, 8 + len(head) + start)


@POSIX
def test_a_file_of_holes_costs_nothing_to_refuse(tmp_path):
    told = {"level": 1, "mode": "periodization", "scaling": 25.0, "version": 1, "wavelet": "db1"}
    text = json.dumps(told).encode()
    paths = []
    for count in (2**22, 2**30, 2**38):
        paths.append(path := tmp_path / f"hollow{count}.safetensors")
        tensors = {
            "waveft.header": ("U8", [len(text)], len(text)),
            "lora_0.waveft_shape": ("I32", [2], 8),
            "lora_0.waveft_indices": ("I32", [count], 4 * count),
            "lora_0.waveft_values": ("F32", [count], 4 * count),
        }
        hollow(path, tensors)
        with path.open("r+b") as file:
            file.seek(path.stat().st_size - 8 - len(text) - 8 * count)
            file.write(text + (40_000).to_bytes(4, "little") * 2)
    code = (
        "import resource, sys; from waveft_core import load, WaveFTError\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (2**31, 2**31))\n"
        "for path in sys.argv[1:]:\n"
        "    try: load(path)\n"
        "    except WaveFTError as error: print(error)"
    )
    done = run("-c", code, *paths)
    assert (done.returncode, done.stderr) == (0, "")
    said = done.stdout.splitlines()
    assert len(said) == len(paths)
    assert all(path.name in line and "expected" in line for path, line in zip(paths, said, strict=True))


@POSIX
def test_a_base_folder_with_other_things_than_files_is_refused(tmp_path, make_adapter):
    base = tmp_path / "base"
    base.mkdir()
    save_file({"a.weight": torch.ones(4, 4)}, base / "model.safetensors")
    (base / "above").symlink_to(tmp_path / "base")
    (base / "again").symlink_to(tmp_path / "base")
    adapter = make_adapter({"lora_a": (4, 4)})
    merge_files(base, [(adapter, 1.0)], tmp_path / "merged")  # links to itself are no tree without end
    os.mkfifo(base / "notes.txt")
    with pytest.raises(WaveFTError, match=r"got a FIFO at .*notes\.txt"):
        merge_files(base, [(adapter, 1.0)], tmp_path / "again")
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("size", [200, 240, 255, 256, 5000])
def test_names_as_long_as_file_systems_take_are_written_and_longer_ones_refused(tmp_path, make_adapter, size):
    path = tmp_path / ("x" * (size - len(".safetensors")) + ".safetensors")
    adapter = make_adapter({"lora_a": (4, 4)})
    if size <= wholefile.MAX_NAME_BYTES:
        save(adapter, path)
        assert load(path).layers.keys() == adapter.layers.keys()
        assert len(list(tmp_path.iterdir())) == 1
    else:
        for write in (save, lambda adapter, path: merge_files(ROOT / "models/nano-sdxl", [(adapter, 1.0)], path)):
            with pytest.raises(WaveFTError, match=f"at most 255 bytes, got {size}"):
                write(adapter, path)


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b"\xff\xfe{", b"{", b'{"weight_map": 7}', b'{"weight_map": {"a": 3}}']
)
def test_an_index_that_is_none_is_refused(tmp_path, content):
    (tmp_path / "model.safetensors.index.json").write_bytes(content)
    with pytest.raises(WaveFTError, match=r"index\.json"):
        Weights.open(tmp_path)


def test_an_index_of_gigabytes_is_not_read(tmp_path):
    path = tmp_path / "model.safetensors.index.json"
    path.touch()
    os.truncate(path, 2**33)
    with pytest.raises(WaveFTError, match=f"at most {disk.MAX_JSON_BYTES} bytes, got {2**33}"):
        Weights.open(tmp_path)


@POSIX
def test_a_look_at_a_folder_of_loras_waits_for_no_fifo(tmp_path, dog):
    os.mkfifo(tmp_path / "fifo.safetensors")
    (tmp_path / "nowhere.safetensors").symlink_to(tmp_path / "gone")
    found = [is_waveft(str(path)) for path in (dog, tmp_path / "fifo.safetensors", tmp_path / "nowhere.safetensors")]
    assert found == [True, False, False]
    assert not is_waveft(str(tmp_path / ("x" * 300)))


@POSIX
@pytest.mark.parametrize("kind", ["FIFO", "folder", "link to a FIFO"])
def test_nothing_but_a_file_is_written_over(tmp_path, make_adapter, kind):
    """As root, a rename over /dev/null takes it away from the whole machine."""
    path = tmp_path / "dog.safetensors"
    if kind == "folder":
        path.mkdir()
    elif kind == "FIFO":
        os.mkfifo(path)
    else:
        os.mkfifo(tmp_path / "pipe")
        path.symlink_to(tmp_path / "pipe")
    before = path.lstat().st_ino, path.stat().st_mode
    with pytest.raises(WaveFTError, match=r"expected a file or none there, got a (FIFO|folder)"):
        save(make_adapter({"lora_unet_0": (4, 4)}), path)
    assert (path.lstat().st_ino, path.stat().st_mode) == before
    assert not list(tmp_path.glob(".*.tmp"))


def test_no_name_at_all_is_refused(make_adapter):
    with pytest.raises(WaveFTError, match="a name that a file can have"):
        save(make_adapter({"lora_unet_0": (4, 4)}), "")
