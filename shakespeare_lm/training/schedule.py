"""step -> learning rate: warm-up, decay, and the second decay of a resumed run."""

import math

from pytorch_lightning import Trainer
from pytorch_lightning.utilities import rank_zero_warn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from shakespeare_lm.data.datamodule import ShakespeareDataModule
from shakespeare_lm.errors import UserError
from shakespeare_lm.methods.muon import MuonAndAdamW
from shakespeare_lm.training.optimizer import OptimizerConfig, Schedule

# As factors of the highest learning rate.
_RESTART_FACTOR = 0.5  # where a schedule begins anew (measured: see docs/EXPERIMENTS.md)
_JUMP = 0.05  # more than rounding or one step of a schedule


def learning_rate_factor(step: int, config: OptimizerConfig, total_steps: int) -> float:
    """Return the factor of the learning rate at `step` (0 is the first): it rises linearly to 1 in
    the first `warmup_steps`; then "cosine" and "linear" fall to 0 at `total_steps`, and "constant"
    stays at 1. With a `restart_step` they fall to 0 there, and from 0.5 to 0 at `total_steps`.
    """
    if config.restart_step is not None and config.schedule != "constant":
        if step >= config.restart_step:
            return _RESTART_FACTOR * _decay(step, config.restart_step, total_steps, config.schedule)
        total_steps = config.restart_step
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    return _decay(step, config.warmup_steps, total_steps, config.schedule)


def _decay(step: int, first: int, last: int, schedule: Schedule) -> float:
    """Return 1 at step `first`, and 0 from step `last` on, unless the schedule is constant."""
    if schedule == "constant":
        return 1.0
    progress = min(1.0, (step - first) / max(1, last - first))
    return 1.0 - progress if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))


class StepSchedule(LambdaLR):
    """Learning rates as a function of the step, so that nothing is taken from a checkpoint."""

    def load_state_dict(self, state_dict: object) -> None:
        pass


def continue_schedule(
    scheduler: LambdaLR, fresh: Optimizer, step: int, restart_step: int | None
) -> None:
    """Set the learning rates of the next step of a resumed run, and warn if they jump. All other
    options of the optimizer are those of a `fresh` one: a valid checkpoint has the same.

    Raises:
        UserError: if the optimizer's state is missing.
    """
    groups = scheduler.optimizer.param_groups
    if not scheduler.optimizer.state and isinstance(fresh, AdamW | MuonAndAdamW):
        raise UserError("the checkpoint has no moments of the optimizer: use --init_from")
    before = groups[0]["lr"]
    scheduler.last_epoch, scheduler._step_count = step, step + 1
    for base, group, own, factor in zip(
        scheduler.base_lrs, groups, fresh.param_groups, scheduler.lr_lambdas, strict=True
    ):
        group.update({**own, "params": group["params"], "lr": base * factor(step)})
    after = groups[0]["lr"]
    if step != restart_step and abs(after - before) > _JUMP * scheduler.base_lrs[0]:
        rank_zero_warn(
            f"the learning rate jumps from {before:.2g} to {after:.2g} at step {step:,}, "
            "because the schedule ends at another step than before; to train more, use --more_steps"
        )


def planned_steps(trainer: Trainer) -> int:
    """Return the step at which `max_steps` or `max_epochs` ends the run; -1 if neither does. (With
    `trainer.estimated_stepping_batches` of Lightning 2.6.6, a resumed run would lose its position
    in the data; not reported.)
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
