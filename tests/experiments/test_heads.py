"""Models with a head: every method learns, two rates are two, the base is whole again, and seeds settle everything."""

import json

import pytest
import torch

from experiments import heads, lite0, pictures, scores, table, texts, vits
from experiments.__main__ import main
from experiments.experiment import Cell
from experiments.heads import Recipe
from trainer.system.errors import UserError

TARGETS = r".*attention\.(q_proj|v_proj)|.*attention\.attention\.(query|value)"
METHODS = {
    "LP": {}, "full": {}, "Adapter": {"targets": r".*(fc2|output\.dense)", "width": 8}, "BitFit": {"targets": ".*"},
    "LoRA": {"network_dim": 2}, "FourierFT": {"n_frequency": 32}, "SHiRA": {"coefficients": 32},
    "AdaLoRA": {"target_r": 1, "init_r": 2, "tinit": 2, "tfinal": 20}, "WaveFT": {"coefficients": 32},
}  # fmt: skip
RATES = {
    "full": 1e-2, "Adapter": 3e-2, "BitFit": 3e-2, "LoRA": 3e-2, "AdaLoRA": 3e-2, "FourierFT": 1.0, "SHiRA": 3e-3,
    "WaveFT": 3e-3,
}  # fmt: skip


@pytest.fixture
def vit(vit_folder):
    from transformers import ViTForImageClassification

    return ViTForImageClassification.from_pretrained(vit_folder)


@pytest.fixture(scope="module")
def task():
    """Rows whose class is the sign of one pixel: little is learned by the head alone, of features that are random."""
    pixels = torch.randn(48, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    return heads.in_memory({"pixel_values": pixels}, (pixels[:, 0, 1, 1] > 0).long())


def run(model, task, method, **more):
    network = {"targets": TARGETS, **METHODS[method]}
    recipe = Recipe(method, network, RATES.get(method, 0.0), 1e-2, epochs=12, batch=16, **more)
    return heads.run(model, recipe, task, task, task, scores.accuracy)


@pytest.fixture(scope="module")
def head_alone(vit_folder, task):
    """The last loss of what trains nothing else."""
    from transformers import ViTForImageClassification

    return run(ViTForImageClassification.from_pretrained(vit_folder), task, "LP")["loss"][-1]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_every_method_learns_more_than_the_head_alone_and_leaves_the_body_as_it_was(vit, task, head_alone, method):
    if method in heads.OF_TRAINER and heads.OF_TRAINER[method] not in ("waveft", "shira", "bitfit"):
        pytest.importorskip("peft")
    before = {name: held.clone() for name, held in vit.state_dict().items() if "classifier" not in name}
    found = run(vit, task, method)
    again = run(vit, task, method)
    after = vit.state_dict()
    assert all(torch.equal(after[name], held) for name, held in before.items())
    assert found == again, "the seed settles all of it"
    assert (found["parameters"] == 0) == (method == "LP")
    if method != "LP":
        assert found["loss"][-1] < head_alone - 0.01


def test_the_methods_rate_is_not_the_heads(vit, task):
    network = {"targets": TARGETS, "coefficients": 32}
    still = heads.run(vit, Recipe("WaveFT", network, 0.0, 1e-2, epochs=3), task, task, task, scores.accuracy)
    head = heads.run(vit, Recipe("LP", {}, 0.0, 1e-2, epochs=3), task, task, task, scores.accuracy)
    assert still["loss"] == head["loss"], "at a rate of 0 the method is not there"
    assert still["parameters"] == 4 * 32


def test_an_unknown_method_and_a_model_without_a_head_are_refused(vit, task):
    with pytest.raises(UserError, match="expected one of LP, full, Adapter"):
        heads.run(vit, Recipe("DyLoRA"), task, task, task, scores.accuracy)
    with pytest.raises(UserError, match="Linear has none"):
        heads.run(torch.nn.Linear(2, 2), Recipe("LP"), task, task, task, scores.accuracy)


def test_scores_by_hand():
    labels = torch.tensor([0, 0, 1, 1])
    guessed = torch.tensor([[2.0, 0], [0, 2.0], [0, 2.0], [0, 2.0]])  # one of class 0 is wrong
    assert scores.accuracy(guessed, labels) == 0.75
    # MCC = (TP TN - FP FN) / sqrt((TP+FP)(TP+FN)(TN+FP)(TN+FN)) = (2*1 - 1*0) / sqrt(3*2*2*1)
    assert scores.matthews(guessed, labels) == pytest.approx(2 / 12**0.5)
    assert scores.pearson(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([2.0, 4.0, 6.0])) == pytest.approx(1)
    assert scores.pearson(torch.ones(3, 1), torch.tensor([1.0, 2.0, 3.0])) == 0


def test_the_rates_rise_and_fall_in_straight_lines():
    assert [heads.factor(step, 10, 0.2) for step in range(10)] == pytest.approx(
        [0.5, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]
    )
    assert [heads.factor(step, 4, 0.0) for step in range(4)] == [1, 0.75, 0.5, 0.25]


def test_the_rate_is_chosen_on_the_validation_part_and_the_median_taken_on_the_test_part():
    cells = {}
    for rate, valid in ((0.1, 0.5), (0.2, 0.6), (0.3, 0.4)):
        for seed, test in enumerate((0.7, 0.9, 0.8)):
            settings = {"task": "t", "label": "WaveFT", "rate": rate, "seed": seed}
            result = {"valid": [valid, valid - 0.1], "test": [test if rate == 0.2 else 1.0, 0.95], "parameters": 5}
            cells[f"{rate}-{seed}"] = (Cell("c", settings), result)
    one = table.summary(cells, "valid")["tasks"]["t"]["WaveFT"]
    assert (one["rate"], one["median"], one["at_edge"]) == (0.2, 0.8, False)
    assert (one["last"], one["best_of_test"]) == (0.95, 0.95)
    assert table.summary(cells, "last")["tasks"]["t"]["WaveFT"]["median"] == 0.95


def test_folders_of_pictures_are_cropped_at_random_in_training_alone(image_folder):
    task = pictures.in_folders(image_folder, 8, [0.5] * 3, [0.5] * 3, 0)
    assert (len(task.train), len(task.valid), len(task.test), task.classes) == (11, 1, 8, 2)
    numbers = torch.arange(3)
    still, seen, other = (task.train.take(numbers, view)["pixel_values"] for view in (None, (0, 0), (0, 8)))
    assert still.shape == seen.shape == (3, 3, 8, 8)
    assert not torch.equal(seen, still)
    assert not torch.equal(seen, other)
    assert torch.equal(seen, task.train.take(numbers, (0, 0))["pixel_values"])
    test = task.test.take(numbers, (0, 0))["pixel_values"]
    assert torch.equal(test, task.test.take(numbers, None)["pixel_values"])
    (box,) = {pictures.crop((40, 30), 0, 5)}
    assert 0 <= box[0] < box[2] <= 40
    assert 0 <= box[1] < box[3] <= 30


def test_fashion_mnist_is_read_from_its_own_format(tmp_path):
    import gzip

    pixels = bytes(range(256)) * 7 + bytes(range(2 * 784 - 7 * 256)) if 2 * 784 >= 7 * 256 else bytes(2 * 784)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(16) + pixels[: 2 * 784]))
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(bytes(8) + bytes([3, 9])))
    held, labels = pictures.plain("fashion", tmp_path)
    assert held.shape == (2, 1, 28, 28)
    assert labels.tolist() == [3, 9]
    assert float(held[0, 0, 0, 0]) == pixels[0] / 127.5 - 1
    assert float(held[0, 0, 0, 27]) == pytest.approx(pixels[27] / 127.5 - 1)


