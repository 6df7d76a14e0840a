"""Bytes become text, or an error that names the first byte that is not UTF-8."""

import pytest

from shakespeare_lm.data.text import decode_utf8
from shakespeare_lm.errors import UserError


@pytest.mark.parametrize(
    ("data", "byte", "offset"),
    [
        (b"na\xefve", "0xEF", 2),
        ("é".encode() + b"\xff", "0xFF", 2),
        ("\ufeffab".encode() + b"\x80", "0x80", 5),
        ("To be".encode("utf-16"), "0xFF", 0),
    ],
)
def test_bytes_that_are_not_utf8_are_refused_with_the_offset_of_the_byte(
    data: bytes, byte: str, offset: int
) -> None:
    with pytest.raises(
        UserError, match=rf"^latin\.txt is not UTF-8 text: invalid byte {byte} at offset {offset}$"
    ):
        decode_utf8(data, "latin.txt")


def test_a_byte_order_mark_is_dropped_only_at_the_beginning() -> None:
    assert decode_utf8("\ufeffTo be\ufeff".encode(), "marked.txt") == "To be\ufeff"
    assert decode_utf8("\ufeff\ufeff".encode(), "marked.txt") == "\ufeff"


def test_everything_else_is_decoded_unchanged() -> None:
    text = "Grüße,\r\n\x00 世界 🎭\r"
    assert decode_utf8(text.encode(), "text.txt") == text
