"""Hugging Face's form: AutoTokenizer and AutoModelForCausalLM load it, and compute the same; in
the model card, text stays text.
"""

import ast
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from shakespeare_lm.checkpoint.exportable import KNOWN
from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.errors import UserError
from shakespeare_lm.export.huggingface import huggingface_files, model_card, stock_model
from shakespeare_lm.model.config import NetworkConfig
from tests.export.conftest import load
from tests.export.models import VOCABULARY, network_of, random_checkpoint

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "shakespeare_lm/export/modeling_shakespeare_lm.py"
SHARING = ROOT / "docs/SHARING.md"
# Warnings of transformers are about its own future.
pytestmark = pytest.mark.filterwarnings("ignore")

STOCK: dict[str, dict[str, Any]] = {
    "sinusoidal": {},
    "learned": {"positions": "learned", "scale_embedding": False},
    "tied": {"tied_head": True},
    "relu": {"activation": "relu", "d_feedforward": 20, "qkv_bias": True},
    "head bias": {"bias": True, "tied_head": True, "d_model": 32},
    "rotary": {"positions": "rotary", "activation": "relu", "qkv_bias": True},
    "rotary, head bias": {"positions": "rotary", "bias": True, "d_model": 32},
    "bigram": {"network": "bigram", "optimizer": "adamw"},
}
OWN: dict[str, dict[str, Any]] = {
    "default": {"previous_characters": 4, "zero_init": True},
    "biases": {"bias": True, "qkv_bias": True, "tied_head": True, "d_model": 12},
    "post-norm": {"norm": "post", "positions": "learned", "previous_characters": 1},
    "rotary n-grams": {"positions": "rotary", "activation": "relu", "previous_characters": 2},
}


@pytest.mark.parametrize("name", [*STOCK, *OWN])
def test_a_folder_computes_what_the_model_computes(
    tmp_path: Path, transformers: Any, name: str
) -> None:
    checkpoint = random_checkpoint(tmp_path, **{**STOCK, **OWN}[name])
    model, tokenizer = load(transformers, checkpoint, tmp_path, trust_remote_code=name in OWN)
    assert type(model).__module__.startswith("transformers.") == (name in STOCK)
    network = network_of(checkpoint)
    completer = Completer(network, checkpoint.tokenizer, 24)

    def greedy(*prompts: str, length: int) -> list[str]:
        given = tokenizer(
            list(prompts), return_tensors="pt", padding=True, return_token_type_ids=False,
            padding_side="left",
        )  # fmt: skip
        made = model.generate(**given, max_new_tokens=length, do_sample=False)
        return [tokenizer.decode(ids[-length:]) for ids in made]

    ids = torch.randint(len(VOCABULARY), (3, 24))
    with torch.inference_mode():
        expected = network(ids)
        loss = torch.nn.functional.cross_entropy(
            expected[:, :-1].flatten(0, 1), ids[:, 1:].flatten()
        )
        found = model.eval()(ids, labels=ids)
    torch.testing.assert_close(found.logits, expected, atol=1e-5, rtol=1e-5)
    assert found.loss == pytest.approx(float(loss), abs=1e-5)
    # Prompts of different lengths are padded on the left.
    prompts = ["abc", "ROabc:\n"]
    assert greedy(*prompts, length=17) == completer.complete(prompts, 17, greedy=True)
    if name in OWN:  # stock classes cannot go past the context
        long = "abcde'" * 4
        assert greedy(long, length=45) == [completer.complete(long, 45, greedy=True)]
    for text in ("\n\n a  b\n", VOCABULARY, "  'a' .\n", " ", "é😀é"):
        encoded = tokenizer(text)["input_ids"]
        assert encoded == checkpoint.tokenizer.encode(text)
        assert tokenizer.decode(encoded) == text
    # The error says what the model knows, and the line of the card what it does not.
    for unknown in ("Z", "<|padding|>"):
        with pytest.raises(
            Exception, match=r"Unk token `any character but .*Rabcdeé😀.` not found"
        ):
            tokenizer(unknown)
    assert set("RaZ") - set(tokenizer.get_vocab()) == {"Z"}


