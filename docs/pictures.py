"""Pictures of a page for the README: page.png, page-phone.png, and twenty seconds of its use,
page.webp. Needs playwright, Pillow and Chromium (or its path in CHROMIUM).

    python docs/pictures.py docs/demo.html
"""

import os
import shutil
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

DOCS = Path(__file__).parent
FRAME_MILLISECONDS = 200
GUESSES = 6  # in the guessing game, of which every third one is wrong


def main(page_path: Path) -> None:
    """Write the three pictures beside this file."""
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        address = page_path.resolve().as_uri()
        _still(browser, address, 1280, 800, "light").screenshot(path=DOCS / "page.png")
        _still(browser, address, 390, 844, "dark").screenshot(path=DOCS / "page-phone.png")
        page = _opened(browser, address, 1024, 640, "light")
        first, *others = [Image.open(BytesIO(frame)).convert("RGB") for frame in _frames(page)]
        browser.close()
    first.save(
        DOCS / "page.webp", save_all=True, append_images=others, loop=0, quality=60, method=6,
        duration=FRAME_MILLISECONDS,
    )  # fmt: skip


def _opened(browser: Browser, address: str, width: int, height: int, scheme: str) -> Page:
    """Return a page with its model loaded, whose text does not grow by itself."""
    size = {"width": width, "height": height}
    page = browser.new_page(viewport=size, color_scheme=scheme, reduced_motion="reduce")
    page.goto(f"{address}#text=ROMEO:%0A&temperature=0.8")
    _ready(page)
    return page


def _still(browser: Browser, address: str, *look: int | str) -> Page:
    page = _opened(browser, address, *look)
    page.evaluate("make(300, '3')")
    _ready(page)
    return page


def _ready(page: Page) -> None:
    # `wait_for_function` needs what the page's policy forbids.
    while page.evaluate("!loaded || busy !== null"):
        page.wait_for_timeout(20)


def _frames(page: Page) -> Iterator[bytes]:
    """Yield a hundred frames: a text grows, gets wilder, is looked into; and the game."""
    for number in range(50):
        if number >= 25:
            wild = f"settings.controls.temperature.value = {0.8 + (number - 25) / 30}"
            page.evaluate(f"{wild}; settings.showValues()")
        page.evaluate(f"make(3, '{number}')")
        yield _frame(page)
    page.check("#shade")
    for number in range(20):
        page.evaluate(f"choose(characters.length - {40 - 2 * number})")
        yield _frame(page)
    page.uncheck("#shade")
    page.locator("#game").scroll_into_view_if_needed()
    for number in range(1, GUESSES + 1):
        for _ in range(2):
            yield _frame(page)
        page.fill("#guess", page.evaluate("game.passage[game.place]") if number % 3 else "e")
        for _ in range(3):
            yield _frame(page)


def _frame(page: Page) -> bytes:
    _ready(page)
    return page.screenshot()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
