"""The `fit` command: options, recipes, what a run leaves, errors and exit codes."""

import errno
import inspect
import os
import re
import shlex
import subprocess
import sys
import threading
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import yaml
from tensorboard.summary.writer.record_writer import RecordWriter

from shakespeare_lm.commands import console, fit_arguments, fit_cli
from shakespeare_lm.commands.fit import fit
from shakespeare_lm.commands.fit_cli import ShakespeareCLI
from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.data import datamodule
from shakespeare_lm.data.splits import SplitConfig
from shakespeare_lm.errors import UserError
from shakespeare_lm.methods import ngrams
from shakespeare_lm.methods.distillation import DistillationConfig
from shakespeare_lm.methods.multi_token import MultiTokenConfig
from shakespeare_lm.model.config import NetworkConfig
from shakespeare_lm.training.module import ShakespeareLM
from shakespeare_lm.training.optimizer import OptimizerConfig
from tests.conftest import TINY, Fit, Main, logged

CONFIGS = Path(__file__).parents[2] / "configs"
RUN = Path("lightning_logs/version_0")


def test_both_spellings_of_an_option_mean_the_same(tiny_fit: Fit) -> None:
    for spelling in ("--max_steps=7", "--trainer.max_steps=7"):
        assert ShakespeareCLI([*TINY, spelling]).trainer.max_steps == 7


def test_the_command_line_wins_over_the_config_file(tiny_fit: Fit) -> None:
    Path("own.yaml").write_text("trainer: {max_steps: 9}\nmodel: {d_model: 8, num_heads: 2}\n")
    cli = ShakespeareCLI(["--config=own.yaml", "--data.corpus=sample", "--model.d_model=12"])
    assert cli.trainer.max_steps == 9
    assert cli.model.hparams["d_model"] == 12


