"""The options that choose a model."""

import argparse
from pathlib import Path

import pytest

from shakespeare_lm.commands.model_options import add_model_options, load_completer


def test_the_newest_runs_best_checkpoint_is_the_default(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(runs)
    parser = argparse.ArgumentParser()
    add_model_options(parser, dtype="float32")
    newest = load_completer(parser.parse_args([]))
    assert capsys.readouterr().err == "model: lightning_logs/version_1/checkpoints/best.ckpt\n"
    older = runs / "lightning_logs/version_0/checkpoints/best.ckpt"
    given = load_completer(parser.parse_args(["--ckpt", str(older), "--dtype", "bfloat16"]))
    assert capsys.readouterr().err == f"model: {older}, in bfloat16\n"
    assert newest.complete("To", 20, greedy=True) != given.complete("To", 20, greedy=True)
    dtypes = [next(c.network.parameters()).dtype for c in (newest, given)]
    assert list(map(str, dtypes)) == ["torch.float32", "torch.bfloat16"]
