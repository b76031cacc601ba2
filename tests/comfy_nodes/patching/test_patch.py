import pytest
import torch

Q = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
K = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
Q_KEY = "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight"
K_KEY = "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
TEXT = "lora_te1_text_model_encoder_layers_0_self_attn_q_proj"
TEXT_KEY = "clip_l.transformer.text_model.encoder.layers.0.self_attn.q_proj.weight"


@pytest.fixture
def apply(comfy, carry):
    """Returns a function that applies adapters, (adapter, title, strengths), and returns what `patch.apply` does."""

    def apply(model, clip, *parts):
        patch = comfy("patching.patch")
        return patch.apply(model, clip, [patch.Part(carry(adapter, title), *s) for adapter, title, *s in parts])

    return apply


def close(got, expected):
    torch.testing.assert_close(
        got, expected, rtol=0, atol=8 * torch.finfo(torch.float32).eps * float(expected.abs().max())
    )


def test_every_layer_is_merged_and_the_input_stays_as_it_was(comfy, apply, unet, small):
    before = {key: weight.clone() for key, weight in unet.model.state_dict().items()}
    model, clip, report = apply(unet, None, (small, "a.safetensors", -0.7, 1.0))
    for layer, key in ((Q, Q_KEY), (K, K_KEY)):
        assert float(small.delta(layer).abs().max()) > 0.1
        close(model.merged(key), before[key] - 0.7 * small.delta(layer))
    assert clip is None
    assert report.splitlines()[:2] == ["2/2 layers of a.safetensors", "model: 2/2 layers at strength -0.7"]
    assert unet.patches == {}
    assert all(torch.equal(unet.model.state_dict()[key], before[key]) for key in before)


def test_two_adapters_add_up(apply, unet, small, make_adapter):
    other = make_adapter({Q: (8, 8)}, seed=5)
    expected = unet.model.state_dict()[Q_KEY] + small.delta(Q) + 0.5 * other.delta(Q)
    model = apply(unet, None, (small, "a", 1.0, 1.0))[0]
    close(apply(model, None, (other, "b", 0.5, 1.0))[0].merged(Q_KEY), expected)
    together, _, report = apply(unet, None, (small, "a", 1.0, 1.0), (other, "b", 0.5, 1.0))
    close(together.merged(Q_KEY), expected)
    assert "2/2 layers of a" in report and "1/1 layers of b" in report


def test_several_are_applied_all_or_none(comfy, apply, unet, small, make_adapter):
    with pytest.raises(comfy("core").WaveFTError, match='"wrong"'):
        apply(unet, None, (small, "a", 1.0, 1.0), (make_adapter({"lora_unet_x": (8, 8)}), "wrong", 1.0, 1.0))
    assert unet.patches == {}
    assert apply(unet, None)[0] is unet


@pytest.mark.parametrize("function", [lambda a: a, lambda a: a.clone()], ids=["itself", "a copy"])
@pytest.mark.parametrize(("dtype", "steps"), [(torch.float32, 2), (torch.bfloat16, 1), (torch.float16, 1)])
def test_a_half_precision_weight_is_rounded_once(comfy, carry, unet, small, dtype, steps, function):
    weight = unet.model.state_dict()[Q_KEY].to(dtype)
    expected = weight.double() + 0.3 * small.delta(Q, torch.float64)
    patch = comfy("patching.patch").WaveFTPatch(carry(small), Q)
    got = patch.calculate_weight(weight.clone(), Q_KEY, 0.3, 1.0, None, function, intermediate_dtype=dtype)
    assert got.dtype == dtype
    error = (got.double() - expected).abs()
    assert bool((error <= steps * torch.finfo(dtype).eps / 2 * expected.abs() + 1e-6).all())


def test_a_function_and_a_cut_are_honoured(comfy, carry, small):
    fused = torch.randn(24, 8, generator=torch.Generator().manual_seed(3))
    expected = fused.clone()
    expected[8:16] += (0.5 * small.delta(Q)).flip(0)
    patch = comfy("patching.patch").WaveFTPatch(carry(small), Q)
    patch.calculate_weight(fused.narrow(0, 8, 8), "fused", 0.5, 1.0, (0, 8, 8), lambda delta: delta.flip(0))
    close(fused, expected)


