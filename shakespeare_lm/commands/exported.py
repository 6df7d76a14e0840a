"""What was exported is run by the program that it is for, and compared with the model; the model's
own loss is measured on the whole validation part, next to those of others.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from shakespeare_lm.checkpoint.model_card import card, corpus_name
from shakespeare_lm.checkpoint.reading import Checkpoint
from shakespeare_lm.commands.console import progress_bar
from shakespeare_lm.completion.inference import evaluating
from shakespeare_lm.data.corpus import NAMED_CORPORA, corpus_paths
from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.data.windows import Documents, encode_documents
from shakespeare_lm.errors import UserError, one_line
from shakespeare_lm.evaluation.baselines import PUBLISHED, Baseline, counted
from shakespeare_lm.evaluation.evaluation import encode
from shakespeare_lm.evaluation.losses import character_losses
from shakespeare_lm.evaluation.split_corpus import SplitCorpus, own_names
from shakespeare_lm.methods.sliding_window import predictions

CHECKED_CHARACTERS = 2048
# Of logits. JavaScript and PyTorch agree to 1e-3; another function does not.
_TOLERANCE = 0.002
_COMPARED_NGRAM = "7-gram"
_RUN_HUGGING_FACE = """\
import json, sys
import torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
with torch.inference_mode():
    logits = model(torch.tensor(json.load(sys.stdin))).logits
sys.stdout.buffer.write(logits.float().numpy().astype("<f4").tobytes())
"""
# Logits from the probabilities of the next token, one position after the other.
_RUN_LLAMA_CPP = """\
import json, sys
import numpy, xllamacpp
texts, vocab_size = json.load(sys.stdin), int(sys.argv[2])
parameters = xllamacpp.CommonParams()
parameters.model.path, parameters.n_ctx = sys.argv[1], len(texts[0]) + 1
parameters.n_parallel, parameters.warmup = 1, False
# Its threads wait for each other actively, which takes long where other programs run.
parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(parameters)
logits = numpy.zeros((*numpy.shape(texts), vocab_size), "<f4")
for row, text in enumerate(texts):
    for position in range(len(text)):
        request = {"prompt": text[:position + 1], "n_predict": 1, "n_probs": vocab_size}
        answer = server.handle_completions(request)
        for token in answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]:
            logits[row, position, token["id"]] = token["logprob"]
