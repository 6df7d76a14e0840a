"""The benchmarks run, with the smallest sizes, and say in one line of JSON what they measured."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

TINY = [
    "--model.d_model=16",
    "--model.num_heads=2",
    "--model.num_layers=1",
    "--data.context_length=8",
]

Bench = Callable[..., dict[str, Any]]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Bench:
    """Return `python -m benchmarks` as a function: options in, its JSON line out."""
    import benchmarks.__main__ as script

    monkeypatch.setattr("benchmarks.ceiling._SIZES", {"cpu": (256,)})

    def run(*options: str) -> dict[str, Any]:
        assert script.main(list(options)) == 0
        figures: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert figures["bench"] == options[0]
        assert figures["threads"] == torch.get_num_threads()
        return figures

    return run


def test_feed_says_what_share_of_a_step_it_takes(bench: Bench) -> None:
    (row,) = bench("feed", "default", "--corpus=sample", "--steps=1")["rows"]
    assert row["recipe"] == "default"
    assert row["share"] == pytest.approx(row["feed_us"] / row["step_ms"] / 1e3)


def test_train_compares_loops_that_do_the_same(bench: Bench) -> None:
    sizes = ["--corpus=sample", "--accelerator=cpu", "--rounds=2", "--steps=2", *TINY]
    figures = bench("train", *sizes)
    assert set(figures["loops"]) == {"plain loop", "Trainer", "nanoGPT"}
    for row in figures["loops"].values():
        assert row["characters_per_second"] > 0
        assert 0 < row["share_of_ceiling"] < 1
        assert row["peak_bytes"] > 1e7
        seconds = row["planned_steps"] * row["step_seconds"][0]
        assert row["planned_seconds"] == pytest.approx(seconds)
    # The same weights saw the same batches: bit for bit the same loss, after the warm-up's 2 steps
    # and 2 rounds of 2.
    assert figures["steps_taken"] == 6
    assert figures["losses"]["Trainer"] == figures["losses"]["plain loop"]
    assert len(figures["trainer_over_plain"]) == 3
    assert figures["feeding_seconds"] > 0


def test_complete_compares_ways_to_make_a_text(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks.nanogpt import SHAPES

    tiny = SHAPES["laptop"]._replace(num_layers=1, d_model=16, context_length=8)
    monkeypatch.setitem(SHAPES, "laptop", tiny)
    sizes = ["--shapes=laptop", "--characters=20", "--rounds=2", "--texts=3", "--starts=0"]
    figures = bench("complete", *sizes, "--growth=100")["shapes"]["laptop"]
    speeds = figures["characters_per_second"]
    assert set(speeds) == {"nanoGPT's way", "one text", "together"}
    assert all(low <= median <= high for median, low, high in speeds.values())
    assert figures["one_over_nanogpt"][0] > 0
    assert len(figures["growth"]["characters_per_second_of_tenths"]) == 9


def test_scaling_says_with_which_power_each_figure_grows(bench: Bench) -> None:
    sizes = ["--accelerator=cpu", "--axes", "depth", "--points=2", "--repeats=1", "--steps=1"]
    figures = bench("scaling", *sizes, "--megabytes", "0.05", "0.1")
    assert [point["value"] for point in figures["axes"]["depth"]["points"]] == [1, 2]
    assert figures["axes"]["depth"]["step_seconds_power"] is not None
    assert [start["characters"] for start in figures["corpora"]] == [50_000, 100_000, 10_000]
    assert [start["bytes_per_character"] for start in figures["corpora"]] == [1, 1, 2]


def test_a_config_that_does_not_exist_is_named(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    import benchmarks.__main__ as script

    assert script.main(["train", "--config", "nonsense"]) == 1
    assert "config is nonsense: accepted is" in capsys.readouterr().err


def test_a_power_is_that_of_the_last_two_points(bench: Bench) -> None:
    from benchmarks.scaling import last_power

    assert last_power([(1, 1.0), (2, 3.0), (4, 12.0)]) == pytest.approx(2)
    assert last_power([(1, 1.0)]) is None


@pytest.mark.parametrize(("shape", "millions"), [("laptop", 0.80), ("gpu", 10.65)])
def test_nanogpt_has_its_published_size(bench: Bench, shape: str, millions: float) -> None:
    from benchmarks.nanogpt import SHAPES, NanoGPT

    assert round(NanoGPT(65, SHAPES[shape]).num_parameters() / 1e6, 2) == millions


def test_nanogpts_loss_is_over_every_character_but_the_first(bench: Bench) -> None:
    from benchmarks.nanogpt import SHAPES, NanoGPT, mean_loss

    network = NanoGPT(5, SHAPES["laptop"]._replace(num_layers=1))
    torch.nn.init.zeros_(network.embedding.weight)  # the head's weights too: all are as likely
    for length in (2, 64, 65, 66, 200):
        ids = torch.randint(5, (length,), dtype=torch.uint8)
        # A sum of single-precision terms.
        assert mean_loss(network, ids, 64) == pytest.approx(torch.tensor(5.0).log().item(), 1e-5)
