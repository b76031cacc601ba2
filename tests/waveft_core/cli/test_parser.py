import argparse
import errno
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from waveft_core import Spec, WaveFTError, attach, load, save
from waveft_core.cli.console import progress_bar, size_text
from waveft_core.cli.parser import _AS_OPTIONS, in_options, main, parser, weighted
from waveft_core.toolbox.algebra import combine, energy, prune
from waveft_core.toolbox.checkpoint import merge_files

ROOT = Path(__file__).resolve().parents[3]
DOC = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
COMMANDS = ("inspect", "merge", "combine", "prune", "extract", "convert")
SHAPES = {"lora_blocks_0_to_q": (8, 12), "lora_blocks_0_to_k": (8, 6), "lora_blocks_1_to_q": (10, 6)}
PATHS = {"blocks.0.to_q": (8, 12), "blocks.0.to_k": (8, 6), "blocks.1.to_q": (10, 6), "blocks.1.norm": (4,)}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def adapter(here, make_adapter):
    save(make_adapter(SHAPES, coefficients=8, scaling=0.5), "dog.safetensors", {"ss_output_name": "dog"})
    return load("dog.safetensors")


@pytest.fixture
def base(here):
    generator = torch.Generator().manual_seed(1)
    tensors = {f"{path}.weight": torch.randn(shape, generator=generator) for path, shape in PATHS.items()}
    save_file(tensors, "base.safetensors", {"modelspec.architecture": "toy"})
    return tensors


def run(*words):
    return main([str(word) for word in words])


def refused(capsys, words, match):
    """Checks that a command is refused with one line, and that the folder is left as it was."""
    before = {file: file.stat().st_mtime_ns for file in Path().rglob("*")}
    capsys.readouterr()
    assert run(*words) == 2
    out, err = capsys.readouterr()
    assert err.startswith("waveft: ")
    assert err.count("\n") == 1
    assert re.search(match, err), err
    assert {file: file.stat().st_mtime_ns for file in Path().rglob("*")} == before
    return out


def commands():
    found = next(action for action in parser()._actions if isinstance(action, argparse._SubParsersAction))
    return found.choices


