"""Nodes that read, scale, combine and apply what travels on WAVEFT wires."""

import pytest
import torch

Q = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
K = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
Q_KEY = "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight"


@pytest.fixture
def multipliers(comfy):
    """Returns a function from the widgets that were changed to all of them."""
    names = comfy("adapters.filters").GROUPS
    return lambda **changed: {**dict.fromkeys(names, 1.0), "only_layers": "", "except_layers": "", **changed}


def close(got, expected):
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


def test_an_adapter_is_read_and_described(comfy, models, small):
    from waveft_core import save

    comfy("folders").register()
    save(small, models / "waveft/a.safetensors")
    node = comfy("nodes.load_adapter").WaveFTLoadAdapter
    carried, report = node.execute("a.safetensors")
    assert set(carried.adapter.layers) == {Q, K}
    assert report.splitlines() == [
        "a.safetensors: 2 layers",
        "32 coefficients, db1, periodization, scaling 25",
        "trained for toy",
    ]
    assert node.validate_inputs("a.safetensors") is True
    assert "models/waveft" in node.validate_inputs("gone.safetensors")
    assert node.fingerprint_inputs(adapter_name="a.safetensors") == node.fingerprint_inputs("a.safetensors")


def test_apply_merges_what_it_is_given(comfy, carry, unet, small):
    node = comfy("nodes.apply").WaveFTApply
    model, clip, report = node.execute(unet, carry(small), 0.5)
    close(model.merged(Q_KEY), unet.model.state_dict()[Q_KEY] + 0.5 * small.delta(Q))
    assert clip is None and report.startswith("2/2 layers of a.safetensors")
    assert node.execute(unet, carry(small), 0.0)[0] is unet
    filtered = node.execute(unet, carry(small), 1.0, filter=comfy("adapters.filters").Filter({"attn2": 0.0}))[0]
    assert list(filtered.patches) == [Q_KEY]


def test_the_filter_node_makes_what_its_widgets_say(comfy, carry, small, multipliers):
    node = comfy("nodes.filter").WaveFTFilter
    (first,) = node.execute(**multipliers(attn1=0.5))
    (second,) = node.execute(first, **multipliers(attn1=0.5, aa=2.0, except_layers=" attn2 "))
    made = second.left_of(carry(small)).adapter
    assert list(made.layers) == [Q]
    assert float(made.layers[Q].values[0] / small.layers[Q].values[0]) == pytest.approx(0.5)
    assert 'only_layers "("' in node.validate_inputs("(")
    assert node.validate_inputs("x") is True
    with pytest.raises(comfy("core").WaveFTError, match=r'except_layers "\("'):
        node.execute(**multipliers(except_layers="("))


def test_scaling_multiplies_whole_and_parts_and_reports_what_is_left(comfy, carry, small, multipliers):
    node = comfy("nodes.scale").WaveFTScale
    made, report = node.execute(carry(small), 2.0, **multipliers(attn2=0.0))
    close(made.adapter.delta(Q), 2 * small.delta(Q))
    assert report.splitlines()[0] == "a.safetensors: 1 of 2 layers"
    assert "16 of 32 coefficients" in report and "% of the energy" in report
    same, report = node.execute(carry(small), 1.0, **multipliers())
    assert same.adapter is small and "nothing changes" in report
    with pytest.raises(comfy("core").WaveFTError, match="other than 0"):
        node.execute(carry(small), 0.0, **multipliers())


def test_combining_is_exact_and_reports(comfy, carry, small, make_adapter):
    other = make_adapter({Q: (8, 8)}, seed=8)
    node = comfy("nodes.combine").WaveFTCombine
    made, report = node.execute(carry(small, "a"), 1.0, 9.0, -0.5, 9.0, 0, "refuse", adapter_3=carry(other, "b"))
    close(made.adapter.delta(Q), small.delta(Q) - 0.5 * other.delta(Q))
    close(made.adapter.delta(K), small.delta(K))
    assert report.splitlines()[0].startswith("1 * a: ") and report.splitlines()[1].startswith("-0.5 * b: ")
    kept, report = node.execute(carry(small, "a"), 1.0, 1.0, 1.0, 1.0, 4, "refuse", carry(other, "b"))
    assert {len(layer.values) for layer in kept.adapter.layers.values()} == {4}
    assert "kept: 8 of them" in report


