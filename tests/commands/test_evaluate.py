"""The command `evaluate`: the table, JSON, and mistakes."""

import json
from pathlib import Path

import pytest
import torch

from shakespeare_lm.commands.evaluate import main
from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.methods import ngrams
from tests.conftest import Fit


@pytest.fixture
def run(tiny_fit: Fit) -> Path:
    """Return the best checkpoint of a run, in the current folder."""
    return Path(tiny_fit("--max_steps=4", "--precision=32-true").best.best_model_path)


def test_the_newest_runs_best_stands_in_a_sorted_table_with_its_verdict(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([]) == 0
    output = capsys.readouterr().out
    assert output.startswith("3,767 characters of the val part, nats per character\n")
    rows = [line.split() for line in output.splitlines() if line[:1].isdigit()][1:]
    assert [float(row[0]) for row in rows] == sorted(float(row[0]) for row in rows)
    for name in (
        "uniform",
        "unigram",
        "2-gram",
        "8-gram",
        "zlib",
        "bzip2",
        "xz",
        str(run.parents[1]),
    ):
        assert name in output
    assert "nanoGPT" not in output  # whose figures are on another text
    assert ": worse than a" in output or ": better than a" in output
    assert "its stored val_loss, " in output


def test_json_has_evaluations_and_baselines_and_can_replace_the_table(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--ckpt", str(run), str(run.parents[1]), "--json", "a.json", "--stride=16"]) == 0
    found = json.loads(Path("a.json").read_text())
    first, second = found["evaluations"]
    assert first["agrees"] is True
    assert first["block_nats"] == second["block_nats"]
    assert first["sliding_nats"] == pytest.approx(first["block_nats"])
    assert {"name": "uniform", "nats": 4.143, "note": "every character equally likely"} in [
        {**one, "nats": round(one["nats"], 3)} for one in found["baselines"]
    ]
    capsys.readouterr()
    assert main(["--json=-", "--stride=16"]) == 0
    assert json.loads(capsys.readouterr().out) == {**found, "evaluations": [second]}


def test_where_the_loss_is_can_be_seen(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--where", "--json=a.json", "--stride=16"]) == 0
    output = capsys.readouterr().out
    for heading in ("position in the context", "character", "place in the word", "surprising"):
        assert heading in output
    (found,) = json.loads(Path("a.json").read_text())["evaluations"]
    assert sum(group["characters"] for group in found["breakdown"]["groups"]["character"]) == 3767
    assert len(found["breakdown"]["passages"]) == 20


SAMPLES = ("--num_samples=2", "--max_new_tokens=20", "--stride=16")


def test_copies_are_looked_for_in_samples(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--copying", "--temperature=0.5", "--seed=3", "--json=a.json", *SAMPLES]) == 0
    assert "copy? Substrings that stand in the training part" in capsys.readouterr().out
    (found,) = json.loads(Path("a.json").read_text())["evaluations"]
    completer = Completer.from_checkpoint(run)
    expected = completer.complete("", 20, num_samples=2, seed=3, temperature=0.5)
    assert found["copying"]["samples"] == expected


def test_the_report_is_one_page_with_everything(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--report=a.html", *SAMPLES]) == 0
    page = Path("a.html").read_text(encoding="utf-8")
    assert page.endswith("</html>\n")
    for heading in ("Against what", "Where the loss is", "Does it copy?"):
        assert f"<h2>{heading}</h2>" in page
    capsys.readouterr()
    assert main(["--report=-", *SAMPLES]) == 0
    assert capsys.readouterr().out == page


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ckpt", "none.ckpt"], "there is no checkpoint none.ckpt"),
        (["--corpus", "none.txt"], "'none.txt' is neither an existing file nor a known name"),
        (["--part", "test"], "the test part is empty: test_fraction is 0.0"),
        (["--stride", "0"], "stride is 0: expected a value >= 1"),
        (["--corpus", "short.txt"], "too few to split"),
        (["--corpus", "empty.txt"], "empty.txt is empty"),
        (["--ckpt", "other.ckpt"], "other.ckpt is a checkpoint of another program"),
        (["--ckpt", "short.txt"], "short.txt is damaged or not a checkpoint"),
        (["--report", "."], ".: Is a directory"),
        (["--device", "cuda"], "device is cuda: not available here"),
        (["--copying", "--num_samples=0"], "num_samples is 0: expected a value >= 1"),
        (["--copying", "--temperature=-1"], "temperature is -1.0: expected a value >= 0"),
        (["--report", "none/a.html"], "none/a.html: No such file or directory"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_file(
    run: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    Path("short.txt").write_text("ab")
    Path("empty.txt").write_text("")
    torch.save({"model": {}}, "other.ckpt")
    capsys.readouterr()
    assert main([*options, "--json=a.json"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("error: ")
    assert message in lines[-1]
    assert not Path("a.json").exists()


def test_models_of_different_texts_or_splits_are_not_put_into_one_table(
    run: Path, tiny_fit: Fit, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tiny_fit("--max_steps=1", "--data.val_fraction=0.2").best.best_model_path
    capsys.readouterr()
    assert main(["--ckpt", str(run), other]) == 1
    assert "error: these models have different texts or splits" in capsys.readouterr().err
    assert main(["--ckpt", str(run), str(run)]) == 0


def test_without_the_memory_for_n_grams_the_rest_is_shown(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ngrams, "_BYTES_PER_CHARACTER", 1 << 50)
    assert main(["--report=a.html", *SAMPLES]) == 0
    output, errors = capsys.readouterr()
    assert "warning: without n-gram models: counting n-grams needs at least " in errors
    assert "zlib" in output
    assert "-gram" not in output
    assert Path("a.html").exists()


def test_only_one_output_can_go_to_stdout(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--report=-", "--json=-"]) == 1
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.endswith("json and report are both -: only one can go to stdout\n")


def test_the_output_is_never_the_checkpoint(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = run.read_bytes()
    assert main(["--json", str(run)]) == 1
    assert "which is an input: choose another file" in capsys.readouterr().err
    assert run.read_bytes() == before
