"""Whether a model copies: extraction from one that is known; copied substrings, by hand and against
trying every piece of text.
"""

from collections.abc import Sequence
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.errors import UserError
from shakespeare_lm.evaluation.copying import SampleConfig, extraction_rates, measure_copying
from shakespeare_lm.evaluation.novelty import CopiedSpan, longest_matches, novelty
from shakespeare_lm.model.transformer import CausalTransformer


def test_samples_are_those_of_the_completer_and_held_out_text_is_as_long(
    transformer: CausalTransformer,
) -> None:
    train, held_out = ["abcdefghij" * 20], ["jihg", "fedcba" * 30, "aabb"]
    completer = Completer(transformer, CharTokenizer("abcdefghij"), context_length=8)
    seen: list[tuple[int, int]] = []
    config = SampleConfig(num_samples=3, max_new_tokens=30, temperature=0.5, seed=7)
    found = measure_copying(completer, train, held_out, config, lambda *both: seen.append(both))
    samples = completer.complete("", 30, num_samples=3, seed=7, temperature=0.5)
    assert found.samples == samples
    assert found.sampled == novelty(samples, train)
    assert found.held_out == novelty(["jihg", ("fedcba" * 30)[:86]], train)
    assert seen[-1] == (30, 30)
    assert found.prefix == 4
    rates = [(one.suffix, one.train, one.held_out) for one in found.extraction]
    assert rates == [(32, 0.0, 0.0), (64, 0.0, 0.0)]
    assert found == measure_copying(completer, train, held_out, config)
    short = measure_copying(completer, train, ["ab"], config)
    assert [one.held_out for one in short.extraction] == [None, None]
    assert short.held_out.characters == 2


@pytest.mark.parametrize(("options", "message"), [
    ({"num_samples": 0}, "num_samples is 0: expected a value >= 1"),
    ({"num_samples": 1025}, "num_samples is 1025: expected at most 1024"),
    ({"max_new_tokens": 0}, "max_new_tokens is 0: expected a value >= 1"),
    ({"temperature": -1.0}, "temperature is -1.0: expected a value >= 0"),
])  # fmt: skip
def test_samples_that_cannot_be_made_are_refused_at_once(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        SampleConfig(**options)


TEXT = "".join(f"{number:04d} " for number in range(400))  # no five characters occur twice


class Memory:
    """Completes what it remembers, and makes a mistake at one place in each completion."""

    def __init__(self, mistake_at: int | None) -> None:
        self.mistake_at = mistake_at

    def complete(self, prompts: Sequence[str], length: int, **options: Any) -> list[str]:
        assert options == {"temperature": 0, "unknown": "skip"}
        made = [TEXT[TEXT.index(prompt) + len(prompt) :][:length] for prompt in prompts]
        at = self.mistake_at
        return made if at is None else [text[:at] + "?" + text[at + 1 :] for text in made]


@pytest.mark.parametrize(("mistake_at", "documents", "rates"), [
    (None, [TEXT[:500], TEXT[500:]], [1.0, 1.0]),
    (31, [TEXT], [0.0, 0.0]),  # a wrong character spoils the suffix that it is in
    (32, [TEXT], [1.0, 0.0]),
    (None, [TEXT[:73], ""], [None, None]),  # too short for a prefix of 10 and a suffix of 64
    (None, [TEXT[:73], TEXT[:74]], [1.0, 1.0]),
])  # fmt: skip
def test_the_suffix_must_be_right_to_the_end_and_fit_into_a_document(
    mistake_at: int | None, documents: list[str], rates: list[float | None]
) -> None:
    completer = cast(Completer, Memory(mistake_at))
    assert extraction_rates(completer, documents, prefix=10, seed=0) == rates


TRAIN = ["To be, or not.\nTo sleep.\n", "No more."]


def test_copied_substrings_of_each_length_up_to_100_are_counted_and_the_longest_is_found() -> None:
    found = novelty(["be, X", "or"], TRAIN)
    # Of 7 characters all but X; of the pairs b-e e-, ,-space o-r but not space-X; and so on.
    assert found.copied == [6 / 7, 4 / 5, 2 / 3, 1 / 2, 0 / 1]
    assert found.characters == 7
    assert novelty(["x" * 150], ["x" * 120]).copied == [1.0] * 100
    found = novelty(["Go to sleep. No", " more"], TRAIN)
    assert found.longest == CopiedSpan("o sleep.", TRAIN[0].index("o sleep."), 2)
    # A copy lies within one document, and the first of several counts.
    found = novelty(["o more"], ["To", " more", *TRAIN, *TRAIN])
    assert found.longest == CopiedSpan("o more", 7 + len(TRAIN[0]) + 1, 3)


def test_words_are_known_in_any_case_and_distinct_ones_are_counted_within_documents() -> None:
    found = novelty(["to BE to be", "to die"], TRAIN)
    assert found.known_words == 5 / 6
    # to be die; to-be be-to to-die of four pairs, none from one document into the next.
    assert found.distinct == [3 / 6, 3 / 4, 2 / 2]
    for documents in ([], [""], ["?!"]):
        found = novelty(documents, TRAIN)
        assert (found.known_words, found.distinct) == (0.0, [0.0, 0.0, 0.0])
        assert found.longest.text == ""
        assert found.copied == [0.0] * len("".join(documents))


DOCUMENTS = st.lists(st.text("ab\n", max_size=12), max_size=4)


@given(DOCUMENTS, DOCUMENTS)
def test_the_longest_matches_equal_trying_every_piece(
    documents: list[str], known: list[str]
) -> None:
    assert longest_matches(documents, known).tolist() == [
        max(n for n in range(len(end) + 1) if any(end[:n] in text for text in ["", *known]))
        for document in documents
        for end in (document[at:] for at in range(len(document)))
    ]


@pytest.mark.parametrize(("documents", "known", "lengths"), [
    (["abcd"], ["ab", "cd"], [2, 1, 2, 1]),  # a match stays within one document of each text
    (["ab", "cd"], ["abcd"], [2, 1, 2, 1]),
    (["e\u0301😀\ud800x"], ["😀\ud800"], [0, 0, 2, 1, 0]),
    (["a" * 1000], ["a" * 1000], list(range(1000, 0, -1))),
])  # fmt: skip
def test_special_texts_have_their_longest_matches_and_those_too_long_for_the_memory_are_refused(
    monkeypatch: pytest.MonkeyPatch, documents: list[str], known: list[str], lengths: list[int]
) -> None:
    assert longest_matches(documents, known).tolist() == lengths
    monkeypatch.setattr("shakespeare_lm.evaluation.novelty._BYTES_PER_CHARACTER", 1 << 50)
    with pytest.raises(UserError, match=r"looking for copies .* use a shorter text"):
        longest_matches(documents, known)
