"""What a device computes fastest in: bfloat16 where it has units for bfloat16 matrices.

Enters: the kind of a device. Leaves: yes or no. Elsewhere bfloat16 is emulated, and slower than
single precision.
"""

import functools

import torch


@functools.cache
def has_fast_bfloat16(device_type: str) -> bool:
    """Say whether this machine's "cpu" or "cuda" multiplies bfloat16 matrices in hardware.

    That is a GPU since Ampere, or an x86 CPU with AMX (Xeons since Sapphire Rapids).
    """
    if device_type == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    # torch 2.11 has no public way to ask.
    return device_type == "cpu" and torch.cpu._is_amx_tile_supported()
