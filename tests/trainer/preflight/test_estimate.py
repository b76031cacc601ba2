"""The estimates on a full-size SDXL whose layers are on the meta device: shapes, and not a number."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from trainer.base import layershapes, modelfacts
from trainer.job import config, schema
from trainer.preflight import estimate
from waveft_core.format import keys

ROOT = Path(__file__).parents[3]
SIDE = (1024, 1024)


@pytest.fixture(scope="module")
def unet():
    with torch.device("meta"):
        return UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(str(modelfacts.ASSETS / "unet")))


@pytest.fixture(scope="module")
def facts(unet):
    return facts_of({name: tuple(weight.shape) for name, weight in unet.state_dict().items()})


def facts_of(shapes):
    count = sum(layershapes.numel(shape) for shape in shapes.values())
    return modelfacts.ModelFacts(
        resolution=1024, multiple=32, unet_parameters=count, unet_bytes=2 * count, text_parameters=817_057_280,
        vae_parameters=83_653_863, unet_shapes=shapes,
    )  # fmt: skip


def job(**sections):
    return schema.Job.model_validate(
        {"model": {"pretrained_model_name_or_path": "b"}, "datasets": [{"subsets": [{"image_dir": "d"}]}], **sections}
    )


def setting(made, **other):
    return dataclasses.replace(estimate.setting(made, SIDE, 1), **other)


def test_a_single_files_layers_are_called_as_diffusers_calls_them(unet):
    paths = [name.removesuffix(".weight") for name in unet.state_dict() if name.endswith(".weight")]
    originals = keys.original_paths(paths)
    attention = [path for path in paths if ".attentions." in path]
    assert len(attention) > 700
    assert all(layershapes.diffusers_path(originals[path]) == path for path in attention)
    # the rest keeps its name, and is as deep by either
    assert all(layershapes.diffusers_path(originals[path]) == originals[path] for path in set(paths) - set(attention))
    assert all(layershapes.level(originals[path], 2) == layershapes.level(path, 2) for path in paths)
    assert layershapes.deepest(dict.fromkeys(paths)) == layershapes.deepest(dict.fromkeys(originals.values())) == 2


def test_the_papers_adapter_is_counted(facts):
    made = job()
    counts = estimate.trained(made, facts)
    assert (len(counts), sum(counts)) == (560, 1_451_520)
    assert estimate.file_bytes(made, facts) == pytest.approx(11.9e6, rel=0.02)  # as measured
    assert estimate.state_bytes(made, facts) == 12 * 1_451_520


@pytest.mark.parametrize(
    ("network", "count"),
    [
        ({"exclude": ["attn2"]}, 280),
        ({"include": ["^mid_block"]}, 80),
        ({"targets": ["attn1.to_q"]}, 70),
        ({"targets": r".*\.attn2\.to_[kv]"}, 140),
        # 12 and 32 blocks of four layers beside the UNet's
        ({"train_text_encoder": True}, 560 + 4 * 44),
    ],
)
def test_targets_and_patterns_choose_layers(facts, network, count):
    made = job(network=network)
    assert len(layershapes.layers(facts, made.model, made.network)) == count


def test_coefficients_follow_patterns_and_sides(facts):
    made = job(network={"coefficients": 100, "coefficients_pattern": {"^mid_block": 7}})
    layers = layershapes.layers(facts, made.model, made.network)
    found = {layer.path[:3]: count for layer, count in zip(layers, estimate.trained(made, facts), strict=True)}
    assert found == {"dow": 100, "mid": 7, "up_": 100}
    made = job(network={"coefficients": 1000, "allocation": "proportional"})
    counts = estimate.trained(made, facts)
    assert sum(counts) / len(counts) == pytest.approx(1000, abs=1)
    one, other = layers[0], next(layer for layer in layers if layer.rows == 1280)
    ratio = counts[layers.index(other)] / counts[0]
    assert ratio == pytest.approx((other.rows + other.columns) / (one.rows + one.columns), rel=0.01)


def test_a_hub_id_tells_nothing():
    made, unknown = job(), modelfacts.ModelFacts()
    assert layershapes.layers(unknown, made.model, made.network) is None
    assert estimate.memory(made, unknown, setting(made)) is None
    assert estimate.file_bytes(made, unknown) is estimate.state_bytes(made, unknown) is None


def test_the_papers_recipe_takes_7_to_9_gb(facts):
    made = job()
    given = setting(made)
    assert (given.checkpointing, given.compute) == (True, 2)
    found = estimate.memory(made, facts, given)
    assert found.weights == 2 * facts.unet_parameters == pytest.approx(5.14e9, rel=0.01)
    assert 7e9 < found.total < 9e9
    assert 13e9 < estimate.memory(made, facts, setting(made, checkpointing=False)).total < 20e9


def test_what_takes_memory_and_what_saves_it(facts):
    made = job()
    base = estimate.memory(made, facts, setting(made))
    for other in ({"compute": 4}, {"batch": 2}, {"width": 1536}, {"text": (True, False)}, {"vae": True}):
        assert estimate.memory(made, facts, setting(made, **other)).total > base.total, other
    for other in ({"base": "fp8"}, {"base": "nf4"}, {"height": 512}):
        assert estimate.memory(made, facts, setting(made, **other)).total < base.total, other
    # four times the pixels, four times the activations, but for what a level computes again
    small = estimate.activations(facts, setting(made, width=512, height=512))
    assert estimate.activations(facts, setting(made)) == pytest.approx(4 * small)


def test_nf4_and_fp8_by_hand():
    shapes = {
        "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight": (10, 10),
        "time_embedding.linear_1.weight": (10, 20),
        "conv_in.weight": (10, 4, 3, 3),
        "conv_in.bias": (10,),
    }
    facts = facts_of(shapes)
    made = job()
    rest = 2 * (360 + 10)
    assert estimate.unet_bytes(facts, setting(made)) == 2 * (100 + 200) + rest
    assert estimate.unet_bytes(facts, setting(made, base="fp8")) == 100 + 200 + rest
    assert estimate.unet_bytes(facts, setting(made, base="nf4")) == pytest.approx(0.53 * 100 + 2 * 200 + rest)
    assert estimate.unet_bytes(facts, setting(made, base="fp32")) == 4 * 670


def test_the_setting_is_the_jobs():
    cpu = estimate.setting(job(train={"device": "cpu"}), SIDE, 1)
    assert (cpu.checkpointing, cpu.compute) == (False, 4)
    trained = estimate.setting(job(network={"train_text_encoder": True}), SIDE, 1)
    assert trained.text == (True, True)
    assert estimate.setting(job(general={"random_crop": True}), SIDE, 1).vae
    assert estimate.setting(job(cache={"cache_text_encoder_outputs": False}), SIDE, 1).text == (True, False)


def test_the_work_of_a_forward_pass(facts):
    made = job()
    # 2.98 T multiply-adds for a picture of 1024 px without attention's own products, as is commonly counted
    assert 6e12 < estimate.flops(facts, setting(made)) < 7e12
    assert estimate.seconds(made, facts, setting(made), 20)["an H100"] == pytest.approx(
        10 * estimate.seconds(made, facts, setting(made), 2)["an H100"]
    )


def test_an_update_beside_weights_of_eight_bits_takes_its_time(facts):
    """What `python -m benchmarks.roofline` counted beside the frozen model: 1024 px, blocks computed again."""
    made, given = job(), setting(job(), base="fp8")
    moved, started = estimate.beside(made, facts, given)
    assert moved == pytest.approx(214e9 - 7.8e9, rel=0.03)  # without what the gradient takes on any base
    assert started == pytest.approx(26_721, rel=0.03)
    assert estimate.beside(made, facts, setting(made)) == (0.0, 0.0)
    lora = job(network={"method": "lora"})
    assert estimate.beside(lora, facts, given) == (0.0, 0.0)
    slower = estimate.seconds(made, facts, given, 2000)["an RTX 4090"]
    assert slower > 1.2 * estimate.seconds(lora, facts, given, 2000)["an RTX 4090"]


@pytest.mark.parametrize(
    ("method", "count"),
    [
        ("waveft", 1_451_520), ("shira", 1_451_520), ("lora", 1_451_520), ("loha", 2_903_040), ("lokr", 1_453_760),
        ("adalora", 2_904_160), ("vera", 1_450_720), ("fourierft", 1_451_520),
    ],
)  # fmt: skip
def test_the_papers_other_methods_are_counted(facts, method, count):
    made = job(network={"method": method})  # at the sizes of its comparison, which are the defaults
    assert sum(estimate.trained(made, facts)) == count
    assert estimate.state_bytes(made, facts) == 12 * count
    size = estimate.file_bytes(made, facts)
    extra = {"waveft": 4 * count, "shira": 4 * count, "fourierft": 4 * count, "vera": 4 * 1402 * (1280 + 2048)}
    assert size == pytest.approx(4 * count + extra.get(method, 0), rel=0.05)


def test_a_method_that_makes_whole_updates_takes_their_memory(facts):
    made = {name: job(network={"method": name}) for name in ("lora", "loha", "fourierft")}
    given = estimate.setting(made["lora"], (1024, 1024), 1)
    taken = {name: estimate.memory(one, facts, given).trained for name, one in made.items()}
    assert taken["loha"] > taken["lora"] + 0.05e9
    assert taken["fourierft"] > taken["lora"] + 0.05e9
    whole = estimate.memory(made["loha"], facts, dataclasses.replace(given, checkpointing=False)).trained
    assert whole > taken["loha"] + 1.5e9  # 955 million entries in two bytes


def test_bitfit_counts_what_has_a_bias(facts):
    made = job(network={"method": "bitfit", "targets": ["to_q", "to_out.0"]})
    assert sum(estimate.trained(made, facts)) == 20 * 640 + 120 * 1280


def choosing_rows(facts):
    """The table of docs/choosing.md: memory at the peak of training, and minutes for the paper's 2000 views."""
    settings = {
        "1024 px, bf16": {},
        '1024 px, `base_dtype = "fp8"`': {"base": "fp8"},
        '1024 px, `base_dtype = "nf4"`': {"base": "nf4"},
        "768 px, bf16": {"width": 768, "height": 768},
        "1024 px, bf16, `gradient_checkpointing = false`": {"checkpointing": False},
    }
    for name, other in settings.items():
        made = job()
        given = setting(made, **other)
        memory = estimate.memory(made, facts, given).total / estimate.GB
        minutes = (f"{seconds / 60:.0f}" for seconds in list(estimate.seconds(made, facts, given, 2000).values())[:3])
        yield f"| {name} | {memory:.1f} GB | {' | '.join(minutes)} |"


