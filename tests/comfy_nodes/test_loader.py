import asyncio

import pytest
from safetensors.torch import save_file
from torch import zeros


@pytest.fixture
def node(comfy, models, small):
    from waveft_core import save

    nodes = asyncio.run(entry(comfy))
    save(small, models / "waveft/a.safetensors")
    save_file({"lora_unet_x.lora_up.weight": zeros(2)}, models / "waveft/plain.safetensors")
    (found,) = nodes
    return found


async def entry(comfy):
    return await (await comfy().comfy_entrypoint()).get_node_list()


def test_ids_and_order_are_what_saved_workflows_rely_on(node):
    schema = node.define_schema()
    assert (schema.node_id, schema.display_name) == ("WaveFTLoader", "Load WaveFT")
    assert [(i.id, i.kind, i.optional) for i in schema.inputs] == [
        ("model", "MODEL", False),
        ("adapter_name", "COMBO", False),
        ("strength_model", "FLOAT", False),
        ("clip", "CLIP", True),
        ("strength_clip", "FLOAT", True),
    ]
    assert [o.kind for o in schema.outputs] == ["MODEL", "CLIP", "STRING"]
    for strength in (schema.inputs[2], schema.inputs[4]):
        assert (strength.min, strength.max, strength.step, strength.default) == (-100.0, 100.0, 0.01, 1.0)
    assert schema.inputs[1].options == ["a.safetensors", "plain.safetensors"]


def test_everything_explains_itself(node):
    schema = node.define_schema()
    assert schema.description
    for part in [*schema.inputs, *schema.outputs]:
        assert part.tooltip, part.id


def test_ids_are_unique_and_prefixed(comfy):
    comfy("folders").register()
    ids = [node.define_schema().node_id for node in comfy("extension").NODES]
    assert len(set(ids)) == len(ids)
    assert all(id.startswith("WaveFT") for id in ids)


def test_a_file_is_checked_before_anything_runs(node):
    assert node.validate_inputs("a.safetensors") is True
    assert node.validate_inputs(None) is True  # linked: not known yet
    assert "plain.safetensors" in node.validate_inputs("plain.safetensors")
    assert "models/waveft" in node.validate_inputs("gone.safetensors")


def test_the_fingerprint_changes_with_the_file_alone(node, models, small):
    from waveft_core import save

    first = node.fingerprint_inputs(adapter_name="a.safetensors", strength_model=1.0)
    assert node.fingerprint_inputs(adapter_name="a.safetensors", strength_model=2.0) == first
    save(small, models / "waveft/a.safetensors")
    assert node.fingerprint_inputs(adapter_name="a.safetensors") != first
    linked = node.fingerprint_inputs(adapter_name=None)
    assert linked != linked


def test_strength_0_returns_the_inputs_themselves(node, unet, clip):
    model, text, report = node.execute(unet, "a.safetensors", 0.0, clip, 0.0)
    assert (model, text) == (unet, clip)
    assert report.startswith("0 layers of a.safetensors")
    assert node.execute(unet, "a.safetensors", 0.0)[0] is unet


def test_model_text_encoders_and_report_come_out(node, unet, clip):
    model, text, report = node.execute(unet, "a.safetensors", 0.5, clip, 1.0)
    assert len(model.patches) == 2
    assert text is clip
    assert report.startswith("2/2 layers of a.safetensors")
