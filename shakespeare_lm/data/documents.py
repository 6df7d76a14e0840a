"""tokenizer -> ids: whole documents become one tensor.

Enters: documents and a tokenizer. Leaves: `Documents`, which windows are cut from.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from shakespeare_lm.data.tokenizer import CharTokenizer

# Encoding needs 12 temporary bytes per character: slices of this length keep that small.
_CHARACTERS_PER_SLICE = 1 << 20


class Documents(NamedTuple):
    """Encoded documents, concatenated.

    `ids` is `[characters]`, in the smallest integer type that holds them (one byte for up to 256
    symbols); `lengths` is `[documents]`, in characters.
    """

    ids: Tensor
    lengths: Tensor


def encode_documents(documents: Sequence[str], tokenizer: CharTokenizer) -> Documents:
    """Encode whole documents by one table look-up instead of one Python step per character.

    Every character must be in the vocabulary, as it is when the vocabulary was built from these
    documents.
    """
    code_points = torch.tensor([ord(character) for character in tokenizer.vocabulary])
    dtype = torch.uint8 if len(code_points) <= 256 else torch.int16
    if len(code_points) > 1 << 15:
        dtype = torch.int32
    id_of_code_point = torch.zeros(int(code_points.max()) + 1, dtype=dtype)
    id_of_code_point[code_points] = torch.arange(len(code_points)).to(dtype)
    lengths = [len(document) for document in documents]
    # Filled in place: concatenating pieces would need the memory twice.
    ids, end = torch.empty(sum(lengths), dtype=dtype), 0
    for document in documents:
        for start in range(0, len(document), _CHARACTERS_PER_SLICE):
            text = document[start : start + _CHARACTERS_PER_SLICE]
            ids[end : end + len(text)] = id_of_code_point[_code_points(text)]
            end += len(text)
    return Documents(ids, torch.tensor(lengths, dtype=torch.long))


def _code_points(text: str) -> Tensor:
    return torch.frombuffer(bytearray(text.encode("utf-32-le")), dtype=torch.int32)
