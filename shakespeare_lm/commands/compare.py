"""The command `compare`: variants of the options over the same seeds, trained here or before, and
what their losses say.
"""

import statistics
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from shakespeare_lm.commands.compare_sizes import compare_sizes
from shakespeare_lm.commands.console import UsageError, command
from shakespeare_lm.commands.experiment import (
    BASELINE,
    FORMS,
    add_options,
    check_every,
    conclude,
    options_of,
    parse_variant,
    prepare,
    say,
    show,
)
from shakespeare_lm.commands.speedrun import speedrun
from shakespeare_lm.errors import UserError
from shakespeare_lm.laboratory.comparison import compare
from shakespeare_lm.laboratory.result import Result
from shakespeare_lm.laboratory.study import Plan, open_study, results, run_plan
from shakespeare_lm.laboratory.trial import read_results

# Options that only one kind of comparison has.
_BELONGS_TO = {
    "equal_time": "variant", "select": "variant", "steps": "sizes", "nanogpt": "speedrun",
}  # fmt: skip
_SUFFIX = "-equal-"  # of variants that are trained as long as the baseline


# fmt: off
def _add_options(parser: ArgumentParser) -> None:
    add_options(parser, "compare")
    add = parser.add_argument
    add("--variant", action="append", default=[], metavar="'NAME: --option value ...'",
        help="what is to be compared with the baseline; several are possible")
    add("--equal_time", choices=("seconds", "flops"),
        help="train each variant once more for as many steps as take the baseline's seconds or "
        "operations, too")
    add("--sizes", type=_listed, default=[], metavar="0.1M,0.3M,1M",
        help="instead of variants, networks of these sizes (see fit --size), and how the loss "
        "depends on size and characters")
    add("--steps", type=_listed, default=[], metavar="200,400,800",
        help="for --sizes: how long each is trained")
    add("--speedrun", metavar="FILE.json",
        help="instead of variants, an entry for docs/SPEEDRUN.md, timed beside nanoGPT's")
    add("--nanogpt", metavar="FOLDER", help="for --speedrun: a clone of nanoGPT, with its data")
    add("--select", action="store_true",
        help="decide on the last tenth of the training part, and show the validation part too")
# fmt: on


@command(
    "compare",
    "Compare variants over the same seeds, or the runs in folders (compare FOLDER FOLDER): train "
    "what is missing, and say which differences are more than chance. The same command again "
    "resumes.",
    _add_options,
    passes_on=True,
)
def main(arguments: Namespace) -> int:
    """Compare existing runs, or train the variants and compare those."""
    prepare(arguments, "speedrun")
    _check_combination(arguments)
    if arguments.rest and not any(word.startswith("-") for word in arguments.rest):
        return _compare_folders(arguments)
    if arguments.sizes:
        return compare_sizes(arguments)
    if arguments.speedrun:
        return speedrun(arguments)
    if not arguments.variant:
        raise UsageError("nothing to compare: give a --variant, or the folders of runs")
    variants = dict([(BASELINE, []), *map(parse_variant, arguments.variant)])
    if len(variants) <= len(arguments.variant):
        raise UsageError("two variants have one name: expected a name for each")
    plan = Plan(_base(arguments), variants)
    options = check_every(plan)
    if arguments.equal_time and any(own["trainer.max_steps"] < 1 for own in options.values()):
        raise UsageError("--equal_time needs --max_steps: expected runs that end at a step")
    study = open_study(arguments.storage, arguments.name, arguments.name)
    seeds = range(1, arguments.seeds + 1)
    run_plan(study, arguments.name, plan, seeds, say)
    if arguments.equal_time:
        longer = _equal(results(study), options, arguments.equal_time, plan)
        plan = Plan(plan.base, plan.variants | longer)
        run_plan(study, arguments.name, plan, seeds, say)
    return conclude(study, plan, arguments)


def _check_combination(arguments: Namespace) -> None:
    """Refuse options that would have no effect."""
    folders = arguments.rest and not any(word.startswith("-") for word in arguments.rest)
    modes = [name for name in ("variant", "sizes", "speedrun") if getattr(arguments, name)]
    if folders and (modes or arguments.storage):
        raise UsageError(
            f"{arguments.rest[0]} is a folder: only new runs take --{[*modes, 'storage'][0]}"
        )
    if len(modes) > 1:
        raise UsageError(f"--{modes[0]} and --{modes[1]} are two kinds of comparison: choose one")
    for name, mode in _BELONGS_TO.items():
        if getattr(arguments, name) and mode not in modes:
            raise UsageError(f"--{name} is for --{mode}, which is missing")
    if arguments.speedrun and any(getattr(arguments, form) for form in FORMS):
        raise UsageError(
            "--speedrun writes its own file: leave --csv, --latex, --json, --report out"
        )


def _compare_folders(arguments: Namespace) -> int:
    found = {Path(folder).as_posix(): read_results(Path(folder)) for folder in arguments.rest}
    if len(found) < 2:
        raise UsageError(f"only {arguments.rest[0]} was given: expected at least two folders")
    every = [result for those in found.values() for result in those]
    show(compare(every, [], list(found), arguments.difference), arguments)
    return 0


def _listed(words: str) -> list[str]:
    return [word.strip() for word in words.split(",") if word.strip()]


def _base(arguments: Namespace) -> list[str]:
    base = list(arguments.rest)
    if arguments.select:
        fraction = options_of(BASELINE, base)["data.val_fraction"]
        # The part before the validation part; that is then the test part, which decides nothing.
        base.append(f"--data.test_fraction={fraction}")
    return base


def _equal(
    found: list[Result], options: dict[str, dict[str, Any]], unit: str, plan: Plan
) -> dict[str, list[str]]:
    """Return, for each variant, words that train it for the baseline's seconds or operations."""
    costs = {n: _cost([one for one in found if one.variant == n], unit) or 0.0 for n in options}
    longer = {}
    for name, words in plan.variants.items():
        if name == BASELINE or not (costs[name] and costs[BASELINE]):
            continue
        steps, every = (options[name][f"trainer.{o}"] for o in ("max_steps", "val_check_interval"))
        validations = max(1, round(steps / every)) if isinstance(every, int) else 1
        every = max(1, round(steps * costs[BASELINE] / costs[name] / validations))
        longer[f"{name}{_SUFFIX}{unit}"] = [
            *words, f"--max_steps={every * validations}", f"--val_check_interval={every}",
        ]  # fmt: skip
    return longer


def _cost(found: list[Result], unit: str) -> float | None:
    """Return what a step takes: the median over the runs, which one slow hour does not change."""
    costs = [one.train_seconds if unit == "seconds" else one.flops for one in found]
    known = [cost / one.steps for cost, one in zip(costs, found, strict=True) if cost]
    if not found:
        return None
    if not known:
        raise UserError(f"the runs have no {unit} to be equal in: leave --equal_time out")
    return statistics.median(known)
