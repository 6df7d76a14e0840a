"""What the Lightning Trainer trains: network, loss, objectives, metrics and optimizer together."""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Unpack, cast

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.callbacks import LearningRateFinder
from pytorch_lightning.utilities import rank_zero_warn
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from shakespeare_lm.checkpoint.reading import FORMAT, FORMAT_KEY, read_checkpoint, rename_weights
from shakespeare_lm.checkpoint.runs import find_checkpoint
from shakespeare_lm.data.datamodule import ShakespeareDataModule
from shakespeare_lm.data.loader import WindowLoader
from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.data.windows import Batch, Documents
from shakespeare_lm.errors import UserError, check_choice, check_option_names, one_line
from shakespeare_lm.hardware import check_memory
from shakespeare_lm.kernels.dropout import seed_dropout
from shakespeare_lm.methods.networks import NetworkOptions, build_network
from shakespeare_lm.methods.ngram_memory import NGramMemory, leaving_out
from shakespeare_lm.methods.objective import Objective, Preparation, TrainingStep
from shakespeare_lm.methods.objectives import ObjectiveConfig, build_objectives
from shakespeare_lm.model.loss import masked_cross_entropy
from shakespeare_lm.training.compatibility import (
    check_hyperparameters,
    check_processes,
    check_vocabulary,
    options_of_run,
    warn_about_other_data,
    warn_about_other_options,
)
from shakespeare_lm.training.metrics import Float32Perplexity, MeanPerCharacter
from shakespeare_lm.training.model_keywords import ModelKeywords
from shakespeare_lm.training.optimizer import (
    OPTIMIZERS,
    OptimizerConfig,
    build_optimizer,
    check_optimizer_state,
)
from shakespeare_lm.training.schedule import (
    StepSchedule,
    continue_schedule,
    learning_rate_factor,
    planned_steps,
)

_MEANS = ("val_loss", "val_bpc", "train_eval_loss", "test_loss", "test_bpc")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(OptimizerConfig, ObjectiveConfig):
    """How a network is trained."""

    def __post_init__(self) -> None:
        OptimizerConfig.__post_init__(self)
        ObjectiveConfig.__post_init__(self)


@dataclass(frozen=True, kw_only=True)
class ModelConfig(TrainingConfig, NetworkOptions):
    """A network, and how it is trained."""

    def __post_init__(self) -> None:
        NetworkOptions.__post_init__(self)
        TrainingConfig.__post_init__(self)


