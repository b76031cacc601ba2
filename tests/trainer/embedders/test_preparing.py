"""The preparation of pictures is the libraries' own, and its edges are what the rules say."""

import pytest
import torch
from PIL import Image

from trainer.embedders.preparing import CLIP_MEAN, from_config


@pytest.mark.parametrize(
    ("name", "rules"),
    [
        ("BitImageProcessorPil", {"size": {"shortest_edge": 32}, "crop_size": {"height": 28, "width": 28}}),
        ("CLIPImageProcessorPil", {"size": {"shortest_edge": 24}, "crop_size": {"height": 24, "width": 24}}),
        ("ViTImageProcessorPil", {"size": {"height": 20, "width": 26}, "do_center_crop": False, "resample": 2}),
    ],
)
def test_it_is_what_transformers_does(name, rules, pictures):
    transformers = pytest.importorskip("transformers")
    if not hasattr(transformers, name):
        pytest.skip(f"this transformers has no {name}")
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]
    theirs = getattr(transformers, name)(**rules, image_mean=mean, image_std=std)
    ours = from_config({**rules, "image_mean": mean, "image_std": std})
    for picture in pictures:
        expected = theirs(picture, return_tensors="pt")["pixel_values"][0]
        torch.testing.assert_close(ours(picture), expected, atol=1e-5, rtol=1e-5)


def test_a_picture_that_is_right_already_is_only_normalised():
    prepare = from_config({"size": {"shortest_edge": 8}, "crop_size": 8})
    made = prepare(Image.new("RGB", (8, 8), "white"))
    assert made.shape == (3, 8, 8)
    expected = (1 - torch.tensor(CLIP_MEAN)) / torch.tensor((0.26862954, 0.26130258, 0.27577711))
    torch.testing.assert_close(made.mean(dim=(1, 2)), expected)


def test_what_is_switched_off_is_not_done():
    prepare = from_config({"do_resize": False, "do_center_crop": False, "do_normalize": False})
    made = prepare(Image.new("RGB", (9, 5), (255, 0, 51)))
    assert made.shape == (3, 5, 9)
    torch.testing.assert_close(made[:, 0, 0], torch.tensor([1.0, 0.0, 0.2]))


def test_a_size_in_strange_words_is_refused():
    with pytest.raises(ValueError, match="shortest_edge"):
        from_config({"size": "large"})
