"""The command `fit`: trains a model in `lightning_logs/version_N/`, and says what to type next."""

import sys
import time
import warnings
from contextlib import nullcontext, suppress
from pathlib import Path
from traceback import print_exc, walk_tb

import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from shakespeare_lm import invocation
from shakespeare_lm.checkpoint.runs import LOG_FOLDER
from shakespeare_lm.commands.console import prepare_console, progress_bar
from shakespeare_lm.commands.fit_cli import ShakespeareCLI
from shakespeare_lm.commands.recipes import DEFAULT
from shakespeare_lm.commands.start import INTERRUPTED_EXIT_CODE
from shakespeare_lm.data.datamodule import ShakespeareDataModule
from shakespeare_lm.errors import UserError, one_line
from shakespeare_lm.evaluation.baselines import counted, verdict
from shakespeare_lm.invocation import command_line
from shakespeare_lm.laboratory.trial import read_result
from shakespeare_lm.training import summary
from shakespeare_lm.training.checkpointing import renew_last
from shakespeare_lm.training.compatibility import check_hyperparameters, check_progress
from shakespeare_lm.training.stopping import Terminated
from shakespeare_lm.training.tensorboard_layout import tensorboard_writers

_LONG_TEXT_CHARACTERS = 10_000_000
_SCENE_CHARACTERS = 1_000_000  # fewer: corpus `auto` is the bundled scene
# In the messages of torch on a CPU, and of Python when it cannot start a thread.
_EXHAUSTED = ("allocate memory", "can't start new thread")
# Lightning's command lines have such subcommands.
_SUBCOMMANDS = {
    "fit": ("fit", "--config default"),
    "validate": ("evaluate", "--part val"),
    "test": ("evaluate", "--part test"),
    "predict": ("complete", "--prompt TEXT"),
}


def fit(arguments: list[str], default_config: str | None = None) -> ShakespeareCLI:
    """Train; return the last run's command line object, with trainer, model and data module. What
    the user can correct is a `UserError` or an error of Lightning or the machine (`_is_the_users`).
    """
    cli = ShakespeareCLI(arguments, default_config)
    if cli.chain is None:
        _fit(cli)
        return cli
    if cli.trainer.world_size > 1:
        raise UserError(f"--generations on {cli.trainer.world_size} devices: use --devices 1")
    chain, generations = cli.chain, cli.chain.typed["generations"]
    for number in range(first := chain.finished + 1, generations + 1):
        if number > first:
            invocation.STARTED = time.time()  # `run.json` has the seconds of one generation
            cli = ShakespeareCLI(arguments, default_config)
        print(f"generation {number} of {generations}")
        _fit(cli)
        if cli.stop_on_signal.number or chain.finished < number:
            summary.print_resume_command(cli.last.path, cli.trainer.global_step, arguments)
            return cli
    print("\ngeneration  val_loss  checkpoint")
    for number, run in enumerate(chain.runs, start=1):
        print(f"{number:>10}  {read_result(run, '').val_loss:>8.4f}  {run.checkpoint('best')}")
    return cli


def _fit(cli: ShakespeareCLI) -> None:
    trainer, data = cli.trainer, cli.datamodule
    # Mistakes in text, schedule, optimizer and teachers show here, before the run has a folder.
    if cli.resumed is not None:
        content = cli.resumed.checkpoint.content
        if (trained_on := content.get(ShakespeareDataModule.__qualname__)) is not None:
            data.check_resumes(trained_on)
        check_hyperparameters(content["hyper_parameters"], cli.model.hparams)
        check_progress(content, cli.resumed.path, trainer.fit_loop.state_dict())
    data.setup()
    if not trainer.max_epochs or trainer.max_epochs < 0:
        cli.model.config.total_steps(trainer.max_steps)
    cli.model.build_optimizer()
    cli.model.prepare_objectives()
    if cli.resumed is not None and trainer.is_global_zero:
        summary.print_resuming(cli.resumed.path, cli.resumed.step, trainer.max_steps)
    summary.print_waiting(trainer)
    if cli.model.config.teachers and trainer.is_global_zero:
        print("the teachers read the training part, once, before the first step", flush=True)
    _train(cli)
    if trainer.is_global_zero:
        _report(cli)
    if data.split_config.test_fraction > 0 and not cli.stop_on_signal.number:
        best = cli.best.best_model_path or None
        trainer.test(cli.model, datamodule=data, ckpt_path=best, weights_only=True)


