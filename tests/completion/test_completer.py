"""A checkpoint and a prompt become text: options, several prompts, streams, and loading."""

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from shakespeare_lm.completion.cached_forward import CachedForward
from shakespeare_lm.completion.completer import COMPLETION_OPTIONS, Completer
from shakespeare_lm.completion.decoder import Window
from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.errors import UserError
from shakespeare_lm.model.bigram import BigramTable
from shakespeare_lm.model.config import NetworkConfig
from shakespeare_lm.model.transformer import CausalTransformer
from shakespeare_lm.training.module import ShakespeareLM
from tests.conftest import save

# Ten characters, not sorted: with padding as many ids as the `transformer` fixture has.
VOCABULARY = "\nihgfedcba"


@pytest.fixture
def completer(transformer: CausalTransformer) -> Completer:
    return Completer(transformer, CharTokenizer(VOCABULARY), context_length=8)


def test_a_completion_has_as_many_characters_as_asked_for(completer: Completer) -> None:
    for number in (0, 1, 30):
        assert len(completer.complete("abc", number, seed=0)) == number


def test_greedy_takes_the_most_likely_character_each_time(completer: Completer) -> None:
    text = "abc"
    for _ in range(12):
        ids = torch.tensor([completer.tokenizer.encode(text[-8:])])
        text += VOCABULARY[int(completer.network(ids)[0, -1, :-1].argmax())]
    for cache in (True, False):
        assert completer.complete("abc", 12, greedy=True, window="exact", cache=cache) == text[3:]


def test_of_a_long_prompt_the_last_context_length_characters_count(completer: Completer) -> None:
    long = "ihgfedcbaabcdefgh"
    assert completer.complete(long, 5, greedy=True) == completer.complete(long[-8:], 5, greedy=True)
    assert completer.complete(long, 5, greedy=True) != completer.complete(long[:8], 5, greedy=True)


@pytest.mark.parametrize("options", [{"greedy": True}, {"seed": 3, "temperature": 1.0}])
def test_several_prompts_together_equal_each_alone(completer: Completer, options: dict) -> None:
    prompts = ["a", "abcd", "ihgfedcbaabcdefgh", ""]
    together = completer.complete(prompts, 15, **options)
    assert together == [completer.complete(prompt, 15, **options) for prompt in prompts]
    assert len(set(together)) > 1


@pytest.mark.parametrize("window", ["stride", "exact"])
@pytest.mark.parametrize("prompt", ["a", "abcd", "abcdefgh", "ihgfedcbaabcdefgh"])
def test_with_a_cache_the_text_is_the_same(
    completer: Completer, prompt: str, window: Window
) -> None:
    for options in ({"greedy": True}, {"seed": 0, "temperature": 1.0}):
        texts = {
            completer.complete(prompt, 40, window=window, cache=cache, **options)
            for cache in (True, False)
        }
        assert len(texts) == 1


def test_the_two_windows_differ_once_the_context_is_full(completer: Completer) -> None:
    texts = [completer.complete("abc", 40, greedy=True, window=w) for w in ("stride", "exact")]
    assert texts[0][:6] == texts[1][:6]
    assert texts[0] != texts[1]


def test_sample_i_is_what_its_seed_gives_alone(completer: Completer) -> None:
    samples = completer.complete("abc", 20, num_samples=4, seed=7, temperature=1.0)
    assert samples == [completer.complete("abc", 20, seed=7 + i, temperature=1.0) for i in range(4)]
    assert len(set(samples)) == 4
    assert completer.complete("abc", 20, num_samples=1, seed=7, temperature=1.0) == samples[:1]


def test_samples_grow_together_in_a_stream(completer: Completer) -> None:
    rows = list(completer.stream("abc", 20, num_samples=3, seed=7))
    samples = ["".join(pieces) for pieces in zip(*rows, strict=True)]
    assert samples == completer.complete("abc", 20, num_samples=3, seed=7)


def test_samples_without_a_seed_differ(completer: Completer) -> None:
    assert len(set(completer.complete("abc", 20, num_samples=3, temperature=1.0))) == 3


