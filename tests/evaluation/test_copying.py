"""Whether a model copies: samples next to held-out text; extraction from a model that is known."""

from collections.abc import Sequence
from typing import Any, cast

import pytest

from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.errors import UserError
from shakespeare_lm.evaluation.copying import SampleConfig, extraction_rates, measure_copying
from shakespeare_lm.evaluation.novelty import novelty
from shakespeare_lm.model.transformer import CausalTransformer

TRAIN = ["abcdefghij" * 20]
HELD_OUT = ["jihgfedcba" * 20, "aabb"]


@pytest.fixture
def completer(transformer: CausalTransformer) -> Completer:
    return Completer(transformer, CharTokenizer("abcdefghij"), context_length=8)


def test_samples_are_those_of_the_completer_and_held_out_text_is_as_long(
    completer: Completer,
) -> None:
    seen: list[tuple[int, int]] = []
    config = SampleConfig(num_samples=3, max_new_tokens=30, temperature=0.5, seed=7)
    found = measure_copying(
        completer, TRAIN, HELD_OUT, config, lambda done, total: seen.append((done, total))
    )
    samples = completer.complete("", 30, num_samples=3, seed=7, temperature=0.5)
    assert found.samples == samples
    assert found.sampled == novelty(samples, TRAIN)
    assert found.held_out == novelty([HELD_OUT[0][:90]], TRAIN)
    assert seen[-1] == (30, 30)
    assert found.prefix == 4
    assert [(one.suffix, one.train, one.held_out) for one in found.extraction] == [
        (32, 0.0, 0.0), (64, 0.0, 0.0),
    ]  # fmt: skip
    assert found == measure_copying(completer, TRAIN, HELD_OUT, config)


def test_a_held_out_text_that_is_too_short_has_no_rate(completer: Completer) -> None:
    config = SampleConfig(num_samples=1, max_new_tokens=5)
    found = measure_copying(completer, TRAIN, ["ab"], config)
    assert [one.held_out for one in found.extraction] == [None, None]
    assert found.held_out.characters == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 0}, "num_samples is 0: expected a value >= 1"),
        ({"num_samples": 1025}, "num_samples is 1025: expected at most 1024"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0: expected a value >= 1"),
        ({"temperature": -1.0}, "temperature is -1.0: expected a value >= 0"),
    ],
)
def test_samples_that_cannot_be_made_are_refused_at_once(
    options: dict[str, float], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        SampleConfig(**options)  # type: ignore[arg-type]


TEXT = "".join(f"{number:04d} " for number in range(400))  # no five characters occur twice


class Memory:
    """Completes what it remembers, and makes a mistake at one place in each completion."""

    def __init__(self, text: str, mistake_at: int | None = None) -> None:
        self.text, self.mistake_at = text, mistake_at

    def complete(self, prompts: Sequence[str], length: int, **options: Any) -> list[str]:
        assert options == {"temperature": 0, "unknown": "skip"}
        made = [self.text[self.text.index(prompt) + len(prompt) :][:length] for prompt in prompts]
        at = self.mistake_at
        return made if at is None else [text[:at] + "?" + text[at + 1 :] for text in made]


def rates(memory: Memory, documents: Sequence[str]) -> list[float | None]:
    return extraction_rates(cast(Completer, memory), documents, prefix=10, seed=0)


def test_a_model_that_knows_its_text_by_heart_gives_all_of_it() -> None:
    assert rates(Memory(TEXT), [TEXT[:500], TEXT[500:]]) == [1.0, 1.0]


def test_one_wrong_character_spoils_the_suffix_that_it_is_in() -> None:
    assert rates(Memory(TEXT, mistake_at=31), [TEXT]) == [0.0, 0.0]
    assert rates(Memory(TEXT, mistake_at=32), [TEXT]) == [1.0, 0.0]


def test_documents_must_hold_prefix_and_suffix() -> None:
    assert rates(Memory(TEXT), [TEXT[:73], ""]) == [None, None]
    assert rates(Memory(TEXT), [TEXT[:73], TEXT[:74]]) == [1.0, 1.0]
