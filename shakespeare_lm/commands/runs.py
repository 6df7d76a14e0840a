"""The command `runs`: what was trained in a folder, how far, and how well."""

import json
from argparse import ArgumentParser, Namespace
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from shakespeare_lm.checkpoint.reading import read_archive
from shakespeare_lm.checkpoint.runs import LOG_FOLDER, Run, find_runs
from shakespeare_lm.commands.console import command, progress_bar
from shakespeare_lm.errors import UserError

_COLUMNS = ("run", "corpus", "recipe", "steps", "val_loss", "date", "state")


def _add_options(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("folder", nargs="?", default=LOG_FOLDER, metavar="FOLDER", help="that has the runs")
    add("--details", action="store_true", help="also show what each run was made with")
    add("--json", action="store_true", help="print a JSON object for each run")


@command("runs", "List the runs in a folder, the newest first.", _add_options)
def main(arguments: Namespace) -> int:
    """Print a table, or JSON lines."""
    folder = Path(arguments.folder)
    found = find_runs(folder, "last", "best")
    if not found:
        raise UserError(f"no runs in {folder}: expected folders version_N with checkpoints")
    rows = []
    with progress_bar("reading checkpoints") as progress:
        for number, run in enumerate(found, start=1):
            rows.append(describe(run, folder))
            progress(number, len(found))
    if arguments.json:
        print("\n".join(map(json.dumps, rows)))
    else:
        print(table(rows))
        for row in rows if arguments.details else []:
            print(f"\n{row['run']}", *details(row["processes"]), sep="\n  ")
    return 0


def describe(run: Run, folder: Path) -> dict[str, Any]:
    """Return what is known about a run; None where nothing is.

    `steps` are those taken, `val_loss` is the best, in nats per character, `state` is running,
    finished (all steps of the plan), or stopped, and `processes` is as in `run.json`.
    """
    options, (steps, _), (_, val_loss) = run.options(), _read(run, "last"), _read(run, "best")
    corpus = _part(options, "data").get("corpus")
    planned = _part(options, "trainer").get("max_steps")
    is_finished = isinstance(planned, int) and steps is not None and 0 < planned <= steps
    written = max(run.checkpoint(n).stat().st_mtime for n in _names(run))
    return {
        "run": run.folder.relative_to(folder).as_posix(),
        "corpus": " ".join(corpus) if isinstance(corpus, list) else corpus,
        "recipe": run.recipe or None,
        "steps": steps,
        "val_loss": val_loss,
        "date": datetime.fromtimestamp(written).isoformat(" ", "minutes"),
        "processes": run.record().get("processes", []),
        "state": "running" if run.is_running() else "finished" if is_finished else "stopped",
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as aligned columns under their names."""
    shown = [[_shown(row[name]) for name in _COLUMNS] for row in rows]
    lines = [list(_COLUMNS), *shown]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def details(processes: list[dict[str, Any]]) -> list[str]:
    """Return lines that say what the processes of a run were made with."""
    return [
        f"{name:<13}  {', '.join(map(' '.join, value.items())) if name == 'versions' else value}"
        for process in processes
        for name, value in process.items()
        if value is not None
    ] or ["not recorded"]


def _names(run: Run) -> list[str]:
    return [name for name in ("last", "best") if run.checkpoint(name).exists()]


def _read(run: Run, name: str) -> tuple[int | None, float | None]:
    """Return the step and the validation loss of a checkpoint, if it can be read and has them."""
    with suppress(UserError):
        content = read_archive(run.checkpoint(name)) if name in _names(run) else {}
        step, loss = content.get("global_step"), _part(content, "validation").get("val_loss")
        return (
            step if isinstance(step, int) else None,
            loss if isinstance(loss, float) else None,
        )
    return None, None


def _part(options: Any, name: str) -> dict[str, Any]:
    part = options.get(name) if isinstance(options, dict) else None
    return part if isinstance(part, dict) else {}


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else str(value or "-")
