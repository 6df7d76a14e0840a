"""Means over characters, the curves of the optimizer, and hooks that only show something."""

import math

import pytest
import torch
from pytorch_lightning import Callback

from shakespeare_lm.training.cosmetic import cosmetic
from shakespeare_lm.training.metrics import Float32Perplexity, MeanPerCharacter
from shakespeare_lm.training.step_metrics import StepMetrics, peak_memory_bytes
from tests.conftest import logged
from tests.training.conftest import RUN


@pytest.mark.parametrize(
    ("batches", "expected"),
    [
        ([(6.0, 2), (0.0, 0), (1.0, 5)], 1.0),  # divided once
        ([(math.nan, 3), (1.0, 3)], math.nan),  # which is not lost
    ],
)
def test_means_are_sums_divided_by_counts(batches, expected):
    mean = MeanPerCharacter()
    mean.update(torch.tensor(5.0), torch.tensor(1))
    mean.reset()  # starts from zero
    for total, count in batches:
        mean.update(torch.tensor(total), torch.tensor(count))
    assert mean.compute().item() == pytest.approx(expected, rel=0, abs=0, nan_ok=True)


def test_sums_stay_in_float32_when_the_network_is_converted_to_bfloat16():
    mean, perplexity = MeanPerCharacter(), Float32Perplexity()
    torch.nn.ModuleList([mean, perplexity]).to(torch.bfloat16)
    for _ in range(1000):
        mean.update(torch.tensor(1.0), torch.tensor(1))
    assert mean.compute().item() == 1.0
    assert perplexity.total_log_probs.dtype == torch.float32


@pytest.mark.parametrize("option", ["--log_every_n_steps=2", "--accumulate_grad_batches=3"])
def test_the_update_ratio_is_that_of_the_weights_around_the_step(tiny_fit, monkeypatch, option):
    weights, original = {}, StepMetrics.on_train_batch_end

    def on_train_batch_end(self, trainer, module, *arguments):
        flat = torch.cat([p.detach().flatten() for p in module.parameters()])
        weights[trainer.global_step] = flat.double()
        original(self, trainer, module, *arguments)

    monkeypatch.setattr(StepMetrics, "on_train_batch_end", on_train_batch_end)
    tiny_fit("--max_steps=4", "--model.weight_decay=0.1", "--model.warmup_steps=0", option)
    ratios = logged(RUN, "update_ratio")
    assert set(ratios) == ({2, 4} if "log_every" in option else {1, 2, 3, 4})
    ratios.pop(1, None)  # the weights before it were not recorded
    for step, ratio in ratios.items():
        before, after = weights[step - 1], weights[step]
        # Norms of a few thousand float32 weights.
        assert ratio == pytest.approx(float((after - before).norm() / before.norm()), rel=1e-4)
        assert ratio > 0


def test_each_optimizer_has_a_curve_of_its_rate(tiny_fit):
    options = ("--max_steps=4", "--model.learning_rate=0.01", "--model.muon_learning_rate=0.04")
    tiny_fit(*options, "--model.warmup_steps=2")
    # Two steps of warm-up, then linearly to zero over the other two.
    factors = {1: 0.5, 2: 1.0, 3: 1.0, 4: 0.5}
    for name, highest in (("learning_rate", 0.01), ("muon_learning_rate", 0.04)):
        assert logged(RUN, name) == pytest.approx({s: f * highest for s, f in factors.items()})


def test_the_peak_memory_is_that_of_the_process(tiny_fit):
    before = peak_memory_bytes(torch.device("cpu"))
    tiny_fit("--max_steps=2")
    after = peak_memory_bytes(torch.device("cpu"))
    assert 1e7 < before <= after < 1e12  # bytes: more than 10 MB
    slack = 1e-6 * after / 2**30  # as float32
    for gib in logged(RUN, "peak_memory_gib").values():
        assert before / 2**30 - slack <= gib <= after / 2**30 + slack


class Shows(Callback):
    def __init__(self) -> None:
        self.calls: list[tuple[int, str]] = []

    @cosmetic
    def show(self, number: int, name: str = "a") -> None:
        self.calls.append((number, name))
        if number > 1:
            raise KeyboardInterrupt if number > 9 else IndexError("out of\nrange")


def test_a_hook_gets_its_arguments_and_fails_once():
    shows = Shows()
    shows.show(1, name="b")
    with pytest.raises(KeyboardInterrupt):  # which is no failure
        shows.show(10)
    with pytest.warns(UserWarning, match="left out of the rest of this run") as caught:
        shows.show(2)
    (warning,) = caught
    expected = "Shows failed and is left out of the rest of this run: IndexError: out of range ("
    assert str(warning.message).startswith(expected)
    assert "test_metrics.py:" in str(warning.message)
    shows.show(3)
    assert shows.calls == [(1, "b"), (10, "a"), (2, "a")]
    Shows().show(1)
