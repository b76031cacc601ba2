import importlib.util
import io
import math
import sys

import pytest
import torch
import transformers

from trainer.job import optim, optimcheck, schema
from trainer.job.values import SCHEDULERS
from trainer.system import commandline
from trainer.system.errors import UserError

NEEDED = {
    "cosine_with_min_lr": {"min_lr_rate": 0.1},
    "warmup_stable_decay": {"num_decay_steps": 4},
    "piecewise_constant": {"step_rules": "1:2,0.5:6,0.1"},
}


def parameters(count=2):
    return [torch.nn.Parameter(torch.linspace(-1, 1, 5) * (number + 1)) for number in range(count)]


def make(steps=10, groups=None, **settings):
    section = schema.Optimizer(**settings)
    return optim.make(section, groups or [{"params": parameters(), "lr": section.learning_rate}], steps)


def advance(optimizer, schedule, first, last):
    """Takes optimizer steps `first` to `last`, with gradients that depend on the step alone."""
    for step in range(first, last):
        source = torch.Generator().manual_seed(step)
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.randn(parameter.shape, generator=source)
        optimizer.step()
        if schedule:
            schedule.step()


def values(optimizer):
    return [parameter.detach().clone() for group in optimizer.param_groups for parameter in group["params"]]


def test_the_papers_adamw_is_the_default():
    optimizer, schedule = make()
    group = optimizer.param_groups[0]
    assert isinstance(optimizer, torch.optim.AdamW)
    assert (group["lr"], group["weight_decay"], group["fused"]) == (1e-4, 1e-4, True)
    assert schedule.get_last_lr() == [1e-4]


@pytest.mark.parametrize(
    "name", ["adamw", "SGD", "Adafactor", "Prodigy", "Lion", "torch.optim.NAdam", "transformers.Adafactor"]
)
def test_every_optimizer_steps(name):
    path = optimcheck.CLASSES.get("AdamW" if name == "adamw" else name, name)
    pytest.importorskip(path.partition(".")[0])
    arguments = {"relative_step": False} if name == "transformers.Adafactor" else {}
    optimizer, schedule = make(optimizer_type=name, learning_rate=1.0, optimizer_args=arguments)
    before = values(optimizer)
    advance(optimizer, schedule, 0, 3)
    assert all((old != new).all() for old, new in zip(before, values(optimizer), strict=True))


def test_arguments_reach_the_optimizer():
    optimizer, _ = make(optimizer_args={"weight_decay": 0.5, "foreach": True})
    group = optimizer.param_groups[0]
    assert (group["weight_decay"], group["foreach"], group["fused"]) == (0.5, True, False)
    optimizer, _ = make(optimizer_type="SGD", optimizer_args=["momentum=0.9", "nesterov=True"])
    assert (optimizer.param_groups[0]["momentum"], optimizer.param_groups[0]["nesterov"]) == (0.9, True)


def test_groups_learn_at_their_own_rates():
    first, second = parameters()
    groups = [{"params": [first], "lr": 1e-2}, {"params": [second], "lr": 1e-3}]
    optimizer, schedule = make(10, groups, optimizer_type="SGD", learning_rate=1e-2, lr_scheduler="linear")
    for parameter in (first, second):
        parameter.grad = torch.ones(5)
    optimizer.step()
    assert torch.allclose(first, parameters()[0] - 1e-2)
    assert torch.allclose(second, parameters()[1] - 1e-3)
    for _ in range(5):
        schedule.step()
    assert schedule.get_last_lr() == pytest.approx([5e-3, 5e-4])


FAKE = """
import torch
class {name}(torch.optim.SGD):
    def __init__(self, params, lr, weight_decay=7.0):
        super().__init__(params, lr=lr, weight_decay=weight_decay)
"""


@pytest.mark.parametrize(
    ("name", "module", "decay"),
    [("Lion", "lion_pytorch", 7.0), ("Prodigy", "prodigyopt", 7.0), ("AdamW8bit", "", 1e-4)],
)
def test_optional_packages_are_imported_when_asked_for(name, module, decay, tmp_path, monkeypatch):
    """Stand-ins for packages that need not be installed: how they are found, and what they are given."""
    path = tmp_path / (f"{module}.py" if module else "bitsandbytes/optim.py")
    path.parent.mkdir(exist_ok=True)
    path.write_text(FAKE.format(name=name))
    if not module:
        (path.parent / "__init__.py").touch()
    for loaded in (module, "bitsandbytes", "bitsandbytes.optim"):
        monkeypatch.setitem(sys.modules, loaded, None)
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.syspath_prepend(tmp_path)
    optimizer, _ = make(optimizer_type=name, learning_rate=0.5)
    group = optimizer.param_groups[0]
    assert (type(optimizer).__name__, group["lr"], group["weight_decay"]) == (name, 0.5, decay)


