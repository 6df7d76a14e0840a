"""How many requests per second a server answers, and how long they take: two checkouts in turns.

Each starts a server of the same model. Clients keep their connections, and ask again as soon as
they have an answer; some more may ask for long streams, and never read them.
"""

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.complete import save_checkpoint
from benchmarks.nanogpt import SHAPES
from benchmarks.report import print_json, print_row
from benchmarks.timing import ratio_of, spread_of
from shakespeare_lm.errors import UserError

_HERE = Path(__file__).parents[1]
# What a client that never reads asks for: much, and soon.
_SLOW = {"max_tokens": 4096, "n": 4, "stream": True, "logprobs": 20}


class Load(NamedTuple):
    """What some clients saw for some seconds."""

    per_second: float  # requests
    p99: float  # seconds
    errors: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--against", type=Path, default=_HERE, help="another checkout (this one)")
    add("--ckpt", type=Path, help="the model (nanoGPT's laptop shape, random)")
    add("--clients", type=int, nargs="+", default=[1, 16, 64, 200], help="at once (1 16 64 200)")
    add("--characters", type=int, default=20, help="of each answer (20)")
    add("--stream", action="store_true", help="ask for streams")
    add("--slow", type=int, default=0, help="clients besides that never read (0)")
    add("--seconds", type=float, default=5.0, help="of each measurement (5)")
    add("--rounds", type=int, default=3, help="rounds that count, after one to warm up (3)")


def run(arguments: argparse.Namespace, more: Sequence[str]) -> None:
    if more:
        raise UserError(f"serve has no option {' '.join(more)}")
    checkouts = {"here": _HERE, "there": arguments.against.resolve()}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as servers:
        path = arguments.ckpt or save_checkpoint(SHAPES["laptop"], Path(folder) / "model.ckpt")
        ports = {
            name: servers.enter_context(serving(checkout, path.resolve()))
            for name, checkout in checkouts.items()
        }
        clients = {str(count): compare(ports, count, arguments) for count in arguments.clients}
    print_json("serve", torch.device("cpu"), characters=arguments.characters, clients=clients)


@contextmanager
def serving(checkout: Path, path: Path) -> Iterator[int]:
    """Start a checkout's server of the model at `path`; yield its port."""
    words = [sys.executable, "scripts/serve.py", "--ckpt", str(path), "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as log,
        subprocess.Popen(words, cwd=checkout, env=environment, stderr=log) as server,
    ):
        try:
            while not (found := re.search(r"API: http://[\d.]+:(\d+)", _written(log))):
                if server.poll() is not None:
                    raise UserError(f"the server in {checkout} has ended: {_written(log)}")
                time.sleep(0.1)
            yield int(found[1])
        finally:
            server.terminate()


def _written(log: Any) -> str:
    log.seek(0)
    return str(log.read())


def compare(ports: dict[str, int], count: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Let the servers take turns with `count` clients; print and return figures and ratios."""
    loads: dict[str, list[Load]] = {name: [] for name in ports}
    for _ in range(arguments.rounds + 1):
        for name, port in ports.items():
            loads[name].append(asyncio.run(load(port, count, arguments)))
    kept = {name: values[1:] for name, values in loads.items()}  # the first round warms up
    print_row(f"{count} clients", "requests/s", "p99", "errors")
    for name, values in kept.items():
        speed, p99 = (spread_of([one[i] for one in values]).median for i in (0, 1))
        print_row(name, f"{speed:.1f}", f"{p99:.3f} s", str(sum(one.errors for one in values)))
    here, there = ([one.per_second for one in values] for values in kept.values())
    ratio = ratio_of(here, there)
    print(f"here over there: {ratio.median:.2f} times ({ratio.low:.2f}-{ratio.high:.2f})")
    return {**kept, "here_over_there": ratio}


async def load(port: int, count: int, arguments: argparse.Namespace) -> Load:
    """Ask with `count` clients, for as many seconds as `arguments` say."""
    body = {"max_tokens": arguments.characters, "stream": arguments.stream}
    slow = [await _asked(port, _SLOW) for _ in range(arguments.slow)]
    until = time.monotonic() + arguments.seconds
    clients = [_client(port, body, until) for _ in range(count)]
    seconds, errors = [], 0
    for took in await asyncio.gather(*clients):
        errors += took.count(None)
        seconds += [one for one in took if one is not None]
    for _, writer in slow:
        writer.transport.abort()
    p99 = sorted(seconds)[int(0.99 * len(seconds))] if seconds else arguments.seconds
    return Load(len(seconds) / arguments.seconds, p99, errors)


async def _client(port: int, body: dict[str, Any], until: float) -> list[float | None]:
    """Return how many seconds each answer took, None for an error."""
    seconds: list[float | None] = []
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while (start := time.monotonic()) < until:
        writer.write(_request(body))
        status = await _answer(reader)
        seconds.append(time.monotonic() - start if status == 200 else None)
    writer.close()
    return seconds


async def _asked(
    port: int, body: dict[str, Any]
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Return a connection on which this was asked; little of the answer is read in advance."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
    writer.write(_request(body))
    return reader, writer


def _request(body: dict[str, Any]) -> bytes:
    content = json.dumps({"model": "shakespeare-lm", "prompt": "A", **body}).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


async def _answer(reader: asyncio.StreamReader) -> int:
    """Read an answer to its end; return its status."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    if found := re.search(r"content-length: (\d+)", head):
        await reader.readexactly(int(found[1]))
    else:
        await reader.readuntil(b"\r\n0\r\n\r\n")
    return int(head.split()[1])
