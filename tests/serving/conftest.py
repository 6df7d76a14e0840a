"""A server of a small model, in this process: over real HTTP, or asked without a socket."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import pytest
import requests
import torch

from shakespeare_lm.commands import serve
from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.model.config import NetworkConfig
from shakespeare_lm.model.transformer import CausalTransformer

VOCABULARY = "\n abcdefghijé"
MODULES = ("shakespeare_lm.serving.app", "shakespeare_lm.serving.connections", "uvicorn")
NEEDS = "needs pip install -e '.[serve]'"


class Running(NamedTuple):
    address: str
    completer: Completer
    engine: Any
    log: list[str]

    def post(self, path: str = "completions", **fields: Any) -> requests.Response:
        body = {"model": "m", "prompt": "abc", **fields}
        return requests.post(f"{self.address}/v1/{path}", json=body, timeout=30)

    def get(self, path: str, **headers: str) -> requests.Response:
        return requests.get(f"{self.address}{path}", headers=headers, timeout=5)


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


def ask(app: Any, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
    """Return its answer, once nothing of the request is left running."""
    scope = {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(), "root_path": "",
        "query_string": b"", "scheme": "http", "http_version": "1.1", "state": {},
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }  # fmt: skip
    sent: list[dict[str, Any]] = []

    async def run() -> None:
        requests = iter([{"type": "http.request", "body": body, "more_body": False}])
        forever = asyncio.Event()

        async def receive() -> Any:
            return next(requests, None) or await forever.wait()

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await app(scope, receive, send)
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(run())
    found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return Answer(sent[0]["status"], found, b"".join(one.get("body", b"") for one in sent))


def until(condition: Callable[[], object]) -> None:
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    pytest.fail("it has not happened")


def tiny_completer() -> Completer:
    torch.manual_seed(0)
    config = NetworkConfig(
        context_length=16, num_layers=1, num_heads=2, d_model=8, previous_characters=4
    )
    network = CausalTransformer(len(VOCABULARY) + 1, config)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter)
    return Completer(network.eval(), CharTokenizer(VOCABULARY), 16)


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    app, connections, uvicorn = (pytest.importorskip(name, reason=NEEDS) for name in MODULES)
    completer = tiny_completer()
    engine, log = app.Engine(completer, max_waiting=100), []
    served = app.Server(
        completer, engine, "m", page="<p>page</p>", max_tokens=5000, log=log.append
    ).build_app()
    listener = serve.listening("127.0.0.1", 0)
    # So that clients that lag are noticed, and soon.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 17)
    connections._SECONDS_BETWEEN_LOOKS = 0.05
    running = uvicorn.Server(connections.settings(served))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
    thread.start()
    yield Running(f"http://127.0.0.1:{listener.getsockname()[1]}", completer, engine, log)
    running.should_exit = True
    thread.join()
    listener.close()
    engine.close()
