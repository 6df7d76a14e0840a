"""Reading a checkpoint: what comes out of a good one, and which ones hold no working model."""

from pathlib import Path
from typing import Any

import pytest
import torch

from shakespeare_lm.checkpoint import reading
from shakespeare_lm.checkpoint.reading import (
    ADDED_OPTIONS,
    FORMAT,
    FORMAT_KEY,
    read_archive,
    read_checkpoint,
    rename_weights,
)
from shakespeare_lm.commands.fit import fit
from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.errors import UserError
from shakespeare_lm.methods.networks import NETWORK_OPTIONS, NetworkOptions
from shakespeare_lm.training.module import ShakespeareLM
from tests.checkpoint.test_archive import Harmful
from tests.conftest import Fit, save

WRONG_TYPES = {
    "network": None,
    "memory_order": 2.0,
    "memory_share": "a",
    "context_length": 8.0,
    "num_layers": True,
    "num_heads": "2",
    "d_model": 8.0,
    "d_feedforward": "32",
    "positions": 1,
    "norm": None,
    "activation": "tanh",
    "bias": 1,
    "qkv_bias": 0,
    "tied_head": "no",
    "scale_embedding": None,
    "previous_characters": 4.0,
    "zero_init": 1.0,
    "dropout": "0",
    "attention_dropout": True,
}


def test_a_checkpoint_has_tokenizer_config_weights_and_everything_else(
    tmp_path: Path, module: ShakespeareLM
) -> None:
    checkpoint = read_checkpoint(save(tmp_path / "a.ckpt", module, global_step=7))
    assert checkpoint.tokenizer.vocabulary == "\nabc"
    assert checkpoint.config == NetworkOptions(
        context_length=8, num_layers=1, num_heads=2, d_model=8, previous_characters=4
    )
    expected = module.network.state_dict()
    assert checkpoint.weights.keys() == expected.keys()
    assert all(torch.equal(checkpoint.weights[name], expected[name]) for name in expected)
    assert checkpoint.content["global_step"] == 7
    assert checkpoint.content["hyper_parameters"] == dict(module.hparams)


def test_weights_beside_the_networks_own_are_left_out(
    tmp_path: Path, module: ShakespeareLM
) -> None:
    state = {**module.state_dict(), "means.val_loss.total": torch.zeros(())}
    checkpoint = read_checkpoint(save(tmp_path / "a.ckpt", module, state_dict=state))
    assert checkpoint.weights.keys() == module.network.state_dict().keys()


def test_a_checkpoint_of_the_first_release_loads_and_can_be_resumed(tiny_fit: Fit) -> None:
    """That release did not save the data module's fingerprint."""
    options = ("--val_check_interval=2", "--model.decay_steps=4")
    whole = tiny_fit("--max_steps=4", *options)
    path = tiny_fit("--max_steps=2", *options).last.path
    content = torch.load(path, weights_only=True)
    del content["ShakespeareDataModule"]
    torch.save(content, path)

    assert read_checkpoint(path).content.keys() == content.keys()
    assert len(Completer.from_checkpoint(path).complete("To", 5, seed=0)) == 5
    loaded = ShakespeareLM.load_from_checkpoint(path)
    assert torch.equal(
        loaded.state_dict()["network.head.weight"],
        content["state_dict"]["network.head.weight"],
    )
    with pytest.warns(UserWarning, match="has no fingerprint of its text and split"):
        resumed = tiny_fit("--max_steps=4", *options, "--ckpt_path=last")
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name


