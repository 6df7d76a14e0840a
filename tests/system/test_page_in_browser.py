"""The page as its readers meet it, in a real browser, from a file: every control, by mouse and by
keyboard, wide and narrow, light and dark, with hostile text and with damage.
"""

import math
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

import pytest
import torch

from shakespeare_lm.commands.page import main, unmeasured_page
from shakespeare_lm.completion.completer import Completer
from tests.conftest import Fit
from tests.export.models import random_checkpoint
from tests.system.browser import BROWSERS, needs_browser, started_browser

pytestmark = needs_browser

VOCABULARY = "\n :" + "ABCDEFGHIJKLMNOPQRSTUVWXYZ" + "abcdefghijklmnopqrstuvwxyz"
PASSAGE = "HELLO wor\\r" * 20
DEMO = Path(__file__).parents[2] / "docs" / "demo.html"
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a page of a tiny model."""
    folder = tmp_path_factory.mktemp("page")
    random_checkpoint(folder, VOCABULARY, context_length=40, previous_characters=4)
    output = folder / "model.html"
    assert main(["--ckpt", str(folder / "best.ckpt"), "--output", str(output)]) == 0
    content = output.read_text("utf-8").replace('"passage": ""', f'"passage": "{PASSAGE}"')
    output.write_text(content, "utf-8")
    return output


@pytest.fixture(scope="module", params=BROWSERS)
def browser(request: pytest.FixtureRequest) -> Iterator[Any]:
    with started_browser(request.param) as started:
        yield started


@pytest.fixture
def open_page(browser: Any, html: Path) -> Iterator[Open]:
    """Return a function that opens the page; in the end, no error and no request may have been."""
    problems: list[str] = []
    pages = []

    def open_it(fragment: str = "#text=ROMEO:%0A", path: Path = html, **options: Any) -> Any:
        page = browser.new_page(**options)
        pages.append(page)
        page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: problems.append(dialog.message))
        allowed = (path.as_uri(), "blob:", "data:")
        page.on("request", lambda r: None if r.url.startswith(allowed) else problems.append(r.url))
        page.goto(path.as_uri() + fragment)
        return page

    yield open_it
    for page in pages:
        page.close()
    assert not problems


@pytest.fixture
def page(open_page: Open) -> Any:
    return ready(open_page())


def wait(page: Any, condition: str) -> None:
    """Wait until an expression is true; playwright's own way needs what the policy forbids."""
    end = time.monotonic() + 60
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition  # it hangs
        time.sleep(0.02)


def ready(page: Any) -> Any:
    wait(page, "!byId('continue').disabled && busy === null")
    return page


def write(page: Any, text: str) -> None:
    page.fill("#text", text)
    ready(page)


def press(page: Any, button: str) -> None:
    page.click(button)
    ready(page)


def text_of(page: Any) -> str:
    value: str = page.input_value("#text")
    return value


def test_the_committed_demo_completes_and_shows_how_its_model_learned(open_page: Open) -> None:
    if not DEMO.exists():
        pytest.skip("needs docs/demo.html, the committed page of a trained model")
    page = ready(open_page(path=DEMO))
    before = text_of(page)
    page.fill("#count", "20")
    press(page, "#continue")
    assert text_of(page).startswith(before)
    assert page.evaluate("characters.length") == len(before) + 20
    assert "bits for" in page.inner_text("#total")
    for element in ("#next button", "#heads button", "#layers tbody tr", "figure svg", "dl dt"):
        assert page.locator(element).count() > 0, element


