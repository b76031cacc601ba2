"""Positions chosen by the gradient: autograd's own sums, analysed by PyWavelets, and their top."""

import re
import weakref

import numpy as np
import pytest
import pywt
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from waveft_core import Probe, Spec, WaveFTError, attach, locate
from waveft_core.basis.locations import draw
from waveft_core.update import gradient
from waveft_core.update.gradient import Sampler

NAMES = ("lora_0", "lora_2")
SHAPES = {"lora_0": (12, 8), "lora_2": (6, 12)}
SPEC = Spec(coefficients=5, locations="gradient:3", targets=("0", "2"))


def batches(count=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(11)
    return [torch.randn(7, 8, generator=generator, dtype=torch.float64).to(dtype) for _ in range(count)]


def loss(model, x):
    return model(x).square().mean() + model(2 * x).sin().sum()  # each layer runs twice in a backward pass


def probed(model, spec=SPEC, xs=None, **more):
    with Probe(model, spec, **more) as probe:
        for x in batches() if xs is None else xs:
            loss(model, x).backward()
    return probe


def analysed(weight_grad, wavelet, mode):
    """D_m G D_n^T by PyWavelets, laid out as C is."""
    if wavelet == "identity":
        return weight_grad
    aa, (da, ad, dd) = pywt.dwt2(weight_grad, wavelet, mode)
    return np.block([[aa, ad], [da, dd]])


def oracle(make_mlp, wavelet="db1", mode="periodization", xs=None):
    """Each layer's dL/dC at every position, summed over batches, by autograd and PyWavelets: [M * N] float64."""
    model = make_mlp(torch.float64, grad=True)
    for x in batches() if xs is None else xs:
        loss(model, x).backward()
    grads = {name: model[int(name[-1])].weight.grad.numpy() for name in NAMES}
    return {name: analysed(grad, wavelet, mode).reshape(-1) for name, grad in grads.items()}


def place(adapter):
    return {name: layer.indices.tolist() for name, layer in adapter.layers.items()}


def top(sizes, candidates, count):
    """The `count` largest of `sizes` [M * N] among the candidates, ascending, by sorting alone."""
    order = sorted(candidates, key=lambda at: (-abs(sizes[at]), at))
    return sorted(order[:count])


# Identities and oracles


@pytest.mark.parametrize("way", ["sampled", "dense"])
@pytest.mark.parametrize(
    ("wavelet", "mode"),
    [("db1", "periodization"), ("db2", "periodization"), ("db2", "zero"), ("identity", "periodization")],
)
def test_the_sums_are_autograds_gradient_analysed_by_pywt_at_every_position(make_mlp, wavelet, mode, way, monkeypatch):
    monkeypatch.setattr(Sampler, "sampling_pays", lambda self: way == "sampled")
    expected = oracle(make_mlp, wavelet, mode)
    spec = Spec(5, wavelet=wavelet, mode=mode, locations="gradient:3", targets=("0", "2"))
    found = probed(make_mlp(torch.float64), spec, pool=1000).gradients()
    assert found.keys() == expected.keys()
    for name, sums in found.items():
        assert sums.dtype == torch.float64
        assert np.abs(expected[name]).max() > 0.1
        np.testing.assert_allclose(sums.numpy(), expected[name], rtol=0, atol=1e-12 * np.abs(expected[name]).max())


@pytest.mark.parametrize("pool", [2, 1000])
def test_the_chosen_are_the_largest_of_the_candidates(make_mlp, pool):
    expected = oracle(make_mlp)
    chosen = probed(make_mlp(torch.float64), pool=pool).choose()
    for name, shape in SHAPES.items():
        count = min(5 * pool, shape[0] * shape[1])
        candidates = draw("uniform:3", name, "db1", "periodization", shape, count).tolist()
        assert place(chosen)[name] == top(expected[name], candidates, 5)
        assert chosen.layers[name].shape == shape
        assert not chosen.layers[name].values.any()
    assert (chosen.wavelet, chosen.scaling, chosen.locations) == ("db1", 25.0, "gradient:3")


def test_a_pool_of_one_is_uniforms_own_draw(make_mlp):
    chosen = probed(make_mlp(torch.float64), pool=1).choose()
    assert place(chosen) == {
        name: draw("uniform:3", name, "db1", "periodization", shape, 5).tolist() for name, shape in SHAPES.items()
    }


def test_across_layers_is_the_top_of_all_and_spends_the_whole_budget(make_mlp):
    expected = oracle(make_mlp)
    chosen = probed(make_mlp(torch.float64), pool=1000).choose(across_layers=True)
    together = np.concatenate([expected[name] for name in NAMES])
    best = top(together, range(len(together)), 10)
    first = [at for at in best if at < 96]
    assert place(chosen) == {"lora_0": first, "lora_2": [at - 96 for at in best if at >= 96]}
    assert len(first) not in (0, 5, 10)  # or the case would show nothing


def test_a_layer_that_earns_nothing_is_left_out_across_layers():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).requires_grad_(False)
    spec = Spec(3, wavelet="identity", locations="gradient:0", targets=("0", "1"))
    with Probe(model, spec, pool=2) as probe:
        model[1](torch.tensor([[1.0, 2.0, 3.0, 4.0]])).sum().backward()  # layer 0 does not run
    assert place(probe.choose(across_layers=True)).keys() == {"lora_1"}
    with pytest.warns(UserWarning, match='1 layers had no gradient, and get places drawn uniformly: "lora_0"'):
        assert {name: len(at) for name, at in place(probe.choose()).items()} == {"lora_0": 3, "lora_1": 3}


