"""The embedded CLIP: small enough, a plain CLIPModel folder, and it tells drawings by their captions."""

import random
from pathlib import Path

import pytest
import torch

from tools.nano_pictures import COLORS, SCENES, Picture, draw
from trainer.embedders import folders
from trainer.measures import similarity

FOLDER = Path(__file__).resolve().parents[2] / "models" / "nano-clip"


@pytest.fixture(scope="module")
def clip():
    return folders.load_clip(folders.look(str(FOLDER), "clip_model"), torch.device("cpu"))


def test_it_fits_the_repository():
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= 5e6


def right(clip, pictures, choices, answers):
    """Returns for how many pictures the right text agrees best."""
    looked, read = clip.pictures(pictures), clip.texts(choices)
    best = (similarity.unit(looked) @ similarity.unit(read).T).argmax(dim=1).tolist()
    return sum(choices[at] == answer for at, answer in zip(best, answers, strict=True)) / len(answers)


def test_it_knows_the_colours(clip):
    names = list(COLORS)
    pictures = [draw(Picture("circle", name, ground="gray" if name != "gray" else "blue"), random.Random(name))
                for name in names]  # fmt: skip
    grounds = ["gray" if name != "gray" else "blue" for name in names]
    texts = [f"a {name} circle on a {ground} background" for name, ground in zip(names, grounds, strict=True)]
    assert right(clip, pictures, texts, texts) >= 0.7


def test_it_knows_the_grounds(clip):
    grounds = SCENES
    pictures = [draw(Picture("star", "red", ground=ground), random.Random(ground)) for ground in grounds]
    texts = [f"a red star {ground}" for ground in grounds]
    assert right(clip, pictures, texts, texts) >= 0.8
