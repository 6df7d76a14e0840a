"""The folder of a run -> how it learned: its losses, and the texts that it made meanwhile."""

import math
from pathlib import Path
from typing import Any, NamedTuple

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

# Points of a curve; more would not be seen.
_MOST_POINTS = 200
_MOST_SAMPLES, _FIRST_SAMPLES = 50, 10
# TensorBoard's files are text from anybody.
_LONGEST_SAMPLE = 2000

Curve = list[tuple[float, float]]


class RunLog(NamedTuple):
    """How a run learned: numbers of steps taken, and what was logged then."""

    train_loss: Curve  # means up to there
    val_loss: Curve
    samples: list[tuple[int, str]]


def read_run_log(folder: Path) -> RunLog:
    """Return what TensorBoard's files in this folder say; nothing if there are none."""
    if not any(folder.glob("events.out.tfevents.*")):
        return RunLog([], [], [])
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    train, val = (_fewer_points(_curve(events, name)) for name in ("train_loss", "val_loss"))
    return RunLog(train, val, _samples(events))


def _curve(events: EventAccumulator, name: str) -> Curve:
    if name not in events.Tags()["scalars"]:
        return []
    # The logs count steps from 0.
    points = [(point.step + 1, point.value) for point in events.Scalars(name)]
    return [(step, value) for step, value in points if math.isfinite(value)]


def _fewer_points(curve: Curve) -> Curve:
    """Return the means of neighbours, at their last step, if there are too many points."""
    together = -(-len(curve) // _MOST_POINTS)
    groups = [curve[i : i + together] for i in range(0, len(curve), max(1, together))]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


def _samples(events: EventAccumulator) -> list[tuple[int, str]]:
    tag = "sample/text_summary"
    if tag not in events.Tags()["tensors"]:
        return []
    texts = {event.step + 1: _text(event) for event in events.Tensors(tag)}
    samples = sorted(texts.items())
    # The first ones, where most changes, and an even selection of the others.
    first, others = samples[:_FIRST_SAMPLES], samples[_FIRST_SAMPLES:]
    every = -(-len(others) // (_MOST_SAMPLES - _FIRST_SAMPLES)) or 1
    return first + others[::-every][::-1]  # from the end, to keep the last one


def _text(event: Any) -> str:
    """Undo the indent that makes a text a block of code in Markdown."""
    values = event.tensor_proto.string_val
    text = values[0].decode("utf-8", "replace") if values else ""
    lines = [line.removeprefix("    ") for line in text.split("\n")]
    return "\n".join(lines)[:_LONGEST_SAMPLE]
