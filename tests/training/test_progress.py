"""What a run shows while it trains: progress bar, losses, sample texts, throughput, and the loss on
a part of the validation split.
"""

import io
import itertools
import re
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning.callbacks import Timer
from rich.console import Console
from rich.progress import Progress

from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.data.loader import WindowLoader
from shakespeare_lm.data.windows import Documents
from shakespeare_lm.training import interim_validation, progress, samples
from shakespeare_lm.training.interim_validation import InterimValidation, sample_batches
from shakespeare_lm.training.module import ShakespeareLM
from shakespeare_lm.training.pictures import long_lines
from shakespeare_lm.training.progress import ProgressBar, Throughput
from shakespeare_lm.training.tensorboard_layout import TensorBoardTabs
from tests.conftest import logged
from tests.training.conftest import RUN, events_of

BAR = ("--enable_progress_bar=true", "--sample.max_new_tokens=0", "--pictures=false")


def logged_texts(name: str = "sample") -> dict[int, str]:
    """Return the sample texts as TensorBoard shows them: step -> text."""
    events, tag = events_of(), f"{name}/text_summary"
    shown = events.Tensors(tag) if tag in events.Tags()["tensors"] else []
    return {event.step: event.tensor_proto.string_val[0].decode() for event in shown}


def plain(block: str) -> str:
    """Return the text in a code block of Markdown."""
    assert all(line.startswith("    ") for line in block.split("\n"))
    return "\n".join(line[4:] for line in block.split("\n"))


