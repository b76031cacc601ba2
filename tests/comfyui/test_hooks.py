"""Hooks, schedules and sweeps in the real ComfyUI: what was sampled, against models that carry the adapter itself."""

import contextlib

import pytest
import torch
from safetensors.torch import load_file

from tests.comfyui.graphs import Graph, loaded, plain, run
from tests.comfyui.server import Failed
from tests.comfyui.weights import TEXT_SHAPES, assert_same, write_adapter

pytestmark = pytest.mark.comfyui

STEPS = 4
SAMPLER = {"steps": STEPS, "cfg": 3.0}


@pytest.fixture(scope="module")
def server(serve, checkpoint, adapters, tmp_path_factory):
    """The adapters in both folders: the stock nodes look into models/loras alone."""
    files = {path.name: path for path in adapters.iterdir()}
    wrong = write_adapter(
        tmp_path_factory.mktemp("wrong") / "wrong_text.safetensors", {next(iter(TEXT_SHAPES)): (64, 64)}
    )
    files[wrong.name] = wrong
    models = {"checkpoints": {"micro.safetensors": checkpoint("micro", clip=True)}, "waveft": files, "loras": files}
    with serve(models, flags=["--fp32-unet"]) as server:
        yield server


def our_hook(graph, name, strength=1.0, previous=None, **inputs):
    adapter = [graph.add("WaveFTLoadAdapter", adapter_name=name), 0]
    chained = {} if previous is None else {"prev_hooks": previous}
    strengths = {"strength_model": strength, "strength_clip": 1.0}
    return [graph.add("WaveFTHook", adapter=adapter, **{**strengths, **chained, **inputs}), 0]


def a_hook(graph):
    """What most tests look at: a at 0.7, as `patched` has it."""
    return our_hook(graph, "a.safetensors", 0.7)


def stock_hook(graph, name, strength=1.0):
    inputs = {"lora_name": name, "strength_model": strength, "strength_clip": 1.0}
    return [graph.add("CreateHookLora", **inputs), 0]


def schedule(graph, start, end, percents=(0.0, 1.0), curve="linear", keyframes=5, **previous):
    strengths = {"start_strength": start, "end_strength": end}
    between = {"start_percent": percents[0], "end_percent": percents[1], "curve": curve, "keyframes": keyframes}
    return [graph.add("WaveFTStrengthSchedule", **strengths, **between, **previous), 0]


def sampled(server, hook=None, keyframes=None, adapter=None, seed=7):
    """Returns the latent of a graph: `hook` on both conditions, or an adapter {name: strength} on the model."""
    graph = Graph()
    model = graph.checkpoint("micro.safetensors")[0]
    for name, strength in (adapter or {}).items():
        model = graph.waveft(model, name, strength)
    hooks = None if hook is None else hook(graph)
    if keyframes is not None:
        hooks = [graph.add("SetHookKeyframes", hooks=hooks, hook_kf=keyframes(graph)), 0]
    sample(graph, model, hooks, seed)
    return run(server, graph).latent


def sample(graph, model, hooks, seed):
    seeds = {"positive": 1, "negative": 2}
    plain = {
        name: [graph.add("HarnessRandomConditioning", f"plain {name}", seed=number, tokens=77), 0]
        for name, number in seeds.items()
    }
    if hooks is not None:
        new = {f"{name}_NEW": link for name, link in plain.items()}
        pair = graph.add("PairConditioningSetProperties", **new, strength=1.0, set_cond_area="default", hooks=hooks)
        plain = {"positive": [pair, 0], "negative": [pair, 1]}
    graph.sample(model, **plain, **SAMPLER, seed=seed)


@pytest.fixture(scope="module")
def base(server):
    return sampled(server)


@pytest.fixture(scope="module")
def patched(server):
    return sampled(server, adapter={"a.safetensors": 0.7})


def test_a_hook_on_all_conditions_is_the_patched_model(server, base, patched):
    assert not torch.equal(base, patched)
    assert torch.equal(sampled(server, a_hook), patched)
    assert torch.equal(sampled(server), base)


def test_a_stock_hook_on_our_file_is_the_same(server, patched):
    assert torch.equal(sampled(server, lambda graph: stock_hook(graph, "a.safetensors", 0.7)), patched)


def test_hooks_chain_with_each_other_and_with_stock_ones(server):
    both = sampled(server, adapter={"a.safetensors": 0.7, "b.safetensors": -0.5})
    ours = sampled(server, lambda g: our_hook(g, "b.safetensors", -0.5, previous=a_hook(g)))
    mixed = sampled(server, lambda g: our_hook(g, "b.safetensors", -0.5, previous=stock_hook(g, "a.safetensors", 0.7)))
    assert torch.equal(ours, mixed)
    torch.testing.assert_close(ours, both, rtol=1e-4, atol=1e-4)


