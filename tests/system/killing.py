"""Runs of the `fit` command in processes that can be killed and that start in milliseconds."""

import multiprocessing
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from shakespeare_lm.commands.fit import main
from shakespeare_lm.training.module import ShakespeareLM
from shakespeare_lm.training.progress import Throughput
from tests.conftest import TINY

# One process imports everything once, and is forked for each run.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["tests.system.killing"])

Event = tuple[str, int]


def _run(folder: Path, options: list[str], event: Event | None, number: int) -> None:
    os.setsid()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    output = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    if event is not None:
        _arm(*event, number)
    sys.argv = ["fit.py", *TINY, *options]
    os._exit(main())


def _arm(name: str, count: int, number: int) -> None:
    """Make this process send itself a signal when an event happens for the `count`-th time."""
    owner, attribute = {
        "step": (Throughput, "on_train_batch_end"),
        "validation": (ShakespeareLM, "validation_step"),
        "write": (os, "fsync"),  # the checkpoint is in the file, which still has its temporary name
        "rename": (Path, "replace"),
    }[name]
    original: Callable = getattr(owner, attribute)
    happened = 0

    def count_and_kill(*arguments, **options):
        nonlocal happened
        happened += 1
        if happened == count:
            os.kill(os.getpid(), number)
        return original(*arguments, **options)

    setattr(owner, attribute, count_and_kill)


def start(
    folder: Path, *options: str, event: Event | None = None, number: int = signal.SIGKILL
) -> BaseProcess:
    """Start a run in a folder; at the event, if given, it sends itself the signal `number`."""
    process = _PROCESSES.Process(target=_run, args=(folder, list(options), event, number))
    process.start()
    return process


def run(folder: Path, *options: str, event: Event | None = None, number: int = 9) -> int:
    """Run to the end; return the exit code, which is -9 after SIGKILL."""
    process = start(folder, *options, event=event, number=number)
    process.join(120)
    assert process.exitcode is not None, "the run hangs"
    return process.exitcode


def run_and_kill_after(folder: Path, seconds: float, *options: str) -> int:
    """Kill a run from outside after so many seconds, whatever it is doing."""
    process = start(folder, *options)
    time.sleep(seconds)
    process.kill()
    process.join(60)
    assert process.exitcode is not None
    return process.exitcode


def output(folder: Path) -> str:
    return (folder / "output.txt").read_text()
