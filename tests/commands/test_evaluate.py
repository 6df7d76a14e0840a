"""The command `evaluate`: tables, JSON, a report, and mistakes."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from shakespeare_lm.checkpoint.reading import read_checkpoint
from shakespeare_lm.commands.evaluate import main
from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.evaluation.baselines import PUBLISHED, Baseline
from shakespeare_lm.evaluation.breakdown import break_down
from shakespeare_lm.evaluation.copying import Copying, Extraction
from shakespeare_lm.evaluation.novelty import novelty
from shakespeare_lm.evaluation.split_corpus import SplitCorpus
from shakespeare_lm.evaluation.tables import as_tables
from shakespeare_lm.methods import ngrams
from tests.commands.conftest import RUN, contents
from tests.evaluation.conftest import evaluation

SAMPLES = ("--num_samples=2", "--max_new_tokens=20", "--stride=16")
TEXT = "ROMEO:\nAy [bold]me!\n" * 10


@pytest.fixture
def best(run):
    return run / "checkpoints/best.ckpt"


def test_the_newest_runs_best_stands_in_a_sorted_table_with_its_verdict(run, capsys):
    assert main([]) == 0
    output = capsys.readouterr().out
    assert output.startswith("3,767 characters of the val part, nats per character\n")
    rows = [line.split() for line in output.splitlines() if line[:1].isdigit()][1:]
    assert [float(row[0]) for row in rows] == sorted(float(row[0]) for row in rows)
    counted = ("uniform", "unigram", "2-gram", "8-gram", "zlib", "bzip2", "xz")
    for name in (*counted, str(run)):
        assert name in output
    assert "nanoGPT" not in output  # whose figures are on another text
    assert ": worse than a" in output or ": better than a" in output
    assert "its stored val_loss, " in output


def test_json_has_everything_and_can_replace_the_tables(run, best, capsys):
    paths = ("--ckpt", str(best), str(run))
    assert main([*paths, "--where", "--json", "a.json", "--stride=16"]) == 0
    output = capsys.readouterr().out
    for heading in ("position in the context", "character", "place in the word", "surprising"):
        assert heading in output
    found = json.loads(Path("a.json").read_text())
    first, second = found["evaluations"]
    assert first["agrees"] is True
    assert "losses" not in first  # of single characters
    assert first["block_nats"] == second["block_nats"]
    assert first["sliding_nats"] == pytest.approx(first["block_nats"])
    assert sum(group["characters"] for group in first["breakdown"]["groups"]["character"]) == 3767
    assert len(first["breakdown"]["passages"]) == 20
    assert {"name": "uniform", "nats": 4.143, "note": "every character equally likely"} in [
        {**one, "nats": round(one["nats"], 3)} for one in found["baselines"]
    ]
    assert main(["--where", "--json=-", "--stride=16"]) == 0
    assert json.loads(capsys.readouterr().out) == {**found, "evaluations": [second]}


def test_an_adaptive_model_has_rows_of_its_own_and_the_rules_are_told(run, capsys):
    assert main(["--adaptive", "--where", "--json=a.json", "--report=a.html", *SAMPLES]) == 0
    output = capsys.readouterr().out
    (found,) = json.loads(Path("a.json").read_text())["evaluations"]
    adaptation = found["adaptation"]
    joined = " ".join(output.split())
    for name, note in (
        ("network_nats", "(adaptive: learns while it reads)"),
        ("nats", "(adaptive, with n-grams of what it read)"),
    ):
        row = rf"{adaptation[name]:.4f} \S+ \S+ \* {re.escape(str(run))} {re.escape(note)}"
        assert re.search(row, joined)
    assert adaptation["nats"] < found["sliding_nats"]  # the text repeats itself
    learned = {kind["name"]: kind for kind in adaptation["learned"]}
    assert sum(kind["characters"] for kind in learned.values()) == 3767
    total = sum(kind["characters"] * kind["adaptive_nats"] for kind in learned.values())
    assert total / 3767 == pytest.approx(adaptation["nats"])
    assert f"What {run} learned while reading\ncharacters  frozen  adaptive\n" in output
    page = Path("a.html").read_text("utf-8")
    assert "<h2>What it learned while reading</h2>" in page
    for shown in (joined, page):
        assert "a character is predicted before it is learned from, and the text is read" in shown


def test_copies_are_looked_for_in_samples(best, capsys):
    assert main(["--copying", "--temperature=0.5", "--seed=3", "--json=a.json", *SAMPLES]) == 0
    assert "copy? Substrings that stand in the training part" in capsys.readouterr().out
    (found,) = json.loads(Path("a.json").read_text())["evaluations"]
    completer = Completer.from_checkpoint(best)
    expected = completer.complete("", 20, num_samples=2, seed=3, temperature=0.5)
    assert found["copying"]["samples"] == expected
    assert [one["suffix"] for one in found["copying"]["extraction"]] == [32, 64]


def test_an_ensemble_has_the_loss_of_its_mean_probabilities(run, capsys):
    cut = RUN.parent / "cut/version_0"
    assert main([*f"--ckpt {run},{cut} {cut} --json=a.json --report=a.html".split(), *SAMPLES]) == 0
    both, alone = json.loads(Path("a.json").read_text())["evaluations"]
    members = [Completer.from_checkpoint(path) for path in (run, cut)]
    (text,) = SplitCorpus(read_checkpoint(run / "checkpoints/best.ckpt")).documents("val")
    ids, nats = torch.tensor(members[0].tokenizer.encode(text)), 0.0
    for start in range(0, len(ids) - 1, 16):
        window = ids[start : start + 17]
        mean = sum(member.network(window[None, :-1])[0].softmax(-1) for member in members) / 2
        nats -= mean.gather(1, window[1:, None]).log().sum().item()
    assert both["block_nats"] == pytest.approx(nats / (len(ids) - 1), rel=1e-5)
    assert (both["agrees"], alone["agrees"]) == (None, True)
    assert f"Does the ensemble of {run}, {cut} copy?" in capsys.readouterr().out


def test_the_report_is_one_page_even_without_memory_for_n_grams(run, capsys, monkeypatch):
    assert main(["--report=a.html", *SAMPLES]) == 0
    page = Path("a.html").read_text(encoding="utf-8")
    assert page.endswith("</html>\n")
    for heading in ("Against what", "Where the loss is", "Does it copy?"):
        assert f"<h2>{heading}</h2>" in page
    capsys.readouterr()
    assert main(["--report=-", *SAMPLES]) == 0
    assert capsys.readouterr().out == page
    monkeypatch.setattr(ngrams, "_BYTES_PER_CHARACTER", 1 << 50)
    assert main(["--report=b.html", *SAMPLES]) == 0
    output, errors = capsys.readouterr()
    assert "warning: without n-gram models: counting n-grams needs at least " in errors
    assert "zlib" in output
    assert "-gram" not in output
    assert Path("b.html").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--ckpt none.ckpt", "there is no checkpoint none.ckpt"),
        ("--corpus none.txt", "'none.txt' is neither an existing file nor a known name"),
        ("--part test", "the test part is empty: test_fraction is 0.0"),
        ("--stride 0", "stride is 0: expected a value >= 1"),
        ("--corpus short.txt", "too few to split"),
        ("--corpus empty.txt", "empty.txt is empty"),
        ("--ckpt other.ckpt", "other.ckpt is a checkpoint of another program"),
        ("--ckpt short.txt", "short.txt is damaged or not a checkpoint"),
        ("--report .", ".: Is a directory"),
        ("--device cuda", "device is cuda: not available here"),
        ("--copying --num_samples=0", "num_samples is 0: expected a value >= 1"),
        ("--copying --temperature=-1", "temperature is -1.0: expected a value >= 0"),
        ("--report none/a.html", "none/a.html: No such file or directory"),
        (f"--ckpt {RUN} {RUN.parent}/other/version_0", "these models have different texts or spl"),
        (f"--ckpt {RUN},{RUN.parent}/other/version_0", "these models have different texts or spl"),
        ("--report=- --json=-", "json and report are both -: choose two files"),
        ("--report=./a.json --json=a.json", "json and report are both ./a.json: choose two files"),
        ("--json own.txt --corpus own.txt", "output is own.txt, which is an input"),
        ("--report own.txt --corpus li[n]k.*", "output is own.txt, which is an input"),
        ("--ckpt own.ckpt --json=- --report link.txt", "output is link.txt, which is an input"),
        (f"--report {RUN}/checkpoints/best.ckpt", "best.ckpt, which is an input: choose another"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_file(best, capsys, options, message):
    Path("short.txt").write_text("ab")
    Path("empty.txt").write_text("")
    torch.save({"model": {}}, "other.ckpt")
    Path("own.txt").write_text("ab\n" * 99)
    Path("link.txt").symlink_to("own.txt")
    content = torch.load(best, weights_only=True)
    content["ShakespeareDataModule"]["corpus"] = ["sample", "own.txt"]
    torch.save(content, "own.ckpt")
    before = contents()
    assert main(["--json=a.json", *options.split()]) == 1
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.splitlines()[-1].startswith("error: ")
    assert message in errors.splitlines()[-1]
    assert contents() == before


def full():
    losses = np.full(len(TEXT), 1.5)
    losses[0] = np.nan
    samples = ["Ay me! Ay me! Ay me!"]
    copying = Copying(
        novelty(samples, [TEXT]), novelty([TEXT[:12]], [TEXT]), 8,
        [Extraction(32, 0.5, None)], samples,
    )  # fmt: skip
    return evaluation(
        losses, checkpoint="a[b].ckpt", block_nats=1.5, sliding_nats=1.5, stride=2,
        breakdown=break_down([TEXT], losses, 8), copying=copying,
    )  # fmt: skip


BASELINES = [Baseline("2-gram", 2.0, "counted"), *PUBLISHED]


def test_the_tables_have_everything_in_80_columns():
    tables = as_tables([full()], BASELINES)
    assert max(map(len, tables.splitlines())) <= 80
    assert tables.startswith("199 characters of the val part, nats per character\n\n  nats  ")
    for line in (
        "1.5000  2.1640       4.482  * a[b].ckpt (in blocks of the context)",
        "1.8857  2.7205       6.591  nanoGPT's laptop recipe, 0.8 M (its train.py,",
        "                            measured on the whole part)",
        "2.0000  2.8854       7.389  2-gram (counted)",
        "\na[b].ckpt",
        "  1.5000: better than every n-gram; the best is a 2-gram (2.0000)",
        "\nWhere the loss of a[b].ckpt is",
        "\ncharacters    nats  of the loss  place in the word",
        "\nDoes a[b].ckpt copy? Substrings that stand in the training part",
        "   0.0%         100.0%  4 characters\n   0.0%         100.0%  6 characters",
        " 100.0%          66.7%  known words\n  33.3%         100.0%  different words",
        "longest in the held-out text: 12 characters, from line 1 of the training part",
        "  'ROMEO:\\nAy [b'",
        "        50.0%              -  32 characters",
    ):
        assert f"\n{line}\n" in tables, line
    assert "Ay [bold]me" in tables
