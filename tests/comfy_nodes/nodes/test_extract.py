import hashlib

import pytest
import torch
from safetensors.torch import save_file

Q = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
K = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
TEXT_KEY = "clip_l.transformer.text_model.encoder.layers.0.self_attn.q_proj"
TEXT = "lora_te1_text_model_encoder_layers_0_self_attn_q_proj"
FF = "lora_unet_input_blocks_4_1_transformer_blocks_0_ff_net_2"
Q_KEY, K_KEY, FF_KEY = (
    f"diffusion_model.input_blocks.4.1.transformer_blocks.0.{name}.weight"
    for name in ("attn1.to_q", "attn2.to_k", "ff.net.2")
)
WIDGETS = {
    "budget": "coefficients per layer",
    "coefficients": 20,
    "energy": 0.9,
    "layers": "attention",
    "wavelet": "db1",
    "scaling": 25.0,
    "lora_name": "None",
}


class Cancelled(Exception):
    pass


@pytest.fixture
def progress(comfy, monkeypatch):
    """Stands in for the bar: what it was told; after `stop_at` layers the user cancels."""

    class Progress:
        steps, total, stop_at = 0, None, None

        def __init__(self, total):
            type(self).total = total

        def step(self, count=1):
            type(self).steps += count

        def to(self, value):
            type(self).steps = value

        def check(self):
            if self.steps == self.stop_at:
                raise Cancelled

    monkeypatch.setattr(comfy("adapters.extracting"), "Progress", Progress)
    return Progress


@pytest.fixture
def extract(comfy, progress):
    """Returns a function that runs the node: extract(base, tuned, base_clip, tuned_clip, widget=value)."""
    comfy("folders").register()
    execute = comfy("nodes.extract").WaveFTExtract.execute
    return lambda base, tuned=None, clip=None, tuned_clip=None, **changed: execute(
        base, **{**WIDGETS, **changed}, tuned_model=tuned, base_clip=clip, tuned_clip=tuned_clip
    )


@pytest.fixture
def wide(unet, monkeypatch, comfy):
    """A model with a feed-forward layer too."""
    unet.model.state_dict()[FF_KEY] = torch.randn(8, 16, generator=torch.Generator().manual_seed(9))
    keys = {Q: Q_KEY, K: K_KEY, FF: FF_KEY}
    monkeypatch.setattr(comfy("adapters.weights").comfy.lora, "model_lora_keys_unet", lambda model, found: keys)
    return unet


@pytest.fixture
def tuned(comfy, unet):
    """A fine-tuned model: others' patches on the same weights."""
    made, generator = unet.clone(), torch.Generator().manual_seed(7)
    for key, weight in unet.model.state_dict().items():
        made.add_patches({key: 0.1 * torch.randn(weight.shape, generator=generator)})
    return made


def write_lora(models, shapes, name="style.safetensors", metadata=None):
    generator, tensors, products = torch.Generator().manual_seed(4), {}, {}
    for layer, (m, n) in shapes.items():
        up, down = torch.randn(m, 2, generator=generator), torch.randn(2, n, generator=generator)
        tensors |= {
            f"{layer}.lora_up.weight": up,
            f"{layer}.lora_down.weight": down,
            f"{layer}.alpha": torch.tensor(1.0),
        }
        products[layer] = up @ down / 2
    save_file(tensors, models / "loras" / name, metadata)
    return products


def difference(base, tuned, key):
    return tuned.merged(key) - base.model.state_dict()[key]


def close(got, expected):
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


