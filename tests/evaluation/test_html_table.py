"""HTML tables: literal."""

from shakespeare_lm.evaluation.html_table import html_table


def test_cells_are_escaped_and_numbers_are_marked() -> None:
    assert html_table(("n", "<i>"), [("1", "a&b")], numbers=1) == (
        '<div class="scroll"><table><tr><th class="number">n<th class="name">&lt;i&gt;</tr>'
        '<tr><td class="number">1<td class="name">a&amp;b</tr></table></div>'
    )


def test_bars_have_their_length() -> None:
    table = html_table(("n",), [("1",), ("2",)], numbers=1, bars=[0.5, 1.0])
    assert '<td class="number">1<td class="bar"><span style="width:50.0%"></span></tr>' in table
    assert '<td class="number">2<td class="bar"><span style="width:100.0%"></span></tr>' in table
