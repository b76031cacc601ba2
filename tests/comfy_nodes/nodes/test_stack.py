import pytest
import torch

Q_KEY = "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight"
Q = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"


@pytest.fixture
def stack(comfy, models, small, make_adapter):
    """Returns a function from {row: (name, strength, enabled)} to the inputs of the node."""
    from waveft_core import save

    comfy("folders").register()
    save(small, models / "waveft/a.safetensors")
    save(make_adapter({Q: (8, 8)}, seed=3), models / "waveft/b.safetensors")
    save(make_adapter({"lora_unet_nowhere": (8, 8)}), models / "waveft/wrong.safetensors")
    (models / "waveft/broken.safetensors").write_bytes(b"no")

    def inputs(**rows):
        found = {}
        for number in range(1, 9):
            name, strength, enabled = rows.get(f"row_{number}", ("None", 1.0, True))
            found |= {f"adapter_{number}": name, f"strength_{number}": strength, f"enabled_{number}": enabled}
        return found

    return inputs


@pytest.fixture
def node(comfy, stack):
    return comfy("nodes.stack").WaveFTStack


def test_rows_in_use_come_out_in_order_after_the_previous_ones(node, stack):
    first, _ = node.execute(**stack(row_2=("b.safetensors", 0.5, True)))
    rows = {
        "row_1": ("a.safetensors", 1.0, True),
        "row_3": ("b.safetensors", 1.0, False),
        "row_8": ("b.safetensors", -1.0, True),
    }
    both, report = node.execute(first, **stack(**rows))
    found = [(row.carried.title, row.strength) for row in both]
    assert found == [("b.safetensors", 0.5), ("a.safetensors", 1.0), ("b.safetensors", -1.0)]
    assert [line.split(":")[0] for line in report.splitlines()] == [
        "0.5 * b.safetensors", "1 * a.safetensors", "-1 * b.safetensors"
    ]  # fmt: skip
    assert tuple(node.execute(**stack())) == ((), "no row is in use")


def test_a_bad_file_is_refused_with_its_row_unless_the_row_is_off(comfy, node, stack):
    node.execute(**stack(row_1=("a.safetensors", 1.0, True), row_2=("broken.safetensors", 1.0, False)))
    for row, name in (("row_2", "broken.safetensors"), ("row_8", "gone.safetensors")):
        with pytest.raises(comfy("core").WaveFTError, match=f"(?s){row.replace('_', ' ')}: .*{name}"):
            node.execute(**stack(**{row: (name, 1.0, True)}))
    assert not hasattr(node, "validate_inputs")  # ComfyUI would repeat what it says sixteen times


def test_the_fingerprint_follows_the_files_in_use(node, stack, models, small):
    from waveft_core import save

    inputs = stack(row_1=("a.safetensors", 1.0, True), row_2=("b.safetensors", 1.0, False))
    first = node.fingerprint_inputs(**inputs)
    save(small, models / "waveft/b.safetensors")
    assert node.fingerprint_inputs(**inputs) == first
    save(small, models / "waveft/a.safetensors")
    assert node.fingerprint_inputs(**inputs) != first


def test_all_rows_are_applied_times_the_nodes_strength(comfy, node, stack, unet, small):
    rows, _ = node.execute(**stack(row_1=("a.safetensors", 0.5, True), row_2=("b.safetensors", -1.0, True)))
    model, clip, report = comfy("nodes.apply_stack").WaveFTApplyStack.execute(unet, rows, 2.0)
    other = rows[1].carried.adapter
    expected = unet.model.state_dict()[Q_KEY] + small.delta(Q) - 2 * other.delta(Q)
    torch.testing.assert_close(model.merged(Q_KEY), expected, rtol=0, atol=1e-6)
    assert clip is None
    assert "2/2 layers of a.safetensors" in report and "1/1 layers of b.safetensors" in report


def test_one_row_that_does_not_fit_stops_all(comfy, node, stack, unet):
    rows, _ = node.execute(**stack(row_1=("a.safetensors", 1.0, True), row_2=("wrong.safetensors", 1.0, True)))
    with pytest.raises(comfy("core").WaveFTError, match=r'"wrong.safetensors".*lora_unet_nowhere'):
        comfy("nodes.apply_stack").WaveFTApplyStack.execute(unet, rows, 1.0)
    assert unet.patches == {}


def test_an_empty_stack_or_strength_0_returns_the_model_itself(comfy, node, stack, unet):
    apply = comfy("nodes.apply_stack").WaveFTApplyStack.execute
    assert apply(unet, (), 1.0)[0] is unet
    rows, _ = node.execute(**stack(row_1=("a.safetensors", 1.0, True)))
    assert apply(unet, rows, 0.0)[0] is unet


def test_a_row_that_a_filter_empties_is_left_out_and_said(comfy, node, stack, unet):
    rows, _ = node.execute(**stack(row_1=("a.safetensors", 1.0, True), row_2=("b.safetensors", 1.0, True)))
    kept = comfy("adapters.filters").Filter({"attn1": 0.0})  # b has attn1 alone
    model, _, report = comfy("nodes.apply_stack").WaveFTApplyStack.execute(unet, rows, 1.0, filter=kept)
    assert len(model.patches) == 1
    assert "0/1 layers of b.safetensors: filtered out" in report and "1/1 layers of a.safetensors" in report
    apply = comfy("nodes.apply_stack").WaveFTApplyStack.execute
    assert apply(unet, rows, 0.0, filter=comfy("adapters.filters").Filter({"attn1": 0.0, "attn2": 0.0}))[0] is unet
    with pytest.raises(comfy("core").WaveFTError, match="stack: expected something connected"):
        apply(unet, None, 1.0)
