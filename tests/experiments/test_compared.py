"""The experiments on SDXL, on a tiny random one: each goes through the trainer's comparison, and through it alone."""

import argparse
import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch

import waveft_core
from experiments import (
    ablations,
    budget,
    compared,
    cost,
    dreambooth,
    dreambooths,
    jobs,
    registry,
    rows,
    seeds,
    variants,
)
from experiments.__main__ import main
from tests.trainer.conftest import make_model, make_pictures, make_pipeline  # noqa: F401 - a fixture
from trainer.comparison import doing
from trainer.comparison.summary import Point, Results

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # diffusers' Euler scheduler
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning"),  # of PEFT's SHiRA
]
CATALOGUE = """Classes

subject_name,class
dog6,dog
red_bowl,bowl

Prompts

Object Prompts

prompt_list = [
'a {0} {1} in the jungle'.format(unique_token, class_token),
'a red {0} {1}'.format(unique_token, class_token)
]

Live Subject Prompts

prompt_list = [
'a {0} {1} wearing a red hat'.format(unique_token, class_token)
]
"""
ON_SDXL = ("dreambooth", "budget", "wavelets", "ablations", "seeds", "lambda")


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "tiny-sdxl"
    make_pipeline(folder)
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    make_pictures(folder / "dog6", 4)
    (folder / "prompts_and_classes.txt").write_text(CATALOGUE)
    return folder


@pytest.fixture
def arguments(sdxl, photos, make_model, tmp_path):  # noqa: F811 - the fixture above
    """The options of the full form, in a hurry."""
    keys = (
        "train.max_train_steps=1", "train.gradient_accumulation_steps=1", "train.device=cpu", "general.resolution=16",
        "sample.sample_steps=1", "evaluation.images_per_prompt=1", 'evaluation.plain_prompts=["a cup"]',
        f"evaluation.image_model={make_model('vit')}",
    )  # fmt: skip
    sets = [text for key in keys for text in ("--set", key)]
    return ["--base", str(sdxl), "--photos", str(photos), "--out", str(tmp_path / "out"), *sets]


@pytest.fixture
def brief(monkeypatch):
    """At the tiny base's size, and few rows a table; every kind of variant is left."""
    monkeypatch.setattr(variants, "FULL_P", 16)
    for method, keys in dreambooth.SMALL_KEYS.items():
        monkeypatch.setitem(dreambooth.SMALL_KEYS, method, {key: min(value, 16) for key, value in keys.items()})
    settings = dreambooth.settings
    monkeypatch.setattr(dreambooth, "settings", lambda name, small: settings(name, True))
    monkeypatch.setattr("experiments.budget.SPARSE", (1,))
    monkeypatch.setattr("experiments.budget.WHOLE", (1,))
    monkeypatch.setattr("experiments.wavelets.WAVELETS", ("db1", "sym2"))
    monkeypatch.setattr("experiments.seeds.SEEDS", 2)
    monkeypatch.setattr("experiments.lambdas.VALUES", (5, 25))
    monkeypatch.setattr("experiments.dreambooth.METHODS", ("waveft", "adalora", "fourierft"))


QUICK = ("ablations",)  # the others go the same way, with other rows


@pytest.mark.parametrize("name", [pytest.param(one, marks=() if one in QUICK else pytest.mark.slow) for one in ON_SDXL])
def test_a_tiny_sdxl_goes_through(name, arguments, brief, tmp_path, capsys):
    if name in ("dreambooth", "budget"):
        pytest.importorskip("peft")
    experiment = registry.BY_NAME[name]
    if name == "dreambooth":  # AdaLoRA takes ranks away between its first and its last step
        arguments = [*arguments, "--steps", "6"]
    if name == "wavelets":
        arguments = [*arguments, "--set", "validation.validation_split=0.25"]
    assert main([name, *arguments]) == 0
    out = tmp_path / "out"
    rows = json.loads((out / "summary.json").read_text())
    labels = [row["label"] for row in rows["rows"]]
    assert labels[0] == "base"
    assert len(labels) > 2
    assert not rows["failures"]
    assert not rows["missing"]
    assert all("trained" in row["figures"] and "drift" in row["figures"] for row in rows["rows"])
    assert (out / f"{experiment.NAME}.png").is_file()
    if name == "wavelets":  # the base's loss, and each one's after its training
        losses = [row["figures"]["loss"][0] for row in rows["rows"]]
        assert len(set(losses)) > 1
        (told,) = {json.loads(path.read_text())["train"]["validation"][0][1] for path in (out / "cells").glob("*.json")}
        assert losses[0] == pytest.approx(told, abs=1e-6)
    cell = json.loads(next((out / "cells").glob("*.json")).read_text())
    assert cell["versions"]["torch"]
    assert isinstance(cell["seed"], int)
    capsys.readouterr()
    assert main([name, *arguments, "--dry-run"]) == 0
    assert "to do" not in capsys.readouterr().out, "nothing is done twice"
    if name == "ablations":
        check_ablations(out)


