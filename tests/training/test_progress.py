"""What a run shows while it trains: losses, sample texts, throughput and the progress bar."""

import itertools
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning.callbacks import RichProgressBar
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.data.windows import Batch
from shakespeare_lm.errors import UserError
from shakespeare_lm.training import progress
from shakespeare_lm.training.module import ShakespeareLM
from shakespeare_lm.training.pictures import long_lines
from shakespeare_lm.training.progress import ProgressBar, SampleText
from shakespeare_lm.training.tensorboard_layout import HparamsTab
from tests.conftest import Fit, logged

RUN = Path("lightning_logs/version_0")


def logged_texts(run_folder: Path, name: str = "sample") -> dict[int, str]:
    """Return the sample texts as TensorBoard shows them: step -> text."""
    events = EventAccumulator(str(run_folder))
    events.Reload()
    tag = f"{name}/text_summary"
    if tag not in events.Tags()["tensors"]:
        return {}
    return {event.step: event.tensor_proto.string_val[0].decode() for event in events.Tensors(tag)}


def test_samples_leave_the_training_untouched(tiny_fit: Fit) -> None:
    options = ("--max_steps=6", "--val_check_interval=2", "--model.dropout=0.2")
    runs = [tiny_fit(*options, f"--sample.max_new_tokens={number}") for number in (0, 50)]
    states = [run.model.state_dict() for run in runs]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_each_validation_shows_losses_and_a_sample_on_the_console_and_in_tensorboard(
    tiny_fit: Fit, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_fit("--max_steps=4", "--val_check_interval=2", "--sample.prompt=To be",
             "--sample.max_new_tokens=30")  # fmt: skip
    output = capsys.readouterr().out
    texts = logged_texts(RUN)
    assert set(texts) == {0, 1, 3}  # as in the curves, the first step is 0
    early = texts.pop(0)  # without a validation, so in TensorBoard alone
    assert early.startswith("    To be")
    for step, block in texts.items():
        losses = {
            name: f"{name} {logged(RUN, name)[step]:.4f}"
            for name in ("train_loss", "train_eval_loss", "val_loss", "val_bpc")
        }
        assert f"step {step + 1}   {'   '.join(losses.values())}\n" in output
        lines = block.split("\n")
        assert all(line.startswith("    ") for line in lines)  # a code block in Markdown
        text = "\n".join(line[4:] for line in lines)
        assert text.startswith("To be")
        assert len(text) == len("To be") + 30
        assert text.strip("\n") in output


def test_without_new_tokens_there_is_no_sample_but_the_losses_are_shown(
    tiny_fit: Fit, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_fit("--max_steps=2", "--sample.max_new_tokens=0")
    assert "step 2   train_loss " in capsys.readouterr().out
    assert logged_texts(RUN) == {}


def test_a_prompt_may_have_characters_that_the_model_does_not_know(tiny_fit: Fit) -> None:
    tiny_fit("--max_steps=1", "--sample.prompt=Ω To")
    (block,) = logged_texts(RUN).values()
    assert block.startswith("    Ω To")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": -1}, "sample.max_new_tokens is -1: expected a value >= 0"),
        ({"temperature": -0.5}, "temperature is -0.5: expected a value >= 0"),
    ],
)
def test_sample_options_are_checked_before_the_training(
    options: dict[str, float], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        SampleText(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("validation_steps", [6, 4])
def test_throughput_is_the_number_of_real_characters_per_second_of_training(
    tiny_fit: Fit, monkeypatch: pytest.MonkeyPatch, validation_steps: int
) -> None:
    # A clock that advances by one second whenever somebody reads it: exactly one second passes from
    # the start of a measurement to its end.
    seconds = itertools.count()
    monkeypatch.setattr(progress, "time", SimpleNamespace(perf_counter=lambda: next(seconds)))
    characters: list[int] = []
    original = ShakespeareLM.training_step

    def training_step(self: ShakespeareLM, batch: Batch, batch_idx: int) -> torch.Tensor:
        characters.append(int(batch.target_mask.sum()))
        return original(self, batch, batch_idx)

    monkeypatch.setattr(ShakespeareLM, "training_step", training_step)
    tiny_fit("--max_steps=6", "--log_every_n_steps=3", f"--val_check_interval={validation_steps}")
    assert min(characters) < 64 * 16  # padding is not counted
    # The time of a validation does not count, nor what was trained before it.
    first_counted = {6: 3, 4: 4}[validation_steps]
    assert logged(RUN, "tokens_per_second") == {
        2: sum(characters[:3]),
        5: sum(characters[first_counted:6]),
    }


def test_what_other_callbacks_do_after_a_validation_is_no_time_of_training(
    tiny_fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = itertools.count()

    def wait(*_: object) -> None:
        for _ in range(1000):
            next(now)

    monkeypatch.setattr(progress, "time", SimpleNamespace(perf_counter=lambda: next(now)))
    monkeypatch.setattr(HparamsTab, "on_validation_end", wait)  # after that of Throughput
    tiny_fit("--max_steps=4", "--log_every_n_steps=1", "--val_check_interval=2")
    rates = logged(RUN, "tokens_per_second")
    assert len(rates) == 4
    assert min(rates.values()) > 100  # per tick of the clock


def test_the_progress_bar_is_updated_four_times_a_second_and_at_the_end(
    tiny_fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0

    def tick(*_: object) -> None:
        nonlocal now
        now += 0.1

    updates: list[int] = []
    original = RichProgressBar.on_train_batch_end

    def update(self: ProgressBar, trainer, *arguments) -> None:
        updates.append(trainer.global_step)
        original(self, trainer, *arguments)

    monkeypatch.setattr(RichProgressBar, "on_train_batch_end", update)
    monkeypatch.setattr(progress.Throughput, "on_train_batch_end", tick)  # each step takes 0.1 s
    monkeypatch.setattr(
        progress, "time", SimpleNamespace(perf_counter=lambda: now, monotonic=lambda: now)
    )
    tiny_fit("--max_steps=9", "--enable_progress_bar=true")
    assert updates == [1, 4, 7, 9]


def test_the_progress_bar_shows_neither_a_version_nor_a_last_epoch_that_there_is_not(
    tiny_fit: Fit, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_fit("--max_steps=2", "--enable_progress_bar=true")
    output = capsys.readouterr().out
    assert "Epoch 0 " in output
    assert "Epoch 0/" not in output
    assert "train_loss: " in output
    assert "v_num" not in output


def test_the_progress_bar_shows_the_last_epoch_if_there_is_one(
    tiny_fit: Fit, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_fit("--max_steps=2", "--max_epochs=3", "--enable_progress_bar=true")
    assert "Epoch 0/2" in capsys.readouterr().out


def test_tensorboard_also_has_samples_of_several_prompts_greedy_and_sampled(tiny_fit: Fit) -> None:
    cli = tiny_fit("--max_steps=2", "--sample.prompt=To be", "--sample.max_new_tokens=20",
                   "--model.zero_init=false")  # fmt: skip
    texts = logged_texts(RUN, "samples")
    assert set(texts) == {1}
    sections = re.split(r"^### ", texts[1], flags=re.MULTILINE)[1:]
    completer = Completer(cli.model.network, cli.model.tokenizer, 16)
    lines = long_lines(cli.datamodule.encoded["val"], cli.model.tokenizer, 2)
    prompts = ["To be", *(line[:16] for line in lines)]
    assert len(set(prompts)) == 3
    for section, (title, temperature) in zip(
        sections, [("greedy", 0.0), ("temperature 0.8", 0.8)], strict=True
    ):
        heading, *blocks = section.split("\n\n---\n\n")
        assert heading == title
        completed = completer.complete(prompts, 20, temperature=temperature, seed=0)
        for block, prompt, text in zip(blocks, prompts, completed, strict=False):
            shown = "\n".join(line[4:] for line in block.strip("\n").split("\n"))
            assert shown.strip("\n") == (prompt + text).strip("\n")