def test_continue_streams_what_python_gives_and_undo_takes_back_one_thing_at_a_time(
    page: Any, html: Path
) -> None:
    assert text_of(page) == "ROMEO:\n"
    page.fill("#seed", "3")
    page.fill("#count", "200")
    press(page, "#continue")
    made = text_of(page).removeprefix("ROMEO:\n")
    completer = Completer.from_checkpoint(html.parent / "best.ckpt")
    # The page's weights are rounded: the first characters are the same, and mostly all are.
    assert made[:5] == completer.complete("ROMEO:\n", 200, seed=3)[:5]
    assert len(made) == 200
    page.press("#text", "End")
    page.evaluate("textarea.setSelectionRange(999, 999)")
    page.keyboard.type("Z")
    for undone in ("Z", made):
        assert text_of(page).endswith(undone)
        page.click("#undo")
    assert text_of(page) == "ROMEO:\n"


def test_every_character_has_its_surprise_and_the_total_adds_up(page: Any) -> None:
    write(page, "HELLO world")
    assert page.evaluate("likelihoods[0]") is None
    probabilities = page.evaluate("likelihoods.slice(1).map((one) => one.probability)")
    bits = -torch.tensor(probabilities).log2().sum()
    assert f"{bits:.1f} bits for 10 characters" in page.inner_text("#total")
    assert page.locator("#backdrop span[class*=surprise]").count() > 0


def test_what_comes_next_is_what_continue_draws_from_in_a_long_text(page: Any) -> None:
    write(page, "HELLO world " * 6 + "abc")  # longer than the context
    page.evaluate("settings.controls.temperature.value = 0")
    page.fill("#count", "1")
    expected = page.evaluate("alphabet.characters[argmax(next)]")
    press(page, "#continue")
    assert text_of(page)[-1] == expected
    before = page.inner_text("#total")
    page.select_option("#window", "exact")
    ready(page)
    assert page.inner_text("#total") != before


@pytest.mark.slow
def test_an_unread_text_is_continued_and_a_megabyte_is_cut(page: Any) -> None:
    page.evaluate("setText('HELLO world '.repeat(200)); complete()")  # not read yet
    wait(page, "characters.length === 2700 && busy === null && firstUnread() < 0")
    assert "for 2,699 characters" in page.inner_text("#total")
    page.evaluate("setText('HELLO world\\n'.repeat(90000))")
    assert page.evaluate("characters.length") == 20_000
    assert "the first 1,060,000 characters were left out" in page.inner_text("#unknown")
    write(page, "A")
    assert page.evaluate("likelihoods.length") == 1


@pytest.mark.parametrize("text", ["ab\\n", "\u4e00"])
def test_a_pasted_megabyte_is_cut_before_the_browser_lays_it_out(
    open_page: Open, browser: Any, text: str
) -> None:
    if browser.browser_type.name == "firefox":
        pytest.skip("Firefox asks its reader before a page may write to the clipboard")
    page = ready(open_page(permissions=["clipboard-read", "clipboard-write"]))
    page.evaluate(f"navigator.clipboard.writeText('{text}'.repeat(400_000))")
    page.evaluate("longest = 0; textarea.oninput = () => (longest = textarea.value.length); 0")
    page.evaluate("unread = []; showAny = showNext; 0")
    page.evaluate("showNext = (one) => (unread.push(firstUnread()), showAny(one)); 0")
    page.focus("#text")
    page.keyboard.press("Control+V")
    wait(page, "characters.length === 20_000")
    wait(page, "unread.length > 0 && busy === null")
    # What comes next is known before all is read.
    assert page.evaluate("unread[0]") == (-1 if text == "\u4e00" else 1)
    assert page.evaluate("firstUnread()") == -1
    assert page.evaluate("longest") == 0
    assert "characters were left out" in page.inner_text("#unknown")
    # With dir="auto", a browser reads the whole text again for each character that it is shown.
    assert page.locator("[dir=auto]").count() == 0
    directions = (
        "[...document.querySelectorAll('.writing')].map((e) => getComputedStyle(e).unicodeBidi)"
    )
    assert page.evaluate(directions) == ["plaintext"] * 3