def test_more_prompts_than_fit_together_are_completed_in_groups(
    completer: Completer, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = ["a", "bc", "def", "a", "bcd"]
    together = completer.complete(prompts, 10, seed=0)
    monkeypatch.setattr("shakespeare_lm.completion.completer._PROMPTS_TOGETHER", 2)
    assert completer.complete(prompts, 10, seed=0) == together
    assert completer.complete([], 10) == []


def test_each_text_ends_by_itself(completer: Completer) -> None:
    prompts = ["a", "abcd", "ihg"]
    whole = completer.complete(prompts, 40, greedy=True)
    stop = whole[1][10:12]
    stopped = completer.complete(prompts, 40, greedy=True, stop=stop)
    assert stopped == [text.partition(stop)[0] for text in whole]
    assert "".join(completer.stream("abcd", 40, greedy=True, stop=[stop, "?"])) == stopped[1]


def test_a_partial_stop_string_at_the_end_is_shown(completer: Completer) -> None:
    whole = completer.complete("abcd", 10, greedy=True)
    never = whole[-2:] + "?"
    assert completer.complete("abcd", 10, greedy=True, stop=never) == whole
    assert "".join(completer.stream("abcd", 10, greedy=True, stop=never)) == whole


def test_lines_are_counted(completer: Completer) -> None:
    whole = completer.complete("abc", 100, seed=1, temperature=2.0)
    assert whole.count("\n") >= 2
    lines = completer.complete("abc", 100, seed=1, temperature=2.0, max_lines=2)
    assert lines == "\n".join(whole.split("\n")[:2])


def test_nothing_is_computed_after_the_end(
    completer: Completer, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    step = CachedForward.step

    def counted(self: CachedForward, *arguments: object) -> Tensor:
        calls.append(1)
        return step(self, *arguments)

    monkeypatch.setattr(CachedForward, "step", counted)
    text = completer.complete("abcd", 10, greedy=True)
    assert len(calls) == 10
    calls.clear()
    assert completer.complete("abcd", 10, greedy=True, stop=text[0]) == ""
    assert len(calls) == 1


def test_a_stream_yields_what_complete_returns(completer: Completer) -> None:
    pieces = list(completer.stream("abc", 20, seed=1))
    assert len(pieces) == 20
    assert "".join(pieces) == completer.complete("abc", 20, seed=1)


def test_one_seed_gives_one_text_and_another_seed_another(completer: Completer) -> None:
    texts = [completer.complete("abc", 40, seed=seed, temperature=1.0) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize("options", [{"greedy": True}, {"seed": 0, "temperature": 1.0}])
def test_padding_is_never_produced_however_likely(options: dict) -> None:
    table = BigramTable(11, NetworkConfig(network="bigram", context_length=8))
    with torch.no_grad():
        table.table.weight[:, -1] = 100.0
    text = Completer(table, CharTokenizer(VOCABULARY), 8).complete("abc", 50, **options)
    assert len(text) == 50
    assert set(text) <= set(VOCABULARY)


def test_an_empty_prompt_starts_from_a_new_line(completer: Completer) -> None:
    assert completer.complete("", 10, greedy=True) == completer.complete("\n", 10, greedy=True)


def test_a_vocabulary_without_a_new_line_starts_from_its_first_character(
    transformer: CausalTransformer,
) -> None:
    completer = Completer(transformer, CharTokenizer("abcdefghij"), 8)
    assert completer.complete("", 5, greedy=True) == completer.complete("a", 5, greedy=True)


def test_an_unknown_character_is_named_or_skipped(completer: Completer) -> None:
    with pytest.raises(UserError, match=r"'Z' \(U\+005A\) at position 2"):
        completer.complete("abZc", 5)
    known = completer.complete("abc", 5, greedy=True)
    assert completer.complete("abZc", 5, greedy=True, unknown="skip") == known
    assert completer.complete("äbZc", 5, greedy=True, unknown="replace") == known


def test_mistakes_are_raised_by_the_call_and_not_when_the_stream_is_read(
    completer: Completer,
) -> None:
    with pytest.raises(UserError, match="max_new_tokens is -1"):
        completer.stream("abc", -1)
    with pytest.raises(UserError, match="temperature is -1"):
        completer.stream("abc", temperature=-1)
    with pytest.raises(UserError, match="'Z'"):
        completer.stream("Z")
    with pytest.raises(UserError, match="stop is an empty string"):
        completer.stream("abc", stop="")
    with pytest.raises(UserError, match="max_lines is 0"):
        completer.stream("abc", max_lines=0)
    with pytest.raises(UserError, match="window is 'half': choose from: stride, exact"):
        completer.stream("abc", window="half")
    with pytest.raises(UserError, match="unknown is 'ignore': choose from: error, skip, replace"):
        completer.stream("abc", unknown="ignore")
    for prompt in (5, None, b"abc", ["a", "b"]):
        with pytest.raises(UserError, match=f"^prompt is {re.escape(repr(prompt))}: expected str$"):
            completer.stream(prompt)
    assert completer.complete((p for p in "ab"), 3, seed=0, stop=None)
    with pytest.raises(UserError, match="num_samples is 0"):
        completer.stream("abc", num_samples=0)
    with pytest.raises(UserError, match="num_samples cannot be combined with several"):
        completer.complete(["a", "b"], num_samples=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": "x"}, "seed is 'x': expected int or None"),
        ({"seed": 1.5}, "seed is 1.5: expected int or None"),
        ({"seed": "x", "num_samples": 2}, "seed is 'x': expected int or None"),
        ({"num_samples": "3"}, "num_samples is '3': expected int or None"),
        ({"num_samples": 2.5}, "num_samples is 2.5: expected int or None"),
        ({"num_samples": True}, "num_samples is True: expected int or None"),
        ({"max_new_tokens": "5"}, "max_new_tokens is '5': expected int"),
        ({"max_new_tokens": None}, "max_new_tokens is None: expected int"),
        ({"max_lines": "2"}, "max_lines is '2': expected int or None"),
        ({"temperature": "hot"}, "temperature is 'hot': expected float"),
        ({"top_k": 2.5}, "top_k is 2.5: expected int or None"),
        ({"greedy": "yes"}, "greedy is 'yes': expected bool"),
        ({"stop": 3}, "stop is 3: expected str, or a list of them"),
        ({"stop": False}, "stop is False: expected str, or a list of them"),
        ({"stop": b"x"}, "stop is b'x': expected str, or a list of them"),
        ({"stop": ["a", 3]}, "stop[1] is 3: expected str"),
        ({"cache": "no"}, "cache is 'no': expected bool"),
        ({"window": 3}, "window is '3': choose from: stride, exact"),
        ({"unknown": 3}, "unknown is '3': choose from: error, skip, replace"),
    ],
)
def test_an_option_of_another_type_is_refused_by_name(
    completer: Completer, options: dict, message: str
) -> None:
    for call in (completer.complete, completer.stream):
        with pytest.raises(UserError) as caught:
            call("abc", **options)
        assert str(caught.value) == message


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (5, "prompt is 5: expected str, or a list of them"),
        (None, "prompt is None: expected str, or a list of them"),
        (b"abc", "prompt is b'abc': expected str, or a list of them"),
        (["a", 3], "prompt[1] is 3: expected str"),
        ([b"a"], "prompt[0] is b'a': expected str"),
    ],
)
def test_prompts_that_are_not_texts_are_refused(
    completer: Completer, prompt: object, message: str
) -> None:
    with pytest.raises(UserError) as caught:
        completer.complete(prompt, 5)
    assert str(caught.value) == message


