"""The further losses: which characters each position predicts, their weight, and that only training
knows them.
"""

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from shakespeare_lm.checkpoint.reading import read_checkpoint
from shakespeare_lm.data.windows import Batch
from shakespeare_lm.errors import UserError
from shakespeare_lm.methods.memory_network import MemoryNetwork
from shakespeare_lm.methods.multi_token import MultiTokenConfig, MultiTokenPrediction
from shakespeare_lm.methods.networks import NetworkOptions, build_network
from shakespeare_lm.methods.objective import TrainingStep
from shakespeare_lm.methods.objectives import ObjectiveConfig, build_objectives
from shakespeare_lm.model.bigram import BigramTable
from shakespeare_lm.model.config import NetworkConfig
from shakespeare_lm.model.network import Network
from shakespeare_lm.training.module import ShakespeareLM
from tests.conftest import Fit, logged


def batch_of(ids: list[list[int]], lengths: list[int]) -> Batch:
    """Return windows whose first `lengths` targets are real."""
    window = torch.tensor(ids)
    mask = torch.arange(window.shape[1] - 1) < torch.tensor(lengths)[:, None]
    return Batch(window[:, :-1], window[:, 1:], mask, mask)


def prediction(d_model: int, vocab_size: int, ahead: int) -> MultiTokenPrediction:
    config = NetworkConfig(context_length=8, num_layers=1, num_heads=1, d_model=d_model)
    return MultiTokenPrediction(Network(vocab_size, config), ahead)


def test_each_position_predicts_the_character_after_the_next() -> None:
    batch = batch_of([[0, 1, 2, 3], [3, 2, 1, 0]], [3, 3])
    made = prediction(4, 5, ahead=2)
    made.head.weight.data = 50.0 * torch.eye(5, 4)
    # Each position knows one character: that two after its own, or one after it.
    after_next = F.one_hot(torch.tensor([[2, 3, 0], [1, 0, 0]]), 4).float()
    following = F.one_hot(batch.targets, 4).float()
    assert made.loss(after_next, batch) < 1e-6
    assert made.loss(following, batch) > 20


def test_each_further_character_has_a_head_and_a_loss() -> None:
    """With four characters ahead, each of the three losses is that of its own character."""
    torch.manual_seed(0)
    window = torch.randint(5, (2, 8))
    batch = batch_of(window.tolist(), [7, 7])
    made = prediction(15, 5, ahead=4)
    made.head.weight.data = 50.0 * torch.eye(15)
    # Each position knows the characters two, three and four after its own, where there are any.
    padded = F.pad(F.one_hot(window, 5), (0, 0, 0, 3)).float()
    knows = torch.cat([padded[:, ahead : ahead + 7] for ahead in (2, 3, 4)], dim=-1)
    assert made.loss(knows, batch) < 1e-6
    for other in range(3):
        wrong = knows.clone()
        part = wrong.unflatten(-1, (3, 5))
        part[:, :, other] = part[:, :, other].roll(1, dims=-1)
        # Half of the 50 nats of a mistake.
        torch.testing.assert_close(made.loss(wrong, batch), torch.tensor(25.0))


def test_only_real_characters_count() -> None:
    torch.manual_seed(0)
    made = prediction(3, 5, ahead=2)
    hidden = torch.randn(2, 4, 3, requires_grad=True)
    torch.nn.init.normal_(made.head.weight)
    batch = batch_of([[0, 1, 2, 3, 0], [3, 2, 1, 4, 4]], [4, 2])
    loss = made.loss(hidden, batch)
    logits = made.head(hidden)
    # Position 0 of the padded window predicts its third character, which is its last.
    expected = F.cross_entropy(
        torch.stack([logits[0, 0], logits[0, 1], logits[0, 2], logits[1, 0]]),
        torch.tensor([2, 3, 0, 1]),
    )
    torch.testing.assert_close(loss, 0.5 * expected)
    loss.backward()
    assert hidden.grad is not None
    assert (hidden.grad[1, 1:] == 0).all()
    assert (hidden.grad[0, 3] == 0).all()


@pytest.mark.parametrize(("ids", "lengths"), [([[1, 2]], [1]), ([[1, 2, 3]], [0])])
@pytest.mark.parametrize("ahead", [2, 4])
def test_a_batch_without_a_character_after_the_next_gives_zero(
    ids: list[list[int]], lengths: list[int], ahead: int
) -> None:
    hidden = torch.randn(1, len(ids[0]) - 1, 3, requires_grad=True)
    loss = prediction(3, 5, ahead).loss(hidden, batch_of(ids, lengths))
    loss.backward()
    assert loss == 0


def test_its_weight_falls_with_the_learning_rate(tiny_fit: Fit) -> None:
    """Two steps of the Trainer are two steps by hand, with the weights 0.5 and 0.25."""
    options = ["--model.characters_ahead=2", "--model.warmup_steps=0", "--max_steps=2"]
    cli = tiny_fit(*options, "--gradient_clip_val=null", "--precision=32-true")
    torch.manual_seed(1337)
    module = ShakespeareLM(cli.datamodule.vocabulary, **_options(cli.model))
    batches = iter(cli.datamodule.train_dataloader())
    optimizer = module.build_optimizer()
    highest = [group["lr"] for group in optimizer.param_groups]
    for factor in (1.0, 0.5):
        for group, rate in zip(optimizer.param_groups, highest, strict=True):
            group["lr"] = rate * factor
        loss_by_hand(module, next(batches), 0.5 * factor).backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.testing.assert_close(module.network.state_dict(), cli.model.network.state_dict())
    ours, theirs = (m.objectives["multi_token"].head.weight for m in (module, cli.model))
    torch.testing.assert_close(ours, theirs)
    assert ours.abs().sum() > 0


