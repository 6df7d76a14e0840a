"""Packing: what the page computes with is what was measured, and nearly what was trained."""

import struct
import zlib

import pytest
import torch

from shakespeare_lm.page.packing import pack, round_rows


def test_the_data_has_each_rows_scale_and_integers_and_vectors_as_they_are() -> None:
    packed = pack({"norm": torch.tensor([1.5, -2.0]), "m": torch.tensor([[0.5, -1.0], [0.0, 0.0]])})
    assert packed.tensors == [
        {"name": "norm", "shape": [2], "start": 0},
        {"name": "m", "shape": [2, 2], "start": 8},
    ]
    assert struct.unpack("<2f", packed.data[:8]) == (1.5, -2.0)
    scales = struct.unpack("<2f", packed.data[8:16])
    assert scales[0] == pytest.approx(1 / 127)
    assert list(packed.data[16:20]) == [64, 256 - 127, 0, 0]  # 63.5 rounds to the even number
    assert packed.rounded["m"][1].tolist() == [0.0, 0.0]
    assert packed.manifest["bytes"] == 20
    assert packed.manifest["crc32"] == zlib.crc32(packed.data)


def test_no_weight_moves_by_more_than_half_a_step_of_its_row() -> None:
    torch.manual_seed(0)
    matrix = torch.randn(50, 40) * torch.logspace(-3, 3, 50)[:, None]
    scales, integers = round_rows(matrix)
    assert integers.abs().amax(dim=1).tolist() == [127] * 50
    error = (scales[:, None] * integers - matrix).abs()
    assert bool((error <= 0.5001 * scales[:, None]).all())


def test_packing_what_was_packed_changes_nothing() -> None:
    torch.manual_seed(0)
    once = pack({"m": torch.randn(8, 8)})
    twice = pack(once.rounded)
    assert twice.data[32:] == once.data[32:]  # the integers
    torch.testing.assert_close(twice.rounded["m"], once.rounded["m"], rtol=1e-6, atol=0)
