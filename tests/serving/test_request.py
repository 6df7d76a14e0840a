"""Requests: what clients may ask, and a clear line for everything else."""

import json
from typing import Any

import pytest

from shakespeare_lm.completion.sampling import SamplingOptions
from tests.serving.conftest import NEEDS

request = pytest.importorskip("shakespeare_lm.serving.request", reason=NEEDS)


def parsed(**fields: Any) -> Any:
    return request.parse_request(json.dumps({"model": "m", **fields}).encode(), 300)


def chat(text: object = "a", **fields: Any) -> Any:
    body = {"messages": [{"role": "system", "content": "?"}, {"content": text}], **fields}
    return request.parse_request(json.dumps(body).encode(), 100, request.ChatRequest)


def test_defaults_are_openais_but_for_the_length() -> None:
    nothing = dict.fromkeys(("prompt", "max_tokens", "temperature", "stop", "n", "stream", "user"))
    asked = parsed(**nothing, best_of=1, frequency_penalty=0, logit_bias={})
    assert asked == parsed()
    assert asked.sampling == SamplingOptions(temperature=1.0)
    names = ("prompt", "max_tokens", "stop", "seed", "n", "logprobs", "echo", "stream")
    assert [getattr(asked, name) for name in names] == [
        ["\n"], 256, [], None, 1, None, False, False
    ]  # fmt: skip


def test_fields_are_read() -> None:
    fields = {"seed": -7, "n": 2, "logprobs": 5, "echo": True, "stream": True, "max_tokens": 100}
    sampling = {"temperature": 0, "top_p": 0.5, "top_k": 3, "min_p": 0.1}
    asked = parsed(prompt=["a", "b"], stop="x", **fields, **sampling)
    assert asked.sampling == SamplingOptions(**sampling)  # type: ignore[arg-type]
    assert asked.model_dump(include=set(fields)) == fields
    assert (asked.prompt, asked.stop) == (["a", "b"], ["x"])
    assert parsed(prompt=[3, 1]).prompt == [[3, 1]]
    assert parsed(prompt=[[3, 1], [], "a"]).prompt == [[3, 1], [], "a"]
    assert request.parse_request(b"{}", 100).max_tokens == 100  # the server's own limit


def test_a_chat_asks_for_what_follows_its_last_message() -> None:
    fields = {"temperature": 0, "seed": 3, "n": 2, "stream": True, "stop": "x", "top_k": 2}
    expected = parsed(prompt="a", model="", max_tokens=7, **fields)
    assert chat(max_completion_tokens=7, logprobs=False, tools=[], **fields) == expected
    assert chat().max_tokens == 100


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        *((name, {name: 1}) for name in ("logprobs", "tools", "response_format", "prompt", "echo")),
        ("messages", {"messages": []}),
        ("messages", {"text": [{"type": "image_url"}]}),
        ("max_tokens", {"max_completion_tokens": 101}),
    ],
)
def test_what_chats_cannot_have_is_refused_by_name(name: str, fields: dict[str, Any]) -> None:
    with pytest.raises(request.RequestError, match=name) as caught:
        chat(**fields)
    assert (caught.value.status_code, caught.value.param) == (400, name)


WRONG = {
    "max_tokens": [301, -1, 1.5, True, 10**30],
    "temperature": [-1, "hot", 10**400],
    "top_p": [0, 2, 10**400],
    "top_k": [0, 1.5, 10**30],
    "min_p": [0, 2],
    "n": [0],
    "prompt": [[], [1, "a"], [[1], [True]], [[["a"]]], {"a": 1}, ["a"] * 129, 5],
    "stop": ["", [1], ["a"] * 17],
    "seed": ["x", 10**30, -(10**30)],
    "logprobs": [21, -1, True],
    **{"echo": [1], "stream": ["yes"], "stream_options": [[]], "model": [7], "nonsense": [1]},
    **{"suffix": ["x"], "best_of": [3], "logit_bias": [{"1": 5}], "frequency_penalty": [1]},
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG.items() for value in values]
)
def test_a_wrong_value_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(request.RequestError) as caught:
        parsed(**{name: value})
    assert (caught.value.status_code, caught.value.param) == (400, name)
    assert name in caught.value.detail
    assert len(caught.value.detail.splitlines()) == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_tokens": -1}, "max_tokens is -1: must be greater than or equal to 0"),
        ({"max_tokens": 301}, "max_tokens is 301: must be at most 300"),
        ({"prompt": [1.5]}, "prompt is [1.5]: must be a string, token ids, or a list of such"),
        ({"stop": [""]}, "stop is '': must have at least 1 character"),
        ({"n": 1000}, "prompt and n ask for 1000 texts: must be 1 to 128"),
        ({"nonsense": 1}, "unknown field 'nonsense'"),
        ({"best_of": 3}, "best_of is not supported"),
        ({"logit_bias": {"1": 5}}, "logit_bias is not supported"),
        ({"prompt": "a" * 20_001, "echo": True, "logprobs": 0},
            "prompt has 20,001 characters: at most 20,000 can be echoed"),
        ({"prompt": "a" * 200, "echo": True, "max_tokens": 100, "n": 128, "logprobs": 20},
            "logprobs asks for 806,400 numbers: must be at most 524,288"),
    ],
)  # fmt: skip
def test_errors_speak_the_words_of_the_api(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(request.RequestError) as caught:
        parsed(**fields)
    assert caught.value.detail == message


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'"text"', b"{" * 9999, b'{"a": "\\ud800"}',
        b'{"user": "\xed\xa0\x80"}', b'{"user": NaN}', b'{"user": [-Infinity]}',
        b'{"seed": 1%s}' % (b"0" * 5000),
        b'\xef\xbb\xbf{"n": 1}', '{"n": 1}'.encode("utf-16"),
    ],
)  # fmt: skip
def test_what_is_not_a_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(request.RequestError, match="the body is not"):
        request.parse_request(body, 100)
