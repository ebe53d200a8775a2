"""The roofline drawn: labels that can be read, and the files."""

import re
import sys
from itertools import combinations
from math import cos, radians
from xml.etree import ElementTree

import pytest

from minillm.errors import UserError
from minillm.observe import chart, roofline
from minillm.observe.chart import Point

CROWD = [Point(f"operation_{i}", 1.0 + 0.05 * i, 10.0 + i, 0.05) for i in range(12)]


@pytest.fixture
def roofs(roof):
    return roofline.as_json(roof)


def overlap(a, b):
    return min(a[2], b[2]) - max(a[0], b[0]) > 0 and min(a[3], b[3]) - max(a[1], b[1]) > 0


def test_labels_of_a_crowd_do_not_overlap(roofs):
    axes = chart.axes_for(roofs, CROWD)
    anchors = [(*axes.at(p.intensity, p.gflops), p.radius, p.name) for p in CROWD]
    boxes = chart.place(anchors, [])
    assert not any(overlap(a, b) for a, b in combinations(boxes, 2))
    for x0, y0, x1, y1 in boxes:
        assert 0 <= x0 <= x1 <= chart.WIDTH
        assert 0 <= y0 <= y1 <= chart.HEIGHT


def test_axes_take_in_every_point_and_ridge(roofs):
    far = [Point("left", 0.02, 0.3, 0.1), Point("right", 300.0, 150.0, 0.1)]
    axes = chart.axes_for(roofs, far)
    assert axes.at(axes.x[0], axes.y[0]) == (chart.LEFT, chart.HEIGHT - chart.BOTTOM)
    for point in far:
        x, y = axes.at(point.intensity, point.gflops)
        assert chart.LEFT <= x <= chart.WIDTH - chart.RIGHT
        assert chart.TOP <= y <= chart.HEIGHT - chart.BOTTOM


def test_roofs_meet_at_their_ridges(roofs):
    flat, *slanted = chart.roof_lines(roofs, chart.axes_for(roofs, CROWD))
    assert flat[0] == "200 GFLOP/s"
    for (name, start, end), rate in zip(slanted, roofs["bandwidth_gbs"].values(), strict=True):
        assert f"{rate:.0f} GB/s" in name
        assert end == (pytest.approx(200 / rate), 200)
        assert start[1] == pytest.approx(start[0] * rate)


def test_names_of_roofs_that_lie_close_do_not_overlap(roofs):
    close = roofs | {"bandwidth_gbs": {"L1": 400.0, "L2": 50.0, "L3": 22.0, "DRAM": 20.0}}
    names = chart._roof_names(close, chart.axes_for(close, CROWD))
    (x3, _, turn), (x4, _, _) = names[3][0], names[4][0]
    assert x4 - x3 >= len(names[3][1]) * chart.LETTER * cos(radians(turn))


def test_svg_shows_every_point_once_and_is_well_formed(roofs):
    drawing = ElementTree.fromstring(chart.svg(roofs, CROWD))
    assert len(drawing.findall("circle")) == len(CROWD)
    labels = [t.text for t in drawing.findall("text") if t.get("class") == "label"]
    assert sorted(labels) == sorted(point.name for point in CROWD)


def test_operations_without_flop_are_no_points():
    rows = [
        {"name": "add", "gflops": None, "intensity": None, "share": 0.1},
        {"name": "linear", "gflops": 3.0, "intensity": 2.0, "share": 0.5},
    ]
    assert chart.points({"operations": rows}, 1) == [Point("linear", 2.0, 3.0, 0.5, 1)]


def test_plot_is_written(roofs, tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "two.svg"
    chart.save(path, roofs, {"naive": CROWD[:2], "auto": CROWD[2:]}, "a title")
    assert re.search("naive|<svg", path.read_text(encoding="utf-8"))
    with pytest.raises(UserError, match="--plot"):
        chart.save(tmp_path / "x.nothing", roofs, {"": CROWD}, "")


def test_missing_matplotlib_is_one_line_with_the_remedy(roofs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match=r'pip install "minillm\[plot\]"'):
        chart.save(tmp_path / "x.png", roofs, {"": CROWD}, "")
