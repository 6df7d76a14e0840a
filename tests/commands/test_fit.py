"""The command `fit`: what a run leaves and prints, recipes, and how errors end it."""

import errno
import os
import re
import shlex
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest
import torch
import yaml
from tensorboard.summary.writer.record_writer import RecordWriter

from shakespeare_lm.commands import console
from shakespeare_lm.commands.fit import fit
from shakespeare_lm.commands.fit_cli import ShakespeareCLI
from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.data import datamodule
from shakespeare_lm.methods import ngrams
from shakespeare_lm.training.module import ShakespeareLM
from tests.commands.conftest import RUN, run_process
from tests.conftest import TINY, logged

CONFIGS = Path(__file__).parents[2] / "configs"
SCRIPT = [sys.executable, str(CONFIGS.parent / "scripts" / "fit.py"), *TINY]


def test_a_run_leaves_config_events_and_checkpoints(trained):
    run = trained / RUN
    files = {path.name for path in run.rglob("*") if path.is_file()}
    assert {"config.yaml", "best.ckpt", "last.ckpt", "hparams.yaml"} <= files
    for name in ("train_loss", "learning_rate", "gradient_norm", "tokens_per_second"):
        assert set(logged(run, name)) == {1, 2, 3, 4, 5}, name
    for name in ("val_loss", "val_bpc", "val_perplexity", "train_eval_loss"):
        assert set(logged(run, name)) == {2, 4, 5}, name
    best, last = (
        torch.load(run / f"checkpoints/{name}.ckpt", weights_only=True) for name in ("best", "last")
    )
    assert logged(run, "val_loss")[best["global_step"]] == min(logged(run, "val_loss").values())
    assert (last["global_step"], last["hyper_parameters"]["seed"]) == (5, 7)
    assert "seed_everything: 7" in (run / "config.yaml").read_text()
    assert "seed: 7" in (run / "hparams.yaml").read_text()


def test_the_resolved_config_repeats_the_run_and_another_seed_does_not(run):
    first = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    for seed in (7, 8):
        again = fit([f"--config={run / 'config.yaml'}", f"--seed={seed}"])
        equal = [torch.equal(first[name], it) for name, it in again.model.state_dict().items()]
        assert all(equal) == (seed == 7)
    assert Path("lightning_logs/version_2/checkpoints/best.ckpt").is_file()


@pytest.mark.parametrize("option", [None, "--enable_checkpointing=false", "--fast_dev_run=true"])
def test_a_part_held_back_is_tested_and_the_text_is_loaded_once(tiny_fit, monkeypatch, option):
    loads: list[object] = []
    original = datamodule.load_corpus
    monkeypatch.setattr(
        datamodule, "load_corpus", lambda *given: loads.append(given) or original(*given)
    )
    options = ["--max_steps=3", "--log_every_n_steps=0", *([option] if option else [])]
    cli = tiny_fit("--data.test_fraction=0.1", *options)
    assert 3.0 < float(cli.trainer.callback_metrics["test_loss"]) < 5.0
    assert len(loads) == 1


def test_a_run_of_one_batch_learns_that_batch(tiny_fit):
    cli = tiny_fit("--max_steps=40", "--overfit_batches=1", "--model.learning_rate=3e-2",
                   "--data.batch_size=1", "--model.schedule=constant")  # fmt: skip
    assert float(cli.trainer.callback_metrics["train_loss"]) < 0.5


LARGE = ("gpu", "laptop", "memory-laptop", "nanogpt", "script", "pocket", "generation")


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(path.stem, marks=[pytest.mark.slow] if path.stem.startswith(LARGE) else [])
        for path in sorted(CONFIGS.glob("*.yaml"))
    ],
)
@pytest.mark.filterwarnings("ignore:.*neighbours")
def test_every_recipe_trains_checkpoints_and_completes(tiny_fit, monkeypatch, recipe):
    monkeypatch.setattr("shakespeare_lm.data.datamodule._EVALUATION_CHARACTERS", 16)
    monkeypatch.setattr("shakespeare_lm.data.datamodule._TRAIN_SAMPLE_CHARACTERS", 16)
    short = ["--data.corpus=sample", "--data.context_length=8", "--data.batch_size=2",
             "--max_steps=2", "--limit_val_batches=2", "--enable_progress_bar=false",
             "--accelerator=cpu", "--model.teachers=null", "--model.distillation=0"]  # fmt: skip
    cli = fit([f"--config={CONFIGS / recipe}.yaml", *short])
    completer = Completer.from_checkpoint(cli.best.best_model_path)
    assert len(completer.complete("To be", 5, seed=0)) == 5


TRICKS = {
    "previous_characters": 4,
    "zero_init": True,
    "ngram_distillation": 0.5,
    "characters_ahead": 2,
}


