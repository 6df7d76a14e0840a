"""The section on copies: the chart reaches as far as anything is copied."""

from xml.etree import ElementTree

from shakespeare_lm.evaluation.copying import Copying
from shakespeare_lm.evaluation.novelty import novelty
from shakespeare_lm.evaluation.report_copying import copied_chart, copying_section

TRAIN = ["The quality of mercy is not strained.\n"]


def copying(*samples: str) -> Copying:
    return Copying(novelty(samples, TRAIN), novelty(["mercies!"], TRAIN), 8, [], list(samples))


def test_each_model_has_a_line_beside_the_held_out_text() -> None:
    found = {"a": copying("quality is"), "b": copying("xyz")}
    figure = ElementTree.fromstring(copied_chart(found).partition("</p>")[2])
    a, b, held_out = (line.get("points", "").split() for line in figure.findall("svg/polyline"))
    # "quality " is the longest copy, of 8 characters; "xyz" has three substring lengths only.
    assert [len(line) for line in (a, b, held_out)] == [8, 3, 8]
    texts = ["".join(item.itertext()) for item in figure.findall("ul/li")]
    assert texts == ["a, samples", "b, samples", "held-out text"]


def test_the_longest_copies_are_shown_with_their_line_and_samples_are_cut() -> None:
    html = copying_section("name", copying("<" * 500, "of mercy", "3", "fourth"))
    assert "Longest copy in the samples: 8 characters, from line 1 of the training part" in html
    assert "of mercy</p>" in html
    assert "&lt;" * 400 + "</p>" in html
    assert "fourth" not in html
