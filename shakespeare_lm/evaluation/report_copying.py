"""Whether models copy -> a section of the report.

Enters: what was measured on their samples. Leaves: HTML: a chart, tables, and samples.
"""

from collections.abc import Sequence
from html import escape

from shakespeare_lm.evaluation.copying import Copying
from shakespeare_lm.evaluation.html_table import html_table
from shakespeare_lm.evaluation.line_chart import Axis, Line, line_chart
from shakespeare_lm.evaluation.novelty import Novelty

_SAMPLES_SHOWN, _SAMPLE_CHARACTERS = 3, 400


def copied_chart(copied: dict[str, Copying]) -> str:
    """Return a chart with one line per model, by name, and one for the held-out text."""
    texts = {f"{name}, samples": one.sampled for name, one in copied.items()}
    texts["held-out text"] = next(iter(copied.values())).held_out
    longest = max(_last_copied(one) for one in texts.values())
    lines = [
        Line(name, list(enumerate(one.copied[:longest], start=1))) for name, one in texts.items()
    ]
    chart = line_chart(
        "Substrings that stand in the training part",
        Axis("length of the substrings in characters", 1, max(2, longest)),
        Axis("share", 0, 1),
        lines,
    )
    return (
        "<p>Text sampled from the model, looked up in its training part. "
        "Held-out text is the yardstick: a person wrote it, so what it shares with the training "
        "part is the language. A model whose curve lies far above it copies "
        "(McCoy et al. 2023).</p>" + chart
    )


def _last_copied(one: Novelty) -> int:
    return max((length for length, share in enumerate(one.copied, start=1) if share), default=1)


def copying_section(name: str, one: Copying) -> str:
    """Return the figures of a model, its longest copies, and samples."""
    texts = {"samples": one.sampled, "held-out text": one.held_out}
    head = ("characters", "known words", "distinct words", "pairs", "triples", "")
    rows = [
        (
            f"{text.characters:,}",
            f"{text.known_words:.1%}",
            *(f"{share:.1%}" for share in text.distinct),
            label,
        )
        for label, text in texts.items()
    ]
    spans = "".join(
        f"<p>Longest copy in the {label}: {len(text.longest.text)} characters, from line "
        f'{text.longest.line:,} of the training part:</p><p class="text sample">'
        f"{escape(text.longest.text)}</p>"
        for label, text in texts.items()
    )
    return (
        f'<h3 class="quiet">{escape(name)}</h3>'
        f"{html_table(head, rows, numbers=5)}{_extraction(one)}"
        f"{spans}<h3>Samples</h3>{_samples(one.samples)}"
    )


def _extraction(one: Copying) -> str:
    rows = [
        (_percent(rate.train), _percent(rate.held_out), f"{rate.suffix} characters")
        for rate in one.extraction
    ]
    table = html_table(
        ("training part", "held-out", "greedy completion is right for"), rows, numbers=2
    )
    return (
        f"<p>After {one.prefix} characters of the text, how often greedy completion repeats what "
        f"follows in it (Carlini et al. 2022):</p>{table}"
    )


def _percent(share: float | None) -> str:
    return "too short" if share is None else f"{share:.1%}"


def _samples(samples: Sequence[str]) -> str:
    return "".join(
        f'<p class="text sample">{escape(text[:_SAMPLE_CHARACTERS])}</p>'
        for text in samples[:_SAMPLES_SHOWN]
    )