def test_the_commands_are_the_six():
    assert tuple(commands()) == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example_that_runs(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(command, "--help")
    assert stopped.value.code == 0
    example = capsys.readouterr().out.rpartition("example:\n")[2].strip()
    assert example.startswith(f"python -m waveft_core {command} ")
    parser().parse_args(shlex.split(example)[3:])


@pytest.mark.parametrize("command", COMMANDS)
def test_the_page_is_in_step_with_the_help(command):
    section = DOC.partition(f"\n## {command}\n")[2].partition("\n## ")[0]
    known = {word for action in commands()[command]._actions for word in action.option_strings} - {"-h", "--help"}
    assert known == set(re.findall(r"--[a-z]+", section))
    for action in commands()[command]._actions:
        if action.metavar:
            assert action.metavar in section, action.metavar


def test_every_example_of_the_page_is_understood():
    examples = re.findall(rf"^    python3 start.py ((?:{'|'.join(COMMANDS)}) .*)$", DOC, re.MULTILINE)
    assert len(examples) >= 14
    for example in examples:
        parser().parse_args(shlex.split(example))


@pytest.mark.parametrize(
    ("text", "file", "number"),
    [
        ("a.safetensors", "a.safetensors", 1.0),
        ("a.safetensors:0.5", "a.safetensors", 0.5),
        ("a.safetensors:-1.5e-1", "a.safetensors", -0.15),
        ("a.safetensors:.5", "a.safetensors", 0.5),
        (r"C:\a.safetensors", r"C:\a.safetensors", 1.0),
        (r"C:\a.safetensors:2", r"C:\a.safetensors", 2.0),
        ("a:b.safetensors", "a:b.safetensors", 1.0),
        ("a.safetensors:nan", "a.safetensors:nan", 1.0),
        ("a.safetensors:1_0", "a.safetensors:1_0", 1.0),
        ("a.safetensors:", "a.safetensors:", 1.0),
        (":2", ":2", 1.0),
        ("there:0.5", "there:0.5", 1.0),
        ("there:0.5:2", "there:0.5", 2.0),
    ],
)
@pytest.mark.skipif(os.name == "nt", reason="a name with a colon is no file on Windows")
def test_a_number_after_the_last_colon_counts_unless_such_a_file_exists(here, text, file, number):
    Path("there:0.5").touch()
    assert weighted(text) == (Path(file), number)


def test_inspect_says_what_the_adapter_is(adapter, capsys):
    assert run("inspect", "dog.safetensors") == 0
    out, err = capsys.readouterr()
    assert err == ""
    for said in (
        "dog.safetensors",
        "db1, periodization",
        "3 layers",
        "24; 8 a layer",
        "blocks.0",
        "1 string (--metadata lists them)",
    ):
        assert said in out
    assert "ss_output_name" not in out
    assert run("inspect", "dog.safetensors", "--metadata") == 0
    assert "ss_output_name: dog" in capsys.readouterr().out
    assert f"{energy(adapter) ** 0.5:.4g}" in out


def test_inspect_as_json_against_a_base_with_a_picture(adapter, base, capsys):
    words = ("inspect", "dog.safetensors", "--json", "--base", "base.safetensors", "--plot", "dog.png")
    assert run(*words) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["energy"]["total"] == pytest.approx(energy(adapter))
    norm = base["blocks.0.to_q.weight"].norm()
    layer = told["by_layer"]["lora_blocks_0_to_q"]
    assert layer["relative"] == pytest.approx(layer["norm"] / float(norm), rel=1e-5)
    assert Path("dog.png").read_bytes()[:4] == b"\x89PNG"
    refused(capsys, words, "one that exists")
    assert run(*words, "--overwrite") == 0


def test_merge_writes_what_merge_files_writes(adapter, base, make_adapter, capsys):
    save(make_adapter(SHAPES, seed=5), "style.safetensors")
    words = ("merge", "--base", "base.safetensors", "--adapter", "dog.safetensors:0.5", "style.safetensors")
    assert run(*words, "--adapter", "dog.safetensors:-2", "--out", "new.safetensors") == 0
    out, _ = capsys.readouterr()
    assert "dog.safetensors at strength -2" in out
    assert "3 layers" in out
    parts = [(adapter, 0.5), (load("style.safetensors"), 1.0), (adapter, -2.0)]
    merge_files("base.safetensors", parts, "expected.safetensors")
    assert Path("new.safetensors").read_bytes() == Path("expected.safetensors").read_bytes()
    refused(capsys, (*words, "--out", "new.safetensors"), "--overwrite")
    refused(capsys, (*words, "--out", "dog.safetensors", "--overwrite"), "another place than the adapters")
    assert run(*words, "--out", "new.safetensors", "--overwrite") == 0


def test_a_remedy_names_options_and_not_pythons_arguments(adapter, base, make_adapter, capsys):
    Path("there.safetensors").touch()
    save(make_adapter(SHAPES, wavelet="db2"), "other.safetensors")
    zeros = make_adapter(SHAPES)
    for layer in zeros.layers.values():
        layer.values.zero_()
    save(zeros, "zero.safetensors")
    merge_line = ("merge", "--base", "base.safetensors", "--adapter", "dog.safetensors", "--out", "there.safetensors")
    refused(capsys, merge_line, r"got one that exists\. Choose another, or give --overwrite\.$")
    line = ("combine", "dog.safetensors", "other.safetensors", "--out", "new.safetensors")
    refused(capsys, line, "Bring it there with --reproject,")
    line = ("prune", "zero.safetensors", "--energy", 0.5, "--out", "new.safetensors")
    refused(capsys, line, r"Use --keep\.$")
    with pytest.raises(WaveFTError, match=r"or give overwrite=True\.$"):
        merge_files("base.safetensors", [(adapter, 1.0)], "there.safetensors")


def test_what_is_said_in_options_is_said_by_the_core():
    core = ROOT / "waveft_core"
    text = "".join(path.read_text(encoding="utf-8") for path in core.rglob("*.py") if path.parent.name != "cli")
    for argument, option in _AS_OPTIONS.items():
        assert argument in text, argument
        assert in_options(f"a: {argument} b") == f"a: {option} b"


def test_combine_is_exact(adapter, make_adapter, capsys):
    save(make_adapter(SHAPES, coefficients=5, seed=5), "style.safetensors")
    assert run("combine", "dog.safetensors:0.5", "style.safetensors:-1", "--out", "both.safetensors") == 0
    expected = combine([(adapter, 0.5), (load("style.safetensors"), -1.0)])
    found = load("both.safetensors")
    for name, layer in expected.layers.items():
        assert torch.equal(found.layers[name].values, layer.values)
        assert torch.equal(found.layers[name].indices, layer.indices)
    assert "39 coefficients in all" in capsys.readouterr().out


def test_combine_of_two_bases_needs_reproject_and_says_the_error(adapter, make_adapter, capsys):
    save(make_adapter(SHAPES, wavelet="sym2", seed=5), "style.safetensors")
    words = ("combine", "dog.safetensors", "style.safetensors", "--out", "both.safetensors")
    refused(capsys, words, "reproject")
    assert run(*words, "--reproject") == 0
    said = float(re.search(r"style\.safetensors: sym2 .* error ([\d.]+)%", capsys.readouterr().out)[1]) / 100
    style, both = load("style.safetensors"), load("both.safetensors")
    lost = whole = 0.0
    for name in SHAPES:
        moved = both.delta(name, torch.float64) - adapter.delta(name, torch.float64)
        lost += float((style.delta(name, torch.float64) - moved).square().sum())
        whole += float(style.delta(name, torch.float64).square().sum())
    assert (lost / whole) ** 0.5 == pytest.approx(said, abs=1e-4)


@pytest.mark.parametrize(("option", "value"), [("coefficients", 3), ("keep", 0.5), ("energy", 0.9)])
def test_prune_reports_the_energy_it_kept(adapter, capsys, option, value):
    assert run("prune", "dog.safetensors", f"--{option}", value, "--out", "small.safetensors") == 0
    found, expected = load("small.safetensors"), prune(adapter, **{option: value})
    assert {name: layer.values.tolist() for name, layer in found.layers.items()} == {
        name: layer.values.tolist() for name, layer in expected.layers.items()
    }
    assert f"{energy(expected) / energy(adapter):.2%} of the energy" in capsys.readouterr().out


def test_prune_keeps_the_files_dtype(adapter):
    save(adapter, "half.safetensors", dtype=torch.float16)
    assert run("prune", "half.safetensors", "--keep", 0.5, "--out", "small.safetensors") == 0
    assert {layer.values.dtype for layer in load("small.safetensors").layers.values()} == {torch.float16}


def test_extract_gets_back_what_merge_put_in(adapter, base, capsys):
    assert run("merge", "--base", "base.safetensors", "--adapter", "dog.safetensors", "--out", "tuned.safetensors") == 0
    words = ("extract", "--base", "base.safetensors", "--tuned", "tuned.safetensors", "--coefficients", 8)
    capsys.readouterr()
    assert run(*words, "--targets", "to_q", "to_k", "--scaling", 0.5, "--out", "found.safetensors") == 0
    found = load("found.safetensors")
    assert found.metadata["modelspec.architecture"] == "toy/waveft"
    out = capsys.readouterr().out
    assert re.search(r"100\.00% of the energy in all", out)
    assert len(re.findall("of the energy, 8 coefficients: lora_blocks", out)) == 3
    for name, layer in adapter.layers.items():
        assert torch.equal(found.layers[name].indices, layer.indices)
        torch.testing.assert_close(found.layers[name].values, layer.values, rtol=1e-4, atol=1e-5)


def test_extract_from_files_of_differences(adapter, base, capsys):
    generator = torch.Generator().manual_seed(7)
    down, up = torch.randn(2, 12, generator=generator), torch.randn(8, 2, generator=generator)
    layer = "lora_blocks_0_to_q"
    save_file({f"{layer}.lora_down.weight": down, f"{layer}.lora_up.weight": up}, "lora.safetensors")
    words = ("extract", "--base", "base.safetensors", "--energy", 1)
    assert run(*words, "--tuned", "lora.safetensors", "--out", "found.safetensors") == 0
    torch.testing.assert_close(load("found.safetensors").delta(layer), up @ down, rtol=1e-4, atol=1e-5)
    assert run(*words, "--tuned", "dog.safetensors", "--wavelet", "identity", "--out", "plain.safetensors") == 0
    for name in SHAPES:
        torch.testing.assert_close(load("plain.safetensors").delta(name), adapter.delta(name), rtol=1e-4, atol=1e-6)
    assert run(*words, "--tuned", "dog.safetensors", "--targets", "to_k", "--out", "k.safetensors") == 0
    assert list(load("k.safetensors").layers) == ["lora_blocks_0_to_k"]
    save_file({"other.weight": torch.zeros(4, 4)}, "other.safetensors")
    words = ("extract", "--base", "other.safetensors", "--total", 9, "--tuned")
    refused(capsys, (*words, "dog.safetensors", "--out", "x.safetensors"), "expected one of its 1 layers")
    refused(capsys, (*words, "base.safetensors", "--out", "x.safetensors"), "got none")


def test_convert_to_diff_says_its_size_first(adapter, capsys):
    assert run("convert", "dog.safetensors", "--to", "diff", "--dtype", "fp32", "--out", "diff.safetensors") == 0
    out = capsys.readouterr().out.splitlines()
    size = 4 * sum(m * n for m, n in SHAPES.values())
    assert out[0].startswith(f"writing {size_text(size)} ")
    found = load_file("diff.safetensors")
    assert {name.removesuffix(".diff") for name in found} == set(SHAPES)
    for name in SHAPES:
        torch.testing.assert_close(found[f"{name}.diff"], adapter.delta(name), rtol=0, atol=1e-6)
    assert run("convert", "dog.safetensors", "--to", "diff", "--out", "half.safetensors") == 0
    assert {held.dtype for held in load_file("half.safetensors").values()} == {torch.float16}


def test_convert_to_another_dtype(adapter):
    assert run("convert", "dog.safetensors", "--to", "waveft", "--dtype", "bf16", "--out", "small.safetensors") == 0
    found = load("small.safetensors")
    assert found.metadata.items() >= adapter.metadata.items(), "beside them, the hash of what was written"
    for name, layer in adapter.layers.items():
        assert torch.equal(found.layers[name].values, layer.values.bfloat16())


def test_convert_to_peft_and_back(base, make_mlp, capsys):
    model = make_mlp()
    save_file(model.state_dict(), "mlp.safetensors")
    tuning = attach(model, Spec(coefficients=9, locations="peft:777", targets=("0", "2")))
    with torch.no_grad():
        for number, values in enumerate(tuning.parameters()):
            values.copy_(torch.arange(9) + number)
    save(tuning.adapter(), "mine.safetensors")
    words = ("convert", "mine.safetensors", "--to", "peft", "--out", "folder")
    refused(capsys, words, "expected --base")
    assert run(*words, "--base", "mlp.safetensors") == 0
    assert {file.name for file in Path("folder").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    refused(capsys, (*words, "--base", "mlp.safetensors"), "one that exists")
    refused(capsys, ("convert", "folder", "--to", "waveft", "--out", "back.safetensors"), "expected --base")
    back = ("convert", "folder", "--to", "waveft", "--base", "mlp.safetensors", "--out", "back.safetensors")
    assert run(*back) == 0
    found, expected = load("back.safetensors"), load("mine.safetensors")
    for name, layer in expected.layers.items():
        torch.testing.assert_close(found.delta(name), expected.delta(name), rtol=0, atol=1e-5)
        assert torch.equal(found.layers[name].indices, layer.indices)
    Path("precious").mkdir()
    Path("precious/diary.txt").write_text("dear diary")
    over = ("convert", "mine.safetensors", "--to", "peft", "--base", "mlp.safetensors", "--overwrite", "--out")
    refused(capsys, (*over, "precious"), "something else")
    assert run(*over, "folder") == 0


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ("", "COMMAND"),
        ("paint dog.safetensors", "invalid choice"),
        ("inspect", "required: FILE"),
        ("inspect no.safetensors", "no such file"),
        ("inspect base.safetensors", "no WaveFT adapter"),
        ("inspect dog.safetensors --jsn", "unrecognized arguments: --jsn"),
        ("prune dog.safetensors --out x.safetensors", "one of the arguments"),
        ("prune dog.safetensors --keep 0.5 --energy 0.5 --out x.safetensors", "not allowed with"),
        ("prune dog.safetensors --keep much --out x.safetensors", "invalid float value"),
        ("prune dog.safetensors --keep 2 --out x.safetensors", "at most 1"),
        ("prune dog.safetensors --keep 0.5 --out x.pt", r"ends in \.safetensors"),
        ("prune dog.safetensors --keep 0.5 --out no/x.safetensors", "existing folder"),
        ("prune dog.safetensors --keep 0.5 --out dog.safetensors", "one that exists"),
        ("convert dog.safetensors --to diff --out dog.safetensors", "one that exists"),
        ("convert dog.safetensors --to peft --base base.safetensors --dtype fp16 --out x", "no --dtype"),
        ("extract --base base.safetensors --tuned base.safetensors --total 9 --out x.safetensors", "layers"),
        ("merge --base no --adapter dog.safetensors --out x.safetensors", "none there"),
        ("merge --base base.safetensors --adapter no.safetensors --out x.safetensors", "no such file"),
        ("convert dog.safetensors --to lora --out x.safetensors", "no low-rank form.*diff is what LoRA loaders read"),
        ("combine dog.safetensors --out .", r"ends in \.safetensors"),
    ],
)
def test_a_refusal_is_one_line_and_status_2(adapter, base, capsys, words, match):
    refused(capsys, shlex.split(words), match)


