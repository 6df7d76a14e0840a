"""Draw the loss curves of runs: python scripts/plot.py OUTPUT.svg NAME=RUN_FOLDER ...

Reads TensorBoard's files. Lines are `train_loss`, smoothed; dots are `val_loss`. Needs
`pip install -e '.[plot]'`.
"""

import argparse
from pathlib import Path

import matplotlib as mpl
import numpy as np
import yaml
from matplotlib.axes import Axes
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

# Best validation losses of nanoGPT: its laptop recipe (measured by `python -m benchmarks train
# --full`), and its 10.65 M parameters on a GPU (its README).
ANCHORS = {"nanoGPT, laptop recipe": 1.8972, "nanoGPT, GPU recipe": 1.4697}
SMOOTHING = 0.9


def characters_per_step(folder: Path) -> int:
    """Return batch size times context length, from the config.yaml that the run left."""
    data = yaml.safe_load((folder / "config.yaml").read_text())["data"]
    return int(data["batch_size"]) * int(data["context_length"])


def read_curve(events: EventAccumulator, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return steps taken, and values."""
    points = events.Scalars(name)
    steps = np.array([point.step + 1 for point in points])
    return steps, np.array([point.value for point in points])


def smooth(values: np.ndarray) -> np.ndarray:
    """Return the exponential moving average, with bias correction."""
    mean, weight, smoothed = 0.0, 0.0, []
    for value in values:
        mean = SMOOTHING * mean + (1 - SMOOTHING) * value
        weight = SMOOTHING * weight + 1 - SMOOTHING
        smoothed.append(mean / weight)
    return np.array(smoothed)


def draw_run(axes: Axes, name: str, folder: Path, color: str) -> None:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    millions = characters_per_step(folder) / 1e6
    steps, losses = read_curve(events, "train_loss")
    axes.plot(steps * millions, smooth(losses), color=color, linewidth=0.8, alpha=0.6)
    steps, losses = read_curve(events, "val_loss")
    axes.plot(steps * millions, losses, "o-", color=color, label=f"{name}: {losses.min():.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("runs", nargs="+", metavar="NAME=RUN_FOLDER")
    arguments = parser.parse_args()
    mpl.rcParams["svg.hashsalt"] = "shakespeare_lm"  # the same picture from the same runs
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    for index, run in enumerate(arguments.runs):
        name, _, folder = run.partition("=")
        draw_run(axes, name, Path(folder), f"C{index}")
    for name, loss in ANCHORS.items():
        axes.axhline(loss, color="gray", linewidth=0.8, linestyle="--")
        axes.annotate(
            f"{name}: {loss}",
            (0.005, loss),
            xycoords=("axes fraction", "data"),
            ha="left",
            va="bottom",
            fontsize=8,
            color="gray",
        )
    axes.set(xscale="log", ylim=(1.2, 2.6))
    axes.set(xlabel="million characters trained on", ylabel="nats per character")
    axes.legend(title="best val_loss (dots; lines: train_loss, smoothed)")
    figure.savefig(arguments.output, metadata={"Date": None})


if __name__ == "__main__":
    main()
