"""Training, resuming and completion on a CUDA device."""

from pathlib import Path

import pytest
import torch

from shakespeare_lm.completion.completer import Completer
from tests.conftest import Fit

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_a_gpu_trains_in_bfloat16_and_completes_as_a_cpu_does(tiny_fit: Fit) -> None:
    cli = tiny_fit("--max_steps=30", "--accelerator=gpu", "--precision=bf16-mixed")
    assert float(cli.best.best_model_score) < 4.0
    path = Path(cli.best.best_model_path)
    on_cpu, on_gpu = (Completer.from_checkpoint(path, device) for device in ("cpu", "cuda"))
    ids = torch.randint(50, (2, 16))
    with torch.no_grad():
        logits = on_gpu.transformer(ids.cuda()).cpu()
        # float32, summed in another order.
        torch.testing.assert_close(logits, on_cpu.transformer(ids), rtol=1e-3, atol=1e-3)
    assert len(on_gpu.complete("To be", 20, seed=0)) == 20


def test_a_gpu_completes_with_cuda_graphs_as_without(tiny_fit: Fit) -> None:
    path = Path(tiny_fit("--max_steps=30", "--accelerator=gpu").best.best_model_path)
    texts = [
        Completer.from_checkpoint(path, "cuda", compile=compile).complete(
            ["To be", "T", "or not to be, that is the"], 60, greedy=True
        )
        for compile in (False, True)
    ]
    assert texts[0] == texts[1]


def test_a_resumed_gpu_run_equals_an_uninterrupted_one(tiny_fit: Fit) -> None:
    options = (
        "--max_steps=12",
        "--val_check_interval=6",
        "--accelerator=gpu",
        "--model.dropout=0.2",
    )
    whole = tiny_fit(*options, "--default_root_dir=whole")
    tiny_fit(*options, "--max_steps=6", "--model.decay_steps=12", "--default_root_dir=cut")
    resumed = tiny_fit(*options, "--default_root_dir=cut", "--ckpt_path=last")
    for name, tensor in whole.model.state_dict().items():
        torch.testing.assert_close(tensor, resumed.model.state_dict()[name], msg=name)
