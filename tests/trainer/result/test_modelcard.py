import ast
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from trainer.base import precision
from trainer.job import schema
from trainer.pictures import captions
from trainer.result import modelcard, publish, report
from trainer.samples.prompts import Shot

SDXL = {
    "block_out_channels": (320, 640, 1280),
    "transformer_layers_per_block": [1, 2, 10],
    "cross_attention_dim": 2048,
    "layers_per_block": 2,
}
NASTY = 'a "quoted": #tag\\ | `tick` <b> [x] ä 犬'


@pytest.fixture
def make_parts(tmp_path):
    def make(config=SDXL, model="sd_xl_base_1.0.safetensors", prediction="epsilon", **metadata):
        table = {
            "model": {"pretrained_model_name_or_path": str(tmp_path / "secret" / model)},
            "save": {"output_dir": str(tmp_path), "output_name": "my dog"},
            "metadata": metadata,
            "datasets": [{"subsets": [{"image_dir": "secret", "class_tokens": "sks dog"}]}],
        }
        seen = SimpleNamespace(caption=captions.Caption(("private words",), captions.Rules()), is_reg=False, repeats=1)
        ready = SimpleNamespace(
            job=schema.Job.model_validate(table), pictures=(seen,), validation=(), resolution=(1024, 1024), steps=500,
            pictures_per_step=4, epoch_length=40,
        )  # fmt: skip

        class Tuning:
            numel = 1234

            def __len__(self):
                return 7

        base = SimpleNamespace(unet=SimpleNamespace(config=config), prediction=prediction)
        place = precision.Precision(torch.device("cpu"), torch.float32)
        return SimpleNamespace(ready=ready, forward=SimpleNamespace(place=place, base=base), tuning=Tuning())

    return make


def shot(prompt="sks dog", negative=""):
    return Shot(prompt, negative, 7, 64, 64, 2, 6.0, "euler_a")


def card(parts, shots=(), grid=False):
    folder = Path(parts.ready.job.save.output_dir)
    shown = [(one, folder / "samples" / f"my dog-after-0{number}.png") for number, one in enumerate(shots)]
    return modelcard.page(parts, report.Run([0.5] * 500), shown, folder / "my dog-grid.png" if grid else None)


def front(text):
    _, head, body = text.split("---\n", 2)
    return yaml.safe_load(head), body


def test_what_a_hub_reads(make_parts):
    parts = make_parts(metadata_license="CC-BY-4.0", metadata_tags="dog, robot,dog", trigger_phrase="sks")
    head, _ = front(card(parts, [shot(), shot("b", "blur")]))
    assert head == {
        "pipeline_tag": "text-to-image",
        "base_model": "stabilityai/stable-diffusion-xl-base-1.0",
        "base_model_relation": "adapter",
        "license": "cc-by-4.0",
        "tags": ["text-to-image", "stable-diffusion-xl", "waveft", "diffusers", "dog", "robot"],
        "instance_prompt": "sks",
        "widget": [
            {"text": "sks dog", "output": {"url": "samples/my%20dog-after-00.png"}},
            {
                "text": "b",
                "parameters": {"negative_prompt": "blur"},
                "output": {"url": "samples/my%20dog-after-01.png"},
            },
        ],
    }


def test_any_text_is_read_back_as_it_was(make_parts):
    parts = make_parts(metadata_tags=NASTY.replace(",", ""), trigger_phrase=f"{NASTY}\n\x85")
    head, body = front(card(parts, [shot(NASTY, NASTY)]))
    assert head["tags"][-1] == NASTY
    assert head["instance_prompt"] == f"{NASTY}\n\x85"
    assert head["widget"][0]["text"] == head["widget"][0]["parameters"]["negative_prompt"] == NASTY
    assert "\\`tick\\` &lt;b&gt; \\[x\\]" in body


def test_a_licence_that_the_hub_does_not_know():
    assert modelcard.license_lines("My Licence, v2") == ["license: other", 'license_name: "my-licence-v2"']
    assert modelcard.license_lines("") == []


def test_a_small_base_is_not_called_sdxl(make_parts):
    text = card(make_parts({"block_out_channels": [32]}, model="nano-sdxl"))
    head, body = front(text)
    assert "base_model" not in head
    assert "stable-diffusion-xl" not in head["tags"]
    assert "It fits nano-sdxl alone" in body
    assert "**diffusers**" in body
    assert "ComfyUI" not in body and "A1111" not in body, "which load no such base"
    assert "**ComfyUI**" in card(make_parts()) and "**A1111" in card(make_parts())
    assert "It fits SDXL 1.0" in card(make_parts())


def test_a_file_of_unknown_name_has_no_hub_id(make_parts):
    assert "base_model" not in front(card(make_parts(model="mine.safetensors")))[0]


def test_nothing_private_is_in_it(make_parts, tmp_path):
    text = card(make_parts(), [shot()], grid=True)
    assert str(tmp_path) not in text
    assert "secret" not in text
    assert "private words" not in text


def test_the_pictures_it_shows_are_those_that_go_up(make_parts):
    text = card(make_parts(), [shot("a [b] (c)")], grid=True)
    assert publish.pictures(text) == ["my dog-grid.png", "samples/my dog-after-00.png"]
    assert "![a \\[b\\] (c)](samples/" in card(make_parts(), [shot("a [b] (c)")])


def test_the_python_in_it_is_python(make_parts):
    [source] = re.findall(r"```python\n(.*?)```", card(make_parts(), [shot(NASTY)]), re.DOTALL)
    tree = ast.parse(source)
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    assert {"stabilityai/stable-diffusion-xl-base-1.0", "my dog.safetensors", NASTY} <= texts


def test_what_it_says_of_the_training(make_parts):
    text = card(make_parts(metadata_title="My | dog", metadata_description="A dog."))
    assert "# My \\| dog\n\nA dog.\n" in text
    assert "| steps | 500 of 500, each of 4 pictures: 2000 in all, 50.0 epochs |" in text
    assert "| adapter | 1234 coefficients in 7 layers, db1, scaling 25 |" in text
    assert re.search("waveft_core inspect .* --json`", text)
    assert "waveft_core inspect" not in card(make_parts(no_metadata=True))
    assert "v-prediction" in card(make_parts(prediction="v_prediction"))
    assert "v-prediction" not in text


def test_inline_code_holds_backticks():
    assert modelcard.code("a") == "`a`"
    assert modelcard.code("a `b`") == "`` a `b` ``"


HOSTILE = (
    "A dog.\n\n---\nlicense: mit\n---\n<script>alert(1)</script>\n# Heading\n- list\n1. first\n=====\n![x](y)\x1b[2J"
)


def test_free_text_is_shown_and_never_obeyed(make_parts):
    parts = make_parts()
    text = modelcard.prose(HOSTILE)
    assert "<script>" not in text and "\x1b" not in text
    assert not any(line.startswith(("---", "#", "- ", "1. ", "===", "![")) for line in text.splitlines())
    _, body = front(card(parts, []))
    assert body.count("\n---\n") == 0
    for hostile in (HOSTILE, "---", "=", "> x", "+ x", "~~~", "12) x", "```\nx"):
        line = modelcard.prose(hostile).splitlines()[0]
        assert not line.startswith(("---", "=", ">", "+", "~~~", "12)", "```")), line