def test_the_page_on_choosing_has_these_estimates(facts):
    page = (ROOT / "docs" / "choosing.md").read_text(encoding="utf-8")
    assert [row for row in choosing_rows(facts) if row not in page] == []
    assert "| memory | an H100 | an RTX 4090 | an RTX 3090 |" in page
    assert list(estimate.REACHED)[:3] == ["an H100", "an RTX 4090", "an RTX 3090"]


PEAKS = json.loads((Path(__file__).parent / "peaks.json").read_text(encoding="utf-8"))
NETWORKS = {
    "WaveFT (ours)": {},
    "PEFT LoRA r=1": {"method": "lora", "network_dim": 1},
    "PEFT LoRA r=16": {"method": "lora", "network_dim": 16},
    "PEFT FourierFT": {"method": "fourierft"},
}


def counted(peak):
    """The job and the setting of a peak that `python -m benchmarks.roofline` counted."""
    made = job(network=NETWORKS[peak["method"]])
    base = {"bf16": "auto"}.get(peak["base"], peak["base"])
    given = dataclasses.replace(
        estimate.setting(made, (peak["px"], peak["px"]), peak["batch"]), checkpointing=peak["checkpointing"], base=base
    )
    return made, given


@pytest.mark.parametrize("peak", PEAKS, ids=lambda peak: " ".join(str(peak[key]) for key in list(peak)[:5]))
def test_estimates_are_within_a_tenth_of_what_was_counted(facts, peak):
    found = estimate.memory(*counted(peak)[:1], facts, counted(peak)[1])
    assert found.total - found.overhead == pytest.approx(sum(peak["peak"].values()), rel=0.1)
    assert found.weights == pytest.approx(peak["peak"]["weights"], rel=0.03)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("base", ["bf16", "fp8", "nf4"])
