"""Training, resuming and completion on a CUDA device."""

from collections import deque
from pathlib import Path

import pytest
import torch

from shakespeare_lm.checkpoint.reading import read_checkpoint
from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.completion.decoder import ContinuousDecoder, Window
from shakespeare_lm.evaluation.evaluation import evaluate
from shakespeare_lm.evaluation.split_corpus import SplitCorpus
from tests.conftest import Fit, Main

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

ON_GPU = ("--accelerator=gpu", "--val_check_interval=6")


def ckpt(tiny_fit: Fit, *options: str) -> Path:
    return Path(tiny_fit("--max_steps=30", *ON_GPU, *options).best.best_model_path)


def assert_completes_as_on_a_cpu(path: Path) -> None:
    on_cpu, on_gpu = (Completer.from_checkpoint(path, device) for device in ("cpu", "cuda"))
    ids = torch.randint(50, (2, 16))
    with torch.no_grad():
        logits = on_gpu.network(ids.cuda()).cpu()
        # float32, summed in another order.
        torch.testing.assert_close(logits, on_cpu.network(ids), rtol=1e-3, atol=1e-3)
    assert len(on_gpu.complete("To be", 20, seed=0)) == 20


def difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    """Return the largest difference of any two weights."""
    return max(float((first[name] - second[name]).abs().max()) for name in first)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed", "bf16-true"])
def test_a_gpu_trains_in_every_precision_and_completes_as_a_cpu_does(
    tiny_fit: Fit, precision: str
) -> None:
    cli = tiny_fit("--max_steps=30", "--accelerator=gpu", f"--precision={precision}")
    assert float(cli.best.best_model_score) < 4.0
    assert_completes_as_on_a_cpu(Path(cli.best.best_model_path))


def test_bfloat16_is_the_default_precision_and_memory_is_logged(tiny_fit: Fit) -> None:
    cli = tiny_fit("--max_steps=12", *ON_GPU)
    assert cli.trainer.precision == "bf16-mixed"
    assert 0 < float(cli.trainer.logged_metrics["peak_memory_gib"]) < 10


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "auto"])
@pytest.mark.parametrize("cache", [True, False])
def test_a_gpu_completes_in_every_dtype(tiny_fit: Fit, dtype: str, cache: bool) -> None:
    path = ckpt(tiny_fit)
    on_cpu, on_gpu = Completer.from_checkpoint(path), Completer.from_checkpoint(path, "cuda", dtype)
    texts = on_gpu.complete(["To be", "T"], 60, seed=1, cache=cache)
    assert [len(text) for text in texts] == [60, 60]
    assert texts == [on_gpu.complete(prompt, 60, seed=1, cache=cache) for prompt in ("To be", "T")]
    scores = [one.score("To be, or not to be").log_probabilities for one in (on_cpu, on_gpu)]
    assert sum(scores[1]) == pytest.approx(sum(scores[0]), rel=0.02)


@pytest.mark.parametrize("window", ["stride", "exact"])
@pytest.mark.parametrize(
    "sampling",
    [{"greedy": True}, {"seed": 1}, {"seed": 2, "top_k": 9, "top_p": 0.9, "min_p": 0.01}],
)
def test_cuda_graphs_make_the_texts_that_whole_windows_make(
    tiny_fit: Fit, window: Window, sampling: dict
) -> None:
    completer = Completer.from_checkpoint(ckpt(tiny_fit), "cuda")
    prompts = ["To be", "T", "or not to be, that is the"]
    options = {"window": window, **sampling}
    one, other = (completer.complete(prompts, 60, cache=on, **options) for on in (True, False))
    assert one == other


def test_compiled_steps_make_the_same_text(tiny_fit: Fit) -> None:
    path = ckpt(tiny_fit)
    plain, compiled = (Completer.from_checkpoint(path, "cuda", compile=on) for on in (False, True))
    for prompts in (["To be"], ["T", "or not to be, that is the"]):
        texts = [made.complete(prompts, 60, greedy=True) for made in (plain, compiled)]
        assert texts[0] == texts[1]