class TestModels:
    def test_all_coefficients_are_the_difference_itself(self, extract, unet, tuned, progress):
        carried, report = extract(unet, tuned, coefficients=1000)
        for layer, key in ((Q, Q_KEY), (K, K_KEY)):
            close(carried.adapter.delta(layer), difference(unet, tuned, key))
        assert "100.00% of the energy kept" in report
        assert (progress.steps, progress.total) == (2, 2)

    def test_the_largest_are_kept_and_the_report_says_what_of_the_energy(self, extract, unet, tuned):
        carried, report = extract(unet, tuned, wavelet="db2", scaling=3.0)
        held = carried.adapter
        assert [layer.values.numel() for layer in held.layers.values()] == [20, 20]
        assert (held.wavelet, held.scaling) == ("db2", 3.0)
        whole = sum(float(difference(unet, tuned, key).square().sum()) for key in (Q_KEY, K_KEY))
        lost = sum(
            float((difference(unet, tuned, key) - held.delta(layer)).square().sum())
            for layer, key in ((Q, Q_KEY), (K, K_KEY))
        )
        kept = carried.origin["extracted"]["energy_kept"]
        assert kept == pytest.approx(1 - lost / whole, abs=1e-4)
        assert f"{kept:.2%} of the energy kept, relative error {(lost / whole) ** 0.5:.2%}" in report
        assert "40 coefficients, db2, periodization, scaling 3" in report
        assert report.index("least kept") < report.index(Q)
        assert carried.origin["extracted"] | {"energy_kept": 0} == {
            "coefficients": 20,
            "layers": "attention",
            "energy_kept": 0,
            "from": "two models",
        }

    def test_the_budgets(self, extract, unet, tuned):
        in_all = extract(unet, tuned, budget="coefficients in all")[0].adapter
        assert sum(layer.values.numel() for layer in in_all.layers.values()) == 20
        carried, _ = extract(unet, tuned, budget="share of energy", energy=0.8)
        assert 0.8 <= carried.origin["extracted"]["energy_kept"] < 0.85
        assert carried.origin["extracted"]["energy"] == 0.8

    def test_fewer_coefficients_than_layers_are_warned_of(self, extract, unet, tuned):
        made, report = extract(unet, tuned, budget="coefficients in all", coefficients=1)
        kept = made.origin["extracted"]["energy_kept"]
        assert report.splitlines()[0] == (
            f"warning: 1 coefficient in all for 2 layers keeps {kept:.2%} of the energy. "
            'Did you mean the budget "coefficients per layer"?'
        )
        for enough in ({"budget": "coefficients in all", "coefficients": 2}, {"coefficients": 1}):
            assert "warning" not in extract(unet, tuned, **enough)[1]

    def test_feed_forward_layers_are_taken_where_they_are_wanted(self, extract, wide, tuned):
        tuned.add_patches({FF_KEY: torch.ones(8, 16)})
        assert set(extract(wide, tuned)[0].adapter.layers) == {Q, K}
        assert set(extract(wide, tuned, layers="attention and feed-forward")[0].adapter.layers) == {Q, K, FF}

    def test_what_is_extracted_can_be_applied_and_what_is_applied_extracted(self, comfy, extract, unet, carry, small):
        patch = comfy("patching.patch")
        model = patch.apply(unet, None, [patch.Part(carry(small), 0.5, 1.0)])[0]
        carried, _ = extract(unet, model)
        for layer in (Q, K):
            close(carried.adapter.delta(layer), 0.5 * small.delta(layer))
        back = patch.apply(unet, None, [patch.Part(carried, 1.0, 1.0)])[0]
        close(back.merged(Q_KEY), model.merged(Q_KEY))

    def test_layers_that_do_not_differ_are_left_out_and_said(self, extract, unet):
        made = unet.clone()
        made.add_patches({Q_KEY: torch.ones(8, 8)})
        carried, report = extract(unet, made)
        assert list(carried.adapter.layers) == [Q]
        assert "left out: 1 layer without a difference" in report

    def test_the_same_model_twice_and_another_one_are_refused(self, comfy, extract, unet, tuned):
        with pytest.raises(comfy("core").WaveFTError, match=r"the difference, attention layers: .*none that differs"):
            extract(unet, unet)
        other = type(tuned)({key: weight[:, :4] for key, weight in unet.model.state_dict().items()})
        with pytest.raises(comfy("core").WaveFTError, match=r"one shape in both models, got \[8, 8\] and \[8, 4\]"):
            extract(unet, other)

    def test_what_storage_explains_is_no_training_and_said(self, comfy, extract, unet):
        """A fine-tune that is stored in bf16: every entry differs, one layer alone was trained."""
        held = unet.model.state_dict()
        rounded = {key: weight.to(torch.bfloat16).float() for key, weight in held.items()}
        made = type(unet)({**rounded, Q_KEY: (held[Q_KEY] + torch.eye(8)).to(torch.bfloat16).float()})
        carried, report = extract(unet, made)
        assert list(carried.adapter.layers) == [Q]
        assert "taken for the rounding of bfloat16, not for training: 1 whole layer" in report
        assert report.count("taken for the rounding") == 2, "entries of the trained layer too"
        with pytest.raises(comfy("core").WaveFTError, match=r"What differs, in 2 layers, is the rounding of bfloat16"):
            extract(unet, type(unet)(rounded))

    def test_text_encoders_are_compared_where_both_come(self, extract, unet, tuned, clip, progress):
        made = clip.clone()
        made.add_patches({f"{TEXT_KEY}.weight": torch.eye(6)})
        carried, _ = extract(unet, tuned, clip, made, coefficients=1000)
        assert set(carried.adapter.layers) == {Q, K, TEXT}
        close(carried.adapter.delta(TEXT), torch.eye(6))
        close(carried.adapter.delta(Q), difference(unet, tuned, Q_KEY))
        assert carried.origin["extracted"]["from"] == "two models and their text encoders"
        assert (progress.steps, progress.total) == (3, 3)

    def test_text_encoders_feed_forward_layers_are_taken_where_they_are_wanted(
        self, comfy, extract, unet, tuned, clip, monkeypatch
    ):
        text_ff = "lora_te1_text_model_encoder_layers_0_mlp_fc1"
        key = "clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.weight"
        clip.model.state_dict()[key] = torch.zeros(8, 6)
        spelled = {TEXT: f"{TEXT_KEY}.weight", text_ff: key}
        monkeypatch.setattr(comfy("adapters.weights").comfy.lora, "model_lora_keys_clip", lambda module, found: spelled)
        made = clip.clone()
        made.add_patches({f"{TEXT_KEY}.weight": torch.eye(6), key: torch.ones(8, 6)})
        assert set(extract(unet, tuned, clip, made)[0].adapter.layers) == {Q, K, TEXT}
        both = extract(unet, tuned, clip, made, layers="attention and feed-forward")[0]
        assert set(both.adapter.layers) == {Q, K, TEXT, text_ff}

    def test_text_encoders_of_one_side_alone_are_refused(self, comfy, extract, unet, tuned, clip):
        with pytest.raises(comfy("core").WaveFTError, match=r"^tuned_clip: expected .* base_clip with, got none"):
            extract(unet, tuned, clip)
        with pytest.raises(comfy("core").WaveFTError, match=r"^base_clip: expected .* tuned_clip with, got none"):
            extract(unet, tuned, None, clip)
        other = type(clip)({"clip_g.x.weight": torch.zeros(6, 6)})
        with pytest.raises(comfy("core").WaveFTError, match=r'the same text encoders, got "te1" and none'):
            extract(unet, tuned, clip, other)

    def test_cancelling_ends_it(self, extract, unet, tuned, progress):
        progress.stop_at = 1
        with pytest.raises(Cancelled):
            extract(unet, tuned)
        assert progress.steps == 1


