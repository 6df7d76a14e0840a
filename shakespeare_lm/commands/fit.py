"""The command `fit`: trains a model in `lightning_logs/version_N/`, and says what to type next."""

import sys
import warnings
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from traceback import print_exc, walk_tb

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from shakespeare_lm.checkpoint.runs import LOG_FOLDER
from shakespeare_lm.commands.console import prepare_console, progress_bar
from shakespeare_lm.commands.fit_arguments import QUICK, default_recipe
from shakespeare_lm.commands.fit_cli import ShakespeareCLI
from shakespeare_lm.commands.start import INTERRUPTED_EXIT_CODE
from shakespeare_lm.errors import UserError, one_line
from shakespeare_lm.evaluation.baselines import counted, verdict
from shakespeare_lm.training import summary
from shakespeare_lm.training.checkpointing import renew_last
from shakespeare_lm.training.compatibility import check_hyperparameters
from shakespeare_lm.training.run_folder import RunLogger, lock_run
from shakespeare_lm.training.stopping import Terminated

_LONG_TEXT_CHARACTERS = 10_000_000


def fit(arguments: list[str] | None = None, default_config: str | None = None) -> ShakespeareCLI:
    """Train; return the command line object with its trainer, model and data module. Mistakes that
    the user can correct raise a `UserError`.
    """
    cli = ShakespeareCLI(arguments, default_config)
    trainer, data = cli.trainer, cli.datamodule
    # Mistakes in text, schedule, optimizer and teachers show here, before the run has a folder.
    data.setup()
    if not trainer.max_epochs or trainer.max_epochs < 0:
        cli.model.config.total_steps(trainer.max_steps)
    cli.model.build_optimizer()
    cli.model.prepare_objectives()
    if cli.resumed is not None:
        stored = cli.resumed.checkpoint.content["hyper_parameters"]
        check_hyperparameters(stored, cli.model.hparams)
    if trainer.is_global_zero:
        if cli.resumed is not None:
            summary.print_resuming(cli.resumed.path, cli.resumed_step, trainer.max_steps)
        elif default_config == str(QUICK) and cli.is_recipe(QUICK):
            summary.print_quick()
    summary.print_waiting(trainer)
    _train(cli)
    interrupted = cli.stop_on_signal.number > 0
    if trainer.is_global_zero:
        if interrupted or cli.timer.is_over:
            summary.print_resume_command(cli.last.path, trainer.global_step)
        summary.print_early_stopping(trainer)
        summary.print_summary(cli.best, cli.history, data.vocabulary, _logs(trainer), _verdict(cli))
    if data.split_config.test_fraction > 0 and not interrupted:
        best = cli.best.best_model_path or None
        trainer.test(cli.model, datamodule=data, ckpt_path=best, weights_only=True)
    return cli


def _verdict(cli: ShakespeareCLI) -> str | None:
    """Return where the best loss lies among those of n-gram models (3 s on tiny Shakespeare); None
    if that is not wanted, or the text is too long.
    """
    train, val = cli.datamodule.encoded["train"], cli.datamodule.encoded["val"]
    loss = cli.best.best_model_score
    wanted = cli.config["compare_with_ngrams"] and not cli.stop_on_signal.number
    if loss is None or not wanted or len(train.ids) > _LONG_TEXT_CHARACTERS:
        return None
    with progress_bar("counting n-grams") as progress, suppress(UserError):  # too little memory
        ngrams = list(counted(train, val, len(cli.datamodule.vocabulary), progress))
        return verdict(float(loss), ngrams)
    return None


def _logs(trainer: Trainer) -> Path | None:
    """Return the folder that TensorBoard is to be pointed at, if anything was logged for it."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger) and getattr(logger, "writes", True):
            runs = Path(logger.log_dir).parent
            return runs.parent if runs.parent.name == LOG_FOLDER else runs  # of a named run
    return None


def _locked(trainer: Trainer) -> AbstractContextManager[object]:
    """Lock the folder that the run writes to; the first process does so for all."""
    if not isinstance(trainer.logger, RunLogger) or not trainer.is_global_zero:
        return nullcontext()
    return lock_run(Path(trainer.logger.log_dir))


def _train(cli: ShakespeareCLI) -> None:
    with _locked(cli.trainer), warnings.catch_warnings():
        # A resumed run intentionally continues in the folder of the first.
        warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")
        try:
            path = cli.resumed.path if cli.resumed else None
            if path is not None and cli.last_is_older and cli.trainer.is_global_zero:
                renew_last(path)
            cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=path, weights_only=True)
        except Terminated:
            pass
        except Exception as error:
            if _is_the_users(error):
                raise UserError(one_line(error)) from error
            if path is None or _is_in_a_step(error):
                raise
            # While restoring, it is the fault of the checkpoint, which can come from anybody.
            raise UserError(
                f"cannot resume from {path}: {type(error).__name__}: {one_line(error)}"
            ) from error


def _is_the_users(error: Exception) -> bool:
    """Say whether an error is certainly about options or memory: others keep their traceback."""
    if isinstance(error, UserError | torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, RuntimeError) and "allocate memory" in str(error):
        return True  # torch's, on a CPU
    *_, (frame, _) = walk_tb(error.__traceback__)
    module = str(frame.f_globals.get("__name__"))
    return isinstance(error, ValueError) and module.startswith(("pytorch_lightning", "lightning_"))


def _is_in_a_step(error: Exception) -> bool:
    names = {frame.f_code.co_name for frame, _ in walk_tb(error.__traceback__)}
    return bool(names & {"training_step", "validation_step", "configure_optimizers"})


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit code, after one line on stderr if something went wrong."""
    prepare_console()
    words = sys.argv[1:] if arguments is None else arguments
    try:
        cli = fit(words, default_config=str(default_recipe(words)))
    except (UserError, MisconfigurationException, OSError) as error:
        if "--traceback" in words:
            print_exc()
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED_EXIT_CODE
    except SystemExit as stopped:
        # Lightning turns a KeyboardInterrupt, such as the second Ctrl-C, into this.
        return INTERRUPTED_EXIT_CODE if stopped.code == 1 else stopped.code  # type: ignore[return-value]
    return cli.stop_on_signal.exit_code
