"""A checkpoint is all that is needed: a new process in another folder computes the same logits,
and imports nothing for it that takes long.
"""

import subprocess
import sys

import pytest
import torch

from tests.conftest import Fit

CODE = """
import sys, torch
from shakespeare_lm import CausalTransformer, Completer
torch.set_num_threads(1)
completer = Completer.from_checkpoint("moved.ckpt")
completer.complete("A", 3)
slow = ("lightning", "torchmetrics", "torch._dynamo")  # the last is torch's compiler
assert not [module for module in sys.modules if any(name in module for name in slow)]
from shakespeare_lm import ShakespeareLM
ids = torch.load("ids.pt")
module = ShakespeareLM.load_from_checkpoint("moved.ckpt", weights_only=True).eval()
assert completer.tokenizer.vocabulary == module.tokenizer.vocabulary
with torch.no_grad():
    torch.save([module(ids), completer.network(ids)], "logits.pt")
"""


def test_a_new_process_elsewhere_computes_the_same_logits_bit_for_bit(
    tiny_fit: Fit, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cli = tiny_fit("--max_steps=3", "--model.positions=learned")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    cli.last.path.rename(elsewhere / "moved.ckpt")
    ids = torch.randint(50, (2, 16))
    torch.save(ids, elsewhere / "ids.pt")
    subprocess.run([sys.executable, "-c", CODE], cwd=elsewhere, check=True)
    with torch.no_grad():
        expected = cli.model.eval()(ids)
    for logits in torch.load(elsewhere / "logits.pt"):
        assert torch.equal(logits, expected)
