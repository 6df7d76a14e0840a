"""A pickle from anybody -> whether torch.load may build it: its operations are followed with
stand-ins, so that nothing is built, hashed or called here.

What passes is a tree of plain values and tensors: it can be hashed, compared, copied and printed in
time proportional to its file, however often the pickle shares or nests its values.
"""

import pickletools
import re
from dataclasses import dataclass
from typing import Any

from shakespeare_lm.errors import UserError

# A large model's tree of names and sizes takes a tenth of these.
_MAX_VALUES = 1_000_000
_MAX_DEPTH = 100
_CHARACTERS_PER_VALUE = 64  # a text counts as so many more values
_TYPES = ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Byte", "Bool")
_STORAGES = {f"torch {name}Storage" for name in _TYPES}
# What is called: the kind of value that it returns, and the kinds of its arguments.
_CALLS = {
    "BINPERSID": ("storage", r"key torch \w+Storage key key \w+"),
    "collections OrderedDict": ("dict", ""),
    "torch._utils _rebuild_tensor_v2": ("tensor", r"storage \w+ tuple tuple false dict"),
}
_PLAIN = {"key", "scalar", "false", "list", "dict", "tuple", "tensor"}
# What the operations push that torch.save writes, and how many values others take.
_PUSHED = {"BINUNICODE": "key", "BININT": "key", "BININT1": "key", "BININT2": "key",
           "BINFLOAT": "scalar", "LONG1": "scalar", "NONE": "scalar", "NEWTRUE": "scalar",
           "NEWFALSE": "false", "EMPTY_LIST": "list", "EMPTY_DICT": "dict",
           "EMPTY_TUPLE": "tuple"}  # fmt: skip
_TAKEN = {"APPEND": 1, "SETITEM": 2, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass(slots=True)
class _Value:
    kind: str  # of `_PLAIN`, "storage", a tuple of "arguments", or the name of a class or function
    content: Any = ()  # the values of a tuple, the keys of a dict, the text of a key
    size: int = 1  # the number of values in it; a shared one counts each time
    depth: int = 0
    is_shared: bool = False


def check_pickle(pickled: bytes) -> None:
    """Raise a `UserError` unless a pickle is a tree of tensors and plain values, of bounded size
    and depth, whose keys are texts and small integers. A broken pickle raises any exception.
    """
    machine = _Machine()
    for number, (operation, argument, _) in enumerate(pickletools.genops(pickled)):
        if number > _MAX_VALUES:
            raise UserError(f"has more than {_MAX_VALUES:,} values")
        machine.follow(operation.name, argument)


class _Machine:
    """An unpickler's stack and memo, of stand-ins."""

    def __init__(self) -> None:
        self.stack: list[_Value] = []
        self.marks: list[int] = []
        self.memo: dict[int, _Value] = {}

    def follow(self, name: str, argument: Any) -> None:
        if name in _PUSHED:
            self.push(name, argument)
        elif name in _TAKEN:
            self.gather(name, len(self.stack) - _TAKEN[name])
        elif name in ("TUPLE", "APPENDS", "SETITEMS"):
            self.gather(name, self.marks.pop())
        elif name == "MARK":
            self.marks.append(len(self.stack))
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self.memo[argument].is_shared = True
            self.stack.append(self.memo[argument])
        elif name in ("REDUCE", "BINPERSID", "BUILD"):
            self.make(name)
        elif name == "GLOBAL" and (argument in _CALLS or argument in _STORAGES):
            self.stack.append(_Value(argument))
        elif name not in ("PROTO", "STOP"):
            raise _more_than_plain(argument)

    def push(self, name: str, argument: Any) -> None:
        if name == "LONG1" and argument.bit_length() > 64:
            raise UserError("holds an integer of more than 64 bits")
        kind = _PUSHED[name]
        size = 1 + len(argument) // _CHARACTERS_PER_VALUE if name == "BINUNICODE" else 1
        self.stack.append(_Value(kind, argument if kind == "key" else [], size))

    def gather(self, name: str, start: int) -> None:
        """Move the values from a position of the stack on into a new tuple, or into the list or
        dict below them.
        """
        values = self.stack[start:]
        del self.stack[start:]
        is_plain = all(value.kind in _PLAIN for value in values)
        if name.startswith("TUPLE"):
            self.stack.append(_Value("tuple" if is_plain else "arguments", values))
        elif not is_plain or self.stack[-1].is_shared:  # it could come to hold itself
            raise _more_than_plain()
        elif self.stack[-1].kind == "dict":
            if any(key.kind != "key" for key in values[::2]):
                raise UserError("has a key that is neither a text nor a small integer")
            self.stack[-1].content += [key.content for key in values[::2]]
        holder = self.stack[-1]
        holder.size += sum(value.size for value in values)
        holder.depth = max(holder.depth, *(1 + value.depth for value in values), 0)
        if holder.size > _MAX_VALUES or holder.depth > _MAX_DEPTH:
            raise UserError("holds values nested too deeply, or shared too often")

    def make(self, name: str) -> None:
        """Follow a call, or BUILD, which gives a state dict its only attribute, `_metadata`."""
        given = self.stack.pop()
        if name == "BUILD":
            if given.kind != "dict" or given.content != ["_metadata"]:
                raise _more_than_plain()
            return
        called = name if name == "BINPERSID" else self.stack.pop().kind
        kinds = " ".join(str(getattr(value, "kind", None)) for value in given.content)
        if called not in _CALLS or not re.fullmatch(_CALLS[called][1], kinds):
            raise _more_than_plain()
        self.stack.append(_Value(_CALLS[called][0], []))


def _more_than_plain(name: Any = None) -> UserError:
    named = f" ({str(name).replace(' ', '.')[:80]!r})" if name else ""
    return UserError(
        f"holds more than tensors and plain values, possibly code{named}: it was not loaded"
    )
