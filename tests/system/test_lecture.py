"""The code that is read is the code that runs: the model room is short, knows nothing of the rest,
and the default run goes through all of it.
"""

import re
import sys
import threading
from collections.abc import Callable
from itertools import product
from pathlib import Path
from types import FrameType

import pytest

from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.model.transformer import CausalTransformer
from tests.conftest import Fit

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "shakespeare_lm"
MODEL = sorted(path for path in (PACKAGE / "model").glob("*.py") if path.name != "__init__.py")
READING_ORDER = (ROOT / "docs" / "ARCHITECTURE.md").read_text("utf-8")
LISTED = [
    ROOT / file
    for file in re.findall(
        r"^- \[\w+\.py\]\(\.\./(shakespeare_lm/[\w/]+\.py)\)", READING_ORDER, re.M
    )
]
# Another network than the default one: the recipe `bigram` runs it.
BASELINE = PACKAGE / "model" / "bigram.py"


# Lines of Python; a feature that needs more is worth removing something for.
LIMITS = {
    "shakespeare_lm": 17_160,
    "shakespeare_lm/model": 600,
    "shakespeare_lm/commands": 3_505,
    "shakespeare_lm/training": 2_475,
    "tests": 19_900,
}


@pytest.mark.parametrize("folder", LIMITS)
def test_the_code_is_not_longer_than_its_limit(folder: str) -> None:
    files = (ROOT / folder).rglob("*.py")
    assert sum(len(path.read_text("utf-8").splitlines()) for path in files) <= LIMITS[folder]


def test_the_model_says_nothing_of_completion_memories_teachers_and_hardware() -> None:
    words = r"complet|cache|memor(y|ies)|teacher|distil|prefill|cuda|bfloat16|int8|onnx|lightning"
    for path in MODEL:
        found = re.search(words, path.read_text("utf-8"), flags=re.IGNORECASE)
        assert found is None, f"{path.name}: {found[0] if found else ''}"


def test_the_reading_order_lists_the_model_the_loader_the_module_and_sampling() -> None:
    others = ("data/windows.py", "data/loader.py", "training/module.py", "completion/sampling.py")
    assert sorted(LISTED) == sorted([*MODEL, *(PACKAGE / name for name in others)])


def test_the_default_run_goes_through_every_file_of_the_list(tiny_fit: Fit) -> None:
    entered: set[str] = set()

    def trace(frame: FrameType, event: str, argument: object) -> None:
        if frame.f_code.co_name not in ("<module>", "<lambda>"):
            entered.add(frame.f_code.co_filename)

    threading.setprofile(trace)
    sys.setprofile(trace)
    try:
        config = f"--config={ROOT / 'configs' / 'default.yaml'}"
        tiny = ("--data.corpus=sample", "--max_steps=2", "--limit_val_batches=1")
        cli = tiny_fit(config, *tiny, "--model.d_model=16")
        Completer.from_checkpoint(cli.best.best_model_path).complete("The", 3)
        files = {path for path in {*LISTED, *MODEL} if str(path) not in entered}
        assert files == {BASELINE}
        plain = ("--model.optimizer=adamw", "--model.characters_ahead=1")
        tiny_fit(config, *tiny, "--model.network=bigram", *plain)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    assert str(BASELINE) in entered


def test_training_validation_and_completion_take_one_path(
    tiny_fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is put into a method of the network acts wherever it is used."""
    seen: set[tuple[str, str]] = set()

    def counted(name: str) -> Callable:
        original = getattr(CausalTransformer, name)

        def method(self: CausalTransformer, *arguments: object, **options: object) -> object:
            past = [*arguments, options.get("past")]
            cached = any(hasattr(one, "extend") for one in past)
            mode = "training" if self.training else "completion" if cached else "validation"
            seen.add((name, mode))
            return original(self, *arguments, **options)

        return method

    for name in ("forward", "embed", "hidden", "logits"):
        monkeypatch.setattr(CausalTransformer, name, counted(name))
    expected = set(
        product(("forward", "embed", "hidden"), ("training", "validation", "completion"))
    )
    expected |= {("logits", "training"), ("logits", "validation")}
    for options in ((), ("--model.characters_ahead=2", "--model.ngram_distillation=0.5")):
        seen.clear()
        cli = tiny_fit("--max_steps=1", *options)
        Completer(cli.model.network, cli.model.tokenizer, 16).complete("The", 3)
        assert seen >= expected
