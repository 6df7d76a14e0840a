"""The code that is read is the code that runs: the model room is short, knows nothing of the rest,
and the default run goes through all of it.
"""

import re
import sys
import threading
from pathlib import Path
from types import FrameType

import pytest

from shakespeare_lm.completion.completer import Completer
from tests.conftest import Fit

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "shakespeare_lm"
MODEL = sorted(path for path in (PACKAGE / "model").glob("*.py") if path.name != "__init__.py")
README = (ROOT / "README.md").read_text()
LISTED = [
    ROOT / file
    for file in re.findall(r"^- \[\w+\.py\]\((shakespeare_lm/[\w/]+\.py)\)", README, flags=re.M)
]
# Another network than the default one: the recipe `bigram` runs it.
BASELINE = PACKAGE / "model" / "bigram.py"


def test_the_model_has_at_most_600_lines() -> None:
    assert sum(len(path.read_text().splitlines()) for path in MODEL) <= 600


def test_the_library_has_at_most_12500_lines() -> None:
    lines = sum(len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py"))
    assert lines <= 12_500


def test_the_model_says_nothing_of_completion_memories_teachers_and_hardware() -> None:
    words = r"complet|cache|memor(y|ies)|teacher|distil|prefill|cuda|bfloat16|int8|onnx|lightning"
    for path in MODEL:
        found = re.search(words, path.read_text(), flags=re.IGNORECASE)
        assert found is None, f"{path.name}: {found[0] if found else ''}"


def test_the_readme_lists_the_model_the_loader_the_module_and_generation() -> None:
    others = ("data/windows.py", "data/loader.py", "training/module.py", "completion/generation.py")
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
        tiny = ("--data.corpus=sample", "--max_steps=2", "--val_check_interval=2")
        cli = tiny_fit(config, *tiny, "--model.d_model=16")
        Completer.from_checkpoint(cli.best.best_model_path).complete("The", 3)
        files = {path for path in {*LISTED, *MODEL} if str(path) not in entered}
        assert files == {BASELINE}
        options = (
            "--model.network=bigram",
            "--model.optimizer=adamw",
            "--model.characters_ahead=1",
        )
        tiny_fit(config, *tiny, *options)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    assert str(BASELINE) in entered


@pytest.mark.parametrize("function", ["forward", "embed", "hidden", "logits"])
def test_training_validation_and_completion_take_one_path(
    tiny_fit: Fit, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    """What is put into a method of the network acts wherever it is used."""
    from shakespeare_lm.model.transformer import CausalTransformer

    modes: set[str] = set()
    original = getattr(CausalTransformer, function)

    def counted(self: CausalTransformer, *arguments: object, **options: object) -> object:
        cached = options.get("past") is not None or any(hasattr(one, "extend") for one in arguments)
        modes.add("training" if self.training else "completion" if cached else "validation")
        return original(self, *arguments, **options)

    monkeypatch.setattr(CausalTransformer, function, counted)
    for options in ((), ("--model.characters_ahead=2", "--model.ngram_distillation=0.5")):
        modes.clear()
        cli = tiny_fit("--max_steps=1", *options)
        Completer(cli.model.network, cli.model.tokenizer, 16).complete("The", 3)
        expected = {"training", "validation"} | ({"completion"} if function != "logits" else set())
        assert modes >= expected
