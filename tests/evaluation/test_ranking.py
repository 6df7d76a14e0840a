"""The ranking has every model, the best first."""

import math

import numpy as np
import pytest

from shakespeare_lm.evaluation.baselines import Baseline
from shakespeare_lm.evaluation.evaluation import Evaluation
from shakespeare_lm.evaluation.ranking import Row, notes, ranked


def evaluation(
    checkpoint: str = "lightning_logs/a/version_0/checkpoints/best.ckpt",
    stored: float | None = None,
    warning: str | None = None,
) -> Evaluation:
    return Evaluation(
        checkpoint=checkpoint, part="val", characters=2, block_nats=2.0, sliding_nats=1.0,
        stride=4, stored_val_loss=stored, warning=warning, losses=np.array([2.0, 2.0]),
    )  # fmt: skip


def test_models_and_baselines_are_sorted_together() -> None:
    rows = ranked([evaluation()], [Baseline("b", 3.0, "note"), Baseline("a", 1.5)])
    name = "lightning_logs/a/version_0"
    assert rows == [
        Row(1.0, name, "sliding window, 4 new characters each", True),
        Row(1.5, "a", "", False),
        Row(2.0, name, "in blocks of the context", True),
        Row(3.0, "b", "note", False),
    ]
    assert rows[2].bits == pytest.approx(2 / math.log(2))
    assert rows[2].perplexity == pytest.approx(math.e**2)


def test_only_the_best_of_a_run_has_the_name_of_its_folder() -> None:
    for path in ("runs/checkpoints/last.ckpt", "best.ckpt", "/models/best.ckpt"):
        assert evaluation(path).name == path


def test_notes_say_what_differs_from_the_training() -> None:
    assert notes(evaluation()) == []
    assert notes(evaluation(stored=2.000001)) == ["its stored val_loss, 2.000001, is the same"]
    (line,) = notes(evaluation(stored=2.1))
    assert line.startswith("its stored val_loss is 2.100000, recomputed 2.000000: ")
    assert notes(evaluation(warning="other")) == ["not the data of its training: other"]
