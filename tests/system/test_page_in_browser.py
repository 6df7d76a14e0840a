"""The page as its readers meet it, in a real browser, from a file: every control, by mouse and by
keyboard, wide and narrow, light and dark, with hostile text and with damage.
"""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

import pytest
import torch

from shakespeare_lm.commands.page import main
from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.training.module import ShakespeareLM
from tests.conftest import save
from tests.system.browser import needs_browser, started_browser

pytestmark = needs_browser

VOCABULARY = "\n :" + "ABCDEFGHIJKLMNOPQRSTUVWXYZ" + "abcdefghijklmnopqrstuvwxyz"
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a page of a tiny model."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("page")
    module = ShakespeareLM(
        VOCABULARY, context_length=40, num_layers=2, num_heads=2, d_model=16, zero_init=True,
        previous_characters=4,
    )  # fmt: skip
    torch.nn.init.normal_(module.network.head.weight)
    checkpoint = save(folder / "best.ckpt", module)
    output = folder / "model.html"
    assert main(["--ckpt", str(checkpoint), "--output", str(output)]) == 0
    return output


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with started_browser() as started:
        yield started


@pytest.fixture
def open_page(browser: Any, html: Path) -> Iterator[Open]:
    """Return a function that opens the page; in the end, no error and no request may have been."""
    problems: list[str] = []
    contexts = []

    def open_it(fragment: str = "", path: Path = html, **options: Any) -> Any:
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: problems.append(dialog.message))
        allowed = (path.as_uri(), "blob:", "data:")
        page.on("request", lambda r: None if r.url.startswith(allowed) else problems.append(r.url))
        page.goto(path.as_uri() + fragment)
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert not problems


def wait(page: Any, condition: str) -> None:
    """Wait until an expression is true; playwright's own way needs what the policy forbids."""
    end = time.monotonic() + 20
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        time.sleep(0.02)


def ready(page: Any) -> Any:
    wait(page, "!byId('continue').disabled && busy === null")
    return page


def text_of(page: Any) -> str:
    value: str = page.input_value("#text")
    return value


def test_continue_streams_what_python_gives_and_undo_takes_it_back(
    open_page: Open, html: Path
) -> None:
    page = ready(open_page())
    assert text_of(page) == "ROMEO:\n"
    page.fill("#seed", "3")
    page.fill("#count", "200")
    page.click("#continue")
    wait(page, "characters.length === 207 && busy === null")
    expected = Completer.from_checkpoint(html.parent / "best.ckpt")
    rounded = expected.complete("ROMEO:\n", 200, seed=3)
    made = text_of(page).removeprefix("ROMEO:\n")
    # The page's weights are rounded: the first characters are the same, and mostly all are.
    assert made[:5] == rounded[:5]
    assert len(made) == 200
    page.click("#undo")
    assert text_of(page) == "ROMEO:\n"


def test_every_character_has_its_surprise_and_the_total_adds_up(open_page: Open) -> None:
    page = ready(open_page())
    page.fill("#text", "HELLO world")
    ready(page)
    assert page.evaluate("likelihoods[0]") is None
    probabilities = page.evaluate("likelihoods.slice(1).map((one) => one.probability)")
    bits = -torch.tensor(probabilities).log2().sum()
    assert f"{bits:.1f} bits for 10 characters" in page.inner_text("#total")
    assert page.locator("#backdrop span[class*=surprise]").count() > 0


def test_what_comes_next_is_what_continue_draws_from_in_a_long_text(open_page: Open) -> None:
    page = ready(open_page())
    page.fill("#text", "HELLO world " * 6 + "abc")  # longer than the context
    ready(page)
    page.evaluate("settings.controls.temperature.value = 0")
    page.fill("#count", "1")
    expected = page.evaluate("alphabet.characters[argmax(next)]")
    page.click("#continue")
    ready(page)
    assert text_of(page)[-1] == expected
    before = page.inner_text("#total")
    page.select_option("#window", "exact")
    ready(page)
    assert page.inner_text("#total") != before


def test_continuing_an_unread_text_reads_it_too(open_page: Open) -> None:
    page = ready(open_page())
    page.evaluate("setText('HELLO world '.repeat(1000)); complete()")
    wait(page, "characters.length === 12300 && busy === null && firstUnread() < 0")
    assert "for 12,299 characters" in page.inner_text("#total")


