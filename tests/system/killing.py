"""Runs of the command line in processes that can be killed, and start within milliseconds."""

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

Place = tuple[str, int]


def _run(folder: Path, options: list[str], place: Place | None, number: int) -> None:
    os.setsid()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    output = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    if place is not None:
        _arm(*place, number)
    sys.argv = ["fit.py", *TINY, *options]
    os._exit(main())


def _arm(name: str, count: int, number: int) -> None:
    """Send this process a signal at the `count`-th passing of a place."""
    owner, attribute = {
        "step": (Throughput, "on_train_batch_end"),
        "validation": (ShakespeareLM, "validation_step"),
        "write": (os, "fsync"),  # the checkpoint's bytes are in the file, under its passing name
        "rename": (Path, "replace"),
    }[name]
    original: Callable = getattr(owner, attribute)
    passed = 0

    def passing(*arguments, **options):
        nonlocal passed
        passed += 1
        if passed == count:
            os.kill(os.getpid(), number)
        return original(*arguments, **options)

    setattr(owner, attribute, passing)


def start(
    folder: Path, *options: str, place: Place | None = None, number: int = signal.SIGKILL
) -> BaseProcess:
    """Start a run in a folder; at `place`, if given, it sends itself the signal `number`."""
    process = _PROCESSES.Process(target=_run, args=(folder, list(options), place, number))
    process.start()
    return process


def run(folder: Path, *options: str, place: Place | None = None, number: int = 9) -> int:
    """Run to the end; return the exit code, which is -9 after SIGKILL."""
    process = start(folder, *options, place=place, number=number)
    process.join(120)
    assert process.exitcode is not None, "it hangs"
    return process.exitcode


def run_and_kill_after(folder: Path, seconds: float, *options: str) -> int:
    """Kill a run from outside, wherever it is after so many seconds."""
    process = start(folder, *options)
    time.sleep(seconds)
    process.kill()
    process.join(60)
    assert process.exitcode is not None
    return process.exitcode


def output(folder: Path) -> str:
    return (folder / "output.txt").read_text()
