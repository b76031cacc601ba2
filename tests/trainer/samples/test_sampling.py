import copy
import dataclasses
import types

import pytest
import torch
from PIL import Image

from trainer.base import precision
from trainer.base.encode import Text
from trainer.job import values
from trainer.samples import samplers, sampling
from trainer.samples.prompts import Shot
from trainer.system.errors import TrainingStopped

# diffusers' schedulers, with NumPy 2
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning"),
]

PLACE = precision.Precision(torch.device("cpu"), torch.float32)
SHOT = Shot("b", "c", 7, 24, 16, 2, 6.0, "euler_a")


@pytest.fixture(scope="module")
def pipeline(base_folder):
    from diffusers import StableDiffusionXLPipeline

    made = StableDiffusionXLPipeline.from_pretrained(base_folder, local_files_only=True, add_watermarker=False)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture
def base(pipeline):
    return types.SimpleNamespace(
        unet=pipeline.unet,
        vae=pipeline.vae,
        scheduler=pipeline.scheduler,
        dtype=torch.float32,
        prediction="epsilon",
        zero_terminal_snr=False,
    )


@pytest.fixture(scope="module")
def texts(pipeline):
    """Encodings by the pipeline itself, as the oracle has them."""

    class Encodings(dict):
        def __missing__(self, text):
            if not text:  # the base knows an empty prompt as zeros
                return Text(torch.zeros(77, 24), torch.zeros(16), 2)
            with torch.no_grad():
                context, _, pooled, _ = pipeline.encode_prompt(text, do_classifier_free_guidance=False)
            return Text(context[0], pooled[0], 3)

    return Encodings()


def shot(**keys):
    return dataclasses.replace(SHOT, **keys)


def draw(base, texts, *shots):
    return [drawn.image for drawn in sampling.draw(base, shots, texts, PLACE)]


def test_samples_come_from_their_seeds_alone(base, texts):
    shots = [shot(seed=7), shot(seed=8), shot(prompt="a", negative_prompt="")]
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = draw(base, texts, *shots)
    assert torch.equal(torch.get_rng_state(), state)  # drawing moved nothing
    torch.manual_seed(2)
    second = draw(base, texts, *shots[::-1])[::-1]
    assert [image.tobytes() for image in first] == [image.tobytes() for image in second]
    assert len({image.tobytes() for image in first}) == 3
    assert first[0].size == (24, 16)


def test_only_what_is_alike_and_small_is_drawn_together():
    mixed = [shot(seed=0), shot(steps=3), shot(seed=1, prompt="a"), shot(width=32), shot(sampler="ddim"), shot(seed=2)]
    assert sampling.batches(mixed) == [[0, 2, 5], [1], [3], [4]]
    assert sampling.batches([shot(guidance_scale=1.0), shot(height=24)]) == [[0], [1]]
    sizes = {side: [len(one) for one in sampling.batches([shot(width=side, height=side)] * 20)] for side in (64, 512)}
    assert sizes == {64: [16, 4], 512: [4] * 5}
    assert sampling.batches([shot(width=1024, height=1024)] * 2) == [[0], [1]], "SDXL's own size, and larger"
    assert sampling.batches([shot(width=1536, height=1024)] * 2) == [[0], [1]]
    assert sampling.batches([]) == []


@pytest.mark.parametrize("sampler", ["euler_a", "ddpm", "dpmsolver++", "model"])
def test_a_picture_drawn_with_others_is_the_one_drawn_alone(base, texts, sampler):
    shots = [shot(seed=7, sampler=sampler), shot(seed=8, sampler=sampler), shot(prompt="a", sampler=sampler)]
    alone = draw(base, texts, *shots)
    for order in ((0, 1, 2), (2, 0, 1)):
        together = sampling.draw_together(base, [shots[at] for at in order], texts, PLACE)
        assert [one.shot for one in together] == [shots[at] for at in order]
        for at, one in zip(order, together, strict=True):
            pairs = zip(alone[at].tobytes(), one.image.tobytes(), strict=True)
            assert max(abs(a - b) for a, b in pairs) <= 1, "float rounding alone"
    assert alone[0].tobytes() != alone[1].tobytes()


@pytest.mark.parametrize("guidance", [6.0, 1.0])
def test_a_sample_is_the_pipelines_own_picture(base, texts, pipeline, guidance):
    image = pipeline(
        "b", negative_prompt="c", width=24, height=16, num_inference_steps=3, guidance_scale=guidance,
        generator=torch.Generator().manual_seed(7),
    ).images[0]  # fmt: skip
    [drawn] = draw(base, texts, shot(steps=3, guidance_scale=guidance, sampler="model"))
    assert max(abs(a - b) for a, b in zip(image.tobytes(), drawn.tobytes(), strict=True)) <= 1
    [other] = draw(base, texts, shot(steps=3, guidance_scale=guidance, sampler="euler_a"))
    assert other.tobytes() != drawn.tobytes()


