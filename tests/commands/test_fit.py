"""`scripts/fit.py` as its users meet it: options, recipes, what a run leaves, how it ends."""

import errno
import math
import os
import re
import signal
import sys
import threading
from pathlib import Path

import pytest
import torch
import yaml
from tensorboard.summary.writer.record_writer import RecordWriter

from shakespeare_lm.commands import fit as cli_module
from shakespeare_lm.commands.fit import ShakespeareCLI, expand_short_names, fit, main
from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.data import datamodule
from shakespeare_lm.errors import UserError
from shakespeare_lm.training import summary as console
from shakespeare_lm.training.progress import Throughput
from tests.conftest import TINY, Fit, logged

CONFIGS = Path(__file__).parents[2] / "configs"
RUN = Path("lightning_logs/version_0")


def run_main(monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    """Run the program inside this process; return its exit code."""
    monkeypatch.setattr(sys, "argv", ["fit.py", *TINY, *options])
    monkeypatch.setattr(cli_module, "prepare_console", lambda: None)
    return main()


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
    nested = ["--callbacks+=EarlyStopping", "--callbacks.monitor=val_loss"]
    assert expand_short_names(nested) == [word.replace("--", "--trainer.") for word in nested]
    assert expand_short_names(typed) == [
        "--trainer.max_steps=5", "--trainer.devices", "2", "--seed_everything", "7",
        "--model.d_model=8", "--nonsense", "-x",
    ]  # fmt: skip


def test_both_spellings_of_an_option_are_the_same(tiny_fit: Fit) -> None:
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


def test_samples_leave_the_training_untouched(tiny_fit: Fit) -> None:
    options = ("--max_steps=6", "--val_check_interval=2", "--model.dropout=0.2")
    runs = [tiny_fit(*options, f"--sample.max_new_tokens={number}") for number in (0, 50)]
    states = [run.model.state_dict() for run in runs]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_the_end_says_loss_bits_perplexity_and_what_to_type_next(
    tiny_fit: Fit, capsys: pytest.CaptureFixture[str]
) -> None:
    loss = float(tiny_fit("--max_steps=3").best.best_model_score)
    output = capsys.readouterr().out
    assert f"best val_loss {loss:.4f} nats per character" in output
    assert f"{loss / math.log(2):.4f} bits per character, perplexity {math.exp(loss):.3f}" in output
    assert "tensorboard --logdir lightning_logs" in output
    assert f"python scripts/complete.py --ckpt {RUN / 'checkpoints' / 'best.ckpt'}" in output


def test_a_checkpoint_alone_gives_the_same_logits_elsewhere(tiny_fit: Fit) -> None:
    cli = tiny_fit("--max_steps=3")
    completer = Completer.from_checkpoint(RUN / "checkpoints" / "last.ckpt")
    ids = torch.randint(len(completer.tokenizer.vocabulary), (2, 16))
    with torch.no_grad():
        assert torch.equal(completer.transformer(ids), cli.model.transformer.eval()(ids))


@pytest.mark.parametrize(
    "option", ["--enable_checkpointing=false", "--fast_dev_run=true", "--logger=false"]
)
def test_a_run_can_do_without_checkpoints_or_logger_and_is_tested_all_the_same(
    tiny_fit: Fit, option: str
) -> None:
    options = ("--max_steps=3", "--log_every_n_steps=0", "--data.test_fraction=0.1", option)
    assert "test_loss" in tiny_fit(*options).trainer.callback_metrics


def test_a_run_ends_in_time_with_a_checkpoint(tiny_fit: Fit) -> None:
    cli = tiny_fit("--max_steps=1000000", "--max_time=00:00:00:01", "--sample.max_new_tokens=0")
    assert 0 < cli.trainer.global_step < 1_000_000
    assert (RUN / "checkpoints" / "best.ckpt").is_file()


def test_a_run_of_whole_epochs_is_validated_and_saved_at_its_end(tiny_fit: Fit) -> None:
    cli = tiny_fit("--max_epochs=1", "--max_steps=1000", "--val_check_interval=20")
    assert cli.trainer.global_step == 34
    last = torch.load(RUN / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 34


def test_the_text_is_loaded_once(tiny_fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[object] = []
    original = datamodule.load_corpus

    def load_corpus(*given: object) -> list[str]:
        loads.append(given)
        return original(*given)

    monkeypatch.setattr(datamodule, "load_corpus", load_corpus)
    tiny_fit("--max_steps=2", "--data.test_fraction=0.1")
    assert len(loads) == 1


def test_the_config_of_a_resumed_run_starts_from_the_beginning(
    tiny_fit: Fit, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_fit("--max_steps=2", "--model.decay_steps=4")
    capsys.readouterr()
    tiny_fit("--max_steps=4", "--model.decay_steps=4", "--ckpt_path=last")
    assert f"going on from {RUN / 'checkpoints' / 'last.ckpt'}, step 2" in capsys.readouterr().out
    assert yaml.safe_load((RUN / "config.yaml").read_text())["ckpt_path"] is None
    tiny_fit("--max_steps=4", "--model.decay_steps=4", "--ckpt_path=last")
    assert "nothing is left to do" in capsys.readouterr().out


def test_half_precision_is_scored_as_exactly_as_single(tiny_fit: Fit) -> None:
    options = ("--max_steps=1", "--model.optimizer=adamw", "--model.learning_rate=1e-9")
    options += ("--model.zero_init=false",)
    single, half = (
        float(tiny_fit(*options, f"--precision={precision}").best.best_model_score)
        for precision in ("32-true", "bf16-true")
    )
    # The logits differ by bfloat16's rounding; sums in bfloat16 would be off by 1e-2.
    assert half == pytest.approx(single, abs=3e-3)


def test_a_text_in_any_script_gets_a_command_that_works(
    tiny_fit: Fit, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("text.txt").write_text("Жили-были дед да баба. " * 40, encoding="utf-8")
    tiny_fit("--data.corpus=text.txt", "--max_steps=2")
    assert capsys.readouterr().out.rstrip().endswith("best.ckpt")


def test_a_second_ctrl_c_stops_at_once(tiny_fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(self: Throughput, trainer, *arguments) -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Throughput, "on_train_batch_end", interrupt)
    try:
        assert run_main(monkeypatch, "--max_steps=5") == 130
    finally:  # Lightning leaves Ctrl-C switched off
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.parametrize("step", [2, 99])
def test_a_run_leaves_signals_as_they_were(
    tiny_fit: Fit, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    def terminate(self: Throughput, trainer, *arguments) -> None:
        if trainer.global_step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Throughput, "on_train_batch_end", terminate)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert run_main(monkeypatch, "--max_steps=3") == (143 if step == 2 else 0)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_part_held_back_is_tested_with_the_best_checkpoint(tiny_fit: Fit) -> None:
    cli = tiny_fit("--max_steps=3", "--data.test_fraction=0.1")
    assert 3.0 < float(cli.trainer.callback_metrics["test_loss"]) < 5.0


def test_a_run_of_one_batch_learns_that_batch(tiny_fit: Fit) -> None:
    cli = tiny_fit("--max_steps=80", "--overfit_batches=1", "--model.learning_rate=3e-2",
                   "--data.batch_size=1", "--model.schedule=constant")  # fmt: skip
    assert float(cli.trainer.callback_metrics["train_loss"]) < 0.5


@pytest.mark.parametrize("recipe", sorted(path.stem for path in CONFIGS.glob("*.yaml")))
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


def test_the_default_recipe_is_what_the_classes_default_to(tiny_fit: Fit) -> None:
    config = yaml.safe_load((CONFIGS / "default.yaml").read_text())
    with_file = ShakespeareCLI(
        ["--data.corpus=sample"], default_config=CONFIGS / "default.yaml"
    ).config
    without = ShakespeareCLI(["--data.corpus=sample"]).config
    assert config
    assert with_file["model"] == without["model"]
    assert with_file["data"] == without["data"]
    assert with_file["trainer"] == without["trainer"]


def test_ctrl_c_finishes_the_step_saves_and_says_how_to_resume(
    tiny_fit: Fit, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--max_steps=12", "--val_check_interval=5", "--model.dropout=0.2")
    whole = tiny_fit(*options, "--default_root_dir=whole")
    original = Throughput.on_train_batch_end

    def interrupt(self: Throughput, trainer, *arguments) -> None:
        original(self, trainer, *arguments)
        if trainer.global_step == 7:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Throughput, "on_train_batch_end", interrupt)
        assert run_main(monkeypatch, *options) == 130
    output = capsys.readouterr().out
    assert "Stopped at step 7" in output
    assert (
        f"--config {RUN / 'config.yaml'} --ckpt_path {RUN / 'checkpoints' / 'last.ckpt'}" in output
    )

    resumed = tiny_fit(*options, "--ckpt_path=last")
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name
    folder = Path("whole/lightning_logs/version_0")
    assert logged(RUN, "train_loss") == logged(folder, "train_loss")


def test_a_loss_that_is_no_number_ends_the_run_with_advice_and_keeps_the_checkpoint(
    tiny_fit: Fit, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = cli_module.ShakespeareLM.training_step

    def training_step(self, batch, batch_idx: int) -> torch.Tensor:
        return original(self, batch, batch_idx) * (math.nan if self.global_step == 5 else 1.0)

    monkeypatch.setattr(cli_module.ShakespeareLM, "training_step", training_step)
    assert run_main(monkeypatch, "--max_steps=9", "--val_check_interval=2") == 1
    error = capsys.readouterr().err
    assert "error: train_loss is nan at step 6" in error
    assert "lower learning rates (--model.learning_rate, --model.muon_learning_rate)" in error
    assert torch.load(RUN / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 4


def test_a_gradient_that_is_no_number_ends_the_run_before_the_weights_take_harm(
    tiny_fit: Fit, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Overflow(torch.autograd.Function):
        @staticmethod
        def forward(context, loss: torch.Tensor) -> torch.Tensor:
            return loss.clone()

        @staticmethod
        def backward(context, gradient: torch.Tensor) -> torch.Tensor:
            return gradient * math.inf

    original = cli_module.ShakespeareLM.training_step
    modules = []

    def training_step(self, batch, batch_idx: int) -> torch.Tensor:
        modules[:] = [self]
        loss = original(self, batch, batch_idx)
        return Overflow.apply(loss) if self.global_step == 5 else loss

    monkeypatch.setattr(cli_module.ShakespeareLM, "training_step", training_step)
    assert run_main(monkeypatch, "--max_steps=9", "--val_check_interval=2") == 1
    error = capsys.readouterr().err
    assert re.search(r"error: gradient_norm is (nan|inf) at step 6 \(learning rate", error)
    assert "the best checkpoint is kept: " in error
    assert all(torch.isfinite(parameter).all() for parameter in modules[0].parameters())


def test_a_full_disk_under_the_log_ends_the_run_in_lines_and_keeps_the_checkpoint(
    tiny_fit: Fit, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written = RecordWriter.write

    def write(self: RecordWriter, data: bytes) -> None:
        if (RUN / "checkpoints/best.ckpt").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written(self, data)

    monkeypatch.setattr(RecordWriter, "write", write)
    monkeypatch.setattr(threading, "excepthook", console._thread_failed)
    assert run_main(monkeypatch, "--max_steps=200", "--val_check_interval=2") == 1
    error = capsys.readouterr().err
    assert "warning: the log cannot be written: No space left on device" in error
    assert "error: No space left on device" in error
    assert "Traceback" not in error
    assert torch.load(RUN / "checkpoints/best.ckpt", weights_only=True)["global_step"] >= 2


def test_max_time_ends_a_run_that_says_how_to_go_on_and_then_has_as_much_again(
    tiny_fit: Fit, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--max_steps=100000", "--max_time=00:00:00:01", "--model.schedule=constant"]
    options += ["--val_check_interval=100000"]
    assert run_main(monkeypatch, *options) == 0
    output = capsys.readouterr().out
    first = torch.load(RUN / "checkpoints/last.ckpt", weights_only=True)["global_step"]
    assert f"Stopped at step {first:,}. To go on from there" in output
    assert run_main(monkeypatch, *options, "--ckpt_path=last") == 0
    second = torch.load(RUN / "checkpoints/last.ckpt", weights_only=True)["global_step"]
    assert second > first + 5


def test_a_validation_loss_that_is_no_number_ends_the_run_too(
    tiny_fit: Fit, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--model.learning_rate=1e37", "--model.warmup_steps=0", "--max_steps=1")
    assert run_main(monkeypatch, *options) == 1
    error = capsys.readouterr().err
    assert "error: val_loss is inf at step 1 (learning rate 1e+37)" in error
    assert "no model was saved yet" in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.dropout=1.5"], "dropout is 1.5"),
        (["--model.d_model=9", "--model.num_heads=3"], "d_model is 9: sinusoidal"),
        (["--model.d_model=10", "--model.num_heads=3"], "d_model is 10 and num_heads 3"),
        (["--data.corpus=no/such.txt"], "'no/such.txt' is no existing file and no known name"),
        (["--ckpt_path=none.ckpt"], "there is no checkpoint none.ckpt"),
        (["--ckpt_path=last"], "no last.ckpt in lightning_logs"),
        (["--ckpt_path=https://example.org/a.ckpt"], "no checkpoint https://example.org/a.ckpt"),
        (["--max_steps=-1", "--max_epochs=1"], "schedule is linear"),
        (["--limit_val_batches=0"], "limit_val_batches is 0"),
        (["--seed=-1"], "seed_everything is -1"),
        (["--max_steps=-5"], "the Trainer refuses these options"),
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
    tiny_fit: Fit,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    assert run_main(monkeypatch, *options) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert message in lines[0]
    assert not Path("lightning_logs").exists()


@pytest.mark.parametrize(
    "options", [["--nonsense=1"], ["--max_steps=many"], ["--config=none.yaml"]]
)
def test_wrong_usage_is_exit_code_2(
    tiny_fit: Fit, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    assert run_main(monkeypatch, *options) == 2


class Harmful:
    """Pickles into a call that makes a file."""

    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("ran"),))


def test_a_checkpoint_that_holds_code_is_not_resumed_from(tiny_fit: Fit) -> None:
    torch.save({"state_dict": {}, "extra": Harmful()}, "harmful.ckpt")
    with pytest.raises(UserError, match="holds more than tensors and plain values"):
        tiny_fit("--max_steps=2", "--ckpt_path=harmful.ckpt")
    assert not Path("ran").exists()


def test_resuming_with_another_network_is_refused_by_name(tiny_fit: Fit) -> None:
    tiny_fit("--max_steps=2")
    with pytest.raises(UserError, match="num_layers 1, but this run has 2"):
        tiny_fit("--max_steps=4", "--model.num_layers=2", "--ckpt_path=last")
    with pytest.raises(UserError, match=r"learning_rate 0\.008, but this run has 0\.1"):
        tiny_fit("--max_steps=4", "--model.learning_rate=0.1", "--ckpt_path=last")


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
    places = [
        text.index(f"\n  --{name} ")
        for name in ("model.d_model", "data.corpus", "trainer.max_steps")
    ]
    assert places == sorted(places)


def test_the_precision_is_chosen_and_written_down_unless_it_is_given(
    tiny_fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shakespeare_lm.hardware.has_fast_bfloat16", lambda device_type: True)
    assert tiny_fit("--max_steps=1").trainer.precision == "bf16-mixed"
    assert yaml.safe_load((RUN / "config.yaml").read_text())["trainer"]["precision"] == "bf16-mixed"
    assert tiny_fit("--max_steps=1", "--precision=32-true").trainer.precision == "32-true"