def test_a_full_disk_is_one_line_and_leaves_what_was_there(adapter, capsys, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    Path("small.safetensors").write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", full)
    refused(
        capsys, ("prune", "dog.safetensors", "--keep", 0.5, "--out", "small.safetensors", "--overwrite"), "No space"
    )


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_to_is_one_line(adapter, capsys):
    Path("shut").mkdir(mode=0o500)
    refused(capsys, ("prune", "dog.safetensors", "--keep", 0.5, "--out", "shut/x.safetensors"), "Permission denied")


@pytest.mark.parametrize("command", ["merge", "convert", "prune"])
def test_an_interrupt_leaves_nothing_behind(adapter, base, capsys, monkeypatch, command):
    def interrupt(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    words = {
        "merge": ("merge", "--base", "base.safetensors", "--adapter", "dog.safetensors"),
        "convert": ("convert", "dog.safetensors", "--to", "diff"),
        "prune": ("prune", "dog.safetensors", "--keep", 0.5),
    }
    before = sorted(Path().iterdir())
    assert run(*words[command], "--out", "x.safetensors") == 130
    assert capsys.readouterr().err == "waveft: interrupted, nothing was written.\n"
    assert sorted(Path().iterdir()) == before


def test_the_bar_is_drawn_on_a_terminal_alone_and_missed_by_none(capsys, monkeypatch):
    with progress_bar("merging", "B") as tell:
        tell(5, 10)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress_bar("merging", "B") as tell:
        tell(5, 10)
    assert "merging" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with progress_bar("merging", "B") as tell:
        tell(5, 10)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (11.7e6, "11.7 MB"), (6.94e9, "6.94 GB")]
)
def test_sizes_as_people_read_them(size, text):
    assert size_text(size) == text


