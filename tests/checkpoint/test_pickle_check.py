"""Which pickles torch.load may build: trees of plain values and tensors, in bounded time."""

import io
import pickle
import zipfile
from collections import OrderedDict
from typing import Any

import pytest
import torch

from shakespeare_lm.checkpoint.pickle_check import check_pickle
from shakespeare_lm.errors import UserError

MERSENNE = 2**61 - 1  # every multiple of it has the hash 0


def pickled(value: object) -> bytes:
    """Return the pickle that torch.save writes."""
    file = io.BytesIO()
    torch.save(value, file)
    with zipfile.ZipFile(file) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))


def with_attribute(name: str) -> OrderedDict:
    value = OrderedDict(a=1)
    setattr(value, name, "x")
    return value


def doubled(make: bytes, levels: int = 60) -> bytes:
    """Return operations that pair a value with itself, and that pair with itself, and so on."""
    return make + b"".join(b"q%ch%c\x86" % (level, level) for level in range(levels))


ITSELF: list[Any] = []
ITSELF.append(ITSELF)


def test_what_checkpoints_hold_passes() -> None:
    shared = (0.9, 0.95)
    module = torch.nn.LSTM(2, 2)
    check_pickle(pickled({
        "state_dict": module.state_dict(), "step": 2**40, 7: [None, True, -1.5, "x"],
        "many": dict.fromkeys(range(3000), shared), "steps": [*range(3000)],
        "half": torch.zeros(2).bfloat16(), "nested": {"a": [{"b": ()}]},
    }))  # fmt: skip


@pytest.mark.parametrize(
    ("content", "message"),
    [
        # To hash, compare or print these would take 2^60 steps, or overflow the stack.
        (b"}" + doubled(b")") + b"K\x01s", "nested too deeply, or shared too often"),
        (doubled(b"]"), "nested too deeply, or shared too often"),
        (b")" + b"\x85" * 100_000, "nested too deeply, or shared too often"),
        (ITSELF, "holds more than tensors and plain values"),
        ([["x" * 60_000] * 1000] * 2, "nested too deeply, or shared too often"),
        # Equal hashes make a dict quadratic.
        ({MERSENNE * number: 0 for number in range(1, 99)}, "an integer of more than 64 bits"),
        ({MERSENNE: 0}, "has a key that is neither a text nor a small integer"),
        ({(1, 2): 0}, "has a key that is neither a text nor a small integer"),
        ({1.5: 0}, "has a key that is neither a text nor a small integer"),
        ({None: 0}, "has a key that is neither a text nor a small integer"),
        (2**500, "an integer of more than 64 bits"),
        # More than values: these are called, or change what is read.
        *((with_attribute(name), "more than tensors") for name in ("keys", "get")),
        ({1, 2}, "more than tensors"),
        (frozenset([1]), "more than tensors"),
        (b"x", "more than tensors"),
        ([OrderedDict], "more than tensors"),
        (torch.zeros(2, requires_grad=True), "more than tensors"),
        (pickle.dumps("x", 4)[:-1], "more than tensors"),
        (b"ccollections\nOrderedDict\n](K\x01K\x02\x86e\x85R", "more than tensors"),
        (b"}" * 1_000_001, "more than 1,000,000 values"),
    ],
)  # fmt: skip
def test_what_could_take_forever_or_run_is_refused(content: object, message: str) -> None:
    if isinstance(content, bytes) and len(content) > 1:
        content = b"\x80\x02" + content + b"."
    else:
        content = pickled(content)
    with pytest.raises(UserError, match=message):
        check_pickle(content)
