import json
import os

import pytest

from trainer.job import config, schema
from trainer.preflight import preflight
from trainer.system.errors import UserError


def check(table, **how):
    return preflight.check(schema.Job.model_validate(table), **how)


def faults(table, **how):
    with pytest.raises(UserError) as raised:
        check(table, **how)
    return raised.value.problems


def test_a_good_job_takes_its_resolution_from_the_base(light_job):
    ready = check(light_job)
    assert ready.resolution == (16, 16)
    assert ready.multiple == 8
    assert ready.pictures_per_step == 2
    assert ready.epoch_length == 3
    assert ready.steps == 3
    assert ready.folder.adapter.name == "waveft.safetensors"
    assert ready.cache_folder == ready.folder.folder / "cache"


@pytest.mark.parametrize(
    ("general", "dataset", "expected"),
    [
        ({"resolution": 24}, {}, (24, 24)),
        ({"resolution": [24, 32]}, {}, (24, 32)),
        ({"resolution": 24}, {"resolution": 32}, (32, 32)),
    ],
)
def test_the_resolution_is_the_first_datasets(light_job, general, dataset, expected):
    light_job["general"] = general
    light_job["datasets"][0] |= dataset
    assert check(light_job).resolution == expected


def test_repeats_make_the_epoch_longer(light_job):
    light_job["datasets"][0]["subsets"][0]["num_repeats"] = 4
    assert check(light_job).epoch_length == 12


def test_epochs_become_steps(light_job):
    # 3 pictures, 10 epochs, one at a time: 30 batches, of which 4 make a step; the last step is not full of them
    light_job["train"] = {"max_train_epochs": 10, "gradient_accumulation_steps": 4}
    assert check(light_job).steps == 8


def test_batch_sizes_are_each_datasets_own(light_job, tmp_path, pictures_in):
    pictures_in(tmp_path / "more", 4, (30, 30))
    light_job["general"] = {"batch_size": 2}
    light_job["datasets"].append(
        {"batch_size": 1, "subsets": [{"image_dir": str(tmp_path / "more"), "class_tokens": "x"}]}
    )
    ready = check(light_job)
    assert [ready.batch_size(0), ready.batch_size(1)] == [2, 1]
    # 3 pictures in batches of 2 and 4 of 1: 7 in 5.5 batches, so 2 batches a step hold 2.5
    assert ready.pictures_per_step in (2, 3)


def test_processes_share_a_step(light_job, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    ready = check(light_job)
    assert (ready.world_size, ready.batches_per_step, ready.pictures_per_step) == (3, 6, 6)


def test_pictures_that_were_drawn_meanwhile_are_found(light_job, tmp_path, pictures_in):
    ready = check(light_job)
    pictures_in(tmp_path / "pictures", 5, (24, 24))
    assert len(preflight.again(ready).pictures) == 5
    assert len(ready.pictures) == 3


def test_progress_is_told(light_job):
    told = []
    check(light_job, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_an_adapter_that_is_there_is_not_overwritten(light_job, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "waveft.safetensors").touch()
    assert "exists. Choose another name, or set overwrite = true." in faults(light_job)[0].replace(
        "name or", "name, or"
    )
    assert check(light_job, resume=tmp_path / "out" / "waveft-step00000001.state")
    light_job["save"]["overwrite"] = True
    assert check(light_job)


def test_a_state_that_is_there_is_not_thrown_away(light_job, tmp_path):
    (tmp_path / "out").mkdir()
    state = tmp_path / "out" / "waveft-step00000002.state"
    state.touch()
    (found,) = faults(light_job)
    assert "go on with --resume latest" in found
    assert check(light_job, resume=state)


def test_output_where_a_file_is(light_job, tmp_path):
    (tmp_path / "out").touch()
    assert "expected a folder, got the file" in faults(light_job)[0]


def test_a_disk_without_room(light_job, monkeypatch):
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 12_000_000))
    assert "expected 50 MB of room, got 12 MB" in faults(light_job)[0]


def test_faults_of_model_folders_and_output_come_together_before_pictures_are_opened(light_job, tmp_path):
    (tmp_path / "out").touch()
    light_job["model"]["pretrained_model_name_or_path"] = str(tmp_path / "none")
    light_job["datasets"][0]["subsets"].append({"image_dir": str(tmp_path / "pictires")})
    (tmp_path / "pictures" / "00.png").write_bytes(b"")
    found = faults(light_job)
    assert len(found) == 3
    assert any('holds "pictures": write that' in text for text in found)


def test_faults_of_pictures_come_together(light_job, tmp_path):
    (tmp_path / "pictures" / "00.png").write_bytes(b"")
    (tmp_path / "pictures" / "01.png").write_bytes(b"no image")
    found = faults(light_job)
    assert [name in text for name, text in zip(("00.png", "01.png"), found, strict=True)] == [True, True]