@pytest.mark.parametrize("is_forbidden", [False, True])
def test_a_reloaded_page_has_its_text_unless_storage_is_forbidden(
    open_page: Open, is_forbidden: bool
) -> None:
    page = ready(open_page())
    if is_forbidden:
        throws = "get() { throw new DOMException('', 'SecurityError'); }"
        page.add_init_script(f"Object.defineProperty(window, 'sessionStorage', {{ {throws} }})")
        page.reload()
        ready(page)
    for text in ("", "HELLO\n שלום &#"):
        write(page, text)
        page.fill("#seed", "12")
        page.reload()
        ready(page)
        assert text_of(page) == ("ROMEO:\n" if is_forbidden else text)
        assert page.input_value("#seed") == ("" if is_forbidden else "12")
    page.evaluate("location.hash = 'text=A'")
    wait(page, "characters.join('') === 'A'")
    assert text_of(ready(open_page())) == "ROMEO:\n"  # in another tab


def test_logits_that_are_not_finite_make_no_text(open_page: Open, tmp_path: Path) -> None:
    checkpoint = random_checkpoint(tmp_path, VOCABULARY, std=1e30)
    path = tmp_path / "model.html"
    path.write_text(unmeasured_page(tmp_path / "best.ckpt", checkpoint, "a"), "utf-8")
    page = open_page(path=path)
    wait(page, "!byId('problem').hidden")
    assert "logits are not finite (NaN or infinity)" in page.inner_text("#problem")
    assert page.is_disabled("#continue")
    page.evaluate("complete()")
    page.wait_for_timeout(100)
    assert text_of(page) == "ROMEO:\n"
    assert "NaN" not in page.inner_text("main")


def test_a_model_of_carriage_returns_and_control_characters_continues_the_text_that_is_shown(
    open_page: Open, tmp_path: Path
) -> None:
    checkpoint = random_checkpoint(tmp_path, "\0\n\r\x1b\x85\u2028\u202e</script>")
    path = tmp_path / "model.html"
    path.write_text(unmeasured_page(tmp_path / "best.ckpt", checkpoint, "a"), "utf-8")
    page = ready(open_page(path=path))
    press(page, "#continue")
    assert page.evaluate("characters.includes('\\u240d') && characters.join('') === textarea.value")
    assert page.evaluate("firstUnread()") == -1
    heights = page.evaluate("[textarea.scrollHeight, byId('backdrop').scrollHeight]")
    assert heights[0] == heights[1]


@pytest.mark.slow
def test_a_continued_text_loses_its_beginning(page: Any) -> None:
    page.evaluate("setText('HELLO '.repeat(3330))")  # 19,980 characters
    ready(page)
    press(page, "#continue")
    assert page.evaluate("cut + characters.length") == 19_980 + 300
    assert "were left out" in page.inner_text("#unknown")


def test_emptying_the_text_leaves_nothing_stale(page: Any) -> None:
    write(page, "HELLO")
    page.check("#shade")
    write(page, "")
    assert page.inner_text("#chosen").startswith("Point at")
    assert page.locator("#instead button").count() == 0
    page.click("#heads button >> nth=0")
    write(page, "He")
    assert page.locator("#next button").count() == 10


def test_nothing_is_lost_before_the_model_is_there(open_page: Open) -> None:
    page = open_page()
    page.evaluate("complete(); score()")  # as Ctrl+Enter would
    ready(page)
    assert text_of(page) == "ROMEO:\n"
    page.evaluate("location.hash = '#x'")
    page.wait_for_timeout(100)
    assert text_of(page) == "ROMEO:\n"