@pytest.mark.parametrize("name", ["temperatur", "max_tokens", "top_K", "vocabulary"])
def test_a_misspelt_option_is_refused_by_name(completer: Completer, name: str) -> None:
    message = re.escape(
        f"completion option is '{name}': choose from: {', '.join(COMPLETION_OPTIONS)}"
    )
    for call in (completer.complete, completer.stream):
        with pytest.raises(UserError, match=message):
            call("abc", 5, **{name: 1})


def test_every_completion_option_is_accepted(completer: Completer) -> None:
    values = {
        "unknown": "skip", "stop": "z", "max_lines": 3, "window": "exact", "cache": False,
        "greedy": False, "temperature": 1.0, "top_k": 5, "top_p": 0.9, "min_p": 0.1,
    }  # fmt: skip
    assert values.keys() == set(COMPLETION_OPTIONS)
    whole = completer.complete("abc", 9, seed=0, **values)
    assert "".join(completer.stream("abc", 9, seed=0, **values)) == whole


def test_a_stream_has_at_most_1024_samples(completer: Completer) -> None:
    with pytest.raises(UserError, match="num_samples is 1025: expected at most 1024"):
        completer.stream("abc", num_samples=1025)


def test_completing_leaves_mode_and_global_randomness_as_they_were(completer: Completer) -> None:
    for training in (True, False):
        completer.network.train(training)
        before = torch.get_rng_state()
        completer.complete("abc", 5, seed=0)
        assert completer.network.training is training
        assert torch.equal(torch.get_rng_state(), before)


