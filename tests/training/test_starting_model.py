"""Starting from the weights of a checkpoint, on a text with other characters."""

from pathlib import Path

import pytest
import torch

from shakespeare_lm.checkpoint.reading import Checkpoint, read_checkpoint
from shakespeare_lm.errors import UserError
from shakespeare_lm.training.module import ShakespeareLM
from shakespeare_lm.training.starting_model import start_from
from tests.conftest import save

SIZES = {"context_length": 8, "num_layers": 1, "num_heads": 2, "d_model": 8}


def saved(tmp_path: Path, **options: object) -> Checkpoint:
    module = ShakespeareLM("\nabc", **{**SIZES, **options})
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    return read_checkpoint(save(tmp_path / "a.ckpt", module))


NETWORKS = [
    {},
    {"previous_characters": 4},
    {"positions": "learned", "tied_head": False, "bias": True},
    {"tied_head": True, "norm": "post"},
    {"network": "bigram", "optimizer": "adamw"},
]


@pytest.mark.parametrize("options", NETWORKS)
def test_known_characters_keep_their_logits_and_new_ones_get_fresh_rows(
    tmp_path: Path, options: dict[str, object]
) -> None:
    checkpoint = saved(tmp_path, **options)
    before = ShakespeareLM.load_from_checkpoint(tmp_path / "a.ckpt").eval()
    module = ShakespeareLM("\nabcxyz", **{**SIZES, **options}).eval()
    start_from(module, checkpoint, "a.ckpt")
    ids = torch.randint(4, (3, 8))
    with torch.no_grad():
        logits, expected = module(ids), before(ids)
        assert module(ids + 3).isfinite().all()
    torch.testing.assert_close(logits[..., :4], expected[..., :4])
    torch.testing.assert_close(logits[..., -1], expected[..., -1])  # padding


def test_without_new_characters_every_weight_is_the_checkpoints(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path)
    module = ShakespeareLM("\nabc", **SIZES, dropout=0.3)
    start_from(module, checkpoint, "a.ckpt")
    for name, tensor in module.network.state_dict().items():
        assert torch.equal(tensor, checkpoint.weights[name]), name


@pytest.mark.parametrize(
    ("option", "value"), [("num_layers", 2), ("num_heads", 4), ("norm", "post"), ("d_model", 16)]
)
def test_another_network_is_refused(tmp_path: Path, option: str, value: object) -> None:
    module = ShakespeareLM("\nabc", **{**SIZES, option: value})
    with pytest.raises(UserError, match=rf"init_from: a\.ckpt has {option} .*, but this run has"):
        start_from(module, saved(tmp_path), "a.ckpt")


def test_the_context_may_differ_unless_positions_are_learned(tmp_path: Path) -> None:
    longer = {**SIZES, "context_length": 16}
    start_from(ShakespeareLM("\nabc", **longer), saved(tmp_path), "a.ckpt")
    module = ShakespeareLM("\nabc", **longer, positions="learned")
    with pytest.raises(UserError, match=r"a\.ckpt has context_length 8, but this run has 16"):
        start_from(module, saved(tmp_path, positions="learned"), "a.ckpt")
