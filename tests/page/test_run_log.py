"""The log of a run: curves and texts as TensorBoard has them."""

from pathlib import Path

import pytest
from torch.utils.tensorboard import SummaryWriter

from shakespeare_lm.page.run_log import RunLog, read_run_log


def test_losses_and_texts_count_the_steps_taken(tmp_path: Path) -> None:
    with SummaryWriter(tmp_path) as writer:
        for step in (9, 19):
            writer.add_scalar("train_loss", 3.0 - step / 10, step)
        writer.add_scalar("val_loss", 1.5, 19)
        writer.add_text("sample", "    A:\n    <b>\n    \n      two", 19)
    log = read_run_log(tmp_path)
    assert log.train_loss == [(10, pytest.approx(2.1)), (20, pytest.approx(1.1))]
    assert log.val_loss == [(20, 1.5)]
    assert log.samples == [(20, "A:\n<b>\n\n  two")]


def test_a_long_curve_is_shown_by_means(tmp_path: Path) -> None:
    with SummaryWriter(tmp_path) as writer:
        for step in range(1000):
            writer.add_scalar("train_loss", float(step), step)
    curve = read_run_log(tmp_path).train_loss
    assert len(curve) == 200
    assert curve[0] == (5, 2.0)
    assert curve[-1] == (1000, 997.0)


@pytest.mark.parametrize("number", [3, 12, 52, 200])
def test_of_many_samples_the_first_and_the_last_stay(tmp_path: Path, number: int) -> None:
    with SummaryWriter(tmp_path) as writer:
        for step in range(number):
            writer.add_text("sample", f"    {step}", step)
    samples = read_run_log(tmp_path).samples
    assert len(samples) <= 50
    assert samples[:10] == [(step + 1, str(step)) for step in range(min(10, number))]
    assert samples[-1] == (number, str(number - 1))
    assert samples == sorted(samples)
    assert len(samples) >= min(number, 30)


def test_a_folder_without_a_log_has_none(tmp_path: Path) -> None:
    assert read_run_log(tmp_path) == RunLog([], [], [])
    assert read_run_log(tmp_path / "missing") == RunLog([], [], [])


def test_damaged_and_strange_logs_give_what_can_be_read(tmp_path: Path) -> None:
    with SummaryWriter(tmp_path) as writer:
        for step, loss in enumerate((2.0, float("nan"), float("inf"))):
            writer.add_scalar("val_loss", loss, step)
    (path,) = tmp_path.glob("events*")
    assert read_run_log(tmp_path).val_loss == [(1, 2.0)]
    content = path.read_bytes()
    for damaged in (content[:-20], b"", b"x" * 1000, content[:50] + b"?" + content[51:]):
        path.write_bytes(damaged)
        assert len(read_run_log(tmp_path).val_loss) <= 1
