"""Whole documents are encoded as one tensor, as the tokenizer would encode them."""

import pytest
import torch

from shakespeare_lm.data.documents import encode_documents
from shakespeare_lm.data.tokenizer import CharTokenizer


def test_whole_documents_are_encoded_as_the_tokenizer_encodes_them() -> None:
    documents = ["Grüße, 世界!\n", "", "🎭 to be 🎭" * 3]
    tokenizer = CharTokenizer.from_text(*documents)
    encoded = encode_documents(documents, tokenizer)
    assert encoded.ids.tolist() == tokenizer.encode("".join(documents))
    assert encoded.lengths.tolist() == [len(document) for document in documents]


def test_ids_are_indices_in_a_vocabulary_of_any_order() -> None:
    assert encode_documents(["abc"], CharTokenizer("cab")).ids.tolist() == [1, 2, 0]


@pytest.mark.parametrize(
    ("symbols", "dtype"),
    [
        (256, torch.uint8),
        (257, torch.int16),
        (1 << 15, torch.int16),
        ((1 << 15) + 1, torch.int32),
    ],
)
def test_ids_take_the_smallest_integer_type_that_holds_them(
    symbols: int, dtype: torch.dtype
) -> None:
    text = "".join(map(chr, range(0x10000, 0x10000 + symbols)))
    encoded = encode_documents([text], CharTokenizer(text))
    assert encoded.ids.dtype == dtype
    assert encoded.ids.tolist() == list(range(symbols))


def test_documents_longer_than_one_slice_are_encoded_completely(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shakespeare_lm.data.documents._CHARACTERS_PER_SLICE", 3)
    encoded = encode_documents(["abcdefgh", "hg"], CharTokenizer("abcdefgh"))
    assert encoded.ids.tolist() == [*range(8), 7, 6]


def test_no_documents_are_no_ids() -> None:
    encoded = encode_documents([], CharTokenizer("a"))
    assert encoded.ids.tolist() == []
    assert encoded.lengths.tolist() == []
    assert encoded.lengths.dtype == torch.long
