"""The command line of `fit`: names, resuming, training more, starting from a model, stopping."""

import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from shakespeare_lm.commands.fit import fit
from shakespeare_lm.commands.fit_cli import expand_short_names
from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.errors import UserError
from shakespeare_lm.training.module import ShakespeareLM
from shakespeare_lm.training.run_folder import RunLogger
from shakespeare_lm.training.stopping import StopWithoutImprovement
from tests.conftest import TINY, Fit, Main, logged

RUN = Path("lightning_logs/version_0")
QUIET = ["--enable_progress_bar=false", "--sample.max_new_tokens=0", "--accelerator=cpu"]


def same_weights(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    other = second.state_dict()
    return all(torch.equal(tensor, other[name]) for name, tensor in first.state_dict().items())


def test_a_name_is_a_folder_whose_runs_are_numbered(
    tiny_fit: Fit, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (0, 1):
        cli = tiny_fit("--max_steps=2", "--name=first-try")
        folder = Path(f"lightning_logs/first-try/version_{number}")
        assert Path(str(cli.trainer.log_dir)) == folder
        assert (folder / "checkpoints/best.ckpt").is_file()
    assert "  tensorboard --logdir lightning_logs\n" in capsys.readouterr().out


def test_a_run_is_resumed_with_its_own_options_and_in_its_own_folder(tiny_fit: Fit) -> None:
    options = ("--max_steps=6", "--val_check_interval=3", "--model.dropout=0.2")
    whole = tiny_fit(*options, "--name=whole")
    tiny_fit(*options, "--name=cut", "--model.decay_steps=6", "--max_steps=3")
    resumed = fit([*QUIET, "--ckpt_path=lightning_logs/cut/version_0", "--max_steps=6"], "default")
    assert Path(str(resumed.trainer.log_dir)) == Path("lightning_logs/cut/version_0").resolve()
    assert same_weights(whole.model, resumed.model)
    assert set(logged(Path("lightning_logs/cut/version_0"), "train_loss")) == set(range(6))


def test_the_newest_run_is_looked_for_where_the_yaml_file_says(tiny_fit: Fit) -> None:
    tiny_fit("--max_steps=2", "--default_root_dir=elsewhere")
    tiny_fit("--max_steps=3")  # newer, but here
    shutil.copy("elsewhere/lightning_logs/version_0/config.yaml", "my.yaml")
    resumed = fit([*QUIET, "--config=my.yaml", "--ckpt_path=last", "--max_steps=4"])
    assert resumed.resumed_step == 2


def test_a_checkpoint_alone_is_resumed_with_the_options_of_its_model(tiny_fit: Fit) -> None:
    options = ("--max_steps=4", "--model.dropout=0.2", "--model.decay_steps=4")
    whole = tiny_fit(*options, "--val_check_interval=2")
    cut = tiny_fit(*options, "--max_steps=2", "--name=cut")
    shutil.copy(cut.last.path, "a.ckpt")
    others = [option for option in TINY if not option.startswith(("--model", "--seed"))]
    resumed = fit([*others, "--ckpt_path=a.ckpt", "--max_steps=4", "--val_check_interval=2"])
    assert same_weights(whole.model, resumed.model)


def test_more_steps_begin_the_schedule_anew_and_can_be_resumed_themselves(
    tiny_fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_fit("--max_steps=4", "--model.warmup_steps=0")
    with pytest.raises(UserError, match="more_steps is 0: expected a value >= 1"):
        fit([*QUIET, "--more_steps=0"])
    more = fit([*QUIET, "--more_steps=4", "--val_check_interval=2"])
    assert more.trainer.global_step == 8
    rates = [rate / 8e-3 for rate in logged(RUN, "learning_rate").values()]
    assert rates == pytest.approx([1, 0.75, 0.5, 0.25, 0.5, 0.375, 0.25, 0.125])
    config = yaml.safe_load((RUN / "config.yaml").read_text())
    assert (config["trainer"]["max_steps"], config["model"]["restart_step"]) == (8, 4)
    assert (config["ckpt_path"], config["more_steps"]) == (None, None)
    # Its first half, resumed, equals the whole; and it equals one run with a restart at step 4.
    tiny_fit("--max_steps=8", "--model.warmup_steps=0", "--model.restart_step=4", "--name=one",
             "--val_check_interval=2")  # fmt: skip
    one = torch.load("lightning_logs/one/version_0/checkpoints/last.ckpt", weights_only=True)
    last = torch.load(RUN / "checkpoints/last.ckpt", weights_only=True)
    for name, tensor in one["state_dict"].items():
        if name.startswith("network."):
            assert torch.equal(tensor, last["state_dict"][name]), name


def test_more_steps_of_a_run_that_ended_with_its_epochs_count_steps(tiny_fit: Fit) -> None:
    tiny_fit("--max_epochs=1", "--max_steps=-1")
    steps = torch.load(RUN / "checkpoints/last.ckpt", weights_only=True)["global_step"]
    assert fit([*QUIET, "--more_steps=3"]).trainer.global_step == steps + 3


def test_a_resumed_schedule_that_jumps_is_named(tiny_fit: Fit) -> None:
    tiny_fit("--max_steps=4", "--model.warmup_steps=0")
    with pytest.warns(UserWarning, match=r"jumps from 0 to 0\.004 at step 4, because .*--more_st"):
        fit([*QUIET, "--ckpt_path=last", "--max_steps=8"])


def test_a_run_can_start_from_a_model_with_any_learning_rate_and_text(tiny_fit: Fit) -> None:
    first = tiny_fit("--max_steps=4", "--model.optimizer=adamw")
    Path("own.txt").write_text("Ünd nun zu etwas völlig anderem.\n" * 30, encoding="utf-8")
    options = ["--data.corpus=own.txt", "--model.optimizer=adamw", "--model.learning_rate=1e-9"]
    options += ["--max_steps=1", "--name=tuned", "--data.batch_size=4", f"--init_from={RUN}"]
    tuned = fit([*QUIET, *options])
    assert tuned.model.hparams["vocabulary"] == first.model.hparams["vocabulary"] + "Üö"
    assert tuned.model.hparams["d_model"] == 16
    ids = torch.randint(60, (1, 16))
    with torch.no_grad():
        torch.testing.assert_close(
            tuned.model.eval()(ids)[..., :60], first.model.eval()(ids)[..., :60]
        )
    # Its config.yaml repeats it, and its checkpoint is complete without the first run.
    again = fit([*QUIET, "--config=lightning_logs/tuned/version_0/config.yaml", "--name=again"])
    assert same_weights(tuned.model, again.model)
    (RUN / "checkpoints/best.ckpt").unlink()
    resumed = fit([*QUIET, "--ckpt_path=lightning_logs/tuned/version_0", "--more_steps=2"])
    assert resumed.trainer.global_step == 3
    completer = Completer.from_checkpoint(tuned.best.best_model_path)
    assert len(completer.complete("Ü", 5, seed=1)) == 5


def test_a_run_that_starts_from_a_model_refuses_another_network(tiny_fit: Fit) -> None:
    tiny_fit("--max_steps=1")
    with pytest.raises(UserError, match=r"best\.ckpt has d_model 16, but this run has 32"):
        fit([*QUIET, "--data.corpus=sample", f"--init_from={RUN}", "--model.d_model=32"])


def test_early_stopping_ends_a_run_that_no_longer_improves(
    tiny_fit: Fit, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("short.txt").write_text("To be, or not to be: that is the question.\n" * 8)
    cli = tiny_fit("--data.corpus=short.txt", "--max_steps=2000", "--val_check_interval=5",
                   "--early_stopping=2", "--model.learning_rate=0.03",
                   "--data.batch_size=4")  # fmt: skip
    assert cli.trainer.global_step < 2000
    output = capsys.readouterr().out
    assert "Stopped early: Monitored metric val_loss did not improve in the last 2 rec" in output
    assert f", at step {cli.trainer.global_step - 10}\n" in output


def test_a_run_without_a_logger_leaves_its_options_and_checkpoints_in_the_usual_folder(
    tiny_fit: Fit, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_fit("--max_steps=2", "--logger=false")
    names = {path.name for path in Path().rglob("*") if path.is_file()}
    assert names == {".lock", "config.yaml", "best.ckpt", "last.ckpt"}
    assert (RUN / "checkpoints/best.ckpt").is_file()
    assert "tensorboard" not in capsys.readouterr().out
    assert fit([*QUIET, "--more_steps=2"]).trainer.global_step == 4


def test_a_run_with_another_logger_prints_no_command_for_tensorboard(
    tiny_fit: Fit, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_fit("--max_steps=2", "--logger=CSVLogger", "--logger.save_dir=.")
    output = capsys.readouterr().out
    assert (RUN / "metrics.csv").is_file()
    assert (RUN / "config.yaml").is_file()
    assert "tensorboard" not in output
    assert f"complete --ckpt {RUN}/checkpoints/best.ckpt" in output


def test_a_small_best_checkpoint_completes_but_is_not_resumed(
    tiny_main: Main, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tiny_main("--max_steps=2", "--small_best=true", "--data.test_fraction=0.1") == 0
    best, last = (RUN / f"checkpoints/{name}.ckpt" for name in ("best", "last"))
    assert best.stat().st_size < 0.6 * last.stat().st_size
    assert len(Completer.from_checkpoint(best).complete("A", 5)) == 5
    assert tiny_main("--max_steps=4", f"--ckpt_path={best}") == 1
    assert "has weights but no training state" in capsys.readouterr().err
    assert RunLogger(Path("lightning_logs")).version == 1  # and nothing was begun


def test_a_run_is_continued_in_its_folder_from_anywhere_and_keeps_its_best(
    tiny_fit: Fit, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_fit("--max_steps=4", "--val_check_interval=2")
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    best = Path("..") / RUN / "checkpoints" / "best.ckpt"
    before = best.read_bytes()
    worse = ["--model.learning_rate=10", "--model.optimizer=adamw"]
    with pytest.raises(UserError, match="was trained with optimizer 'muon'"):
        fit([*QUIET, f"--ckpt_path=../{RUN}", "--more_steps=2", *worse])
    capsys.readouterr()
    cli = fit([*QUIET, f"--ckpt_path=../{RUN}", "--more_steps=2", "--gradient_clip_val=1e-9"])
    assert not Path("lightning_logs").exists()
    assert cli.trainer.global_step == 6
    printed = capsys.readouterr().out
    (shown,) = re.findall(r"complete --ckpt (\S+)", printed)
    assert Path(shown).is_file()
    score = torch.load(best, weights_only=True)["global_step"]
    assert f", at step {score}\n" in printed
    assert (best.read_bytes() == before) == (score == 4)


def test_a_run_continued_elsewhere_has_a_best_of_its_own(
    tiny_fit: Fit, capsys: pytest.CaptureFixture[str]
) -> None:
    last = tiny_fit("--max_steps=4").last.path
    shutil.copy(last, "copy.ckpt")
    capsys.readouterr()
    cli = fit([*QUIET, "--ckpt_path=copy.ckpt", "--data.corpus=sample", "--data.batch_size=64",
               "--more_steps=2"])  # fmt: skip
    assert Path(cli.best.best_model_path) == Path("lightning_logs/version_1/checkpoints/best.ckpt")
    assert ", at step 6\n" in capsys.readouterr().out


def test_patience_is_that_of_this_run(tiny_fit: Fit) -> None:
    options = ["--max_steps=40", "--val_check_interval=5", "--model.learning_rate=1e-9",
               "--model.muon_learning_rate=1e-9", "--model.decay_steps=40"]  # fmt: skip
    stop = StopWithoutImprovement(patience=6, restarted=False)
    stop.load_state_dict({**stop.state_dict(), "patience": 2, "wait_count": 2})
    assert (stop.patience, stop.wait_count) == (6, 2)
    stop = StopWithoutImprovement(patience=6, restarted=True)
    stop.load_state_dict({**stop.state_dict(), "patience": 2, "wait_count": 2})
    assert (stop.patience, stop.wait_count) == (6, 0)
    assert tiny_fit(*options, "--early_stopping=3").trainer.global_step <= 40


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--init_from=a.ckpt", "--more_steps=2"], "--init_from starts a new run, and --ckpt_pa"),
        (["--init_from=a.ckpt", "--ckpt_path=last"], "--init_from starts a new run, and --ckpt_pa"),
        (["--more_steps=2", "--max_steps=9"], "--more_steps and --max_steps both say when"),
        (
            ["--name=a", "--logger=CSVLogger", "--logger.save_dir=.", "--data.corpus=sample"],
            "name is for the default logger",
        ),
    ],
)
def test_options_of_which_one_would_have_no_effect_are_refused(
    tiny_main: Main, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        fit(options)


def test_more_steps_of_a_run_that_was_killed_at_once_begin_it_anew(
    tiny_fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise UserError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(ShakespeareLM, "training_step", killed)
        with pytest.raises(UserError, match="killed"):
            tiny_fit("--max_steps=2")
    assert fit([*QUIET, "--more_steps=2"]).trainer.global_step == 2


def test_a_model_of_counts_can_be_tuned_too_and_a_recipe_does_not_change_the_network(
    tiny_fit: Fit,
) -> None:
    tiny_fit("--max_steps=2", "--model.network=bigram", "--model.optimizer=adamw")
    short = ["--data.corpus=sample", "--max_steps=1", "--limit_val_batches=1", f"--init_from={RUN}"]
    for recipe in ([], ["--config=little"]):
        tuned = fit([*QUIET, *recipe, *short], "default")
        assert tuned.model.hparams["network"] == "bigram"


def test_a_file_named_as_a_recipe_does_not_replace_the_default(
    tiny_main: Main,
) -> None:
    Path("default").write_text("hello")
    assert tiny_main("--max_steps=1") == 0


NAMES = ["max_steps", "devices", "callbacks"]


def test_short_names_are_trainer_options_and_leave_the_rest_alone() -> None:
    typed = [
        "--max_steps=5",
        "--devices",
        "2",
        "--seed",
        "7",
        "--model.d_model=8",
        "--nonsense",
        "-x",
    ]
    assert expand_short_names(typed, NAMES) == [
        "--trainer.max_steps=5", "--trainer.devices", "2", "--seed_everything", "7",
        "--model.d_model=8", "--nonsense", "-x",
    ]  # fmt: skip
    nested = ["--callbacks+=EarlyStopping", "--callbacks.monitor=val_loss"]
    expected = [word.replace("--", "--trainer.") for word in nested]
    assert expand_short_names(nested, NAMES) == expected