def test_faults_of_keys_and_of_what_they_name_come_together(light_job, write_job, tmp_path):
    light_job["train"]["sede"] = 1
    light_job["save"]["output_nam"] = "x"
    light_job["model"]["pretrained_model_name_or_path"] = "nowhere"
    (tmp_path / "out").touch()
    with pytest.raises(UserError) as raised:
        preflight.read(write_job(light_job))
    found = raised.value.problems
    assert any("sede: unknown key" in text for text in found)
    assert any("nothing at" in text and "nowhere" in text for text in found)
    # [save] has a fault: what else it might say is not told yet
    assert not any("got the file" in text for text in found)


def test_a_job_without_faults_is_read(light_job, write_job):
    path = write_job(light_job)
    assert preflight.read(path, ["train.seed=9"]) == config.load(path, ["train.seed=9"])


def test_an_earlier_runs_files_hide_no_other_fault(light_job, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/waveft.safetensors").touch()
    (there,) = faults(light_job)
    assert there.startswith("[save] output_name: ")
    (tmp_path / "pictures/01.png").write_bytes(b"no image")
    first, second = faults(light_job)
    assert first == there
    assert "01.png" in second


def test_the_first_checks_of_a_large_base_read_its_header_alone(light_job, write_job, light_base):
    """A header of SDXL's size, with a hole of 6.5 GB for its numbers."""
    shapes = {f"down_blocks.1.attentions.0.transformer_blocks.{n}.attn1.to_q.weight": [1280, 1280] for n in range(2000)}
    ends, tensors = 0, {}
    for name, shape in shapes.items():
        tensors[name] = {"dtype": "F16", "shape": shape, "data_offsets": [ends, ends + 2 * 1280 * 1280]}
        ends += 2 * 1280 * 1280
    header = json.dumps(tensors).encode()
    with (light_base / "unet" / "diffusion_pytorch_model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + ends)
    facts, problems = preflight.job_faults(preflight.read(write_job(light_job)))
    assert not problems
    assert facts.unet_parameters == 2000 * 1280 * 1280


def test_patterns_that_find_no_layer_are_told_before_the_base_is_loaded(light_job, light_base):
    name = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    header = json.dumps({name: {"dtype": "F32", "shape": [8, 8], "data_offsets": [0, 256]}}).encode()
    (light_base / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(
        len(header).to_bytes(8, "little") + header + bytes(256)
    )
    assert check(light_job)
    light_job["network"] |= {"include": ["attn3"], "coefficients_pattern": {"^mid": 3}}
    found = faults(light_job)
    assert found[0].startswith(
        "[network] include: 'attn3' finds no layer that trains. A path looks like \"down_blocks.1"
    )
    light_job["network"] = {"targets": ["to_x"]}
    assert faults(light_job)[0].startswith("[network] targets: ['to_x'] finds no layer.")
    light_job["network"] = {"exclude": ["attn1"]}
    assert "got none" in faults(light_job)[0]
    light_job["network"] = {}
    light_job["optimizer"] = {"learning_rate_pattern": {"^up": 1e-5}}
    assert faults(light_job)[0].startswith("[optimizer] learning_rate_pattern: '^up' finds no layer")


@pytest.mark.parametrize(
    ("sections", "subset", "notice"),
    [
        ({}, {"random_crop": True}, "random_crop: each view is another"),
        ({}, {"color_aug": True}, "color_aug: each view is another"),
        ({}, {"alpha_mask": True}, "masked_loss is false: they have no effect"),
        ({"loss": {"prior_loss_weight": 0.5}}, {}, "no folder has is_reg = true"),
        ({"save": {"keep_last": 3}}, {}, "keep_last: nothing is saved on the way"),
        ({"save": {"save_every_n_steps": 100}}, {}, "save_every_n_steps: 100 is more than the run's 3 steps"),
        ({"model": {"vae_dtype": "fp16"}}, {}, "SDXL's own VAE gives NaN in fp16"),
        ({"optimizer": {"optimizer_type": "AdamW8bit"}}, {}, "saves memory only"),
    ],
)
def test_notices(light_job, sections, subset, notice, monkeypatch):
    from trainer.job import optimcheck

    monkeypatch.setattr(optimcheck, "check", lambda *_: [])  # whether bitsandbytes is installed
    for name, keys in sections.items():
        light_job[name] = {**light_job.get(name, {}), **keys}
    light_job["datasets"][0]["subsets"][0] |= subset
    assert any(notice in text for text in check(light_job).notices)


def test_a_plain_job_has_no_notice_of_its_keys(light_job, pictures_in, tmp_path):
    pictures_in(tmp_path / "pictures", 3, (64, 64))
    assert check(light_job).notices == ()


def test_a_folder_that_cannot_be_written_to(light_job, tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o500)
    if os.access(folder, os.W_OK):
        pytest.skip("this user may write everywhere")
    light_job["save"]["output_dir"] = str(folder / "out")
    assert "cannot be written to. Name another." in faults(light_job)[0]
