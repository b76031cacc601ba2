"""Whatever ends a run, and whoever raises it, the adapter and the state of the last whole step are somewhere."""

import signal
import sys
import tempfile
from pathlib import Path

import pytest
import torch

import waveft_core
from trainer import cli, loop, setup
from trainer.learning.wholestep import WholeStep
from trainer.methods.coefficients import AdapterProduct
from trainer.preflight import preflight
from trainer.result import rescue
from trainer.result.runlog import Outcome, RunLog
from trainer.run import state
from trainer.system.errors import TrainingStopped, UserError

# diffusers' Euler scheduler, with NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture
def ready(job, write_job, tmp_path):
    """The function that checks the job, changed by `--set` texts."""
    return lambda *overrides: preflight.check(preflight.read(write_job(job), overrides), home=tmp_path)


class Mean(torch.optim.SGD):
    """Moves half of the coefficients of its third step, and raises."""

    error: BaseException = KeyError("odd")
    at = 3
    steps = 0

    def step(self, closure=None):
        type(self).steps += 1
        if type(self).steps == self.at + 1:  # the first one is the preflight's trial
            for group in self.param_groups:
                for parameter in group["params"][::2]:
                    parameter.data.add_(1.0)
            raise self.error
        return super().step(closure)


class Weary(torch.optim.lr_scheduler.LambdaLR):
    """Raises in a run's third step, whatever it did when it was tried."""

    error: BaseException = ZeroDivisionError("weary")
    armed = False

    def __init__(self, optimizer):
        super().__init__(optimizer, lambda step: 1.0)

    def step(self):
        if type(self).armed and self.last_epoch == 2:
            raise self.error
        super().step()


@pytest.fixture
def foreign(monkeypatch):
    """The two classes above as a package's, unarmed."""
    monkeypatch.setitem(sys.modules, "strangers", sys.modules[__name__])
    monkeypatch.setattr(Mean, "steps", -10_000)
    monkeypatch.setattr(Weary, "armed", False)


def values(parts):
    return {name: layer.values.clone() for name, layer in parts.tuning.product().adapter.layers.items()}


def after_two_steps(parts):
    """Trains two steps; returns the coefficients, the optimizer's state and the schedule's."""
    outcome, whole = Outcome(), WholeStep(parts.tuning.parameters(), parts.movers)
    with RunLog(parts, 0) as log, loop.StopRequest() as request:
        for _ in range(2):
            assert loop.step(parts, outcome, log, whole, request)
    return values(parts), parts.optimizer.state_dict()["state"], parts.schedule.state_dict()


@pytest.fixture(scope="module")
def two_steps():
    """What after_two_steps says of the first job that it is asked for, and of the others, which are like it."""
    kept = []

    def once(job):
        if not kept:
            kept.extend(after_two_steps(setup.build(job)))
        return kept[0], kept[1]

    return once


ERRORS = [KeyError("odd"), SystemExit(3), RuntimeError("odd"), AssertionError(), GeneratorExit()]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_optimizer_that_raises_in_the_middle_leaves_the_last_whole_step(
    ready, foreign, two_steps, monkeypatch, error
):
    job = ready("optimizer.optimizer_type=strangers.Mean", "optimizer.optimizer_args.momentum=0.9")
    monkeypatch.setattr(Mean, "error", error)
    expected, moments = two_steps(job)
    made = []
    real = setup.build
    monkeypatch.setattr(loop, "build", lambda *given: made.append(real(*given)) or armed(made[-1]))

    def armed(found):
        Mean.steps, Mean.at = 0, 2
        return found

    outcome = loop.run(job)
    assert (outcome.steps, outcome.exit_status) == (2, 1)
    assert outcome.warning.startswith("stopped after step 2: ")
    kept = waveft_core.load(outcome.files[0])
    assert outcome.files[0].name == "waveft-step00000002.safetensors"
    assert all(torch.equal(kept.layers[name].values, value) for name, value in expected.items())
    saved = state.load(job.folder.state(2))
    assert saved["step"] == 2
    assert all(
        torch.equal(saved["optimizer"]["state"][number]["momentum_buffer"], held["momentum_buffer"])
        for number, held in moments.items()
    )


