"""Hugging Face's form: AutoTokenizer and AutoModelForCausalLM load it, and compute the same; in
the model card, text stays text.
"""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.errors import UserError
from shakespeare_lm.export.huggingface import huggingface_files, is_gpt2, model_card
from shakespeare_lm.methods.networks import NetworkOptions
from tests.export.models import VOCABULARY, network_of, random_checkpoint

# Warnings of transformers are about its own future.
pytestmark = pytest.mark.filterwarnings("ignore")

PLAIN: dict[str, Any] = {}
STOCK: dict[str, dict[str, Any]] = {
    "sinusoidal": PLAIN,
    "learned": {**PLAIN, "positions": "learned", "scale_embedding": False},
    "tied": {**PLAIN, "tied_head": True},
    "relu": {**PLAIN, "activation": "relu", "d_feedforward": 20, "qkv_bias": True},
}
OWN: dict[str, dict[str, Any]] = {
    "default": {"previous_characters": 4, "zero_init": True},
    "biases": {"bias": True, "qkv_bias": True, "tied_head": True},
    "post-norm": {"norm": "post", "positions": "learned", "previous_characters": 1},
    "rotary": {"positions": "rotary", "activation": "relu"},
    "bigram": {"network": "bigram", "optimizer": "adamw"},
}


def written(folder: Path, **options: Any) -> tuple[Any, Path]:
    checkpoint = random_checkpoint(folder, **options)
    target = folder / "exported"
    target.mkdir()
    for name, content in huggingface_files(checkpoint, "# card").items():
        (target / name).write_bytes(content)
    return checkpoint, target


@pytest.fixture
def transformers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Return the package, which may not use the network, and keeps its copies of code here."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    package = pytest.importorskip("transformers", reason="needs pip install -e '.[hf]'")
    monkeypatch.setattr(
        "transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules")
    )
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield package
    for name in [name for name in sys.modules if name.startswith("transformers_modules")]:
        del sys.modules[name]


@pytest.mark.parametrize("name", [*STOCK, *OWN])
def test_it_computes_the_same_logits_and_the_same_greedy_text(
    tmp_path: Path, transformers: Any, name: str
) -> None:
    checkpoint, folder = written(tmp_path, **{**STOCK, **OWN}[name])
    trust = name in OWN
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=trust)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=trust)
    assert (type(model).__name__ == "GPT2LMHeadModel") == (name in STOCK)
    ids = torch.randint(len(VOCABULARY), (3, 24))
    with torch.inference_mode():
        expected = network_of(checkpoint)(ids)
        torch.testing.assert_close(model.eval()(ids).logits, expected, atol=1e-5, rtol=1e-5)
    prompt = "ROabc:\n"
    inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
    made = model.generate(**inputs, max_new_tokens=17, do_sample=False)[0]
    completer = Completer(network_of(checkpoint), checkpoint.tokenizer, 24)
    assert tokenizer.decode(made) == prompt + completer.complete(prompt, 17, greedy=True)


@pytest.mark.parametrize("name", ["default", "rotary"])
def test_a_long_text_is_read_through_its_last_characters(
    tmp_path: Path, transformers: Any, name: str
) -> None:
    checkpoint, folder = written(tmp_path, **OWN[name])
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    prompt = "abcde'" * 5
    ids = torch.tensor([checkpoint.tokenizer.encode(prompt)])
    made = model.generate(input_ids=ids, max_new_tokens=30, do_sample=False)[0, len(prompt) :]
    completer = Completer(network_of(checkpoint), checkpoint.tokenizer, 24)
    expected = completer.complete(prompt, 30, greedy=True, window="exact")
    assert checkpoint.tokenizer.decode(made.tolist()) == expected


@pytest.mark.parametrize("name", ["sinusoidal", "default", "rotary", "post-norm"])
def test_prompts_of_different_lengths_are_padded_on_the_left(
    tmp_path: Path, transformers: Any, name: str
) -> None:
    _, folder = written(tmp_path, **{**STOCK, **OWN}[name])
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    tokenizer.padding_side = "left"
    options = {"max_new_tokens": 9, "do_sample": False}
    several = tokenizer(
        ["abc", "ROabcde: a"], return_tensors="pt", padding=True, return_token_type_ids=False
    )
    alone = tokenizer("abc", return_tensors="pt", return_token_type_ids=False)
    together = model.generate(**several, **options)[0, -9:]
    assert together.tolist() == model.generate(**alone, **options)[0, -9:].tolist()


def test_the_loss_is_that_of_the_next_character(tmp_path: Path, transformers: Any) -> None:
    checkpoint, folder = written(tmp_path, **OWN["default"])
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    ids = torch.randint(len(VOCABULARY), (2, 10))
    with torch.inference_mode():
        logits = network_of(checkpoint)(ids)[:, :-1].flatten(0, 1)
        expected = torch.nn.functional.cross_entropy(logits, ids[:, 1:].flatten())
        assert model(ids, labels=ids).loss == pytest.approx(float(expected), abs=1e-5)


def test_the_tokenizer_keeps_every_character(tmp_path: Path, transformers: Any) -> None:
    checkpoint, folder = written(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for text in ("\n\n a  b\n", VOCABULARY, "  'a' .\n", " ", "é😀é"):
        ids = tokenizer(text)["input_ids"]
        assert ids == checkpoint.tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
    with pytest.raises(Exception, match="UNK"):
        tokenizer("Z")


def test_the_folder_is_complete(tmp_path: Path) -> None:
    names = {"README.md", "config.json", "generation_config.json", "model.safetensors",
             "tokenizer.json", "tokenizer_config.json"}  # fmt: skip
    checkpoint = random_checkpoint(tmp_path, **PLAIN)
    assert huggingface_files(checkpoint, "").keys() == names
    own = huggingface_files(random_checkpoint(tmp_path, previous_characters=4), "card")
    assert own.keys() == names | {"modeling_shakespeare_lm.py"}
    assert own["README.md"] == b"card"
    assert json.loads(own["config.json"])["previous_characters"] == 4


def test_a_memory_is_refused_and_stock_classes_are_found(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="memory_order is 3: Hugging Face's form cannot hold that"):
        huggingface_files(random_checkpoint(tmp_path, memory_order=3), "")
    assert is_gpt2(NetworkOptions())
    assert not is_gpt2(NetworkOptions(previous_characters=4))
    assert not is_gpt2(NetworkOptions(bias=True))


def test_the_card_has_facts_losses_and_how_to_load_it() -> None:
    card = model_card("my model", [("Seed", "1")], [("this model", "1.5")], "a text", "import x")
    assert card.startswith("---\nlibrary_name: transformers\n")
    for line in (
        "# my model",
        "| Seed | 1 |",
        "| this model | 1.5 |",
        "```python\nimport x\n```",
        "on a text.",
    ):
        assert line in card, line
    assert "How good" not in model_card("m", [], [], "", "")


def test_names_cannot_break_the_card() -> None:
    card = model_card("a\n---\n<script>", [("x | y", "[a](b)\n# c")], [], "", "")
    assert "<script>" not in card
    assert "| x \\| y | \\[a\\]\\(b\\) \\# c |" in card
    assert card.count("\n---\n") == 1