def test_the_peaks_are_still_counted_so(base):
    from benchmarks import fakes

    case = fakes.make(fakes.OURS, base)
    for peak in PEAKS:
        if (peak["method"], peak["base"], peak["px"]) == (fakes.OURS, base, 768):
            found = fakes.count(case, 768, peak["batch"], peak["checkpointing"]).peak
            assert sum(found.values()) == pytest.approx(sum(peak["peak"].values()), rel=0.02)


CARDS = {8: "fp8", 12: "bf16", 16: "bf16", 24: "bf16"}  # GB, and how the base is held


def presets(facts):
    """(GB of the card, job, its setting, GB that it takes) of jobs/sdxl-*gb.toml."""
    for size in CARDS:
        made = config.load(ROOT / "jobs" / f"sdxl-{size}gb.toml")
        given = estimate.setting(made, SIDE, max(estimate.dataset_batches(made)))
        yield size, made, given, estimate.memory(made, facts, given).total / estimate.GB


def test_presets_fit_their_cards_and_see_four_pictures_a_step(facts):
    taken = {}
    for size, made, given, gigabytes in presets(facts):
        assert gigabytes < 0.92 * size
        assert given.batch * made.train.gradient_accumulation_steps == 4
        assert f"{size} GB: about {gigabytes:.0f} GB" in (ROOT / "jobs" / f"sdxl-{size}gb.toml").read_text(
            encoding="utf-8"
        )
        taken[size] = gigabytes
    assert list(taken.values()) == sorted(taken.values())
    assert taken[12] > 8 * 0.92  # what a larger card's job takes, a smaller card has not
    assert taken[16] > 12
    assert taken[24] > 16


def card_rows(facts):
    """The table of README and docs/training.md: memory and minutes by card."""
    for size, made, given, gigabytes in presets(facts):
        minutes = (f"{seconds / 60:.0f}" for seconds in list(estimate.seconds(made, facts, given, 2000).values())[:3])
        how = f"{CARDS[size]}, {'on' if given.checkpointing else 'off'}, {given.batch}"
        name = f"[sdxl-{size}gb.toml](PATH/sdxl-{size}gb.toml)"
        yield f"| {size} GB | {name} | {how} | {gigabytes:.1f} GB | {' | '.join(minutes)} |"


@pytest.mark.parametrize(("page", "path"), [("README.md", "jobs"), ("docs/training.md", "../jobs")])
def test_the_table_of_cards_has_these_estimates(facts, page, path):
    said = (ROOT / page).read_text(encoding="utf-8")
    assert [row for row in card_rows(facts) if row.replace("PATH", path) not in said] == []
