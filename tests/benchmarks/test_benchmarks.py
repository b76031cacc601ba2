"""Each benchmark at a tiny size: it runs, it gives a table and its figures. How fast anything is, is nobody's test."""

import contextlib
import itertools
import json
from collections import Counter

import pytest
import torch
from torch import nn

from benchmarks import causes, delta, gradient, load, measure, memory, plot, scaling, step, webui
from waveft_core import Spec, attach

pytestmark = pytest.mark.filterwarnings("ignore")  # the peers' own, and the profiler's

SMALL = ["--rounds", "2", "--threads", "1"]
BLOCK = ["--tokens", "8", "--width", "64", "--context", "64", "--coefficients", "20"]
COMMANDS = {
    step: [*BLOCK],
    causes: [*BLOCK],
    memory: [*BLOCK, "--size", "tiny", "--methods", "frozen", "PEFT WaveFT", "WaveFT (ours)"],
    load: ["--size", "tiny", "--coefficients", "20", "--peft-rounds", "1"],
    delta: ["--wavelets", "db2", "--size", "64", "--coefficients", "20"],
    scaling: ["--tokens", "8", "--coefficients", "16", "--width", "32", "--widths", "32", "--paper", "20"],
    gradient: ["--wavelets", "db1", "--coefficients", "20", "--shapes", "64", "32", "8"],
}


def ran(module, arguments, path, capsys):
    """What the benchmark printed and what it wrote."""
    threads = torch.get_num_threads()
    try:
        module.main([*SMALL, *arguments, "--json", str(path)])
    finally:
        torch.set_num_threads(threads)
    return capsys.readouterr().out, json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("records")


@pytest.mark.parametrize("module", COMMANDS, ids=lambda module: module.__name__.split(".")[-1])
def test_a_benchmark_gives_a_table_and_its_figures(module, folder, capsys):
    name = module.__name__.split(".")[-1]
    said, record = ran(module, COMMANDS[module], folder / f"{name}.json", capsys)
    first = said.splitlines()[0]
    assert first.startswith(measure.machine(torch.device("cpu")))
    assert "1 thread, " in first
    assert f"torch {torch.__version__}, 2 rounds" in first
    assert "\n|---|" in said
    assert "failed" not in said, said
    assert (record["benchmark"], record["threads"], record["torch"]) == (name, 1, torch.__version__)
    assert record["settings"]["rounds"] == 2
    assert record["records"]
    rows = [line for line in said.splitlines() if line.startswith("| ")]
    assert len({line.count(" | ") for line in rows}) <= 2  # every row of a table has the table's columns


def test_the_causes_and_what_is_left_are_all_of_our_step(folder, capsys):
    _, record = ran(causes, COMMANDS[causes], folder / "causes.json", capsys)
    shares = {row["cause"]: row["share_of_frozen"] for row in record["records"]}
    parts = [*causes.PARTS, causes.LEFT]
    assert list(shares) == [*parts, causes.ALL, "PEFT LoRA r=1, all"]
    assert all(share > 0 for part in causes.PARTS for share in shares[part])
    for number, total in enumerate(shares[causes.ALL]):
        assert sum(shares[part][number] for part in parts) == pytest.approx(total)


def test_the_plots_are_drawn_from_the_records(folder, capsys):
    for module in (step, scaling):
        path = folder / f"{module.__name__.split('.')[-1]}.json"
        if not path.exists():
            ran(module, COMMANDS[module], path, capsys)
    plot.main([str(folder / "step.json"), str(folder / "scaling.json"), "--folder", str(folder)])
    for name in ("benchmarks-step.png", "benchmarks-scaling.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")


def test_the_unet_steps(folder, capsys):
    methods = ["--methods", "frozen", "WaveFT (ours)"]
    options = ["--model", "unet", "--size", "tiny", "--latent", "8", "--coefficients", "20", "--checkpointing"]
    said, record = ran(step, [*options, *methods], folder / "unet.json", capsys)
    assert "64 px" in said
    assert "checkpointing" in said.splitlines()[0]
    assert all(row["seconds"] for row in record["records"]), said


def test_the_trainers_methods_step_beside_pefts_own(folder, capsys):
    said, record = ran(step, [*BLOCK, "--loop"], folder / "loop.json", capsys)
    assert all(row["seconds"] for row in record["records"]), said
    assert len(record["records"]) == 13
    assert said.count("times as long as PEFT") == 6


