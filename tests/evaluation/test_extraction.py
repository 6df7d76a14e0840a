"""The extraction rate is that of a model whose memory is known."""

from collections.abc import Sequence
from typing import Any, cast

from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.evaluation.extraction import extraction_rates

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
