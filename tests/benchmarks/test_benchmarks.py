"""The benchmarks run at the smallest sizes, and print what they measured as one line of JSON."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

from benchmarks import __main__ as benchmarks
from benchmarks.growth import last_power
from benchmarks.nanogpt import SHAPES, mean_loss, nanogpt_config
from benchmarks.timing import ratio_of, spread_of
from shakespeare_lm.model.transformer import CausalTransformer

TINY = [
    "--model.d_model=16",
    "--model.num_heads=2",
    "--model.num_layers=1",
    "--data.context_length=8",
]

Benchmark = Callable[..., dict[str, Any]]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Benchmark:
    """Return `python -m benchmarks` as a function: options in, its JSON line out."""
    monkeypatch.setattr("benchmarks.train._MATRIX_SIZES", {"cpu": (256,)})

    def run(*options: str) -> dict[str, Any]:
        assert benchmarks.main(list(options)) == 0
        figures: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert figures["benchmark"] == options[0]
        assert figures["threads"] == torch.get_num_threads()
        return figures

    return run


GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]


@pytest.mark.parametrize("device", ["cpu", pytest.param("gpu --graph", marks=GPU)])
def test_train_compares_loops_that_do_the_same(benchmark: Benchmark, device: str) -> None:
    sizes = ["--corpus=sample", "--rounds=2", "--steps=2", *TINY]
    figures = benchmark("train", *sizes, "--accelerator", *device.split())
    assert set(figures["loops"]) == {"plain loop", "Trainer", "nanoGPT"}
    for row in figures["loops"].values():
        assert row["characters_per_second"] > 0
        assert 0 < row["share_of_matmul"] < 1
    trainer = figures["loops"]["Trainer"]
    assert trainer["recipe_seconds"] == pytest.approx(1250 * trainer["step_seconds"][0])
    # The same weights saw the same batches: after 3 rounds of 2 steps, the same loss bit for bit.
    assert figures["losses"]["Trainer"] == figures["losses"]["plain loop"]
    assert len(figures["trainer_over_plain"]) == 3
    assert figures["feeding_seconds"] > 0


def test_complete_compares_ways_to_make_a_text(
    benchmark: Benchmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = SHAPES["laptop"]._replace(num_layers=1, d_model=16, context_length=8)
    monkeypatch.setitem(SHAPES, "laptop", tiny)
    sizes = ["--shapes=laptop", "--characters=20", "--rounds=2", "--texts=3", "--starts=0"]
    figures = benchmark("complete", *sizes)["shapes"]["laptop"]
    speeds = figures["characters_per_second"]
    assert set(speeds) == {"nanoGPT's way", "one text", "together"}
    assert all(low <= median <= high for median, low, high in speeds.values())
    assert figures["one_over_nanogpt"][0] > 0


def test_serve_compares_two_checkouts_under_load(
    benchmark: Benchmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("uvicorn", reason="needs pip install -e '.[serve]'")
    tiny = SHAPES["laptop"]._replace(num_layers=1, d_model=16, context_length=8)
    monkeypatch.setitem(SHAPES, "laptop", tiny)
    load = ["--clients", "2", "--slow=1", "--seconds=0.2", "--rounds=1"]
    for stream in ([], ["--stream"]):
        figures = benchmark("serve", *load, *stream)["clients"]["2"]
        for name in ("here", "there"):
            ((per_second, p99, errors),) = figures[name]
            assert per_second > 0
            assert 0 < p99 < 10
            assert errors == 0


def test_growth_says_with_which_power_the_step_time_grows(benchmark: Benchmark) -> None:
    sizes = ["--corpus=sample", "--accelerator=cpu", "--axes", "depth", *TINY[:2], *TINY[3:]]
    figures = benchmark("growth", *sizes, "--points=2", "--blocks=1", "--steps=1")["axes"]["depth"]
    (one, (first, *_)), (two, (second, *_)) = figures["points"]
    assert (one, two) == (1, 2)
    assert 2 ** figures["power"] == pytest.approx(second / first)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("train --config nonsense", "config is 'nonsense': expected a YAML file, or one of the"),
        ("complete --nonsense", "complete has no option --nonsense"),
        ("train --corpus=sample --accelerator=cpu --graph", "--graph needs a GPU, whose work"),
        ("train --corpus=sample --rounds=1000", "make 20020 steps, but the recipe has 1250"),
    ],
)
def test_mistakes_are_named(capsys: pytest.CaptureFixture[str], options: str, message: str) -> None:
    assert benchmarks.main(options.split()) == 1
    assert message in capsys.readouterr().err


def test_spreads_and_powers_are_those_of_small_cases() -> None:
    assert spread_of([3.0]) == (3.0, 3.0, 3.0)
    assert spread_of([1.0, 2.0, 3.0, 4.0, 5.0]) == (3.0, 2.0, 4.0)
    assert ratio_of([2.0, 6.0, 4.0], [1.0, 2.0, 4.0]).median == 2.0
    assert last_power([(1, 1.0), (2, 3.0), (4, 12.0)]) == pytest.approx(2)


@pytest.mark.parametrize(("shape", "millions"), [("laptop", 0.80), ("gpu", 10.65)])
def test_nanogpt_has_its_published_size(shape: str, millions: float) -> None:
    network = CausalTransformer(65, nanogpt_config(SHAPES[shape]))
    # nanoGPT counts without the positions.
    counted = sum(p.numel() for p in network.parameters()) - network.learned_positions.numel()
    assert round(counted / 1e6, 2) == millions


def test_nanogpts_loss_is_over_every_character_but_the_first() -> None:
    network = CausalTransformer(5, nanogpt_config(SHAPES["laptop"]._replace(num_layers=1)))
    torch.nn.init.zeros_(network.head.weight)  # every character is equally likely
    for length in (2, 64, 65, 66, 200):
        ids = torch.randint(5, (length,), dtype=torch.uint8)
        # A sum of float32 terms.
        assert mean_loss(network, ids, 64) == pytest.approx(torch.tensor(5.0).log().item(), 1e-5)
