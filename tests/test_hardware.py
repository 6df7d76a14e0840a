"""Names of devices, as users type them, and the number format that is fast on each."""

import itertools
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from shakespeare_lm import hardware
from shakespeare_lm.errors import UserError
from shakespeare_lm.hardware import (
    available_accelerators,
    check_memory,
    choose_device,
    choose_dtype,
    fastest_precision,
    has_fast_bfloat16,
)


@pytest.mark.parametrize("gpu", ["cuda", "mps", None])
def test_auto_takes_a_gpu_if_there_is_one_and_others_are_refused(
    gpu: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu == "cuda")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: gpu == "mps")
    available = ["cpu", gpu] if gpu else ["cpu"]
    assert available_accelerators() == available
    assert choose_device("auto") == torch.device(available[-1])
    assert [choose_device(name).type for name in available] == available
    for missing in {"cuda", "mps"} - {gpu}:
        choices = f"choose from: auto, {', '.join(available)}$"
        with pytest.raises(UserError, match=f"^device is {missing}: not available here; {choices}"):
            choose_device(missing)
    with pytest.raises(UserError, match="device is 'gpu': choose from: auto, cpu, cuda, mps"):
        choose_device("gpu")


@pytest.mark.parametrize("accelerator", ["cpu", "gpu", "auto"])
@pytest.mark.parametrize("auto", ["cpu", "cuda", "mps"])
def test_the_precision_is_that_of_the_device_that_will_be_used(
    monkeypatch: pytest.MonkeyPatch, accelerator: str, auto: str
) -> None:
    device_type = {"cpu": "cpu", "gpu": "cuda", "auto": auto}[accelerator]
    monkeypatch.setattr(hardware, "choose_device", lambda name: torch.device(auto))
    monkeypatch.setattr(hardware, "has_fast_bfloat16", lambda name: name == device_type)
    assert fastest_precision(accelerator) == "bf16-mixed"
    monkeypatch.setattr(hardware, "has_fast_bfloat16", lambda name: name != device_type)
    assert fastest_precision(accelerator) == "32-true"


@pytest.mark.parametrize("fast", [True, False])
def test_large_networks_complete_in_int8_on_a_cpu_that_multiplies_bfloat16(
    fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "has_fast_bfloat16", lambda device_type: fast)
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert choose_dtype("auto", cpu, 10_000_000) == (torch.int8 if fast else torch.float32)
    assert choose_dtype("auto", cpu, 1_000_000) == torch.float32
    assert choose_dtype("auto", cuda, 10_000_000) == (torch.bfloat16 if fast else torch.float32)
    assert choose_dtype("auto", cuda, 1_000_000) == torch.float32
    assert choose_dtype("auto", torch.device("mps"), 10_000_000) == torch.float32
    assert choose_dtype("float16", cpu, 10_000_000) == torch.float16
    assert choose_dtype("int8", cpu, 0) == torch.int8
    with pytest.raises(UserError, match="dtype is 'half': choose from: auto, float32"):
        choose_dtype("half", cpu, 0)
    with pytest.raises(UserError, match="dtype is int8: works on a CPU only; on cuda use bfloat16"):
        choose_dtype("int8", cuda, 0)


def test_a_cpu_is_fast_in_bfloat16_if_it_multiplies_its_matrices_in_hardware(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for amx, avx512 in itertools.product([True, False], repeat=2):
        has_fast_bfloat16.cache_clear()
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda amx=amx: amx)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda avx512=avx512: avx512)
        assert has_fast_bfloat16("cpu") is (amx or avx512)
    has_fast_bfloat16.cache_clear()
    assert not has_fast_bfloat16("mps")


def test_what_the_memory_cannot_hold_is_refused_with_the_sizes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_memory(1e6, "a model", "make it smaller")
    with pytest.raises(UserError, match=r"a model needs at least 1,000,000.0 GB, but .*: make it"):
        check_memory(1e15, "a model", "make it smaller")
    monkeypatch.setattr(Path, "read_text", Mock(side_effect=FileNotFoundError))  # not Linux
    with pytest.raises(UserError, match=r"a model needs at least 1,000,000.0 GB, but .*: make it"):
        check_memory(1e15, "a model", "make it smaller")
    monkeypatch.delattr("os.sysconf")  # a system that does not tell its memory
    check_memory(1e15, "a model", "make it smaller")
