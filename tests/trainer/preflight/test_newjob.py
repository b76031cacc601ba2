import json

import pytest
from PIL import Image

from tests import processes
from trainer.base import modelcheck
from trainer.job import config, schema
from trainer.preflight import newjob, newjobtext, preflight
from trainer.system.errors import UserError


@pytest.fixture
def write(light_base, tmp_path):
    """The function that writes a job for the folder of pictures and returns its text and the checked job."""

    def run(name="dog", output="job.toml", **how):
        path = newjob.write(tmp_path / name, str(light_base), tmp_path / output, **how)
        return path.read_text(encoding="utf-8"), preflight.check(config.load(path))

    return run


def test_pictures_without_captions_are_dreambooths(write, tmp_path, pictures_in):
    pictures_in(tmp_path / "dog", 3)
    text, ready = write(trigger="sks pug")
    assert text.startswith("# python -m waveft train job.toml\n#\n# 3 pictures in dog, 24 x 18 px, none with a caption")
    assert {one.caption.plain() for one in ready.pictures} == {"sks pug"}
    assert ready.job.save.output_name == "dog"
    assert ready.job.metadata.trigger_phrase == "sks pug"
    assert 'image_dir = "dog"' in text, "near paths are relative to the job"
    assert ready.resolution == (16, 16)
    assert all(line.count("#") <= 1 for line in text.splitlines())


def test_the_trigger_is_the_folders_name_unless_given(write, tmp_path, pictures_in):
    pictures_in(tmp_path / "10_my dog", 1)
    _, ready = write("10_my dog")
    assert ready.job.metadata.trigger_phrase == "sks my dog"
    assert ready.job.save.output_name == "my dog"


def test_captions_are_found_and_what_they_lack_is_said(write, tmp_path, pictures_in):
    pictures_in(tmp_path / "dog", 3)
    for number in range(2):
        (tmp_path / "dog" / f"{number:02d}.caption").write_text("a dog on grass")
    text, ready = write()
    assert sorted(one.caption.plain() for one in ready.pictures) == ["a dog on grass", "a dog on grass", "sks dog"]
    assert 'caption_extension = ".caption"' in text
    assert '# caption_prefix = "{trigger},"' in text
    assert "2 with a caption file" in text


def test_captions_that_ask_for_the_trigger_need_no_prefix(write, tmp_path, pictures_in):
    pictures_in(tmp_path / "dog", 1)
    (tmp_path / "dog" / "00.txt").write_text("a {trigger} on grass")
    text, ready = write()
    assert "caption_prefix" not in text
    assert "class_tokens" not in text
    assert ready.pictures[0].caption.plain() == "a sks dog on grass"


def test_concept_folders_keep_their_repeats(write, tmp_path, pictures_in):
    pictures_in(tmp_path / "dog" / "10_sks pug", 2)
    pictures_in(tmp_path / "dog" / "3_sks cat", 1, (30, 30))
    text, ready = write()
    assert "#   10_sks pug: 10 views each an epoch" in text
    assert ready.epoch_length == 23
    assert {one.caption.plain() for one in ready.pictures} == {"sks pug", "sks cat"}


def test_masks_beside_the_pictures_are_used(write, tmp_path, pictures_in):
    pictures_in(tmp_path / "dog", 2)
    (tmp_path / "masks").mkdir()
    for number in range(2):
        Image.new("L", (24, 18), 255).save(tmp_path / "masks" / f"{number:02d}.png")
    _, ready = write()
    assert ready.job.loss.masked_loss
    assert {one.mask.parent.name for one in ready.pictures} == {"masks"}


def test_transparency_and_many_pictures_are_noticed(write, tmp_path, pictures_in):
    pictures_in(tmp_path / "dog", 25)
    Image.new("RGBA", (24, 18)).save(tmp_path / "dog" / "see-through.png")
    text, ready = write()
    assert "alpha_mask = true" in text
    assert len(ready.validation) == 3
    assert len(ready.pictures) == 23


def test_a_small_base_gets_fewer_coefficients(write, tmp_path, pictures_in, light_base):
    pictures_in(tmp_path / "dog", 1)
    name = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    header = json.dumps({name: {"dtype": "F32", "shape": [8, 16], "data_offsets": [0, 512]}}).encode()
    (light_base / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(
        len(header).to_bytes(8, "little") + header + bytes(512)
    )
    assert write()[1].job.network.coefficients == 2 * (8 + 16)


def test_strange_names_are_quoted(write, tmp_path, pictures_in):
    pictures_in(tmp_path / 'a "dog" #1', 1)
    _, ready = write('a "dog" #1', trigger='the "dog" \\ #1')
    assert ready.job.metadata.trigger_phrase == 'the "dog" \\ #1'
    assert ready.job.save.output_name == "a _dog_ _1"


def test_a_job_that_is_there_is_not_overwritten(write, tmp_path, pictures_in):
    pictures_in(tmp_path / "dog", 1)
    (tmp_path / "job.toml").write_text("mine")
    with pytest.raises(UserError, match=r"exists. Name another with --output, such as .*dog.toml, or remove it."):
        write()
    assert (tmp_path / "job.toml").read_text() == "mine"


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda dog: None, "expected a folder, got nothing there"),
        (lambda dog: dog.mkdir(), "no images in it. Put in"),
        (
            lambda dog: (dog / "a" / "b").mkdir(parents=True) or Image.new("L", (9, 9)).save(dog / "a" / "x.png"),
            'in "a"',
        ),
        (lambda dog: dog.mkdir() or (dog / "x.png").write_bytes(b"x"), "cannot be read"),
    ],
)
def test_nothing_is_written_for_what_cannot_be_trained(write, tmp_path, prepare, words):
    prepare(tmp_path / "dog")
    with pytest.raises(UserError) as raised:
        write()
    assert words in "\n".join(raised.value.problems)
    assert not (tmp_path / "job.toml").exists()


