"""The parts of a split, and a fingerprint that tells texts and splits apart.

`tests/system/test_properties.py` shows that no split loses or repeats a character.
"""

from dataclasses import replace

import pytest

from shakespeare_lm.data.splits import (
    SplitConfig,
    describe_difference,
    fingerprint,
    split_contiguous,
    split_documents,
    split_random_chunks,
    split_whole_documents,
)
from shakespeare_lm.errors import UserError
from tests.data.conftest import ENDLESS

# Every character is different.
UNIQUE = "".join(chr(1000 + number) for number in range(801))


@pytest.mark.parametrize(
    ("documents", "fractions", "expected"),
    [
        (["abcdefghij"], (0.1,), (["abcdefghi"], ["j"], [])),
        (["abcdefghij"], (0.5,), (["abcde"], ["fghij"], [])),
        (["abcdefghij"], (0.2, 0.3), (["abcde"], ["fg"], ["hij"])),
        (["abcdefghij"], (0.4, 0.4), (["ab"], ["cdef"], ["ghij"])),
        (["abcdefghij"], (0.0,), (["abcdefghij"], [], [])),
        (["abcdefghij"], (0.0, 0.5), (["abcde"], [], ["fghij"])),
        # A document that is cut continues in the next part.
        (["abc", "defg", "hij"], (0.5,), (["abc", "de"], ["fg", "hij"], [])),
        (["abc", "defg", "hij"], (0.3,), (["abc", "defg"], ["hij"], [])),
        (["abc", "defg", "hij"], (0.2, 0.4), (["abc", "d"], ["ef"], ["g", "hij"])),
        # As everybody cuts tiny Shakespeare.
        (["x" * 1_115_394], (0.1,), (["x" * 1_003_854], ["x" * 111_540], [])),
    ],
)
def test_a_text_is_cut_into_train_then_validation_then_test(documents, fractions, expected):
    assert split_contiguous(documents, *fractions) == expected


def test_a_test_fraction_of_n_percent_of_100_characters_has_n_characters():
    for percent in range(100):
        test = split_contiguous(["x" * 100], 0.0, percent / 100).test
        assert sum(map(len, test)) == percent


@pytest.mark.parametrize(
    ("documents", "fractions", "expected"),
    [
        (["aaaa", "bb", "ccc", "d"], (0.1, 0.0), (["aaaa", "bb", "ccc"], ["d"], [])),
        (["aaaa", "bb", "ccc", "d"], (0.4, 0.0), (["aaaa", "bb"], ["ccc", "d"], [])),
        (["aaaa", "bb", "ccc", "d"], (0.1, 0.3), (["aaaa"], ["bb"], ["ccc", "d"])),
        (["aaaa", "bb", "ccc", "d"], (0.9, 0.0), (["aaaa"], ["bb", "ccc", "d"], [])),
        # Each part gets one, however large or small they are.
        (["a", "b" * 50, "c" * 1000], (0.1, 0.1), (["a"], ["b" * 50], ["c" * 1000])),
        (["c" * 1000, "b" * 50, "a"], (0.5, 0.4), (["c" * 1000], ["b" * 50], ["a"])),
        (["a", "b" * 50], (0.001, 0.0), (["a"], ["b" * 50], [])),
    ],
)
def test_whole_documents_are_held_out_from_the_end(documents, fractions, expected):
    assert split_whole_documents(documents, *fractions) == expected


def test_a_part_takes_the_number_of_documents_closest_to_its_fraction():
    documents = ["x" * 10] * 10
    for fraction, count in [(0.05, 1), (0.14, 1), (0.16, 2), (0.3, 3), (0.34, 3), (0.36, 4)]:
        assert len(split_whole_documents(documents, fraction).val) == count
        assert len(split_whole_documents(documents, 0.1, fraction).test) == count


@pytest.mark.parametrize(
    ("documents", "test_fraction", "needed"), [(["abc"], 0.0, 2), (["abc", "def"], 0.1, 3)]
)
def test_too_few_documents_to_hold_some_out_are_refused(documents, test_fraction, needed):
    message = rf"has {len(documents)} document\(s\), expected at least {needed}; give several files"
    with pytest.raises(UserError, match=message):
        split_whole_documents(documents, 0.1, test_fraction)


