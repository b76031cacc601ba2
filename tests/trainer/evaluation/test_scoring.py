"""What pictures measure, by a network that can be worked out by hand: the mean colour of a picture."""

import pytest
import torch
from PIL import Image

from trainer.embedders.embedder import Embedder
from trainer.embedders.folders import Clip
from trainer.evaluation.asking import Asked
from trainer.evaluation.networks import Networks
from trainer.evaluation.photos import Photos, of
from trainer.evaluation.scoring import Scorer, apart
from trainer.job import config
from trainer.job.evalschema import Evaluation
from trainer.pictures import images
from trainer.preflight import preflight

CPU = torch.device("cpu")
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


def colours():
    """A network whose embedding of a picture is its mean colour."""
    return Embedder("colours", "colours 1", lambda image: images.to_tensor(image) / 2 + 0.5, see, CPU)


calls = []


def see(pixels):
    calls.append(len(pixels))
    return pixels.mean(dim=(2, 3))


def read(texts):
    return torch.tensor([[float(name in text) for name in COLOURS] for text in texts])


@pytest.fixture
def paint(tmp_path):
    """The function that writes a picture of one colour."""

    def write(name, colour):
        path = tmp_path / "drawn" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (16, 16), COLOURS[colour]).save(path)
        return path

    return write


@pytest.fixture
def photos(light_job, write_job, tmp_path):
    """Two photographs: a red one that is trained, and a green one that is held out."""
    for path in (tmp_path / "pictures").iterdir():
        path.unlink()
    for name in ("red", "green"):
        Image.new("RGB", (16, 16), COLOURS[name]).save(tmp_path / "pictures" / f"{name}.png")
    ready = preflight.check(config.load(write_job(light_job)))
    by_name = {picture.path.stem: picture for picture in ready.pictures}
    return Photos((by_name["red"],), (by_name["green"],))


QUESTIONS = [Asked(0, "sks", "red", False), Asked(1, "sks too", "blue", False), Asked(2, "plain", "green", True)]


def test_every_measure_worked_by_hand(paint, photos, tmp_path):
    pictures = {
        (0, 1): paint("a", "red"), (0, 2): paint("b", "green"), (1, 1): paint("c", "blue"), (1, 2): paint("d", "blue"),
        (2, 1): paint("e", "red"), (2, 2): paint("f", "green"),
    }  # fmt: skip
    base = {**pictures, (2, 1): paint("g", "green"), (2, 2): paint("h", "green")}
    networks = Networks(colours(), Clip(colours(), read))
    scorer = Scorer(Evaluation(), networks, photos, QUESTIONS, tmp_path / "kept")
    made = scorer.score(pictures, base)
    assert made.columns["held_out"] == pytest.approx({(0, 1): 0, (0, 2): 1, (1, 1): 0, (1, 2): 0})
    assert made.columns["trained"] == pytest.approx({(0, 1): 1, (0, 2): 0, (1, 1): 0, (1, 2): 0})
    assert made.columns["copy"] == made.columns["trained"]
    assert made.columns["seeds"] == pytest.approx({(0, 1): 1, (1, 1): 0})
    assert made.columns["drift"] == pytest.approx({(2, 1): 1, (2, 2): 0})
    assert made.columns["plain_apart"] == {}, "one plain prompt alone"
    assert made.columns["prompt"] == pytest.approx({(0, 1): 100, (0, 2): 0, (1, 1): 100, (1, 2): 100})
    assert made.columns["prompt_by_chance"] == pytest.approx(dict.fromkeys(made.columns["prompt"], 0.0))
    assert made.columns["clip_held_out"] == made.columns["held_out"]
    assert scorer.subject.ceilings == {"trained": [], "held_out": [0.0], "clip_trained": [], "clip_held_out": [0.0]}


def test_another_prompt_is_as_far_as_its_pictures_of_the_same_seed():
    looked = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 3]])
    found = apart([(0, 1), (1, 1), (2, 1), (1, 2)], looked)
    half = 0.5**0.5
    assert found == pytest.approx({(0, 1): (1 + 1 - half) / 2, (1, 1): (1 + 1 - half) / 2, (2, 1): 1 - half})


def test_a_picture_is_seen_once(paint, photos, tmp_path):
    pictures = {(0, 1): paint("a", "red"), (0, 2): paint("b", "blue")}
    for expected in ([1, 1, 2], []):
        calls.clear()
        Scorer(Evaluation(), Networks(colours()), photos, QUESTIONS, tmp_path / "kept").score(pictures, pictures)
        assert calls == expected, "photographs and pictures, and nothing when they were seen already"


def test_lpips_is_a_distance_and_the_paper_s_column_stands_beside_it(paint, photos, tmp_path):
    def far(first, second):
        return (first - second).abs().amax(dim=(1, 2, 3)) / 4

    networks = Networks(colours(), None, far)
    pictures = {(0, 1): paint("a", "red"), (0, 2): paint("b", "blue"), (1, 1): paint("c", "red")}
    made = Scorer(Evaluation(), networks, photos, QUESTIONS, tmp_path / "kept").score(pictures, {})
    assert made.columns["lpips_distance"] == pytest.approx({(0, 1): 0.5}), "a prompt of one seed has no pair"
    assert made.columns["paper_div"] == pytest.approx({(0, 1): 0.5})


def test_cmmd_is_against_the_reference(paint, photos, tmp_path):
    pictures = {(0, 1): paint("a", "red")}
    for reference, expected in ((torch.tensor([[1.0, 0, 0]]), 0.0), (torch.tensor([[0, 1.0, 0]]), 19.9)):
        networks = Networks(colours(), Clip(colours(), read), reference=reference)
        made = Scorer(Evaluation(), networks, photos, QUESTIONS, tmp_path / "kept").score(pictures, {})
        assert made.cmmd == pytest.approx(expected, abs=0.01)  # 1000 * (2 - 2 exp(-2 / 200))


def test_class_pictures_are_no_photographs_of_the_subject(light_job, write_job, tmp_path, pictures_in):
    pictures_in(tmp_path / "class", 2, (20, 20))
    light_job["datasets"][0]["subsets"].append(
        {"image_dir": str(tmp_path / "class"), "class_tokens": "robot", "is_reg": True}
    )
    found = of(preflight.check(config.load(write_job(light_job))))
    assert len(found.trained) == 3
    assert found.held_out == ()
