"""Bytes become text; text becomes ids, and ids become text. That any text survives both ways is
shown in `tests/system/test_properties.py`.
"""

import re
import subprocess
import sys

import pytest

from shakespeare_lm.data.tokenizer import CharTokenizer, decode_utf8
from shakespeare_lm.errors import UserError


def test_the_id_of_a_character_is_its_index_in_the_vocabulary_and_padding_comes_last():
    tokenizer = CharTokenizer("zab ")
    assert tokenizer.encode("a bazz") == [1, 3, 2, 1, 0, 0]
    assert tokenizer.decode([1, 3, 2, 1, 0, 0]) == "a bazz"
    assert tokenizer.decode([4, 1, 4, 2, 4]) == "ab"  # wherever padding stands
    assert (tokenizer.padding_id, tokenizer.vocab_size) == (4, 5)


def test_a_vocabulary_made_from_texts_is_in_code_point_order():
    assert CharTokenizer.from_text("hello\n", "Oh é").vocabulary == "\n Oehloé"
    assert CharTokenizer.from_text("ab", "ca").vocabulary == "abc"
    assert CharTokenizer.from_text("ca", "ab").vocabulary == "abc"


@pytest.mark.parametrize(
    ("texts", "ids", "mask"),
    [
        (["ab", "", "cab"], [[0, 1, 3], [3, 3, 3], [2, 0, 1]], ["110", "000", "111"]),
        (["ab", "ca"], [[0, 1], [2, 0]], ["11", "11"]),
        (["a???", "bc"], [[0, 3], [1, 2]], ["10", "11"]),  # unknown ones are dropped first
        ([], [], []),
    ],
)
def test_a_batch_is_padded_on_the_right_to_its_longest_text(texts, ids, mask):
    tokenizer = CharTokenizer("abc")
    expected = [[character == "1" for character in row] for row in mask]
    assert tokenizer.batch_encode(texts, unknown="skip") == (ids, expected)
    assert tokenizer.batch_decode(ids) == [text.replace("?", "") for text in texts]


@pytest.mark.parametrize(
    ("text", "character", "code_point", "position"),
    [
        ("abé!", "'é'", "U+00E9", 2),
        ("\U0001f480", r"'💀'", "U+1F480", 0),
        ("a\nb", r"'\n'", "U+000A", 1),
    ],
)
def test_an_unknown_character_is_named_with_its_position(text, character, code_point, position):
    for encode in (CharTokenizer("abc").encode, lambda t: CharTokenizer("abc").batch_encode([t])):
        with pytest.raises(UserError) as caught:
            encode(text)
        assert str(caught.value) == (
            f"the character {character} ({code_point}) at position {position} is not among the 3 "
            "characters that the model knows; drop unknown characters (--unknown skip) or replace "
            "them (--unknown replace)"
        )


def test_unknown_characters_can_be_skipped_or_replaced_by_their_plain_form_or_a_space():
    tokenizer = CharTokenizer("ab e'")
    assert tokenizer.decode(tokenizer.encode("?a-b\nc!", unknown="skip")) == "ab"
    assert tokenizer.encode("???", unknown="skip") == []
    assert tokenizer.decode(tokenizer.encode("é-b→ǎ", unknown="replace")) == "e b a"
    assert CharTokenizer("ab").encode("é-bǎ", unknown="replace") == [1, 0]


@pytest.mark.parametrize(
    ("vocabulary", "message"),
    [
        ("abca", "the vocabulary repeats a character: 'abca'"),
        ("", "the vocabulary is empty: expected at least one character"),
        ("ab\udc00", r"the vocabulary has a lone surrogate, '\udc00': no text contains it"),
        *((value, f"vocabulary is {value!r}: expected str") for value in (5, None, b"a", ["a"])),
    ],
)
def test_a_vocabulary_that_cannot_be_one_is_refused(vocabulary, message):
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        CharTokenizer(vocabulary)


def test_what_cannot_be_encoded_or_decoded_is_refused():
    with pytest.raises(UserError, match="the text is of type list: expected str"):
        CharTokenizer("abc").encode(["a", "b"])
    with pytest.raises(UserError, match="unknown is 'drop': choose from: error, skip, replace"):
        CharTokenizer("abc").encode("abc", unknown="drop")
    for number in (-1, 4, 1000):
        with pytest.raises(UserError, match=f"the id is {number}: expected 0 <= id <= 3$"):
            CharTokenizer("abc").decode([0, number])


def test_encoding_a_string_needs_no_torch():
    program = (
        "import sys, shakespeare_lm.data.tokenizer as t\n"
        "print(t.CharTokenizer('abc').encode('cab'), 'torch' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.stdout == "[2, 0, 1] False\n", ran.stderr


@pytest.mark.parametrize(
    ("data", "byte", "offset"),
    [
        (b"na\xefve", "0xEF", 2),
        ("é".encode() + b"\xff", "0xFF", 2),
        ("\ufeffab".encode() + b"\x80", "0x80", 5),
        ("To be".encode("utf-16"), "0xFF", 0),
    ],
)
def test_bytes_that_are_not_utf8_are_refused_with_the_offset_of_the_byte(data, byte, offset):
    message = rf"^latin\.txt is not UTF-8 text: invalid byte {byte} at offset {offset}$"
    with pytest.raises(UserError, match=message):
        decode_utf8(data, "latin.txt")


def test_bytes_are_decoded_unchanged_but_for_a_byte_order_mark_at_the_beginning():
    assert decode_utf8("\ufeffTo be\ufeff".encode(), "marked.txt") == "To be\ufeff"
    assert decode_utf8("\ufeff\ufeff".encode(), "marked.txt") == "\ufeff"
    text = "Grüße,\r\n\x00 世界 🎭\r"
    assert decode_utf8(text.encode(), "text.txt") == text
