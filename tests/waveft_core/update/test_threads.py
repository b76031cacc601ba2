"""Threads that change one model: all succeed, and the base comes back bit for bit; nothing waits for ever."""

import copy
import inspect
import os
import sys
import threading

import pytest
import torch

import waveft_core.diffusers
from waveft_core import Adapter, Layer, Merged, Spec, Tuning, WaveFTError, attach, attached, merge
from waveft_core.update.ledger import Ledger
from waveft_core.update.lock import LOCK

SIZE, LAYERS, THREADS, ROUNDS = 16, 4, 6, 12
PATIENCE_S = 900  # a deadlock is a failure, not a suite that hangs; busy machines are slow


@pytest.fixture
def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(*[torch.nn.Linear(SIZE, SIZE, bias=False) for _ in range(LAYERS)]).requires_grad_(False)


@pytest.fixture
def hasty():
    """Threads take turns every few instructions."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def adapter_of(seed):
    draw = torch.Generator().manual_seed(seed)

    def layer():
        places = torch.randperm(SIZE**2, generator=draw)[:40].sort().values.int()
        return Layer(torch.randn(40, generator=draw), places, (SIZE, SIZE))

    return Adapter({f"lora_{number}": layer() for number in range(LAYERS)})


def merges(model, seed):
    merge(model, adapter_of(seed)).undo()


def dials(model, seed):
    merged = merge(model, adapter_of(seed))
    merged.strength = 0.3
    merged.strength = 0.0
    merged.undo()


def attaches(model, seed):
    tuning = attach(model, adapter_of(seed), name=f"of_{threading.get_ident()}")
    assert tuning.name in attached(model)
    tuning.strength = 0.5
    with tuning.disabled():
        pass
    tuning.detach()


def steps(model, seed):
    tuning = attach(model, Spec(coefficients=9, targets=r"\d"), name=f"of_{threading.get_ident()}")
    optimizer = torch.optim.SGD(tuning.parameters(), lr=0.1)
    for values in tuning.parameters():
        values.grad = torch.ones_like(values)
    optimizer.step()
    assert all(bool((values == -0.1).all()) for values in tuning.parameters())
    tuning.refresh()
    tuning.detach()


def together(model, works):
    """Runs each work in a thread of its own; returns what was raised."""
    raised, gate = [], threading.Barrier(len(works))

    def run(number, work):
        try:
            gate.wait(PATIENCE_S)
            for turn in range(ROUNDS):
                work(model, 100 * number + turn)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what the test is about
            raised.append(repr(error))

    threads = [threading.Thread(target=run, args=pair, daemon=True) for pair in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive(), "a thread waits for ever"
    return raised


@pytest.mark.parametrize("kinds", [[merges], [merges, dials], [attaches], [steps], [merges, dials, attaches, steps]])
def test_threads_that_change_one_model_all_succeed_and_leave_the_base(model, hasty, bits, kinds):
    before = [bits(parameter) for parameter in model.parameters()]
    works = [kinds[number % len(kinds)] for number in range(THREADS)]
    assert together(model, works) == []
    assert [bits(parameter) for parameter in model.parameters()] == before
    assert attached(model) == {}
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model)


def test_a_model_may_be_run_while_others_merge_into_it(model, hasty, bits):
    """Its layers may be of two moments; it is never refused, and the base comes back."""
    before = [bits(parameter) for parameter in model.parameters()]
    tuning = attach(model, adapter_of(7))

    def runs(model, seed):
        with torch.no_grad():
            assert bool(torch.isfinite(model(torch.ones(2, SIZE))).all())

    assert together(model, [runs, merges, dials, runs]) == []
    tuning.detach()
    assert [bits(parameter) for parameter in model.parameters()] == before


def test_pipelines_are_loaded_and_unloaded_by_threads(hasty, bits):
    class Pipe:
        unet = torch.nn.Sequential(*[torch.nn.Linear(SIZE, SIZE, bias=False) for _ in range(LAYERS)])

    before = [bits(parameter) for parameter in Pipe.unet.parameters()]
    pipe = Pipe()

    def loads(model, seed):
        found = adapter_of(seed)
        layers = {name.replace("lora_", "lora_unet_"): layer for name, layer in found.layers.items()}
        waveft_core.diffusers.load(pipe, Adapter(layers), name=str(seed))
        waveft_core.diffusers.unload(pipe, str(seed))

    assert together(pipe, [loads] * 4) == []
    assert [bits(parameter) for parameter in pipe.unet.parameters()] == before


def test_every_public_call_that_writes_holds_the_lock(model, monkeypatch):
    """Whatever `Tuning` and `Merged` offer is called here; a name that is new in them must be added."""
    unlocked = []
    for name in ("put", "take", "recapture", "freeze", "thaw", "add", "remove", "write"):
        own = getattr(Ledger, name)

        def held(*args, own=own, name=name, **kwargs):
            if not LOCK._is_owned():
                unlocked.append(name)
            return own(*args, **kwargs)

        monkeypatch.setattr(Ledger, name, held)
    called = set()
    merged = merge(model, adapter_of(0))
    merged.strength = 0.5
    merged.undo()
    tuning = attach(model, adapter_of(1))
    for call, arguments in (
        *(("strength", None), ("refresh", ()), ("parameters", ()), ("state_dict", ()), ("adapter", ())),
        *(("names", None), ("ways", None), ("numel", None), ("load_state_dict", (tuning.state_dict(),))),
        *(("watch", (torch.nn.Identity(),)), ("detach", ())),
    ):
        called.add(call)
        if call == "detach":
            with tuning.disabled(), tuning.swapped([values.detach() * 2 for values in tuning.parameters()]):
                model(torch.ones(1, SIZE)).sum()
            tuning.parameters()[0].data.mul_(2)
            tuning.parameters()[0].detach().add_(1)  # the version says so: the next forward writes
            model(torch.ones(1, SIZE))
            model.load_state_dict(copy.deepcopy(model.state_dict()))
            steps(model, 0)
        held = getattr(tuning, call)
        if arguments is not None:
            held(*arguments)
    called |= {"disabled", "swapped"}
    tuning = attach(model, adapter_of(2))
    tuning.strength = 2.0
    tuning.detach()
    assert unlocked == []
    assert called == {name for name in vars(Tuning) if not name.startswith("_")}
    assert {name for name in vars(Merged) if not name.startswith("_")} == {"strength", "undo"}
    assert "threads may" in inspect.getdoc(merge).lower()
    assert "threads may" in inspect.getdoc(attach).lower()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_child_that_is_forked_while_another_thread_merges_can_merge(model):
    stop = threading.Event()

    def keep_merging():
        while not stop.is_set():
            merges(model, 3)

    thread = threading.Thread(target=keep_merging, daemon=True)
    thread.start()
    try:
        for _ in range(3):
            child = os.fork()
            if not child:
                free = LOCK.acquire(timeout=PATIENCE_S)
                os._exit(0 if free else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        stop.set()
        thread.join(PATIENCE_S)


def test_a_refusal_gives_the_lock_back(model):
    with pytest.raises(WaveFTError):
        merge(model, Adapter({"lora_9": adapter_of(0).layers["lora_0"]}))
    free = []

    def try_it():
        free.append(LOCK.acquire(timeout=PATIENCE_S))
        LOCK.release()

    thread = threading.Thread(target=try_it)
    thread.start()
    thread.join()
    assert free == [True]
