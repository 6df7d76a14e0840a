"""The page as a file: self-contained, its text is text, and its weights are those measured."""

import json
import re
import struct
import zlib
from base64 import b64decode, b64encode
from hashlib import sha256
from pathlib import Path

import pytest
import torch

from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.errors import UserError
from shakespeare_lm.methods.networks import NetworkOptions, build_network
from shakespeare_lm.page import html
from shakespeare_lm.page.html import PageContent, build_page, check_fits, opening
from shakespeare_lm.page.packing import Packed, pack, round_rows
from tests.export.models import random_checkpoint

HOSTILE = '</script><script>alert("1")</script><!-- --> ]]>'
CONTROLS = "\0\x1b\x7f\u202e\u2066\udcff\n"
CONFIG = NetworkOptions(context_length=8, num_layers=1, num_heads=2, d_model=8)
TOKENIZER = CharTokenizer("".join(sorted(set("\nab" + HOSTILE))))


@pytest.fixture
def packed() -> Packed:
    torch.manual_seed(0)
    return pack(build_network(TOKENIZER.vocab_size, CONFIG).state_dict())


def page(packed: Packed, samples: list[tuple[int, str]]) -> str:
    title = HOSTILE + CONTROLS
    card, chart = [(title, title)], CONTROLS if samples else ""
    content = PageContent(title, title, TOKENIZER, CONFIG, packed, HOSTILE, card, chart, samples)
    return build_page(content)


def between(text: str, start: str, end: str) -> str:
    return text.partition(start)[2].partition(end)[0]


def test_the_page_holds_the_model_loads_nothing_and_takes_hostile_text_for_text(
    packed: Packed,
) -> None:
    built = page(packed, [(1, HOSTILE + "\x1b\n")])
    assert built == page(packed, [(1, HOSTILE + "\x1b\n")])
    assert HOSTILE not in built
    assert not re.search(
        "[\0-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", built
    )
    assert built.count("]]&gt;" + r"\x00\x1b\x7f\u202e\u2066\udcff") == 5
    assert built.count("<script") == 6
    model = json.loads(between(built, 'id="model">', "</script>"))
    assert model["prompt"] == HOSTILE
    assert model["samples"] == [[1, HOSTILE + "\\x1b\n"]]
    assert b64decode(between(built, 'id="weights">', "</script>")) == packed.data
    assert not re.findall(r"""(src|href)\s*=\s*["']""", built)
    addresses = set(re.findall(r"https?://[^\"' ]+", built))
    assert addresses == {"http://www.w3.org/2000/svg"}  # the name of a format
    assert 'aria-labelledby="learned-title" >' in built
    assert 'aria-labelledby="learned-title" hidden' in page(packed, [])  # a part without content


def test_only_its_own_script_and_style_are_allowed(packed: Packed) -> None:
    built = page(packed, [])
    policy = between(built, 'Content-Security-Policy" content="', '">')
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    for start, end in (("<style>", "</style>"), ("<script>", "</script>")):
        checksum = b64encode(sha256(between(built, start, end).encode()).digest()).decode()
        assert f"{start[1:-1]}-src 'sha256-{checksum}'" in policy


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["half a line\n\n-- 12\n  Жили?-были \nдед\n"], "Жилибыли\n"),
        (["без конца строки" * 9], ("без конца строки" * 9)[:80] + "\n"),
        (["\n1234\n", "", "?\nдед"], "дед\n"),
        (["1\n", "xyz"], ""),
        ([], ""),
    ],
)
def test_a_page_opens_with_the_first_whole_line_of_letters_that_the_model_knows(
    texts: list[str], expected: str
) -> None:
    assert opening(CharTokenizer("\n абвгдежзиклмностуырцьйЖ"), texts) == expected
    assert "\n" not in opening(CharTokenizer("д е"), ["?\nдед\n"])


def test_what_a_page_cannot_hold_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_fits(random_checkpoint(tmp_path, memory_order=3))
    monkeypatch.setattr(html, "MAX_COUNTED_CHARACTERS", 399)
    with pytest.raises(UserError, match="has counted 400 characters: expected at most 399 for"):
        check_fits(random_checkpoint(tmp_path, memory_order=3))
    monkeypatch.setattr(html, "MAX_WEIGHTS", 1000)
    with pytest.raises(UserError, match=r"weights: expected at most 1,000 for a page"):
        check_fits(random_checkpoint(tmp_path))


def test_the_data_has_each_rows_scale_and_integers_and_vectors_as_they_are() -> None:
    packed = pack({"norm": torch.tensor([1.5, -2.0]), "m": torch.tensor([[0.5, -1.0], [0.0, 0.0]])})
    tensors = [
        {"name": "norm", "shape": [2], "start": 0},
        {"name": "m", "shape": [2, 2], "start": 8},
    ]
    checksum = zlib.crc32(packed.data)
    assert packed.manifest == {"bytes": 20, "crc32": checksum, "tensors": tensors}
    assert struct.unpack("<2f", packed.data[:8]) == (1.5, -2.0)
    assert struct.unpack("<2f", packed.data[8:16])[0] == pytest.approx(1 / 127)
    assert list(packed.data[16:20]) == [64, 256 - 127, 0, 0]  # 63.5 rounds to the even number
    assert packed.rounded["m"][1].tolist() == [0.0, 0.0]


def test_the_text_of_a_memory_is_held_as_it_is_in_one_byte_or_four() -> None:
    text, many = torch.tensor([3, 255], dtype=torch.uint8), torch.tensor([70_000])
    packed = pack({"a": text, "b": many})
    assert packed.data == bytes([3, 255, 112, 17, 1, 0])
    assert [tensor["integer_bytes"] for tensor in packed.manifest["tensors"]] == [1, 4]
    assert packed.rounded["a"].tolist() == [3, 255]


def test_no_weight_moves_by_more_than_half_a_step_of_its_row_and_none_when_packed_again() -> None:
    torch.manual_seed(0)
    matrix = torch.randn(50, 40) * torch.logspace(-3, 3, 50)[:, None]
    scales, integers = round_rows(matrix)
    assert integers.abs().amax(dim=1).tolist() == [127] * 50
    error = (scales[:, None] * integers - matrix).abs()
    assert bool((error <= 0.5001 * scales[:, None]).all())
    once = pack({"m": matrix})
    assert pack(once.rounded).data[4 * 50 :] == once.data[4 * 50 :] == integers.numpy().tobytes()
