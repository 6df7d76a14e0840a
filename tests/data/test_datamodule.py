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


def sample(**options: object) -> ShakespeareDataModule:
    data = ShakespeareDataModule(corpus="sample", **options)
    data.setup("fit")
    return data


def targets(loader: WindowLoader) -> int:
    return sum(int(batch.target_mask.sum()) for batch in loader)


def test_all_characters_but_the_first_of_each_part_are_targets() -> None:
    data = sample()
    total = len(ShakespeareDataModule(corpus="sample").documents[0])
    train, (val, _) = data.train_dataloader(), data.val_dataloader()
    assert targets(train) == int(total * 0.9) - 1
    assert targets(train) + targets(val) == total - 2


def test_batches_have_the_requested_size() -> None:
    batch = next(iter(sample(context_length=24, batch_size=5).train_dataloader()))
    assert {tuple(part.shape) for part in batch} == {(5, 24)}


def test_validation_batches_do_not_depend_on_the_training_batch_size() -> None:
    loaders = [sample(batch_size=size).val_dataloader()[0] for size in (1, 50)]
    assert [len(loader) for loader in loaders] == [len(loaders[0])] * 2
    assert targets(loaders[0]) == targets(loaders[1])


def test_the_train_sample_is_fixed_and_lies_in_the_training_part() -> None:
    data = sample()
    first, second = (data.val_dataloader()[1] for _ in range(2))
    assert [b.inputs.tolist() for b in first] == [b.inputs.tolist() for b in second]
    text = ShakespeareDataModule(corpus="sample").documents[0]
    for row, mask in zip(next(iter(first)).inputs, next(iter(first)).attention_mask, strict=True):
        if mask.any():
            assert data.tokenizer.decode(row[mask].tolist()) in text[: int(len(text) * 0.9)]


def test_a_test_part_is_held_out() -> None:
    data = sample(val_fraction=0.2, test_fraction=0.1)
    total = len(ShakespeareDataModule(corpus="sample").documents[0])
    assert targets(data.test_dataloader()) == pytest.approx(total * 0.1, abs=2)
    assert targets(data.val_dataloader()[0]) == pytest.approx(total * 0.2, abs=2)


def files(folder: Path, *texts: str) -> str:
    """Write one file per text; return a glob that matches them in this order."""
    folder.mkdir(exist_ok=True)
    for number, text in enumerate(texts):
        (folder / f"{number}.txt").write_text(text)
    return str(folder / "*.txt")


def test_whole_files_are_held_out_by_a_split_by_documents(tmp_path: Path) -> None:
    texts = ["first " * 20, "second ", "third "]
    data = ShakespeareDataModule(
        corpus=files(tmp_path, *texts), split="documents", test_fraction=0.1
    )
    data.setup()
    decoded = {name: data.tokenizer.decode(part.ids) for name, part in data.encoded.items()}
    assert decoded == dict(zip(("train", "val", "test"), texts, strict=True))


def test_one_file_cannot_be_split_by_documents() -> None:
    with pytest.raises(UserError, match="split is documents: the corpus has 1 document"):
        sample(split="documents")


def test_the_vocabulary_has_the_characters_of_every_part(tmp_path: Path) -> None:
    data = ShakespeareDataModule(corpus=files(tmp_path, "cab " * 50, "xyz"))
    assert data.vocabulary == " abcxyz"


def test_random_chunks_warn_that_neighbours_leak() -> None:
    with pytest.warns(UserWarning, match="neighbours of the validation chunks are trained on"):
        sample(split="random_chunks")


def test_random_chunks_are_not_cut_in_two_by_a_shift() -> None:
    with pytest.warns(UserWarning, match="neighbours"):
        loader = sample(split="random_chunks", window_order="shifted").train_dataloader()
    loader.fill_rows = False  # which halves some of them
    full = sum(int(batch.target_mask.all(dim=1).sum()) for batch in loader)
    assert full >= len(loader.windows(0).starts) - 1


def test_only_training_windows_are_in_the_chosen_order() -> None:
    data = sample(window_order="random")
    assert data.train_dataloader().window_order == "random"
    assert [loader.window_order for loader in data.val_dataloader()] == ["sequential"] * 2
    assert sample().train_dataloader().window_order == "shifted"


def test_overfitting_on_a_few_batches_sees_the_same_ones_each_epoch() -> None:
    data = sample()
    data.trainer = SimpleNamespace(overfit_batches=2, global_rank=0, world_size=1)
    assert data.train_dataloader().window_order == "sequential"


@pytest.mark.parametrize("order", ["sequential", "grid", "shifted", "random"])
@pytest.mark.parametrize(("batch_size", "world_size"), [(16, 1), (16, 2), (50, 1), (7, 3)])
def test_no_row_of_a_training_batch_is_empty(order: str, batch_size: int, world_size: int) -> None:
    data = sample(batch_size=batch_size, window_order=order)
    for rank in range(world_size):
        data.trainer = SimpleNamespace(global_rank=rank, world_size=world_size)
        for batch in data.train_dataloader():
            assert bool(batch.target_mask.any(dim=1).all())


def test_evaluation_windows_are_those_of_the_grid_whatever_the_training_batches() -> None:
    for options in ({}, {"batch_size": 7, "window_order": "random"}):
        data = sample(test_fraction=0.2, **options)
        for loader in (*data.val_dataloader(), data.test_dataloader()):
            expected = grid_windows(loader.documents.lengths, data.context_length)
            assert torch.equal(loader.windows(0).starts, expected.starts)
            assert torch.equal(loader.windows(0).sizes, expected.sizes)


