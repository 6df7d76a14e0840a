"""A model and facts about it -> one self-contained HTML file. Only its own scripts and style are
allowed, by their checksums: the page loads nothing and sends nothing.
"""

import json
from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from shakespeare_lm.checkpoint.exportable import check_known
from shakespeare_lm.checkpoint.reading import Checkpoint
from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.errors import UserError, printable
from shakespeare_lm.methods.networks import NetworkOptions
from shakespeare_lm.page.history import History
from shakespeare_lm.page.packing import Packed

# The scripts that run the model in a web worker, and those that show it.
_WORKER = ("tensor", "weights", "transformer", "memory", "history", "sampling", "random",
           "sliding_window", "worker")  # fmt: skip
_MAIN = ("alphabet", "sampling", "text_view", "choices", "inside", "picture", "settings", "guess",
         "main", "compare", "events", "moment_slider")  # fmt: skip
# With so many weights, plain loops take a tenth of a second per character.
MAX_WEIGHTS = 50_000_000
# Of a memory, which the page counts when it is opened.
MAX_COUNTED_CHARACTERS = 5_000_000
_LONGEST_OPENING = 80


@dataclass(frozen=True)
class Companion:
    """Another model on a page, which reads the same text."""

    name: str
    tokenizer: CharTokenizer
    config: NetworkOptions
    packed: Packed


@dataclass(frozen=True)
class PageContent:
    """Everything on the page."""

    title: str
    subtitle: str  # one line about the model
    tokenizer: CharTokenizer
    config: NetworkOptions
    packed: Packed
    prompt: str  # the text that the page begins with
    card: Sequence[tuple[str, str]]  # facts about the model, with their names
    chart: str = ""  # the curves of its losses, as HTML
    samples: Sequence[tuple[int, str]] = ()  # the step and the text that the model wrote then
    passage: str = ""  # held-out text for the guessing game
    history: History | None = None  # its weights at earlier moments
    beside: Companion | None = None


def check_fits(checkpoint: Checkpoint) -> None:
    """Raise a `UserError` if the page's JavaScript does not know the model, or it is too large."""
    check_known(checkpoint, "a page", with_memory=True)
    weights = checkpoint.config.num_matrix_weights(checkpoint.tokenizer.vocab_size)
    if weights > MAX_WEIGHTS:
        raise UserError(
            f"the model has {weights:,} weights: expected at most {MAX_WEIGHTS:,} for a page; use "
            "a smaller model, or complete with it in Python"
        )
    counted = checkpoint.weights.get("ngrams.text", ())
    if len(counted) > MAX_COUNTED_CHARACTERS:
        raise UserError(
            f"the n-gram memory has counted {len(counted):,} characters: expected at most "
            f"{MAX_COUNTED_CHARACTERS:,} for a page; use a model without a memory"
        )


def opening(tokenizer: CharTokenizer, texts: Iterable[str]) -> str:
    """Return the text that a page begins with: the first whole line of these texts that has
    letters, less the characters that the model does not know; empty if there is none.
    """
    lines = (line for text in texts for line in [*text.split("\n")[1:], text])
    for line in lines:
        known = tokenizer.decode(tokenizer.encode(line.strip()[:_LONGEST_OPENING], "skip"))
        if any(character.isalpha() for character in known):
            return known + "\n" * ("\n" in tokenizer.vocabulary)
    return ""


def build_page(content: PageContent) -> str:
    """Return the whole page."""
    style = _source("page.css")
    worker, main = ("\n".join(_source(f"{name}.js") for name in part) for part in (_WORKER, _MAIN))
    facts = (f"<dt>{_shown(name)}</dt><dd>{_shown(fact)}</dd>" for name, fact in content.card)
    page = Template(_source("page.html")).substitute(
        policy=_policy(style, main),
        title=_shown(content.title),
        subtitle=_shown(content.subtitle),
        choices=len(content.tokenizer.vocabulary),
        chart=printable(content.chart),
        learned="" if content.chart or content.samples else "hidden",
        card="".join(facts),
        model=_model(content),
        weights=b64encode(content.packed.data).decode(),
        earlier=b64encode(content.history.data).decode() if content.history else "",
        beside=b64encode(content.beside.packed.data).decode() if content.beside else "",
        style=style,
        worker=worker,
        main=main,
    )
    return page.encode("utf-8", "backslashreplace").decode()  # of bytes in a file's name


def _shown(text: str) -> str:
    """Return a text as one line of HTML, with escapes for control characters."""
    return escape(printable(" ".join(text.split())))


def _model(content: PageContent) -> str:
    """Return what the scripts read, as JSON that cannot end its script element."""
    model = {
        "name": printable(content.title),
        **_network(content),
        "history": content.history.manifest if content.history else None,
        "beside": content.beside and {"name": content.beside.name, **_network(content.beside)},
        "prompt": content.prompt,
        "passage": content.passage,
        "samples": [(step, printable(text)) for step, text in content.samples],
    }
    return json.dumps(model).replace("<", "\\u003c")


def _network(content: PageContent | Companion) -> dict[str, Any]:
    """Return what the worker reads."""
    tokenizer, config = content.tokenizer, content.config
    sizes = {"d_feedforward": config.feedforward_width, "vocab_size": tokenizer.vocab_size}
    return {
        "vocabulary": tokenizer.vocabulary,
        "choices": len(tokenizer.vocabulary),
        "config": {**asdict(config), **sizes},
        "manifest": content.packed.manifest,
    }


def _policy(style: str, script: str) -> str:
    style_sum, script_sum = (
        f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'" for text in (style, script)
    )
    return (
        f"default-src 'none'; script-src {script_sum}; worker-src blob:; style-src {style_sum}; "
        "img-src blob:; base-uri 'none'; form-action 'none'"
    )


def _source(name: str) -> str:
    return files("shakespeare_lm.page").joinpath(name).read_text("utf-8")
