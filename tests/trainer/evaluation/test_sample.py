import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import waveft_core
from trainer.cli import main
from trainer.evaluation import sample, strengths
from trainer.samples import grid
from trainer.samples.prompts import Shot
from trainer.samples.sampling import Drawn
from trainer.system.errors import UserError

# of diffusers' schedulers
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture
def finished_run(job, write_job, tmp_path, base_folder):
    """A job, and an adapter in the place of the run's that changes much of the tiny base's UNet."""
    from diffusers import UNet2DConditionModel

    job["sample"] = {"sample_steps": 1, "guidance_scale": 1.0, "prompts": ["a {trigger}"]}
    job["metadata"] = {"trigger_phrase": "sks dog"}
    path = write_job(job)
    unet = UNet2DConditionModel.from_pretrained(base_folder / "unet")
    tuning = waveft_core.attach({"unet": unet}, waveft_core.Spec(coefficients=64))
    with torch.no_grad():
        for number, values in enumerate(tuning.parameters()):
            values.copy_(torch.randn(values.shape, generator=torch.Generator().manual_seed(number)))
    adapter = tuning.adapter()
    tuning.detach()
    (tmp_path / "out").mkdir()
    waveft_core.save(adapter, tmp_path / "out" / "waveft.safetensors")
    return path


def test_strengths_are_columns_and_the_first_one_is_the_base(finished_run, tmp_path, monkeypatch, capsys):
    drawn = {}
    across = grid.across
    monkeypatch.setattr(grid, "across", lambda columns: drawn.update(columns) or across(columns))
    assert main(["sample", str(finished_run), "--strengths", "0,0.5,1,0", "--seeds", "2"]) == 0
    assert str(tmp_path / "out" / "waveft-strengths.png") in capsys.readouterr().out
    with Image.open(tmp_path / "out" / "waveft-strengths.png") as sheet:
        assert sheet.width > 3 * grid.LEAST_CELL
    base, half, whole = (np.asarray(drawn[f"strength {at}"][1].image) for at in ("0", "0.5", "1"))
    assert (base != half).any() and (half != whole).any()
    assert [one.shot.prompt for one in drawn["strength 1"]] == ["a sks dog"] * 2
    assert [one.shot.seed for one in drawn["strength 1"]] == [42, 43]


def test_prompts_of_the_command_line_take_the_place_of_the_jobs(finished_run, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(strengths, "draw", lambda request: asked.append(request) or request.out)
    line = ["sample", str(finished_run), "--prompt", "a {trigger} asleep", "--prompt", "a cat", "--out", "my.png"]
    assert main([*line, "--set", "train.seed=5"]) == 0
    (request,) = asked
    assert [(shot.prompt, shot.seed) for shot in request.shots] == [("a sks dog asleep", 5), ("a cat", 5)]
    assert request.strengths == (0.0, 0.5, 1.0)
    assert request.out.name == "my.png"


def test_a_picture_that_is_there_is_kept_unless_it_may_be_replaced(finished_run, tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(strengths, "draw", lambda request: asked.append(request) or request.out)
    monkeypatch.setattr(sample.modelcheck, "check", lambda model: asked.append(model))  # nothing is looked at before
    own, other = tmp_path / "out" / "waveft-strengths.png", tmp_path / "a.png"
    for path, line in ((own, []), (other, ["--out", str(other)])):
        path.write_bytes(b"an earlier one")
        assert main(["sample", str(finished_run), *line]) == 2
        said = (
            f'out "{path}": expected a new name, got one that exists. Choose another with --out, or give --overwrite.'
        )
        assert said in capsys.readouterr().err
        assert path.read_bytes() == b"an earlier one"
    assert main(["sample", str(finished_run), "--out", str(tmp_path), "--overwrite"]) == 2
    assert "expected a file, got something else" in capsys.readouterr().err
    assert not asked
    monkeypatch.undo()
    monkeypatch.setattr(strengths, "draw", lambda request: asked.append(request) or request.out)
    assert main(["sample", str(finished_run), "--overwrite"]) == 0
    assert [request.out for request in asked] == [own]


def test_the_page_names_every_option_of_sample():
    page = (Path(__file__).parents[3] / "docs" / "commands.md").read_text(encoding="utf-8")
    section = page.partition("\n## sample\n")[2].partition("\n## ")[0]
    known = {word for action in sample.parser()._actions for word in action.option_strings} - {"-h", "--help"}
    assert known == set(re.findall(r"--[a-z]+", section))
    told = section.rpartition("\n\n")[2]
    assert all(word in told for word in ("--name", "--out", "--overwrite"))


def test_a_run_that_is_not_finished_is_drawn_with_its_newest_checkpoint(tmp_path):
    folder = sample.RunFolder(tmp_path, "dog")
    with pytest.raises(UserError, match=r"got no adapter there\. Train it first"):
        sample.finished(folder, None)
    for step in (10, 20):
        folder.checkpoint(step).touch()
    assert sample.finished(folder, None) == folder.checkpoint(20)
    folder.adapter.touch()
    assert sample.finished(folder, None) == folder.adapter
    assert sample.finished(folder, folder.checkpoint(10)) == folder.checkpoint(10)
    with pytest.raises(UserError, match="--adapter"):
        sample.finished(folder, tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    ("line", "said"),
    [(["--seeds", "0"], "--seeds: expected 1"), (["--set", "sample.prompts=[]"], "--prompt: expected what to draw")],
)
def test_what_cannot_be_drawn_is_refused(finished_run, capsys, line, said):
    assert main(["sample", str(finished_run), *line]) == 2
    assert f"Nothing can be drawn, 1 fault:\n  {said}" in capsys.readouterr().err


def test_a_sheet_has_a_row_a_seed_and_a_column_a_label():
    def drawn(colour):
        shots = [Shot(prompt, "", seed, 64, 64, 1, 1.0, "euler") for prompt in ("a", "b") for seed in (1, 2)]
        return [Drawn(shot, Image.new("RGB", (64, 64), colour)) for shot in shots]

    sheet = np.asarray(grid.across({"0": drawn("red"), "1": drawn("blue")}))
    row = sheet[grid.LINE * 2 + grid.GAP * 2 + 20]
    assert (row == (255, 0, 0)).all(axis=1).sum() == (row == (0, 0, 255)).all(axis=1).sum() == grid.LEAST_CELL
    column = sheet[:, grid.LABEL_WIDTH + 5]
    assert (column == (255, 0, 0)).all(axis=1).sum() == 4 * grid.LEAST_CELL
