"""`compare --sizes`: networks of several sizes, each trained for several lengths, and the law that
their losses follow.
"""

from argparse import Namespace

from shakespeare_lm.commands.console import UsageError
from shakespeare_lm.commands.experiment import check_every, files_of, say
from shakespeare_lm.errors import UserError
from shakespeare_lm.laboratory.comparison import compare
from shakespeare_lm.laboratory.page import page
from shakespeare_lm.laboratory.result import Result
from shakespeare_lm.laboratory.scaling import Run, describe, fit_scaling, scaling_chart
from shakespeare_lm.laboratory.study import Plan, failures, open_study, results, run_plan

_WARMUP = 16  # a sixteenth of the steps, as in the recipe `plain`


def compare_sizes(arguments: Namespace) -> int:
    """Train each size for each number of steps, fit the law, and show it.

    Raises:
        UserError: if there are too few runs for a fit.
    """
    variants = {
        f"{size}-{steps}": [
            f"--size={size}", f"--max_steps={steps}", f"--val_check_interval={steps}",
            f"--model.warmup_steps={int(steps) // _WARMUP}",
        ]
        for size in arguments.sizes for steps in map(_whole, arguments.steps)
    }  # fmt: skip
    if not variants:
        raise UsageError("--sizes needs --steps, such as --steps 200,400,800")
    plan = Plan(list(arguments.rest), variants)
    options = check_every(plan)
    study = open_study(arguments.storage, arguments.name, arguments.name)
    run_plan(study, arguments.name, plan, range(1, arguments.seeds + 1), say)
    found, lost = results(study), failures(study)  # of earlier commands, too
    runs = [run_of(result) for result in found]
    scaling = fit_scaling(runs)
    order = list(dict.fromkeys([one.variant for one in found] + [one.variant for one in lost]))
    meant = set(next(iter(options.values())))  # which options differ is not the question
    comparison = compare(found, lost, order, arguments.difference, dict.fromkeys(order, meant))
    forms = {"report": lambda one: page(one, scaling_chart(runs, scaling))}
    if not files_of(comparison, arguments, forms):
        print(describe(runs, scaling))
    return 1 if lost else 0


def run_of(result: Result) -> Run:
    """Return what the fit needs to know; a `UserError` names what a run did not record."""
    if result.weights is None or result.characters is None:
        raise UserError(f"{result.variant}, seed {result.seed}, did not record its characters")
    return Run(result.weights, result.characters, result.val_loss)


def _whole(word: str) -> int:
    if not word.isdecimal() or int(word) < 1:
        raise UsageError(f"steps has {word!r}: expected whole numbers, such as 200,400,800")
    return int(word)
