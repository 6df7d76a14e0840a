"""Line charts: their scales, and that what is drawn is well-formed and labelled."""

from xml.etree import ElementTree

import pytest

from shakespeare_lm.evaluation.line_chart import Axis, Line, axis, line_chart


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        ([1.52, 2.54], 1.4, 2.6),
        ([0.0, 1.0], 0.0, 1.0),
        ([3.0, 3.0], 3.0, 3.2),
        ([0.001, 0.0095], 0.0, 0.01),
        ([900.0, 1100.0], 900.0, 1100.0),
    ],
)
def test_an_axis_has_round_ends_around_all_values(
    values: list[float], low: float, high: float
) -> None:
    found = axis("", values)
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert found.place(found.low) == 0.0
    assert found.place(found.high) == pytest.approx(1.0)


def test_ticks_are_round_and_few() -> None:
    assert Axis("", 0, 1).ticks() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert Axis("", 1, 31).ticks() == pytest.approx([5, 10, 15, 20, 25, 30])
    assert axis("", [1, 128], doubling=True).ticks() == [1, 2, 4, 8, 16, 32, 64, 128]
    assert Axis("", 1, 128, doubling=True).place(8) == pytest.approx(3 / 7)
    assert axis("", [1.0], doubling=True).high == 2.0
    assert len(axis("", [1, 2**30], doubling=True).ticks()) <= 12


def test_a_chart_has_its_lines_in_place_labels_and_a_legend() -> None:
    lines = [Line("<first>", [(0, 0), (1, 1)]), Line("second", [(0, 1)])]
    figure = ElementTree.fromstring(
        line_chart("Title & more", Axis("x axis", 0, 1), Axis("y axis", 0, 1), lines)
    )
    first, second = figure.findall("svg/polyline")
    assert first.get("points") == "44.0,210.0 410.0,8.0"  # up, to the right
    assert second.get("points") == "44.0,8.0"
    assert [one.get("class") for one in (first, second)] == ["line line-1", "line line-2"]
    texts = [text.text for text in figure.findall("svg/text")]
    assert {"x axis", "y axis", "0.2", "1"} <= set(texts)
    assert figure.findtext("figcaption") == "Title & more"
    legend = ["".join(item.itertext()) for item in figure.findall("ul/li")]
    assert legend == ["<first>", "second"]
    label = figure.find("svg").get("aria-label")  # type: ignore[union-attr]
    assert label == "Title & more: y axis by x axis; <first>, second"