def check_ablations(out):
    start = waveft_core.load(out / "bases" / "gaussian.safetensors")
    values = torch.cat([layer.values for layer in start.layers.values()])
    assert float(values.std()) == pytest.approx(0.01, rel=0.2)
    held = {row["label"]: row for row in json.loads((out / "summary.json").read_text())["rows"]}
    # lambda 25 times noise in every layer: the pictures are nothing that the base would draw
    drifts = {label: row["figures"]["drift"][0] for label, row in held.items()}
    assert drifts["waveft gaussian start"] == max(drifts.values()) > 0
    assert (out / "bases" / "permuted" / "model_index.json").is_file()


@pytest.mark.parametrize("name", ["coverage", "interference", "energy"])
def test_a_tiny_sdxl_gives_its_gradients(name, arguments, brief, tmp_path):
    assert main([name, *arguments, "--set", "network.coefficients=16"]) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    if name == "coverage":
        source = summary["sources"]["pictures-dog6"]
        assert source["curve_identity"][-1] == 1
        assert 0.09 < source["rho"] <= 0.11
        assert source["layers"] > 8
    elif name == "interference":
        source = summary["sources"]["pictures-dog6"]
        assert source["rms_haar"] == pytest.approx(1, rel=1e-3)
        assert source["peft_fourier"] < source["peft_haar"] / 5
    else:
        assert sum(summary["adapters"]["dog6"]["mean"].values()) == pytest.approx(1, abs=1e-3)


def test_a_text_encoders_gradients_are_a_source_too(roberta_folder, tmp_path):
    lines = [
        f"{at}\t{rating}\tthe film is {word} a plot" for at in range(40) for word, rating in (("good", 2), ("bad", -2))
    ]
    sentences = tmp_path / "rated.txt"
    sentences.write_text("\n".join(lines))
    from experiments import coverage, gradients
    from experiments import sentences as module

    texts, ratings = module.rated(sentences, 64)
    found = gradients.of_sentences(roberta_folder, texts, ratings, module.ATTENTION)
    assert len(found) == 8
    assert any(float(held.abs().max()) > 0 for held in found.values())
    assert coverage.of_layers(found)["layers"] == 8
    check_archive(module, tmp_path, sentences.read_bytes())
    with pytest.raises(module.UserError, match="line 2"):
        sentences.write_text("1\t2\tgood film\nno tabs\n")
        module.rated(sentences, None)


def check_archive(module, folder, text):
    """The same out of the package's own archive: a tar in a zip."""
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as tar:
        told = tarfile.TarInfo(f"hutto_ICWSM_2014/{module.RATED}")
        told.size = len(text)
        tar.addfile(told, io.BytesIO(text))
    with zipfile.ZipFile(folder / module.ARCHIVE, "w") as outer:
        outer.writestr(f"vaderSentiment-0.5/additional_resources/{module.INSIDE}", inner.getvalue())
    assert module.rated(folder / module.ARCHIVE, None) == module.rated(folder / "rated.txt", None)
    with zipfile.ZipFile(folder / "other.zip", "w") as outer:
        outer.writestr("a.txt", "")
    with pytest.raises(module.UserError, match="got neither"):
        module.rated(folder / "other.zip", None)


@pytest.mark.slow
def test_cost_measures_every_method(tmp_path, monkeypatch):
    pytest.importorskip("peft")
    cells = cost.Cost().cells

    def tiny(self, options):
        (cell,) = cells(options)
        cell.settings.update(width=64, context=32, tokens=16, coefficients=32, rounds=2)
        return [cell]

    monkeypatch.setattr(cost.Cost, "cells", tiny)
    assert main(["cost", "--small", "--out", str(tmp_path)]) == 0
    (case,) = json.loads((tmp_path / "summary.json").read_text())["cases"].values()
    assert not case["failed"]
    assert set(case["methods"]) == set(cost.METHODS)
    assert all(one["peak_mib"] > 0 for one in case["methods"].values())


