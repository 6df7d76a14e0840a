"""A network with a memory remembers the training part alone, and takes it along."""

from pathlib import Path

import pytest
import torch
from pytorch_lightning import Trainer

from shakespeare_lm.checkpoint.reading import read_checkpoint
from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.data.windows import Batch
from shakespeare_lm.errors import UserError
from shakespeare_lm.evaluation.evaluation import evaluate
from shakespeare_lm.evaluation.split_corpus import SplitCorpus
from shakespeare_lm.methods.memory_transformer import MemoryTransformer
from shakespeare_lm.model.loss import masked_cross_entropy
from shakespeare_lm.training.filled_memory import fill_memory
from shakespeare_lm.training.module import ShakespeareLM
from tests.conftest import Fit

OPTIONS = ("--model.memory_order=3", "--precision=32-true", "--val_check_interval=3")


def test_the_memory_is_the_training_part_and_the_checkpoint_holds_it(tiny_fit: Fit) -> None:
    cli = tiny_fit(*OPTIONS, "--max_steps=6")
    network = cli.model.transformer
    assert isinstance(network, MemoryTransformer)
    assert torch.equal(network.ngrams.text.long(), cli.datamodule.encoded["train"].ids.long())
    path = Path(cli.best.best_model_path)
    loaded = ShakespeareLM.load_from_checkpoint(path)
    ids = torch.arange(12)[None] + 5
    with torch.inference_mode():
        assert torch.equal(loaded.eval()(ids), cli.model.eval()(ids))
    checkpoint = read_checkpoint(path)
    corpus = SplitCorpus(checkpoint)
    assert evaluate(checkpoint, path, corpus).agrees
    sampled = float(cli.trainer.callback_metrics["train_eval_loss"])
    on_train = evaluate(checkpoint, path, corpus, "train", stride=16).block_nats
    assert on_train == pytest.approx(sampled, abs=0.05)
    completer = Completer.from_checkpoint(path)
    texts = [completer.complete("The", 30, seed=1, cache=cache) for cache in (True, False)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_a_resumed_run_is_the_uninterrupted_one(tiny_fit: Fit, share: float) -> None:
    options = (*OPTIONS, f"--model.memory_share={share}", "--model.decay_steps=6")
    whole = tiny_fit(*options, "--max_steps=6")
    tiny_fit(*options, "--max_steps=3")
    resumed = tiny_fit("--ckpt_path=last", "--max_steps=6")
    states = [cli.model.state_dict() for cli in (whole, resumed)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_the_own_occurrence_is_left_out_in_training_and_in_train_eval_loss(tiny_fit: Fit) -> None:
    cli = tiny_fit(*OPTIONS, "--max_steps=1", "--model.learning_rate=1e-9",
                   "--model.muon_learning_rate=1e-9")  # fmt: skip
    logged = cli.trainer.callback_metrics
    module, sample = cli.model.eval(), cli.datamodule.val_dataloader()[1]
    with torch.inference_mode():
        left_out, seen = (
            mean_loss([(module(b.inputs, own=b.targets if own else None), b) for b in sample])
            for own in (True, False)
        )
    assert logged["train_eval_loss"] == pytest.approx(left_out, abs=1e-5)
    assert seen < left_out - 0.05
    assert abs(logged["train_loss"] - left_out) < abs(logged["train_loss"] - seen)


def mean_loss(batches: list[tuple[torch.Tensor, Batch]]) -> float:
    sums = [masked_cross_entropy(logits, b.targets, b.target_mask) for logits, b in batches]
    return float(sum(nats for nats, _ in sums) / sum(count for _, count in sums))


def test_a_new_run_takes_the_weights_and_remembers_its_own_text(
    tiny_fit: Fit, tmp_path: Path
) -> None:
    first = tiny_fit(*OPTIONS, "--max_steps=3")
    text = first.datamodule.vocabulary * 40
    Path("known.txt").write_text(text)
    Path("new.txt").write_text(text + "é")
    start = f"--init_from={first.best.best_model_path}"
    second = tiny_fit(start, "--data.corpus=known.txt", *OPTIONS, "--max_steps=1",
                      "--model.muon_learning_rate=1e-9", "--model.learning_rate=1e-9")  # fmt: skip
    for name in ("head.weight", "read_ngrams.weight", "trust"):
        states = [cli.model.transformer.state_dict()[name] for cli in (first, second)]
        torch.testing.assert_close(*states, rtol=1e-4, atol=1e-6)
    remembered = second.model.transformer.ngrams.text
    assert torch.equal(remembered.long(), second.datamodule.encoded["train"].ids.long())
    with pytest.raises(UserError, match="reads a memory, and the text has characters"):
        tiny_fit(start, "--data.corpus=new.txt", *OPTIONS, "--max_steps=1")


def test_a_run_with_a_mixed_memory_can_learn_new_characters(tiny_fit: Fit) -> None:
    mixed = ("--model.memory_order=2", "--model.memory_share=0.1", "--max_steps=1")
    first = tiny_fit(*mixed)
    Path("new.txt").write_text((first.datamodule.vocabulary + "é") * 40)
    second = tiny_fit(f"--init_from={first.best.best_model_path}", "--data.corpus=new.txt", *mixed)
    assert second.model.tokenizer.vocab_size == first.model.tokenizer.vocab_size + 1


def test_a_memory_that_nobody_fills_is_refused() -> None:
    network = ShakespeareLM("ab", num_layers=1, num_heads=1, d_model=4, memory_order=2).transformer
    with pytest.raises(UserError, match="need a ShakespeareDataModule"):
        fill_memory(network, Trainer(logger=False, enable_checkpointing=False))
