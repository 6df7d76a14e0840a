"""The web application over real HTTP: answers, streams, errors, and clients that go away."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import requests
import torch

from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.network.config import NetworkConfig
from shakespeare_lm.network.transformer import CausalTransformer

pytest.importorskip("starlette", reason="needs pip install -e '.[serve]'")
uvicorn = pytest.importorskip("uvicorn", reason="needs pip install -e '.[serve]'")

from shakespeare_lm.serving.app import ServingConfig, build_app  # noqa: E402
from shakespeare_lm.serving.engine import Engine  # noqa: E402

VOCABULARY = "\n abcdefghijé"


class Running(NamedTuple):
    address: str
    completer: Completer
    engine: Engine

    def post(self, **fields: Any) -> requests.Response:
        body = {"model": "m", "prompt": "abc", **fields}
        return requests.post(f"{self.address}/v1/completions", json=body, timeout=30)


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    torch.manual_seed(0)
    config = NetworkConfig(context_length=16, num_layers=1, num_heads=2, d_model=8)
    network = CausalTransformer(len(VOCABULARY) + 1, config)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter)
    completer = Completer(network.eval(), CharTokenizer(VOCABULARY), 16)
    engine = Engine(completer, max_waiting=100)
    app = build_app(completer, engine, ServingConfig("m", page="<p>page</p>", max_tokens=5000))
    listener = socket.create_server(("127.0.0.1", 0))
    running = uvicorn.Server(uvicorn.Config(app, log_level="critical"))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
    thread.start()
    yield Running(f"http://127.0.0.1:{listener.getsockname()[1]}", completer, engine)
    running.should_exit = True
    thread.join()
    listener.close()


def test_a_completion_is_that_of_python(server: Running) -> None:
    answer = server.post(max_tokens=40, seed=3, temperature=0.7, top_p=0.9).json()
    (choice,) = answer["choices"]
    options = {"seed": 3, "temperature": 0.7, "top_p": 0.9}
    assert choice["text"] == server.completer.complete("abc", 40, **options)  # type: ignore[arg-type]
    assert (choice["finish_reason"], choice["index"], choice["logprobs"]) == ("length", 0, None)
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 40, "total_tokens": 43}
    assert answer["object"] == "text_completion"


def test_several_prompts_and_samples_are_in_order(server: Running) -> None:
    answer = server.post(prompt=["a", "bé"], n=3, seed=5, max_tokens=12, temperature=0.8).json()
    texts = [choice["text"] for choice in answer["choices"]]
    complete = server.completer.complete
    assert texts == [
        *complete("a", 12, num_samples=3, seed=5),
        *complete("bé", 12, num_samples=3, seed=5),
    ]
    assert [choice["index"] for choice in answer["choices"]] == list(range(6))


def test_echo_and_logprobs_are_scores(server: Running) -> None:
    fields = {"prompt": "abca", "echo": True, "logprobs": 2, "max_tokens": 10, "temperature": 0}
    (choice,) = server.post(**fields).json()["choices"]
    text, logprobs = choice["text"], choice["logprobs"]
    assert text.startswith("abca")
    assert logprobs["tokens"] == list(text)
    assert logprobs["text_offset"] == list(range(14))
    assert logprobs["token_logprobs"][0] is None
    expected = server.completer.score(text).log_probabilities
    assert logprobs["token_logprobs"][1:] == pytest.approx(expected, abs=1e-3)
    assert all(len(top) == 2 for top in logprobs["top_logprobs"][1:])
    (scored,) = server.post(**{**fields, "max_tokens": 0}).json()["choices"]
    assert scored["text"] == "abca"
    assert scored["logprobs"]["token_logprobs"][1:] == pytest.approx(expected[:3], abs=1e-3)


def test_a_stop_string_ends_a_text(server: Running) -> None:
    whole = server.completer.complete("abc", 60, seed=1, temperature=1.0)
    answer = server.post(max_tokens=60, seed=1, stop=[whole[10:13], "none"]).json()
    (choice,) = answer["choices"]
    assert choice["text"] == whole[: whole.index(whole[10:13])]
    assert choice["finish_reason"] == "stop"


def test_a_stream_adds_up_to_the_answer(server: Running) -> None:
    fields: dict[str, Any] = {"max_tokens": 600, "seed": 2, "n": 2, "logprobs": 0, "echo": True}
    whole = server.post(**fields).json()
    response = server.post(**fields, stream=True, stream_options={"include_usage": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    *lines, last = [line for line in response.text.split("\n\n") if line]
    assert last == "data: [DONE]"
    *chunks, final = [json.loads(line.removeprefix("data: ")) for line in lines]
    assert final["choices"] == []
    assert final["usage"] == whole["usage"]
    for index in (0, 1):
        parts = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        expected = whole["choices"][index]
        assert "".join(part["text"] for part in parts) == expected["text"]
        offsets = [offset for part in parts for offset in part["logprobs"]["text_offset"]]
        assert offsets == expected["logprobs"]["text_offset"]
        assert [part["finish_reason"] for part in parts] == [None] * (len(parts) - 1) + ["length"]


def test_models_health_and_page(server: Running) -> None:
    models = requests.get(f"{server.address}/v1/models", timeout=5).json()
    assert [model["id"] for model in models["data"]] == ["m"]
    assert requests.get(f"{server.address}/v1/models/m", timeout=5).json()["id"] == "m"
    assert requests.get(f"{server.address}/health", timeout=5).json() == {"status": "ok"}
    assert requests.get(server.address, timeout=5).text == "<p>page</p>"


@pytest.mark.parametrize(
    ("fields", "status", "message"),
    [
        ({"prompt": "Z"}, 400, "the character 'Z'"),
        ({"max_tokens": 5001}, 400, "max_tokens is 5001: expected at most 5000"),
        ({"model": "gpt-9"}, 404, "the model 'gpt-9' does not exist; there is 'm'"),
        ({"nonsense": 1}, 400, "there is no field 'nonsense'"),
        ({"prompt": "a" * (1 << 20)}, 413, "the body is longer"),
        ({"n": 101}, 429, "too many requests wait"),
    ],
)
def test_errors_have_openais_form_and_the_server_stays_up(
    server: Running, fields: dict[str, Any], status: int, message: str
) -> None:
    if status == 429:  # more than wait at once
        fields = {**fields, "max_tokens": 5}
    response = server.post(**fields)
    assert response.status_code == status
    error = response.json()["error"]
    assert message in error["message"]
    assert error["type"] == "invalid_request_error"
    assert server.post().status_code == 200


def test_what_is_not_a_request_is_refused(server: Running) -> None:
    url = f"{server.address}/v1/completions"
    for body, kind, status in (
        (b"{", "application/json", 400),
        (b'{"model": "m"}', "text/plain", 400),
        (b"\xff\x00", "application/json", 400),
    ):
        response = requests.post(url, data=body, headers={"Content-Type": kind}, timeout=5)
        assert response.status_code == status
        assert "error" in response.json()
    assert requests.get(url, timeout=5).status_code == 405
    assert requests.get(f"{server.address}/nowhere", timeout=5).json()["error"]["message"]
    surrogate = json.dumps({"model": "m", "\ud800": 1, "prompt": "\ud800"}).encode()
    headers = {"Content-Type": "application/json"}
    assert requests.post(url, data=surrogate, headers=headers, timeout=5).status_code == 400
    for host in ("localhost", "127.0.0.1:80", "[::1]:8000"):
        assert requests.get(server.address, headers={"Host": host}, timeout=5).status_code == 200
    # A page of another site that has made its name point here.
    response = requests.get(server.address, headers={"Host": "evil.example"}, timeout=5)
    assert response.status_code == 400


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_ends_the_work(server: Running, stream: bool) -> None:
    body = json.dumps({"model": "m", "max_tokens": 5000, "n": 60, "stream": stream}).encode()
    host, port = server.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as client:
        head = (
            f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        )
        client.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
        time.sleep(0.3)
        assert server.engine.active > 0
    end = time.monotonic() + 10
    while server.engine.active:
        assert time.monotonic() < end
        time.sleep(0.01)
