"""Downloads from a local server: a file arrives complete and verified, or not at all."""

import contextlib
import gc
import gzip
import hashlib
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from urllib3.util import Retry

from shakespeare_lm.data import download as module
from shakespeare_lm.data.download import MAX_PAUSE_SECONDS, DownloadError, download

# Longer than one block of the copy loop.
BODY = b"To be, or not to be, that is the question.\n" * 5000
SHA256 = hashlib.sha256(BODY).hexdigest()
ALTERED = BODY.replace(b"not", b"NOT", 1)
ATTEMPTS = 1 + len(module.PAUSES_SECONDS)


@pytest.fixture(autouse=True, scope="module")
def quick_collections():
    """Keep `gc.collect()` fast: exclude the objects of torch."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def fast_and_direct(monkeypatch):
    """Make attempts follow each other at once, and bypass any proxy."""
    monkeypatch.setattr(module, "PAUSES_SECONDS", (0.0,) * len(module.PAUSES_SECONDS))
    monkeypatch.setattr(Retry, "get_backoff_time", lambda self: 0.0)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")


@pytest.fixture
def serve():
    """Return a function that starts a server with these answers, one per request; the last repeats.

    It returns the URL, and the list of requested paths, which grows.
    """
    servers = []

    def start(*answers):
        asked = []

        def do_get(handler):
            asked.append(handler.path)
            answers[min(len(asked), len(answers)) - 1](handler)

        members = {"do_GET": do_get, "log_message": lambda *_: None}
        handler = type("Handler", (BaseHTTPRequestHandler,), members)
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.stopping = threading.Event()
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/text", asked

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
        server.stopping.set()


def send(body=b"", status=200, then=lambda handler: None, **headers):
    """Answer with a status, headers and a body; then do something else."""

    def answer(handler):
        handler.send_response(status)
        for name, value in {"Content_Length": len(body), **headers}.items():
            if value is not None:
                handler.send_header(name.replace("_", "-"), str(value))
        handler.end_headers()
        handler.wfile.write(body)
        then(handler)

    return answer


def endlessly(block, pause):
    def write(handler):
        with contextlib.suppress(OSError):
            while not handler.server.stopping.wait(pause):
                handler.wfile.write(block)

    return send(Content_Length=None, then=write)


def lose_connection(handler):
    pass


def stay_silent(handler):
    handler.server.stopping.wait(60)


def redirect(location):
    return send(status=302, Location=location)


send_all = send(BODY)
send_part = send(BODY[:100_000], Content_Length=len(BODY))
send_half_and_stall = send(BODY[:100_000], Content_Length=len(BODY), then=stay_silent)
send_bomb = send(gzip.compress(bytes(50_000_000)), Content_Encoding="gzip")


def left_in(folder):
    """Return the names of all files except the lock, which may stay."""
    return sorted(path.name for path in folder.iterdir() if path.name != ".tiny.txt.lock")


def refused(url, path, **options):
    """Return the error message of a download that must fail and leave nothing."""
    with pytest.raises(DownloadError) as caught:
        download(url, SHA256, path, **options)
    message = str(caught.value)
    del caught
    gc.collect()  # a connection left open warns now, and a warning fails the test
    assert not path.parent.is_dir() or left_in(path.parent) == []
    return message


def test_a_download_leaves_exactly_the_file_which_everybody_may_read(serve, tmp_path, capsys):
    url, asked = serve(redirect("/moved"), send_all)
    path = tmp_path / "not" / "yet" / "tiny.txt"
    download(url, SHA256, path)
    assert path.read_bytes() == BODY
    assert left_in(path.parent) == ["tiny.txt"]
    assert path.stat().st_mode & 0o777 == 0o644
    assert asked == ["/text", "/moved"]
    assert capsys.readouterr() == ("", "trying to download tiny.txt; Ctrl-C stops\n")
    path.write_text("mine")
    download(url, SHA256, path)  # once there, it is left alone
    assert (path.read_text(), len(asked), capsys.readouterr().err) == ("mine", 2, "")


@pytest.mark.parametrize(
    "answers",
    [
        *([first, send_all] for first in (send(status=503), lose_connection, send_part)),
        *([send(BODY, Content_Length=length)] for length in ("-5", "many", "")),
    ],
)
def test_temporary_failures_are_retried_and_an_invalid_length_is_ignored(answers, serve, tmp_path):
    url, asked = serve(*answers)
    download(url, SHA256, tmp_path / "tiny.txt")
    assert (tmp_path / "tiny.txt").read_bytes() == BODY
    assert left_in(tmp_path) == ["tiny.txt"]
    assert len(asked) == len(answers)


LIMIT = {"MAX_BYTES": 1_000_000}
SHORT = {"READ_TIMEOUT_SECONDS": 0.1}
ENDLESS = "without an end: expected at most "


@pytest.mark.parametrize(
    ("answer", "limits", "reason", "attempts"),
    [
        (send(ALTERED), {}, f"SHA-256 {hashlib.sha256(ALTERED).hexdigest()}, expected {SHA256}", 1),
        (send(BODY, Content_Length=100_000), {}, "sent another file: 100,000 bytes with SHA-", 1),
        (send(status=404), {}, "cannot download URL: the server answered 404 Not Found", 1),
        *((send(status=code), {}, "the server ", ATTEMPTS) for code in (429, 500, 502, 503, 504)),
        (send_part, {}, "the connection was lost before the file was complete", ATTEMPTS),
        (send_half_and_stall, SHORT, "cannot download URL: no answer in time", ATTEMPTS),
        (stay_silent, SHORT, "cannot download URL: no answer in time", ATTEMPTS),
        (endlessly(BODY, 0), LIMIT, ENDLESS + "1,000,000 bytes", 1),
        (endlessly(b"x", 0.05), {"MAX_SECONDS": 0.3, "_BLOCK_BYTES": 1}, ENDLESS, 1),
        (send_bomb, LIMIT, ENDLESS + "1,000,000 bytes", 1),
        (redirect("/text"), {}, "cannot download URL: the server redirects endlessly", 31),
        (redirect("file:///etc/hostname"), {}, "URL: No connection adapters were found", 1),
        (redirect("http://["), {}, "cannot download URL: Invalid IPv6 URL", 1),
    ],
)
def test_a_failed_download_says_why(answer, limits, reason, attempts, serve, tmp_path, monkeypatch):
    for name, value in limits.items():
        monkeypatch.setattr(module, name, value)
    url, asked = serve(answer)
    message = refused(url, tmp_path / "tiny.txt")
    assert url in message
    assert reason in message.replace(url, "URL")
    assert len(asked) == attempts


@pytest.mark.parametrize(("patience", "retries"), [(None, 3), (60.0, 1)])
def test_no_server_is_an_error_soon_if_impatient(patience, retries, tmp_path, monkeypatch, capsys):
    slept = []
    monkeypatch.setattr(Retry, "sleep", lambda *_: slept.append(1))
    with socket.socket() as bound:  # so that nobody else gets the port; it does not listen
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}/text"
        message = refused(url, tmp_path / "tiny.txt", patience_seconds=patience)
    assert message.startswith(f"cannot download {url}: no connection to the server")
    assert len(slept) == retries
    assert (" for 60 s " in capsys.readouterr().err) == (patience is not None)


def test_patience_limits_the_wait_for_the_first_answer(serve, tmp_path):
    url, asked = serve(stay_silent)
    message = refused(url, tmp_path / "tiny.txt", patience_seconds=0.2)
    assert message == f"cannot download {url}: no answer in time"
    assert len(asked) <= 1  # the read timeout, and so the first retry, is far away


@pytest.mark.slow
def test_patience_does_not_interrupt_a_download_in_progress(serve, tmp_path):
    def finish(handler):
        time.sleep(3.1)
        handler.wfile.write(BODY[100_000:])

    url, _ = serve(send(BODY[:100_000], Content_Length=len(BODY), then=finish))
    download(url, SHA256, tmp_path / "tiny.txt", patience_seconds=3)
    assert (tmp_path / "tiny.txt").read_bytes() == BODY


def test_two_downloads_of_one_file_at_once_make_one_request(serve, tmp_path):
    url, asked = serve(lambda handler: time.sleep(0.2) or send_all(handler))
    barrier = threading.Barrier(2)

    def fetch(path):
        barrier.wait(60)
        download(url, SHA256, path)
        return path.read_bytes()

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(fetch, [tmp_path / "tiny.txt"] * 2)) == [BODY, BODY]
    assert asked == ["/text"]
    assert left_in(tmp_path) == ["tiny.txt"]


@pytest.mark.parametrize(("asked_for", "waited"), [("2", 2), ("86400", MAX_PAUSE_SECONDS)])
@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_gets_time_not_hours(asked_for, waited, status, serve, tmp_path, monkeypatch):
    pauses = []
    monkeypatch.setattr("urllib3.util.retry.time.sleep", pauses.append)
    url, _ = serve(send(status=status, Retry_After=asked_for), send_all)
    download(url, SHA256, tmp_path / "tiny.txt")
    assert pauses == [waited]


def test_a_proxy_from_the_environment_is_used(serve, tmp_path, monkeypatch):
    proxy, asked = serve(send_all)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("http_proxy", proxy.removesuffix("/text"))
    download("http://text.invalid/text", SHA256, tmp_path / "tiny.txt")
    assert (tmp_path / "tiny.txt").read_bytes() == BODY
    assert asked == ["http://text.invalid/text"]


def test_a_data_directory_that_cannot_be_written_or_created_is_an_error(serve, tmp_path):
    url, asked = serve(send_all)
    (tmp_path / "file").write_text("not a folder")
    for path in [tmp_path / "file" / "tiny.txt", tmp_path / "file" / "deep" / "tiny.txt"]:
        assert f"cannot write {path}: " in refused(url, path)
    path = tmp_path / "locked" / "tiny.txt"
    path.parent.mkdir(mode=0o555)
    if not os.access(path.parent, os.W_OK):  # some users may write everywhere
        assert refused(url, path) == f"cannot write {path}: Permission denied"
        assert asked == []
