"""One page of charts, each of curves that are logged; and other loggers in TensorBoard's place."""

import csv
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from shakespeare_lm.training.tensorboard_layout import tensorboard_writers
from tests.conftest import Fit, logged

RUN = Path("lightning_logs/version_0")


class MetricsOnly(Logger):
    """A logger without pictures, texts and folders, like those of services."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> int:
        return 0

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.names |= set(metrics)

    def log_hyperparams(self, params: object, *arguments: object, **options: object) -> None:
        pass


def events_of(run: Path) -> EventAccumulator:
    events = EventAccumulator(str(run))
    events.Reload()
    return events


def charts_of(run: Path) -> dict[str, list[str]]:
    (event,) = events_of(run).Tensors("custom_scalars__config__")
    (category,) = Layout.FromString(event.tensor_proto.string_val[0]).category
    return {chart.title: list(chart.multiline.tag) for chart in category.chart}


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_each_curve_of_the_layout_is_logged_and_in_one_chart(tiny_fit: Fit, optimizer: str) -> None:
    tiny_fit("--max_steps=2", f"--model.optimizer={optimizer}")
    logged = events_of(RUN).Tags()["scalars"]
    charts = charts_of(RUN)
    found = {
        title: [name for name in logged if any(re.match(tag, name) for tag in tags)]
        for title, tags in charts.items()
    }
    assert sorted(found["loss (nats per character)"]) == [
        "train_eval_loss", "train_loss", "val_loss",
    ]  # fmt: skip
    rates = ["learning_rate", "muon_learning_rate"]
    assert found["learning rate"] == rates[: 2 if optimizer == "muon" else 1]
    assert all(found.values())
    names = [name for group in found.values() for name in group]
    assert len(names) == len(set(names))


def test_csv_works_in_its_place(tiny_fit: Fit) -> None:
    tiny_fit("--max_steps=2", "--logger=CSVLogger", "--logger.save_dir=.")
    with (RUN / "metrics.csv").open() as file:
        names = set(next(csv.reader(file)))
    assert {"val_loss", "update_ratio", "muon_learning_rate"} <= names
    assert {path.name for path in RUN.iterdir()} == {
        "checkpoints", "config.yaml", "hparams.yaml", "metrics.csv",
    }  # fmt: skip


def test_a_logger_of_metrics_alone_gets_them_and_another_next_to_it_the_pictures(
    tiny_fit: Fit,
) -> None:
    tiny_fit(
        "--max_steps=2",
        '--logger=[{"class_path": "tests.training.test_tensorboard_layout.MetricsOnly"}, '
        '{"class_path": "TensorBoardLogger", "init_args": {"save_dir": "."}}]',
    )
    tags = events_of(RUN).Tags()
    assert {"attention/layer_1", "next_characters"} <= set(tags["images"])
    assert "custom_scalars__config__" in tags["tensors"]


def test_only_the_first_process_has_writers(tmp_path: Path) -> None:
    loggers = [CSVLogger(tmp_path), MetricsOnly(), TensorBoardLogger(tmp_path)]
    for is_first, number in ((True, 1), (False, 0)):
        run = SimpleNamespace(loggers=loggers, is_global_zero=is_first)
        assert len(tensorboard_writers(run)) == number  # type: ignore[arg-type]


RUNS = Path("lightning_logs")


def row(run: str) -> dict[str, str | float]:
    """Return the options that the tab shows, and check that no summary lists the columns."""
    events = EventAccumulator(str(RUNS / run))
    events.Reload()
    assert "_hparams_/experiment" not in events.summary_metadata
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    shown = HParamsPluginData.FromString(content).session_start_info.hparams
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in shown.items()}


def test_the_row_has_the_options_that_one_types_and_neither_vocabulary_nor_missing_values(
    tiny_fit: Fit,
) -> None:
    cli = tiny_fit("--max_steps=2", "--model.learning_rate=0.004", "--seed=7")
    shown = row("version_0")
    expected: dict[str, object] = {
        "model.learning_rate": 0.004,
        "model.d_model": 16,
        "model.d_feedforward": 64,  # the default's value, not None
        "model.bias": "false",  # as it is typed
        "data.corpus": "sample",
        "data.batch_size": 64,
        "data.context_length": 16,
        "data.split": "contiguous",
        "trainer.max_steps": 2,
        "trainer.precision": cli.trainer.precision,
        "seed_everything": 7,
    }
    assert {name: shown.get(name) for name in expected} == expected
    assert not {"None", cli.model.hparams["vocabulary"], ""} & set(map(str, shown.values()))
    assert "model.decay_steps" not in shown  # None


def test_two_runs_of_a_sweep_differ_in_what_was_swept(tiny_fit: Fit) -> None:
    for rate in (0.004, 0.002):
        tiny_fit("--max_steps=2", f"--model.learning_rate={rate}")
    first, second = (set(row(f"version_{number}").items()) for number in (0, 1))
    assert {name for name, _ in first ^ second} == {"model.learning_rate"}


def test_best_and_final_loss_are_those_of_the_validations(tiny_fit: Fit) -> None:
    # A rate this high: some validation is worse than one before it.
    tiny_fit("--max_steps=6", "--val_check_interval=2", "--model.learning_rate=0.5",
             "--model.schedule=constant", "--precision=32-true", "--model.zero_init=true",
             "--model.previous_characters=4")  # fmt: skip
    losses = logged(RUNS / "version_0", "val_loss")
    assert min(losses.values()) < losses[5]
    best = {step: min(v for s, v in losses.items() if s <= step) for step in losses}
    assert logged(RUNS / "version_0", "best_val_loss") == best
    assert logged(RUNS / "version_0", "final_val_loss") == {5: losses[5]}


def test_a_resumed_run_remembers_its_best_loss_and_keeps_its_row(tiny_fit: Fit) -> None:
    options = ("--model.decay_steps=8", "--val_check_interval=2", "--model.learning_rate=0.5")
    tiny_fit("--max_steps=4", *options)
    before = row("version_0")
    tiny_fit("--max_steps=8", *options, "--ckpt_path=last")
    losses = logged(RUNS / "version_0", "val_loss")
    assert set(losses) == {1, 3, 5, 7}
    best = logged(RUNS / "version_0", "best_val_loss")
    assert best == {s: min(v for t, v in losses.items() if t <= s) for s in losses}
    assert row("version_0") == before
    assert [path.name for path in RUNS.iterdir()] == ["version_0"]
