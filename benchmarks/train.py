"""What a training step costs: by the Trainer, by a plain PyTorch loop, and of nanoGPT.

The first two do the same: same network, weights, batches, precision, optimizer, schedule and
clipping. The loops take turns in rounds of some steps, so that whatever else the machine does hits
all of them. Further options are those of fit.py, such as --model.d_model 256.
"""

import argparse
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from shakespeare_lm.commands.fit import ShakespeareCLI

from . import recipe
from .ceiling import matmul_flops, training_flops_per_character
from .feed import seconds_per_batch
from .memory import in_fresh_process, peak_bytes
from .nanogpt import SHAPES, NanoGPTLoop, mean_loss
from .plain import PlainLoop
from .report import device_name, milliseconds, print_json, print_row
from .timing import now, ratio_of, spread_of
from .trainer import TRAINER, Rounds, run_rounds

PLAIN, NANOGPT = "plain loop", "nanoGPT"
_STEPS_FOR_MEMORY = 3


class Setting(NamedTuple):
    """What is measured: the options of fit.py, and nanoGPT's shape."""

    options: list[str]
    shape: str | None
    compile_network: bool
    progress_bar: bool


class Work(NamedTuple):
    """What one loop does, whatever time it takes."""

    characters_per_step: float
    flops_per_character: int
    dtype: torch.dtype
    planned_steps: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    recipe.add_arguments(parser)
    add = parser.add_argument
    add("--rounds", type=int, default=10, help="rounds that count (10)")
    add("--steps", type=int, default=20, help="steps of each loop in a round (20)")
    add("--shape", choices=list(SHAPES), help="nanoGPT's (gpu on a GPU, else laptop)")
    add("--compile", action="store_true", help="compile all networks, in the warm-up round")
    add("--progress_bar", action="store_true", help="let the Trainer draw its bar, on stderr")
    add("--full", action="store_true", help="also train nanoGPT to its end, and score it")


def run(arguments: argparse.Namespace, more: Sequence[str]) -> None:
    options = recipe.options_of(arguments, more)
    setting = Setting(options, arguments.shape, arguments.compile, arguments.progress_bar)
    with recipe.built(options, setting.progress_bar) as cli:
        device, precision = recipe.device_of(cli), cli.trainer.precision
        figures = measure(cli, setting, arguments.rounds, arguments.steps)
        if arguments.full:
            figures["nanogpt_full"] = train_nanogpt(nanogpt_loop(cli, setting), cli)
    for name, row in figures["loops"].items():
        row["peak_bytes"] = in_fresh_process(peak_of, name, setting)
    print(
        f"{arguments.config}, {precision}, on {device_name(device)} with {torch.get_num_threads()} "
        f"threads; {arguments.rounds} rounds of {arguments.steps} steps of each loop"
    )
    report(figures)
    print_json("train", device, config=arguments.config, precision=precision, **figures)


def measure(cli: ShakespeareCLI, setting: Setting, rounds: int, steps: int) -> dict[str, Any]:
    """Let the loops take turns, and return all figures but the memory."""
    device = recipe.device_of(cli)
    plain, nanogpt = PlainLoop(cli, setting.compile_network), nanogpt_loop(cli, setting)
    works = {PLAIN: our_work(cli), TRAINER: our_work(cli), NANOGPT: nanogpt_work(nanogpt)}
    ceilings = {work.dtype: matmul_flops(device, work.dtype) for work in works.values()}
    feeding = seconds_per_batch(cli.datamodule.train_dataloader())
    turns = Rounds({PLAIN: plain.step, NANOGPT: nanogpt.step}, rounds, steps)
    run_rounds(cli, turns, setting.compile_network)
    seconds = turns.kept()
    rows = {name: row_of(work, seconds[name], ceilings[work.dtype]) for name, work in works.items()}
    return {
        "loops": rows,
        "trainer_over_plain": ratio_of(seconds[TRAINER], seconds[PLAIN]),
        "losses": {TRAINER: float(turns.loss), PLAIN: float(plain.loss)},
        "steps_taken": plain.steps,
        "feeding_seconds": feeding,
        "ceiling_flops": {_name(dtype): flops for dtype, flops in ceilings.items()},
    }


