"""Every command over every kind of file that a stranger may send: one line that refuses it, or a report, and no more.

python tests/waveft_core/cli/test_strangers.py FOLDER EXAMPLES      the tests' child, with a limit of memory and of time
"""

import contextlib
import importlib.util
import io
import json
import os
import resource
import signal
import struct
import sys
import warnings
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis.configuration import set_hypothesis_home_dir
from safetensors.torch import save_file

from tests import processes
from waveft_core import Adapter, Layer, save
from waveft_core.cli.parser import main, parser
from waveft_core.errors import printable

HEADROOM = 2**29  # of memory over what the process has already: far below what the files claim
CALL_S, CHILD_S = 600, 1500
QUICK = 5  # damaged files
# Whose pictures are drawn in the quick test, at half a second each: odd names, many layers, a huge value, no value.
# The slow one draws them all.
DRAWN = {"escapes", "mathtext", "square", "huge", "zero"}
ESCAPES = "\x1b]0;a title of the file's choice\x07\x1b[2J\x1b[31mred\u202e\u2066\x9b\nwaveft: all is well"
# Each command with the stranger's file in each of its places: S; a base, an adapter and a new name of ours: B, A, O.
CALLS = {
    "inspect": ("S", "S --metadata", "S --json", "S --base B", "A --base S", "S --plot P"),
    "merge": ("--base B --adapter S --out O", "--base S --adapter A --out O", "--base B --adapter A S:0.5 --out O"),
    "combine": ("S --out O", "A S --out O", "A:0.5 S:1e30 --reproject --out O"),
    "prune": ("S --keep 0.5 --out O", "S --energy 0.9 --out O", "S --coefficients 1 --out O"),
    "extract": (
        *("--base B --tuned S --energy 1 --out O", "--base S --tuned B --total 9 --targets q --out O"),
        *("--base S --tuned A --total 9 --out O", "--base B --tuned S --coefficients 4 --scaling 1e-300 --out O"),
    ),
    "convert": (
        *("S --to diff --dtype fp32 --out O", "S --to waveft --dtype fp16 --out O", "S --to peft --base B --out F"),
        *("A --to peft --base S --out F", "S --to waveft --base B --out O"),
    ),
}