def started(*words, **more):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "waveft_core", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **more,
    )


def test_as_a_program_it_refuses(here):
    refusing = started("inspect", "no.safetensors")
    out, err = refusing.communicate()
    assert (refusing.returncode, out) == (2, "")
    assert re.fullmatch(r"waveft: .*no such file.*\n", err)


@pytest.mark.slow
def test_as_a_program_it_prints_also_to_a_reader_that_stops(adapter):
    printing, piped = started("inspect", "dog.safetensors"), started("inspect", "dog.safetensors", "--json")
    piped.stdout.close()  # as `| head` does
    out, err = printing.communicate()
    assert (printing.returncode, err) == (0, "")
    assert "db1, periodization" in out
    assert piped.stderr.read() == ""
    piped.stderr.close()
    piped.wait()


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="no SIGINT to another process")
def test_a_real_interrupt_of_a_large_merge_leaves_nothing(here, make_adapter):
    save_file({f"layer.{number}.weight": torch.zeros(2**13, 2**13) for number in range(8)}, "base.safetensors")
    save(make_adapter({"lora_layer_7": (2**13, 2**13)}), "dog.safetensors")
    words = ("merge", "--base", "base.safetensors", "--adapter", "dog.safetensors", "--out", "new.safetensors")
    merging = started(*words)
    while not any(file.suffix == ".tmp" for file in Path().iterdir()):
        assert merging.poll() is None
    merging.send_signal(signal.SIGINT)
    _, err = merging.communicate()
    assert (merging.returncode, err) == (130, "waveft: interrupted, nothing was written.\n")
    assert sorted(file.name for file in Path().iterdir()) == ["base.safetensors", "dog.safetensors"]
