"""Lightning's callbacks, loggers and profilers, and Optuna's callback, work in our runs."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import (
    Callback,
    LearningRateFinder,
    RichProgressBar,
    StochasticWeightAveraging,
    ThroughputMonitor,
)
from pytorch_lightning.loggers import CSVLogger

from shakespeare_lm import ShakespeareDataModule, ShakespeareLM
from tests.conftest import Fit, logged
from tests.training.conftest import RUN, events_of, trainer

# Six steps, with a validation after every second one.
SHORT = ("--max_steps=6", "--val_check_interval=2", "--check_val_every_n_epoch=null",
         "--model.schedule=constant", "--pictures=false", "--precision=32-true")  # fmt: skip
CHECKPOINTS = RUN / "checkpoints"


def callback(name: str, **options: object) -> list[str]:
    """Return the words that add a callback to a run."""
    given = [f"--trainer.callbacks.{option}={value}" for option, value in options.items()]
    return [*SHORT, f"--trainer.callbacks+={name}", *given]


def read(name: str) -> dict[str, Any]:
    return torch.load(CHECKPOINTS / name, weights_only=True)


def same_weights(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first if "network" in name)


def csv_column(folder: Path, name: str) -> list[str]:
    with (folder / "metrics.csv").open() as file:
        return [row[name] for row in csv.DictReader(file) if row[name]]


def train(*callbacks: Callback, wrap: Callable = lambda module: module, **options: Any) -> Any:
    """Train as a user's own program would; return the trainer and the module."""
    data = ShakespeareDataModule("sample", context_length=16, batch_size=64)
    chosen = {"optimizer": "adamw", "schedule": "constant", "num_layers": 1, "num_heads": 2}
    module = ShakespeareLM(data.vocabulary, context_length=16, d_model=16, **chosen)
    made = trainer(
        **{"max_steps": 6, "callbacks": list(callbacks), "log_every_n_steps": 1, **options}
    )
    made.fit(wrap(module), datamodule=data)
    return made, module


def test_ema_weight_averaging_saves_the_averaged_weights_that_were_validated(tiny_fit: Fit) -> None:
    cli = tiny_fit(*callback("EMAWeightAveraging", decay=0.9))
    best, last = read("best.ckpt"), read("last.ckpt")
    assert not same_weights(best["state_dict"], best["current_model_state"])
    assert same_weights(last["state_dict"], cli.model.state_dict())
    loaded = ShakespeareLM.load_from_checkpoint(CHECKPOINTS / "best.ckpt")
    (found,) = trainer().validate(loaded, datamodule=cli.datamodule, verbose=False)[:1]
    assert found["val_loss"] == pytest.approx(cli.best.best_model_score.item(), abs=1e-6)
    tiny_fit("--ckpt_path=last", "--max_steps=8")
    assert read("last.ckpt")["global_step"] == 8
    tiny_fit(*callback("EMAWeightAveraging"), "--small_best=true", "--name=small")
    names = torch.load(*Path().glob("**/small/**/best.ckpt"), weights_only=True).keys()
    assert not names & {"current_model_state", "averaging_state", "optimizer_states"}


@pytest.mark.filterwarnings("ignore:SWA is currently only:UserWarning")  # with a rate per step
def test_stochastic_weight_averaging_leaves_the_mean_over_epochs_in_the_module() -> None:
    ends: list[dict[str, Any]] = []

    class Ends(Callback):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: ShakespeareLM) -> None:
            ends.append({k: v.clone() for k, v in pl_module.network.state_dict().items()})

    swa = StochasticWeightAveraging(0.01, swa_epoch_start=2)
    options = {"max_steps": -1, "max_epochs": 4, "limit_train_batches": 2}
    _, module = train(Ends(), swa, **options)
    # Lightning takes the weights at the beginning of each epoch.
    averaged = module.network.state_dict()
    for name in averaged:
        mean = torch.stack([one[name] for one in ends[:3]]).mean(0)
        torch.testing.assert_close(averaged[name], mean)


def test_learning_rate_finder_sets_the_rate_of_all_steps(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)  # where Lightning saves the weights meanwhile
    finder = LearningRateFinder(num_training_steps=30)
    made, module = train(finder)
    found = finder.optimal_lr.suggestion()
    assert found == module.config.learning_rate != 0.008
    assert [group["lr"] for group in made.optimizers[0].param_groups] == [found, found]


@pytest.mark.parametrize(
    ("words", "curve"),
    [
        (callback("DeviceStatsMonitor", cpu_stats="true"), "cpu_percent"),
        (callback("LearningRateMonitor"), "lr-"),
    ],
)
def test_a_monitor_adds_its_curves(tiny_fit: Fit, words: list[str], curve: str) -> None:
    if "cpu" in curve:
        pytest.importorskip("psutil", reason="needs psutil")
    tiny_fit(*words)
    assert any(curve in tag for tag in events_of().Tags()["scalars"])
    assert len(logged(RUN, "val_loss")) == 3


def test_early_stopping_ends_the_run(tiny_fit: Fit) -> None:
    words = callback("EarlyStopping", monitor="val_loss", patience=1, min_delta=10)
    assert tiny_fit(*words).trainer.global_step == 4


