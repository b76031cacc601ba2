"""Embeddings of tiny random models are those of their own libraries."""

import json
import types

import pytest
import torch

from trainer.embedders import folders
from trainer.measures import similarity
from trainer.system.errors import UserError

CPU = torch.device("cpu")


@pytest.mark.parametrize(("kind", "class_name"), [("dinov2", "Dinov2Model"), ("vit", "ViTModel")])
def test_the_class_token_after_the_last_norm(make_model, pictures, kind, class_name):
    import transformers

    folder = make_model(kind)
    embedder = folders.load_pictures(folders.look(str(folder), "key"), CPU)
    model = getattr(transformers, class_name).from_pretrained(folder).eval()
    with torch.no_grad():
        pixels = torch.stack([embedder.prepare(picture) for picture in pictures])
        expected = model(pixels).last_hidden_state[:, 0]
    torch.testing.assert_close(embedder(pictures), expected)
    assert embedder.name == f"tiny-{kind}"
    assert embedder([]).shape == (0, 0)


def test_clip_s_two_sides_and_both_embeddings(make_model, pictures):
    import transformers

    folder = make_model("clip")
    model = transformers.CLIPModel.from_pretrained(folder).eval()
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
    texts = ["a dog", "a photo of a red cup on the grass", ""]
    ids = tokenizer(texts, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
    clip = folders.load_clip(folders.look(str(folder), "key"), CPU)
    with torch.no_grad():
        pixels = torch.stack([clip.pictures.prepare(picture) for picture in pictures])
        made = model(pixel_values=pixels, **{name: ids[name] for name in ("input_ids", "attention_mask")})
        pooled = model.vision_model(pixels).pooler_output
    torch.testing.assert_close(
        torch.nn.functional.normalize(clip.texts(texts)), torch.nn.functional.normalize(made.text_embeds)
    )
    torch.testing.assert_close(
        torch.nn.functional.normalize(clip.pictures(pictures)), torch.nn.functional.normalize(made.image_embeds)
    )
    unprojected = folders.load_clip(folders.look(str(folder), "key"), CPU, "pooled")
    torch.testing.assert_close(unprojected.pictures(pictures), pooled)
    assert unprojected.pictures.identity != clip.pictures.identity


def test_the_score_is_torchmetrics_s(make_model, pictures):
    """Of the same prepared pictures: torchmetrics leaves that to a processor, which asks for torchvision."""
    multimodal = pytest.importorskip("torchmetrics.functional.multimodal")
    clip = folders.load_clip(folders.look(str(make_model("clip")), "key"), CPU)
    texts = ["a dog", "a red cup", "a house at night", "x"]
    mine = 100 * similarity.agreement(clip.pictures(pictures), clip.texts(texts)).mean()

    class Model(torch.nn.Module):
        config = types.SimpleNamespace()

        def get_image_features(self, numbers):
            return clip.pictures([pictures[int(number)] for number in numbers])

        def get_text_features(self, numbers, _):
            return clip.texts([texts[int(number)] for number in numbers])

    def process(images=None, text=None, **_):
        if images is not None:
            return {"pixel_values": torch.arange(len(images))}
        return {"input_ids": torch.arange(len(text)), "attention_mask": torch.ones(len(text), 1)}

    blank = [torch.zeros(3, 2, 2)] * len(texts)
    theirs = multimodal.clip_score(blank, texts, model_name_or_path=lambda: (Model(), process))
    assert float(theirs) == pytest.approx(max(0.0, float(mine)), abs=1e-3)


def test_a_text_is_read_the_same_alone_and_beside_longer_ones(make_model):
    clip = folders.load_clip(folders.look(str(make_model("clip")), "key"), CPU)
    torch.testing.assert_close(clip.texts(["a dog"]), clip.texts(["a dog", "a dog " * 60])[:1])


def test_wrong_folders_say_what_was_expected(tmp_path):
    with pytest.raises(UserError, match=r"key .*nothing there.*--allow-download"):
        folders.look(str(tmp_path / "none"), "key")
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(UserError, match="model_type"):
        folders.look(str(tmp_path), "key")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(UserError, match="clip, got llama"):
        folders.look(str(tmp_path), "key")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "dinov2"}))
    with pytest.raises(UserError, match="got neither"):
        folders.look(str(tmp_path), "key")


def test_weights_that_lack_a_layer_are_refused(make_model, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = make_model("dinov2")
    held = load_file(folder / "model.safetensors")
    held.pop("layernorm.weight")
    save_file(held, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(UserError, match=r"layernorm\.weight"):
        folders.load_pictures(folders.look(str(tmp_path), "key"), CPU)
