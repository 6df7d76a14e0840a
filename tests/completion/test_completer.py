"""A checkpoint and a prompt become text: options, several prompts, streams, and loading."""

import re

import pytest
import torch
from torch import Tensor

from shakespeare_lm.completion.cached_forward import CachedForward
from shakespeare_lm.completion.completer import COMPLETION_OPTIONS, Completer
from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.errors import UserError
from shakespeare_lm.model.bigram import BigramTable
from shakespeare_lm.model.config import NetworkConfig
from shakespeare_lm.training.module import ShakespeareLM
from tests.completion.conftest import VOCABULARY, random_network
from tests.conftest import save

LONG = "ihgfedcbaabcdefgh"  # longer than the context
SAMPLED = {"seed": 3, "temperature": 1.0}


@pytest.mark.parametrize("number", [0, 1, 30])
def test_a_completion_has_as_many_characters_as_asked_for(completer, number):
    pieces = list(completer.stream("abc", number, seed=0))
    assert len(pieces) == number
    assert "".join(pieces) == completer.complete("abc", number, seed=0)


def test_greedy_takes_the_most_likely_character_each_time(completer):
    text = "abc"
    for _ in range(12):
        ids = torch.tensor([completer.tokenizer.encode(text[-8:])])
        text += VOCABULARY[int(completer.network(ids)[0, -1, :-1].argmax())]
    assert completer.complete("abc", 12, greedy=True, window="exact") == text[3:]


def test_of_a_long_prompt_the_last_context_length_characters_count(completer):
    text = completer.complete(LONG, 5, greedy=True)
    assert text == completer.complete(LONG[-8:], 5, greedy=True)
    assert text != completer.complete(LONG[:8], 5, greedy=True)


def test_an_unknown_character_is_skipped_or_replaced(completer):
    known = completer.complete("abc", 5, greedy=True)
    assert completer.complete("abZc", 5, greedy=True, unknown="skip") == known
    assert completer.complete("äbZc", 5, greedy=True, unknown="replace") == known


@pytest.mark.parametrize("options", [{"greedy": True}, SAMPLED])
def test_several_prompts_together_equal_each_alone(completer, options, monkeypatch):
    prompts = ["a", "abcd", LONG, "", "a"]
    together = completer.complete(prompts, 15, **options)
    assert together == [completer.complete(prompt, 15, **options) for prompt in prompts]
    assert len(set(together)) > 1
    monkeypatch.setattr("shakespeare_lm.completion.completer._PROMPTS_TOGETHER", 2)
    assert completer.complete(prompts, 15, **options) == together  # in groups
    assert completer.complete([], 10) == []


def test_sample_i_is_what_its_seed_gives_alone(completer):
    samples = completer.complete("abc", 20, num_samples=4, seed=7, temperature=1.0)
    alone = [completer.complete("abc", 20, seed=7 + i, temperature=1.0) for i in range(4)]
    assert samples == alone
    assert len(set(samples)) == 4
    assert completer.complete("abc", 20, num_samples=1, seed=7, temperature=1.0) == samples[:1]
    rows = completer.stream("abc", 20, num_samples=4, seed=7, temperature=1.0)
    assert ["".join(pieces) for pieces in zip(*rows, strict=True)] == samples
    assert len(set(completer.complete("abc", 20, num_samples=3, temperature=1.0))) == 3


def test_each_text_ends_by_itself(completer):
    prompts = ["a", "abcd", "ihg"]
    whole = completer.complete(prompts, 40, greedy=True)
    stop = whole[1][10:12]
    stopped = completer.complete(prompts, 40, greedy=True, stop=stop)
    assert stopped == [text.partition(stop)[0] for text in whole]
    assert "".join(completer.stream("abcd", 40, greedy=True, stop=[stop, "?"])) == stopped[1]
    # A partial stop string at the end is shown.
    assert completer.complete("abcd", 40, greedy=True, stop=whole[1][-2:] + "?") == whole[1]
    lines = completer.complete("abc", 100, seed=1, temperature=2.0)
    assert lines.count("\n") >= 2
    two_lines = completer.complete("abc", 100, seed=1, temperature=2.0, max_lines=2)
    assert two_lines == "\n".join(lines.split("\n")[:2])


