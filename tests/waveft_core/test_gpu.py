"""What only a GPU can show. Marker gpu: deselected by default, skipped without one."""

import copy

import pytest
import torch
from torch import nn

from waveft_core import Spec, attach, merge
from waveft_core.update.storage import lay_together, shared_memory

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture
def base():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(256, 320), nn.GELU(), nn.Linear(320, 256, bias=False)).requires_grad_(False)


def trained(model, x, steps=3):
    """Returns the tuning of `model` after a few fused AdamW steps on `x`."""
    tuning = attach(model, Spec(coefficients=300, targets=("0", "2")))
    optimizer = torch.optim.AdamW(tuning.parameters(), lr=1e-3, fused=True)
    for _ in range(steps):
        model(x).float().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return tuning


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_the_gpu_merges_the_cpu_s_bits(base, dtype):
    base = base.to(dtype)
    adapter = trained(copy.deepcopy(base), torch.randn(8, 256).to(dtype)).adapter()
    here, there = copy.deepcopy(base), copy.deepcopy(base).cuda()
    merge(here, adapter)
    merged = merge(there, adapter)
    assert all(torch.equal(a, b.cpu()) for a, b in zip(here.parameters(), there.parameters(), strict=True))
    merged.undo()
    assert all(torch.equal(a, b.cpu()) for a, b in zip(base.parameters(), there.parameters(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_the_gpu_merges_the_cpu_s_eight_bits(base, dtype):
    adapter = trained(copy.deepcopy(base), torch.randn(8, 256)).adapter()
    here, there = copy.deepcopy(base).to(dtype), copy.deepcopy(base).to(dtype).cuda()
    merge(here, adapter)
    merge(there, adapter)
    for a, b in zip(here.parameters(), there.parameters(), strict=True):
        assert torch.equal(a.view(torch.uint8), b.cpu().view(torch.uint8))


def test_a_convolution_s_gradient_is_the_cpu_s():
    torch.manual_seed(0)
    base, x = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1)).requires_grad_(False), torch.randn(2, 8, 20, 20)
    gradients = []
    for device in ("cpu", "cuda"):
        model = copy.deepcopy(base).to(device)
        tuning = attach(model, Spec(coefficients=100, targets=("0",)))
        model(x.to(device)).square().mean().backward()
        gradients.append(tuning.parameters()[0].grad.cpu())
    assert float((gradients[0] - gradients[1]).norm() / gradients[0].norm()) < 1e-3


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float16, 5e-3), (torch.bfloat16, 3e-2)], ids=str
)
def test_the_gradient_is_the_cpu_s(base, dtype, tolerance):
    x = torch.randn(400, 256)
    gradients = []
    for device, kind in (("cpu", torch.float32), ("cuda", dtype)):
        model = copy.deepcopy(base).to(device, kind)
        tuning = attach(model, Spec(coefficients=300, targets=("0", "2")))
        model(x.to(device, kind)).float().square().mean().backward()
        gradients.append([parameter.grad.cpu() for parameter in tuning.parameters()])
    for cpu, gpu in zip(*gradients, strict=True):
        assert gpu.dtype == torch.float32
        assert float((cpu - gpu).norm() / cpu.norm()) < tolerance


def test_a_step_never_waits_for_the_gpu(base):
    model, x = base.cuda().bfloat16(), torch.randn(64, 256, device="cuda", dtype=torch.bfloat16)
    tuning = trained(model, x)  # tables and plans are on the device now
    optimizer = torch.optim.AdamW(tuning.parameters(), lr=1e-3, fused=True)
    model(x).float().square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(2):
            model(x).float().square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_beside_the_weight_gives_the_numbers_of_in_the_weight(base):
    adapter = trained(copy.deepcopy(base), torch.randn(8, 256)).adapter()
    x, found = torch.randn(64, 256, device="cuda"), []
    for beside in (False, True):
        model = copy.deepcopy(base).cuda()
        tuning = attach(model, adapter, beside=beside)
        output = model(x)
        output.square().mean().backward()
        found.append([output.detach(), *(values.grad for values in tuning.parameters())])
    for inside, outside in zip(*found, strict=True):
        assert float((inside - outside).norm() / inside.norm()) < 1e-3


