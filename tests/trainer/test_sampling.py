import pytest
import torch
from PIL import Image

from trainer import encode, models, precision, preflight, sampling, schema
from trainer.errors import TrainingStopped

# diffusers' Euler scheduler, with NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

PLACE = precision.Precision(torch.device("cpu"), torch.float32)


@pytest.fixture
def ready(job):
    job["sample"] = {
        "prompts": ["{trigger} a", {"prompt": "b", "negative_prompt": "c", "seed": 7}],
        "sample_steps": 2, "samples_per_prompt": 2, "width": 24,
    }  # fmt: skip
    job["metadata"] = {"trigger_phrase": "sks"}
    return preflight.check(schema.Job.model_validate(job))


@pytest.fixture
def base(base_folder):
    return models.load(schema.Model(pretrained_model_name_or_path=str(base_folder)), torch.float32)


def draw(base, ready):
    texts = encode.encode_texts(base, ["sks a", "b", "c", ""], PLACE.device)
    return sampling.draw(base, ready, texts, PLACE)


def test_prompts_and_seeds_are_filled_in(ready):
    first, second = sampling.filled_prompts(ready.job)
    assert (first.prompt, first.seed) == ("sks a", 42)
    assert (second.prompt, second.negative_prompt, second.seed) == ("b", "c", 7)


def test_samples_come_from_their_seeds_alone(base, ready):
    torch.manual_seed(1)
    first = draw(base, ready)
    state = torch.get_rng_state()
    torch.manual_seed(2)
    second = draw(base, ready)
    assert [(drawn.prompt, drawn.seed) for drawn in first] == [("sks a", 42), ("sks a", 43), ("b", 7), ("b", 8)]
    assert first[0].image.size == (24, 16)
    assert [a.image.tobytes() for a in first] == [b.image.tobytes() for b in second]
    assert len({drawn.image.tobytes() for drawn in first}) == 4
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)  # drawing moved nothing


def test_a_sample_is_the_pipelines_own_picture(base, ready, base_folder):
    from diffusers import StableDiffusionXLPipeline

    pipeline = StableDiffusionXLPipeline.from_pretrained(base_folder, local_files_only=True, add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline(
        "b", negative_prompt="c", width=24, height=16, num_inference_steps=2, guidance_scale=6.0,
        generator=torch.Generator().manual_seed(7),
    ).images[0]  # fmt: skip
    drawn = draw(base, ready)[2].image
    difference = max(abs(a - b) for a, b in zip(image.tobytes(), drawn.tobytes(), strict=True))
    assert difference <= 1


def test_a_picture_that_is_not_finite(base, ready):
    base.vae.decoder.conv_out.weight.data.fill_(float("inf"))
    with pytest.raises(TrainingStopped, match='sample of "sks a": expected a finite picture'):
        draw(base, ready)
    assert next(base.vae.parameters()).device.type == "cpu"


def test_files(tmp_path):
    drawn = [sampling.Drawn("a", 1, Image.new("RGB", (8, 8), "red")), sampling.Drawn("b", 2, Image.new("RGB", (8, 8)))]
    paths = sampling.save_all(drawn, tmp_path / "samples", "dog-after")
    assert [path.name for path in paths] == ["dog-after-01-seed1.png", "dog-after-02-seed2.png"]
    assert Image.open(paths[0]).getpixel((0, 0)) == (255, 0, 0)


def test_large_pictures_are_decoded_in_tiles(base, ready, monkeypatch):
    seen, decode = [], base.vae.decode

    def spied(latents):
        seen.append((base.vae.use_tiling, base.vae.tile_sample_min_size, base.vae.tile_latent_min_size))
        return decode(latents)

    monkeypatch.setattr(base.vae, "decode", spied)
    draw(base, ready)
    assert {tiling for tiling, *_ in seen} == {False}
    before, seen[:] = seen[0], []
    monkeypatch.setattr(sampling, "TILE", 16)  # the pictures are 24 by 16
    assert draw(base, ready)[0].image.size == (24, 16)
    assert set(seen) == {(True, 16, 8)}
    assert (base.vae.use_tiling, base.vae.tile_sample_min_size, base.vae.tile_latent_min_size) == before
