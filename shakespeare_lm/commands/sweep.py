"""The command `sweep`: searches ranges of options, then compares the best with the baseline."""

from argparse import ArgumentParser, Namespace
from typing import Any

from shakespeare_lm.commands.console import UsageError, command
from shakespeare_lm.commands.experiment import (
    BASELINE,
    add_options,
    conclude,
    options_of,
    prepare,
    say,
)
from shakespeare_lm.errors import check_at_least
from shakespeare_lm.laboratory.study import (
    Plan,
    import_optuna,
    open_study,
    register,
    run_plan,
)
from shakespeare_lm.laboratory.sweep import Range, sweep

_VALIDATIONS = 8  # of each run, after which the worse half is stopped


# fmt: off
def _add_options(parser: ArgumentParser) -> None:
    add_options(parser, "sweep")
    add = parser.add_argument
    add("--sweep", action="append", default=[], metavar="OPTION=RANGE",
        help="an option of fit and its range: log:1e-3:3e-2, linear:0:0.3, int:1:6, or gelu,relu")
    add("--trials", type=int, default=20, metavar="N", help="runs of the search")
# fmt: on


@command(
    "sweep",
    "Search ranges of options with Optuna, on the last tenth of the training part; then compare "
    "the best with the baseline on the validation part, with new seeds. The same command again "
    "resumes; optuna-dashboard opens its file.",
    _add_options,
    passes_on=True,
)
def main(arguments: Namespace) -> int:
    """Search, then compare."""
    prepare(arguments)
    check_at_least(1, trials=arguments.trials)
    if not arguments.sweep:
        example = "--sweep model.learning_rate=log:1e-3:3e-2"
        raise UsageError(f"nothing to search: give a --sweep, such as {example}")
    ranges = dict(map(Range.parse, arguments.sweep))
    options = options_of(BASELINE, arguments.rest)
    if options["trainer.max_steps"] < 1:
        raise UsageError("sweep needs --max_steps: expected runs that end at a step")
    for name, one in ranges.items():
        for value in one.ends:
            options_of("sweep", [*arguments.rest, f"--{name}={value}"])
    best = _search(arguments, ranges, options)
    say(f"best of {arguments.trials}: {' '.join(best)}; now against the baseline, with new seeds")
    # With more trials, another may be the best.
    plan = Plan(arguments.rest, {BASELINE: [], f"best-of-{arguments.trials}": best})
    study = open_study(arguments.storage, arguments.name, arguments.name)
    run_plan(study, arguments.name, plan, range(1, arguments.seeds + 1), say)
    return conclude(study, plan, arguments)


def _search(arguments: Namespace, ranges: dict[str, Range], options: dict[str, Any]) -> list[str]:
    optuna = import_optuna()
    study = open_study(
        arguments.storage, arguments.name, f"{arguments.name}-sweep",
        # A run that another process trains counts as a bad one until it ends.
        sampler=optuna.samplers.TPESampler(constant_liar=True),
        pruner=optuna.pruners.MedianPruner(),
    )  # fmt: skip
    every = max(1, options["trainer.max_steps"] // _VALIDATIONS)
    # The part before the validation part, which is then the test part, and is not looked at.
    fraction = f"--data.test_fraction={options['data.val_fraction']}"
    base = [*arguments.rest, fraction, f"--val_check_interval={every}"]
    register(study, Plan([*base, "--sweep", *arguments.sweep], {}))
    return sweep(study, arguments.name, base, ranges, arguments.trials, say)
