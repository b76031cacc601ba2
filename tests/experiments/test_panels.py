"""How rows are drawn: every seed beside the mean, the base as a line where it does not hide the rows."""

import matplotlib.figure
import pytest

from experiments import panels


def row(label, *losses):
    mean = sum(losses) / len(losses)
    return {"label": label, "rate": None, "figures": {"loss": [mean, None, None]}, "each": {"loss": list(losses)}}


def panel_of(*rows):
    canvas = matplotlib.figure.Figure()
    panels.dots({"rows": list(rows)}, canvas, "")
    return canvas.axes[0], canvas.get_supxlabel()


def test_each_seed_is_a_dot_beside_the_mean():
    panel, hints = panel_of(row("base", 0.2), row("waveft a", 0.14, 0.16), row("shira b", 0.15))
    drawn = sorted(float(x) for line in panel.lines for x in line.get_xdata() if line.get_marker() == "o")
    assert drawn == pytest.approx([0.14, 0.15, 0.15, 0.16])  # two seeds and their mean; one seed alone is its mean
    assert panels.SINGLES in hints


@pytest.mark.parametrize(("base", "drawn", "said"), [(0.17, True, ""), (0.21, False, "base: 0.21 →")])
def test_the_base_is_a_line_unless_the_rows_would_shrink_to_a_dot(base, drawn, said):
    panel, _ = panel_of(row("base", base), row("waveft a", 0.148), row("shira b", 0.164))
    assert any(line.get_linestyle() == ":" for line in panel.lines) == drawn
    assert panel.get_xlabel() == said
    left, right = panel.get_xlim()
    assert (left < base < right) == drawn
