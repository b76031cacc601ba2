"""What pydantic finds, in a job's own words."""

import pytest
from pydantic import ValidationError

from trainer.job import dataschema, faults, schema, tables

GOOD = {"model": {"pretrained_model_name_or_path": "b"}, "datasets": [{"subsets": [{"image_dir": "d"}]}]}


def told(**sections):
    with pytest.raises(ValidationError) as raised:
        schema.Job.model_validate({**GOOD, **sections})
    return faults.describe_all(raised.value.errors())


@pytest.mark.parametrize(
    ("sections", "text"),
    [
        # a key of two kinds is told once
        ({"optimizer": {"lr_warmup_steps": "x"}}, "[optimizer] lr_warmup_steps: expected a number, got 'x'."),
        ({"train": {"seed": "7"}}, "[train] seed: expected a whole number, got '7'. Write 7 without quotes."),
        ({"train": {"ema_decay": 1}}, "[train] ema_decay: expected less than 1, got 1."),
        (
            {"train": {"torch_compile": "True"}},
            "[train] torch_compile: expected true or false, got 'True'. Write true.",
        ),
        (
            {"train": {"gradient_checkpointing": 1}},
            "[train] gradient_checkpointing: expected 'auto', true or false, got 1.",
        ),
        (
            {"loss": {"loss_type": "hubber"}},
            "[loss] loss_type: expected 'l2', 'l1', 'huber' or 'smooth_l1', got 'hubber'. Did you mean huber?",
        ),
        # places: lists count from 1, tables with free keys have theirs, prompts and subsets their numbers
        ({"validation": {"timesteps": [0, 1000]}}, "[validation] timesteps.2: expected less than 1000, got 1000."),
        (
            {"network": {"coefficients_pattern": {"^mid": 0}}},
            "[network] coefficients_pattern.^mid: expected at least 1, got 0.",
        ),
        ({"network": {"include": ["a", "("]}}, "[network] include.2: expected a regular expression, got '('"),
        ({"network": {"include": [r"(a)\1"]}}, "[network] include.1: expression"),
        ({"sample": {"prompts": ["a", {"promt": "b", "prompt": "c"}]}}, "[sample] prompts 2 promt: unknown key."),
        (
            {"datasets": [{"subsets": [{"image_dir": "a"}, {"image_dir": "b", "num_repeat": 2}]}]},
            "[[datasets.subsets]] 1.2 num_repeat: unknown key. Did you mean num_repeats?",
        ),
        (
            {"datasets": [{"batch_sise": 2, "subsets": [{"image_dir": "a"}]}]},
            "[[datasets]] 1 batch_sise: unknown key. Did you mean batch_size?",
        ),
        ({"datasets": {"subsets": []}}, "Write [[datasets]], in double brackets."),
        ({"datasets": [{"subsets": {"image_dir": "a"}}]}, "Write [[datasets.subsets]], in double brackets."),
        ({"model": 3}, "[model]: expected a table, got 3."),
        ({"config_version": 2}, "config_version: expected 1, got 2."),
        # where a key belongs
        ({"learning_rate": 1}, "learning_rate: this key belongs in [optimizer]."),
        ({"train": {"batch_size": 1}}, "[train] batch_size: this key belongs in [general] or [[datasets]]."),
        ({"trian": {}}, "trian: unknown section. Did you mean train?"),
        (
            {"training_arguments": {"seed": 1, "resolution": 512, "x": 1}},
            "training_arguments: unknown section. Of its keys write seed in [train] or [[sample.prompts]], resolution "
            "in [general] or [[datasets]].",
        ),
        # the paper's names, PEFT's and those of a LoRA, which the method of a job without one does not have
        ({"network": {"lambda": 25}}, "[network] lambda: write scaling in [network]"),
        ({"network": {"p": 2592}}, "[network] p: write coefficients in [network]"),
        ({"network": {"alpha": 8}}, "[network] alpha: write scaling in [network]"),
        ({"network": {"lora_alpha": 8}}, "[network] lora_alpha: write scaling in [network]"),
        ({"network": {"rank": 8}}, "[network] rank: write coefficients in [network]"),
        ({"network": {"r": 8}}, "[network] r: write coefficients in [network]"),
        (
            {"network": {"n_frequency": 8}},
            "[network] n_frequency: a key of method fourierft; the job's method is waveft, and coefficients",
        ),
        ({"network": {"wavelet_family": "db1"}}, "[network] wavelet_family: write wavelet in [network]"),
        ({"network": {"network_dim": 4}}, "[network] network_dim: a key of method lora, loha, lokr or vera"),
    ],
)
def test_one_fault(sections, text):
    (found,) = told(**sections)
    assert (
        found.startswith(text) if text.startswith(("[", "config", "learning", "trian", "training")) else text in found
    )


def test_faults_of_several_sections_come_together():
    found = told(train={"sede": 1, "threads": -1}, save={"nme": "x"}, sample={"sample_every_n_step": 1})
    assert len(found) == 4
    assert found[0].startswith("[train] threads") or found[0].startswith("[train] sede")


def test_a_location_is_walked_as_far_as_the_job_goes():
    assert tables.walk(("optimizer", "lr_warmup_steps", "float"))[0] == ("optimizer", "lr_warmup_steps")
    assert tables.walk(("network", "coefficients_pattern", "^a", "[key]"))[0] == (
        "network",
        "coefficients_pattern",
        "^a",
    )
    loc, field, table = tables.walk(("datasets", 0, "subsets", 1, "nonsense"))
    assert (loc[-1], field, table) == ("nonsense", None, dataschema.Subset)
