"""Pictures: each value has its cell, its colour and its labels."""

import numpy as np
import pytest
from PIL import ImageDraw

from shakespeare_lm.training.drawing import bars, heatmap, tiled, visible

WHITE, BLUE, RED = (255, 255, 255), (8, 64, 129), (165, 15, 21)


def cells(image: object, values: np.ndarray, cell: int) -> list[list[tuple[int, ...]]]:
    """Return the colour of each cell's corner: the last cell ends 8 pixels before the edge."""
    pixels = np.asarray(image)
    height, width = values.shape
    y, x = (pixels.shape[0] - 8 - height * cell, pixels.shape[1] - 8 - width * cell)
    return [
        [tuple(pixels[y + r * cell, x + c * cell].tolist()) for c in range(width)]
        for r in range(height)
    ]


def test_cells_are_white_at_zero_blue_at_one_and_red_at_minus_one() -> None:
    values = np.array([[0.0, 1.0, -1.0], [2.0, 0.0, 0.0]])
    image = heatmap(values, "ab", "cde", "")
    assert cells(image, values, 12) == [[WHITE, BLUE, RED], [BLUE, WHITE, WHITE]]


def test_a_value_between_has_a_colour_between() -> None:
    values = np.array([[0.25, 0.5]])
    (row,) = cells(heatmap(values, "a", "bc", ""), values, 12)
    assert WHITE > row[0] > row[1] > BLUE


def test_frames_are_around_the_cells_that_they_are_asked_for() -> None:
    values = np.zeros((2, 2))
    image = heatmap(values, "ab", "cd", "", framed=np.array([[False, True], [False, False]]))
    (a, b), (c, d) = cells(image, values, 12)
    assert a == c == d == WHITE
    assert b != WHITE


@pytest.mark.parametrize(
    ("character", "label"), [("a", "a"), (" ", "·"), ("\n", "\\n"), ("\t", "\\t"), ("é", "é")]
)
def test_every_character_has_a_label_that_one_sees(character: str, label: str) -> None:
    assert visible(character) == label


def test_rows_columns_and_cells_have_their_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    original = ImageDraw.ImageDraw.text

    def text(self: ImageDraw.ImageDraw, place: object, words: str, *arguments: object) -> None:
        drawn.append(words)
        original(self, place, words, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    heatmap(np.zeros((1, 2)), ["row"], ["a", "b"], "title", texts=[["x", "y"]])
    assert drawn == ["title", "row", "a", "b", "x", "y"]
    drawn.clear()
    bars([1.0, 2.0], ["first", "second"], "title", "nats")
    assert drawn == ["title", "first", "1.000", "second", "2.000", "nats"]


def test_tiles_keep_their_order_and_none_is_lost() -> None:
    shades = [heatmap(np.full((1, 1), v), [""], [""], "") for v in (0.2, 0.4, 0.6, 0.8, 1.0)]
    sheet = np.asarray(tiled(shades, ""))
    width, height = shades[0].size
    places = [(row, column) for row in range(2) for column in range(3)]
    for shade, (row, column) in zip(shades, places, strict=False):
        top = sheet.shape[0] - (2 - row) * height
        found = sheet[top : top + height, column * width : (column + 1) * width]
        assert np.array_equal(found, np.asarray(shade))