class Clock:
    """Goes on by `tick` seconds after each training step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tick: float) -> None:
        self.now, self.tick = 1000.0, tick
        times = {"monotonic": lambda: self.now, "perf_counter": lambda: self.now}
        monkeypatch.setattr(progress, "time", SimpleNamespace(**times))
        monkeypatch.setattr(Throughput, "on_train_batch_end", self.go_on)

    def go_on(self, *_: object) -> None:
        self.now += self.tick


def record_bar(monkeypatch: pytest.MonkeyPatch, width: int = 80) -> list[str]:
    """Let the bar be drawn for a terminal that wide; return what it shows after each update."""
    frames: list[str] = []

    class Recorded(Progress):
        def update(self, *arguments: Any, **options: Any) -> None:
            super().update(*arguments, **options)
            console = Console(width=width, file=io.StringIO())
            console.print(self)
            frames.append(console.file.getvalue().removesuffix("\n"))

    monkeypatch.setattr(progress, "Progress", Recorded)
    monkeypatch.setattr(progress, "get_console", lambda: Console(width=width, file=io.StringIO()))
    return frames


def test_the_bar_is_updated_four_times_a_second_and_at_the_end(tiny_fit, monkeypatch):
    Clock(monkeypatch, 0.1)
    frames = record_bar(monkeypatch)
    tiny_fit("--max_steps=9", *BAR)
    steps = [int(step) for step in re.findall(r"step (\d)/9 ", "\n".join(frames))]
    assert steps == [0, 1, 4, 7, 9]


def test_one_bar_counts_all_steps_and_shows_the_time_left(tiny_fit, monkeypatch):
    Clock(monkeypatch, 5)
    options = ("--limit_train_batches=2", "--model.decay_steps=9", *BAR)
    tiny_fit(*options, "--max_steps=3")
    frames = record_bar(monkeypatch)
    tiny_fit(*options, "--max_steps=9", "--ckpt_path=last")
    steps = [frame for frame in frames if "step " in frame]
    assert "step 3/9 " in steps[0]
    for step, frame in enumerate(steps[1:], start=4):
        assert f"step {step}/9 " in frame
        assert f" 0:00:{5 * (9 - step):02} left  train_loss " in frame
    assert "validation " in frames[-1]


@pytest.mark.parametrize(
    ("width", "shown"), [(80, "left train_loss steps/s"), (60, "left train_loss"), (40, "left"),
                         (20, "")],
)  # fmt: skip
def test_the_bar_fits_into_narrow_terminals(tiny_fit, monkeypatch, width, shown):
    Clock(monkeypatch, 1)
    frames = record_bar(monkeypatch, width)
    tiny_fit("--max_steps=2", *BAR)
    assert all("\n" not in frame and len(frame) <= width for frame in frames)
    (frame,) = (frame for frame in frames if "step 1/2" in frame)
    assert "━" in frame
    for word in ("left", "train_loss", "steps/s"):
        assert (word in frame) == (word in shown), frame


# The first has nothing that ends it; of steps and time, what comes first ends a run.
@pytest.mark.parametrize(
    ("planned", "step", "elapsed", "left", "share"),
    [(-1, 7, 0.0, None, None), (100, 25, 3.0, None, 0.25), (-1, 7, 3.0, 9.0, 0.25),
     (100, 50, 3.0, 9.0, 0.5), (100, 10, 3.0, 9.0, 0.25), (100, 10, 12.0, 0.0, 0.999)],
)  # fmt: skip
def test_the_bar_shows_the_share_of_steps_or_time_done(planned, step, elapsed, left, share):
    timer = Timer()
    vars(timer).update(time_elapsed=lambda: elapsed, time_remaining=lambda: left)
    bar = ProgressBar()
    bar._planned_steps = planned
    trainer = SimpleNamespace(global_step=step, callbacks=[bar, timer])
    assert bar._share_done(trainer) == share


def test_the_bar_counts_the_batches_of_validation_and_test(tiny_fit, monkeypatch):
    frames = record_bar(monkeypatch)
    monkeypatch.setattr(ProgressBar, "_is_due", lambda _: True)
    tiny_fit("--max_steps=1", "--data.test_fraction=0.1", *BAR)
    evaluated = re.findall(r"\w+ \d+/\d+", "\n".join(frames))
    validated = [f"validation {batch}/3" for batch in (1, 2, 3)]
    assert evaluated == ["step 0/1", "step 1/1", *validated, "test 1/1"]


def test_in_a_pipe_there_is_no_bar_and_without_new_tokens_no_sample(tiny_fit, capsys):
    tiny_fit("--max_steps=2", *BAR)
    captured = capsys.readouterr()
    assert "step 2   train_loss" in captured.out
    assert not re.search("━|step ./2", captured.out + captured.err)
    assert logged_texts() == {}


@pytest.mark.parametrize("error", [None, KeyboardInterrupt, RuntimeError])
def test_no_bar_is_left_behind(tiny_fit, monkeypatch, error):
    def fail(*_: object) -> None:
        if error is not None:
            raise error

    monkeypatch.setattr(TensorBoardTabs, "on_train_end", fail)
    console = Console(width=80, file=io.StringIO(), force_terminal=True)
    monkeypatch.setattr(progress, "get_console", lambda: console)
    try:
        tiny_fit("--max_steps=2", *BAR)
    except (SystemExit, RuntimeError):  # Lightning makes the first of a KeyboardInterrupt
        assert error is not None
    finally:  # Lightning leaves Ctrl-C switched off
        signal.signal(signal.SIGINT, signal.default_int_handler)
    _, bar, after = console.file.getvalue().rpartition("━")
    assert bar
    assert "\x1b[2K" in after  # its line is erased


@pytest.mark.parametrize(
    ("width", "lines"),
    [(80, ["step 1,250   train_loss 1.2230   train_eval_loss 1.2624   val_loss 1.4996"]),
     (40, ["step 1,250   train_loss 1.2230", "train_eval_loss 1.2624   val_loss 1.4996"])],
)  # fmt: skip
def test_losses_are_printed_in_lines_of_the_terminals_width(monkeypatch, width, lines):
    console = Console(width=width, file=io.StringIO())
    monkeypatch.setattr(samples, "get_console", lambda: console)
    metrics = {"train_loss": 1.223, "train_eval_loss": 1.2624, "val_loss": 1.4996, "val_bpc": 2.1}
    samples._print_losses(SimpleNamespace(callback_metrics=metrics, global_step=1250))
    assert console.file.getvalue().splitlines() == ["", *lines]


def test_each_validation_shows_losses_and_a_sample(tiny_fit, capsys):
    cli = tiny_fit("--max_steps=4", "--val_check_interval=2", "--sample.prompt=To be",
                   "--sample.max_new_tokens=60")  # fmt: skip
    output = capsys.readouterr().out
    texts = {step: plain(block) for step, block in logged_texts().items()}
    assert set(texts) == {1, 2, 4}
    assert texts.pop(1).startswith("To be")  # without a validation, so in TensorBoard alone
    for step, text in texts.items():
        losses = [f"{name} {logged(RUN, name)[step]:.4f}"
                  for name in ("train_loss", "train_eval_loss", "val_loss")]  # fmt: skip
        assert f"step {step}   {'   '.join(losses)}\n" in output
        assert text.strip("\n") in output
    whole = Completer(cli.model.network, cli.model.tokenizer, 16).complete(
        "To be", 60, temperature=0.8, seed=0
    )
    assert texts[4] == "To be" + whole[: whole.rindex("\n" if "\n" in whole else " ")]


def test_samples_end_with_the_last_full_line_or_word():
    shown = {
        "of day.\n\nROMEO:\nAy, if I kn": "of day.\n\nROMEO:",
        "\nthe se": "\nthe",  # a line break alone is no line
        "Sirrah": "Sirrah",
        "": "",
    }
    assert {text: samples._to_last_end(text) for text in shown} == shown


def test_a_prompt_may_have_characters_that_the_model_does_not_know(tiny_fit):
    tiny_fit("--max_steps=1", "--sample.prompt=Ω To")
    (block,) = logged_texts().values()
    assert plain(block).startswith("Ω To")


def test_tensorboard_also_has_samples_of_several_prompts_greedy_and_sampled(tiny_fit):
    cli = tiny_fit("--max_steps=2", "--sample.prompt=To be", "--sample.max_new_tokens=20",
                   "--model.zero_init=false")  # fmt: skip
    (text,) = logged_texts("samples").values()
    sections = re.split(r"^### ", text, flags=re.MULTILINE)[1:]
    completer = Completer(cli.model.network, cli.model.tokenizer, 16)
    lines = long_lines(cli.datamodule.encoded["val"], cli.model.tokenizer, 2)
    prompts = ["To be", *(line[:16] for line in lines)]
    assert len(set(prompts)) == 3
    for section, (title, temperature) in zip(
        sections, [("greedy", 0.0), ("temperature 0.8", 0.8)], strict=True
    ):
        heading, *blocks = section.removesuffix("\n\n---\n\n").split("\n\n---\n\n")
        assert heading == title
        completed = completer.complete(prompts, 20, temperature=temperature, seed=0)
        for block, prompt, whole in zip(blocks, prompts, completed, strict=True):
            assert plain(block).startswith(prompt)
            assert (prompt + whole).startswith(plain(block))


@pytest.mark.parametrize(("validation_steps", "first_counted"), [(6, 3), (4, 4)])
def test_throughput_counts_real_characters_per_second(
    tiny_fit, monkeypatch, validation_steps, first_counted
):
    # A clock that advances by one second whenever somebody reads it: at each step.
    clock = SimpleNamespace(perf_counter=itertools.count().__next__)
    monkeypatch.setattr(progress, "time", clock)
    characters, original = [], ShakespeareLM.training_step

    def training_step(self, batch, batch_idx):
        characters.append(int(batch.target_mask.sum()))
        return original(self, batch, batch_idx)

    monkeypatch.setattr(ShakespeareLM, "training_step", training_step)
    tiny_fit("--max_steps=6", "--log_every_n_steps=3", f"--val_check_interval={validation_steps}")
    assert min(characters) < 64 * 16  # padding is not counted
    # The time of a validation does not count, nor what was trained before it.
    first, last = characters[:3], characters[first_counted:6]
    expected = {3: sum(first) / len(first), 6: sum(last) / len(last)}
    assert logged(RUN, "tokens_per_second") == pytest.approx(expected)


@pytest.mark.parametrize(
    ("callback", "hook"),
    [(TensorBoardTabs, "on_validation_end"), (InterimValidation, "_measure")],
)
def test_other_callbacks_take_no_time_of_training(tiny_fit, monkeypatch, callback, hook):
    now = itertools.count()

    def wait(*_: object) -> float:
        for _ in range(1000):
            next(now)
        return 1.0

    monkeypatch.setattr(progress, "time", SimpleNamespace(perf_counter=lambda: next(now)))
    monkeypatch.setattr(callback, hook, wait)  # after Throughput
    monkeypatch.setattr(interim_validation, "_TRAINED_PER_CHARACTER", 0)
    tiny_fit("--max_steps=4", "--log_every_n_steps=1", "--val_check_interval=2")
    rates = logged(RUN, "tokens_per_second")
    assert len(rates) == 4
    assert min(rates.values()) > 100  # per tick of the clock


def test_what_is_shown_leaves_the_training_untouched(tiny_fit, monkeypatch):
    options = ("--max_steps=6", "--val_check_interval=2", "--model.dropout=0.2",
               "--accumulate_grad_batches=2", "--model.decay_steps=6")  # fmt: skip
    hidden = tiny_fit(*options, "--sample.max_new_tokens=0", "--pictures=false", "--name=hidden")
    monkeypatch.setattr(interim_validation, "_TRAINED_PER_CHARACTER", 0)
    shown = tiny_fit(*options, "--sample.max_new_tokens=50", "--name=shown")
    tiny_fit(*options, "--max_steps=2", "--name=cut")
    tiny_fit(*options, "--name=cut", "--ckpt_path=lightning_logs/cut/version_0")
    folders = [Path(f"lightning_logs/{name}/version_0") for name in ("hidden", "shown", "cut")]
    for name in ("train_loss", "val_loss"):
        assert logged(folders[0], name) == logged(folders[1], name) == logged(folders[2], name)
    curve = logged(folders[1], "val_sample_loss")
    assert [*curve] == [1, 2, 3, 4, 5, 6]
    assert logged(folders[2], "val_sample_loss") == curve
    assert [bool(events_of(folder).Tags()["images"]) for folder in folders] == [False, True, True]
    states = [run.model.state_dict() for run in (hidden, shown)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_ten_interim_validations_cover_a_short_validation_part(tiny_fit, monkeypatch):
    monkeypatch.setattr(interim_validation, "_TRAINED_PER_CHARACTER", 0)
    tiny_fit("--max_steps=20", "--val_check_interval=10", *BAR[1:])
    curve = logged(RUN, "val_sample_loss")
    assert [*curve] == [*range(2, 21, 2)]
    for step, loss in logged(RUN, "val_loss").items():
        assert curve[step] == pytest.approx(loss, rel=1e-5)  # sums in another order


def loader(batch_size: int, characters: int = 2001) -> WindowLoader:
    documents = Documents(torch.arange(characters) % 7, torch.tensor([characters]))
    return WindowLoader(documents, context_length=20, batch_size=batch_size, padding_id=7)


def test_the_part_is_spread_over_the_whole_validation_split(monkeypatch):
    monkeypatch.setattr(interim_validation, "_SAMPLE_CHARACTERS", 99)
    batches = sample_batches(loader(3))
    assert [len(batch.inputs) for batch in batches] == [3, 2]
    first = torch.cat([batch.inputs[:, 0] for batch in batches])
    assert first.tolist() == [start % 7 for start in (0, 400, 800, 1200, 1600)]
    monkeypatch.undo()
    assert sum(int(batch.target_mask.sum()) for batch in sample_batches(loader(64))) == 2000


def test_interim_validations_are_rarer_in_short_runs():
    for max_steps, accumulate, every in (
        (10_000, 1, 1000),  # ten times
        (1000, 1, 200),  # 2,000 characters after 200 steps of 200
        (1000, 2, 100),
        (-1, 2, 100),  # until a time limit
    ):
        trainer = SimpleNamespace(
            train_dataloader=loader(10), val_dataloaders=[loader(64)], max_steps=max_steps,
            max_epochs=-1, accumulate_grad_batches=accumulate,
        )  # fmt: skip
        callback = InterimValidation(Throughput())
        callback.on_train_start(trainer, None)
        assert callback._every_steps == every


@pytest.mark.parametrize("other", ["train_dataloader", "val_dataloaders"])
def test_other_kinds_of_data_have_no_interim_validation(other):
    loaders = {"train_dataloader": loader(10), "val_dataloaders": [loader(64)], other: object()}
    trainer = SimpleNamespace(**loaders, global_step=1, is_global_zero=True)
    callback = InterimValidation(Throughput())
    callback.on_train_start(trainer, None)
    callback.on_train_batch_end(trainer, None)
    assert callback._batches == []
