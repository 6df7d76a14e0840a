"""Cells -> an HTML table, which scrolls on its own if it is wider than the screen.

Enters: a heading, and rows of texts. Leaves: HTML.
"""

from collections.abc import Iterable, Sequence
from html import escape


def html_table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    numbers: int,
    bars: Sequence[float] | None = None,
) -> str:
    """Return a table.

    Args:
        head: the names of the columns.
        rows: of cells.
        numbers: how many columns, from the first, hold numbers.
        bars: adds a column of bars of these lengths, up to 1.
    """
    kinds = ["number" if i < numbers else "name" for i in range(len(head))]
    names = "".join(
        f'<th class="{kind}">{escape(name)}' for kind, name in zip(kinds, head, strict=True)
    )
    lines = [f"<tr>{names}{'<th>' if bars else ''}</tr>"]
    for number, row in enumerate(rows):
        cells = "".join(
            f'<td class="{kind}">{escape(cell)}' for kind, cell in zip(kinds, row, strict=True)
        )
        lines.append(f"<tr>{cells}{html_bar(bars[number]) if bars else ''}</tr>")
    return f'<div class="scroll"><table>{"".join(lines)}</table></div>'


def html_bar(length: float) -> str:
    """Return a cell with a bar, of a length up to 1."""
    return f'<td class="bar"><span style="width:{length:.1%}"></span>'
