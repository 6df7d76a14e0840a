"""The command `serve`: a model over HTTP, for clients of OpenAI's completions and for browsers.

Enters: the options of `scripts/serve.py`. Leaves: a server that runs until it is told to stop.
"""

import argparse
import socket
import sys
from typing import get_args

from shakespeare_lm.checkpoint.reading import read_checkpoint
from shakespeare_lm.checkpoint.runs import find_checkpoint
from shakespeare_lm.commands.exit_code import run
from shakespeare_lm.commands.page import unmeasured_page
from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.data.tokenizer import Unknown
from shakespeare_lm.errors import UserError, check_at_least, check_at_most, import_extra
from shakespeare_lm.hardware import DEVICES, DTYPES
from shakespeare_lm.invocation import command_line

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
# Requests that are running when the server is told to stop have so long to end.
_SECONDS_TO_FINISH = 20


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all options."""
    parser = argparse.ArgumentParser(
        prog=command_line("serve"),
        description="Serve a model over HTTP: POST /v1/completions as OpenAI's clients speak it, "
        "GET /v1/models, GET /health, and the model's page at /.",
    )
    add = parser.add_argument
    add(
        "--ckpt",
        metavar="PATH",
        help="a checkpoint, or the folder of a run (default: the newest run's best)",
    )
    add("--port", type=int, default=8000, help="0 takes a free one (8000)")
    add(
        "--host",
        default="127.0.0.1",
        help="the address to listen on; anybody who can reach it can use the model (127.0.0.1: "
        "programs on this machine)",
    )
    add("--name", default="shakespeare-lm", help="of the model, for clients (shakespeare-lm)")
    add("--max_tokens", type=int, default=4096, help="the most characters of a completion (4096)")
    add("--max_waiting", type=int, default=256, help="texts that may wait; then 429 (256)")
    add("--device", choices=DEVICES, default="cpu", help="auto takes a GPU if there is one (cpu)")
    add("--dtype", choices=DTYPES, default="float32", help="of the weights (float32)")
    add(
        "--unknown",
        choices=get_args(Unknown),
        default="error",
        help="characters never seen in training: refuse, drop, or replace (error)",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command; return the exit code."""
    arguments = build_parser().parse_args(argv)
    return run(lambda: serve(arguments))


def serve(arguments: argparse.Namespace) -> int:
    """Serve until a signal: requests that are running may then end."""
    uvicorn = import_extra("uvicorn", "serve", "serving")
    import_extra("starlette", "serve", "serving")
    from shakespeare_lm.serving.app import ServingConfig, build_app
    from shakespeare_lm.serving.engine import Engine

    check_at_least(1, max_tokens=arguments.max_tokens, max_waiting=arguments.max_waiting)
    check_at_least(0, port=arguments.port)
    check_at_most(65_535, port=arguments.port)
    path = find_checkpoint(arguments.ckpt)
    completer = Completer.from_checkpoint(path, arguments.device, arguments.dtype)
    try:
        page = unmeasured_page(path, read_checkpoint(path), arguments.name)
    except UserError:  # such as a memory: the rest is worth having without
        page = ""
    config = ServingConfig(
        name=arguments.name,
        page=page,
        max_tokens=arguments.max_tokens,
        unknown=arguments.unknown,
        **({} if arguments.host in _LOOPBACK else {"hosts": ("*",)}),
    )
    with _listening(arguments.host, arguments.port) as listener:
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        print(
            f"model: {path}\n{arguments.name}: http://{shown}:{port}", file=sys.stderr, flush=True
        )
        app = build_app(completer, Engine(completer, arguments.max_waiting), config)
        settings = uvicorn.Config(
            app, log_level="warning", access_log=False,
            timeout_graceful_shutdown=_SECONDS_TO_FINISH,
        )  # fmt: skip
        uvicorn.Server(settings).run(sockets=[listener])
    return 0


def _listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"cannot listen on {host}, port {port}: {reason}") from None