def container(path, tensors, metadata=None):
    """Writes {name: (dtype, bytes, length)}, whatever it says."""
    head, data = {"__metadata__": metadata} if metadata else {}, b""
    for name, (dtype, content, length) in tensors.items():
        head[name] = {"dtype": dtype, "shape": [length], "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(head).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def adapter(path, layers, scaling=25.0, wavelet="db1", mode="periodization", value=1.0, metadata=None):
    """Writes an adapter of one coefficient a layer; `layers`: name -> shape."""
    told = {"level": 1, "mode": mode, "scaling": scaling, "version": 1, "wavelet": wavelet}
    text = json.dumps(told).encode()
    tensors = {"waveft.header": ("U8", text, len(text))}
    for name, shape in layers.items():
        tensors[f"{name}.waveft_values"] = ("F32", struct.pack("<f", value), 1)
        tensors[f"{name}.waveft_indices"] = ("I32", struct.pack("<i", 0), 1)
        tensors[f"{name}.waveft_shape"] = ("I32", struct.pack(f"<{len(shape)}i", *shape), len(shape))
    container(path, tensors, metadata)


def model(path, tensors, metadata=None):
    save_file(tensors, path, metadata)


def strangers(folder):
    """Yields what strangers send, by name; each is made in `folder`."""
    place = folder.joinpath

    def made(name, write, *arguments, **more):
        write(place(name), *arguments, **more)
        return place(name)

    whole = {"lora_q": (4, 4)}
    yield made("fits.safetensors", adapter, whole)
    odd = {"ss_base_model_version": ESCAPES, "modelspec.title": ESCAPES, ESCAPES: "x"}
    yield made("escapes.safetensors", adapter, {"lora_q": (4, 4), f"x{ESCAPES}": (4, 4)}, metadata=odd)
    yield made(f"{ESCAPES.replace('/', '')}.safetensors", adapter, {"lora_no": (4, 4)})
    yield made("mathtext.safetensors", adapter, {r"lora_$\frac{$": (4, 4), "lora_犬_$_": (4, 4)})
    for width in (2**20, 2**30):
        yield made(f"wide{width}.safetensors", adapter, {"lora_q": (1, width)}, wavelet="db38", mode="zero")
        yield made(f"flat{width}.safetensors", adapter, {"lora_q": (2, width // 2)})
    yield made("square.safetensors", adapter, {f"lora_{n}": (32768, 32768) for n in range(300)})
    yield made("large-scaling.safetensors", adapter, whole, scaling=1e308, value=1e-300)
    yield made("huge.safetensors", adapter, whole, scaling=1e38, value=3.0)
    yield made("tiny.safetensors", adapter, whole, scaling=5e-324)
    yield made("zero.safetensors", adapter, whole, value=0.0)
    yield made("nan.safetensors", model, {"q.weight": torch.full((4, 4), torch.nan)})
    yield made("escaped-model.safetensors", model, {f"{ESCAPES}.weight": torch.ones(4, 4)}, {"format": ESCAPES})
    yield made("lora.safetensors", model, {f"{ESCAPES}.lora_up.weight": torch.ones(4, 4)})
    vast = {"lora_q.lora_up.weight": torch.ones(2**15, 1), "lora_q.lora_down.weight": torch.ones(1, 2**15)}
    yield made("vast-lora.safetensors", model, vast)
    kron = {"lora_q.lokr_w1": torch.ones(2**8, 2**8), "lora_q.lokr_w2": torch.ones(2**8, 2**8)}
    yield made("vast-lokr.safetensors", model, kron)
    yield made("diff.safetensors", model, {"lora_q.diff": torch.full((4, 4), torch.inf)})
    for name, content in (
        *(("empty", b""), ("short", b"\x08\0\0"), ("deep", b"[" * 200_000), ("no-json", b"\xff" * 100)),
        *(("deep-header", struct.pack("<Q", 100_002) + b'{"' + b"[" * 100_000), ("pickle", b"PK\x03\x04")),
    ):
        yield made(f"{name}.safetensors", Path.write_bytes, content)
    os.mkfifo(place("fifo.safetensors"))
    yield place("fifo.safetensors")
    yield Path("/dev/zero")
    yield place("x" * 300)
    yield from folders(place)


def folders(place):
    """Yields folders that are no models, or hold what is none."""
    weights = {"base_model.model.q.waveft_spectrum": torch.ones(3)}
    for name, config, tensors in (
        ("empty-folder", None, None),
        ("peft", {"peft_type": "WAVEFT", "wavelet_family": "db1", "n_frequency": 3}, weights),
        ("peft-many", {"peft_type": "WAVEFT", "n_frequency": 10**18}, weights),
        ("peft-odd", {"peft_type": ESCAPES, "n_frequency": 3}, weights),
        ("peft-pattern", {"peft_type": "WAVEFT", "n_frequency_pattern": {"(": 3}}, weights),
        ("peft-lora", {"peft_type": "LORA", "r": 4}, {f"base_model.model.{ESCAPES}.lora_A.weight": torch.ones(2, 4)}),
    ):
        folder = place(name)
        folder.mkdir()
        if config is not None:
            (folder / "adapter_config.json").write_text(json.dumps(config))
            save_file(tensors, folder / "adapter_model.safetensors")
        yield folder
    place("fifos").mkdir()
    for name in ("adapter_config.json", "model.safetensors", "model.safetensors.index.json"):
        os.mkfifo(place("fifos") / name)
    yield place("fifos")


class TooLong(BaseException):
    """A call that is not done."""


def call(words):
    """Runs a command; returns its status and what it printed on both streams."""

    def stop(*_):
        raise TooLong

    signal.signal(signal.SIGALRM, stop)
    out, err = io.StringIO(), io.StringIO()
    signal.alarm(CALL_S)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(words)
    except TooLong:
        status = "it takes for ever"
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is what the test is about
        status = f"{type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
    return status, out.getvalue(), err.getvalue()


def faults(stranger, ours, is_drawn):
    """Yields what is wrong with what the commands make of one file."""
    for command, calls in CALLS.items():
        for text in calls:
            places = {**ours, "S": str(stranger)}
            if "P" in text.split() and (not is_drawn or importlib.util.find_spec("matplotlib") is None):
                continue
            words = [command]
            for word in text.split():
                name, colon, number = word.partition(":")
                words.append(places.get(name, name) + colon + number)
            status, out, err = call([*words, "--overwrite"])
            said = (out + err).replace("\n", "")
            wrong = [
                *([f"status {status}"] if status not in (0, 2) else []),
                *(["unprintable"] if printable(said) != said else []),
                *(["a traceback"] if "Traceback" in said else []),
                *(["a warning"] if "Warning" in err else []),
                *(["a refusal of several lines"] if status == 2 and err.count("\n") != 1 else []),
                *(["a line of the file's own"] if "\nwaveft: all is well" in out + err else []),
                *(["a refusal without words"] if status == 2 and "expected" not in err else []),
            ]
            if wrong:
                yield f"{command} {text}, {printable(stranger.name)[:60]}: {', '.join(wrong)}: {err[:300]}"


def run(folder, examples):
    """Returns all that is wrong; the process has little memory over what it needs."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import test_fuzz

    ours = {"A": "ours.safetensors", "B": "base.safetensors", "O": "new.safetensors", "P": "new.png", "F": "new"}
    ours = {letter: str(folder / name) for letter, name in ours.items()}
    save(Adapter({"lora_q": Layer(torch.ones(2), torch.tensor([1, 5], dtype=torch.int32), (4, 4))}), ours["A"])
    save_file({"q.weight": torch.randn(4, 4, generator=torch.Generator().manual_seed(0))}, ours["B"])
    found = list(faults(Path(ours["A"]), ours, True))  # what is imported once is no file's cost
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + HEADROOM, resource.RLIM_INFINITY))
    (folder / "strangers").mkdir()
    for stranger in strangers(folder / "strangers"):
        found += faults(stranger, ours, examples > QUICK or stranger.stem in DRAWN)
    set_hypothesis_home_dir(folder / "hypothesis")

    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=timedelta(seconds=CHILD_S),
        suppress_health_check=list(HealthCheck),
    )
    @given(test_fuzz.damaged())
    def each(content):
        path = folder / "damaged.safetensors"
        path.write_bytes(content)
        found.extend(faults(path, ours, True))

    each()
    return found


def test_every_command_is_tried():
    commands = next(action for action in parser()._actions if action.choices).choices
    assert CALLS.keys() == commands.keys()
    for command, made in commands.items():
        tried = " ".join(CALLS[command]).split()
        given = {word for action in made._actions if action.type is not None for word in action.option_strings}
        missed = given - set(tried) - {"--wavelet", "--coefficients", "--keep", "--energy", "--total", "--dtype"}
        assert not missed, (command, missed)


@pytest.mark.skipif(sys.platform != "linux", reason="the child's limit of memory is Linux's")
@pytest.mark.parametrize("examples", [QUICK, pytest.param(500, marks=pytest.mark.slow)])
def test_every_command_refuses_or_reports_whatever_it_is_given(tmp_path, examples):
    done = processes.run(__file__, tmp_path, examples)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == []


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("always")
    print(json.dumps(run(Path(sys.argv[1]), int(sys.argv[2]))))