def test_another_wavelet_is_refused_or_rewritten(comfy, carry, small, make_adapter):
    other = carry(make_adapter({Q: (8, 8)}, wavelet="db2"), "b")
    node = comfy("nodes.combine").WaveFTCombine
    with pytest.raises(comfy("core").WaveFTError, match="other_basis"):
        node.execute(carry(small), 1.0, 1.0, 1.0, 1.0, 0, "refuse", other)
    made, report = node.execute(carry(small), 1.0, 1.0, 1.0, 1.0, 0, "reproject", other)
    assert made.adapter.wavelet == "db1"
    assert "b: db2 periodization -> db1 periodization, relative error" in report
    bar = comfy("adapters.progress").comfy.utils.ProgressBar
    assert bar.seen == [1], "a bar, of the one layer"
    with pytest.raises(comfy("core").WaveFTError, match=r"^other_basis: expected one of .*, got 'merge'"):
        node.execute(carry(small), 1.0, 1.0, 1.0, 1.0, 0, "merge", other)
    with pytest.raises(comfy("core").WaveFTError, match=r"^adapter_1: expected something connected"):
        node.execute(None, 1.0, 1.0, 1.0, 1.0, 0, "refuse", other)


def test_rewriting_can_be_cancelled(comfy, carry, small, make_adapter, monkeypatch):
    class Cancelled(Exception):
        pass

    def cancel():
        raise Cancelled

    node = comfy("nodes.combine").WaveFTCombine
    management = comfy("adapters.progress").comfy.model_management
    monkeypatch.setattr(management, "throw_exception_if_processing_interrupted", cancel)
    other = carry(make_adapter({Q: (8, 8)}, wavelet="db2"), "b")
    with pytest.raises(Cancelled):
        node.execute(carry(small), 1.0, 1.0, 1.0, 1.0, 0, "reproject", other)


def test_a_sum_that_cancels_or_fits_few_models_is_warned_of(comfy, carry, small, make_adapter):
    node = comfy("nodes.combine").WaveFTCombine
    _, report = node.execute(carry(small, "a"), 1.0, -1.0, 1.0, 1.0, 0, "refuse", carry(small, "b"))
    assert "warning: the parts cancel each other" in report
    other = make_adapter({"lora_unet_elsewhere": (8, 8), Q: (8, 8)})
    _, report = node.execute(carry(small, "a"), 1.0, 1.0, 1.0, 1.0, 0, "refuse", carry(other, "b"))
    assert "warning: none of the parts has all of these layers (2, 2)" in report
    _, report = node.execute(carry(small, "a"), 1.0, 1.0, 1.0, 1.0, 0, "refuse", carry(make_adapter({Q: (8, 8)}), "b"))
    assert "warning" not in report


def test_reports_show_the_trigger_where_the_file_says_one(comfy, carry, make_adapter, unet):
    said = {"modelspec.trigger_phrase": "a photo of sks dog"}
    carried = carry(make_adapter({Q: (8, 8)}, metadata=said))
    assert "trigger: a photo of sks dog" in comfy("adapters.describe").adapter(carried).splitlines()
    assert "trigger: a photo of sks dog" in comfy("nodes.apply").WaveFTApply.execute(unet, carried, 1.0)[2].splitlines()
    assert "trigger" not in comfy("adapters.describe").adapter(carry(make_adapter({Q: (8, 8)})))


def test_errors_call_files_what_the_graph_calls_them(comfy, carry, models, small, make_adapter):
    from waveft_core import save

    comfy("folders").register()
    save(small, models / "waveft/a.safetensors")
    save(make_adapter({Q: (6, 6)}), models / "waveft/b.safetensors")
    a, b = (comfy("folders").read(f"{name}.safetensors") for name in "ab")
    with pytest.raises(comfy("core").WaveFTError) as refused:
        comfy("nodes.combine").WaveFTCombine.execute(a, 1.0, 1.0, 1.0, 1.0, 0, "refuse", b)
    assert '"b.safetensors"' in str(refused.value) and str(models) not in str(refused.value)