def test_a_layer_without_a_gradient_gets_uniforms_own_draw_and_is_named(make_mlp):
    expected, model = oracle(make_mlp), make_mlp(torch.float64)
    model.add_module("idle", nn.Linear(8, 6).double().requires_grad_(False))
    spec = Spec(5, locations="gradient:3", targets=("0", "2", "idle"))
    with Probe(model, spec, pool=4) as probe:
        for x in batches():
            loss(model[:3], x).backward()
    with pytest.warns(UserWarning, match='1 layers had no gradient, and get places drawn uniformly: "lora_idle"'):
        chosen = place(probe.choose())
    assert chosen["lora_idle"] == draw("uniform:3", "lora_idle", "db1", "periodization", (6, 8), 5).tolist()
    for name in NAMES:
        candidates = draw("uniform:3", name, "db1", "periodization", SHAPES[name], 20).tolist()
        assert chosen[name] == top(expected[name], candidates, 5)


def test_coefficients_of_a_layers_own(make_mlp):
    expected = oracle(make_mlp)
    probe = probed(make_mlp(torch.float64), pool=1000, coefficients={"lora_2": 9})
    chosen = place(probe.choose())
    assert chosen == {
        "lora_0": top(expected["lora_0"], range(96), 5),
        "lora_2": top(expected["lora_2"], range(72), 9),
    }
    assert sum(len(at) for at in place(probe.choose(across_layers=True)).values()) == 14


def test_one_layer_by_hand():
    """x = (1, 3), L = the sum of y = W x: dL/dW = [[1, 3], [1, 3]], whose Haar analysis is aa = 4, ad = -2, rest 0."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False)).requires_grad_(False)
    spec = Spec(1, locations="gradient:0", targets=("0",))
    with Probe(model, spec, pool=4) as probe:
        model(torch.tensor([[1.0, 3.0]])).sum().backward()
    np.testing.assert_allclose(probe.gradients()["lora_0"].numpy(), [4, -2, 0, 0], atol=1e-6)
    assert place(probe.choose()) == {"lora_0": [0]}


def test_equal_magnitudes_go_to_the_lower_place():
    model = nn.Sequential(nn.Linear(4, 4, bias=False)).requires_grad_(False)
    spec = Spec(3, wavelet="identity", locations="gradient:0", targets=("0",))
    with Probe(model, spec, pool=100) as probe:
        model(torch.tensor([[1.0, -1.0, 1.0, 1.0]])).sum().backward()
    assert place(probe.choose()) == {"lora_0": [0, 1, 2]}


# Layers of other kinds


def assert_sums_are_the_gradient(make, x, weight_grad, shape):
    """A probe's sums at every position are PyWavelets' analysis of dL/dW, and a training step's own gradient."""
    every = int(np.prod(shape))
    spec = Spec(every, scaling=1.0, locations="gradient:3", targets=("0",))
    model = make()
    with Probe(model, spec, pool=1) as probe:
        for _ in range(2):
            model(x).tanh().sum().backward()
    sums = probe.gradients()["lora_0"]
    expected = 2 * analysed(weight_grad.reshape(shape[0], -1).numpy(), "db1", "periodization").reshape(-1)
    slack = (1e-12 if sums.dtype == torch.float64 else 1e-5) * np.abs(expected).max()
    np.testing.assert_allclose(sums.numpy(), expected, rtol=0, atol=slack)
    tuning = attach(model, Spec(every, scaling=1.0, targets=("0",)))
    for _ in range(2):
        model(x).tanh().sum().backward()
    assert torch.equal(tuning.parameters()[0].grad, sums)
    tuning.detach()
    chosen = probe.choose().layers["lora_0"]
    assert chosen.shape == shape
    assert chosen.indices.tolist() == list(range(every))


