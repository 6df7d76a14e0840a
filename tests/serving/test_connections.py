"""Clients that leave, are too slow, too many, do not read, or speak no HTTP; other sites' pages."""

import json
import os
import socket
import warnings
from contextlib import ExitStack, closing
from typing import Any

import pytest

from tests.serving.conftest import NEEDS, Running, ask, until

connections = pytest.importorskip("shakespeare_lm.serving.connections", reason=NEEDS)
app = pytest.importorskip("shakespeare_lm.serving.app", reason=NEEDS)

POST = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"


def connected(server: Running, sent: bytes) -> socket.socket:
    host, port = server.address.removeprefix("http://").split(":")
    client = socket.socket()
    client.settimeout(10)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 17)
    client.connect((host, int(port)))
    client.sendall(sent)
    return client


def all_of(client: socket.socket) -> bytes:
    """Return what the server sends until it closes the connection."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    with closing(client), client.makefile("rb") as answer:
        return answer.read()


def asking(server: Running, **fields: Any) -> socket.socket:
    """Return a client that has asked for texts, and reads nothing."""
    body = json.dumps({"model": "m", **fields}).encode()
    return connected(
        server, POST + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    )


LONG_STREAM = {"stream": True, "max_tokens": 1500, "n": 2, "logprobs": 20}


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_ends_the_work(server: Running, stream: bool) -> None:
    server.log.clear()
    with asking(server, max_tokens=5000, n=60, stream=stream):
        until(lambda: server.engine.active)
    until(lambda: server.log)
    assert int(server.log[0].split()[-2]) < 60 * 5000
    until(lambda: not server.engine.active)


def test_a_client_that_does_not_read_costs_little_and_nobody_else_time(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shakespeare_lm.serving.answers._MAX_UNSENT", 2000)
    with asking(server, **LONG_STREAM) as client:
        until(lambda: server.engine._waiting and not server.engine.active)
        waiting = list(server.engine._waiting)
        assert server.post(n=3, max_tokens=500).status_code == 200
        assert sum(stream.made for stream in waiting) < 2000
        assert all_of(client).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")  # it was only slow
    with asking(server, **LONG_STREAM):
        until(lambda: server.engine._waiting)
    until(lambda: not server.engine._waiting)  # the client has gone


def test_a_client_that_never_reads_is_dropped(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections.Connection, "_patience", 0.1)
    server.log.clear()
    client = asking(server, **LONG_STREAM)
    until(lambda: server.log)
    until(lambda: not server.engine._waiting)
    assert b"[DONE]" not in all_of(client)


@pytest.mark.parametrize(
    ("sent", "answers"),
    [
        (b"", [408]),
        (GET, [408]),
        (GET + b"\r\n" + GET, [200, 408]),
        (POST + b"Content-Length: 30\r\n\r\n{", [408]),
        (GET + b"Content-Length: 30\r\n\r\n{", [200]),
        (b"nonsense\r\n\r\n", [400]),
        (POST + b"Content-Length: -1\r\n\r\n", [400]),
        (POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", [400]),
        (POST + b"Content-Length: 1\r\n\r\n{}\r\n\r\n", [400, 400]),
        (b"GET / HTTP/1.1\r\n\r\n", [400]),
        (GET + b"X: " + b"x" * 20_000, [400]),
        (GET + b"Transfer-Encoding: chunked\r\n\r\nx\r\n", [400]),
        (GET + b"Transfer-Encoding: chunked\r\n\r\n1\r\n", [200]),
    ],
)
def test_what_is_not_a_request_is_answered_in_openais_form(
    server: Running,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    sent: bytes,
    answers: list[int],
) -> None:
    monkeypatch.setattr(connections, "_SECONDS_FOR_A_REQUEST", 0.3)
    heads = all_of(connected(server, sent)).split(b"HTTP/1.1 ")[1:]
    assert [int(answer[:3]) for answer in heads] == answers
    if answers[-1] >= 400:
        head, _, body = heads[-1].partition(b"\r\n\r\n")
        assert b"application/json" in head
        assert json.loads(body)["error"]["type"] == "invalid_request_error"
    assert server.get("/health").status_code == 200
    assert capfd.readouterr().err == ""


def test_one_connection_too_many_is_refused_and_later_not(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 3)
    with ExitStack() as open_clients:
        for _ in range(3):
            open_clients.enter_context(connected(server, b""))
        answer = all_of(connected(server, b""))
        assert answer.startswith(b"HTTP/1.1 503")
        assert b'"too many connections: try again later"' in answer
    until(lambda: all_of(connected(server, GET + b"Connection: close\r\n\r\n")).find(b"200 OK") > 0)


def test_without_file_descriptors_there_is_a_warning_and_the_server_recovers(
    server: Running, capfd: pytest.CaptureFixture[str]
) -> None:
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    host, port = server.address.removeprefix("http://").split(":")
    message = "cannot accept connections for now: Too many open files"
    with socket.socket() as client, warnings.catch_warnings(record=True, action="always") as warned:
        client.settimeout(10)
        free = os.dup(0)  # the lowest one
        os.close(free)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
            client.connect((host, int(port)))
            until(lambda: warned)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        client.sendall(GET + b"\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 200")
    assert {str(warning.message) for warning in warned} == {message}
    assert capfd.readouterr().err == ""


HOSTS = {"localhost", "localhost:80", "127.0.0.1:80", "[::1]:8000", "LOCALHOST"}


@pytest.mark.parametrize(
    ("allowed", "headers", "status"),
    [
        *(([], {"host": host}, 200) for host in sorted(HOSTS)),
        *(([], {"host": host}, 400) for host in ("", "evil.example", "localhost.evil.example")),
        ([], {"host": "localhost:80", "origin": "http://localhost:80"}, 200),
        ([], {"host": "localhost:80", "origin": "http://localhost:81"}, 403),
        ([], {"host": "localhost", "origin": "null"}, 403),
        ([], {"host": "localhost", "origin": "https://a.example"}, 403),
        (["https://b.example"], {"host": "localhost", "origin": "https://a.example"}, 403),
        (["https://a.example"], {"host": "localhost", "origin": "https://a.example"}, 200),
        (["https://a.example"], {"host": "a.example", "origin": "https://a.example"}, 400),
        (["*"], {"host": "localhost", "origin": "null"}, 200),
    ],
)
def test_only_pages_of_known_sites_may_use_it(
    allowed: list[str], headers: dict[str, str], status: int
) -> None:
    served: Any = app.Server(None, None, "m", page="<p>", origins=allowed).build_app()
    answer = ask(served, "GET", "/", headers, b"")
    assert answer.status == status
    named = answer.headers.get("access-control-allow-origin")
    assert named == (allowed[0] if allowed and status == 200 else None)
    if status != 200:
        assert json.loads(answer.body)["error"]["type"] == "invalid_request_error"
    asks = {"access-control-request-method": "POST", "access-control-request-headers": "x-any"}
    if "origin" in headers:  # a browser asks before it sends JSON to another site
        preflight = ask(served, "OPTIONS", "/v1/completions", headers | asks, b"")
        named = preflight.headers.get("access-control-allow-origin")
        assert (preflight.status == 200) == bool(named) == bool(allowed and status == 200)
