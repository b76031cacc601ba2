import json
import subprocess
import sys
import textwrap

import pytest

from trainer.job import schema
from trainer.samples import prompts
from trainer.system import commandline
from trainer.system.errors import UserError

KOHYA_TXT = """
# prompt 1
masterpiece, 1girl, in white shirts --n low quality, worst quality, bad anatomy --w 768 --h 1024 --d 1 --l 7.5 --s 28

  a dog -- and a cat --ss K_Euler --D 7
# the next has no options
a plain one
"""


def job(**sample):
    trigger = sample.pop("trigger", "")
    return schema.Job.model_validate(
        {
            "model": {"pretrained_model_name_or_path": "base"},
            "metadata": {"trigger_phrase": trigger},
            "sample": sample,
            "datasets": [{"subsets": [{"image_dir": "pictures"}]}],
        }
    )


def write(folder, name, content):
    path = folder / name
    path.write_text(textwrap.dedent(content), encoding="utf-8")
    return path


def test_a_line_in_kohyas_syntax(tmp_path):
    first, second, third = prompts.read(write(tmp_path, "p.txt", KOHYA_TXT))
    assert first == schema.Prompt(
        prompt="masterpiece, 1girl, in white shirts",
        negative_prompt="low quality, worst quality, bad anatomy",
        width=768,
        height=1024,
        seed=1,
        guidance_scale=7.5,
        sample_steps=28,
    )
    assert second == schema.Prompt(prompt="a dog -- and a cat", sample_sampler="euler", seed=7)
    assert third == schema.Prompt(prompt="a plain one")


def test_tables_over_defaults(tmp_path):
    path = write(
        tmp_path,
        "p.toml",
        """
        [prompt]
        width = 512
        scale = 12
        sample_steps = 25
        [[prompt.subset]]
        prompt = "a dog"
        seed = 1
        [[prompt.subset]]
        prompt = "a cat"
        width = 768
        """,
    )
    dog = schema.Prompt(prompt="a dog", width=512, guidance_scale=12.0, sample_steps=25, seed=1)
    cat = schema.Prompt(prompt="a cat", width=768, guidance_scale=12.0, sample_steps=25)
    assert prompts.read(path) == [dog, cat]


def test_a_table_alone_and_a_list_of_tables_are_prompts_too(tmp_path):
    assert prompts.read(write(tmp_path, "a.toml", '[prompt]\nprompt = "x"')) == [schema.Prompt(prompt="x")]
    assert prompts.read(write(tmp_path, "b.toml", '[[prompt]]\nprompt = "x"')) == [schema.Prompt(prompt="x")]


def test_json_holds_tables_and_lines(tmp_path):
    entries = [{"prompt": "a", "scale": 5, "sample_sampler": "DDIM"}, "b --d 3"]
    expected = [
        schema.Prompt(prompt="a", guidance_scale=5.0, sample_sampler="ddim"),
        schema.Prompt(prompt="b", seed=3),
    ]
    assert prompts.read(write(tmp_path, "p.json", json.dumps(entries))) == expected


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        (
            "p.txt",
            "a\n\na --fs 3",
            "p.txt, line 3: expected one of --n, --w, --h, --d, --l, --s, --ss, got --fs. Remove",
        ),
        ("p.txt", "a --g 3", "p.txt, line 1: expected one of .*, got --g. Write --l"),
        ("p.txt", "a --w 4", "line 1: --w: expected at least 8, got 4"),
        ("p.txt", "a --w 7.5", "line 1: --w: expected a whole number, got '7.5'"),
        ("p.txt", "a --d -1", "line 1: --d: expected at least 0, got -1"),
        ("p.txt", "a --l high", "line 1: --l: expected a number, got 'high'"),
        ("p.txt", "a --n", "line 1: --n: expected a value behind it, got none"),
        ("p.txt", "a --d 1 --d 2", "line 1: --d: expected once, got twice"),
        ("p.txt", "a --ss nosuch", "line 1: --ss: expected one of euler_a, .*, got 'nosuch'"),
        ("p.txt", "--w 512", "line 1: expected a prompt before its options, got none"),
        ("p.txt", "# nothing\n", "holds no prompt"),
        ("p.csv", "a", "expected a .txt, .toml or .json file, got .csv"),
        ("p.toml", "[prompt]\nwidth = 64", "p.toml, prompt 1: prompt: required, but not given"),
        ("p.toml", '[prompt]\nprompt = "a"\nsed = 1', "prompt 1: sed: unknown key. Did you mean seed?"),
        ("p.toml", '[prompt]\nprompt = "a"\nscale = -1', "prompt 1: scale: expected at least 0, got -1"),
        ("p.toml", '[prompt]\nprompt = "a"\nscale = 1\nguidance_scale = 2', "scale: expected once"),
        ("p.toml", "[prompt]\nprompt = a", 'p.toml: .*line 2.* Put the text in quotes: "a"'),
        ("p.toml", 'x = "a"', r"p.toml: expected a table \[prompt\]"),
        ("p.json", '{"prompt": "a"}', "p.json: expected a list of prompts, got dict"),
        ("p.json", "[3]", "p.json, prompt 1: expected a table or a text, got 3"),
        ("p.json", "[", "p.json: expected JSON, got:"),
    ],
)
def test_what_is_wrong_with_a_file(tmp_path, name, content, told):
    with pytest.raises(UserError, match=told):
        prompts.read(write(tmp_path, name, content))


