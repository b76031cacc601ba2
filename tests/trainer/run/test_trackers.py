import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import pytest
from PIL import Image
from pydantic import ValidationError

from trainer.job.schema import Logging
from trainer.run import trackers
from trainer.samples.prompts import Shot
from trainer.samples.sampling import Drawn
from trainer.system import commandline
from trainer.system.errors import UserError

HAS_TENSORBOARD = importlib.util.find_spec("tensorboard") is not None
JOB = {"train": {"seed": 42}}


def module(name, **members):
    made = ModuleType(name)
    made.__spec__ = ModuleSpec(name, None, origin="a fake")
    vars(made).update(members)
    return made


class Recorder:
    """Notes every call, and what it is told to fail at."""

    def __init__(self):
        self.calls, self.broken = [], set()

    def __getattr__(self, name):
        def call(*arguments, **keywords):
            self.calls.append((name, arguments, keywords))
            if name in self.broken:
                raise KeyError(name)  # of no kind that anyone would foresee

        return call


@pytest.fixture
def wandb(monkeypatch):
    run, begun = Recorder(), []

    def init(**keywords):
        begun.append(keywords)
        return run

    monkeypatch.setitem(sys.modules, "wandb", module("wandb", init=init, Image=lambda image, caption: (image, caption)))
    return SimpleNamespace(run=run, begun=begun)


@pytest.fixture
def tensorboard(monkeypatch):
    writer, begun = Recorder(), []

    def summary_writer(folder, purge_step):
        begun.append((folder, purge_step))
        return writer

    monkeypatch.setitem(sys.modules, "tensorboard", module("tensorboard"))
    fake = module("torch.utils.tensorboard", SummaryWriter=summary_writer)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    return SimpleNamespace(writer=writer, begun=begun)


@pytest.fixture
def drawn():
    return [
        Drawn(Shot(f"prompt {seed}", "", seed, 8, 4, 2, 6.0, "euler_a"), Image.new("RGB", (8, 4), "red"))
        for seed in (1, 2)
    ]


def logging(**keys):
    return Logging.model_validate(keys)


def test_none_is_fine(tmp_path, drawn):
    with trackers.make(logging(), tmp_path, "dog", JOB) as made:
        made.log(1, {"loss": 0.5})
        made.pictures(1, drawn)
        assert len(made) == 0
    assert trackers.check(logging()) == []
    assert list(tmp_path.iterdir()) == []


def test_wandb_is_told_everything(tmp_path, wandb, drawn):
    with trackers.make(logging(log_with="wandb", log_tracker_name="dogs"), tmp_path, "dog", JOB) as made:
        made.log(3, {"loss": 0.5, "lr": 1e-4})
        made.pictures(3, drawn)
        made.pictures(4, [])
    assert wandb.begun == [{"project": "dogs", "name": "dog", "dir": str(tmp_path / "logs"), "config": JOB}]
    (_, (values,), step), (_, (shown,), _), (last, _, _) = wandb.run.calls
    assert (values, step) == ({"loss": 0.5, "lr": 1e-4}, {"step": 3})
    assert {name: caption for name, (_, caption) in shown.items()} == {
        "samples/01": "prompt 1",
        "samples/02": "prompt 2",
    }
    assert last == "finish"


def test_wandb_keys_of_the_job(tmp_path, wandb):
    keys = {"log_with": "wandb", "wandb_run_name": "Rex", "logging_dir": str(tmp_path / "elsewhere")}
    trackers.make(logging(**keys), tmp_path, "dog", JOB).close()
    assert wandb.begun == [{"project": "waveft", "name": "Rex", "dir": str(tmp_path / "elsewhere"), "config": JOB}]


