"""Arrays and labels -> Pillow images, in milliseconds; matplotlib takes a good part of a second."""

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

_MARGIN = 8
_TITLE = 30  # height of the title's line
_SIZE = 20  # of letters, in pixels: TensorBoard shows a picture at a third to a half of its size
_TEXT, _FAINT, _FRAME, _BAR = (32, 32, 32), (110, 110, 110), (214, 96, 0), (84, 130, 180)
_POSITIVE, _NEGATIVE = np.array((8, 64, 129)), np.array((165, 15, 21))
# With letters of many scripts, on Linux, macOS and Windows.
_FONTS = ("DejaVuSans.ttf", "Arial Unicode.ttf", "arial.ttf")


def visible(character: str) -> str:
    r"""Return a label for a character: a space is ·, a line break is \n."""
    if character == " ":
        return "·"
    return character if character.isprintable() else repr(character)[1:-1]


def heatmap(
    values: NDArray[np.floating],
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    cell: int = 24,
    texts: Sequence[Sequence[str]] | None = None,
    framed: NDArray[np.bool_] | None = None,
    size: int = _SIZE,
) -> Image.Image:
    """Draw a matrix `[rows, columns]` with labels, the darker the farther from 0: up to 1 in blue,
    down to -1 in red. `cell` is the size of a value and `size` that of letters, in pixels; `framed`
    is a mask.
    """
    font = _font(size)
    left = _MARGIN + max(int(font.getlength(label)) for label in rows) + 6
    top = _TITLE + _MARGIN + size
    colours = np.kron(_colours(values), np.ones((cell, cell, 1), np.uint8))
    height, width, _ = colours.shape
    wide = max(left + width, _MARGIN + int(font.getlength(title)))
    image = Image.new("RGB", (wide + _MARGIN, top + height + _MARGIN), "white")
    image.paste(Image.fromarray(colours), (left, top))
    draw = ImageDraw.Draw(image)
    draw.text((_MARGIN, _MARGIN), title, _TEXT, font)
    for row, label in enumerate(rows):
        draw.text((left - 5, top + (row + 0.5) * cell), label, _TEXT, font, "rm")
    for column, label in enumerate(columns):
        draw.text((left + (column + 0.5) * cell, top - 10), label, _TEXT, font, "mm")
    if texts is not None:
        for row, column in np.ndindex(values.shape):
            colour = "white" if values[row, column] > 0.4 else _TEXT
            middle = (left + (column + 0.5) * cell, top + (row + 0.5) * cell)
            draw.text(middle, texts[row][column], colour, font, "mm")
    if framed is not None:
        for row, column in np.argwhere(framed).tolist():
            x, y = left + column * cell, top + row * cell
            draw.rectangle((x, y, x + cell - 1, y + cell - 1), outline=_FRAME, width=2)
    return image


def bars(values: Sequence[float], labels: Sequence[str], title: str, unit: str) -> Image.Image:
    """Draw a bar to the right for each value, from 0."""
    font, height, width = _font(_SIZE), 30, 260
    left = _MARGIN + max((int(font.getlength(label)) for label in labels), default=0) + 8
    size = (left + width + 80, _TITLE + 2 * _MARGIN + height * len(values) + _TITLE)
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    draw.text((_MARGIN, _MARGIN), title, _TEXT, font)
    top = _TITLE + _MARGIN
    for value, label in zip(values, labels, strict=True):
        middle = top + height // 2
        end = left + width * value / max(*values, 1e-9)
        draw.text((left - 6, middle), label, _TEXT, font, "rm")
        draw.rectangle((left, top + 3, end, top + height - 4), _BAR)
        draw.text((end + 6, middle), f"{value:.3f}", _TEXT, font, "lm")
        top += height
    draw.text((left, top + 4), unit, _FAINT, font)
    return image


def _colours(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Return `[rows, columns, 3]`: white for 0."""
    strength = np.abs(values).clip(0, 1)[..., None]
    dark = np.where(values[..., None] < 0, _NEGATIVE, _POSITIVE)
    return (255 + strength * (dark - 255)).astype(np.uint8)


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    for name in _FONTS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)
