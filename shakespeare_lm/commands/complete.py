"""The command `complete`: prompts from the command line, files, stdin or a conversation become
text, which is written as it is made.
"""

import sys
from argparse import ArgumentParser, Namespace
from contextlib import suppress
from typing import Any, TextIO

from shakespeare_lm.commands.console import UsageError, command, did_you_mean, number, utf8
from shakespeare_lm.commands.jsonl import complete_lines
from shakespeare_lm.commands.model_options import add_shared, load_completer
from shakespeare_lm.commands.text_files import STDIN, opened, opened_input, read_text, stdin
from shakespeare_lm.completion.completer import COMPLETION_OPTIONS, Completer
from shakespeare_lm.completion.sampling import SamplingOptions
from shakespeare_lm.errors import UserError, one_line

# What can be changed while a conversation goes on: the option, and its type.
_SETTINGS: dict[str, tuple[str, type]] = {":temp": ("temperature", float), ":seed": ("seed", int)}
_HELP = "Type a beginning, or :temp 0.5, :seed 3, :help, :quit."


# fmt: off
def _add_options(parser: ArgumentParser) -> None:
    add = parser.add_argument_group("prompt").add_mutually_exclusive_group().add_argument
    add("--prompt", type=utf8, metavar="TEXT",
        help="the text to complete, - for stdin (default: a new line)")
    add("--prompt_file", metavar="FILE", help="a UTF-8 file with the prompt, - for stdin")
    add("--jsonl", metavar="FILE",
        help='many prompts, one {"prompt": ...} per line, - for stdin; adds "completion" to each; '
        'further keys: "id", "unknown", sampling and length options by name, "stream": true for '
        "pieces of the text as they are made")
    add("--interactive", action="store_true", help="ask for prompts until Ctrl-D")
    add = parser.add_argument_group("sampling").add_argument
    add("--greedy", action="store_true", help="always take the most likely character")
    add("--temperature", type=float, default=SamplingOptions.temperature, metavar="T",
        help="below 1 safer, above 1 more varied, 0 greedy")
    add("--top_k", type=int, metavar="K", help="keep only the K likeliest characters")
    add("--top_p", type=float, metavar="P",
        help="keep only the likeliest, with total probability P")
    add("--min_p", type=float, metavar="P",
        help="drop those less than P times as likely as the likeliest")
    add("--seed", type=int, help="make the result repeatable")
    add = parser.add_argument_group("length").add_argument
    add("--max_new_tokens", type=int, default=500, metavar="N", help="length limit in characters")
    add("--max_lines", type=int, metavar="N",
        help="limit of lines, counting the prompt's last one")
    add("--stop", type=utf8, action="append", default=[], metavar="TEXT",
        help="end before TEXT; repeatable")
    add("--num_samples", type=int, default=1, metavar="N", help="how many completions")
    model = parser.add_argument_group("model, input and output")
    add_shared(model, "ckpt", "device")
    add_shared(model, "dtype", default="auto")
    add_shared(model, "window", "unknown", "output")
    model.add_argument("--compile", action="store_true",
        help="compile the step: slow to start; on a CPU only for single samples")
    model.add_argument("--no_cache", dest="cache", action="store_false",
        help="read whole windows, to compare")
# fmt: on


@command(
    "complete",
    "Complete a prompt with a trained model. Only the text goes to stdout.",
    _add_options,
)
def main(arguments: Namespace) -> int:
    """Complete the prompts; return 1 if some of many could not be completed."""
    if arguments.interactive and (arguments.output or arguments.num_samples != 1):
        raise UsageError("--interactive cannot be combined with --output or --num_samples")
    prompt = "" if arguments.jsonl is not None or arguments.interactive else _prompt(arguments)
    inputs = arguments.prompt_file, arguments.jsonl
    completer = load_completer(arguments, *inputs, compile=arguments.compile)
    names = ("max_new_tokens", "seed", *COMPLETION_OPTIONS)
    options = {name: getattr(arguments, name) for name in names}
    # All options are checked before the output file is opened: a mistake leaves no empty file.
    pieces = completer.stream(prompt, num_samples=arguments.num_samples, **options)
    if arguments.interactive:
        _converse(completer, options)
        return 0
    if arguments.jsonl is not None:
        # The input first, so that a missing one leaves no empty output.
        with opened_input(arguments.jsonl) as lines, opened(arguments.output) as output:
            defaults = {**options, "num_samples": arguments.num_samples}
            return complete_lines(completer, arguments.jsonl, lines, output, defaults)
    with opened(arguments.output) as output:
        _write_samples(output, prompt, pieces, arguments.num_samples)
    return 0


def _prompt(arguments: Namespace) -> str:
    path = STDIN if arguments.prompt == STDIN else arguments.prompt_file
    return read_text(path) if path is not None else arguments.prompt or ""


def _write_samples(output: TextIO, prompt: str, pieces: Any, count: int) -> None:
    """Write the first sample as it grows, and the others, made at the same time, after it."""
    others = [prompt] * (count - 1)
    output.write(prompt)
    try:
        for first, *rest in pieces:
            output.write(first)
            output.flush()
            others = [text + piece for text, piece in zip(others, rest, strict=True)]
    finally:  # after Ctrl-C too
        output.write("".join(f"\n\n---\n{text}" for text in others) + "\n")


def _converse(completer: Completer, options: dict[str, Any]) -> None:
    """Complete line after line; Ctrl-C ends a completion, Ctrl-D the command. In a terminal, a line
    that begins with a colon changes an option.
    """
    with suppress(ImportError):  # not available on Windows
        import readline  # noqa: F401  (gives `input` a history and line editing)
    stdin().reconfigure(encoding="utf-8", errors="surrogateescape")  # type: ignore[attr-defined]
    in_terminal = stdin().isatty()
    if in_terminal:
        print(_HELP, file=sys.stderr)
    while True:
        try:
            line = input("> " if in_terminal else "")
            if in_terminal and line.startswith(":"):
                _obey(line, completer, options)
                continue
            for piece in completer.stream(line, **options):
                print(piece, end="", flush=True)
        except EOFError:
            break
        except UserError as error:
            print(f"error: {one_line(error)}", file=sys.stderr)
            continue
        except KeyboardInterrupt:
            pass
        print()


def _obey(line: str, completer: Completer, options: dict[str, Any]) -> None:
    """Change the options as a line such as `:temp 0.5` says; `:quit` raises EOFError, as Ctrl-D."""
    name, _, value = line.strip().partition(" ")
    if name == ":quit":
        raise EOFError
    if name == ":help":
        print(_HELP, file=sys.stderr)
        return
    if name not in _SETTINGS:
        near = did_you_mean(name, (*_SETTINGS, ":help", ":quit"))
        raise UserError(f"unknown command {name}{near or ': :help shows them'}")
    option, kind = _SETTINGS[name]
    try:
        changed = {**options, option: number(kind)(value), "greedy": False}
    except ValueError:
        raise UserError(f"{line}: expected a number, as in {name} {kind(3)}") from None
    completer.stream("", **changed)  # checks the value
    options.update(changed)
