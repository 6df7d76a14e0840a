"""What the reader sees: aligned columns, and one line of JSON for programs."""

import json
import platform
from typing import Any

import torch

from benchmarks.timing import Spread


def print_row(first: str, *cells: str) -> None:
    """Print one row of a table: the first cell left-aligned, the others right-aligned."""
    print(f"{first:22}" + "".join(f"{cell:>14}" for cell in cells), flush=True)


def milliseconds(spread: Spread) -> tuple[str, str]:
    """Return two cells: the median, and the quartiles."""
    median, low, high = (1e3 * value for value in spread)
    return f"{median:.2f} ms", f"{low:.2f}-{high:.2f}"


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {platform.machine()}"


def print_json(benchmark: str, device: torch.device, **figures: Any) -> None:
    """Print all figures in one line; a `Spread` is a list of median, lower and upper quartile."""
    machine = {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    print(json.dumps({"benchmark": benchmark, **machine, **figures}))
