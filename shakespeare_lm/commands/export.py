"""The command `export`: a model in a form that other programs load; on stdout how to use it, and on
stderr what it costs.
"""

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

from shakespeare_lm.checkpoint.exportable import check_known
from shakespeare_lm.checkpoint.reading import FORMAT, Checkpoint, read_checkpoint
from shakespeare_lm.checkpoint.runs import LOG_FOLDER, find_checkpoint
from shakespeare_lm.checkpoint.safetensors_file import SUFFIX, safetensors_bytes
from shakespeare_lm.commands.console import command, progress_bar
from shakespeare_lm.commands.exported import (
    Losses,
    check_exported,
    gguf_network,
    huggingface_network,
    measure_losses,
    model_facts,
    trained_on,
)
from shakespeare_lm.commands.model_options import add_shared
from shakespeare_lm.commands.text_files import check_output, naming, write_whole
from shakespeare_lm.completion.sampling import SamplingOptions
from shakespeare_lm.errors import UserError
from shakespeare_lm.export.gguf_file import check_gguf, write_gguf
from shakespeare_lm.export.huggingface import huggingface_files, model_card, stock_model
from shakespeare_lm.export.onnx_file import OnnxFormat, OnnxNetwork, facts_path, write_onnx

_PROMPT = "ROMEO:"


_USE = {
    "safetensors": """\
from shakespeare_lm import Completer
completer = Completer.from_checkpoint({path})
print(completer.complete({prompt}, 200, temperature={temperature}, seed=1))""",
    "huggingface": """\
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
model = AutoModelForCausalLM.from_pretrained({path}{trust})
tokenizer = AutoTokenizer.from_pretrained({path}{trust})
set_seed(1)
ids = tokenizer({prompt}, return_tensors="pt", return_token_type_ids=False)
sampled = model.generate(**ids, temperature={temperature}, max_new_tokens={length})
print(tokenizer.decode(sampled[0]))""",
    "onnx": """\
import json, numpy, onnxruntime
session = onnxruntime.InferenceSession({path})
model = json.load(open({facts}, encoding="utf-8"))
characters, context_length = model["vocabulary"], model["context_length"]
nothing = numpy.zeros(model["past_shape"], "float32")
random = numpy.random.default_rng(1)
ids = [characters.index(character) for character in {prompt}]
past, start = nothing, 0
for _ in range(200):
    if len(ids) - start > context_length:  # restart a full window with its newer half
        past, start = nothing, len(ids) - max(1, context_length // 2)
    logits, past = session.run(None, {{"ids": [ids[start:]], "past_key_values": past}})
    logits = logits[0, -1, :len(characters)] / {temperature}
    # The largest sum with Gumbel noise is a sample from the softmax.
    ids.append(int((logits + random.gumbel(size=len(logits))).argmax()))
print("".join(characters[number] for number in ids))""",
    "gguf": """\
import xllamacpp  # llama.cpp and ollama run it too, as far as its context
parameters = xllamacpp.CommonParams()
parameters.model.path, parameters.n_ctx = {path}, {context_length}
request = {{"prompt": {prompt}, "n_predict": {length}, "temperature": {temperature}, "top_k": 0,
           "top_p": 1.0, "min_p": 0.0, "seed": 1}}
print({prompt} + xllamacpp.Server(parameters).handle_completions(request)["choices"][0]["text"])""",
}


