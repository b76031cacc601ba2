import copy
import dataclasses
import hashlib

import numpy as np
import pytest
import torch
from PIL import Image

from trainer.base import encode, modelcheck, models, precision
from trainer.base.cache import Store
from trainer.job import schema
from trainer.pictures import buckets, images
from trainer.pictures.buckets import View
from trainer.pictures.captions import Caption
from trainer.pictures.picture import Picture
from trainer.system.errors import UserError

CPU = torch.device("cpu")
PLACE = precision.Precision(CPU, torch.float32)


@pytest.fixture(scope="module")
def loaded(base_folder):
    model = schema.Model(pretrained_model_name_or_path=str(base_folder))
    return models.load(model, PLACE, modelcheck.check(model)[0])


@pytest.fixture
def base(loaded):
    """The tiny base: its settings to be changed as a test likes, its networks everybody's."""
    return dataclasses.replace(loaded, text=[*loaded.text])


@pytest.fixture
def own_base(loaded):
    """The same with networks of its own, to be changed too."""
    return copy.deepcopy(loaded)


def picture(folder, name="a.png", seed=0, **settings):
    pixels = np.random.default_rng(seed).integers(0, 255, (16, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / name)
    geometry = buckets.fit((20, 16), (16, 16))
    digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    return Picture(folder / name, digest, Caption(("x",)), geometry, 0, **settings)


def texts_of(base, folder=None):
    return encode.Texts(base, CPU, Store(folder), "encoders")


def latents_of(base, folder=None, **settings):
    return encode.Latents(base, CPU, schema.Cache(**settings), Store(folder), "vae")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_texts_are_encoded_as_the_pipeline_does(base, base_folder):
    from diffusers import StableDiffusionXLPipeline

    pipeline = StableDiffusionXLPipeline.from_pretrained(base_folder, local_files_only=True, add_watermarker=False)
    context, _, pooled, _ = pipeline.encode_prompt("sks robot", do_classifier_free_guidance=False)
    made = texts_of(base)["sks robot"]
    assert torch.equal(made.context, context[0])
    assert torch.equal(made.pooled, pooled[0])
    assert made.tokens == 10  # two ends, eight letters of a byte tokenizer


def test_an_empty_text_is_what_the_base_takes_for_one(base):
    assert not texts_of(base)[""].context.any()
    assert not texts_of(base)[""].pooled.any()
    base.empty_is_zero = False
    assert texts_of(base)[""].context.any()


def test_a_batch_with_an_empty_text_zeroes_that_row_alone(base):
    context, pooled = encode.encode_batch(base, ["", "a b"], CPU)
    assert not context[0].any() and not pooled[0].any()
    assert torch.allclose(context[1], texts_of(base)["a b"].context, atol=1e-6)
    assert pooled[1].any()


def test_a_batch_has_gradients_where_the_encoders_train(base):
    weights = []
    for _, encoder in base.text:
        encoder.requires_grad_(True)
        weights += [weight for name, weight in encoder.named_parameters() if name.endswith("0.self_attn.q_proj.weight")]
    context, pooled = encode.encode_batch(base, ["a b"], CPU)
    (context.square().sum() + pooled.sum()).backward()
    assert len(weights) == 2
    assert all(weight.grad is not None and weight.grad.any() for weight in weights)


def test_a_text_does_not_depend_on_its_company(base):
    alone, together = texts_of(base), texts_of(base)
    alone.prepare(["b"])
    together.prepare(["a long one", "b", "c"])
    assert torch.equal(alone["b"].context, together["b"].context)


def test_a_long_text_is_cut_and_counted(base):
    made = texts_of(base)["a " * 100]
    assert made.context.shape == (77, 24)
    assert made.tokens == 102


def by_hand(tokenizer, encoder, text, chunks):
    """One text's states [75 * chunks + 2, width] and its first chunk's projection, as kohya's sd-scripts cut it.

    Written out in lists: start, 75 tokens and the text's last one in each chunk; the mark of the end where a chunk ends
    in a word, and at the head of an empty chunk; of the states one start, every chunk's 75, one end.
    """
    start, end, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    words = tokenizer(text, add_special_tokens=False).input_ids[: 75 * chunks]
    whole = [start, *words, end, *[pad] * 75 * chunks][: 75 * chunks + 2]
    rows = []
    for number in range(chunks):
        piece = whole[1 + 75 * number : 76 + 75 * number]
        row = [start, *piece, whole[-1]]
        if piece[-1] not in (end, pad):
            row[-1] = end
        if piece[0] == pad:
            row[1] = end
        rows.append(row)
    made = [encoder(torch.tensor([row]), output_hidden_states=True) for row in rows]
    states = [one.hidden_states[-2][0] for one in made]
    return torch.cat([states[0][:1], *(one[1:-1] for one in states), states[-1][-1:]]), made[0][0][0]


@pytest.mark.parametrize("chunks", [1, 2, 3])
@pytest.mark.parametrize("letters", [0, 3, 74, 75, 76, 149, 150, 151, 300])
def test_long_texts_are_read_in_chunks_as_kohya_reads_them(base, chunks, letters):
    base.chunks = chunks
    text = ("a small dog runs! " * 20)[:letters].strip()
    while letters and len(base.text[0][0](text, add_special_tokens=False).input_ids) < letters:
        text += "x"
    with torch.no_grad():
        context, pooled = encode.states(base, [text, "b"], torch.device("cpu"))
        parts = [by_hand(tokenizer, encoder, text, chunks) for tokenizer, encoder in base.text]
    assert context.shape[1] == 75 * chunks + 2
    torch.testing.assert_close(context[0], torch.cat([states for states, _ in parts], dim=-1))
    torch.testing.assert_close(pooled[0], parts[1][1])


def test_what_lies_behind_the_77th_token_counts_in_chunks_alone(base):
    text = "a" * 80
    for chunks, same in ((1, True), (2, False)):
        base.chunks = chunks
        texts = texts_of(base)
        assert torch.equal(texts[text].context, texts[text + "bc"].context) is same
        assert texts.longest == 75 * chunks + 2


def test_an_encoding_of_another_length_is_another_entry(base, tmp_path):
    first = texts_of(base, tmp_path)
    first.prepare(["a dog"])
    short = first["a dog"].context
    base.chunks = 2
    second = texts_of(base, tmp_path)
    second.prepare(["a dog"])
    assert (short.shape[0], second["a dog"].context.shape[0]) == (77, 152)


def test_prepared_texts_stay_when_the_encoders_go(base, tmp_path):
    texts = texts_of(base, tmp_path)
    texts.prepare(["a", "b", "a"])
    assert (texts._store.hits, texts._store.misses) == (0, 2)
    kept = texts["a"]
    texts.release()
    assert not base.text
    with pytest.raises(KeyError, match="not prepared"):
        texts["c"]
    again = texts_of(base, tmp_path)  # another run, without encoders at all
    again.prepare(["a", "b"])
    assert (again._store.hits, again._store.misses) == (2, 0)
    assert torch.equal(again["a"].context, kept.context) and torch.equal(again["a"].pooled, kept.pooled)
    assert again["a"].tokens == kept.tokens


def test_texts_on_the_way_are_remembered_for_a_while(base, monkeypatch):
    texts, made = texts_of(base), []
    monkeypatch.setattr(encode, "RECENT", 2)
    monkeypatch.setattr(encode, "states", lambda *args, states=encode.states: made.append(args[1][0]) or states(*args))
    for text in ("a", "b", "a", "c", "a", "b"):  # "b" is the oldest when "c" comes
        texts[text]
    assert made == ["a", "b", "c", "b"]
    assert texts._store.size() == 0


def test_encoders_that_train_are_asked_each_time(own_base, tmp_path):
    Texts = encode.Texts
    Texts(own_base, CPU, Store(tmp_path), "encoders").prepare(["a"])
    texts = Texts(own_base, CPU, Store(tmp_path), "encoders", trained=True)
    texts.prepare(["a"])
    before = texts["a"].context
    own_base.text[0][1].get_input_embeddings().weight.data.mul_(2)
    assert not torch.equal(texts["a"].context, before)


def test_a_text_that_is_not_finite_is_named(own_base):
    own_base.text[1][1].text_projection.weight.data.fill_(float("nan"))
    with pytest.raises(UserError, match=r'text "a b".*NaN or infinity in float32'):
        texts_of(own_base).prepare(["a b"])


def test_another_encoder_has_other_entries(base, tmp_path):
    texts_of(base, tmp_path).prepare(["a"])
    other = encode.Texts(base, CPU, Store(tmp_path), "fine-tuned")
    other.prepare(["a"])
    assert (other._store.hits, other._store.misses) == (0, 1)


def test_latents_are_the_vaes_mean_scaled(base, tmp_path):
    one = picture(tmp_path, flip=True)
    latents = latents_of(base)
    latents.prepare([one])
    plain, flipped = (latents.get(one, View(side), seeded()) for side in (False, True))
    expected = base.vae.encode(images.pixels(one, View())[None]).latent_dist.mean[0] * base.vae.config.scaling_factor
    assert torch.allclose(plain, expected, atol=1e-6)
    assert plain.shape == (4, 8, 8)
    assert not torch.allclose(plain, flipped)


def test_a_drawn_posterior_has_the_vaes_mean_and_deviation(base, tmp_path):
    one = picture(tmp_path)
    latents = latents_of(base, sample_posterior=True)
    latents.prepare([one])
    found = base.vae.encode(images.pixels(one, View())[None]).latent_dist
    noise = torch.randn(found.mean[0].shape, generator=seeded(5))
    expected = (found.mean[0] + found.std[0] * noise) * base.vae.config.scaling_factor
    assert torch.allclose(latents.get(one, View(), seeded(5)), expected, atol=1e-6)
    assert torch.equal(latents.get(one, View(), seeded(5)), latents.get(one, View(), seeded(5)))
    assert not torch.equal(latents.get(one, View(), seeded(5)), latents.get(one, View(), seeded(6)))


def test_an_interrupted_encoding_goes_on_where_it_was(base, tmp_path, monkeypatch):
    ones = [picture(tmp_path, f"{number}.png", number) for number in range(4)]
    encoded, encode_one = [], base.vae.encode

    def counted(pixels):
        if len(encoded) == 2:
            raise KeyboardInterrupt
        encoded.append(pixels)
        return encode_one(pixels)

    monkeypatch.setattr(base.vae, "encode", counted)
    with pytest.raises(KeyboardInterrupt):
        latents_of(base, tmp_path / "cache").prepare(ones)
    again = latents_of(base, tmp_path / "cache")
    monkeypatch.setattr(base.vae, "encode", encode_one)
    again.prepare(ones)
    assert (again._store.hits, again._store.misses) == (2, 2)


def test_an_image_that_changed_is_encoded_anew_and_no_other(base, tmp_path):
    ones = [picture(tmp_path, f"{number}.png", number) for number in range(2)]
    latents_of(base, tmp_path / "cache").prepare(ones)
    changed = [ones[0], picture(tmp_path, "1.png", 7)]
    again = latents_of(base, tmp_path / "cache")
    again.prepare(changed)
    assert (again._store.hits, again._store.misses) == (1, 1)


def test_views_that_are_drawn_are_encoded_as_they_come(base, tmp_path):
    one = picture(tmp_path, random_crop=True)
    latents = latents_of(base)
    latents.prepare([one])
    assert latents._store.misses == 0
    left, right = (latents.get(one, View(offset=(place, 0)), seeded()) for place in (0, 4))
    assert not torch.allclose(left, right)
    pixels = images.pixels(one, View(offset=(4, 0)))
    expected = base.vae.encode(pixels[None]).latent_dist.mean[0] * base.vae.config.scaling_factor
    assert torch.allclose(right, expected, atol=1e-6)


def test_the_vae_stays_where_it_is_needed(base, tmp_path, monkeypatch):
    moves = []
    monkeypatch.setattr(base.vae, "to", lambda place: moves.append(str(place)) or base.vae)
    fixed, drawn = picture(tmp_path), picture(tmp_path, "b.png", 1, color=True)
    for pictures, settings in (([fixed], {}), ([fixed, drawn], {}), ([fixed], {"cache_latents": False})):
        latents = encode.Latents(base, torch.device("cpu", 0), schema.Cache(**settings), Store())
        latents.prepare(pictures)
        latents.release()
    assert moves == ["cpu:0", "cpu", "cpu:0"]


def test_an_image_that_changes_while_the_run_goes_on_is_not_kept(base, tmp_path):
    one = picture(tmp_path)
    picture(tmp_path, seed=5)  # another content under the same name
    with pytest.raises(UserError, match=r"a\.png.*as it was at the start"):
        latents_of(base, tmp_path / "cache").prepare([one])


def test_without_a_cache_nothing_is_kept(base, tmp_path):
    latents = latents_of(base, cache_latents=False)
    latents.prepare([picture(tmp_path)])
    assert latents.get(picture(tmp_path), View(), seeded()).shape == (4, 8, 8)
    assert latents._store.size() == 0


def test_shift_and_deviation_of_newer_vaes_are_undone(own_base, tmp_path):
    own_base.vae.register_to_config(latents_mean=[0.1, 0.2, 0.3, 0.4], latents_std=[1.0, 2.0, 3.0, 4.0])
    one = picture(tmp_path)
    with torch.no_grad():
        latents = latents_of(own_base).get(one, View(), seeded())
        mean = own_base.vae.encode(images.pixels(one, View())[None]).latent_dist.mean[0]
        decoded = encode.decode_latents(own_base, latents)
        assert torch.allclose(decoded, own_base.vae.decode(mean[None]).sample[0], atol=1e-5)


def test_latents_that_are_not_finite_name_the_picture(own_base, tmp_path):
    own_base.vae.encoder.conv_in.weight.data.fill_(float("nan"))
    with pytest.raises(UserError, match=r"broken\.png.*NaN or infinity"):
        latents_of(own_base).prepare([picture(tmp_path, name="broken.png")])