def test_glues_files_are_read_by_their_columns(glue_folder):
    for task, form in texts.TASKS.items():
        found = texts.of_file(glue_folder / texts.FOLDERS[task] / "dev.tsv", form)
        assert len(found.texts) == 12, task
        assert found.texts[0][0 if task != "qnli" else 1] == "the film is good", task
        assert found.labels[:2].tolist() == ([5.0, 1.0] if task == "stsb" else [1, 0])
        assert len(found.texts[0]) == len(form.texts)
    with pytest.raises(UserError, match="got no file"):
        texts.of_file(glue_folder / "WNLI" / "dev.tsv", texts.TASKS["rte"])


def test_a_line_that_is_not_glues_is_named(tmp_path):
    path = tmp_path / "dev.tsv"
    path.write_text("sentence\tlabel\nthe film\t1\nno label\n")
    with pytest.raises(UserError, match="line 3"):
        texts.of_file(path, texts.TASKS["sst2"])


def small_methods():
    return "LP,full,LoRA 16,FourierFT,SHiRA,WaveFT"


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_classification_with_a_folder_of_ones_own(vit_folder, image_folder, tmp_path, monkeypatch, capsys):
    pytest.importorskip("peft")
    from experiments import classification

    shrunk = {name: {**one, "rates": one["rates"][:1]} for name, one in classification.FULL.items()}
    for one in shrunk.values():
        one["network"] = {key: min(value, 32) for key, value in one.get("network", {}).items()}
    monkeypatch.setattr(classification, "FULL", shrunk)
    arguments = ["classification", "--model", str(vit_folder), "--images", str(image_folder), "--seeds", "1"]
    arguments += ["--epochs", "2", "--out", str(tmp_path)]
    assert main(arguments) == 0
    made = json.loads((tmp_path / "summary.json").read_text())["tasks"]["shades"]
    assert list(made) == small_methods().split(",")
    assert made["WaveFT"]["parameters"] == made["SHiRA"]["parameters"] == made["FourierFT"]["parameters"] == 4 * 32
    assert (tmp_path / "classification.png").is_file()
    capsys.readouterr()
    assert main([*arguments, "--dry-run"]) == 0
    assert "to do" not in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_glue_with_a_folder_of_ones_own(roberta_folder, glue_folder, tmp_path, monkeypatch):
    pytest.importorskip("peft")
    from experiments import glue

    sizes = {"coefficients": 32, "n_frequency": 32, "network_dim": 2, "init_r": 2, "target_r": 1}
    shrunk = {name: {**one, "rates": one["rates"][:1]} for name, one in glue.FULL.items()}
    for one in shrunk.values():
        one["network"] = {key: sizes.get(key, value) for key, value in one.get("network", {}).items()}
    monkeypatch.setattr(glue, "FULL", shrunk)
    arguments = ["glue", "--encoder", str(roberta_folder), "--glue", str(glue_folder), "--seeds", "1", "--epochs", "2"]
    arguments += ["--batch", "2"]
    assert main([*arguments, "--methods", "LP,WaveFT", "--out", str(tmp_path)]) == 0
    made = json.loads((tmp_path / "summary.json").read_text())["tasks"]
    assert list(made) == list(texts.TASKS)
    assert made["cola"]["WaveFT"]["parameters"] == 4 * 32
    rest = "full,BitFit,Adapter 16,LoRA 8,AdaLoRA 8,SHiRA"  # a task is enough for them
    assert main([*arguments, "--methods", rest, "--tasks", "stsb", "--out", str(tmp_path / "rest")]) == 0