def test_default_is_what_the_classes_default_to_and_its_tricks_and_quick_is_shorter(tiny_fit):
    quick, default = (
        yaml.safe_load((CONFIGS / f"{name}.yaml").read_text()) for name in ("quick", "default")
    )
    assert default["model"].items() >= TRICKS.items()
    with_file, without = (
        ShakespeareCLI(["--data.corpus=sample"], default_config=name).config
        for name in (str(CONFIGS / "default.yaml"), None)
    )
    for name, value in TRICKS.items():
        assert without["model"][name] != value
        without["model"][name] = value
    for group in ("model", "data", "trainer"):
        assert with_file[group] == without[group]
    assert quick["trainer"].pop("max_steps") < 0.5 * default["trainer"].pop("max_steps")
    assert quick["trainer"].pop("val_check_interval") < default["trainer"].pop("val_check_interval")
    assert quick == default


def test_the_precision_is_chosen_and_written_down_unless_it_is_given(tiny_fit, monkeypatch):
    monkeypatch.setattr("shakespeare_lm.hardware.has_fast_bfloat16", lambda device_type: True)
    assert tiny_fit("--max_steps=1").trainer.precision == "bf16-mixed"
    assert yaml.safe_load((RUN / "config.yaml").read_text())["trainer"]["precision"] == "bf16-mixed"
    assert ShakespeareCLI([*TINY, "--precision=32-true"]).trainer.precision == "32-true"


def test_the_end_compares_the_loss_with_n_grams(tiny_main, capsys, monkeypatch):
    verdict = re.compile(r"^\d\.\d{4}: worse than a 2-gram \(\d\.\d{4}\)$", re.MULTILINE)
    for option, shown in (
        ("--compare_with_ngrams=true", True),
        ("--compare_with_ngrams=false", False),
        ("--model.ngram_distillation=0", False),  # without the memory that counting takes
    ):
        if option.endswith("=0"):
            monkeypatch.setattr(ngrams, "_BYTES_PER_CHARACTER", 1 << 50)
        assert tiny_main("--max_steps=1", option) == 0
        assert bool(verdict.search(capsys.readouterr().out)) == shown


def test_a_name_is_a_folder_whose_runs_are_numbered(tiny_fit, capsys):
    for number in (0, 1):
        cli = tiny_fit("--max_steps=1", "--name=first-try")
        folder = Path(f"lightning_logs/first-try/version_{number}")
        assert Path(str(cli.trainer.log_dir)) == folder
        assert (folder / "checkpoints/best.ckpt").is_file()
    assert "  tensorboard --logdir lightning_logs\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("folder", "options"),
    [
        (Path(), "--logger=CSVLogger --logger.save_dir=."),
        (Path(), "--logger CSVLogger"),
        (Path("home/own"), "--logger CSVLogger --default_root_dir ~/own"),
    ],
)
def test_a_run_with_another_logger_prints_no_command_for_tensorboard(
    tiny_fit, capsys, monkeypatch, folder, options
):
    monkeypatch.setenv("HOME", str(Path("home").absolute()))
    tiny_fit("--max_steps=1", *options.split())
    output = capsys.readouterr().out
    files = {"checkpoints", "config.yaml", "hparams.yaml", "metrics.csv", "run.json"}
    assert {path.name for path in (folder / RUN).iterdir()} == files
    curves = (folder / RUN / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"val_loss", "update_ratio", "muon_learning_rate"} <= set(curves)
    assert "tensorboard" not in output
    assert f"complete --ckpt {folder / RUN}" in output


def test_a_home_folder_is_expanded_and_deprecations_of_libraries_are_no_errors(
    tiny_main, monkeypatch
):
    monkeypatch.setenv("HOME", str(Path.cwd() / "home"))
    warnings.simplefilter("error")  # as `python -W error` does
    for folder in ("~/runs", "~nobody-here/runs"):
        assert tiny_main("--max_steps=1", f"--default_root_dir={folder}") == 0
        expanded = folder.replace("~/", "home/")  # there is no such user
        assert (Path(expanded) / RUN / "checkpoints/last.ckpt").is_file()
    assert not Path("~").exists()


def test_early_stopping_ends_a_run_that_no_longer_improves(tiny_fit, capsys):
    Path("short.txt").write_text("To be, or not to be: that is the question.\n" * 8)
    cli = tiny_fit("--data.corpus=short.txt", "--max_steps=2000", "--val_check_interval=5",
                   "--early_stopping=2", "--model.learning_rate=0.03",
                   "--data.batch_size=4")  # fmt: skip
    assert cli.trainer.global_step < 2000
    output = capsys.readouterr().out
    assert "Stopped early: Monitored metric val_loss did not improve in the last 2 rec" in output
    assert f", at step {cli.trainer.global_step - 10}\n" in output


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "16-true"])
def test_every_precision_has_a_teacher_and_can_start_a_run_in_another(tiny_fit, precision):
    cli = tiny_fit("--max_steps=2", f"--precision={precision}", "--model.ngram_distillation=0.5")
    tuned = tiny_fit("--max_steps=1", "--precision=32-true", f"--init_from={RUN}")
    stored = torch.load(cli.best.best_model_path, weights_only=True)["state_dict"]
    assert {weight.dtype for weight in stored.values()} == {cli.model.dtype} != {torch.float32}
    assert tuned.model.dtype == torch.float32