class TestLora:
    def test_its_product_becomes_the_adapter(self, extract, unet, models):
        products = write_lora(models, {Q: (8, 8), K: (8, 12)}, metadata={"ss_base_model_version": "toy"})
        carried, report = extract(unet, lora_name="style.safetensors", coefficients=1000)
        for layer, product in products.items():
            close(carried.adapter.delta(layer), product)
        held = hashlib.sha256((models / "loras/style.safetensors").read_bytes()).hexdigest()
        assert carried.origin["extracted"]["lora"] == "style.safetensors"
        assert carried.origin["extracted"]["sha256"] == held
        assert carried.adapter.metadata["ss_base_model_version"] == "toy"
        assert report.startswith("extracted from style.safetensors: 2 layers")

    @pytest.mark.parametrize("shapes", [{Q: (8, 8)}, {Q: (8, 8), FF: (8, 16)}], ids=["fewer", "others"])
    def test_the_bar_is_as_long_as_the_file(self, extract, wide, models, progress, shapes):
        """Whatever layers the base has besides, and whichever are passed over."""
        write_lora(models, shapes)
        extract(wide, lora_name="style.safetensors")
        assert (progress.steps, progress.total) == (len(shapes), len(shapes))

    def test_other_layers_are_passed_over_and_said(self, extract, wide, models):
        write_lora(models, {Q: (8, 8), FF: (8, 16)})
        carried, report = extract(wide, lora_name="style.safetensors")
        assert list(carried.adapter.layers) == [Q]
        assert "left out: 1 layer of another kind than attention" in report

    def test_text_encoders_need_their_clip(self, comfy, extract, unet, clip, models):
        products = write_lora(models, {Q: (8, 8), TEXT: (6, 6)})
        with pytest.raises(comfy("core").WaveFTError, match=r"style.safetensors.*Connect `base_clip`"):
            extract(unet, lora_name="style.safetensors")
        carried, _ = extract(unet, clip=clip, lora_name="style.safetensors", coefficients=1000)
        close(carried.adapter.delta(TEXT), products[TEXT])

    def test_comfyuis_spellings_are_understood(self, comfy, extract, unet, models, monkeypatch):
        other = "lora_unet_down_blocks_9_attentions_0_transformer_blocks_0_attn1_to_q"
        spelled = {Q: Q_KEY, K: K_KEY, other: Q_KEY}
        monkeypatch.setattr(comfy("adapters.weights").comfy.lora, "model_lora_keys_unet", lambda model, found: spelled)
        products = write_lora(models, {other: (8, 8)})
        carried, _ = extract(unet, lora_name="style.safetensors", coefficients=1000)
        close(carried.adapter.delta(Q), products[other])

    def test_one_for_another_model_is_refused_by_name(self, comfy, extract, unet, models):
        write_lora(models, {"lora_unet_nowhere": (8, 8)})
        with pytest.raises(comfy("core").WaveFTError, match="lora_unet_nowhere"):
            extract(unet, lora_name="style.safetensors")

    def test_the_list_holds_loras_alone(self, comfy, extract, models, small):
        from waveft_core import save

        write_lora(models, {Q: (8, 8)})
        save(small, models / "loras/waveft.safetensors")
        (models / "loras/old.pt").write_bytes(b"")
        assert comfy("models").lora_choices() == ["style.safetensors"]
        schema = comfy("nodes.extract").WaveFTExtract.define_schema()
        assert next(i for i in schema.inputs if i.id == "lora_name").options == ["None", "style.safetensors"]

    def test_the_fingerprint_follows_the_file(self, comfy, extract, models):
        node = comfy("nodes.extract").WaveFTExtract
        write_lora(models, {Q: (8, 8)})
        first = node.fingerprint_inputs(lora_name="style.safetensors", budget="x")
        assert node.fingerprint_inputs(lora_name="style.safetensors") == first
        write_lora(models, {Q: (8, 8), K: (8, 12)})
        assert node.fingerprint_inputs(lora_name="style.safetensors") != first
        assert node.fingerprint_inputs(lora_name="None") == ""
        linked = node.fingerprint_inputs()
        assert linked != linked

    def test_a_file_that_is_gone_is_said_before_anything_runs(self, comfy, extract, models):
        validate = comfy("nodes.extract").WaveFTExtract.validate_inputs
        write_lora(models, {Q: (8, 8)})
        assert validate("style.safetensors") is validate("None") is validate() is True
        assert '"gone.safetensors": expected a file in models/loras' in validate("gone.safetensors")


def test_exactly_one_of_model_and_lora_is_wanted(comfy, extract, unet, tuned):
    with pytest.raises(comfy("core").WaveFTError, match="got neither"):
        extract(unet)
    with pytest.raises(comfy("core").WaveFTError, match="got both"):
        extract(unet, tuned, lora_name="style.safetensors")


def test_text_encoders_to_compare_with_a_lora_are_refused(comfy, extract, unet, clip):
    with pytest.raises(comfy("core").WaveFTError, match="tuned_clip: expected it beside tuned_model, got a LoRA"):
        extract(unet, None, clip, clip, lora_name="style.safetensors")


def test_a_bypassed_model_is_said(comfy, extract, tuned):
    with pytest.raises(comfy("core").WaveFTError, match=r"^base_model: expected something connected"):
        extract(None, tuned)


@pytest.mark.parametrize("widget", ["budget", "layers", "wavelet"])
def test_what_is_on_no_list_is_refused(comfy, extract, unet, tuned, widget):
    """ComfyUI leaves the lists of such nodes to the front end."""
    with pytest.raises(comfy("core").WaveFTError, match=f"^{widget}: expected one of .*, got 'nonsense'"):
        extract(unet, tuned, **{widget: "nonsense"})
