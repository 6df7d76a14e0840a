"""What `evaluate` prints: tables, and JSON without the losses of single characters."""

import io
import json

import numpy as np
from rich.console import Console

from shakespeare_lm.commands.evaluation_tables import as_json, print_evaluations
from shakespeare_lm.evaluation.baselines import Baseline
from shakespeare_lm.evaluation.breakdown import break_down
from shakespeare_lm.evaluation.copying import Copying, Extraction
from shakespeare_lm.evaluation.evaluation import Evaluation
from shakespeare_lm.evaluation.novelty import novelty

TEXT = "ROMEO:\nAy [bold]me!\n" * 10


def evaluation() -> Evaluation:
    losses = np.full(len(TEXT), 1.5)
    losses[0] = np.nan
    samples = ["Ay me! Ay me! Ay me!"]
    copying = Copying(
        novelty(samples, [TEXT]), novelty([TEXT[:12]], [TEXT]), 8,
        [Extraction(32, 0.5, None)], samples,
    )  # fmt: skip
    return Evaluation(
        checkpoint="a.ckpt", part="val", characters=len(TEXT) - 1, block_nats=1.5,
        sliding_nats=1.5, stride=2, stored_val_loss=None, warning=None, losses=losses,
        breakdown=break_down([TEXT], losses, 8), copying=copying,
    )  # fmt: skip


BASELINES = [Baseline("2-gram", 2.0, "counted")]


def test_everything_is_printed_and_text_is_not_taken_for_markup() -> None:
    output = io.StringIO()
    print_evaluations(Console(file=output, width=200, highlight=False), [evaluation()], BASELINES)
    lines = [" ".join(line.split()) for line in output.getvalue().splitlines()]
    assert lines[0] == "199 characters of the val part, nats per character"
    for line in (
        "2.0000 2.8854 7.389 2-gram counted",
        "1.5000: better than every n-gram; the best is a 2-gram (2.0000)",
        "Where the loss of a.ckpt is",
        "Does a.ckpt copy? Substrings that stand in the training part",
        "4 0.0% 100.0%",
        "known words 100.0% 66.7%",
        "different words 33.3% 100.0%",
        "longest in the held-out text: 12 characters, from line 19 of the training part: "
        "'ROMEO:\\nAy [b'",
        "32 50.0% -",
    ):
        assert line in lines, line
    assert any("Ay [bold]me" in line for line in lines)


def test_json_has_all_figures_but_those_of_single_characters() -> None:
    found = json.loads(as_json([evaluation()], BASELINES))
    (one,) = found["evaluations"]
    assert "losses" not in one
    assert one["agrees"] is None
    assert one["copying"]["extraction"] == [{"suffix": 32, "train": 0.5, "held_out": None}]
    assert one["breakdown"]["groups"]["character"][0]["nats"] == 1.5
    assert found["baselines"] == [{"name": "2-gram", "nats": 2.0, "note": "counted"}]
