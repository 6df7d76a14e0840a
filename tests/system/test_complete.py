"""`scripts/complete.py` as its users meet it: what goes to stdout, and how mistakes end."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from shakespeare_lm.module import ShakespeareLM

SCRIPT = Path(__file__).parents[2] / "scripts" / "complete.py"
VOCABULARY = "\n" + "".join(map(chr, range(32, 127))) + "é"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two runs, the newer of which has the best.ckpt that is meant."""
    folder = tmp_path_factory.mktemp("runs")
    for version in (0, 1):
        torch.manual_seed(version)
        module = ShakespeareLM(VOCABULARY, context_length=16, num_layers=1, num_heads=2, d_model=8)
        path = folder / f"lightning_logs/version_{version}/checkpoints/best.ckpt"
        path.parent.mkdir(parents=True)
        hyperparameters = dict(module.hparams)
        torch.save({"state_dict": module.state_dict(), "hyper_parameters": hyperparameters}, path)
    return folder


def complete(folder: Path, *options: str, **more: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *options],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=False,
        **more,
    )


def test_stdout_holds_the_prompt_and_its_completion_alone(folder: Path) -> None:
    done = complete(folder, "--prompt", "Café:", "--max_new_tokens", "40", "--seed", "1")
    assert done.returncode == 0
    assert done.stdout.startswith("Café:")
    assert len(done.stdout) == len("Café:") + 40 + 1
    assert done.stdout.endswith("\n")
    assert "version_1" in done.stderr


def test_a_file_gets_what_stdout_would(folder: Path, tmp_path: Path) -> None:
    options = ("--prompt", "To", "--max_new_tokens", "20", "--num_samples", "2", "--seed", "3")
    printed = complete(folder, *options)
    written = complete(folder, *options, "--output", str(tmp_path / "out.txt"))
    assert written.stdout == ""
    assert (tmp_path / "out.txt").read_text(encoding="utf-8") == printed.stdout
    first, second = printed.stdout.removesuffix("\n").split("\n\n---\n")
    assert first.startswith("To")
    assert second.startswith("To")
    assert first != second


def test_mistakes_are_one_line_exit_code_1_and_leave_no_file(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.txt"
    done = complete(folder, "--prompt", "a→b", "--output", str(output))
    assert (done.returncode, done.stdout) == (1, "")
    assert "(U+2192) at position 1 is not among the 97 characters" in done.stderr
    assert "Traceback" not in done.stderr
    assert not output.exists()


def test_wrong_usage_is_exit_code_2(folder: Path) -> None:
    done = complete(folder, "--nonsense")
    assert done.returncode == 2
    assert "unrecognized arguments: --nonsense" in done.stderr


def test_a_reader_that_goes_away_ends_it_quietly(folder: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--max_new_tokens", "100000"]
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert len(process.stdout.read(5)) == 5  # text comes as it is made, long before the end
        process.stdout.close()
        errors = process.stderr.read()
        assert process.wait(timeout=60) == 0
    assert "Traceback" not in errors
    assert "BrokenPipe" not in errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ckpt=none.ckpt"], "there is no checkpoint none.ckpt"),
        (["--temperature=-1"], "temperature is -1.0"),
        (["--top_p=2"], "top_p is 2.0"),
        (["--top_k=0"], "top_k is 0"),
        (["--max_new_tokens=-1"], "max_new_tokens is -1"),
        (["--num_samples=0"], "num_samples is 0"),
        (["--output=no/such/folder/file"], "no/such/folder/file: No such file or directory"),
    ],
)
def test_every_option_out_of_range_is_named(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import complete as script

    monkeypatch.chdir(folder)
    with pytest.raises((ValueError, OSError)) as caught:
        script.complete(script.parse_arguments(options))
    assert message in script.one_line(caught.value)
    assert capsys.readouterr().out == ""
