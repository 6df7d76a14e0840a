"""Answers have OpenAI's form; those of a running server are Python's, at once and as a stream."""

import json
from typing import Any

import pytest

from shakespeare_lm.completion.scoring import Score
from shakespeare_lm.serving.answers import (
    Answer,
    choice,
    error_body,
    joined_logprobs,
    logprobs_of,
    logprobs_of_prompt,
    usage,
)
from shakespeare_lm.serving.engine import Likelihood
from tests.serving.conftest import Running


def test_all_parts_of_an_answer_have_the_same_id() -> None:
    answer = Answer("m")
    one = choice(0, "a", None, "stop")
    parts = [answer.body([one], usage(1, 2)), answer.body([one]), answer.body([], usage(1, 2))]
    assert len({part["id"] for part in parts}) == 1
    assert parts[0]["object"] == "text_completion"
    assert parts[0]["choices"] == [
        {"index": 0, "text": "a", "logprobs": None, "finish_reason": "stop"}
    ]
    assert parts[2]["usage"]["total_tokens"] == 3
    assert Answer("m").body([one])["id"] != parts[0]["id"]


def test_likelihoods_of_a_prompt_come_before_those_of_the_text() -> None:
    score = Score("ab", [-1.5], [[("b", -1.5), ("c", -2.0)]])
    prompt = logprobs_of_prompt("ab", score)
    made = logprobs_of([Likelihood("x", -0.5, {"x": -0.5})], 2)
    assert joined_logprobs(prompt, made) == {
        "tokens": ["a", "b", "x"], "token_logprobs": [None, -1.5, -0.5],
        "top_logprobs": [None, {"b": -1.5, "c": -2.0}, {"x": -0.5}], "text_offset": [0, 1, 2],
    }  # fmt: skip
    assert logprobs_of_prompt("a", None)["token_logprobs"] == [None]
    assert logprobs_of_prompt("ab", Score("ab", [-1.0], []))["top_logprobs"] == [None, {}]


def test_an_error_has_openais_form() -> None:
    assert error_body("no", "invalid_request_error", "n", None) == {
        "error": {"message": "no", "type": "invalid_request_error", "param": "n", "code": None}
    }


def test_a_completion_is_that_of_python(server: Running) -> None:
    answer = server.post(max_tokens=40, seed=3, temperature=0.7, top_p=0.9).json()
    (choice,) = answer["choices"]
    options = {"seed": 3, "temperature": 0.7, "top_p": 0.9}
    assert choice["text"] == server.completer.complete("abc", 40, **options)  # type: ignore[arg-type]
    assert (choice["finish_reason"], choice["index"], choice["logprobs"]) == ("length", 0, None)
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 40, "total_tokens": 43}
    assert answer["object"] == "text_completion"


def test_several_prompts_and_samples_are_in_order(server: Running) -> None:
    answer = server.post(prompt=["a", "bé"], n=3, seed=5, max_tokens=12, temperature=0.8).json()
    texts = [choice["text"] for choice in answer["choices"]]
    complete = server.completer.complete
    assert texts == [
        *complete("a", 12, num_samples=3, seed=5),
        *complete("bé", 12, num_samples=3, seed=5),
    ]
    assert [choice["index"] for choice in answer["choices"]] == list(range(6))


def test_echo_and_logprobs_are_scores(server: Running) -> None:
    fields = {"prompt": "abca", "echo": True, "logprobs": 2, "max_tokens": 10, "temperature": 0}
    (choice,) = server.post(**fields).json()["choices"]
    text, logprobs = choice["text"], choice["logprobs"]
    assert text.startswith("abca")
    assert logprobs["tokens"] == list(text)
    assert logprobs["text_offset"] == list(range(14))
    assert logprobs["token_logprobs"][0] is None
    expected = server.completer.score(text).log_probabilities
    assert logprobs["token_logprobs"][1:] == pytest.approx(expected, abs=1e-3)
    assert all(len(top) == 2 for top in logprobs["top_logprobs"][1:])
    (scored,) = server.post(**{**fields, "max_tokens": 0}).json()["choices"]
    assert scored["text"] == "abca"
    assert scored["logprobs"]["token_logprobs"][1:] == pytest.approx(expected[:3], abs=1e-3)


def test_a_stop_string_ends_a_text(server: Running) -> None:
    whole = server.completer.complete("abc", 60, seed=1, temperature=1.0)
    answer = server.post(max_tokens=60, seed=1, stop=[whole[10:13], "none"]).json()
    (choice,) = answer["choices"]
    assert choice["text"] == whole[: whole.index(whole[10:13])]
    assert choice["finish_reason"] == "stop"


def test_a_stream_adds_up_to_the_answer(server: Running) -> None:
    fields: dict[str, Any] = {"max_tokens": 600, "seed": 2, "n": 2, "logprobs": 0, "echo": True}
    whole = server.post(**fields).json()
    response = server.post(**fields, stream=True, stream_options={"include_usage": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    *lines, last = [line for line in response.text.split("\n\n") if line]
    assert last == "data: [DONE]"
    *chunks, final = [json.loads(line.removeprefix("data: ")) for line in lines]
    assert final["choices"] == []
    assert final["usage"] == whole["usage"]
    for index in (0, 1):
        parts = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        expected = whole["choices"][index]
        assert "".join(part["text"] for part in parts) == expected["text"]
        offsets = [offset for part in parts for offset in part["logprobs"]["text_offset"]]
        assert offsets == expected["logprobs"]["text_offset"]
        assert [part["finish_reason"] for part in parts] == [None] * (len(parts) - 1) + ["length"]
