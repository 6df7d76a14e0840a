"""The command `complete`: prompts from the command line, files or stdin become text, which is
written as it is made.
"""

import argparse
import sys
from contextlib import suppress
from typing import Any, TextIO

from shakespeare_lm.commands.console import run
from shakespeare_lm.commands.jsonl import complete_lines
from shakespeare_lm.commands.model_options import add_model_options, load_completer
from shakespeare_lm.commands.text_files import STDIN, opened, read_text, stdin
from shakespeare_lm.completion.completer import COMPLETION_OPTIONS, Completer
from shakespeare_lm.errors import UserError, one_line
from shakespeare_lm.invocation import command_line


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all options."""
    parser = argparse.ArgumentParser(
        prog=command_line("complete"),
        description="Complete a prompt with a trained model. Only the text goes to stdout.",
    )
    _add_prompt_options(parser.add_argument_group("prompt").add_mutually_exclusive_group())
    _add_sampling_options(parser.add_argument_group("sampling"))
    _add_length_options(parser.add_argument_group("length"))
    model = parser.add_argument_group("model, input and output")
    add_model_options(model, dtype="auto")
    # fmt: off
    model.add_argument("--compile", action="store_true",
                       help="compile the step: slow to start; on a CPU only for single samples")
    model.add_argument("--no_cache", dest="cache", action="store_false",
                       help="read whole windows, to compare")
    # fmt: on
    return parser


# fmt: off
def _add_prompt_options(group: Any) -> None:
    add = group.add_argument
    add("--prompt", metavar="TEXT", help="the text to complete, - for stdin (default: a new line)")
    add("--prompt_file", metavar="FILE", help="a UTF-8 file with the prompt, - for stdin")
    add("--jsonl", metavar="FILE",
        help='many prompts, one {"prompt": ...} per line, - for stdin; adds "completion" to each; '
        'further keys: "id", "unknown", sampling and length options by name, "stream": true for '
        "pieces of the text as they are made")
    add("--interactive", action="store_true", help="ask for prompts until Ctrl-D")


def _add_sampling_options(group: Any) -> None:
    add = group.add_argument
    add("--greedy", action="store_true", help="always take the most likely character")
    add("--temperature", type=float, default=0.8, metavar="T",
        help="below 1 safer, above 1 more varied, 0 greedy (default: 0.8)")
    add("--top_k", type=int, metavar="K", help="keep only the K likeliest characters")
    add("--top_p", type=float, metavar="P",
        help="keep only the likeliest, with total probability P")
    add("--min_p", type=float, metavar="P",
        help="drop those less than P times as likely as the likeliest")
    add("--seed", type=int, help="make the result repeatable")


def _add_length_options(group: Any) -> None:
    add = group.add_argument
    add("--max_new_tokens", type=int, default=500, metavar="N",
        help="length limit in characters (default: 500)")
    add("--max_lines", type=int, metavar="N",
        help="limit of lines, counting the prompt's last one")
    add("--stop", action="append", default=[], metavar="TEXT",
        help="end before TEXT; repeatable")
    add("--num_samples", type=int, default=1, metavar="N", help="how many completions (default: 1)")
# fmt: on


def main(argv: list[str] | None = None) -> int:
    """Run the command; return the exit code."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if arguments.interactive and (arguments.output or arguments.num_samples != 1):
        parser.error("--interactive cannot be combined with --output or --num_samples")
    return run(lambda: complete(arguments))


def complete(arguments: argparse.Namespace) -> int:
    """Complete the prompts; return 1 if some of many could not be completed."""
    many = arguments.jsonl is not None
    prompt = None if many or arguments.interactive else _prompt(arguments)
    inputs = arguments.prompt_file, arguments.jsonl
    completer = load_completer(arguments, *inputs, compile=arguments.compile)
    names = ("max_new_tokens", "seed", *COMPLETION_OPTIONS)
    options = {name: getattr(arguments, name) for name in names}
    # All options are checked before the output file is opened: a mistake leaves no empty file.
    if prompt is not None:
        pieces = completer.stream(prompt, num_samples=arguments.num_samples, **options)
        with opened(arguments.output) as output:
            _write_samples(output, prompt, pieces, arguments.num_samples)
        return 0
    completer.stream("", num_samples=arguments.num_samples, **options)
    if arguments.interactive:
        _converse(completer, options)
        return 0
    with opened(arguments.output) as output:
        defaults = {**options, "num_samples": arguments.num_samples}
        return complete_lines(completer, arguments.jsonl, output, defaults)


def _prompt(arguments: argparse.Namespace) -> str:
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
    """Complete line after line; Ctrl-C ends a completion, Ctrl-D the command."""
    with suppress(ImportError):  # not available on Windows
        import readline  # noqa: F401  (gives `input` a history and line editing)
    stdin()  # an error if it is closed
    while True:
        try:
            prompt = input("> " if sys.stdin.isatty() else "")
            for piece in completer.stream(prompt, **options):
                print(piece, end="", flush=True)
        except EOFError:
            break
        except UserError as error:
            print(f"error: {one_line(error)}", file=sys.stderr)
            continue
        except KeyboardInterrupt:
            pass
        print()