def test_every_small_method_is_tried_at_several_rates():
    """At one rate for all, the table of rated sentences put WaveFT 26 points under where its best rate is."""
    from experiments import classification, glue

    for methods in (classification.SMALL, classification.LITE0, glue.SMALL):
        assert {label for label, one in methods.items() if len(one["rates"]) == 1} == {"LP"}
        assert methods["SHiRA"]["rates"] == methods["WaveFT"]["rates"]


def test_what_is_missing_is_said_before_anything_is_measured(tmp_path, capsys, vit_folder):
    assert main(["glue", "--out", str(tmp_path)]) == 2
    assert main(["classification", "--model", str(vit_folder), "--out", str(tmp_path)]) == 2
    assert main(["nothing"]) == 2
    said = capsys.readouterr().out
    assert "expected --sentences FILE" in said
    assert "--model and --images together" in said
    assert "expected list or one of rank" in said
    assert not list(tmp_path.iterdir())


def test_a_pretrained_vit_is_kept_and_comes_back_the_same(tmp_path, monkeypatch):
    pixels = torch.randn(60, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(pictures, "plain", lambda data, folder: (pixels, torch.arange(60) % 4))
    monkeypatch.setitem(vits.SIZES, "digits", (8, 4, 2))
    vits.pretrained.cache_clear()
    first, task = vits.pretrained("digits", None, (8, 8, 8), tmp_path)
    vits.pretrained.cache_clear()
    monkeypatch.setattr(vits, "pretrain", lambda *_: pytest.fail("it is there already"))
    second, _ = vits.pretrained("digits", None, (8, 8, 8), tmp_path)
    vits.pretrained.cache_clear()
    fresh = vits.fresh("digits", 2).state_dict()
    for name, held in first.vit.state_dict().items():
        assert torch.equal(held, second.vit.state_dict()[name])
    assert any(not torch.equal(held, fresh[f"vit.{name}"]) for name, held in first.vit.state_dict().items())
    assert (task.classes, len(task.test)) == (2, 8)


def narrow_lite0():
    """Random weights of EfficientNet-Lite0's layers, 8 wide for its hundreds, by the package's names."""
    draw, held = torch.Generator().manual_seed(0), {}

    def layer(name, norm, *shape):
        held[f"{name}.weight"] = torch.randn(shape, generator=draw) / (shape[1] * shape[2] * shape[3]) ** 0.5
        held[f"{norm}.weight"] = 1 + torch.rand(shape[0], generator=draw)
        held[f"{norm}.running_var"] = 1 + torch.rand(shape[0], generator=draw)
        for part in ("bias", "running_mean"):
            held[f"{norm}.{part}"] = torch.randn(shape[0], generator=draw) / 4

    layer("_conv_stem", "_bn0", 8, 3, 3, 3)
    for number in range(lite0.lite0.BLOCKS):
        name, wide, kernel = f"_blocks.{number}.", 16 if number else 8, 5 if number % 2 else 3
        if number:
            layer(f"{name}_expand_conv", f"{name}_bn0", wide, 8, 1, 1)
        layer(f"{name}_depthwise_conv", f"{name}_bn1", wide, 1, kernel, kernel)
        layer(f"{name}_project_conv", f"{name}_bn2", 8, wide, 1, 1)
    layer("_conv_head", "_bn1", 16, 8, 1, 1)
    return held


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_lite0s_convolutions_train_in_the_small_form(tmp_path, monkeypatch):
    pytest.importorskip("peft")
    from experiments import classification

    pixels = torch.randn(80, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(pictures, "plain", lambda data, folder: (pixels, torch.arange(80) % 4))
    monkeypatch.setattr(lite0, "load", lambda classes: lite0.Classifier(narrow_lite0(), classes))
    monkeypatch.setattr(lite0, "is_installed", lambda: True)
    monkeypatch.setitem(classification.SIZES, "digits", (16, 8, 8))
    monkeypatch.setitem(classification.SCATTERED, "coefficients", 24)
    arguments = ["classification", "--body", "lite0", "--seeds", "1", "--epochs", "1", "--out", str(tmp_path)]
    assert main(arguments) == 0
    made = json.loads((tmp_path / "summary.json").read_text())["tasks"]["digits-lite0"]
    assert list(made) == list(classification.LITE0)
    assert made["LP"]["parameters"] == 0
    # 31 convolutions of 8 and 16: 15 that widen, 15 of 16 and the first of 8 that narrow, and the head
    rank_one = 15 * 24 + 15 * 24 + 16 + 24
    assert made["LoRA 1"]["parameters"] == rank_one
    assert made["WaveFT"]["parameters"] == made["SHiRA"]["parameters"] == rank_one
    classification.convolutions.cache_clear()


def test_without_lite0s_weights_the_small_form_is_the_vits(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lite0, "is_installed", lambda: False)
    assert main(["classification", "--dry-run", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "EfficientNet-Lite0 is left out" in said
    assert "digits-lite0--" not in said
    assert "digits--WaveFT--" in said
    assert main(["classification", "--methods", "LoRA 16", "--out", str(tmp_path)]) == 2


def test_the_digits_are_halved_by_class():
    pytest.importorskip("sklearn", reason="scikit-learn carries the digits")
    pixels, labels = pictures.plain("digits")
    lower, task = pictures.halves(pixels, labels, 0, (200, 200, 400))
    assert set(lower.labels.tolist()) == set(range(5))
    assert [len(part) for part in (task.train, task.valid, task.test)] == [200, 200, 400]
    assert set(task.test.labels.tolist()) == set(range(task.classes)) == set(range(5))


def test_rates_of_the_command_line_take_the_place_of_those_that_are_tried():
    methods = {"LoRA 1": {"method": "LoRA", "rates": [1.0, 2.0]}, "LP": {"method": "LP", "rates": [3.0]}}
    found = table.picked(methods, "LP, LoRA 1", "LoRA 1=0.5,1e-1;")
    assert list(found) == ["LP", "LoRA 1"]
    assert [one["rates"] for one in found.values()] == [[3.0], [0.5, 0.1]]
    assert methods["LoRA 1"]["rates"] == [1.0, 2.0]
    with pytest.raises(UserError, match="--rates: expected some of LoRA 1, LP, got LoRA"):
        table.picked(methods, "", "LoRA=1")
    with pytest.raises(UserError, match="--rates: expected NAME=RATE"):
        table.picked(methods, "", "LP=fast")


def test_a_bodys_own_methods_take_the_rates_that_are_theirs(tmp_path, capsys):
    asked = ["classification", "--small", "--body", "lite0", "--seeds", "1", "--dry-run", "--out", str(tmp_path)]
    assert main([*asked, "--methods", "LoRA 8"]) == 0
    assert not capsys.readouterr().out, "not one of this body's"
    assert main([*asked, "--methods", "LoRA 8,LoRA 1", "--rates", "LoRA 1=0.5;LoRA 8=0.1"]) == 0
    assert [line.split("--")[1:3] for line in capsys.readouterr().out.splitlines()] == [["LoRA-1", "0.5"]]
