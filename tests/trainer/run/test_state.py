import io
import os
import pickle
import random
import signal
import zipfile
from collections import OrderedDict

import pytest
import torch
from transformers import get_scheduler

from tests.processes import run
from trainer.run import state
from trainer.system.errors import TrainingStopped, UserError
from trainer.system.interrupt import StopRequest

JOB = {"train.seed": 42, "network.coefficients": 64, "model": "abc", "pictures": "def", "batch sizes": "[(0, 1)]"}


def content(step=7):
    """A state of a real optimizer and schedule, after a step."""
    values = [torch.nn.Parameter(torch.arange(5.0) + number) for number in range(2)]
    optimizer = torch.optim.AdamW(
        [{"params": [values[0]], "lr": 1e-3}, {"params": [values[1]], "lr": 1e-2}], fused=True
    )
    schedule = get_scheduler("cosine", optimizer, 2, 10)
    for value in values:
        value.grad = torch.full_like(value, 0.5)
    optimizer.step()
    schedule.step()
    return {
        "step": step,
        "values": OrderedDict(a=values[0].detach().clone(), b=values[1].detach().clone()),
        "indices": {"a": torch.arange(5, dtype=torch.int32)},
        "ema": {"decay": 0.9, "shadow_params": [torch.ones(5)], "temp_stored_params": None},
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "scaler": {},
        "fingerprint": JOB,
    }


def same(first, second):
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


def test_what_is_saved_is_what_is_loaded(tmp_path):
    saved = content()
    path = state.save(tmp_path / "new" / "dog-step00000007.state", saved)
    found = state.load(path)
    assert same(found, {**saved, "format": 1})
    assert state.readable(path)
    assert [item.name for item in path.parent.iterdir()] == [path.name]


def test_the_same_state_is_the_same_bytes_and_tells_no_folder(tmp_path):
    one, other = (state.save(tmp_path / folder / "x.state", content()).read_bytes() for folder in ("a", "b"))
    assert one == other
    assert str(tmp_path).encode() not in one
    assert b"/home" not in one


def test_every_flipped_byte_is_noticed_or_meaningless(tmp_path):
    saved = content()
    path = state.save(tmp_path / "x.state", saved)
    whole, draw, noticed = path.read_bytes(), random.Random(0), 0
    for _ in range(150):
        broken = bytearray(whole)
        broken[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        path.write_bytes(broken)
        try:
            assert same(state.load(path), {**saved, "format": 1})  # padding between the parts
        except UserError as error:
            noticed += 1
            assert str(path) in str(error)
    assert noticed > 20


@pytest.mark.parametrize("part", [0, 0.1, 0.5, 0.9, 0.999])
def test_a_cut_file_is_refused_with_a_remedy(tmp_path, part):
    path = state.save(tmp_path / "x.state", content())
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    with pytest.raises(UserError, match=r'state ".*x\.state".*--resume'):
        state.load(path)
    assert not state.readable(path)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil",)


def test_a_file_that_would_run_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"format": 1, "x": Evil()}, tmp_path / "x.state")
    with pytest.raises(UserError, match="another"):
        state.load(tmp_path / "x.state")
    (tmp_path / "y.state").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UserError, match="another"):
        state.load(tmp_path / "y.state")
    assert not (tmp_path / "evil").exists()


def test_other_files_are_named_for_what_they_are(tmp_path):
    with pytest.raises(UserError, match=r"cannot be read .*Check the path"):
        state.load(tmp_path / "none.state")
    with pytest.raises(UserError, match="cannot be read"):
        state.load(tmp_path)
    for other in ([1], {"step": 1}):
        torch.save(other, tmp_path / "x.state")
        with pytest.raises(UserError, match="expected a state that this trainer wrote"):
            state.load(tmp_path / "x.state")
    torch.save({**content(), "format": 2}, tmp_path / "x.state")
    with pytest.raises(UserError, match=r"expected format 1, got 2\..*another version"):
        state.load(tmp_path / "x.state")
    lacking = {**content(), "format": 1, "step": "7"}
    del lacking["optimizer"]
    torch.save(lacking, tmp_path / "x.state")
    with pytest.raises(UserError, match="got none of step, optimizer"):
        state.load(tmp_path / "x.state")
    with zipfile.ZipFile(tmp_path / "x.state", "w") as file:
        file.writestr("a", "b")
    with pytest.raises(UserError, match="another"):
        state.load(tmp_path / "x.state")


def test_what_could_not_be_read_back_is_not_written(tmp_path):
    path = state.save(tmp_path / "x.state", content(1))
    before = path.read_bytes()
    with pytest.raises(TrainingStopped, match="could not be read back"):
        state.save(path, {**content(2), "optimizer": {"odd": io.StringIO}})
    assert path.read_bytes() == before


def test_a_failing_disk_leaves_the_old_file_whole_and_nothing_else(tmp_path, monkeypatch):
    path = state.save(tmp_path / "x.state", content(1))

    def full(*_):
        raise OSError(28, "No space left on device")

    for function in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, function, full)
            with pytest.raises(OSError, match="No space left"):
                state.save(path, content(2))
        assert state.load(path)["step"] == 1
        assert list(tmp_path.iterdir()) == [path]


