import pytest
import torch
from torch import nn

from waveft_core import SDXL_ATTENTION, WaveFTError
from waveft_core.update.targets import resolve, select


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.to_q = nn.Linear(4, 4)
        self.to_out = nn.ModuleList([nn.Linear(4, 4), nn.Dropout(0.0)])
        self.auto_q = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.conv = nn.Conv2d(2, 2, 1)


@pytest.fixture
def model():
    return nn.ModuleDict({"first": Block(), "second": Block()})


def paths(targets):
    return [target.path for target in targets]


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (("to_q",), ["first.to_q", "second.to_q"]),
        (("to_q", "to_out.0"), ["first.to_q", "first.to_out.0", "second.to_q", "second.to_out.0"]),
        (("second.to_q",), ["second.to_q"]),
        (("to_q", "first.to_q", "to_q"), ["first.to_q", "second.to_q"]),
        (SDXL_ATTENTION, ["first.to_q", "first.to_out.0", "second.to_q", "second.to_out.0"]),
        (r".*\.to_q", ["first.to_q", "second.to_q"]),
        (r"first\..*_q", ["first.to_q", "first.auto_q"]),
        (r"first\.to_(q|out\.0)", ["first.to_q", "first.to_out.0"]),
    ],
    ids=str,
)
def test_suffixes_match_at_a_boundary_and_a_regex_the_whole_path(model, targets, expected):
    found = select(model, targets)
    assert paths(found) == expected
    modules = dict(model.named_modules())
    for target in found:
        assert target.module is modules[target.path]
        assert target.weight is target.module.weight
        assert target.name == "lora_" + target.path.replace(".", "_")


@pytest.mark.parametrize(
    "targets", [("to_k",), ("o_q",), ("first.to",), r"to_q", r"first\.to", r"first\.to_qq"], ids=str
)
def test_no_match_names_the_nearest(model, targets):
    with pytest.raises(
        WaveFTError, match=r"expected to match linear or convolution layers, got none\. Nearest names: "
    ) as caught:
        select(model, targets)
    assert repr(targets) in str(caught.value)
    assert '"first.to_q"' in str(caught.value)
    assert "norm" not in str(caught.value)  # only what could be trained is offered


def test_no_match_in_one_component_names_it(model):
    other = nn.ModuleDict({"q_proj": nn.Linear(4, 4)})
    with pytest.raises(WaveFTError, match=r'convolution layers of "te1", got none. Nearest names: "q_proj"'):
        select({"unet": model, "te1": other}, ("to_q",))
    found = select({"unet": model, "te1": other}, ("to_q", "q_proj"))
    assert paths(found) == ["unet.first.to_q", "unet.second.to_q", "te1.q_proj"]
    assert [target.name for target in found][1:] == ["lora_unet_second_to_q", "lora_te1_text_model_q_proj"]


def test_wrapped_paths_match_without_their_wrappers(model):
    wrapped = nn.ModuleDict({"module": model})
    found = select(wrapped, ("first.to_q",))
    assert paths(found) == ["module.first.to_q"]
    assert found[0].name == "lora_first_to_q"
    assert paths(select(wrapped, r"first\.to_q")) == ["module.first.to_q"]


@pytest.mark.parametrize(
    ("targets", "got"),
    [
        (("first.norm",), "LayerNorm"),
        (("first.to_out",), "ModuleList"),
        (r"first", "Block"),
    ],
)
def test_only_linear_layers_and_convolutions_train(model, targets, got):
    with pytest.raises(
        WaveFTError, match=rf'layer "first.*": expected nn.Linear or nn.Conv2d, got {got}\. Leave it out'
    ):
        select(model, targets)


def test_attentions_out_proj_is_refused():
    model = nn.ModuleDict({"attn": nn.MultiheadAttention(4, 2)})
    with pytest.raises(WaveFTError, match=r'layer "attn.out_proj": .*out_proj of nn.MultiheadAttention.*Leave it out'):
        select(model, ("out_proj",))
    assert paths(select(nn.ModuleDict({"attn": nn.ModuleDict({"out_proj": nn.Linear(2, 2)})}), ("out_proj",)))


def test_two_targets_that_share_a_weight_are_refused(model):
    model["second"].to_q.weight = model["first"].to_q.weight
    with pytest.raises(
        WaveFTError, match=r'layer "second.to_q": expected a weight of its own, got the one of "first.to_q"'
    ):
        select(model, ("to_q",))


def test_one_module_under_two_paths_is_one_layer_or_refused(model):
    model["second"].to_q = model["first"].to_q
    try:
        assert paths(select(model, ("to_q",))) == ["first.to_q"]
    except WaveFTError as error:
        assert "first.to_q" in str(error)


def test_a_target_that_shares_its_weight_with_another_layer_is_refused():
    model = nn.ModuleDict({"tokens": nn.Embedding(6, 4), "head": nn.Linear(4, 6, bias=False)})
    model["head"].weight = model["tokens"].weight
    with pytest.raises(WaveFTError, match=r'layer "head": expected a weight of its own.*"tokens"'):
        select(model, ("head",))


