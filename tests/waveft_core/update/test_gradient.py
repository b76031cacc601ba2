import numpy as np
import peft
import pytest
import pywt
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from waveft_core import Adapter, Layer, Probe, Spec, WaveFTError, attach
from waveft_core.basis.atoms import Axis
from waveft_core.basis.locations import draw
from waveft_core.update import gradient
from waveft_core.update.gradient import TOKENS_PER_CHUNK, Sampler

BASES = [
    pytest.param("db1", "periodization", (8, 12), id="db1"),
    pytest.param("db3", "periodization", (6, 8), id="db3"),
    pytest.param("coif2", "periodization", (4, 10), id="coif2-wraps"),
    pytest.param("db1", "zero", (7, 9), id="db1-zero-odd"),
    pytest.param("sym4", "zero", (5, 8), id="sym4-zero"),
    pytest.param("identity", "periodization", (5, 7), id="identity"),
]
every_way = pytest.mark.parametrize("way", ["sampled", "dense"])


def matrix(wavelet, mode, size):
    """D [count, size] by PyWavelets: row by row what a unit coefficient is worth."""
    if wavelet == "identity":
        return torch.eye(size, dtype=torch.float64)
    half = size // 2 if mode == "periodization" else (size + len(pywt.Wavelet(wavelet).rec_lo) - 1) // 2
    rows = [pywt.idwt(unit[:half], unit[half:], wavelet, mode)[:size] for unit in np.eye(2 * half)]
    return torch.from_numpy(np.array(rows))


def dense_delta(values, adapter, name):
    """scaling * D_m^T C D_n from PyWavelets' own numbers, differentiable in `values`."""
    layer = adapter.layers[name]
    rows = matrix(adapter.wavelet, adapter.mode, layer.shape[0])
    columns = matrix(adapter.wavelet, adapter.mode, layer.shape[1])
    coeffs = torch.zeros(len(rows) * len(columns), dtype=torch.float64).index_put((layer.indices.long(),), values)
    return adapter.scaling * rows.t() @ coeffs.view(len(rows), len(columns)) @ columns


@pytest.fixture
def force(monkeypatch):
    def choose(way):
        monkeypatch.setattr(Sampler, "sampling_pays", lambda self: way == "sampled")

    return choose


def single(shape, dtype=torch.float64, bias=True):
    torch.manual_seed(1)
    m, n = shape
    return nn.Sequential(nn.Linear(n, m, bias=bias)).to(dtype).requires_grad_(False)


def loss_of(output):
    """A loss whose gradient differs from token to token and from channel to channel."""
    generator = torch.Generator().manual_seed(9)
    mask = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output.dtype)
    return (output * mask).tanh().sum()