def test_torch_runs_no_code_even_if_the_archive_were_not_checked(
    tmp_path: Path, module: ShakespeareLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "ran"
    path = save(tmp_path / "a.ckpt", module, extra=Harmful(target))
    with pytest.raises(UserError, match="holds more than tensors and plain values"):
        read_checkpoint(path)
    monkeypatch.setattr(reading, "check_archive", lambda path: None)
    with pytest.raises(UserError, match=r"a\.ckpt is damaged or not a checkpoint") as caught:
        read_archive(path)
    assert "\n" not in str(caught.value)
    assert not target.exists()


@pytest.mark.parametrize(
    "content",
    [
        {"model": torch.zeros(3)},
        [1, 2],
        {"state_dict": {}, "hyper_parameters": {"d_model": 8}},
        {"state_dict": {}},
    ],
)
def test_a_checkpoint_of_another_program_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match=r"other\.ckpt is a checkpoint of another program"):
        read_checkpoint(tmp_path / "other.ckpt")


def without(path: Path, module: ShakespeareLM, missing: str) -> Path:
    kept = {name: value for name, value in module.hparams.items() if name != missing}
    return save(path, module, hyper_parameters=kept)


def test_a_checkpoint_without_a_vocabulary_is_refused(
    tmp_path: Path, module: ShakespeareLM
) -> None:
    with pytest.raises(UserError, match="it lacks the vocabulary and sizes"):
        read_checkpoint(without(tmp_path / "a.ckpt", module, "vocabulary"))


@pytest.mark.parametrize("missing", sorted(set(NETWORK_OPTIONS) - ADDED_OPTIONS.keys()))
def test_a_checkpoint_without_one_of_the_options_is_refused_by_its_name(
    tmp_path: Path, module: ShakespeareLM, missing: str
) -> None:
    path = without(tmp_path / "a.ckpt", module, missing)
    message = rf"^{path} lacks the option {missing}: .* what checkpoints without it were trained"
    with pytest.raises(UserError, match=message):
        read_checkpoint(path)


