from types import SimpleNamespace

import pytest

Q = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
Q_KEY = "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight"
TEXT = "lora_te1_text_model_encoder_layers_0_self_attn_q_proj"
TEXT_KEY = "clip_l.transformer.text_model.encoder.layers.0.self_attn.q_proj.weight"


@pytest.fixture
def hooks(comfy):
    return comfy("patching.hooks")


@pytest.fixture
def both(carry, make_adapter):
    """An adapter for a model and text encoders."""
    return carry(make_adapter({Q: (8, 8), TEXT: (6, 6)}))


@pytest.fixture
def register(hooks):
    """Returns a function that registers a (hook, patcher, target) as ComfyUI does: what the patcher was given."""

    def register(hook, patcher, target="model"):
        given, registered = [], hooks.comfy.hooks.HookGroup()
        taking = SimpleNamespace(model=patcher.model, add_hook_patches=lambda **patches: given.append(patches))
        assert hook.add_hook_patches(taking, {}, {"target": target}, registered) is True
        assert registered.hooks == [hook]
        (patches,) = given
        assert patches["hook"] is hook
        return {key: patch.layer for key, patch in patches["patches"].items()}, patches["strength_patch"]

    return register


class TestAdapterHook:
    def test_each_target_gets_its_own_layers_at_its_own_strength(self, hooks, register, both, unet, clip):
        hook = hooks.AdapterHook(both, 0.7, -0.4)
        assert register(hook, unet) == ({Q_KEY: Q}, 0.7)
        assert register(hook, clip, "clip") == ({TEXT_KEY: TEXT}, -0.4)

    def test_strength_0_is_registered_without_layers_and_without_a_look_at_the_model(
        self, hooks, register, carry, make_adapter, unet, clip
    ):
        wrong = carry(make_adapter({"lora_unet_nowhere": (8, 8), TEXT: (2, 2)}))
        assert register(hooks.AdapterHook(wrong, 0.0, 1.0), unet) == ({}, 0.0)
        assert register(hooks.AdapterHook(wrong, 1.0, 0.0), clip, "clip") == ({}, 0.0)

    def test_what_does_not_fit_is_refused_and_not_registered(self, comfy, hooks, carry, make_adapter, unet):
        registered = hooks.comfy.hooks.HookGroup()
        hook = hooks.AdapterHook(carry(make_adapter({Q: (8, 8), "lora_unet_nowhere": (8, 8)}), "wrong"))
        with pytest.raises(comfy("core").WaveFTError, match=r'"wrong".*lora_unet_nowhere'):
            hook.add_hook_patches(SimpleNamespace(model=unet.model), {}, {"target": "model"}, registered)
        assert registered.hooks == []

    def test_a_hook_that_is_not_wanted_does_nothing(self, hooks, both, unet, monkeypatch):
        hook = hooks.AdapterHook(both)
        monkeypatch.setattr(hook, "should_register", lambda *_: False)
        assert hook.add_hook_patches(SimpleNamespace(model=unet.model), {}, {}, None) is False

    def test_a_clone_is_equal_and_carries_the_same(self, hooks, register, both, unet):
        hook = hooks.AdapterHook(both, 0.7, -0.4)
        clone = hook.clone()
        assert clone == hook and clone is not hook and clone.carried is both
        assert register(clone, unet) == ({Q_KEY: Q}, 0.7)
        assert hooks.AdapterHook(both, 0.7, -0.4) != hook


class TestHooked:
    def test_hooks_are_added_to_the_previous_ones(self, hooks, both):
        first = hooks.hooked(both, 1.0, 1.0)
        second = hooks.hooked(both, 0.5, 0.0, first)
        assert len(first.hooks) == 1 and len(second.hooks) == 2
        assert second.hooks[0] == first.hooks[0] and second.hooks[0] is not first.hooks[0]

    def test_both_strengths_0_add_nothing(self, hooks, both):
        first = hooks.hooked(both, 1.0, 1.0)
        assert hooks.hooked(both, 0.0, 0.0, first) is first
        assert hooks.hooked(both, 0.0, 0.0).hooks == []
        assert len(hooks.hooked(both, 0.0, 1.0).hooks) == 1


def keyframes(group):
    return [(keyframe.start_percent, keyframe.strength) for keyframe in group.keyframes]


