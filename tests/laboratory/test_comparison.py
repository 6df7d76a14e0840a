"""What runs are said to show, in what they differ, and every form in which that is written."""

import csv
import io
import json
import math
import re
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from shakespeare_lm.evaluation.line_chart import Axis, Line, line_chart
from shakespeare_lm.laboratory.comparison import Comparison, Spread, compare
from shakespeare_lm.laboratory.page import mean_curve, page
from shakespeare_lm.laboratory.result import Failure, Point, Result
from shakespeare_lm.laboratory.tables import as_csv, as_json, as_latex, as_tables, short
from tests.system.browser import needs_browser, started_browser

pytest.importorskip("scipy", reason="needs the extra laboratory")

BASE, GOOD, BAD, SAME = "base", "good: <b> & a_b, 50 %", "bad", "same"
LOSSES = {
    BASE: [1.50, 1.51, 1.52, 1.53],
    GOOD: [1.49, 1.499, 1.511, 1.52],  # differences -10, -11, -9, -10 thousandths
    BAD: [1.54, 1.552, 1.558, 1.57],
    SAME: [1.51, 1.50, 1.53, 1.52],
}
ORIGIN = {
    "processor": "a processor", "threads": 2, "precision": "32-true", "accelerator": "cpu",
    "text_sha256": "ab" * 32, "commit": "1234567", "uncommitted_changes": False, "started": "today",
    "versions": {"torch": "2.13.0", "numpy": "2.3.0"}, "command": "fit --name <x>",
}  # fmt: skip
OPTIONS = {"model.activation": "relu", "model.dropout": 0.0, "seed_everything": 0, "name": "x"}
FAILURE = Failure(variant=BAD, seed=9, reason="RuntimeError: no <memory>", log="bad/9/output.log")


def result(variant: str, seed: int, loss: float, **changes: Any) -> Result:
    whole = Result(
        variant=variant, seed=seed, val_loss=loss, test_loss=loss + 0.1, steps=1000,
        characters=2_048_000, weights=834_113, flops_per_character=5e6, train_seconds=70.0 + seed,
        seconds=80.0, peak_memory_bytes=512_000_000,
        curve=[Point(500, 35.0 + seed, loss + 0.2), Point(1000, 70.0 + seed, loss)],
        provenance=ORIGIN, options={**OPTIONS, "seed_everything": seed, "name": variant},
    )  # fmt: skip
    return replace(whole, **changes)


def four_variants() -> Comparison:
    results = [result(n, seed, loss) for n in LOSSES for seed, loss in enumerate(LOSSES[n])]
    return compare(results, [FAILURE], list(LOSSES))


def warnings_of(*results: Result, named: dict[str, set[str]] | None = None) -> list[str]:
    return compare(results, [], [BASE, GOOD], named=named).warnings


def test_each_variant_has_its_verdict_means_and_adjusted_p() -> None:
    comparison = four_variants()
    base, good, bad, same = comparison.rows
    assert [row.verdict for row in comparison.rows] == [
        "baseline", "better", "worse", "no difference shown",
    ]  # fmt: skip
    assert base.val_loss == Spread(4, pytest.approx(1.515), pytest.approx(math.sqrt(5 / 3) / 100))
    assert base.test_loss is not None
    assert base.test_loss.mean == pytest.approx(1.615)
    assert good.difference is not None
    assert good.difference.mean == pytest.approx(-0.01)
    # t for 3 degrees of freedom: 3.182446 at 97.5 %; the deviation is sqrt(2/3) thousandths.
    half = 3.182446 * math.sqrt(2 / 3) / 1000 / 2
    assert good.difference.interval == pytest.approx((-0.01 - half, -0.01 + half), abs=1e-8)
    assert good.difference.p is not None
    assert good.p == pytest.approx(2 * good.difference.p)  # the second of three
    assert (good.more_seeds, base.more_seeds) == (0, None)
    # 60 seeds have a power of 0.81 in a simulation: deviation 0.01155, level 0.05 / 3.
    assert same.more_seeds == 59 - 4
    assert (base.means["train_seconds"], base.means["weights"]) == (71.5, 834_113)
    assert (base.crashed, bad.crashed) == (0, 1)
    assert comparison.warnings == []


