"""What a step is said to cost a GPU: the counting by hand, and our own figures, so that a kernel more is seen."""

import json

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks import counting, fakes, load, roofline
from benchmarks.counting import PIECE, Counter, Tally

pytestmark = pytest.mark.filterwarnings("ignore")  # diffusers' and PEFT's own

PX, COEFFICIENTS, BLOCKS = 64, 20, 2  # of a UNet of one level, with attention on its way down and in its middle
LAYERS = 8 * BLOCKS
LEVEL = {
    "block_out_channels": (32,), "down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("UpBlock2D",),
    "attention_head_dim": [2],
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def tiny():
    """That UNet in the place of the tiny one: half of its calls."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(load.SIZES, "tiny", {**load.TINY_UNET, **LEVEL})
        yield


@pytest.fixture(scope="module")
def cases():
    """Each method in the UNet."""
    return {m: fakes.make(m, "bf16", "tiny", COEFFICIENTS) for m in (fakes.FROZEN, fakes.OURS, "PEFT LoRA r=1")}


@pytest.fixture(scope="module")
def counts(cases):
    """Their steps, by (method, checkpointing)."""
    return {(m, again): fakes.count(case, PX, 1, again) for m, case in cases.items() for again in (False, True)}


def over_frozen(counts, method, again, figure):
    base = counts[fakes.FROZEN, again].tallies
    return {
        phase: getattr(tally, figure) - getattr(base[phase], figure)
        for phase, tally in counts[method, again].tallies.items()
    }


def test_our_launches_are_these(counts):
    found = over_frozen(counts, fakes.OURS, False, "launches")
    tables = 1 + 2  # kept from the first step on, and counted in it: a range, and a cast of the filter for each width
    # the optimizer's has none a layer, in the write either
    assert found == {"forward": 2 * BLOCKS, "backward": 2 * LAYERS + tables, "optimizer": 23}


def test_our_launches_are_less_than_half_of_loras(counts):
    for again in (False, True):
        ours, lora = (sum(over_frozen(counts, m, again, "launches").values()) for m in (fakes.OURS, "PEFT LoRA r=1"))
        assert 0 < ours < lora / 2


def test_our_bytes_are_these(counts):
    tallies = {phase: tally.moved for phase, tally in counts[fakes.OURS, False].tallies.items()}
    frozen = {phase: tally.moved for phase, tally in counts[fakes.FROZEN, False].tallies.items()}
    assert {phase: tallies[phase] - frozen[phase] for phase in tallies} == {
        "forward": 49152, "backward": 295504, "optimizer": 196092,
    }  # fmt: skip


def test_checkpointing_holds_less_and_computes_more(counts):
    for method in (fakes.FROZEN, fakes.OURS, "PEFT LoRA r=1"):
        plain, again = counts[method, False], counts[method, True]
        assert again.peak["activations"] < plain.peak["activations"]
        assert again.total().flops > plain.total().flops


def test_a_count_is_the_same_twice_and_leaves_nothing_behind(counts, cases):
    first, again = counts[fakes.OURS, False], fakes.count(cases[fakes.OURS], PX, 1, False)
    assert again.tallies == first.tallies
    assert again.peak == first.peak
    held = [{kind: size for kind, size in one.live().items() if kind != "activations"} for one in (first, again)]
    assert held[0] == held[1]
    assert all(held[0].values())
    assert torch.ones(2).sum() == 2  # no fake mode is left on


@pytest.mark.parametrize("base", ["fp8", "nf4"])
def test_bases_of_fewer_bits_weigh_less(base, counts):
    found = fakes.count(fakes.make(fakes.OURS, base, "tiny", COEFFICIENTS), PX, 1, False)
    assert found.peak["weights"] < counts[fakes.OURS, False].peak["weights"]
    assert found.total().launches > counts[fakes.OURS, False].total().launches  # casts, or what runs beside


def test_a_linear_layer_by_hand():
    with FakeTensorMode():
        layer = nn.Linear(64, 32, bias=False).requires_grad_(False)
        x = torch.empty(10, 64)
        counter = Counter()
        with counter:
            counter.hold(layer.parameters(), "weights")
            counter.hold([x], "activations")
            y = layer(x)
            y = y.relu()
    tally = counter.tallies["forward"]
    assert tally.calls == {"mm": 1, "relu": 1}
    assert tally.flops == 2 * 10 * 64 * 32
    assert tally.read == 4 * (10 * 64 + 64 * 32 + 10 * 32)
    assert tally.written == 4 * 2 * 10 * 32
    assert counter.peak["weights"] == 4 * 64 * 32
    assert counter.peak["activations"] == 10 * 64 * 4 + 2 * PIECE * 3  # two results of 1280 bytes
    assert counter.live()["activations"] == 10 * 64 * 4 + PIECE * 3


def test_gathers_and_scatters_move_what_they_touch():
    with FakeTensorMode():
        source, places = torch.empty(10_000), torch.empty(10, dtype=torch.int64)
        counter = Counter()
        with counter:
            found = source.index_select(0, places)
            source.index_copy_(0, places, found)
    tally = counter.tallies["forward"]
    assert tally.read == 10 * 8 + 10 * counting.SECTOR + 10 * 8 + 10 * 4
    assert tally.written == 10 * 4 + 10 * counting.SECTOR


def test_lists_of_tensors_are_launched_in_parts():
    with FakeTensorMode():
        many = [torch.empty(5) for _ in range(300)]
        counter = Counter()
        with counter:
            torch.cat(many)
            torch._foreach_add_(many, 1.0)
            torch._foreach_add_([torch.empty(counting.BLOCK * counting.BLOCKS * 2)], 1.0)
    assert counter.tallies["forward"].calls == {"cat": 3, "_foreach_add_": 3 + 2}


def test_a_bound_is_the_slowest_of_three():
    card = roofline.Card(1e9, 100.0, 1000.0, "made up")
    assert roofline.bound(Tally(launches=1, work=[(2000, 10), (10, 300)]), card) == 2.0 + 3.0
    assert roofline.bound(Tally(launches=10**6, work=[(1, 1)]), card) == 10**6 * roofline.LAUNCH


def test_the_command_gives_its_tables(tmp_path, capsys):
    path = tmp_path / "roofline.json"
    threads = torch.get_num_threads()
    try:
        small = ["--size", "tiny", "--px", "64", "--coefficients", "20", "--checkpointing", "off"]
        roofline.main([*small, "--methods", "frozen", "PEFT WaveFT", "--json", str(path)])
    finally:
        torch.set_num_threads(threads)
    said = capsys.readouterr().out
    rows = json.loads(path.read_text(encoding="utf-8"))["records"]
    assert [row["method"] for row in rows] == ["frozen", "PEFT WaveFT"]
    assert said.count("| 64 px, batch 1, bf16 |") == 4
    assert all(card in said for card in roofline.CARDS)


@pytest.mark.slow
def test_sdxl_at_1024_px_takes_what_the_documents_say():
    frozen = fakes.count(fakes.make(fakes.FROZEN), 1024, 1, True)
    ours = fakes.count(fakes.make(fakes.OURS), 1024, 1, True)
    assert sum(ours.peak.values()) < 8e9
    assert ours.total().launches < 1.6 * frozen.total().launches