FULL = """
import resource, sys, torch
from pathlib import Path
from trainer.run import state
path = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # the system refuses to write more, as a full disk does
bad = dict(step=2, values={"a": torch.zeros(100_000)}, optimizer={}, schedule={}, fingerprint={})
try:
    state.save(path, bad)
except OSError as error:
    print("refused", error.errno)
"""


def test_a_disk_that_fills_up_midway(tmp_path):
    path = state.save(tmp_path / "x.state", content(1))
    done = run("-c", FULL, path)
    assert done.stdout.startswith("refused"), done.stderr
    assert state.load(path)["step"] == 1
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_a_save_waits_for_it(tmp_path, monkeypatch, number):
    path, sync = tmp_path / "x.state", os.fsync

    def interrupted(descriptor):
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)  # whoever presses twice would stop at once, were it not for the save
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", interrupted)
    with StopRequest() as request:
        state.save(path, content(3))
        assert request.signal_number == number
    assert state.load(path)["step"] == 3


def test_the_environment_is_flat_and_complete(monkeypatch):
    found = state.environment()
    assert found.keys() == {
        "python", "torch", "diffusers", "transformers", "waveft", "threads", "device", "platform",
    }  # fmt: skip
    assert found["torch"] == torch.__version__
    assert found["threads"] == torch.get_num_threads()
    assert found["device"] == "cpu"
    assert all(isinstance(value, str | int) for value in found.values())
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"H100 {device.index}")
    assert state.environment(torch.device("cuda:1"))["device"] == "H100 1"
    assert state.environment(torch.device("mps"))["device"] == "mps"
    assert state.version("no-such-package-anywhere") == ""


def test_an_unchanged_job_differs_in_nothing():
    assert state.differences(JOB, dict(JOB)) == ([], [])


@pytest.mark.parametrize(
    "key",
    [
        "save.keep_last", "sample.sample_steps", "logging.log_with", "metadata.metadata_title",
        "validation.validate_every_n_steps", "train.device",
    ],
)  # fmt: skip
def test_what_the_coefficients_do_not_follow_from_may_change(key):
    assert state.differences({**JOB, key: 1}, {**JOB, key: 2}) == ([], [])


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        ("train.max_train_steps", "[train] max_train_steps"), ("train.max_train_epochs", "[train] max_train_epochs"),
        ("cache.cache_latents", "[cache] cache_latents"), ("torch", "torch"), ("threads", "threads"),
        ("device", "device"),
        ("platform", "platform"), ("train.threads", "[train] threads"), ("python", "python"), ("waveft", "waveft"),
    ],
)  # fmt: skip
def test_what_changes_little_is_told_with_both_values(key, shown):
    faults, [notice] = state.differences({**JOB, key: "old"}, {**JOB, key: "new"})
    assert faults == []
    assert notice.startswith(f"{shown}: 'old' in the saved run, 'new' now")


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        ("train.seed", "[train] seed"), ("network.coefficients", "[network] coefficients"), ("model", "model"),
        ("pictures", "pictures"), ("batch sizes", "batch sizes"),
        ("optimizer.learning_rate", "[optimizer] learning_rate"),
        ("loss.loss_type", "[loss] loss_type"), ("train.ema_decay", "[train] ema_decay"),
        ("network.coefficients_pattern.^a\\.b", "[network] coefficients_pattern.^a\\.b"),
        ("of a later version", "of a"),
    ],
)  # fmt: skip
def test_everything_else_is_another_run(key, shown):
    [fault], notices = state.differences({**JOB, key: 1}, {**JOB, key: 2})
    assert notices == []
    assert fault.startswith(f"{shown}")
    assert "expected 1 as in the saved run, got 2. Set it back" in fault
    [fault], _ = state.differences({key: 1}, {})
    assert "expected 1 as in the saved run, got nothing." in fault
    [fault], _ = state.differences({}, {key: 1})
    assert "expected nothing as in the saved run, got 1." in fault


def test_a_value_that_tells_nothing_is_put_in_words():
    words = {"pictures": "expected x, got 1 more", "model": "of no use: it is the same"}
    assert state.differences(JOB, {**JOB, "pictures": "ghi"}, words)[0] == [
        "pictures: expected x, got 1 more. Set it back, or begin a new run under another [save] output_name."
    ]


def test_the_work_may_be_shared_out_anew_where_a_step_sees_as_much():
    accumulation, world = state.SHARES
    saved = {**JOB, accumulation: 4, world: 1}
    faults, notices = state.differences(saved, {**JOB, accumulation: 2, world: 2})
    assert faults == []
    assert [notice.split(":")[0] for notice in notices] == ["[train] gradient_accumulation_steps", "world_size"]
    faults, notices = state.differences(saved, {**JOB, accumulation: 4, world: 2})
    assert notices == []
    assert faults == [
        "world_size: expected 1 as in the saved run, got 2. Keep gradient_accumulation_steps x processes at 4."
    ]
    assert len(state.differences(saved, {**JOB, accumulation: 3, world: 2})[0]) == 2
