"""Evaluations and baselines -> tables of 80 columns, or one JSON object for programs. `tables.txt`
is the template of the tables.
"""

import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict

from jinja2 import Environment, PackageLoader

from shakespeare_lm.evaluation.adaptation import RULES
from shakespeare_lm.evaluation.baselines import Baseline, verdict
from shakespeare_lm.evaluation.evaluation import Evaluation, notes, ranked

_COLUMNS = 80
_LENGTHS_SHOWN = (4, 6, 8, 10, 15, 20, 30, 50, 100)


def as_tables(evaluations: Sequence[Evaluation], baselines: Sequence[Baseline]) -> str:
    """Return everything as text, the ranking first."""
    environment = Environment(
        loader=PackageLoader("shakespeare_lm", "evaluation"), autoescape=False,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"percent": _percent, "folded": _folded, "repr": repr}
    return environment.get_template("tables.txt").render(
        evaluations=evaluations, baselines=baselines, rows=ranked(evaluations, baselines),
        verdict=verdict, notes=notes, lengths=_LENGTHS_SHOWN, rules=RULES,
    )  # fmt: skip


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _folded(text: str, indent: int) -> str:
    """Fold the last column, which begins after `indent` characters; a long path stays whole."""
    lines = textwrap.wrap(text, _COLUMNS - indent, break_long_words=False, break_on_hyphens=False)
    return ("\n" + indent * " ").join(lines)


def as_json(evaluations: Sequence[Evaluation], baselines: Sequence[Baseline]) -> str:
    """Return everything but the losses of single characters as one JSON object."""
    models = [{**asdict(model), "agrees": model.agrees} for model in evaluations]
    for model in models:
        del model["losses"]
    content = {"evaluations": models, "baselines": [asdict(baseline) for baseline in baselines]}
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
