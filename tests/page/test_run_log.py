"""The log of a run: curves and texts as TensorBoard has them."""

from pathlib import Path

import pytest
from torch.utils.tensorboard import SummaryWriter

from shakespeare_lm.page.run_log import RunLog, read_run_log


@pytest.mark.parametrize(("group", "first"), [("loss/", 0), ("", 1)])  # "": of older runs
def test_losses_and_texts_have_the_steps_taken(tmp_path: Path, group: str, first: int) -> None:
    with SummaryWriter(tmp_path) as writer:
        for step in (10 - first, 20 - first):
            writer.add_scalar(f"{group}train_loss", 2.0 + (step + first) / 32, step)
            writer.add_scalar(f"{group}val_sample_loss", 1.0 + (step + first) / 32, step)
        writer.add_scalar(f"{group}val_loss", 1.5, step)
        writer.add_scalar("learning_rate", 1.0, step)
        writer.add_text("sample", "    A:\n    <b>\n    \n      two", step)
    losses, samples = read_run_log(tmp_path)
    assert [*losses] == ["train_loss", "val_sample_loss", "val_loss"]
    assert losses["train_loss"] == [(10, 2.3125), (20, 2.625)]
    assert losses["val_sample_loss"] == [(10, 1.3125), (20, 1.625)]
    assert losses["val_loss"] == [(20, 1.5)]
    assert samples == [(20, "A:\n<b>\n\n  two")]


@pytest.mark.parametrize("number", [3, 12, 52, 200, 1000])
def test_long_curves_are_shown_by_means_and_of_many_samples_the_first_and_the_last_stay(
    tmp_path: Path, number: int
) -> None:
    with SummaryWriter(tmp_path) as writer:
        for step in range(number):
            writer.add_scalar("loss/train_loss", float(step), step + 1)
            writer.add_text("sample", f"    {step}", step + 1)
    losses, samples = read_run_log(tmp_path)
    together = max(1, number // 200)
    curve = losses["train_loss"]
    assert len(curve) == min(200, number)
    assert curve[0] == (together, (together - 1) / 2)
    assert curve[-1] == (number, number - 1 - (together - 1) / 2)
    assert min(number, 30) <= len(samples) <= 50
    assert samples[:10] == [(step + 1, str(step)) for step in range(min(10, number))]
    assert samples[-1] == (number, str(number - 1))
    assert samples == sorted(samples)


def test_missing_damaged_and_strange_logs_give_what_can_be_read(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        assert read_run_log(folder) == RunLog({}, [])
    with SummaryWriter(tmp_path) as writer:
        for step, loss in enumerate((2.0, float("nan"), float("inf"))):
            writer.add_scalar("val_loss", loss, step)
    (path,) = tmp_path.glob("events*")
    assert read_run_log(tmp_path).losses == {"val_loss": [(1, 2.0)]}
    content = path.read_bytes()
    for damaged in (content[:-20], b"", b"x" * 1000, content[:50] + b"?" + content[51:]):
        path.write_bytes(damaged)
        assert read_run_log(tmp_path).losses in ({"val_loss": [(1, 2.0)]}, {})
