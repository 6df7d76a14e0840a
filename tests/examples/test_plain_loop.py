"""The example without Lightning: short, and equal to the Trainer to the last digit."""

import re
import runpy
import sys
from pathlib import Path

import pytest
import torch

from examples import plain_loop
from shakespeare_lm.commands.fit import fit
from shakespeare_lm.model.transformer import CausalTransformer
from tests.conftest import logged

EXAMPLE = Path(plain_loop.__file__)
STEPS = 12


def test_it_fits_on_a_page() -> None:
    assert len(EXAMPLE.read_text().splitlines()) <= 80


def test_its_losses_equal_the_trainers_to_the_last_digit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tokenizer, train_batches, val_batches = plain_loop.load("sample")
    torch.manual_seed(plain_loop.SEED)
    network = CausalTransformer(tokenizer.vocab_size, plain_loop.NETWORK)
    losses = plain_loop.train(network, train_batches, STEPS)
    sizes = ("num_layers", "num_heads", "d_model")
    options = {
        "data.corpus": "sample",
        "data.context_length": plain_loop.NETWORK.context_length,
        "data.batch_size": plain_loop.BATCH_SIZE,
        **{f"model.{name}": getattr(plain_loop.NETWORK, name) for name in sizes},
        "max_steps": STEPS,
        "val_check_interval": STEPS,
        "log_every_n_steps": 1,
        "precision": "32-true",
        "accelerator": "cpu",
        "enable_progress_bar": "false",
        "seed": plain_loop.SEED,
    }
    cli = fit([f"--{name}={value}" for name, value in options.items()])
    for ours, theirs in zip(cli.model.network.parameters(), network.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    # TensorBoard keeps float32, which a loss in float32 survives exactly.
    assert logged(Path("lightning_logs/version_0"), "train_loss") == dict(
        enumerate(losses, start=1)
    )
    val_loss = plain_loop.mean_loss(network, val_batches)
    # The Trainer validates in larger batches: sums in another order.
    assert val_loss == pytest.approx(float(cli.best.best_model_score), rel=1e-6)


@pytest.mark.slow
def test_it_runs_and_continues_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "short.txt").write_text("to be or not to be, that is the question\n" * 10)
    monkeypatch.setattr(sys, "argv", ["plain_loop.py", str(tmp_path / "short.txt")])
    short = EXAMPLE.read_text().replace("1337, 300, 16", "1337, 50, 16")
    assert short != EXAMPLE.read_text()
    (tmp_path / "short.py").write_text(short)
    runpy.run_path(str(tmp_path / "short.py"), run_name="__main__")
    output = capsys.readouterr().out
    assert re.search(r"^step 50  train_loss \d\.\d{4}\nval_loss \d\.\d{4}\nROMEO:", output)
    assert len(output.partition("ROMEO:")[2]) == 201
