"""What is said to whose device was too small, on the full-size SDXL of the estimates."""

import dataclasses

from tests.trainer.preflight.test_estimate import SIDE, facts, job, unet  # noqa: F401 - fixtures
from trainer.base import modelfacts
from trainer.preflight import levers, preflight

# ruff: noqa: F811 - the fixtures above


def test_levers_come_with_figures_the_largest_first(facts):
    made = job(
        train={"gradient_checkpointing": False, "mixed_precision": "no"},
        general={"batch_size": 4},
        network={"train_text_encoder": True},
    )
    found = levers.levers(made, facts, SIDE)
    savings = [float(text.split("about ")[1].split(" GB")[0]) for text in found]
    assert savings == sorted(savings, reverse=True)
    for part in ("gradient_checkpointing = true", "batch_size = 1", "resolution = 768", '"bf16"', "train_text_encoder"):
        assert any(part in text for text in found), part


def test_levers_that_are_pulled_are_not_told_again(facts):
    made = job(model={"pretrained_model_name_or_path": "b", "base_dtype": "nf4"}, general={"resolution": 512})
    assert levers.levers(made, facts, (512, 512)) == []
    assert levers.levers(job(), modelfacts.ModelFacts(), SIDE) == [], "of a hub id nothing is known"


def test_what_is_said_when_memory_runs_out(facts):
    made = job(train={"gradient_checkpointing": False})
    ready = preflight.Ready(made, (), (), SIDE, 32, facts)
    said = levers.out_of_memory(MemoryError("CUDA out of memory. Tried\nmore"), ready)
    assert said.startswith(
        "CUDA out of memory. Tried What would take less memory: [train] gradient_checkpointing = true"
    )
    assert "GB less); " in said
    unknown = dataclasses.replace(ready, facts=modelfacts.ModelFacts())
    assert "[general] batch_size = 1; a smaller" in levers.out_of_memory(MemoryError(), unknown)
