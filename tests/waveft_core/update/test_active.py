"""The same weights to the last bit, whether their plans are kept in turns or swept, and what is kept either way."""

import pytest
import torch

from benchmarks.memory import by_kind, kept
from waveft_core import Spec, WaveFTError, attach, merge
from waveft_core.basis import planning
from waveft_core.update.active import Active, Update

A, B = "lora_0", "lora_2"
SHAPES = {A: (12, 8), B: (6, 12)}
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn]
ids = [str(dtype).removeprefix("torch.") for dtype in DTYPES]


@pytest.fixture
def sweeping(monkeypatch):
    """sweeping(True) has all plans made from then on swept, sweeping(False) none."""

    def choose(sweeps):
        monkeypatch.setattr(planning, "sweeping_pays", lambda *_: sweeps)

    return choose


@pytest.fixture
def trail(sweeping, bits):
    """trail(make, play) -> the model's bits after each step of `play`, which must be the same both ways."""

    def run(make, play):
        trails = []
        for sweeps in (False, True):
            sweeping(sweeps)
            model = make()
            before = [bits(weight) for weight in model.state_dict().values()]
            trails.append([before])
            for _ in play(model):
                trails[-1].append([bits(weight) for weight in model.state_dict().values()])
        assert trails[0] == trails[1]
        assert trails[0][-1] == trails[0][0], "W0 is back"
        assert len({str(step) for step in trails[0]}) == len(trails[0]) - 1, "each step changes something"

    return run


@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
@pytest.mark.parametrize("wavelet", ["db1", "db4", "db8", "coif2"])
@pytest.mark.parametrize("mode", ["periodization", "zero"])
def test_merge_strength_and_undo_are_the_same_bits_both_ways(dtype, wavelet, mode, trail, make_mlp, make_adapter):
    def play(model):
        merged = merge(model, make_adapter(SHAPES, 40, wavelet, mode, scaling=0.1))
        yield
        merged.strength = -0.6
        yield
        merged.undo()
        yield

    trail(lambda: make_mlp(torch.float32).to(dtype), play)


@pytest.mark.parametrize("dtype", DTYPES[:4], ids=ids[:4])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)], ids=str)
def test_three_adapters_of_two_kinds_in_and_out(dtype, order, trail, make_mlp, make_adapter, sweeping):
    """The second one's plan is in turns among two that are swept."""

    def play(model):
        adapters = [make_adapter(SHAPES, 30, wavelet, seed=seed) for seed, wavelet in enumerate(("db8", "db1", "db4"))]
        merged = []
        swept = planning.sweeping_pays("db8", "periodization", (12, 8), 30)
        for number, adapter in enumerate(adapters):
            sweeping(swept and number != 1)
            merged.append(merge(model, adapter, 0.5 + number))
            yield
        merged[0].strength = -0.25
        yield
        for number in order:
            merged[number].undo()
            yield

    trail(lambda: make_mlp(dtype), play)