def row_of(work: Work, seconds: list[float], ceiling: float) -> dict[str, Any]:
    spread = spread_of(seconds)
    characters = work.characters_per_step / spread.median
    return {
        "step_seconds": spread,
        "characters_per_second": characters,
        "share_of_ceiling": characters * work.flops_per_character / ceiling,
        "planned_steps": work.planned_steps,
        "planned_seconds": work.planned_steps * spread.median,
    }


def our_work(cli: ShakespeareCLI) -> Work:
    network, sizes = cli.model.transformer, cli.model.hparams
    num_layers = len(getattr(network, "blocks", ()))
    flops = training_flops_per_character(
        network, num_layers, sizes["context_length"], sizes["d_model"]
    )
    characters = recipe.characters_per_step(cli)
    return Work(characters, flops, recipe.dtype_of(cli), recipe.planned_steps(cli))


def nanogpt_work(loop: NanoGPTLoop) -> Work:
    shape = loop.shape
    flops = training_flops_per_character(
        loop.network, shape.num_layers, shape.context_length, shape.d_model
    )
    return Work(shape.batch_size * shape.context_length, flops, shape.dtype, shape.max_steps)


def nanogpt_loop(cli: ShakespeareCLI, setting: Setting) -> NanoGPTLoop:
    device, data = recipe.device_of(cli), cli.datamodule
    shape = SHAPES[setting.shape or ("gpu" if device.type == "cuda" else "laptop")]
    ids, vocab_size = data.encoded["train"].ids, len(data.vocabulary)
    return NanoGPTLoop(ids, vocab_size, shape, device, setting.compile_network)


def peak_of(name: str, setting: Setting) -> int:
    """Return the most memory that a process needs which trains with this loop alone."""
    with recipe.built(setting.options) as cli:
        if name == TRAINER:
            turns = Rounds({}, rounds=0, steps=_STEPS_FOR_MEMORY)
            run_rounds(cli, turns, setting.compile_network)
            return turns.peak_bytes
        compiled = setting.compile_network
        loop = PlainLoop(cli, compiled) if name == PLAIN else nanogpt_loop(cli, setting)
        for _ in range(_STEPS_FOR_MEMORY):
            loop.step()
        return peak_bytes(loop.device)


def train_nanogpt(loop: NanoGPTLoop, cli: ShakespeareCLI) -> dict[str, float]:
    """Train to the end; return the seconds of it, and the loss on the whole validation part."""
    start = now(loop.device)
    for _ in range(loop.shape.max_steps):
        loop.step()
    seconds = now(loop.device) - start
    ids = cli.datamodule.encoded["val"].ids.to(loop.device)
    loss = mean_loss(loop.network, ids, loop.shape.context_length)
    return {"steps": loop.shape.max_steps, "seconds": seconds, "val_loss": loss}


def report(figures: dict[str, Any]) -> None:
    print_row("", "step", "quartiles", "characters/s", "of ceiling", "peak memory", "whole recipe")
    for name, row in figures["loops"].items():
        print_row(
            name,
            *milliseconds(row["step_seconds"]),
            f"{row['characters_per_second']:,.0f}",
            f"{row['share_of_ceiling']:.1%}",
            f"{row['peak_bytes'] / 1e6:,.0f} MB",
            f"{row['planned_seconds']:,.0f} s",
        )
    ratio, feeding = figures["trainer_over_plain"], figures["feeding_seconds"]
    print(f"Trainer / plain loop   {ratio.median:.3f} (quartiles {ratio.low:.3f}-{ratio.high:.3f})")
    losses = " and ".join(f"{loss:.6f}" for loss in figures["losses"].values())
    print(f"their losses           {losses} after {figures['steps_taken']} steps")
    share = feeding / figures["loops"][PLAIN]["step_seconds"].median
    print(f"feeding                {feeding * 1e6:.1f} us per batch, {share:.2%} of a plain step")
    for name, flops in figures["ceiling_flops"].items():
        print(f"ceiling                {flops / 1e9:,.0f} GFLOP/s in dense {name} products")
    if "nanogpt_full" in figures:
        full = figures["nanogpt_full"]
        print(
            f"nanoGPT in full        {full['steps']} steps in {full['seconds']:.1f} s without "
            f"evaluations, val_loss {full['val_loss']:.4f} on the whole validation part"
        )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
