"""Draw the loss curves of runs: python scripts/plot.py OUTPUT.svg NAME=RUN_FOLDER ...

Reads TensorBoard's files, or the metrics.csv of Lightning's CSVLogger. Faint lines: `train_loss`,
smoothed; thin lines: `val_sample_loss`, of a part of the validation split; dots: `val_loss`. Runs
on tiny Shakespeare are compared with nanoGPT's losses. Needs `pip install -e '.[plot]'`.
"""

import argparse
import csv
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from shakespeare_lm.checkpoint.reading import read_checkpoint
from shakespeare_lm.checkpoint.runs import Run
from shakespeare_lm.commands.console import run
from shakespeare_lm.errors import UserError, check_choice

# Best validation losses of nanoGPT: its laptop recipe (its train.py, measured on the whole part),
# and its 10.65 M parameters on a GPU (its README).
ANCHORS = {"nanoGPT, laptop recipe": 1.8857, "nanoGPT, GPU recipe": 1.4697}
SMOOTHING = 0.9
LOSSES = ("train_loss", "val_loss")
SAMPLE = "val_sample_loss"  # which older and very short runs lack
# Of tiny Shakespeare, as checkpoints keep it.
TEXT_SHA256 = "e907dc1046897764488b90ae5e50bbcdae1c17f0d56e7d0cd7ecca7ba1088ca0"

Curve = np.ndarray  # `[2, points]`: numbers of steps taken, and values


def data_options(folder: Path) -> dict[str, Any]:
    """Return the options of the data, from the config.yaml that the run left."""
    return yaml.safe_load((folder / "config.yaml").read_text("utf-8"))["data"]


def is_tiny_shakespeare(folder: Path) -> bool:
    """Return whether a run was trained on it, which `auto` may be: its checkpoint says."""
    corpus = data_options(folder).get("corpus")
    if corpus not in ("auto", ["auto"]):
        return corpus in ("tinyshakespeare", ["tinyshakespeare"])
    try:
        content = read_checkpoint(Run(folder).checkpoint("best")).content
    except UserError:
        return False
    return content.get("ShakespeareDataModule", {}).get("text_sha256") == TEXT_SHA256


def read_losses(folder: Path) -> dict[str, Curve]:
    """Return the curves of `train_loss`, `val_loss`, and `val_sample_loss` if the run has it.

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
    return {name: np.array(points[name]).T for name in (*LOSSES, SAMPLE) if points.get(name)}


def points_of_tensorboard(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return steps and values by metric, without the group in which TensorBoard shows it."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    tags = events.Tags()["scalars"]
    first = 0 if any("/" in tag for tag in tags) else 1  # older runs count steps from 0
    return {
        tag.rpartition("/")[2]: [(point.step + first, point.value) for point in events.Scalars(tag)]
        for tag in tags
    }


def points_of_csv(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Return steps and values of the losses by name; a cell is empty if a row is about others."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        name: [(int(row["step"]), float(row[name])) for row in rows if row.get(name)]
        for name in (*LOSSES, SAMPLE)
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
    """Draw the losses of a run; return its best `val_loss`."""
    curves, data = read_losses(folder), data_options(folder)
    millions = int(data["batch_size"]) * int(data["context_length"]) / 1e6
    steps, losses = curves["train_loss"]
    axes.plot(steps * millions, smooth(losses), color=color, linewidth=0.8, alpha=0.4)
    if SAMPLE in curves:
        steps, losses = curves[SAMPLE]
        axes.plot(steps * millions, losses, color=color, linewidth=0.8)
    steps, losses = curves["val_loss"]
    best, style = float(losses.min()), "o" if SAMPLE in curves else "o-"
    axes.plot(steps * millions, losses, style, color=color, label=f"{name}: {best:.4f}")
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
    if all(is_tiny_shakespeare(folder) for _, folder in runs):
        draw_anchors(axes)
    # Around the published losses, and further if a run needs it.
    axes.set(xscale="log", ylim=(min(1.2, 0.9 * min(best)), max(2.6, 1.2 * max(best))))
    axes.set(xlabel="million characters trained on", ylabel="nats per character")
    axes.legend(title="best val_loss (dots; line: a part of it; faint: train_loss)")
    with mpl.rc_context({"svg.hashsalt": "shakespeare_lm"}):  # the same picture from the same runs
        figure.savefig(output, metadata={"Date": None} if output.suffix == ".svg" else None)
    print(output)
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