@pytest.mark.parametrize("error", [ZeroDivisionError("weary"), SystemExit(1)], ids=lambda error: type(error).__name__)
def test_a_schedule_that_raises_is_named_and_costs_nothing(ready, foreign, monkeypatch, capsys, error):
    job = ready("optimizer.lr_scheduler=strangers.Weary")
    monkeypatch.setattr(Weary, "error", error)
    real = setup.build

    def build(*given):
        parts = real(*given)
        Weary.armed = True
        return parts

    monkeypatch.setattr(loop, "build", build)
    outcome = loop.run(job)
    Weary.armed = False
    assert (outcome.steps, outcome.exit_status) == (2, 1)
    assert state.load(job.folder.state(2))["schedule"]["last_epoch"] == 2
    if isinstance(error, Exception):
        assert '[optimizer] lr_scheduler "strangers.Weary"' in outcome.warning
        assert "ZeroDivisionError: weary" in outcome.traceback  # to be shown when everything is saved
    monkeypatch.setattr(loop, "build", real)
    resumed = loop.run(job, state.load(job.folder.state(2)))
    whole = loop.run(ready("optimizer.lr_scheduler=strangers.Weary", "save.output_name=whole"))
    first, second = (waveft_core.load(one.files[0]).layers for one in (resumed, whole))
    assert all(torch.equal(first[name].values, second[name].values) for name in second)


def test_the_traceback_comes_last(ready, foreign, monkeypatch, capsys, job, write_job):
    monkeypatch.setattr(loop.RunLog, "step", lambda *_: {}["nobody expects this"])
    assert cli.main(["--config", str(write_job(job))]) == 1
    told = capsys.readouterr()
    assert "waveft-step00000001.safetensors" in told.out
    warning, _, traceback = told.err.partition("\n")
    assert warning == "stopped after step 1: KeyError: 'nobody expects this'"
    assert "Traceback (most recent call last)" in traceback


def test_a_schedule_that_would_raise_is_refused_before(ready):
    with pytest.raises(UserError, match="expected a schedule for 3 steps, got one that raises after step 2") as raised:
        ready(
            "optimizer.lr_scheduler=torch.optim.lr_scheduler.OneCycleLR",
            "optimizer.lr_scheduler_args={max_lr=1e-4, total_steps=1}",
        )
    assert "[optimizer] lr_scheduler" in str(raised.value)


def replaced(folder):
    """Deletes a folder with all that is in it, and puts a file in its place."""
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()
    folder.write_text("in the way")


def test_a_folder_that_became_a_file_moves_the_work_elsewhere(ready, monkeypatch, tmp_path, capsys):
    job = ready()
    train = loop.train

    def then_replaced(parts, outcome, log):
        train(parts, outcome, log)
        replaced(job.folder.folder)

    monkeypatch.setattr(loop, "train", then_replaced)
    with pytest.raises(TrainingStopped) as raised:
        loop.run(job)
    kept, held = tmp_path / "waveft-tensors.safetensors", tmp_path / "waveft-step00000003.state"
    assert f'What was trained is in "{kept}"' in str(raised.value)
    assert f'The state to resume from is in "{held}"' in str(raised.value)
    assert len(waveft_core.load(kept).layers) == 32
    assert state.load(held)["step"] == 3


def test_a_folder_that_is_gone_is_made_again(ready, monkeypatch, tmp_path, job, write_job, capsys):
    train = loop.train

    def then_gone(parts, outcome, log):
        train(parts, outcome, log)
        replaced(tmp_path / "out")
        (tmp_path / "out").unlink()

    monkeypatch.setattr(loop, "train", then_gone)
    assert cli.main(["--config", str(write_job(job))]) == 0
    told = capsys.readouterr()
    assert "Traceback" not in told.err
    assert waveft_core.load(tmp_path / "out" / "waveft.safetensors").layers
    assert "which is gone again" in told.out  # the log


