import re
from xml.etree import ElementTree

import matplotlib as mpl

from fastsynth.report.plots import VARIABLES, curve_plot, forest

DIFFERENCE = {"metric": "miou", "mean": 0.05, "low": 0.02, "high": 0.08}


def parse(svg: str) -> ElementTree.Element:
    # inside a page the namespace is implied; a bare XML parser must be told
    return ElementTree.fromstring(svg.replace("<svg", '<svg xmlns:xlink="x"', 1))


def test_drawings_are_elements_whose_colours_come_from_the_page():
    for svg in (
        forest([("fast & co <b>", DIFFERENCE)], title="points"),
        curve_plot(
            {"real": [[(0, 1.0), (1, 0.5)]], "$synthetic$": [[(0, 1.0), (1, 0.4)]]}, title="loss", along="steps"
        ),
    ):
        assert parse(svg).tag == "svg"
        assert not re.findall(r"#[0-9a-f]{6}\b", svg)
        assert set(re.findall(r"var\((--[\w-]+)\)", svg)) <= set(VARIABLES.values())
        assert "://" not in svg


def test_labels_are_shown_as_they_are():
    texts = "".join(parse(forest([("fast & co <b> $x$", DIFFERENCE)], title="points")).itertext())
    assert "fast & co <b> $x$" in texts
    assert "+5.0" in texts


def test_the_colour_of_a_bar_tells_what_its_interval_tells():
    helps = forest([("a", DIFFERENCE)], title="t")
    hurts = forest([("a", {"metric": "miou", "mean": -0.05, "low": -0.08, "high": -0.02})], title="t")
    assert "--helps" in helps
    assert "--hurts" not in helps
    assert "--hurts" in hurts
    assert "--helps" not in hurts


def test_the_same_drawing_gives_the_same_bytes_and_leaves_matplotlib_as_it_was():
    before = dict(mpl.rcParams)
    curves = {"real": [[(0, 1.0), (1, 0.5)], [(0, 0.8), (1, 0.7)]]}
    assert curve_plot(curves, title="loss", along="steps") == curve_plot(curves, title="loss", along="steps")
    assert dict(mpl.rcParams) == before
