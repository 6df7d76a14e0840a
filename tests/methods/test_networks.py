"""Which network a config describes, how many parameters the published ones have, and networks of
one's own, whose code runs only if it is trusted.
"""

import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path

import pytest
import torch
import yaml

from shakespeare_lm.errors import UserError
from shakespeare_lm.methods import networks
from shakespeare_lm.methods.memory_network import MemoryNetwork
from shakespeare_lm.methods.networks import (
    NETWORK_OPTIONS,
    TRUST_VARIABLE,
    NetworkOptions,
    build_network,
    network_class,
    trust,
)
from shakespeare_lm.model.bigram import BigramTable
from shakespeare_lm.model.network import Network
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


def network_of(recipe: str) -> tuple[Network, NetworkOptions]:
    """Return the network that a YAML file describes, for tiny Shakespeare."""
    options = yaml.safe_load((CONFIGS / f"{recipe}.yaml").read_text())
    model = {name: value for name, value in options["model"].items() if name in NETWORK_OPTIONS}
    config = NetworkOptions(context_length=options["data"]["context_length"], **model)
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
    config = NetworkOptions(context_length=4, num_layers=1, num_heads=1, d_model=8)
    transformer = build_network(7, config)
    assert isinstance(transformer, CausalTransformer)
    assert transformer.config is config
    bigram = build_network(7, NetworkOptions(network="bigram"))
    assert isinstance(bigram, BigramTable)
    ids = torch.tensor([[0, 6, 3]])
    assert transformer(ids).shape == bigram(ids).shape == (1, 3, 7)


def test_a_network_is_rebuilt_from_plain_hyperparameters() -> None:
    module = ShakespeareLM(vocabulary="abc", num_layers=1, positions="learned")
    options = dict(module.hparams)
    assert set(NETWORK_OPTIONS) <= set(options)
    config = NetworkOptions(**{name: options[name] for name in NETWORK_OPTIONS})
    rebuilt = build_network(module.tokenizer.vocab_size, config)
    rebuilt.load_state_dict(module.network.state_dict())
    ids = torch.tensor([[0, 1]])
    assert torch.equal(rebuilt(ids), module.network(ids))


@pytest.mark.parametrize("kind", ["transformer", "bigram"])
def test_without_initialisation_only_the_weights_differ(kind: str) -> None:
    config = NetworkOptions(network=kind, num_layers=1, num_heads=2, d_model=8, tied_head=True)
    drawn, empty = (build_network(5, config, initialise=draw) for draw in (True, False))
    empty.load_state_dict(drawn.state_dict())
    ids = torch.tensor([[0, 1, 2]])
    assert torch.equal(drawn.eval()(ids), empty.eval()(ids))
    before = torch.get_rng_state()
    build_network(5, config, initialise=False)
    assert torch.equal(torch.get_rng_state(), before), "weights were drawn"


def test_the_options_are_the_fields_and_rebuild_a_config() -> None:
    config = NetworkOptions(num_layers=1, positions="rotary", d_feedforward=7, memory_order=2)
    assert tuple(asdict(config)) == NETWORK_OPTIONS
    assert NetworkOptions(**{name: getattr(config, name) for name in NETWORK_OPTIONS}) == config


