"""Objectives: which a run has, what they get to see, and that one of your own is trained."""

from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from torch import Tensor, nn

from shakespeare_lm.data.datamodule import ShakespeareDataModule
from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.errors import UserError
from shakespeare_lm.methods.distillation import NetworkTeacher, NGramTeacher
from shakespeare_lm.methods.multi_token import MultiTokenPrediction
from shakespeare_lm.methods.objective import Objective, Preparation, TrainingStep
from shakespeare_lm.methods.objectives import ObjectiveConfig, build_objectives
from shakespeare_lm.model.bigram import BigramTable
from shakespeare_lm.model.config import NetworkConfig
from shakespeare_lm.model.transformer import CausalTransformer
from shakespeare_lm.training.module import ShakespeareLM

SMALL = NetworkConfig(context_length=4, num_layers=1, num_heads=1, d_model=8)


def built(**options: Any) -> nn.ModuleDict:
    return build_objectives(ObjectiveConfig(**options), CausalTransformer(5, SMALL))


def test_each_option_adds_its_own_objective_and_shares_come_before_what_is_added() -> None:
    assert len(built()) == 0
    # The teachers' shares are of the loss of the next character.
    every = built(characters_ahead=3, distillation=0.5, teachers="a, b", ngram_distillation=0.25)
    assert list(every) == ["ngram_teacher", "network_teacher", "multi_token"]
    ngram, network, ahead = every.values()
    assert isinstance(ngram, NGramTeacher)
    assert ngram.share == 0.25
    assert isinstance(network, NetworkTeacher)
    assert (network.share, network.teachers, network.context_length) == (0.5, "a, b", 4)
    assert isinstance(ahead, MultiTokenPrediction)
    assert ahead.num_further == 2
    # Only what is learned is in a checkpoint.
    assert list(every.state_dict()) == ["multi_token.head.weight"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"characters_ahead": 0}, "characters_ahead is 0: expected a value >= 1"),
        ({"characters_ahead": 5}, "characters_ahead is 5: expected at most the context_length, 4"),
        ({"ngram_distillation": 1.0}, "ngram_distillation is 1.0: expected 0 <= ngram_distillat"),
        ({"distillation": 0.5}, "distillation is 0.5 and teachers is None: set both or none"),
        ({"teachers": "a.ckpt"}, "distillation is 0.0 and teachers is a.ckpt: set both or none"),
        ({"teachers": 3}, "teachers is '3': expected str or None"),
    ],
)
def test_options_are_checked(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        built(**options)


def test_the_bigram_has_no_hidden_states_to_predict_further_characters_from() -> None:
    bigram = BigramTable(5, NetworkConfig(network="bigram"))
    with pytest.raises(UserError, match=r"characters_ahead is 2: expected 1 for the bigram"):
        build_objectives(ObjectiveConfig(characters_ahead=2), bigram)
    assert not build_objectives(ObjectiveConfig(), bigram)


class Probe(Objective):
    """Reads from the hidden states which character is there."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.read = nn.Linear(network.config.d_model, network.vocab_size)
        self.steps: list[TrainingStep] = []
        self.losses: list[Tensor] = []
        self.calls: list[object] = []

    def load(self, read: Any, tokenizer: CharTokenizer) -> None:
        self.calls.append(("load", tokenizer.vocabulary))

    def prepare(self, preparation: Preparation) -> None:
        text = preparation.training_part()
        self.calls.append(("prepare", preparation.device, len(text.ids), preparation.network))

    def forward(self, loss: Tensor, step: TrainingStep) -> Tensor:
        self.steps.append(step)
        self.losses.append(loss.detach())
        mask = step.batch.target_mask
        read = self.read(step.hidden[mask])
        return loss + nn.functional.cross_entropy(read, step.batch.inputs[mask])


def test_objectives_of_ones_own_see_each_step_and_are_trained_with_the_network() -> None:
    data = ShakespeareDataModule("sample", context_length=16, batch_size=16)
    data.setup()
    sizes = {"context_length": 16, "num_layers": 1, "num_heads": 2, "d_model": 8}
    module, before = (
        ShakespeareLM(data.vocabulary, **sizes, learning_rate=0.01, decay_steps=8) for _ in range(2)
    )
    for made in (module, before):
        made.objectives.update({name: Probe(made.network) for name in ("probe", "second")})
    before.load_state_dict(module.state_dict())
    quiet = ("enable_progress_bar", "enable_model_summary", "enable_checkpointing", "logger")
    trainer = Trainer(
        accelerator="cpu", max_steps=2, limit_val_batches=0, **dict.fromkeys(quiet, False)
    )
    trainer.fit(module, datamodule=data)
    probe = module.objectives["probe"]
    assert not any(map(torch.equal, module.parameters(), before.parameters()))
    assert probe.calls == [
        ("load", module.tokenizer.vocabulary),
        ("prepare", torch.device("cpu"), len(data.encoded["train"].ids), module.network),
    ]
    first, second = probe.steps
    assert (first.schedule, second.schedule) == (1.0, pytest.approx(7 / 8))
    assert not torch.equal(first.batch.inputs, second.batch.inputs)
    assert first.batch.inputs.shape == (16, 16)
    hidden, logits = before.network(first.batch.inputs, with_hidden=True)
    torch.testing.assert_close((first.hidden, first.logits), (hidden, logits))
    # Objectives change the loss one after the other.
    mask = first.batch.target_mask
    plain = nn.functional.cross_entropy(logits[mask], first.batch.targets[mask])
    with_probe = before.objectives["probe"](plain, first)
    torch.testing.assert_close(module.objectives["second"].losses[0], with_probe)
