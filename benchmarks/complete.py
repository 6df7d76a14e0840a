"""How fast characters are made: nanoGPT's way, ours, and many texts together.

Networks in nanoGPT's two shapes with random weights; all ways take turns. For comparison: how fast
the device reads all weights once per character, which no single text can exceed, and the time from
the start of scripts/complete.py to its first character.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.nanogpt import SHAPES, Shape, nanogpt_config
from benchmarks.report import device_name, print_json, print_row
from benchmarks.timing import Spread, ratio_of, repeated, seconds_per_call, spread_of
from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.errors import UserError
from shakespeare_lm.hardware import DTYPES, choose_device
from shakespeare_lm.kernels.int8 import Int8Linear
from shakespeare_lm.training.module import ShakespeareLM

_VOCABULARY = "\n" + "".join(map(chr, range(32, 96)))  # 65 characters, as in tiny Shakespeare
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
    add("--starts", type=int, default=5, help="starts of the script to time; 0 for none (5)")


def run(arguments: argparse.Namespace, more: Sequence[str]) -> None:
    if more:
        raise UserError(f"complete has no option {' '.join(more)}")
    device = choose_device(arguments.device)
    print(
        f"{arguments.dtype} on {device_name(device)} with {torch.get_num_threads()} threads; "
        f"{arguments.rounds} rounds of {arguments.characters} characters per text"
    )
    shapes = {name: measure(name, arguments) for name in arguments.shapes}
    print_json("complete", device, dtype=arguments.dtype, texts=arguments.texts, shapes=shapes)


def measure(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure and print all figures of one shape."""
    with tempfile.TemporaryDirectory() as folder:
        path = save_checkpoint(SHAPES[name], Path(folder) / "model.ckpt")
        completer = Completer.from_checkpoint(
            path, arguments.device, arguments.dtype, arguments.compile
        )
        # nanoGPT's own sample.py computes in float32 on a CPU.
        plain = completer
        if choose_device(arguments.device).type == "cpu":
            plain = Completer.from_checkpoint(path)
        figures = compare(completer, plain, arguments)
        figures["weights_per_second"] = reads_per_second(completer)
        if arguments.starts:
            figures["first_character_seconds"] = seconds_to_first_character(path, arguments.starts)
    print()
    print_row(name, "characters/s", "quartiles")
    for way, speed in figures["characters_per_second"].items():
        print_row(way, f"{speed.median:,.0f}", f"{speed.low:,.0f}-{speed.high:,.0f}")
    print_row("reading the weights", f"{figures['weights_per_second'].median:,.0f}")
    print(f"one text over nanoGPT's way: {figures['one_over_nanogpt'].median:.1f} times")
    print(f"{arguments.texts} texts over one: {figures['together_over_one'].median:.1f} times")
    if start := figures.get("first_character_seconds"):
        print(f"first character: {start.median:.2f} s after that of importing torch")
    return figures


def save_checkpoint(shape: Shape, path: Path) -> Path:
    """Write a checkpoint of a network in nanoGPT's architecture, with random weights."""
    torch.manual_seed(0)
    module = ShakespeareLM(_VOCABULARY, **asdict(nanogpt_config(shape)))
    content = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    torch.save(content, path)
    return path


def compare(
    completer: Completer, plain: Completer, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Let the three ways take turns, nanoGPT's with the model `plain`; return the characters per
    second of each, and ratios.
    """
    count, texts = arguments.characters, arguments.texts
    ways: dict[str, tuple[int, Callable[[], object]]] = {
        _NANOGPT: (count, lambda: nanogpt_generate(plain, count)),
        _ONE: (count, lambda: completer.complete("A", count, seed=0)),
        _TOGETHER: (count * texts, lambda: completer.complete(["A"] * texts, count, seed=0)),
    }
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    device = next(completer.network.parameters()).device
    for _ in range(arguments.rounds + 1):
        for name, (made, way) in ways.items():
            speeds[name].append(made / seconds_per_call(way, 1, device))
    kept = {name: values[1:] for name, values in speeds.items()}  # the first round warms up
    return {
        "characters_per_second": {name: spread_of(values) for name, values in kept.items()},
        "one_over_nanogpt": ratio_of(kept[_ONE], kept[_NANOGPT]),
        "together_over_one": ratio_of(kept[_TOGETHER], kept[_ONE]),
    }


@torch.no_grad()
def nanogpt_generate(completer: Completer, count: int) -> Tensor:
    """Make a text as nanoGPT does: run the whole window for every character."""
    network = completer.network
    ids = torch.zeros((1, 1), dtype=torch.long, device=next(network.parameters()).device)
    for _ in range(count):
        logits = network(ids[:, -completer.context_length :])[:, -1] / 0.8
        chosen = torch.multinomial(F.softmax(logits, dim=-1), num_samples=1)
        ids = torch.cat((ids, chosen), dim=1)
    return ids


def reads_per_second(completer: Completer) -> Spread:
    """Return how often per second the device can read as many bytes as the weights have."""
    network = completer.network
    device = next(network.parameters()).device
    layers = [layer for layer in network.modules() if isinstance(layer, Int8Linear)]
    size = sum(p.nbytes for p in network.parameters()) + sum(x.integers.nbytes for x in layers)
    block = torch.ones(size // 4, device=device)
    seconds = repeated(block.sum, 20, 9, device)
    return Spread(*(1 / second for second in (seconds.median, seconds.high, seconds.low)))


def seconds_to_first_character(path: Path, starts: int) -> Spread:
    """Return the time to the first character, minus that of importing torch; both in turns."""
    torch_alone = [sys.executable, "-c", "import torch; print(1)"]
    first = [sys.executable, str(_COMPLETE), "--ckpt", str(path), "--prompt=A"]
    seconds = [
        _seconds_to_output(first, 2) - _seconds_to_output(torch_alone, 1) for _ in range(starts + 1)
    ]
    return spread_of(seconds[1:])  # the first start has a cold file cache


def _seconds_to_output(command: Sequence[str], characters: int) -> float:
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        process.stdout.read(characters)
        elapsed = time.perf_counter() - start
        process.kill()
    return elapsed