@pytest.mark.parametrize(
    ("monitor", "options"),
    [
        ("val_loss", {}),
        ("train_loss", {"every_n_train_steps": 1, "save_on_train_epoch_end": False}),
    ],
)
def test_model_checkpoint_keeps_the_best_three_next_to_ours(
    tiny_fit: Fit, monitor: str, options: dict[str, object]
) -> None:
    top = {"save_top_k": 3, "filename": "{step}", "monitor": monitor, **options}
    tiny_fit(*callback("ModelCheckpoint", **top), "--max_steps=8")
    curve = logged(RUN, monitor)
    best = {f"step={step}.ckpt" for step in sorted(curve, key=curve.__getitem__)[:3]}
    assert {path.name for path in CHECKPOINTS.iterdir()} == best | {"best.ckpt", "last.ckpt"}


def test_the_best_loss_is_found_in_checkpoints_where_it_had_the_name_of_lightning_s_callback(
    tiny_fit: Fit,
) -> None:
    tiny_fit(*SHORT)
    content = read("last.ckpt")
    states = content["callbacks"]
    (name,) = (name for name in states if name.startswith("Best"))
    states[name]["best_model_score"] = torch.tensor(0.5)
    states[name.replace("BestCheckpoint", "ModelCheckpoint")] = states.pop(name)
    torch.save(content, CHECKPOINTS / "last.ckpt")
    cli = tiny_fit(*SHORT, "--ckpt_path=last", "--max_steps=8")
    assert cli.best.best_model_score == 0.5


def test_rich_progress_bar_replaces_ours(tiny_fit: Fit) -> None:
    cli = tiny_fit(*callback("RichProgressBar"), "--enable_progress_bar=true")
    assert type(cli.trainer.progress_bar_callback) is RichProgressBar


@pytest.mark.filterwarnings("ignore:.*you need to define a `flops_per_batch`:UserWarning")
def test_throughput_monitor_counts_the_windows_of_a_batch(tmp_path: Path) -> None:
    monitor = ThroughputMonitor(lambda batch: batch.inputs.shape[0], window_size=3)
    logger = CSVLogger(tmp_path)
    train(monitor, logger=logger)
    assert csv_column(Path(logger.log_dir), "train/samples")[-1] == str(6 * 64)


@pytest.mark.parametrize(
    ("name", "text"),
    [("SimpleProfiler", "run_training_batch"), ("AdvancedProfiler", "cumtime"),
     ("PyTorchProfiler", "aten::mm")],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:The PyTorch Profiler default schedule:UserWarning")
def test_profilers_write_their_report(tiny_fit: Fit, name: str, text: str) -> None:
    tiny_fit(
        *SHORT,
        f"--profiler={name}",
        f"--profiler.dirpath={Path.cwd()}",
        "--profiler.filename=report",
    )
    assert text in Path("fit-report.txt").read_text()


def test_csv_logger_writes_one_row_per_validation(tiny_fit: Fit) -> None:
    tiny_fit(*SHORT, "--logger=CSVLogger")
    assert len(csv_column(RUN, "val_loss")) == 3


@pytest.mark.slow
def test_wandb_logger_keeps_a_run_offline(tiny_fit: Fit) -> None:
    wandb = pytest.importorskip("wandb", reason="needs wandb")
    words = ("--logger=WandbLogger", "--logger.offline=true", "--logger.project=bench")
    tiny_fit(*SHORT, *words)
    wandb.teardown()  # waits until its process has written everything
    (run,) = Path("wandb").glob("offline-run-*/run-*.wandb")
    assert b"val_loss" in run.read_bytes()
    assert list(Path("bench").glob("*/checkpoints/best.ckpt"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*noload:DeprecationWarning")  # mlflow's own use of SQLAlchemy
def test_mlflow_logger_writes_curves_into_a_data_base(tiny_fit: Fit) -> None:
    mlflow = pytest.importorskip("mlflow", reason="needs mlflow")
    pytest.importorskip("sqlalchemy", reason="needs sqlalchemy")
    words = ("--logger=MLFlowLogger", "--logger.tracking_uri=sqlite:///mlflow.db")
    run = tiny_fit(*SHORT, *words).trainer.logger.run_id
    curve = mlflow.MlflowClient("sqlite:///mlflow.db").get_metric_history(run, "val_loss")
    assert [point.step for point in curve] == [2, 4, 6]


def test_optuna_prunes_a_run_by_its_validation_loss() -> None:
    pytest.importorskip("lightning", reason="needs lightning")  # of which it uses only a class
    optuna = pytest.importorskip("optuna", reason="needs optuna")
    integration = pytest.importorskip("optuna_integration", reason="needs optuna-integration")

    def objective(trial: Any) -> float:
        prune = integration.PyTorchLightningPruningCallback(trial, "val_loss")
        made, _ = train(prune, val_check_interval=2)
        return made.callback_metrics["val_loss"].item()

    study = optuna.create_study(pruner=optuna.pruners.ThresholdPruner(upper=0.1))
    study.optimize(objective, n_trials=1)
    (trial,) = study.trials
    assert trial.state == optuna.trial.TrialState.PRUNED
    assert trial.intermediate_values[0] > 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.compile's own
def test_the_network_can_be_compiled_but_not_the_module_with_its_logging(tmp_path: Path) -> None:
    made, module = train(wrap=lambda module: (module.network.compile(), module)[1], max_steps=2)
    path = tmp_path / "compiled.ckpt"
    made.save_checkpoint(path)
    loaded = ShakespeareLM.load_from_checkpoint(path)
    assert same_weights(module.state_dict(), loaded.state_dict())
    with pytest.raises(Exception, match="__dict__"):
        train(wrap=torch.compile)
