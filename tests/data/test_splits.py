"""The parts of a split lose and repeat nothing, and a fingerprint tells texts and splits apart."""

import itertools
from dataclasses import FrozenInstanceError, replace

import pytest

from shakespeare_lm.data.splits import (
    Parts,
    SplitConfig,
    SplitKind,
    describe_difference,
    fingerprint,
    split_contiguous,
    split_documents,
    split_random_chunks,
    split_whole_documents,
)
from shakespeare_lm.errors import UserError


def unique(length: int, start: int = 1000) -> str:
    """Return a text in which every character is different."""
    return "".join(chr(start + number) for number in range(length))


# --- contiguous ---


def test_the_last_part_of_a_text_is_for_validation() -> None:
    assert split_contiguous(["abcdefghij"], 0.1) == (["abcdefghi"], ["j"], [])
    assert split_contiguous(["abcdefghij"], 0.5) == (["abcde"], ["fghij"], [])


def test_the_test_part_comes_after_the_validation_part() -> None:
    assert split_contiguous(["abcdefghij"], 0.2, 0.3) == (["abcde"], ["fg"], ["hij"])


def test_a_part_of_fraction_0_is_empty() -> None:
    assert split_contiguous(["abcdefghij"], 0.0) == (["abcdefghij"], [], [])
    assert split_contiguous(["abcdefghij"], 0.0, 0.5) == (["abcde"], [], ["fghij"])


def test_documents_stay_documents_and_a_cut_one_continues_in_the_next_part() -> None:
    documents = ["abc", "defg", "hij"]
    assert split_contiguous(documents, 0.5) == (["abc", "de"], ["fg", "hij"], [])
    assert split_contiguous(documents, 0.3) == (["abc", "defg"], ["hij"], [])
    assert split_contiguous(documents, 0.2, 0.4) == (["abc", "d"], ["ef"], ["g", "hij"])
    assert split_contiguous(["abcdefghij"], 0.4, 0.4) == (["ab"], ["cdef"], ["ghij"])


def test_tiny_shakespeare_is_cut_where_everybody_cuts_it() -> None:
    train, val, test = split_contiguous(["x" * 1_115_394], 0.1)
    assert [len(document) for document in train] == [1_003_854]
    assert [len(document) for document in val] == [111_540]
    assert test == []


def test_a_contiguous_split_loses_and_repeats_no_character() -> None:
    text = unique(500)
    documents = [text[:7], text[7:8], text[8:300], text[300:]]
    for val_percent, test_percent in itertools.product(range(0, 50, 3), repeat=2):
        parts = split_contiguous(documents, val_percent / 100, test_percent / 100)
        assert "".join(itertools.chain(*parts)) == text, (val_percent, test_percent)


def test_a_test_fraction_of_n_percent_of_100_characters_has_n_characters() -> None:
    for percent in range(100):
        test = split_contiguous([unique(100)], 0.0, percent / 100).test
        assert sum(map(len, test)) == percent


# --- whole documents ---


@pytest.mark.parametrize(
    ("fractions", "expected"),
    [
        ((0.1, 0.0), (["aaaa", "bb", "ccc"], ["d"], [])),
        ((0.4, 0.0), (["aaaa", "bb"], ["ccc", "d"], [])),
        ((0.1, 0.3), (["aaaa"], ["bb"], ["ccc", "d"])),
        ((0.9, 0.0), (["aaaa"], ["bb", "ccc", "d"], [])),
    ],
)
def test_whole_documents_are_held_out_from_the_end(
    fractions: tuple[float, float], expected: Parts
) -> None:
    assert split_whole_documents(["aaaa", "bb", "ccc", "d"], *fractions) == expected


def test_each_part_gets_a_document_however_large_or_small_the_documents_are() -> None:
    documents = ["a", "b" * 50, "c" * 1000]
    assert split_whole_documents(documents, 0.1, 0.1) == (["a"], ["b" * 50], ["c" * 1000])
    assert split_whole_documents(documents[::-1], 0.5, 0.4) == (["c" * 1000], ["b" * 50], ["a"])
    assert split_whole_documents(documents[:2], 0.001) == (["a"], ["b" * 50], [])


