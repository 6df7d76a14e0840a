"""The command `fit` on what was trained before: resuming, training more, starting from a model."""

import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from shakespeare_lm.commands.fit import fit
from shakespeare_lm.commands.fit_cli import ShakespeareCLI
from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.errors import UserError
from shakespeare_lm.training.module import ShakespeareLM
from shakespeare_lm.training.run_logger import RunLogger
from shakespeare_lm.training.stopping import StopWithoutImprovement
from tests.commands.conftest import RUN, contents
from tests.conftest import TINY, logged

CUT = Path("lightning_logs/cut/version_0")
QUIET = ["--enable_progress_bar=false", "--sample.max_new_tokens=0", "--accelerator=cpu"]


def weights(run: Path) -> dict[str, torch.Tensor]:
    content = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    return content["state_dict"]


def assert_same_weights(expected: dict[str, torch.Tensor], module: ShakespeareLM) -> None:
    found = module.state_dict()
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name


def test_a_run_is_resumed_with_its_own_options_and_in_its_own_folder(run):
    resumed = fit([*QUIET, f"--ckpt_path={CUT}", "--max_steps=5"], "default")
    assert Path(str(resumed.trainer.log_dir)) == CUT.resolve()
    assert_same_weights(weights(run), resumed.model)
    assert set(logged(CUT, "train_loss")) == set(range(1, 6))
    config = yaml.safe_load((CUT / "config.yaml").read_text())
    assert (config["ckpt_path"], config["trainer"]["max_steps"]) == (None, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--precision=bf16-mixed"], r"trainer.precision bf16-mixed \(was 32-true\)$"),
        (["--data.window_order=random"], r"data.window_order random \(was shifted\)$"),
        (["--model.ngram_distillation=0.3"], r"model.ngram_distillation 0.3 \(was 0.0\)$"),
    ],
)
def test_a_resumed_run_names_the_options_that_it_changes(run, options, message):
    # An epoch has as many batches in any order.
    with pytest.warns(UserWarning, match=f"resuming with other options than before: {message}"):
        fit([*QUIET, f"--ckpt_path={CUT}", "--max_steps=4", *options])


def corrupt(path: Path, place: tuple[object, ...], value: object) -> None:
    """Replace an entry of a checkpoint."""
    content = torch.load(path, weights_only=True)
    *outer, last = place
    entry = content
    for name in outer:
        entry = next(entry[it] for it in entry if name in it) if name == "Best" else entry[name]
    entry[last] = value
    torch.save(content, path)


PROGRESS = ("loops", "fit_loop", "epoch_progress", "current", "completed")
STEPS = ("epoch_loop.automatic_optimization.optim_progress", "optimizer", "step", "total")


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (PROGRESS[:1], [], "last.ckpt: invalid counts of steps, batches and epochs"),
        (PROGRESS[:3], None, "last.ckpt: invalid counts of steps, batches and epochs"),
        (PROGRESS, "x", "last.ckpt: invalid counts of steps, batches and epochs"),
        (PROGRESS, -1, "last.ckpt: invalid counts of steps, batches and epochs"),
        (("global_step",), 10**15, "last.ckpt: global_step is not 3, the number"),
        (("loops", "fit_loop", *STEPS, "completed"), 2, "last.ckpt: global_step is not 2, the num"),
        (("optimizer_states",), [], "no moments of the optimizer"),
        (("optimizer_states", 0, "state", 0, "exp_avg"), "x", "invalid exp_avg in the optimiz"),
        (("callbacks", "Best", "best_model_score"), "x", "invalid best val_loss in the checkpoi"),
        (("gradients",), 5, "cannot resume from"),
    ],
)
def test_a_state_that_is_not_one_is_one_line(run, place, value, message):
    corrupt(CUT / "checkpoints/last.ckpt", place, value)
    before = contents()
    with pytest.raises(UserError, match=message):
        fit([*QUIET, f"--ckpt_path={CUT}", "--max_steps=5"])
    after = contents()
    assert all(after[path] == before[path] for path in before if path.suffix != ".yaml")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("lr_schedulers",), "x"),
        (("lr_schedulers", 0, "last_epoch"), 0),
        (("optimizer_states", 0, "param_groups", 0, "weight_decay"), 0.5),
    ],
)
def test_rates_and_schedule_are_those_of_the_options_not_of_the_file(run, place, value):
    corrupt(CUT / "checkpoints/last.ckpt", place, value)
    resumed = fit([*QUIET, f"--ckpt_path={CUT}", "--max_steps=5"])
    assert_same_weights(weights(run), resumed.model)


