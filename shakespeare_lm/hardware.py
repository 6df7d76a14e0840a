"""Which device to compute on, and which number format is fast on it. No Lightning: completion uses
this too.
"""

import functools
import os
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

# From here on, the time for a character goes into reading the weights, and fewer bytes are faster;
# smaller networks spend it on starting torch's operations.
_FEWER_BYTES_FROM = 2_000_000


def choose_device(name: str) -> torch.device:
    """Return the device of that name; "auto" is a GPU if there is one.

    Raises:
        UserError: if this machine has no such device.
    """
    check_choice("device", name, DEVICES)
    if name == "auto":
        return torch.device(next((gpu for gpu in ("cuda", "mps") if is_available(gpu)), "cpu"))
    if not is_available(name):
        raise UserError(f"device is {name}: not available here; choose from: auto, cpu")
    return torch.device(name)


def is_available(device_type: str) -> bool:
    """Say whether this machine has a "cpu", "cuda" or "mps" device."""
    if device_type == "cuda":
        return torch.cuda.is_available()
    return device_type == "cpu" or torch.backends.mps.is_available()


@functools.cache
def has_fast_bfloat16(device_type: str) -> bool:
    """Say whether this machine's "cpu" or "cuda" multiplies bfloat16 matrices in hardware.

    That is a GPU since Ampere, or an x86 CPU with AMX (Xeons since Sapphire Rapids) or AVX512_BF16
    (Zen 4 and later, Xeons since Cooper Lake). Elsewhere bfloat16 is emulated, and slower than
    float32.
    """
    if device_type == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    # torch 2.11 has no public way to ask.
    return device_type == "cpu" and (
        torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    )


def choose_dtype(name: str, device: torch.device, num_weights: int) -> torch.dtype:
    """Return the number format of that name; "auto" is the one that completes fastest: for large
    networks int8 on a CPU, or bfloat16 on a GPU, that multiplies bfloat16 in hardware; float32
    otherwise.

    Raises:
        UserError: if there is none of that name, or it does not work on that device.
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
    device_type = {"gpu": "cuda"}.get(accelerator, accelerator)
    if device_type == "auto":
        device_type = choose_device("auto").type
    return "bf16-mixed" if has_fast_bfloat16(device_type) else "32-true"


def check_memory(needed_bytes: float, what: str, advice: str) -> None:
    """Refuse what this machine's memory cannot hold, instead of failing half-way.

    Raises:
        UserError: with the sizes; never on a system that does not tell its memory.
    """
    try:
        total_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return
    if needed_bytes > total_bytes:
        raise UserError(
            f"{what} needs at least {needed_bytes / 1e9:,.1f} GB, but this machine has "
            f"{total_bytes / 1e9:,.1f} GB of memory: {advice}"
        )


def available_accelerators() -> list[str]:
    """Return the device types of this machine, as Lightning's `--accelerator` spells them."""
    return [name for name in DEVICES if name != "auto" and is_available(name)]
