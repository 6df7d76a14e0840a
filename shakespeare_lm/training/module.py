"""Where network, loss, metrics, optimizer and hyperparameters meet: what the Lightning Trainer
trains.

Enters: `Batch`. Leaves: a loss with a gradient, metrics for the log, and a checkpoint that needs no
other file.
"""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities import rank_zero_warn
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from shakespeare_lm.checkpoint.reading import FORMAT, FORMAT_KEY, read_checkpoint
from shakespeare_lm.data.datamodule import ShakespeareDataModule
from shakespeare_lm.data.loader import WindowLoader
from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.data.windows import Batch
from shakespeare_lm.errors import UserError, check_option_names, one_line
from shakespeare_lm.hardware import check_memory
from shakespeare_lm.methods.distillation import Teacher
from shakespeare_lm.methods.multi_token import build_further_head
from shakespeare_lm.methods.networks import build_network
from shakespeare_lm.model.loss import masked_cross_entropy
from shakespeare_lm.training.compatibility import (
    check_hyperparameters,
    check_processes,
    check_vocabulary,
    warn_about_other_data,
)
from shakespeare_lm.training.config import ModelConfig
from shakespeare_lm.training.dropout_seed import seed_dropout
from shakespeare_lm.training.filled_memory import fill_memory
from shakespeare_lm.training.metrics import Float32Perplexity, MeanPerCharacter
from shakespeare_lm.training.optimizer import build_optimizer
from shakespeare_lm.training.run_length import planned_steps
from shakespeare_lm.training.schedule import continue_schedule, learning_rate_factor
from shakespeare_lm.training.teachers import teachers_of

_MEANS = ("val_loss", "val_bpc", "train_eval_loss", "test_loss", "test_bpc")


