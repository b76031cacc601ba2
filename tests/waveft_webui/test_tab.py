"""The WaveFT tab: the toolbox on the UI's own files, and the page in front of it."""

import contextlib
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.waveft_webui import stand_in
from tests.waveft_webui.stand_in import CROSS, SHAPES, TE1, TE2, UNET
from waveft_core import WaveFTError, combine, load
from waveft_webui import extension, tab
from waveft_webui.describing import described, preformatted
from waveft_webui.gate import Gate
from waveft_webui.places import LOADED, Places
from waveft_webui.workshop import BUDGETS, Workshop

KEYS = {
    UNET: "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight",
    CROSS: "model.diffusion_model.output_blocks.0.1.transformer_blocks.0.attn2.to_k.weight",
    TE1: "conditioner.embedders.0.transformer.text_model.encoder.layers.0.self_attn.q_proj.weight",
    TE2["out"]: "conditioner.embedders.1.model.transformer.resblocks.0.attn.out_proj.weight",
}
FUSED = "conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight"
UNTOUCHED = "first_stage_model.decoder.conv_in.weight"


def by_layer(path):
    """Returns the weights of a checkpoint by layer name, the fused ones apart."""
    held = load_file(str(path))
    found = {layer: held[key] for layer, key in KEYS.items()}
    return found | dict(zip((TE2[part] for part in "qkv"), held[FUSED].chunk(3), strict=True))


def parse_prompt(text):
    """Splits as the UIs do."""
    found = {}

    def take(match):
        found.setdefault(match[1], []).append(stand_in.Params(match[0]))
        return ""

    return re.sub(r"<(\w+):([^>]+)>", take, text), found


@pytest.fixture
def models(tmp_path):
    """The UI's `sd_models`, with a checkpoint that is loaded and another one."""
    folder = tmp_path / "Stable-diffusion"
    folder.mkdir()
    torch.manual_seed(1)
    tensors = {key: torch.randn(SHAPES[layer]) for layer, key in KEYS.items()}
    tensors |= {FUSED: torch.randn(24, 8), UNTOUCHED: torch.randn(3, 3)}
    save_file(tensors, str(folder / "base.safetensors"))
    save_file(
        {key: held + 0.1 * torch.randn_like(held) for key, held in tensors.items()}, str(folder / "fine.safetensors")
    )
    made = SimpleNamespace(model_path=str(folder), checkpoint_aliases={}, select_checkpoint=None)

    def list_models():
        made.checkpoint_aliases = {
            path.name: SimpleNamespace(filename=str(path)) for path in folder.glob("*.safetensors")
        }

    made.list_models, made.checkpoint_tiles = list_models, lambda: sorted(made.checkpoint_aliases)
    made.select_checkpoint = lambda: made.checkpoint_aliases.get("base.safetensors")
    list_models()
    return made


@pytest.fixture
def work(monkeypatch, tmp_path, models):
    """The tools, on a folder of LoRAs that is `write`'s."""
    monkeypatch.setitem(sys.modules, "network", stand_in.network_module())
    networks = stand_in.networks_module(tmp_path)
    shared = SimpleNamespace(cmd_opts=SimpleNamespace(ckpt_dir=None, lora_dir=str(tmp_path)))
    return Workshop(Places(shared, models, networks, Gate(None, networks).entry), parse_prompt)


def nothing(*_):
    """What a tool tells of its progress, unheard."""


def test_a_merge_is_the_cores_own_with_the_tags_strengths_and_multipliers(work, write, models, tmp_path):
    dog, cat = write("dog"), write("cat", seed=5)
    told = []
    report = work.merge(LOADED, "<lora:dog:te=0.5:unet=1.5> <lora:cat:0.3>", "both", lambda *now: told.append(now))
    out = tmp_path / "Stable-diffusion" / "both.safetensors"
    expected = by_layer(tmp_path / "Stable-diffusion" / "base.safetensors")
    for layer in expected:
        together = combine([(dog, 0.5 if layer.startswith("lora_te") else 1.5), (cat, 0.3)])
        close = expected[layer].double() + together.delta(layer, torch.float64)
        assert torch.allclose(by_layer(out)[layer].double(), close, rtol=0, atol=2**-21)
    base = load_file(str(tmp_path / "Stable-diffusion" / "base.safetensors"))
    assert torch.equal(load_file(str(out))[UNTOUCHED], base[UNTOUCHED])
    assert "both.safetensors" in models.checkpoint_aliases, "the UI's list has it"
    assert "7 of 7 layers changed" in report and str(out) in report
    assert sum(done for done, _ in told) == pytest.approx(told[-1][1], rel=0.5)


