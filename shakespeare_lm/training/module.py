"""Where network meets loss, metrics, optimizer and hyperparameters: what the Lightning Trainer
trains.

Enters: `Batch`. Leaves: a loss with a gradient, metrics for the log, and a checkpoint that is
whole.
"""

import math
import random
from pathlib import Path
from typing import Any, cast

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from shakespeare_lm.checkpoint.reading import read_checkpoint
from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.data.windows import Batch, WindowLoader
from shakespeare_lm.errors import UserError
from shakespeare_lm.network.build import NETWORK_OPTIONS, Network, build_network
from shakespeare_lm.network.transformer import Activation, Norm, Positions
from shakespeare_lm.training.loss import masked_cross_entropy
from shakespeare_lm.training.metrics import MeanPerCharacter, PrecisePerplexity
from shakespeare_lm.training.optimizer import (
    OptimizerName,
    Schedule,
    build_optimizer,
    learning_rate_factor,
)

# The optimizer's state carries these: other values would silently do nothing.
_KEPT_ON_RESUME = (
    "optimizer",
    "learning_rate",
    "muon_learning_rate",
    "weight_decay",
    "beta2",
    "seed",
)
_MEANS = ("val_loss", "val_bpc", "train_eval_loss", "test_loss", "test_bpc")


class ShakespeareLM(LightningModule):
    """A character-level language model under training.

    All arguments are plain builtins and are stored in the checkpoint, the vocabulary included: a
    checkpoint needs no other file, and loads with `weights_only=True`.

    Args:
        vocabulary: all characters, in the order of their ids.
        context_length: characters that the model sees at once.
        network: transformer, or bigram (the baseline, a table that sees one character).
        num_layers: blocks one after the other.
        num_heads: attention heads per block; must divide d_model.
        d_model: width of the residual stream.
        d_feedforward: inner width of the feed-forward layers; 4 * d_model if not given.
        positions: sinusoidal, learned or rotary.
        norm: layer norms before (pre) or after (post) each sub-layer.
        activation: gelu or relu.
        bias: whether linear layers and norms have biases.
        qkv_bias: the same for the projection to queries, keys and values.
        tied_head: whether the head uses the embedding's weights.
        scale_embedding: whether embeddings are multiplied by sqrt(d_model).
        previous_characters: how many characters before it each position's embedding tells of.
        zero_init: whether projections that add to the residual stream, and an untied head, start
            at zero.
        dropout: fraction of embeddings and sub-layer outputs zeroed in training.
        attention_dropout: fraction of attention weights zeroed in training; slow on a CPU.
        optimizer: muon (for the matrices of the blocks, with adamw for the rest), adamw, or sgd
            (plain, without momentum).
        learning_rate: the highest of adamw and sgd.
        muon_learning_rate: the highest of muon.
        weight_decay: of matrices (with muon, of those in blocks); biases and norms have none.
        beta2: AdamW's decay of the squared gradients.
        schedule: of the learning rate after the warm-up: cosine or linear to zero, or constant.
        warmup_steps: steps over which the learning rate grows from zero.
        decay_steps: the step at which cosine and linear reach zero; the Trainer's max_steps if not
            given.
        seed: decides the dropout, step by step; --seed_everything sets it.

    Raises:
        UserError: for values that make no model or no training.
    """

    def __init__(
        self,
        vocabulary: str,
        context_length: int = 128,
        network: Network = "transformer",
        num_layers: int = 3,
        num_heads: int = 5,
        d_model: int = 160,
        d_feedforward: int | None = None,
        positions: Positions = "sinusoidal",
        norm: Norm = "pre",
        activation: Activation = "gelu",
        bias: bool = False,
        qkv_bias: bool = False,
        tied_head: bool = False,
        scale_embedding: bool = True,
        previous_characters: int = 4,
        zero_init: bool = True,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        optimizer: OptimizerName = "muon",
        learning_rate: float = 8e-3,
        muon_learning_rate: float = 0.04,
        weight_decay: float = 0.0,
        beta2: float = 0.99,
        schedule: Schedule = "linear",
        warmup_steps: int = 0,
        decay_steps: int | None = None,
        seed: int = 1337,
    ) -> None:
        arguments = {
            name: value for name, value in locals().items() if name not in ("self", "__class__")
        }
        super().__init__()
        _check_training_options(
            learning_rate, muon_learning_rate, weight_decay, beta2, warmup_steps, decay_steps
        )
        # Given as a dict, so that Lightning stores these builtins alone and no hooks to its command
        # line.
        self.save_hyperparameters(arguments)
        self.tokenizer = CharTokenizer(vocabulary)
        self.transformer = build_network(arguments)
        self.means = nn.ModuleDict({name: MeanPerCharacter() for name in _MEANS})
        self.val_perplexity = PrecisePerplexity(ignore_index=-100)
        self.test_perplexity = PrecisePerplexity(ignore_index=-100)
        self._gradients: dict[str, Tensor] = {}

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls, checkpoint_path: str | Path, **options: Any
    ) -> "ShakespeareLM":
        """Load a checkpoint as Lightning does, after `read_checkpoint` found it in order.

        Raises:
            UserError: if the file is missing, damaged, or not of this program.
        """
        read_checkpoint(checkpoint_path)
        options["weights_only"] = True
        return super().load_from_checkpoint(checkpoint_path, **options)

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids `[batch, time]` to logits `[batch, time, vocab]`."""
        logits: Tensor = self.transformer(ids)
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        # Padding is on the right, so the causal triangle hides it: no attention_mask is needed
        # here.
        nats, count = masked_cross_entropy(self(batch.inputs), batch.targets, batch.target_mask)
        loss = nats / count.clamp(min=1)
        if self._is_logged(self.global_step):
            self.log("train_loss", loss.detach(), prog_bar=True, batch_size=1)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Score the validation part (loader 0), or the fixed sample of the training part (loader
        1).
        """
        if dataloader_idx == 0:
            self._evaluate("val", batch, self.val_perplexity, progress_bar=True)
        else:
            nats, count = masked_cross_entropy(self(batch.inputs), batch.targets, batch.target_mask)
            self._log_mean("train_eval_loss", nats, count)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("test", batch, self.test_perplexity, progress_bar=False)

    def _evaluate(
        self, part: str, batch: Batch, perplexity: PrecisePerplexity, progress_bar: bool
    ) -> None:
        logits = self(batch.inputs)
        nats, count = masked_cross_entropy(logits, batch.targets, batch.target_mask)
        self._log_mean(f"{part}_loss", nats, count, progress_bar)
        self._log_mean(f"{part}_bpc", nats / math.log(2), count)
        perplexity.update(logits.float(), batch.targets.masked_fill(~batch.target_mask, -100))
        self.log(f"{part}_perplexity", perplexity, add_dataloader_idx=False, batch_size=1)

    def _log_mean(
        self, name: str, total: Tensor, count: Tensor, progress_bar: bool = False
    ) -> None:
        """Log total / count such that the epoch's mean weighs every character the same."""
        mean = cast(MeanPerCharacter, self.means[name])
        mean.update(total, count)
        self.log(name, mean, prog_bar=progress_bar, add_dataloader_idx=False, batch_size=1)

    def on_train_epoch_start(self) -> None:
        """Tell the loader which epoch begins; a run resumed within one goes on from its place."""
        loader = self.trainer.train_dataloader
        if isinstance(loader, WindowLoader):
            loader.set_epoch(self.current_epoch)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Give each step's dropout a seed of its own, so that a resumed run repeats what would have
        been.

        Checkpoints hold no state of the random generator, and with this they need none.
        """
        if not (self.hparams["dropout"] or self.hparams["attention_dropout"]):
            return
        place = (
            f"dropout {self.hparams['seed']} {self.current_epoch} {batch_idx} {self.global_rank}"
        )
        seed = random.Random(place).getrandbits(63)
        # Not `torch.manual_seed`, which takes a millisecond: it writes down who called it.
        torch.default_generator.manual_seed(seed)
        if self.device.type != "cpu":
            torch.get_device_module(self.device).manual_seed(seed)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Log the length of the gradient before clipping, and the learning rate."""
        if self._is_logged(self.global_step):
            gradients = [p.grad for p in self.parameters() if p.grad is not None]
            self.log("gradient_norm", torch.nn.utils.get_total_norm(gradients), batch_size=1)
            self.log("learning_rate", optimizer.param_groups[0]["lr"], batch_size=1)

    def _is_logged(self, step: int) -> bool:
        """Say whether Lightning will write what this step logs; giving it more costs time."""
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        return bool(every) and (step + 1) % every == 0

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        options = self.hparams
        optimizer = build_optimizer(
            options["optimizer"],
            self.transformer,
            options["learning_rate"],
            options["weight_decay"],
            options["beta2"],
            options["muon_learning_rate"],
        )
        total_steps = self.total_steps(self.trainer.max_steps)
        scheduler = LambdaLR(
            optimizer,
            lambda step: learning_rate_factor(
                step, options["schedule"], options["warmup_steps"], total_steps
            ),
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def total_steps(self, max_steps: int) -> int:
        """Return the step at which the schedule ends, for a Trainer with this `max_steps`.

        Not `trainer.estimated_stepping_batches`: in Lightning 2.6.6, reading that where optimizers
        are configured makes a resumed run forget its place in the data.

        Raises:
            UserError: if the schedule needs an end and there is none.
        """
        total_steps = self.hparams["decay_steps"] or max_steps
        if total_steps < 1 and self.hparams["schedule"] != "constant":
            raise UserError(
                f"schedule is {self.hparams['schedule']}, which ends at a step, but none is known: "
                "give --max_steps or --model.decay_steps, or use --model.schedule constant"
            )
        return int(total_steps)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Between the batches of one step, keep the gradient gathered so far: the mean over the
        processes, which is all that their next sum needs.
        """
        if self.trainer.accumulate_grad_batches > 1:
            checkpoint["gradients"] = {
                name: self.trainer.strategy.reduce(parameter.grad.clone(), reduce_op="mean")
                for name, parameter in self.named_parameters()
                if parameter.grad is not None
            }

    def on_train_start(self) -> None:
        """Go on with the gradient of a step that a checkpoint was taken within."""
        for name, gradient in self._gradients.items():
            self.get_parameter(name).grad = gradient.to(self.device)
        self._gradients = {}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to go on with options that would be ignored, or would not fit the weights.

        Raises:
            UserError: naming the first difference.
        """
        stored = checkpoint.get("hyper_parameters", {})
        if stored.get("vocabulary") != self.hparams["vocabulary"]:
            raise UserError(
                "the checkpoint was trained with another vocabulary than this run's text has: "
                "resume with the text of the first run"
            )
        for name in (*NETWORK_OPTIONS, *_KEPT_ON_RESUME):
            if stored.get(name) != self.hparams[name]:
                raise UserError(
                    f"the checkpoint was trained with {name} {stored.get(name)!r}, but this run "
                    f"has {self.hparams[name]!r}: resume with the options of the first run (its "
                    "config.yaml)"
                )
        self._gradients = checkpoint.get("gradients", {})


def _check_training_options(
    learning_rate: float,
    muon_learning_rate: float,
    weight_decay: float,
    beta2: float,
    warmup_steps: int,
    decay_steps: int | None,
) -> None:
    accepted = {
        f"learning_rate is {learning_rate}: accepted is more than 0": 0.0
        < learning_rate
        < math.inf,
        f"muon_learning_rate is {muon_learning_rate}: accepted is more than 0": 0.0
        < muon_learning_rate
        < math.inf,
        f"weight_decay is {weight_decay}: accepted is 0 or more": 0.0 <= weight_decay < math.inf,
        f"beta2 is {beta2}: accepted is 0 or more and less than 1": 0.0 <= beta2 < 1.0,
        f"warmup_steps is {warmup_steps}: accepted is 0 or more": warmup_steps >= 0,
        f"decay_steps is {decay_steps}: accepted is 1 or more": decay_steps is None
        or decay_steps > 0,
    }
    for message, holds in accepted.items():
        if not holds:
            raise UserError(message)
