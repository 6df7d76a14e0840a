"""Where a memory joins a network; and a run that remembers its training part."""

from pathlib import Path

import pytest
import torch

from shakespeare_lm.checkpoint.reading import read_checkpoint
from shakespeare_lm.data.windows import Batch
from shakespeare_lm.errors import UserError
from shakespeare_lm.evaluation.evaluation import evaluate
from shakespeare_lm.evaluation.split_corpus import SplitCorpus
from shakespeare_lm.methods.memory_network import MemoryNetwork
from shakespeare_lm.methods.networks import NetworkOptions, build_network
from shakespeare_lm.methods.ngram_memory import leaving_out
from shakespeare_lm.model.loss import masked_cross_entropy
from shakespeare_lm.model.transformer import CausalTransformer
from shakespeare_lm.training.module import ShakespeareLM
from tests.conftest import Fit

IDS = torch.randint(6, (1, 12), generator=torch.Generator().manual_seed(2))
EITHER = pytest.mark.parametrize("share", [0.0, 0.2], ids=["read", "mixed"])


def network(share: float = 0.0, **options: object) -> MemoryNetwork:
    torch.manual_seed(0)
    sizes = {"context_length": 12, "num_layers": 1, "num_heads": 2, "d_model": 8}
    options = {"previous_characters": 4, "memory_order": 3, "memory_share": share, **options}
    made = build_network(7, NetworkOptions(**sizes, **options))
    made.ngrams.remember(torch.randint(6, (200,)), torch.tensor([200]))
    return made.eval()


def test_what_is_read_is_added_to_the_embeddings_and_what_is_trusted_to_the_logits() -> None:
    made = network()
    features, log_probabilities = made.ngrams(IDS)
    hidden = made.base.hidden(made.base.embed(IDS) + features @ made.read_ngrams.weight.T)
    made.trust.data.fill_(0.5)
    torch.testing.assert_close(made(IDS), made.base.logits(hidden) + 0.5 * log_probabilities)
    torch.testing.assert_close(made(IDS, with_hidden=True)[0], hidden)
    torch.testing.assert_close(made.hidden(made.embed(IDS)), hidden)
    # At first, the prediction is that of the n-grams.
    made = network(zero_init=True)
    torch.testing.assert_close(made(IDS).log_softmax(-1), made.ngrams.log_probabilities(IDS))


def test_mixed_probabilities_are_its_share_of_the_ngram_model_and_the_rest_of_the_network() -> None:
    made = network(share=0.2)
    expected, alone = made.ngrams.probabilities(IDS), made.base(IDS)
    torch.testing.assert_close(made(IDS).exp(), 0.2 * expected + 0.8 * alone.softmax(-1))
    torch.testing.assert_close(made.hidden(made.embed(IDS)), made(IDS, with_hidden=True)[0])
    with leaving_out(made, IDS):
        torch.testing.assert_close(made.train()(IDS), alone)  # it learns alone


@EITHER
def test_later_characters_do_not_change_earlier_logits(share: float) -> None:
    made, changed = network(share), IDS.clone()
    changed[0, 7:] = (changed[0, 7:] + 1) % 6
    before, after = made(IDS), made(changed)
    assert torch.equal(before[:, :7], after[:, :7])
    assert not torch.equal(before[:, 7:], after[:, 7:])


@EITHER
def test_padding_on_the_left_changes_nothing(share: float) -> None:
    made, ids = network(share, positions="rotary"), IDS[:, :6]
    mask = torch.tensor([[False] * 3 + [True] * 6])
    padded = torch.nn.functional.pad(ids, (3, 0), value=2)
    torch.testing.assert_close(made(padded, mask)[:, 3:], made(ids), rtol=1e-4, atol=1e-4)


@EITHER
def test_the_network_in_it_is_the_one_without_a_memory(share: float) -> None:
    made = network(share)
    alone = CausalTransformer(7, made.config)
    names = {name for name in made.state_dict() if not name.startswith("base.")}
    read = set() if share else {"read_ngrams.weight", "trust"}
    assert names == {"ngrams.text", "ngrams.lengths"} | read
    alone.load_state_dict(made.base.state_dict())
    assert torch.equal(alone.eval()(IDS), made.base(IDS))
    assert (made.lookback, network(share, previous_characters=1).lookback) == (4, 2)
    assert made.reads_past
    assert made.blocks is made.base.blocks


