"""Names of devices, as users type them, and the number format that is fast on each."""

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


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch):
    """Return a function that pretends that this machine has these GPUs."""

    def pretend(cuda: bool, mps: bool) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return pretend


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [(True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_auto_takes_a_gpu_if_there_is_one(gpus, cuda: bool, mps: bool, expected: str) -> None:
    gpus(cuda, mps)
    assert choose_device("auto") == torch.device(expected)
    assert choose_device("cpu") == torch.device("cpu")
    assert available_accelerators() == sorted({"cpu", expected})


def test_a_device_that_is_missing_or_unknown_is_refused(gpus) -> None:
    gpus(cuda=False, mps=False)
    with pytest.raises(UserError, match="device is cuda: not available here; choose from: auto"):
        choose_device("cuda")
    with pytest.raises(UserError, match="device is 'gpu'"):
        choose_device("gpu")


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
    with pytest.raises(UserError, match="dtype is 'half': choose from: auto, float32"):
        choose_dtype("half", cpu, 0)
    assert choose_dtype("int8", cpu, 0) == torch.int8
    with pytest.raises(UserError, match="dtype is int8: works on a CPU only; on cuda use bfloat16"):
        choose_dtype("int8", cuda, 0)


@pytest.mark.parametrize("amx", [True, False])
@pytest.mark.parametrize("avx512", [True, False])
def test_a_cpu_is_fast_in_bfloat16_if_it_multiplies_its_matrices_in_hardware(
    amx: bool, avx512: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_fast_bfloat16.cache_clear()
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    assert has_fast_bfloat16("cpu") is (amx or avx512)
    has_fast_bfloat16.cache_clear()
    assert not has_fast_bfloat16("mps")


@pytest.mark.parametrize(
    ("accelerator", "cuda", "mps", "device_type"),
    [
        ("cpu", True, False, "cpu"),
        ("gpu", True, False, "cuda"),
        ("auto", True, False, "cuda"),
        ("auto", False, True, "mps"),
        ("auto", False, False, "cpu"),
    ],
)
def test_the_precision_is_that_of_the_device_that_will_be_used(
    gpus, monkeypatch: pytest.MonkeyPatch, accelerator: str, cuda: bool, mps: bool, device_type: str
) -> None:
    gpus(cuda, mps)
    monkeypatch.setattr(hardware, "has_fast_bfloat16", lambda name: name == device_type)
    assert fastest_precision(accelerator) == "bf16-mixed"
    monkeypatch.setattr(hardware, "has_fast_bfloat16", lambda name: name != device_type)
    assert fastest_precision(accelerator) == "32-true"


def test_what_the_memory_cannot_hold_is_refused_with_the_sizes() -> None:
    check_memory(1e6, "a model", "make it smaller")
    with pytest.raises(UserError, match=r"a model needs at least 1,000,000.0 GB, but .*: make it"):
        check_memory(1e15, "a model", "make it smaller")


def test_a_system_that_does_not_tell_its_memory_refuses_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr("os.sysconf")
    check_memory(1e15, "a model", "make it smaller")