class TestSchedule:
    @pytest.mark.parametrize(
        ("curve", "middle"),
        [("linear", 0.5), ("ease in", 0.25), ("ease out", 0.75), ("ease in and out", 0.5)],
    )
    def test_curves_meet_their_ends_and_move_one_way(self, hooks, curve, middle):
        found = hooks.points((0.3, -0.7), (0.1, 0.9), curve, 5)
        assert found[0] == (0.1, 0.3) and found[-1] == (0.9, -0.7)
        assert [percent for percent, _ in found] == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9])
        assert found[2][1] == pytest.approx(0.3 - middle)
        strengths = [strength for _, strength in found]
        assert strengths == sorted(strengths, reverse=True)

    def test_two_keyframes_are_the_ends(self, hooks):
        assert hooks.points((0.0, 1.0), (0.0, 0.5), "ease in", 2) == [(0.0, 0.0), (0.5, 1.0)]

    def test_a_level_or_a_jump_is_one_keyframe(self, hooks):
        assert hooks.points((1.0, 1.0), (0.0, 1.0), "linear", 5) == [(0.0, 1.0)]
        assert hooks.points((0.0, 1.0), (0.5, 0.5), "linear", 5) == [(0.5, 1.0)]

    def test_the_start_strength_holds_from_the_very_beginning(self, hooks):
        group = hooks.scheduled((0.25, 1.0), (0.5, 1.0), "linear", 2)
        assert keyframes(group) == [(0.0, 0.25), (0.5, 0.25), (1.0, 1.0)]
        assert [keyframe.guarantee_steps for keyframe in group.keyframes] == [0, 1, 0]
        assert keyframes(hooks.scheduled((0.0, 1.0), (0.0, 1.0), "linear", 2)) == [(0.0, 0.0), (1.0, 1.0)]

    def test_strengths_and_percents_are_plain_numbers(self, hooks):
        """ComfyUI multiplies patch strengths by them: tensors, as the stock interpolation makes, would spread."""
        for keyframe in hooks.scheduled((0, 1), (0, 1), "ease in and out", 4).keyframes[1:-1]:
            assert type(keyframe.strength) is float and type(keyframe.start_percent) is float

    def test_a_schedule_follows_on_another(self, hooks):
        up = hooks.scheduled((0.0, 1.0), (0.0, 0.5), "linear", 2)
        both = hooks.scheduled((0.8, 0.0), (0.5, 1.0), "linear", 2, up)
        assert keyframes(both) == [(0.0, 0.0), (0.5, 1.0), (0.5, 0.8), (1.0, 0.0)]  # of one percent the last holds
        assert keyframes(up) == [(0.0, 0.0), (0.5, 1.0)]

    def test_or_comes_before_it(self, hooks):
        later = hooks.scheduled((0.8, 0.0), (0.5, 1.0), "linear", 2)
        both = hooks.scheduled((0.0, 1.0), (0.1, 0.5), "linear", 2, later)
        assert keyframes(both) == [(0.0, 0.8), (0.1, 0.0), (0.5, 1.0), (0.5, 0.8), (1.0, 0.0)]

    def test_before_stock_keyframes_that_begin_late_it_holds_from_the_beginning(self, hooks):
        stock = hooks.comfy.hooks.HookKeyframeGroup()
        stock.add(hooks.comfy.hooks.HookKeyframe(strength=0.1, start_percent=0.9))
        both = hooks.scheduled((0.0, 1.0), (0.2, 0.5), "linear", 2, stock)
        assert keyframes(both) == [(0.0, 0.0), (0.2, 0.0), (0.5, 1.0), (0.9, 0.1)]

    def test_an_overlap_is_refused(self, comfy, hooks):
        held = hooks.scheduled((0.0, 1.0), (0.0, 1.0), "linear", 5)
        with pytest.raises(comfy("core").WaveFTError, match=r"prev_hook_kf.*before 0.2 and after 0.6.*one at 0.25"):
            hooks.scheduled((0.0, 1.0), (0.2, 0.6), "linear", 5, held)

    def test_percents_in_the_wrong_order_are_refused(self, comfy, hooks):
        with pytest.raises(comfy("core").WaveFTError, match=r"end_percent: expected 0.5 .*got 0.2. Exchange"):
            hooks.scheduled((0.0, 1.0), (0.5, 0.2), "linear", 5)