def test_all_faults_of_a_file_come_together(tmp_path):
    with pytest.raises(UserError) as raised:
        prompts.read(write(tmp_path, "p.txt", "a --x 1 --w q\nb\nc --s 0"))
    assert [fault.split(":")[0] for fault in raised.value.problems] == ["p.txt, line 1", "p.txt, line 3"]


def test_no_file_and_no_text(tmp_path):
    with pytest.raises(UserError, match="not found"):
        prompts.read(tmp_path / "none.txt")
    (tmp_path / "p.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(UserError, match="UTF-8"):
        prompts.read(tmp_path / "p.txt")


def test_a_shot_has_everything_filled_in(tmp_path):
    table = {
        "prompts": ["{trigger} a", {"prompt": "b", "negative_prompt": "[trigger]", "seed": 7, "height": 32}],
        "sample_prompts": str(write(tmp_path, "p.txt", "c --w 48 --l 1 --s 3 --ss ddim")),
        "samples_per_prompt": 2,
        "width": 24,
        "sample_steps": 5,
        "trigger": "sks",
    }
    found = prompts.shots(job(**table), (16, 8))
    assert found[0] == prompts.Shot("sks a", "", 42, 24, 8, 5, 6.0, "euler_a")
    assert [shot.seed for shot in found] == [42, 43, 7, 8, 42, 43]
    assert found[2] == prompts.Shot("b", "sks", 7, 24, 32, 5, 6.0, "euler_a")
    assert found[4] == prompts.Shot("c", "", 42, 48, 8, 3, 1.0, "ddim")


def test_no_guidance_is_not_taken_for_not_said():
    [shot] = prompts.shots(job(prompts=[{"prompt": "a", "guidance_scale": 0}]), (16, 16))
    assert shot.guidance_scale == 0


def test_a_good_job_has_no_faults():
    assert prompts.faults(job(prompts=["{trigger}"], trigger="sks", width=64), (64, 64), 16) == []


def test_sizes_and_triggers(tmp_path):
    path = write(tmp_path, "p.txt", "c\nd --w 40\n[trigger]")
    made = job(prompts=[{"prompt": "a", "height": 30}, "b {trigger}"], sample_prompts=str(path), width=20)
    assert prompts.faults(made, (64, 64), 16) == [
        "[sample] width: expected a multiple of 16 px, got 20. Write 16.",
        "[sample] prompts 1 height: expected a multiple of 16 px, got 30. Write 32.",
        "p.txt, line 2 width: expected a multiple of 16 px, got 40. Write 32.",
        "[sample] prompts 2: asks for the trigger, but [metadata] trigger_phrase is empty. Set it.",
        "p.txt, line 3: asks for the trigger, but [metadata] trigger_phrase is empty. Set it.",
    ]


def test_a_file_that_is_not_there_is_a_fault_beside_others(tmp_path):
    found = prompts.faults(job(prompts=["{trigger}"], sample_prompts=str(tmp_path / "none.txt")), (64, 64), 16)
    assert len(found) == 2
    assert found[0].startswith("[sample] sample_prompts: prompt file")


def test_a_sampler_whose_package_is_missing(monkeypatch):
    monkeypatch.setattr(prompts.importlib.util, "find_spec", lambda name: None)
    told = 'sampler "lms": needs scipy, which is not installed. Choose another, or run: ' + commandline.install("scipy")
    assert prompts.faults(job(prompts=["a"], sample_sampler="LMS"), (64, 64), 16) == [told]
    assert prompts.faults(job(prompts=["a"]), (64, 64), 16) == []


def test_torch_is_not_needed():
    code = "import sys, trainer.samples.prompts; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