def test_both_strengths_0_change_nothing(server, base, patched):
    off = {"strength_clip": 0.0}
    assert torch.equal(sampled(server, lambda graph: our_hook(graph, "a.safetensors", 0.0, **off)), base)
    chained = sampled(server, lambda g: our_hook(g, "b.safetensors", 0.0, previous=a_hook(g), **off))
    assert torch.equal(chained, patched)


def test_a_hook_of_an_adapter_that_does_not_fit_stops_the_sampler_and_leaves_no_trace(server, base):
    before = run(server, plain("micro.safetensors")).weights
    for name, words in (("sdxl.safetensors", "does not have"), ("wide.safetensors", "got \\[64, 64\\]")):
        with pytest.raises(Failed, match=f"(?s)KSampler.*{name}.*{words}"):
            sampled(server, lambda graph, name=name: our_hook(graph, name))
        assert torch.equal(sampled(server), base)
    assert_same(run(server, plain("micro.safetensors")).weights, before)


@pytest.mark.parametrize("name", ["wide.safetensors", "sdxl.safetensors"])
def test_a_stock_hook_on_a_file_that_does_not_fit_leaves_no_trace(server, base, patched, name):
    """ComfyUI only logs a layer that the model lacks; another shape stops it in the middle of the sampler."""
    with contextlib.suppress(Failed):
        sampled(server, lambda graph: stock_hook(graph, name))
    assert torch.equal(sampled(server), base)
    assert torch.equal(sampled(server, a_hook), patched)


def test_a_constant_schedule_is_its_constant(server, base, patched):
    assert torch.equal(sampled(server, a_hook, lambda graph: schedule(graph, 0.0, 0.0)), base)
    assert torch.equal(sampled(server, a_hook, lambda graph: schedule(graph, 1.0, 1.0)), patched)
    assert torch.equal(sampled(server, a_hook, lambda graph: schedule(graph, 0.0, 1.0, percents=(0.99, 1.0))), base)
    assert torch.equal(sampled(server, a_hook, lambda graph: schedule(graph, 0.0, 1.0, percents=(0.0, 0.0))), patched)


@pytest.mark.parametrize("hook", [our_hook, stock_hook])
def test_a_schedule_from_0_to_1_is_neither(server, base, patched, hook):
    risen = sampled(server, lambda graph: hook(graph, "a.safetensors", 0.7), lambda graph: schedule(graph, 0.0, 1.0))
    fallen = sampled(server, lambda graph: hook(graph, "a.safetensors", 0.7), lambda graph: schedule(graph, 1.0, 0.0))
    latents = (base, patched, risen, fallen)
    assert all(bool(torch.isfinite(latent).all()) for latent in latents)
    assert not any(torch.equal(a, b) for number, a in enumerate(latents) for b in latents[:number])


def test_the_same_hook_sampled_again_begins_its_schedule_anew(server):
    """ComfyUI keeps a graph's hooks from prompt to prompt, and keyframes remember where they are."""

    def keyframes(graph):
        return schedule(graph, 0.0, 1.0, percents=(0.2, 0.8))

    first = sampled(server, a_hook, keyframes)
    assert not torch.equal(sampled(server, a_hook, keyframes, seed=8), first)
    assert torch.equal(sampled(server, a_hook, keyframes), first)


def test_a_jump_is_two_samplers_in_a_row(server):
    """With 4 steps the third begins at 0.667 of the noise levels: half of the steps without, half with the adapter."""
    whole = sampled(
        server,
        a_hook,
        lambda graph: schedule(graph, 0.0, 1.0, percents=(0.5, 0.5)),
    )
    graph = Graph()
    model = graph.checkpoint("micro.safetensors")[0]
    conditions = {
        name: [graph.add("HarnessRandomConditioning", name, seed=seed, tokens=77), 0]
        for name, seed in (("positive", 1), ("negative", 2))
    }
    latent = [graph.add("EmptyLatentImage", width=64, height=64, batch_size=1), 0]
    common = {"noise_seed": 7, "sampler_name": "euler", "scheduler": "normal", **SAMPLER, **conditions}
    for number, part in enumerate((model, graph.waveft(model, "a.safetensors", 0.7))):
        where = {"start_at_step": 2 * number, "end_at_step": 2 + 2 * number}
        switches = {
            "add_noise": ["enable", "disable"][number],
            "return_with_leftover_noise": ["enable", "disable"][number],
        }
        node = graph.add("KSamplerAdvanced", model=part, latent_image=latent, **common, **where, **switches)
        latent = [node, 0]
    graph.add("SaveLatent", "latent", samples=latent, filename_prefix="latent")
    torch.testing.assert_close(whole, run(server, graph).latent, rtol=1e-4, atol=1e-4)


def stock_keyframes(graph, *points):
    chained = {}
    for strength, percent in points:
        node = graph.add("CreateHookKeyframe", strength_mult=strength, start_percent=percent, **chained)
        chained = {"prev_hook_kf": [node, 0]}
    return chained["prev_hook_kf"]