def test_the_rescue_tries_one_folder_after_the_other(ready, monkeypatch, tmp_path, capsys):
    job = ready("save.output_name=" + "n" * 150)
    tried, temporary = [], Path(tempfile.gettempdir())

    def write(path):
        tried.append(path)
        if path.parent != temporary:
            raise OSError(28, "No space left on device")
        path.write_bytes(b"kept")

    kept = rescue.elsewhere(job, "-tensors.safetensors", write)
    try:
        assert [path.parent for path in tried] == [job.folder.folder, tmp_path, Path.home(), temporary]
        assert kept == tried[-1] and len(kept.name) < 100
        assert "No space left" in capsys.readouterr().out
    finally:
        kept.unlink()
    monkeypatch.setattr(rescue, "places", lambda _: iter([tmp_path]))
    assert rescue.elsewhere(job, ".x", lambda path: 1 / 0) is None


def test_a_name_that_fits_no_suffix_is_refused(ready):
    job = ready()
    longest = 255 - len(job.folder.longest_name(3, 0, 0)) + len(job.folder.name)
    assert ready(f"save.output_name={'y' * longest}")
    for count in (longest + 1, 225, 240, 254, 255):
        with pytest.raises(UserError, match=rf"output_name: expected at most {longest} bytes, .*got {count}") as raised:
            ready(f"save.output_name={'y' * count}")
        assert "[save]" in str(raised.value)
    with pytest.raises(UserError, match="got 300"):
        ready(f"save.output_name={'é' * 150}")  # two bytes each


def test_no_file_of_a_run_has_a_longer_name_than_was_measured(ready, monkeypatch):
    """Every name that is opened or renamed to while the longest one that passes is trained."""
    prompts = ('sample.prompts=["sks robot"]', "sample.sample_steps=1", "save.save_every_n_steps=1")
    short = ready(*prompts).folder
    longest = 255 - len(short.longest_name(3, 1, 43)) + len(short.name)
    job = ready(*prompts, f"save.output_name={'y' * longest}")
    names, watching = set(), [True]

    def hear(event, given):
        if watching[0] and event in ("open", "os.rename") and given:
            names.update(Path(one).name for one in given[:2] if isinstance(one, str | Path) and "yyy" in str(one))

    sys.addaudithook(hear)
    outcome = loop.run(job)
    watching[0] = False
    assert (outcome.exit_status, outcome.warning) == (0, "")
    assert len(names) > 8
    assert max(map(len, names)) <= 255
    assert max(map(len, names)) == len(job.folder.longest_name(3, 1, 43)) or len(max(names, key=len)) > 240


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="a signal of POSIX")
def test_a_dropped_connection_saves(ready, monkeypatch):
    before = signal.getsignal(signal.SIGHUP)
    accumulate = loop.accumulate

    def dropped(parts, step, wants):
        if step == 1:
            signal.raise_signal(signal.SIGHUP)  # by the system
            signal.raise_signal(signal.SIGHUP)  # and by the shell
        return accumulate(parts, step, wants)

    monkeypatch.setattr(loop, "accumulate", dropped)
    try:
        outcome = loop.run(ready())
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (outcome.steps, outcome.exit_status) == (2, 128 + signal.SIGHUP)
    assert waveft_core.load(outcome.files[0]).layers


def test_what_is_saved_is_the_same_whether_the_step_was_kept_or_not(ready):
    """Keeping the last whole step draws nothing and moves nothing."""
    first, second = setup.build(ready()), setup.build(ready())
    kept, *_ = after_two_steps(first)
    for number in range(2):
        loop.backward(second, number, bool)
        loop.move(second, number + 1, 1.0)
    assert all(torch.equal(value, kept[name]) for name, value in values(second).items())


def test_an_adapter_that_nothing_takes_is_said(ready, monkeypatch, tmp_path):
    monkeypatch.setattr(rescue, "places", lambda _: iter(()))
    monkeypatch.setattr(AdapterProduct, "save", lambda *_: (_ for _ in ()).throw(OSError(28, "No space")))
    with pytest.raises(TrainingStopped, match="Nothing could be written"):
        loop.run(ready())