def test_pointing_shows_the_ten_likeliest_and_a_click_chooses_the_character(page: Any) -> None:
    write(page, "HELLO")
    box = page.locator("#backdrop span").nth(2).bounding_box()
    page.mouse.move(box["x"] + 3, box["y"] + 5)
    tip = page.inner_text("#tip")
    assert tip.startswith("‘L’: probability")
    assert tip.count("%") == 11
    page.mouse.move(1, 1)
    assert page.is_hidden("#tip")
    for across in (2, box["width"] - 2):  # both sides of it
        page.mouse.click(box["x"] + across, box["y"] + 5)
        ready(page)
        assert page.evaluate("chosen") == 2
    assert page.locator("#backdrop span.chosen").count() == 1


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
@pytest.mark.parametrize("is_long", [False, True])
def test_the_controls_stay_beside_the_text(
    open_page: Open, width: int, height: int, is_long: bool
) -> None:
    page = ready(open_page(viewport={"width": width, "height": height}))
    write(page, "HELLO world\n" * (1 + 100 * is_long))
    names = ["continue", "stop", "undo", "paper", "legend", "save-text", "save-png", "link",
             "temperature", "top_k", "top_p"]  # fmt: skip
    boxes = {name: page.locator(f"#{name}").bounding_box() for name in names}
    for name, box in boxes.items():
        assert 0 <= box["y"] <= height - box["height"], (name, box)
        assert 0 <= box["x"] <= width - box["width"], (name, box)
    assert boxes["paper"]["height"] > 0.25 * height
    if width > height:  # large type, which a phone does not need
        assert "F2" in page.inner_text("#large")
        page.keyboard.press("F2")
        size = "getComputedStyle(textarea).fontSize"
        assert page.evaluate(size) == "24px"
        for name in ("continue", "paper", "temperature", "top_p"):
            box = page.locator(f"#{name}").bounding_box()
            assert box["y"] + box["height"] <= height, name
        page.keyboard.press("F2")
        assert page.evaluate(size) == "16px"


def test_a_page_opens_with_a_text_that_grows_until_the_reader_takes_over(open_page: Open) -> None:
    page = open_page("")
    wait(page, "characters.length > 20")
    assert not page.is_disabled("#stop")
    assert page.evaluate("growing > 300 && earlier.length === 1")
    page.click("#text")
    ready(page)
    length = page.evaluate("characters.length")
    page.wait_for_timeout(300)
    assert page.evaluate("characters.length") == length
    assert page.is_disabled("#stop")
    assert page.locator("#next button").count() == 10
    page.click("#undo")
    assert text_of(page) == ""  # there was no corpus to take a line of
    still = open_page("", reduced_motion="reduce")
    wait(still, "characters.length === 300 && busy === null")


def test_the_reader_and_the_model_pay_bits_for_each_guess(page: Any) -> None:
    assert page.inner_text("#passage") == ("HELLO wor" * 9)[:80]  # without what no key types
    page.evaluate("byId('sure').value = 75; byId('sure').dispatchEvent(new Event('input')); 0")
    assert page.inner_text('output[for="sure"]') == "75 %"
    page.click("#continue")  # which a guess ends
    page.type("#guess", "rx")  # faster than the model reads
    wait(page, "game.bits.length === 2")
    ready(page)
    page.press("#guess", "Enter")
    page.fill("#guess", "\u4e00")
    assert "‘\u4e00’ is unknown to this model" in page.inner_text("#answer")
    assert page.inner_text("#passage")[80:] == "rHE"
    right, wrong = -math.log2(0.75), -math.log2(0.25 / (len(VOCABULARY) - 1))
    yours = page.evaluate("game.bits.map((one) => one.yours)")
    assert yours == pytest.approx([right, wrong, wrong])
    assert f"you {(right + 2 * wrong) / 3:.2f}, the model" in page.inner_text("#score")
    assert page.locator("#next button").count() == 10
    page.click("#again")
    assert len(page.inner_text("#passage")) == 80


def test_the_legend_names_what_the_text_shows(page: Any) -> None:
    def legend() -> str:
        return " ".join(page.inner_text("#legend").split())

    write(page, "HELLO")
    assert legend() == "Surprise: below 1 bit 1+ 3+ 5+ 8+ chosen"
    page.check("#shade")
    write(page, "HE!LO")
    assert legend() == "Attention of layer 2, head 1: less more unknown chosen"
    page.uncheck("#shade")
    write(page, "")
    assert legend() == "Surprise: below 1 bit 1+ 3+ 5+ 8+"


