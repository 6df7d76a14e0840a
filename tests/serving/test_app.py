"""The web application over real HTTP: answers are Python's, errors OpenAI's."""

import json
import re
from typing import Any

import pytest
import requests

from tests.serving.conftest import NEEDS, Running, until

Engine = pytest.importorskip("shakespeare_lm.serving.engine", reason=NEEDS).Engine


def test_models_health_and_page(server: Running) -> None:
    assert [model["id"] for model in server.get("/v1/models").json()["data"]] == ["m"]
    assert server.get("/v1/models/m").json()["id"] == "m"
    assert server.get("/health").json() == {"status": "ok"}
    assert server.get("/").text == "<p>page</p>"


# --- answers ---


def test_a_completion_is_that_of_python(server: Running) -> None:
    answer = server.post(max_tokens=40, seed=3, temperature=0.7, top_p=0.9).json()
    (choice,) = answer["choices"]
    text = server.completer.complete("abc", 40, seed=3, temperature=0.7, top_p=0.9)
    assert choice == {"text": text, "finish_reason": "length", "index": 0, "logprobs": None}
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 40, "total_tokens": 43}
    assert answer["object"] == "text_completion"
    assert server.post().json()["id"] != answer["id"]


def test_several_prompts_and_samples_are_in_order(server: Running) -> None:
    answer = server.post(prompt=["a", "bé"], n=3, seed=5, max_tokens=12, temperature=0.8).json()
    expected = [server.completer.complete(one, 12, num_samples=3, seed=5) for one in ("a", "bé")]
    assert [choice["text"] for choice in answer["choices"]] == [*expected[0], *expected[1]]
    assert [choice["index"] for choice in answer["choices"]] == list(range(6))


def test_echo_and_logprobs_are_scores(server: Running) -> None:
    fields = {"prompt": "abca", "echo": True, "logprobs": 2, "max_tokens": 10, "temperature": 0}
    (choice,) = server.post(**fields).json()["choices"]
    text, logprobs = choice["text"], choice["logprobs"]
    assert text.startswith("abca")
    assert logprobs["tokens"] == list(text)
    assert logprobs["text_offset"] == list(range(14))
    assert logprobs["token_logprobs"][0] is logprobs["top_logprobs"][0] is None
    expected = server.completer.score(text).log_probabilities
    assert logprobs["token_logprobs"][1:] == pytest.approx(expected, abs=1e-3)
    assert all(len(top) == 2 for top in logprobs["top_logprobs"][1:])
    (scored,) = server.post(**{**fields, "max_tokens": 0}).json()["choices"]
    assert (scored["text"], scored["finish_reason"]) == ("abca", "length")
    assert scored["logprobs"]["token_logprobs"][1:] == pytest.approx(expected[:3], abs=1e-3)
    (one,) = server.post(prompt="a", echo=True, logprobs=2, max_tokens=0).json()["choices"]
    assert one["logprobs"]["token_logprobs"] == [None]