def test_a_part_takes_the_number_of_documents_closest_to_its_fraction() -> None:
    documents = ["x" * 10] * 10
    for fraction, count in [(0.05, 1), (0.14, 1), (0.16, 2), (0.3, 3), (0.34, 3), (0.36, 4)]:
        assert len(split_whole_documents(documents, fraction).val) == count
        assert len(split_whole_documents(documents, 0.1, fraction).test) == count


@pytest.mark.parametrize(
    ("documents", "test_fraction", "needed"), [(["abc"], 0.0, 2), (["abc", "def"], 0.1, 3)]
)
def test_too_few_documents_to_hold_some_out_are_refused(
    documents: list[str], test_fraction: float, needed: int
) -> None:
    message = rf"has {len(documents)} document\(s\), expected at least {needed}; give several files"
    with pytest.raises(UserError, match=message):
        split_whole_documents(documents, 0.1, test_fraction)


# --- random chunks ---


@pytest.mark.parametrize("context_length", [1, 3, 8, 1000])
def test_random_chunks_predict_each_character_but_the_first_exactly_once(
    context_length: int,
) -> None:
    documents = [unique(100), unique(1, 2000), unique(2, 3000), unique(41, 4000)]
    parts = split_random_chunks(documents, 0.2, 0.1, context_length, seed=1)
    predicted = [character for part in parts for chunk in part for character in chunk[1:]]
    assert sorted(predicted) == [character for text in documents for character in text[1:]]


def test_each_random_chunk_is_a_piece_of_one_document() -> None:
    documents = [unique(100), unique(41, 2000)]
    parts = split_random_chunks(documents, 0.2, 0.1, 8, seed=1)
    for chunk in itertools.chain(*parts):
        assert 2 <= len(chunk) <= 9
        assert any(chunk in document for document in documents)


def test_random_chunks_are_distributed_by_the_fractions() -> None:
    train, val, test = split_random_chunks([unique(801)], 0.2, 0.1, 8, seed=1)
    assert (len(train), len(val), len(test)) == (70, 20, 10)


def test_random_chunks_are_not_in_the_order_of_the_text() -> None:
    train, val, _ = split_random_chunks([unique(801)], 0.5, 0.0, 8, seed=1)
    assert min(val) < max(train)
    assert min(train) < max(val)


def test_the_seed_determines_which_chunks_are_in_which_part() -> None:
    def split(seed: int) -> Parts:
        return split_random_chunks([unique(801)], 0.2, 0.1, 8, seed)

    assert split(1) == split(1)
    assert set(split(1).val) != set(split(2).val)


