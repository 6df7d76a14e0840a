"""Names of devices, as users give them."""

import pytest
import torch

from shakespeare_lm.device import choose_device
from shakespeare_lm.errors import UserError


def test_auto_takes_a_gpu_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for cuda, mps, expected in (
        (True, False, "cuda"),
        (False, True, "mps"),
        (False, False, "cpu"),
    ):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=cuda: there)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda there=mps: there)
        assert choose_device("auto") == torch.device(expected)
        assert choose_device("cpu") == torch.device("cpu")


def test_a_device_that_is_not_there_or_unknown_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="device is cuda: there is none here"):
        choose_device("cuda")
    with pytest.raises(UserError, match="device is 'gpu': accepted is auto, cpu, cuda, mps"):
        choose_device("gpu")