def test_a_run_leaves_config_events_and_checkpoints(tiny_fit: Fit) -> None:
    cli = tiny_fit("--max_steps=5", "--val_check_interval=2")
    files = {path.name for path in RUN.rglob("*") if path.is_file()}
    assert {"config.yaml", "best.ckpt", "last.ckpt", "hparams.yaml"} <= files
    # Steps count from 0: validations after 2, 4 and 5 steps stand at 1, 3 and 4.
    assert set(logged(RUN, "val_loss")) == {1, 3, 4}
    for name in ("train_loss", "learning_rate", "gradient_norm", "tokens_per_second"):
        assert set(logged(RUN, name)) == {0, 1, 2, 3, 4}, name
    for name in ("val_bpc", "val_perplexity", "train_eval_loss"):
        assert set(logged(RUN, name)) == {1, 3, 4}, name
    last = torch.load(RUN / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 5
    best = torch.load(cli.best.best_model_path, weights_only=True)
    assert logged(RUN, "val_loss")[best["global_step"] - 1] == min(logged(RUN, "val_loss").values())


def test_the_resolved_config_repeats_the_run(tiny_fit: Fit) -> None:
    first = tiny_fit("--max_steps=3", "--model.dropout=0.3")
    again = fit(["--config", str(RUN / "config.yaml"), "--default_root_dir=again"])
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name


def test_the_seed_is_in_the_checkpoint_and_in_the_log(tiny_fit: Fit) -> None:
    cli = tiny_fit("--max_steps=1", "--seed=7")
    assert torch.load(cli.last.path, weights_only=True)["hyper_parameters"]["seed"] == 7
    assert "seed_everything: 7" in (RUN / "config.yaml").read_text()
    assert "seed: 7" in (RUN / "hparams.yaml").read_text()
    assert ShakespeareLM.load_from_checkpoint(cli.last.path).hparams["seed"] == 7


def test_a_rerun_into_the_same_folder_makes_a_new_version(tiny_fit: Fit) -> None:
    for _ in range(2):
        tiny_fit("--max_steps=2")
    assert (RUN / "checkpoints" / "best.ckpt").is_file()
    assert Path("lightning_logs/version_1/checkpoints/best.ckpt").is_file()


def test_the_same_seed_gives_the_same_run_and_another_seed_another(tiny_fit: Fit) -> None:
    losses = [
        float(
            tiny_fit("--max_steps=3", "--model.dropout=0.2", f"--seed={seed}").best.best_model_score
        )
        for seed in (1, 1, 2)
    ]
    assert losses[0] == losses[1] != losses[2]


def test_a_checkpoint_alone_gives_the_same_logits_elsewhere(tiny_fit: Fit) -> None:
    cli = tiny_fit("--max_steps=3")
    completer = Completer.from_checkpoint(RUN / "checkpoints" / "last.ckpt")
    ids = torch.randint(len(completer.tokenizer.vocabulary), (2, 16))
    with torch.no_grad():
        assert torch.equal(completer.network(ids), cli.model.network.eval()(ids))


@pytest.mark.parametrize(
    "option", ["--enable_checkpointing=false", "--fast_dev_run=true", "--logger=false"]
)
def test_a_run_can_do_without_checkpoints_or_logger_and_is_tested_all_the_same(
    tiny_fit: Fit, option: str
) -> None:
    options = ("--max_steps=3", "--log_every_n_steps=0", "--data.test_fraction=0.1", option)
    assert "test_loss" in tiny_fit(*options).trainer.callback_metrics


def test_the_text_is_loaded_once(tiny_fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[object] = []
    original = datamodule.load_corpus

    def load_corpus(*given: object) -> list[str]:
        loads.append(given)
        return original(*given)

    monkeypatch.setattr(datamodule, "load_corpus", load_corpus)
    tiny_fit("--max_steps=2", "--data.test_fraction=0.1")
    assert len(loads) == 1


def test_the_config_of_a_resumed_run_starts_from_the_beginning(tiny_fit: Fit) -> None:
    tiny_fit("--max_steps=2", "--model.decay_steps=4")
    tiny_fit("--max_steps=4", "--model.decay_steps=4", "--ckpt_path=last")
    config = yaml.safe_load((RUN / "config.yaml").read_text())
    assert config["ckpt_path"] is None
    assert config["trainer"]["max_steps"] == 4


def test_a_part_held_back_is_tested_with_the_best_checkpoint(tiny_fit: Fit) -> None:
    cli = tiny_fit("--max_steps=3", "--data.test_fraction=0.1")
    assert 3.0 < float(cli.trainer.callback_metrics["test_loss"]) < 5.0


def test_a_run_of_one_batch_learns_that_batch(tiny_fit: Fit) -> None:
    cli = tiny_fit("--max_steps=80", "--overfit_batches=1", "--model.learning_rate=3e-2",
                   "--data.batch_size=1", "--model.schedule=constant")  # fmt: skip
    assert float(cli.trainer.callback_metrics["train_loss"]) < 0.5


LARGE = {"gpu", "laptop", "nanogpt", "script"}


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(path.stem, marks=[pytest.mark.slow] if path.stem in LARGE else [])
        for path in sorted(CONFIGS.glob("*.yaml"))
    ],
)
def test_every_recipe_trains_checkpoints_and_completes(
    tiny_fit: Fit, monkeypatch: pytest.MonkeyPatch, recipe: str
) -> None:
    monkeypatch.setattr("shakespeare_lm.data.datamodule._EVALUATION_CHARACTERS", 16)
    monkeypatch.setattr("shakespeare_lm.data.datamodule._TRAIN_SAMPLE_CHARACTERS", 16)
    short = [
        "--data.corpus=sample",
        "--data.context_length=8",
        "--data.batch_size=2",
        "--max_steps=2",
        "--limit_val_batches=2",
        "--enable_progress_bar=false",
        "--accelerator=cpu",
    ]
    config = yaml.safe_load((CONFIGS / f"{recipe}.yaml").read_text())
    if config["data"].get("split") == "random_chunks":
        with pytest.warns(UserWarning, match="neighbours"):
            cli = fit([f"--config={CONFIGS / recipe}.yaml", *short])
    else:
        cli = fit([f"--config={CONFIGS / recipe}.yaml", *short])
    completer = Completer.from_checkpoint(cli.best.best_model_path)
    assert len(completer.complete("To be", 5, seed=0)) == 5


TRICKS = {
    "previous_characters": 4,
    "zero_init": True,
    "ngram_distillation": 0.5,
    "characters_ahead": 2,
}


def test_the_default_recipe_is_what_the_classes_default_to_and_its_tricks(tiny_fit: Fit) -> None:
    config = yaml.safe_load((CONFIGS / "default.yaml").read_text())
    with_file = ShakespeareCLI(
        ["--data.corpus=sample"], default_config=str(CONFIGS / "default.yaml")
    ).config
    without = ShakespeareCLI(["--data.corpus=sample"]).config
    assert config["model"].items() >= TRICKS.items()
    for name, value in TRICKS.items():
        assert without["model"][name] != value
        without["model"][name] = value
    assert with_file["model"] == without["model"]
    assert with_file["data"] == without["data"]
    assert with_file["trainer"] == without["trainer"]