@pytest.mark.parametrize(
    ("name", "package", "remedy"),
    [
        ("Lion", "lion_pytorch", f"Run: {commandline.install('lion-pytorch')}"),
        ("Prodigy", "prodigyopt", f"Run: {commandline.install('prodigyopt')}"),
        ("PagedAdamW8bit", "bitsandbytes", f"Run: {commandline.install('bitsandbytes')}"),
        ("nobodys.package.Optimizer", "nobodys", "Install it, or correct the path."),
    ],
)
def test_a_missing_package_is_named_before_and_when_it_is_needed(name, package, remedy, monkeypatch):
    monkeypatch.setattr(optimcheck, "find_spec", lambda _: None)
    monkeypatch.delitem(sys.modules, package, raising=False)
    settings = schema.Optimizer(optimizer_type=name, learning_rate=1.0)
    text = f'[optimizer] optimizer_type "{name}": needs the package {package}, which is not installed. {remedy}'
    assert optimcheck.check(settings) == [text]
    with pytest.raises(UserError) as caught:
        optim.make(settings, [], 10)
    assert caught.value.problems == [text]


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"optimizer_args": {"wieght_decay": 0.5}}, "optimizer_args: AdamW refuses them: .*wieght"),
        ({"optimizer_type": "torch.optim.AdamV"}, "has no AdamV. Did you mean torch.optim.Adam"),
        ({"optimizer_type": "torch.optin.AdamW"}, r"torch.optin cannot be imported: No module"),
        ({"optimizer_type": "torch.optim.swa_utils.get_ema_avg_fn"}, "expected a kind of torch.optim.optimizer.Optim"),
        ({"optimizer_type": "torch.nn.Linear"}, "expected a kind of torch.optim.optimizer.Optimizer, got <class"),
        ({"optimizer_type": "torch.optim.LBFGS"}, "its step needs a closure, which is not supported"),
        ({"optimizer_type": "torch.optim.Muon"}, "optimizer_args: Muon refuses them: .*2D"),
        ({"optimizer_type": "AdamW", "optimizer_args": {"betas": [0.9, 3]}}, "AdamW refuses them: Invalid beta"),
        ({"lr_scheduler": "torch.optim.lr_scheduler.StepLR"}, "lr_scheduler_args: .*StepLR refuses them: .*step_size"),
        ({"lr_scheduler": "torch.optim.AdamW"}, "expected a kind of torch.optim.lr_scheduler.LRScheduler"),
        ({"lr_scheduler": "torch.optim.lr_scheduler.ReduceLROnPlateau"}, "its step needs a metrics"),
        (
            {"lr_scheduler": "cosine", "lr_scheduler_args": {"cycles": 3}},
            "lr_scheduler_args: cosine refuses them: .*cyc",
        ),
        (
            {"lr_scheduler": "warmup_stable_decay", "lr_scheduler_args": {"num_decay_steps": 2, "decay_type": "up"}},
            "warmup_stable_decay refuses them: Unknown decay type: up",
        ),
    ],
)
def test_what_cannot_be_made_is_said_in_words(settings, text):
    assert optimcheck.check(schema.Optimizer(**settings), 10) == []  # all of it needs torch
    with pytest.raises(UserError, match=r"^\[optimizer\] .*" + text):
        make(**settings)


