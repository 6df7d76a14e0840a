"""The training without a Trainer: a loop in plain PyTorch that does the same arithmetic.

Enters: a recipe. Leaves: steps on the same network, from the same weights, on the same batches, in
the same precision, with the same optimizer, schedule and clipping.
"""

import copy
from collections.abc import Iterator
from itertools import chain, repeat

import torch

from shakespeare_lm.commands.fit import ShakespeareCLI
from shakespeare_lm.data.windows import Batch
from shakespeare_lm.training.loss import masked_cross_entropy
from shakespeare_lm.training.optimizer import build_optimizer, learning_rate_factor

from .recipe import device_of, dtype_of, planned_steps

_OPTIMIZER_OPTIONS = ("learning_rate", "weight_decay", "beta2", "muon_learning_rate")


class PlainLoop:
    """Trains a copy of a recipe's network, step by step."""

    def __init__(self, cli: ShakespeareCLI, compile_network: bool = False) -> None:
        self.options = cli.model.hparams
        self.device, self.dtype = device_of(cli), dtype_of(cli)
        self.network = copy.deepcopy(cli.model.transformer).to(self.device).train()
        if compile_network:
            self.network.compile()
        settings = {name: self.options[name] for name in _OPTIMIZER_OPTIONS}
        self.optimizer = build_optimizer(self.options["optimizer"], self.network, **settings)
        self.highest = [group["lr"] for group in self.optimizer.param_groups]
        # The optimizer's order, which is Lightning's too: sums round differently in another one.
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.clip = cli.trainer.gradient_clip_val
        self.total_steps = self.options["decay_steps"] or planned_steps(cli)
        self.batches: Iterator[Batch] = chain.from_iterable(
            repeat(cli.datamodule.train_dataloader())
        )
        self.steps = 0
        self.loss = torch.tensor(0.0)

    def step(self) -> None:
        """Fetch a batch and train on it."""
        batch = next(self.batches)
        self.train_on(Batch(*(tensor.to(self.device, non_blocking=True) for tensor in batch)))

    def train_on(self, batch: Batch) -> None:
        """Train on a batch that lies on the device."""
        self._set_learning_rate()
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            logits = self.network(batch.inputs)
            nats, count = masked_cross_entropy(logits, batch.targets, batch.target_mask)
            loss = nats / count.clamp(min=1)
        self.optimizer.zero_grad()
        loss.backward()
        if self.clip:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.optimizer.step()
        self.loss = loss.detach()
        self.steps += 1

    def _set_learning_rate(self) -> None:
        schedule, warmup_steps = self.options["schedule"], self.options["warmup_steps"]
        factor = learning_rate_factor(self.steps, schedule, warmup_steps, self.total_steps)
        for group, highest in zip(self.optimizer.param_groups, self.highest, strict=True):
            group["lr"] = highest * factor
