"""Short names of Trainer options."""

from shakespeare_lm.commands.trainer_options import expand_short_names

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
