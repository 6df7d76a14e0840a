"""Which network a config describes, and how many parameters the published ones have."""

from pathlib import Path

import pytest
import torch
import yaml

from shakespeare_lm.methods.networks import Network, build_network
from shakespeare_lm.model.bigram import BigramTable
from shakespeare_lm.model.config import NETWORK_OPTIONS, NetworkConfig, NetworkKind
from shakespeare_lm.model.transformer import CausalTransformer
from shakespeare_lm.training.module import ShakespeareLM

CONFIGS = Path(__file__).parents[2] / "configs"
VOCAB_SIZE = 66  # the 65 characters of tiny Shakespeare, and the padding symbol

PUBLISHED = {
    "notebook": 1_586_176 + 8_448 + 8_514,  # includes the rows of the padding symbol, as ours does
    "script": 4_800_577,
    "little": 209_729,
    "nanogpt": 10_788_929,
    "bigram": 4_225,
    "scaled-sgd": 209_729,
}


def network_of(recipe: str) -> tuple[Network, NetworkConfig]:
    """Return the network that a YAML file describes, for tiny Shakespeare."""
    options = yaml.safe_load((CONFIGS / f"{recipe}.yaml").read_text())
    model = {name: value for name, value in options["model"].items() if name in NETWORK_OPTIONS}
    config = NetworkConfig(context_length=options["data"]["context_length"], **model)
    return build_network(VOCAB_SIZE, config), config


@pytest.mark.parametrize("recipe", PUBLISHED)
def test_every_recipe_has_its_published_number_of_parameters(recipe: str) -> None:
    network, config = network_of(recipe)
    total = sum(parameter.numel() for parameter in network.parameters())
    if recipe == "bigram":
        padding = VOCAB_SIZE + VOCAB_SIZE - 1  # its row and its column
    elif recipe == "notebook":
        padding = 0
    else:
        padding = 2 * config.d_model + 1  # its row in the embedding, its row and bias in the head
    assert total - padding == PUBLISHED[recipe]


def test_the_config_chooses_the_network() -> None:
    config = NetworkConfig(context_length=4, num_layers=1, num_heads=1, d_model=8)
    transformer = build_network(7, config)
    assert isinstance(transformer, CausalTransformer)
    assert transformer.config is config
    bigram = build_network(7, NetworkConfig(network="bigram"))
    assert isinstance(bigram, BigramTable)
    ids = torch.tensor([[0, 6, 3]])
    assert transformer(ids).shape == bigram(ids).shape == (1, 3, 7)


def test_a_network_is_rebuilt_from_plain_hyperparameters() -> None:
    module = ShakespeareLM(vocabulary="abc", num_layers=1, positions="learned")
    options = dict(module.hparams)
    assert set(NETWORK_OPTIONS) <= set(options)
    config = NetworkConfig(**{name: options[name] for name in NETWORK_OPTIONS})
    rebuilt = build_network(module.tokenizer.vocab_size, config)
    rebuilt.load_state_dict(module.transformer.state_dict())
    ids = torch.tensor([[0, 1]])
    assert torch.equal(rebuilt(ids), module.transformer(ids))


@pytest.mark.parametrize("kind", ["transformer", "bigram"])
def test_without_initialisation_only_the_weights_differ(kind: NetworkKind) -> None:
    config = NetworkConfig(network=kind, num_layers=1, num_heads=2, d_model=8, tied_head=True)
    drawn, empty = (build_network(5, config, initialise=draw) for draw in (True, False))
    empty.load_state_dict(drawn.state_dict())
    ids = torch.tensor([[0, 1, 2]])
    assert torch.equal(drawn.eval()(ids), empty.eval()(ids))
    before = torch.get_rng_state()
    build_network(5, config, initialise=False)
    assert torch.equal(torch.get_rng_state(), before), "weights were drawn"
