"""What is around the adapters: settings, axes, cards, block weights, and importing nothing of ComfyUI's."""

import ast
import contextlib
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.waveft_webui.stand_in import SHAPES, UNET, Processing
from tests.waveft_webui.worlds import WORLDS
from waveft_core import Adapter, Layer, WaveFTError, save
from waveft_webui import axes, cards, describing, extension, panel, settings, tags
from waveft_webui.applying import HANDED
from waveft_webui.describing import preformatted

ROOT = Path(__file__).resolve().parents[2]


def test_a_ui_without_its_lora_extension_gets_one_line_and_nothing_else(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "networks", raising=False)
    extension.register()
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "expected it, got none that we know" in said


def test_a_forge_neo_without_adapter_classes_gets_one_line_and_nothing_else(monkeypatch, tmp_path, capsys):
    world = WORLDS["Forge Neo"](monkeypatch, tmp_path)
    del sys.modules["backend.patcher.lora"].weight_adapter
    before = world.networks.load_networks
    extension.register()
    assert "expected it, got none that we know" in capsys.readouterr().out
    assert extension.GATE is None and world.networks.load_networks is before


def test_settings_are_there_and_multiply_every_adapter(ui, write):
    write("dog")
    shared = ui.modules.shared
    assert {settings.CONSOLE, settings.FACTORS, settings.PLANS_MIB} <= shared.options_templates.keys()
    setattr(shared.opts, settings.FACTORS, "attn1=0")
    base = ui.draw().weights
    picture = Processing()
    drawn = ui.draw("<lora:dog:1>", processing=picture)
    assert torch.equal(drawn.weights[UNET], base[UNET])
    assert picture.extra_generation_params["WaveFT multipliers"] == "attn1=0"
    setattr(shared.opts, settings.FACTORS, "attn3=0")
    assert "a name such as attn1" in ui.draw("<lora:dog:1>").comments[0]


def test_the_console_is_silent_where_the_settings_say_so(ui, write, capsys):
    write("dog")
    setattr(ui.modules.shared.opts, settings.CONSOLE, False)
    capsys.readouterr()
    ui.draw("<lora:dog:1>")
    assert "[WaveFT]" not in capsys.readouterr().out


class AxisOption:
    def __init__(self, label, type, apply, confirm=None):
        self.label, self.type, self.apply, self.confirm = label, type, apply, confirm


def _plot():
    held = SimpleNamespace(axis_options=[AxisOption("Seed", int, None)], AxisOption=AxisOption)
    return SimpleNamespace(path="xyz_grid.py", module=held)


def test_axes_are_there_before_the_ui_is_built_which_is_never_where_it_has_no_page(world):
    plot = _plot()
    world.modules.scripts.scripts_data.append(plot)
    extension.register()
    assert len(plot.module.axis_options) == 4
    for call in world.callbacks:
        call()
    assert len(plot.module.axis_options) == 4


@pytest.mark.parametrize("named", ["tmp", ""])
def test_the_folder_of_the_pages_pictures_is_made_where_the_ui_names_one(world, tmp_path, named):
    world.modules.shared.opts.temp_dir = named and str(tmp_path / named)
    world.register()
    assert (tmp_path / "tmp").is_dir() == bool(named)


def test_axes_are_added_once_to_the_uis_script_and_set_what_the_gate_reads():
    other, plot = SimpleNamespace(module=SimpleNamespace()), _plot()
    assert not axes.add([other])
    assert axes.add([other, plot]) and axes.add([other, plot])
    labels = [option.label for option in plot.module.axis_options]
    assert labels[0] == "Seed" and len(labels) == len(set(labels)) == 4
    strength, factors, only = plot.module.axis_options[1:]
    cell, other_cell = Processing(), Processing()
    strength.apply(cell, "0.5", [])
    factors.apply(cell, "dd=0 attn2=0.5", [])
    only.apply(cell, "attn2 ", [])
    assert cell.waveft_strength == 0.5
    assert cell.waveft_factors == {"dd": "0", "attn2": "0.5", "only": "attn2"}
    assert not hasattr(other_cell, "waveft_factors")
    for option, wrong in ((factors, "dd"), (factors, "dd=much"), (factors, "de=0"), (only, "(a")):
        with pytest.raises(WaveFTError):
            option.confirm(cell, [wrong])


def test_a_tags_multipliers_are_multiplied_by_the_settings_and_the_axes():
    made = tags.multipliers("dog", {"dd": "0.5", "te": "1", "only": "a"}, {"dd": "0.5", "aa": "2"}, {"only": "b"})
    assert made.factors == {"dd": 0.25, "aa": 2.0}
    assert made.only == "b" and made.without == ""


SDXL = {"lora_unet_output_blocks_1_1_transformer_blocks_3_attn2_to_k": (1280, 2048)}


@pytest.mark.parametrize(("shapes", "told"), [(SDXL, True), (SHAPES, False)])
def test_the_lora_tab_shows_sdxls_files_that_do_not_say_so_themselves(tmp_path, shapes, told):
    layers = {n: Layer(torch.ones(1), torch.zeros(1, dtype=torch.int32), s) for n, s in shapes.items()}
    save(Adapter(layers), tmp_path / "old.safetensors")

    class OnDisk:
        filename, name, metadata, sd_version = str(tmp_path / "old.safetensors"), "old", {"waveft": "{}"}, "SD1"

        def detect_version(self):
            return "SD1"

    network = SimpleNamespace(NetworkOnDisk=OnDisk, SdVersion=SimpleNamespace(SDXL="SDXL", SD1="SD1"))
    entry = OnDisk()
    for _ in range(2):
        cards.mend(network, SimpleNamespace(available_networks={"old": entry}))
    assert entry.sd_version == ("SDXL" if told else "SD1")
    entry.metadata = {}
    assert entry.detect_version() == "SD1", "of other files it says what the UI says"


