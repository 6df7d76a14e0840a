"""A run's folder belongs to one run: claimed, and described when the training starts."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from filelock import FileLock

from shakespeare_lm.errors import UserError
from shakespeare_lm.training.run_logger import RunLogger
from tests.training.conftest import RUN


def test_loggers_that_start_together_get_folders_of_their_own(tmp_path):
    loggers = [RunLogger(tmp_path / "lightning_logs") for _ in range(8)]
    barrier = threading.Barrier(len(loggers))

    def claim(logger):
        barrier.wait()
        return logger.version

    with ThreadPoolExecutor(len(loggers)) as pool:
        assert sorted(pool.map(claim, loggers)) == list(range(8))


def test_a_folder_that_was_taken_in_between_is_left_alone(tmp_path, monkeypatch):
    names = ("version_3", "version_²", "version_x")  # Lightning takes the second for a number
    for name in names:
        (tmp_path / "lightning_logs" / name).mkdir(parents=True)
    assert RunLogger(tmp_path / "lightning_logs").version == 4
    monkeypatch.setattr(Path, "glob", lambda *_: [Path("version_2")])  # as it was before
    assert RunLogger(tmp_path / "lightning_logs").version == 5


def test_a_resume_that_is_refused_says_why_and_leaves_the_config_of_the_run(tiny_fit):
    tiny_fit("--max_steps=2", "--model.decay_steps=4")
    resume = ("--max_steps=4", "--model.decay_steps=4", "--ckpt_path=last")
    before = (RUN / "config.yaml").read_bytes()
    for option, message in (
        ("--model.num_layers=2", "num_layers 1, but this run has 2: resume with the options of"),
        ("--seed=7", "seed 1337, but this run has 7"),
    ):
        with pytest.raises(UserError, match=message):
            tiny_fit(*resume, option)
    with FileLock(RUN / ".lock"), pytest.raises(UserError, match="version_0 is in use: another pr"):
        tiny_fit(*resume)
    assert (RUN / "config.yaml").read_bytes() == before
    assert tiny_fit(*resume).trainer.global_step == 4
