"""The command `score`: how likely a text is, as figures, as JSON, or in colours."""

import json
import math
import sys
from argparse import ArgumentParser, Namespace

from rich.console import Console
from rich.text import Text

from shakespeare_lm.commands.console import command, progress_bar, utf8
from shakespeare_lm.commands.model_options import add_shared, load_completer
from shakespeare_lm.commands.text_files import opened, read_text
from shakespeare_lm.completion.scoring import Score
from shakespeare_lm.errors import UserError, printable

# From how many bits of surprise a character is shown in which colours; 3 bits are a probability of
# 1/8. The colours get darker for colour-blind readers too (ColorBrewer's YlOrRd).
_COLOURS = {
    1: "black on #ffffb2",
    3: "black on #fecc5c",
    5: "black on #fd8d3c",
    8: "white on #bd0026",
}


def _add_options(parser: ArgumentParser) -> None:
    text = parser.add_mutually_exclusive_group(required=True).add_argument
    text("file", metavar="FILE", nargs="?", help="a UTF-8 file, - for stdin")
    text("--text", type=utf8, metavar="TEXT", help="the text itself, instead of FILE")
    add = parser.add_argument
    add("--json", action="store_true", help="print every character's log-probability as JSON")
    add(
        "--adaptive",
        action="store_true",
        help="let the model learn from what it has read, and mix in n-grams of it",
    )
    add("--top", type=int, default=0, metavar="K", help="name the K likeliest at each position")
    add_shared(parser, "ckpt", "device", "dtype", "window", "unknown", "output")


@command("score", "Say how likely a model finds a text, character by character.", _add_options)
def main(arguments: Namespace) -> int:
    """Score the text, and only then open the output: a mistake leaves no empty file."""
    text = read_text(arguments.file) if arguments.text is None else arguments.text
    completer = load_completer(arguments, arguments.file)
    if arguments.adaptive and arguments.window != "stride":
        raise UserError("--adaptive has windows of its own: leave --window out")
    options = {name: getattr(arguments, name) for name in ("top", "window", "unknown", "adaptive")}
    with progress_bar("scoring") as progress:
        result = completer.score(text, **options, progress=progress)
    with opened(arguments.output) as output:
        if arguments.json:
            output.write(as_json(result) + "\n")
            return 0
        if output is sys.stdout:
            print_in_colours(result)
        if arguments.top:
            output.write("\n".join(alternative_lines(result)) + "\n")
        output.write(summary(result) + "\n")
    return 0


def summary(score: Score) -> str:
    return (
        f"characters          {len(score.log_probabilities):,} (all but the first)\n"
        f"total               {score.total_nats:.4f} nats\n"
        f"bits per character  {score.bits_per_character:.4f}\n"
        f"perplexity          {score.perplexity:.4f}"
    )


def as_json(score: Score) -> str:
    """Return everything as one JSON object; its lists have one item per character, and null for the
    first, which is not scored.
    """
    content = {
        "characters": len(score.log_probabilities),
        "total_nats": score.total_nats,
        "bits_per_character": score.bits_per_character,
        "perplexity": score.perplexity,
        "text": score.text,
        "log_probabilities": [None, *score.log_probabilities],
    }
    if score.alternatives:
        content["alternatives"] = [None, *score.alternatives]
    return json.dumps(content, ensure_ascii=False)


def print_in_colours(score: Score) -> None:
    """Print the text in colours if stdout is a terminal."""
    console = Console(soft_wrap=True, highlight=False)
    if console.is_terminal:
        console.print(coloured(score), "", _legend(), sep="\n")


def coloured(score: Score) -> Text:
    """Return the text, each character coloured by its surprise."""
    shown = Text(printable(score.text[0]))
    for character, likelihood in zip(score.text[1:], score.log_probabilities, strict=True):
        style = _style(-likelihood / math.log(2))
        # A newline has no visible body to colour.
        visible = "↵\n" if style and character == "\n" else printable(character)
        shown.append(visible, style)
    return shown


def _legend() -> Text:
    shown = Text("surprise in bits: below 1 ")
    for bits, style in _COLOURS.items():
        shown.append(f" {bits} and more ", style)
    return shown


def _style(bits: float) -> str:
    return next((_COLOURS[least] for least in reversed(_COLOURS) if bits >= least), "")


def alternative_lines(score: Score) -> list[str]:
    """Return one line per character: position, probability, and the likeliest characters."""
    lines = []
    scored = zip(score.text[1:], score.log_probabilities, score.alternatives, strict=True)
    for position, (character, likelihood, likeliest) in enumerate(scored, start=1):
        own = f"{character!r} {math.exp(likelihood):.3f}"
        best = "  ".join(f"{other!r} {math.exp(value):.3f}" for other, value in likeliest)
        lines.append(f"{position:6}  {own:12}  likeliest  {best}")
    return lines
