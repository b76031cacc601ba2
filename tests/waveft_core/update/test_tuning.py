import copy
import gc
import io
import pickle
import warnings
import weakref

import pytest
import torch
from torch import nn
from torch.optim import optimizer as torch_optimizer
from torch.utils.checkpoint import checkpoint

from waveft_core import Adapter, Layer, Spec, WaveFTError, attach, merge

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=[str(dtype).removeprefix("torch.") for dtype in DTYPES])
SPEC = Spec(coefficients=16, scaling=2.0, wavelet="db2", targets=("0", "2"))
A, B = "lora_0", "lora_2"
SHAPES = {A: (12, 8), B: (6, 12)}


@pytest.fixture
def snapshot(bits):
    return lambda model: {name: bits(tensor) for name, tensor in model.state_dict().items()}


@pytest.fixture
def x():
    return torch.randn(5, 8, generator=torch.Generator().manual_seed(11))


def loss_of(model, x):
    return (model(x.to(next(model.parameters()).dtype)).float() - 0.3).square().mean()


def train(model, x, optimizer, steps=3):
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(model, x).backward()
        optimizer.step()


def weights_of(model):
    return [model[0].weight.detach().clone(), model[2].weight.detach().clone()]


def assert_merged(model, tuning, base, x):
    """The model's output and weights are bit for bit those of a merge into a copy of the base."""
    merge(base, tuning.adapter())
    assert torch.equal(model(x.to(model[0].weight.dtype)), base(x.to(model[0].weight.dtype)))
    for got, expected in zip(weights_of(model), weights_of(base), strict=True):
        assert torch.equal(got, expected)


def adafactor(parameters):
    from transformers.optimization import Adafactor

    return Adafactor(parameters, lr=0.02, relative_step=False, scale_parameter=False)


OPTIMIZERS = {
    "AdamW plain": lambda p: torch.optim.AdamW(p, lr=0.02, foreach=False, fused=False),
    "AdamW foreach": lambda p: torch.optim.AdamW(p, lr=0.02, foreach=True),
    "AdamW fused": lambda p: torch.optim.AdamW(p, lr=0.02, fused=True),
    "SGD": lambda p: torch.optim.SGD(p, lr=0.02),
    "SGD fused momentum": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9, fused=True),
    "SGD foreach": lambda p: torch.optim.SGD(p, lr=0.02, foreach=True),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.02),
    "Adafactor": adafactor,
    "groups": lambda p: torch.optim.AdamW([{"params": p[:1], "lr": 0.1}, {"params": p[1:]}], lr=0.01, fused=True),
}


@every_dtype
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_forward_after_a_step_uses_the_new_values_without_a_call(name, dtype, make_mlp, x):
    model = make_mlp(dtype)
    tuning = attach(model, SPEC)
    optimizer = OPTIMIZERS[name](tuning.parameters())
    first = loss_of(model, x).item()
    train(model, x, optimizer, 4)
    assert all(values.abs().min() > 0 for values in tuning.parameters())
    assert loss_of(model, x).item() < first
    assert_merged(model, tuning, make_mlp(dtype), x)
    tuning.refresh()
    assert_merged(model, tuning, make_mlp(dtype), x)


@every_dtype
@pytest.mark.parametrize(
    ("wavelet", "mode"), [("db1", "periodization"), ("sym4", "zero"), ("identity", "periodization")]
)
def test_what_trains_is_what_is_merged_in_every_basis(wavelet, mode, dtype, make_mlp, x):
    model = make_mlp(dtype)
    tuning = attach(model, Spec(20, 3.0, wavelet, mode, targets=("0", "2")))
    train(model, x, torch.optim.AdamW(tuning.parameters(), lr=0.05, fused=True), 5)
    assert_merged(model, tuning, make_mlp(dtype), x)


def test_lbfgs_sees_each_of_its_own_evaluations(make_mlp, x):
    model = make_mlp()
    tuning = attach(model, SPEC)
    optimizer = torch.optim.LBFGS(tuning.parameters(), lr=0.5, max_iter=8)
    losses = []

    def closure():
        optimizer.zero_grad()
        loss = loss_of(model, x)
        loss.backward()
        losses.append(loss.item())
        return loss

    closure()
    optimizer.step(closure)
    assert losses[-1] < 0.7 * losses[0]
    assert_merged(model, tuning, make_mlp(), x)


def test_gradients_accumulate(make_mlp, x):
    whole, parts = make_mlp(), make_mlp()
    tunings = [attach(model, SPEC) for model in (whole, parts)]
    loss_of(whole, x[:4]).backward()
    for half in (x[:2], x[2:4]):
        (loss_of(parts, half) / 2).backward()
    for one, other in zip(tunings[0].parameters(), tunings[1].parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-5, atol=1e-7)
    optimizers = [torch.optim.AdamW(tuning.parameters(), lr=0.02, fused=True) for tuning in tunings]
    for optimizer in optimizers:
        optimizer.step()
    assert_merged(parts, tunings[1], make_mlp(), x)


def test_the_trained_values_are_those_of_a_dense_reparametrisation(make_mlp, x):
    """The whole loop, not one gradient: ten AdamW steps beside a model that builds dW and W0 + dW by autograd."""
    model, other = make_mlp(torch.float64), make_mlp(torch.float64)
    tuning = attach(model, SPEC)
    start = tuning.adapter()
    basis = {}
    for name, layer in start.layers.items():
        count = layer.values.numel()
        rows = []
        for k in range(count):
            unit = Adapter(
                {name: Layer(torch.eye(count, dtype=torch.float64)[k], layer.indices, layer.shape)}, "db2", scaling=2.0
            )
            rows.append(unit.delta(name))
        basis[name] = torch.stack(rows)
    values = {name: torch.zeros(16, dtype=torch.float64, requires_grad=True) for name in basis}
    optimizers = [torch.optim.AdamW(tuning.parameters(), lr=0.05), torch.optim.AdamW(list(values.values()), lr=0.05)]
    wide = x.double()
    for _ in range(10):
        hidden = torch.tanh(wide @ (other[0].weight + torch.einsum("p,pmn->mn", values[A], basis[A])).t())
        output = hidden @ (other[2].weight + torch.einsum("p,pmn->mn", values[B], basis[B])).t() + other[2].bias
        for loss in ((model(wide) - 0.3).square().mean(), (output - 0.3).square().mean()):
            loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    for name, trained in tuning.state_dict().items():
        torch.testing.assert_close(trained, values[name].detach(), rtol=1e-8, atol=1e-9)


# Values that change without an optimizer


def in_place(parameters):
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.25)


def new_data(parameters):
    for parameter in parameters:
        parameter.data = parameter.data + 0.25


def by_vector(parameters):
    vector = torch.nn.utils.parameters_to_vector(parameters)
    torch.nn.utils.vector_to_parameters(vector.detach() + 0.25, parameters)


@pytest.mark.parametrize("change", [in_place, new_data, by_vector])
def test_changed_values_are_noticed_by_the_next_forward(change, make_mlp, x):
    model = make_mlp()
    tuning = attach(model, SPEC)
    before = model(x)
    change(tuning.parameters())
    assert not torch.equal(model(x), before)
    assert_merged(model, tuning, make_mlp(), x)


def test_values_written_through_data_need_refresh(make_mlp, x):
    model = make_mlp()
    tuning = attach(model, SPEC)
    for parameter in tuning.parameters():
        parameter.data.add_(0.25)
    tuning.refresh()
    assert_merged(model, tuning, make_mlp(), x)