@pytest.mark.parametrize("named", ["ckpt_dir", "ckpt_dirs"])
@pytest.mark.parametrize("given", [True, False])
def test_a_merge_goes_where_the_ui_was_told_that_checkpoints_lie(work, write, models, tmp_path, named, given):
    write("dog")
    folder = tmp_path / "elsewhere"
    told = {"ckpt_dir": folder if given else None, "ckpt_dirs": [folder, tmp_path] if given else []}[named]
    work.places.shared.cmd_opts = SimpleNamespace(lora_dir=str(tmp_path), **{named: told})
    work.merge(LOADED, "<lora:dog:0.8>", "merged", nothing)
    assert (folder if given else tmp_path / "Stable-diffusion").joinpath("merged.safetensors").is_file()


def test_a_merge_has_the_bits_that_a_picture_is_drawn_with(work, write, tmp_path):
    dog = write("dog")
    report = work.merge("base.safetensors", "<lora:dog:0.8:attn2=0>", "one", nothing)
    assert "merged dog with attn2=0 at 0.8" in report
    expected = by_layer(tmp_path / "Stable-diffusion" / "base.safetensors")
    for layer in expected:
        if layer != CROSS:
            dog.add_(expected[layer], layer, 0.8)
    found = by_layer(tmp_path / "Stable-diffusion" / "one.safetensors")
    assert [layer for layer in expected if not torch.equal(found[layer], expected[layer])] == []


def test_the_yaml_that_says_a_checkpoints_kind_goes_with_it(work, write, tmp_path):
    write("dog")
    folder = tmp_path / "Stable-diffusion"
    (folder / "base.yaml").write_text("model: x", encoding="utf-8")
    work.merge(LOADED, "<lora:dog:1>", "one", nothing)
    assert (folder / "one.yaml").read_text(encoding="utf-8") == "model: x"


def test_a_side_at_strength_0_is_left_out_and_need_not_fit(work, write, tmp_path):
    write("dog", {**SHAPES, TE1: (4, 6)})
    with pytest.raises(WaveFTError, match="trained for another model"):
        work.merge(LOADED, "<lora:dog:1>", "one", nothing)
    assert not (tmp_path / "Stable-diffusion" / "one.safetensors").exists()
    assert "2 of 2 layers" in work.merge(LOADED, "<lora:dog:te=0:unet=1>", "one", nothing)


def test_combining_is_exact_and_the_new_adapter_is_in_the_lora_tab(work, write, tmp_path):
    dog, cat = write("dog"), write("cat", {UNET: (8, 8)}, seed=5)
    report = work.combine("<lora:dog:0.5> <lora:cat:-1>", False, "both.safetensors", nothing)
    made = load(tmp_path / "both.safetensors")
    expected = combine([(dog, 0.5), (cat, -1.0)])
    assert torch.allclose(made.delta(UNET), expected.delta(UNET), atol=1e-6)
    assert made.metadata["modelspec.title"] == "both" and "sshs_model_hash" in made.metadata
    assert "both" in work.places.adapters() and "7 layers" in report


def test_another_wavelet_is_rewritten_where_it_is_asked_for(work, write):
    write("dog"), write("cat", wavelet="db2", seed=5)
    with pytest.raises(WaveFTError, match="db2"):
        work.combine("<lora:dog:1> <lora:cat:1>", False, "both", nothing)
    assert "db2 -> db1, relative error" in work.combine("<lora:dog:1> <lora:cat:1>", True, "both", nothing)


