"""The report: everything is on the page, and a real browser shows it without a request."""

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from shakespeare_lm.evaluation.baselines import Baseline
from shakespeare_lm.evaluation.breakdown import break_down
from shakespeare_lm.evaluation.copying import Copying, Extraction
from shakespeare_lm.evaluation.evaluation import Evaluation
from shakespeare_lm.evaluation.novelty import novelty
from shakespeare_lm.evaluation.report import report
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
