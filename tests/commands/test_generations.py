"""`fit --generations`: each run is taught by the one before, and the same command resumes them."""

import signal
from pathlib import Path

import pytest

from shakespeare_lm import invocation
from shakespeare_lm.checkpoint.runs import Run
from shakespeare_lm.errors import UserError
from shakespeare_lm.laboratory.trial import read_result
from tests.commands.conftest import contents
from tests.training.test_stopping import send_signal_after

CHAIN = ["--generations=2", "--max_steps=6", "--val_check_interval=3", "--model.dropout=0.2",
         "--model.ngram_distillation=0.4", "--pictures=false"]  # fmt: skip


def generations(root="lightning_logs/chain"):
    return [Run(Path(root, f"generation_{number}/version_0")) for number in (1, 2)]


def loss(run):
    return read_result(run, "").val_loss


def test_each_generation_is_a_run_that_is_taught_by_the_one_before(tiny_fit, monkeypatch, capsys):
    monkeypatch.setattr(invocation, "STARTED", 0.0)
    tiny_fit(*CHAIN, "--seed=5")
    first, second = generations()
    of_first, of_second = first.options(), second.options()
    assert of_second["model"]["teachers"] == str(first.checkpoint("best"))
    for option, shares in ("distillation", [0.0, 0.5]), ("ngram_distillation", [0.4, 0.0]):
        assert [of["model"][option] for of in (of_first, of_second)] == shares
    assert [of["seed_everything"] for of in (of_first, of_second)] == [5, 6]
    assert second.record()["seconds"] < 1e9 < first.record()["seconds"]
    table = capsys.readouterr().out.split("\n\n")[-1].strip()
    assert f"         2    {loss(second):.4f}  {second.checkpoint('best')}" in table

    before = contents()
    tiny_fit(*CHAIN, "--seed=5")
    assert contents() == before
    assert capsys.readouterr().out.strip() == table

    for option in ("model.dropout=0.1", "seed=4", "model.distillation=0.4"):
        with pytest.raises(UserError, match=r"has .*, not .*: give a new chain another --name"):
            tiny_fit(*CHAIN, "--seed=5", "--generations=3", f"--{option}")

    again = [*CHAIN[1:], "--seed=5"], [f"--config={second.config_file}"]
    for run, options in zip((first, second), again, strict=True):
        assert loss(tiny_fit(*options).run) == loss(run)


def test_the_users_teachers_teach_the_first_generation_and_their_share_is_for_all(tiny_fit):
    teacher = tiny_fit("--max_steps=1").best.best_model_path
    Path("my.yaml").write_text("generations: 2\nname: a/b\n")
    options = ["--model.distillation=0.3", "--model.teachers=lightning_logs/version_0"]
    tiny_fit("--config=my.yaml", *CHAIN[1:], *options)
    first, second = (run.options()["model"] for run in generations("lightning_logs/a/b"))
    assert Path(first["teachers"]).samefile(teacher)
    assert Path(second["teachers"]).parts[:4] == ("lightning_logs", "a", "b", "generation_1")
    assert first["distillation"] == second["distillation"] == 0.3


def test_an_interrupted_chain_is_resumed_bit_for_bit(tiny_main, monkeypatch, capsys):
    assert tiny_main(*CHAIN, "--name=whole") == 0
    cut = generations("lightning_logs/cut")
    for step, begun in ((4, 1), (2, 2), (6, 2)):  # of the last that has begun
        with monkeypatch.context() as patch:
            send_signal_after(step, patch, signal.SIGTERM)
            assert tiny_main(*CHAIN, "--name=cut") == 128 + signal.SIGTERM
        output = capsys.readouterr().out.rstrip()
        assert f"Stopped at step {step}. To resume:\n  python scripts/fit.py --data" in output
        assert output.endswith(" ".join([*CHAIN, "--name=cut"]))
        assert [run.folder.exists() for run in cut] == [True, begun == 2]
    assert tiny_main(*CHAIN, "--name=cut") == 0
    assert [*map(loss, cut)] == [*map(loss, generations("lightning_logs/whole"))]


def test_early_stopping_ends_a_generation_and_max_time_the_command(tiny_fit, capsys):
    options = (*CHAIN, "--model.learning_rate=1e-9", "--max_steps=9999")
    tiny_fit(*options, "--early_stopping=1")
    assert [run.record()["state"] for run in generations()] == ["finished", "finished"]
    tiny_fit(*options, "--name=timed", "--max_time=00:00:00:01")
    assert [run.folder.exists() for run in generations("lightning_logs/timed")] == [True, False]
    assert capsys.readouterr().out.count("To resume:") == 1


OTHERS = ["ckpt_path=last", "more_steps=2", "init_from=a.ckpt", "logger=CSVLogger", "max_steps=-1",
          "fast_dev_run=true", "enable_checkpointing=false", "devices=2", "generations=0",
          "model.distillation=1.5", "seed=true"]  # fmt: skip


@pytest.mark.parametrize("option", OTHERS)
def test_what_does_not_go_with_generations_is_refused_before_the_first(tiny_fit, option):
    name = f"--generations and --{option.partition('=')[0]}.* do not go together"
    with pytest.raises(UserError, match=f"^{name}|on 2 devices| is (0|1.5|True): expected"):
        tiny_fit("--generations=2", f"--{option}")
    assert not Path("lightning_logs").exists()