@every_way
@pytest.mark.parametrize("tokens", [(), (1,), (3, 5), (2, 3, 4), (2 * TOKENS_PER_CHUNK + 7,)], ids=str)
@pytest.mark.parametrize(("wavelet", "mode", "shape"), BASES)
def test_the_gradient_is_autograds_through_a_dense_idwt(wavelet, mode, shape, tokens, way, force, make_adapter):
    force(way)
    adapter = make_adapter({"lora_0": shape}, 15, wavelet, mode, dtype=torch.float64)
    model = single(shape)
    base = model[0].weight.clone()
    x = torch.randn(*tokens, shape[1], generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    values = adapter.layers["lora_0"].values.clone().requires_grad_()
    expected_x = x.clone().requires_grad_()
    weight = base + dense_delta(values, adapter, "lora_0")
    expected = nn.functional.linear(expected_x, weight, model[0].bias)
    loss_of(expected).backward()

    tuning = attach(model, adapter)
    given_x = x.clone().requires_grad_()
    got = model(given_x)
    loss_of(got).backward()
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(given_x.grad, expected_x.grad, rtol=1e-12, atol=1e-12)
    scale = float(values.grad.abs().max())
    torch.testing.assert_close(tuning.parameters()[0].grad, values.grad, rtol=0, atol=1e-10 * max(scale, 1e-3))
    assert model[0].weight.grad is None
    tuning.detach()


@every_way
@pytest.mark.parametrize(("wavelet", "mode", "shape"), BASES)
def test_the_gradient_is_the_finite_difference(wavelet, mode, shape, way, force, make_adapter):
    force(way)
    model = single(shape)
    tuning = attach(model, make_adapter({"lora_0": shape}, 5, wavelet, mode, dtype=torch.float64))
    x = torch.randn(4, shape[1], generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (values,) = tuning.parameters()
    assert_finite_differences(model, values, x)


@every_way
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("wavelet", ["db1", "db4"])
def test_a_half_precision_bases_gradient_is_the_wide_one_within_its_inputs_rounding(
    wavelet, dtype, way, force, make_adapter
):
    force(way)
    adapter = make_adapter({"lora_0": (16, 24)}, 60, wavelet, scaling=1.0)
    x = torch.randn(40, 24, generator=torch.Generator().manual_seed(2)).to(dtype)
    model = single((16, 24), dtype)
    tuning = attach(model, adapter)
    seen = {}
    output = model(x.requires_grad_())
    output.register_hook(lambda grad: seen.update(grad=grad))
    loss_of(output).backward()
    (values,) = tuning.parameters()
    assert values.dtype == values.grad.dtype == torch.float32
    # of the very same x and dy, in float64: all that is left is the float32 sum's own rounding
    rows, columns = matrix(wavelet, "periodization", 16), matrix(wavelet, "periodization", 24)
    full = rows @ (seen["grad"].double().t() @ x.detach().double()) @ columns.t()
    expected = full.view(-1)[adapter.layers["lora_0"].indices.long()]
    torch.testing.assert_close(values.grad.double(), expected, rtol=1e-5, atol=1e-5 * float(full.abs().max()))
    wide = single((16, 24), dtype).float()
    other = attach(wide, adapter)
    loss_of(wide(x.detach().float())).backward()
    bound = 16 * torch.finfo(dtype).eps * float(other.parameters()[0].grad.abs().max())
    torch.testing.assert_close(values.grad, other.parameters()[0].grad, rtol=0, atol=bound)


def test_the_two_ways_agree_at_sdxls_width():
    generator = torch.Generator().manual_seed(0)
    indices = torch.randperm(1280 * 640, generator=generator)[:2592].sort().values.int()
    sampler = Sampler("db2", "periodization", (1280, 640), indices, 25.0)
    x, grad = torch.randn(300, 640, generator=generator), torch.randn(300, 1280, generator=generator)
    torch.testing.assert_close(sampler.sampled(x, grad), sampler.dense(x, grad), rtol=1e-4, atol=1e-3)
    assert sampler.sampling_pays()
    assert not Sampler("identity", "periodization", (4, 4), torch.arange(16).int(), 1.0).sampling_pays()


@every_way
def test_no_tokens_give_no_gradient(way, force):
    force(way)
    sampler = Sampler("db2", "periodization", (6, 8), torch.tensor([0, 7]).int(), 1.0)
    assert sampler(torch.empty(0, 8), torch.empty(0, 6)).tolist() == [0, 0]


@every_way
def test_x_and_grad_may_have_any_strides_and_stay_as_they_are(way, force):
    force(way)
    generator = torch.Generator().manual_seed(0)
    sampler = Sampler("db2", "periodization", (6, 8), torch.arange(0, 48, 5).int(), 1.0)
    x, grad = torch.randn(8, 5, 3, generator=generator), torch.randn(6, 1, generator=generator)
    strided, expanded = x.permute(2, 1, 0), grad.expand(6, 15).t().view(3, 5, 6)
    before = strided.clone(), expanded.clone()
    got = sampler(strided, expanded)
    torch.testing.assert_close(got, sampler(strided.contiguous(), expanded.contiguous()), rtol=1e-5, atol=1e-5)
    assert torch.equal(strided, before[0])
    assert torch.equal(expanded, before[1])


@every_way
def test_calling_twice_gives_the_same_and_not_the_sum(way, force):
    force(way)
    sampler = Sampler("db1", "periodization", (6, 8), torch.arange(0, 48, 5).int(), 2.0)
    x, grad = torch.randn(9, 8, generator=torch.Generator().manual_seed(0)), torch.ones(9, 6)
    first = sampler(x, grad)
    kept = first.clone()
    second = sampler(x, grad)
    assert torch.equal(first, kept)
    assert torch.equal(first, second)


@every_way
def test_a_second_derivative_is_refused_not_wrong(way, force, make_adapter):
    force(way)
    model = single((8, 12))
    tuning = attach(model, make_adapter({"lora_0": (8, 12)}, dtype=torch.float64))
    x = torch.ones(3, 12, dtype=torch.float64)
    (grad,) = torch.autograd.grad(model(x).square().sum(), tuning.parameters(), create_graph=True)
    with pytest.raises(RuntimeError, match=r"once_differentiable|does not require grad"):
        grad.sum().backward()


@every_way
def test_backward_within_autocast_keeps_float32(way, force, make_adapter):
    force(way)
    adapter = make_adapter({"lora_0": (16, 24)}, 40, scaling=1.0)
    x = torch.randn(30, 24, generator=torch.Generator().manual_seed(2))
    grads = []
    for inside in (False, True):
        model = single((16, 24), torch.float32)
        tuning = attach(model, adapter)
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(model(x).float())
            if inside:
                loss.backward()
        if not inside:
            loss.backward()
        grads.append(tuning.parameters()[0].grad)
        assert grads[-1].dtype == torch.float32
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-5, atol=1e-5)


# Others' hooks, and layers of other classes


def assert_finite_differences(model, values, x):
    """`values.grad` is the derivative of the loss, entry by entry."""
    values.grad = None
    loss_of(model(x)).backward()
    assert values.grad.any()
    for k in range(values.numel()):
        losses = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                values[k] += step
                losses.append(loss_of(model(x)))
                values[k] -= step
        torch.testing.assert_close(values.grad[k], (losses[0] - losses[1]) / 2e-5, rtol=1e-6, atol=1e-6)


FOREIGN = {
    "scales": lambda module, args, output: 3 * output,
    "another shape": lambda module, args, output: output[..., :3],
    "a tuple": lambda module, args, output: (output.sin(),),
}


class First(nn.Module):
    def forward(self, held):
        return held[0] if isinstance(held, tuple) else held


@pytest.mark.parametrize("hook", FOREIGN.values(), ids=FOREIGN.keys())
@pytest.mark.parametrize("beside", [False, True], ids=["in the weight", "beside"])
def test_a_foreign_hook_that_was_there_first_changes_the_output_and_the_gradient_with_it(beside, hook, make_adapter):
    model = single((8, 12)).append(First())
    model[0].register_forward_hook(hook)
    tuning = attach(model, make_adapter({"lora_0": (8, 12)}, 5, dtype=torch.float64), beside=beside)
    x = torch.randn(4, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert_finite_differences(model, tuning.parameters()[0], x)


def test_a_probe_hears_the_same_below_a_foreign_hook():
    x = torch.randn(4, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    sums = []
    for hooked in (False, True):
        model = single((8, 12))
        if hooked:
            model[0].register_forward_hook(FOREIGN["scales"])
        with Probe(model, Spec(5, locations="gradient:0", targets=("0",))) as probe:
            ((1 if hooked else 3) * model(x)).tanh().sum().backward()
        sums.append(probe.gradients()["lora_0"])
    assert sums[0].any()
    torch.testing.assert_close(*sums, rtol=1e-12, atol=1e-12)


class Activated(nn.Linear):
    def forward(self, x):
        return nn.functional.linear(x, self.weight, self.bias).relu()


class HalfScaled(nn.Linear):
    def forward(self, x):
        return nn.functional.linear(x, self.weight * 0.5, self.bias)


class Standardised(nn.Conv2d):
    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self._conv_forward(x, weight / (weight.std((1, 2, 3), keepdim=True) + 1e-5), self.bias)


class SameLinear(nn.Linear):
    def forward(self, x, scale=1.0):
        return nn.functional.linear(x, self.weight, self.bias)


class SameConv(nn.Conv2d):
    def forward(self, inputs):
        return super().forward(inputs)


def of_class(kind, dtype):
    torch.manual_seed(1)
    layer = kind(4, 6) if issubclass(kind, nn.Linear) else kind(4, 6, 3)
    x = torch.randn(3, 4) if issubclass(kind, nn.Linear) else torch.randn(2, 4, 5, 6)
    return nn.Sequential(layer).to(dtype).requires_grad_(False), x.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", [Activated, HalfScaled, Standardised])
def test_a_subclass_with_another_forward_is_refused_by_name(kind, dtype, bits):
    model, x = of_class(kind, dtype)
    before = bits(model[0].weight)
    tuning = attach(model, Spec(6, targets=("0",)))
    message = rf'layer "0": expected a forward that is x W\^T \+ b, got another in {kind.__name__}.*Leave it out'
    model(x[:0])  # an empty batch shows nothing
    for _ in range(2):
        with pytest.raises(WaveFTError, match=message):
            model(x)
    with torch.no_grad():
        model(x)  # nothing trains here: the weight holds the update whatever the forward makes of it
    tuning.detach()
    assert bits(model[0].weight) == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize(("kind", "base"), [(SameLinear, nn.Linear), (SameConv, nn.Conv2d)])
def test_a_subclass_that_computes_the_same_trains_the_same(kind, base, dtype):
    grads = []
    for made in (kind, base):
        model, x = of_class(made, dtype)
        tuning = attach(model, Spec(6, targets=("0",)))
        for autocast in (False, True):
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast and dtype == torch.float32):
                loss_of(model(x).float()).backward()
        loss_of(model(x[:0])).backward()  # an empty batch
        grads.append(tuning.parameters()[0].grad)
    assert grads[0].any()
    assert torch.equal(*grads)


def test_the_input_by_whatever_name_the_layer_gives_it():
    model, x = of_class(SameLinear, torch.float32)
    tuning = attach(model, Spec(6, targets=("0",)))
    grads = []
    for call in (lambda: model[0](x), lambda: model[0](x=x), lambda: model[0](x=x, scale=2.0)):
        tuning.parameters()[0].grad = None
        loss_of(call()).backward()
        grads.append(tuning.parameters()[0].grad)
    assert grads[0].any()
    assert torch.equal(grads[0], grads[1])
    assert torch.equal(grads[0], grads[2])


def test_a_backward_pass_after_detach_is_that_before_it(make_adapter):
    adapter, grads = make_adapter({"lora_0": (8, 12)}, 6, dtype=torch.float64), []
    x = torch.randn(4, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for detached in (False, True):
        model = single((8, 12))
        tuning = attach(model, adapter)
        (values,) = tuning.parameters()
        loss = loss_of(model(x))
        if detached:
            tuning.detach()
            del tuning
        loss.backward()
        grads.append(values.grad)
    assert grads[0].any()
    assert torch.equal(*grads)


# PEFT's own WaveFT as an oracle


def peft_pair(shape, p, wavelet, mode, seed, scaling=3.0):
    """The same layer twice, with PEFT's adapter and with ours, PEFT's positions, the same values."""
    m, n = shape
    base = nn.Sequential(nn.Linear(n, m), nn.Tanh(), nn.Linear(m, 4))
    with torch.no_grad():
        generator = torch.Generator().manual_seed(4)
        for parameter in base.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 3)
    ours = nn.Sequential(nn.Linear(n, m), nn.Tanh(), nn.Linear(m, 4)).requires_grad_(False)
    ours.load_state_dict(base.state_dict())
    config = peft.WaveFTConfig(
        n_frequency=p, scaling=scaling, wavelet_family=wavelet, random_loc_seed=seed, target_modules=["0"]
    )
    theirs = peft.get_peft_model(base, config)
    spectrum = theirs.base_model.model[0].waveft_spectrum["default"]
    values = torch.randn(p, generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        spectrum.copy_(values)
    spec = Spec(p, scaling, wavelet, mode, f"peft:{seed}", ("0",))
    tuning = attach(ours, spec)
    # PEFT's order is that of its draw, ours ascending in C: each value goes where PEFT's unit value goes
    order = []
    for k in range(p):
        with torch.no_grad():
            spectrum.copy_(torch.eye(p)[k])
            unit = theirs.base_model.model[0].get_delta_weight("default")
        order.append(unit)
    own = tuning.adapter()
    layer = own.layers["lora_0"]
    units = [
        Adapter({"lora_0": Layer(torch.eye(p)[k], layer.indices, shape)}, wavelet, mode, scaling).delta("lora_0")
        for k in range(p)
    ]
    to_ours = [next(k for k in range(p) if torch.allclose(units[k], unit, atol=1e-5)) for unit in order]
    assert sorted(to_ours) == list(range(p)), "PEFT's positions are not ours"
    with torch.no_grad():
        spectrum.copy_(values)
        tuning.parameters()[0][torch.tensor(to_ours)] = values
    return theirs, spectrum, ours, tuning, torch.tensor(to_ours)


@pytest.mark.parametrize(
    ("shape", "wavelet", "mode", "seed"),
    [
        pytest.param((8, 12), "db1", "periodization", 777, id="db1-even"),
        pytest.param((16, 6), "db1", "zero", 5, id="db1-even-zero"),
        pytest.param((7, 9), "db1", "zero", 777, id="db1-odd-zero"),
        pytest.param((10, 12), "db2", "zero", 777, id="db2-zero"),
        pytest.param((9, 12), "sym4", "zero", 3, id="sym4-zero-odd"),
    ],
)
def test_peft_gives_the_same_output_and_gradients(shape, wavelet, mode, seed):
    theirs, spectrum, ours, tuning, to_ours = peft_pair(shape, 12, wavelet, mode, seed)
    x = torch.randn(5, shape[1], generator=torch.Generator().manual_seed(8))
    outputs = []
    for model in (theirs, ours):
        given = x.clone().requires_grad_()
        output = model(given)
        output.square().sum().backward()
        outputs.append((output.detach(), given.grad))
    torch.testing.assert_close(outputs[1][0], outputs[0][0], rtol=1e-6, atol=2e-6)
    torch.testing.assert_close(outputs[1][1], outputs[0][1], rtol=1e-5, atol=1e-5)
    scale = float(spectrum.grad.abs().max())
    torch.testing.assert_close(tuning.parameters()[0].grad[to_ours], spectrum.grad, rtol=0, atol=2e-6 * scale)


@pytest.fixture
def matrix_units(monkeypatch):
    monkeypatch.setattr(gradient, "has_matrix_units", lambda device: True)


@pytest.mark.parametrize(("wavelet", "mode", "shape"), BASES)
@pytest.mark.parametrize("count", [6, 2700])  # kept from step to step, and a part at a time
def test_the_way_of_a_gpu_gives_the_same_numbers(wavelet, mode, shape, count, matrix_units):
    shape = tuple(size * (9 if count > 6 else 1) for size in shape)
    indices = draw("uniform:3", "layer", wavelet, mode, shape, count)
    m, n = shape
    x, grad = torch.randn(20, n, dtype=torch.float64), torch.randn(20, m, dtype=torch.float64)
    sampler = Sampler(wavelet, mode, shape, indices, 25.0)
    expected = 25.0 * sampler.sampled(x, grad)
    assert torch.allclose(sampler(x, grad), expected, rtol=1e-11, atol=1e-11)
    sampler.factor = -3.0  # another strength: taps that were kept hold the old one
    assert torch.allclose(sampler(x, grad), expected * (-3.0 / 25.0), rtol=1e-11, atol=1e-11)


class Attention(nn.Module):
    """Three projections of one tensor, or of copies of it, and one of what comes out."""

    def __init__(self, width=16, copies=False):
        super().__init__()
        self.copies = copies
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x):
        seen = [x + 0.0 if self.copies else x for _ in range(3)]
        q, k, v = (layer(one) for layer, one in zip((self.q, self.k, self.v), seen, strict=True))
        return self.out((q @ k.transpose(-1, -2)).softmax(-1) @ v)


def attention(copies=False, wavelet="db1"):
    torch.manual_seed(5)
    model = Attention(copies=copies).requires_grad_(False)
    return model, attach(model, Spec(12, wavelet=wavelet, targets=("q", "k", "v", "out")))


def gradients(tuning):
    found = [values.grad for values in tuning.parameters()]
    for values in tuning.parameters():
        values.grad = None
    return found


@pytest.mark.parametrize("wavelet", ["db1", "coif2"])
@pytest.mark.parametrize("again", [False, True], ids=["plain", "checkpointing"])
def test_layers_that_see_one_tensor_share_its_transform_bit_for_bit(wavelet, again, force, monkeypatch):
    force("sampled")
    seen = []
    own = Axis.unscaled
    monkeypatch.setattr(Axis, "unscaled", lambda self, x, out=None: seen.append(x.shape) or own(self, x, out))
    x = torch.randn(2, 70, 16, requires_grad=True)  # 140 tokens: three chunks
    found = []
    for copies in (True, False):
        model, tuning = attention(copies, wavelet)
        output = checkpoint(model, x, use_reentrant=False) if again else model(x)
        output.square().sum().backward()
        found.append((gradients(tuning), len(seen)))
        seen.clear()
    (apart, transforms), (shared, fewer) = found
    assert all(torch.equal(one, other) for one, other in zip(apart, shared, strict=True))
    assert (transforms, fewer) == (4 * 2 * 3, (4 + 2) * 3)  # gradients of four layers, and inputs of four or two


def test_the_shared_transform_is_let_go(force):
    force("sampled")
    model, tuning = attention()
    x = torch.randn(5, 16, requires_grad=True)
    loss = model(x).sum()
    shared = {id(node.shared): node.shared for node in taps(loss.grad_fn)}
    assert sorted(one.layers for one in shared.values()) == [1, 3]
    loss.backward(retain_graph=True)
    assert all(one._columns == [] and one._of == () for one in shared.values())
    first = gradients(tuning)
    loss.backward()
    assert all(torch.equal(one, other) for one, other in zip(first, gradients(tuning), strict=True))


def taps(node):
    """The taps of a graph."""
    waiting, seen = [node], set()
    while waiting:
        one = waiting.pop()
        if one is None or one in seen:
            continue
        seen.add(one)
        if hasattr(one, "shared"):
            yield one
        waiting += [follow for follow, _ in one.next_functions]


def test_an_input_that_was_changed_meanwhile_is_not_shared(force):
    force("sampled")
    _, tuning = attention()
    layers = dict(zip("qkv", (layer for layer in tuning._targets), strict=False))
    with torch.no_grad():
        x = torch.randn(5, 16)
    outputs, inputs = [], []
    for target in layers.values():
        inputs.append(x.clone())
        outputs.append(target.module(x))
        with torch.no_grad():
            x = x.add_(1.0)
    assert len({id(node.shared) for node in taps(sum(outputs).grad_fn)}) == 3


def test_autocast_casts_a_shared_input_once():
    model, tuning = attention()
    x = torch.randn(5, 16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(x).float().sum()
    saved = {node.saved_tensors[0].data_ptr() for node in taps(loss.grad_fn)}
    assert len(saved) == 2
    loss.backward()
    assert all(values.grad is not None for values in tuning.parameters())