def test_dreambooths_list_gives_class_prompts_and_the_papers_token(photos, arguments):
    options = argparse.Namespace(small=False, base=arguments[1], photos=photos, metrics=None, overrides=[])
    ((name, job),) = dreambooths.subjects(jobs.job(options), photos)
    assert name == "dog6"
    assert job.metadata.trigger_phrase == "zjw dog"
    assert job.evaluation.subject_prompts == ["a {trigger} wearing a red hat"]
    assert dreambooths.read(photos).prompts("red_bowl") == ["a {trigger} in the jungle", "a red {trigger}"]
    assert job.datasets[0].subsets[0].class_tokens == "a {trigger}"
    assert dreambooths.read(photos / "dog6") is None


def test_a_folder_of_metrics_names_the_networks_that_are_in_it(tmp_path):
    (tmp_path / "dinov2-base").mkdir()
    assert jobs.metrics(tmp_path) == ["evaluation.preset=paper", f"evaluation.image_model={tmp_path / 'dinov2-base'}"]
    with pytest.raises(jobs.UserError, match="expected one of dinov2-base"):
        jobs.metrics(tmp_path / "dinov2-base")
    with pytest.raises(jobs.UserError, match="expected --photos"):
        jobs.job(argparse.Namespace(small=False, base="x", photos=None, metrics=None, overrides=[]))


def test_published_variants_are_the_jobs_of_the_paper():
    one = dreambooth.published("waveft", False)
    assert (one.keys["coefficients"], one.keys["scaling"], one.rates) == (2592, 25.0, (1e-4,))
    assert dreambooth.published("vera", False).rates == (3.2e-3,)
    assert dreambooth.published("fourierft", False).keys["init_weights"] is False
    job = jobs.job(argparse.Namespace(small=True, base=None, photos=None, metrics=None, overrides=[]))
    tuned = dreambooth.tuned("fourierft", True, job)
    assert "init_weights" not in tuned.keys or tuned.keys["init_weights"]
    assert len(tuned.rates) == 3


