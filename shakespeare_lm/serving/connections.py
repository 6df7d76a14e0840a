"""The server's connections: uvicorn's, with limits for clients that are too many, too slow or do
not read, and with errors in OpenAI's form also for what is not HTTP.
"""

import asyncio
import errno
import time
import warnings
from typing import Any

import h11
from starlette.applications import Starlette
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol

from shakespeare_lm.serving.request import RequestError, error_response

MAX_CONNECTIONS = 512
_SECONDS_BETWEEN_LOOKS = 0.5
_SECONDS_FOR_A_REQUEST = 20.0  # from its first byte to its last
_SECONDS_FOR_A_READER = 30.0  # in which a client must take some of what is sent
# When the server is told to stop: for running requests, and for clients that do not read.
_SECONDS_TO_FINISH, _SECONDS_TO_READ = 20, 2.0
_NO_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def settings(app: Starlette) -> Config:
    """Return how uvicorn serves the application."""
    return Config(
        app, http=Connection, loop="asyncio", ws="none", lifespan="on", backlog=128,
        log_level="error", access_log=False, timeout_graceful_shutdown=_SECONDS_TO_FINISH,
    )  # fmt: skip


class Connection(H11Protocol):
    """One client, whose requests must arrive in time, and who must read the answers."""

    _patience = _SECONDS_FOR_A_READER
    _awaited: Any = None  # what the server waits for
    _since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(0)  # anything unsent counts
        if len(self.connections) > MAX_CONNECTIONS:
            self._refuse("too many connections: try again later", 503)
        self._watch()

    def _watch(self) -> None:
        """Check regularly whether the client has been idle for too long while the server waits for
        the rest of a request, or for the client to read.
        """
        if self not in self.connections:
            return
        unsent, now = self.transport.get_write_buffer_size(), time.monotonic()
        arriving = self.conn.their_state in (h11.IDLE, h11.SEND_BODY)
        awaited = unsent, arriving
        if awaited != self._awaited:
            self._awaited, self._since = awaited, now
        elif unsent and now > self._since + self._patience:
            self.transport.abort()
        elif arriving and not unsent and now > self._since + _SECONDS_FOR_A_REQUEST:
            self._refuse("the request did not arrive in time")
        self.loop.call_later(_SECONDS_BETWEEN_LOOKS, self._watch)

    def on_response_complete(self) -> None:
        self._awaited = None  # the next request has its own time
        super().on_response_complete()

    def shutdown(self) -> None:
        if self.conn.their_state is h11.SEND_BODY:
            self._refuse("the server is stopping", 503)
        else:
            super().shutdown()
        self._patience = _SECONDS_TO_READ

    def send_400_response(self, msg: str) -> None:
        self._refuse(msg, 400)

    def _refuse(self, message: str, status: int = 408) -> None:
        """Answer with an error, unless an answer has begun, and close the connection."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            answer = error_response(RequestError(message, status))
            answer.headers["Connection"] = "close"
            head = h11.Response(status_code=status, headers=answer.raw_headers)
            for event in (head, h11.Data(data=bytes(answer.body)), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event))
        if self.cycle is not None:  # the application need not answer any more
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()


def handle_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Warn that no connection can be accepted, because file descriptors or memory are lacking: one
    line, where asyncio would print a traceback at each attempt.
    """
    error = context.get("exception")
    if isinstance(error, OSError) and error.errno in _NO_RESOURCES:
        warnings.warn(f"cannot accept connections for now: {error.strerror}", stacklevel=1)
    else:
        loop.default_exception_handler(context)
