"""Where a run begins: which options a checkpoint implies, and weights on a text with other
characters.
"""

from pathlib import Path

import pytest
import torch

from shakespeare_lm.checkpoint.origin import Origin, find_origin
from shakespeare_lm.checkpoint.reading import Checkpoint
from shakespeare_lm.checkpoint.starting_model import start_from
from shakespeare_lm.errors import UserError
from shakespeare_lm.training.module import ShakespeareLM
from tests.checkpoint.conftest import SIZES, random_checkpoint
from tests.conftest import save


def start(module: ShakespeareLM, checkpoint: Checkpoint) -> None:
    start_from(checkpoint, "a.ckpt", module.network, module.config, module.tokenizer)


NETWORKS = [
    {},
    {"previous_characters": 4},
    {"positions": "learned", "tied_head": False, "bias": True},
    {"tied_head": True, "norm": "post"},
    {"network": "bigram", "optimizer": "adamw"},
]


@pytest.mark.parametrize("options", NETWORKS)
def test_known_characters_keep_their_logits_and_new_ones_get_fresh_rows(
    path: Path, options: dict[str, object]
) -> None:
    checkpoint = random_checkpoint(path, "\nabc", **options)
    before = ShakespeareLM.load_from_checkpoint(path).eval()
    module = ShakespeareLM("\nabcxyz", **{**SIZES, **options}).eval()
    start(module, checkpoint)
    ids = torch.randint(4, (3, 8))
    with torch.no_grad():
        logits, expected = module(ids), before(ids)
        assert module(ids + 3).isfinite().all()
    torch.testing.assert_close(logits[..., :4], expected[..., :4])
    torch.testing.assert_close(logits[..., -1], expected[..., -1])  # padding


def test_without_new_characters_every_weight_is_the_checkpoints(path: Path) -> None:
    checkpoint = random_checkpoint(path, "\nabc")
    module = ShakespeareLM("\nabc", **SIZES, dropout=0.3)
    start(module, checkpoint)
    for name, tensor in module.network.state_dict().items():
        assert torch.equal(tensor, checkpoint.weights[name]), name


@pytest.mark.parametrize(
    ("option", "value"), [("num_layers", 2), ("num_heads", 4), ("norm", "post"), ("d_model", 16)]
)
def test_another_network_is_refused(path: Path, option: str, value: object) -> None:
    module = ShakespeareLM("\nabc", **{**SIZES, option: value})
    with pytest.raises(UserError, match=rf"init_from: a\.ckpt has {option} .*, but this run has"):
        start(module, random_checkpoint(path))


def test_the_context_may_differ_unless_positions_are_learned(path: Path) -> None:
    longer = {**SIZES, "context_length": 16}
    start(ShakespeareLM("\nab", **longer), random_checkpoint(path))
    module = ShakespeareLM("\nabc", **longer, positions="learned")
    with pytest.raises(UserError, match=r"a\.ckpt has context_length 8, but this run has 16"):
        start(module, random_checkpoint(path, positions="learned"))


RUN = Path("lightning_logs/version_0")
LAST = RUN / "checkpoints/last.ckpt"
YAML = Path("own.yaml")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a run, in the current folder."""
    monkeypatch.chdir(tmp_path)
    LAST.parent.mkdir(parents=True)
    (RUN / "config.yaml").touch()
    save(LAST, ShakespeareLM("\nabc", seed=5, dropout=0.2, weight_decay=0.3, **SIZES))
    return RUN


def origin(ckpt: object = None, init: object = None, *configs: Path) -> Origin:
    known = {"dropout", "weight_decay", "d_model", "bias"}
    given = [None if path is None else str(path) for path in (ckpt, init)]
    return find_origin(*given, list(configs), Path("lightning_logs"), known)


def test_a_new_run_has_the_options_of_its_files_alone(run: Path) -> None:
    assert origin(None, None, YAML) == Origin([YAML])


@pytest.mark.parametrize("given", ["last", RUN, RUN / "checkpoints", LAST])
def test_a_resumed_run_has_the_options_of_its_first_part_unless_it_is_given_others(
    run: Path, given: str | Path
) -> None:
    found = origin(given)
    assert found.configs == [(run / "config.yaml").resolve()]
    assert found.resumed is not None
    assert (found.resumed.path, found.options) == (LAST, {})
    assert origin(given, None, YAML).configs == [YAML]
    with pytest.raises(UserError, match="there is no checkpoint"):
        origin("missing")


def test_last_with_the_config_of_a_run_means_the_last_of_that_run(run: Path) -> None:
    newer = run.with_name("version_1") / "checkpoints"
    newer.mkdir(parents=True)
    (newer / "last.ckpt").write_bytes(LAST.read_bytes())
    assert origin("last").resumed.path == newer / "last.ckpt"
    assert origin("last", None, run / "config.yaml").resumed.path == LAST


def test_a_checkpoint_without_the_folder_of_a_run_implies_all_options_of_its_model(
    run: Path,
) -> None:
    LAST.rename("a.ckpt")
    Path("config.yaml").touch()  # of whatever else is in this folder
    found = origin("a.ckpt")
    expected = ["--model.dropout=0.2", "--model.weight_decay=0.3", "--data.context_length=8"]
    assert {*expected, "--seed_everything=5", "--model.bias=false"} <= set(found.arguments)
    assert found.configs == []
    assert not any("learning_rate" in word for word in found.arguments)  # not a known option


def test_a_run_that_replaces_a_damaged_one_brings_its_own_options(run: Path) -> None:
    newer = run.with_name("version_1")
    (newer / "checkpoints").mkdir(parents=True)
    (newer / "config.yaml").touch()
    (newer / "checkpoints/last.ckpt").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"is damaged .*; resuming from .*version_0"):
        assert origin("last").configs == [(run / "config.yaml").resolve()]


def test_a_run_that_starts_from_a_model_has_its_network_and_optimizer(run: Path) -> None:
    found = origin(None, LAST, YAML)
    assert (found.configs, found.resumed, found.initial_path) == ([YAML], None, LAST)
    assert {"--model.d_model=8", "--data.context_length=8", "--model.optimizer=muon"} <= set(
        found.arguments
    )
    assert not any(word.startswith("--model.dropout") for word in found.arguments)
    with pytest.raises(UserError, match=r"no best\.ckpt"):
        origin(None, run)