@pytest.mark.parametrize("function", [lambda a: a, lambda a: a.clone()])
def test_a_weight_of_another_shape_stops_the_merge(comfy, carry, small, function):
    with pytest.raises(comfy("core").WaveFTError, match=r"(?s)to_q.*expected.*got"):
        comfy("patching.patch").WaveFTPatch(carry(small), Q).calculate_weight(
            torch.zeros(8, 12), "w", 1.0, 1.0, None, function
        )


def test_unknown_layers_are_refused_by_name(comfy, apply, unet, make_adapter):
    names = {f"lora_unet_middle_block_{i}": (8, 8) for i in range(12)}
    adapter = make_adapter({Q: (8, 8), **names}, metadata={"modelspec.architecture": "some-model/waveft"})
    with pytest.raises(comfy("core").WaveFTError) as refused:
        apply(unet, None, (adapter, "a.safetensors", 1.0, 1.0))
    message = str(refused.value)
    assert message.count("lora_unet_middle_block") == 10
    for part in (
        'adapter "a.safetensors"',
        "and 2 more",
        "expected",
        "got 12 of 13",
        "some-model/waveft",
        "choose another",
    ):
        assert part in message
    assert unet.patches == {}


def test_wrong_shapes_are_refused_by_name(comfy, apply, unet, make_adapter):
    with pytest.raises(comfy("core").WaveFTError, match=rf'"a".*"{K}".*\[8, 12\], got \[8, 14\].*choose another'):
        apply(unet, None, (make_adapter({Q: (8, 8), K: (8, 14)}), "a", 1.0, 1.0))


def test_two_spellings_of_one_weight_are_refused(comfy, apply, unet, make_adapter, monkeypatch):
    patch, other = comfy("patching.patch"), "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
    monkeypatch.setattr(patch.comfy.lora, "model_lora_keys_unet", lambda model, found: {Q: Q_KEY, other: Q_KEY})
    with pytest.raises(comfy("core").WaveFTError, match=f'"{other}" and "{Q}".*got two'):
        apply(unet, None, (make_adapter({Q: (8, 8), other: (8, 8)}), "a", 1.0, 1.0))


def test_a_name_that_fits_two_weights_is_refused(comfy, apply, unet, small):
    twin = Q_KEY.replace("blocks.4.1", "blocks_4.1")
    unet.model.state_dict()[twin] = torch.zeros(8, 8)
    with pytest.raises(comfy("core").WaveFTError, match=f'"{Q}".*fits several'):
        apply(unet, None, (small, "a", 1.0, 1.0))


class TestTextEncoders:
    @pytest.fixture
    def both(self, make_adapter):
        return make_adapter({Q: (8, 8), TEXT: (6, 6)})

    def test_both_are_patched_each_at_its_strength(self, comfy, apply, unet, clip, both):
        model, text, report = apply(unet, clip, (both, "a", 1.0, -2.0))
        close(model.merged(Q_KEY), unet.model.state_dict()[Q_KEY] + both.delta(Q))
        close(text.merged(TEXT_KEY), clip.cond_stage_model.state_dict()[TEXT_KEY] - 2 * both.delta(TEXT))
        assert "2/2 layers of a" in report
        assert "CLIP: 1/1 layers at strength -2" in report

    def test_without_clip_they_are_refused_with_the_remedy(self, comfy, apply, unet, both):
        with pytest.raises(comfy("core").WaveFTError, match=f'"{TEXT}".*Connect `clip`, or set strength_clip to 0'):
            apply(unet, None, (both, "a", 1.0, 1.0))
        assert unet.patches == {}

    def test_strength_0_leaves_them_out_by_name(self, comfy, apply, unet, clip, both):
        for connected in (None, clip):
            model, text, report = apply(unet, connected, (both, "a", 1.0, 0.0))
            assert text is connected
            assert list(model.patches) == [Q_KEY]
            assert "1/2 layers of a" in report
            assert "CLIP: 0/1 layers, left out by strength 0" in report

    def test_a_file_that_fits_the_model_alone_patches_neither(self, comfy, apply, unet, clip, make_adapter):
        adapter = make_adapter({Q: (8, 8), TEXT: (6, 8)})
        with pytest.raises(comfy("core").WaveFTError, match="connected CLIP"):
            apply(unet, clip, (adapter, "a", 1.0, 1.0))
        assert unet.patches == clip.patches == {}

    def test_a_file_without_them_returns_clip_itself(self, comfy, apply, unet, clip, small):
        assert apply(unet, clip, (small, "a", 1.0, 1.0))[1] is clip