class ShakespeareLM(LightningModule):
    """A character-level language model in training.

    All arguments are plain builtins and are stored in the checkpoint: it needs no other file.

    Args:
        vocabulary: all characters, in the order of their ids.
        seed: determines dropout, step by step; --seed_everything sets it.
        **options: of `ModelConfig`.

    Raises:
        UserError: for an unknown option, or a value out of range or that does not fit the others.
    """

    def __init__(self, vocabulary: str, seed: int = 1337, **options: Unpack[ModelKeywords]) -> None:
        super().__init__()
        check_option_names(options, ShakespeareLM, ModelConfig)
        self.config = ModelConfig(**options)
        # Given as a dict, so that Lightning stores only these plain values.
        self.save_hyperparameters({"vocabulary": vocabulary, "seed": seed, **asdict(self.config)})
        self.tokenizer = CharTokenizer(vocabulary)
        # Weights, gradients, and up to two moments of the optimizer, in float32.
        weights = self.config.num_matrix_weights(self.tokenizer.vocab_size)
        check_memory(16 * weights, f"training {weights:,} weights", "use a smaller model")
        self.network = build_network(self.tokenizer.vocab_size, self.config)
        # For Lightning's summary, which counts its operations.
        self.example_input_array = torch.zeros(1, self.config.context_length, dtype=torch.long)
        self.objectives = build_objectives(self.config, self.network)
        self.means = nn.ModuleDict({name: MeanPerCharacter() for name in _MEANS})
        self.val_perplexity = Float32Perplexity(ignore_index=-100)
        self.test_perplexity = Float32Perplexity(ignore_index=-100)
        self._accumulated_gradients: dict[str, Tensor] = {}
        self._trained_on: object = None

    # jsonargparse takes names, defaults and help from `ModelConfig`; from a TypedDict, only names.
    __init__.__annotations__["options"] = Any

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls,
        checkpoint_path: str | Path,
        map_location: str | torch.device | None = None,
        weights_only: bool = True,
        **others: object,
    ) -> "ShakespeareLM":
        """Load a checkpoint, or a safetensors file exported from one, that can come from anybody.

        Raises:
            UserError: if the file is missing, damaged, or not from this program, `weights_only` is
                not True, or it is given another of Lightning's options.
        """
        for name in others:
            check_choice("option", name, ("checkpoint_path", "map_location", "weights_only"))
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

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids `[batch, time]` to logits `[batch, time, vocab]`."""
        return self.network(ids)

    def setup(self, stage: str) -> None:
        check_vocabulary(self.hparams["vocabulary"], self.trainer)
        if stage == "fit":
            self._check_learning_rate_finder()
            for module in self.network.modules():
                if isinstance(module, NGramMemory):
                    module.remember(*self._training_part())
            self.prepare_objectives(self.trainer.strategy.root_device)

    def _check_learning_rate_finder(self) -> None:
        finds = any(isinstance(one, LearningRateFinder) for one in self.trainer.callbacks)  # type: ignore[attr-defined]
        if finds and self.config.optimizer == "muon":
            raise UserError(
                "lr_find tries one learning rate for all weights, and muon has two: use it with "
                "optimizer adamw or sgd"
            )

    def _training_part(self) -> Documents:
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, ShakespeareDataModule):
            raise UserError("n-grams of the training part need a ShakespeareDataModule to count it")
        return data.encoded["train"]

    def prepare_objectives(self, device: torch.device | None = None) -> None:
        """Let the objectives read their checkpoints, and, if a device is given, the training part.

        Raises:
            UserError: if a checkpoint does not fit, or the Trainer has another kind of data.
        """
        for objective in cast(Iterable[Objective], self.objectives.values()):
            objective.load(lambda path: read_checkpoint(find_checkpoint(path)), self.tokenizer)
            if device is not None:
                network, part = self.network, self._training_part
                objective.prepare(Preparation(network, self.tokenizer, device, part))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        # Padding is on the right, so the causal mask hides it: attention_mask is not needed.
        with leaving_out(self.network, batch.targets):
            hidden, logits = self.network(batch.inputs, with_hidden=True)
        nats, count = masked_cross_entropy(logits, batch.targets, batch.target_mask)
        loss = nats / count.clamp(min=1)
        if self.is_logged(self.global_step):
            self.log("train_loss", loss.detach(), prog_bar=True, batch_size=1)
            self.log("train_bpc", loss.detach() / math.log(2), batch_size=1)
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        step = TrainingStep(batch, hidden, logits, rate / self.config.learning_rate)
        for objective in self.objectives.values():
            loss = objective(loss, step)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Evaluate on the validation part (loader 0) or the sample of the training part (1)."""
        if dataloader_idx == 0:
            self._evaluate("val", batch, self.val_perplexity, progress_bar=True)
        else:
            with leaving_out(self.network, batch.targets):
                logits = self(batch.inputs)
            nats, count = masked_cross_entropy(logits, batch.targets, batch.target_mask)
            self._log_mean("train_eval_loss", nats, count)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the log-probabilities of the targets, in nats: `[batch, time]`, NaN for padding.

        The Trainer returns those of each batch; of several processes, each has its own windows.
        """
        log_probabilities = self(batch.inputs).float().log_softmax(-1)
        of_targets = log_probabilities.gather(-1, batch.targets.unsqueeze(-1)).squeeze(-1)
        return of_targets.masked_fill(~batch.target_mask, math.nan)

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
        """Return whether Lightning writes what is logged at this step (0 is the first)."""
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        return bool(every) and (step + 1) % every == 0

    def gradient_norm(self) -> Tensor:
        """Return the norm of the gradient of all parameters, before clipping."""
        groups = self.trainer.optimizers[0].param_groups  # faster than self.parameters()
        grads = [p.grad for group in groups for p in group["params"] if p.grad is not None]
        return torch.nn.utils.get_total_norm(grads)

    def on_train_epoch_start(self) -> None:
        """Tell the loader which epoch begins; Lightning does not call this for a run resumed within
        an epoch, where the loader continues from its saved position.
        """
        loader = self.trainer.train_dataloader
        if isinstance(loader, WindowLoader):
            loader.set_epoch(self.current_epoch)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        if self.config.dropout or self.config.attention_dropout:
            where = f"{self.hparams['seed']} {self.current_epoch} {batch_idx} {self.global_rank}"
            seed_dropout(where, self.device)

    def build_optimizer(self) -> torch.optim.Optimizer:
        """Return an optimizer of all parameters of this module."""
        return build_optimizer(
            self.parameters(), self.config, getattr(self.network, "blocks", None)
        )

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        # Lightning's Tuner.lr_find sets the hyperparameter.
        rate = float(self.hparams["learning_rate"])
        self.config = replace(self.config, learning_rate=rate)
        optimizer = self.build_optimizer()
        total_steps = self.config.total_steps(planned_steps(self.trainer))
        schedule = StepSchedule(
            optimizer, lambda step: learning_rate_factor(step, self.config, total_steps)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add format number, options, and the gradient of a step so far (mean of processes)."""
        checkpoint[FORMAT_KEY] = FORMAT
        checkpoint["options"] = options_of_run(self.trainer, self)
        if self.trainer.accumulate_grad_batches > 1:
            checkpoint["gradients"] = {
                name: self.trainer.strategy.reduce(parameter.grad.clone(), reduce_op="mean")
                for name, parameter in self.named_parameters()
                if parameter.grad is not None
            }

    def on_train_start(self) -> None:
        """Restore the accumulated gradient of the checkpoint, and set the learning rates of this
        run's schedule, where Lightning restores the checkpoint's.
        """
        for name, gradient in self._accumulated_gradients.items():
            self.get_parameter(name).grad = gradient.to(self.device)
        self._accumulated_gradients = {}
        for optimizer in self.trainer.optimizers:
            if self.config.optimizer in OPTIMIZERS:  # one of your own can have any state
                check_optimizer_state(optimizer)
        scheduler, rate = self.lr_schedulers(), float(self.hparams["learning_rate"])
        if rate != self.config.learning_rate and isinstance(scheduler, StepSchedule):
            # The callback LearningRateFinder changes the optimizer alone, for one step.
            self.config = replace(self.config, learning_rate=rate)
            scheduler.base_lrs = [rate] * len(scheduler.base_lrs)
            for group in scheduler.optimizer.param_groups:
                group["lr"] = rate * scheduler.lr_lambdas[0](0)
        if self.global_step > 0 and isinstance(scheduler, StepSchedule):
            fresh = self.build_optimizer()
            continue_schedule(scheduler, fresh, self.global_step, self.config.restart_step)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        rename_weights(checkpoint)
        check_processes(self._trainer, checkpoint)
        check_hyperparameters(checkpoint.get("hyper_parameters", {}), self.hparams)
        if self._trainer is not None and self.trainer.training:
            warn_about_other_options(checkpoint.get("options"), options_of_run(self.trainer, self))
        self._accumulated_gradients = checkpoint.get("gradients", {})
        self._trained_on = checkpoint.get(ShakespeareDataModule.__qualname__)
        if self._trained_on is None and self._trainer is not None and self.trainer.training:
            rank_zero_warn(
                "the checkpoint has no fingerprint of its text and split: they are not compared "
                "with this run's"
            )

    def on_validation_start(self) -> None:
        warn_about_other_data(self._trained_on, self.trainer)

    on_test_start = on_predict_start = on_validation_start
