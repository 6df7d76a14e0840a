"""The report and its charts: everything is on the page, and a real browser shows it without a
request.
"""

import math
import re
from html import unescape
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from shakespeare_lm.evaluation.baselines import Baseline
from shakespeare_lm.evaluation.breakdown import break_down
from shakespeare_lm.evaluation.copying import Copying, Extraction
from shakespeare_lm.evaluation.evaluation import Evaluation
from shakespeare_lm.evaluation.line_chart import Axis, Line, axis, line_chart
from shakespeare_lm.evaluation.novelty import novelty
from shakespeare_lm.evaluation.report import copied_chart, loss_chart, report
from shakespeare_lm.evaluation.tables import as_json
from tests.evaluation.conftest import evaluation
from tests.system.browser import needs_browser, started_browser

TEXT = 'ROMEO:\nWhat <light> & "noise"?\n\n' * 30
BASELINES = [Baseline("uniform", 4.0, "every character"), Baseline("2-gram", 2.5, "counted")]


def copying(*samples: str) -> Copying:
    rates = [Extraction(32, 0.25, None), Extraction(64, 0.0, 0.0)]
    return Copying(novelty(samples, [TEXT]), novelty([TEXT[:20]], [TEXT]), 8, rates, list(samples))


def full(name: str, nats: float = 2.0) -> Evaluation:
    losses = np.linspace(0.0, 2 * nats, len(TEXT))
    losses[0] = np.nan
    samples = ["ROMEO:\nWhat <b>bold</b>?", "<" * 500, "light", "fourth"]
    return evaluation(
        losses, checkpoint=name, block_nats=nats, stored_val_loss=nats,
        breakdown=break_down([TEXT], losses, 16), copying=copying(*samples),
    )  # fmt: skip


def visible(content: str) -> str:
    return unescape(re.sub("<[^<>]+>", "", content))


def test_the_page_has_the_verdict_the_ranking_the_breakdown_and_the_copies() -> None:
    content = report([full("a <model>")], BASELINES)
    shown = visible(content)
    for text in (
        "2.0000: better than every n-gram; the best is a 2-gram (2.5000)",
        "its stored val_loss, 2.000000, is the same",
        "a <model>", "uniform", "sliding window, 4 new characters each",
        "Loss by position in the context", "2-gram, overall", "speaker's name", "letter 1",
        "The most surprising passages", "Substrings that stand in the training part",
        "held-out text", "25.0%", "too short", "What <b>bold</b>?", "What <\n",
        "Longest copy in the samples: 13 characters, from line\n1 of the training part",
    ):  # fmt: skip
        assert text in shown, text
    assert "fourth" not in shown
    assert "<" * 400 + "\n" in shown
    assert "<" * 401 not in shown
    # The best of 1.0, 2.0, 2.5 and 4.0 is at 0 on an axis that ends before the others.
    assert re.findall(r'left:([0-9.]+%)">(.)<', content) == [
        ("0.0%", "●"), *[("100.0%", "→")] * 3,
    ]  # fmt: skip
    # The names and the texts are escaped.
    assert not re.findall("<(model|light|b>|script|link|img|iframe)", content)
    assert content == report([full("a <model>")], BASELINES)
    assert content.startswith("<!doctype html>")
    assert content.endswith("</html>\n")
    plain = report([evaluation(np.array([np.nan, 2.0]))], BASELINES)
    assert re.findall("<h2>(.*)</h2>", plain) == ["Against what"]


@pytest.mark.slow
@needs_browser
def test_a_browser_shows_it_wide_and_narrow_in_light_and_dark_without_a_request(
    tmp_path: Path,
) -> None:
    path = tmp_path / "report.html"
    runs = [full(f"lightning_logs/with_a_long_name/version_{i}", 2.0 + i) for i in range(7)]
    path.write_text(report(runs, BASELINES), encoding="utf-8")
    papers = set()
    with started_browser() as browser:
        for width, scheme in ((1200, "light"), (360, "dark")):
            page = browser.new_page(viewport={"width": width, "height": 700}, color_scheme=scheme)
            events: list[str] = []
            page.on("request", lambda request: events.append(request.url))  # noqa: B023
            page.on("console", lambda message: events.append(message.text))  # noqa: B023
            page.on("pageerror", lambda error: events.append(str(error)))  # noqa: B023
            page.goto(path.as_uri())
            assert events == [path.as_uri()]
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.locator("figure > svg polyline").count() == 7 + 1 + 7 + 1
            assert page.locator("h2").count() == 3
            papers.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(papers) == 2


PASSAGE = "ab\n<d" * 20


def test_characters_are_coloured_by_surprise_and_escaped() -> None:
    losses = np.zeros(len(PASSAGE))
    losses[:4] = np.nan, 2.6, 5.2, 99.0
    content = report([evaluation(losses, breakdown=break_down([PASSAGE], losses, 8))], [])
    cell = re.findall(r'<td class="text">(.*?)</tr>', content)[0]
    assert cell.startswith('a<b style="background:rgba(var(--surprise),0.33)" title="2.60 nats, ')
    assert f'probability {math.exp(-2.6):.2%}">b</b>' in cell
    assert ',0.65)" title="5.20 nats, probability 0.55%">↵</b>' in cell
    assert ',0.65)" title="99.00 nats, probability 0.00%">&lt;</b>' in cell
    assert ',0.00)" title="0.00 nats, probability 100.00%">d</b>' in cell


