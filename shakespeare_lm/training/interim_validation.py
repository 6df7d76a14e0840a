"""About ten points of the validation loss per run, from a fixed part of the validation split."""

import math
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer

from shakespeare_lm.completion.inference import evaluating
from shakespeare_lm.data.loader import WindowLoader
from shakespeare_lm.data.windows import Batch, Windows, collate, grid_windows
from shakespeare_lm.model.loss import masked_cross_entropy
from shakespeare_lm.training.cosmetic import cosmetic
from shakespeare_lm.training.module import ShakespeareLM
from shakespeare_lm.training.pictures import validation_loader
from shakespeare_lm.training.progress import Throughput
from shakespeare_lm.training.schedule import planned_steps

_POINTS = 10  # per run
# As many as four training steps of the default recipe have, which take four times as long.
_SAMPLE_CHARACTERS = 8192
# This many characters are trained on for each one of the sample: at most 2 % of the run's time.
_TRAINED_PER_CHARACTER = 20


class InterimValidation(Callback):
    """Logs `val_sample_loss` for orientation: in nats per character, of windows that are spread
    evenly over the validation part. Checkpoints are chosen by `val_loss`, which is exact.

    The first process measures alone, without touching random numbers or modes of the training.
    """

    def __init__(self, throughput: Throughput) -> None:
        self._throughput = throughput  # which is not to count the time
        self._every_steps = self._newest_step = 0
        self._batches: list[Batch] = []

    @cosmetic
    def on_train_start(self, trainer: Trainer, pl_module: ShakespeareLM) -> None:
        training, loader = trainer.train_dataloader, validation_loader(trainer)
        if not isinstance(training, WindowLoader) or loader is None:
            return  # another kind of data
        self._batches = sample_batches(loader)
        per_batch = training.batch_size * training.context_length * training.world_size
        per_step = per_batch * trainer.accumulate_grad_batches
        enough = _TRAINED_PER_CHARACTER * sum(int(b.target_mask.sum()) for b in self._batches)
        steps = math.ceil(planned_steps(trainer) / _POINTS)
        self._every_steps = max(1, steps, math.ceil(enough / per_step))

    @cosmetic
    def on_train_batch_end(self, trainer: Trainer, pl_module: ShakespeareLM, *_: Any) -> None:
        step = trainer.global_step
        is_new, self._newest_step = step != self._newest_step, step
        if not trainer.is_global_zero or not self._batches:
            return
        if is_new and step % self._every_steps == 0:
            loss = self._measure(trainer, pl_module)
            for logger in trainer.loggers:
                logger.log_metrics({"val_sample_loss": loss}, step)
            self._throughput.restart()

    def _measure(self, trainer: Trainer, module: ShakespeareLM) -> float:
        total, count = 0.0, 0
        with evaluating(module.network), trainer.precision_plugin.val_step_context():
            for batch in self._batches:
                batch = Batch(*(tensor.to(module.device) for tensor in batch))
                logits = module.network(batch.inputs)
                nats, number = masked_cross_entropy(logits, batch.targets, batch.target_mask)
                total, count = total + float(nats), count + int(number)
        return total / count


def sample_batches(loader: WindowLoader) -> list[Batch]:
    """Return windows that are spread evenly over the loader's text, all if they are few."""
    windows = grid_windows(loader.documents.lengths, loader.context_length)
    number = len(windows.starts)
    count = min(number, math.ceil(_SAMPLE_CHARACTERS / loader.context_length))
    chosen = torch.arange(count) * number // count
    parts = zip(windows.starts[chosen].split(loader.batch_size),
                windows.sizes[chosen].split(loader.batch_size), strict=True)  # fmt: skip
    ids, padding = loader.documents.ids, loader.padding_id
    return [collate(ids, Windows(*part), loader.context_length, padding) for part in parts]
