"""What the words after `fit` imply, and recipes by name."""

from pathlib import Path

import pytest

from shakespeare_lm.commands import fit_arguments
from shakespeare_lm.commands.fit_arguments import (
    FOLDER,
    config_path,
    default_recipe,
    recipe_names,
    with_implied,
)
from shakespeare_lm.errors import UserError
from shakespeare_lm.training.module import ShakespeareLM
from tests.conftest import save

CONFIGS = Path(__file__).parents[2] / "configs"
DEFAULT = f"--config={FOLDER / 'default.yaml'}"
RUN = Path("lightning_logs/version_0")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a run, in the current folder."""
    monkeypatch.chdir(tmp_path)
    (RUN / "checkpoints").mkdir(parents=True)
    (RUN / "config.yaml").touch()
    sizes = {"context_length": 8, "num_layers": 1, "num_heads": 2, "d_model": 8}
    module = ShakespeareLM("\nabc", seed=5, dropout=0.2, weight_decay=0.3, **sizes)
    save(RUN / "checkpoints/last.ckpt", module)
    return RUN


def words(typed: list[str], default_config: str | None = "default") -> list[str]:
    return with_implied(typed, default_config).words


def test_a_new_run_has_the_default_recipe_unless_it_has_another() -> None:
    little = f"--config={FOLDER / 'little.yaml'}"
    assert words(["--model.bias=true"]) == [DEFAULT, "--model.bias=true"]
    assert words(["--config", "little"]) == [little]
    assert words(["-x", "-c", "little"], None) == [little, "-x"]
    assert words([], None) == []


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


@pytest.mark.parametrize(
    "given", ["last", str(RUN), str(RUN / "checkpoints"), str(RUN / "checkpoints/last.ckpt")]
)
def test_a_resumed_run_has_the_options_of_its_first_part(run: Path, given: str) -> None:
    expected = [
        f"--config={(run / 'config.yaml').resolve()}",
        "--max_steps=9",
        f"--ckpt_path={given}",
    ]
    implied = with_implied(["--ckpt_path", given, "--max_steps=9"], "default")
    assert implied.words == expected
    assert implied.resumed
    assert implied.resumed.path == run / "checkpoints/last.ckpt"
    typed = ["--config=little", f"--ckpt_path={given}"]
    assert words(typed)[0] == f"--config={FOLDER / 'little.yaml'}"


def test_more_steps_are_those_of_the_last_run(run: Path) -> None:
    assert words(["--more_steps=5"]) == [
        f"--config={(run / 'config.yaml').resolve()}", "--more_steps=5", "--ckpt_path=last"
    ]  # fmt: skip


def test_last_with_the_config_of_a_run_means_the_last_of_that_run(run: Path) -> None:
    typed = ["--config", str(run / "config.yaml"), "--ckpt_path", "last"]
    assert words(typed)[-1] == f"--ckpt_path={run}"


def test_a_checkpoint_without_the_folder_of_a_run_implies_all_options_of_its_model(
    run: Path,
) -> None:
    (run / "checkpoints/last.ckpt").rename("a.ckpt")
    Path("config.yaml").touch()  # of whatever else is in this folder
    implied = words(["--ckpt_path=a.ckpt"])
    assert implied[0] == DEFAULT
    options = {"--model.dropout=0.2", "--model.weight_decay=0.3", "--data.context_length=8"}
    assert options | {"--seed_everything=5"} <= set(implied)
    assert implied[-1] == "--ckpt_path=a.ckpt"


def test_a_run_that_replaces_a_damaged_one_brings_its_own_options(run: Path) -> None:
    newer = run.parent / "version_1"
    (newer / "checkpoints").mkdir(parents=True)
    (newer / "config.yaml").touch()
    (newer / "checkpoints/last.ckpt").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"is damaged .*; resuming from .*version_0"):
        assert words(["--ckpt_path=last"])[0] == f"--config={(run / 'config.yaml').resolve()}"


def test_a_yaml_file_may_say_where_the_runs_are_or_that_none_is_resumed(run: Path) -> None:
    assert run.exists()
    assert with_implied(["--config=little", "--ckpt_path=last"], "default").resumed is None
    assert with_implied(["--ckpt_path=null"], "default").resumed is None
    assert with_implied(["--ckpt_path=missing", "--help"], "default").resumed is None


def test_without_a_checkpoint_to_resume_nothing_is_implied(run: Path) -> None:
    for given in ("a.ckpt", str(run / "nothing")):
        with pytest.raises(UserError, match="there is no checkpoint"):
            with_implied([f"--ckpt_path={given}"], "default")


def test_a_run_that_starts_from_a_model_has_its_network_before_what_is_typed(run: Path) -> None:
    implied = words([f"--init_from={run / 'checkpoints/last.ckpt'}", "--x"])
    assert implied[0] == DEFAULT
    assert {"--model.d_model=8", "--data.context_length=8", "--model.bias=false"} <= set(implied)
    assert not any(word.startswith("--model.dropout") for word in implied)
    assert implied[-2:] == [f"--init_from={run / 'checkpoints/last.ckpt'}", "--x"]
    with pytest.raises(UserError, match=r"no best\.ckpt|there is no checkpoint"):
        with_implied([f"--init_from={run}"], "default")  # which has no best.ckpt


def test_every_recipe_has_the_name_of_its_file_and_the_default_comes_first() -> None:
    assert recipe_names()[0] == "default"
    assert {config_path(name).resolve() for name in recipe_names()} == set(CONFIGS.glob("*.yaml"))


def test_a_file_of_the_same_name_comes_before_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert config_path("little") == FOLDER / "little.yaml"
    Path("little").write_text("data: {}")
    assert config_path("little") == Path("little")


@pytest.mark.parametrize("config", ["none.yaml", "Little", "little.yaml", "."])
def test_anything_else_is_an_error_that_lists_the_recipes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"expected a YAML file, or one of the recipes: default, b"):
        config_path(config)


def test_a_file_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"data: {corpus: \xff}")
    with pytest.raises(UserError, match=r"a\.yaml is not UTF-8 text: invalid byte 0xFF"):
        config_path(str(path))

    def refuse(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(UserError, match=r"cannot read .*a\.yaml: Permission denied"):
        config_path(str(path))