def test_a_checkpoint_without_an_option_that_was_added_is_read_with_its_value(
    tmp_path: Path, module: ShakespeareLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {"memory_order", "memory_share", "characters_ahead"} <= ADDED_OPTIONS.keys()
    for name in ADDED_OPTIONS:
        assert read_checkpoint(without(tmp_path / "a.ckpt", module, name)).config == module_config(
            module
        )
    # Not its default, but what the checkpoint was trained with.
    path = without(tmp_path / "a.ckpt", module, "norm")
    monkeypatch.setitem(reading.ADDED_OPTIONS, "norm", "pre")
    assert read_checkpoint(path).config.norm == "pre"
    monkeypatch.setitem(reading.ADDED_OPTIONS, "norm", "post")
    with pytest.raises(UserError, match=r"unknown weights final_norm\.weight"):
        read_checkpoint(path)
    monkeypatch.setitem(reading.ADDED_OPTIONS, "dropout", 0.25)
    path = without(tmp_path / "b.ckpt", module, "dropout")
    checkpoint = read_checkpoint(path)
    assert checkpoint.config.dropout == 0.25
    assert checkpoint.content["hyper_parameters"]["dropout"] == 0.25
    assert ShakespeareLM.load_from_checkpoint(path).config.dropout == 0.25


def module_config(module: ShakespeareLM) -> NetworkOptions:
    return NetworkOptions(**{name: module.hparams[name] for name in NETWORK_OPTIONS})


@pytest.mark.parametrize("network", ["transformer", "bigram"])
def test_a_hyperparameter_of_another_type_is_refused_by_name(tmp_path: Path, network: str) -> None:
    options = {"num_layers": 1, "num_heads": 2, "d_model": 8, "previous_characters": 0}
    module = ShakespeareLM("\nabc", network=network, **options)
    for name in NETWORK_OPTIONS:
        changed = {**module.hparams, name: WRONG_TYPES.get(name, "wrong")}
        path = save(tmp_path / "a.ckpt", module, hyper_parameters=changed)
        with pytest.raises(UserError, match=f"does not hold a working model: {name} is '"):
            read_checkpoint(path)


def test_weights_that_do_not_fit_are_refused_in_one_line(
    tmp_path: Path, module: ShakespeareLM
) -> None:
    for change in ({"d_model": 16}, {"d_model": "wide"}, {"vocabulary": "ab"}, {"num_layers": 2}):
        path = save(tmp_path / "a.ckpt", module, hyper_parameters={**module.hparams, **change})
        with pytest.raises(UserError, match=r"a\.ckpt does not hold a working model") as caught:
            read_checkpoint(path)
        assert "\n" not in str(caught.value)


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


def as_format_1(content: dict[str, Any]) -> None:
    """Give everything the names that it had in format 1."""
    content[FORMAT_KEY] = 1
    renamed = {}
    for name, tensor in content["state_dict"].items():
        own = name.removeprefix("network.").removeprefix("base.")
        of_network = name.startswith("network.")
        old = name.replace("objectives.multi_token.head.", "further_head.")
        renamed[f"transformer.{own}" if of_network else old] = tensor
    content["state_dict"] = renamed


@pytest.mark.parametrize("share", ["0", "0.25"])
def test_a_memory_and_further_heads_of_format_1_get_their_new_names(
    tiny_fit: Fit, share: str
) -> None:
    options = (
        "--model.memory_order=2", f"--model.memory_share={share}", "--model.characters_ahead=3",
        "--model.decay_steps=4", "--val_check_interval=2",
    )  # fmt: skip
    whole = tiny_fit("--max_steps=4", *options)
    path = tiny_fit("--max_steps=2", *options).last.path
    content = torch.load(path, weights_only=True)
    current = dict(content["state_dict"])
    as_format_1(content)
    names = set(content["state_dict"])
    old = {"transformer.head.weight", "transformer.ngrams.text", "further_head.weight"}
    assert old | ({"transformer.trust"} if share == "0" else set()) <= names
    assert not any(name.startswith(("network.", "objectives.")) for name in names)
    torch.save(content, path)

    checkpoint = read_checkpoint(path)
    assert checkpoint.content["state_dict"].keys() == current.keys()
    assert len(Completer.from_checkpoint(path).complete("To", 5, seed=0)) == 5
    loaded = ShakespeareLM.load_from_checkpoint(path)
    for name, tensor in current.items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    resumed = tiny_fit("--max_steps=4", *options, f"--ckpt_path={path}")
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name


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


def test_a_later_format_is_refused_with_what_to_do(tmp_path: Path, module: ShakespeareLM) -> None:
    path = save(tmp_path / "a.ckpt", module, **{FORMAT_KEY: FORMAT + 1})
    message = (
        rf"a\.ckpt was written by a later version of shakespeare_lm: its format is {FORMAT + 1}"
    )
    with pytest.raises(UserError, match=message):
        read_checkpoint(path)


@pytest.mark.parametrize("number", ["1", 0, -1, 1.0, None, [1]])
def test_an_invalid_format_number_is_refused(
    tmp_path: Path, module: ShakespeareLM, number: object
) -> None:
    path = save(tmp_path / "a.ckpt", module, **{FORMAT_KEY: number})
    with pytest.raises(UserError, match=r"a\.ckpt has an invalid format number"):
        read_checkpoint(path)


def test_the_text_of_a_memory_is_checked(tmp_path: Path) -> None:
    module = ShakespeareLM("\nabc", num_layers=1, num_heads=2, d_model=8, memory_order=2)
    module.network.ngrams.remember(torch.tensor([0, 1, 2, 1]), torch.tensor([4]))
    assert read_checkpoint(save(tmp_path / "a.ckpt", module)).config.memory_order == 2
    for change, message in (
        ({"text": torch.full((4,), 9, dtype=torch.uint8)}, "is not one of this vocabulary"),
        ({"lengths": torch.tensor([3])}, "is not one of this vocabulary"),
        ({"text": None}, "does not hold a working model"),
        ({"text": None, "lengths": None}, "does not hold a working model"),
    ):
        state = dict(module.state_dict())
        for name, tensor in change.items():
            state[f"network.ngrams.{name}"] = tensor
        state = {name: tensor for name, tensor in state.items() if tensor is not None}
        with pytest.raises(UserError, match=message):
            read_checkpoint(save(tmp_path / "a.ckpt", module, state_dict=state))