@pytest.mark.parametrize(("budget", "amount", "count"), [(0, 4.0, 8), (2, 10.0, 10), (1, 1, None)])
def test_extracting_keeps_what_the_budget_says(work, tmp_path, budget, amount, count):
    told = []
    report = work.extract(
        LOADED, "fine.safetensors", list(BUDGETS)[budget], amount, "db1", "made", lambda *now: told.append(now)
    )
    made = load(tmp_path / "made.safetensors")
    kept = sum(layer.values.numel() for layer in made.layers.values())
    assert count is None or kept == count
    assert "of the energy" in report
    folder = tmp_path / "Stable-diffusion"
    if budget == 1:  # all of it: merged, it is the fine-tune, as far as float32 tells
        assert "kept 100.00%" in report
        work.merge(LOADED, "<lora:made:1>", "again", nothing)
        again, fine = by_layer(folder / "again.safetensors"), by_layer(folder / "fine.safetensors")
        assert max(float((again[layer] - fine[layer]).abs().max()) for layer in (UNET, CROSS)) < 1e-5
    assert told[-1][1] == 2 == sum(done for done, _ in told)


def test_extracting_from_a_lora_and_from_an_adapter_of_ours(work, write, tmp_path):
    down, up = torch.randn(2, 8), torch.randn(8, 2)
    save_file({f"{UNET}.lora_down.weight": down, f"{UNET}.lora_up.weight": up}, str(tmp_path / "rank2.safetensors"))
    dog = write("dog")
    work.places.refresh()
    work.extract(LOADED, "rank2", list(BUDGETS)[1], 1.0, "db1", "made", nothing)
    assert np.allclose(load(tmp_path / "made.safetensors").delta(UNET), up @ down, atol=1e-4)
    work.extract(LOADED, "dog", next(iter(BUDGETS)), 64, "db2", "other", nothing)
    assert np.allclose(load(tmp_path / "other.safetensors").delta(UNET), dog.delta(UNET), atol=1e-4)


def test_inspecting_tells_what_an_adapter_is(work, write):
    write("dog", **{"modelspec.title": "A dog"})
    work.places.refresh()
    text, picture = work.inspect("dog")
    assert "7 layers" in text and "A dog" in text and "energy by block" in text
    assert picture.mode == "RGB"


def test_what_is_said_of_sdxls_attention_is_seen_without_scrolling(work, write):
    blocks = [*(f"input_blocks_{i}" for i in (4, 5, 7, 8)), "middle_block", *(f"output_blocks_{i}" for i in range(6))]
    kinds = [f"attn{i}_to_{part}" for i in (1, 2) for part in ("q", "k", "v", "out_0")]
    write("dog", {f"lora_unet_{block}_1_transformer_blocks_0_{kind}": (4, 4) for block in blocks for kind in kinds})
    lines = ["dog:", *described(load(work.places.adapter("dog")))[0].splitlines()]
    height, line = (float(found) for found in re.findall(r"(?:max-height|line-height): ([\d.]+)", preformatted("")))
    assert len(lines) > 30 and len(lines) * line <= height


