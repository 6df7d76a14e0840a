"""The losses of a run's validations: which was the best, and did the model overfit since."""

import math
from typing import Any, NamedTuple

from pytorch_lightning import Callback, LightningModule, Trainer

from shakespeare_lm.errors import UserError

_NOISE_NATS = 0.01  # more than the default recipe's spread over seeds, 0.004
_KEPT = 10  # the newest validations; of those before, only the best is remembered


class Validation(NamedTuple):
    """The losses after so many steps, in nats per character."""

    step: int
    val_loss: float
    train_eval_loss: float


class ValidationHistory(Callback):
    """Remembers the newest validations, and the best before them, of resumed runs too."""

    def __init__(self) -> None:
        self.validations: list[Validation] = []

    def find(self, val_loss: float) -> Validation | None:
        """Return the first validation with this loss, such as that of the best checkpoint."""
        found = (v for v in self.validations if math.isclose(v.val_loss, val_loss, rel_tol=1e-6))
        return next(found, None)

    def overfitting(self, best: Validation) -> str | None:
        """Say if the validation loss rises and the training loss falls since the best one."""
        last = self.validations[-1]
        worse = last.val_loss > best.val_loss + _NOISE_NATS
        if not worse or last.train_eval_loss > best.train_eval_loss:
            return None
        return (
            f"overfitting since step {best.step:,}: val_loss rose from {best.val_loss:.4f} to "
            f"{last.val_loss:.4f}, while train_eval_loss fell from {best.train_eval_loss:.4f} to "
            f"{last.train_eval_loss:.4f}"
        )

    def on_validation_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        losses = [float(trainer.callback_metrics[name]) for name in Validation._fields[1:]]
        self.validations.append(Validation(trainer.global_step, *losses))
        if earlier := self.validations[:-_KEPT]:
            # They are saved in checkpoints, which must not grow with the run.
            self.validations[:-_KEPT] = [min(earlier, key=lambda one: one.val_loss)]

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the loss of exactly these weights, and in which precision it was computed."""
        if self.validations and self.validations[-1].step == trainer.global_step:
            loss = self.validations[-1].val_loss
            checkpoint["validation"] = {"val_loss": loss, "precision": trainer.precision}

    def state_dict(self) -> dict[str, Any]:
        return {"validations": [list(one) for one in self.validations]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        rows = state_dict.get("validations")
        if not isinstance(rows, list) or not all(map(_is_validation, rows)):
            raise UserError("invalid history of validations in the checkpoint")
        self.validations = [Validation(*row) for row in rows]


def _is_validation(row: object) -> bool:
    return isinstance(row, list) and [type(value) for value in row] == [int, float, float]
