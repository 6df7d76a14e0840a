"""Which arithmetic is chosen for whom."""

import pytest
import torch

from shakespeare_lm import cli
from shakespeare_lm.cli import fastest_precision
from shakespeare_lm.precision import has_fast_bfloat16


@pytest.mark.parametrize("amx", [True, False])
def test_a_cpu_is_fast_in_bfloat16_if_it_has_units_for_its_matrices(
    amx: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_fast_bfloat16.cache_clear()
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert has_fast_bfloat16("cpu") is amx
    has_fast_bfloat16.cache_clear()


def test_other_devices_are_not() -> None:
    assert not has_fast_bfloat16("mps")


@pytest.mark.parametrize(
    ("accelerator", "available", "device_type"),
    [
        ("cpu", ["cpu", "cuda"], "cpu"),
        ("gpu", ["cpu", "cuda"], "cuda"),
        ("auto", ["cpu", "cuda"], "cuda"),
        ("auto", ["cpu", "mps"], "mps"),
        ("auto", ["cpu"], "cpu"),
    ],
)
def test_the_precision_is_that_of_the_device_that_will_be_used(
    accelerator: str, available: list[str], device_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def ask(name: str) -> bool:
        asked.append(name)
        return True

    monkeypatch.setattr(cli, "_available_accelerators", lambda: available)
    monkeypatch.setattr(cli, "has_fast_bfloat16", ask)
    assert fastest_precision(accelerator) == "bf16-mixed"
    assert asked == [device_type]
    monkeypatch.setattr(cli, "has_fast_bfloat16", lambda name: False)
    assert fastest_precision(accelerator) == "32-true"
