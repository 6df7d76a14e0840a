"""The report: everything is on the page, and a real browser shows it without a request."""

import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from shakespeare_lm.evaluation.baselines import Baseline
from shakespeare_lm.evaluation.breakdown import break_down
from shakespeare_lm.evaluation.copying import Copying, Extraction
from shakespeare_lm.evaluation.evaluation import Evaluation
from shakespeare_lm.evaluation.novelty import novelty
from shakespeare_lm.evaluation.report import (
    breakdown_section,
    copied_chart,
    copying_section,
    html_table,
    loss_by_position,
    report,
)
from tests.system.browser import needs_browser, started_browser

TEXT = 'ROMEO:\nWhat <light> & "noise"?\n\n' * 30
BASELINES = [Baseline("uniform", 4.0, "every character"), Baseline("2-gram", 2.5, "counted")]


def evaluation(name: str, nats: float = 2.0) -> Evaluation:
    losses = np.linspace(0.0, 2 * nats, len(TEXT))
    losses[0] = np.nan
    samples = ["ROMEO:\nWhat <b>bold</b>?", "light"]
    copying = Copying(
        novelty(samples, [TEXT]), novelty([TEXT[:100]], [TEXT]), 8,
        [Extraction(32, 0.25, None), Extraction(64, 0.0, 0.0)], samples,
    )  # fmt: skip
    return Evaluation(
        checkpoint=name, part="val", characters=len(TEXT) - 1, block_nats=nats, sliding_nats=1.9,
        stride=2, stored_val_loss=nats, warning=None, losses=losses,
        breakdown=break_down([TEXT], losses, 16), copying=copying,
    )  # fmt: skip


class Page(HTMLParser):
    """Collects the tags and the visible text of a page, and refuses tags that are not closed."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(content)
        self.close()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_has_the_verdict_the_ranking_the_breakdown_and_the_copies() -> None:
    page = Page(report([evaluation("a <model>")], BASELINES))
    for text in (
        "2.0000: better than every n-gram; the best is a 2-gram (2.5000)",
        "its stored val_loss, 2.000000, is the same",
        "a <model>", "uniform", "sliding window, 2 new characters each",
        "Loss by position in the context", "2-gram, overall", "speaker's name", "letter 1",
        "The most surprising passages", "Substrings that stand in the training part",
        "held-out text", "25.0%", "too short", "What <b>bold</b>?",
    ):  # fmt: skip
        assert text in page.text, text
    assert "model" not in page.tags  # the name and the text are escaped
    assert "light" not in page.tags
    assert not {"script", "link", "img", "iframe"} & set(page.tags)


def test_it_is_the_same_each_time_and_ends_whole() -> None:
    first, second = (report([evaluation("a")], BASELINES) for _ in range(2))
    assert first == second
    assert first.startswith("<!doctype html>")
    assert first.endswith("</html>\n")


def test_without_breakdown_and_copying_there_is_the_ranking_alone() -> None:
    plain = replace(evaluation("a"), breakdown=None, copying=None)
    page = Page(report([plain], BASELINES))
    assert "Against what" in page.text
    assert "Where the loss is" not in page.text
    assert "Does it copy" not in page.text


@pytest.mark.slow
@needs_browser
def test_a_browser_shows_it_wide_and_narrow_in_light_and_dark_without_a_request(
    tmp_path: Path,
) -> None:
    path = tmp_path / "report.html"
    runs = [evaluation(f"lightning_logs/with_a_long_name/version_{i}", 2.0 + i) for i in range(7)]
    path.write_text(report(runs, BASELINES), encoding="utf-8")
    papers = set()
    with started_browser() as browser:
        for width, scheme in ((1200, "light"), (360, "dark")):
            page = browser.new_page(viewport={"width": width, "height": 700}, color_scheme=scheme)
            requests, complaints = [], []
            page.on("request", lambda request: requests.append(request.url))  # noqa: B023
            page.on("console", lambda message: complaints.append(message.text))  # noqa: B023
            page.on("pageerror", lambda error: complaints.append(str(error)))  # noqa: B023
            page.goto(path.as_uri())
            assert requests == [path.as_uri()]
            assert complaints == []
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.locator("figure svg polyline").count() == 7 + 1 + 7 + 1
            assert page.locator("h2").all_inner_texts() == [
                "Against what", "Where the loss is", "Does it copy?",
            ]  # fmt: skip
            papers.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(papers) == 2


PASSAGE = "ab\n<d" * 20


def evaluation_of(losses: np.ndarray) -> Evaluation:
    return Evaluation(
        checkpoint="a", part="val", characters=len(PASSAGE) - 1, block_nats=2.0, sliding_nats=2.0,
        stride=2, stored_val_loss=None, warning=None, losses=losses,
        breakdown=break_down([PASSAGE], losses, 8),
    )  # fmt: skip


def test_the_chart_has_a_point_for_each_range_and_the_best_n_gram() -> None:
    losses = np.full(len(PASSAGE), 2.0)
    losses[0] = np.nan
    grams = [Baseline("2-gram", 2.5), Baseline("3-gram", 1.0), Baseline("uniform", 0.5)]
    figure = ElementTree.fromstring(loss_by_position([evaluation_of(losses)], grams))
    model, best = (line.get("points", "").split() for line in figure.findall("svg/polyline"))
    assert len(model) == 4  # 1, 2, up to 4, up to 8
    assert [point.split(",")[1] for point in best] == ["210.0", "210.0"]  # 1.0 is the lowest
    assert [point.split(",")[1] for point in model] == ["8.0"] * 4  # 2.0 the highest
    assert "3-gram, overall" in "".join(figure.itertext())


def test_characters_are_coloured_by_surprise_and_escaped() -> None:
    losses = np.zeros(len(PASSAGE))
    losses[0], losses[1], losses[2], losses[3] = np.nan, 2.6, 5.2, 99.0
    html = breakdown_section(evaluation_of(losses))
    cell = re.findall(r'<td class="text">(.*?)</tr>', html)[0]
    assert cell.startswith('a<b style="background:rgba(var(--surprise),0.33)" title="2.60 nats, ')
    assert f'probability {math.exp(-2.6):.2%}">b</b>' in cell
    assert ',0.65)" title="5.20 nats, probability 0.55%">↵</b>' in cell
    assert ',0.65)" title="99.00 nats, probability 0.00%">&lt;</b>' in cell
    assert ',0.00)" title="0.00 nats, probability 100.00%">d</b>' in cell


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


def test_cells_are_escaped_and_numbers_are_marked() -> None:
    assert html_table(("n", "<i>"), [("1", "a&b")], numbers=1) == (
        '<div class="scroll"><table><tr><th class="number">n<th class="name">&lt;i&gt;</tr>'
        '<tr><td class="number">1<td class="name">a&amp;b</tr></table></div>'
    )


def test_bars_have_their_length() -> None:
    table = html_table(("n",), [("1",), ("2",)], numbers=1, bars=[0.5, 1.0])
    assert '<td class="number">1<td class="bar"><span style="width:50.0%"></span></tr>' in table
    assert '<td class="number">2<td class="bar"><span style="width:100.0%"></span></tr>' in table
