"""Text in and out: UTF-8, `-`, and what must not be overwritten."""

import io
import os
import shutil
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from shakespeare_lm.commands import jsonl, text_files
from shakespeare_lm.commands.text_files import check_output, opened, read_text, write_text
from shakespeare_lm.errors import UserError
from tests.commands.conftest import replace_stdout, run_process

needs_descriptors = pytest.mark.skipif(
    not Path("/proc/self/fd").exists(), reason="needs /proc, where descriptors have names"
)
needs_full_disk = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")


def test_text_is_read_without_a_mark_and_with_line_feeds(tmp_path, monkeypatch):
    content = b"\xef\xbb\xbfTo\r\nbe \xc3\xa9\n"
    (tmp_path / "text.txt").write_bytes(content)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    assert read_text(str(tmp_path / "text.txt")) == read_text("-") == "To\nbe é\n"
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"\xff")))
    with pytest.raises(UserError, match="stdin is not UTF-8 text: invalid byte 0xFF at offset 0"):
        read_text("-")


@pytest.mark.parametrize("option", ["--prompt=-", "--jsonl=-", "--interactive"])
def test_a_process_without_stdin_has_nothing_to_read(run_complete, option):
    code, out, err = run_complete(option, stdin=None)
    assert (code, out) == (1, "")
    assert "stdin is closed: nothing to read" in err


@needs_full_disk
def test_a_device_is_written_to_and_not_replaced():
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        write_text("/dev/full", "text")
    assert not Path("/dev/full").is_file()


def test_output_goes_to_stdout_or_to_a_file(monkeypatch, tmp_path):
    stdout = replace_stdout(monkeypatch)
    for path in (None, "-"):
        with opened(path) as output:
            assert output is stdout
    (tmp_path / "out.txt").write_text("something longer from before")
    with opened(str(tmp_path / "out.txt")) as output:
        output.write("é\n\ud800\n")
    assert (tmp_path / "out.txt").read_bytes() == "é\n\\ud800\n".encode()


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Work in a folder with a text, models, and a run."""
    monkeypatch.chdir(tmp_path)
    Path("run/checkpoints").mkdir(parents=True)
    Path("run/checkpoints/best.ckpt").touch()
    for name in ("in.txt", "best.ckpt", "a.safetensors", "a.onnx", "run/config.yaml", "run/a.html"):
        Path(name).write_text("kept")
    Path("run/events").write_bytes(b"\x18" + bytes(7))
    Path("run/checkpoints/last").write_bytes(b"PK")
    shutil.copy("run/events", "model.bin")
    Path("link.txt").symlink_to("in.txt")
    Path("hard.txt").hardlink_to("in.txt")
    Path("text").symlink_to("best.ckpt")
    Path("config").symlink_to("run/config.yaml")


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("an input", ("in.txt", "link.txt", "hard.txt", "./in.txt", "run/../in.txt")),
        ("a model", ("best.ckpt", "text", "a.safetensors", "a.onnx")),
        ("a file of a run", ("run/config.yaml", "config", "run/events", "run/checkpoints/last")),
        ("not a text", ("model.bin",)),
        ("", (None, "-", "run/a.html", "new.txt", "run/new", "new.ckpt")),
    ],
)
def test_no_output_replaces_an_input_a_model_or_a_file_of_a_run(files, what, names):
    for name in names:
        with pytest.raises(UserError, match="which is") if what else nullcontext() as caught:
            check_output(name, None, "-", "none.txt", "in.txt")
        if what:
            message = f"output is {name}, which is {what}: choose another file"
            assert str(caught.value) == message


CHECK = "import sys; from shakespeare_lm.commands import text_files as t; t.check_output({})"


@needs_descriptors
@pytest.mark.parametrize(
    ("redirection", "arguments", "named"),
    [
        ("< in.txt", ["link.txt"], "link.txt"),
        ("< in.txt", ["/proc/self/fd/0"], "/proc/self/fd/0"),
        (">> in.txt", ["-", "hard.txt"], "stdout"),
        ("< in.txt >> in.txt", [None], "stdout"),
        ("< in.txt", ["new.txt", "-"], ""),
        ("<&- >&-", ["new.txt", "-"], ""),
    ],
)
def test_redirected_files_are_inputs_and_outputs_too(files, redirection, arguments, named):
    code = CHECK.format(str(arguments)[1:-1])
    done = run_process(f'{sys.executable} -c "{code}" {redirection}')
    error = f"shakespeare_lm.errors.UserError: output is {named}, which is an input: choose another"
    assert done.stderr.splitlines()[-1:] == ([f"{error} file"] if named else [])
    assert Path("in.txt").read_text() == "kept"


def test_a_text_without_an_end_is_refused(run_complete, monkeypatch):
    for module in (text_files, jsonl):
        monkeypatch.setattr(module, "MAX_BYTES", 30)
    for option, reason in (
        ("--prompt_file=-", "stdin is too long: expected a text of at most 30 bytes"),
        ("--jsonl=-", "stdin has a line of more than 30 bytes: split it"),
    ):
        code, _, error = run_complete(option, "--unknown=skip", stdin=bytes(31))
        assert (code, error.splitlines()[-1]) == (1, f"error: {reason}")
    assert run_complete("--prompt=-", "--unknown=skip", stdin=bytes(30))[0] == 0
    assert run_complete("--jsonl=-", stdin=2 * b'{"prompt": "a", "seed": 123}\n')[0] == 0


def test_a_whole_file_is_written_under_any_name_and_to_stdout(tmp_path, capsys):
    path = tmp_path / f"{'page' * 60}.html"  # as long as a name can be
    for text in ("first", "second é"):
        write_text(str(path), text)
    assert path.read_text(encoding="utf-8") == "second é"
    assert list(tmp_path.iterdir()) == [path]
    write_text("-", "to stdout")
    assert capsys.readouterr().out == "to stdout"


@pytest.mark.parametrize(
    ("path", "error"),
    [("none/a.txt", FileNotFoundError), (".", IsADirectoryError), ("a.txt", PermissionError)],
)
def test_what_cannot_be_written_is_named_before_any_work(tmp_path, monkeypatch, path, error):
    monkeypatch.setattr(os, "access", lambda *_: False)  # some users may write everywhere
    with pytest.raises(error) as caught:
        check_output(str(tmp_path / path))
    assert caught.value.filename == str(tmp_path / path)
