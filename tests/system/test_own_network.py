"""A network of one's own, in a file outside the package: what works with it, and what says no."""

import json
import os
import sys
from pathlib import Path

import pytest

from examples import my_network
from shakespeare_lm.checkpoint.reading import read_checkpoint
from shakespeare_lm.commands import complete, evaluate, export, page, score, serve
from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.completion.decoder import ContinuousDecoder
from shakespeare_lm.errors import UserError
from shakespeare_lm.methods.import_path import TRUST_VARIABLE
from tests.conftest import Fit

SOURCE = Path(my_network.__file__).read_text()
NAME = "own_gru.GRU"
NETWORK = (f"--model.network={NAME}", "--model.optimizer=adamw", "--precision=32-true")


@pytest.fixture
def gru(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the file into the current folder of the test, and forget it afterwards."""
    (tmp_path / "own_gru.py").write_text(SOURCE)
    monkeypatch.setenv(TRUST_VARIABLE, "")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "own_gru", raising=False)


@pytest.mark.usefixtures("gru")
def test_it_trains_resumes_completes_and_is_evaluated(
    tiny_fit: Fit, capsys: pytest.CaptureFixture[str]
) -> None:
    options = (*NETWORK, "--model.characters_ahead=2", "--model.ngram_distillation=0.5")
    options = (*options, "--val_check_interval=3", "--model.decay_steps=6")
    whole = tiny_fit(*options, "--max_steps=6")
    tiny_fit(*options, "--max_steps=3")
    resumed = tiny_fit("--ckpt_path=last", "--max_steps=6")
    for name, tensor in whole.model.state_dict().items():
        assert tensor.equal(resumed.model.state_dict()[name]), name
    capsys.readouterr()
    assert complete.main(["--prompt=The", "--max_new_tokens=9", "--seed=1"]) == 0
    assert len(capsys.readouterr().out) > 9
    Path("text.txt").write_text("To be, or not to be")
    assert score.main(["text.txt"]) == 0
    assert evaluate.main(["--json", "e.json", "--stride", "16"]) == 0
    assert json.loads(Path("e.json").read_text())["evaluations"][0]["agrees"] is True


@pytest.mark.usefixtures("gru")
@pytest.mark.parametrize("share", [0.0, 0.2])
def test_a_memory_wraps_it(tiny_fit: Fit, share: float) -> None:
    memory = ("--model.memory_order=2", f"--model.memory_share={share}")
    cli = tiny_fit(*NETWORK, *memory, "--max_steps=2")
    completer = Completer.from_checkpoint(cli.best.best_model_path)
    one, other = (completer.complete("The", 20, seed=1, cache=on) for on in (True, False))
    assert one == other


@pytest.mark.usefixtures("gru")
def test_forms_that_cannot_hold_it_say_so(
    tiny_fit: Fit, capsys: pytest.CaptureFixture[str]
) -> None:
    cli = tiny_fit(*NETWORK, "--max_steps=1")
    capsys.readouterr()
    for command, options, message in (
        (page, ["--output", "a.html"], "network is own_gru.GRU: "),
        (export, ["--to", "huggingface", "--output", "a"], "network is own_gru.GRU: "),
        (serve, ["--port=0"], "the network GRU has no key-value cache"),
    ):
        assert command.main(options) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {message}")
        assert command is serve or "only transformer, bigram; complete, score" in line
    assert not {"a", "a.html"} & set(os.listdir())
    with pytest.raises(UserError, match="the network GRU has no key-value cache"):
        ContinuousDecoder(cli.model.network)
    assert export.main(["--to", "safetensors", "--output", "a.safetensors"]) == 0
    assert type(read_checkpoint("a.safetensors").network()).__name__ == "GRU"


@pytest.mark.usefixtures("gru")
def test_a_checkpoint_runs_no_code_that_was_not_allowed(
    tiny_fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_fit(*NETWORK, "--max_steps=1").best.best_model_path
    Path("own_gru.py").write_text("open('ran', 'w').close()\n" + SOURCE)
    # As in a new process.
    del sys.modules["own_gru"]
    monkeypatch.setenv(TRUST_VARIABLE, "")
    with pytest.raises(UserError, match=f"set {TRUST_VARIABLE}={NAME}"):
        Completer.from_checkpoint(path)
    assert not Path("ran").exists()
    monkeypatch.setenv(TRUST_VARIABLE, NAME)
    assert len(Completer.from_checkpoint(path).complete("The", 7)) == 7
    assert Path("ran").exists()


@pytest.mark.usefixtures("gru")
def test_the_options_found_beside_a_checkpoint_allow_no_code(tiny_fit: Fit) -> None:
    """A run's folder, with its config.yaml, can come from anybody."""
    config = tiny_fit("--max_steps=1").last.path.parents[1] / "config.yaml"
    config.write_text(config.read_text().replace("network: transformer", f"network: {NAME}"))
    Path("own_gru.py").write_text("open('ran', 'w').close()\n" + SOURCE)
    with pytest.raises(UserError, match=rf"network is '{NAME}', which is not part of"):
        tiny_fit("--ckpt_path=last", "--max_steps=2")
    assert not Path("ran").exists()