def test_stop_keeps_what_was_made(page: Any) -> None:
    page.fill("#count", "10000")
    page.select_option("#window", "exact")  # which is slow
    page.click("#continue")
    wait(page, "characters.length > 100")
    press(page, "#stop")
    length = len(text_of(page))
    assert 100 < length < 10_000
    page.wait_for_timeout(100)
    assert len(text_of(page)) == length
    assert page.locator("#next button").count() == 10  # what comes next is known


def test_a_choice_goes_on_from_there(page: Any) -> None:
    name = page.inner_text("#next li:nth-child(2) kbd")
    press(page, "#next li:nth-child(2) button")
    assert text_of(page) == "ROMEO:\n" + {"␣ space": " ", "↵ line end": "\n"}.get(name, name)
    write(page, "HELLO")
    page.evaluate("textarea.setSelectionRange(3, 3)")
    page.press("#text", "Shift")  # any key
    assert page.inner_text("#chosen").startswith("‘L’: probability")
    assert page.locator("#instead .own, #instead button").count() >= 10
    press(page, "#instead li:first-child button")
    assert text_of(page).startswith("HE")
    assert len(text_of(page)) == 3


def test_sliders_change_the_distribution(page: Any) -> None:
    def shares(**settings: float) -> list[float]:
        for name, value in settings.items():
            page.evaluate(f"settings.controls.{name}.value = {value}")
            page.dispatch_event(f"#{name}", "input")
        widths = page.eval_on_selector_all("#next .bar", "all => all.map((b) => b.style.width)")
        return [float(width.rstrip("%")) for width in widths]

    before = shares()
    assert shares(temperature=0.2)[0] > before[0]
    assert page.inner_text('output[for="temperature"]') == "0.2"
    assert [share > 0 for share in shares(top_k=2)] == [True] * 2 + [False] * 8
    assert page.locator("#next .excluded").count() == 8


def test_attention_and_layers_of_the_chosen_character(page: Any) -> None:
    write(page, "HELLO" * 7)
    assert page.locator("#heads button").count() == 4
    assert page.locator("#layers tbody tr").count() == 2
    totals = page.evaluate(
        "inside.explained.layers.flatMap((l) => l.attention.map((w) => w.reduce((a, b) => a + b)))"
    )
    assert totals == pytest.approx([1.0] * 4, abs=1e-5)
    # The last layer says what the model says.
    best = page.evaluate("inside.explained.layers[1].likeliest[0][0]")
    assert best == page.evaluate("argmax(next)")
    for shade, count in ((True, 35), (False, 0)):
        page.set_checked("#shade", shade)
        assert page.locator("#backdrop span[style*=background]").count() == count


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_a_model_with_a_memory_continues_and_its_last_layer_says_what_the_model_says(
    open_page: Open, tmp_path: Path, share: float
) -> None:
    options = {"memory_order": 3, "memory_share": share, "context_length": 40}
    checkpoint = random_checkpoint(tmp_path, VOCABULARY, **options)
    path = tmp_path / "model.html"
    path.write_text(unmeasured_page(tmp_path / "best.ckpt", checkpoint, "a"), "utf-8")
    page = ready(open_page(path=path))
    page.fill("#seed", "3")
    press(page, "#continue")
    made = Completer.from_checkpoint(tmp_path / "best.ckpt").complete("ROMEO:\n", 300, seed=3)
    assert text_of(page)[:12] == "ROMEO:\n" + made[:5]
    write(page, "HELLO")
    assert page.evaluate("inside.explained.layers[1].likeliest[0][0] === argmax(next)")


KEPT = (
    "--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.every_n_train_steps=2",
    "--trainer.callbacks.save_top_k=-1", "--trainer.callbacks.save_weights_only=true",
)  # fmt: skip


