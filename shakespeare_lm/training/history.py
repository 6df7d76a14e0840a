"""The losses of a run's validations: which was the best, and did the model overfit since.

Enters: the Trainer's metrics after each validation. Leaves: a sentence for the summary.
"""

from typing import Any, NamedTuple

from pytorch_lightning import Callback, LightningModule, Trainer

from shakespeare_lm.errors import UserError

# More than the default recipe's spread over seeds, 0.004.
_NOISE_NATS = 0.01


class Validation(NamedTuple):
    """The losses after so many steps, in nats per character."""

    step: int
    val_loss: float
    train_eval_loss: float


class ValidationHistory(Callback):
    """Remembers every validation, also those of the runs that this one resumes."""

    def __init__(self) -> None:
        self.validations: list[Validation] = []

    @property
    def best(self) -> Validation | None:
        """The validation with the lowest `val_loss`; None before the first."""
        return min(self.validations, key=lambda one: one.val_loss, default=None)

    def overfitting(self) -> str | None:
        """Say since when the validation loss rises while the training loss falls, if it does."""
        if self.best is None:
            return None
        last = self.validations[-1]
        worse = last.val_loss > self.best.val_loss + _NOISE_NATS
        if not worse or last.train_eval_loss > self.best.train_eval_loss:
            return None
        return (
            f"overfitting since step {self.best.step:,}: val_loss rose from "
            f"{self.best.val_loss:.4f} to {last.val_loss:.4f}, while train_eval_loss fell from "
            f"{self.best.train_eval_loss:.4f} to {last.train_eval_loss:.4f}"
        )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        losses = [float(trainer.callback_metrics[name]) for name in Validation._fields[1:]]
        self.validations.append(Validation(trainer.global_step, *losses))

    def state_dict(self) -> dict[str, Any]:
        return {"validations": [list(one) for one in self.validations]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        rows = state_dict.get("validations")
        if not isinstance(rows, list) or not all(map(_is_validation, rows)):
            raise UserError("invalid history of validations in the checkpoint")
        self.validations = [Validation(*row) for row in rows]


def _is_validation(row: object) -> bool:
    return isinstance(row, list) and [type(value) for value in row] == [int, float, float]
