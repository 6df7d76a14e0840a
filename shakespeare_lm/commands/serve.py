"""The command `serve`: a model over HTTP, for clients of OpenAI's completions and for browsers."""

import socket
import sys
from argparse import ArgumentParser, Namespace

from shakespeare_lm.checkpoint.reading import read_checkpoint
from shakespeare_lm.checkpoint.runs import find_checkpoint
from shakespeare_lm.commands.console import command
from shakespeare_lm.commands.model_options import CKPT, DEVICE, UNKNOWN
from shakespeare_lm.commands.page import unmeasured_page
from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.errors import UserError, check_at_least, check_at_most, import_extra
from shakespeare_lm.hardware import DTYPES

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
# Requests that are running when the server is told to stop have so long to end.
_SECONDS_TO_FINISH = 20


# fmt: off
def _add_options(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--ckpt", **CKPT)
    add("--port", type=int, default=8000, help="0 takes a free one (8000)")
    add("--host", default="127.0.0.1",
        help="the address to listen on; anybody who can reach it can use the model (127.0.0.1: "
        "programs on this machine)")
    add("--name", default="shakespeare-lm", help="of the model, for clients (shakespeare-lm)")
    add("--max_tokens", type=int, default=4096, help="the most characters of a completion (4096)")
    add("--max_waiting", type=int, default=256, help="texts that may wait; then 429 (256)")
    add("--device", **DEVICE)
    add("--dtype", choices=DTYPES, default="float32", help="of the weights (float32)")
    add("--unknown", **UNKNOWN,
        help="characters never seen in training: refuse, drop, or replace (error)")
# fmt: on


@command(
    "serve",
    "Serve a model over HTTP: POST /v1/completions as OpenAI's clients speak it, GET /v1/models, "
    "GET /health, and the model's page at /.",
    _add_options,
)
def main(arguments: Namespace) -> int:
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
    hosts = ServingConfig.hosts if arguments.host in _LOOPBACK else ("*",)
    config = ServingConfig(arguments.name, page, arguments.max_tokens, arguments.unknown, hosts)
    engine = Engine(completer, arguments.max_waiting)
    with _listening(arguments.host, arguments.port) as listener:
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        started = f"model: {path}\n{arguments.name}: http://{shown}:{port}"
        print(started, file=sys.stderr, flush=True)
        app = build_app(completer, engine, config)
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