def _options(module: ShakespeareLM) -> dict[str, object]:
    return {name: value for name, value in module.hparams.items() if name != "vocabulary"}


def loss_by_hand(module: ShakespeareLM, batch: Batch, weight: float) -> Tensor:
    hidden, logits = module.network(batch.inputs, with_hidden=True)
    first = F.cross_entropy(logits[batch.target_mask], batch.targets[batch.target_mask])
    both = batch.target_mask[:, 1:]
    second = module.objectives["multi_token"].head(hidden[:, :-1])[both]
    return first + weight * F.cross_entropy(second, batch.targets[:, 1:][both])


def test_the_network_and_its_losses_do_not_contain_it(tiny_fit: Fit) -> None:
    plain = tiny_fit("--max_steps=2", "--name=plain")
    second = tiny_fit("--max_steps=2", "--name=second", "--model.characters_ahead=2")
    losses = [logged(f"lightning_logs/{n}/version_0", "train_loss") for n in ("plain", "second")]
    assert losses[0][0] == losses[1][0]  # of the next character, before the first step
    weights = [read_checkpoint(cli.best.best_model_path).weights for cli in (plain, second)]
    assert weights[0].keys() == weights[1].keys()
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_resumed_run_is_the_uninterrupted_one(tiny_fit: Fit) -> None:
    options = ("--model.characters_ahead=2", "--val_check_interval=3", "--model.decay_steps=6")
    whole = tiny_fit(*options, "--max_steps=6").model.state_dict()
    tiny_fit(*options, "--max_steps=3")
    resumed = tiny_fit("--ckpt_path=last", "--max_steps=6").model.state_dict()
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    with pytest.raises(UserError, match=r"trained with characters_ahead 2, but this run has 1"):
        tiny_fit("--ckpt_path=last", "--max_steps=7", "--model.characters_ahead=1")


def test_a_run_from_before_this_option_is_resumed_without_it(tiny_fit: Fit) -> None:
    cli = tiny_fit("--max_steps=2")
    content = torch.load(cli.last.path, weights_only=True)
    del content["hyper_parameters"]["characters_ahead"]
    torch.save(content, cli.last.path)
    config = cli.last.path.parents[1] / "config.yaml"
    options = yaml.safe_load(config.read_text())
    del options["model"]["characters_ahead"]
    config.write_text(yaml.safe_dump(options))
    assert tiny_fit("--ckpt_path=last", "--max_steps=3").trainer.global_step == 3


@pytest.mark.parametrize("optimizer", ["muon", "adamw", "sgd"])
def test_every_optimizer_learns_its_weights_once(optimizer: str) -> None:
    module = ShakespeareLM(
        "ab", num_layers=1, num_heads=1, d_model=4, characters_ahead=2, optimizer=optimizer
    )
    built = module.build_optimizer()
    learned = [id(p) for group in built.param_groups for p in group["params"]]
    assert sorted(learned) == sorted(map(id, module.parameters()))


def test_the_bigram_is_refused() -> None:
    bigram = BigramTable(5, NetworkConfig(network="bigram"))
    with pytest.raises(UserError, match=r"characters_ahead is 2: expected 1 for the bigram"):
        build_objectives(ObjectiveConfig(characters_ahead=2), bigram)
    assert not build_objectives(ObjectiveConfig(), bigram)


def test_no_character_is_beyond_every_window() -> None:
    network = build_network(
        5, NetworkOptions(num_layers=1, num_heads=1, d_model=4, context_length=3)
    )
    with pytest.raises(
        UserError, match="characters_ahead is 4: expected at most the context_length"
    ):
        MultiTokenPrediction(network, 4)
    assert MultiTokenPrediction(network, 3).head.out_features == 10
    with pytest.raises(UserError, match="characters_ahead is 0: expected a value >= 1"):
        MultiTokenConfig(characters_ahead=0)


@pytest.mark.parametrize(
    "memory", [{}, {"memory_order": 2}, {"memory_order": 2, "memory_share": 0.3}]
)
def test_it_adds_to_the_loss_and_leaves_the_logits_to_the_network(memory: dict) -> None:
    config = NetworkOptions(num_layers=1, num_heads=1, d_model=4, **memory)
    network = build_network(5, config)
    if isinstance(network, MemoryNetwork):
        network.ngrams.remember(torch.tensor([0, 1, 2, 3, 0, 2, 1]), torch.tensor([7]))
    batch = batch_of([[0, 1, 2, 3], [3, 0, 2, 1]], [3, 3])
    hidden, logits = network(batch.inputs, with_hidden=True)
    assert torch.equal(logits, network(batch.inputs))
    made = MultiTokenPrediction(network, 2)
    torch.nn.init.normal_(made.head.weight)
    loss = made(torch.tensor(2.0), TrainingStep(batch, hidden, logits, schedule=0.25))
    torch.testing.assert_close(loss, 2.0 + 0.25 * made.loss(hidden, batch))
    assert loss > 2.0