def test_close_losses_are_seen_to_differ_and_control_characters_to_be_there() -> None:
    rows = [Baseline("7-gram", 1.5612), Baseline("uniform", 4.17)]
    losses = np.ones(5)
    close = evaluation(
        losses, checkpoint="a\x1b\u202e", block_nats=1.4655, sliding_nats=1.4655,
        breakdown=break_down(["a\0b\u202ec"], losses, 8),
    )  # fmt: skip
    content = report([close], rows)
    assert re.findall(r'left:([0-9.]+)%">●', content) == ["4.6", "4.6", "84.3"]
    assert "<div>1.46<span>1.58</span></div>" in content
    assert not re.search("[^\n -~●→↵·\xa0]", content)
    assert content.count("\\x1b\\u202e") > 2
    assert ">\\x00</b>" in content


def test_a_text_of_one_character_has_a_report_and_json() -> None:
    losses = np.zeros(9)
    losses[0] = np.nan
    certain = evaluation(losses, block_nats=0.0, sliding_nats=0.0,
                         breakdown=break_down(["a" * 9], losses, 4))  # fmt: skip
    assert "nan" not in report([certain], BASELINES).lower()
    assert "NaN" not in as_json([certain], BASELINES)


def drawn(chart: str) -> tuple[list[list[str]], list[str]]:
    """Return the points of each line of a chart, and the names in its legend."""
    figure = ElementTree.fromstring(chart)
    lines = [line.get("points", "").split() for line in figure.findall("svg/polyline")]
    return lines, ["".join(item.itertext()) for item in figure.findall("ul/li")]


def test_charts_have_a_line_for_each_model_and_for_the_best_n_gram_or_the_held_out_text() -> None:
    losses = np.full(len(PASSAGE), 2.0)
    losses[0] = np.nan
    ngrams = [Baseline("2-gram", 2.5), Baseline("3-gram", 1.0), Baseline("uniform", 0.5)]
    model = evaluation(losses, breakdown=break_down([PASSAGE], losses, 8))
    (points, best), names = drawn(loss_chart([model], ngrams))
    assert names == ["a", "3-gram, overall"]
    assert [point.split(",")[1] for point in best] == ["210.0", "210.0"]  # 1.0 is the lowest
    # 2.0 is the highest: after 1, 2, up to 4, up to 8 characters.
    assert [point.split(",")[1] for point in points] == ["8.0"] * 4
    models = [evaluation(losses, checkpoint=name, copying=copying(text)) for name, text in
              (("a", "What <lots>"), ("b", "xyz"))]  # fmt: skip
    lines, names = drawn(copied_chart(models))
    assert [len(line) for line in lines] == [11, 3, 20]  # the longest substrings, at most copied
    assert names == ["a, samples", "b, samples", "held-out text"]


def test_axes_have_round_ends_around_all_values_and_few_round_ticks() -> None:
    for values, ends in (
        ([1.52, 2.54], (1.4, 2.6)), ([0.0, 1.0], (0.0, 1.0)), ([3.0, 3.0], (3.0, 3.2)),
        ([0.001, 0.0095], (0.0, 0.01)), ([900.0, 1100.0], (900.0, 1100.0)),
    ):  # fmt: skip
        found = axis("", values)
        assert (found.low, found.high) == pytest.approx(ends)
        assert [found.place(end) for end in ends] == pytest.approx([0.0, 1.0])
    assert Axis("", 0, 1).ticks() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert Axis("", 1, 31).ticks() == pytest.approx([5, 10, 15, 20, 25, 30])
    assert axis("", [1, 128], doubling=True).ticks() == [1, 2, 4, 8, 16, 32, 64, 128]
    assert Axis("", 1, 128, doubling=True).place(8) == pytest.approx(3 / 7)
    assert axis("", [1.0], doubling=True).high == 2.0
    assert len(axis("", [1, 2**30], doubling=True).ticks()) <= 12


def test_a_single_point_is_a_dot_with_its_number() -> None:
    chart = line_chart("", Axis("", 0, 1), Axis("", 0, 1), [Line("val_loss", [(1, 0.5)])])
    figure = ElementTree.fromstring(chart)
    assert [path.get("d") for path in figure.findall("svg/path")] == ["M410.0,109.0h0"]
    assert figure.find("ul/li/svg/path") is not None
    assert drawn(chart) == ([], ["val_loss: 0.5000"])


def test_a_chart_has_its_lines_and_dots_in_place_labels_and_a_legend() -> None:
    lines = [Line("<first>", [(0, 0), (1, 1)]), Line("second", [(0, 1), (1, 0)], dots=True)]
    chart = line_chart("Title & more", Axis("x axis", 0, 1), Axis("y axis", 0, 1), lines)
    points, names = drawn(chart)
    assert points == [["44.0,210.0", "410.0,8.0"]]  # up, to the right
    assert names == ["<first>", "second"]
    figure = ElementTree.fromstring(chart)
    (dots,) = figure.findall("svg/path")
    assert dots.get("class") == "line line-2 dots"
    assert dots.get("d") == "M44.0,8.0h0M410.0,210.0h0"
    assert {"x axis", "y axis", "0.2", "1"} <= {text.text for text in figure.findall("svg/text")}
    assert figure.findtext("figcaption") == "Title & more"
    label = figure.find("svg").get("aria-label")  # type: ignore[union-attr]
    assert label == "Title & more: y axis by x axis; <first>, second"