def test_what_not_every_run_recorded_has_no_mean() -> None:
    results = [result(BASE, 1, 1.5), result(BASE, 2, 1.5, test_loss=None, seconds=None)]
    (row,) = compare(results, [], [BASE]).rows
    assert (row.test_loss, row.means["seconds"]) == (None, None)


def test_without_common_seeds_nothing_is_claimed_and_one_seed_is_too_few() -> None:
    unpaired = compare([result(BASE, 1, 1.5), result(GOOD, 2, 1.4)], [], [BASE, GOOD])
    assert unpaired.rows[1].verdict == "too few common seeds"
    assert unpaired.warnings == [
        f"{GOOD} and the baseline have no seed in common: no difference is claimed"
    ]
    single = compare([result(BASE, 1, 1.5), result(GOOD, 1, 1.4)], [], [BASE, GOOD]).rows[1]
    assert (single.verdict, single.p, single.more_seeds) == ("too few common seeds", None, None)
    for comparison in (unpaired, compare([], [FAILURE], [BASE, BAD])):
        for form in (as_tables, as_latex, as_csv, as_json, page):
            assert not re.search("[^a-z]nan[^a-z]", form(comparison), re.IGNORECASE)


def test_options_that_no_variant_names_are_warned_of() -> None:
    swiglu = {**OPTIONS, "model.activation": "swiglu"}
    both = [result(BASE, 1, 1.5), result(GOOD, 1, 1.4, options=swiglu)]
    (warning,) = warnings_of(*both)
    assert warning == f"{GOOD} has another model.activation than the baseline: swiglu, not relu"
    assert warnings_of(*both, named={GOOD: {"model.activation"}}) == []
    other = result(BASE, 2, 1.5, options={**OPTIONS, "model.dropout": 0.1})
    assert warnings_of(result(BASE, 1, 1.5), other, result(GOOD, 1, 1.4)) == [
        "runs of base differ in model.dropout: 0.0 (1 of 2), 0.1 (1 of 2)"
    ]
    assert warnings_of(result(BASE, 1, 1.5), result(BASE, 1, 1.6), result(GOOD, 1, 1.4)) == [
        "base has several runs with seed 1: only the last is compared"
    ]


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({"threads": 1}, "threads: 2 (2 of 3), 1 (1 of 3)"),
        ({"processor": "other"}, "processor: a processor (2 of 3), other (1 of 3)"),
        ({"precision": "bf16"}, "precision: 32-true (2 of 3), bf16 (1 of 3)"),
        ({"uncommitted_changes": True}, "uncommitted_changes: False (2 of 3), True (1 of 3)"),
        ({"text_sha256": "c"}, f"text_sha256: {'ab' * 32} (2 of 3), c (1 of 3)"),
        ({"versions": {"numpy": "2.3.0"}}, "torch: 2.13.0 (2 of 3), not recorded (1 of 3)"),
    ],
)
def test_runs_of_other_machines_versions_precision_or_text_are_warned_of(
    change: dict[str, Any], shown: str
) -> None:
    other = result(GOOD, 1, 1.4, provenance=ORIGIN | change)
    runs = [result(BASE, 1, 1.5), result(BASE, 2, 1.5), other]
    assert warnings_of(*runs) == [f"runs differ in {shown}"]
    named = {GOOD: {"trainer.precision"}}
    assert warnings_of(*runs, named=named) == [] if "precision" in change else warnings_of(*runs)


def test_the_tables_have_everything_in_80_columns() -> None:
    text = as_tables(four_variants())
    assert max(map(len, text.splitlines())) <= 80
    for line in (
        "1.5150 ± 0.0129  1.6150 ± 0.0129     4  base",
        "-0.0100  -0.0113 to -0.0087   0.0003      4      0  good: <b> & a_b, 50 %:",
        "+0.0000  -0.0184 to +0.0184   1.0000      4     55  same: no difference shown",
        "     2.05M     834k          5M     71.5       80    512M  bad, 1 crashed",
        "crashed: bad, seed 9: RuntimeError: no <memory>\n         bad/9/output.log",
    ):
        assert line in text, line
    escape = compare([result("\x1b[31m", 1, 1.5)], [], ["\x1b[31m"])
    assert "\x1b" not in as_tables(escape) + page(escape)