def test_a_long_text_loses_its_beginning_and_goes_on(open_page: Open) -> None:
    page = ready(open_page())
    page.evaluate("setText('HELLO '.repeat(3330))")  # 19,980 characters
    ready(page)
    page.click("#continue")
    ready(page)
    assert page.evaluate("cut + characters.length") == 19_980 + 300
    assert "were left out" in page.inner_text("#unknown")


def test_emptying_the_text_leaves_nothing_stale(open_page: Open) -> None:
    page = ready(open_page())
    page.fill("#text", "HELLO")
    ready(page)
    page.check("#shade")
    page.fill("#text", "")
    ready(page)
    assert page.inner_text("#chosen").startswith("Point at")
    assert page.locator("#instead button").count() == 0
    page.click("#heads button >> nth=0")
    page.fill("#text", "He")
    ready(page)
    assert page.locator("#next button").count() == 10


def test_undo_takes_back_one_thing_at_a_time(open_page: Open) -> None:
    page = ready(open_page())
    page.fill("#text", "ABC")
    page.fill("#count", "5")
    page.click("#continue")
    ready(page)
    made = text_of(page)
    page.press("#text", "End")
    page.evaluate("textarea.setSelectionRange(99, 99)")
    page.keyboard.type("Z")
    assert text_of(page) == made + "Z"
    page.click("#undo")
    assert text_of(page) == made
    page.click("#undo")
    assert text_of(page) == "ABC"


def test_nothing_is_lost_before_the_model_is_there(open_page: Open) -> None:
    page = open_page()
    page.evaluate("complete(); score()")  # as Ctrl+Enter would
    ready(page)
    assert text_of(page) == "ROMEO:\n"
    page.evaluate("location.hash = '#x'")
    page.wait_for_timeout(100)
    assert text_of(page) == "ROMEO:\n"


def test_a_click_chooses_the_character_that_it_hits(open_page: Open) -> None:
    page = ready(open_page())
    page.fill("#text", "HELLO")
    ready(page)
    box = page.locator("#backdrop span").nth(2).bounding_box()
    for across in (2, box["width"] - 2):  # both sides of it
        page.mouse.click(box["x"] + across, box["y"] + 5)
        ready(page)
        assert page.evaluate("chosen") == 2
    assert page.locator("#backdrop span.chosen").count() == 1


def test_stop_keeps_what_was_made(open_page: Open) -> None:
    page = ready(open_page())
    page.fill("#count", "10000")
    page.select_option("#window", "exact")  # which is slow
    page.click("#continue")
    wait(page, "characters.length > 100")
    page.click("#stop")
    ready(page)
    length = len(text_of(page))
    assert 100 < length < 10_000
    page.wait_for_timeout(100)
    assert len(text_of(page)) == length
    assert page.locator("#next button").count() == 10  # what comes next is known


def test_a_choice_goes_on_from_there(open_page: Open) -> None:
    page = ready(open_page())
    name = page.inner_text("#next li:nth-child(2) kbd")
    page.click("#next li:nth-child(2) button")
    ready(page)
    assert text_of(page) == "ROMEO:\n" + {"␣ space": " ", "↵ line end": "\n"}.get(name, name)
    page.fill("#text", "HELLO")
    ready(page)
    page.evaluate("textarea.setSelectionRange(3, 3)")
    page.press("#text", "Shift")  # any key
    assert page.inner_text("#chosen").startswith("‘L’: probability")
    assert page.locator("#instead .own, #instead button").count() >= 10
    page.click("#instead li:first-child button")
    ready(page)
    assert text_of(page).startswith("HE")
    assert len(text_of(page)) == 3


def test_sliders_change_the_distribution(open_page: Open) -> None:
    page = ready(open_page())

    def shares() -> list[float]:
        widths = page.eval_on_selector_all("#next .bar", "all => all.map((b) => b.style.width)")
        return [float(width.rstrip("%")) for width in widths]

    before = shares()
    page.evaluate("settings.controls.temperature.value = 0.2")
    page.dispatch_event("#temperature", "input")
    assert shares()[0] > before[0]
    assert page.inner_text('output[for="temperature"]') == "0.2"
    page.evaluate("settings.controls.top_k.value = 2")
    page.dispatch_event("#top_k", "input")
    assert [share > 0 for share in shares()] == [True] * 2 + [False] * 8
    assert page.locator("#next .excluded").count() == 8


