"""One page of charts, each of curves that are logged; and other loggers in TensorBoard's place."""

import csv
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

from shakespeare_lm.training.tensorboard_layout import tensorboard_writers
from tests.conftest import Fit

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
