import json
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import waveft_core
from trainer.job import schema
from trainer.methods.coefficients import AdapterProduct
from trainer.pictures import buckets, captions
from trainer.result import metadata

SDXL = {
    "block_out_channels": (320, 640, 1280),
    "transformer_layers_per_block": [1, 2, 10],
    "cross_attention_dim": 2048,
    "layers_per_block": 2,
}


def picture(path, caption, size=(30, 20), **keys):
    bucket = (24, 16) if size[0] > size[1] else (16, 16)
    said = captions.Caption((caption,), captions.Rules())
    seen = {"caption": said, "geometry": buckets.fit(size, bucket), "repeats": 1, "is_reg": False}
    return SimpleNamespace(path=Path(path), **{**seen, **keys})


@pytest.fixture
def make_ready(tmp_path):
    def make(**sections):
        base = str(tmp_path / "secret" / "light-sdxl")
        table = {
            "model": {"pretrained_model_name_or_path": base, "vae": f"{base}/vae"},
            "optimizer": {"optimizer_args": {"eps": 1e-9}},
            "sample": {"prompts": ["one", {"prompt": "two", "seed": 1}], "sample_prompts": str(tmp_path / "p.txt")},
            "metadata": {"trigger_phrase": 'a "b" \\ ä\n\t', "metadata_author": "x"},
            "datasets": [{"subsets": [{"image_dir": str(tmp_path / "secret" / "10_my dog"), "class_tokens": "dog"}]}],
            **sections,
        }
        folder = tmp_path / "secret"
        return SimpleNamespace(
            job=schema.Job.model_validate(table),
            pictures=(
                picture(folder / "10_my dog" / "a.png", "Dog, red, dog", repeats=10),
                picture(folder / "10_my dog" / "b.png", "dog", (20, 20), repeats=10),
                picture(folder / "reg" / "c.png", "cat", (20, 20), is_reg=True),
            ),
            validation=(1,),
            resolution=(16, 24),
            steps=500,
            pictures_per_step=4,
            epoch_length=40,
            batch_size=lambda number: 2,
        )

    return make


@pytest.fixture
def ready(make_ready):
    return make_ready()


def base(prediction="epsilon", zero=False, **config):
    return SimpleNamespace(prediction=prediction, zero_terminal_snr=zero, unet=SimpleNamespace(config=config))


def adapter(*counts):
    layers = {}
    for number, count in enumerate(counts or (2,)):
        indices = torch.arange(count, dtype=torch.int32)
        layers[f"lora_unet_{number}"] = waveft_core.Layer(torch.ones(count), indices, (4, 4))
    return AdapterProduct(waveft_core.Adapter(layers, "db1", "periodization", 25.0, "uniform:777"))


def collect(ready, steps=11, on=None, of=None):
    return metadata.collect(of or adapter(), ready, steps, "no", on or base(**SDXL), "ab" * 32)


def test_nothing_private_is_in_it(ready, tmp_path):
    text = "\n".join(collect(ready).values())
    assert str(tmp_path) not in text
    assert tmp_path.name not in text
    assert "secret" not in text
    assert "light-sdxl" in text


def test_the_job_in_it_is_a_job(ready):
    table = tomllib.loads(collect(ready)["waveft.job"])
    job = schema.Job.model_validate(table)
    assert job.general.resolution == (16, 24)
    assert job.metadata.trigger_phrase == ready.job.metadata.trigger_phrase
    assert job.optimizer.optimizer_args == {"eps": 1e-9}
    assert [prompt.prompt for prompt in job.sample.prompts] == ["one", "two"]
    assert (job.model.vae, job.sample.sample_prompts) == ("vae", "p.txt")


def test_a_hub_id_is_no_path(make_ready):
    ready = make_ready(model={"pretrained_model_name_or_path": "someone/sdxl", "allow_download": True})
    assert collect(ready)["ss_sd_model_name"] == "someone/sdxl"


def test_what_other_tools_look_for(ready):
    made = collect(ready)
    assert made["modelspec.architecture"] == "stable-diffusion-xl-v1-base/waveft"
    assert made["modelspec.usage_hint"].startswith("ComfyUI: the node Load WaveFT")
    assert made["modelspec.resolution"] == "16x24"
    assert made["modelspec.title"] == made["ss_output_name"] == "waveft"
    assert (made["modelspec.author"], made["modelspec.prediction_type"]) == ("x", "epsilon")
    assert made["modelspec.trigger_phrase"] == ready.job.metadata.trigger_phrase
    assert "modelspec.license" not in made
    assert "modelspec.timestep_range" not in made
    assert (made["ss_base_model_version"], made["ss_v2"]) == ("sdxl_base_v1-0", "False")
    assert (made["ss_steps"], made["ss_max_train_steps"], made["ss_learning_rate"]) == ("11", "500", "0.0001")
    assert (made["ss_epoch"], made["ss_num_epochs"]) == ("2", "50")  # 44 pictures seen of 40 an epoch; 2000
    assert (made["ss_num_train_images"], made["ss_num_reg_images"], made["ss_num_validation_images"]) == (
        "20",
        "1",
        "1",
    )
    assert (made["ss_total_batch_size"], made["ss_batch_size_per_device"]) == ("4", "2")
    assert (made["ss_optimizer"], made["ss_loss_type"], made["ss_prior_loss_weight"]) == (
        "AdamW(eps=1e-09)",
        "l2",
        "1.0",
    )
    assert (made["ss_noise_offset"], made["ss_zero_terminal_snr"]) == ("0.0", "False")
    assert made["sshs_model_hash"] == "ab" * 32
    assert made["sshs_legacy_hash"] == "abababab"
    assert all(isinstance(value, str) for value in made.values())


