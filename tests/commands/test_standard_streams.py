"""Streams that may be closed, full or unread, and what the console shows."""

import os
import subprocess
import sys

from shakespeare_lm.commands.standard_streams import OptionalOutput

CONSOLE = """
import threading, warnings
from shakespeare_lm.commands.standard_streams import prepare_console
prepare_console()
print("Dé →")
warnings.warn("the\\n split", UserWarning)
warnings.warn("of a library", FutureWarning)
def fail(error):
    raise error
for error in (OSError(28, "No space left on device"), RuntimeError("a bug")):
    thread = threading.Thread(target=fail, args=(error,))
    thread.start()
    thread.join()
"""


def test_the_console_shows_any_character_and_only_warnings_that_a_user_can_act_on() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", CONSOLE],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "D? ?\n"
    warning, log, *bug = done.stderr.splitlines()
    assert warning == "warning: the split"
    assert log == "warning: the log cannot be written: No space left on device"
    assert bug[-1] == "RuntimeError: a bug"
    assert "library" not in done.stderr
    assert done.stderr.count("Traceback") == 1


def test_an_optional_output_that_is_closed_or_full_drops_what_it_is_given() -> None:
    for stream in (None, open("/dev/full", "w")):  # noqa: SIM115
        output = OptionalOutput(stream)
        for _ in range(2):
            assert output.write("x" * 100_000) == 100_000
            output.flush()
        output.close()


def test_output_that_nobody_reads_any_more_is_dropped() -> None:
    reading, writing = os.pipe()
    stream = OptionalOutput(os.fdopen(writing, "w"))
    stream.write("first\n")
    stream.flush()
    assert os.read(reading, 100) == b"first\n"
    os.close(reading)
    for _ in range(3):
        assert stream.write("more\n") == 5
        stream.flush()
    assert stream.isatty() is False  # all else is the stream's own
    stream.close()