class TestOverflow:
    """LAW 5: what is not finite is refused, and not only reported as applied."""

    @pytest.mark.parametrize("strength", [float("nan"), float("inf"), -float("inf")])
    def test_a_strength_that_is_no_number_is_refused(self, comfy, apply, unet, clip, small, strength):
        for strengths in ((strength, 1.0), (1.0, strength)):
            with pytest.raises(comfy("core").WaveFTError, match='strength of "a": expected a finite number'):
                apply(unet, clip, (small, "a", *strengths))

    def test_weights_that_their_dtype_cannot_hold_are_refused(self, comfy, apply, unet, make_adapter):
        weights = unet.model.state_dict()
        large = make_adapter({Q: (8, 8), K: (8, 12)}, scale=100.0)  # dW of thousands
        assert len(apply(unet, None, (large, "a", 20.0, 1.0))[0].patches) == 2  # float32 holds it
        for key in (Q_KEY, K_KEY):
            weights[key] = weights[key].half()
        assert len(apply(unet, None, (large, "a", 1.0, 1.0))[0].patches) == 2  # near, looked at, and within
        with pytest.raises(comfy("core").WaveFTError, match=r"within torch.float16, got up to .*Lower the strength"):
            apply(unet, None, (large, "a", 20.0, 1.0))
        assert unet.patches == {}

    def test_quantised_weights_are_said_to_be_that(self, comfy, apply, unet, small):
        unet.model.state_dict()[Q_KEY] = torch.zeros(32, 1, dtype=torch.uint8)
        with pytest.raises(comfy("core").WaveFTError, match="it is quantised"):
            apply(unet, None, (small, "a", 1.0, 1.0))

    def test_a_gguf_tensor_is_taken_for_what_it_becomes(self, comfy, carry, unet, small, monkeypatch):
        weight = torch.zeros(8, 8, dtype=torch.uint8)
        weight.tensor_type = "Q4_0"
        unet.model.state_dict()[Q_KEY] = weight
        # ComfyUI-GGUF's state dict is for the count of bytes alone: empty tensors of the packed sizes
        packed = {key: torch.empty(1, 3, dtype=torch.uint8, device="meta") for key in unet.model.state_dict()}
        monkeypatch.setattr(unet.model, "state_dict", lambda: packed)
        assert len(comfy("patching.patch").model_patches(unet.model, carry(small))) == 2


def test_a_function_that_works_in_place_does_not_touch_the_weight_before_its_turn(comfy, carry, small):
    patch, weight = comfy("patching.patch").WaveFTPatch(carry(small), Q), torch.ones(8, 8)
    got = patch.calculate_weight(weight.clone(), Q_KEY, 0.0, 1.0, None, lambda delta: delta.mul_(0.5))
    assert torch.equal(got, weight)


def test_plans_are_dropped_when_comfyui_unloads_the_model(comfy, apply, unet, small):
    patch = comfy("patching.layerpatch")
    model = apply(unet, None, (small, "a", 1.0, 1.0))[0]
    for _ in range(2):
        model.merged(Q_KEY)
    assert patch._KEPT.nbytes > 0
    ((kind, unloaded),) = model.callbacks
    assert kind == "on_detach"
    unloaded(model, False)  # exchanged for a clone
    assert patch._KEPT.nbytes > 0
    unloaded(model, True)
    assert patch._KEPT.nbytes == 0


def test_the_report_says_what_was_filtered(comfy, apply, unet, carry, small):
    patch = comfy("patching.patch")
    kept = comfy("adapters.filters").Filter({"attn2": 0.0})
    report = patch.apply(unet, None, [patch.Part(carry(small), 1.0, 1.0)], kept)[2]
    first, second = report.splitlines()[:2]
    assert (first, second) == ("1/1 layers of a.safetensors (filtered)", "filter: attn2 0: 1 of 2 layers are left")


def test_a_model_that_did_not_come_is_said(comfy, apply, small):
    with pytest.raises(comfy("core").WaveFTError, match="model: expected something connected"):
        apply(None, None, (small, "a", 1.0, 1.0))
