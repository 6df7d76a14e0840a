"""How much memory a process takes: its highest mark, which only a fresh process shows.

Enters: a function. Leaves: what it returns when run in a process that has done nothing before.
"""

import multiprocessing
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch

from shakespeare_lm.training.summary import prepare_console

_P = ParamSpec("_P")
_R = TypeVar("_R")


def in_fresh_process(function: Callable[_P, _R], *arguments: _P.args, **options: _P.kwargs) -> _R:
    """Call a function in a process of its own, with as many threads as this one."""
    threads = (torch.get_num_threads(),)
    with ProcessPoolExecutor(
        1, mp_context=_context(), initializer=_prepare, initargs=threads
    ) as pool:
        return pool.submit(function, *arguments, **options).result()


def _prepare(threads: int) -> None:
    prepare_console()
    torch.set_num_threads(threads)


def _context() -> BaseContext:
    """Return the way to start processes that has the libraries loaded, and nothing else done."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["shakespeare_lm.commands.fit"])
    return context


def peak_bytes(device: torch.device) -> int:
    """Return the most memory used so far: tensors on a GPU, else the whole process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource  # not on Windows, where everything else here works

    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def resident_bytes() -> int:
    """Return the memory this process occupies now; where there is no /proc, its highest mark."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return peak_bytes(torch.device("cpu"))
    import resource

    return int(statm.read_text().split()[1]) * resource.getpagesize()
