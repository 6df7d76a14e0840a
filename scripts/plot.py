"""Draw the loss curves of runs: python scripts/plot.py OUTPUT.svg NAME=RUN_FOLDER ...

Reads TensorBoard's files, or the metrics.csv of Lightning's CSVLogger. Lines are `train_loss`,
smoothed; dots are `val_loss`. Needs `pip install -e '.[plot]'`.
"""

import argparse
import csv
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from shakespeare_lm.commands.console import run
from shakespeare_lm.errors import UserError, check_choice

# Best validation losses of nanoGPT: its laptop recipe (its train.py, measured on the whole part),
# and its 10.65 M parameters on a GPU (its README).
ANCHORS = {"nanoGPT, laptop recipe": 1.8857, "nanoGPT, GPU recipe": 1.4697}
SMOOTHING = 0.9
LOSSES = ("train_loss", "val_loss")

# Numbers of steps taken, and values.
Curve = tuple[np.ndarray, np.ndarray]


def characters_per_step(folder: Path) -> int:
    """Return batch size times context length, from the config.yaml that the run left."""
    data = yaml.safe_load((folder / "config.yaml").read_text())["data"]
    return int(data["batch_size"]) * int(data["context_length"])


def read_losses(folder: Path) -> tuple[Curve, Curve]:
    """Return the curves of `train_loss` and `val_loss`.

    Raises:
        UserError: if the folder has no log, or a loss is missing in it.
    """
    if any(folder.glob("events.out.tfevents.*")):
        points = points_of_tensorboard(folder)
    elif (folder / "metrics.csv").exists():
        points = points_of_csv(folder / "metrics.csv")
    else:
        raise UserError(f"{folder} has neither TensorBoard events nor metrics.csv: choose a run")
    for name in LOSSES:
        if not points.get(name):
            raise UserError(f"{folder} has no {name}: expected a run with at least one validation")
    train, validation = (np.array(points[name]).T for name in LOSSES)
    # The logs count steps from 0.
    return (train[0] + 1, train[1]), (validation[0] + 1, validation[1])


def points_of_tensorboard(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return steps and values by name."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    names = events.Tags()["scalars"]
    return {name: [(point.step, point.value) for point in events.Scalars(name)] for name in names}


def points_of_csv(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Return steps and values of the losses by name; a cell is empty if a row is about others."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        name: [(int(row["step"]), float(row[name])) for row in rows if row.get(name)]
        for name in LOSSES
    }


def smooth(values: np.ndarray) -> np.ndarray:
    """Return the exponential moving average, with bias correction."""
    mean, weight, smoothed = 0.0, 0.0, []
    for value in values:
        mean = SMOOTHING * mean + (1 - SMOOTHING) * value
        weight = SMOOTHING * weight + 1 - SMOOTHING
        smoothed.append(mean / weight)
    return np.array(smoothed)


def draw_run(axes: Axes, name: str, folder: Path, color: str) -> float:
    """Draw both losses of a run; return its best `val_loss`."""
    (steps, losses), (val_steps, val_losses) = read_losses(folder)
    millions = characters_per_step(folder) / 1e6
    axes.plot(steps * millions, smooth(losses), color=color, linewidth=0.8, alpha=0.6)
    best = float(val_losses.min())
    axes.plot(val_steps * millions, val_losses, "o-", color=color, label=f"{name}: {best:.4f}")
    return best


def draw_anchors(axes: Axes) -> None:
    """Draw the published losses as dashed lines."""
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


def named_folders(words: list[str]) -> list[tuple[str, Path]]:
    """Split each NAME=RUN_FOLDER."""
    for word in words:
        if "=" not in word:
            raise UserError(f"{word} has no name: expected NAME=RUN_FOLDER")
    return [(name, Path(folder)) for name, _, folder in (word.partition("=") for word in words)]


def draw(output: Path, runs: list[tuple[str, Path]]) -> int:
    """Draw all runs into one picture."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    formats = figure.canvas.get_supported_filetypes()
    check_choice("the format of the picture", output.suffix.lower().removeprefix("."), formats)
    axes = figure.subplots()
    best = [draw_run(axes, *named, f"C{index}") for index, named in enumerate(runs)]
    draw_anchors(axes)
    # Around the published losses, and further if a run needs it.
    axes.set(xscale="log", ylim=(min(1.2, 0.9 * min(best)), max(2.6, 1.2 * max(best))))
    axes.set(xlabel="million characters trained on", ylabel="nats per character")
    axes.legend(title="best val_loss (dots; lines: train_loss, smoothed)")
    with mpl.rc_context({"svg.hashsalt": "shakespeare_lm"}):  # the same picture from the same runs
        figure.savefig(output, metadata={"Date": None} if output.suffix == ".svg" else None)
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run the script; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("runs", nargs="+", metavar="NAME=RUN_FOLDER")
    arguments = parser.parse_args(argv)
    return run(lambda: draw(arguments.output, named_folders(arguments.runs)))


if __name__ == "__main__":
    sys.exit(main())