def test_an_ema_that_copies_its_values_in_and_out(make_mlp, x):
    from diffusers.training_utils import EMAModel

    model = make_mlp()
    tuning = attach(model, SPEC)
    optimizer = torch.optim.AdamW(tuning.parameters(), lr=0.05, fused=True)
    ema = EMAModel(tuning.parameters(), decay=0.5)
    for _ in range(4):
        train(model, x, optimizer, 1)
        ema.step(tuning.parameters())
    own = [values.detach().clone() for values in tuning.parameters()]
    ema.store(tuning.parameters())
    ema.copy_to(tuning.parameters())
    tuning.refresh()
    assert not torch.equal(own[0], tuning.parameters()[0])
    assert_merged(model, tuning, make_mlp(), x)
    ema.restore(tuning.parameters())
    tuning.refresh()
    assert all(torch.equal(values, mine) for values, mine in zip(tuning.parameters(), own, strict=True))
    assert_merged(model, tuning, make_mlp(), x)


def test_swapped_values_are_in_the_weights_inside_alone(make_mlp, x, bits):
    model = make_mlp()
    tuning = attach(model, SPEC)
    train(model, x, torch.optim.AdamW(tuning.parameters(), lr=0.05))
    own = [bits(values) for values in tuning.parameters()]
    outside = model(x)
    other = [torch.full_like(values, 0.5) for values in tuning.parameters()]
    with tuning.swapped(other):
        assert all(torch.equal(values, new) for values, new in zip(tuning.parameters(), other, strict=True))
        assert_merged(model, tuning, make_mlp(), x)
    assert [bits(values) for values in tuning.parameters()] == own
    assert torch.equal(model(x), outside)
    with pytest.raises(KeyError), tuning.swapped(other):
        raise KeyError
    assert [bits(values) for values in tuning.parameters()] == own
    assert torch.equal(model(x), outside)


@pytest.mark.parametrize("spoil", [lambda v: v[:1], lambda v: [*v, v[0]], lambda v: [v[0], v[1][:-1]], lambda v: []])
def test_swapping_other_shapes_is_refused(spoil, make_mlp):
    tuning = attach(make_mlp(), SPEC)
    with (
        pytest.raises(WaveFTError, match="swapped: expected 2 tensors shaped as parameters"),
        tuning.swapped(spoil([torch.ones(16), torch.ones(16)])),
    ):
        pytest.fail("entered")
    assert not tuning.parameters()[0].any()


def test_a_state_dict_of_values_comes_back(make_mlp, x):
    model, other = make_mlp(), make_mlp()
    tuning, second = attach(model, SPEC), attach(other, SPEC)
    train(model, x, torch.optim.AdamW(tuning.parameters(), lr=0.05))
    assert list(tuning.state_dict()) == tuning.names == [A, B]
    buffer = io.BytesIO()
    torch.save(tuning.state_dict(), buffer)
    buffer.seek(0)
    second.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(other[0].weight, model[0].weight)  # at once, without a forward
    assert torch.equal(other(x), model(x))
    state = tuning.state_dict()
    with pytest.raises(WaveFTError, match='expected the tuning\'s 2 layers, got a difference in "lora_2"'):
        second.load_state_dict({A: state[A]})
    with pytest.raises(WaveFTError, match='got a difference in "lora_9"'):
        second.load_state_dict({**state, "lora_9": state[A]})
    before = [values.detach().clone() for values in second.parameters()]
    with pytest.raises(WaveFTError, match=r'layer "lora_2": expected \[16\] values, got \[3\]'):
        second.load_state_dict({A: state[A] + 1, B: state[B][:3]})
    assert all(torch.equal(values, mine) for values, mine in zip(second.parameters(), before, strict=True))


# What a forward may and may not touch


def test_unchanged_values_never_touch_the_weight(make_mlp, x):
    model = make_mlp()
    tuning = attach(model, SPEC)
    other = nn.Linear(8, 8)
    optimizer = torch.optim.AdamW([*other.parameters()], lr=0.1)
    train(model, x, torch.optim.AdamW(tuning.parameters(), lr=0.05), 2)
    model(x)
    versions = [layer.weight._version for layer in (model[0], model[2])]
    loss = loss_of(model, other(x))
    optimizer.step()  # an optimizer of something else, between forward and backward
    with torch.no_grad():
        model(x)
    model.eval()
    model.train()
    model.state_dict()
    tuning.state_dict()
    tuning.adapter()
    loss.backward()
    model(x)
    assert [layer.weight._version for layer in (model[0], model[2])] == versions


def test_fresh_zeros_leave_the_output_as_it_was(make_mlp, x):
    model = make_mlp()
    before = model(x)
    attach(model, SPEC)
    assert torch.equal(model(x), before)


def test_a_layer_that_runs_twice_gets_both_gradients(x):
    torch.manual_seed(0)
    layer = nn.Linear(8, 8).double().requires_grad_(False)
    model = nn.Sequential(layer)
    tuning = attach(model, Spec(64, 1.0, "identity", targets=("0",)))  # every entry of the weight, each once
    wide = x.double()
    layer(torch.tanh(layer(wide))).square().sum().backward()
    weight = layer.weight.clone().requires_grad_()
    first = torch.tanh(nn.functional.linear(wide, weight, layer.bias))
    nn.functional.linear(first, weight, layer.bias).square().sum().backward()
    torch.testing.assert_close(tuning.parameters()[0].grad.view(8, 8), weight.grad)


def test_the_input_by_keyword_and_without_a_batch(make_mlp, x):
    model = make_mlp()
    tuning = attach(model, SPEC)
    model[0](input=x).sum().backward()
    by_keyword = tuning.parameters()[0].grad.clone()
    tuning.parameters()[0].grad = None
    for row in x:
        model[0](row).sum().backward()
    torch.testing.assert_close(tuning.parameters()[0].grad, by_keyword, rtol=1e-5, atol=1e-5)
    assert by_keyword.any()


@pytest.mark.parametrize(
    "change", [torch.relu_, lambda t: t.add_(1), lambda t: t.mul_(2)], ids=["relu_", "add_", "mul_"]
)
def test_the_model_may_change_the_layers_output_in_place(change, make_mlp, x):
    class InPlace(nn.Module):
        def forward(self, t):
            return change(t)

    class OutOfPlace(nn.Module):
        def forward(self, t):
            return change(t.clone())

    grads = []
    for module in (InPlace(), OutOfPlace()):
        model = make_mlp()
        model[1] = module
        tuning = attach(model, SPEC)
        given = x.clone().requires_grad_()
        model(given).square().sum().backward()
        grads.append([given.grad, *(values.grad for values in tuning.parameters())])
    for one, other in zip(*grads, strict=True):
        assert torch.equal(one, other)


def test_forwards_without_grad_build_no_graph(make_mlp, x):
    model = make_mlp()
    tuning = attach(model, SPEC)
    assert model(x).requires_grad
    with torch.no_grad():
        assert not model(x).requires_grad
    with torch.inference_mode():
        model(x)
    with tuning.disabled():
        assert not model(x).requires_grad
    train(model, x, torch.optim.AdamW(tuning.parameters(), lr=0.05, fused=True))
    with torch.inference_mode():
        inside = model(x)
    assert torch.equal(inside, model(x))
    loss_of(model, x).backward()


def test_values_written_under_inference_mode_are_still_noticed(make_mlp, x):
    model = make_mlp()
    tuning = attach(model, SPEC)
    with torch.no_grad():
        tuning.parameters()[0].fill_(0.5)
    with torch.inference_mode():  # the first forward with them
        model(x)
    assert_merged(model, tuning, make_mlp(), x)
    train(model, x, torch.optim.SGD(tuning.parameters(), lr=0.1))


