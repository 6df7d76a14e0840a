"""The model in JavaScript, in a real browser, against PyTorch with the same weights."""

import re
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.completion.sampling import SamplingOptions, next_probabilities
from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.methods.networks import NETWORKS
from shakespeare_lm.methods.sliding_window import predictions
from shakespeare_lm.model.config import Activation, Norm, PositionKind
from shakespeare_lm.page.packing import pack
from tests.export.models import VOCABULARY, network_of, random_checkpoint
from tests.system.browser import needs_browser, started_browser

pytestmark = needs_browser

CONFIGS = {
    "default": {"previous_characters": 4},
    **{f"{kind} positions": {"positions": kind} for kind in get_args(PositionKind)},
    **{f"{kind}-norm": {"norm": kind, "bias": True} for kind in get_args(Norm)},
    **{kind: {"activation": kind, "d_feedforward": 7} for kind in get_args(Activation)},
    "biases": {"bias": True, "qkv_bias": True},
    "tied head": {"tied_head": True, "scale_embedding": False},
    "long context": {"context_length": 70},
    **{kind: {"network": kind, "previous_characters": 1} for kind in NETWORKS},
    "memory": {"memory_order": 4, "previous_characters": 2},
    "mixed memory": {"memory_order": 3, "memory_share": 0.3, "positions": "rotary"},
    "memory of many": {"memory_order": 3, "vocabulary": "".join(map(chr, range(0x4E00, 0x4F30)))},
}
# In the worker's order; `worker.js` itself is tested on a page.
SCRIPTS = ("tensor", "weights", "transformer", "memory", "sampling", "random", "sliding_window")
TOKENIZER = CharTokenizer(VOCABULARY)

Evaluate = Callable[..., Any]
NO_LIMITS = {"greedy": False, "top_k": None, "top_p": None, "min_p": None}


@pytest.fixture(scope="module")
def evaluate() -> Iterator[Evaluate]:
    """Return a function that runs JavaScript with the page's own functions."""
    with started_browser() as browser:
        page = browser.new_page()
        for name in SCRIPTS:
            source = files("shakespeare_lm.page").joinpath(f"{name}.js").read_text("utf-8")
            page.add_script_tag(content=source)
        yield page.evaluate


def random_network(folder: Path, **options: Any) -> tuple[Any, dict[str, Any]]:
    """Return a network with the weights that a page would have, and what the page needs."""
    sizes = {"context_length": 16, "d_model": 24, "optimizer": "adamw", "std": 0.5}
    checkpoint = random_checkpoint(folder, **{**sizes, **options})
    config, network = checkpoint.config, network_of(checkpoint)
    packed = pack(checkpoint.distinct_weights)
    network.load_state_dict(packed.rounded, strict=not config.tied_head)
    vocab_size, width = checkpoint.tokenizer.vocab_size, config.feedforward_width
    model = {
        "config": {**asdict(config), "d_feedforward": width, "vocab_size": vocab_size},
        "manifest": packed.manifest,
        "weights": b64encode(packed.data).decode(),
        "choices": len(checkpoint.tokenizer.vocabulary),
    }
    return network, model


NEW_READER = """
  const read = new Reader(buildNetwork(m.config, unpackWeights(m.weights, m.manifest)), m.choices);
"""


@pytest.mark.parametrize(("window", "name"), [
    *(("stride", name) for name in CONFIGS),
    *(("exact", name) for name in CONFIGS if re.search("positions|memory|bigram", name)),
])  # fmt: skip
def test_the_logits_of_a_thousand_positions_are_pytorchs(
    evaluate: Evaluate, tmp_path: Path, window: str, name: str
) -> None:
    network, model = random_network(tmp_path, **CONFIGS[name])
    ids = torch.randint(model["choices"], (1001,), generator=torch.Generator().manual_seed(1))
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
    expected = torch.cat(rows)[:, : model["choices"]]
    torch.testing.assert_close(torch.tensor(found)[:-1], expected, atol=1e-3, rtol=0)
    assert float(expected.std()) > 0.5  # not trivially equal


@pytest.mark.parametrize("window", ["stride", "exact"])
@pytest.mark.parametrize(("prompt", "options"), [
    ("b", {"greedy": True}),
    ("b", {"seed": 7}),
    ("abcde: 'ROé'.\n" * 2, {"seed": -1, "top_p": 0.9}),  # longer than the context
])  # fmt: skip
def test_a_thousand_characters_are_those_of_python(
    evaluate: Evaluate, tmp_path: Path, window: Any, prompt: str, options: dict[str, Any]
) -> None:
    network, model = random_network(tmp_path, previous_characters=4)
    completer = Completer(network, TOKENIZER, 16)
    expected = completer.complete(prompt, 1000, window=window, temperature=0.7, **options)
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
        [model, TOKENIZER.encode(prompt), window, {**NO_LIMITS, "temperature": 0.7, **options}],
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
    given = [logits.tolist(), {**NO_LIMITS, "temperature": 1.3, **options}]
    found = evaluate("([l, o]) => Array.from(nextProbabilities(l, o))", given)
    torch.testing.assert_close(torch.tensor(found, dtype=torch.float64), expected)


def test_the_cache_gives_the_same_when_a_text_is_changed_anywhere(
    evaluate: Evaluate, tmp_path: Path
) -> None:
    differences = evaluate(
        f"""([m]) => {{ {NEW_READER}
          const fresh = (ids, end) => {{ {NEW_READER} return read.read(ids, 0, end)[0]; }};
          const texts = [[1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6, 7], [1, 2, 9, 4], [1, 2], [8, 2, 3]];
          return texts.map((ids) => {{
            const [a, b] = [read.read(ids, 0, ids.length)[0], fresh(ids, ids.length)];
            return Math.max(...a.map((x, i) => Math.abs(x - b[i])));
          }});
        }}""",
        [random_network(tmp_path)[1]],
    )
    assert max(differences) < 1e-5


CAUGHT = "([m]) => { try { %s; } catch (error) { return error.message; } }"


def test_damage_is_found(evaluate: Evaluate, tmp_path: Path) -> None:
    _, model = random_network(tmp_path)
    weights = model["weights"]
    for damaged in (weights[:-8], "AAAA" + weights[4:], "no base64 \0", ""):
        given = {**model, "weights": damaged}
        message = evaluate(CAUGHT % "unpackWeights(m.weights, m.manifest)", [given])
        assert str(message).startswith("The weights in this page are damaged"), damaged[:40]


def test_what_the_page_does_not_know_is_an_error(evaluate: Evaluate, tmp_path: Path) -> None:
    config = random_network(tmp_path)[1]["config"]
    for name in ("network", "positions", "norm", "activation"):
        given = [{**config, name: "another"}]
        message = evaluate(CAUGHT % "buildNetwork(m, new Map())", given)
        assert str(message).startswith(f"{name} is another: this page knows only ")