def test_every_default_is_a_plain_value_that_a_checkpoint_can_hold() -> None:
    kinds = {type(field.default) for field in fields(NetworkOptions)}
    assert kinds <= {str, int, float, bool, type(None)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": "bigram", "memory_order": 3}, "memory_order is 3 and network is bigram"),
        ({"memory_order": 17}, "memory_order is 17: expected at most 16"),
        ({"memory_order": -1}, "memory_order is -1: expected a value >= 0"),
        ({"memory_share": 0.2}, "memory_share is 0.2 and memory_order is 0"),
        ({"memory_order": 2, "memory_share": 1.0}, "memory_share is 1.0: expected 0 <= memory_sha"),
        ({"memory_order": 2.5}, "memory_order is '2.5': expected int"),
        ({"d_model": 0}, "d_model is 0: expected a value >= 1"),
    ],
)
def test_options_of_both_classes_are_checked(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        NetworkOptions(**options)


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_a_memory_is_around_the_network(share: float) -> None:
    config = NetworkOptions(
        context_length=4, num_layers=1, num_heads=1, d_model=8, memory_order=3, memory_share=share
    )
    made = build_network(7, config)
    assert isinstance(made, MemoryNetwork)
    assert isinstance(made.base, CausalTransformer)
    assert made.config is made.base.config is config
    assert made.ngrams.max_order == 3
    assert made.share == share
    matrices = sum(p.numel() for p in made.parameters() if p.ndim > 1)
    assert config.num_matrix_weights(7) == matrices


OWN = """
from torch import nn

from shakespeare_lm.model.network import Network
from shakespeare_lm.model.bigram import BigramTable

print("ran", flush=True)


class Mine(BigramTable):
    pass


class NoNetwork(nn.Module):
    pass
"""


@pytest.fixture
def own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Return the name of a module in the current folder, which nothing has imported."""
    name = f"own_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(TRUST_VARIABLE, "")  # restored, whatever `trust` adds
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(networks, "NETWORKS", dict(networks.NETWORKS))
    yield name
    sys.modules.pop(name, None)


def test_code_that_nobody_trusts_is_not_imported(
    own_file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, config = f"{own_file}.Mine", NetworkOptions(network=f"{own_file}.Mine")
    message = f"^network is '{path}', which is not part of .*: .* set {TRUST_VARIABLE}={path}$"
    for trusted in ("", "other.Mine", f"{own_file}.Min", f"x{path}"):
        monkeypatch.setenv(TRUST_VARIABLE, trusted)
        with pytest.raises(UserError, match=message):
            build_network(5, config)
    assert own_file not in sys.modules
    assert not capsys.readouterr().out


def test_the_environment_allows_some_classes(
    own_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TRUST_VARIABLE, f"other.Mine,{own_file}.Mine")
    made = build_network(5, NetworkOptions(network=f"{own_file}.Mine"))
    assert type(made).__qualname__ == "Mine"
    assert isinstance(made, BigramTable)
    with pytest.raises(UserError, match="which is not part of shakespeare_lm"):
        network_class(f"{own_file}.NoNetwork")


def test_what_is_trusted_once_is_trusted_by_what_this_process_starts(
    own_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TRUST_VARIABLE, "")
    trust("transformer")  # which needs no trust
    assert not os.environ[TRUST_VARIABLE]
    trust(f"{own_file}.Mine")
    trust("other.Mine")
    assert os.environ[TRUST_VARIABLE] == f"{own_file}.Mine,other.Mine"
    assert issubclass(network_class(f"{own_file}.Mine"), Network)


@pytest.mark.parametrize(
    ("end", "message"),
    [
        ("NoNetwork", "expected a subclass of shakespeare_lm.model.network.Network"),
        ("print", "has no print"),
        ("nn", "expected a subclass of"),
        ("Missing", "has no Missing"),
    ],
)
def test_a_class_that_is_none_or_no_network_is_refused_by_name(
    own_file: str, end: str, message: str
) -> None:
    trust(f"{own_file}.{end}")
    with pytest.raises(UserError, match=f"^network is '{own_file}.{end}': .*{message}"):
        network_class(f"{own_file}.{end}")


def test_a_module_that_does_not_exist_is_refused_by_name(own_file: str) -> None:
    for name, missing in (
        (f"{own_file}_2.Mine", f"{own_file}_2"),
        (f"{own_file}_2.part.Mine", f"{own_file}_2"),
    ):
        trust(name)
        with pytest.raises(UserError, match=f"^network is '{name}': there is no module {missing}$"):
            network_class(name)


def test_a_module_that_a_trusted_one_lacks_is_its_own_error(own_file: str) -> None:
    Path(f"{own_file}.py").write_text("import nothing_of_this_name")
    trust(f"{own_file}.Mine")
    with pytest.raises(ModuleNotFoundError, match="nothing_of_this_name"):
        network_class(f"{own_file}.Mine")


@pytest.mark.parametrize("name", ["rnn", "", "Transformer", ".Mine", "..a.Mine", "a.", "a b.C"])
def test_a_name_that_is_no_network_and_no_path_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TRUST_VARIABLE, name)
    message = f"^network is '{name}': choose from: transformer, bigram, or give the import path"
    with pytest.raises(UserError, match=message):
        build_network(5, NetworkOptions(network=name))
