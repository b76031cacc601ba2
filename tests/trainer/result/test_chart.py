import re
from xml.etree import ElementTree

import numpy as np
import pytest

from trainer.result import chart


def test_running_mean_by_hand():
    assert np.allclose(chart.running_mean([4.0, 2.0, 6.0], 2), [4.0, 3.0, 4.0])


@pytest.mark.parametrize("losses", [[0.5], [1.0, 0.0, 2.0], [0.0, 0.0], [0.1 * n for n in range(9000)]])
def test_any_run_gives_a_whole_picture(losses):
    rates = [0.0] * len(losses)
    drawn = chart.draw(losses, rates, [(0, 0.5), (len(losses), float("nan"))], [1], first_step=3)
    assert ElementTree.fromstring(drawn).tag.endswith("svg")
    assert "Date" not in drawn


def test_a_higher_loss_is_drawn_higher():
    points = re.findall(r'<path d="M ([\d.]+) ([\d.]+) \nL ([\d.]+) ([\d.]+) \n" clip-path', chart.draw([1.0, 3.0]))
    x_first, y_first, x_last, y_last = map(float, points[0])
    assert x_first < x_last
    assert y_first > y_last  # SVG counts down


def lines(axes):
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines}


def test_what_is_drawn_where():
    made = chart.figure([3.0, 1.0], [1e-4, 5e-5], [(4, 2.0), (6, float("nan")), (6, 1.5)], [5], 5)
    loss, rate = made.axes
    assert lines(loss)["each step"] == ([5, 6], [3.0, 1.0])
    assert lines(loss)["validation"] == ([4, 6], [2.0, 1.5])
    assert rate.lines[0].get_ydata().tolist() == [1e-4, 5e-5]
    assert [list(line.get_xdata()) for line in rate.lines[1:]] == [[5, 5]]
    assert loss.get_position().height > 2 * rate.get_position().height


def test_no_rates_and_no_validation():
    [loss] = chart.figure([3.0, 1.0], [], [], [], 1).axes
    assert set(lines(loss)) == {"each step", "mean of 1 step"}


def test_no_step():
    assert "No step" in chart.draw([])