def test_the_quick_recipe_is_the_default_one_with_fewer_steps() -> None:
    quick, default = (
        yaml.safe_load((CONFIGS / f"{name}.yaml").read_text()) for name in ("quick", "default")
    )
    assert quick["trainer"].pop("max_steps") < 0.5 * default["trainer"].pop("max_steps")
    assert quick["trainer"].pop("val_check_interval") < default["trainer"].pop("val_check_interval")
    assert quick == default


@pytest.mark.parametrize("options", [[], ["--config=default"], ["--precision=bf16-mixed"]])
def test_only_a_run_in_float32_without_a_config_has_the_quick_recipe_and_says_so(
    tiny_main: Main,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
) -> None:
    for module in (fit_arguments, fit_cli):
        monkeypatch.setattr(module, "fastest_precision", lambda accelerator: "32-true")
    interval = {True: 530, False: 625}[not options]
    assert tiny_main("--max_steps=1", *options) == 0
    trainer = yaml.safe_load((RUN / "config.yaml").read_text())["trainer"]
    assert trainer["val_check_interval"] == interval
    assert ("recipe quick, because this run is in float32" in capsys.readouterr().out) == (
        not options
    )


def test_a_full_disk_under_the_log_ends_the_run_without_a_traceback_and_keeps_the_checkpoint(
    tiny_main: Main, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
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
    assert "error: No space left on device" in error
    assert "Traceback" not in error
    assert torch.load(RUN / "checkpoints/best.ckpt", weights_only=True)["global_step"] >= 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.dropout=1.5"], "dropout is 1.5"),
        (["--model.d_model=9", "--model.num_heads=3"], "d_model is 9: sinusoidal"),
        (["--model.d_model=10", "--model.num_heads=3"], "d_model is 10 and num_heads is 3"),
        (["--data.val_fraction=0"], "val_fraction is 0.0"),
        (["--data.split=documents"], "split is documents: the corpus has 1 document(s)"),
        (["--data.corpus=no/such.txt"], "'no/such.txt' is neither an existing file nor a known"),
        (["--ckpt_path=none.ckpt"], "there is no checkpoint none.ckpt"),
        (["--ckpt_path=last"], "no last.ckpt in lightning_logs"),
        (["--ckpt_path=https://example.org/a.ckpt"], "no checkpoint https://example.org/a.ckpt"),
        (["--max_steps=-1", "--max_time=00:00:01:00"], "schedule is linear"),
        (["--limit_val_batches=0"], "limit_val_batches is 0"),
        (["--data.corpus=/dev/zero"], "cannot read /dev/zero: expected a regular file"),
        (["--data.batch_size=1000000000000"], "a batch of 1,000,000,000,000 windows needs"),
        (["--model.d_model=10000000"], "use a smaller model"),
        (["--model.num_layers=1000000000"], "use a smaller model"),
        (["--limit_train_batches=0"], "limit_train_batches is 0: nothing to train"),
        (["--max_steps=0"], "max_steps is 0: nothing to train"),
        (["--max_epochs=0"], "max_epochs is 0: nothing to train"),
        (["--val_check_interval=0"], "val_check_interval is 0: expected a value > 0"),
        (["--accumulate_grad_batches=0"], "accumulate_grad_batches is 0: expected a value >= 1"),
        (["--check_val_every_n_epoch=0"], "check_val_every_n_epoch is 0: expected a value >= 1"),
        (["--gradient_clip_val=-1"], "gradient_clip_val is -1: expected a value >= 0"),
        (["--seed=-1"], "seed_everything is -1"),
        (["--data.corpus=[]"], "corpus is []"),
        (["--more_steps=5"], "no last.ckpt in lightning_logs: train a model first (python scripts"),
        (["--early_stopping=0"], "early_stopping is 0: expected a value >= 1"),
        (["--init_from=none.ckpt"], "there is no checkpoint none.ckpt"),
        (["--name=../elsewhere"], "name is '../elsewhere': expected letters, digits, _, - and ."),
        (["--name=version_3"], "name is 'version_3': expected"),
        (["--config=none.yaml"], "config is 'none.yaml': expected a YAML file, or one of the rec"),
        (["--config=latin.yaml"], "latin.yaml is not UTF-8 text: invalid byte 0xE9 at offset 16"),
        (["--logger=WandbLogger"], "Requirement 'wandb>=0.12.10' not met. HINT: Try running `pip"),
        (["--precision=transformer-engine"], "HINT: Try running `pip install -U 'transformer_eng"),
        (["--num_nodes=2", "--devices=1"], "num_nodes is 2: set MASTER_ADDR and MASTER_PORT"),
        (["--max_steps=-5"], "the Trainer rejects these options"),
        (["--sample.temperature=-1"], "temperature is -1.0"),
        (["--sample.max_new_tokens=-1"], "max_new_tokens is -1"),
        (["--accelerator=banana"], "--accelerator banana"),
        pytest.param(
            ["--accelerator=gpu"],
            "--accelerator gpu",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here"),
        ),
    ],
)
def test_a_mistake_is_one_line_exit_code_1_and_leaves_no_run_behind(
    tiny_main: Main, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    Path("latin.yaml").write_bytes(b'data: {corpus: "\xe9"}')
    assert tiny_main(*options) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert message in lines[0]
    assert not Path("lightning_logs").exists()


@pytest.mark.parametrize("options", [["--nonsense=1"], ["--max_steps=many"], ["--config"]])
def test_wrong_usage_is_exit_code_2(tiny_main: Main, options: list[str]) -> None:
    assert tiny_main(*options) == 2


def test_the_old_name_of_the_window_order_is_refused_with_the_new_one(
    tiny_main: Main, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("old.yaml").write_text("data: {sampling: grid}\n")
    for options in (["--data.sampling=grid"], ["--data.sampling", "grid"], ["--config=old.yaml"]):
        assert tiny_main(*options) == 2
        error = capsys.readouterr().err
        assert "error: data.sampling was renamed: use data.window_order" in error.splitlines()
    assert not Path("lightning_logs").exists()


class Harmful:
    """Pickles into a call that makes a file."""

    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("ran"),))


