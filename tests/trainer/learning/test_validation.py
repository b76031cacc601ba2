"""Validation asks the same question each time, and a resumed run agrees with its job."""

import pytest
import torch
from PIL import Image

from trainer import loop, resume, saving, setup
from trainer.learning import validation
from trainer.preflight import preflight
from trainer.result.runlog import Outcome, RunLog
from trainer.system.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture
def ready(job, write_job, pictures_in, tmp_path):
    pictures_in(tmp_path / "pictures", 5)
    return lambda *overrides: preflight.check(preflight.read(write_job(job), overrides))


SPLIT = ("validation.validation_split=0.4", "validation.timesteps=[100, 900]")


def test_the_same_question_whatever_was_done_meanwhile(ready):
    parts = setup.build(ready(*SPLIT))
    assert len(validation.pictures(parts.ready)) == 2
    assert not {one.digest for one in parts.ready.validation} & {one.digest for one in parts.ready.pictures}
    first = validation.measure(parts.forward)
    torch.manual_seed(5)
    assert validation.measure(parts.forward) == first
    again = setup.build(ready(*SPLIT, "train.seed=9"))  # not the training's seed, but its own
    assert validation.measure(again.forward) == first
    other = setup.build(ready(*SPLIT, "validation.timesteps=[100, 100]"))
    assert validation.measure(other.forward) != first


def test_it_is_measured_before_meanwhile_and_after(ready):
    found = ready(*SPLIT, "validation.validate_every_n_steps=2", "optimizer.learning_rate=0.01")
    loop.run(found)
    import json

    rows = [json.loads(line) for line in found.folder.metrics.read_text().splitlines()]
    losses = {row["step"]: row["val_loss"] for row in rows if "val_loss" in row}
    assert [*losses] == [0, 2, 3]
    assert len(set(losses.values())) == 3


def test_the_running_mean_is_what_is_measured_and_saved(ready):
    import waveft_core

    found = ready("train.ema_decay=0.9", "optimizer.learning_rate=0.01")
    parts = setup.build(found)
    outcome, seen = Outcome(), []
    with RunLog(parts, 0) as notes:
        for_each = parts.ema.step
        parts.ema.step = lambda parameters: (
            for_each(parameters),
            seen.append([p.detach().clone() for p in parameters]),
        )
        loop.train(parts, outcome, notes)
        saving.save(parts, outcome)
    # decays of diffusers' warm-up: min((1 + k) / (10 + k), 0.9) for the k-th step from 0, the first taking all
    mean = [torch.zeros_like(value) for value in seen[0]]
    for number, values in enumerate(seen):
        decay = min((1 + number) / (10 + number), 0.9) if number else 0.0
        mean = [decay * old + (1 - decay) * new for old, new in zip(mean, values, strict=True)]
    saved = waveft_core.load(found.folder.adapter)
    for name, value in zip(parts.tuning.layers, parts.ema.shadow_params, strict=True):
        assert torch.equal(saved.layers[name].values, value)
    assert not all(torch.equal(a, b) for a, b in zip(parts.ema.shadow_params, seen[-1], strict=True))


def test_another_run_is_not_gone_on_with(ready):
    parts = setup.build(ready())
    saved = resume.collect(parts, 1)
    cpu = torch.device("cpu")
    assert resume.agree(ready(), saved, cpu) == []
    assert resume.agree(ready("save.output_name=other", "sample.sample_steps=3"), saved, cpu) == []
    for override, words in (
        ("train.seed=7", r"\[train\] seed: expected 42"),
        ("network.scaling=3.0", r"\[network\] scaling"),
        (
            "general.caption_prefix=x",
            r"^pictures: expected .* as in the saved run, got other captions of 5 \(00\.png, ",
        ),
        ("general.flip_aug=true", "pictures seen"),
    ):
        with pytest.raises(UserError, match=words):
            resume.agree(ready(override), saved, cpu)
    [notice] = resume.agree(ready("train.max_train_steps=9"), saved, cpu)
    assert "max_train_steps: 3 in the saved run, 9 now" in notice
    with pytest.raises(UserError, match="expected at least the saved run's 5 steps"):
        resume.agree(ready(), {**saved, "step": 5}, cpu)


def test_other_pictures_are_named(ready, tmp_path):
    saved = resume.collect(setup.build(ready()), 1)
    cpu, folder = torch.device("cpu"), tmp_path / "pictures"

    def told(*overrides, state=saved):
        with pytest.raises(UserError, match="as in the saved run, got ") as caught:
            resume.agree(ready(*overrides), state, cpu)
        [fault] = [text for text in caught.value.problems if text.startswith("pictures: ")]
        return fault.partition("got ")[2].partition(". Set it back")[0]

    assert told("general.resolution=32") == "them in another order or at other sizes ([general] resolution)"
    (folder / "01.txt").write_text("another caption")
    assert told() == "other captions of 1 (01.png)"
    (folder / "00.png").rename(tmp_path / "gone.png")
    Image.new("RGB", (64, 64)).save(folder / "99.png")
    assert told() == "1 more (99.png), 1 fewer, other captions of 1 (01.png)"
    old = {key: value for key, value in saved.items() if key != "pictures"}
    assert told(state=old) == "others"