def test_a_stream_adds_up_to_the_answer(server: Running) -> None:
    made = server.completer.complete("abc", 600, seed=3, temperature=1.0)
    fields = {"max_tokens": 600, "seed": 2, "n": 2, "stop": made[500:512]}  # ends the second
    fields |= {"logprobs": 0, "echo": True}
    whole = server.post(**fields).json()
    assert whole["choices"][1]["text"] == "abc" + made[: made.index(made[500:512])]
    response = server.post(**fields, stream=True, stream_options={"include_usage": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    *lines, last = [line for line in response.text.split("\n\n") if line]
    assert last == "data: [DONE]"
    *chunks, final = [json.loads(line.removeprefix("data: ")) for line in lines]
    assert (final["choices"], final["usage"]) == ([], whole["usage"])
    assert {chunk["id"] for chunk in chunks} == {final["id"]}
    assert [choice["finish_reason"] for choice in whole["choices"]] == ["length", "stop"]
    for index, expected in enumerate(whole["choices"]):
        parts = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert "".join(part["text"] for part in parts) == expected["text"]
        for name in ("tokens", "text_offset"):
            found = [one for part in parts for one in part["logprobs"][name]]
            assert found == expected["logprobs"][name]
        reasons = [None] * (len(parts) - 1) + [expected["finish_reason"]]
        assert [part["finish_reason"] for part in parts] == reasons


def test_texts_that_need_not_wait_may_be_more_than_may_wait_and_have_no_characters(
    server: Running,
) -> None:
    answer = server.post(prompt="", n=101, max_tokens=0, echo=True, logprobs=1).json()
    assert [choice["text"] for choice in answer["choices"]] == [""] * 101
    assert answer["usage"]["total_tokens"] == 0
    assert len(server.post(prompt="", max_tokens=3).json()["choices"][0]["text"]) == 3


def test_token_ids_are_a_prompt_and_no_model_is_the_model(server: Running) -> None:
    tokens = requests.post(f"{server.address}/tokenize", json={"prompt": "abc"}, timeout=5).json()
    assert tokens == {"tokens": [2, 3, 4], "count": 3}
    by_ids = server.post(model=None, prompt=[[2, 3, 4], [3]], seed=1, max_tokens=9).json()
    by_text = server.post(prompt=["abc", "b"], seed=1, max_tokens=9).json()
    assert by_ids["choices"] == by_text["choices"]
    assert by_ids["model"] == "m"
    assert server.get("/tokenizer_info").json() == {"bos_token": "\n", "eos_token": "\n"}


def test_a_prompt_beyond_the_context_is_said(server: Running) -> None:
    usage = [server.post(prompt=["a" * n, "a"]).json()["usage"] for n in (16, 20)]
    assert "prompt_tokens_details" not in usage[0]
    assert usage[1]["prompt_tokens_details"] == {"truncated_tokens": 4}


@pytest.mark.parametrize("stream", [False, True])
def test_a_chat_gets_its_last_message_continued(server: Running, stream: bool) -> None:
    messages = [{"role": "system", "content": "b"}, {"role": "user", "content": "abc"}]
    fields = {"messages": messages, "prompt": None, "seed": 3, "max_tokens": 40, "stream": stream}
    response = server.post("chat/completions", **fields)
    bodies = response.text.removesuffix("data: [DONE]\n\n").replace("data: ", "").split("\n\n")
    answers = [json.loads(body) for body in bodies if body]
    parts = [answer["choices"][0] for answer in answers]
    messages = [part.pop("delta" if stream else "message") for part in parts]
    text = server.completer.complete("abc", 40, seed=3, temperature=1.0)
    assert "".join(message["content"] for message in messages) == text
    assert {message["role"] for message in messages} == {"assistant"}
    assert parts[-1] == {"index": 0, "finish_reason": "length", "logprobs": None}
    assert answers[0]["object"] == "chat.completion" + ".chunk" * stream
    assert "not a chat model" in answers[0]["system_fingerprint"]


# --- for programs that watch and describe it ---


def test_metrics_count_requests_and_characters(server: Running) -> None:
    def values() -> dict[str, float]:
        lines = server.get("/metrics").text.splitlines()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}

    server.post(max_tokens=-1)
    before = values()
    server.post(max_tokens=7, n=2)
    until(
        lambda: (
            values()["shakespeare_lm_characters_total"] > before["shakespeare_lm_characters_total"]
        )
    )
    grown = {name: value - before.get(name, 0) for name, value in values().items()}
    assert grown["shakespeare_lm_characters_total"] == 14
    assert grown['shakespeare_lm_requests_total{status="200"}'] >= 2
    assert grown['shakespeare_lm_requests_total{status="400"}'] == 0
    assert grown["shakespeare_lm_request_seconds_total"] > 0
    assert grown['shakespeare_lm_texts{state="active"}'] == 0


def test_the_description_names_every_route_and_field(server: Running) -> None:
    document = server.get("/openapi.json").json()
    operation = document["paths"]["/v1/completions"]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    assert {"type": "string"} in schema["properties"]["prompt"]["anyOf"]
    assert "_Message" in document["components"]["schemas"]
    assert {"/v1/chat/completions", "/v1/models/{name}", "/metrics"} < set(document["paths"])
    assert all(next(iter(one.values()))["summary"] for one in document["paths"].values())


# --- errors ---


@pytest.mark.parametrize(
    ("fields", "status", "param", "message"),
    [
        ({"prompt": [0, 14]}, 400, "prompt",
            "prompt is invalid: the id is 14: expected 0 <= id <= 13"),
        ({"prompt": ["a", "bZ"]}, 400, "prompt",
            "prompt is invalid: the character 'Z' (U+005A) at position 1 is not among the 13 "
            "characters that the model knows"),
        ({"max_tokens": 5001}, 400, "max_tokens", "max_tokens is 5001: must be at most 5000"),
        ({"model": "gpt-9"}, 404, "model", "the model 'gpt-9' does not exist; there is 'm'"),
        ({"prompt": "a" * (1 << 20)}, 413, None, "the body is longer than 1,048,576 bytes"),
        ({"n": 101}, 400, "prompt", "prompt and n ask for 101 texts: must be at most 100"),
    ],
)  # fmt: skip
def test_errors_have_openais_form_and_the_server_stays_up(
    server: Running, fields: dict[str, Any], status: int, param: str | None, message: str
) -> None:
    response = server.post(**fields)
    assert response.status_code == status
    error = response.json()["error"]
    code = "model_not_found" if "gpt-9" in message else None
    kind = "invalid_request_error"
    assert error == {"message": message, "type": kind, "param": param, "code": code}
    assert server.post().status_code == 200


@pytest.mark.parametrize(
    ("running", "status", "message"),
    [
        (True, 429, "too many requests are waiting: try again later"),
        (False, 503, "the server is stopping"),
    ],
)
def test_a_request_that_cannot_be_queued_learns_why(
    server: Running, monkeypatch: pytest.MonkeyPatch, running: bool, status: int, message: str
) -> None:
    monkeypatch.setattr(Engine, "submit", lambda *_: False)
    monkeypatch.setattr(Engine, "is_running", running)
    assert server.get("/health").status_code == (200 if running else 503)
    response = server.post()
    assert (response.status_code, response.json()["error"]["message"]) == (status, message)
    assert ("retry-after" in response.headers) == running


@pytest.mark.parametrize("stream", [False, True])
def test_a_mistake_of_the_program_is_said_to_be_one(
    server: Running, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    def fail(engine: object, streams: list[Any]) -> bool:
        for one in streams:
            one.fail("the server failed")
        return True

    monkeypatch.setattr(Engine, "submit", fail)
    body = server.post(stream=stream).text.removeprefix("data: ")
    assert json.loads(body)["error"]["message"] == "the server failed"


@pytest.mark.parametrize("kind", ["text/plain", ""])
def test_what_a_page_of_another_site_can_send_unasked_is_refused(
    server: Running, kind: str
) -> None:
    headers = {"Content-Type": kind}
    response = requests.post(f"{server.address}/v1/completions", b'{"model": "m"}', headers=headers)
    assert response.status_code == 400
    assert response.json()["error"]["message"] == "Content-Type must be application/json"


# --- the log ---


def test_each_request_is_one_line_of_the_log(server: Running) -> None:
    server.post(max_tokens=7, n=2)
    server.post(max_tokens=7, stream=True)
    server.post(max_tokens=-1)
    server.get("/no%0Awhere\u2028?query")
    server.get("/v1/completions")
    until(lambda: " 405 " in server.log[-1])  # which is written after the answer
    found = [re.sub(r"\d+ ms", "_ ms", line) for line in server.log[-5:]]
    assert found == [
        "POST /v1/completions 200 _ ms 14 characters",
        "POST /v1/completions 200 _ ms 7 characters",
        "POST /v1/completions 400 _ ms",
        "GET /no%0Awhere%E2%80%A8 404 _ ms",
        "GET /v1/completions 405 _ ms",
    ]
