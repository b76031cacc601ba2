"""Attached models in the hands of others: compilers, wrappers, casts, devices; several tunings by name."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from tests.processes import run
from waveft_core import Spec, WaveFTError, attach, attached, merge
from waveft_core.update.ledger import Ledger
from waveft_core.versions import check_torch_trains

TARGETS = ("0", "2")


def train(model, runner, tuning, steps=3, seed=0):
    """Losses of a few fused AdamW steps."""
    optimizer = torch.optim.AdamW(tuning.parameters(), lr=1e-2, fused=True)
    x = torch.randn(16, 8, generator=torch.Generator().manual_seed(seed))
    losses = []
    for _ in range(steps):
        loss = runner(x.to(model[0].weight.dtype)).float().square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # dynamo's own
class TestCompiled:
    @pytest.fixture(autouse=True)
    def clean(self):
        torch.compiler.reset()
        yield
        torch.compiler.reset()

    def counter(self):
        from torch._dynamo.testing import CompileCounterWithBackend

        return CompileCounterWithBackend("aot_eager")

    def test_one_graph_for_all_steps_and_strengths_with_the_eager_models_losses(self, make_mlp):
        eager, model = make_mlp(), make_mlp()
        spec = Spec(coefficients=30, targets=TARGETS)
        expected = train(eager, eager, first := attach(eager, spec))
        tuning, graphs = attach(model, spec), self.counter()
        compiled = torch.compile(model, backend=graphs, fullgraph=True)
        assert train(model, compiled, tuning) == expected
        assert torch.equal(model[0].weight, eager[0].weight)
        first.strength = tuning.strength = 0.5
        assert train(model, compiled, tuning, seed=1) == train(eager, eager, first, seed=1)
        assert graphs.frame_count == 1

    def test_attached_to_a_compiled_model_that_ran_before_and_detached(self, make_mlp):
        eager, model = make_mlp(), make_mlp()
        spec = Spec(coefficients=30, targets=TARGETS)
        compiled = torch.compile(model, backend="aot_eager")
        x = torch.randn(4, 8)
        base = compiled(x)
        tuning = attach(compiled, spec)
        assert tuning.names == ["lora_0", "lora_2"]
        assert train(model, compiled, tuning) == train(eager, eager, attach(eager, spec))
        with torch.no_grad():
            for values in tuning.parameters():
                values.add_(0.1)  # no optimizer: the compiled model's entrance notices
        expected = merged(make_mlp(), tuning)(x)
        torch.testing.assert_close(compiled(x), expected)
        tuning.detach()
        assert torch.equal(compiled(x), base)


def merged(model, tuning):
    merge(model, tuning.adapter())
    return model


def test_accelerates_prepare(make_mlp):
    accelerate = pytest.importorskip("accelerate")
    eager, model = make_mlp(), make_mlp()
    spec = Spec(coefficients=30, targets=TARGETS)
    expected = train(eager, eager, attach(eager, spec))
    tuning = attach(model, spec)
    accelerator = accelerate.Accelerator(cpu=True)
    optimizer = torch.optim.AdamW(tuning.parameters(), lr=1e-2, fused=True)
    prepared, optimizer = accelerator.prepare(model, optimizer)
    x = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    losses = []
    for _ in range(3):
        loss = prepared(x).square().mean()
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses == expected
    assert accelerator.unwrap_model(prepared) is model
    assert set(accelerator.get_state_dict(prepared)) == set(make_mlp().state_dict())


RANK = """
import os
import sys
import torch
from torch import distributed, nn
from waveft_core import Spec, attach

folder, rank = sys.argv[1], int(sys.argv[2])
distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
torch.set_num_threads(1)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 6)).requires_grad_(False)
tuning = attach(model, Spec(coefficients=20, targets=("0", "2")))
wrapped = nn.parallel.DistributedDataParallel(model)
optimizer = torch.optim.SGD(tuning.parameters(), lr=0.01)
x = torch.randn(16, 8)[8 * rank : 8 * rank + 8]
for _ in range(3):
    optimizer.zero_grad()
    wrapped(x).square().mean().backward()
    optimizer.step()
