"""A checkpoint from anybody -> a model card: facts for people, without paths of its machine."""

from datetime import UTC, datetime
from pathlib import PurePath
from typing import Any

from shakespeare_lm.checkpoint.reading import Checkpoint
from shakespeare_lm.model.config import NetworkConfig

_LONGEST_FACT = 200
# What a hyperparameter is called on the card.
_TRAINING = {
    "optimizer": "{}",
    "learning_rate": "learning rate {:g}",
    "muon_learning_rate": "Muon's {:g}",
    "weight_decay": "weight decay {:g}",
    "ngram_distillation": "taught by n-grams, weight {:g}",
    "distillation": "taught by models, weight {:g}",
}


def card(
    checkpoint: Checkpoint, corpus: str, written: float, version: str
) -> list[tuple[str, str]]:
    """Return (name, fact) pairs; `written` is in seconds since 1970."""
    content = checkpoint.content
    step, seed = content.get("global_step", 0), content["hyper_parameters"].get("seed")
    lightning = content.get("pytorch-lightning_version")
    facts = {
        "Network": _network(checkpoint.config),
        "Weights": f"{num_weights(checkpoint):,}",
        "Characters": f"{len(checkpoint.tokenizer.vocabulary)} different ones",
        "Corpus": corpus,
        "Training": f"{step:,} steps; {_training(content['hyper_parameters'])}" if step else "",
        "Seed": str(seed) if isinstance(seed, int) else "",
        "Date": datetime.fromtimestamp(written, UTC).strftime("%Y-%m-%d"),
        "Made with": f"shakespeare_lm {version}"
        + (f", pytorch-lightning {lightning[:40]}" if isinstance(lightning, str) else ""),
    }
    return [(name, _printable(fact)) for name, fact in facts.items() if fact]


def num_weights(checkpoint: Checkpoint) -> int:
    """Return the number of weights; those of a tied head count once."""
    return sum(tensor.numel() for tensor in checkpoint.distinct_weights.values())


def corpus_name(checkpoint: Checkpoint) -> str:
    """Return what the model was trained on; of files, their names without folders."""
    names = checkpoint.trained_on.get("corpus")
    if not names:
        return "unknown"
    if names == ["auto"]:
        return "tiny Shakespeare, or the bundled scene"
    return _printable(", ".join(PurePath(name.replace("\\", "/")).name for name in names))


def _printable(fact: str) -> str:
    """Cut it, and replace lone surrogates, which no file can hold."""
    return fact[:_LONGEST_FACT].encode("utf-8", "replace").decode()


def _network(config: NetworkConfig) -> str:
    if config.network == "bigram":
        return "bigram table"
    kind = "causal transformer" if config.network == "transformer" else config.network
    before = config.previous_characters
    return (
        f"{kind}: {config.num_layers} layers, {config.num_heads} heads, width "
        f"{config.d_model}, context {config.context_length}, {config.positions} positions"
        + (f", {before} preceding characters embedded" if before else "")
    )


def _training(hyperparameters: dict[str, Any]) -> str:
    facts = [
        how.format(value)
        for name, how in _TRAINING.items()
        if (value := hyperparameters.get(name))
        and isinstance(value, str if name == "optimizer" else float)
        and (name != "muon_learning_rate" or hyperparameters.get("optimizer") == "muon")
    ]
    ahead = hyperparameters.get("characters_ahead")
    if isinstance(ahead, int) and ahead > 1:
        facts.append(f"predicts {ahead} characters ahead")
    return ", ".join(facts)