@pytest.mark.parametrize(
    "more", [{"kernel_size": 3, "padding": 1}, {"kernel_size": 1}, {"kernel_size": (3, 2), "stride": 2, "groups": 2}]
)
def test_a_convolutions_sums_are_its_gradient(more):
    def make(grad=False):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(4, 6, **more)).double().requires_grad_(grad)

    x = torch.randn(2, 4, 6, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    model = make(True)
    model(x).tanh().sum().backward()
    weight = model[0].weight
    assert_sums_are_the_gradient(make, x, weight.grad, tuple(weight.shape))


@pytest.mark.parametrize("bits", [8, 4], ids=["int8", "packed"])
def test_a_quantised_layers_sums_are_its_gradient_in_the_layers_own_shape(bits, make_mlp, quantised):
    def make():
        return nn.Sequential(quantised(make_mlp()[0], bits))

    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
    weight = make()[0].whole().requires_grad_()
    nn.functional.linear(x, weight).tanh().sum().backward()
    assert_sums_are_the_gradient(make, x, weight.grad, (12, 8))


def test_a_backward_pass_after_the_probe_is_left_still_counts(make_mlp):
    model, x = make_mlp(torch.float64), batches()[0]
    with Probe(model, SPEC, pool=1000) as probe:
        held = loss(model, x)
    held.backward()
    expected = oracle(make_mlp, xs=[x])
    for name, sums in probe.gradients().items():
        np.testing.assert_allclose(sums.numpy(), expected[name], rtol=0, atol=1e-12 * np.abs(expected[name]).max())


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # dynamo's own
@pytest.mark.parametrize("ran", [False, True], ids=["fresh", "ran before"])
def test_a_compiled_model_is_heard_and_left_as_it_was(ran, make_mlp):
    torch.compiler.reset()
    model, (x, *_) = make_mlp(torch.float64), batches()
    compiled = torch.compile(model, backend="aot_eager")
    if ran:
        compiled(x)
    with Probe(compiled, SPEC, pool=4) as probe:
        for each in batches():
            loss(compiled, each).backward()
    kept = {name: total.clone() for name, total in probe.gradients().items()}
    assert place(probe.choose()) == place(probed(make_mlp(torch.float64), pool=4).choose())
    assert not compiled(x).requires_grad
    y = x.clone().requires_grad_()
    loss(compiled, y).backward()  # after it: no graph still listens
    assert all(torch.equal(probe.gradients()[name], total) for name, total in kept.items())
    tuning = attach(compiled, probe.choose())
    loss(compiled, x).backward()
    assert all(values.grad.any() for values in tuning.parameters())
    torch.compiler.reset()


# Where the choice may not depend on anything but its arguments


def test_the_same_seed_and_batches_choose_the_same_as_on_resume(make_mlp):
    chosen = [place(probed(make_mlp(torch.float64), pool=4).choose()) for _ in range(2)]
    torch.manual_seed(99)
    torch.rand(3)
    again = place(locate(model := make_mlp(torch.float64), SPEC, iter_backward(model, batches()), batches=3, pool=4))
    assert chosen[0] == chosen[1] == again
    other = Spec(5, locations="gradient:4", targets=("0", "2"))
    assert place(probed(make_mlp(torch.float64), other, pool=4).choose()) != again


def iter_backward(model, xs):
    left = iter(xs)
    return lambda: loss(model, next(left)).backward()


def test_the_order_of_the_layers_does_not_matter(make_mlp):
    class Reversed(nn.Module):
        def __init__(self, inner):
            super().__init__()
            for name in ("2", "0"):
                self.add_module(name, inner[int(name)])

        def forward(self, x):
            return self.get_submodule("2")(self.get_submodule("0")(x).tanh())

    plain, turned = make_mlp(torch.float64), Reversed(make_mlp(torch.float64))
    assert place(probed(plain, pool=4).choose()) == place(probed(turned, pool=4).choose())
    assert place(probed(plain, pool=4).choose(True)) == place(probed(turned, pool=4).choose(True))


def test_batches_may_come_in_several_openings(make_mlp):
    model, xs = make_mlp(torch.float64), batches()
    probe = Probe(model, SPEC, 4)
    for x in xs:
        with probe:
            loss(model, x).backward()
        loss(model, x).sum()  # outside: not heard
    assert place(probe.choose()) == place(probed(make_mlp(torch.float64), pool=4).choose())


def test_reduce_is_called_for_each_layer_and_leaves_the_sums_alone(make_mlp):
    probe = probed(make_mlp(torch.float64), pool=4)
    before = {name: total.clone() for name, total in probe.gradients().items()}
    seen = []

    def turn(total):  # another rank, whose gradients make the smallest the largest
        seen.append(total.shape)
        total.copy_(1 / total)

    lowest = place(probe.choose(reduce=turn))
    assert seen == [torch.Size([20])] * 2
    for name, total in before.items():
        assert torch.equal(probe.gradients()[name], total)
        candidates = draw("uniform:3", name, "db1", "periodization", SHAPES[name], 20).tolist()
        smallest = np.argsort(total.abs().numpy(), kind="stable")[:5]
        assert lowest[name] == sorted(candidates[at] for at in smallest)


def rank_chooses(rank, store, folder):
    from torch import distributed

    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    try:
        model = seeded_mlp()
        chosen = locate(
            model, SPEC, iter_backward(model, batches(4)[rank::2]), 2, pool=4, reduce=distributed.all_reduce
        )
        torch.save(place(chosen), f"{folder}/{rank}.pt")
    finally:
        distributed.destroy_process_group()


def seeded_mlp():
    generator = torch.Generator().manual_seed(5)
    model = nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 6)).double().requires_grad_(False)
    for parameter in model.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / 3)
    return model