torch.save([model[0].weight, model[2].weight, *(values.grad for values in tuning.parameters())], f"{folder}/{rank}.pt")
distributed.barrier()
os._exit(0)  # gloo's threads may outlive Python's end, which then aborts; what is tested is on the disk
"""


def test_two_ranks_have_one_models_gradients_and_equal_weights(tmp_path):
    check_torch_trains()  # before two processes find out
    with ThreadPoolExecutor() as pool:
        ranks = list(pool.map(lambda rank: run("-c", RANK, tmp_path, rank), (0, 1)))
    assert [rank.returncode for rank in ranks] == [0, 0], ranks
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 6)).requires_grad_(False)
    tuning = attach(model, Spec(coefficients=20, targets=TARGETS))
    optimizer = torch.optim.SGD(tuning.parameters(), lr=0.01)
    x = torch.randn(16, 8)  # both ranks' halves
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    alone = [model[0].weight, model[2].weight, *(values.grad for values in tuning.parameters())]
    assert all(bool(held.any()) for held in alone)
    for held, expected in zip(first, alone, strict=True):
        torch.testing.assert_close(held, expected)


def test_data_parallel_is_refused_before_and_after(make_mlp):
    with pytest.raises(WaveFTError, match=r"got nn.DataParallel.*Use DistributedDataParallel"):
        attach(nn.DataParallel(make_mlp()), Spec(coefficients=4, targets=TARGETS))
    model = make_mlp()
    attach(model, Spec(coefficients=4, targets=TARGETS))
    with pytest.raises(WaveFTError, match=r'layer "0".*got nn.DataParallel'):
        model[0].waveft._replicate_for_data_parallel()  # what DataParallel calls on more than one GPU


@pytest.mark.parametrize("storage", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_diffusers_layerwise_casting_keeps_a_base_in_eight_bits(storage, make_mlp, bits):
    hooks = pytest.importorskip("diffusers.hooks")
    model = make_mlp().to(storage)
    twin = copy.deepcopy(model)
    before = [bits(parameter) for parameter in model.parameters()]
    for layer in (model[0], model[2]):
        hooks.apply_layerwise_casting(layer, storage, torch.float32, skip_modules_pattern=())
    tuning = attach(model, Spec(coefficients=30, scaling=5.0, targets=TARGETS))
    losses = train_casted(model, tuning)
    assert losses[-1] < losses[0]
    assert model[0].weight.dtype == storage
    merge(twin, tuning.adapter())
    assert bits(model[0].weight) == bits(twin[0].weight), "what is trained is what is merged"
    assert bits(model[0].weight) != before[0]
    tuning.detach()
    assert [bits(parameter) for parameter in model.parameters()] == before


def train_casted(model, tuning):
    optimizer = torch.optim.AdamW(tuning.parameters(), lr=1e-2, fused=True)
    x, losses = torch.randn(16, 8, generator=torch.Generator().manual_seed(0)), []
    for _ in range(10):
        loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("storage", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_forwards_under_layerwise_casting_write_nothing_while_the_values_rest(
    storage, make_mlp, make_adapter, bits, monkeypatch
):
    hooks = pytest.importorskip("diffusers.hooks")
    writes, put = [], Ledger.put
    monkeypatch.setattr(
        Ledger, "put", lambda self, *given, **more: (writes.append(self.layer), put(self, *given, **more))
    )
    model = make_mlp().to(storage)
    for layer in (model[0], model[2]):
        hooks.apply_layerwise_casting(layer, storage, torch.float32, skip_modules_pattern=())
    tuning = attach(model, make_adapter({"lora_0": (12, 8), "lora_2": (6, 12)}, 30))
    inside, x = bits(model[0].weight), torch.randn(4, 8)
    model(x)
    writes.clear()
    for _ in range(5):
        with torch.no_grad():
            model(x)
    assert writes == []
    assert bits(model[0].weight) == inside
    with torch.no_grad():
        tuning.parameters()[1].add_(1.0)
        model(x)
    assert writes == ["2"]
    tuning.detach()


class Attention(nn.Module):
    """q, k and v over one fused tensor's slices, or over copies of them, behind a layer that trains."""

    def __init__(self, fused, axis, copied):
        super().__init__()
        torch.manual_seed(5)
        self.before = nn.Linear(16, 16)
        for name, part in zip("qkv", fused.chunk(3, dim=axis), strict=True):
            layer = nn.Linear(16, 16, bias=False)
            layer.weight = nn.Parameter(part.clone() if copied else part, requires_grad=False)
            self.add_module(name, layer)

    def forward(self, x):
        x = self.before(x)
        return self.q(x) * self.k(x) + self.v(x)


@pytest.mark.parametrize("fast", [True, False], ids=["fused AdamW", "SGD"])
@pytest.mark.parametrize("axis", [0, 1], ids=["rows", "columns"])
def test_slices_of_one_tensor_train_as_separate_layers_and_come_back(axis, fast, bits):
    found, x = [], torch.randn(4, 16, generator=torch.Generator().manual_seed(2))
    for copied in (True, False):
        fused = torch.randn(48, 16, generator=torch.Generator().manual_seed(1))
        fused = fused.t().contiguous() if axis else fused
        before, model = bits(fused), Attention(fused, axis, copied)
        tuning = attach(model, Spec(coefficients=20, scaling=1.0, targets=("q", "k", "v")))
        own = [*tuning.parameters(), *model.before.parameters()]
        optimizer = torch.optim.AdamW(own, lr=1e-2, fused=True) if fast else torch.optim.SGD(own, lr=1e-5)
        for _ in range(4):
            model(x).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        found.append([bits(getattr(model, name).weight) for name in "qkv"])
        found.append(list(tuning.parameters()))
        base = torch.randn(48, 16, generator=torch.Generator().manual_seed(1))
        twin = Attention(base.t().contiguous() if axis else base, axis, True)
        merge(twin, tuning.adapter())
        assert [bits(getattr(twin, name).weight) for name in "qkv"] == found[-2], "what trains is what is merged"
        tuning.detach()
        assert bits(fused) == before
    for one, other in zip(found[1], found[3], strict=True):
        assert one.any()
        # strided slices may take another matmul
        torch.testing.assert_close(one, other, rtol=1e-4 * axis, atol=1e-5 * axis)
    if axis == 0:
        assert found[0] == found[2]


