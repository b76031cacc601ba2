import pytest


@pytest.fixture
def node(comfy):
    return comfy("nodes.schedule").WaveFTStrengthSchedule


def test_its_inputs_are_final(node):
    # saved workflows hold widgets by position
    schema = node.define_schema()
    found = [(i.id, getattr(i, "default", None)) for i in schema.inputs]
    assert found == [
        ("start_strength", 0.0),
        ("end_strength", 1.0),
        ("start_percent", 0.0),
        ("end_percent", 1.0),
        ("curve", "linear"),
        ("keyframes", 5),
        ("prev_hook_kf", None),
    ]
    assert [(o.id, o.kind, o.display_name) for o in schema.outputs] == [("hook_kf", "HOOK_KEYFRAMES", "HOOK_KF")]
    (curve,) = (i for i in schema.inputs if i.id == "curve")
    assert curve.options == ["linear", "ease in", "ease out", "ease in and out"]


def test_its_defaults_are_a_line_from_0_to_1(node):
    defaults = {i.id: i.default for i in node.define_schema().inputs if not i.optional}
    (group,) = node.execute(**defaults)
    strengths = [keyframe.strength for keyframe in group.keyframes]
    assert strengths == [keyframe.start_percent for keyframe in group.keyframes] == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_it_chains(node):
    (first,) = node.execute(0.0, 1.0, 0.0, 0.4, "linear", 2)
    (second,) = node.execute(1.0, 0.0, 0.6, 1.0, "ease out", 3, prev_hook_kf=first)
    assert [keyframe.start_percent for keyframe in second.keyframes] == pytest.approx([0.0, 0.4, 0.6, 0.8, 1.0])
    assert len(first.keyframes) == 2
