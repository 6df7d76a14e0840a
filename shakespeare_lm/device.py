"""Where completion runs, and in which numbers.

Enters: names, as users give them. Leaves: torch's.
"""

import torch

from shakespeare_lm.errors import UserError, check_choice

DEVICES = ("auto", "cpu", "cuda", "mps")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(name: str) -> torch.device:
    """Return the device of that name; `auto` is a GPU if there is one.

    Raises:
        UserError: if there is no such device here.
    """
    check_choice("device", name, DEVICES)
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next((name for name, is_there in there.items() if is_there), "cpu")
    if not there.get(name, True):
        raise UserError(f"device is {name}: there is none here; accepted is auto or cpu")
    return torch.device(name)
