"""The forward pass in JavaScript, in a real browser, against PyTorch with the same weights."""

import json
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib.resources import files
from typing import Any, get_args

import pytest
import torch

from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.completion.sampling import SamplingOptions, next_probabilities
from shakespeare_lm.completion.scoring import predictions
from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.methods.networks import NETWORKS, NetworkOptions, build_network
from shakespeare_lm.model.config import Activation, Norm, PositionKind
from shakespeare_lm.model.network import Network
from shakespeare_lm.page.packing import pack
from tests.system.browser import needs_browser, started_browser

pytestmark = needs_browser

VOCABULARY = "\n abcdefghijklmnopqrstuvwxyz.é😀"
SIZES = {"context_length": 16, "num_layers": 2, "num_heads": 2, "d_model": 24}
CONFIGS = {
    "default": {"previous_characters": 4},
    **{f"{kind} positions": {"positions": kind} for kind in get_args(PositionKind)},
    **{f"{kind}-norm": {"norm": kind, "bias": True} for kind in get_args(Norm)},
    **{kind: {"activation": kind, "d_feedforward": 7} for kind in get_args(Activation)},
    "biases": {"bias": True, "qkv_bias": True},
    "tied head": {"tied_head": True, "scale_embedding": False},
    "long context": {"context_length": 70},
    **{kind: {"network": kind, "previous_characters": 1} for kind in NETWORKS},
}
# In the worker's order; `worker.js` itself is tested on a page.
SCRIPTS = ("tensor", "weights", "transformer", "sampling", "random", "sliding_window")

Evaluate = Callable[..., Any]


@pytest.fixture(scope="module")
def evaluate() -> Iterator[Evaluate]:
    """Return a function that runs JavaScript with the page's own functions."""
    with started_browser() as browser:
        page = browser.new_page()
        for name in SCRIPTS:
            source = files("shakespeare_lm.page").joinpath(f"{name}.js").read_text("utf-8")
            page.add_script_tag(content=source)
        yield page.evaluate


def random_network(options: dict[str, Any]) -> tuple[Network, dict[str, Any]]:
    """Return a network with the weights that a page would have, and what the page needs."""
    torch.manual_seed(0)
    config, tokenizer = NetworkOptions(**{**SIZES, **options}), CharTokenizer(VOCABULARY)
    network = build_network(tokenizer.vocab_size, config)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    packed = pack(
        {n: w for n, w in network.state_dict().items() if not (config.tied_head and "head" in n)}
    )
    network.load_state_dict(packed.rounded, strict=not config.tied_head)
    sizes = {**asdict(config), "d_feedforward": config.feedforward_width}
    model = {
        "config": {**sizes, "vocab_size": tokenizer.vocab_size},
        "manifest": packed.manifest,
        "weights": b64encode(packed.data).decode(),
        "choices": len(VOCABULARY),
    }
    return network.eval(), model


NEW_READER = """
  const read = new Reader(buildNetwork(m.config, unpackWeights(m.weights, m.manifest)), m.choices);
"""


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("window", ["stride", "exact"])
def test_the_logits_of_a_thousand_positions_are_pytorchs(
    evaluate: Evaluate, name: str, window: str
) -> None:
    network, model = random_network(CONFIGS[name])
    ids = torch.randint(len(VOCABULARY), (1001,), generator=torch.Generator().manual_seed(1))
    context = model["config"]["context_length"]
    stride = context // 2 + 1 if window == "stride" else 1
    with torch.inference_mode():
        rows = [logits for logits, _ in predictions(network, ids, context, stride)]
    found = evaluate(
        f"""([m, ids, window]) => {{ {NEW_READER}
          const rows = [];
          for (const some of read.score(ids, 0, window)) {{
            for (const [at, logits] of some) rows[at] = Array.from(logits);
          }}
          return rows;
        }}""",
        [model, ids.tolist(), window],
    )
    expected = torch.cat(rows)[:, : len(VOCABULARY)]
    torch.testing.assert_close(torch.tensor(found)[:-1], expected, atol=1e-3, rtol=0)
    assert float(expected.std()) > 0.5  # not trivially equal


