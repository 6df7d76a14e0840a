"""A server of a small model, in this process, for the tests of serving over real HTTP."""

import socket
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import requests
import torch

from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.model.config import NetworkConfig
from shakespeare_lm.model.transformer import CausalTransformer

VOCABULARY = "\n abcdefghijé"
NEEDS = "needs pip install -e '.[serve]'"


class Running(NamedTuple):
    address: str
    completer: Completer
    engine: Any
    log: list[str]

    def post(self, **fields: Any) -> requests.Response:
        body = {"model": "m", "prompt": "abc", **fields}
        return requests.post(f"{self.address}/v1/completions", json=body, timeout=30)

    def get(self, path: str, **headers: str) -> requests.Response:
        return requests.get(f"{self.address}{path}", headers=headers, timeout=5)


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    app = pytest.importorskip("shakespeare_lm.serving.app", reason=NEEDS)
    uvicorn = pytest.importorskip("uvicorn", reason=NEEDS)
    torch.manual_seed(0)
    config = NetworkConfig(
        context_length=16, num_layers=1, num_heads=2, d_model=8, previous_characters=4
    )
    network = CausalTransformer(len(VOCABULARY) + 1, config)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter)
    completer = Completer(network.eval(), CharTokenizer(VOCABULARY), 16)
    engine, log = app.Engine(completer, max_waiting=100), []
    served = app.Server(
        completer, engine, "m", page="<p>page</p>", max_tokens=5000, log=log.append
    ).build_app()
    listener = socket.create_server(("127.0.0.1", 0))
    running = uvicorn.Server(uvicorn.Config(served, log_level="critical"))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
    thread.start()
    yield Running(f"http://127.0.0.1:{listener.getsockname()[1]}", completer, engine, log)
    running.should_exit = True
    thread.join()
    listener.close()
    engine.close()