@pytest.mark.parametrize("start", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("then", ["undo", "strength", "merge"])
def test_a_model_that_is_cast_between_has_the_same_bits_both_ways(
    start, dtype, then, make_mlp, make_adapter, sweeping, bits
):
    ends = []
    for sweeps in (False, True):
        sweeping(sweeps)
        model = make_mlp(start)
        merged, other = merge(model, make_adapter(SHAPES, 40, "db8")), None
        model.to(dtype)
        if then == "strength":
            merged.strength = 0.5
        if then == "merge":
            other = merge(model, make_adapter(SHAPES, 20, "db4", seed=3))
        ends.append([bits(weight) for weight in model.state_dict().values()])
        merged.undo()
        if other is not None:
            other.undo()
        ends[-1] += [bits(weight) for weight in model.state_dict().values()]
        assert ends[-1][-3:] == [bits(weight) for weight in make_mlp(start).to(dtype).state_dict().values()]
    assert ends[0] == ends[1]


@pytest.mark.parametrize("spoil", ["entry", "sign of zero", "data"])
@pytest.mark.parametrize("then", ["undo", "strength", "merge"])
def test_a_foreign_write_is_seen_without_a_record_of_what_was_written(spoil, then, make_mlp, make_adapter, sweeping):
    sweeping(True)
    model = make_mlp()
    with torch.no_grad():
        model[2].weight[1, 3] = 0.0
    adapter = make_adapter({B: (6, 12)}, 72, "db8")  # every entry is touched
    if spoil == "sign of zero":
        adapter.layers[B].values.zero_()
    merged = merge(model, adapter)
    assert merged._placed[0][0]._written is None
    if spoil == "data":
        model[2].weight.data = model[2].weight.data.clone().add_(1e-3)
    else:
        model[2].weight.data[1, 3] = -0.0 if spoil == "sign of zero" else 7.0
    after = model[2].weight.clone()
    with pytest.raises(WaveFTError, match='layer "2": expected the weight as it was last written, got another content'):
        {
            "undo": merged.undo,
            "strength": lambda: setattr(merged, "strength", 0.5),
            "merge": lambda: merge(model, make_adapter(SHAPES, 10, seed=9)),
        }[then]()
    assert torch.equal(model[2].weight, after)


def test_values_that_change_after_a_write_are_no_foreign_write(make_mlp, make_adapter, sweeping, bits):
    sweeping(True)
    model = make_mlp()
    before = bits(model[0].weight)
    adapter = make_adapter(SHAPES, 40, "db8")
    merged = merge(model, adapter)
    adapter.layers[A].values.mul_(3)
    adapter.layers[A].indices.zero_()  # nor are their places read again
    merged.undo()
    assert bits(model[0].weight) == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_training_steps_have_the_same_bits_both_ways(dtype, make_mlp, sweeping, bits):
    trails = []
    for sweeps in (False, True):
        sweeping(sweeps)
        model, seen = make_mlp(dtype), []
        before = bits(model[0].weight)
        tuning = attach(model, Spec(coefficients=30, wavelet="db8", targets=("0", "2"), scaling=1.0))
        optimizer = torch.optim.AdamW(tuning.parameters(), lr=0.1, fused=True)
        x = torch.randn(5, 8, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_(True)
        for _ in range(3):
            model(x).float().square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            seen.append(bits(model[0].weight) + bits(model[2].weight))
        tuning.strength = 0.5
        seen.append(bits(model[0].weight) + bits(model[2].weight))
        with tuning.disabled():
            assert bits(model[0].weight) == before
        tuning.detach()
        assert bits(model[0].weight) == before
        assert len(set(seen)) == 4
        trails.append(seen)
    assert trails[0] == trails[1]


def test_overflow_is_refused_with_everything_put_back(make_mlp, make_adapter, sweeping, bits):
    sweeping(True)
    model = make_mlp(torch.float16)
    before = [bits(weight) for weight in model.state_dict().values()]
    adapter = make_adapter(SHAPES, 40, "db8", scaling=1e6)
    with pytest.raises(WaveFTError, match=r"expected a finite merged weight, got \d+ entries beyond float16"):
        merge(model, adapter)
    assert [bits(weight) for weight in model.state_dict().values()] == before
    merged = merge(model, adapter, 1e-7)
    held = [bits(weight) for weight in model.state_dict().values()]
    with pytest.raises(WaveFTError, match="expected a finite merged weight"):
        merged.strength = 1.0
    assert [bits(weight) for weight in model.state_dict().values()] == held
    merged.undo()
    assert [bits(weight) for weight in model.state_dict().values()] == before


def test_a_weight_that_leaves_for_a_device_without_sweeps_takes_its_turns_along(sweeping, make_adapter):
    sweeping(True)
    adapter = make_adapter({A: (12, 8)}, 30, "db8")
    layer = adapter.layers[A]
    plan = planning.make_plan("db8", "periodization", (12, 8), layer.indices, torch.float32)
    active = Active([Update("x", plan, layer.values, 1.0)], [plan], torch.device("cpu"))
    active.settle()
    assert active.sweeps
    moved = active.to(torch.device("meta"), torch.float32)
    assert not moved.sweeps
    assert moved.updates[0].plan.device.type == "meta"
    assert len(moved.places) == len(active.places)


def test_what_a_long_filter_keeps_is_w0_and_little_else():
    """64 x 64 in bf16 with 1100 coefficients of db8: all 4096 entries are touched, by 70,400 blocks."""
    model = torch.nn.Sequential(torch.nn.Linear(64, 64, bias=False, dtype=torch.bfloat16))
    tuning = attach(model, Spec(coefficients=1100, wavelet="db8", targets=("0",)))
    optimizer = torch.optim.SGD(tuning.parameters(), lr=1e-3)
    model(torch.ones(2, 64, dtype=torch.bfloat16).requires_grad_(True)).float().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    sizes = kept(tuning)
    assert by_kind(sizes) == {
        "originals": 4096 * 2,  # W0's bits alone: what was written is made again
        "values": 2 * 1100 * 4,  # the parameters, and those that were last written
        # where they are: the sweep's and, narrow, the gradient's; 256 blocks of taps, which all layers share
        "positions": 1100 * 4 + 1100 * 2 + 65 * 2 + 256 * 4 * 4,
    }
