"""Kernels that are switched off: which, and that their plain versions compute the same."""

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import nn

from shakespeare_lm.errors import UserError
from shakespeare_lm.kernels import attention, dropout, int8, newton_schulz
from shakespeare_lm.kernels.plain import plain_kernels


@pytest.mark.parametrize(
    ("names", "left_out"),
    [
        ("", set()),
        (" , ", set()),
        ("muon", {"muon"}),
        ("attention, dropout,", {"attention", "dropout"}),
        ("all", {"attention", "dropout", "int8", "muon"}),
        ("int8,all", {"attention", "dropout", "int8", "muon"}),
    ],
)
def test_names_are_separated_by_commas(names: str, left_out: set[str]) -> None:
    assert plain_kernels(names) == left_out


@pytest.mark.parametrize("name", ["flash", "All", "attention dropout"])
def test_an_unknown_name_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"SHAKESPEARE_LM_PLAIN is '{name}': choose from: all, att"):
        plain_kernels(f"muon,{name}")


def test_the_environment_names_them() -> None:
    code = "from shakespeare_lm.kernels.plain import PLAIN; print(*sorted(PLAIN))"
    environment = {**os.environ, "SHAKESPEARE_LM_PLAIN": "muon,int8"}
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    )
    assert found.stdout == "int8 muon\n"


Both = Callable[[Callable[[], torch.Tensor]], tuple[torch.Tensor, torch.Tensor]]


@pytest.fixture
def both(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Both:
    """Return a function that calls another with the kernel and without it."""
    name, module = request.param

    def results(compute: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        found = []
        for plain in (frozenset(), frozenset([name])):
            monkeypatch.setattr(module, "PLAIN", plain)
            torch.manual_seed(0)
            found.append(compute())
        return found[0], found[1]

    return results


@pytest.mark.parametrize("both", [("attention", attention)], indirect=True)
def test_attention_by_torch_is_that_by_products(
    both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    products = attention._attend_by_products
    monkeypatch.setattr(
        attention, "_attend_by_products", lambda *given: calls.append(given) or products(*given)
    )
    q, k, v = torch.randn(3, 2, 2, 9, 4).bfloat16()
    by_products, by_torch = both(lambda: attention.attend(q, k, v, None, 0.0))
    assert len(calls) == 1
    torch.testing.assert_close(by_products, by_torch, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("both", [("dropout", dropout)], indirect=True)
def test_dropout_by_torch_drops_as_much(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    bits = dropout._random_bits
    monkeypatch.setattr(dropout, "_random_bits", lambda x: calls.append(x) or bits(x))
    x = torch.ones(1000, 100)
    ours, by_torch = both(lambda: dropout.apply_dropout(x, 0.25, training=True))
    assert len(calls) == 1
    for dropped in (ours, by_torch):
        # The standard deviation of the fraction is 0.0014.
        assert (dropped == 0).double().mean().item() == pytest.approx(0.25, abs=0.007)
        kept = dropped[dropped != 0]
        torch.testing.assert_close(kept, torch.full_like(kept, 4 / 3))


@pytest.mark.parametrize("both", [("int8", int8)], indirect=True)
def test_a_product_with_8_bit_weights_is_that_with_the_same_weights(both: Both) -> None:
    torch.manual_seed(1)
    layer = int8.Int8Linear(nn.Linear(64, 24, dtype=torch.bfloat16))
    x = torch.randn(2, 64).bfloat16()
    layer.integers.zero_()  # which the plain version does not read
    packed, plain = both(lambda: layer(x))
    torch.testing.assert_close(packed, layer.bias.expand(2, -1))
    torch.testing.assert_close(plain, nn.functional.linear(x, layer.weight, layer.bias))


@pytest.mark.parametrize("both", [("int8", int8)], indirect=True)
def test_the_plain_product_of_few_rows_is_nearly_that_of_the_kernel(both: Both) -> None:
    torch.manual_seed(1)
    layer = int8.Int8Linear(nn.Linear(64, 24, dtype=torch.bfloat16))
    x = torch.randn(2, 64).bfloat16()
    # Sums of 64 terms in another order, rounded to bfloat16 (2^-8).
    torch.testing.assert_close(*both(lambda: layer(x)), rtol=2**-6, atol=0.05)


@pytest.mark.parametrize("both", [("muon", newton_schulz)], indirect=True)
def test_plain_orthogonalisation_is_in_float32(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newton_schulz, "has_fast_bfloat16", lambda _: True)
    matrices = torch.randn(2, 6, 9)
    fast, plain = both(lambda: newton_schulz.orthogonalise(matrices))
    assert (fast.dtype, plain.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(fast.float(), plain, rtol=0, atol=0.03)
