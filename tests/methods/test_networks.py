"""Which network a config describes, how many parameters the published ones have, and networks of
one's own, whose code runs only if it is trusted.
"""

import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import yaml

from shakespeare_lm.errors import UserError
from shakespeare_lm.methods.import_path import TRUST_VARIABLE, import_class, trust
from shakespeare_lm.methods.memory_network import MemoryNetwork
from shakespeare_lm.methods.networks import (
    NETWORK_OPTIONS,
    NetworkOptions,
    build_network,
)
from shakespeare_lm.model.bigram import BigramTable
from shakespeare_lm.model.network import Network
from shakespeare_lm.model.transformer import CausalTransformer

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


@pytest.mark.parametrize("recipe", PUBLISHED)
def test_every_recipe_has_its_published_number_of_parameters(recipe: str) -> None:
    options = yaml.safe_load((CONFIGS / f"{recipe}.yaml").read_text())
    model = {name: value for name, value in options["model"].items() if name in NETWORK_OPTIONS}
    config = NetworkOptions(context_length=options["data"]["context_length"], **model)
    total = sum(p.numel() for p in build_network(VOCAB_SIZE, config).parameters())
    padding = {
        "bigram": VOCAB_SIZE + VOCAB_SIZE - 1,  # its row and its column
        "notebook": 0,
    }.get(recipe, 2 * config.d_model + 1)  # its rows in embedding and head, and its bias
    assert total - padding == PUBLISHED[recipe]


SMALL = {"context_length": 4, "num_layers": 1, "num_heads": 1, "d_model": 8}


@pytest.mark.parametrize("options", [{}, {"tied_head": True}, {"network": "bigram"}])
def test_the_config_chooses_the_network_and_without_initialisation_only_the_weights_differ(
    options: dict,
) -> None:
    config, ids = NetworkOptions(**SMALL, **options), torch.tensor([[0, 6, 3]])
    drawn = build_network(7, config)
    assert isinstance(drawn, BigramTable if options.get("network") else CausalTransformer)
    assert drawn.config is config
    before = torch.get_rng_state()
    empty = build_network(7, config, initialise=False)
    assert torch.equal(torch.get_rng_state(), before), "weights were drawn"
    empty.load_state_dict(drawn.state_dict())
    assert drawn(ids).shape == (1, 3, 7)
    assert torch.equal(drawn(ids), empty(ids))


def test_the_options_are_the_fields_and_their_defaults_are_plain_values() -> None:
    defaults = asdict(NetworkOptions())
    assert tuple(defaults) == NETWORK_OPTIONS
    assert {type(value) for value in defaults.values()} <= {str, int, float, bool, type(None)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": "bigram", "memory_order": 3}, "memory_order is 3 and network is bigram"),
        ({"memory_order": 17}, "memory_order is 17: expected at most 16"),
        ({"memory_order": -1}, "memory_order is -1: expected a value >= 0"),
        ({"memory_share": 0.2}, "memory_share is 0.2 and memory_order is 0: there is no memory to"),
        ({"memory_order": 2, "memory_share": 1.0}, "memory_share is 1.0: expected 0 <= memory_sha"),
        ({"memory_order": 2.5}, "memory_order is '2.5': expected int"),
        *(
            ({"network": name}, f"network is '{name}': choose from: transformer, bigram, or give t")
            for name in ("rnn", "", "Transformer", ".Mine", "..a.Mine", "a.", "a b.C")
        ),
    ],
)
def test_options_that_make_no_network_are_refused(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        build_network(5, NetworkOptions(**options))


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_a_memory_is_around_the_network(share: float) -> None:
    config = NetworkOptions(**SMALL, memory_order=3, memory_share=share)
    made = build_network(7, config)
    assert isinstance(made, MemoryNetwork)
    assert isinstance(made.base, CausalTransformer)
    assert made.config is made.base.config is config
    assert (made.ngrams.max_order, made.share) == (3, share)
    matrices = sum(p.numel() for p in made.parameters() if p.ndim > 1)
    assert config.num_matrix_weights(7) == matrices


OWN = """
from shakespeare_lm.model.bigram import BigramTable as Mine
from torch import nn
from torch.nn import Module as NoNetwork
print("ran")
"""


@pytest.fixture
def own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Return the name of a module in the current folder, which nothing has imported."""
    name = f"own_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(TRUST_VARIABLE, "")  # restored, whatever `trust` adds
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield name
    sys.modules.pop(name, None)


def test_only_code_that_the_environment_trusts_is_imported(
    own_file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, config = f"{own_file}.Mine", NetworkOptions(network=f"{own_file}.Mine")
    message = f"^network is '{path}', which is not part of .*: .* set {TRUST_VARIABLE}="
    for trusted in ("", "other.Mine", f"{own_file}.Min", f"x{path}"):
        monkeypatch.setenv(TRUST_VARIABLE, trusted)
        with pytest.raises(UserError, match=f"{message}{trusted and trusted + ','}{path}$"):
            build_network(5, config)
    assert own_file not in sys.modules
    assert not capsys.readouterr().out
    monkeypatch.setenv(TRUST_VARIABLE, f"other.Mine, {path}")
    assert isinstance(build_network(5, config), BigramTable)
    with pytest.raises(UserError, match="which is not part of shakespeare_lm"):
        import_class("network", f"{own_file}.NoNetwork", Network)


def test_what_is_trusted_once_is_trusted_by_what_this_process_starts(own_file: str) -> None:
    trust("transformer")  # which needs no trust
    assert not os.environ[TRUST_VARIABLE]
    trust(f"{own_file}.Mine")
    trust("other.Mine")
    assert os.environ[TRUST_VARIABLE] == f"{own_file}.Mine,other.Mine"
    assert issubclass(import_class("network", f"{own_file}.Mine", Network), Network)


@pytest.mark.parametrize(
    ("end", "message"),
    [
        (".NoNetwork", "expected a subclass of shakespeare_lm.Network$"),
        (".print", "own_.* has no print"),
        (".nn", "expected a subclass of"),
        (".Missing", "own_.* has no Missing"),
        ("_2.Mine", "No module named 'own_.*_2'$"),
        ("_2.part.Mine", "No module named 'own_.*_2'$"),
    ],
)
def test_a_path_to_no_network_is_refused_by_name(own_file: str, end: str, message: str) -> None:
    trust(f"{own_file}{end}")
    with pytest.raises(UserError, match=f"^network is '{own_file}{end}': {message}"):
        import_class("network", f"{own_file}{end}", Network)


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("import nothing", UserError, r"^network is 'own_.*\.Mine': No module named 'nothing'$"),
        ("Mine = (", UserError, r"^network is 'own_.*\.Mine': '\(' was never closed \(own_.*\.py"),
        ("import os\nos.Mine_too", AttributeError, "^module 'os' has no attribute 'Mine_too'"),
    ],
)
def test_a_mistake_in_the_file_is_named(
    own_file: str, text: str, kind: type[Exception], message: str
) -> None:
    Path(f"{own_file}.py").write_text(text)
    trust(f"{own_file}.Mine")
    with pytest.raises(kind, match=message):
        import_class("network", f"{own_file}.Mine", Network)
