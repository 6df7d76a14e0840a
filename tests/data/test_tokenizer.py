"""Bytes become text; text becomes ids, and ids become the same text again."""

import re
import subprocess
import sys

import pytest

from shakespeare_lm.data.tokenizer import CharTokenizer, decode_utf8
from shakespeare_lm.errors import UserError


def test_the_id_of_a_character_is_its_index_in_the_vocabulary():
    tokenizer = CharTokenizer("zab ")
    assert tokenizer.encode("a bazz") == [1, 3, 2, 1, 0, 0]
    assert tokenizer.decode([1, 3, 2, 1, 0, 0]) == "a bazz"


def test_the_padding_id_comes_after_the_last_character():
    tokenizer = CharTokenizer("zab ")
    assert tokenizer.padding_id == 4
    assert tokenizer.vocab_size == 5


def test_a_vocabulary_made_from_texts_is_in_code_point_order():
    assert CharTokenizer.from_text("hello\n", "Oh é").vocabulary == "\n Oehloé"


def test_the_order_of_the_texts_does_not_change_the_vocabulary():
    assert CharTokenizer.from_text("ab", "ca").vocabulary == "abc"
    assert CharTokenizer.from_text("ca", "ab").vocabulary == "abc"


def test_the_vocabulary_string_alone_rebuilds_the_tokenizer():
    text = "To be, or not to be"
    tokenizer = CharTokenizer.from_text(text)
    again = CharTokenizer(tokenizer.vocabulary)
    assert again.encode(text) == tokenizer.encode(text)
    assert again.padding_id == tokenizer.padding_id


@pytest.mark.parametrize(
    "text",
    [
        "First Citizen:\nSpeak, speak.\n\n",
        "carriage\r\nreturn\rtab\tform\x0cnull\x00",
        "\u2028line separators\u2029\x85",
        "Быть или не быть",
        "生存還是毀滅",
        "أكون أو لا أكون",
        "\U0001f480 alas \U0001d4b4",
        "e\u0301 is not \u00e9",
        "family \U0001f468\u200d\U0001f469\u200d\U0001f467",
        "\ufeffmark",
        "",
    ],
)
def test_decoding_undoes_encoding_exactly(text):
    tokenizer = CharTokenizer.from_text("some more characters", text)
    ids = tokenizer.encode(text)
    assert len(ids) == len(text)
    assert tokenizer.decode(ids) == text


def test_a_combining_character_has_an_id_of_its_own():
    assert CharTokenizer("e\u0301\u00e9").encode("e\u0301\u00e9") == [0, 1, 2]


def test_a_batch_is_padded_on_the_right_to_its_longest_text():
    ids, mask = CharTokenizer("abc").batch_encode(["ab", "", "cab"])
    assert ids == [[0, 1, 3], [3, 3, 3], [2, 0, 1]]
    assert mask == [[True, True, False], [False, False, False], [True, True, True]]


def test_texts_of_one_length_need_no_padding():
    ids, mask = CharTokenizer("abc").batch_encode(["ab", "ca"])
    assert ids == [[0, 1], [2, 0]]
    assert mask == [[True, True], [True, True]]


def test_a_batch_of_no_texts_is_empty():
    assert CharTokenizer("abc").batch_encode([]) == ([], [])


def test_a_batch_is_padded_to_the_longest_text_after_skipping():
    ids, mask = CharTokenizer("abc").batch_encode(["a???", "bc"], unknown="skip")
    assert ids == [[0, 3], [1, 2]]
    assert mask == [[True, False], [True, True]]


def test_batch_decode_undoes_batch_encode():
    texts = ["ab", "", "cab\n", "\n"]
    tokenizer = CharTokenizer("abc\n")
    ids, _ = tokenizer.batch_encode(texts)
    assert tokenizer.batch_decode(ids) == texts


def test_padding_is_dropped_wherever_it_stands():
    assert CharTokenizer("abc").decode([3, 0, 3, 1, 3]) == "ab"


@pytest.mark.parametrize(
    ("text", "character", "code_point", "position"),
    [
        ("abé!", "'é'", "U+00E9", 2),
        ("\U0001f480", r"'💀'", "U+1F480", 0),
        ("a\nb", r"'\n'", "U+000A", 1),
    ],
)
def test_an_unknown_character_is_named_with_code_point_and_position(
    text, character, code_point, position
):
    with pytest.raises(UserError) as caught:
        CharTokenizer("abc").encode(text)
    message = str(caught.value)
    assert f"the character {character} ({code_point}) at position {position} " in message
    assert "3 characters" in message
    assert "\n" not in message


def test_an_unknown_character_in_a_batch_is_an_error():
    with pytest.raises(UserError, match=r"'\?' \(U\+003F\) at position 1 "):
        CharTokenizer("abc").batch_encode(["abc", "a?"])


def test_unknown_characters_can_be_skipped():
    tokenizer = CharTokenizer("abc")
    assert tokenizer.encode("?a-b\nc!", unknown="skip") == [0, 1, 2]
    assert tokenizer.encode("???", unknown="skip") == []


def test_unknown_characters_can_be_replaced_by_their_plain_form_or_a_space():
    tokenizer = CharTokenizer("ab e'")
    assert tokenizer.decode(tokenizer.encode("é-b→ǎ", unknown="replace")) == "e b a"
    assert CharTokenizer("ab").encode("é-bǎ", unknown="replace") == [1, 0]


@pytest.mark.parametrize("number", [-1, 4, 1000])
def test_an_id_out_of_range_is_an_error_that_names_the_range(number):
    with pytest.raises(UserError, match=f"the id is {number}: expected 0 <= id <= 3$"):
        CharTokenizer("abc").decode([0, number])


def test_a_repeated_character_in_a_vocabulary_is_refused():
    with pytest.raises(UserError, match="repeats a character: 'abca'"):
        CharTokenizer("abca")


def test_an_empty_vocabulary_is_refused():
    with pytest.raises(UserError, match="the vocabulary is empty"):
        CharTokenizer("")
    with pytest.raises(UserError, match="the vocabulary is empty"):
        CharTokenizer.from_text("", "")


def test_a_lone_surrogate_in_a_vocabulary_is_refused():
    with pytest.raises(UserError, match=r"lone surrogate, '\\udc00'"):
        CharTokenizer("ab\udc00")


def test_only_strings_are_encoded():
    with pytest.raises(UserError, match="the text is of type list: expected str"):
        CharTokenizer("abc").encode(["a", "b"])


def test_an_unknown_way_to_treat_unknown_characters_is_refused():
    with pytest.raises(UserError, match="unknown is 'drop': choose from: error, skip, replace"):
        CharTokenizer("abc").encode("abc", unknown="drop")


def test_encoding_a_string_needs_no_torch():
    program = (
        "import sys, shakespeare_lm.data.tokenizer as t\n"
        "print(t.CharTokenizer('abc').encode('cab'), 'torch' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.stdout == "[2, 0, 1] False\n", ran.stderr


@pytest.mark.parametrize("value", [5, None, b"abc", ["a", "b"]])
def test_a_vocabulary_of_another_type_is_refused(value):
    shown = re.escape(repr(value))
    with pytest.raises(UserError, match=f"^vocabulary is {shown}: expected str$"):
        CharTokenizer(value)


# --- bytes ---


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