def test_tensorboard_is_told_everything(tmp_path, tensorboard, drawn):
    with trackers.make(logging(log_with="tensorboard"), tmp_path, "dog", JOB, step=2) as made:
        made.log(3, {"loss": 0.5, "lr": 1e-4})
        made.pictures(3, drawn)
    assert tensorboard.begun == [(str(tmp_path / "logs" / "waveft" / "dog"), 3)]
    calls = tensorboard.writer.calls
    assert [name for name, _, _ in calls] == ["add_text", *["add_scalar"] * 2, *["add_image"] * 2, "flush", "close"]
    assert '"seed": 42' in calls[0][1][1]
    assert [arguments for _, arguments, _ in calls[1:3]] == [("loss", 0.5, 3), ("lr", 1e-4, 3)]
    tag, pixels, step = calls[4][1]
    assert (tag, pixels.shape, pixels[0, 0].tolist(), step) == ("samples/02", (4, 8, 3), [255, 0, 0], 3)
    assert calls[4][2] == {"dataformats": "HWC"}


@pytest.mark.skipif(not HAS_TENSORBOARD, reason="needs tensorboard")
def test_the_real_tensorboard(tmp_path, drawn):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with trackers.make(logging(log_with="tensorboard"), tmp_path, "dog", JOB) as made:
        made.log(1, {"loss": 0.5})
        made.pictures(1, drawn)
    found = EventAccumulator(str(tmp_path / "logs" / "waveft" / "dog"))
    found.Reload()
    assert [(event.step, event.value) for event in found.Scalars("loss")] == [(1, 0.5)]
    assert found.Images("samples/01")[0].width == 8


def test_one_that_fails_is_dropped_and_told(tmp_path, wandb, tensorboard, drawn):
    told = []
    wandb.run.broken = {"log"}
    with trackers.make(logging(log_with="all"), tmp_path, "dog", JOB, notice=told.append) as made:
        assert len(made) == 2
        made.log(1, {"loss": 0.5})
        made.log(2, {"loss": 0.5})
        made.pictures(2, drawn)
        assert len(made) == 1
        tensorboard.writer.broken = {"close"}
    assert [text.split(":")[0] for text in told] == ["wandb", "tensorboard"]
    assert "Training goes on" in told[0]
    assert [name for name, _, _ in wandb.run.calls] == ["log"]
    assert sum(name == "add_scalar" for name, _, _ in tensorboard.writer.calls) == 2


def test_what_is_not_installed_is_a_fault_with_the_line_to_run(tmp_path, monkeypatch):
    for name in ("tensorboard", "wandb"):
        monkeypatch.setitem(sys.modules, name, None)
    assert trackers.check(logging(log_with="all")) == [
        '[logging] log_with "all": tensorboard is not installed. Run: ' + commandline.install("tensorboard"),
        '[logging] log_with "all": wandb is not installed. Run: ' + commandline.install("wandb"),
    ]
    with pytest.raises(UserError, match="pip install wandb"):
        trackers.make(logging(log_with="wandb"), tmp_path, "dog", JOB)


def test_a_folder_that_wandb_left_is_no_package(tmp_path, monkeypatch):
    (tmp_path / "left_by_wandb").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert not trackers.installed("left_by_wandb")
    assert trackers.installed("json")


def test_one_that_cannot_begin_is_a_fault_and_ends_the_others(tmp_path, tensorboard, monkeypatch):
    class UsageError(Exception):
        pass

    def init(**_):
        raise UsageError("no API key\nmore")

    monkeypatch.setitem(sys.modules, "wandb", module("wandb", init=init, Image=None))
    with pytest.raises(UserError, match=r"wandb cannot begin \(no API key\)\. Log in"):
        trackers.make(logging(log_with="all"), tmp_path, "dog", JOB)
    assert tensorboard.writer.calls[-1][0] == "close"


@pytest.mark.parametrize(
    ("keys", "word"),
    [
        ({"logging_dir": "logs"}, "logging_dir"), ({"log_tracker_name": "x"}, "log_tracker_name"),
        ({"wandb_run_name": "x"}, "wandb_run_name"),
        ({"log_with": "tensorboard", "wandb_run_name": "x"}, "wandb_run_name"),
    ],
)  # fmt: skip
def test_keys_that_nobody_would_read_are_refused(keys, word):
    with pytest.raises(ValidationError, match=word):
        logging(**keys)
    assert logging(**Logging().model_dump()) == Logging()  # a job written out with its defaults reads again
