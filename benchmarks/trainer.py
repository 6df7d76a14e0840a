"""The training with the Trainer, as scripts/fit.py runs it, and other loops in its pauses.

Enters: a recipe and the loops to compare with. Leaves: seconds per step of each, round by round.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from shakespeare_lm.commands.fit import ShakespeareCLI
from shakespeare_lm.errors import UserError

from .memory import peak_bytes
from .recipe import planned_steps
from .timing import now, seconds_per_step

TRAINER = "Trainer"


class Rounds(Callback):
    """Times the Trainer's steps in blocks, and after each block as many steps of every other loop.

    As the last callback, it sees whole cycles: from the end of one step to the end of another lies
    everything that the Trainer does. The first round is the warm-up of all, and is not kept.

    Args:
        others: the loops to compare with: one step of each.
        rounds: how many are kept.
        steps: of every loop in every round.
    """

    def __init__(self, others: Mapping[str, Callable[[], object]], rounds: int, steps: int) -> None:
        self.others = others
        self.rounds = rounds
        self.steps = steps
        self.seconds: dict[str, list[float]] = {name: [] for name in (TRAINER, *others)}
        self.started = 0.0
        self.peak_bytes = 0
        self.loss = torch.tensor(0.0)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.started = now(pl_module.device)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % self.steps == 0:
            self.loss = outputs["loss"]
            self._end_round(pl_module.device)
            if len(self.seconds[TRAINER]) > self.rounds:
                trainer.should_stop = True
            self.started = now(pl_module.device)

    def _end_round(self, device: torch.device) -> None:
        self.seconds[TRAINER].append((now(device) - self.started) / self.steps)
        self.peak_bytes = peak_bytes(device)
        for name, step in self.others.items():
            self.seconds[name].append(seconds_per_step(step, self.steps, device))

    def kept(self) -> dict[str, list[float]]:
        """Return seconds per step of each loop, one value a round."""
        return {name: seconds[1:] for name, seconds in self.seconds.items()}


def run_rounds(cli: ShakespeareCLI, rounds: Rounds, compile_network: bool = False) -> None:
    """Let the Trainer train for as long as the rounds take.

    Raises:
        UserError: if the recipe ends before.
    """
    needed, planned = (rounds.rounds + 1) * rounds.steps, planned_steps(cli)
    if needed > planned:
        raise UserError(
            f"rounds is {rounds.rounds} and steps {rounds.steps}: with the warm-up that makes "
            f"{needed} steps, and the recipe has {planned}"
        )
    if compile_network:
        cli.model.transformer.compile()
    cli.trainer.callbacks.append(rounds)  # type: ignore[attr-defined]
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
