"""What `compare` and `sweep` share: their options, the check of all variants before the first run,
and the files that a comparison is written to.
"""

import contextlib
import io
import re
import shlex
import signal
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from shakespeare_lm.commands.console import UsageError
from shakespeare_lm.commands.text_files import STDIN, check_outputs, write_text
from shakespeare_lm.errors import UserError, check_at_least, check_positive
from shakespeare_lm.laboratory.comparison import Comparison, compare
from shakespeare_lm.laboratory.page import page
from shakespeare_lm.laboratory.result import Failure, Result
from shakespeare_lm.laboratory.study import Plan, failures, results
from shakespeare_lm.laboratory.tables import as_csv, as_json, as_latex, as_tables

BASELINE = "baseline"
Form = Callable[[Comparison], str]
FORMS: dict[str, Form] = {"csv": as_csv, "latex": as_latex, "json": as_json, "report": page}
# Options that say which run it is, and are not for all runs of a study.
_OWN = ("name", "seed", "seed_everything", "ckpt_path", "more_steps", "default_root_dir",
        "trainer.default_root_dir", "print_config", "generations")  # fmt: skip


# fmt: off
def add_options(parser: ArgumentParser, name: str) -> None:
    """Add the options that both commands have; `name` is the study's default name."""
    add = parser.add_argument
    add("--name", default=name, help="of the study: its runs go to lightning_logs/NAME")
    add("--seeds", type=int, default=3, metavar="N", help="runs of each variant, with seeds 1 to N")
    add("--storage", metavar="URL",
        help="Optuna's database, to share the work with other machines (default: a file in the "
        "study's folder, which several processes of one machine share)")
    add("--difference", type=float, default=0.005, metavar="NATS",
        help="say how many more seeds would show a difference of this size")
    add("--csv", metavar="FILE", help="write a line for each run to FILE (- for stdout, alone)")
    add("--latex", metavar="FILE", help="write the table for a paper")
    add("--json", metavar="FILE", help="write everything")
    add("--report", metavar="FILE.html", help="write one HTML page with curves and intervals")
# fmt: on


def prepare(arguments: Namespace, *others: str) -> None:
    """Raise a `UserError` for a value out of range, or an output that cannot be written, which are
    the forms of a comparison and the `others`; and let SIGTERM end the command so that the run that
    it trains is told.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    check_at_least(1, seeds=arguments.seeds)
    check_positive(difference=arguments.difference)
    if not re.fullmatch(r"(?!version_\d+$)\w[\w.-]*", arguments.name):
        raise UsageError(f"name is {arguments.name!r}: expected letters, digits, _, - and .")
    check_outputs({name: getattr(arguments, name) for name in (*FORMS, *others)})


def parse_variant(text: str) -> tuple[str, list[str]]:
    """Return the name and the words of `NAME: --option value ...`.

    Raises:
        UsageError: if it has another form.
    """
    name, colon, options = (part.strip() for part in text.partition(":"))
    try:
        words = shlex.split(options)
    except ValueError as error:
        raise UsageError(f"variant is {text!r}: {error}") from None
    if not colon or not re.fullmatch(r"(?!version_\d+$)\w[\w.-]*", name) or name == BASELINE:
        raise UsageError(
            f"variant is {text!r}: expected 'NAME: --option value ...', with a name of letters, "
            f"digits, _, - and ., and not {BASELINE}"
        )
    return name, words


def options_of(name: str, words: Sequence[str]) -> dict[str, Any]:
    """Return all options of a variant by their names on the command line, as `fit` reads them.

    Raises:
        UsageError: if `fit` would not take them, or they say which run it is.
    """
    from shakespeare_lm.commands.fit_cli import ReadOptions  # Lightning, which takes seconds
    from shakespeare_lm.commands.recipes import DEFAULT

    for word in words:
        if word.partition("=")[0].lstrip("-") in _OWN and word.startswith("-"):
            raise UsageError(f"{name} has {word}: not for the runs of a study")
    messages = io.StringIO()
    try:
        with contextlib.redirect_stderr(messages):
            config = ReadOptions(list(words), str(DEFAULT)).config
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    except SystemExit:
        reason = messages.getvalue().strip().removeprefix("error: ") or "it only asks for help"
        raise UsageError(f"{name}: {reason}") from None
    return {
        f"{group}.{option}": value
        for group in ("model", "data", "trainer")
        for option, value in config[group].items()
    }


def differing(options: Mapping[str, Mapping[str, Any]]) -> dict[str, set[str]]:
    """Return by which options each variant is meant to differ from the first one."""
    baseline = next(iter(options.values()))
    return {
        name: {key for key, value in own.items() if value != baseline.get(key)}
        for name, own in options.items()
    }


def say(line: str) -> None:
    """Print what happens, to stderr: stdout is for the result."""
    print(line, file=sys.stderr, flush=True)


def check_every(plan: Plan) -> dict[str, dict[str, Any]]:
    """Return the options of every variant; a `UsageError` names one that `fit` would not take."""
    return {name: options_of(name, [*plan.base, *words]) for name, words in plan.variants.items()}


def files_of(
    comparison: Comparison, arguments: Namespace, changes: Mapping[str, Form] | None = None
) -> bool:
    """Write a comparison to the files that were asked for; return whether one is stdout."""
    targets = {form: getattr(arguments, form) for form in FORMS}
    for form, target in targets.items():
        if target is not None:
            write_text(target, {**FORMS, **(changes or {})}[form](comparison))
    return STDIN in targets.values()


def conclude(study: Any, plan: Plan, arguments: Namespace) -> int:
    """Show what the runs of a plan say; return the exit code, 1 if some crashed."""

    def is_planned(run: Result | Failure) -> bool:
        return run.variant in plan.variants and run.seed <= arguments.seeds

    found = [run for run in results(study) if is_planned(run)]
    lost = [run for run in failures(study) if is_planned(run)]
    named = differing(check_every(plan))
    show(compare(found, lost, list(plan.variants), arguments.difference, named), arguments)
    return 1 if lost else 0


def show(comparison: Comparison, arguments: Namespace) -> None:
    """Write a comparison to files and, unless one of them is stdout, as tables to stdout."""
    if not files_of(comparison, arguments):
        print(as_tables(comparison))
