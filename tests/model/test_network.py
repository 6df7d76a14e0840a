"""What a network is: one path from ids to logits, for training, validation and completion."""

from pathlib import Path

import pytest
import torch
from pytorch_lightning import Trainer
from torch import Tensor, nn

from shakespeare_lm.completion.cached_forward import CachedForward
from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.data.datamodule import ShakespeareDataModule
from shakespeare_lm.model.config import NetworkConfig
from shakespeare_lm.model.network import Network, Past
from shakespeare_lm.training.module import ShakespeareLM


class RunningMean(Network):
    """Predicts from the mean of the embeddings so far: the smallest network with a past."""

    reads_past = True

    def __init__(self, vocab_size: int, config: NetworkConfig) -> None:
        super().__init__(vocab_size, config)
        self.embedding = nn.Embedding(vocab_size, config.d_model)
        self.head = nn.Linear(config.d_model, vocab_size)

    def embed(self, ids: Tensor, past: Past | None = None) -> Tensor:
        embedded: Tensor = self.embedding(ids)
        return embedded

    def hidden(
        self, x: Tensor, attention_mask: Tensor | None = None, past: Past | None = None
    ) -> Tensor:
        if past is None:
            return x.cumsum(1) / torch.arange(1, x.shape[1] + 1)[:, None]
        known = past.extend(0, torch.stack((x, x))[:, :, None])[0, :, 0]  # one head
        if known.shape[1] == x.shape[1]:  # a whole window
            return x.cumsum(1) / torch.arange(1, x.shape[1] + 1)[:, None]
        if past.mask is not None:
            known = known.where(past.mask[:, 0, 0, :, None], torch.nan)
        return known.nanmean(1, keepdim=True)

    def logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.head(hidden)
        return logits


@pytest.fixture
def network() -> RunningMean:
    torch.manual_seed(0)
    return RunningMean(7, NetworkConfig(context_length=6, d_model=4, num_heads=1)).eval()


def test_a_subclass_defines_three_steps_and_forward_is_all_of_them(network: RunningMean) -> None:
    ids = torch.tensor([[1, 2, 3], [4, 5, 0]])
    hidden, logits = network(ids, with_hidden=True)
    assert torch.equal(hidden, network.hidden(network.embed(ids)))
    assert torch.equal(logits, network.logits(hidden))
    assert torch.equal(network(ids), logits)
    assert network.padding_id == 6


def test_ids_under_the_mask_are_padding(network: RunningMean) -> None:
    mask = torch.tensor([[True, True, False]])
    masked = network(torch.tensor([[1, 2, 3]]), mask)
    assert torch.equal(masked, network(torch.tensor([[1, 2, network.padding_id]])))


@pytest.mark.parametrize("fixed_shape", [False, True])
def test_a_network_of_ones_own_completes_with_a_cache(
    network: RunningMean, fixed_shape: bool
) -> None:
    cached = CachedForward(network)
    cache = cached.new_cache(3, fixed_shape)
    windows = [[1, 2, 3], [4], []]
    cached.prefill(cache, torch.arange(3), windows)
    for new in ([5, 0, 1], [2, 2, 4], [3, 1, 0]):
        windows = [[*window, one] for window, one in zip(windows, new, strict=True)]
        expected = torch.stack([network(torch.tensor([window]))[0, -1] for window in windows])
        torch.testing.assert_close(cached.step(cache, torch.tensor(new)), expected)


def test_a_network_that_defines_nothing_says_so() -> None:
    plain, ids = Network(7, NetworkConfig()), torch.tensor([[1]])
    assert not plain.reads_past
    for step in (plain.embed, plain.hidden, plain.logits, plain):
        with pytest.raises(NotImplementedError):
            step(ids)


def test_a_hook_on_the_network_sees_training_validation_and_completion(tmp_path: Path) -> None:
    data = ShakespeareDataModule("sample", context_length=16, batch_size=64)
    data.setup()
    module = ShakespeareLM(
        data.vocabulary, context_length=16, num_layers=1, num_heads=1, d_model=4,
        previous_characters=2,
    )  # fmt: skip
    calls: list[tuple[bool, int, bool]] = []

    def remember(network: Network, args: tuple, kwargs: dict, output: object) -> None:
        calls.append((network.training, args[0].shape[1], kwargs.get("past") is not None))

    module.network.register_forward_hook(remember, with_kwargs=True)
    quiet = ("enable_progress_bar", "enable_model_summary", "enable_checkpointing", "logger")
    trainer = Trainer(
        accelerator="cpu", max_steps=3, num_sanity_val_steps=0, default_root_dir=tmp_path,
        limit_val_batches=1, val_check_interval=3, **dict.fromkeys(quiet, False),
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    assert calls == [(True, 16, False)] * 3 + [(False, 16, False)] * 2
    completer = Completer(module.network, module.tokenizer, 16)
    calls.clear()
    completer.complete("To be", 9, greedy=True)
    assert calls == [(False, 1, True)] * 9
    calls.clear()
    completer.complete("To be", 1, greedy=True, cache=False)
    completer.score("To be or")
    assert calls == [(False, 5, False), (False, 16, False)]
