"""Networks, objectives and optimizers of one's own, by their import paths: the examples, what else
works, when their code runs, and mistakes. More about networks: test_own_network.py.
"""

import sys
from pathlib import Path

import pytest
import torch

from examples import ideas, my_network, my_objective, my_optimizer
from shakespeare_lm.commands.fit_cli import ShakespeareCLI
from shakespeare_lm.commands.fit_parser import spell_out
from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.errors import UserError
from shakespeare_lm.methods.import_path import TRUST_VARIABLE
from shakespeare_lm.model.config import NetworkConfig
from shakespeare_lm.training.module import ShakespeareLM
from tests.conftest import Fit, Main

NETWORK, OBJECTIVE = "examples.my_network.GRU", "examples.my_objective.ZLoss"
OPTIMIZER = "examples.my_optimizer.Lion"
IDEAS = sorted(name for name, value in vars(ideas).items() if hasattr(value, "change"))
OWN = """
import torch
from shakespeare_lm import Objective
open("ran", "w").close()

class Probe(Objective):
    def __init__(self):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.ones(3))

    def forward(self, loss, step):
        return loss * self.factor.square().mean()

class NeedsMore(Objective):
    def __init__(self, more):
        super().__init__()

class SignSGD(torch.optim.Optimizer):
    def step(self, closure=None):
        loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                p.data -= group["lr"] * p.grad.sign()
        return loss

def sign_sgd(groups, lr):
    return SignSGD(groups, {"lr": lr})
"""


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a file into the current folder of the test, and forget it afterwards."""
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.setenv(TRUST_VARIABLE, "")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "own", raising=False)


@pytest.mark.parametrize("example", [my_network, my_objective, my_optimizer])
def test_an_example_fits_on_a_page(example: object) -> None:
    assert len(Path(example.__file__).read_text().splitlines()) <= 40


@pytest.mark.parametrize("idea", IDEAS)
def test_an_idea_knows_the_order_of_earlier_characters_with_rotary_positions(idea: str) -> None:
    config = NetworkConfig(num_layers=1, d_model=16, positions="rotary")
    network = vars(ideas)[idea](11, config).double().eval()
    one, other = network(torch.tensor([[1, 2, 3], [2, 1, 3]]))[:, -1]
    assert (one - other).abs().max() > 1e-9


@pytest.mark.parametrize("options", ["", "--model.positions=rotary --model.zero_init=true"])
@pytest.mark.parametrize("idea", IDEAS)
def test_an_idea_trains_and_completes_with_the_cache_as_without(
    tiny_fit: Fit, idea: str, options: str
) -> None:
    network = (f"--model.network=examples.ideas.{idea}", "--model.num_layers=2", *options.split())
    cli = tiny_fit(*network, "--max_steps=2", "--val_check_interval=2", "--precision=32-true")
    completer = Completer.from_checkpoint(cli.best.best_model_path)
    with_cache, without = (completer.complete("The", 12, seed=1, cache=on) for on in (True, False))
    assert with_cache == without
    assert type(cli.model.network).__name__ == idea


@pytest.mark.parametrize(
    ("options", "completes"),
    [
        (f"--model={NETWORK} --model.optimizer=adamw", False),
        (f"--objective={OBJECTIVE}", True),
        (f"--model.optimizer={OPTIMIZER} --model.weight_decay=0.1", True),
        (f"--objective={OBJECTIVE},own.Probe --model.characters_ahead=2", True),
        ("--model.optimizer=torch.optim.NAdam", True),
        ("--model.optimizer=own.sign_sgd", True),
    ],
)
def test_own_code_resumes_bit_for_bit_and_only_a_network_is_needed_to_complete(
    tiny_fit: Fit, monkeypatch: pytest.MonkeyPatch, options: str, completes: bool
) -> None:
    options = [*options.split(), "--model.decay_steps=4", "--precision=32-true"]
    whole = tiny_fit(*options, "--max_steps=4")
    tiny_fit(*options, "--max_steps=2")
    resumed = tiny_fit("--ckpt_path=last", "--max_steps=4")  # what was typed once may run
    state = resumed.model.state_dict()
    for name, tensor in whole.model.state_dict().items():
        assert tensor.equal(state[name]), name
    if "own.Probe" in " ".join(options):
        assert list(resumed.model.objectives) == ["multi_token", "ZLoss", "Probe"]
        assert (state["objectives.Probe.factor"] != 1).all()
    # As in a new process.
    path = resumed.best.best_model_path
    monkeypatch.setenv(TRUST_VARIABLE, "" if completes else NETWORK)
    monkeypatch.delitem(sys.modules, "own", raising=False)
    Path("ran").unlink(missing_ok=True)
    assert len(Completer.from_checkpoint(path).complete("The", 7)) == 7
    assert not Path("ran").exists()


@pytest.mark.parametrize("option", ["--objective=own.Probe", "--model.optimizer=own.sign_sgd"])
def test_a_checkpoint_that_names_code_does_not_run_it(
    tiny_fit: Fit, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    path = tiny_fit("--max_steps=1", option).last.path
    monkeypatch.setenv(TRUST_VARIABLE, "")
    monkeypatch.delitem(sys.modules, "own")
    Path("ran").unlink()
    name = option.partition("=")[2]
    refused = pytest.raises(UserError, match=f"is '{name}', which is not part .*, set .*={name}$")
    copy = Path("copy.ckpt")
    copy.write_bytes(path.read_bytes())
    for resumed in ("last", str(copy)):
        with refused:
            tiny_fit(f"--ckpt_path={resumed}", "--max_steps=2")
    if "objective" in option:
        tiny_fit(f"--init_from={path}", "--max_steps=1")  # which only needs the network
        with refused:
            ShakespeareLM.load_from_checkpoint(path)
    else:
        ShakespeareLM.load_from_checkpoint(path)  # which needs no optimizer
        with refused:
            tiny_fit(f"--init_from={path}", "--max_steps=2")
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (
            "--objective=own.SignSGD",
            "objective is 'own.SignSGD': expected a subclass of shakespear",
        ),
        ("--objective=own.NeedsMore", "objective is 'own.NeedsMore': NeedsMore.__init__() missing"),
        ("--objective=own.Probe,own.Probe", "'own.Probe,own.Probe': two are called Probe"),
        ("--objective=own", "objective is 'own': expected the import path of your own class, such"),
        ("--objective=own.Probe,", "objective is '': expected the import path of your own class"),
        ("--objective=none.Mine", "objective is 'none.Mine': No module named 'none'"),
        ("--objective=wrong.Mine", "objective is 'wrong.Mine': invalid syntax (wrong.py, line 1)"),
        ("--model.optimizer=adam", "optimizer is 'adam': choose from: muon, adamw, sgd, or give"),
        ("--model.optimizer=own.None_", "optimizer is 'own.None_': own has no None_"),
        ("--model.optimizer=own.Probe", "optimizer is 'own.Probe': Probe.__init__() got an unexp"),
        ("--model.optimizer=builtins.dict", "optimizer is 'builtins.dict': dictionary update seq"),
        ("--model.optimizer=torch.optim.LBFGS", "LBFGS doesn't support per-parameter options"),
        ("--model.optimizer=unittest.mock.Mock", "expected a torch.optim.Optimizer"),
        (
            "--model=own.Probe",
            "network is 'own.Probe': expected a subclass of shakespeare_lm.Netwo",
        ),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_run(
    tiny_main: Main, capsys: pytest.CaptureFixture[str], option: str, message: str
) -> None:
    Path("wrong.py").write_text("one two")
    assert tiny_main(option) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not Path("lightning_logs").exists()


def test_short_names_of_own_code_and_model_options_as_a_file_or_json(tiny_fit: Fit) -> None:
    for typed in (["--model=a.B"], ["--model", "a.B"]):
        assert " ".join(spell_out(typed)).replace("=", " ") == "--model.network a.B"
    typed = ["--objective=a.B", "--model.d_model=8", "--model", "a.B"]
    assert spell_out(typed)[:2] == ["--model.objective=a.B", "--model.d_model=8"]
    Path("options.yaml").write_text("d_model: 4")
    for given in ("options.yaml", '{"d_model": 4}'):
        cli = ShakespeareCLI(["--model.num_heads=1", f"--model={given}", "--data.corpus=sample"])
        assert cli.model.config.d_model == 4


def test_an_own_objective_cannot_be_left_out_on_resume(tiny_fit: Fit) -> None:
    tiny_fit("--max_steps=1", "--objective=own.Probe")
    with pytest.raises(UserError, match=r"trained with objective 'own.Probe', but this run has"):
        tiny_fit("--ckpt_path=last", "--max_steps=2", "--objective=")
