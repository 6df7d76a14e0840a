"""The folder of a run -> how it learned: its losses, and the texts that it wrote meanwhile."""

import math
from pathlib import Path
from typing import Any, NamedTuple

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

# In the order of their lines; a run from before a metric was added does not have it.
_LOSSES = ("train_loss", "val_sample_loss", "val_loss")
_TEXTS = "sample/text_summary"
# Points of a curve; more would not be seen.
_MOST_POINTS = 200
_MOST_SAMPLES, _FIRST_SAMPLES = 50, 10
# TensorBoard's files are text from anybody.
_LONGEST_SAMPLE = 2000

Curve = list[tuple[float, float]]


class RunLog(NamedTuple):
    """How a run learned: numbers of steps taken, and what was logged then."""

    losses: dict[str, Curve]  # by metric, without those that were not logged
    samples: list[tuple[int, str]]


def read_run_log(folder: Path) -> RunLog:
    """Return what TensorBoard's files in this folder say; nothing if there are none."""
    if not any(folder.glob("events.out.tfevents.*")):
        return RunLog({}, [])
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    # Curves have groups, `loss/val_loss`. Older runs have none, and count steps from 0.
    tags = {tag.rpartition("/")[2]: tag for tag in events.Tags()["scalars"]}
    first = 0 if any("/" in tag for tag in tags.values()) else 1
    curves = {name: _curve(events, tags[name], first) for name in _LOSSES if name in tags}
    samples = [(step + first, text) for step, text in _samples(events)]
    return RunLog({name: curve for name, curve in curves.items() if curve}, samples)


def _curve(events: EventAccumulator, tag: str, first: int) -> Curve:
    """Return the finite points; if there are too many, the means of neighbours at the last step."""
    points = [(point.step + first, point.value) for point in events.Scalars(tag)]
    curve = [(step, value) for step, value in points if math.isfinite(value)]
    together = max(1, -(-len(curve) // _MOST_POINTS))
    groups = [curve[i : i + together] for i in range(0, len(curve), together)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


def _samples(events: EventAccumulator) -> list[tuple[int, str]]:
    """Return the first texts, where most changes, and an even selection of the others."""
    logged = events.Tensors(_TEXTS) if _TEXTS in events.Tags()["tensors"] else []
    samples = sorted({event.step: _text(event) for event in logged}.items())
    first, others = samples[:_FIRST_SAMPLES], samples[_FIRST_SAMPLES:]
    every = -(-len(others) // (_MOST_SAMPLES - _FIRST_SAMPLES)) or 1
    return first + others[::-every][::-1]  # from the end, to keep the last one


def _text(event: Any) -> str:
    """Undo the indent that makes a text a block of code in Markdown."""
    values = event.tensor_proto.string_val
    text = values[0].decode("utf-8", "replace") if values else ""
    lines = [line.removeprefix("    ") for line in text.split("\n")]
    return "\n".join(lines)[:_LONGEST_SAMPLE]