class Checkpointed(nn.Module):
    def __init__(self, inner, reentrant):
        super().__init__()
        self.inner, self.reentrant = inner, reentrant

    def forward(self, x):
        return checkpoint(self.inner, x, use_reentrant=self.reentrant)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_gives_the_same_gradient(reentrant, make_mlp, x):
    grads = []
    for wrap in (False, True):
        inner = make_mlp()
        tuning = attach(inner, SPEC)
        model = Checkpointed(inner, reentrant) if wrap else inner
        optimizer = torch.optim.AdamW(tuning.parameters(), lr=0.05, fused=True)
        for _ in range(2):
            optimizer.zero_grad()
            model(x.clone().requires_grad_()).square().sum().backward()
            optimizer.step()
        grads.append([values.grad.clone() for values in tuning.parameters()])
    for one, other in zip(*grads, strict=True):
        assert one.any()
        torch.testing.assert_close(other, one, rtol=1e-6, atol=1e-7)


def test_non_reentrant_checkpointing_needs_no_grad_of_the_input(make_mlp, x):
    inner = make_mlp()
    tuning = attach(inner, SPEC)
    Checkpointed(inner, False)(x).sum().backward()
    assert all(values.grad.any() for values in tuning.parameters())


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_reentrant_checkpointing_without_an_input_that_requires_grad_is_a_clear_error(make_mlp, x):
    inner = make_mlp()
    tuning = attach(inner, SPEC)
    optimizer = torch.optim.AdamW(tuning.parameters())
    output = Checkpointed(inner, True)(x)
    assert not output.requires_grad
    with pytest.raises(WaveFTError, match=r'layers "0", "2": expected gradients.*use_reentrant=False'):
        optimizer.step()


def test_autocast_trains_float32_values(make_mlp, x):
    model = make_mlp()
    tuning = attach(model, SPEC)
    optimizer = torch.optim.AdamW(tuning.parameters(), lr=0.05, fused=True)
    plain = make_mlp()
    other = attach(plain, SPEC)
    for _ in range(3):
        with torch.autocast("cpu", torch.bfloat16):
            output = model(x)
            assert output.dtype == torch.bfloat16
            loss = output.float().square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(values.dtype == values.grad.dtype == torch.float32 for values in tuning.parameters())
    assert_merged(model, tuning, make_mlp(), x)
    model, tuning = make_mlp(), None
    tuning = attach(model, SPEC)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(x).float().square().mean()
    loss.backward()
    plain(x).square().mean().backward()
    for got, wide in zip(tuning.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(got.grad, wide.grad, rtol=0, atol=0.05 * float(wide.grad.abs().max()))


# Casts, moves and foreign writes while attached


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("count", [1, 2], ids=["one tuning", "two tunings"])
def test_a_cast_moves_w0_and_leaves_the_values(count, dtype, make_mlp, make_adapter, snapshot, x):
    model, base = make_mlp(), make_mlp().to(dtype)
    tunings = [attach(model, make_adapter(SHAPES, 20, "db2", seed=seed)) for seed in range(count)]
    loss_of(model, x).backward()
    model.to(dtype)
    for tuning in tunings:
        for values in tuning.parameters():
            assert values.dtype == torch.float32
            assert values.grad.dtype == torch.float32
    assert snapshot(model) == snapshot(base)
    merged = [merge(base, tuning.adapter()) for tuning in tunings]
    model(x.to(dtype))
    for got, expected in zip(weights_of(model), weights_of(base), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-14 if dtype == torch.float64 else 0)
    for tuning in tunings:
        train(model, x, torch.optim.AdamW(tuning.parameters(), lr=0.01, fused=True))
        tuning.detach()
    for part in merged:
        part.undo()
    assert snapshot(model) == snapshot(base)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("way", ["strength", "disabled"])
@pytest.mark.parametrize("runs", [False, True], ids=["at once", "after a forward"])
def test_a_cast_while_it_is_off_is_a_fresh_merge_once_it_is_on_again(runs, way, dtype, make_mlp, snapshot, x):
    model = make_mlp()
    tuning = attach(model, SPEC)
    optimizer = torch.optim.AdamW(tuning.parameters(), lr=0.05, fused=True)
    train(model, x, optimizer)
    if way == "strength":
        tuning.strength = 0
        model.to(dtype)
        if runs:
            model(x.to(dtype))
        tuning.strength = 1
    else:
        with tuning.disabled():
            model.to(dtype)
            if runs:
                model(x.to(dtype))
    base = make_mlp().to(dtype)
    held = merge(base, tuning.adapter())
    assert all(torch.equal(one, other) for one, other in zip(weights_of(model), weights_of(base), strict=True))
    held.undo()
    train(model, x, optimizer)  # what was planned for all layers together must not be float32's any more
    held = merge(base, tuning.adapter())
    assert all(torch.equal(one, other) for one, other in zip(weights_of(model), weights_of(base), strict=True))
    held.undo()
    tuning.detach()
    assert snapshot(model) == snapshot(base)


def replaced(model, content):
    model[2].weight = nn.Parameter(content, requires_grad=False)


def test_an_equal_parameter_in_the_place_of_the_attached_one_gets_w0_back(make_mlp, make_adapter, snapshot, x):
    model = make_mlp(grad=True)
    before = snapshot(model)
    tuning = attach(model, make_adapter(SHAPES, 20))
    replaced(model, model[2].weight.detach().clone())
    with pytest.raises(WaveFTError, match=r'layer "2": .*got another in its place'):
        model(x)
    tuning.detach()
    assert snapshot(model) == before
    assert model[2].weight.requires_grad
    assert not any(model[k]._forward_hooks or "waveft" in model[k]._modules for k in (0, 2))
    model[0](x)


def test_an_equal_parameter_is_gone_over_to_by_the_dial(make_mlp, make_adapter, snapshot, x):
    model, base, adapter = make_mlp(), make_mlp(), make_adapter(SHAPES, 20)
    tuning = attach(model, adapter)
    replaced(model, model[2].weight.detach().clone())
    tuning.strength = 0.5
    merge(base, adapter, 0.5)
    assert torch.equal(model(x), base(x))
    assert torch.equal(model[2].weight, base[2].weight)
    tuning.detach()
    assert snapshot(model) == snapshot(make_mlp())


@pytest.mark.parametrize("way", ["refresh", "step", "load"])
def test_an_equal_parameter_is_what_the_next_write_goes_to(way, make_mlp, make_adapter, snapshot, x):
    model = make_mlp()
    tuning = attach(model, make_adapter(SHAPES, 20))
    optimizer = torch.optim.AdamW(tuning.parameters(), lr=0.05, fused=True)
    train(model, x, optimizer)
    replaced(model, model[2].weight.detach().clone())
    in_place(tuning.parameters())
    if way == "refresh":
        tuning.refresh()
    elif way == "step":
        optimizer.step()
    else:
        tuning.load_state_dict({name: values + 1 for name, values in tuning.state_dict().items()})
    assert_merged(model, tuning, make_mlp(), x)
    tuning.detach()
    assert snapshot(model) == snapshot(make_mlp())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.zeros(6, 12), "as it was last written"),
        (torch.zeros(4, 12), r"a weight of \[6, 12\], got one of \[4, 12\]"),
    ],
    ids=["other content", "another shape"],
)
def test_another_parameter_in_its_place_is_refused_and_kept(content, message, make_mlp, make_adapter, snapshot):
    model = make_mlp()
    before = snapshot(model)
    tuning = attach(model, make_adapter(SHAPES, 20))
    own, first = model[2].weight, model[0].weight.clone()
    replaced(model, content.clone())
    for call in (tuning.detach, lambda: setattr(tuning, "strength", 0.5)):
        with pytest.raises(WaveFTError, match=f'layer "2": expected .*{message}'):
            call()
        assert torch.equal(model[2].weight, content)
        assert torch.equal(model[0].weight, first)
        assert tuning.strength == 1.0
    model[2].weight = own
    tuning.detach()
    assert snapshot(model) == before


