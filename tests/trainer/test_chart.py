import re
from xml.etree import ElementTree

import numpy as np
import pytest

from trainer import chart


def test_running_mean_by_hand():
    assert np.allclose(chart.running_mean([4.0, 2.0, 6.0], 2), [4.0, 3.0, 4.0])


@pytest.mark.parametrize("losses", [[0.5], [1.0, 0.0, 2.0], [0.0, 0.0], [0.1 * n for n in range(9000)]])
def test_any_run_gives_a_whole_picture(losses):
    drawn = chart.draw(losses)
    assert ElementTree.fromstring(drawn).tag.endswith("svg")
    assert f"mean of {max(1, len(losses) // 20)} steps" in drawn or "<path" in drawn


def test_a_higher_loss_is_drawn_higher():
    points = re.findall(r'<path d="M ([\d.]+) ([\d.]+) \nL ([\d.]+) ([\d.]+) \n" clip-path', chart.draw([1.0, 3.0]))
    x_first, y_first, x_last, y_last = map(float, points[0])
    assert x_first < x_last
    assert y_first > y_last  # SVG counts down


def test_no_step():
    assert "No step" in chart.draw([])
