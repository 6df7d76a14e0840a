"""The command `serve`: a model over HTTP, for clients of OpenAI's completions and for browsers."""

import re
import socket
import sys
from argparse import ArgumentParser, Namespace
from contextlib import closing
from pathlib import Path

from shakespeare_lm.checkpoint.reading import read_checkpoint
from shakespeare_lm.checkpoint.runs import find_checkpoint
from shakespeare_lm.commands.console import command, utf8
from shakespeare_lm.commands.model_options import add_shared
from shakespeare_lm.commands.page import unmeasured_page
from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.errors import UserError, check_at_least, check_at_most, import_extra, one_line

_PACKAGES = ("uvicorn", "starlette", "pydantic")


# fmt: off
def _add_options(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add_shared(parser, "ckpt", "device", "dtype", "unknown")
    add("--port", type=int, default=8000, help="0 takes a free one")
    add("--host", default="127.0.0.1",
        help="the address to listen on; anybody who can reach it can use the model; 127.0.0.1 "
        "is for programs on this machine")
    add("--name", type=utf8, default="shakespeare-lm", help="of the model, for clients")
    add("--max_tokens", type=int, default=4096, help="the most characters of a completion")
    add("--max_waiting", type=int, default=256, help="texts that may wait; then 429")
    add("--threads", type=int, default=1,
        help="that compute on a CPU; one leaves the other cores to the connections")
    add("--allow_origin", action="append", default=[], metavar="ORIGIN",
        help="a site whose pages may use the server, such as https://example.com, or * for all; "
        "several times for several")
# fmt: on


@command(
    "serve",
    "Serve a model over HTTP: POST /v1/completions as OpenAI's clients speak it, GET /v1/models, "
    "GET /health, and the model's page at /.",
    _add_options,
)
def main(arguments: Namespace) -> int:
    """Serve until a signal; requests that are running may then end."""
    for name in _PACKAGES:
        import_extra(name, "serve", "serving")
    check_at_least(1, **{n: vars(arguments)[n] for n in ("max_tokens", "max_waiting", "threads")})
    check_at_least(0, port=arguments.port)
    check_at_most(65_535, port=arguments.port)
    for origin in arguments.allow_origin:
        if not re.fullmatch(r"\*|null|[a-z]+://[^/\s]+", origin):
            raise UserError(f"allow_origin is {origin!r}: expected https://HOST[:PORT], or *")
    path = find_checkpoint(arguments.ckpt)
    # Before the model is loaded, which takes long: a port that is taken is known at once.
    with listening(arguments.host, arguments.port) as listener:
        _serve(arguments, path, listener)
    return 0


def _serve(arguments: Namespace, path: Path, listener: socket.socket) -> None:
    import torch
    import uvicorn

    from shakespeare_lm.serving.app import LOOPBACK, Server
    from shakespeare_lm.serving.connections import settings
    from shakespeare_lm.serving.engine import Engine

    # Before anything is computed: with a second team of threads, beside the main thread's, OpenMP
    # has more threads than cores, and lets them sleep between the many small products of a step.
    torch.set_num_threads(arguments.threads)
    completer = Completer.from_checkpoint(path, arguments.device, arguments.dtype)
    page = no_page = ""
    try:
        page = unmeasured_page(path, read_checkpoint(path), arguments.name)
    except UserError as error:  # such as a memory: the rest is worth having without
        no_page = one_line(error)
    with closing(Engine(completer, arguments.max_waiting)) as engine:
        host, port = listener.getsockname()[:2]
        host = f"[{host}]" if ":" in host else host
        address = f"http://{host}:{port}"
        _say(f"model: {path}")
        _say(f"page: none: {no_page}" if no_page else f"page: {address} (open it in a browser)")
        _say(f"API: {address}/v1 (OpenAI's base_url; model: {arguments.name})")
        _say("stop: Ctrl-C")
        server = Server(
            completer, engine, arguments.name, page, no_page, arguments.max_tokens,
            arguments.unknown, hosts=LOOPBACK if host in LOOPBACK else ("*",),
            origins=arguments.allow_origin, log=_say,
        )  # fmt: skip
        uvicorn.Server(settings(server.build_app())).run(sockets=[listener])


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that accepts connections there; port 0 takes a free one."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"cannot listen on {host}, port {port}: {reason}") from None
    # asyncio sets TCP_NODELAY only where the protocol is named, which create_server does not do;
    # without it, each answer on a connection that is kept waits 40 ms for an acknowledgement.
    return socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, listener.detach())
