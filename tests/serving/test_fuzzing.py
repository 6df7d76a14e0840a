"""Any request, whether it makes sense or not, is answered as OpenAI's clients expect, and leaves
nothing behind. The requests are made from the fields of `CompletionRequest` and their types.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.serving.conftest import NEEDS, VOCABULARY, Answer, ask, tiny_completer

app = pytest.importorskip("shakespeare_lm.serving.app", reason=NEEDS)
request = pytest.importorskip("shakespeare_lm.serving.request", reason=NEEDS)

numbers = st.one_of(
    st.integers(-2, 30), st.integers(), st.floats(), st.floats(0, 2), st.just(10**400)
)
words = st.one_of(st.text(VOCABULARY, max_size=30), st.text(max_size=9), st.just("\ud800"))
anything: Any = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, words),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(words, inner, max_size=3)),
    max_leaves=6,
)
# What each type of the schema may be.
BY_TYPE = {
    "integer": st.integers(1, 20),
    "number": st.floats(0.01, 1),
    "string": st.text(VOCABULARY, min_size=1, max_size=30),
    "boolean": st.booleans(),
    "array": st.lists(st.text(VOCABULARY, min_size=1, max_size=9), min_size=1, max_size=2),
    "object": st.dictionaries(st.just("include_usage"), st.booleans()),
    "null": st.none(),
}


def _values(schema: dict[str, Any]) -> Any:
    return st.one_of(
        *(BY_TYPE.get(one.get("type"), words) for one in schema.get("anyOf", [schema]))
    )


fields = request.CompletionRequest.model_json_schema()["properties"]
sane = {name: _values(schema) for name, schema in fields.items()} | {"model": st.just("m")}
odd = st.dictionaries(st.one_of(st.sampled_from([*sane, *request._NEUTRAL]), words), anything)
objects = st.builds(
    lambda right, wrong: right | wrong,
    st.fixed_dictionaries({"model": sane.pop("model")}, optional=sane),
    st.one_of(st.just({}), odd),
)
correct = objects.map(lambda body: json.dumps(body).encode())
damaged = st.builds(
    lambda body, at, cut, added: body[: at % len(body)] + added + body[at % len(body) + cut :],
    correct, st.integers(0), st.integers(0, 3), st.binary(max_size=3),
)  # fmt: skip
bodies = st.one_of(correct, damaged, anything.map(lambda one: json.dumps(one).encode()))
headers = st.fixed_dictionaries(
    {
        "host": st.one_of(*[st.just("localhost:80")] * 9, words.filter(str.isprintable)),
        "content-type": st.one_of(*[st.just("application/json")] * 9, st.just("text/plain")),
    },
    optional={"origin": st.sampled_from(["http://localhost:80", "null", "https://other.example"])},
)
routes = st.one_of(
    *[st.just(("POST", "/v1/completions"))] * 9,
    st.tuples(
        st.sampled_from(["GET", "POST", "OPTIONS", "DELETE"]),
        st.sampled_from(["/", "/health", "/v1/models", "/v1/models/m", "/v1/models/%0a", "/x"]),
    ),
)


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    completer = tiny_completer()
    engine = app.Engine(completer, max_waiting=40)
    yield app.Server(completer, engine, "m", page="<p>page</p>", max_tokens=30)
    engine.close()


def _check(answer: Answer) -> None:
    """Check the form of an answer."""
    assert answer.status < 500
    kind, text = answer.headers.get("content-type", ""), answer.body.decode()
    if answer.status >= 400:
        assert set(json.loads(text)["error"]) == {"message", "type", "param", "code"}
    elif kind.startswith("text/event-stream"):
        *events, done, end = text.split("\n\n")
        assert (done, end) == ("data: [DONE]", "")
        for one in events:
            assert "choices" in json.loads(one.removeprefix("data: "), parse_constant=pytest.fail)
    elif kind == "application/json":
        json.loads(text, parse_constant=pytest.fail)


@pytest.mark.parametrize("examples", [200, pytest.param(12_000, marks=pytest.mark.slow)])
def test_any_request_is_answered_in_openais_form_and_leaves_nothing(
    server: Any, examples: int
) -> None:
    served = server.build_app()
    statuses = set()

    @settings(
        max_examples=examples, derandomize=examples < 1000, database=None, deadline=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(routes, headers, bodies)
    def check(route: tuple[str, str], given: dict[str, str], body: bytes) -> None:
        answer = ask(served, *route, given, body)
        _check(answer)
        statuses.add(answer.status)
        assert not server.engine._waiting
        assert server.engine.is_running

    check()
    assert {200, 400, 403, 404, 405} <= statuses