def test_half_while_attached(make_mlp, x):
    model = make_mlp()
    tuning = attach(model, SPEC)
    train(model, x, torch.optim.AdamW(tuning.parameters(), lr=0.05))
    model.half()
    assert all(values.dtype == torch.float32 for values in tuning.parameters())
    assert_merged(model, tuning, make_mlp().half(), x)


def test_a_foreign_write_is_refused_by_name_and_never_overwritten(make_mlp, x):
    model = make_mlp()
    tuning = attach(model, SPEC)
    train(model, x, torch.optim.AdamW(tuning.parameters(), lr=0.05))
    with torch.no_grad():
        model[2].weight.mul_(1.5)
    after = weights_of(model)
    refusal = 'layer "(2|lora_2)": expected the weight as it was last written, got another content'
    for call in (lambda: model(x), tuning.refresh, tuning.detach, model.state_dict):
        with pytest.raises(WaveFTError, match=refusal):
            call()
        assert all(torch.equal(one, other) for one, other in zip(weights_of(model), after, strict=True))


def spoiled(layer):
    """Doubles a layer's weight as a stranger would; returns what repairs it."""
    own = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight.mul_(2)

    def repair():
        with torch.no_grad():
            layer.weight.copy_(own)

    return repair


def test_disabled_that_is_refused_leaves_it_on(make_mlp, make_adapter, x):
    model = make_mlp()
    tuning = attach(model, make_adapter(SHAPES, 20))
    repair = spoiled(model[2])
    with pytest.raises(WaveFTError, match='layer "2": expected the weight as it was last written'), tuning.disabled():
        pytest.fail("entered")
    repair()
    model(x)
    assert_merged(model, tuning, make_mlp(), x)
    with tuning.disabled():
        assert torch.equal(model[0].weight, make_mlp()[0].weight)
    assert_merged(model, tuning, make_mlp(), x)


def test_swapped_that_is_refused_leaves_the_own_values(make_mlp, make_adapter, bits, x):
    model = make_mlp()
    tuning = attach(model, make_adapter(SHAPES, 20))
    own = [bits(values) for values in tuning.parameters()]
    repair = spoiled(model[2])
    with (
        pytest.raises(WaveFTError, match='layer "2": expected the weight as it was last written'),
        tuning.swapped([torch.zeros_like(values) for values in tuning.parameters()]),
    ):
        pytest.fail("entered")
    assert [bits(values) for values in tuning.parameters()] == own
    repair()
    model(x)
    assert_merged(model, tuning, make_mlp(), x)


@pytest.mark.parametrize("spoiled_layer", [0, 2])
@pytest.mark.parametrize("name", ["AdamW fused", "SGD", "AdamW foreach"])
def test_a_step_that_is_refused_is_in_every_weight_by_the_next_forward(
    name, spoiled_layer, make_mlp, make_adapter, snapshot, x
):
    model = make_mlp()
    tuning = attach(model, make_adapter(SHAPES, 20))
    optimizer = OPTIMIZERS[name](tuning.parameters())
    loss_of(model, x).backward()
    repair = spoiled(model[spoiled_layer])
    before = [values.detach().clone() for values in tuning.parameters()]
    with pytest.raises(WaveFTError, match=f'layer "{spoiled_layer}": expected the weight as it was last written'):
        optimizer.step()
    assert not any(torch.equal(values, own) for values, own in zip(tuning.parameters(), before, strict=True))
    repair()
    model(x)
    assert_merged(model, tuning, make_mlp(), x)
    tuning.detach()
    assert snapshot(model) == snapshot(make_mlp())


# state_dict, load_state_dict, save_pretrained, copies


@every_dtype
def test_a_state_dict_while_attached_is_that_of_the_base(dtype, make_mlp, snapshot, x):
    model = make_mlp(dtype)
    before, keys = snapshot(model), list(model.state_dict())
    tuning = attach(model, SPEC)
    train(model, x, torch.optim.AdamW(tuning.parameters(), lr=0.05))
    assert list(model.state_dict()) == keys
    assert snapshot(model) == before
    assert {key: value.shape for key, value in model.state_dict(prefix="p.").items()} == {
        f"p.{key}": value.shape for key, value in make_mlp().state_dict().items()
    }
    held = nn.ModuleDict({"deep": model}).state_dict()
    assert torch.equal(held["deep.0.weight"], make_mlp(dtype)[0].weight)
    make_mlp(dtype).load_state_dict(model.state_dict(), strict=True)
    state = model.state_dict()
    train(model, x, torch.optim.AdamW(tuning.parameters(), lr=0.05))
    assert torch.equal(state["0.weight"], make_mlp(dtype)[0].weight)  # a copy: training on does not reach it
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {"0.waveft.values", "2.waveft.values"}


def test_two_tunings_and_a_merge_still_show_the_base(make_mlp, make_adapter, snapshot):
    model = make_mlp()
    before = snapshot(model)
    held = attach(model, make_adapter(SHAPES, 10)), merge(model, make_adapter(SHAPES, 10, seed=1))
    again = attach(model, make_adapter(SHAPES, 10, seed=2))
    assert snapshot(model) == before
    assert len(list(model.state_dict())) == 3
    again.detach()
    assert snapshot(model) == before
    held[1].undo()
    held[0].detach()
    assert snapshot(model) == before


def test_load_state_dict_while_attached_brings_a_new_w0(make_mlp, snapshot, x):
    model, other = make_mlp(), make_mlp(seed=5)
    tuning = attach(model, SPEC)
    train(model, x, torch.optim.AdamW(tuning.parameters(), lr=0.05))
    assert not model.load_state_dict(other.state_dict(), strict=True).unexpected_keys
    assert snapshot(model) == snapshot(other)
    assert_merged(model, tuning, make_mlp(seed=5), x)
    train(model, x, torch.optim.AdamW(tuning.parameters(), lr=0.05))
    tuning.detach()
    assert snapshot(model) == snapshot(make_mlp(seed=5))


def test_loading_a_models_own_state_changes_nothing(make_mlp, snapshot, x):
    model = make_mlp()
    before = snapshot(model)
    tuning = attach(model, SPEC)
    train(model, x, torch.optim.AdamW(tuning.parameters(), lr=0.05))
    inside = weights_of(model)
    model.load_state_dict(model.state_dict())
    assert all(torch.equal(one, other) for one, other in zip(weights_of(model), inside, strict=True))
    tuning.detach()
    assert snapshot(model) == before


def test_loading_part_of_a_state_leaves_the_rest(make_mlp, snapshot, x):
    model, other = make_mlp(), make_mlp(seed=5)
    tuning = attach(model, SPEC)
    train(model, x, torch.optim.AdamW(tuning.parameters(), lr=0.05))
    model.load_state_dict({"2.weight": other[2].weight}, strict=False)
    expected = make_mlp()
    with torch.no_grad():
        expected[2].weight.copy_(other[2].weight)
    assert snapshot(model) == snapshot(expected)
    tuning.detach()
    assert snapshot(model) == snapshot(expected)


def test_loading_part_of_a_state_after_a_cast_keeps_w0(make_mlp, snapshot, x):
    model, expected = make_mlp(), make_mlp().bfloat16()
    tuning = attach(model, SPEC)
    train(model, x, torch.optim.AdamW(tuning.parameters(), lr=0.05))
    model.bfloat16()
    model.load_state_dict({"2.bias": expected[2].bias}, strict=False)  # holds neither of the weights
    tuning.detach()
    assert snapshot(model) == snapshot(expected)


def test_loading_part_of_a_state_over_a_foreign_write_is_refused(make_mlp, x):
    model = make_mlp()
    tuning = attach(model, SPEC)
    train(model, x, torch.optim.AdamW(tuning.parameters(), lr=0.05))
    with torch.no_grad():
        model[0].weight.mul_(1.5)
    with pytest.raises(WaveFTError, match=r'layer "(0|lora_0)"'):
        model.load_state_dict({"2.bias": make_mlp()[2].bias}, strict=False)
        model(x)


