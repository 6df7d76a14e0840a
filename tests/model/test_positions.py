"""Position tables against scalar formulas, and where each scheme acts."""

import math

import pytest
import torch

from shakespeare_lm.model.positions import (
    PositionKind,
    apply_positions,
    rotary_table,
    rotate,
    sinusoidal_table,
)


def test_the_sinusoidal_table_is_the_formula_of_the_paper() -> None:
    table = sinusoidal_table(50, 12)
    for position in range(50):
        for pair in range(6):
            angle = position / 10_000 ** (2 * pair / 12)
            # float32 holds values up to 1 to within 6e-8.
            assert table[position, 2 * pair].item() == pytest.approx(math.sin(angle), abs=1e-7)
            assert table[position, 2 * pair + 1].item() == pytest.approx(math.cos(angle), abs=1e-7)


def test_all_rows_of_the_sinusoidal_table_differ() -> None:
    assert len(torch.unique(sinusoidal_table(1024, 64), dim=0)) == 1024


def test_a_long_table_starts_with_the_short_one() -> None:
    assert torch.equal(sinusoidal_table(300, 16)[:20], sinusoidal_table(20, 16))
    assert torch.equal(rotary_table(300, 16)[:, :20], rotary_table(20, 16))


def test_rotation_turns_each_pair_by_its_angle() -> None:
    x = torch.randn(1, 1, 6, 4, dtype=torch.float64)
    turned = rotate(x, rotary_table(6, 4).double())
    for position in range(6):
        for pair in range(2):
            angle = position / 10_000 ** (2 * pair / 4)
            before = complex(x[0, 0, position, pair], x[0, 0, position, pair + 2])
            after = complex(turned[0, 0, position, pair], turned[0, 0, position, pair + 2])
            # The table is stored in float32.
            assert abs(after - before * complex(math.cos(angle), math.sin(angle))) < 1e-6


def test_products_of_rotated_vectors_depend_on_distance_alone() -> None:
    q, k = torch.randn(2, 8)
    table = rotary_table(40, 8)
    turned_q, turned_k = (rotate(x.expand(1, 1, 40, 8), table)[0, 0] for x in (q, k))
    scores = turned_q @ turned_k.T
    for distance in range(-10, 11):
        along = scores.diagonal(distance)
        # Rounding of sums of eight products of float32 numbers of order one.
        torch.testing.assert_close(along, along[:1].expand_as(along), rtol=0, atol=1e-5)


OWN = torch.tensor([[4, 5], [7, 1]])
SAME_OR_OWN = pytest.mark.parametrize(
    ("positions", "rows"), [(slice(4, 6), [[4, 5], [4, 5]]), (OWN, OWN)]
)


@pytest.mark.parametrize("kind", ["sinusoidal", "learned"])
@SAME_OR_OWN
def test_sinusoidal_and_learned_positions_add_the_row_of_each_position(
    kind: PositionKind, positions: slice | torch.Tensor, rows: list[list[int]] | torch.Tensor
) -> None:
    table, x = torch.randn(9, 8), torch.randn(2, 2, 8)
    positioned, rotation = apply_positions(kind, table, x, positions)
    assert torch.equal(positioned, x + table[torch.as_tensor(rows)])
    assert rotation is None


@SAME_OR_OWN
def test_rotary_positions_leave_the_embeddings_and_return_a_rotation(
    positions: slice | torch.Tensor, rows: list[list[int]] | torch.Tensor
) -> None:
    table, x, queries = rotary_table(9, 4), torch.randn(2, 2, 8), torch.randn(2, 3, 2, 4)
    positioned, rotation = apply_positions("rotary", table, x, positions)
    assert positioned is x
    assert rotation is not None
    for row, found in enumerate(rotate(queries, rotation)):
        assert torch.equal(found[None], rotate(queries[[row]], table[:, rows[row]]))