@pytest.mark.parametrize("memory", [(), ("--model.memory_order=2",)])
def test_a_slider_makes_the_page_the_model_of_an_earlier_moment(
    open_page: Open, tiny_fit: Fit, tmp_path: Path, memory: tuple[str, ...]
) -> None:
    tiny_fit("--max_steps=8", "--model.learning_rate=0.02", *memory, *KEPT)
    assert main(["--history", "--output=model.html"]) == 0  # which runs every moment in Node.js
    page = ready(open_page("#text=The&seed=4&count=30", path=tmp_path / "model.html"))
    assert page.evaluate("model.history.moments.map((one) => one.step)") == [6, 4, 2]
    press(page, "#continue")
    totals, texts = [page.inner_text("#total")], [text_of(page)]
    for moment, step in ((0, "2"), (3, "8")):
        page.evaluate(f"byId('moment').value = {moment}")
        page.dispatch_event("#moment", "input")
        wait(page, "characters.length === 33 && busy === null && firstUnread() < 0")
        assert page.inner_text("#moment-step") == step
        totals.append(page.inner_text("#total"))
        texts.append(text_of(page))
    assert totals[1] != totals[0] == totals[2]
    assert texts[1] != texts[0] == texts[2]
    write(page, "The end")  # the reader's own is left as it is
    page.dispatch_event("#moment", "input")
    ready(page)
    assert text_of(page) == "The end"
    page.evaluate("ask('load', {...model, weights: byId('weights').textContent, earlier: 'AAAA'})")
    page.wait_for_selector("#problem:not([hidden])")
    assert "weights in this page are damaged" in page.inner_text("#problem")


def test_another_model_reads_the_same_text_and_continues_it(
    open_page: Open, html: Path, tmp_path: Path
) -> None:
    random_checkpoint(tmp_path, "\nHELжд", context_length=20)
    first, other, output = html.parent / "best.ckpt", tmp_path / "best.ckpt", tmp_path / "a.html"
    assert main(["--ckpt", str(first), str(other), "--output", str(output)]) == 0
    page = ready(open_page(path=output))
    write(page, "HELLO\nдж")
    wait(page, "!companion.busy && companion.likelihoods.length === 8")
    unknown = (
        "[...document.querySelectorAll('#%s .unknown')].map((one) => one.textContent).join('')"
    )
    assert page.evaluate(unknown % "backdrop") == "дж"
    assert page.evaluate(unknown % "beside-text") == "O"
    score = Completer.from_checkpoint(other).score("HELL\nдж")  # what it knows of the text
    bits = float(page.inner_text("#beside-total").split()[0])
    assert bits == pytest.approx(score.bits_per_character, abs=0.1)
    assert page.locator("#beside-next button").count() == 6
    page.fill("#count", "50")
    press(page, "#continue")
    page.fill("#seed", "3")
    page.click("#beside-continue")
    wait(page, "characters.length === 108 && busy === null && firstUnread() < 0 && !companion.busy")
    assert set(text_of(page)[58:]) <= set("\nHELжд")
    assert page.evaluate("companion.characters.join('') === textarea.value")
    page.click("#undo")
    assert page.evaluate("characters.length") == 58


def test_the_keyboard_alone_does_everything(page: Any) -> None:
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id"))
    assert {"text", "continue", "count", "temperature", "seed", "window", "shade", "save-svg",
            "link"} <= reached  # fmt: skip
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


