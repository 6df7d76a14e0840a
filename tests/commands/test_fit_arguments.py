"""What the words after `fit` imply."""

from pathlib import Path

import pytest

from shakespeare_lm.commands import fit_arguments
from shakespeare_lm.commands.fit_arguments import default_recipe, with_implied
from shakespeare_lm.commands.recipes import FOLDER
from shakespeare_lm.errors import UserError
from shakespeare_lm.training.module import ShakespeareLM
from tests.conftest import save

DEFAULT = f"--config={FOLDER / 'default.yaml'}"
RUN = Path("lightning_logs/version_0")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a run, in the current folder."""
    monkeypatch.chdir(tmp_path)
    (RUN / "checkpoints").mkdir(parents=True)
    (RUN / "config.yaml").touch()
    module = ShakespeareLM("\nabc", context_length=8, num_layers=1, num_heads=2, d_model=8)
    save(RUN / "checkpoints/last.ckpt", module)
    return RUN


def test_a_new_run_has_the_default_recipe_unless_it_has_another() -> None:
    assert with_implied(["--model.bias=true"], "default") == [DEFAULT, "--model.bias=true"]
    assert with_implied(["--config", "little"], "default") == [f"--config={FOLDER / 'little.yaml'}"]
    assert with_implied(["-x", "-c", "little"], None) == [
        f"--config={FOLDER / 'little.yaml'}",
        "-x",
    ]
    assert with_implied([], None) == []


@pytest.mark.parametrize(
    ("typed", "recipe"),
    [
        (["--precision=32-true"], "quick"),
        (["--trainer.precision", "64-true"], "quick"),
        (["--precision=bf16-mixed", "--accelerator=cpu"], "default"),
        (["--precision", "16-mixed"], "default"),
        (["--accelerator=gpu", "--max_steps=3"], "default"),
        (["--trainer.accelerator", "cpu"], "quick"),
        ([], "quick"),
        (["--precision"], "default"),  # an error, which the command's parser reports
    ],
)
def test_the_recipe_of_a_new_run_fits_the_speed_of_its_number_format(
    monkeypatch: pytest.MonkeyPatch, typed: list[str], recipe: str
) -> None:
    fastest = {"gpu": "bf16-mixed", "cpu": "32-true", "auto": "32-true"}
    monkeypatch.setattr(fit_arguments, "fastest_precision", fastest.__getitem__)
    assert default_recipe(typed) == FOLDER / f"{recipe}.yaml"


@pytest.mark.parametrize("given", ["last", str(RUN), str(RUN / "checkpoints/last.ckpt")])
def test_a_resumed_run_has_the_options_of_its_first_part(run: Path, given: str) -> None:
    expected = [f"--config={run / 'config.yaml'}", "--max_steps=9", f"--ckpt_path={given}"]
    assert with_implied(["--ckpt_path", given, "--max_steps=9"], "default") == expected
    typed = ["--config=little", f"--ckpt_path={given}"]
    assert with_implied(typed, "default")[0] == f"--config={FOLDER / 'little.yaml'}"


def test_more_steps_are_those_of_the_last_run(run: Path) -> None:
    assert with_implied(["--more_steps=5"], "default") == [
        f"--config={run / 'config.yaml'}", "--more_steps=5", "--ckpt_path=last"
    ]  # fmt: skip


def test_last_with_the_config_of_a_run_means_the_last_of_that_run(run: Path) -> None:
    typed = ["--config", str(run / "config.yaml"), "--ckpt_path", "last"]
    assert with_implied(typed, "default")[-1] == f"--ckpt_path={run}"


def test_a_checkpoint_without_the_folder_of_a_run_implies_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert with_implied(["--ckpt_path=a.ckpt"], "default") == [DEFAULT, "--ckpt_path=a.ckpt"]


def test_a_run_that_starts_from_a_model_has_its_network_before_what_is_typed(run: Path) -> None:
    words = with_implied([f"--init_from={run / 'checkpoints/last.ckpt'}", "--x"], "default")
    assert words[0] == DEFAULT
    assert {"--model.d_model=8", "--data.context_length=8", "--model.bias=false"} <= set(words)
    assert not any(word.startswith("--model.dropout") for word in words)
    assert words[-2:] == [f"--init_from={run / 'checkpoints/last.ckpt'}", "--x"]
    with pytest.raises(UserError, match=r"no best\.ckpt|there is no checkpoint"):
        with_implied([f"--init_from={run}"], "default")  # which has no best.ckpt