def test_two_ranks_choose_what_one_would_from_all_batches(tmp_path):
    torch.multiprocessing.start_processes(
        rank_chooses, (str(tmp_path / "store"), str(tmp_path)), nprocs=2, start_method="fork"
    )
    model, xs = seeded_mlp(), batches(4)
    alone = place(locate(model, SPEC, iter_backward(model, xs), 4, pool=4))
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert first == second == alone
    for rank in (0, 1):  # each rank's own batches would have chosen otherwise, or the sum would show nothing
        assert place(locate(model, SPEC, iter_backward(model, xs[rank::2]), 2, pool=4)) != alone


# What it leaves behind


@pytest.mark.parametrize("grad", [False, True])
def test_the_base_is_untouched(make_mlp, bits, grad):
    model = make_mlp(grad=grad)
    before = {name: (bits(held), held.requires_grad, held._version) for name, held in model.named_parameters()}
    x = batches(dtype=torch.float32)[0]
    plain = loss(model, x)
    with Probe(model, SPEC, 4) as probe:
        heard = loss(model, x)
        assert torch.equal(plain, heard)  # the forward is the model's own
        heard.backward()
    assert model[0].weight.grad is model[2].weight.grad is None  # no dense gradient was made
    after = {name: (bits(held), held.requires_grad, held._version) for name, held in model.named_parameters()}
    assert after == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert "forward" not in model[0].__dict__
    probe.choose()


def test_a_failing_batch_leaves_no_hook_behind(make_mlp):
    model = make_mlp(grad=True)
    with pytest.raises(KeyError), Probe(model, SPEC):
        raise KeyError("a batch failed")
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_adapter_trains(make_mlp):
    model, x = make_mlp(torch.float64), batches()[0]
    start = loss(model, x)
    tuning = attach(model, locate(model, SPEC, lambda: loss(model, x).backward(), batches=1))
    assert tuning.numel == 10
    loss(model, x).backward()
    expected = oracle(make_mlp, xs=[x])
    for name, values in zip(tuning.names, tuning.parameters(), strict=True):
        kept = top(
            expected[name],
            draw("uniform:3", name, "db1", "periodization", SHAPES[name], min(80, len(expected[name]))).tolist(),
            5,
        )
        np.testing.assert_allclose(values.grad.numpy(), 25 * expected[name][kept], rtol=1e-10)
    torch.optim.SGD(tuning.parameters(), lr=1e-7).step()
    assert loss(model, x) < start
    tuning.detach()
    assert loss(model, x) == start


def test_the_choice_lowers_the_loss_more_than_uniform_positions(make_mlp):
    """To first order a small step gains lr * sum of the squared gradients at the positions."""
    expected = oracle(make_mlp)
    chosen, drawn = (place(probed(make_mlp(torch.float64), pool=pool).choose()) for pool in (16, 1))
    gains = [sum(np.square(expected[name][at]).sum() for name, at in held.items()) for held in (chosen, drawn)]
    assert gains[0] > 2 * gains[1]


# Memory


