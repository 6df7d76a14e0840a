"""The seed of dropout: a function of the step alone."""

import torch

from shakespeare_lm.training.dropout_seed import seed_dropout

CPU = torch.device("cpu")


def drawn(where: str) -> list[float]:
    seed_dropout(where, CPU)
    return torch.rand(4).tolist()


def test_a_step_draws_the_same_numbers_whatever_was_drawn_before() -> None:
    first = drawn("1 0 7 0")
    torch.rand(3)
    assert drawn("1 0 7 0") == first


def test_steps_and_processes_draw_different_numbers() -> None:
    places = ["1 0 7 0", "1 0 8 0", "1 1 7 0", "2 0 7 0", "1 0 7 1"]
    assert len({tuple(drawn(place)) for place in places}) == len(places)
