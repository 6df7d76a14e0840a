"""Facts about a model -> its card, the README.md of a Hugging Face folder.

Enters: names and values. Leaves: Markdown, with them escaped.
"""

import re
from collections.abc import Sequence

Facts = Sequence[tuple[str, str]]


def model_card(title: str, facts: Facts, losses: Facts, measured_on: str, use: str) -> str:
    """Return the card.

    Args:
        title: of the model.
        facts: what it is, and how it was trained.
        losses: of it and of others, on the same text; may be empty.
        measured_on: that text.
        use: code that loads it.
    """
    parts = [
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\n"
        "tags: [character-level]\n---\n",
        f"# {_plain(title)}\n",
        "A character-level causal transformer, trained from scratch with shakespeare_lm. It knows "
        "characters, and no words: it continues texts like its corpus, and nothing else.\n",
        "```python\n" + use + "\n```\n",
        "## What it is\n",
        _table("", "", facts),
    ]
    if losses:
        parts += [
            "## How good it is\n",
            "Nats per character, lower is better, in blocks of its context: on "
            f"{_plain(measured_on)}.\n",
            _table("model", "nats per character", losses),
        ]
    return "\n".join(parts)


def _table(first: str, second: str, rows: Facts) -> str:
    lines = [f"| {first} | {second} |", "|---|---|"]
    lines += [f"| {_plain(name)} | {_plain(value)} |" for name, value in rows]
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    """Escape what Markdown and HTML would read as markup."""
    one_line = " ".join(text.split())
    return re.sub(r"([\\`*_{}\[\]<>()#|!])", r"\\\1", one_line)