def test_schedules_that_follow_each_other_are_one(server, base, patched):
    def chained(graph):
        up = schedule(graph, 0.0, 1.0, percents=(0.2, 0.2))
        return schedule(graph, 1.0, 0.0, percents=(0.5, 0.5), prev_hook_kf=up)

    got = sampled(server, a_hook, chained)
    assert torch.equal(got, sampled(server, a_hook, lambda g: stock_keyframes(g, (0.0, 0.0), (1.0, 0.2), (0.0, 0.5))))
    assert not torch.equal(got, base) and not torch.equal(got, patched)


def test_a_schedule_that_makes_no_sense_is_refused(server):
    with pytest.raises(Failed, match=r"(?s)WaveFTStrengthSchedule.*end_percent: expected 0.5"):
        sampled(server, a_hook, lambda graph: schedule(graph, 0.0, 1.0, percents=(0.5, 0.2)))
    with pytest.raises(Failed, match=r"prev_hook_kf: expected keyframes before 0.2"):
        sampled(server, a_hook, lambda graph: schedule(graph, 0, 1, (0.2, 0.8), prev_hook_kf=schedule(graph, 0, 1)))


def test_a_sweep_is_one_loader_for_each_strength(server):
    graph = Graph()
    model = graph.checkpoint("micro.safetensors")[0]
    adapter = [graph.add("WaveFTLoadAdapter", adapter_name="a.safetensors"), 0]
    swept = graph.add("WaveFTStrengthSweep", "sweep", model=model, adapter=adapter, strengths="0 0.7; 1,-2")
    graph.sample([swept, 0], **SAMPLER)
    graph.show([swept, 2], "labels")
    done = server.run(graph.nodes)
    shown = [str(text) for text in done.outputs["labels"]["text"]]
    assert shown == ["strength 0", "strength 0.7", "strength 1", "strength -2"]
    latents = [load_file(path)["latent_tensor"] for path in sorted(done.files["latent"])]
    for strength, latent in zip((0.0, 0.7, 1.0, -2.0), latents, strict=True):
        alone = loaded("micro.safetensors", {"a.safetensors": strength})
        alone.sample(["w0", 0], **SAMPLER)
        assert torch.equal(run(server, alone).latent, latent), strength


def test_a_sweep_says_what_is_no_strength_before_anything_runs(server):
    graph = Graph()
    model = graph.checkpoint("micro.safetensors")[0]
    adapter = [graph.add("WaveFTLoadAdapter", adapter_name="a.safetensors"), 0]
    graph.sample([graph.add("WaveFTStrengthSweep", model=model, adapter=adapter, strengths="0, half"), 0])
    with pytest.raises(Failed, match=r'Custom validation failed.*got "half"'):
        run(server, graph)


class TestTextEncoders:
    """Hooks that Set CLIP Hooks puts on a CLIP, and with it on all that is encoded."""

    def encoded(self, server, hooks=None, keyframes=None, scheduled=False, adapter=None):
        graph = Graph()
        model, clip, _ = graph.checkpoint("micro.safetensors")
        if adapter is not None:
            model = graph.waveft(model, adapter, node="w0", clip=clip, strength_clip=0.5)
            clip = ["w0", 1]
        if hooks is not None:
            hooks = hooks(graph)
            if keyframes is not None:
                hooks = [graph.add("SetHookKeyframes", hooks=hooks, hook_kf=keyframes(graph)), 0]
            switches = {"apply_to_conds": True, "schedule_clip": scheduled}
            clip = [graph.add("SetClipHooks", clip=clip, hooks=hooks, **switches), 0]
        texts = {
            name: [graph.add("CLIPTextEncode", f"text {name}", clip=clip, text=text), 0]
            for name, text in (("positive", "a red ball"), ("negative", ""))
        }
        graph.sample(model, **texts, **SAMPLER)
        return run(server, graph).latent

    def hook(self, graph):
        return our_hook(graph, "text.safetensors", strength_clip=0.5)

    def test_a_hook_on_both_is_the_adapter_on_both(self, server):
        assert torch.equal(self.encoded(server, self.hook), self.encoded(server, adapter="text.safetensors"))

    def test_text_follows_the_schedule_from_its_very_beginning(self, server):
        """Before the first keyframe ComfyUI encodes text at strength 1: the schedule has one at 0."""
        jump = lambda graph: schedule(graph, 0.0, 1.0, percents=(0.5, 0.5))  # noqa: E731
        got = self.encoded(server, self.hook, jump, scheduled=True)
        by_hand = lambda graph: stock_keyframes(graph, (0.0, 0.0), (1.0, 0.5))  # noqa: E731
        assert torch.equal(got, self.encoded(server, self.hook, by_hand, scheduled=True))
        assert not torch.equal(got, self.encoded(server))
        assert not torch.equal(got, self.encoded(server, self.hook, jump))

    def test_what_does_not_fit_the_text_encoders_stops_the_node(self, server):
        with pytest.raises(Failed, match=r'(?s)SetClipHooks.*"wrong_text.safetensors".*connected CLIP'):
            self.encoded(server, lambda graph: our_hook(graph, "wrong_text.safetensors"))