OPTIONS = ("--model.memory_order=3", "--precision=32-true")
SLOW = ("--model.learning_rate=1e-9", "--model.muon_learning_rate=1e-9", "--max_steps=1")


def test_the_memory_is_the_training_part_and_the_checkpoint_holds_it(tiny_fit: Fit) -> None:
    cli = tiny_fit(*OPTIONS, "--max_steps=6", "--val_check_interval=3")
    assert cli.model.network.ngrams.has_counted(*cli.datamodule.encoded["train"])
    path = Path(cli.best.best_model_path)
    loaded, ids = ShakespeareLM.load_from_checkpoint(path), torch.arange(12)[None] + 5
    with torch.inference_mode():
        assert torch.equal(loaded.eval()(ids), cli.model.eval()(ids))
    checkpoint = read_checkpoint(path)
    corpus = SplitCorpus(checkpoint)
    assert evaluate(checkpoint, path, corpus).agrees
    sampled = float(cli.trainer.callback_metrics["train_eval_loss"])
    on_train = evaluate(checkpoint, path, corpus, "train", stride=16).block_nats
    assert on_train == pytest.approx(sampled, abs=0.05)


def mean_loss(module: ShakespeareLM, batches: list[Batch], own: bool) -> float:
    sums = []
    for batch in batches:
        with torch.inference_mode(), leaving_out(module, batch.targets if own else None):
            logits = module(batch.inputs)
        sums.append(masked_cross_entropy(logits, batch.targets, batch.target_mask))
    return float(sum(nats for nats, _ in sums) / sum(count for _, count in sums))


def test_the_own_occurrence_is_left_out_in_training_and_in_train_eval_loss(tiny_fit: Fit) -> None:
    cli = tiny_fit(*OPTIONS, *SLOW)
    logged, sample = cli.trainer.callback_metrics, list(cli.datamodule.val_dataloader()[1])
    left_out, seen = (mean_loss(cli.model.eval(), sample, own) for own in (True, False))
    assert logged["train_eval_loss"] == pytest.approx(left_out, abs=1e-5)
    assert seen < left_out - 0.05
    assert abs(logged["train_loss"] - left_out) < abs(logged["train_loss"] - seen)


def test_a_new_run_takes_the_weights_and_remembers_its_own_text(tiny_fit: Fit) -> None:
    first = tiny_fit(*OPTIONS, "--max_steps=3")
    text = first.datamodule.vocabulary * 40
    Path("known.txt").write_text(text)
    Path("new.txt").write_text(text + "é", "utf-8")
    start = f"--init_from={first.best.best_model_path}"
    second = tiny_fit(start, "--data.corpus=known.txt", *OPTIONS, *SLOW)
    for name in ("base.head.weight", "read_ngrams.weight", "trust"):
        states = [cli.model.network.state_dict()[name] for cli in (first, second)]
        torch.testing.assert_close(*states, rtol=1e-4, atol=1e-6)
    assert second.model.network.ngrams.has_counted(*second.datamodule.encoded["train"])
    with pytest.raises(UserError, match="reads a memory, and the text has characters"):
        tiny_fit(start, "--data.corpus=new.txt", *OPTIONS, "--max_steps=1")


def test_a_run_with_a_mixed_memory_can_learn_new_characters(tiny_fit: Fit) -> None:
    mixed = ("--model.memory_order=2", "--model.memory_share=0.1", "--max_steps=1")
    first = tiny_fit(*mixed)
    Path("new.txt").write_text((first.datamodule.vocabulary + "é") * 40, "utf-8")
    second = tiny_fit(f"--init_from={first.best.best_model_path}", "--data.corpus=new.txt", *mixed)
    assert second.model.tokenizer.vocab_size == first.model.tokenizer.vocab_size + 1
