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

from shakespeare_lm.data.download import (
    MAX_PAUSE_SECONDS,
    PAUSES_SECONDS,
    DownloadError,
    download,
)

# Longer than one block of the copy loop, too short for a progress bar.
BODY = b"To be, or not to be, that is the question.\n" * 5000
SHA256 = hashlib.sha256(BODY).hexdigest()
ATTEMPTS = 1 + len(PAUSES_SECONDS)


@pytest.fixture(autouse=True, scope="module")
def quick_collections():
    """Keep `gc.collect()` fast: exclude the objects of torch."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def fast_and_direct(monkeypatch):
    """Make attempts follow each other at once, and bypass any proxy."""
    monkeypatch.setattr("shakespeare_lm.data.download.PAUSES_SECONDS", (0.0,) * len(PAUSES_SECONDS))
    monkeypatch.setattr(Retry, "get_backoff_time", lambda self: 0.0)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


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


def send(body, announced=None):
    """Answer with a body, and perhaps another Content-Length than it has."""

    def answer(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(announced or len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def fail(status):
    def answer(handler):
        handler.send_error(status)

    return answer


def redirect(handler):
    handler.send_response(302)
    handler.send_header("Location", "/moved")
    handler.end_headers()


def stay_silent(handler):
    handler.server.stopping.wait(30)


def send_half_and_stall(handler):
    send(BODY[:100_000], announced=len(BODY))(handler)
    stay_silent(handler)


send_all = send(BODY)
send_part = send(BODY[:100_000], announced=len(BODY))


def left_in(folder):
    """Return the names of all files except the lock, which may stay."""
    return sorted(path.name for path in folder.iterdir() if path.name != ".tiny.txt.lock")


def refused(url, path, **options):
    """Return the error message of a download that must fail."""
    with pytest.raises(DownloadError) as caught:
        download(url, SHA256, path, **options)
    message = str(caught.value)
    del caught
    gc.collect()  # a connection left open warns now, and a warning fails the test
    return message


def test_a_download_leaves_exactly_the_file(serve, tmp_path):
    url, asked = serve(send_all)
    download(url, SHA256, tmp_path / "tiny.txt")
    assert (tmp_path / "tiny.txt").read_bytes() == BODY
    assert left_in(tmp_path) == ["tiny.txt"]
    assert asked == ["/text"]


def test_everybody_may_read_a_downloaded_file(serve, tmp_path):
    url, _ = serve(send_all)
    download(url, SHA256, tmp_path / "tiny.txt")
    assert (tmp_path / "tiny.txt").stat().st_mode & 0o777 == 0o644


def test_missing_folders_are_created(serve, tmp_path):
    url, _ = serve(send_all)
    download(url, SHA256, tmp_path / "not" / "yet" / "tiny.txt")
    assert left_in(tmp_path / "not" / "yet") == ["tiny.txt"]


def test_an_existing_file_is_not_downloaded_again(serve, tmp_path):
    url, asked = serve(send_all)
    (tmp_path / "tiny.txt").write_text("mine")
    download(url, SHA256, tmp_path / "tiny.txt")
    assert (tmp_path / "tiny.txt").read_text() == "mine"
    assert asked == []


def test_a_redirect_is_followed(serve, tmp_path):
    url, asked = serve(redirect, send_all)
    download(url, SHA256, tmp_path / "tiny.txt")
    assert (tmp_path / "tiny.txt").read_bytes() == BODY
    assert asked == ["/text", "/moved"]


def test_a_large_download_shows_its_progress_on_stderr_only(serve, tmp_path, capsys):
    large = b"x" * 1_500_000
    url, _ = serve(send(large))
    download(url, hashlib.sha256(large).hexdigest(), tmp_path / "tiny.txt")
    assert (tmp_path / "tiny.txt").read_bytes() == large
    assert capsys.readouterr().out == ""


def test_an_altered_download_is_refused_and_leaves_nothing(serve, tmp_path):
    altered = BODY.replace(b"not", b"NOT", 1)
    url, asked = serve(send(altered))
    message = refused(url, tmp_path / "tiny.txt")
    assert hashlib.sha256(altered).hexdigest() in message
    assert SHA256 in message
    assert url in message
    assert left_in(tmp_path) == []
    assert asked == ["/text"]


def test_a_missing_page_is_an_error_without_a_retry(serve, tmp_path):
    url, asked = serve(fail(404))
    message = refused(url, tmp_path / "tiny.txt")
    assert message == f"cannot download {url}: the server answered 404 Not Found"
    assert left_in(tmp_path) == []
    assert len(asked) == 1


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_server_that_keeps_failing_is_retried(status, serve, tmp_path):
    url, asked = serve(fail(status))
    assert f"cannot download {url}: the server " in refused(url, tmp_path / "tiny.txt")
    assert left_in(tmp_path) == []
    assert len(asked) == ATTEMPTS


def test_a_server_that_failed_once_is_retried(serve, tmp_path):
    url, asked = serve(fail(503), send_all)
    download(url, SHA256, tmp_path / "tiny.txt")
    assert left_in(tmp_path) == ["tiny.txt"]
    assert len(asked) == 2


def test_a_connection_lost_before_the_answer_is_retried(serve, tmp_path):
    url, asked = serve(lambda handler: None, send_all)
    download(url, SHA256, tmp_path / "tiny.txt")
    assert left_in(tmp_path) == ["tiny.txt"]
    assert len(asked) == 2


def test_a_connection_lost_in_the_body_is_retried(serve, tmp_path):
    url, asked = serve(send_part, send_all)
    download(url, SHA256, tmp_path / "tiny.txt")
    assert (tmp_path / "tiny.txt").read_bytes() == BODY
    assert left_in(tmp_path) == ["tiny.txt"]
    assert len(asked) == 2


def test_a_connection_that_is_lost_every_time_is_an_error_and_leaves_nothing(serve, tmp_path):
    url, asked = serve(send_part)
    message = refused(url, tmp_path / "tiny.txt")
    assert message.endswith("the connection was lost before the file was complete")
    assert left_in(tmp_path) == []
    assert len(asked) == ATTEMPTS


def test_a_server_that_stalls_in_the_middle_is_an_error_and_leaves_nothing(
    serve, tmp_path, monkeypatch
):
    monkeypatch.setattr("shakespeare_lm.data.download.READ_TIMEOUT_SECONDS", 0.1)
    url, asked = serve(send_half_and_stall)
    message = refused(url, tmp_path / "tiny.txt")
    assert message.startswith(f"cannot download {url}: ")
    assert "is there a network" not in message
    assert left_in(tmp_path) == []
    assert len(asked) == ATTEMPTS


def test_no_server_at_the_address_is_an_error(tmp_path):
    with socket.socket() as bound:  # so that nobody else gets the port; it does not listen
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}/text"
        message = refused(url, tmp_path / "tiny.txt")
    assert message.startswith(f"cannot download {url}: no connection to the server")
    assert left_in(tmp_path) == []


def test_a_silent_server_is_an_error_that_says_so(serve, tmp_path, monkeypatch):
    monkeypatch.setattr("shakespeare_lm.data.download.READ_TIMEOUT_SECONDS", 0.1)
    url, _ = serve(stay_silent)
    message = refused(url, tmp_path / "tiny.txt")
    assert message == f"cannot download {url}: no answer in time"
    assert left_in(tmp_path) == []


def test_patience_limits_the_wait_for_the_first_answer(serve, tmp_path, monkeypatch):
    monkeypatch.setattr("shakespeare_lm.data.download.READ_TIMEOUT_SECONDS", 3.0)
    url, _ = serve(stay_silent)
    start = time.monotonic()
    message = refused(url, tmp_path / "tiny.txt", patience_seconds=0.5)
    assert 0.5 <= time.monotonic() - start < 2.0
    assert message == f"cannot download {url}: no answer in time"
    assert left_in(tmp_path) == []


def test_patience_does_not_interrupt_a_download_in_progress(serve, tmp_path):
    def trickle(handler):
        send(BODY[:100_000], announced=len(BODY))(handler)
        time.sleep(0.4)
        handler.wfile.write(BODY[100_000:])

    url, _ = serve(trickle)
    download(url, SHA256, tmp_path / "tiny.txt", patience_seconds=0.3)
    assert (tmp_path / "tiny.txt").read_bytes() == BODY


def test_two_downloads_of_one_file_at_once_make_one_request(serve, tmp_path):
    def answer_late(handler):
        time.sleep(0.2)
        send_all(handler)

    url, asked = serve(answer_late)
    barrier = threading.Barrier(2)

    def fetch(path):
        barrier.wait(5)
        download(url, SHA256, path)
        return path.read_bytes()

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(fetch, [tmp_path / "tiny.txt"] * 2)) == [BODY, BODY]
    assert asked == ["/text"]
    assert left_in(tmp_path) == ["tiny.txt"]


@pytest.mark.parametrize(("asked_for", "waited"), [("2", 2), ("86400", MAX_PAUSE_SECONDS)])
@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_given_the_time_it_asks_for_but_not_hours(
    asked_for, waited, status, serve, tmp_path, monkeypatch
):
    pauses = []
    monkeypatch.setattr("urllib3.util.retry.time.sleep", pauses.append)

    def busy(handler):
        handler.send_response(status)
        handler.send_header("Retry-After", asked_for)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    url, _ = serve(busy, send_all)
    download(url, SHA256, tmp_path / "tiny.txt")
    assert pauses == [waited]


@pytest.mark.parametrize("length", ["-5", "many", ""])
def test_an_invalid_content_length_is_ignored(length, serve, tmp_path):
    def answer(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", length)
        handler.end_headers()
        handler.wfile.write(BODY)

    url, _ = serve(answer)
    download(url, SHA256, tmp_path / "tiny.txt")
    assert (tmp_path / "tiny.txt").read_bytes() == BODY


def test_a_content_length_shorter_than_the_file_is_an_error(serve, tmp_path):
    url, _ = serve(send(BODY, announced=100_000))
    assert "sent another file: 100,000 bytes with SHA-256 " in refused(url, tmp_path / "tiny.txt")
    assert left_in(tmp_path) == []


def test_a_body_without_an_end_is_abandoned(serve, tmp_path, monkeypatch):
    monkeypatch.setattr("shakespeare_lm.data.download.MAX_BYTES", 1_000_000)

    def endless(handler):
        handler.send_response(200)
        handler.end_headers()
        with contextlib.suppress(OSError):
            while not handler.server.stopping.is_set():
                handler.wfile.write(BODY)

    url, asked = serve(endless)
    assert "bytes without an end: expected at most 1,000,000 bytes" in refused(
        url, tmp_path / "tiny.txt"
    )
    assert left_in(tmp_path) == []
    assert len(asked) == 1


def test_a_body_that_arrives_too_slowly_is_abandoned(serve, tmp_path, monkeypatch):
    monkeypatch.setattr("shakespeare_lm.data.download.MAX_SECONDS", 0.3)
    monkeypatch.setattr("shakespeare_lm.data.download._BLOCK_BYTES", 1)

    def slow(handler):
        handler.send_response(200)
        handler.end_headers()
        with contextlib.suppress(OSError):
            while not handler.server.stopping.wait(0.05):
                handler.wfile.write(b"x")

    url, _ = serve(slow)
    assert "bytes without an end" in refused(url, tmp_path / "tiny.txt")
    assert left_in(tmp_path) == []


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("/text", "the server redirects endlessly"),
        ("file:///etc/hostname", "No connection adapters were found"),
        ("http://[", "Invalid IPv6 URL"),
    ],
)
def test_a_redirect_to_an_invalid_address_is_an_error(location, reason, serve, tmp_path):
    def answer(handler):
        handler.send_response(302)
        handler.send_header("Location", location)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    url, _ = serve(answer)
    message = refused(url, tmp_path / "tiny.txt")
    assert message.startswith(f"cannot download {url}: {reason}")
    assert left_in(tmp_path) == []


def test_a_compressed_body_that_expands_beyond_the_limit_is_abandoned(serve, tmp_path, monkeypatch):
    monkeypatch.setattr("shakespeare_lm.data.download.MAX_BYTES", 1_000_000)
    bomb = gzip.compress(bytes(50_000_000))

    def answer(handler):
        handler.send_response(200)
        handler.send_header("Content-Encoding", "gzip")
        handler.send_header("Content-Length", str(len(bomb)))
        handler.end_headers()
        handler.wfile.write(bomb)

    url, _ = serve(answer)
    assert "expected at most 1,000,000 bytes" in refused(url, tmp_path / "tiny.txt")
    assert left_in(tmp_path) == []


def test_a_proxy_from_the_environment_is_used(serve, tmp_path, monkeypatch):
    proxy, asked = serve(send_all)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("http_proxy", proxy.removesuffix("/text"))
    download("http://text.invalid/text", SHA256, tmp_path / "tiny.txt")
    assert (tmp_path / "tiny.txt").read_bytes() == BODY
    assert asked == ["http://text.invalid/text"]


def test_a_data_directory_that_is_read_only_is_an_error(serve, tmp_path):
    url, asked = serve(send_all)
    tmp_path.chmod(0o555)
    if os.access(tmp_path, os.W_OK):
        pytest.skip("this user may write everywhere")
    try:
        message = refused(url, tmp_path / "tiny.txt")
    finally:
        tmp_path.chmod(0o755)
    assert message == f"cannot write {tmp_path / 'tiny.txt'}: Permission denied"
    assert asked == []


def test_a_data_directory_that_cannot_be_created_is_an_error(serve, tmp_path):
    url, asked = serve(send_all)
    (tmp_path / "file").write_text("not a folder")
    for path in [tmp_path / "file" / "tiny.txt", tmp_path / "file" / "deep" / "tiny.txt"]:
        assert f"cannot write {path}: " in refused(url, path)
    assert asked == []


def test_a_disk_that_fills_up_is_an_error_and_leaves_nothing(serve, tmp_path):
    resource = pytest.importorskip("resource")
    url, _ = serve(send_all)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(BODY) - 1, hard))  # as if the disk were full
    try:
        message = refused(url, tmp_path / "tiny.txt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert message.startswith(f"cannot write {tmp_path / 'tiny.txt'}: ")
    assert left_in(tmp_path) == []