def test_load_state_dict_with_assign_is_refused_by_name(make_mlp, x):
    model, other = make_mlp(), make_mlp(seed=5)
    attach(model, SPEC)
    with pytest.raises(WaveFTError, match=r'layer "(0|lora_0)": .*assign=True'):
        model.load_state_dict(other.state_dict(), assign=True)
        model(x)


def test_a_state_dict_after_assign_holds_what_was_assigned_or_is_refused(make_mlp, x, snapshot):
    model, other = make_mlp(), make_mlp(seed=5)
    tuning = attach(model, SPEC)
    train(model, x, torch.optim.AdamW(tuning.parameters(), lr=0.05))
    try:
        model.load_state_dict(other.state_dict(), assign=True)
        found = snapshot(model)
    except WaveFTError:
        return
    assert found == snapshot(other)


def tiny_unet():
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        attention_head_dim=8,
        cross_attention_dim=12,
        use_linear_projection=True,
    ).requires_grad_(False)


def unet_loss(unet):
    generator = torch.Generator().manual_seed(3)
    sample, text = torch.randn(1, 4, 8, 8, generator=generator), torch.randn(1, 5, 12, generator=generator)
    return unet(sample, torch.tensor([10]), text).sample.square().mean()


def test_save_pretrained_while_attached_ships_the_base(tmp_path, snapshot):
    from diffusers import UNet2DConditionModel

    unet = tiny_unet()
    before = snapshot(unet)
    tuning = attach(unet, Spec(coefficients=40))
    optimizer = torch.optim.AdamW(tuning.parameters(), lr=0.05, fused=True)
    for _ in range(2):
        unet_loss(unet).backward()
        optimizer.step()
    unet.save_pretrained(tmp_path)
    back = UNet2DConditionModel.from_pretrained(tmp_path)
    assert snapshot(back) == before
    merge(back, tuning.adapter())
    assert torch.equal(unet_loss(back), unet_loss(unet))
    assert all(name.startswith("lora_unet_") for name in tuning.names)
    tuning.detach()
    assert snapshot(unet) == before


def test_a_unets_own_gradient_checkpointing_gives_the_same_gradients():
    grads = []
    for checkpointed in (False, True):
        unet = tiny_unet().train()
        tuning = attach(unet, Spec(coefficients=40))
        if checkpointed:
            unet.enable_gradient_checkpointing()
        unet_loss(unet).backward()
        grads.append([values.grad for values in tuning.parameters()])
    assert len(grads[0]) == 32
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, pickle.dumps, lambda model: torch.save(model, io.BytesIO())],
    ids=["deepcopy", "pickle", "torch.save"],
)
def test_a_copy_of_an_attached_model_is_refused_in_words(copied, make_mlp, x):
    model = make_mlp()
    tuning = attach(model, SPEC)
    with pytest.raises(
        WaveFTError, match=r"expected a model without an adapter attached to copy or pickle.*Detach first"
    ):
        copied(model)
    loss_of(model, x).backward()
    tuning.detach()
    copied(model)


# attach and detach


@every_dtype
def test_detach_leaves_nothing_behind(dtype, make_mlp, make_adapter, snapshot, x):
    model = make_mlp(dtype)
    with torch.no_grad():
        model[0].weight[0, 0] = -0.0
    before = snapshot(model)
    layout = {name: sorted(vars(module)) for name, module in model.named_modules()}
    attach(make_mlp(dtype), SPEC)  # PyTorch's hooks on all optimizers are registered once a process
    hooks = len(torch_optimizer._global_optimizer_post_hooks), len(torch_optimizer._global_optimizer_pre_hooks)
    tuning = attach(model, make_adapter(SHAPES, 40, "db2"))
    train(model, x, torch.optim.AdamW(tuning.parameters(), lr=0.05, fused=True))
    tuning.detach()
    assert snapshot(model) == before
    assert (
        len(torch_optimizer._global_optimizer_post_hooks),
        len(torch_optimizer._global_optimizer_pre_hooks),
    ) == hooks
    for name, module in model.named_modules():
        assert sorted(vars(module)) == layout[name]
        assert list(module._modules) == (["0", "1", "2"] if name == "" else [])
        for kind, held in vars(module).items():
            assert not (kind.endswith("_hooks") and held), f"{name}: {kind}"
    assert not model(x.to(dtype)).requires_grad
    assert (len(tuning), tuning.numel, tuning.parameters()) == (0, 0, [])
    tuning.detach()  # a second call does nothing
    assert snapshot(model) == before


def test_flags_are_restored_and_the_bias_is_left_alone(make_mlp, x):
    model = make_mlp(grad=True)
    model[2].weight.requires_grad_(False)
    tuning = attach(model, SPEC)
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    assert flags == {
        "0.weight": False,
        "0.waveft.values": True,
        "2.weight": False,
        "2.bias": True,
        "2.waveft.values": True,
    }
    loss_of(model, x).backward()
    assert model[2].bias.grad.any()
    assert model[0].weight.grad is None
    tuning.detach()
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    assert flags == {"0.weight": True, "2.weight": False, "2.bias": True}


def test_two_tunings_train_at_once_and_leave_in_either_order(make_mlp, make_adapter, snapshot, x):
    for first, second in ((0, 1), (1, 0)):
        model = make_mlp(grad=True)
        before = snapshot(model)
        tunings = [attach(model, make_adapter(SHAPES, 20, "db2", seed=seed)) for seed in (1, 2)]
        assert list(model[0]._modules) == ["waveft", "waveft_2"]
        loss_of(model, x).backward()
        grads = [values.grad.clone() for tuning in tunings for values in tuning.parameters()]
        # each one's gradient is what it would be with the other merged
        for k in (0, 1):
            alone = make_mlp()
            merged = merge(alone, tunings[1 - k].adapter())
            other = attach(alone, tunings[k].adapter())
            loss_of(alone, x).backward()
            for got, values in zip(grads[2 * k : 2 * k + 2], other.parameters(), strict=True):
                torch.testing.assert_close(got, values.grad, rtol=1e-4, atol=1e-6)
            del merged
        for tuning in tunings:
            train(model, x, torch.optim.AdamW(tuning.parameters(), lr=0.05, fused=True))
        tunings[first].detach()
        assert not model[0].weight.requires_grad  # the other one still holds it
        assert_merged(model, tunings[second], make_mlp(), x)
        tunings[second].detach()
        assert snapshot(model) == before
        assert model[0].weight.requires_grad


def test_an_attached_adapter_goes_on_from_its_values(make_mlp, make_adapter, x):
    adapter = make_adapter(SHAPES, 20, "coif1", dtype=torch.bfloat16, locations="uniform:3")
    model, base = make_mlp(), make_mlp()
    merge(base, adapter)
    tuning = attach(model, adapter)
    assert all(torch.equal(one, other) for one, other in zip(weights_of(model), weights_of(base), strict=True))
    assert tuning.names == [A, B]
    assert [values.dtype for values in tuning.parameters()] == [torch.float32] * 2
    kept = adapter.layers[A].values.clone()
    train(model, x, torch.optim.AdamW(tuning.parameters(), lr=0.05, fused=True))
    assert torch.equal(adapter.layers[A].values, kept)  # a copy trains
    got = tuning.adapter()
    assert (got.wavelet, got.mode, got.scaling, got.locations) == ("coif1", "periodization", 1.7, "uniform:3")
    assert torch.equal(got.layers[A].indices, adapter.layers[A].indices)


