"""Means are over characters, not over batches, and their sums stay in float32."""

import math

import pytest
import torch

from shakespeare_lm.training.metrics import Float32Perplexity, MeanPerCharacter
from tests.conftest import Fit


def test_sums_and_counts_are_divided_once() -> None:
    mean = MeanPerCharacter()
    for total, count in ((6.0, 2), (0.0, 0), (1.0, 5)):
        mean.update(torch.tensor(total), torch.tensor(count))
    assert mean.compute().item() == 1.0


def test_a_nan_is_not_lost() -> None:
    mean = MeanPerCharacter()
    mean.update(torch.tensor(math.nan), torch.tensor(3))
    mean.update(torch.tensor(1.0), torch.tensor(3))
    assert math.isnan(mean.compute().item())


def test_a_reset_starts_from_zero() -> None:
    mean = MeanPerCharacter()
    mean.update(torch.tensor(5.0), torch.tensor(1))
    mean.reset()
    mean.update(torch.tensor(4.0), torch.tensor(2))
    assert mean.compute().item() == 2.0


def test_sums_stay_in_float32_when_the_network_is_converted_to_bfloat16() -> None:
    mean, perplexity = MeanPerCharacter(), Float32Perplexity()
    torch.nn.ModuleList([mean, perplexity]).to(torch.bfloat16)
    for _ in range(1000):
        mean.update(torch.tensor(1.0), torch.tensor(1))
    assert mean.compute().item() == 1.0
    assert perplexity.total_log_probs.dtype == torch.float32


def test_a_bfloat16_run_is_scored_as_exactly_as_a_float32_run(tiny_fit: Fit) -> None:
    options = ("--max_steps=1", "--model.optimizer=adamw", "--model.learning_rate=1e-9")
    options += ("--model.zero_init=false",)
    single, half = (
        float(tiny_fit(*options, f"--precision={precision}").best.best_model_score)
        for precision in ("32-true", "bf16-true")
    )
    # The logits differ by bfloat16's rounding; sums in bfloat16 would be off by 1e-2.
    assert half == pytest.approx(single, abs=3e-3)
