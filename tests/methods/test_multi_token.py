"""Multi-token prediction: which characters each position predicts, and what their losses weigh."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from shakespeare_lm.data.windows import Batch
from shakespeare_lm.methods.multi_token import MultiTokenPrediction
from shakespeare_lm.model.config import NetworkConfig
from shakespeare_lm.model.network import Network
from shakespeare_lm.training.module import ShakespeareLM
from tests.conftest import Fit


def batch_of(ids: list[list[int]], lengths: list[int]) -> Batch:
    """Return windows whose first `lengths` targets are real."""
    window = torch.tensor(ids)
    mask = torch.arange(window.shape[1] - 1) < torch.tensor(lengths)[:, None]
    return Batch(window[:, :-1], window[:, 1:], mask, mask, mask.long())


def prediction(d_model: int, ahead: int) -> MultiTokenPrediction:
    config = NetworkConfig(context_length=8, num_layers=1, num_heads=1, d_model=d_model)
    return MultiTokenPrediction(Network(5, config), ahead)


def test_each_position_predicts_the_character_after_the_next() -> None:
    batch = batch_of([[0, 1, 2, 3], [3, 2, 1, 0]], [3, 3])
    made = prediction(4, ahead=2)
    made.head.weight.data = 50.0 * torch.eye(5, 4)
    # Each position knows one character: that two after its own, or one after it.
    after_next = F.one_hot(torch.tensor([[2, 3, 0], [1, 0, 0]]), 4).float()
    following = F.one_hot(batch.targets, 4).float()
    assert made.loss(after_next, batch) < 1e-6
    assert made.loss(following, batch) > 20


def test_each_further_character_has_a_head_and_a_loss() -> None:
    window = torch.randint(5, (2, 8), generator=torch.Generator().manual_seed(0))
    batch = batch_of(window.tolist(), [7, 7])
    made = prediction(15, ahead=4)
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
    made, hidden = prediction(3, ahead=2), torch.randn(2, 4, 3, requires_grad=True)
    torch.nn.init.normal_(made.head.weight)
    loss = made.loss(hidden, batch_of([[0, 1, 2, 3, 0], [3, 2, 1, 4, 4]], [4, 2]))
    # Position 0 of the padded window predicts its third character, which is its last.
    real = torch.tensor([[True, True, True, False], [True, False, False, False]])
    expected = F.cross_entropy(made.head(hidden)[real], torch.tensor([2, 3, 0, 1]))
    torch.testing.assert_close(loss, 0.5 * expected)
    loss.backward()
    assert hidden.grad is not None
    assert not hidden.grad[~real].any()


@pytest.mark.parametrize("ahead", [2, 4])
def test_a_batch_without_a_character_after_the_next_gives_zero(ahead: int) -> None:
    for ids, length in (([1, 2], 1), ([1, 2, 3], 0)):
        hidden = torch.randn(1, len(ids) - 1, 3)
        assert prediction(3, ahead).loss(hidden, batch_of([ids], [length])) == 0


def loss_by_hand(module: ShakespeareLM, batch: Batch, weight: float) -> Tensor:
    hidden, logits = module.network(batch.inputs, with_hidden=True)
    first = F.cross_entropy(logits[batch.target_mask], batch.targets[batch.target_mask])
    both = batch.target_mask[:, 1:]
    second = module.objectives["multi_token"].head(hidden[:, :-1])[both]
    return first + weight * F.cross_entropy(second, batch.targets[:, 1:][both])


def test_its_weight_falls_with_the_learning_rate(tiny_fit: Fit) -> None:
    # Two steps of the Trainer are two steps by hand, with the weights 0.5 and 0.25.
    options = ["--model.characters_ahead=2", "--model.warmup_steps=0", "--max_steps=2"]
    cli = tiny_fit(*options, "--gradient_clip_val=null", "--precision=32-true")
    torch.manual_seed(1337)
    module = ShakespeareLM(**cli.model.hparams)
    batches = iter(cli.datamodule.train_dataloader())
    optimizer = module.build_optimizer()
    highest = [group["lr"] for group in optimizer.param_groups]
    for factor in (1.0, 0.5):
        for group, rate in zip(optimizer.param_groups, highest, strict=True):
            group["lr"] = rate * factor
        loss_by_hand(module, next(batches), 0.5 * factor).backward()
        optimizer.step()
        optimizer.zero_grad()
    weights = [
        {name: p for name, p in m.state_dict().items() if name.startswith(("network", "object"))}
        for m in (module, cli.model)
    ]
    torch.testing.assert_close(*weights)
    assert weights[0]["objectives.multi_token.head.weight"].any()
