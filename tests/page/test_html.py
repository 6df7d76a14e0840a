"""The page as a file: self-contained, and its text is text."""

import json
import re
from base64 import b64decode, b64encode
from hashlib import sha256
from pathlib import Path

import pytest
import torch

from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.errors import UserError
from shakespeare_lm.methods.networks import NetworkOptions, build_network
from shakespeare_lm.page import html
from shakespeare_lm.page.html import PageContent, build_page, check_fits
from shakespeare_lm.page.packing import pack
from tests.export.models import random_checkpoint

HOSTILE = '</script><script>alert("1")</script><!--'
CONFIG = NetworkOptions(context_length=8, num_layers=1, num_heads=2, d_model=8)


def page(**changes: object) -> str:
    tokenizer = CharTokenizer("".join(sorted(set("\nab" + HOSTILE))))
    packed = pack(build_network(tokenizer.vocab_size, CONFIG).state_dict())
    content = {
        "title": HOSTILE, "subtitle": HOSTILE, "tokenizer": tokenizer, "config": CONFIG,
        "packed": packed, "prompt": HOSTILE, "card": [(HOSTILE, HOSTILE)],
        "samples": [(1, HOSTILE)],
    }  # fmt: skip
    return build_page(PageContent(**{**content, **changes}))  # type: ignore[arg-type]


def between(text: str, start: str, end: str) -> str:
    return text.partition(start)[2].partition(end)[0]


def test_hostile_text_is_text() -> None:
    built = page()
    assert HOSTILE not in built
    model = json.loads(between(built, 'id="model">', "</script>"))
    assert model["prompt"] == HOSTILE
    assert model["samples"] == [[1, HOSTILE]]
    assert built.count("<script") == 4


def test_only_its_own_script_and_style_are_allowed() -> None:
    built = page()
    policy = between(built, 'Content-Security-Policy" content="', '">')
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    for start, end in (("<style>", "</style>"), ("<script>", "</script>")):
        checksum = b64encode(sha256(between(built, start, end).encode()).digest()).decode()
        assert f"'sha256-{checksum}'" in policy


def test_it_loads_nothing_and_is_the_same_each_time() -> None:
    torch.manual_seed(0)
    first = page()
    torch.manual_seed(0)
    assert page() == first
    assert not re.findall(r"""(src|href)\s*=\s*["']""", first)
    addresses = set(re.findall(r"https?://[^\"' ]+", first))
    assert addresses == {"http://www.w3.org/2000/svg"}  # the name of a format


def test_the_weights_are_all_there() -> None:
    tokenizer = CharTokenizer("\nab")
    packed = pack(build_network(tokenizer.vocab_size, CONFIG).state_dict())
    built = page(tokenizer=tokenizer, packed=packed)
    assert b64decode(between(built, 'id="weights">', "</script>")) == packed.data


def test_a_part_without_content_is_hidden() -> None:
    assert 'aria-labelledby="learned-title" hidden' in page(samples=[])
    assert 'aria-labelledby="learned-title" >' in page()


def test_what_a_page_cannot_hold_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_fits(random_checkpoint(tmp_path))
    with pytest.raises(UserError, match="memory_order is 3: a page cannot hold that, only 0"):
        check_fits(random_checkpoint(tmp_path, memory_order=3))
    monkeypatch.setattr(html, "MAX_WEIGHTS", 1000)
    with pytest.raises(UserError, match=r"weights: expected at most 1,000 for a page"):
        check_fits(random_checkpoint(tmp_path))
