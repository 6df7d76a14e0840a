"""Answers: OpenAI's form."""

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


def test_all_parts_of_an_answer_have_the_same_id() -> None:
    answer = Answer("m")
    one = choice(0, "a", None, "stop")
    parts = [answer.body([one], usage(1, 2)), answer.chunk(one), answer.usage_chunk(usage(1, 2))]
    assert len({part["id"] for part in parts}) == 1
    assert parts[0]["object"] == "text_completion"
    assert parts[0]["choices"] == [
        {"index": 0, "text": "a", "logprobs": None, "finish_reason": "stop"}
    ]
    assert parts[2]["usage"]["total_tokens"] == 3
    assert Answer("m").chunk(one)["id"] != parts[0]["id"]


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