def test_a_checkpoint_that_holds_code_is_not_resumed_from(tiny_fit: Fit) -> None:
    torch.save({"state_dict": {}, "extra": Harmful()}, "harmful.ckpt")
    with pytest.raises(UserError, match="holds more than tensors and plain values"):
        tiny_fit("--max_steps=2", "--ckpt_path=harmful.ckpt")
    assert not Path("ran").exists()


def test_print_config_shows_every_option(tiny_fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        ShakespeareCLI([*TINY, "--max_steps=7", "--print_config"])
    assert caught.value.code == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["trainer"]["max_steps"] == 7
    assert config["data"]["context_length"] == 16
    assert config["model"]["positions"] == "sinusoidal"


def test_help_names_this_projects_options_before_lightnings(
    tiny_fit: Fit, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        ShakespeareCLI(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    positions = [
        text.index(f"\n  --{name} ")
        for name in ("model.d_model", "data.corpus", "trainer.max_steps")
    ]
    assert positions == sorted(positions)


def documentation(config: type) -> dict[str, str]:
    """Return the text that a class's docstring has for each of its arguments."""
    arguments, *_ = (inspect.getdoc(config) or "").partition("Raises:")
    return dict(re.findall(r"^ {4}(\w+): (.+(?:\n {8}.+)*)", arguments, re.MULTILINE))


@pytest.mark.parametrize(
    ("group", "config"),
    [
        ("model", NetworkConfig),
        ("model", OptimizerConfig),
        ("model", DistillationConfig),
        ("model", MultiTokenConfig),
        ("data", SplitConfig),
    ],
)
def test_help_shows_every_option_of_the_dataclasses_with_documentation_and_default(
    tiny_fit: Fit,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    group: str,
    config: type,
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")  # no words divided at their hyphens
    with pytest.raises(SystemExit):
        ShakespeareCLI(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    documented = documentation(config)
    defaults = {field.name: field.default for field in fields(config)}
    assert documented.keys() == defaults.keys()
    # Set by --data.context_length, so not an option of the model.
    for name in defaults.keys() - {"context_length"}:
        described = re.escape(" ".join(documented[name].split()))
        default = "null" if defaults[name] is None else defaults[name]
        shown = rf"--{group}\.{name} \S+ {described} \(type: [^()]*, default: {default}\)"
        assert re.search(shown, text), name
    assert "--model.context_length " not in text


def test_the_precision_is_chosen_and_written_down_unless_it_is_given(
    tiny_fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shakespeare_lm.hardware.has_fast_bfloat16", lambda device_type: True)
    assert tiny_fit("--max_steps=1").trainer.precision == "bf16-mixed"
    assert yaml.safe_load((RUN / "config.yaml").read_text())["trainer"]["precision"] == "bf16-mixed"
    assert tiny_fit("--max_steps=1", "--precision=32-true").trainer.precision == "32-true"


@pytest.mark.slow
def test_training_continues_when_nobody_reads_its_output(tmp_path: Path) -> None:
    command = [sys.executable, str(CONFIGS.parent / "scripts" / "fit.py"), *TINY, "--max_steps=30"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert "error" not in process.stderr.read()
        assert process.wait(timeout=120) == 0
    checkpoint = torch.load(tmp_path / RUN / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 30


@pytest.mark.slow
def test_the_report_of_a_profiler_is_printed(tmp_path: Path) -> None:
    command = [sys.executable, str(CONFIGS.parent / "scripts" / "fit.py"), *TINY, "--max_steps=2"]
    done = subprocess.run(
        [*command, "--profiler=simple"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "FIT Profiler Report" in done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("streams", [">&-", "2>&-", ">&- 2>&-", ">/dev/full", ">/dev/full 2>&1"])
def test_training_needs_no_console_and_a_mistake_is_exit_code_1_all_the_same(
    tmp_path: Path, streams: str
) -> None:
    fit_script = shlex.join([sys.executable, str(CONFIGS.parent / "scripts" / "fit.py"), *TINY])
    # Python buffers less with this variable, and then hides what fails when it exits.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}

    def run(option: str) -> tuple[int, str]:
        command = f"{fit_script} {option} {streams}"
        done = subprocess.run(["sh", "-c", command], cwd=tmp_path, env=environment,
                              capture_output=True, text=True)  # fmt: skip
        return done.returncode, done.stderr

    code, errors = run("--max_steps=2")
    assert code == 0, errors
    assert "Traceback" not in errors
    assert (tmp_path / RUN / "checkpoints" / "last.ckpt").is_file()
    assert run("--max_steps=0")[0] == 1


def test_the_end_says_where_the_loss_is_among_n_grams_unless_it_need_not_or_cannot(
    tiny_main: Main, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    verdict = re.compile(r"^\d\.\d{4}: worse than a 2-gram \(\d\.\d{4}\)$", re.MULTILINE)
    assert tiny_main("--max_steps=1") == 0
    assert verdict.search(capsys.readouterr().out)
    assert tiny_main("--max_steps=1", "--compare_with_ngrams=false") == 0
    assert not verdict.search(capsys.readouterr().out)
    monkeypatch.setattr(ngrams, "_BYTES_PER_CHARACTER", 1 << 50)
    assert tiny_main("--max_steps=1") == 0  # the run is not lost for want of memory
    assert not verdict.search(capsys.readouterr().out)


class ResearcherError(Exception):
    pass


@pytest.mark.parametrize("resumes", [False, True])
@pytest.mark.parametrize("error", [ResearcherError, ValueError, IndexError])
def test_an_error_in_a_step_keeps_its_traceback(
    tiny_main: Main, monkeypatch: pytest.MonkeyPatch, resumes: bool, error: type[Exception]
) -> None:
    def broken(self: ShakespeareLM, batch: object, batch_idx: int) -> None:
        raise error("my mistake")

    if resumes:
        assert tiny_main("--max_steps=1") == 0
    monkeypatch.setattr(ShakespeareLM, "training_step", broken)
    options = ["--ckpt_path=last", "--max_steps=2"] if resumes else ["--max_steps=1"]
    with pytest.raises(error, match="my mistake"):
        tiny_main(*options)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("too large"), RuntimeError("you tried to allocate memory")]
)
def test_too_little_memory_is_one_line_and_traceback_shows_where(
    tiny_main: Main, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    error: Exception,
) -> None:  # fmt: skip
    def broken(self: ShakespeareLM, batch: object, batch_idx: int) -> None:
        raise error

    monkeypatch.setattr(ShakespeareLM, "training_step", broken)
    assert tiny_main("--max_steps=1") == 1
    said = capsys.readouterr().err
    assert said.splitlines()[-1] == f"error: {error}"
    assert "Traceback" not in said
    assert tiny_main("--max_steps=1", "--traceback") == 1
    said = capsys.readouterr().err
    assert "in broken" in said
    assert said.splitlines()[-1] == f"error: {error}"


def test_a_failing_picture_is_a_warning_and_the_checkpoints_are_there_before_it(
    tiny_fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []

    def broken(*_: object, **__: object) -> None:
        seen.append(all(Path(f"lightning_logs/version_0/checkpoints/{name}.ckpt").exists()
                        for name in ("best", "last")))  # fmt: skip
        raise ResearcherError("no picture")

    monkeypatch.setattr("shakespeare_lm.training.pictures.next_characters_picture", broken)
    monkeypatch.setattr("shakespeare_lm.training.progress._print_losses", broken)
    with pytest.warns(UserWarning, match="failed and is left out of the rest") as caught:
        cli = tiny_fit("--max_steps=4", "--val_check_interval=2")
    messages = [str(one.message) for one in caught if "left out" in str(one.message)]
    assert sorted(message.split()[0] for message in messages) == ["Pictures", "SampleText"]
    assert all("ResearcherError: no picture" in message for message in messages)
    assert seen == [True, True]
    assert cli.trainer.global_step == 4
