"""Requests: what clients may ask, and a clear line for everything else."""

import json
from typing import Any

import pytest

from shakespeare_lm.completion.sampling import SamplingOptions
from shakespeare_lm.serving.request import CompletionRequest, RequestError, parse_request


def parsed(**fields: Any) -> CompletionRequest:
    return parse_request(json.dumps({"model": "m", **fields}).encode(), 100)


def test_defaults_are_openais() -> None:
    assert parsed() == CompletionRequest(
        model="m", prompts=["\n"], max_tokens=16, sampling=SamplingOptions(temperature=1.0),
        stop=[], seed=None, n=1, logprobs=None, echo=False, stream=False, include_usage=False,
    )  # fmt: skip
    nothing = dict.fromkeys(("prompt", "max_tokens", "temperature", "stop", "n", "stream", "user"))
    assert parsed(**nothing, best_of=1, frequency_penalty=0, logit_bias={}) == parsed()


def test_fields_are_read() -> None:
    asked = parsed(
        prompt=["a", "b"], max_tokens=100, temperature=0, top_p=0.5, top_k=3, min_p=0.1, stop="x",
        seed=-7, n=2, logprobs=5, echo=True, stream=True, stream_options={"include_usage": True},
    )  # fmt: skip
    assert asked.prompts == ["a", "b"]
    assert asked.sampling == SamplingOptions(temperature=0, top_p=0.5, top_k=3, min_p=0.1)
    assert (asked.stop, asked.seed, asked.n, asked.logprobs) == (["x"], -7, 2, 5)
    assert asked.echo
    assert asked.stream
    assert asked.include_usage


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": 101}, "max_tokens"), ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"), ({"max_tokens": True}, "max_tokens"),
        ({"temperature": -1}, "temperature"), ({"temperature": "hot"}, "temperature"),
        ({"temperature": float("nan")}, "temperature"), ({"temperature": 1e999}, "temperature"),
        ({"top_p": 0}, "top_p"), ({"top_p": 2}, "top_p"), ({"n": 0}, "n"),
        ({"n": 1000}, "prompt"), ({"prompt": []}, "prompt"), ({"prompt": [1, 2]}, "prompt"),
        ({"prompt": {"a": 1}}, "prompt"), ({"prompt": ["a"] * 129}, "prompt"),
        ({"stop": ""}, "stop"), ({"stop": [1]}, "stop"), ({"stop": ["a"] * 17}, "stop"),
        ({"seed": "x"}, "seed"), ({"logprobs": 21}, "logprobs"), ({"logprobs": True}, "logprobs"),
        ({"echo": 1}, "echo"), ({"stream": "yes"}, "stream"),
        ({"stream_options": []}, "stream_options"),
        ({"model": 7}, "model"), ({"suffix": "x"}, "suffix"), ({"best_of": 3}, "best_of"),
        ({"logit_bias": {"1": 5}}, "logit_bias"), ({"frequency_penalty": 1}, "frequency_penalty"),
        ({"nonsense": 1}, "nonsense"), ({"temperature": 10**400}, "temperature"),
        ({"top_p": 10**400}, "top_p"), ({"seed": 10**30}, "seed"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        parsed(**fields)
    assert caught.value.status == 400
    assert caught.value.param == param
    assert param in caught.value.message


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'"text"', b"{" * 9999]
)
def test_what_is_not_a_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(RequestError, match="the body is not"):
        parse_request(body, 100)
