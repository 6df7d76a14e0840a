"""Earlier moments of a training on a page: which, how near, how large."""

from pathlib import Path

import pytest
import torch

from shakespeare_lm.checkpoint.reading import Checkpoint
from shakespeare_lm.errors import UserError
from shakespeare_lm.page.history import find_moments, pack_history, pack_moments
from shakespeare_lm.page.packing import pack
from tests.export.models import random_checkpoint


def test_moments_are_in_equal_ratios_of_steps_before_the_checkpoint(tmp_path: Path) -> None:
    best = tmp_path / "best.ckpt"
    for step in range(0, 1300, 50):
        (tmp_path / f"epoch=0-step={step}.ckpt").touch()
    (tmp_path / "last.ckpt").touch()
    steps = [int(path.stem.partition("step=")[2]) for path in find_moments(best, 1250)]
    assert steps == [650, 350, 200, 100, 50]  # a ratio of 1.9
    assert [path.stem for path in find_moments(best, 60)] == ["epoch=0-step=50"]
    with pytest.raises(UserError, match=r"best.ckpt: train with --trainer.callbacks\+=ModelCheck"):
        find_moments(best, 50)


def moments_of(checkpoint: Checkpoint, *sizes: float) -> list[Checkpoint]:
    torch.manual_seed(1)

    def changed(tensor: torch.Tensor, size: float) -> torch.Tensor:
        return tensor + size * torch.randn(tensor.shape) if tensor.is_floating_point() else tensor

    return [
        checkpoint._replace(weights={n: changed(t, size) for n, t in checkpoint.weights.items()})
        for size in sizes
    ]


@pytest.mark.parametrize("options", [{}, {"memory_order": 2}, {"tied_head": True}])
def test_six_moments_are_near_the_weights_and_take_three_times_the_bytes(
    tmp_path: Path, options: dict[str, int | bool]
) -> None:
    checkpoint = random_checkpoint(tmp_path, d_model=256, **options)
    packed = pack(checkpoint.distinct_weights)
    moments = moments_of(checkpoint, *[0.01, 0.05, 0.1, 0.2, 0.3])
    history = pack_history(packed, 9, moments)
    assert len(packed.data) < len(history.data) + len(packed.data) < 3 * len(packed.data)
    for moment, rounded in zip(moments, history.rounded, strict=True):
        for name, tensor in moment.distinct_weights.items():
            error, change = rounded[name] - tensor, tensor - checkpoint.weights[name]
            assert float(error.float().norm()) <= 0.3 * float(change.float().norm()), name


def test_a_moment_of_another_model_is_refused(tmp_path: Path) -> None:
    checkpoint = random_checkpoint(tmp_path)._replace(content={"global_step": 5})
    random_checkpoint(tmp_path, previous_characters=1)
    (tmp_path / "best.ckpt").rename(tmp_path / "step=3.ckpt")
    with pytest.raises(UserError, match=r"step=3.ckpt is of another model"):
        pack_moments(tmp_path / "best.ckpt", checkpoint, pack(checkpoint.distinct_weights))
