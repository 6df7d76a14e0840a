"""The iteration of Muon: what it does to singular values, with and without fast bfloat16."""

import pytest
import torch

from shakespeare_lm.kernels import newton_schulz
from shakespeare_lm.kernels.newton_schulz import orthogonalise


def test_orthogonalised_matrices_have_singular_values_near_one() -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((3, 8, 8), (2, 12, 4), (2, 4, 12)):
        matrices = torch.randn(shape, generator=generator)
        values = torch.linalg.svdvals(orthogonalise(matrices).float())
        assert values.max() < 1.3
        # The smallest singular value of a square matrix can be too small to grow in five steps.
        assert values.median() > 0.6
    zeros = orthogonalise(torch.zeros(1, 4, 4))
    assert torch.equal(zeros.float(), torch.zeros(1, 4, 4))


def test_without_fast_bfloat16_the_direction_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    matrices = torch.randn(2, 6, 9, generator=torch.Generator().manual_seed(0))
    found = {}
    for fast in (True, False):
        monkeypatch.setattr(newton_schulz, "has_fast_bfloat16", lambda _, fast=fast: fast)
        found[fast] = orthogonalise(matrices)
    assert (found[True].dtype, found[False].dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(found[True].float(), found[False], rtol=0, atol=0.03)
