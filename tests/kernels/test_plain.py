"""Which kernels are switched off, and the smallest of them: the iteration of Muon."""

import os
import subprocess
import sys

import pytest
import torch

from shakespeare_lm.errors import UserError
from shakespeare_lm.kernels import newton_schulz
from shakespeare_lm.kernels.newton_schulz import orthogonalise
from shakespeare_lm.kernels.plain import plain_kernels


def test_names_are_separated_by_commas_and_an_unknown_one_is_refused() -> None:
    assert plain_kernels("") == plain_kernels(" , ") == set()
    assert plain_kernels("attention, dropout,") == {"attention", "dropout"}
    assert plain_kernels("int8,all") == {"attention", "dropout", "int8", "muon"}
    for name in ("flash", "All", "attention dropout"):
        with pytest.raises(UserError, match=f"_PLAIN is '{name}': choose from: all, attention, d"):
            plain_kernels(f"muon,{name}")


def test_the_environment_names_them() -> None:
    code = "from shakespeare_lm.kernels.plain import PLAIN; print(*sorted(PLAIN))"
    environment = {**os.environ, "SHAKESPEARE_LM_PLAIN": "muon,int8"}
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    )
    assert found.stdout == "int8 muon\n"


def test_orthogonalised_matrices_have_singular_values_near_one() -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((3, 8, 8), (2, 12, 4), (2, 4, 12)):
        matrices = torch.randn(shape, generator=generator)
        values = torch.linalg.svdvals(orthogonalise(matrices).float())
        assert values.max() < 1.3
        # The smallest singular value of a square matrix can be too small to grow in five steps.
        assert values.median() > 0.6
    assert not orthogonalise(torch.zeros(1, 4, 4)).any()


def test_without_fast_bfloat16_or_the_kernel_the_direction_is_the_same_in_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    matrices, found = torch.randn(2, 6, 9, generator=torch.Generator().manual_seed(0)), []
    for fast, plain in ((True, ()), (False, ()), (True, ("muon",))):
        monkeypatch.setattr(newton_schulz, "has_fast_bfloat16", lambda _, fast=fast: fast)
        monkeypatch.setattr(newton_schulz, "PLAIN", plain)
        found.append(orthogonalise(matrices))
    assert [x.dtype for x in found] == [torch.bfloat16, torch.float32, torch.float32]
    torch.testing.assert_close(found[0].float(), found[1], rtol=0, atol=0.03)
    assert torch.equal(found[1], found[2])
