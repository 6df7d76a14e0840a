"""Which device to compute on, and which number format is fast on it."""

import functools
import math
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Literal

import torch

from shakespeare_lm.errors import UserError, check_choice

DEVICES = ("auto", "cpu", "cuda", "mps")
_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "int8": torch.int8,  # of weights only: everything else is then bfloat16
}
DTYPES = ("auto", *_DTYPES)

# With more weights, reading them takes most of the time for a character, and fewer bytes are
# faster; smaller networks spend it on starting torch's operations.
_FEWER_BYTES_FROM = 2_000_000


def choose_device(name: str) -> torch.device:
    """Return the device of that name, "auto" being a GPU if there is one; a `UserError` says that
    this machine has no such device.
    """
    check_choice("device", name, DEVICES)
    available = ["cpu"] if name == "cpu" else available_accelerators()
    if name not in ("auto", *available):
        choices = ", ".join(["auto", *available])
        raise UserError(f"device is {name}: not available here; choose from: {choices}")
    return torch.device(available[-1] if name == "auto" else name)


def available_accelerators() -> list[str]:
    """Return this machine's device types, the fastest last, as Lightning's `--accelerator` spells
    them.
    """
    gpus = {"mps": torch.backends.mps.is_available(), "cuda": torch.cuda.is_available()}
    return ["cpu", *(name for name, exists in gpus.items() if exists)]


@functools.cache
def has_fast_bfloat16(device_type: str) -> bool:
    """Say whether this machine's "cpu" or "cuda" multiplies bfloat16 matrices in hardware: a GPU
    since Ampere, or an x86 CPU with AMX (Xeons since Sapphire Rapids) or AVX512_BF16 (Zen 4 and
    later, Xeons since Cooper Lake). Elsewhere bfloat16 is emulated, and slower than float32.
    """
    if device_type == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    # torch 2.11 has no public way to ask.
    return device_type == "cpu" and (
        torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    )


def choose_dtype(name: str, device: torch.device, num_weights: int) -> torch.dtype:
    """Return the number format of that name; a `UserError` says that it is unknown or does not work
    on that device.

    "auto" is the one that completes fastest: on hardware that multiplies bfloat16, int8 (CPU) or
    bfloat16 (GPU) for large networks; otherwise float32.
    """
    check_choice("dtype", name, DTYPES)
    if name == "auto":
        large = num_weights >= _FEWER_BYTES_FROM and has_fast_bfloat16(device.type)
        fewer_bytes = {"cpu": "int8", "cuda": "bfloat16"}
        name = fewer_bytes.get(device.type, "float32") if large else "float32"
    if name == "int8" and device.type != "cpu":
        raise UserError(f"dtype is int8: works on a CPU only; on {device.type} use bfloat16")
    return _DTYPES[name]


def fastest_precision(accelerator: str) -> Literal["bf16-mixed", "32-true"]:
    """Return the Trainer precision that trains fastest on Lightning's accelerator of that name."""
    device_type = choose_device("auto").type if accelerator == "auto" else accelerator
    device_type = "cuda" if device_type == "gpu" else device_type
    return "bf16-mixed" if has_fast_bfloat16(device_type) else "32-true"


def check_memory(needed_bytes: float, what: str, advice: str) -> None:
    """Raise a `UserError` with the sizes if the memory that is free cannot hold something. A system
    that does not tell its memory refuses nothing.
    """
    free_bytes = _free_bytes()
    if needed_bytes > free_bytes:
        raise UserError(
            f"{what} needs at least {needed_bytes / 1e9:,.1f} GB, but this machine has "
            f"{free_bytes / 1e9:,.1f} GB of free memory: {advice}"
        )


def _free_bytes() -> float:
    """Return what Linux estimates that programs can have; elsewhere, the size of the memory."""
    with suppress(OSError, TypeError):
        memory = Path("/proc/meminfo").read_text("utf-8")
        return 1024 * int(re.search(r"MemAvailable: *(\d+)", memory)[1])  # type: ignore[index]
    with suppress(AttributeError, ValueError, OSError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return math.inf
