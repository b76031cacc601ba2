import re
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from trainer.base import cache
from trainer.job import schema
from trainer.preflight import dryrun, preflight


@pytest.fixture
def ready(light_job, tmp_path, pictures_in):
    pictures_in(tmp_path / "wide", 2, (60, 20))
    light_job["datasets"][0]["subsets"].append(
        {"image_dir": str(tmp_path / "wide"), "class_tokens": "a b", "num_repeats": 3}
    )
    light_job["general"] = {"resolution": 32, "flip_aug": True}

    def make(**sections):
        table = {**light_job, **{name: {**light_job.get(name, {}), **keys} for name, keys in sections.items()}}
        return preflight.check(schema.Job.model_validate(table))

    return make


def test_the_job_is_printed_with_its_defaults_marked(ready):
    text = dryrun.text(ready(), verbose=True)
    job = text[text.index("\n\nconfig_version") if "\n\nconfig_version" in text else text.index("\n\n[model]") :]
    job = job.rpartition("\n\nNothing was written")[0]
    assert tomllib.loads(job)["train"]["max_train_steps"] == 3
    assert "max_train_steps = 3\n" in job
    assert "seed = 42  # default" in job
    assert "resolution = 32\n" in job
    assert "batch_size = 1  # default" in job


def test_the_bases_own_resolution_is_a_default(light_job):
    text = dryrun.text(preflight.check(schema.Job.model_validate(light_job)), verbose=True)
    assert "resolution = 16  # default" in text


def test_buckets_with_what_an_epoch_sees_and_what_is_lost(ready):
    made = ready()
    rows = [re.split(r"\s{2,}", row.strip()) for row in dryrun.bucket_table(made)]
    assert rows[0] == ["bucket, px", "pictures", "views an epoch", "cropped at most", "enlarged at most"]
    assert sum(int(row[1]) for row in rows[1:]) == 5
    assert sum(int(row[2]) for row in rows[1:]) == made.epoch_length == 3 + 2 * 3
    geometry = made.pictures[-1].geometry
    wide = next(row for row in rows if row[0] == f"{geometry.bucket[0]} x {geometry.bucket[1]}")
    assert wide[3] == f"{geometry.cropped_away:.0%}"


def test_class_pictures_take_turns(ready, light_job, tmp_path, pictures_in):
    pictures_in(tmp_path / "class", 4, (33, 33))
    light_job["datasets"][0]["subsets"].append(
        {"image_dir": str(tmp_path / "class"), "is_reg": True, "class_tokens": "x"}
    )
    made = ready()
    counts = dryrun.views_an_epoch(made)
    assert counts[:5] == [1, 1, 1, 3, 3]
    assert counts[5:] == [2, 2, 2, 2]  # 9 of 4, rounded
    assert "5 to learn, 4 regularisation; 18 views an epoch" in "\n".join(dryrun.describe(made))


def test_steps_and_views(ready):
    text = "\n".join(dryrun.describe(ready(train={"max_train_steps": 9})))
    assert "steps       9, each of 2 pictures (1 at a time): 18 in all, 2.0 epochs" in text


def test_the_first_captions_are_those_that_are_trained(ready, monkeypatch):
    made = ready(general={"resolution": 32, "caption_dropout_rate": 0.5}, train={"max_train_steps": 40})
    found = dryrun.first_captions(made)
    assert len(found) == 5
    seed, expected = made.job.train.seed, []
    for number in range(5):  # one picture at a time, two for a step
        (seen,) = made.plan.batch(number)
        caption = made.pictures[seen.picture].caption
        expected.append(caption.draw(seed, number // 2, number % 2, seen.epoch, 40))
    assert found == expected
    assert set(found) <= {"", "sks robot", "a b"}


def test_what_the_cache_holds_is_counted(ready, tmp_path):
    made = ready(cache={"cache_latents_to_disk": True})
    assert "latents 10, of which 0 on the disk and 10 to encode" in dryrun.cache_lines(made)
    name = cache.latents_key(made.pictures[0], True, made.facts.vae_identity, "float32", False)
    path = made.cache_folder / "latents" / name[:2] / f"{name}.safetensors"
    path.parent.mkdir(parents=True)
    path.touch()
    assert "latents 10, of which 1 on the disk and 9 to encode" in dryrun.cache_lines(made)
    assert "texts 2 to encode, in memory" in dryrun.cache_lines(made)
    assert not list(dryrun.cache_lines(ready(cache={"cache_latents": False, "cache_text_encoder_outputs": False})))


def test_a_base_that_tells_nothing_is_no_fault(ready):
    text = dryrun.text(ready())  # the light base's files are empty
    assert "not known before the base is loaded" in text
    assert "Nothing was written, and no weight was read." in text.splitlines()[-1]


def test_the_nano_base_is_counted(ready):
    folder = Path(__file__).parents[3] / "models" / "nano-sdxl"
    made = ready(
        model={"pretrained_model_name_or_path": str(folder)}, network={"coefficients": 512}, train={"device": "cpu"}
    )
    lines = dryrun.sizes(made)
    assert lines[0].endswith(" layers of 512 coefficients: 45,056 in all")
    assert "adapter 0.4 MB, state 0.5 MB, at the end" in lines[1]
    costs = "\n".join(dryrun.costs(made))
    assert "on the CPU (an estimate)" in costs
    assert "4 bytes each" not in costs
    assert "4 bytes each" in "\n".join(dryrun.costs(made, verbose=True))
    assert re.search(r"about 0\.[4-9] GB", costs), "a small base needs no two gigabytes of libraries"
    assert not re.search(r"\b0:00\b", costs), "and no run takes no time"


def test_many_notices_are_cut_short_but_for_a_dry_run(ready):
    made = ready()
    made = replace(made, notices=tuple(f"n{number}" for number in range(12)))
    assert "notice      and 7 more" in dryrun.describe(made)
    assert "notice      n11" not in dryrun.text(made)
    assert "notice      n11" in dryrun.text(made, verbose=True)
    assert len(dryrun.text(made).splitlines()) <= 25
    assert dryrun.text(made).startswith("base ")


def test_class_pictures_that_will_be_drawn_are_counted(ready, light_job, tmp_path, pictures_in):
    pictures_in(tmp_path / "class", 2)
    light_job["datasets"][0]["subsets"].append(
        {"image_dir": str(tmp_path / "class"), "is_reg": True, "class_tokens": "a dog", "num_class_images": 9}
    )
    made = preflight.check(schema.Job.model_validate(light_job))
    assert "draws       7 class pictures of 'a dog' into class first" in dryrun.text(made)