@pytest.mark.parametrize("window", ["stride", "exact"])
@pytest.mark.parametrize("prompt", ["b", "the prompt is longer than the context"])
@pytest.mark.parametrize("options", [{"greedy": True}, {"seed": 7}, {"seed": -1, "top_p": 0.9}])
def test_a_thousand_characters_are_those_of_python(
    evaluate: Evaluate, window: str, prompt: str, options: dict[str, Any]
) -> None:
    network, model = random_network({"previous_characters": 4})
    completer = Completer(network, CharTokenizer(VOCABULARY), 16)
    expected = completer.complete(prompt, 1000, window=window, temperature=0.7, **options)  # type: ignore[arg-type]
    sampling = {
        "greedy": False, "temperature": 0.7, "top_k": None, "top_p": None, "min_p": None, **options
    }  # fmt: skip
    found = evaluate(
        f"""([m, text, window, options]) => {{ {NEW_READER}
          const random = new PythonRandom(`completion ${{options.seed}}`);
          const made = [];
          for (const logits of read.continue(text, window)) {{
            if (made.length === 1000) return made;
            made.push(nextId(logits, options, () => random.uniform()));
            text.push(made.at(-1));
          }}
        }}""",
        [model, CharTokenizer(VOCABULARY).encode(prompt), window, sampling],
    )
    assert "".join(VOCABULARY[number] for number in found) == expected
    assert len(set(expected)) > 3


@pytest.mark.parametrize(
    "options",
    [{}, {"top_k": 3}, {"top_p": 0.5}, {"min_p": 0.2}, {"top_k": 9, "top_p": 0.8, "min_p": 0.05}],
)
def test_the_distribution_is_that_of_python(evaluate: Evaluate, options: dict[str, Any]) -> None:
    logits = 3 * torch.randn(40, generator=torch.Generator().manual_seed(0))
    logits[7] = logits[11]  # a tie
    expected = next_probabilities(logits[None], SamplingOptions(temperature=1.3, **options))[0]
    given = {"temperature": 1.3, "top_k": None, "top_p": None, "min_p": None, **options}
    found = evaluate("([l, o]) => Array.from(nextProbabilities(l, o))", [logits.tolist(), given])
    torch.testing.assert_close(torch.tensor(found, dtype=torch.float64), expected)


def test_the_cache_gives_the_same_when_a_text_is_changed_anywhere(evaluate: Evaluate) -> None:
    _, model = random_network({})
    differences = evaluate(
        f"""([m]) => {{ {NEW_READER}
          const fresh = (ids, end) => {{ {NEW_READER} return read.read(ids, 0, end)[0]; }};
          const texts = [[1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6, 7], [1, 2, 9, 4], [1, 2], [8, 2, 3]];
          return texts.map((ids) => {{
            const [a, b] = [read.read(ids, 0, ids.length)[0], fresh(ids, ids.length)];
            return Math.max(...a.map((x, i) => Math.abs(x - b[i])));
          }});
        }}""",
        [model],
    )
    assert max(differences) < 1e-5


def test_damage_is_found(evaluate: Evaluate) -> None:
    _, model = random_network({})
    damaged = [model["weights"][:-8], "AAAA" + model["weights"][4:], "no base64 \0", ""]
    for weights in damaged:
        message = evaluate(
            "([w, m]) => { try { unpackWeights(w, m); } catch (e) { return e.message; } }",
            [weights, model["manifest"]],
        )
        damage = "The weights in this page are damaged"
        assert str(message).startswith(damage), json.dumps(weights)[:40]


def test_what_the_page_does_not_know_is_an_error(evaluate: Evaluate) -> None:
    _, model = random_network({})
    for name in ("network", "positions", "norm", "activation"):
        config = {**model["config"], name: "another"}
        message = evaluate(
            "([c]) => { try { buildNetwork(c, new Map()); } catch (e) { return e.message; } }",
            [config],
        )
        assert str(message).startswith(f"{name} is another: this page knows only ")
