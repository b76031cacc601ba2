"""Which prompts are asked, and what a CLIP reads in the place of the trigger."""

import pytest

from trainer.evaluation import asking
from trainer.job import config
from trainer.preflight import preflight


@pytest.fixture
def asked(light_job, write_job):
    """The function that changes the job and returns it with the prompts that are asked."""

    def run(**sections):
        for name, values in sections.items():
            light_job.setdefault(name, {}).update(values)
        ready = preflight.check(config.load(write_job(light_job)))
        return ready, asking.asked(ready.job, ready.pictures)

    return run


def test_by_default_the_one_caption_is_the_subject_and_its_class_is_plain(asked):
    _, questions = asked()
    assert [one.number for one in questions] == list(range(14))
    assert [one.prompt for one in questions][:3] == ["sks robot", "sks robot on the grass", "sks robot in the snow"]
    assert [one.read for one in questions][:2] == ["a robot", "a robot on the grass"]
    plain = [one for one in questions if one.is_plain]
    assert [one.prompt for one in plain][-2:] == ["a robot", "a robot on the beach"]
    assert all(one.read == one.prompt for one in plain)
    assert not any("sks" in one.prompt for one in plain)


@pytest.mark.parametrize(
    ("prompt_text", "read"),
    [
        ("class", ["an apple by night", "red"]),
        ("without_trigger", ["by night", "red"]),
        ("full", ["zjw by night", "red"]),
    ],
)
def test_what_is_read_for_the_trigger(asked, prompt_text, read):
    _, questions = asked(
        metadata={"trigger_phrase": "zjw"},
        evaluation={
            "subject_prompts": ["{trigger} by night", "red"], "plain_prompts": ["{class}"], "class_word": "apple",
            "prompt_text": prompt_text,
        },
    )  # fmt: skip
    assert [one.read for one in questions[:2]] == read
    assert questions[2].prompt == "an apple"


def test_a_prompt_that_writes_the_trigger_out_is_read_the_same(asked):
    _, questions = asked(
        metadata={"trigger_phrase": "sks robot"}, evaluation={"subject_prompts": ["sks robot at sea", "{trigger}"]}
    )
    assert [one.read for one in questions[:2]] == ["a robot at sea", "a robot"]


def test_a_run_without_trigger_is_asked_its_captions(asked, tmp_path):
    for number, text in enumerate(("red house", "blue house", "red house")):
        (tmp_path / "pictures" / f"{number:02d}.txt").write_text(text)
    _, questions = asked()
    assert [(one.prompt, one.read) for one in questions if not one.is_plain] == [
        ("red house", "red house"),
        ("blue house", "blue house"),
    ]
    assert not any("{class}" in one.prompt for one in questions)


def test_every_prompt_is_drawn_with_the_same_seeds(asked):
    ready, questions = asked(evaluation={"images_per_prompt": 3, "first_seed": 7}, sample={"sample_steps": 2})
    shots = asking.shots(ready.job, questions, ready.resolution)
    assert sorted({seed for _, seed in shots}) == [7, 8, 9]
    assert len(shots) == 3 * len(questions)
    assert all(shot.seed == seed and shot.prompt == questions[number].prompt for (number, seed), shot in shots.items())
    assert {shot.steps for shot in shots.values()} == {2}
