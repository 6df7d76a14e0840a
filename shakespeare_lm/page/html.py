"""A model and what is known about it -> the page, one self-contained HTML file.

Enters: a `PageContent`. Leaves: HTML. Its scripts and its style are allowed by their checksums, and
nothing else is: the page loads nothing and sends nothing.
"""

import json
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from html import escape
from importlib.resources import files
from string import Template

from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.errors import UserError
from shakespeare_lm.model.config import NetworkConfig
from shakespeare_lm.page.packing import Packed

# Both parts of the page: what runs the model, beside the page, and what shows it.
_WORKER = ("tensor", "weights", "transformer", "sampling", "random", "sliding_window", "worker")
_MAIN = ("alphabet", "sampling", "text_view", "choices", "inside", "picture", "settings", "main",
         "events")  # fmt: skip
# Plain loops take a tenth of a second per character with as many weights.
MAX_WEIGHTS = 50_000_000


@dataclass(frozen=True)
class PageContent:
    """Everything on the page.

    Args:
        title: of the page.
        subtitle: one line about the model.
        tokenizer: of the model.
        config: of the model.
        packed: its weights.
        prompt: the text that the page begins with.
        card: facts about the model, with their names.
        chart: the curves of its losses, as HTML; "" for none.
        samples: numbers of steps taken, and what it wrote then.
    """

    title: str
    subtitle: str
    tokenizer: CharTokenizer
    config: NetworkConfig
    packed: Packed
    prompt: str
    card: Sequence[tuple[str, str]]
    chart: str = ""
    samples: Sequence[tuple[int, str]] = ()


def check_fits(config: NetworkConfig, vocab_size: int) -> None:
    """Refuse a model that a page cannot hold.

    Raises:
        UserError: if it has an n-gram memory, or too many weights.
    """
    if config.memory_order:
        raise UserError(
            f"memory_order is {config.memory_order}: a page cannot hold a model that reads n-gram "
            "counts, which take as much room as the whole training part; train one without a memory"
        )
    weights = config.num_matrix_weights(vocab_size)
    if weights > MAX_WEIGHTS:
        raise UserError(
            f"the model has {weights:,} weights: expected at most {MAX_WEIGHTS:,} for a page; use "
            "a smaller model, or complete with it in Python"
        )


def build_page(content: PageContent) -> str:
    """Return the whole page."""
    style, worker, main = _source("page.css"), _joined(_WORKER), _joined(_MAIN)
    return Template(_source("page.html")).substitute(
        policy=_policy(style, main),
        title=escape(content.title),
        subtitle=escape(content.subtitle),
        choices=len(content.tokenizer.vocabulary),
        chart=content.chart,
        learned="" if content.chart or content.samples else "hidden",
        card="".join(
            f"<dt>{escape(name)}</dt><dd>{escape(fact)}</dd>" for name, fact in content.card
        ),
        model=_model(content),
        weights=b64encode(content.packed.data).decode(),
        style=style,
        worker=worker,
        main=main,
    )


def _model(content: PageContent) -> str:
    """Return what the scripts read, as JSON that cannot end its script element."""
    tokenizer, config = content.tokenizer, content.config
    model = {
        "name": content.title,
        "vocabulary": tokenizer.vocabulary,
        "choices": len(tokenizer.vocabulary),
        "config": {
            **asdict(config),
            "d_feedforward": config.feedforward_width,
            "vocab_size": tokenizer.vocab_size,
        },
        "manifest": content.packed.manifest,
        "prompt": content.prompt,
        "samples": list(content.samples),
    }
    return json.dumps(model).replace("<", "\\u003c")


def _policy(style: str, script: str) -> str:
    return (
        f"default-src 'none'; script-src {_checksum(script)}; worker-src blob:; "
        f"style-src {_checksum(style)}; img-src blob:; base-uri 'none'; form-action 'none'"
    )


def _checksum(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def _joined(names: Sequence[str]) -> str:
    return "\n".join(_source(f"{name}.js") for name in names)


def _source(name: str) -> str:
    return files("shakespeare_lm.page").joinpath(name).read_text("utf-8")