def test_a_checkpoint_alone_has_the_options_of_its_model_and_its_run_a_best_of_its_own(run, capsys):
    shutil.copy(CUT / "checkpoints/last.ckpt", "a.ckpt")
    others = [option for option in TINY if not option.startswith("--model")]
    others += ["--seed=7", "--precision=32-true", "--val_check_interval=2"]
    resumed = fit([*others, "--ckpt_path=a.ckpt", "--max_steps=5"])
    assert_same_weights(weights(run), resumed.model)
    best = Path(resumed.best.best_model_path)
    assert best == Path("lightning_logs/version_1/checkpoints/best.ckpt")
    assert torch.load(best, weights_only=True)["global_step"] > 3
    assert re.search(r", at step [45]\n", capsys.readouterr().out)


def test_a_run_is_continued_from_anywhere_and_keeps_its_best(run, monkeypatch, capsys):
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    best = Path("..") / RUN / "checkpoints" / "best.ckpt"
    before = best.read_bytes()
    changed = r"other options than before: trainer.gradient_clip_val 1e-09 \(was 1.0\)"
    with pytest.warns(UserWarning, match=changed):
        cli = fit([*QUIET, f"--ckpt_path=../{RUN}", "--more_steps=2", "--gradient_clip_val=1e-9"])
    assert not Path("lightning_logs").exists()
    assert cli.trainer.global_step == 7
    printed = capsys.readouterr().out
    (shown,) = re.findall(r"complete --ckpt (\S+)", printed)
    assert (Path(shown) / "checkpoints/best.ckpt").is_file()
    step = torch.load(best, weights_only=True)["global_step"]
    assert f", at step {step}\n" in printed
    assert (best.read_bytes() == before) == (step <= 5)


def test_the_newest_run_is_looked_for_where_the_yaml_file_says(run):
    shutil.copytree(CUT, "elsewhere/lightning_logs/version_0")
    config = (CUT / "config.yaml").read_text()
    Path("my.yaml").write_text(
        config.replace("default_root_dir: null", "default_root_dir: elsewhere")
    )
    cli = ShakespeareCLI([*QUIET, "--config=my.yaml", "--ckpt_path=last", "--max_steps=4"])
    assert cli.resumed is not None
    assert cli.resumed.step == 3


def test_a_run_remembers_its_recipe(run):
    resumed = ShakespeareCLI(
        [*QUIET, "--ckpt_path=lightning_logs/other/version_0", "--more_steps=1"], "default"
    )
    assert resumed.run is not None
    assert (resumed.recipe, resumed.run.recipe) == ("little", "little")


def test_more_steps_begin_the_schedule_anew_and_can_be_resumed_themselves(run, tiny_fit):
    more = fit([*QUIET, "--more_steps=4"])
    assert more.trainer.global_step == 9
    rates = [rate / 8e-3 for rate in logged(run, "learning_rate").values()]
    assert rates == pytest.approx([1, 0.8, 0.6, 0.4, 0.2, 0.5, 0.375, 0.25, 0.125])
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["trainer"]["max_steps"], config["model"]["restart_step"]) == (9, 5)
    assert (config["ckpt_path"], config["more_steps"]) == (None, None)
    # It equals one run with a restart at step 5.
    one = fit([f"--config={run / 'config.yaml'}", "--name=one"])
    assert one.resumed is None
    last = weights(run)
    assert_same_weights({name: last[name] for name in last if "network." in name}, one.model)


def test_more_steps_of_a_run_that_ended_with_its_epochs_count_steps(tiny_fit):
    tiny_fit("--max_epochs=1", "--max_steps=-1", "--limit_train_batches=2")
    assert fit([*QUIET, "--more_steps=3"]).trainer.global_step == 2 + 3


def test_more_steps_of_a_run_that_was_killed_at_once_begin_it_anew(tiny_fit, monkeypatch):
    def killed(*_: object) -> None:
        raise UserError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(ShakespeareLM, "training_step", killed)
        with pytest.raises(UserError, match="killed"):
            tiny_fit("--max_steps=2")
    assert fit([*QUIET, "--more_steps=2"]).trainer.global_step == 2


def test_a_resumed_schedule_that_jumps_is_named(run):
    with pytest.warns(UserWarning, match=r"jumps from 0 to 0\.004 at step 5, because .*--more_st"):
        fit([*QUIET, "--ckpt_path=last", "--max_steps=10"])


