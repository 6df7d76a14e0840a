"""What the reader sees: aligned columns, and one line of JSON for programs.

Enters: rows. Leaves: text on stdout.
"""

import json
import platform
from collections.abc import Sequence
from typing import Any

import torch

from .timing import Spread

_COLUMN = 14


def print_row(first: str, *cells: str) -> None:
    """Print one line of a table: the first cell to the left, the others to the right."""
    print(f"{first:22}" + "".join(f"{cell:>{_COLUMN}}" for cell in cells), flush=True)


def milliseconds(spread: Spread) -> Sequence[str]:
    """Return two cells: the median, and the quartiles."""
    median, low, high = spread.scaled(1e3)
    return f"{median:.2f} ms", f"{low:.2f}-{high:.2f}"


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {platform.machine()}"


def print_json(bench: str, device: torch.device, **figures: Any) -> None:
    """Print all figures as one line, with what they were measured on.

    A `Spread` is a list there: median, lower quartile, upper quartile.
    """
    machine = {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    print(json.dumps({"bench": bench, **machine, **figures}))