class Drawing:
    """A web UI that remembers the prompts, and whether the file that one names was there and new."""

    version = "a UI"

    def __init__(self, loras):
        self.loras, self.prompts = loras, []

    def weights(self):
        return {f"lora_unet_input_blocks_{place}_1_to_q": torch.zeros(8, 6) for place in (4, 5)}

    def call(self, path, _body):
        assert path == "/sdapi/v1/refresh-loras"

    def draw(self, prompt, **_more):
        name = prompt.partition("<lora:")[2].partition(":")[0]
        held = {path.stem for path in self.loras.iterdir()}
        assert not name or held == {name}
        self.prompts.append(prompt)


def test_a_web_ui_draws_each_contestant_with_new_files_in_turns(folder, capsys, monkeypatch, tmp_path):
    server = Drawing(tmp_path)
    monkeypatch.setattr(webui, "running", lambda: contextlib.nullcontext(server))
    said, record = ran(webui, ["--coefficients", "16"], folder / "webui.json", capsys)
    assert len(server.prompts) == 3 * 3 * (1 + 2)  # contestants, pictures, a turn to warm up and two rounds
    names = [prompt.partition("<lora:")[2].partition(":")[0] for prompt in server.prompts]
    assert set(Counter(name for name in names if name).values()) == {3}, "no file is met twice"
    strengths = [prompt.rpartition(":")[2] for prompt in server.prompts if "<" in prompt]
    assert all(first != second == third for first, second, third in zip(*[iter(strengths)] * 3, strict=True))
    assert not list(tmp_path.iterdir())
    assert "first / LoRA" in said and len(record["records"]) == 9


@pytest.mark.parametrize("count", [1, 2, 5, 6])
def test_everyone_follows_everyone_as_often(count):
    names = [str(number) for number in range(count)]
    rounds = [measure.order(names, number) for number in range(2 * count)]
    assert all(sorted(names) == sorted(own) for own in rounds)
    assert {own[0] for own in rounds} == set(names)
    pairs = Counter(pair for own in rounds for pair in itertools.pairwise(own))
    assert len(pairs) == count * (count - 1)
    assert len(set(pairs.values())) <= 1


def test_turns_rotate_and_a_failing_contestant_is_a_result():
    order = []

    def fails():
        order.append("c")
        raise RuntimeError("cannot | do\nthis")

    runs = {"a": lambda: order.append("a"), "b": lambda: order.append("b"), "c": fails}
    times = measure.take_turns(runs, 3, torch.device("cpu"), warm_up=0)
    assert order == ["a", "b", "c", "b", "a", "a", "b"]
    assert times.failed == {"c": "RuntimeError: cannot / do"}
    assert [len(times.seconds[name]) for name in "abc"] == [3, 3, 0]


def test_ratios_are_each_round_s_own():
    times = measure.Times({"own": [2.0, 30.0, 4.0], "floor": [1.0, 10.0, 4.0]})
    assert times.ratios("own", "floor") == [2.0, 3.0, 1.0]
    assert measure.ratio_text([2.0, 3.0, 1.0]) == "2.00 (1.00 to 3.00)"
    assert measure.middle(list(range(8))) == (2, 6)


@pytest.mark.parametrize("layout", ["strided", "coo"])
def test_saved_bytes_are_those_that_the_backward_needs(layout):
    x = torch.randn(10, 4)
    values = torch.ones(4, requires_grad=True)
    if layout == "strided":
        assert memory.saved_bytes(lambda: (x.exp() * values).sum().backward(), [values]) == x.nbytes
    else:
        weight = torch.eye(4).to_sparse()
        run = lambda: torch.sparse.mm(weight, x.t().requires_grad_(True)).sum().backward()  # noqa: E731
        assert memory.saved_bytes(run, []) >= weight._indices().nbytes + weight._values().nbytes


def test_the_peak_is_of_what_lives_at_once():
    def run():
        for _ in range(5):
            held = torch.empty(2**20)
            del held

    assert 2**22 <= memory.peak_bytes(run, torch.device("cpu")) < 2**22 + 2**12


def test_all_that_a_tuning_keeps_is_found_once():
    p, m, n = 50, 32, 64
    model = nn.Sequential(nn.Linear(n, m), nn.Linear(m, n)).requires_grad_(False)
    tuning = attach(model, Spec(coefficients=p, targets=("0", "1")))
    model(torch.randn(4, n, requires_grad=True)).sum().backward()
    for values in tuning.parameters():
        values.grad = None
    kinds = memory.by_kind(memory.kept(tuning))
    assert kinds["values"] == 2 * p * 4
    touched = 2 * p * 4  # db1: at most four entries a coefficient
    assert touched * 4 * 0.8 < kinds["originals"] <= 2 * touched * 4
    assert 2 * p * 4 <= kinds["positions"] < 200 * 2 * p
