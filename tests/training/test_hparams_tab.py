"""The row of a run in TensorBoard's tab for comparing runs: its options and its two losses."""

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from tests.conftest import Fit, logged

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
             "--model.schedule=constant", "--precision=32-true")  # fmt: skip
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