@pytest.mark.parametrize("name", ON_SDXL)
def test_the_small_form_needs_nothing_and_every_variant_is_a_job(name, tmp_path, capsys):
    assert main([name, "--small", "--dry-run", "--out", str(tmp_path / "out")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 5
    assert all(line.endswith("to do") for line in lines)
    assert not (tmp_path / "out").exists()


PAIR = [variants.Variant(label, "waveft", {}, (1e-3,)) for label in ("one", "two")]


def trained(worths):
    """Trainings of two variants, the second better by a gain: subject -> (seed -> the first's worth, gain)."""
    points = [
        Point((subject, seed), label, 1e-3, step, {"trained": value + (label == "two") * gain}, "c")
        for subject, (seeds, gain) in worths.items()
        for seed, value in seeds.items()
        for label in ("one", "two")
        for step in (1, 2)
    ]
    return Results(points, {subject: {"trained": 0.1} for subject in worths}, methods=["one", "two"])


def test_the_table_pairs_a_variant_with_the_first_by_subject():
    worths = {"dog": ({0: 0.1, 1: 0.3}, 0.1), "bowl": ({0: 0.6}, 0.3), "cup": ({0: 0.4}, 0.2)}
    base, first, second = rows.table(trained(worths), PAIR)["rows"]
    assert base["figures"]["trained"][0] == pytest.approx(0.1)
    assert first["differences"] == {}
    assert second["steps"] == 2
    assert second["figures"]["trained"][0] == pytest.approx(0.6)
    assert second["each"]["trained"] == pytest.approx([0.3, 0.9, 0.6]), "a subject's seeds are one of what is drawn"
    far = 4.303 * 0.1 / 3**0.5  # Student's, of differences 0.1, 0.3, 0.2
    assert second["differences"]["trained"] == pytest.approx([0.2, 0.2 - far, 0.2 + far], abs=1e-4)


def test_of_two_seeds_the_table_has_both_and_no_interval():
    base, first, second = rows.table(trained({"dog": ({0: 0.1, 1: 0.3}, 0.1)}), PAIR)["rows"]
    assert base["figures"]["trained"] == [0.1, None, None]
    assert first["figures"]["trained"] == [0.2, None, None]
    assert first["each"]["trained"] == [0.1, 0.3]
    assert second["differences"]["trained"] == [0.1, None, None]


def test_words_say_how_far_from_the_first_the_loss_is_where_chance_is_known():
    results = trained({"dog": ({0: 0.1, 1: 0.3, 2: 0.2}, 0.1)})
    for point in results.points:
        point.values["loss"] = point.values["trained"] + (point.method == "two") * 0.001 * point.pair[1]
    _, first, second = rows.words(rows.table(results, PAIR))
    assert first == "one at 0.001: loss 0.2000, trained 0.200"
    assert second.endswith("; loss +0.1010 [+0.0985, +0.1035] from the first's")


def test_seeds_takes_as_many_draws_as_asked(tmp_path, capsys):
    assert main(["seeds", "--small", "--dry-run", "--draws", "3", "--out", str(tmp_path)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2 * 3


@pytest.mark.parametrize(("only", "count"), [("published", 8), ("tuned", 24)])
def test_dreambooth_trains_one_of_its_two_ways_where_that_is_asked_for(only, count, tmp_path, capsys):
    assert main(["dreambooth", "--small", "--dry-run", "--only", only, "--out", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == count
    assert all(f"-{only}--" in line for line in lines)


def test_variances_by_hand():
    def row(label, value):
        return {"label": label, "rate": 1, "figures": {"trained": [value, None, None]}, "each": {"trained": [value]}}

    rows = {"rows": [row("waveft 0", 1.0), row("waveft 1", 3.0), row("shira 0", 1.0), row("shira 1", 2.0)]}
    found = seeds.spread(rows)
    assert found["waveft"]["trained"] == {"mean": 2.0, "variance": 2.0, "draws": 2}
    assert found["shira"]["trained"]["variance"] == 0.5
    assert "larger with WaveFT" in seeds.Seeds().lines(rows)[0]


def test_budget_draws_loras_three_rates_as_three_lines():
    job = jobs.job(argparse.Namespace(small=True, base=None, photos=None, metrics=None, overrides=[]))
    found = budget.Budget().variants(argparse.Namespace(small=True, base=None), job)
    held = [{"label": one.label, "rate": rate} for one in found for rate in one.rates]
    lines, far = {}, max(row["rate"] for row in held if row["label"].startswith("lora "))
    for row in held:
        line, rank = budget.place(row, far)
        lines.setdefault(line, []).append(rank)
    assert set(lines) == {"WaveFT", "SHiRA", budget.ONE_RATE, budget.BETWEEN, budget.AS_FAR}
    assert lines[budget.ONE_RATE] == lines[budget.BETWEEN] == lines[budget.AS_FAR] == [1, 2, 3]
    assert lines["WaveFT"] == lines["SHiRA"] == list(budget.SPARSE)


def test_a_gaussian_start_is_of_the_seed_alone(sdxl, photos, arguments, tmp_path):
    sets = arguments[arguments.index("--set") :][1::2]
    options = argparse.Namespace(
        small=False, base=str(sdxl), photos=photos, metrics=None, overrides=[*sets, "network.coefficients=16"]
    )
    ((_, job),) = dreambooths.subjects(jobs.job(options), photos)
    job = jobs.placed(job, tmp_path / "run")
    for name in ("one", "two"):
        ablations.gaussian(job, tmp_path / f"{name}.safetensors")
    one, two = (tmp_path / f"{name}.safetensors" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def test_a_cell_whose_job_changed_is_another(arguments, tmp_path):
    place = doing.Place(Path(tmp_path))
    options = argparse.Namespace(small=True, base=None, photos=None, metrics=None, overrides=[])
    job = jobs.job(options)
    one = compared.cell("robot", job, variants.Variant("a", "waveft", {"coefficients": 8}, (1e-3,)), 1e-3, 0, tmp_path)
    two = compared.cell("robot", job, variants.Variant("a", "waveft", {"coefficients": 9}, (1e-3,)), 1e-3, 0, tmp_path)
    assert one.digest != two.digest
    assert not doing.is_done(place, one)