def test_schedule_free_optimizers_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "schedule_free_stand_in.py"
    path.write_text(FAKE.format(name="Free") + "    def train(self): pass\n    def eval(self): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"schedule-free.*Use another, with ema_decay"):
        make(optimizer_type="schedule_free_stand_in.Free")


def rates(**settings):
    optimizer, schedule = make(**{"learning_rate": 1.0, "optimizer_type": "SGD", **settings})
    seen = []
    for _ in range(10):
        seen.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return pytest.approx(seen)


def cosine(part):
    return 0.5 * (1 + math.cos(math.pi * part))


def test_rates_over_the_run():
    assert rates() == [1.0] * 10
    assert rates(lr_scheduler="linear") == [1 - n / 10 for n in range(10)]
    warmed = [0, 0.25, 0.5, 0.75]
    assert rates(lr_scheduler="constant_with_warmup", lr_warmup_steps=4) == [*warmed, *[1] * 6]
    assert rates(lr_scheduler="constant_with_warmup", lr_warmup_steps=0.4) == [*warmed, *[1] * 6]
    falling = [cosine(n / 6) for n in range(6)]
    assert rates(lr_scheduler="cosine", lr_warmup_steps=4) == [*warmed, *falling]
    floor = rates(lr_scheduler="cosine_with_min_lr", lr_warmup_steps=4, lr_scheduler_args={"min_lr_rate": 0.1})
    assert floor == [*warmed, *[0.1 + 0.9 * rate for rate in falling]]
    restarts = rates(lr_scheduler="cosine_with_restarts", lr_scheduler_num_cycles=2)
    assert restarts == [cosine(n / 5) for n in range(5)] * 2
    squares = rates(lr_scheduler="polynomial", lr_scheduler_power=2, lr_scheduler_args={"lr_end": 0.2})
    assert squares == [0.2 + 0.8 * (1 - n / 10) ** 2 for n in range(10)]
    assert rates(lr_scheduler="inverse_sqrt", lr_warmup_steps=4) == [*warmed, *[(4 / n) ** 0.5 for n in range(4, 10)]]
    for decay in (4, 0.4):
        found = rates(lr_scheduler="warmup_stable_decay", lr_scheduler_args={"num_decay_steps": decay})
        assert found == [*[1] * 6, *[cosine(n / 4) for n in range(4)]]
    assert rates(lr_scheduler="piecewise_constant", lr_scheduler_args=NEEDED["piecewise_constant"]) == [
        *[1] * 2, *[0.5] * 4, *[0.1] * 4
    ]  # fmt: skip
    stairs = {"step_size": 5, "gamma": 0.5}
    assert rates(lr_scheduler="torch.optim.lr_scheduler.StepLR", lr_scheduler_args=stairs) == [*[1] * 5, *[0.5] * 5]


@pytest.mark.parametrize("warmup_init", [False, True])
def test_adafactors_own_rate_is_its_librarys(warmup_init):
    mine, schedule = make(
        optimizer_type="Adafactor", optimizer_args={"relative_step": True, "warmup_init": warmup_init}
    )
    theirs = transformers.Adafactor(parameters(), lr=None, relative_step=True, warmup_init=warmup_init)
    assert schedule.get_last_lr() == [1e-6 if warmup_init else 1e-2]  # what is logged is what is used
    advance(mine, schedule, 0, 5)
    advance(theirs, None, 0, 5)
    for one, other in zip(values(mine), values(theirs), strict=True):
        assert torch.equal(one, other)


RESUMED = [
    {"optimizer_type": "AdamW", "lr_scheduler": "cosine", "lr_warmup_steps": 3},
    {"optimizer_type": "AdamW", "optimizer_args": {"foreach": True, "amsgrad": True}},
    {"optimizer_type": "SGD", "optimizer_args": {"momentum": 0.9}, "lr_scheduler": "linear"},
    {"optimizer_type": "Adafactor", "lr_scheduler": "cosine", "lr_warmup_steps": 0.2},
    {"optimizer_type": "Adafactor", "optimizer_args": {"relative_step": True, "beta1": 0.9}},
    {"optimizer_type": "Prodigy", "learning_rate": 1.0},
    {"optimizer_type": "Lion"},
    {"optimizer_type": "torch.optim.Adagrad", "lr_scheduler": "torch.optim.lr_scheduler.CyclicLR",
     "lr_scheduler_args": {"base_lr": 1e-3, "max_lr": 1e-1, "step_size_up": 4, "cycle_momentum": False}},
    {"optimizer_type": "torch.optim.Adam", "lr_scheduler": "torch.optim.lr_scheduler.OneCycleLR",
     "lr_scheduler_args": {"max_lr": 0.1, "total_steps": 10}},
    *({"lr_scheduler": name, "lr_scheduler_args": NEEDED.get(name, {})} for name in SCHEDULERS),
]  # fmt: skip


@pytest.mark.parametrize("settings", RESUMED, ids=lambda one: "-".join(map(str, one.values())))
def test_a_saved_run_goes_on_to_the_same_bits(settings):
    path = optimcheck.CLASSES.get(settings.get("optimizer_type"), "torch")
    if not importlib.util.find_spec(path.partition(".")[0]):
        pytest.skip(f"{path} is not installed")

    def groups():
        first, second = parameters()
        one, other = (1.0, 1.0) if settings.get("optimizer_type") == "Prodigy" else (1e-2, 3e-3)
        return [{"params": [first], "lr": one}, {"params": [second], "lr": other}]

    whole = make(10, groups(), **settings)
    advance(*whole, 0, 4)
    saved = io.BytesIO()
    torch.save([values(whole[0]), *(part.state_dict() for part in whole)], saved)
    advance(*whole, 4, 9)

    saved.seek(0)
    kept, *states = torch.load(saved, weights_only=True)
    resumed = make(10, groups(), **settings)
    for parameter, value in zip([p for g in resumed[0].param_groups for p in g["params"]], kept, strict=True):
        parameter.data.copy_(value)
    for part, state in zip(resumed, states, strict=True):
        part.load_state_dict(state)
    advance(*resumed, 4, 9)
    assert resumed[1].get_last_lr() == whole[1].get_last_lr()
    for one, other in zip(values(resumed[0]), values(whole[0]), strict=True):
        assert torch.equal(one, other)