def test_an_adapter_taken_out_is_a_copy(make_mlp, x):
    model = make_mlp()
    tuning = attach(model, SPEC)
    train(model, x, torch.optim.AdamW(tuning.parameters(), lr=0.05))
    adapter = tuning.adapter()
    kept = adapter.layers[A].values.clone()
    train(model, x, torch.optim.AdamW(tuning.parameters(), lr=0.05))
    assert torch.equal(adapter.layers[A].values, kept)
    assert not adapter.layers[A].values.requires_grad
    adapter.layers[A].values.zero_()
    assert tuning.parameters()[0].any()


def test_what_a_tuning_says_of_itself(make_mlp):
    tuning = attach(make_mlp(), SPEC)
    assert (len(tuning), tuning.numel, tuning.names, tuning.strength) == (2, 32, [A, B], 1.0)
    assert all(isinstance(values, nn.Parameter) and values.requires_grad for values in tuning.parameters())
    assert [values.shape for values in tuning.parameters()] == [(16,), (16,)]
    assert attach(make_mlp(torch.float64), SPEC).parameters()[0].dtype == torch.float64
    assert attach(make_mlp(torch.bfloat16), SPEC).parameters()[0].dtype == torch.float32


def test_attach_draws_the_same_and_touches_no_global_state(make_mlp):
    models = [make_mlp(), make_mlp(seed=3)]
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = attach(models[0], SPEC).adapter()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    second = attach(models[1], SPEC).adapter()
    for name in SHAPES:
        assert torch.equal(first.layers[name].indices, second.layers[name].indices)
    other = attach(make_mlp(), Spec(16, 2.0, "db2", locations="uniform:778", targets=("0", "2"))).adapter()
    assert not torch.equal(first.layers[A].indices, other.layers[A].indices)


def test_components_are_tuned_together(x):
    models = {
        "unet": nn.ModuleDict({"to_q": nn.Linear(8, 12)}),
        "te1": nn.ModuleDict({"text_model": nn.ModuleDict({"q_proj": nn.Linear(8, 4)})}),
        "te2": nn.ModuleDict({"q_proj": nn.Linear(8, 4)}),
    }
    before = {part: copy.deepcopy(model) for part, model in models.items()}
    tuning = attach(models, Spec(8, 1.0, targets=("to_q", "q_proj")))
    assert tuning.names == ["lora_unet_to_q", "lora_te1_text_model_q_proj", "lora_te2_text_model_q_proj"]
    layers = models["unet"]["to_q"], models["te1"]["text_model"]["q_proj"], models["te2"]["q_proj"]
    optimizer = torch.optim.AdamW(tuning.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        sum(layer(x).square().sum() for layer in layers).backward()
        optimizer.step()
    outputs = [layer(x) for layer in layers]
    adapter = tuning.adapter()
    merged = merge(before, adapter)
    again = before["unet"]["to_q"], before["te1"]["text_model"]["q_proj"], before["te2"]["q_proj"]
    assert all(torch.equal(layer(x), output) for layer, output in zip(again, outputs, strict=True))
    merged.undo()
    tuning.detach()
    assert attach(models, adapter).names == sorted(adapter.layers)


def test_a_regex_is_matched_against_the_whole_path(make_mlp):
    assert attach(make_mlp(), Spec(4, targets=r"[02]")).names == [A, B]
    assert attach(make_mlp(), Spec(4, targets=r"0")).names == [A]


def test_nothing_matched_names_the_nearest_and_changes_nothing(make_mlp):
    model = make_mlp()
    with pytest.raises(
        WaveFTError, match=r'expected to match linear or convolution layers, got none. Nearest names: "'
    ):
        attach(model, Spec(4, targets=("to_q",)))
    with pytest.raises(WaveFTError, match="expected to match linear or convolution layers, got none"):
        attach(model, Spec(4, targets=r"layers\.\d"))
    assert not model[0]._forward_hooks


def test_too_many_coefficients_name_the_largest_and_change_nothing(make_mlp, snapshot):
    model = make_mlp(grad=True)
    before = snapshot(model)
    with pytest.raises(
        WaveFTError, match=r'layer "lora_2": expected 1 to 72 coefficients for its 6 x 12 plane, got 73'
    ):
        attach(model, Spec(73, targets=("0", "2")))
    assert snapshot(model) == before
    assert not model[0]._forward_hooks
    assert model[0].weight.requires_grad
    assert attach(model, Spec(72, targets=("2",))).numel == 72


def test_odd_sizes_are_refused_under_periodization(x):
    model = nn.Sequential(nn.Linear(8, 7))
    with pytest.raises(WaveFTError, match=r'\[7, 8\].*expected even sizes under periodization.*mode = "zero"'):
        attach(model, Spec(4, targets=("0",)))
    tuning = attach(model, Spec(4, mode="zero", targets=("0",)))
    model(x).sum().backward()
    assert tuning.parameters()[0].grad.any()


@pytest.mark.parametrize("from_adapter", [False, True], ids=["spec", "adapter"])
class TestWhatCannotTrain:
    """The same refusals, whether a spec's targets or an adapter's names lead to the layer."""

    def spec(self, from_adapter, make_adapter, shapes, targets):
        return make_adapter(shapes, 4) if from_adapter else Spec(4, targets=targets)

    def test_a_convolution_over_time(self, from_adapter, make_adapter):
        model = nn.ModuleDict({"conv": nn.Conv1d(2, 4, 1)})
        spec = self.spec(from_adapter, make_adapter, {"lora_conv": (4, 2, 1)}, ("conv",))
        with pytest.raises(WaveFTError, match=r'layer "conv": expected nn.Linear or nn.Conv2d, got Conv1d'):
            attach(model, spec)

    def test_the_out_proj_of_an_attention(self, from_adapter, make_adapter):
        model = nn.ModuleDict({"attn": nn.MultiheadAttention(4, 2)})
        spec = self.spec(from_adapter, make_adapter, {"lora_attn_out_proj": (4, 4)}, ("out_proj",))
        with pytest.raises(WaveFTError, match=r'layer "attn.out_proj".*MultiheadAttention'):
            attach(model, spec)

    def test_two_layers_with_one_weight(self, from_adapter, make_adapter):
        model = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
        model["b"].weight = model["a"].weight
        spec = self.spec(from_adapter, make_adapter, {"lora_a": (4, 4), "lora_b": (4, 4)}, ("a", "b"))
        with pytest.raises(WaveFTError, match='layer "b": expected a weight of its own, got the one of "a"'):
            attach(model, spec)
        assert not model["a"]._forward_hooks

    def test_a_layer_with_the_weight_of_an_embedding(self, from_adapter, make_adapter):
        model = nn.ModuleDict({"tokens": nn.Embedding(6, 4), "head": nn.Linear(4, 6, bias=False)})
        model["head"].weight = model["tokens"].weight
        spec = self.spec(from_adapter, make_adapter, {"lora_head": (6, 4)}, ("head",))
        with pytest.raises(WaveFTError, match='layer "head": expected a weight of its own, got the one of "tokens"'):
            attach(model, spec)

    def test_a_weight_that_is_computed_from_others(self, from_adapter, make_adapter):
        model = nn.ModuleDict({"a": nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))})
        spec = self.spec(from_adapter, make_adapter, {"lora_a": (4, 4)}, ("a",))
        with pytest.raises(WaveFTError, match='layer "a"'):
            attach(model, spec)

    def test_a_model_on_meta(self, from_adapter, make_adapter):
        with torch.device("meta"):
            model = nn.ModuleDict({"a": nn.Linear(4, 4)})
        spec = self.spec(from_adapter, make_adapter, {"lora_a": (4, 4)}, ("a",))
        with pytest.raises(WaveFTError, match='layer "a": expected a weight with data, got a meta tensor'):
            attach(model, spec)