def _add_options(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--to", choices=tuple(_EXPORTS), required=True, help="the form (required)")
    add("--output", metavar="PATH", required=True,
        help="a new file, or for huggingface a new folder (required)")  # fmt: skip
    add_shared(parser, "ckpt")
    add("--dtype", choices=get_args(OnnxFormat), default="float32",
        help="of the matrices in onnx: int8 is a quarter of the size")  # fmt: skip
    add_shared(parser, "corpus")


@command("export", "Write a model in a form that other programs load, and say how.", _add_options)
def main(arguments: Namespace) -> int:
    """Write the form when everything for it is there: a mistake leaves nothing."""
    output = Path(arguments.output)
    written = [output, facts_path(output)] if arguments.to == "onnx" else [output]
    for path in written:
        if os.path.lexists(path):
            raise UserError(f"output is {path}, which exists: choose a new path")
    check_output(arguments.output)
    if arguments.dtype != "float32" and arguments.to != "onnx":
        raise UserError(f"dtype is {arguments.dtype}: {arguments.to} has float32 only")
    path = find_checkpoint(arguments.ckpt)
    checkpoint = read_checkpoint(path)
    _EXPORTS[arguments.to](arguments, path, checkpoint, output)
    files = output.iterdir() if output.is_dir() else written
    size = sum(file.stat().st_size for file in files)
    print(f"{output}: {size:,} bytes; use it with\n", file=sys.stderr)
    print(_use(arguments.to, checkpoint, output))
    return 0


def _use(form: str, checkpoint: Checkpoint, path: Path) -> str:
    """Return Python code that makes a text with the exported form at a path."""
    vocabulary, context_length = checkpoint.tokenizer.vocabulary, checkpoint.config.context_length
    prompt = _PROMPT if set(_PROMPT) <= set(vocabulary) else vocabulary[-1]
    return _USE[form].format(
        path=repr(path.as_posix()), facts=repr(facts_path(path).as_posix()), prompt=repr(prompt),
        temperature=SamplingOptions.temperature,
        trust="" if stock_model(checkpoint) else ", trust_remote_code=True",
        # Stock GPT-2 cannot go past its context.
        length=max(1, min(200, context_length - len(prompt))), context_length=context_length,
    )  # fmt: skip


def _to_safetensors(_: Namespace, path: Path, checkpoint: Checkpoint, output: Path) -> None:
    if output.suffix != SUFFIX:
        raise UserError(f"output is {output}: expected a name that ends with {SUFFIX}")
    hyperparameters = checkpoint.content["hyper_parameters"]
    write_whole(output, safetensors_bytes(checkpoint.distinct_weights, hyperparameters, FORMAT))


def _to_onnx(arguments: Namespace, path: Path, checkpoint: Checkpoint, output: Path) -> None:
    if checkpoint.config.memory_order:
        check_known(checkpoint, "ONNX")
    losses = measure_losses(checkpoint, arguments.corpus)
    form = "the ONNX file" + (" (8-bit weights)" if arguments.dtype == "int8" else "")
    exact = checkpoint.network() if arguments.dtype == "float32" else None

    def check(file: Path) -> None:
        network = OnnxNetwork(file) if find_spec("onnxruntime") else None
        check_exported(checkpoint, network, form, "onnxruntime", losses, exact)

    with naming(output), progress_bar(f"writing and checking {form}"):
        write_onnx(checkpoint, output, arguments.dtype, check)


def _to_huggingface(arguments: Namespace, path: Path, checkpoint: Checkpoint, output: Path) -> None:
    check_known(checkpoint, "Hugging Face's form")
    losses = measure_losses(checkpoint, arguments.corpus)
    card = model_card(
        _title(path, trained_on(checkpoint, losses)), model_facts(path, checkpoint, losses),
        _loss_rows(losses), losses.measured_on if losses else "",
        # The card goes where the folder goes: not with a path of this machine.
        _use("huggingface", checkpoint, Path(output.name)),
    )  # fmt: skip
    prefix = f".{output.name[:50]}."  # which leaves room for more
    with naming(output), TemporaryDirectory(dir=output.parent, prefix=prefix) as folder:
        part = Path(folder) / "model"
        part.mkdir()
        for name, content in huggingface_files(checkpoint, card).items():
            (part / name).write_bytes(content)
        form, exact = "the Hugging Face folder", checkpoint.network()
        with progress_bar(f"checking {form}"):
            network = huggingface_network(part)
            check_exported(checkpoint, network, form, "transformers", losses, exact)
        part.rename(output)


def _to_gguf(arguments: Namespace, path: Path, checkpoint: Checkpoint, output: Path) -> None:
    check_known(checkpoint, "GGUF")
    check_gguf(checkpoint)
    losses = measure_losses(checkpoint, arguments.corpus)
    prefix = f".{output.name[:50]}."  # which leaves room for more
    with naming(output), TemporaryDirectory(dir=output.parent, prefix=prefix) as folder:
        write_gguf(checkpoint, part := Path(folder) / "model.gguf")
        with progress_bar("checking the GGUF file"):
            network = gguf_network(part, checkpoint.tokenizer.vocab_size)
            window = checkpoint.config.context_length - 1  # llama.cpp predicts no more
            check_exported(checkpoint, network, "the GGUF file", "llama.cpp", losses, window=window)
        part.rename(output)


def _title(path: Path, corpus: str) -> str:
    """Return what to call the model in a file: by its run, if that has a name, and its corpus."""
    *_, name, version, folder = ("", "", "", *path.resolve().parts[:-1])
    in_run = folder == "checkpoints" and version.startswith("version_")
    start = f"{name}: a" if in_run and name != LOG_FOLDER else "A"
    return f"{start} character-level model" + (f" of {corpus}" if corpus != "unknown" else "")


def _loss_rows(losses: Losses | None) -> list[tuple[str, str]]:
    if losses is None:
        return []
    rows = {"this model": losses.model, **losses.others}
    return [(name, f"{rows[name]:.4f}") for name in sorted(rows, key=lambda name: rows[name])]


_EXPORTS: dict[str, Callable[[Namespace, Path, Checkpoint, Path], None]] = {
    "safetensors": _to_safetensors,
    "onnx": _to_onnx,
    "huggingface": _to_huggingface,
    "gguf": _to_gguf,
}