sys.stdout.buffer.write(logits.tobytes())
"""


class ProgramNetwork(nn.Module):
    """A command that maps ids `[batch, time]`, as JSON on its stdin, to logits
    `[batch, time, vocab]` in float32 on its stdout; a `UserError` says why it fails to run `form`.
    """

    def __init__(self, form: str, *command: str | Path) -> None:
        super().__init__()
        self.form, self.command = form, command
        self.unused = nn.Parameter(torch.zeros(0))  # says that it is on the CPU

    def forward(self, ids: Tensor) -> Tensor:
        with TemporaryDirectory() as folder:  # for what it caches
            changes = {"HF_HOME": folder, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
            done = subprocess.run(
                self.command, input=json.dumps(ids.tolist()).encode(), capture_output=True,
                env={**os.environ, **changes},
            )  # fmt: skip
        if done.returncode:
            lines = [line for line in done.stderr.decode(errors="replace").splitlines() if line]
            error = next((line for line in lines if "Error" in line), lines[-1] if lines else "")
            raise UserError(f"{self.form} does not run: {error[:200]}")
        logits = np.frombuffer(done.stdout, dtype="<f4").reshape(*ids.shape, -1)
        return torch.from_numpy(logits.copy())


def page_network(path: Path, which: int | str = 0) -> nn.Module | None:
    """Return the network of a page, run by Node.js; None if that is not installed. `which` is a
    moment, counted back from the last one, or "beside" for the other model.
    """
    node, run = shutil.which("node"), str(files("shakespeare_lm.page") / "run.js")
    return ProgramNetwork("the page", node, run, path, str(which)) if node else None


def huggingface_network(folder: Path) -> nn.Module | None:
    """Return the network of a Hugging Face folder; None without transformers."""
    if importlib.util.find_spec("transformers") is None:
        return None
    run = sys.executable, "-c", _RUN_HUGGING_FACE, folder
    return ProgramNetwork("the Hugging Face folder", *run)


def gguf_network(path: Path, vocab_size: int) -> nn.Module | None:
    """Return the network of a GGUF file, run by llama.cpp, up to a constant per position; None
    without xllamacpp.
    """
    if importlib.util.find_spec("xllamacpp") is None:
        return None
    run = sys.executable, "-c", _RUN_LLAMA_CPP, path, str(vocab_size)
    return ProgramNetwork("the GGUF file", *run)


class Losses(NamedTuple):
    """Mean losses over the validation part in blocks of the context, in nats per character."""

    model: float
    others: dict[str, float]  # of other models, by name
    corpus: str  # the name of the text
    is_own: bool  # whether the model was trained on this text, with the same split
    text: Documents  # the part

    @property
    def measured_on(self) -> str:
        """The text, for a table."""
        known = "" if self.is_own else ", which is not known to be the text it was trained on"
        return f"the validation part of {self.corpus}{known}"


def trained_on(checkpoint: Checkpoint, losses: Losses | None) -> str:
    """Return the name of the text that the model was trained on."""
    return losses.corpus if losses and losses.is_own else corpus_name(checkpoint)


def model_facts(path: Path, checkpoint: Checkpoint, losses: Losses | None) -> list[tuple[str, str]]:
    """Return what is known about the model in a file, with names."""
    written = path.stat().st_mtime
    return card(checkpoint, trained_on(checkpoint, losses), written, version("shakespeare-lm"))


def corpus_inputs(checkpoint: Checkpoint, given: str | None) -> list[Path]:
    """Return the files of the corpus given, or else of the one that a checkpoint names, if that may
    be read.
    """
    with suppress(UserError):
        return corpus_paths(own_names(checkpoint.trained_on) if given is None else given)
    return []


def measure_losses(checkpoint: Checkpoint, corpus: str | None) -> Losses | None:
    """Return the losses on the checkpoint's corpus or another given one; None, with a warning on
    stderr, if it cannot be read.
    """
    name = corpus_name(checkpoint) if corpus is None else corpus
    try:
        split = SplitCorpus(checkpoint, corpus)
        text = encode(split.documents("val"), checkpoint.tokenizer)
    except (UserError, OSError) as error:
        reason = f"(corpus: {name}): {one_line(error)}"
        print(f"warning: val_loss is not measured {reason}", file=sys.stderr)
        return None
    if split.difference is not None:
        print(f"warning: {split.difference}", file=sys.stderr)
    with progress_bar("measuring val_loss") as progress:
        network, context_length = checkpoint.network().eval(), checkpoint.config.context_length
        model = np.nanmean(character_losses(network, text, context_length, progress=progress))
    published = split.is_published_split(NAMED_CORPORA["tinyshakespeare"].sha256)
    ngrams = ngram_baselines(split.parts.train, split.parts.val)
    others = [*PUBLISHED[:published], *(one for one in ngrams if one.name == _COMPARED_NGRAM)]
    name = "tiny Shakespeare" if published else PurePath(name).name
    by_name = {other.name: other.nats for other in others}
    return Losses(float(model), by_name, name, split.difference is None, text)


def ngram_baselines(train: Sequence[str], part: Sequence[str]) -> list[Baseline]:
    """Return the uniform model and n-gram models, counted on the training part; without the memory
    for these, the uniform model alone, after a warning.
    """
    tokenizer = CharTokenizer.from_text(*train, *part)
    known, text = (encode_documents(documents, tokenizer) for documents in (train, part))
    baselines: list[Baseline] = []
    with progress_bar("counting n-grams") as progress:
        try:
            baselines += counted(known, text, len(tokenizer.vocabulary), progress)
        except UserError as error:  # the rest is worth having without them
            print(f"warning: without n-gram models: {error}", file=sys.stderr)
    return baselines


def check_exported(
    checkpoint: Checkpoint,
    exported: nn.Module | None,
    form: str,
    program: str,
    losses: Losses | None = None,
    exact: nn.Module | None = None,
    window: int | None = None,
) -> float | None:
    """Run an exported form on 2,048 characters, and say on stderr what it costs there: its loss
    minus that of the model, in nats per character, which is also returned if it is known.

    `exported` runs the form; it is None if the program for it is not installed. `exact` is what the
    form must compute up to rounding, if anything. Without `losses`, which have a text, random
    characters are compared, and have no cost. `window` characters are read at once, by default the
    context.

    Raises:
        UserError: if the form does not run, or computes something else.
    """
    if exported is None:
        print(f"{form}: not checked: {program} is not installed", file=sys.stderr)
        return None
    context_length = window or checkpoint.config.context_length
    ids = _some_characters(checkpoint, losses)
    found, targets = _logits(exported, ids, context_length)
    if exact is not None:
        difference = float((found - _logits(exact, ids, context_length)[0]).abs().max())
        if not difference < _TOLERANCE:  # NaN is no agreement either
            raise UserError(
                f"{form}, run by {program}, does not compute what the model computes: its logits "
                f"are off by up to {difference:.2g} on {len(targets):,} characters"
            )
    if losses is None:
        print(f"{form}: checked by {program} on random characters", file=sys.stderr)
        return None
    model = nn.functional.cross_entropy(*_logits(checkpoint.network(), ids, context_length))
    cost = float(nn.functional.cross_entropy(found, targets) - model)
    result = f"val_loss {losses.model:.4f}; {form} costs {cost:+.5f}"
    print(f"{result}\n  (run by {program} on {len(targets):,} characters)", file=sys.stderr)
    return cost


def _some_characters(checkpoint: Checkpoint, losses: Losses | None) -> Tensor:
    """Return the beginning of the text, repeated if it is short; or random ids."""
    count = CHECKED_CHARACTERS + 1
    if losses is not None:
        return losses.text.ids.repeat(1 + count // len(losses.text.ids))[:count]
    generator = torch.Generator().manual_seed(0)
    return torch.randint(len(checkpoint.tokenizer.vocabulary), (count,), generator=generator)


def _logits(network: nn.Module, ids: Tensor, context_length: int) -> tuple[Tensor, Tensor]:
    """Return logits `[characters, vocab]` and targets `[characters]`."""
    with evaluating(network):
        rows = list(predictions(network, ids, context_length, context_length))
    logits, targets = (torch.cat(parts) for parts in zip(*rows, strict=True))
    return logits.float(), targets
