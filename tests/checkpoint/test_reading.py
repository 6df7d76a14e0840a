"""Reading a checkpoint: what comes out of a good one, and which ones hold no working model."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from shakespeare_lm.checkpoint import reading
from shakespeare_lm.checkpoint.reading import (
    ADDED_OPTIONS,
    FORMAT,
    FORMAT_KEY,
    read_checkpoint,
    rename_weights,
)
from shakespeare_lm.commands.fit import fit
from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.errors import UserError
from shakespeare_lm.methods.networks import NETWORK_OPTIONS, NetworkOptions
from shakespeare_lm.training.module import ShakespeareLM
from tests.checkpoint.conftest import SIZES
from tests.conftest import Fit, save


def test_a_checkpoint_has_tokenizer_config_weights_and_everything_else(
    path: Path, module: ShakespeareLM
) -> None:
    expected = module.network.state_dict()
    state = {**module.state_dict(), "means.val_loss.total": torch.zeros(())}
    checkpoint = read_checkpoint(save(path, module, state_dict=state, global_step=7))
    assert checkpoint.tokenizer.vocabulary == "\nabc"
    assert checkpoint.config == NetworkOptions(**SIZES, previous_characters=4)
    assert checkpoint.weights.keys() == expected.keys()
    assert all(torch.equal(checkpoint.weights[name], expected[name]) for name in expected)
    assert checkpoint.content["global_step"] == 7
    assert checkpoint.content["hyper_parameters"] == dict(module.hparams)


def without(path: Path, module: ShakespeareLM, missing: str) -> Path:
    kept = {name: value for name, value in module.hparams.items() if name != missing}
    return save(path, module, hyper_parameters=kept)


@pytest.mark.parametrize("missing", sorted(set(NETWORK_OPTIONS) - ADDED_OPTIONS.keys()))
def test_a_checkpoint_without_one_of_the_options_is_refused_by_its_name(
    path: Path, module: ShakespeareLM, missing: str
) -> None:
    message = rf"^{path} lacks the option {missing}: .* what checkpoints without it were trained"
    with pytest.raises(UserError, match=message):
        read_checkpoint(without(path, module, missing))


@pytest.mark.parametrize("name", ADDED_OPTIONS)
def test_a_checkpoint_without_an_option_that_was_added_is_read_with_its_value(
    path: Path, module: ShakespeareLM, name: str
) -> None:
    config = read_checkpoint(without(path, module, name)).config
    assert config == NetworkOptions(**SIZES, previous_characters=4)


def test_an_added_option_gets_what_checkpoints_were_trained_with_and_not_its_default(
    path: Path, module: ShakespeareLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {"memory_order", "memory_share", "characters_ahead"} <= ADDED_OPTIONS.keys()
    monkeypatch.setitem(reading.ADDED_OPTIONS, "norm", "post")
    with pytest.raises(UserError, match=r"unknown weights 'final_norm\.weight'"):
        read_checkpoint(without(path, module, "norm"))
    monkeypatch.setitem(reading.ADDED_OPTIONS, "dropout", 0.25)
    checkpoint = read_checkpoint(without(path, module, "dropout"))
    assert checkpoint.config.dropout == 0.25
    assert checkpoint.content["hyper_parameters"]["dropout"] == 0.25
    assert ShakespeareLM.load_from_checkpoint(path).config.dropout == 0.25


@pytest.mark.parametrize("network", ["transformer", "bigram"])
@pytest.mark.parametrize("name", NETWORK_OPTIONS)
def test_an_invalid_hyperparameter_is_refused_by_name(path: Path, network: str, name: str) -> None:
    module = ShakespeareLM("\nabc", network=network, **SIZES)
    save(path, module, hyper_parameters={**module.hparams, name: "wrong"})
    with pytest.raises(UserError, match=f"does not hold a working model: {name} is 'wrong'"):
        read_checkpoint(path)


# Trained for three steps on the bundled scene: by the version that introduced format 2, by release
# 0.1.0, and by a version before it.
RELEASED = {
    "format_2": 72.69931721687317,
    "format_1": 72.69937419891357,
    "without_format": 72.92028045654297,
}


@pytest.mark.parametrize("name", RELEASED)
def test_a_checkpoint_of_every_format_completes_scores_and_can_be_resumed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(__file__).with_name(f"{name}.ckpt")
    completer = Completer.from_checkpoint(path)
    assert len(completer.complete("To be", 20, seed=1)) == 20
    assert completer.score("To be, or not to be").total_nats == pytest.approx(RELEASED[name], 1e-5)
    monkeypatch.chdir(tmp_path)
    tiny = ["--data.context_length=8", "--data.batch_size=4", "--model.num_layers=1",
            "--model.num_heads=1", "--model.d_model=8", "--model.previous_characters=1",
            "--model.zero_init=true", "--data.corpus=sample", "--enable_progress_bar=false",
            "--accelerator=cpu"]  # fmt: skip
    cli = fit([*tiny, f"--ckpt_path={path}", "--more_steps=2"])
    assert cli.trainer.global_step == 5


@pytest.mark.parametrize("share", ["0", "0.25"])
def test_a_memory_and_further_heads_of_format_1_get_their_new_names(
    tiny_fit: Fit, share: str
) -> None:
    options = (
        "--model.memory_order=2", f"--model.memory_share={share}", "--model.characters_ahead=3",
        "--model.decay_steps=4", "--val_check_interval=2",
    )  # fmt: skip
    whole = tiny_fit("--max_steps=4", *options).model.state_dict()
    path = tiny_fit("--max_steps=2", *options).last.path
    content = torch.load(path, weights_only=True)
    current, old = content["state_dict"], {}
    for name, tensor in current.items():
        name = re.sub(r"^network\.(base\.)?", "transformer.", name)
        old[name.replace("objectives.multi_token.head.", "further_head.")] = tensor
    assert {"transformer.head.weight", "transformer.ngrams.text", "further_head.weight"} <= set(old)
    torch.save({**content, FORMAT_KEY: 1, "state_dict": old}, path)

    loaded = ShakespeareLM.load_from_checkpoint(path).state_dict()
    assert loaded.keys() == current.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in current.items())
    resumed = tiny_fit("--max_steps=4", *options, f"--ckpt_path={path}").model.state_dict()
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())


def test_names_of_the_current_format_stay_and_accumulated_gradients_are_renamed_too() -> None:
    state = {"transformer.a": torch.zeros(1), "further_head.b": torch.zeros(1)}
    parts = {"hyper_parameters": {}, "state_dict": dict(state), "gradients": dict(state)}
    content: dict[str, Any] = {FORMAT_KEY: FORMAT, **parts}
    rename_weights(content)
    assert content["state_dict"].keys() == content["gradients"].keys() == state.keys()
    del content[FORMAT_KEY]
    rename_weights(content)
    for part in ("state_dict", "gradients"):
        assert list(content[part]) == ["network.a", "objectives.multi_token.head.b"]
    assert content[FORMAT_KEY] == FORMAT


def test_training_writes_the_newest_format(tiny_fit: Fit) -> None:
    last = tiny_fit("--max_steps=1").last.path
    assert torch.load(last, weights_only=True)[FORMAT_KEY] == FORMAT
    assert f"format_{FORMAT}" in RELEASED


DATA = {"corpus": ["sample"], "text_sha256": "0", "val_fraction": 0.1}
LATER = f"was written by a later version of shakespeare_lm: its format is {FORMAT + 1}"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (FORMAT_KEY, FORMAT + 1, LATER),
        *((FORMAT_KEY, n, "has an invalid format number") for n in ("1", 0, 1.0, None, [1])),
        *(
            ("ShakespeareDataModule", data, f"the {name} of its text is invalid; expected a .ckpt")
            for data, name in (
                ({**DATA, "seed": "1"}, "seed"),
                ({**DATA, "text_sha256": 1}, "text_sha256"),
                ({**DATA, "corpus": {}}, "corpus"),
                ({**DATA, "corpus": [3]}, "corpus"),
                (["x"], "corpus"),
            )
        ),
    ],
)
def test_what_training_does_not_write_is_refused_by_name(
    path: Path, module: ShakespeareLM, name: str, value: object, message: str
) -> None:
    assert read_checkpoint(save(path, module, ShakespeareDataModule=DATA)).trained_on == DATA
    with pytest.raises(UserError, match=f"^{path}:? {message}"):
        read_checkpoint(save(path, module, **{name: value}))


def test_what_torch_says_about_weights_beside_them_is_not_used(
    path: Path, module: ShakespeareLM
) -> None:
    state = module.state_dict()
    state._metadata = 3  # type: ignore[attr-defined]
    save(path, module, state_dict=state)
    assert ShakespeareLM.load_from_checkpoint(path).hparams == module.hparams


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("x\x1b[2J", 0.0, r"it has unknown weights 'x\\x1b\[2J'$"),
        ("head.weight", 1e300, "head.weight has non-finite values, in float32$"),
        ("head.weight", float("nan"), "head.weight has non-finite values"),
    ],
)
def test_strange_weights_are_named_without_control_characters(
    path: Path, module: ShakespeareLM, name: str, value: float, message: str
) -> None:
    strange = torch.full(module.network.head.weight.shape, value, dtype=torch.float64)  # type: ignore[union-attr,arg-type]
    save(path, module, state_dict={**module.state_dict(), f"network.{name}": strange})
    with pytest.raises(UserError, match=message):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": torch.full((4,), 9, dtype=torch.uint8)}, "is not one of this vocabulary"),
        ({"lengths": torch.tensor([3])}, "is not one of this vocabulary"),
        ({"text": None}, "does not hold a working model"),
        ({"text": None, "lengths": None}, "does not hold a working model"),
    ],
)
def test_the_text_of_a_memory_is_checked(path: Path, change: dict, message: str) -> None:
    module = ShakespeareLM("\nabc", num_layers=1, num_heads=2, d_model=8, memory_order=2)
    module.network.ngrams.remember(torch.tensor([0, 1, 2, 1]), torch.tensor([4]))
    assert read_checkpoint(save(path, module)).config.memory_order == 2
    state = {**module.state_dict(), **{f"network.ngrams.{n}": t for n, t in change.items()}}
    kept = {name: tensor for name, tensor in state.items() if tensor is not None}
    with pytest.raises(UserError, match=message):
        read_checkpoint(save(path, module, state_dict=kept))