def test_attention_and_layers_of_the_chosen_character(open_page: Open) -> None:
    page = ready(open_page())
    page.fill("#text", "HELLO" * 7)
    ready(page)
    assert page.locator("#heads button").count() == 4
    assert page.locator("#layers tbody tr").count() == 2
    totals = page.evaluate(
        "inside.explained.layers.flatMap((l) => l.attention.map((w) => w.reduce((a, b) => a + b)))"
    )
    assert totals == pytest.approx([1.0] * 4, abs=1e-5)
    # The last layer says what the model says.
    best = page.evaluate("inside.explained.layers[1].likeliest[0][0]")
    assert best == page.evaluate("argmax(next)")
    page.check("#shade")
    shaded = page.eval_on_selector_all(
        "#backdrop span", "all => all.filter((s) => s.style.backgroundColor).length"
    )
    assert shaded == 35
    page.uncheck("#shade")
    assert not page.eval_on_selector_all(
        "#backdrop span", "all => all.filter((s) => s.style.backgroundColor).length"
    )


def test_hovering_shows_the_ten_likeliest(open_page: Open) -> None:
    page = ready(open_page())
    page.fill("#text", "HELLO")
    ready(page)
    box = page.locator("#backdrop span").nth(2).bounding_box()
    page.mouse.move(box["x"] + 3, box["y"] + 5)
    tip = page.inner_text("#tip")
    assert tip.startswith("‘L’: probability")
    assert tip.count("%") == 11
    page.mouse.move(1, 1)
    assert page.is_hidden("#tip")


def test_the_keyboard_alone_does_everything(open_page: Open) -> None:
    page = ready(open_page())
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate("document.activeElement.id || document.activeElement.className")
        )
    for name in ("text", "continue", "undo", "count", "temperature", "seed", "window", "shade",
                 "save-svg", "link"):  # fmt: skip
        assert name in reached or name == "undo", name
    page.focus("#text")
    page.keyboard.press("Control+Enter")
    wait(page, "characters.length > 20")
    page.keyboard.press("Escape")
    ready(page)
    length = len(text_of(page))
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("chosen") == length - 3
    page.focus("#heads button[tabindex='0']")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.textContent") == "Layer 2, head 2"


def test_unknown_and_unusual_characters_are_shown(open_page: Open) -> None:
    page = ready(open_page())
    page.fill("#text", "He\u0301llo 👩‍👩‍👧 שלום")
    ready(page)
    note = page.inner_text("#unknown")
    assert "unknown to this model" in note
    assert "◌\u0301 U+0301" in note
    assert page.evaluate("view.clusters.map((one) => one.text)")[1] == "e\u0301"
    assert page.locator("#backdrop .unknown").count() > 2
    assert text_of(page) == "He\u0301llo 👩‍👩‍👧 שלום"
    page.click("#continue")
    wait(page, "characters.length > 300")


def test_hostile_text_is_text(open_page: Open, tmp_path: Path) -> None:
    hostile = "<img src=x onerror=alert(1)></textarea><script>alert(1)</script>\0\x1b\ufffe"
    page = ready(open_page())
    page.evaluate("(t) => { setText(t); }", hostile)
    ready(page)
    assert page.locator("img, #backdrop script").count() == 0
    with page.expect_download() as saved:
        page.click("#save-svg")
    root = ElementTree.fromstring(Path(saved.value.path()).read_text("utf-8"))
    assert root.tag.endswith("svg")
    assert "alert" in re.sub(r"\s", "", "".join(root.itertext()))


def test_a_megabyte_is_cut_and_says_so(open_page: Open) -> None:
    page = ready(open_page())
    page.evaluate("setText('HELLO world\\n'.repeat(90000))")
    assert page.evaluate("characters.length") == 20_000
    assert "the first 1,060,000 characters were left out" in page.inner_text("#unknown")
    page.evaluate("setText('A')")
    ready(page)
    assert page.evaluate("likelihoods.length") == 1