def test_csv_latex_and_json_have_every_run_and_row() -> None:
    comparison = four_variants()
    assert as_csv(comparison).count("\r\n") == 1 + 16 + 1
    rows = list(csv.DictReader(io.StringIO(as_csv(comparison), newline="")))
    assert (rows[4]["variant"], rows[4]["val_loss"], rows[4]["crashed"]) == (GOOD, "1.49", "")
    assert (rows[-1]["seed"], rows[-1]["val_loss"]) == ("9", "")
    assert rows[-1]["crashed"] == FAILURE.reason
    latex = as_latex(comparison)
    assert r"good: \textless{}b\textgreater{} \& a\_b, 50 \% & 4 & 1.5050 $\pm$ " in latex
    assert r"& $-0.0100$ & $[-0.0113, -0.0087]$ & $0.0003$ \\" in latex
    assert {
        line.count("&") - line.count(r"\&") for line in latex.splitlines() if r"\\" in line
    } == {6}
    content = json.loads(as_json(comparison))
    assert content["results"][0]["curve"][1] == [1000, 70.0, 1.5]
    assert content["rows"][1]["difference"]["interval"] == list(
        comparison.rows[1].difference.interval  # type: ignore[union-attr]
    )


def test_numbers_are_short() -> None:
    numbers = (None, 0, 1, 70.25, 999.4, 999.6, 834_113, 1e6, 2.56e12, 1e16)
    assert [*map(short, numbers)] == [
        "-", "0", "1", "70.2", "999", "1k", "834k", "1M", "2.56T", "1e+04T",
    ]  # fmt: skip


def test_a_curve_is_the_mean_at_steps_that_all_runs_have() -> None:
    first = result(BASE, 1, 1.5, curve=[Point(10, 1.0, 2.0), Point(20, 2.0, 1.0)])
    second = replace(first, curve=[Point(10, 3.0, 2.2), Point(15, 4.0, 1.1)])
    older = replace(first, curve=[])
    ((point, deviation),) = mean_curve([first, second, older])
    assert (*point, deviation) == pytest.approx((10, 2.0, 2.1, math.sqrt(0.02)))
    assert mean_curve([first])[1] == (Point(20, 2.0, 1.0), 0.0)


def test_a_chart_has_a_band_around_a_line_and_a_thin_curve() -> None:
    line = Line("a", [(0, 0.5), (1, 0.5)], band=[0.5, 0.25], thin=[(0, 0), (1, 1)])
    chart = line_chart("", Axis("", 0, 1), Axis("", 0, 1), [line])
    band = 'style="fill:var(--line-1)" points="44.0,8.0 410.0,58.5 410.0,159.5 44.0,210.0"'
    assert band in chart
    assert 'class="thin"><polyline class="line line-1" points="44.0,210.0 410.0,8.0"' in chart


def test_the_page_has_verdicts_intervals_curves_runs_and_origin() -> None:
    content = page(four_variants(), "<figure>sizes</figure>")
    shown = unescape(re.sub("<[^<>]+>", "", content))
    for text in (
        f"{GOOD}: better", "Its seeds suffice to show a difference of 0.005.",
        "55 more seeds would show a difference of 0.005.", "Nats per character by steps",
        "1.5150 ± 0.0129", "crashed: RuntimeError: no <memory>", "bad/9/output.log",
        "a processor", "2.13.0", "fit --name <x>", "sizes",
    ):  # fmt: skip
        assert text in shown, text
    assert not re.findall("<(script|link|img|b>|memory|x>)", content)
    # An axis from -0.02 to 0.06: 0 is at 2/8, and -0.01 at 1/8 of it.
    assert re.findall('class="axis" x1="(.*?)"', content)[0] == "25.00%"
    assert re.findall('<circle cx="(.*?)"', content)[0] == "12.50%"
    assert content.count('class="band"') == 2 * 4


@pytest.mark.slow
@needs_browser
def test_a_browser_shows_the_page_wide_and_narrow_without_a_request(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(page(four_variants()), encoding="utf-8")
    with started_browser() as browser:
        for width in (1200, 360):
            shown = browser.new_page(viewport={"width": width, "height": 700})
            events: list[str] = []
            shown.on("request", lambda request: events.append(request.url))  # noqa: B023
            shown.on("console", lambda message: events.append(message.text))  # noqa: B023
            shown.goto(path.as_uri())
            assert events == [path.as_uri()]
            assert shown.evaluate("document.documentElement.scrollWidth") <= width
            assert shown.locator("circle").count() == 3
