"""Text in and out: UTF-8, `-`, and what must not be overwritten."""

import io
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from shakespeare_lm.commands.text_files import check_output, opened, read_text, write_text
from shakespeare_lm.errors import UserError
from tests.commands.conftest import replace_stdout

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
def test_a_full_disk_is_one_line_that_names_the_file(run_complete):
    for option in ("--prompt=a", "--jsonl=-"):
        code, _, err = run_complete(option, "--output=/dev/full", stdin=b'{"prompt": "a"}')
        assert code == 1
        assert err.endswith("error: /dev/full: No space left on device\n")
    with pytest.raises(OSError, match="No space left on device"):
        write_text("/dev/full", "text")
    assert not Path("/dev/full").is_file()  # a device is written to and not replaced


def test_output_goes_to_stdout_or_to_a_file(monkeypatch, tmp_path):
    stdout = replace_stdout(monkeypatch)
    for path in (None, "-"):
        with opened(path) as output:
            assert output is stdout
    (tmp_path / "out.txt").write_text("something longer from before")
    with opened(str(tmp_path / "out.txt")) as output:
        output.write("é\n\ud800\n")
    assert (tmp_path / "out.txt").read_bytes() == "é\n\\ud800\n".encode()


def test_no_output_overwrites_an_input_or_a_checkpoint_by_any_of_its_names(tmp_path):
    path, checkpoint = tmp_path / "in.txt", tmp_path / "best.ckpt"
    for file, link in ((path, "link.txt"), (checkpoint, "text")):
        file.write_text("kept")
        (tmp_path / link).symlink_to(file)
    for names, what in (
        (("in.txt", "link.txt", "./in.txt"), "an input"),
        (("best.ckpt", "text"), "a checkpoint"),
    ):
        for name in names:
            with pytest.raises(UserError, match=f"which is {what}: choose another file"):
                check_output(str(tmp_path / name), None, "-", str(path))
    for fine in (None, "-", str(tmp_path / "new.txt"), str(tmp_path / "new.ckpt")):
        check_output(fine, str(path), str(tmp_path / "none.txt"))


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch, capsys):
    path = tmp_path / "page.html"
    write_text(str(path), "first é")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_text(str(path), "second")
    assert caught.value.filename == str(path)
    assert path.read_text(encoding="utf-8") == "first é"
    assert [one.name for one in tmp_path.iterdir()] == ["page.html"]
    write_text("-", "to stdout")
    assert capsys.readouterr().out == "to stdout"


def test_a_folder_is_named_that_is_not_there_or_stands_in_the_way(tmp_path):
    for path, error in (("none/a.txt", FileNotFoundError), (".", IsADirectoryError)):
        with pytest.raises(error) as caught:
            check_output(str(tmp_path / path))
        assert caught.value.filename == str(tmp_path / path)


@pytest.mark.skipif(os.access("/proc/version", os.W_OK), reason="this user may write everywhere")
def test_what_may_not_be_written_is_named_before_any_work(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError):
        check_output(str(tmp_path / "a.txt"))
