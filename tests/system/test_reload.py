"""A checkpoint is all that is needed: a new process in another folder computes the same logits."""

import subprocess
import sys

import pytest
import torch

from tests.conftest import Fit

CODE = """
import sys, torch
from shakespeare_lm import Completer, ShakespeareLM
torch.set_num_threads(1)
checkpoint, ids, result = sys.argv[1:]
ids = torch.load(ids)
module = ShakespeareLM.load_from_checkpoint(checkpoint, weights_only=True).eval()
completer = Completer.from_checkpoint(checkpoint)
assert completer.tokenizer.vocabulary == module.tokenizer.vocabulary
with torch.no_grad():
    torch.save([module(ids), completer.network(ids)], result)
"""


def test_a_new_process_elsewhere_computes_the_same_logits_bit_for_bit(
    tiny_fit: Fit, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cli = tiny_fit("--max_steps=3", "--model.positions=learned")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    checkpoint = elsewhere / "moved.ckpt"
    cli.last.path.rename(checkpoint)
    ids = torch.randint(50, (2, 16))
    torch.save(ids, elsewhere / "ids.pt")
    command = [sys.executable, "-c", CODE, "moved.ckpt", "ids.pt", "logits.pt"]
    subprocess.run(command, cwd=elsewhere, check=True)
    with torch.no_grad():
        expected = cli.model.eval()(ids)
    for logits in torch.load(elsewhere / "logits.pt"):
        assert torch.equal(logits, expected)


def test_loading_and_completing_do_not_import_torchs_compiler(tiny_fit: Fit) -> None:
    path = tiny_fit("--max_steps=1").last.path
    code = (
        "import sys; from shakespeare_lm import Completer; "
        "Completer.from_checkpoint(sys.argv[1]).complete('A', 3); "
        "assert 'torch._dynamo' not in sys.modules"  # a second of importing
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
