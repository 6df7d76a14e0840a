"""Downloads one file: complete and verified, or not at all.

Why not pooch (1.9): it ignores Retry-After, locks nothing, limits neither size nor time, and leaves
a temporary file when it is killed.
"""

import hashlib
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import BinaryIO

import requests
from filelock import FileLock
from requests.adapters import HTTPAdapter
from rich.console import Console
from rich.progress import Progress
from urllib3.util import Retry

from shakespeare_lm.errors import UserError

CONNECT_TIMEOUT_SECONDS, READ_TIMEOUT_SECONDS = 5.0, 20.0
# Pauses before the second, third and fourth attempt.
PAUSES_SECONDS = (1.0, 2.0, 4.0)
# Temporary errors of a server; urllib3 waits as long as a Retry-After header asks, up to a limit.
_TEMPORARY_STATUS = (429, 500, 502, 503, 504)
MAX_PAUSE_SECONDS = 30
_BLOCK_BYTES = 1 << 16
# Limits for a server that never stops sending, or sends a byte now and then: texts have a few MB.
MAX_BYTES, MAX_SECONDS = 64 << 20, 900.0


class DownloadError(UserError):
    """The file could not be downloaded. Nothing is left behind."""


def download(url: str, sha256: str, path: Path, patience_seconds: float | None = None) -> None:
    """Download `url` to `path`, unless another process has just done so. A line on stderr says that
    it tries. Missing folders are created.

    The bytes go to a temporary file next to `path`, which is renamed
    only after its SHA-256 (hexadecimal) has matched. `patience_seconds` limits the wait for the
    server's first answer, including retries.

    Raises:
        DownloadError: no network, an HTTP error, or other bytes than expected.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            if not path.exists():
                limit = "" if patience_seconds is None else f" for {patience_seconds:g} s"
                print(f"trying{limit} to download {path.name}; Ctrl-C stops", file=sys.stderr)
                _fetch(url, sha256, path, patience_seconds)
    except DownloadError:
        raise
    except (requests.RequestException, ValueError, TimeoutError) as error:
        raise DownloadError(f"cannot download {url}: {_reason(error)}") from None
    except OSError as error:
        raise DownloadError(f"cannot write {path}: {error.strerror or error}") from None


def _fetch(url: str, sha256: str, path: Path, patience_seconds: float | None) -> None:
    for pause in (*PAUSES_SECONDS, None):
        response = _open(url, patience_seconds)  # has retries of its own
        try:
            with response:
                response.raise_for_status()
                return _save(response, sha256, path)
        except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
            if pause is None:
                raise
            time.sleep(pause)  # the connection was lost in the middle


def _open(url: str, patience_seconds: float | None) -> requests.Response:
    """Return the response; raise a TimeoutError after `patience_seconds`."""
    outcome: Future[requests.Response] = Future()

    def get() -> None:
        # A caller of limited patience does not wait for a network to come up: one retry, at once.
        retry = Retry(
            total=len(PAUSES_SECONDS), connect=None if patience_seconds is None else 1,
            backoff_factor=1.0, status_forcelist=_TEMPORARY_STATUS,
            retry_after_max=MAX_PAUSE_SECONDS,
        )  # fmt: skip
        session = requests.Session()
        for scheme in ("https://", "http://"):
            session.mount(scheme, HTTPAdapter(max_retries=retry))
        timeouts = CONNECT_TIMEOUT_SECONDS, READ_TIMEOUT_SECONDS
        try:
            outcome.set_result(session.get(url, stream=True, timeout=timeouts))
        except Exception as error:
            outcome.set_exception(error)

    # In a thread, because DNS look-up has no timeout of its own.
    threading.Thread(target=get, daemon=True).start()
    return outcome.result(patience_seconds)


def _save(response: requests.Response, sha256: str, path: Path) -> None:
    # One name for all attempts, which the lock allows: a killed process's file is overwritten.
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            _copy(response, file)
        data = part.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        if digest != sha256:
            raise DownloadError(
                f"{response.url} sent another file: {len(data):,} bytes with SHA-256 {digest}, "
                f"expected {sha256}"
            )
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _copy(response: requests.Response, file: BinaryIO) -> None:
    """Copy the body, with a progress bar if stderr is a terminal."""
    end = time.monotonic() + MAX_SECONDS
    length = response.headers.get("Content-Length", "")
    console = Console(file=sys.stderr)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("downloading", total=int(length) if length.isdecimal() else None)
        for block in response.iter_content(_BLOCK_BYTES):
            progress.update(task, advance=file.write(block))
            if file.tell() > MAX_BYTES or time.monotonic() > end:
                raise DownloadError(
                    f"{response.url} sent {file.tell():,} bytes without an end: expected at most "
                    f"{MAX_BYTES:,} bytes in {MAX_SECONDS:.0f} seconds"
                )


def _reason(error: Exception) -> str:
    # requests wraps a read timeout in a ConnectionError: in the body, and after the last retry.
    if isinstance(error, requests.Timeout | TimeoutError) or "Read timed out" in str(error):
        return "no answer in time"
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"the server answered {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.exceptions.RetryError):
        return "the server kept failing"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection was lost before the file was complete"
    if isinstance(error, requests.TooManyRedirects):
        return "the server redirects endlessly"
    if isinstance(error, ValueError):  # an invalid URL, such as that of a redirect
        return str(error)
    return "no connection to the server (is there a network?)"