def test_nothing_is_computed_after_the_end(completer, monkeypatch):
    calls, step = [], CachedForward.step

    def counted(*arguments: object) -> Tensor:
        calls.append(1)
        return step(*arguments)

    monkeypatch.setattr(CachedForward, "step", counted)
    text = completer.complete("abcd", 10, greedy=True)
    assert len(calls) == 10
    assert completer.complete("abcd", 10, greedy=True, stop=text[0]) == ""
    assert len(calls) == 11


@pytest.mark.parametrize("options", [{"greedy": True}, SAMPLED])
def test_padding_is_never_produced_however_likely(options):
    table = BigramTable(11, NetworkConfig(network="bigram", context_length=8))
    with torch.no_grad():
        table.table.weight[:, -1] = 100.0
    text = Completer(table, CharTokenizer(VOCABULARY), 8).complete("abc", 50, **options)
    assert len(text) == 50
    assert set(text) <= set(VOCABULARY)


def test_an_empty_prompt_starts_from_a_new_line_or_the_first_character(transformer):
    for vocabulary, first in ((VOCABULARY, "\n"), ("abcdefghij", "a")):
        completer = Completer(transformer, CharTokenizer(vocabulary), 8)
        assert completer.complete("", 5, greedy=True) == completer.complete(first, 5, greedy=True)


CHOICES = ", ".join(COMPLETION_OPTIONS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": "abZc"}, "'Z' (U+005A) at position 2"),
        ({"prompt": 5}, "prompt is 5: expected str"),
        ({"prompt": b"abc"}, "prompt is b'abc': expected str"),
        ({"max_new_tokens": -1}, "max_new_tokens is -1: expected a value >= 0"),
        ({"max_new_tokens": "5"}, "max_new_tokens is '5': expected int"),
        ({"seed": "x"}, "seed is 'x': expected int or None"),
        ({"seed": "x", "num_samples": 2}, "seed is 'x': expected int or None"),
        ({"num_samples": 0}, "num_samples is 0: expected a value >= 1"),
        ({"num_samples": "3"}, "num_samples is '3': expected int or None"),
        ({"max_lines": 0}, "max_lines is 0: expected a value >= 1"),
        ({"temperature": -1}, "temperature is -1: expected a value >= 0"),
        ({"stop": 3}, "stop is 3: expected str, or a list of them"),
        ({"stop": ["a", 3]}, "stop[1] is 3: expected str"),
        ({"cache": "no"}, "cache is 'no': expected bool"),
        ({"window": "half"}, "window is 'half': choose from: stride, exact"),
        ({"unknown": "ignore"}, "unknown is 'ignore': choose from: error, skip, replace"),
        ({"temperatur": 1}, f"completion option is 'temperatur': choose from: {CHOICES}"),
    ],
)
def test_an_invalid_option_is_refused_before_the_stream_is_read(completer, options, message):
    for call in (completer.complete, completer.stream):
        with pytest.raises(UserError, match=re.escape(message)):
            call(**{"prompt": "abc", **options})


def test_mistakes_with_several_prompts_or_samples_are_refused(completer):
    assert completer.complete((prompt for prompt in "ab"), 3, seed=0, stop=None)
    for prompts, message in ((["a", 3], "prompt[1] is 3"), ([b"a"], "prompt[0] is b'a'")):
        with pytest.raises(UserError, match=f"^{re.escape(message)}: expected str$"):
            completer.complete(prompts, 5)
    with pytest.raises(UserError, match=r"^prompt is \['a', 'b'\]: expected str$"):
        completer.stream(["a", "b"])
    with pytest.raises(UserError, match="num_samples cannot be combined with several"):
        completer.complete(["a", "b"], num_samples=2)
    with pytest.raises(UserError, match="num_samples is 1025: expected at most 1024"):
        completer.stream("abc", num_samples=1025)


