"""What a run shows while it trains: the progress bar, losses, sample texts and throughput."""

import time
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import RichProgressBar
from rich import get_console
from rich.text import Text

from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.completion.sampling import SamplingOptions
from shakespeare_lm.data.windows import Batch
from shakespeare_lm.errors import check_at_least
from shakespeare_lm.training.cosmetic import cosmetic
from shakespeare_lm.training.module import ShakespeareLM
from shakespeare_lm.training.pictures import long_lines, validation_loader
from shakespeare_lm.training.tensorboard_layout import tensorboard_writers

_UPDATES_PER_SECOND = 4
# TensorBoard shows samples after these steps too, when the model has not learned much.
_EARLY_STEPS = (1, 10, 100)
# Of the samples that only TensorBoard shows.
_PROMPT_CHARACTERS, _SHORT_SAMPLE_CHARACTERS = 16, 100


class SampleText(Callback):
    """Completes a fixed prompt after each validation, on the console and in TensorBoard; there also
    after the first steps, and the beginnings of two lines of the validation part, greedy and
    sampled.

    Args:
        prompt: what to complete; characters that the model does not know are dropped.
        max_new_tokens: how many characters to make; 0 makes no sample.
        temperature: below 1 safer and more repetitive, above 1 more varied, 0 always takes the most
            likely character.

    Raises:
        UserError: if a value is out of range.
    """

    def __init__(
        self, prompt: str = "\n", max_new_tokens: int = 200, temperature: float = 0.8
    ) -> None:
        # Here, so that a mistake ends the run before the training and not at its first validation.
        check_at_least(0, **{"sample.max_new_tokens": max_new_tokens})
        SamplingOptions(temperature=temperature)
        self.prompt, self.max_new_tokens = prompt, max_new_tokens
        self.temperature = temperature
        self._newest_step = 0

    @cosmetic
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        step = trainer.global_step
        is_new, self._newest_step = step != self._newest_step, step
        if step in _EARLY_STEPS and is_new and trainer.is_global_zero and self.max_new_tokens:
            _write(trainer, "sample", _block(self.prompt + self._completion(pl_module)))

    @cosmetic
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero or trainer.state.fn != "fit":
            return
        _print_losses(trainer)
        if not trainer.callback_metrics["val_loss"].isfinite() or not self.max_new_tokens:
            return
        text = self.prompt + self._completion(pl_module)
        get_console().print(Text(text.strip("\n"), style="dim"), soft_wrap=True)
        _write(trainer, "sample", _block(text))
        _write(trainer, "samples", self._several(_completer(pl_module), trainer))

    def _completion(self, pl_module: LightningModule) -> str:
        # A seed of its own: the training is the same with and without samples.
        return _completer(pl_module).complete(
            self.prompt, self.max_new_tokens, temperature=self.temperature, seed=0, unknown="skip"
        )

    def _several(self, completer: Completer, trainer: Trainer) -> str:
        """Return completions of several prompts, greedy and sampled, as Markdown."""
        prompts = [self.prompt]
        if (loader := validation_loader(trainer)) is not None:
            lines = long_lines(loader.documents, completer.tokenizer, 2)
            prompts += [line[:_PROMPT_CHARACTERS] for line in lines]
        length = min(self.max_new_tokens, _SHORT_SAMPLE_CHARACTERS)
        parts = []
        for temperature in (0.0, self.temperature):
            parts.append(f"### temperature {temperature:g}" if temperature else "### greedy")
            texts = completer.complete(
                prompts, length, temperature=temperature, seed=0, unknown="skip"
            )
            parts += [_block(p + text) for p, text in zip(prompts, texts, strict=True)]
        return "\n\n---\n\n".join(parts)


def _completer(pl_module: LightningModule) -> Completer:
    assert isinstance(pl_module, ShakespeareLM)
    return Completer(pl_module.network, pl_module.tokenizer, pl_module.hparams["context_length"])


def _write(trainer: Trainer, name: str, markdown: str) -> None:
    step = max(0, trainer.global_step - 1)  # steps count from 0, as in the curves
    for writer in tensorboard_writers(trainer):
        writer.add_text(name, markdown, step)


def _block(text: str) -> str:
    """Indent by four: as a code block of TensorBoard's Markdown a text keeps its line breaks."""
    return "    " + text.replace("\n", "\n    ")


def _print_losses(trainer: Trainer) -> None:
    metrics = trainer.callback_metrics
    names = ("train_loss", "train_eval_loss", "val_loss", "val_bpc")
    losses = [f"{name} {float(metrics[name]):.4f}" for name in names if name in metrics]
    line = f"\nstep {trainer.global_step:,}   " + "   ".join(losses)
    get_console().print(Text(line, style="bold"), soft_wrap=True)


class Throughput(Callback):
    """Logs `tokens_per_second`: real characters per second of training in this process."""

    def __init__(self) -> None:
        self.characters = torch.tensor(0)
        self.started: float | None = None

    def on_validation_end(self, *_: Any) -> None:
        # Pictures, samples and checkpoints follow: the clock starts at the next batch.
        self.characters, self.started = torch.tensor(0), None

    def on_train_batch_start(self, *_: Any) -> None:
        if self.started is None:
            self.started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, _: int
    ) -> None:
        self.characters = self.characters + batch.target_mask.sum()
        assert isinstance(pl_module, ShakespeareLM)
        if pl_module.is_logged(trainer.global_step - 1):
            assert self.started is not None
            characters = float(self.characters)  # waits for the device, so before the clock
            now = time.perf_counter()
            pl_module.log("tokens_per_second", characters / (now - self.started), batch_size=1)
            self.characters, self.started = torch.tensor(0), now


class ProgressBar(RichProgressBar):
    """Lightning's rich progress bar, updated four times a second: after every step, as in Lightning
    2.6.6, it makes a small model's steps two to five times as long.
    """

    def __init__(self) -> None:
        super().__init__(refresh_rate=_UPDATES_PER_SECOND)
        self._updated = 0.0

    def on_train_batch_end(self, trainer: Trainer, *rest: Any) -> None:
        due = time.monotonic() - self._updated > 1 / _UPDATES_PER_SECOND
        if due or trainer.should_stop or trainer.is_last_batch:
            super().on_train_batch_end(trainer, *rest)
            self._updated = time.monotonic()

    def _get_train_description(self, current_epoch: int) -> str:
        if (self.trainer.max_epochs or -1) > 0:
            return super()._get_train_description(current_epoch)
        # For a run limited by steps, Lightning would show -1 as the last epoch.
        return f"{f'Epoch {current_epoch}':{len(self.validation_description)}}"

    def get_metrics(self, *arguments: Any) -> dict[str, Any]:
        metrics = super().get_metrics(*arguments)
        metrics.pop("v_num", None)  # the version number is not a metric
        return metrics
