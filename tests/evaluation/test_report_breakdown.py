"""The section on where the loss is: its chart, and the colours of its passages."""

import math
import re
from xml.etree import ElementTree

import numpy as np

from shakespeare_lm.evaluation.baselines import Baseline
from shakespeare_lm.evaluation.breakdown import break_down
from shakespeare_lm.evaluation.evaluation import Evaluation
from shakespeare_lm.evaluation.report_breakdown import breakdown_section, loss_by_position

TEXT = "ab\n<d" * 20


def evaluation(losses: np.ndarray) -> Evaluation:
    return Evaluation(
        checkpoint="a", part="val", characters=len(TEXT) - 1, block_nats=2.0, sliding_nats=2.0,
        stride=2, stored_val_loss=None, warning=None, losses=losses,
        breakdown=break_down([TEXT], losses, 8),
    )  # fmt: skip


def test_the_chart_has_a_point_for_each_range_and_the_best_n_gram() -> None:
    losses = np.full(len(TEXT), 2.0)
    losses[0] = np.nan
    grams = [Baseline("2-gram", 2.5), Baseline("3-gram", 1.0), Baseline("uniform", 0.5)]
    figure = ElementTree.fromstring(loss_by_position([evaluation(losses)], grams))
    model, best = (line.get("points", "").split() for line in figure.findall("svg/polyline"))
    assert len(model) == 4  # 1, 2, up to 4, up to 8
    assert [point.split(",")[1] for point in best] == ["210.0", "210.0"]  # 1.0 is the lowest
    assert [point.split(",")[1] for point in model] == ["8.0"] * 4  # 2.0 the highest
    assert "3-gram, overall" in "".join(figure.itertext())


def test_characters_are_coloured_by_surprise_and_escaped() -> None:
    losses = np.zeros(len(TEXT))
    losses[0], losses[1], losses[2], losses[3] = np.nan, 2.6, 5.2, 99.0
    html = breakdown_section(evaluation(losses))
    cell = re.findall(r'<td class="text">(.*?)</tr>', html)[0]
    assert cell.startswith('a<b style="background:rgba(var(--surprise),0.33)" title="2.60 nats, ')
    assert f'probability {math.exp(-2.6):.2%}">b</b>' in cell
    assert ',0.65)" title="5.20 nats, probability 0.55%">↵</b>' in cell
    assert ',0.65)" title="99.00 nats, probability 0.00%">&lt;</b>' in cell
    assert ',0.00)" title="0.00 nats, probability 100.00%">d</b>' in cell
