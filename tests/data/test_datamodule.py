"""The data module: parts, vocabulary, loaders, and the check of a resumed run's text and split."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from jsonargparse import ArgumentParser

from shakespeare_lm.data.datamodule import ShakespeareDataModule
from shakespeare_lm.data.loader import WindowLoader
from shakespeare_lm.data.windows import grid_windows
from shakespeare_lm.errors import UserError

SAMPLE = ShakespeareDataModule(corpus="sample").documents[0]


def sample(**options: object) -> ShakespeareDataModule:
    data = ShakespeareDataModule(corpus="sample", **options)
    data.setup("fit")
    return data


def of_files(folder: Path, *texts: str, **options: object) -> ShakespeareDataModule:
    """Return the data of one file per text, in this order."""
    folder.mkdir(exist_ok=True)
    for number, text in enumerate(texts):
        (folder / f"{number}.txt").write_text(text, encoding="utf-8")
    return ShakespeareDataModule(corpus=str(folder / "*.txt"), **options)


def targets(loader: WindowLoader) -> int:
    return sum(int(batch.target_mask.sum()) for batch in loader)


def test_all_characters_but_the_first_of_each_part_are_targets_in_batches_of_one_size():
    data = sample(context_length=24, batch_size=5, val_fraction=0.2, test_fraction=0.1)
    train, (val, _), test = data.train_dataloader(), data.val_dataloader(), data.test_dataloader()
    assert {tuple(part.shape) for part in next(iter(train))} == {(5, 24)}
    assert train.fill_rows
    assert sum(map(targets, (train, val, test))) == len(SAMPLE) - 3
    assert targets(test) == pytest.approx(len(SAMPLE) * 0.1, abs=2)
    assert targets(val) == pytest.approx(len(SAMPLE) * 0.2, abs=2)


def test_the_train_sample_is_fixed_and_lies_in_the_training_part():
    data = sample()
    first, second = (data.val_dataloader()[1] for _ in range(2))
    assert [b.inputs.tolist() for b in first] == [b.inputs.tolist() for b in second]
    batch = next(iter(first))
    for row, mask in zip(batch.inputs, batch.attention_mask, strict=True):
        assert data.tokenizer.decode(row[mask].tolist()) in SAMPLE[: int(len(SAMPLE) * 0.9)]


def test_the_vocabulary_has_the_characters_of_every_part_after_the_known_ones(tmp_path):
    data = of_files(tmp_path, "cab " * 50, "xyz")
    assert data.vocabulary == " abcxyz"
    data.setup()
    assert "documents" not in vars(data)  # the texts are freed
    assert data.vocabulary == data.tokenizer.vocabulary == " abcxyz"
    assert of_files(tmp_path, "cab ", "xyz", known_characters="zq").vocabulary == "zq abcxy"


def test_random_chunks_warn_and_are_not_cut_in_two_by_a_shift():
    with pytest.warns(UserWarning, match="neighbours of the validation chunks are trained on"):
        loader = sample(split="random_chunks", window_order="shifted").train_dataloader()
    loader.fill_rows = False  # which halves some of them
    full = sum(int(batch.target_mask.all(dim=1).sum()) for batch in loader)
    assert full >= len(loader.windows(0).starts) - 1


def test_only_training_windows_are_in_the_chosen_order():
    data = sample(window_order="random")
    assert data.train_dataloader().window_order == "random"
    assert sample().train_dataloader().window_order == "shifted"
    # Overfitting on a few batches sees the same ones each epoch.
    data.trainer = SimpleNamespace(overfit_batches=2, global_rank=0, world_size=1)
    assert data.train_dataloader().window_order == "sequential"


def test_evaluation_windows_are_those_of_the_grid_whatever_the_training_batches():
    sizes = set()
    for options in ({}, {"batch_size": 7, "window_order": "random"}):
        data = sample(test_fraction=0.2, **options)
        for loader in (*data.val_dataloader(), data.test_dataloader()):
            expected = grid_windows(loader.documents.lengths, data.context_length)
            assert torch.equal(loader.windows(0).starts, expected.starts)
            assert torch.equal(loader.windows(0).sizes, expected.sizes)
            sizes.add(loader.batch_size)
    assert sizes == {(1 << 14) // 128}


def test_many_symbols_make_smaller_validation_batches(tmp_path):
    symbols = "".join(map(chr, range(0x4E00, 0x4E00 + 5000)))
    data = of_files(tmp_path, symbols, context_length=32)
    data.setup()
    assert data.val_dataloader()[0].batch_size == (1 << 22) // 5001 // 32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context_length": 0}, "context_length is 0: expected a value >= 1"),
        ({"batch_size": 0}, "batch_size is 0: expected a value >= 1"),
        ({"batch_size": True}, "batch_size is True: expected int"),
        ({"seed": "x"}, "seed is 'x': expected int"),
        ({"window_order": 3}, "window_order is '3': choose from: sequential, grid, shifted, "),
        ({"split": "random"}, "split is 'random': choose from: contiguous, documents, random_chun"),
        ({"val_fraction": 0.0}, "val_fraction is 0.0: expected a value > 0"),
        ({"val_fraction": 1.0}, "val_fraction is 1.0: expected 0 <= val_fraction < 1"),
        ({"test_fraction": -0.1}, "test_fraction is -0.1: expected 0 <= test_fraction < 1"),
        ({"val_fraction": 0.6, "test_fraction": 0.4}, ".*their sum must be less than 1"),
        ({"corpus": []}, r"corpus is \[\]: expected the name of a corpus, or files or globs"),
        ({"batchsize": 3}, "option is 'batchsize': choose from: corpus, .*, split, "),
    ],
)
def test_wrong_options_are_refused_by_name(options, message):
    with pytest.raises(UserError, match=f"^{message}"):
        ShakespeareDataModule(**options)


@pytest.mark.parametrize("value", ["x.txt", "[a.txt, b.txt]", "5"])
def test_a_corpus_on_the_command_line_is_str_and_survives_a_yaml_file(value):
    parser = ArgumentParser()
    parser.add_class_arguments(ShakespeareDataModule, "data")
    config = parser.parse_args([f"--data.corpus={value}", "--data.data_dir=texts"])
    expected = ["a.txt", "b.txt"] if value.startswith("[") else value
    assert (config.data.corpus, config.data.data_dir) == (expected, "texts")
    assert parser.parse_string(parser.dump(config)) == config


def resuming(data: ShakespeareDataModule, training: bool = True) -> ShakespeareDataModule:
    data.trainer = SimpleNamespace(training=training)
    return data


def test_the_same_text_and_split_can_be_resumed():
    state = sample().state_dict()
    assert state == {**sample().fingerprint, "corpus": ["sample"]}
    resuming(sample(batch_size=3, window_order="grid", seed=5)).load_state_dict(state)


@pytest.mark.filterwarnings("ignore:split is random_chunks")
@pytest.mark.parametrize(
    ("first", "options", "message"),
    [
        ({}, {"val_fraction": 0.2}, "val_fraction 0.1, not 0.2"),
        ({}, {"test_fraction": 0.2}, "test_fraction 0.0, not 0.2"),
        ({"split": "random_chunks"}, {"split": "random_chunks", "seed": 2}, "seed 1337, not 2"),
    ],
)
def test_another_split_cannot_be_resumed(first, options, message):
    state, other = sample(**first).state_dict(), sample(**options)
    with pytest.raises(
        UserError,
        match=f"^cannot resume: the checkpoint was trained with {message}; resume with the --data ",
    ):
        resuming(other).load_state_dict(state)
    # Evaluating a checkpoint on it is not refused.
    resuming(other, training=False).load_state_dict(state)
    sample(**options).load_state_dict(state)


@pytest.mark.parametrize("text", ["acb" * 20, "ab", "", "xyz" * 20])
def test_another_text_cannot_be_resumed_and_is_refused_before_its_split(tmp_path, text):
    """Even if it has the same vocabulary, or cannot be split at all."""
    state = of_files(tmp_path / "one", "abc" * 20).state_dict()
    for options in ({}, {"split": "documents"}):
        other = of_files(tmp_path / "other", text + "a", **options)
        with pytest.raises(UserError, match="cannot resume: the checkpoint was trained on another"):
            other.check_resumes(state)
        with pytest.raises(UserError, match="cannot resume: the checkpoint was trained on another"):
            resuming(other).load_state_dict(state)