def test_random_chunks_are_pieces_of_a_document_in_random_parts_of_the_asked_sizes():
    documents = [UNIQUE[:640], UNIQUE[640:]]
    parts = split_random_chunks(documents, 0.2, 0.1, 8, seed=1)
    assert [len(part) for part in parts] == [70, 20, 10]
    for chunk in (chunk for part in parts for chunk in part):
        assert 2 <= len(chunk) <= 9
        assert any(chunk in document for document in documents)
    assert min(parts.val) < max(parts.train)
    assert min(parts.train) < max(parts.val)
    assert parts == split_random_chunks(documents, 0.2, 0.1, 8, seed=1)
    assert set(parts.val) != set(split_random_chunks(documents, 0.2, 0.1, 8, seed=2).val)


def test_the_config_chooses_the_split():
    documents, config = ["abcdefgh", "ij"], SplitConfig(val_fraction=0.4)
    assert split_documents(documents, config, 3, 0).val == ["gh", "ij"]
    assert split_documents(documents, replace(config, split="documents"), 3, 0).val == ["ij"]
    config = SplitConfig(split="random_chunks", val_fraction=0.2, test_fraction=0.1)
    with pytest.warns(UserWarning, match="neighbours of the validation chunks are trained on"):
        parts = split_documents([UNIQUE], config, 8, 5)
    assert parts == split_random_chunks([UNIQUE], 0.2, 0.1, 8, seed=5)


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
def test_a_part_without_anything_to_predict_is_refused(documents, config):
    characters = sum(map(len, documents))
    with pytest.raises(UserError, match=f"has {characters} characters, too few to split with"):
        split_documents(documents, config, 8, 0)


TEXT = ["To be, ", "or not to be"]
OTHER_TEXT = "the checkpoint was trained on another text"


def test_a_fingerprint_holds_plain_values_on_which_the_validation_part_depends():
    values = fingerprint(TEXT, SplitConfig(split="random_chunks"), context_length=8, seed=1)
    names = ("text_sha256", "split", "val_fraction", "test_fraction", "context_length", "seed")
    assert tuple(values) == names
    assert {type(value) for value in values.values()} == {str, float, int}
    one = fingerprint(TEXT, SplitConfig(), context_length=8, seed=1)
    assert one == fingerprint(list(TEXT), SplitConfig(), context_length=16, seed=2)
    assert describe_difference(dict(one), one) is None


def test_other_documents_are_another_text_whatever_else_differs():
    theirs, reversed_order = fingerprint(TEXT, SplitConfig(), 8, 1), TEXT[::-1]
    cut_elsewhere, joined = ["To be, o", "r not to be"], ["".join(TEXT)]
    changed, longer = ["To be, ", "or not to bo"], [*TEXT, ""]
    for documents in (reversed_order, cut_elsewhere, joined, changed, longer):
        for config in (SplitConfig(), SplitConfig(split="documents", val_fraction=0.4)):
            assert describe_difference(theirs, fingerprint(documents, config, 8, 1)) == OTHER_TEXT


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
def test_the_first_difference_of_a_split_is_named(kind, options, changed):
    def printed(split, context_length=8, seed=1, **fractions):
        return fingerprint(TEXT, SplitConfig(split=split, **fractions), context_length, seed)

    difference = describe_difference(printed(**{"split": kind, **options}), printed(kind))
    assert difference == f"the checkpoint was trained with {changed}"


def test_a_strange_fingerprint_differs_and_is_not_printed_at_length():
    ours = fingerprint(TEXT, SplitConfig(), 8, 1)
    missing = "the checkpoint has no fingerprint of its text and split"
    assert describe_difference(None, ours) == missing
    assert describe_difference({}, ours) == OTHER_TEXT
    assert len(describe_difference({**ours, "split": "x" * 1000}, ours) or "") < 200
    assert describe_difference({**ours, "split": ENDLESS}, ours) == (
        "the checkpoint was trained with split list, not contiguous"
    )
