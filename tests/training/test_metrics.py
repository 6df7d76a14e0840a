"""The mean over characters, not over batches."""

import math

import torch

from shakespeare_lm.training.metrics import MeanPerCharacter, PrecisePerplexity


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


def test_it_starts_anew_after_a_reset() -> None:
    mean = MeanPerCharacter()
    mean.update(torch.tensor(5.0), torch.tensor(1))
    mean.reset()
    mean.update(torch.tensor(4.0), torch.tensor(2))
    assert mean.compute().item() == 2.0


def test_sums_stay_in_single_precision_when_the_network_is_moved_to_half() -> None:
    mean, perplexity = MeanPerCharacter(), PrecisePerplexity()
    torch.nn.ModuleList([mean, perplexity]).to(torch.bfloat16)
    for _ in range(1000):
        mean.update(torch.tensor(1.0), torch.tensor(1))
    assert mean.compute().item() == 1.0
    assert perplexity.total_log_probs.dtype == torch.float32
