"""What is shown beside the training: what it starts with, sample texts, throughput, progress.

Enters: the Trainer's events. Leaves: lines in the console, curves and texts in TensorBoard.
"""

import time
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import RichProgressBar
from pytorch_lightning.loggers import TensorBoardLogger
from rich import get_console
from rich.text import Text

from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.completion.sampling import Decoding
from shakespeare_lm.data.datamodule import ShakespeareDataModule
from shakespeare_lm.data.windows import Batch
from shakespeare_lm.errors import UserError
from shakespeare_lm.training.module import ShakespeareLM

_UPDATES_PER_SECOND = 4


class Opening(Callback):
    """Says in a line what is trained on what, before the first step."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        parameters = sum(parameter.numel() for parameter in pl_module.parameters())
        line = f"{parameters:,} parameters on {pl_module.device.type}"
        data = getattr(trainer, "datamodule", None)
        if isinstance(data, ShakespeareDataModule):
            sizes = {name: len(part.ids) for name, part in data.encoded.items() if len(part.ids)}
            characters = ", ".join(f"{size:,} {name}" for name, size in sizes.items())
            line += f"; characters: {characters}, {len(data.vocabulary)} different"
        get_console().print(Text(line), soft_wrap=True)


class SampleText(Callback):
    """Completes a fixed prompt after each validation, for the console and for TensorBoard.

    Args:
        prompt: what to complete; characters that the model does not know are left out.
        max_new_tokens: how many characters to make; 0 makes no sample.
        temperature: below 1 is bolder, above 1 is wilder, 0 always takes the most likely character.

    Raises:
        UserError: for a value out of range, before the training rather than after its first part.
    """

    def __init__(
        self, prompt: str = "\n", max_new_tokens: int = 200, temperature: float = 0.8
    ) -> None:
        if max_new_tokens < 0:
            raise UserError(f"sample.max_new_tokens is {max_new_tokens}: accepted is 0 or more")
        Decoding(temperature=temperature)
        self.prompt = prompt
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero or trainer.state.fn != "fit":
            return
        _print_losses(trainer)
        diverged = not torch.isfinite(trainer.callback_metrics["val_loss"])
        if diverged or self.max_new_tokens < 1:
            return
        assert isinstance(pl_module, ShakespeareLM)
        completer = Completer(
            pl_module.transformer, pl_module.tokenizer, pl_module.hparams["context_length"]
        )
        # A seed of its own: training then draws as it would have without samples.
        text = completer.complete(
            self.prompt, self.max_new_tokens, temperature=self.temperature, seed=0, unknown="skip"
        )
        get_console().print(Text((self.prompt + text).strip("\n"), style="dim"), soft_wrap=True)
        if isinstance(trainer.logger, TensorBoardLogger):
            # Indented by four: TensorBoard shows Markdown, and this keeps the line breaks.
            block = "    " + (self.prompt + text).replace("\n", "\n    ")
            # Curves count steps from 0, and so do the samples.
            trainer.logger.experiment.add_text("sample", block, trainer.global_step - 1)


def _print_losses(trainer: Trainer) -> None:
    metrics = trainer.callback_metrics
    names = ("train_loss", "train_eval_loss", "val_loss", "val_bpc")
    losses = [f"{name} {float(metrics[name]):.4f}" for name in names if name in metrics]
    line = f"\nstep {trainer.global_step:,}   " + "   ".join(losses)
    get_console().print(Text(line, style="bold"), soft_wrap=True)


class Throughput(Callback):
    """Logs `tokens_per_second`: real characters trained on by this process, validation aside."""

    def __init__(self) -> None:
        self.characters = torch.tensor(0)
        self.started = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restart()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restart()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        self.characters = self.characters + batch.target_mask.sum()
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and trainer.global_step % every == 0:
            characters = float(self.characters)  # waits for the device: before the clock
            elapsed = time.perf_counter() - self.started
            pl_module.log("tokens_per_second", characters / elapsed, batch_size=1)
            self._restart()

    def _restart(self) -> None:
        self.characters, self.started = torch.tensor(0), time.perf_counter()


class ProgressBar(RichProgressBar):
    """Lightning's rich bar, updated four times a second.

    Lightning 2.6.6 updates it after every step and draws it a hundred times a second, which made a
    small model's steps twice to five times as long.
    """

    def __init__(self) -> None:
        super().__init__(refresh_rate=_UPDATES_PER_SECOND)
        self._updated = 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        due = time.monotonic() - self._updated > 1 / _UPDATES_PER_SECOND
        if due or trainer.should_stop or trainer.is_last_batch:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
            self._updated = time.monotonic()

    def _get_train_description(self, current_epoch: int) -> str:
        if self.trainer.max_epochs is not None and self.trainer.max_epochs > 0:
            return super()._get_train_description(current_epoch)
        # Where the run is counted in steps, Lightning would name the last of -1 epochs.
        return f"{f'Epoch {current_epoch}':{len(self.validation_description)}}"

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)  # the folder's number is no metric
        return metrics
