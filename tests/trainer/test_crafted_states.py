"""States that nobody's run wrote: each is refused in words, before a step, and takes no more room than its file."""

import copy
import io
import os
import zipfile
from collections import OrderedDict

import pytest
import torch

from trainer import loop, resume, setup
from trainer.preflight import preflight
from trainer.run import state
from trainer.system.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def good():
    """A small state of the right form."""
    return {
        "format": state.FORMAT, "step": 2, "values": OrderedDict(a=torch.zeros(3)), "optimizer": {}, "schedule": {},
        "fingerprint": {"train.gradient_accumulation_steps": 2, "world_size": 1},
    }  # fmt: skip


def write(path, content):
    torch.save(content, path)
    return path


def nested(depth):
    made = "x"
    for _ in range(depth):
        made = [made]
    return made


CRAFTED = {
    "a step that is a text": {"step": "2"},
    "a step that is true": {"step": True},
    "a step below 0": {"step": -1},
    "a step beyond all": {"step": 10**22},
    "no values": {"values": None},
    "values that are a list": {"values": [1]},
    "NaN in the values": {"values": {"a": torch.tensor([float("nan")])}},
    "infinity in the optimizer": {"optimizer": {"state": {0: {"exp_avg": torch.tensor([float("inf")])}}}},
    "a rate that is NaN": {"schedule": {"base_lrs": [float("nan")]}},
    "a tensor larger than the file": {"values": {"a": torch.zeros(1).expand(10**9)}},
    "a tensor that lies across": {"values": {"a": torch.zeros(4, 5).T}},
    "a sparse tensor": {"values": {"a": torch.zeros(4, 5).to_sparse()}},
    "a fingerprint of tables": {"fingerprint": {"seed": {}}},
    "batches that are no number": {"fingerprint": {"train.gradient_accumulation_steps": "x"}},
    "no process at all": {"fingerprint": {"world_size": 0}},
    "pictures that are a number": {"pictures": 7},
    "pictures of one name": {"pictures": [("a",)]},
    "pictures of numbers": {"pictures": [(1, 2)]},
    "lists without end": {"extra": nested(40)},
    "a set": {"extra": {1, 2}},
}


@pytest.mark.parametrize("name", CRAFTED)
def test_a_crafted_value_is_refused(tmp_path, name):
    assert state.load(write(tmp_path / "good.state", good()))["step"] == 2
    with pytest.raises(UserError, match="Resume from an earlier state") as raised:
        state.load(write(tmp_path / "a.state", {**good(), **CRAFTED[name]}))
    assert "a.state" in str(raised.value)


def test_a_packed_state_is_not_unpacked(tmp_path):
    whole, path = io.BytesIO(), tmp_path / "a.state"
    torch.save(good(), whole)
    with zipfile.ZipFile(whole) as given, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for entry in given.infolist():
            made.writestr(entry.filename, given.read(entry))
        made.writestr("archive/data/99", bytes(2**26))
    assert path.stat().st_size < 2**20
    with pytest.raises(UserError, match="expected entries as torch stores them, got packed ones"):
        state.load(path)


def test_what_is_no_plain_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.state")
    (tmp_path / "folder.state").mkdir()
    with (tmp_path / "sparse.state").open("wb") as file:
        file.truncate(2**40)
    for name, words in (("pipe", "a pipe"), ("folder", "a folder"), ("sparse", "expected at most")):
        with pytest.raises(UserError, match=words):
            state.load(tmp_path / f"{name}.state")


@pytest.fixture
def run(job, write_job):
    """A run of two steps that is to be three, and its state."""
    ready = preflight.check(preflight.read(write_job(job), ["train.max_train_steps=2"]))
    loop.run(ready)
    saved = state.load(ready.folder.state(2))
    longer = preflight.check(preflight.read(write_job(job)), ready.folder.state(2))
    return longer, saved


def changed(saved, *way, value):
    """A copy of a state with something else in one place; `value` may be made of what is there."""
    made = copy.deepcopy(saved)
    place = made
    for key in way[:-1]:
        place = place[next(iter(place)) if key is ... else key]
    last = next(iter(place)) if way[-1] is ... else way[-1]
    if value is None:
        del place[last]
    else:
        place[last] = value(place[last]) if callable(value) else value
    return made


OF_ANOTHER = {
    "a layer less": (("values", ...), None),
    "a layer of another size": (("values", ...), lambda held: held[:-1]),
    "a layer of another kind": (("values", ...), lambda held: held.double()),
    "no state of the optimizer": (("optimizer", "state"), None),
    "a moment of another size": (("optimizer", "state", 0, "exp_avg"), lambda held: held[:-1]),
    "a moment less": (("optimizer", "state", 0, "exp_avg"), None),
    "a moment that is a text": (("optimizer", "state", 0, "exp_avg"), "x"),
    "a parameter less": (("optimizer", "state", 0), None),
    "no groups": (("optimizer", "param_groups"), []),
    "a group of other parameters": (("optimizer", "param_groups", 0, "params"), lambda held: held[:-1]),
    "a group without betas": (("optimizer", "param_groups", 0, "betas"), None),
    "betas of text": (("optimizer", "param_groups", 0, "betas"), ("a", "b")),
    "a schedule of another kind": (("schedule",), {"x": 1}),
    "a schedule that is elsewhere": (("schedule", "last_epoch"), 10**9),
    "rates of text": (("schedule", "base_lrs"), ["x"]),
    "a scaler of another kind": (("scaler",), {"scale": 1.0}),
    "no scaler": (("scaler",), None),
}


def test_a_state_of_another_form_is_refused_before_a_step(run):
    ready, saved = run
    parts = setup.build(ready)
    before = {name: value.clone() for name, value in parts.tuning.state_dict().items()}
    for name, (way, value) in OF_ANOTHER.items():
        with pytest.raises(UserError, match="Resume from another state"):
            resume.restore(parts, changed(saved, *way, value=value))
            pytest.fail(name)
        assert all(torch.equal(value, before[key]) for key, value in parts.tuning.state_dict().items()), name
    resume.restore(parts, saved)
    assert any(not torch.equal(value, before[key]) for key, value in parts.tuning.state_dict().items())


def test_positions_of_another_form_are_refused(job, write_job):
    ready = preflight.check(preflight.read(write_job(job), ["network.locations=gradient:0", "train.max_train_steps=1"]))
    loop.run(ready)
    saved = state.load(ready.folder.state(1))
    for value in (lambda held: held[:-1], lambda held: held.double(), None):
        with pytest.raises(UserError, match="Resume from another state"):
            setup.build(ready, changed(saved, "method", "indices", ..., value=value))