def test_neither_time_nor_session_is_told(ready):
    made = collect(ready)
    assert made == collect(ready)
    assert not [
        key for key in made if "time" in key or "session" in key or "started" in key or "date" in key.split(".")
    ]


def test_velocity_and_limited_timesteps(make_ready):
    ready = make_ready(loss={"min_timestep": 10, "max_timestep": 900})
    made = collect(ready, on=base("v_prediction", True, **SDXL))
    assert (made["modelspec.prediction_type"], made["ss_zero_terminal_snr"]) == ("v", "True")
    assert made["modelspec.timestep_range"] == "10,900"


def test_a_base_of_another_size_is_called_by_its_name(ready):
    for config in ({**SDXL, "cross_attention_dim": 128}, {}):
        made = collect(ready, on=base(**config))
        assert made["modelspec.architecture"] == "light-sdxl/waveft"
        assert made["modelspec.usage_hint"] == "light-sdxl alone, which no UI loads: from Python"
        assert made["ss_base_model_version"] == "light-sdxl"


def test_the_network_is_what_the_file_holds(ready):
    found = json.loads(collect(ready)["ss_network_args"])
    assert found == {
        "wavelet": "db1", "mode": "periodization", "scaling": "25", "locations": "uniform:777", "layers": "1",
        "coefficients": "2", "coefficients_in_all": "2",
    }  # fmt: skip
    assert json.loads(collect(ready, of=adapter(2, 5))["ss_network_args"])["coefficients"] == "2 to 5"


def test_the_pictures_as_kohya_counts_them(ready):
    made = collect(ready)
    assert json.loads(made["ss_dataset_dirs"]) == {"10_my dog": {"n_repeats": 10, "img_count": 2}}
    assert json.loads(made["ss_reg_dataset_dirs"]) == {"reg": {"n_repeats": 1, "img_count": 1}}
    assert json.loads(made["ss_tag_frequency"]) == {"10_my dog": {"dog": 3, "red": 1}, "reg": {"cat": 1}}
    assert json.loads(made["ss_bucket_info"]) == {
        "buckets": {"0": {"resolution": [16, 16], "count": 11}, "1": {"resolution": [24, 16], "count": 10}},
        "mean_img_ar_error": 0.0,
    }


def test_the_pictures_can_be_kept_out(make_ready):
    ready = make_ready(metadata={"include_dataset_info": False})
    made = collect(ready)
    assert "my dog" not in "\n".join(made.values())
    assert not {"ss_dataset_dirs", "ss_tag_frequency", "ss_bucket_info"} & set(made)
    job = schema.Job.model_validate(tomllib.loads(made["waveft.job"]))
    assert job.datasets[0].subsets[0].image_dir == "image_dir_1"


def test_everything_can_be_kept_out(make_ready):
    assert collect(make_ready(metadata={"no_metadata": True, "metadata_author": "x"})) == {}


def test_keys_of_views_are_told_where_all_subsets_agree(make_ready):
    subsets = [{"image_dir": "a", "flip_aug": True, "keep_tokens": 2}, {"image_dir": "b", "keep_tokens": 2}]
    made = collect(make_ready(datasets=[{"subsets": subsets}]))
    assert made["ss_keep_tokens"] == "2"
    assert "ss_flip_aug" not in made


def test_the_rate_of_text_encoders_is_told_where_they_train(make_ready):
    assert "ss_text_encoder_lr" not in collect(make_ready())
    ready = make_ready(network={"train_text_encoder": True}, optimizer={"text_encoder_lr": 5e-5})
    assert collect(ready)["ss_text_encoder_lr"] == "5e-05"


def test_the_tensors_hash_ignores_the_header(tmp_path):
    for name, header in (("a", b"{}"), ("b", b'{"__metadata__":{"x":"y"}}')):
        (tmp_path / name).write_bytes(len(header).to_bytes(8, "little") + header + b"data")
    assert metadata.hash_tensors(tmp_path / "a") == metadata.hash_tensors(tmp_path / "b")