def test_a_compiled_step_has_one_graph(base):
    from torch._dynamo.testing import CompileCounterWithBackend

    torch.compiler.reset()
    model, x = base.cuda().bfloat16(), torch.randn(64, 256, device="cuda", dtype=torch.bfloat16)
    tuning, graphs = attach(model, Spec(coefficients=300, targets=("0", "2"))), CompileCounterWithBackend("inductor")
    compiled = torch.compile(model, backend=graphs, fullgraph=True)
    optimizer = torch.optim.AdamW(tuning.parameters(), lr=1e-3, fused=True)
    losses = []
    for _ in range(4):
        loss = compiled(x).float().square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert graphs.frame_count == 1
    assert losses[-1] < losses[0]
    torch.compiler.reset()


def test_a_model_that_moves_takes_its_adapter_along(base):
    tuning = trained(base, torch.randn(8, 256))
    expected = [parameter.clone() for parameter in (base[0].weight, base[2].weight)]
    base.cuda()
    base(torch.randn(2, 256, device="cuda"))
    assert all(values.is_cuda and values.dtype == torch.float32 for values in tuning.parameters())
    assert torch.equal(base[0].weight.cpu(), expected[0])
    base.cpu()
    tuning.refresh()
    assert torch.equal(base[2].weight, expected[1])


def together(base, steps=3):
    """A copy of the base on the GPU whose weights lie in one piece of memory, trained; its tuning."""
    model = copy.deepcopy(base).cuda()
    lay_together(layer.weight for layer in model if isinstance(layer, nn.Linear))
    torch.manual_seed(1)
    return model, trained(model, torch.randn(8, 256, device="cuda"), steps)


def test_weights_that_lie_together_get_the_bits_of_those_that_lie_apart(base):
    torch.manual_seed(1)
    apart = copy.deepcopy(base).cuda()
    tuning = trained(apart, torch.randn(8, 256, device="cuda"))
    model, other = together(base)
    assert shared_memory([model[0].weight, model[2].weight]) is not None
    assert all(torch.equal(a, b) for a, b in zip(apart.parameters(), model.parameters(), strict=True))
    for one in (tuning, other):
        one.detach()
    assert all(torch.equal(a.cpu(), b) for a, b in zip(model.parameters(), base.parameters(), strict=True))


def test_a_write_starts_as_few_kernels_for_many_layers_as_for_two(base):
    found = []
    for layers in (2, 40):
        model = nn.ModuleList(nn.Linear(64, 64) for _ in range(layers)).cuda().requires_grad_(False)
        lay_together(layer.weight for layer in model)
        tuning = attach(model, Spec(16, wavelet="identity", targets=r"\d+"))
        tuning.refresh()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as record:
            tuning.refresh()
            torch.cuda.synchronize()
        found.append(sum(event.count for event in record.key_averages() if "emcpy" not in event.key))
    assert found[0] == found[1]


def test_a_captured_step_gives_the_bits_of_a_launched_one(base):
    def stepper():
        model = copy.deepcopy(base).cuda()
        lay_together(layer.weight for layer in model if isinstance(layer, nn.Linear))
        tuning = attach(model, Spec(coefficients=300, targets=("0", "2")))
        optimizer = torch.optim.AdamW(tuning.parameters(), lr=1e-3, fused=True, capturable=True)
        torch.manual_seed(1)
        x = torch.randn(8, 256, device="cuda", requires_grad=True)

        def step():
            optimizer.zero_grad(set_to_none=True)
            model(x).square().mean().backward()
            optimizer.step()

        return model, tuning, step

    launched, _kept, step = stepper()
    for _ in range(6):
        step()
    captured, _kept_too, again = stepper()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            again()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        again()
    for _ in range(3):
        graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(launched.parameters(), captured.parameters(), strict=True))