def test_faults_of_base_and_pictures_come_together(tmp_path):
    with pytest.raises(UserError) as raised:
        newjob.write(tmp_path / "dog", str(tmp_path / "base"), tmp_path / "job.toml")
    assert [text.split(":")[0].split()[0] for text in raised.value.problems] == ["--model", "--images"]
    assert all(text.endswith("start from the folder that you are in.") for text in raised.value.problems)
    assert not any("job file" in text for text in raised.value.problems)


@pytest.mark.parametrize("name", ["models/sdxl.safetensors", "models/sdxl.ckpt"])
def test_a_file_that_is_not_there_is_no_hub_id(tmp_path, pictures_in, name):
    pictures_in(tmp_path / "dog", 1)
    with pytest.raises(UserError, match="--model: nothing at"):
        newjob.write(tmp_path / "dog", name, tmp_path / "job.toml")


def test_a_hub_id_is_allowed_to_be_fetched(tmp_path, pictures_in):
    pictures_in(tmp_path / "dog", 1)
    path = newjob.write(tmp_path / "dog", "someone/sdxl", tmp_path / "job.toml")
    model = config.load(path).model
    assert (model.pretrained_model_name_or_path, model.allow_download) == ("someone/sdxl", True)


VOCABULARY = "[model] tokenizer: expected CLIP's vocabulary"


def test_a_missing_vocabulary_is_no_dead_end(tmp_path, pictures_in, monkeypatch, light_base, capsys):
    """The job is written with the key that fetches it as a comment; nothing but taking the # away is left to do."""
    pictures_in(tmp_path / "dog", 2)
    checked = modelcheck.check

    def check(model):
        facts, problems = checked(model)
        return facts, problems + ([] if model.allow_download else [VOCABULARY])

    monkeypatch.setattr(modelcheck, "check", check)
    monkeypatch.chdir(tmp_path)
    assert newjob.main(["--images", str(tmp_path / "dog"), "--model", str(light_base), "--output", "made.toml"]) == 0
    said = capsys.readouterr().out
    assert "Take the # away before" in said
    assert "-m pip install --no-deps open_clip_torch" in said
    text = (tmp_path / "made.toml").read_text()
    assert "\n# allow_download = true" in text
    (tmp_path / "made.toml").write_text(text.replace("\n# allow_download", "\nallow_download"))
    assert preflight.check(config.load(tmp_path / "made.toml")).job.model.allow_download


def test_other_faults_of_the_base_are_refused_as_before(tmp_path, pictures_in, light_base):
    pictures_in(tmp_path / "dog", 2)
    (light_base / "model_index.json").unlink()
    with pytest.raises(UserError, match=r"has no model_index\.json"):
        newjob.write(tmp_path / "dog", str(light_base), tmp_path / "made.toml")
    assert not (tmp_path / "made.toml").exists()


@pytest.mark.parametrize(("count", "held"), [(3, 0), (4, 1), (6, 1), (19, 2), (25, 3)])
def test_pictures_are_kept_for_validation_from_four_on(write, tmp_path, pictures_in, count, held):
    pictures_in(tmp_path / "dog", count)
    text, ready = write()
    assert ("validation_split" in text) is (held > 0)
    assert len(ready.validation) == held


def test_a_second_job_gets_a_name_and_an_output_name_of_its_own(tmp_path, pictures_in, light_base, monkeypatch):
    pictures_in(tmp_path / "dog", 1)
    monkeypatch.chdir(tmp_path)
    made = [newjob.write(tmp_path / "dog", str(light_base)) for _ in range(3)]
    assert [path.name for path in made] == ["job.toml", "dog.toml", "dog-2.toml"]
    assert [config.load(path).save.output_name for path in made] == ["dog", "dog-2", "dog-3"]
    for path in made:
        path.unlink()
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "dog.safetensors").touch()  # of an earlier run whose job is gone
    assert config.load(newjob.write(tmp_path / "dog", str(light_base))).save.output_name == "dog-2"


def test_far_paths_are_written_in_full(tmp_path):
    job = tmp_path / "a" / "b" / "c"
    assert newjobtext.place(str(tmp_path / "dog"), job) == f'"{(tmp_path / "dog").as_posix()}"'
    assert newjobtext.place(str(tmp_path / "a" / "dog"), job) == '"../../dog"'


def test_the_command_line(in_process, light_base, tmp_path, pictures_in):
    pictures_in(tmp_path / "dog", 2)
    done = in_process("-m", "trainer", "init", "--images", "dog", "--model", light_base.name, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "wrote job.toml\nWhat it would do: python -m waveft train job.toml --dry-run\n"
    schema.Job.model_validate(__import__("tomllib").loads((tmp_path / "job.toml").read_text()))
    refused = ("-m", "trainer", "init", "--images", "dog", "--model", "none", "--output", "b.toml")
    done = processes.run(*refused, cwd=tmp_path)
    assert done.returncode == 2
    assert "--model" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dog", "job.toml", light_base.name]