def test_two_paths_with_one_name_are_refused():
    model = nn.ModuleDict({"a": nn.ModuleDict({"b_c": nn.Linear(2, 2)}), "a_b": nn.ModuleDict({"c": nn.Linear(2, 2)})})
    with pytest.raises(WaveFTError, match=r'expected a name of its own in the file, got one with "a.b_c", "a_b.c"'):
        select(model, ("c",))


def test_layers_are_found_by_name_in_the_adapters_order(model, make_adapter):
    adapter = make_adapter({"lora_second_to_q": (4, 4), "lora_first_to_out_0": (4, 4), "lora_first_conv": (2, 2, 1, 1)})
    found = resolve(model, adapter)
    assert paths(found) == ["first.conv", "first.to_out.0", "second.to_q"]
    assert all(target.weight is target.module.weight for target in found)
    weights = model.state_dict()
    found = resolve(weights, adapter)
    assert paths(found) == ["first.conv", "first.to_out.0", "second.to_q"]
    assert all(target.weight is weights[f"{target.path}.weight"] for target in found)
    assert all(target.module is None for target in found)


def test_missing_layers_are_listed_up_to_ten(model, make_adapter):
    shapes = {f"lora_unet_missing_{k:02d}": (2, 2) for k in range(13)}
    adapter = make_adapter(
        {**shapes, "lora_first_to_q": (4, 4)},
        metadata={"modelspec.architecture": "other/waveft"},
        source="a.safetensors",
    )
    with pytest.raises(WaveFTError) as caught:
        resolve(model, adapter)
    said = str(caught.value)
    assert said.startswith('adapter "a.safetensors", 13 of 14 layers: expected layers that the target model has, got ')
    assert ", ".join(f'"lora_unet_missing_{k:02d}"' for k in range(10)) + " and 3 more" in said
    assert "missing_10" not in said
    assert "The file was trained for: other/waveft. " in said


@pytest.mark.parametrize("name", ["x", "lora", "lora_", "_"])
def test_a_missing_layer_of_any_name_is_refused_in_words(name, model, make_adapter):
    with pytest.raises(WaveFTError, match="1 of 1 layers: expected layers that the target model has") as caught:
        resolve(model, make_adapter({name: (2, 2)}))
    assert f'"{name}"' in str(caught.value)
    assert "The file was trained for: unknown" in str(caught.value)


def test_a_component_that_is_not_given_is_refused_unless_left_out(model, make_adapter):
    adapter = make_adapter({"lora_unet_first_to_q": (4, 4), "lora_te1_text_model_q": (4, 4)})
    with pytest.raises(WaveFTError, match=r'"lora_te1_text_model_q".*\(here te1\), or name those to leave out'):
        resolve({"unet": model}, adapter)
    assert paths(resolve({"unet": model}, adapter, {"te1"})) == ["unet.first.to_q"]
    with pytest.raises(WaveFTError, match="expected some to apply, got only those left out"):
        resolve({"unet": model}, adapter, ["te1", "unet"])


def test_a_name_that_fits_two_modules_is_refused(make_adapter):
    model = nn.ModuleDict({"a": nn.ModuleDict({"b_c": nn.Linear(2, 2)}), "a_b": nn.ModuleDict({"c": nn.Linear(2, 2)})})
    adapter = make_adapter({"lora_a_b_c": (2, 2)})
    for target in (model, model.state_dict()):
        with pytest.raises(WaveFTError, match=r'layer "lora_a_b_c", name: expected one module .* got "a.b_c", "a_b.c"'):
            resolve(target, adapter)


@pytest.mark.parametrize("shape", [(4, 6), (2, 4), (4, 4, 1, 1)], ids=str)
def test_another_shape_is_refused(shape, model, make_adapter):
    adapter = make_adapter({"lora_first_to_q": shape}, source="a.safetensors")
    with pytest.raises(WaveFTError) as caught:
        resolve(model, adapter)
    expected = (
        f'adapter "a.safetensors", layer "lora_first_to_q", weight of "first.to_q": expected {list(shape)}, '
        "got [4, 4]. The file was trained for another model."
    )
    assert str(caught.value) == expected


def test_a_layer_without_a_weight_is_missing(make_adapter):
    model = nn.ModuleDict({"drop": nn.Dropout(0.1), "norm": nn.LayerNorm(4, elementwise_affine=False)})
    for name in ("lora_drop", "lora_norm"):
        with pytest.raises(WaveFTError, match="expected layers that the target model has"):
            resolve(model, make_adapter({name: (2, 2)}))


def test_what_is_no_model_is_refused_in_words(make_adapter):
    adapter = make_adapter({"lora_a": (2, 2)})
    for target in ({}, {"unet": {}}, {"unet": {"a.weight": torch.zeros(2, 2)}}):
        with pytest.raises(WaveFTError):
            resolve(target, adapter)
