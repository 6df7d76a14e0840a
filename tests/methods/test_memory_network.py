"""Where a memory joins a network; and a run that remembers its training part."""

from pathlib import Path

import pytest
import torch
from pytorch_lightning import Trainer
from torch import Tensor

from shakespeare_lm.checkpoint.reading import read_checkpoint
from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.data.windows import Batch
from shakespeare_lm.errors import UserError
from shakespeare_lm.evaluation.evaluation import evaluate
from shakespeare_lm.evaluation.split_corpus import SplitCorpus
from shakespeare_lm.methods.memory_network import MemoryConfig, MemoryNetwork
from shakespeare_lm.methods.networks import NetworkOptions
from shakespeare_lm.methods.ngram_memory import leaving_out
from shakespeare_lm.model.loss import masked_cross_entropy
from shakespeare_lm.model.transformer import CausalTransformer
from shakespeare_lm.training.module import ShakespeareLM
from tests.conftest import Fit

SIZES = {
    "context_length": 12, "num_layers": 1, "num_heads": 2, "d_model": 8,
    "previous_characters": 4, "memory_order": 3,
}  # fmt: skip


def six_of(count: int, seed: int) -> Tensor:
    return torch.randint(6, (count,), generator=torch.Generator().manual_seed(seed))


def network(**options: object) -> MemoryNetwork:
    torch.manual_seed(0)
    config = NetworkOptions(**{**SIZES, **options})  # type: ignore[arg-type]
    base = CausalTransformer(7, config)
    made = MemoryNetwork(base, config.memory_order, config.memory_share)
    made.ngrams.remember(six_of(200, 1), torch.tensor([200]))
    return made.eval()


def test_at_first_its_probabilities_are_those_of_the_ngram_model() -> None:
    made, ids = network(zero_init=True), six_of(12, 2)[None]
    torch.testing.assert_close(
        made(ids).log_softmax(-1), made.ngrams(ids).log_probabilities, rtol=1e-4, atol=1e-4
    )


def test_what_is_read_is_added_to_the_embeddings_and_what_is_trusted_to_the_logits() -> None:
    made, ids = network(), six_of(12, 2)[None]
    made.trust.data.fill_(0.5)
    features, log_probabilities = made.ngrams(ids)
    x = made.base.embed(ids) + features @ made.read_ngrams.weight.T
    hidden = made.base.hidden(x)
    torch.testing.assert_close(made(ids), made.base.logits(hidden) + 0.5 * log_probabilities)
    torch.testing.assert_close(made(ids, with_hidden=True)[0], hidden)
    torch.testing.assert_close(made.hidden(made.embed(ids)), hidden)


def test_mixed_probabilities_are_its_share_of_the_ngram_model_and_the_rest_of_the_network() -> None:
    made, ids = network(memory_share=0.2), six_of(12, 2)[None]
    expected, own = made.ngrams.probabilities(ids), made.base(ids).softmax(-1)
    torch.testing.assert_close(made(ids).exp(), 0.2 * expected + 0.8 * own)
    with leaving_out(made, ids):
        learning = made.train()(ids)
    torch.testing.assert_close(learning, made.base(ids))  # it learns alone
    assert {name for name, _ in made.named_parameters()} == {
        f"base.{name}" for name, _ in made.base.named_parameters()
    }


def test_a_share_needs_a_memory_to_mix_with() -> None:
    with pytest.raises(UserError, match=r"memory_share is 0\.2 and memory_order is 0: there is no"):
        MemoryConfig(memory_share=0.2)


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_later_characters_do_not_change_earlier_logits(share: float) -> None:
    made, ids = network(memory_share=share), six_of(12, 2)[None]
    changed = ids.clone()
    changed[0, 7:] = (changed[0, 7:] + 1) % 6
    before, after = made(ids), made(changed)
    assert torch.equal(before[:, :7], after[:, :7])
    assert not torch.equal(before[:, 7:], after[:, 7:])


@pytest.mark.parametrize("share", [0.0, 0.9])
def test_padding_on_the_left_changes_nothing(share: float) -> None:
    made, ids = network(memory_share=share, positions="rotary"), six_of(6, 2)[None]
    mask = torch.tensor([[False] * 3 + [True] * 6])
    padded = torch.nn.functional.pad(ids, (3, 0), value=2)
    torch.testing.assert_close(made(padded, mask)[:, 3:], made(ids), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("share", [0.0, 0.9])
def test_the_own_occurrence_is_left_out_in_training(share: float) -> None:
    made = network(memory_share=share)
    ids, targets = six_of(200, 1)[None, 50:62], six_of(200, 1)[None, 51:63]
    of_answers = []
    for own in (None, targets):
        with leaving_out(made, own):
            log_probabilities = made(ids).log_softmax(-1)
        of_answers.append(log_probabilities.gather(-1, targets[..., None]).mean())
    with_own, left_out = of_answers
    assert left_out < with_own - 0.1


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_the_network_in_it_is_the_one_without_a_memory(share: float) -> None:
    made = network(memory_share=share)
    alone = CausalTransformer(7, made.config)
    names = {name for name in made.state_dict() if not name.startswith("base.")}
    own = {"ngrams.text", "ngrams.lengths"}
    assert names == (own if share else own | {"read_ngrams.weight", "trust"})
    alone.load_state_dict(made.base.state_dict())
    assert made.lookback == 4
    assert network(memory_share=share, previous_characters=1).lookback == 2
    assert made.reads_past
    assert made.blocks is made.base.blocks
    assert torch.equal(alone.eval()(six_of(12, 2)[None]), made.base(six_of(12, 2)[None]))


OPTIONS = ("--model.memory_order=3", "--precision=32-true", "--val_check_interval=3")


def test_the_memory_is_the_training_part_and_the_checkpoint_holds_it(tiny_fit: Fit) -> None:
    cli = tiny_fit(*OPTIONS, "--max_steps=6")
    network = cli.model.network
    assert isinstance(network, MemoryNetwork)
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
        left_out, seen = (mean_loss(module, list(sample), own) for own in (True, False))
    assert logged["train_eval_loss"] == pytest.approx(left_out, abs=1e-5)
    assert seen < left_out - 0.05
    assert abs(logged["train_loss"] - left_out) < abs(logged["train_loss"] - seen)


def mean_loss(module: ShakespeareLM, batches: list[Batch], own: bool) -> float:
    sums = []
    for batch in batches:
        with leaving_out(module, batch.targets if own else None):
            logits = module(batch.inputs)
        sums.append(masked_cross_entropy(logits, batch.targets, batch.target_mask))
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
    for name in ("base.head.weight", "read_ngrams.weight", "trust"):
        states = [cli.model.network.state_dict()[name] for cli in (first, second)]
        torch.testing.assert_close(*states, rtol=1e-4, atol=1e-6)
    remembered = second.model.network.ngrams.text
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
    module = ShakespeareLM("ab", num_layers=1, num_heads=1, d_model=4, memory_order=2)
    module._trainer = Trainer(logger=False, enable_checkpointing=False)
    with pytest.raises(UserError, match="need a ShakespeareDataModule"):
        module.setup("fit")
    module.setup("validate")  # it has been filled by a checkpoint