class ResearcherError(Exception):
    pass


@pytest.mark.parametrize("option", ["--max_steps=1", "--more_steps=1"])
@pytest.mark.parametrize("error", [ResearcherError, ValueError, IndexError])
def test_an_error_in_a_step_keeps_its_traceback(run, tiny_main, monkeypatch, option, error):
    def broken(self: ShakespeareLM, batch: object, batch_idx: int) -> None:
        raise error("my mistake")

    monkeypatch.setattr(ShakespeareLM, "training_step", broken)
    with pytest.raises(error, match="my mistake"):
        tiny_main("--model.warmup_steps=0", "--model.dropout=0.2", "--seed=7", option)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("too large"),
        RuntimeError("you tried to allocate memory"),
        RuntimeError("can't start new thread"),
        UserWarning("an error with python -W error"),
    ],
)
def test_too_little_memory_is_one_line(tiny_main, monkeypatch, capsys, error):
    def broken(self: ShakespeareLM, batch: object, batch_idx: int) -> None:
        raise error

    monkeypatch.setattr(ShakespeareLM, "training_step", broken)
    for options in ([], ["--traceback"]):
        assert tiny_main("--max_steps=1", *options) == 1
        said = capsys.readouterr().err
        assert said.splitlines()[-1] == f"error: {error}"
        assert ("Traceback" in said) == ("in broken" in said) == bool(options)


def test_a_failing_picture_is_a_warning_and_the_checkpoints_are_there_before_it(
    tiny_fit, monkeypatch
):
    seen: list[bool] = []

    def broken(*_: object, **__: object) -> None:
        seen.append(all((RUN / f"checkpoints/{name}.ckpt").exists() for name in ("best", "last")))
        raise ResearcherError("no picture")

    monkeypatch.setattr("shakespeare_lm.training.pictures.next_characters_picture", broken)
    monkeypatch.setattr("shakespeare_lm.training.samples._print_losses", broken)
    with pytest.warns(UserWarning, match="failed and is left out of the rest") as caught:
        cli = tiny_fit("--max_steps=4", "--val_check_interval=2")
    messages = [str(one.message) for one in caught if "left out" in str(one.message)]
    assert sorted(message.split()[0] for message in messages) == ["Pictures", "SampleText"]
    assert all("ResearcherError: no picture" in message for message in messages)
    assert seen == [True, True]
    assert cli.trainer.global_step == 4


def test_a_full_disk_under_the_log_keeps_the_checkpoint(tiny_main, monkeypatch, capsys):
    written = RecordWriter.write

    def write(self: RecordWriter, data: bytes) -> None:
        if (RUN / "checkpoints/best.ckpt").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written(self, data)

    monkeypatch.setattr(RecordWriter, "write", write)
    monkeypatch.setattr(threading, "excepthook", console._thread_failed)
    assert tiny_main("--max_steps=200", "--val_check_interval=2") == 1
    error = capsys.readouterr().err
    assert "warning: the log cannot be written: No space left on device" in error
    assert f"error: cannot write to {RUN}: No space left on device; the last checkp" in error
    assert "Traceback" not in error
    assert torch.load(RUN / "checkpoints/best.ckpt", weights_only=True)["global_step"] >= 2


@pytest.mark.slow
def test_training_continues_when_nobody_reads_its_output(tmp_path):
    with subprocess.Popen(
        [*SCRIPT, "--max_steps=30"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert "error" not in process.stderr.read()
        assert process.wait(timeout=120) == 0
    checkpoint = torch.load(tmp_path / RUN / "checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 30


@pytest.mark.slow
def test_the_report_of_a_profiler_is_printed(tmp_path):
    done = run_process([*SCRIPT, "--max_steps=2", "--profiler=simple"], tmp_path)
    assert "FIT Profiler Report" in done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("streams", [">&-", "2>&-", ">&- 2>&-", ">/dev/full", ">/dev/full 2>&1"])
def test_training_needs_no_console_and_a_mistake_is_exit_code_1_all_the_same(tmp_path, streams):
    for option, code in (("--max_steps=2", 0), ("--max_steps=0", 1)):
        done = run_process(f"{shlex.join(SCRIPT)} {option} {streams}", tmp_path)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        assert (tmp_path / RUN / "checkpoints/last.ckpt").is_file()
