"""How fast characters are made: nanoGPT's way, ours, and ours of many texts together.

Of networks in nanoGPT's two shapes, with the same weights for all ways, which take turns. Beside
them: how fast the device can read the weights once per character, which no way of making one text
alone can exceed; the time from the start of scripts/complete.py to its first character; and, with
--growth, what the time per character and the memory do in a long text.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.errors import UserError
from shakespeare_lm.hardware import DTYPES, choose_device
from shakespeare_lm.training.module import ShakespeareLM

from .memory import in_fresh_process, resident_bytes
from .nanogpt import SHAPES, Shape
from .report import device_name, print_json, print_row
from .timing import Spread, now, ratio_of, repeated, spread_of

_VOCABULARY = "\n" + "".join(map(chr, range(32, 96)))  # 65 characters, as tiny Shakespeare has
_COMPLETE = Path(__file__).parents[1] / "scripts" / "complete.py"
_NANOGPT, _ONE, _TOGETHER = "nanoGPT's way", "one text", "together"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES), help="(all)")
    add("--device", default="cpu", help="cpu, cuda or mps (cpu)")
    add("--dtype", choices=DTYPES, default="float32", help="of weights and cache (float32)")
    add("--compile", action="store_true", help="compile our step")
    add("--characters", type=int, default=512, help="of each text (512)")
    add("--texts", type=int, default=64, help="made together (64)")
    add("--rounds", type=int, default=3, help="rounds that count, after one to warm up (3)")
    add("--growth", type=int, default=0, metavar="N", help="also make one text of N characters")
    add("--starts", type=int, default=5, help="starts of the script to time; 0 for none (5)")


def run(arguments: argparse.Namespace, more: Sequence[str]) -> None:
    if more:
        raise UserError(f"complete does not know {' '.join(more)}")
    device = choose_device(arguments.device)
    shapes = {name: measure(name, arguments) for name in arguments.shapes}
    print(
        f"{arguments.dtype} on {device_name(device)} with {torch.get_num_threads()} threads; "
        f"{arguments.rounds} rounds of {arguments.characters} characters per text"
    )
    for name, figures in shapes.items():
        report(name, figures, arguments.texts)
    print_json("complete", device, dtype=arguments.dtype, texts=arguments.texts, shapes=shapes)


def measure(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return all figures of one shape."""
    with tempfile.TemporaryDirectory() as folder:
        path = save_checkpoint(SHAPES[name], Path(folder) / "model.ckpt")
        completer = Completer.from_checkpoint(
            path, arguments.device, arguments.dtype, arguments.compile
        )
        figures = compare(completer, arguments)
        figures["weights_per_second"] = reads_per_second(completer)
        figures["parameters"] = sum(p.numel() for p in completer.transformer.parameters())
        if arguments.starts:
            figures["start"] = start_seconds(path, arguments.starts)
        if arguments.growth:
            figures["growth"] = in_fresh_process(
                grow, path, arguments.device, arguments.dtype, arguments.growth
            )
    return figures


def save_checkpoint(shape: Shape, path: Path) -> Path:
    """Write a checkpoint of a network in nanoGPT's architecture, with random weights."""
    torch.manual_seed(0)
    module = ShakespeareLM(
        _VOCABULARY,
        context_length=shape.context_length,
        num_layers=shape.num_layers,
        num_heads=shape.num_heads,
        d_model=shape.d_model,
        positions="learned",
        tied_head=True,
        scale_embedding=False,
        previous_characters=0,
        zero_init=False,
    )
    content = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    torch.save(content, path)
    return path


def compare(completer: Completer, arguments: argparse.Namespace) -> dict[str, Any]:
    """Let the three ways take turns; return the characters per second of each, and ratios."""
    count, texts = arguments.characters, arguments.texts
    ways: dict[str, Callable[[], object]] = {
        _NANOGPT: lambda: nanogpt_generate(completer, count),
        _ONE: lambda: completer.complete("A", count, seed=0),
        _TOGETHER: lambda: list(completer.stream("A", count, num_samples=texts, seed=0)),
    }
    made = {_NANOGPT: count, _ONE: count, _TOGETHER: count * texts}
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    device = next(completer.transformer.parameters()).device
    for number in range(arguments.rounds + 1):
        for name, way in ways.items():
            start = now(device)
            way()
            if number:  # the first round warms up
                speeds[name].append(made[name] / (now(device) - start))
    return {
        "characters_per_second": {name: spread_of(values) for name, values in speeds.items()},
        "one_over_nanogpt": ratio_of(speeds[_ONE], speeds[_NANOGPT]),
        "together_over_one": ratio_of(speeds[_TOGETHER], speeds[_ONE]),
    }


