"""The data module: parts, vocabulary, loaders."""

from pathlib import Path

import pytest

from shakespeare_lm.data.datamodule import ShakespeareDataModule
from shakespeare_lm.errors import UserError


def sample(**options: object) -> ShakespeareDataModule:
    data = ShakespeareDataModule(corpus="sample", **options)
    data.setup("fit")
    return data


def targets(loader) -> int:
    return sum(int(batch.target_mask.sum()) for batch in loader)


def test_all_characters_but_the_first_of_each_part_are_targets() -> None:
    data = sample()
    total = len(ShakespeareDataModule(corpus="sample").documents[0])
    train, (val, _) = data.train_dataloader(), data.val_dataloader()
    assert targets(train) == int(total * 0.9) - 1
    assert targets(train) + targets(val) == total - 2


def test_batches_have_the_size_that_was_asked_for() -> None:
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


def test_a_test_part_is_held_back() -> None:
    data = sample(val_fraction=0.2, test_fraction=0.1)
    total = len(ShakespeareDataModule(corpus="sample").documents[0])
    assert targets(data.test_dataloader()) == pytest.approx(total * 0.1, abs=2)
    assert targets(data.val_dataloader()[0]) == pytest.approx(total * 0.2, abs=2)


def test_random_chunks_warn_that_neighbours_leak() -> None:
    with pytest.warns(UserWarning, match="neighbours of the validation chunks are trained on"):
        sample(split="random_chunks")


def test_random_chunks_are_not_cut_in_two_by_a_shift() -> None:
    with pytest.warns(UserWarning, match="neighbours"):
        loader = sample(split="random_chunks", sampling="shifted").train_dataloader()
    full = sum(int(batch.target_mask.all(dim=1).sum()) for batch in loader)
    assert full >= len(loader.windows(0).starts) - 1


def test_many_symbols_make_smaller_validation_batches(tmp_path: Path) -> None:
    path = tmp_path / "many.txt"
    path.write_text("".join(map(chr, range(0x4E00, 0x4E00 + 5000))), encoding="utf-8")
    data = ShakespeareDataModule(corpus=str(path), context_length=32)
    data.setup()
    assert data.val_dataloader()[0].batch_size == (1 << 22) // 5001 // 32


def test_setup_lets_go_of_the_characters() -> None:
    data = sample()
    assert "documents" not in vars(data)
    assert "parts" not in vars(data)
    assert data.vocabulary == data.tokenizer.vocabulary


@pytest.mark.parametrize("text", ["a", "ab", "abcdefghij"])
def test_a_text_too_short_to_split_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "short.txt"
    path.write_text(text)
    with pytest.raises(
        UserError, match=f"the text has {len(text)} characters, too few for a split"
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
