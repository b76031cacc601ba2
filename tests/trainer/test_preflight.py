import pytest

from trainer import preflight, schema
from trainer.errors import UserError


def check(table):
    return preflight.check(schema.Job.model_validate(table))


def faults(table):
    with pytest.raises(UserError) as raised:
        check(table)
    return raised.value.problems


def test_a_good_job_takes_its_resolution_from_the_base(light_job):
    ready = check(light_job)
    assert ready.resolution == 16
    assert ready.global_batch == 2
    assert len(ready.epoch) == 3
    assert ready.adapter_path.name == "waveft.safetensors"


def test_repeats_make_the_epoch_longer(light_job):
    light_job["datasets"][0]["subsets"][0]["num_repeats"] = 4
    assert len(check(light_job).epoch) == 12


def test_sizes_that_the_base_cannot_have(light_job):
    light_job["general"] = {"resolution": 30}
    light_job["sample"] = {"width": 17}
    assert faults(light_job) == [
        "[general] resolution: expected a multiple of 8 px, got 30. Write 32.",
        "[sample] width: expected a multiple of 8 px, got 17. Write 16.",
    ]


def test_a_trigger_without_phrase(light_job):
    light_job["sample"] = {"prompts": [{"prompt": "a {trigger}"}]}
    light_job["datasets"][0]["subsets"][0]["class_tokens"] = "[trigger] dog"
    found = faults(light_job)
    assert any("[sample] prompts 1: asks for the trigger" in fault for fault in found)
    light_job["metadata"] = {"trigger_phrase": "sks"}
    assert check(light_job).pictures[0].caption == "sks dog"


def test_an_adapter_that_is_there_is_not_overwritten(light_job, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "waveft.safetensors").touch()
    assert "exists. Choose another name or set overwrite = true." in faults(light_job)[0]
    light_job["save"]["overwrite"] = True
    assert check(light_job)


def test_output_where_a_file_is(light_job, tmp_path):
    (tmp_path / "out").touch()
    assert "expected a folder, got the file" in faults(light_job)[0]


def test_faults_of_model_pictures_and_output_come_together(light_job, tmp_path):
    (tmp_path / "out").touch()
    light_job["model"]["pretrained_model_name_or_path"] = str(tmp_path / "none")
    (tmp_path / "pictures" / "00.png").write_bytes(b"")
    assert len(faults(light_job)) == 3


def test_notices(light_job, tmp_path, pictures_in):
    pictures_in(tmp_path / "pictures", 1, (40, 8))
    light_job["metadata"] = {"trigger_phrase": "zzz"}
    found = preflight.notices(check(light_job))
    assert any("00.png: 80% is cropped away" in text for text in found)
    assert any("00.png: enlarged 2.0 times" in text for text in found)
    assert any('"zzz" is in no caption' in text for text in found)