def test_each_process_gets_a_shard_of_each_batch() -> None:
    data, total = sample(), targets(sample().train_dataloader())
    counts = []
    for rank in range(2):
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2)
        counts.append(targets(data.train_dataloader()))
    assert sum(counts) == total
    assert counts[0] == pytest.approx(total / 2, rel=0.05)


def test_many_symbols_make_smaller_validation_batches(tmp_path: Path) -> None:
    path = tmp_path / "many.txt"
    path.write_text("".join(map(chr, range(0x4E00, 0x4E00 + 5000))), encoding="utf-8")
    data = ShakespeareDataModule(corpus=str(path), context_length=32)
    data.setup()
    assert data.val_dataloader()[0].batch_size == (1 << 22) // 5001 // 32


def test_setup_frees_the_characters() -> None:
    data = sample()
    assert "documents" not in vars(data)
    assert "parts" not in vars(data)
    assert data.vocabulary == data.tokenizer.vocabulary


@pytest.mark.parametrize("text", ["a", "ab", "abcdefghij"])
def test_a_text_too_short_to_split_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "short.txt"
    path.write_text(text)
    with pytest.raises(
        UserError, match=f"the text has {len(text)} characters, too few to split with"
    ):
        ShakespeareDataModule(corpus=str(path)).setup()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context_length": 0}, "context_length is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"val_fraction": 0.0}, "val_fraction is 0.0"),
        ({"val_fraction": 1.0}, "val_fraction is 1.0"),
        ({"test_fraction": -0.1}, "test_fraction is -0.1"),
        ({"val_fraction": 0.6, "test_fraction": 0.4}, "their sum must be less than 1"),
    ],
)
def test_options_out_of_range_are_refused_by_name(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ShakespeareDataModule(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 2.5}, "batch_size is 2.5: expected int"),
        ({"batch_size": True}, "batch_size is True: expected int"),
        ({"context_length": "8"}, "context_length is '8': expected int"),
        ({"seed": "x"}, "seed is 'x': expected int"),
        ({"window_order": 3}, "window_order is '3': choose from: sequential, grid, shifted, "),
        ({"corpus": 5}, "corpus is 5: expected str or Path, or a list of them"),
        ({"corpus": ["a.txt", 5]}, r"corpus\[1\] is 5: expected str or Path"),
        ({"corpus": []}, r"corpus is \[\]: expected the name of a corpus, or files or globs"),
    ],
)
def test_options_of_another_type_are_refused_by_name(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        ShakespeareDataModule(**options)


def test_the_corpus_can_be_paths(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text(name)
    a, b = tmp_path / "a.txt", tmp_path / "b.txt"
    assert ShakespeareDataModule(corpus=a, data_dir=tmp_path).documents == ["a"]
    assert ShakespeareDataModule(corpus=[b, a]).documents == ["b", "a"]


@pytest.mark.parametrize("value", ["x.txt", "[a.txt, b.txt]", "5"])
def test_a_corpus_on_the_command_line_is_str_and_survives_a_yaml_file(value: str) -> None:
    parser = ArgumentParser()
    parser.add_class_arguments(ShakespeareDataModule, "data")
    config = parser.parse_args([f"--data.corpus={value}", "--data.data_dir=texts"])
    expected = ["a.txt", "b.txt"] if value.startswith("[") else value
    assert (config.data.corpus, config.data.data_dir) == (expected, "texts")
    assert parser.parse_string(parser.dump(config)) == config


# --- resuming ---


def resuming(data: ShakespeareDataModule, training: bool = True) -> ShakespeareDataModule:
    data.trainer = SimpleNamespace(training=training)
    return data


def test_the_same_text_and_split_can_be_resumed() -> None:
    state = sample().state_dict()
    assert state == {**sample().fingerprint, "corpus": ["sample"]}
    resuming(sample(batch_size=3, window_order="grid", seed=5)).load_state_dict(state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val_fraction": 0.2}, "the checkpoint was trained with val_fraction 0.1, not 0.2"),
        ({"test_fraction": 0.2}, "the checkpoint was trained with test_fraction 0.0, not 0.2"),
    ],
)
def test_another_split_cannot_be_resumed(options: dict, message: str) -> None:
    state = sample().state_dict()
    with pytest.raises(UserError, match=f"^cannot resume: {message}; resume with the --data "):
        resuming(sample(**options)).load_state_dict(state)


def test_another_text_cannot_be_resumed_even_if_its_vocabulary_is_the_same(tmp_path: Path) -> None:
    one, other = (
        ShakespeareDataModule(corpus=files(tmp_path / name, text))
        for name, text in [("one", "abc" * 20), ("other", "acb" * 20)]
    )
    assert one.vocabulary == other.vocabulary
    with pytest.raises(UserError, match="cannot resume: the checkpoint was trained on another"):
        resuming(other).load_state_dict(one.state_dict())


def test_random_chunks_are_resumed_only_with_the_same_seed() -> None:
    with pytest.warns(UserWarning, match="neighbours"):
        state = sample(split="random_chunks").state_dict()
    data = ShakespeareDataModule(corpus="sample", split="random_chunks", seed=2)
    with pytest.raises(UserError, match="trained with seed 1337, not 2"):
        resuming(data).load_state_dict(state)


def test_evaluating_a_checkpoint_on_another_split_is_not_refused() -> None:
    state, other = sample().state_dict(), sample(val_fraction=0.2)
    other.load_state_dict(state)
    resuming(other, training=False).load_state_dict(state)


def test_a_misspelt_option_is_refused() -> None:
    with pytest.raises(UserError, match=r"option is 'batchsize': choose from: corpus, .*, split, "):
        ShakespeareDataModule(batchsize=3)
