"""The cost of a training step: with the Trainer, in a plain PyTorch loop, and of nanoGPT.

The first two do the same: same network, weights, batches, precision, optimizer, schedule and
clipping. With --graph the plain loop's loss and gradients are two CUDA graphs: what the Trainer
could reach. The loops take turns in rounds, so that other load on the machine affects all of them.
Further options are those of fit.py, such as --model.d_model 256.
"""

import argparse
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, repeat
from typing import Any, cast

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from benchmarks import recipe
from benchmarks.nanogpt import SHAPES, NanoGPTLoop, mean_loss
from benchmarks.report import device_name, milliseconds, print_json, print_row
from benchmarks.timing import now, ratio_of, repeated, seconds_per_call, spread_of
from shakespeare_lm.commands.fit_cli import ShakespeareCLI
from shakespeare_lm.data.windows import Batch
from shakespeare_lm.errors import UserError
from shakespeare_lm.methods.ngram_memory import leaving_out
from shakespeare_lm.methods.objective import Preparation, TrainingStep
from shakespeare_lm.model.loss import masked_cross_entropy
from shakespeare_lm.model.network import Network
from shakespeare_lm.training.optimizer import build_optimizer
from shakespeare_lm.training.schedule import learning_rate_factor

TRAINER, PLAIN, NANOGPT = "Trainer", "plain loop", "nanoGPT"
_MATRIX_SIZES = {"cpu": (512, 1024, 2048), "cuda": (4096, 8192)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    recipe.add_arguments(parser)
    add = parser.add_argument
    add("--rounds", type=int, default=10, help="rounds that count (10)")
    add("--steps", type=int, default=20, help="steps of each loop in a round (20)")
    add("--shape", choices=list(SHAPES), help="nanoGPT's (gpu on a GPU, else laptop)")
    add("--compile", action="store_true", help="compile all networks, in the warm-up round")
    add("--graph", action="store_true", help="the plain loop in CUDA graphs (on a GPU)")
    add("--full", action="store_true", help="also train nanoGPT to its end, and evaluate it")


def run(arguments: argparse.Namespace, more: Sequence[str]) -> None:
    with recipe.built(recipe.options_of(arguments, more)) as cli:
        device, precision = recipe.device_of(cli), str(cli.trainer.precision)
        figures = measure(cli, arguments)
        if arguments.full:
            figures["nanogpt_full"] = train_nanogpt(nanogpt_loop(cli, arguments), cli)
    print(
        f"{arguments.config}, {precision}, on {device_name(device)} with {torch.get_num_threads()} "
        f"threads; {arguments.rounds} rounds of {arguments.steps} steps of each loop"
    )
    report(figures)
    print_json("train", device, config=arguments.config, precision=precision, **figures)


class TrainingLoss(nn.Module):
    """The loss of a training step, of tensors alone, so that CUDA graphs can repeat it."""

    def __init__(self, network: Network, objectives: nn.ModuleDict) -> None:
        super().__init__()
        self.network, self.objectives = network, objectives

    def forward(self, schedule: Tensor, *parts: Tensor) -> Tensor:
        """`schedule` is as in `TrainingStep`, and `parts` are those of a `Batch`."""
        batch = Batch(*parts)
        with leaving_out(self.network, batch.targets):
            hidden, logits = self.network(batch.inputs, with_hidden=True)
        nats, count = masked_cross_entropy(logits, batch.targets, batch.target_mask)
        loss = nats / count.clamp(min=1)
        for objective in self.objectives.values():
            loss = objective(loss, TrainingStep(batch, hidden, logits, schedule))  # type: ignore[arg-type]
        return loss


class PlainLoop:
    """Trains a copy of a recipe's network without the Trainer, with the same arithmetic."""

    def __init__(
        self, cli: ShakespeareCLI, compile_network: bool = False, graph: bool = False
    ) -> None:
        self.model, self.config = cli.model, cli.model.config
        self.device, self.dtype = recipe.device_of(cli), recipe.dtype_of(cli)
        if self.config.memory_order:
            cli.model.network.ngrams.remember(*cli.datamodule.encoded["train"])
        self.network = copy.deepcopy(cli.model.network).to(self.device).train()
        if compile_network:
            compile_blocks(self.network)
        self.objectives = copy.deepcopy(cli.model.objectives).to(self.device)
        train = cli.datamodule.encoded["train"]
        preparation = Preparation(self.network, cli.model.tokenizer, self.device, lambda: train)
        for objective in self.objectives.values():
            objective.prepare(preparation)
        parameters = [*self.network.parameters(), *self.objectives.parameters()]
        blocks = getattr(self.network, "blocks", None)
        self.optimizer = build_optimizer(parameters, self.config, blocks)
        self.highest = [group["lr"] for group in self.optimizer.param_groups]
        # In the order of the optimizer, as in Lightning: another order rounds sums differently.
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.clip = cli.trainer.gradient_clip_val
        self.total_steps = self.config.total_steps(recipe.planned_steps(cli))
        loader = cli.datamodule.train_dataloader()
        self.batches: Iterator[Batch] = chain.from_iterable(repeat(loader))
        self.steps = 0
        self.loss = torch.tensor(0.0)
        self.loss_of: Any = TrainingLoss(self.network, self.objectives)
        # A graph would not repeat the casts of weights that an earlier one had cached.
        self.autocast = torch.autocast(
            self.device.type,
            self.dtype,
            enabled=self.dtype != torch.float32,
            cache_enabled=not graph,
        )
        if graph:
            self._record()

    def _record(self) -> None:
        """Record the loss and its gradients as CUDA graphs; a GPU is needed."""
        if self.device.type != "cuda":
            raise UserError("--graph needs a GPU, whose work CUDA graphs repeat")
        first, ones = next(self.batches), torch.ones((), device=self.device)
        self.batches = chain([first], self.batches)
        parts = (part.to(self.device) for part in first)
        with self.autocast:
            self.loss_of = torch.cuda.make_graphed_callables(self.loss_of, (ones, *parts))

    def step(self) -> None:
        """Fetch a batch and train on it."""
        batch = Batch(*(part.to(self.device, non_blocking=True) for part in next(self.batches)))
        factor = learning_rate_factor(self.steps, self.config, self.total_steps)
        for group, highest in zip(self.optimizer.param_groups, self.highest, strict=True):
            group["lr"] = highest * factor
        rate = self.optimizer.param_groups[0]["lr"] / self.config.learning_rate
        with self.autocast:
            loss = self.loss_of(torch.tensor(rate, device=self.device), *batch)
        self.optimizer.zero_grad()
        loss.backward()
        if self.clip:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.optimizer.step()
        self.loss = loss.detach()
        self.steps += 1


class Rounds(Callback):
    """Times the Trainer in blocks of steps, and after each block as many steps of other loops.

    As the last callback it sees whole cycles: everything that the Trainer does between the ends of
    two steps. The first round warms up and is not kept.
    """

    def __init__(self, others: Mapping[str, Callable[[], object]], rounds: int, steps: int) -> None:
        self.others, self.rounds, self.steps = others, rounds, steps
        self.seconds: dict[str, list[float]] = {name: [] for name in (TRAINER, *others)}
        self.started = 0.0
        self.loss = torch.tensor(0.0)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.started = now(pl_module.device)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % self.steps == 0:
            self.loss, device = outputs["loss"], pl_module.device
            self.seconds[TRAINER].append((now(device) - self.started) / self.steps)
            for name, step in self.others.items():
                self.seconds[name].append(seconds_per_call(step, self.steps, device))
            trainer.should_stop = len(self.seconds[TRAINER]) > self.rounds
            self.started = now(device)


def measure(cli: ShakespeareCLI, arguments: argparse.Namespace) -> dict[str, Any]:
    """Let the loops take turns; return all figures."""
    needed, planned = (arguments.rounds + 1) * arguments.steps, recipe.planned_steps(cli)
    if needed > planned:
        raise UserError(f"rounds and steps make {needed} steps, but the recipe has {planned}")
    plain = PlainLoop(cli, arguments.compile, arguments.graph)
    nanogpt = nanogpt_loop(cli, arguments)
    loader = cli.datamodule.train_dataloader()
    feeding = repeated(lambda: sum(1 for _ in loader), 1, 3, torch.device("cpu"), warm_up=1)
    flops = {dtype: matmul_flops(plain.device, dtype) for dtype in (plain.dtype, nanogpt.dtype)}
    rounds = Rounds({PLAIN: plain.step, NANOGPT: nanogpt.step}, arguments.rounds, arguments.steps)
    if arguments.compile:
        compile_blocks(cli.model.network)
    cli.trainer.callbacks.append(rounds)  # type: ignore[attr-defined]
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    seconds = {name: values[1:] for name, values in rounds.seconds.items()}
    ours = recipe.characters_per_step(cli), planned, plain.network, plain.dtype, cli.model.config
    theirs = nanogpt.characters_per_step, nanogpt.shape.max_steps, nanogpt.network, nanogpt.dtype
    works = {TRAINER: ours, PLAIN: ours, NANOGPT: (*theirs, nanogpt.shape)}
    rows = {}
    for name, (characters, steps, network, dtype, sizes) in works.items():
        spread = spread_of(seconds[name])
        per_second = characters / spread.median
        rows[name] = {
            "step_seconds": spread,
            "characters_per_second": per_second,
            "share_of_matmul": per_second * flops_per_character(network, sizes) / flops[dtype],
            "recipe_seconds": steps * spread.median,
        }
    return {
        "loops": rows,
        "trainer_over_plain": ratio_of(seconds[TRAINER], seconds[PLAIN]),
        "losses": {TRAINER: float(rounds.loss), PLAIN: float(plain.loss)},
        "feeding_seconds": feeding.median / len(loader),
        "matmul_flops": {str(dtype): value for dtype, value in flops.items()},
    }


def compile_blocks(network: nn.Module) -> None:
    """Compile the blocks of a transformer, which are alike: one compilation serves all."""
    for block in cast(nn.ModuleList, getattr(network, "blocks", nn.ModuleList())):
        block.compile()


def matmul_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Return the operations per second of the fastest of some large dense matrix products."""

    def flops(size: int) -> float:
        left, right = torch.randn(2, size, size, device=device).to(dtype)
        product = torch.empty_like(left)
        calls = 1 if device.type == "cpu" else 20
        seconds = repeated(lambda: torch.mm(left, right, out=product), calls, 5, device)
        return 2 * size**3 / seconds.median

    return max(map(flops, _MATRIX_SIZES.get(device.type, _MATRIX_SIZES["cpu"])))


def flops_per_character(network: nn.Module, sizes: Any) -> int:
    """Return the operations that forward and backward need per character.

    6 per weight of a linear layer (multiply and add; forward, gradient of inputs, gradient of
    weights), and 6 * num_layers * context_length * d_model for causal attention.
    """
    linears = (layer for layer in network.modules() if isinstance(layer, nn.Linear))
    num_layers = sizes.num_layers if hasattr(network, "blocks") else 0
    attention = num_layers * sizes.context_length * sizes.d_model
    return 6 * sum(layer.weight.numel() for layer in linears) + 6 * attention


def nanogpt_loop(cli: ShakespeareCLI, arguments: argparse.Namespace) -> NanoGPTLoop:
    device, data = recipe.device_of(cli), cli.datamodule
    shape = SHAPES[arguments.shape or ("gpu" if device.type == "cuda" else "laptop")]
    ids, vocab_size = data.encoded["train"].ids, len(data.vocabulary)
    return NanoGPTLoop(ids, vocab_size, shape, device, arguments.compile)


def train_nanogpt(loop: NanoGPTLoop, cli: ShakespeareCLI) -> dict[str, float]:
    """Train to the end; return the duration, and the loss on the whole validation part."""
    steps = loop.shape.max_steps
    seconds = steps * seconds_per_call(loop.step, steps, loop.device)
    ids = cli.datamodule.encoded["val"].ids.to(loop.device)
    loss = mean_loss(loop.network, ids, loop.shape.context_length)
    return {"steps": steps, "seconds": seconds, "val_loss": loss}


def report(figures: dict[str, Any]) -> None:
    print_row("", "step", "quartiles", "characters/s", "of matmul", "whole recipe")
    for name, row in figures["loops"].items():
        print_row(
            name,
            *milliseconds(row["step_seconds"]),
            f"{row['characters_per_second']:,.0f}",
            f"{row['share_of_matmul']:.1%}",
            f"{row['recipe_seconds']:,.0f} s",
        )
    ratio, losses = figures["trainer_over_plain"], figures["losses"]
    print(f"Trainer / plain loop  {ratio.median:.3f} (quartiles {ratio.low:.3f}-{ratio.high:.3f})")
    print(f"their losses          {' and '.join(f'{loss:.6f}' for loss in losses.values())}")
    print(f"making a batch        {figures['feeding_seconds'] * 1e6:.1f} us")
    for name, flops in figures["matmul_flops"].items():
        print(f"matrix products       {flops / 1e9:,.0f} GFLOP/s in {name}")
    if full := figures.get("nanogpt_full"):
        print(
            f"nanoGPT to its end    {full['steps']} steps in {full['seconds']:.1f} s without "
            f"evaluations, val_loss {full['val_loss']:.4f} on the whole validation part"
        )
