"""Other people's clients, where they are installed: what they send is understood, and their answers
are Python's.
"""

from typing import Any

import pytest

from tests.serving.conftest import NEEDS, Running

pytest.importorskip("shakespeare_lm.serving.app", reason=NEEDS)
# Those of other packages.
pytestmark = pytest.mark.filterwarnings("ignore")
MESSAGES = [{"role": "user", "content": "abc"}]


def test_langchain_gets_chats(server: Running) -> None:
    langchain = pytest.importorskip("langchain_openai", reason="needs pip install langchain-openai")
    model = langchain.ChatOpenAI(
        model="m", base_url=f"{server.address}/v1", api_key="none", seed=1, max_tokens=30
    )
    text = server.completer.complete("abc", 30, seed=1, temperature=1.0)
    answer = model.invoke("abc")
    assert answer.content == "".join(part.content for part in model.stream("abc")) == text
    assert "not a chat model" in answer.response_metadata["system_fingerprint"]


def test_litellm_gets_chats_and_completions(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Otherwise it downloads a list of prices.
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    litellm = pytest.importorskip("litellm", reason="needs pip install litellm")
    to: Any = {"api_base": f"{server.address}/v1", "api_key": "none", "seed": 1, "max_tokens": 30}
    text = server.completer.complete("abc", 30, seed=1, temperature=1.0)
    chat = litellm.completion("openai/m", MESSAGES, **to)
    assert chat.choices[0].message.content == text
    parts = litellm.completion("openai/m", MESSAGES, stream=True, **to)
    assert "".join(part.choices[0].delta.content or "" for part in parts) == text
    plain = litellm.text_completion("abc", "text-completion-openai/m", **to)
    assert plain.choices[0].text == text


def test_llm_gets_chats(server: Running) -> None:
    pytest.importorskip("llm", reason="needs pip install llm")
    models = pytest.importorskip("llm.default_plugins.openai_models")
    model = models.Chat("m", key="none", api_base=f"{server.address}/v1")
    text = server.completer.complete("abc", 30, seed=1, temperature=1.0)
    for stream in (False, True):
        assert model.prompt("abc", stream=stream, seed=1, max_tokens=30).text() == text


def test_lm_eval_measures_a_text_from_its_first_character_on(server: Running) -> None:
    reason = "needs pip install lm-eval"
    models = pytest.importorskip("lm_eval.models.openai_completions", reason=reason)
    instance = pytest.importorskip("lm_eval.api.instance").Instance
    # "remote" is found by itself where the model knows the characters of "test".
    model = models.LocalCompletionsAPI(f"{server.address}/v1/completions", "remote", model="m")
    asked = instance("loglikelihood_rolling", {}, ("abc jé\nab",), 0)
    (nats,) = model.loglikelihood_rolling([asked], disable_tqdm=True)
    assert nats == pytest.approx(-server.completer.score("\nabc jé\nab").total_nats)
