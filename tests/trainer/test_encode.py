import numpy as np
import pytest
import torch
from PIL import Image

from trainer import buckets, encode, images, models, schema
from trainer.dataset import Picture
from trainer.errors import UserError

CPU = torch.device("cpu")


@pytest.fixture
def base(base_folder):
    return models.load(schema.Model(pretrained_model_name_or_path=str(base_folder)), torch.float32)


def picture(folder, flip=False, name="a.png"):
    pixels = np.random.default_rng(0).integers(0, 255, (16, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / name)
    return Picture(folder / name, "x", buckets.fit((20, 16), (16, 16)), 0.0, flip, 1)


def test_texts_are_encoded_as_the_pipeline_does(base, base_folder):
    from diffusers import StableDiffusionXLPipeline

    pipeline = StableDiffusionXLPipeline.from_pretrained(base_folder, local_files_only=True, add_watermarker=False)
    context, _, pooled, _ = pipeline.encode_prompt("sks robot", do_classifier_free_guidance=False)
    made = encode.encode_texts(base, ["sks robot"], CPU)["sks robot"]
    assert torch.equal(made.context, context[0])
    assert torch.equal(made.pooled, pooled[0])
    assert made.tokens == 10  # two ends, eight letters of a byte tokenizer


def test_an_empty_text_is_what_the_base_takes_for_one(base):
    assert not encode.encode_texts(base, [""], CPU)[""].context.any()
    base.empty_is_zero = False
    assert encode.encode_texts(base, [""], CPU)[""].context.any()


def test_a_text_does_not_depend_on_its_company(base):
    alone = encode.encode_texts(base, ["b"], CPU)["b"]
    together = encode.encode_texts(base, ["a long one", "b", "c"], CPU)["b"]
    assert torch.equal(alone.context, together.context)


def test_a_long_text_is_cut_and_counted(base):
    made = encode.encode_texts(base, ["a " * 100], CPU)["a " * 100]
    assert made.context.shape == (77, 24)
    assert made.tokens == 102


def test_latents_are_the_vaes_mean_scaled(base, tmp_path):
    one = picture(tmp_path, flip=True)
    made = encode.encode_latents(base, [one], CPU)
    pixels = images.to_tensor(images.crop(images.open_rgb(one.path), one.geometry))
    expected = base.vae.encode(pixels[None]).latent_dist.mean[0] * base.vae.config.scaling_factor
    assert torch.allclose(made[one, False], expected, atol=1e-6)
    assert made[one, False].shape == (4, 8, 8)
    assert not torch.allclose(made[one, False], made[one, True])


def test_shift_and_deviation_of_newer_vaes_are_undone(base, tmp_path):
    base.vae.register_to_config(latents_mean=[0.1, 0.2, 0.3, 0.4], latents_std=[1.0, 2.0, 3.0, 4.0])
    pixels = images.to_tensor(Image.new("RGB", (16, 16), "red"))
    with torch.no_grad():
        latents = encode.encode_pixels(base, pixels, CPU)
        mean = base.vae.encode(pixels[None]).latent_dist.mean[0]
        decoded = encode.decode_latents(base, latents)
        assert torch.allclose(decoded, base.vae.decode(mean[None]).sample[0], atol=1e-5)


def test_latents_that_are_not_finite_name_the_picture(base, tmp_path):
    base.vae.encoder.conv_in.weight.data.fill_(float("nan"))
    with pytest.raises(UserError, match=r"broken\.png.*NaN or infinity"):
        encode.encode_latents(base, [picture(tmp_path, name="broken.png")], CPU)