def test_texts_that_come_and_go_are_completed_on_a_gpu(tiny_fit: Fit) -> None:
    path = ckpt(tiny_fit)
    rows = [deque([1, 2, 3]), deque([4, 5])]
    found = []
    for device in ("cpu", "cuda"):
        decoder = ContinuousDecoder(Completer.from_checkpoint(path, device).network)
        decoder.logits(rows[:1], [None])
        grown = [deque([1, 2, 3, 6]), rows[1]]
        found.append(decoder.logits(grown, [0, None]).cpu())
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("deterministic", ["true", "false"])
def test_a_resumed_gpu_run_equals_an_uninterrupted_one(
    tiny_fit: Fit, deterministic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    dropout = ("--model.dropout=0.2", "--model.attention_dropout=0.2")
    objectives = ("--model.ngram_distillation=0.5", "--model.characters_ahead=2")
    options = (*ON_GPU, *dropout, *objectives, f"--deterministic={deterministic}", "--max_steps=12")
    try:
        whole = tiny_fit(*options, "--default_root_dir=whole")
        tiny_fit(*options, "--max_steps=6", "--model.decay_steps=12", "--default_root_dir=cut")
        resumed = tiny_fit(*options, "--default_root_dir=cut", "--ckpt_path=last")
    finally:
        torch.use_deterministic_algorithms(False)
    apart = difference(whole.model.state_dict(), resumed.model.state_dict())
    print(f"deterministic {deterministic}: largest difference of a weight {apart:.3g}")
    assert apart == 0 if deterministic == "true" else apart < 1e-3


@pytest.mark.parametrize("kind", [(), ("--model.memory_share=0.2",)], ids=["read", "mixed"])
def test_a_memory_trains_and_completes_on_a_gpu(tiny_fit: Fit, kind: tuple[str, ...]) -> None:
    assert_completes_as_on_a_cpu(ckpt(tiny_fit, "--model.memory_order=3", *kind))


def test_a_run_moves_from_the_cpu_to_a_gpu_and_back(tiny_fit: Fit) -> None:
    options = ("--max_steps=6", "--val_check_interval=6", "--precision=32-true")
    tiny_fit(*options, "--accelerator=cpu", "--model.decay_steps=18")
    tiny_fit("--ckpt_path=last", "--max_steps=12", "--accelerator=gpu")
    moved = tiny_fit("--ckpt_path=last", "--max_steps=18", "--accelerator=cpu")
    stayed = tiny_fit("--max_steps=18", *options[1:], "--accelerator=cpu")
    assert moved.trainer.global_step == 18
    # Muon's iteration multiplies in bfloat16 on a GPU, and its steps are 0.04 long.
    assert difference(moved.model.state_dict(), stayed.model.state_dict()) < 0.05
    losses = [float(cli.best.best_model_score) for cli in (moved, stayed)]
    assert losses[0] == pytest.approx(losses[1], abs=0.01)


def test_a_gpu_evaluates_to_the_loss_of_the_training(tiny_fit: Fit) -> None:
    path = ckpt(tiny_fit)
    checkpoint = read_checkpoint(path)
    assert evaluate(checkpoint, path, SplitCorpus(checkpoint), device="cuda").agrees


DIVERGENT = ("--model.learning_rate=1e30", "--model.muon_learning_rate=1e30")
LARGE = ("--data.batch_size=4096", "--data.context_length=256", "--model.d_model=256")


@pytest.mark.parametrize(
    ("options", "memory_fraction", "message"),
    [
        (DIVERGENT, 1.0, "the training diverged; try --model.learning_rate below"),
        (LARGE, 0.01, "out of memory"),
    ],
)
def test_a_divergence_or_too_little_memory_of_a_gpu_ends_the_run_in_one_line(
    tiny_main: Main,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    memory_fraction: float,
    message: str,
) -> None:
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(memory_fraction)
    try:
        assert tiny_main("--max_steps=60", *ON_GPU, *options) == 1
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    (line,) = [one for one in capsys.readouterr().err.splitlines() if one.startswith("error:")]
    assert message in line
