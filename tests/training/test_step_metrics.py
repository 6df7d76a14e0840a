"""Rates of both optimizers, the size of a step, and memory, at the steps that are logged."""

from pathlib import Path

import pytest
import torch

from shakespeare_lm.training.step_metrics import StepMetrics, peak_memory_bytes, update_ratio
from tests.conftest import Fit, logged

RUN = Path("lightning_logs/version_0")


def test_the_update_ratio_is_the_length_of_the_step_over_that_of_the_weights() -> None:
    before = [torch.tensor([3.0, 0.0]), torch.tensor([[4.0]])]  # length 5
    after = [torch.tensor([3.0, 0.3]), torch.tensor([[4.4]])]  # 0.3 and 0.4: a step of 0.5
    torch.testing.assert_close(update_ratio(before, after), torch.tensor(0.1))


@pytest.mark.parametrize("option", ["--log_every_n_steps=2", "--accumulate_grad_batches=3"])
def test_the_update_ratio_is_that_of_the_weights_before_and_after_the_step(
    tiny_fit: Fit, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    weights: dict[int, torch.Tensor] = {}
    original = StepMetrics.on_train_batch_end

    def on_train_batch_end(self: StepMetrics, trainer, module, *arguments) -> None:
        flat = torch.cat([p.detach().flatten() for p in module.parameters()])
        weights[trainer.global_step] = flat.double()
        original(self, trainer, module, *arguments)

    monkeypatch.setattr(StepMetrics, "on_train_batch_end", on_train_batch_end)
    tiny_fit("--max_steps=4", "--model.weight_decay=0.1", "--model.warmup_steps=0", option)
    ratios = logged(RUN, "update_ratio")
    assert set(ratios) == ({1, 3} if "log_every" in option else {0, 1, 2, 3})
    for step, ratio in ratios.items():
        if step == 0:
            continue  # the weights before it were not recorded
        before, after = weights[step], weights[step + 1]
        # Norms of a few thousand float32 weights.
        assert ratio == pytest.approx(float((after - before).norm() / before.norm()), rel=1e-4)
        assert ratio > 0


def test_each_optimizer_has_a_curve_of_its_rate(tiny_fit: Fit) -> None:
    options = ("--max_steps=4", "--model.learning_rate=0.01", "--model.muon_learning_rate=0.04")
    tiny_fit(*options, "--model.warmup_steps=2")
    # Two steps of warm-up, then linearly to zero over the other two.
    factors = {0: 0.5, 1: 1.0, 2: 1.0, 3: 0.5}
    for name, highest in (("learning_rate", 0.01), ("muon_learning_rate", 0.04)):
        assert logged(RUN, name) == pytest.approx({s: f * highest for s, f in factors.items()})


def test_the_peak_memory_is_that_of_the_process(tiny_fit: Fit) -> None:
    before = peak_memory_bytes(torch.device("cpu"))
    tiny_fit("--max_steps=2")
    after = peak_memory_bytes(torch.device("cpu"))
    assert before is not None
    assert after is not None
    # As float32.
    slack = 1e-6 * after / 2**30
    for gib in logged(RUN, "peak_memory_gib").values():
        assert before / 2**30 - slack <= gib <= after / 2**30 + slack
    assert 1e7 < after < 1e12  # bytes: more than 10 MB