@pytest.mark.parametrize("velocity", [False, True])
@pytest.mark.parametrize("name", values.SAMPLERS)
def test_every_sampler_draws_on_every_schedule(base, texts, name, velocity, monkeypatch):
    if name == "lms":
        pytest.importorskip("scipy")
    if velocity:
        base.prediction, base.zero_terminal_snr = "v_prediction", True
    made = samplers.make(name, base)
    monkeypatch.setattr(samplers, "make", lambda *_: copy.deepcopy(made))  # the making of dpm_2 takes most of a drawing
    few, more = draw(base, texts, shot(sampler=name, steps=1), shot(sampler=name, steps=2))
    assert few.size == more.size == (24, 16)
    assert few.tobytes() != more.tobytes()
    assert made.config.prediction_type == base.prediction
    assert made.config.get("clip_sample", False) is False
    assert float(made.alphas_cumprod[-1]) < 1e-6 or not velocity
    made.set_timesteps(4)
    assert int(made.timesteps[0]) == 999 or not velocity


def test_the_same_names_as_in_the_job():
    assert {*samplers.SAMPLERS, samplers.OWN} == set(values.SAMPLERS)


@pytest.mark.parametrize("name", ["euler_a", "ddim", "ddpm", "heun", "dpm_2", "dpmsolver++", "dpmsingle"])
def test_samplers_stand_on_the_bases_own_betas(base, name):
    for zero in (False, True):
        base.zero_terminal_snr = zero
        base.prediction = "v_prediction" if zero else "epsilon"
        alphas = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)
        if zero:  # Lin et al. 2023, algorithm 1
            roots = alphas.sqrt()
            alphas = ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2
        assert torch.allclose(samplers.make(name, base).alphas_cumprod, alphas, atol=1e-6)


def test_guidance_is_rescaled_where_the_schedule_ends_in_noise(base, texts, monkeypatch):
    from diffusers import StableDiffusionXLPipeline

    seen, call = [], StableDiffusionXLPipeline.__call__

    def spied(self, **keys):
        seen.append(keys["guidance_rescale"])
        return call(self, **keys)

    monkeypatch.setattr(StableDiffusionXLPipeline, "__call__", spied)
    draw(base, texts, SHOT)
    base.prediction, base.zero_terminal_snr = "v_prediction", True
    draw(base, texts, SHOT)
    assert seen == [0.0, 0.7]


def test_nothing_of_the_base_is_changed(base, texts):
    before = dict(base.scheduler.config), base.vae.use_tiling, base.unet.training, len(base.scheduler.timesteps)
    draw(base, texts, shot(sampler="model"))
    assert (
        dict(base.scheduler.config),
        base.vae.use_tiling,
        base.unet.training,
        len(base.scheduler.timesteps),
    ) == before


def test_a_picture_that_is_not_finite(base, texts, monkeypatch):
    class Broken(dict):
        def __missing__(self, text):
            return dataclasses.replace(texts[text], context=texts[text].context * float("nan"))

    monkeypatch.setattr(base.vae, "to", lambda device: moved.append(str(device)))
    moved: list = []
    with pytest.raises(TrainingStopped, match='sample of "b": expected a finite picture'):
        draw(base, Broken(), SHOT)
    assert moved == ["cpu", "cpu"]  # the second time after the failure


def test_files_say_how_they_were_made(tmp_path):
    drawn = [
        sampling.Drawn(shot(), Image.new("RGB", (8, 8), "red")),
        sampling.Drawn(shot(seed=8, negative_prompt="", prompt="犬"), Image.new("RGB", (8, 8))),
    ]
    paths = sampling.save_all(drawn, tmp_path / "samples", "dog-step00000100")
    assert [path.name for path in paths] == ["dog-step00000100-01-seed7.png", "dog-step00000100-02-seed8.png"]
    first, second = (Image.open(path) for path in paths)
    assert first.getpixel((0, 0)) == (255, 0, 0)
    assert first.text == {
        "parameters": "b\nNegative prompt: c\nSteps: 2, Sampler: Euler a, CFG scale: 6, Seed: 7, Size: 24x16"
    }
    assert second.text["parameters"].splitlines()[0] == "犬"
    assert "Negative" not in second.text["parameters"]


def test_large_pictures_are_decoded_in_tiles(base, texts, monkeypatch):
    seen, decode = [], base.vae.decode

    def spied(latents):
        seen.append((base.vae.use_tiling, base.vae.tile_sample_min_size, base.vae.tile_latent_min_size))
        return decode(latents)

    monkeypatch.setattr(base.vae, "decode", spied)
    draw(base, texts, SHOT)
    assert {tiling for tiling, *_ in seen} == {False}
    before, seen[:] = seen[0], []
    monkeypatch.setattr(sampling, "TILE", 16)  # the picture is 24 by 16
    assert draw(base, texts, SHOT)[0].size == (24, 16)
    assert set(seen) == {(True, 16, 8)}
    assert (base.vae.use_tiling, base.vae.tile_sample_min_size, base.vae.tile_latent_min_size) == before