def test_an_adapter_that_overflows_the_base_is_refused_with_everything_put_back(make_mlp, snapshot):
    layers = {
        name: Layer(torch.tensor([1.0, 6e4]), torch.tensor([0, 9], dtype=torch.int32), shape)
        for name, shape in SHAPES.items()
    }
    model = make_mlp(torch.float16)
    before = snapshot(model)
    with pytest.raises(WaveFTError, match=r'layer "(0|lora_0)": expected a finite merged weight'):
        attach(model, Adapter(layers, "identity", scaling=2.0))
    assert snapshot(model) == before
    assert not model[0]._forward_hooks


@pytest.mark.parametrize("beside", [False, True], ids=["in the weight", "beside"])
@pytest.mark.parametrize("from_adapter", [False, True], ids=["spec", "adapter"])
def test_attach_under_inference_mode_is_refused_and_changes_nothing(
    from_adapter, beside, make_mlp, make_adapter, snapshot, x
):
    model = make_mlp(grad=True)
    before = snapshot(model)
    with torch.inference_mode(), pytest.raises(WaveFTError, match=r"attach: expected .*outside torch.inference_mode"):
        attach(model, make_adapter(SHAPES, 10) if from_adapter else SPEC, beside=beside)
    assert snapshot(model) == before
    assert all(parameter.requires_grad and not parameter.is_inference() for parameter in model.parameters())
    assert not any(model[k]._forward_hooks or model[k]._modules for k in (0, 2))
    tuning = attach(model, SPEC)
    train(model, x, torch.optim.SGD(tuning.parameters(), lr=0.1))


def test_a_weight_that_was_cut_is_trained_as_it_is_and_refused_to_an_adapter(make_mlp, make_adapter, bits, x):
    model = make_mlp()  # pruned: `out_features` says 6 still
    model[2].weight = nn.Parameter(model[2].weight[:4].clone(), requires_grad=False)
    model[2].bias = None
    before = [bits(layer.weight) for layer in (model[0], model[2])]
    with pytest.raises(WaveFTError, match=r'layer "lora_2".*expected \[6, 12\], got \[4, 12\]'):
        attach(model, make_adapter(SHAPES, 10))
    assert [bits(layer.weight) for layer in (model[0], model[2])] == before
    tuning = attach(model, Spec(20, targets=("0", "2")))
    assert tuning.adapter().layers[B].shape == (4, 12)
    train(model, x, torch.optim.SGD(tuning.parameters(), lr=0.01))
    tuning.detach()
    assert [bits(layer.weight) for layer in (model[0], model[2])] == before


# The dial, and off


@every_dtype
@pytest.mark.parametrize("strength", [0.6, -1.5, 0.0, 1])
def test_attach_takes_a_strength_from_the_start(strength, dtype, make_mlp, make_adapter, bits, x):
    adapter, later, base = make_adapter(SHAPES, 20, "db2", scaling=0.3), make_mlp(dtype), make_mlp(dtype)
    model = make_mlp(dtype)
    tuning, other = attach(model, adapter, strength=strength), attach(later, adapter)
    other.strength = strength
    merge(base, adapter, strength)
    assert type(tuning.strength) is float
    assert tuning.strength == strength
    for layer in (0, 2):
        assert bits(model[layer].weight) == bits(later[layer].weight) == bits(base[layer].weight)
    if strength == 0:
        assert not model(x.to(dtype)).requires_grad
        tuning.strength = other.strength = 1.0
    grads = []
    for held, run in ((tuning, model), (other, later)):
        loss_of(run, x).backward()
        grads.append([bits(values.grad) for values in held.parameters()])
    assert grads[0] == grads[1]
    optimizer = torch.optim.AdamW(tuning.parameters(), lr=0.05, fused=True)
    optimizer.step()
    base = make_mlp(dtype)
    merge(base, tuning.adapter(), tuning.strength)
    assert bits(model[0].weight) == bits(base[0].weight)


@pytest.mark.parametrize("beside", [False, True], ids=["in the weight", "beside"])
@pytest.mark.parametrize("strength", [float("nan"), float("inf"), -float("inf"), 10**400, None, "1"])
def test_a_strength_that_is_not_finite_is_refused(strength, beside, make_mlp, make_adapter, snapshot):
    model = make_mlp()
    before = snapshot(model)
    with pytest.raises(WaveFTError, match="strength: expected a finite number, got"):
        attach(model, make_adapter(SHAPES, 10), strength=strength, beside=beside)
    assert snapshot(model) == before
    assert not model[0]._forward_hooks
    tuning = attach(model, make_adapter(SHAPES, 10), strength=0.5, beside=beside)
    inside = model[0].weight.clone()
    with pytest.raises(WaveFTError, match="strength: expected a finite number, got"):
        tuning.strength = strength
    assert tuning.strength == 0.5
    assert torch.equal(model[0].weight, inside)


def test_attach_at_a_strength_below_the_one_that_overflows(make_mlp, make_adapter, snapshot):
    model, adapter = make_mlp(torch.float16), make_adapter(SHAPES, 20, scaling=2e5)
    before = snapshot(model)
    for strength in (1.0, -30.0):
        with pytest.raises(WaveFTError, match="expected a finite merged weight"):
            attach(model, adapter, strength=strength)
        assert snapshot(model) == before
        assert not model[0]._forward_hooks
    tuning = attach(model, adapter, strength=1e-4)
    assert torch.isfinite(model[0].weight).all()
    tuning.detach()
    assert snapshot(model) == before


@every_dtype
def test_disabled_and_strength_zero_are_w0_bit_for_bit(dtype, make_mlp, make_adapter, bits, x):
    model = make_mlp(dtype)
    with torch.no_grad():
        model[0].weight[0, :3] = torch.tensor([-0.0, torch.finfo(dtype).smallest_normal / 2, 0.0]).to(dtype)
    before = bits(model[0].weight)
    tuning = attach(model, make_adapter(SHAPES, 60, "db2"))
    inside = bits(model[0].weight)
    assert inside != before
    with tuning.disabled():
        assert bits(model[0].weight) == before
        model(x.to(dtype))
        assert bits(model[0].weight) == before
    assert bits(model[0].weight) == inside
    with pytest.raises(KeyError), tuning.disabled():
        raise KeyError
    assert bits(model[0].weight) == inside
    tuning.strength = 0
    assert bits(model[0].weight) == before
    model(x.to(dtype))
    assert bits(model[0].weight) == before
    tuning.strength = 1
    assert bits(model[0].weight) == inside


def test_disabled_within_disabled_stays_off_to_the_outer_end(make_mlp, make_adapter, bits):
    model = make_mlp()
    before = bits(model[0].weight)
    tuning = attach(model, make_adapter(SHAPES, 20))
    inside = bits(model[0].weight)
    with tuning.disabled():
        with tuning.disabled():
            assert bits(model[0].weight) == before
        assert bits(model[0].weight) == before
    assert bits(model[0].weight) == inside


def test_values_and_strength_set_while_disabled_hold_afterwards(make_mlp, make_adapter, bits, x):
    model = make_mlp()
    before = bits(model[0].weight)
    tuning = attach(model, make_adapter(SHAPES, 20))
    with tuning.disabled():
        tuning.strength = 0.5
        in_place(tuning.parameters())
        model(x)
        assert bits(model[0].weight) == before
    base = make_mlp()
    merge(base, tuning.adapter(), 0.5)
    assert bits(model[0].weight) == bits(base[0].weight)


@every_dtype
def test_strength_is_merges_strength_and_scales_the_gradient(dtype, make_mlp, make_adapter, bits, x):
    adapter = make_adapter(SHAPES, 20, "db2", scaling=0.3)
    model, base = make_mlp(dtype), make_mlp(dtype)
    tuning = attach(model, adapter)
    tuning.strength = -0.7
    held = merge(base, adapter, -0.7)
    assert bits(model[0].weight) == bits(base[0].weight)
    if dtype == torch.float64:
        loss_of(model, x).backward()
        values = tuning.parameters()[0]
        losses = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                values[3] += step
                losses.append(((model(x.double()) - 0.3).square().mean()).item())
                values[3] -= step
        assert values.grad[3].item() == pytest.approx((losses[0] - losses[1]) / 2e-5, rel=1e-4)
    held.undo()