WRONG = {
    "no tag": (LOADED, "", "x", "expected tags such as <lora:dog:0.8>, got none"),
    "words": (LOADED, "a dog <lora:dog:1>", "x", "expected tags such as <lora:dog:0.8>, got a dog"),
    "another kind of tag": (LOADED, "<hypernet:dog:1>", "x", "got hypernet"),
    "no such adapter": (LOADED, "<lora:dgo:1>", "x", 'got "dgo". Near it: dog'),
    "a LoRA": (LOADED, "<lora:plain:1>", "x", 'adapter "plain": expected a WaveFT file'),
    "a strength that is none": (LOADED, "<lora:dog:much>", "x", 'dog, te: expected a finite number, got "much"'),
    "a strength of 0": (LOADED, "<lora:dog:0>", "x", "expected a strength other than 0"),
    "nothing left": (LOADED, "<lora:dog:1:aa=0:ad=0:da=0:dd=0>", "x", "expected a strength other than 0"),
    "a multiplier": (LOADED, "<lora:dog:1:dd=x>", "x", "dog, dd: expected a finite number"),
    "no such checkpoint": ("bose.safetensors", "<lora:dog:1>", "x", "Near it: base.safetensors"),
    "no checkpoint": (None, "<lora:dog:1>", "x", "checkpoint: expected one that the UI has"),
    "no name": (LOADED, "<lora:dog:1>", " ", "new name: expected letters"),
    "a folder": (LOADED, "<lora:dog:1>", "../x", "new name: expected letters"),
    "a drive": (LOADED, "<lora:dog:1>", "C:x", "new name: expected letters"),
    "hidden": (LOADED, "<lora:dog:1>", ".x", "new name: expected letters"),
    "a taken name": (LOADED, "<lora:dog:1>", "base", "new name: expected one that is free"),
    "a wrong model": (LOADED, "<lora:wrong:1>", "x", "expected"),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_input_is_one_message_and_writes_nothing(work, write, models, tmp_path, case):
    checkpoint, prompt, name, told = WRONG[case]
    write("dog"), write("wrong", {"lora_unet_middle_block_1_transformer_blocks_9_attn1_to_q": (8, 8)})
    save_file({"a.lora_down.weight": torch.ones(1, 2)}, str(tmp_path / "plain.safetensors"))
    work.places.refresh()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(WaveFTError, match=re.escape(told)):
        work.merge(checkpoint, prompt, name, nothing)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_ui_without_checkpoints_is_told_so(work, write, models):
    write("dog")
    models.checkpoint_aliases.clear()

    def none():
        raise FileNotFoundError

    for select in (none, lambda: None):
        models.select_checkpoint = select
        with pytest.raises(WaveFTError, match="Near it: none at all"):
            work.merge(LOADED, "<lora:dog:1>", "x", nothing)


class Gradio:
    """A page that remembers what is on it, and what its events call."""

    def __init__(self):
        self.made, self.events, self.wired = [], [], []

    def __getattr__(self, kind):
        def make(*args, **kwargs):
            one = contextlib.nullcontext()
            self.made.append((kind, args, kwargs))
            one.click = one.input = lambda **wired: self.wired.append((kind, args, wired))
            return one

        return make


class Progress:
    def __init__(self):
        self.shares = []

    def __call__(self, share, desc):
        self.shares.append(share)


class Stopping:
    """A progress bar at whose first word somebody presses Cancel."""

    def __init__(self, cancel):
        self.told, self._cancel = 0, cancel

    def __call__(self, share, desc):
        self.told += 1
        self._cancel()


@pytest.fixture
def page(work, write):
    write("dog")
    work.places.refresh()
    gradio, refreshed = Gradio(), []
    made = tab.build(gradio, lambda *args: refreshed.append(args), work)
    return SimpleNamespace(gradio=gradio, refreshed=refreshed, made=made)


def clicked(page, title):
    return next(wired for kind, args, wired in page.gradio.wired if kind == "Button" and args == (title,))


def test_the_page_has_a_part_for_each_tool_and_lists_what_the_ui_has(page):
    assert [made[1:] for made in page.made] == [("WaveFT", "waveft")]
    titles = [args[0] for kind, args, _ in page.gradio.made if kind == "Tab"]
    assert titles == ["Merge into a checkpoint", "Combine", "Extract", "Inspect"]
    lists = {
        kwargs["label"]: (args[0], kwargs["value"]) for kind, args, kwargs in page.gradio.made if kind == "Dropdown"
    }
    checkpoints = [LOADED, "base.safetensors", "fine.safetensors"]
    assert lists["Checkpoint to merge into"] == (checkpoints, LOADED)
    assert lists["Adapter to inspect"] == (["dog"], None)
    (tuned,) = (given for label, given in lists.items() if label.startswith("What was made of it"))
    assert tuned[0][:3] == checkpoints and tuned[1] is None  # what is chosen above would be compared with itself
    assert len(page.refreshed) == 6
    labels = [kwargs["label"] for _, _, kwargs in page.gradio.made if "label" in kwargs]
    assert {label for label in labels if labels.count(label) > 1} <= {"Report", tab.PROMPT, "Add an adapter"}
    (_, refresh, choices, _) = page.refreshed[0]
    refresh()
    assert choices() == {"choices": checkpoints}


def test_a_button_runs_its_tool_with_a_progress_bar_and_shows_one_message_where_it_cannot(page, tmp_path, capsys):
    run, progress = clicked(page, "Merge")["fn"], Progress()
    told = run(progress, LOADED, "<lora:dog:1>", "x")
    assert "wrote " in told and (tmp_path / "Stable-diffusion" / "x.safetensors").is_file()
    assert progress.shares == sorted(progress.shares) and 0 < progress.shares[-1] <= 1
    capsys.readouterr()
    told = run(progress, LOADED, "<lora:dog:1>", "x")
    assert told.startswith("Nothing was written. new name: expected one that is free")
    assert capsys.readouterr().out.count("\n") == 1
    assert len(clicked(page, "Extract")["inputs"]) == 6
    text, picture = clicked(page, "Inspect")["fn"]("none")
    assert "expected one of the Lora folder" in text and picture is None


def test_cancel_ends_what_runs_and_leaves_no_file(page, tmp_path, capsys):
    cancels = [wired for kind, args, wired in page.gradio.wired if kind == "Button" and args == ("Cancel",)]
    assert [wired["queue"] for wired in cancels] == [False] * 3
    before, progress = sorted(tmp_path.rglob("*")), Progress()
    given = {
        "Merge": (LOADED, "<lora:dog:1>", "x"),
        "Extract": (LOADED, "fine.safetensors", next(iter(BUDGETS)), 4.0, "db1", "x"),
    }
    for cancel, title in ((cancels[0], "Merge"), (cancels[2], "Extract")):
        cancel["fn"]()  # nothing runs: nothing is cancelled
        stopped = Stopping(cancel["fn"])
        assert clicked(page, title)["fn"](stopped, *given[title]) == "Nothing was written. It was cancelled."
        assert stopped.told == 1 and sorted(tmp_path.rglob("*")) == before
        assert capsys.readouterr().out == "[WaveFT] It was cancelled.\n"
        assert "wrote " in clicked(page, title)["fn"](progress, *given[title])
        before = sorted(tmp_path.rglob("*"))


def test_gradios_own_search_for_the_progress_finds_it_first(page):
    """It looks among the positional parameters, and puts the event's own at that place of the inputs."""
    import inspect

    for title in ("Merge", "Combine", "Extract"):
        first, *rest = inspect.signature(clicked(page, title)["fn"]).parameters.values()
        assert first.kind is first.POSITIONAL_OR_KEYWORD and first.default is not first.empty
        assert [one.kind for one in rest] == [inspect.Parameter.VAR_POSITIONAL]


def test_a_chosen_adapter_is_added_as_a_tag(page):
    add = next(wired for kind, args, wired in page.gradio.wired if kind == "Dropdown")["fn"]
    assert add("dog", "") == "<lora:dog:1>"
    assert add("dog", "<lora:cat:0.5>") == "<lora:cat:0.5> <lora:dog:1>"
    assert add(None, "<lora:cat:0.5>") == "<lora:cat:0.5>"


def test_progress_is_told_by_hundredths_and_needs_no_total():
    progress = Progress()
    tell = tab.bar(progress, "Merge")
    for _ in range(1000):
        tell(1, 1000)
    assert len(progress.shares) == 101
    tab.bar(progress, "Merge")(5, 0)
    assert progress.shares[-1] == 0.0


def test_the_ui_is_given_the_tab_where_it_has_a_page(ui, monkeypatch, models):
    (make,) = ui.tabs
    monkeypatch.setitem(sys.modules, "gradio", Gradio())
    ui.modules.extra_networks = SimpleNamespace(parse_prompt=parse_prompt)
    ui.modules.ui_common = SimpleNamespace(create_refresh_button=nothing)
    ui.modules.sd_models = models
    assert [made[1:] for made in make()] == [("WaveFT", "waveft")]
    assert extension.GATE is not None
