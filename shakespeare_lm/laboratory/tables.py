"""A comparison -> tables of 80 columns, a table for LaTeX, CSV or JSON. The templates are
`tables.txt` and `table.tex`.
"""

import csv
import io
import json
import textwrap
from dataclasses import asdict
from typing import Any

from jinja2 import Environment, PackageLoader

from shakespeare_lm.errors import printable
from shakespeare_lm.laboratory.comparison import MEANS, Comparison, Spread

_COLUMNS = 80
_RUN = ("variant", "seed", "val_loss", "test_loss", *MEANS)
_LATEX = str.maketrans(
    {symbol: f"\\{symbol}" for symbol in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}"}
)


def environment(autoescape: bool) -> Environment:
    """Return what fills in this room's templates; those of the report can be included."""
    made = Environment(
        loader=PackageLoader("shakespeare_lm", ""), autoescape=autoescape, finalize=_shown,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    made.filters |= {"short": short, "spread": _spread, "signed": _signed, "p_value": _p_value,
                     "percent": "{:.2%}".format, "folded": _folded, "latex": _latex}  # fmt: skip
    return made


def as_tables(comparison: Comparison) -> str:
    """Return everything but the curves as text."""
    return _filled("tables.txt", comparison).rstrip()


def as_latex(comparison: Comparison) -> str:
    """Return a table for the package booktabs."""
    return _filled("table.tex", comparison)


def _filled(template: str, comparison: Comparison) -> str:
    made = environment(autoescape=False).get_template(f"laboratory/{template}")
    return made.render(**vars(comparison))


def as_csv(comparison: Comparison) -> str:
    """Return a line for each run, crashed ones last, with the line ends of RFC 4180."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([*_RUN, "crashed"])
    for result in comparison.results:
        writer.writerow([*(getattr(result, name) for name in _RUN), None])
    for failure in comparison.failures:
        empty = [None] * (len(_RUN) - 2)
        writer.writerow([failure.variant, failure.seed, *empty, failure.reason])
    return text.getvalue()


def as_json(comparison: Comparison) -> str:
    """Return everything as one JSON object; a curve is a list of [step, seconds, val_loss]."""
    return json.dumps(
        asdict(comparison), indent=2, ensure_ascii=False, allow_nan=False, default=str
    )


def short(number: float | None) -> str:
    """Return a number with three digits, and k, M, G or T for thousands and so on."""
    if number is None:
        return "-"
    power = sum(number >= 0.9995 * 1000**power for power in (1, 2, 3, 4))
    return f"{number / 1000**power:.3g}{('', 'k', 'M', 'G', 'T')[power]}"


def _shown(value: Any) -> Any:
    """Return an expression's value with escapes for control characters in names."""
    return printable(value) if isinstance(value, str) else value


def _spread(losses: Spread | None, sign: str = "±") -> str:
    if losses is None:
        return "-"
    return f"{losses.mean:.4f}" + (f" {sign} {losses.deviation:.4f}" if losses.runs > 1 else "")


def _signed(difference: float) -> str:
    return f"{difference:+.4f}"


def _p_value(p: float | None) -> str:
    return "-" if p is None else "<0.0001" if p < 0.0001 else f"{p:.4f}"


def _folded(text: str, indent: int) -> str:
    """Fold the last column, which begins after `indent` characters."""
    lines = textwrap.wrap(text, _COLUMNS - indent, break_on_hyphens=False)
    return ("\n" + indent * " ").join(lines)


def _latex(text: str) -> str:
    return text.translate(_LATEX)