def _train(cli: ShakespeareCLI) -> None:
    resumed, first = cli.resumed, cli.trainer.is_global_zero
    # The first process locks the folder for all.
    locked = cli.run.lock() if cli.run and first else nullcontext()
    with locked, warnings.catch_warnings():
        # A resumed run intentionally continues in the folder of the first.
        warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")
        try:
            if resumed is not None and resumed.last_is_older and first:
                renew_last(resumed.path)
            path = resumed.path if resumed else None
            cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=path, weights_only=True)
        except Terminated:
            pass
        except Exception as error:
            if isinstance(error, OSError) and error.filename is None and cli.run is not None:
                where = f"cannot write to {cli.run.folder}: {one_line(error)}"
                raise UserError(f"{where}; the last checkpoint is kept") from error
            if resumed is None or _is_the_users(error) or _is_in_a_step(error):
                raise
            # While restoring, it is the fault of the checkpoint, which can come from anybody.
            raise UserError(
                f"cannot resume from {resumed.path}: {type(error).__name__}: {one_line(error)}"
            ) from error


def _is_the_users(error: Exception) -> bool:
    """Say whether an error is certainly about options or the machine: others keep their traceback.

    Warnings are errors with `python -W error`.
    """
    if isinstance(error, UserError | torch.OutOfMemoryError | MemoryError | Warning):
        return True
    if isinstance(error, RuntimeError) and any(reason in str(error) for reason in _EXHAUSTED):
        return True
    *_, (frame, _) = walk_tb(error.__traceback__)
    module = str(frame.f_globals.get("__name__"))
    return isinstance(error, ValueError) and module.startswith(("pytorch_lightning", "lightning_"))


def _is_in_a_step(error: Exception) -> bool:
    names = {frame.f_code.co_name for frame, _ in walk_tb(error.__traceback__)}
    return bool(names & {"training_step", "validation_step", "configure_optimizers"})


def _report(cli: ShakespeareCLI) -> None:
    """Print how the run ended, how good its model is, and what to type next."""
    if cli.chain is None and (cli.stop_on_signal.number or cli.timer.is_over):
        summary.print_resume_command(cli.last.path, cli.trainer.global_step)
    summary.print_early_stopping(cli.trainer)
    if cli.best.best_model_score is None:
        return
    summary.print_loss(cli.best, cli.history, _verdict(cli))
    if cli.chain and cli.chain.finished < cli.chain.typed["generations"]:
        return
    config, data, path = cli.model.config, cli.datamodule, Path(cli.best.best_model_path)
    recipe = summary.better_recipe(cli.recipe) if _is_tiny_shakespeare(data) else ""
    run = path.parents[1] if path.parent.name == "checkpoints" else path
    has_page = config.network == "transformer"
    summary.print_next(run, recipe, _logs(cli), data.vocabulary, has_page)


def _is_tiny_shakespeare(data: ShakespeareDataModule) -> bool:
    size = sum(len(part.ids) for part in data.encoded.values())
    return set(data.corpus) <= {"auto", "tinyshakespeare"} and size > _SCENE_CHARACTERS


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


def _logs(cli: ShakespeareCLI) -> Path | None:
    """Return the folder that TensorBoard is to be pointed at, if anything was logged for it."""
    for writer in tensorboard_writers(cli.trainer):
        runs = Path(writer.get_logdir()).parent
        return runs.parent if runs.parent.name == LOG_FOLDER else runs  # of a named run
    return None


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit code, after one line on stderr if something went wrong."""
    prepare_console()
    for kind in (DeprecationWarning, FutureWarning):  # meant for developers
        warnings.simplefilter("ignore", kind)
    words = sys.argv[1:] if arguments is None else arguments
    if words and words[0] in _SUBCOMMANDS:
        command, options = _SUBCOMMANDS[words[0]]
        print(f"error: fit has no subcommand {words[0]}: {command_line(command)} {options}",
              file=sys.stderr)  # fmt: skip
        return 2
    try:
        cli = fit(words, default_config=str(DEFAULT))
    except Exception as error:
        if not (isinstance(error, MisconfigurationException | OSError) or _is_the_users(error)):
            raise
        if "--traceback" in words:
            print_exc()
        print(f"error: {one_line(error) or 'not enough memory'}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED_EXIT_CODE
    except SystemExit as stopped:
        # Lightning turns a KeyboardInterrupt, such as the second Ctrl-C, into this.
        return INTERRUPTED_EXIT_CODE if stopped.code == 1 else stopped.code  # type: ignore[return-value]
    return cli.stop_on_signal.exit_code
