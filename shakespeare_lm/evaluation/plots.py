"""Drawing for the notebook, on axes of matplotlib, which is an extra."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from shakespeare_lm.data.tokenizer import CharTokenizer

BLUE, ORANGE, GREY = "#3182bd", "#e6550d", "#bdbdbd"


def visible(tokenizer: CharTokenizer, ids: Sequence[int]) -> list[str]:
    """Return one visible symbol for each id: ␣ for a space, ↵ for a line end, □ for padding."""
    known = [*tokenizer.vocabulary.replace(" ", "␣").replace("\n", "↵"), "□"]
    return [known[number] for number in ids]


def draw_grid(axes: Any, symbols: Sequence[Sequence[str]], filled: Tensor, title: str = "") -> None:
    """Write symbols into a grid `[rows, columns]`; colour the cells where `filled` is True."""
    axes.imshow(filled, cmap="Blues", vmin=0, vmax=3, aspect="auto")
    for row, line in enumerate(symbols):
        for column, symbol in enumerate(line):
            colour = "black" if filled[row, column] else GREY
            axes.text(column, row, symbol, ha="center", va="center", color=colour)
    axes.set(xticks=[], yticks=[], title=title)


def draw_weights(axes: Any, weights: Tensor, title: str, symbols: Sequence[str]) -> None:
    """Draw attention weights `[time, time]`, with the characters on both axes."""
    axes.imshow(weights, cmap="Blues", vmin=0, vmax=0.5)
    axes.set_xticks(range(len(symbols)), symbols, fontsize=7)
    axes.set_yticks(range(len(symbols)), symbols, fontsize=7)
    axes.tick_params(length=0)
    axes.set_title(title)
