"""bytes -> characters -> ids, and back: plain Python without torch, which takes long to import."""

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Literal, get_args

from shakespeare_lm.errors import UserError, check_choice, check_type

Unknown = Literal["error", "skip", "replace"]
# How the commands read other texts, at the end of an error.
UNKNOWN_HINT = "; drop unknown characters (--unknown skip) or replace them (--unknown replace)"
# What an empty prompt starts with: each speech in a play begins on a new line.
_EMPTY_PROMPT = "\n"


def decode_utf8(data: bytes, name: object) -> str:
    """Return bytes as text, without the byte order mark that some editors write. A `UserError`
    names the first byte that is not UTF-8, and `name`: where the bytes come from.
    """
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{name} is not UTF-8 text: invalid byte 0x{data[error.start]:02X} at offset "
            f"{error.start}"
        ) from None


class CharTokenizer:
    """Maps each character of a vocabulary to its index there, and back; this string is the whole
    state. The padding symbol is not a character: its id comes after the last one, `padding_id`, and
    `vocab_size` counts it.

    Raises:
        UserError: if the vocabulary is empty, repeats a character, or has a lone surrogate.
    """

    def __init__(self, vocabulary: str) -> None:
        check_type(str, vocabulary=vocabulary)
        if not vocabulary:
            raise UserError("the vocabulary is empty: expected at least one character")
        self.vocabulary = vocabulary
        self._id_of = {character: number for number, character in enumerate(vocabulary)}
        if len(self._id_of) != len(vocabulary):
            raise UserError(f"the vocabulary repeats a character: {vocabulary!r}")
        surrogates = [character for character in vocabulary if "\ud800" <= character <= "\udfff"]
        if surrogates:
            reason = "no text contains it"
            raise UserError(f"the vocabulary has a lone surrogate, {surrogates[0]!r}: {reason}")

    @classmethod
    def from_text(cls, *texts: str, known: str = "") -> "CharTokenizer":
        """Build a tokenizer for the known characters, then all others in order of code points."""
        return cls(known + "".join(sorted(set().union(*texts) - set(known))))

    @property
    def padding_id(self) -> int:
        return len(self.vocabulary)

    @property
    def vocab_size(self) -> int:
        return len(self.vocabulary) + 1

    def encode(self, text: str, unknown: Unknown = "error") -> list[int]:
        """Return one id per character. Those outside the vocabulary: "error" refuses them with a
        `UserError` that names the first, "skip" drops them, "replace" takes their plain form (e for
        é) if it is known, else a space if the vocabulary has one.
        """
        if not isinstance(text, str):
            raise UserError(f"the text is of type {type(text).__name__}: expected str")
        check_choice("unknown", unknown, get_args(Unknown))
        if unknown == "replace":
            text = "".join(c if c in self._id_of else self._replacement(c) for c in text)
        ids = [self._id_of.get(character, -1) for character in text]
        if -1 in ids and unknown == "error":
            position = ids.index(-1)
            character = text[position]
            raise UserError(
                f"the character {character!r} (U+{ord(character):04X}) at position {position} is "
                f"not among the {len(self.vocabulary)} characters that the model knows"
                + UNKNOWN_HINT
            )
        return [number for number in ids if number != -1]

    def _replacement(self, character: str) -> str:
        plain = unicodedata.normalize("NFKD", character)
        known = "".join(part for part in plain if part in self._id_of)
        return known or (" " if " " in self._id_of else "")

    def encode_prompt(self, prompt: str, unknown: Unknown = "error") -> list[int]:
        """Encode a prompt as at least one id: an empty one becomes a newline, or the first
        character of a vocabulary without a newline.
        """
        return self.encode(prompt, unknown) or self.encode(_EMPTY_PROMPT, "skip") or [0]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of the ids, without padding; others are refused with a `UserError`."""
        ids = list(ids)
        for number in ids:
            if not 0 <= number <= self.padding_id:
                raise UserError(f"the id is {number}: expected 0 <= id <= {self.padding_id}")
        return "".join(self.vocabulary[number] for number in ids if number != self.padding_id)

    def batch_encode(
        self, texts: Sequence[str], unknown: Unknown = "error"
    ) -> tuple[list[list[int]], list[list[bool]]]:
        """Return ids, padded on the right to the longest text, and a mask that is True for real
        characters; both `[batch, time]`, as `torch.tensor` takes them.
        """
        rows = [self.encode(text, unknown) for text in texts]
        time = max(map(len, rows), default=0)
        ids = [row + [self.padding_id] * (time - len(row)) for row in rows]
        return ids, [[n != self.padding_id for n in row] for row in ids]

    def batch_decode(self, batch: Iterable[Iterable[int]]) -> list[str]:
        """Return the text of each row; padding is dropped, so it undoes `batch_encode` exactly."""
        return [self.decode(row) for row in batch]