def test_a_run_can_start_from_a_model_with_any_learning_rate_and_text(run):
    first = Completer.from_checkpoint(run / "checkpoints/best.ckpt")
    Path("own.txt").write_text("Ünd nun zu etwas völlig anderem.\n" * 30, encoding="utf-8")
    options = ["--data.corpus=own.txt", "--model.learning_rate=1e-9", "--name=tuned"]
    # Another optimizer than the model's: its config.yaml below says so too.
    options += ["--model.optimizer=adamw", "--max_steps=1", "--data.batch_size=4"]
    tuned = fit([*QUIET, *options, f"--init_from={run}"])
    assert tuned.model.hparams["vocabulary"] == first.tokenizer.vocabulary + "Üö"
    assert tuned.model.hparams["d_model"] == 16
    ids = torch.randint(60, (1, 16))
    with torch.no_grad():
        torch.testing.assert_close(tuned.model.eval()(ids)[..., :60], first.network(ids)[..., :60])
    # Its config.yaml repeats it, and its checkpoint is complete without the first run.
    again = fit([*QUIET, "--config=lightning_logs/tuned/version_0/config.yaml", "--name=again"])
    assert_same_weights(tuned.model.state_dict(), again.model)
    (run / "checkpoints/best.ckpt").unlink()
    resumed = fit([*QUIET, "--ckpt_path=lightning_logs/tuned/version_0", "--more_steps=2"])
    assert resumed.trainer.global_step == 3
    completer = Completer.from_checkpoint(tuned.best.best_model_path)
    assert len(completer.complete("Ü", 5, seed=1)) == 5


def test_a_model_of_counts_can_be_tuned_too_and_a_recipe_does_not_change_the_network(tiny_fit):
    tiny_fit("--max_steps=2", "--model.network=bigram", "--model.optimizer=adamw")
    for recipe in ([], ["--config=little"]):
        options = [*recipe, "--data.corpus=sample", "--max_steps=1", f"--init_from={RUN}"]
        tuned = ShakespeareCLI([*QUIET, *options], "default")
        assert tuned.model.hparams["network"] == "bigram"
    assert fit([*QUIET, *options, "--limit_val_batches=1"]).trainer.global_step == 1


class Harmful:
    """Pickles into a call that makes a file."""

    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("ran"),))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--more_steps=0", "more_steps is 0: expected a value >= 1"),
        (f"--ckpt_path={RUN} --more_steps=2 --model.optimizer=adamw",
         "was trained with optimizer 'muon'"),
        # This text is too short to be divided, and has another vocabulary.
        ("--ckpt_path=last --data.corpus=own.txt",
         "cannot resume: the checkpoint was trained on another tex"),
        ("--ckpt_path=harmful.ckpt", "holds more than tensors and plain values"),
        (f"--init_from={RUN} --model.d_model=32 --data.corpus=sample",
         "best.ckpt has d_model 16, but this run has 32"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_earlier_run_changes_nothing(run, options, message):
    Path("own.txt").write_text("x")
    torch.save({"state_dict": {}, "extra": Harmful()}, "harmful.ckpt")
    before = contents()
    with pytest.raises(UserError, match=re.escape(message)):
        fit([*QUIET, *options.split()])
    assert before == contents()


def test_a_run_without_a_logger_has_the_usual_folder_and_is_resumed(tiny_fit, capsys):
    cli = tiny_fit("--max_steps=2", "--logger=false", "--data.test_fraction=0.1")
    assert "test_loss" in cli.trainer.callback_metrics
    names = {path.name for path in Path().rglob("*") if path.is_file()}
    assert names == {".lock", "config.yaml", "run.json", "best.ckpt", "last.ckpt"}
    assert (RUN / "checkpoints/best.ckpt").is_file()
    assert "tensorboard" not in capsys.readouterr().out
    assert fit([*QUIET, "--more_steps=2"]).trainer.global_step == 4


def test_a_small_best_checkpoint_completes_but_is_not_resumed(tiny_main, capsys):
    assert tiny_main("--max_steps=2", "--small_best=true", "--data.test_fraction=0.1") == 0
    best, last = (RUN / f"checkpoints/{name}.ckpt" for name in ("best", "last"))
    assert best.stat().st_size < 0.6 * last.stat().st_size
    assert len(Completer.from_checkpoint(best).complete("A", 5)) == 5
    assert tiny_main("--max_steps=4", f"--ckpt_path={best}") == 1
    assert "has weights but no training state" in capsys.readouterr().err
    assert RunLogger(Path("lightning_logs")).version == 1  # and nothing was begun


@pytest.mark.parametrize(("restarted", "wait_count"), [(False, 2), (True, 0)])
def test_patience_is_that_of_this_run(restarted, wait_count):
    stop = StopWithoutImprovement(patience=6, restarted=restarted)
    stop.load_state_dict({**stop.state_dict(), "patience": 2, "wait_count": 2})
    assert (stop.patience, stop.wait_count) == (6, wait_count)