def test_unknown_unusual_and_hostile_characters_are_shown_as_text(page: Any) -> None:
    unusual = "He\u0301llo 👩‍👩‍👧 שלום"
    write(page, unusual)
    note = page.inner_text("#unknown")
    assert "unknown to this model" in note
    assert "◌\u0301 U+0301" in note
    assert page.evaluate("view.clusters.map((one) => one.text)")[1] == "e\u0301"
    assert page.locator("#backdrop .unknown").count() > 2
    assert text_of(page) == unusual
    press(page, "#continue")
    assert page.evaluate("characters.length") > 300
    hostile = "<img src=x onerror=alert(1)></textarea><script>alert(1)</script>\0\x1b\ufffe"
    page.evaluate("(text) => setText(text)", hostile)
    ready(page)
    assert page.locator("img, #backdrop script").count() == 0
    with page.expect_download() as saved:
        page.click("#save-svg")
    root = ElementTree.fromstring(Path(saved.value.path()).read_text("utf-8"))
    assert root.tag.endswith("svg")
    assert "alert" in re.sub(r"\s", "", "".join(root.itertext()))


def test_pictures_and_text_are_saved(page: Any) -> None:
    starts = {"#save-png": b"\x89PNG", "#save-text": b"ROMEO:", "#save-svg": b"<svg"}
    for button, start in starts.items():
        with page.expect_download() as saved:
            page.click(button)
        assert Path(saved.value.path()).read_bytes().startswith(start)


def test_a_link_restores_text_and_settings_and_a_broken_one_leaves_working_controls(
    open_page: Open,
) -> None:
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
    page = ready(open_page("#temperature=wild&top_k=-7&window=none&count=1e99&seed=x&text"))
    assert page.evaluate("settings.window") == "stride"
    assert 1 <= page.evaluate("settings.count") <= 10_000
    page.click("#continue")
    wait(page, "characters.length > 0")


def test_two_pages_do_not_disturb_each_other(open_page: Open) -> None:
    pages = [ready(open_page("#seed=1&text=ROMEO:%0A")) for _ in range(2)]
    for page in pages:
        page.click("#continue")
    for page in pages:
        wait(page, "characters.length >= 300 && busy === null")
    assert text_of(pages[0]) == text_of(pages[1])


def test_damaged_weights_are_named(open_page: Open, html: Path, tmp_path: Path) -> None:
    content = html.read_text("utf-8")
    start = content.index('id="weights">') + 500
    damaged = tmp_path / "damaged.html"
    damaged.write_text(content[:start] + content[start + 40 :], "utf-8")
    page = open_page(path=damaged)
    page.wait_for_selector("#problem:not([hidden])")
    assert "weights in this page are damaged" in page.inner_text("#problem")
    assert page.is_disabled("#continue")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1600])
def test_it_fits_the_screen_and_can_be_read(open_page: Open, scheme: str, width: int) -> None:
    size = {"width": width, "height": 800}
    page = ready(open_page(color_scheme=scheme, viewport=size, has_touch=True))
    write(page, "HELLO world and all the others")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(CONTRASTS) >= 4.5
    heights = "[...document.querySelectorAll('.tools button')].map((b) => b.offsetHeight)"
    assert min(filter(None, page.evaluate(heights))) >= 44  # of those that are shown


# The lowest contrast of text on any colour that it can have behind it (WCAG 2, relative luminance).
CONTRASTS = """() => {
  const style = getComputedStyle(document.documentElement);
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const named = (name) => style.getPropertyValue(`--${name}`).trim();
  const luminance = (...colours) => {
    for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
    const [r, g, b] = Array.from(canvas.getImageData(0, 0, 1, 1).data).map((v) => v / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (text, ...behind) => {
    const [light, dark] = [luminance(named(text)), luminance(...behind)].sort((x, y) => y - x);
    return (light + 0.05) / (dark + 0.05);
  };
  const shade = `rgba(${named('attention')}, ${MOST_OPAQUE})`;
  const [paper, sheet, accent] = ['paper', 'sheet', 'accent'].map(named);
  return Math.min(
    ...[[paper], [sheet], [sheet, shade]].map((colours) => contrast('ink', ...colours)),
    ...[1, 2, 3, 4].map((n) => contrast('ink', named(`surprise-${n}`))),
    contrast('quiet', paper), contrast('quiet', sheet), contrast('problem', paper),
    contrast('on-accent', accent),
  );
}"""
