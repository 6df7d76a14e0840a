"""What a run shows after each validation: its losses, and texts that the network makes."""

import textwrap
from typing import Any

from pytorch_lightning import Callback, Trainer
from rich import get_console
from rich.text import Text

from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.completion.sampling import SamplingOptions
from shakespeare_lm.errors import check_at_least, printable
from shakespeare_lm.training.cosmetic import cosmetic
from shakespeare_lm.training.module import ShakespeareLM
from shakespeare_lm.training.pictures import long_lines, validation_loader
from shakespeare_lm.training.progress import announce
from shakespeare_lm.training.tensorboard_layout import tensorboard_writers

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
        max_new_tokens: how many characters to make; 0 makes no sample. What is shown ends with the
            last full line or word.
        temperature: below 1 safer and more repetitive, above 1 more varied, 0 always takes the most
            likely character.

    Raises:
        UserError: if a value is out of range.
    """

    def __init__(
        self,
        prompt: str = "\n",
        max_new_tokens: int = 200,
        temperature: float = SamplingOptions.temperature,
    ) -> None:
        # Here, so that a mistake ends the run before the training and not at its first validation.
        check_at_least(0, **{"sample.max_new_tokens": max_new_tokens})
        SamplingOptions(temperature=temperature)
        self.prompt, self.max_new_tokens = prompt, max_new_tokens
        self.temperature = temperature
        self._newest_step = 0

    @cosmetic
    def on_train_batch_end(self, trainer: Trainer, pl_module: ShakespeareLM, *_: Any) -> None:
        step = trainer.global_step
        is_new, self._newest_step = step != self._newest_step, step
        if step in _EARLY_STEPS and is_new and trainer.is_global_zero and self.max_new_tokens:
            (text,) = self._completed(
                [self.prompt], pl_module, self.max_new_tokens, self.temperature
            )
            _write(trainer, "sample", _block(text))

    @cosmetic
    def on_validation_end(self, trainer: Trainer, pl_module: ShakespeareLM) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero or trainer.state.fn != "fit":
            return
        _print_losses(trainer)
        if not trainer.callback_metrics["val_loss"].isfinite() or not self.max_new_tokens:
            return
        announce(trainer, "writing samples")
        (text,) = self._completed([self.prompt], pl_module, self.max_new_tokens, self.temperature)
        get_console().print(Text(printable(text.strip("\n")), style="dim"), soft_wrap=True)
        _write(trainer, "sample", _block(text))
        _write(trainer, "samples", self._several(trainer, pl_module))

    def _completed(
        self, prompts: list[str], pl_module: ShakespeareLM, length: int, temperature: float
    ) -> list[str]:
        """Return the prompts with their completions."""
        network, context_length = pl_module.network, pl_module.hparams["context_length"]
        completer = Completer(network, pl_module.tokenizer, context_length)
        # A seed of its own: the training is the same with and without samples.
        texts = completer.complete(prompts, length, temperature=temperature, seed=0, unknown="skip")
        return [prompt + _to_last_end(text) for prompt, text in zip(prompts, texts, strict=True)]

    def _several(self, trainer: Trainer, pl_module: ShakespeareLM) -> str:
        """Return completions of several prompts, greedy and sampled, as Markdown."""
        prompts = [self.prompt]
        if (loader := validation_loader(trainer)) is not None:
            lines = long_lines(loader.documents, pl_module.tokenizer, 2)
            prompts += [line[:_PROMPT_CHARACTERS] for line in lines]
        length = min(self.max_new_tokens, _SHORT_SAMPLE_CHARACTERS)
        parts = []
        for temperature in (0.0, self.temperature):
            parts.append(f"### temperature {temperature:g}" if temperature else "### greedy")
            parts += map(_block, self._completed(prompts, pl_module, length, temperature))
        return "\n\n---\n\n".join(parts)


def _to_last_end(text: str) -> str:
    """Cut a text after its last full line, or else word, if it has one."""
    heads = (text.rpartition(end)[0] for end in ("\n", " "))
    return next((head for head in heads if head.strip()), text)


def _write(trainer: Trainer, name: str, markdown: str) -> None:
    for writer in tensorboard_writers(trainer):
        writer.add_text(name, markdown, trainer.global_step)


def _block(text: str) -> str:
    """Indent by four: as a code block of TensorBoard's Markdown a text keeps its line breaks."""
    return "    " + text.replace("\n", "\n    ")


def _print_losses(trainer: Trainer) -> None:
    """Print the losses, in one line of 80 columns or, between two of them, more lines."""
    metrics = trainer.callback_metrics
    names = ("train_loss", "train_eval_loss", "val_loss")
    losses = [f"{name}\0{float(metrics[name]):.4f}" for name in names if name in metrics]
    line = f"step\0{trainer.global_step:,}   " + "   ".join(losses)
    console = get_console()
    wrapped = textwrap.fill(line, console.width).replace("\0", " ")
    console.print(Text(f"\n{wrapped}", style="bold"), soft_wrap=True)
