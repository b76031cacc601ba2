import re
from xml.etree import ElementTree

import pytest

from trainer import chart


def test_running_mean_by_hand():
    assert chart.running_mean([4.0, 2.0, 6.0], 2) == [4.0, 3.0, 4.0]


@pytest.mark.parametrize("losses", [[0.5], [1.0, 0.0, 2.0], [0.0, 0.0], [0.1 * n for n in range(9000)]])
def test_curves_stay_within_the_picture(losses):
    tree = ElementTree.fromstring(chart.draw(losses))
    for line in tree.iter("polyline"):
        points = [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
        assert 1 <= len(points) <= chart.MOST_POINTS
        for x, y in points:
            assert chart.MARGIN <= x <= chart.WIDTH - chart.MARGIN
            assert chart.MARGIN <= y <= chart.HEIGHT - chart.MARGIN


def test_the_highest_loss_touches_the_top():
    heights = [float(y) for y in re.findall(r",([\d.]+)", chart.draw([1.0, 3.0]))]
    assert min(heights) == chart.MARGIN


def test_no_step():
    assert "No step" in chart.draw([])