@torch.no_grad()
def nanogpt_generate(completer: Completer, count: int) -> Tensor:
    """Make a text as nanoGPT does: run the whole window for every character."""
    network = completer.transformer
    ids = torch.zeros((1, 1), dtype=torch.long, device=next(network.parameters()).device)
    for _ in range(count):
        logits = network(ids[:, -completer.context_length :])[:, -1] / 0.8
        chosen = torch.multinomial(F.softmax(logits, dim=-1), num_samples=1)
        ids = torch.cat((ids, chosen), dim=1)
    return ids


def reads_per_second(completer: Completer) -> Spread:
    """Return how often per second the device can read as many bytes as the weights have."""
    weights = next(completer.transformer.parameters())
    size = sum(p.numel() for p in completer.transformer.parameters())
    block = torch.ones(size, dtype=weights.dtype, device=weights.device)
    seconds = repeated(block.sum, 20, 9, weights.device)
    return Spread(*(1 / second for second in (seconds.median, seconds.high, seconds.low)))


def start_seconds(path: Path, starts: int) -> dict[str, Spread]:
    """Return the time to the first character, and that of importing torch alone, in turns."""
    commands = {
        "import torch": [sys.executable, "-c", "import torch; print(1)"],
        "first character": [sys.executable, str(_COMPLETE), "--ckpt", str(path), "--prompt=A"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(starts + 1):
        for name, command in commands.items():
            elapsed = _seconds_to_output(command, 2 if name == "first character" else 1)
            if number:  # the first start finds the files in no cache
                seconds[name].append(elapsed)
    over = [a - b for a, b in zip(seconds["first character"], seconds["import torch"], strict=True)]
    return {
        **{name: spread_of(values) for name, values in seconds.items()},
        "over import": spread_of(over),
    }


def _seconds_to_output(command: Sequence[str], characters: int) -> float:
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        process.stdout.read(characters)
        elapsed = time.perf_counter() - start
        process.kill()
    return elapsed


def grow(path: Path, device: str, dtype: str, count: int) -> dict[str, Any]:
    """Make one long text; return the speed of each tenth of it, and the memory at both ends."""
    stream = Completer.from_checkpoint(path, device, dtype).stream("A", count, seed=0)
    tenth, tenths = count // 10, []
    for _ in range(tenth):  # the first tenth warms up
        next(stream)
    before = resident_bytes()
    for _ in range(9):
        start = time.perf_counter()
        for _ in range(tenth):
            next(stream)
        tenths.append(tenth / (time.perf_counter() - start))
    return {
        "characters": count,
        "characters_per_second_of_tenths": tenths,
        "resident_bytes": [before, resident_bytes()],
    }


def report(name: str, figures: dict[str, Any], texts: int) -> None:
    """Print the figures of one shape as a table."""
    print(f"\n{name}, {figures['parameters']:,} parameters")
    speeds = figures["characters_per_second"]
    limit = figures["weights_per_second"].median
    print_row("", "characters/s", "quartiles")
    for way, speed in speeds.items():
        label = f"{texts} {way}" if way == _TOGETHER else way
        print_row(label, f"{speed.median:,.0f}", f"{speed.low:,.0f}-{speed.high:,.0f}")
    print_row("reading the weights", f"{limit:,.0f}")
    ratio, together = figures["one_over_nanogpt"], figures["together_over_one"]
    print(
        f"one text: {ratio.median:.1f} times nanoGPT's way ({ratio.low:.1f}-{ratio.high:.1f}), "
        f"{speeds[_ONE].median / limit:.0%} of reading the weights; {texts} texts together: "
        f"{together.median:.1f} times one ({together.low:.1f}-{together.high:.1f})"
    )
    if "start" in figures:
        start = figures["start"]
        print(
            f"first character after {start['first character'].median:.2f} s, "
            f"{start['over import'].median:.2f} s more than importing torch alone"
        )
    if "growth" in figures:
        growth = figures["growth"]
        tenths = ", ".join(f"{s:,.0f}" for s in growth["characters_per_second_of_tenths"])
        low, high = (size / 1e6 for size in growth["resident_bytes"])
        print(f"{growth['characters']:,} characters: {tenths} characters/s in tenths 2 to 10")
        print(f"memory {low:,.1f} MB after the first tenth, {high:,.1f} MB at the end")