class ShakespeareLM(LightningModule):
    """A character-level language model in training.

    All arguments are plain builtins and are stored in the checkpoint, including the vocabulary: a
    checkpoint needs no other file, and loads with `weights_only=True`.

    Args:
        vocabulary: all characters, in the order of their ids.
        seed: determines dropout, step by step; --seed_everything sets it.
        **options: of `ModelConfig`.

    Raises:
        UserError: for an unknown option, or a value out of range or that does not fit the others.
    """

    def __init__(self, vocabulary: str, seed: int = 1337, **options: Any) -> None:
        super().__init__()
        check_option_names(options, ShakespeareLM, ModelConfig)
        self.config = ModelConfig(**options)
        # Given as a dict, so that Lightning stores only these plain values.
        self.save_hyperparameters({"vocabulary": vocabulary, "seed": seed, **asdict(self.config)})
        self.tokenizer = CharTokenizer(vocabulary)
        # Weights, gradients, and up to two moments of the optimizer, in float32.
        weights = self.config.num_matrix_weights(self.tokenizer.vocab_size)
        check_memory(16 * weights, f"training {weights:,} weights", "use a smaller model")
        self.transformer = build_network(self.tokenizer.vocab_size, self.config)
        self.further_head = build_further_head(self.config, self.transformer)
        self.means = nn.ModuleDict({name: MeanPerCharacter() for name in _MEANS})
        self.val_perplexity = Float32Perplexity(ignore_index=-100)
        self.test_perplexity = Float32Perplexity(ignore_index=-100)
        self._accumulated_gradients: dict[str, Tensor] = {}
        self._trained_on: object = None
        self.teachers: list[Teacher] = []

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls,
        checkpoint_path: str | Path,
        map_location: str | torch.device | None = None,
        weights_only: bool = True,
    ) -> "ShakespeareLM":
        """Load a checkpoint that can come from anybody; nothing in it is executed.

        Args:
            checkpoint_path: of the checkpoint, or of a safetensors file exported from one.
            map_location: the device to move the module to.
            weights_only: as in Lightning; only True is accepted.

        Raises:
            UserError: if the file is missing, damaged, or not from this program.
        """
        if not weights_only:
            raise UserError("weights_only is False: checkpoints are only loaded without their code")
        content = read_checkpoint(checkpoint_path).content
        module = cls(**content["hyper_parameters"])
        module._trained_on = content.get(ShakespeareDataModule.__qualname__)
        try:
            module.load_state_dict(content["state_dict"])
        except RuntimeError as error:
            raise UserError(f"{checkpoint_path}: {one_line(error)[:200]}") from None
        return module if map_location is None else module.to(map_location)

    def forward(self, ids: Tensor, own: Tensor | None = None) -> Tensor:
        """Map ids `[batch, time]` to logits `[batch, time, vocab]`; `own` is for a memory."""
        memory = {"own": own} if self.config.memory_order else {}
        logits: Tensor = self.transformer(ids, **memory)
        return logits

    def setup(self, stage: str) -> None:
        check_vocabulary(self.hparams["vocabulary"], self.trainer)
        if stage == "fit":
            fill_memory(self.transformer, self.trainer)
            self.teachers = teachers_of(self.config, self.transformer, self.tokenizer, self.trainer)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        # Padding is on the right, so the causal mask hides it: attention_mask is not needed.
        if self.further_head is None:
            logits, further_loss = self(batch.inputs, own=batch.targets), None
        else:
            logits, further_loss = self.further_head.logits_and_loss(self.transformer, batch)
        nats, count = masked_cross_entropy(logits, batch.targets, batch.target_mask)
        loss = nats / count.clamp(min=1)
        if self.is_logged(self.global_step):
            self.log("train_loss", loss.detach(), prog_bar=True, batch_size=1)
            self.log("train_bpc", loss.detach() / math.log(2), batch_size=1)
        for teacher in self.teachers:
            loss = teacher.mixed_loss(loss, logits, batch)
        if further_loss is not None:  # its weight falls with the learning rate
            factor = self.trainer.optimizers[0].param_groups[0]["lr"] / self.config.learning_rate
            loss = loss + factor * further_loss
        return loss

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Evaluate on the validation part (loader 0) or the sample of the training part (1)."""
        if dataloader_idx == 0:
            self._evaluate("val", batch, self.val_perplexity, progress_bar=True)
        else:
            logits = self(batch.inputs, own=batch.targets)
            nats, count = masked_cross_entropy(logits, batch.targets, batch.target_mask)
            self._log_mean("train_eval_loss", nats, count)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("test", batch, self.test_perplexity, progress_bar=False)

    def _evaluate(
        self, part: str, batch: Batch, perplexity: Float32Perplexity, progress_bar: bool
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
        """Log total / count so that the epoch's mean weighs every character the same."""
        mean = cast(MeanPerCharacter, self.means[name])
        mean.update(total, count)
        self.log(name, mean, prog_bar=progress_bar, add_dataloader_idx=False, batch_size=1)

    def is_logged(self, step: int) -> bool:
        """Return whether Lightning writes what step number `step` (0 is the first) logs.

        Computing and logging values that nobody writes costs time.
        """
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        return bool(every) and (step + 1) % every == 0

    def gradient_norm(self) -> Tensor:
        """Return the norm of the gradient of all parameters, before clipping."""
        groups = self.trainer.optimizers[0].param_groups  # faster than self.parameters()
        grads = [p.grad for group in groups for p in group["params"] if p.grad is not None]
        return torch.nn.utils.get_total_norm(grads)

    def on_train_epoch_start(self) -> None:
        """Tell the loader which epoch begins. Lightning does not call this when a run is resumed
        within an epoch: the loader then continues from its saved position.
        """
        loader = self.trainer.train_dataloader
        if isinstance(loader, WindowLoader):
            loader.set_epoch(self.current_epoch)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        if self.config.dropout or self.config.attention_dropout:
            where = f"{self.hparams['seed']} {self.current_epoch} {batch_idx} {self.global_rank}"
            seed_dropout(where, self.device)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = build_optimizer(self.transformer, self.config, self.further_head)
        total_steps = self.config.total_steps(planned_steps(self.trainer))
        scheduler = LambdaLR(
            optimizer, lambda step: learning_rate_factor(step, self.config, total_steps)
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the number of the format, and the gradient accumulated so far within a step: its mean
        over the processes is all that they need to continue.
        """
        checkpoint[FORMAT_KEY] = FORMAT
        if self.trainer.accumulate_grad_batches > 1:
            checkpoint["gradients"] = {
                name: self.trainer.strategy.reduce(parameter.grad.clone(), reduce_op="mean")
                for name, parameter in self.named_parameters()
                if parameter.grad is not None
            }

    def on_train_start(self) -> None:
        """Restore the gradient that was accumulated when the checkpoint was saved, and set the
        learning rates: Lightning restores those of the run that is resumed.
        """
        for name, gradient in self._accumulated_gradients.items():
            self.get_parameter(name).grad = gradient.to(self.device)
        self._accumulated_gradients = {}
        if self.global_step > 0:
            scheduler = cast(LambdaLR, self.lr_schedulers())
            continue_schedule(scheduler, self.global_step, self.config.restart_step)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to resume with options that would be ignored or would not fit the weights."""
        check_processes(self._trainer, checkpoint)
        check_hyperparameters(checkpoint.get("hyper_parameters", {}), self.hparams)
        self._accumulated_gradients = checkpoint.get("gradients", {})
        self._trained_on = checkpoint.get(ShakespeareDataModule.__qualname__)
        if self._trained_on is None and self._trainer is not None and self.trainer.training:
            rank_zero_warn(
                "the checkpoint has no fingerprint of its text and split: they are not compared "
                "with this run's"
            )

    def on_validation_start(self) -> None:
        warn_about_other_data(self._trained_on, self.trainer)

    def on_test_start(self) -> None:
        warn_about_other_data(self._trained_on, self.trainer)
