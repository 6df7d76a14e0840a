"""A run's folder belongs to one run: claimed, locked, and described when the training starts."""

import threading
from pathlib import Path

import pytest
from filelock import FileLock
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from shakespeare_lm.errors import UserError
from shakespeare_lm.training.run_folder import RunLogger, lock_run
from tests.conftest import Fit

RUN = Path("lightning_logs/version_0")


def test_loggers_that_start_together_get_folders_of_their_own(tmp_path: Path) -> None:
    loggers = [RunLogger(tmp_path / "lightning_logs") for _ in range(8)]
    barrier, versions = threading.Barrier(len(loggers)), []

    def claim(logger: RunLogger) -> None:
        barrier.wait()
        versions.append(logger.version)

    threads = [threading.Thread(target=claim, args=(logger,)) for logger in loggers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(versions) == list(range(8))


def test_a_folder_that_was_taken_in_between_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "pytorch_lightning.loggers.TensorBoardLogger._get_next_version", lambda _: 3
    )
    for number in (3, 4):
        (tmp_path / "lightning_logs" / f"version_{number}").mkdir(parents=True)
    assert RunLogger(tmp_path / "lightning_logs").version == 5


def test_the_log_has_no_curve_of_the_epoch(tiny_fit: Fit) -> None:
    tiny_fit("--max_steps=2")
    events = EventAccumulator(str(RUN))
    events.Reload()
    assert {"train_loss", "val_loss"} <= set(events.Tags()["scalars"])
    assert "epoch" not in events.Tags()["scalars"]


def test_a_folder_is_locked_by_one_process_at_a_time(tmp_path: Path) -> None:
    with lock_run(tmp_path), pytest.raises(UserError, match="is in use: another process"):
        lock_run(tmp_path)
    lock_run(tmp_path).release()


def test_what_a_killed_process_has_half_written_is_removed(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    for name in (".last.ckpt.part", "best.ckpt"):
        (tmp_path / "checkpoints" / name).touch()
    with lock_run(tmp_path):
        assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["best.ckpt"]


def test_a_run_that_still_trains_cannot_be_resumed(tiny_fit: Fit) -> None:
    tiny_fit("--max_steps=2", "--model.decay_steps=4")
    resume = ("--max_steps=4", "--model.decay_steps=4", "--ckpt_path=last")
    with (
        FileLock(RUN / ".lock"),
        pytest.raises(UserError, match=r"version_0 is in use: another process is training there"),
    ):
        tiny_fit(*resume)
    assert tiny_fit(*resume).trainer.global_step == 4


def test_a_resume_that_is_refused_leaves_the_config_of_the_run(tiny_fit: Fit) -> None:
    tiny_fit("--max_steps=2")
    before = (RUN / "config.yaml").read_bytes()
    with pytest.raises(UserError, match="num_layers 1, but this run has 2"):
        tiny_fit("--max_steps=4", "--model.num_layers=2", "--ckpt_path=last")
    assert (RUN / "config.yaml").read_bytes() == before