# Warnings and errors of the first step


def test_a_target_that_never_ran_is_a_warning(make_mlp, x):
    model = make_mlp()
    tuning = attach(model, SPEC)
    optimizer = torch.optim.AdamW(tuning.parameters())
    model[0](x).sum().backward()
    with pytest.warns(UserWarning, match='1 attached layers did not run before the first step: "(2|lora_2)"'):
        optimizer.step()
    model[0](x).sum().backward()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()  # it is said once


def test_another_optimizers_step_says_nothing(make_mlp):
    attach(make_mlp(), SPEC)
    other = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    other(torch.ones(1, 2)).sum().backward()
    optimizer.step()


def test_a_model_frozen_after_attach_is_a_clear_error(make_mlp, x):
    model = make_mlp()
    tuning = attach(model, SPEC)
    model.requires_grad_(False)
    optimizer = torch.optim.AdamW(tuning.parameters())
    model(x)
    with pytest.raises(WaveFTError, match=r'layers "0", "2": expected values that require grad.*before attach'):
        optimizer.step()


def test_training_at_strength_zero_says_so(make_mlp, x):
    model = make_mlp()
    tuning = attach(model, SPEC)
    tuning.strength = 0
    given = x.clone().requires_grad_()
    model(given).sum().backward()
    with pytest.raises(WaveFTError, match=r'tuning "waveft": expected a strength other than 0.*got 0\.0\. Set it'):
        torch.optim.AdamW(tuning.parameters()).step()


def test_training_within_disabled_says_so(make_mlp, x):
    model = make_mlp()
    tuning = attach(model, SPEC)
    with tuning.disabled():
        model(x.clone().requires_grad_()).sum().backward()
        with pytest.raises(WaveFTError, match=r"expected a strength other than 0.*a step within disabled\(\)"):
            torch.optim.AdamW(tuning.parameters()).step()


def test_training_under_no_grad_is_a_clear_error(make_mlp, x):
    model = make_mlp()
    tuning = attach(model, SPEC)
    with torch.no_grad():
        model(x)
    with pytest.raises(WaveFTError, match="ran under no_grad only"):
        torch.optim.AdamW(tuning.parameters()).step()


# Lives


def test_a_tuning_lives_as_long_as_its_model(make_mlp, x):
    model = make_mlp()
    parameters = attach(model, SPEC).parameters()
    gc.collect()
    optimizer = torch.optim.AdamW(parameters, lr=0.05, fused=True)
    before = model(x)
    train(model, x, optimizer)
    assert not torch.equal(model(x), before)


def test_a_model_that_is_let_go_takes_everything_with_it(make_mlp):
    gc.collect()
    attach(make_mlp(), SPEC)  # PyTorch's hooks on all optimizers are registered once a process
    hooks = len(torch_optimizer._global_optimizer_post_hooks)
    model = make_mlp()
    tuning = attach(model, SPEC)
    dead = [weakref.ref(model[0]), weakref.ref(tuning), weakref.ref(tuning.parameters()[0])]
    del model, tuning
    gc.collect()
    assert [reference() for reference in dead] == [None] * 3
    assert len(torch_optimizer._global_optimizer_post_hooks) == hooks


def test_attached_again_after_detach(make_mlp, snapshot, x):
    model = make_mlp()
    before = snapshot(model)
    for _ in range(3):
        tuning = attach(model, SPEC)
        train(model, x, torch.optim.AdamW(tuning.parameters(), lr=0.05, fused=True), 1)
        tuning.detach()
        assert snapshot(model) == before


def test_distributed_data_parallel_sees_the_values(make_mlp, x, tmp_path):
    from torch import distributed

    model, plain = make_mlp(), make_mlp()
    tuning, other = attach(model, SPEC), attach(plain, SPEC)
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(model)
        for trained, parameters in ((wrapped, tuning.parameters()), (plain, other.parameters())):
            optimizer = torch.optim.AdamW(parameters, lr=0.05, fused=True)
            for _ in range(2):
                optimizer.zero_grad()
                trained(x).square().mean().backward()
                optimizer.step()
    finally:
        distributed.destroy_process_group()
    for one, two in zip(tuning.parameters(), other.parameters(), strict=True):
        assert one.any()
        assert torch.equal(one, two)


# Loading that goes wrong, and loading below two tunings


def test_a_load_that_fails_on_a_shape_keeps_w0(make_mlp, snapshot, x):
    model = make_mlp()
    before = snapshot(model)
    tuning = attach(model, SPEC)
    train(model, x, torch.optim.AdamW(tuning.parameters(), lr=0.05))
    inside = weights_of(model)
    with pytest.raises(RuntimeError, match="size mismatch"):
        model.load_state_dict({**model.state_dict(), "0.weight": torch.zeros(3, 3)})
    assert snapshot(model) == before
    assert all(torch.equal(one, other) for one, other in zip(weights_of(model), inside, strict=True))
    tuning.detach()
    assert snapshot(model) == before


def test_load_state_dict_below_two_tunings_and_a_merge_brings_a_new_w0(make_mlp, make_adapter, snapshot, x):
    model = make_mlp()
    adapters = [make_adapter(SHAPES, 20, "db2", seed=seed) for seed in (1, 2, 3)]
    tunings = [attach(model, adapter) for adapter in adapters[:2]]
    merged = merge(model, adapters[2], 0.5)
    model(x)
    model.load_state_dict(make_mlp(seed=5).state_dict())
    assert snapshot(model) == snapshot(make_mlp(seed=5))
    base = make_mlp(seed=5)
    held = [merge(base, adapter) for adapter in adapters[:2]], merge(base, adapters[2], 0.5)
    assert torch.equal(model(x), base(x))
    tunings[0].detach()
    merged.undo()
    tunings[1].detach()
    assert snapshot(model) == snapshot(make_mlp(seed=5))
    del held


@pytest.mark.parametrize("leave", ["detach", "strength", "state_dict", "merge"])
def test_a_write_through_data_is_noticed(leave, make_mlp, make_adapter):
    # PEFT merges so: the version counter does not move
    model = make_mlp()
    tuning = attach(model, make_adapter(SHAPES, 40))
    model[0].weight.data += 1
    with pytest.raises(WaveFTError, match='layer "0": expected the weight as it was last written'):
        if leave == "detach":
            tuning.detach()
        elif leave == "strength":
            tuning.strength = 0.5
        elif leave == "state_dict":
            model.state_dict()
        else:
            merge(model, make_adapter(SHAPES, 40))


def test_a_pattern_that_would_match_our_own_modules_attaches_twice(make_mlp, snapshot):
    model = make_mlp()
    before = snapshot(model)
    spec = Spec(coefficients=4, targets=r"[02].*")
    first, second = attach(model, spec), attach(model, spec)
    assert first.names == second.names
    first.detach()
    second.detach()
    assert snapshot(model) == before


def test_an_adapter_is_copied_and_pickled(make_mlp):
    import pickle

    adapter = attach(make_mlp(), SPEC).adapter()
    for twin in (copy.deepcopy(adapter), pickle.loads(pickle.dumps(adapter))):
        assert twin.layers.keys() == adapter.layers.keys()
        assert all(torch.equal(twin.delta(name), adapter.delta(name)) for name in adapter.layers)
        assert (twin.wavelet, twin.scaling, twin.locations) == (adapter.wavelet, adapter.scaling, adapter.locations)
    assert adapter == adapter
