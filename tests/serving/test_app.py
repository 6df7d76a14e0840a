"""The web application over real HTTP: what it refuses, and clients that go away."""

import json
import socket
import time
from typing import Any

import pytest
import requests

from shakespeare_lm.serving.engine import Engine, TooManyStreamsError
from tests.serving.conftest import Running


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
        ({"n": 101}, 400, "prompt and n ask for 101 texts: expected at most 100"),
    ],
)
def test_errors_have_openais_form_and_the_server_stays_up(
    server: Running, fields: dict[str, Any], status: int, message: str
) -> None:
    response = server.post(**fields)
    assert response.status_code == status
    error = response.json()["error"]
    assert message in error["message"]
    assert error["type"] == "invalid_request_error"
    assert server.post().status_code == 200


def test_an_empty_prompt_is_echoed_and_counted_as_it_is(server: Running) -> None:
    answer = server.post(prompt="", echo=True, max_tokens=3).json()
    assert answer["usage"]["prompt_tokens"] == 0
    assert len(answer["choices"][0]["text"]) == 3


def test_texts_that_need_not_wait_may_be_more_than_may_wait(server: Running) -> None:
    assert len(server.post(n=101, max_tokens=0, echo=True).json()["choices"]) == 101


def test_a_full_queue_asks_to_try_again(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "submit", full)
    response = server.post()
    assert response.status_code == 429
    assert "too many requests wait" in response.json()["error"]["message"]


def full(*_: object) -> None:
    raise TooManyStreamsError


def test_a_server_that_stops_says_so(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "submit", full)
    monkeypatch.setattr(Engine, "is_running", False)
    assert requests.get(f"{server.address}/health", timeout=5).status_code == 503
    response = server.post()
    assert response.status_code == 503
    assert response.json()["error"]["message"] == "the server is stopping"


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