def test_the_folder_is_complete(tmp_path: Path) -> None:
    names = {"README.md", "config.json", "generation_config.json", "model.safetensors",
             "tokenizer.json", "tokenizer_config.json"}  # fmt: skip
    assert huggingface_files(random_checkpoint(tmp_path), "").keys() == names
    own = huggingface_files(random_checkpoint(tmp_path, previous_characters=4), "card \udcff")
    assert own.keys() == names | {"modeling_shakespeare_lm.py"}
    assert own["README.md"] == rb"card \udcff"  # as a folder's name may have it
    assert json.loads(own["config.json"])["previous_characters"] == 4


def test_a_memory_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="memory_order is 3: Hugging Face's form cannot hold that"):
        huggingface_files(random_checkpoint(tmp_path, memory_order=3), "")


def test_a_head_bias_that_a_final_norm_cannot_hold_leaves_stock_classes(tmp_path: Path) -> None:
    options = {"bias": True, "num_layers": 1}
    assert stock_model(random_checkpoint(tmp_path, **options, d_model=32)) == "gpt2"
    assert stock_model(random_checkpoint(tmp_path, **options, d_model=14)) is None
    # Two equal rows cannot have two biases; two that nearly are make rounding too large.
    checkpoint = random_checkpoint(tmp_path, **options, d_model=32)
    for difference in (0, 1e-7):
        head = checkpoint.weights["head.weight"].clone()
        head[1] = head[0] * (1 + difference)
        weights = {**checkpoint.weights, "head.weight": head}
        assert stock_model(checkpoint._replace(weights=weights)) is None


def test_the_documents_say_which_form_each_recipe_takes(tmp_path: Path) -> None:
    names = {"gpt2": "GPT-2", "gpt_neox": "GPT-NeoX", None: "own code"}
    found = {}
    for path in (ROOT / "configs").glob("*.yaml"):
        recipe = yaml.safe_load(path.read_text("utf-8"))["model"]
        options = {name: recipe[name] for name in KNOWN if name in recipe} | {"num_layers": 1}
        vocabulary = "".join(map(chr, range(65, 65 + 65)))
        checkpoint = random_checkpoint(tmp_path, vocabulary, **options)
        found[path.stem] = "refused" if "memory_order" in recipe else names[stock_model(checkpoint)]
    rows = re.findall(r"^\| (`.+) \| ([^|]+) \|", SHARING.read_text("utf-8"), re.MULTILINE)
    written = {name: form for row, form in rows for name in re.findall("`([a-z0-9-]+)`", row)}
    assert {name: written[name] for name in found} == found


def test_the_card_has_facts_losses_and_how_to_load_it_and_names_cannot_break_it() -> None:
    facts = [("Seed", "1"), ("x | y", "[a](b)\n# c")]
    card = model_card("a\n---\n<script>", facts, [("this model", "1.5")], "a text", "import <x>")
    assert card.startswith("---\nlibrary_name: transformers\n")
    for line in ("# a --- \\<script\\>", "| Seed | 1 |", "| x \\| y | \\[a\\]\\(b\\) \\# c |",
                 "| this model | 1.5 |", "```python\nimport <x>\n```"):  # fmt: skip
        assert f"\n{line}\n" in card, line
    assert "on a text." in card
    assert card.count("\n---\n") == 1
    card = model_card("a\udcff\u202eb\x1b", [("Network", "bigram table")], [], "", "")
    assert "# a\udcff\\u202eb\\x1b" in card
    assert "How good" not in card
    assert "transformer" not in card.partition("# ")[2]  # it holds for every network


def test_the_modelling_file_stands_alone_and_knows_what_exports_let_pass() -> None:
    tree = ast.parse(SOURCE.read_text())
    modules = {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in modules} == {"torch", "transformers", "typing"}
    constants: dict[str, Any] = {}  # the file itself needs an extra to be imported
    for node in tree.body:
        if isinstance(node, ast.AnnAssign | ast.Assign) and node.value is not None:
            (target,) = [node.target] if isinstance(node, ast.AnnAssign) else node.targets
            if ast.unparse(target) in ("OPTIONS", "CHOICES"):
                constants[ast.unparse(target)] = ast.literal_eval(node.value)
    defaults = asdict(NetworkConfig())
    expected = {**{name: defaults[name] for name in KNOWN}, "d_feedforward": 640}
    assert constants["OPTIONS"] == expected
    choices = {name: some for name, some in KNOWN.items() if some is not None}
    # A bigram table is a stock model.
    assert constants["CHOICES"] == {**choices, "network": ("transformer",)}