def test_completing_is_the_same_in_either_mode() -> None:
    torch.manual_seed(0)
    config = NetworkConfig(
        context_length=8, num_layers=2, num_heads=2, d_model=8, previous_characters=4, dropout=0.5
    )
    network = CausalTransformer(11, config)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter)  # small weights would hide what dropout does to them
    completer = Completer(network, CharTokenizer(VOCABULARY), 8)
    network.train()
    text = completer.complete("abc", 30, greedy=True)
    network.eval()
    assert completer.complete("abc", 30, greedy=True) == text


@pytest.fixture
def module() -> ShakespeareLM:
    torch.manual_seed(0)
    sizes = {"context_length": 8, "num_layers": 1, "num_heads": 2, "d_model": 8}
    return ShakespeareLM(VOCABULARY, **sizes, previous_characters=4)


def test_a_checkpoint_yields_the_network_that_was_saved(
    tmp_path: Path, module: ShakespeareLM
) -> None:
    completer = Completer.from_checkpoint(save(tmp_path / "a.ckpt", module))
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(completer.network(ids), module.network.eval()(ids))
    assert completer.tokenizer.vocabulary == VOCABULARY
    assert completer.context_length == 8
    assert not completer.network.training


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int8"])
def test_a_checkpoint_completes_in_every_dtype(
    tmp_path: Path, module: ShakespeareLM, dtype: str
) -> None:
    path = save(tmp_path / "a.ckpt", module)
    completer = Completer.from_checkpoint(path, dtype=dtype)
    assert completer.dtype == dtype
    assert len(completer.complete(["abc", "a"], 20, seed=0)[1]) == 20


def test_an_unknown_device_or_dtype_is_refused(tmp_path: Path, module: ShakespeareLM) -> None:
    path = save(tmp_path / "a.ckpt", module)
    with pytest.raises(UserError, match="dtype is 'int4': choose from: auto, float32, bfloat16"):
        Completer.from_checkpoint(path, dtype="int4")
    with pytest.raises(UserError, match="device is 'tpu'"):
        Completer.from_checkpoint(path, device="tpu")
    with pytest.raises(UserError, match="compile is 'no': expected bool"):
        Completer.from_checkpoint(path, compile="no")
    with pytest.raises(UserError, match="path is 5: expected str or Path"):
        Completer.from_checkpoint(5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler, of torch itself
def test_a_compiled_completer_makes_the_same_text(tmp_path: Path, module: ShakespeareLM) -> None:
    path = save(tmp_path / "a.ckpt", module)
    plain = Completer.from_checkpoint(path)
    compiled = Completer.from_checkpoint(path, compile=True)
    for prompt in ("abc", "a", "abcdefghi"):  # each alone: many together are not compiled on a CPU
        texts = [made.complete(prompt, 30, greedy=True) for made in (plain, compiled)]
        assert texts[0] == texts[1]
    assert compiled.complete(["abc", "a"], 5, seed=0) == plain.complete(["abc", "a"], 5, seed=0)


def test_a_bigram_checkpoint_completes(tmp_path: Path) -> None:
    module = ShakespeareLM(VOCABULARY, network="bigram", context_length=8)
    completer = Completer.from_checkpoint(str(save(tmp_path / "a.ckpt", module)))
    assert len(completer.complete("abcabcabcabc", 10)) == 10