def test_every_completion_option_is_accepted(completer):
    values = {
        "unknown": "skip", "stop": "z", "max_lines": 3, "window": "exact", "cache": False,
        "greedy": False, "temperature": 1.0, "top_k": 5, "top_p": 0.9, "min_p": 0.1,
    }  # fmt: skip
    assert values.keys() == set(COMPLETION_OPTIONS)
    whole = completer.complete("abc", 9, seed=0, **values)
    assert "".join(completer.stream("abc", 9, seed=0, **values)) == whole


def test_completing_is_the_same_in_either_mode_and_changes_no_state():
    completer = Completer(random_network(dropout=0.5), CharTokenizer(VOCABULARY), 8)
    texts = set()
    for training in (True, False):
        completer.network.train(training)
        before = torch.get_rng_state()
        texts.add(completer.complete("abc", 30, seed=0))
        assert completer.network.training is training
        assert torch.equal(torch.get_rng_state(), before)
    assert len(texts) == 1


@pytest.fixture
def module():
    torch.manual_seed(0)
    sizes = {"context_length": 8, "num_layers": 1, "num_heads": 2, "d_model": 8}
    return ShakespeareLM(VOCABULARY, **sizes, previous_characters=4)


@pytest.fixture
def saved(tmp_path, module):
    return save(tmp_path / "a.ckpt", module)


def test_a_checkpoint_yields_the_network_that_was_saved(module, saved):
    completer = Completer.from_checkpoint(str(saved))
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(completer.network(ids), module.network.eval()(ids))
    assert completer.tokenizer.vocabulary == VOCABULARY
    assert completer.context_length == 8
    assert not completer.network.training
    bigram = ShakespeareLM(VOCABULARY, network="bigram", context_length=8)
    completer = Completer.from_checkpoint(save(saved, bigram))
    assert len(completer.complete("abcabcabcabc", 10)) == 10


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int8"])
def test_a_checkpoint_completes_in_every_dtype(saved, dtype):
    completer = Completer.from_checkpoint(saved, dtype=dtype)
    assert completer.dtype == dtype
    assert len(completer.complete(["abc", "a"], 20, seed=0)[1]) == 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int4"}, "dtype is 'int4': choose from: auto, float32, bfloat16"),
        ({"device": "tpu"}, "device is 'tpu'"),
        ({"compile": "no"}, "compile is 'no': expected bool"),
        ({"path": 5}, "path is 5: expected str or Path"),
    ],
)
def test_an_invalid_option_of_loading_is_refused_by_name(saved, options, message):
    with pytest.raises(UserError, match=message):
        Completer.from_checkpoint(**{"path": saved, **options})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler, of torch itself
def test_a_compiled_completer_makes_the_same_text(saved):
    plain, compiled = (Completer.from_checkpoint(saved, compile=one) for one in (False, True))
    for prompt in ("abc", "a", "abcdefghi"):  # each alone: many together are not compiled on a CPU
        assert compiled.complete(prompt, 30, greedy=True) == plain.complete(prompt, 30, greedy=True)
    assert compiled.complete(["abc", "a"], 5, seed=0) == plain.complete(["abc", "a"], 5, seed=0)


def test_a_step_that_reads_sparse_tables_is_not_compiled(monkeypatch):
    monkeypatch.setattr("shakespeare_lm.methods.ngram_memory._DENSE_BYTES_PER_CHARACTER", 0)
    for dense_bytes in (0, 1 << 20):
        monkeypatch.setattr("shakespeare_lm.methods.ngram_memory._SMALL_BYTES", dense_bytes)
        network = random_network(memory_order=3)
        completer = Completer(network, CharTokenizer(VOCABULARY), 8, compile=True)
        assert completer._decoder(1, {}).cache.fixed_shape is (dense_bytes > 0)