def test_tunings_have_names_of_their_own(make_mlp, make_adapter):
    model = make_mlp()
    shapes = {"lora_0": (12, 8), "lora_2": (6, 12)}
    dog = attach(model, make_adapter(shapes, seed=1), name="dog")
    style = attach(model, make_adapter(shapes, seed=2))
    third = attach(model, make_adapter({"lora_2": (6, 12)}, seed=3))
    assert attached(model) == {"dog": dog, "waveft": style, "waveft_2": third}
    assert (dog.name, style.name, third.name) == ("dog", "waveft", "waveft_2")
    dog.detach()
    assert list(attached(model)) == ["waveft", "waveft_2"]
    assert attach(model, make_adapter(shapes), name="dog").name == "dog"


def test_tunings_of_different_layers_have_names_of_their_own_too(make_mlp, make_adapter):
    model = make_mlp()
    first = attach(model, make_adapter({"lora_0": (12, 8)}))
    second = attach(model, make_adapter({"lora_2": (6, 12)}))
    assert (first.name, second.name) == ("waveft", "waveft_2")
    assert attached(model) == {"waveft": first, "waveft_2": second}
    with pytest.raises(WaveFTError, match="name: expected a Python identifier"):
        attach(model, make_adapter({"lora_0": (12, 8)}), name="waveft_2")
    first.detach()
    assert attached(model) == {"waveft_2": second}
    assert attach(model, make_adapter({"lora_2": (6, 12)})).name == "waveft"


@pytest.mark.parametrize(
    "spoil", [lambda layer: setattr(layer, "waveft", 3), lambda layer: layer.register_buffer("waveft", torch.ones(1))]
)
def test_a_default_name_steps_aside_for_what_a_layer_has(spoil, make_mlp, make_adapter, bits):
    model = make_mlp()
    before = [bits(parameter) for parameter in model.parameters()]
    spoil(model[2])
    tuning = attach(model, make_adapter({"lora_0": (12, 8), "lora_2": (6, 12)}))
    assert tuning.name == "waveft_2"
    model(torch.randn(3, 8)).sum().backward()
    assert all(values.grad.any() for values in tuning.parameters())
    tuning.detach()
    assert [bits(parameter) for parameter in model.parameters()] == before
    assert hasattr(model[2], "waveft")


@pytest.mark.parametrize("name", ["dog", "weight", "a.b", "", "forward", "0"])
def test_a_name_that_is_taken_or_none_is_refused(name, make_mlp, make_adapter):
    model = make_mlp()
    attach(model, make_adapter({"lora_0": (12, 8)}), name="dog")
    with pytest.raises(WaveFTError, match=r"name: expected a Python identifier that the layers do not have"):
        attach(model, make_adapter({"lora_0": (12, 8)}), name=name)
    assert list(attached(model)) == ["dog"]


def test_switching_between_two_gives_each_ones_merge(make_mlp, make_adapter, bits):
    model, shapes = make_mlp(), {"lora_0": (12, 8), "lora_2": (6, 12)}
    before = [bits(parameter) for parameter in model.parameters()]
    adapters = {"dog": make_adapter(shapes, 20, seed=1), "style": make_adapter(shapes, 20, wavelet="db2", seed=2)}
    tunings = {name: attach(model, adapter, name=name) for name, adapter in adapters.items()}
    for shown in ("dog", "style", "dog"):
        for name, tuning in tunings.items():
            tuning.strength = float(name == shown)
        alone = make_mlp()
        merge(alone, adapters[shown])
        assert torch.equal(model[0].weight, alone[0].weight)
    tunings["dog"].detach()
    tunings["style"].detach()
    assert [bits(parameter) for parameter in model.parameters()] == before


def test_layers_on_different_devices_and_of_different_dtypes(make_mlp):
    model = make_mlp()
    model[2].to(torch.float64)
    tuning = attach(model, Spec(coefficients=10, targets=TARGETS))
    assert [values.dtype for values in tuning.parameters()] == [torch.float32, torch.float64]
    optimizer = torch.optim.SGD(tuning.parameters(), lr=0.1)
    x = torch.randn(4, 8)
    for _ in range(2):
        model[2](model[1](model[0](x)).double()).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    alone = make_mlp()
    alone[2].to(torch.float64)
    merge(alone, tuning.adapter())
    assert torch.equal(alone[0].weight, model[0].weight)
    assert torch.equal(alone[2].weight, model[2].weight)