def watched(model, probe):
    """Counts the new tensors of a weight's size, 96 x 64, over three batches and the choice, and the most at a time."""
    x = torch.randn(40, 64, generator=torch.Generator().manual_seed(0))
    alive, most, made = {}, 0, 0

    class WeightSized(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal most, made
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, (tuple, list)) else (out,):
                if not isinstance(tensor, torch.Tensor) or tensor.layout is not torch.strided:
                    continue
                key = tensor.untyped_storage()._cdata
                own = {layer.weight.untyped_storage()._cdata for layer in model}
                if tensor.numel() >= 96 * 64 and key not in alive and key not in own:
                    made += 1
                    alive[key] = weakref.finalize(tensor, alive.pop, key, None)
                    most = max(most, len(alive))
            return out

    with WeightSized():
        with probe:
            for _ in range(3):
                model(x).square().sum().backward()
        probe.choose()
    return made, most


def test_the_sampled_way_makes_no_tensor_of_a_weights_size(monkeypatch):
    monkeypatch.setattr(Sampler, "sampling_pays", lambda self: True)
    model = nn.Sequential(nn.Linear(64, 96), nn.Linear(96, 64)).requires_grad_(False)
    probe = Probe(model, Spec(60, locations="gradient:0", targets=("0", "1")), pool=10)
    assert watched(model, probe) == (0, 0)


def test_the_dense_way_holds_at_most_one_at_a_time(monkeypatch):
    monkeypatch.setattr(Sampler, "sampling_pays", lambda self: False)
    monkeypatch.setattr(gradient, "GATHERED_AT_ONCE", 96 * 64 // 8)  # as far below a weight as it is at SDXL's sizes
    model = nn.Sequential(nn.Linear(64, 96), nn.Linear(96, 64)).requires_grad_(False)
    probe = Probe(model, Spec(60, locations="gradient:0", targets=("0", "1")), pool=10)
    assert watched(model, probe) == (6, 1)  # a GEMM a layer and batch


# Refusals


@pytest.mark.parametrize("locations", ["uniform:3", "peft:3"])
def test_a_spec_that_needs_no_choice_is_refused(make_mlp, locations):
    with pytest.raises(WaveFTError, match=re.escape(f"expected \"gradient:SEED\", got '{locations}'")):
        Probe(make_mlp(), Spec(5, locations=locations, targets=("0",)))


@pytest.mark.parametrize("pool", [0, -1, 1.5, True, "4"])
def test_a_pool_that_is_no_number_is_refused(make_mlp, pool):
    with pytest.raises(WaveFTError, match="pool: expected a whole number of at least 1"):
        Probe(make_mlp(), SPEC, pool)


def test_too_many_coefficients_are_refused_by_layer(make_mlp):
    with pytest.raises(WaveFTError, match=r'layer "lora_2": expected 1 to 72 coefficients .* got 80'):
        Probe(make_mlp(), Spec(80, locations="gradient:3", targets=("0", "2")))
    with pytest.raises(WaveFTError, match=r'layer "lora_0": expected 1 to 96 coefficients .* got 0'):
        Probe(make_mlp(), SPEC, coefficients={"lora_0": 0})


def test_coefficients_for_a_layer_that_is_no_target_are_refused(make_mlp):
    with pytest.raises(WaveFTError, match=r"coefficients: expected names of target layers, got .lora_7"):
        Probe(make_mlp(), SPEC, coefficients={"lora_7": 3})


def test_choosing_without_a_backward_pass_is_refused(make_mlp):
    probe = Probe(make_mlp(), SPEC)
    with pytest.raises(WaveFTError, match="expected backward passes while it was open, got none"):
        probe.choose()
    with probe, torch.no_grad():
        loss(make_mlp(), batches(dtype=torch.float32)[0])
    with pytest.raises(WaveFTError, match="got none"):
        probe.choose()


def test_gradients_that_are_not_finite_are_refused_by_layer(make_mlp):
    model = make_mlp()
    with Probe(model, SPEC) as probe:
        (model(batches(dtype=torch.float32)[0]) * torch.inf).sum().backward()
    with pytest.raises(WaveFTError, match=r"layers .*lora_2.*: expected finite gradients"):
        probe.choose()


def test_entering_twice_is_refused(make_mlp):
    with Probe(make_mlp(), SPEC) as probe, pytest.raises(WaveFTError, match="entered once at a time"):
        probe.__enter__()


def test_attach_says_that_batches_must_choose(make_mlp):
    with pytest.raises(WaveFTError, match="Call `locate`, and attach the adapter that it returns"):
        attach(make_mlp(), SPEC)
