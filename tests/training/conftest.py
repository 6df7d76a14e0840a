"""Shared by the tests of training."""

from pathlib import Path

from pytorch_lightning import Trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

RUN = Path("lightning_logs/version_0")


def trainer(**options: object) -> Trainer:
    """Return a trainer that shows and saves nothing."""
    quiet = ("enable_progress_bar", "enable_model_summary", "enable_checkpointing", "logger")
    return Trainer(accelerator="cpu", **{**dict.fromkeys(quiet, False), **options})


def events_of(run: Path = RUN) -> EventAccumulator:
    """Return what TensorBoard shows of a run."""
    events = EventAccumulator(str(run), size_guidance={"images": 0})
    events.Reload()
    return events


def curve_names(run: Path = RUN) -> set[str]:
    return {tag.rpartition("/")[2] for tag in events_of(run).Tags()["scalars"]}