def test_block_weights_keep_our_kind_of_patch(ui):
    module = SimpleNamespace(LORAS=["lora", "loha"])
    ui.modules.scripts.scripts_data.append(SimpleNamespace(path="/x/scripts/lora_block_weight.py", module=module))
    for call in ui.callbacks * 2:
        call()
    assert module.LORAS == ["lora", "loha", "waveft"]


def test_values_that_another_extension_multiplied_are_what_a1111_is_given(request, monkeypatch, tmp_path, write):
    from tests.waveft_webui.worlds import A1111World

    ui = A1111World(monkeypatch, tmp_path)
    ui.register()
    dog, base = write("dog"), ui.draw().weights
    ui.draw("<lora:dog:1>")
    for module in ui.networks.loaded_networks[0].modules.values():
        module.up_model.weight = torch.nn.Parameter(module.up_model.weight * 0.5)
    ui.networks.loaded_networks[0].dyn_dim = "again"  # as block weights give a name of their own
    ui.merge()
    assert torch.equal(ui.weights()[UNET], dog.add_(base[UNET].clone(), UNET, 0.5))


def test_another_loader_that_hands_on_a_files_tensors_gets_the_adapter(write, tmp_path):
    from safetensors.torch import load_file

    dog = write("dog")
    tensors = load_file(str(tmp_path / "dog.safetensors"))
    found, left = HANDED.split(tensors, {UNET: "key"})
    (kind, patch) = found["key"]
    weight = torch.ones(8, 8)
    assert kind == "waveft"
    assert torch.equal(patch.add_(weight.clone(), 0.5), dog.add_(weight.clone(), UNET, 0.5))
    assert f"{UNET}.waveft_values" not in left and "waveft.header" in left
    del tensors["waveft.header"]
    with pytest.raises(WaveFTError, match=r"expected a tensor waveft\.header"):
        HANDED.patch(UNET, {name: held.clone() for name, held in tensors.items()})


class Gradio:
    """Blocks that remember what is made and what a click calls."""

    def __init__(self):
        self.made, self.clicked = [], None

    def __getattr__(self, kind):
        def make(*args, **kwargs):
            self.made.append((kind, args))
            return SimpleNamespace(__enter__=None, click=lambda **wired: setattr(self, "clicked", wired))

        return make

    def Accordion(self, *args, **kwargs):
        self.made.append(("Accordion", args))
        return contextlib.nullcontext()


@pytest.fixture(scope="module")
def drawn_once():
    """What draws an adapter's picture for the first UI, and hands the same one to the others."""
    draw, kept = describing.plot, []

    def plot(adapter, path, **told):
        if not kept:
            draw(adapter, path, **told)
            kept.append(path.read_bytes())
        path.write_bytes(kept[0])

    return plot


def test_the_accordion_shows_what_the_last_picture_was_drawn_with(ui, write, drawn_once, monkeypatch):
    monkeypatch.setattr(describing, "plot", drawn_once)
    write("dog")
    write("wrong", {UNET: (6, 8)})
    gradio, scripts = Gradio(), SimpleNamespace(Script=object, AlwaysVisible="always")
    made = panel.script_class(scripts, gradio, lambda: extension.GATE)()
    assert (made.title(), made.show(False), made.ui(False)) == ("WaveFT", "always", [])
    assert [kind for kind, _ in gradio.made] == ["Accordion", "Button", "HTML", "Image"]
    nothing = (preformatted(panel.NOTHING, wraps=True), None)

    def show():
        return gradio.clicked["fn"]()

    assert show() == nothing
    ui.draw("<lora:dog:0.8>", "<lora:wrong:1>")
    text, picture = show()
    assert text.startswith("<pre ")
    assert ">dog: 7 layers (db1, 42 coefficients), unet 0.8, te 0.8\nleft out: " in text
    said, facts = text.split("</pre><pre ")
    assert "expected the shapes" in said and "white-space: pre-wrap" in said  # a sentence wraps, columns do not
    assert "energy by block" in facts and 'white-space: pre"' in facts
    assert picture.mode == "RGB" and picture.width > 400
    ui.draw("<lora:dog:0.8:dd=0.5:only=to_>")
    with monkeypatch.context() as patched:
        patched.setattr(panel, "described", lambda _, called: (f"of {called}", None))
        assert "of dog with dd=0.5 only=to_" in show()[0]
    ui.draw("<lora:dog:0.8:aa=0:ad=0:da=0:dd=0>")
    assert show()[1] is None
    ui.draw()
    assert show() == nothing


def test_what_a_file_says_is_shown_and_never_obeyed_by_a_page():
    assert "<script>" not in preformatted('<script>"&') and "&lt;script&gt;&quot;&amp;" in preformatted('<script>"&')


def test_the_script_is_thin_and_the_folder_no_package():
    tree = ast.parse((ROOT / "scripts" / "waveft.py").read_text(encoding="utf-8"))
    assert len(tree.body) <= 4
    for folder in ("scripts", "models", "tools"):  # they would hide every other extension's modules of that name
        assert not (ROOT / folder / "__init__.py").exists()


def test_neither_pack_imports_the_other():
    """One clone serves both: in a web UI nothing of ComfyUI's is read, in ComfyUI nothing of ours."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import waveft_webui.extension; "
        "assert not [name for name in sys.modules if name.partition('.')[0] in ('comfy_nodes', 'trainer', 'comfy')]"
    )
    subprocess.run([sys.executable, "-c", code, str(ROOT)], check=True, cwd="/")
