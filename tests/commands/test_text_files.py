"""Text in and out: UTF-8, `-`, and what must not be overwritten."""

import io
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from shakespeare_lm.commands.text_files import check_output, opened, read_text, stdin, write_text
from shakespeare_lm.errors import UserError
from tests.commands.conftest import RunComplete, replace_stdout

SCRIPT = Path(__file__).parents[2] / "scripts" / "complete.py"


def test_text_is_read_without_a_mark_and_with_line_feeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"\xef\xbb\xbfTo\r\nbe \xc3\xa9\n"
    (tmp_path / "text.txt").write_bytes(content)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    assert read_text(str(tmp_path / "text.txt")) == read_text("-") == "To\nbe é\n"


def test_marks_and_line_ends_of_windows_are_not_part_of_the_prompt(
    run_complete: RunComplete,
) -> None:
    options = ("--seed=1", "--max_new_tokens=5")
    plain = run_complete("--prompt=To\nbe", *options)
    assert run_complete("--prompt_file=-", *options, stdin=b"\xef\xbb\xbfTo\r\nbe") == plain


def test_a_prompt_that_is_not_utf_8_is_refused(run_complete: RunComplete, tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_bytes(b"abc\xe9def")
    code, out, err = run_complete("--prompt_file", str(tmp_path / "prompt.txt"))
    assert (code, out) == (1, "")
    assert "prompt.txt is not UTF-8 text: invalid byte 0xE9 at offset 3" in err


@pytest.mark.slow
def test_closed_streams_are_named(runs: Path) -> None:
    for option, message in (
        ("--prompt=- <&-", "stdin is closed"),
        ("--jsonl=- <&-", "stdin is closed"),
        ("--interactive <&-", "stdin is closed"),
        (">&-", "stdout is closed"),
    ):
        script = f"exec {sys.executable} {SCRIPT} {option}"
        done = subprocess.run(["sh", "-c", script], cwd=runs, capture_output=True, text=True)
        assert done.returncode == 1
        assert message in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is full")
def test_a_full_disk_is_one_line_that_names_the_file(run_complete: RunComplete) -> None:
    for options in (["--prompt=a"], ["--jsonl=-"]):
        code, _, err = run_complete(*options, "--output=/dev/full", stdin=b'{"prompt": "a"}')
        assert code == 1
        assert err.endswith("error: /dev/full: No space left on device\n")


def test_stdin_that_is_not_utf_8_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"\xff")))
    with pytest.raises(UserError, match="stdin is not UTF-8 text: invalid byte 0xFF at offset 0"):
        read_text("-")


def test_a_process_without_stdin_has_nothing_to_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UserError, match="stdin is closed"):
        stdin()


def test_output_goes_to_stdout_or_to_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stdout = replace_stdout(monkeypatch)
    for path in (None, "-"):
        with opened(path) as output:
            assert output is stdout
    (tmp_path / "out.txt").write_text("something longer from before")
    with opened(str(tmp_path / "out.txt")) as output:
        output.write("é\n\ud800\n")
    assert (tmp_path / "out.txt").read_bytes() == "é\n\\ud800\n".encode()


def test_no_output_overwrites_an_input_or_a_checkpoint_by_any_of_its_names(tmp_path: Path) -> None:
    path, link = tmp_path / "in.txt", tmp_path / "link.txt"
    path.write_text("kept")
    link.symlink_to(path)
    for output in (path, link, tmp_path / "." / "in.txt"):
        with pytest.raises(UserError, match="which is an input: choose another file"):
            check_output(str(output), None, "-", str(path))
    checkpoint, name = tmp_path / "best.ckpt", tmp_path / "text"
    checkpoint.write_bytes(b"")
    name.symlink_to(checkpoint)
    for output in (checkpoint, name):
        with pytest.raises(UserError, match="which is a checkpoint: choose another file"):
            check_output(str(output), str(path))
    for fine in (None, "-", str(tmp_path / "new.txt"), str(tmp_path / "new.ckpt")):
        check_output(fine, str(path), str(tmp_path / "none.txt"))


def test_a_file_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "page.html"
    write_text(str(path), "first é")
    assert path.read_text(encoding="utf-8") == "first é"

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail)
        with pytest.raises(OSError, match="No space left on device") as caught:
            write_text(str(path), "second")
    assert caught.value.filename == str(path)
    assert path.read_text(encoding="utf-8") == "first é"
    assert [one.name for one in tmp_path.iterdir()] == ["page.html"]
    write_text("-", "to stdout")
    assert capsys.readouterr().out == "to stdout"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is full")
def test_a_device_is_written_to_and_not_replaced() -> None:
    with pytest.raises(OSError, match="No space left on device"):
        write_text("/dev/full", "text")
    assert not Path("/dev/full").is_file()


def test_a_folder_that_is_not_there_is_named_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        check_output(str(tmp_path / "none" / "a.txt"))
    assert caught.value.filename == str(tmp_path / "none" / "a.txt")
    with pytest.raises(IsADirectoryError):
        check_output(str(tmp_path))


@pytest.mark.skipif(os.access("/proc/version", os.W_OK), reason="this user may write everywhere")
def test_what_may_not_be_written_is_named_before_any_work(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError):
        check_output(str(tmp_path / "a.txt"))