# --- options ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "random"}, "split is 'random': choose from: contiguous, documents, random_chun"),
        ({"val_fraction": 0.0}, "val_fraction is 0.0: expected a value > 0"),
        ({"val_fraction": 1.0}, "val_fraction is 1.0: expected 0 <= val_fraction < 1"),
        ({"val_fraction": "0.1"}, "val_fraction is '0.1': expected float"),
        ({"test_fraction": -0.1}, "test_fraction is -0.1: expected 0 <= test_fraction < 1"),
        ({"val_fraction": 0.6, "test_fraction": 0.4}, "their sum must be less than 1"),
    ],
)
def test_options_of_the_split_out_of_range_are_refused(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        SplitConfig(**options)


def test_a_split_config_cannot_change_after_its_checks() -> None:
    with pytest.raises(FrozenInstanceError):
        SplitConfig().val_fraction = 2.0  # type: ignore[misc]


def test_the_config_chooses_the_split() -> None:
    documents, config = ["abcdefgh", "ij"], SplitConfig(val_fraction=0.4)
    assert split_documents(documents, config, 3, 0).val == ["gh", "ij"]
    config = replace(config, split="documents")
    assert split_documents(documents, config, 3, 0).val == ["ij"]


def test_random_chunks_depend_on_context_length_and_seed_and_come_with_a_warning() -> None:
    config = SplitConfig(split="random_chunks", val_fraction=0.2, test_fraction=0.1)
    with pytest.warns(UserWarning, match="neighbours of the validation chunks are trained on"):
        parts = split_documents([unique(801)], config, 8, 5)
    assert parts == split_random_chunks([unique(801)], 0.2, 0.1, 8, seed=5)


@pytest.mark.parametrize(
    ("documents", "config"),
    [
        ([], SplitConfig()),
        (["abcdefghij"], SplitConfig()),
        (["abcdefghij"], SplitConfig(val_fraction=0.9)),
        (["abcdefghij"], SplitConfig(val_fraction=0.3, test_fraction=0.1)),
        (["abcdefghij", "k", ""], SplitConfig(split="documents")),
    ],
)
def test_a_part_without_anything_to_predict_is_refused(
    documents: list[str], config: SplitConfig
) -> None:
    characters = sum(map(len, documents))
    with pytest.raises(UserError, match=f"has {characters} characters, too few to split with"):
        split_documents(documents, config, 8, 0)


# --- fingerprint ---

TEXT = ["To be, ", "or not to be"]


def test_a_fingerprint_does_not_depend_on_what_leaves_the_validation_part_unchanged() -> None:
    one = fingerprint(TEXT, SplitConfig(), context_length=8, seed=1)
    assert one == fingerprint(list(TEXT), SplitConfig(), context_length=16, seed=2)
    assert describe_difference(dict(one), one) is None


def test_a_fingerprint_holds_only_plain_values() -> None:
    config = SplitConfig(split="random_chunks")
    values = fingerprint(TEXT, config, context_length=8, seed=1)
    assert list(values) == [
        "text_sha256",
        "split",
        "val_fraction",
        "test_fraction",
        "context_length",
        "seed",
    ]
    assert {type(value) for value in values.values()} == {str, float, int}


@pytest.mark.parametrize(
    "documents",
    [
        ["To be, ", "or not to bo"],
        ["To be, or not to be"],
        ["To be, o", "r not to be"],
        ["or not to be", "To be, "],
        ["To be, ", "or not to be", ""],
    ],
)
def test_a_fingerprint_tells_other_documents_apart(documents: list[str]) -> None:
    theirs, ours = (fingerprint(text, SplitConfig(), 8, 1) for text in (TEXT, documents))
    assert describe_difference(theirs, ours) == "the checkpoint was trained on another text"


@pytest.mark.parametrize(
    ("kind", "options", "changed"),
    [
        ("contiguous", {"val_fraction": 0.2}, "val_fraction 0.2, not 0.1"),
        ("documents", {"test_fraction": 0.2}, "test_fraction 0.2, not 0.0"),
        ("contiguous", {"split": "documents"}, "split documents, not contiguous"),
        ("random_chunks", {"context_length": 9}, "context_length 9, not 8"),
        ("random_chunks", {"seed": 2}, "seed 2, not 1"),
        ("random_chunks", {"split": "contiguous"}, "split contiguous, not random_chunks"),
    ],
)
def test_the_first_difference_of_a_split_is_named(
    kind: SplitKind, options: dict, changed: str
) -> None:
    sizes = {"context_length": 8, "seed": 1}
    ours = fingerprint(TEXT, SplitConfig(split=kind), **sizes)
    other_sizes = {name: options.get(name, value) for name, value in sizes.items()}
    other_split = {name: options[name] for name in options.keys() - sizes.keys()}
    theirs = fingerprint(TEXT, SplitConfig(**{"split": kind, **other_split}), **other_sizes)
    assert describe_difference(theirs, ours) == f"the checkpoint was trained with {changed}"


def test_a_checkpoint_without_or_with_a_strange_fingerprint_differs() -> None:
    ours = fingerprint(TEXT, SplitConfig(), 8, 1)
    assert describe_difference(None, ours) == (
        "the checkpoint has no fingerprint of its text and split"
    )
    assert describe_difference({}, ours) == "the checkpoint was trained on another text"
    strange = describe_difference({**ours, "split": "x" * 1000}, ours)
    assert strange is not None
    assert len(strange) < 200


def test_a_difference_of_nested_values_is_named_without_printing_them() -> None:
    endless: list = ["x"] * 10
    for _ in range(20):
        endless = [endless] * 10
    ours = fingerprint(["ab"], SplitConfig(), 4, 1)
    theirs = {**ours, "split": endless}
    assert describe_difference(theirs, ours) == (
        "the checkpoint was trained with split list, not contiguous"
    )