def test_pictures_and_text_are_saved(open_page: Open) -> None:
    page = ready(open_page())
    for button, start in (
        ("#save-png", b"\x89PNG"),
        ("#save-text", b"ROMEO:"),
        ("#save-svg", b"<svg"),
    ):
        with page.expect_download() as saved:
            page.click(button)
        assert Path(saved.value.path()).read_bytes().startswith(start)


def test_a_link_restores_text_and_settings(open_page: Open) -> None:
    settings = "temperature=0.5&top_k=5&seed=9&window=exact&count=12"
    page = ready(open_page("#text=" + quote("A & B\nC") + "&" + settings))
    assert text_of(page) == "A & B\nC"
    assert page.evaluate("settings.options()") == {
        "greedy": False, "temperature": 0.5, "top_k": 5, "top_p": None, "min_p": None
    }  # fmt: skip
    assert page.evaluate("[settings.seed, settings.window, settings.count]") == ["9", "exact", 12]
    page.click("#link")
    again = ready(open_page("#" + page.evaluate("location.hash.slice(1)")))
    assert text_of(again) == "A & B\nC"
    assert again.evaluate("settings.seed") == "9"


def test_a_broken_link_leaves_working_controls(open_page: Open) -> None:
    page = ready(open_page("#temperature=wild&top_k=-7&window=none&count=1e99&seed=x&text"))
    assert page.evaluate("settings.window") == "stride"
    assert 1 <= page.evaluate("settings.count") <= 10_000
    page.click("#continue")
    wait(page, "characters.length > 0")


def test_two_pages_do_not_disturb_each_other(open_page: Open) -> None:
    pages = [ready(open_page()) for _ in range(2)]
    for page in pages:
        page.fill("#seed", "1")
        page.click("#continue")
    for page in pages:
        wait(page, "characters.length === 307 && busy === null")
    assert text_of(pages[0]) == text_of(pages[1])


def test_damaged_weights_are_named(browser: Any, html: Path, tmp_path: Path) -> None:
    content = html.read_text("utf-8")
    start = content.index('id="weights">') + 500
    damaged = tmp_path / "damaged.html"
    damaged.write_text(content[:start] + content[start + 40 :], "utf-8")
    page = browser.new_page()
    page.goto(damaged.as_uri())
    page.wait_for_selector("#problem:not([hidden])")
    assert "weights in this page are damaged" in page.inner_text("#problem")
    assert page.is_disabled("#continue")
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1600])
def test_it_fits_the_screen_and_can_be_read(open_page: Open, scheme: str, width: int) -> None:
    page = ready(
        open_page(color_scheme=scheme, viewport={"width": width, "height": 800}, has_touch=True)
    )
    page.fill("#text", "HELLO world and all the others")
    ready(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(CONTRASTS) >= 4.5
    for box in page.evaluate(
        "[...document.querySelectorAll('.tools button')].map((b) => b.offsetHeight)"
    ):
        assert box >= 44


# The lowest contrast of text on any colour that it can have behind it (WCAG 2, relative luminance).
CONTRASTS = """() => {
  const style = getComputedStyle(document.documentElement);
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const pixel = (...colours) => {
    for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
    return canvas.getImageData(0, 0, 1, 1).data;
  };
  const named = (name) => style.getPropertyValue(`--${name}`).trim();
  const luminance = (pixels) => {
    const [r, g, b] = Array.from(pixels).map((v) => v / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (a, b) => {
    const [light, dark] = [luminance(a), luminance(b)].sort((x, y) => y - x);
    return (light + 0.05) / (dark + 0.05);
  };
  const ink = pixel(named('ink'));
  const shade = `rgba(${named('attention')}, ${MOST_OPAQUE})`;
  const behind = [[named('paper')], [named('sheet')], [named('sheet'), shade],
    ...[1, 2, 3, 4].map((n) => [named(`surprise-${n}`)])];
  return Math.min(
    ...behind.map((colours) => contrast(ink, pixel(...colours))),
    ...['paper', 'sheet'].map((name) => contrast(pixel(named('quiet')), pixel(named(name)))),
    contrast(pixel(named('problem')), pixel(named('paper'))),
    contrast(pixel(named('on-accent')), pixel(named('accent'))),
  );
}"""
