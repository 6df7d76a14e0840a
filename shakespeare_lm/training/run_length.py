"""How many steps a run takes: the schedule of the learning rate ends with it."""

from pytorch_lightning import Trainer

from shakespeare_lm.data.datamodule import ShakespeareDataModule


def planned_steps(trainer: Trainer) -> int:
    """Return the step at which `max_steps` or `max_epochs` ends the run; -1 if neither does.

    Not `trainer.estimated_stepping_batches`: in Lightning 2.6.6, reading that where optimizers are
    configured makes a resumed run lose its position in the data.
    """
    data = getattr(trainer, "datamodule", None)
    max_steps, max_epochs = trainer.max_steps, trainer.max_epochs or -1
    if max_epochs < 0 or not isinstance(data, ShakespeareDataModule):
        return max_steps
    batches = len(data.train_dataloader())
    limit = trainer.overfit_batches or trainer.limit_train_batches  # type: ignore[attr-defined]
    batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    steps = max_epochs * -(-batches // trainer.accumulate_grad_batches)
    return min(steps, max_steps) if max_steps > 0 else steps
