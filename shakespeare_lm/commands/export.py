"""The command `export`: a model in a form that other programs load; on stdout how to use it, and on
stderr what it costs.
"""

import os
import shutil
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp
from typing import get_args

from shakespeare_lm.checkpoint.closed import check_known
from shakespeare_lm.checkpoint.reading import FORMAT, Checkpoint, read_checkpoint
from shakespeare_lm.checkpoint.runs import find_checkpoint
from shakespeare_lm.checkpoint.safetensors_file import SUFFIX, safetensors_bytes
from shakespeare_lm.commands.console import command
from shakespeare_lm.commands.exported import (
    Losses,
    check_exported,
    huggingface_network,
    measure_losses,
    model_facts,
)
from shakespeare_lm.commands.model_options import CKPT, CORPUS
from shakespeare_lm.commands.text_files import write_whole
from shakespeare_lm.errors import UserError
from shakespeare_lm.export.huggingface import huggingface_files, is_gpt2, model_card
from shakespeare_lm.export.onnx_file import OnnxFormat, OnnxNetwork, write_onnx

_PROMPT = "ROMEO:"


def _add_options(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--to", choices=tuple(_EXPORTS), required=True, help="the form")
    add("--output", metavar="PATH", required=True, help="a new file, or for huggingface a folder")
    add("--ckpt", **CKPT)
    add("--dtype", choices=get_args(OnnxFormat), default="float32",
        help="of the matrices in onnx: int8 is a quarter of the size (float32)")  # fmt: skip
    add("--corpus", **CORPUS)


@command("export", "Write a model in a form that other programs load, and say how.", _add_options)
def main(arguments: Namespace) -> int:
    """Write the form when everything for it is there: a mistake leaves nothing."""
    output = Path(arguments.output)
    _check_new(output)
    if arguments.dtype != "float32" and arguments.to != "onnx":
        raise UserError(f"dtype is {arguments.dtype}: {arguments.to} has float32 only")
    path = find_checkpoint(arguments.ckpt)
    use = _EXPORTS[arguments.to](arguments, path, read_checkpoint(path), output)
    files = output.iterdir() if output.is_dir() else [output]
    size = sum(file.stat().st_size for file in files)
    print(f"{output}: {size:,} bytes; use it with\n", file=sys.stderr)
    print(use)
    return 0


def _check_new(output: Path) -> None:
    """Refuse a path that exists, or that nothing can be made at."""
    if os.path.lexists(output):
        raise UserError(f"output is {output}, which exists: choose a new path")
    if not output.parent.is_dir():
        raise UserError(f"output is {output}: there is no folder {output.parent}")
    if not os.access(output.parent, os.W_OK):
        raise UserError(f"output is {output}: the folder {output.parent} cannot be written to")


def _to_safetensors(arguments: Namespace, path: Path, checkpoint: Checkpoint, output: Path) -> str:
    if output.suffix != SUFFIX:
        raise UserError(f"output is {output}: expected a name that ends with {SUFFIX}")
    hyperparameters = checkpoint.content["hyper_parameters"]
    write_whole(output, safetensors_bytes(checkpoint.distinct_weights, hyperparameters, FORMAT))
    return (
        "from shakespeare_lm import Completer\n"
        f"completer = Completer.from_checkpoint({_quoted(output)})\n"
        f"print(completer.complete({_prompt(checkpoint)}, 200, seed=1))"
    )


def _to_onnx(arguments: Namespace, path: Path, checkpoint: Checkpoint, output: Path) -> str:
    if checkpoint.config.memory_order:
        check_known(checkpoint, "ONNX")
    losses = measure_losses(checkpoint, arguments.corpus)
    form = "the ONNX file" + (" (8-bit weights)" if arguments.dtype == "int8" else "")
    exact = checkpoint.network() if arguments.dtype == "float32" else None

    def check(file: Path) -> None:
        network = OnnxNetwork(file) if find_spec("onnxruntime") else None
        check_exported(checkpoint, network, form, "onnxruntime", losses, exact)

    write_onnx(checkpoint, output, arguments.dtype, check)
    return (
        f"import onnxruntime; session = onnxruntime.InferenceSession({_quoted(output)})\n"
        'characters = session.get_modelmeta().custom_metadata_map["vocabulary"]\n'
        "print(session.run(None, "
        f"{{'ids': [[characters.index(c) for c in {_prompt(checkpoint)}]]}}))"
    )


def _to_huggingface(arguments: Namespace, path: Path, checkpoint: Checkpoint, output: Path) -> str:
    check_known(checkpoint, "Hugging Face's form")
    losses = measure_losses(checkpoint, arguments.corpus)

    def check(folder: Path) -> None:
        network, exact = huggingface_network(folder), checkpoint.network()
        form = "the Hugging Face folder"
        check_exported(checkpoint, network, form, "transformers", losses, exact)

    facts = model_facts(path, checkpoint, losses)
    # The card goes where the folder goes: not with a path of this machine.
    use_there = _use_of_huggingface(checkpoint, Path(output.name))
    measured_on = losses.measured_on if losses else ""
    card = model_card(output.name, facts, _loss_rows(losses), measured_on, use_there)
    _write_folder(output, huggingface_files(checkpoint, card), check)
    return _use_of_huggingface(checkpoint, output)


def _loss_rows(losses: Losses | None) -> list[tuple[str, str]]:
    if losses is None:
        return []
    others = sorted(losses.others.items(), key=lambda other: other[1])
    return [(name, f"{nats:.4f}") for name, nats in (("this model", losses.model), *others)]


def _use_of_huggingface(checkpoint: Checkpoint, folder: Path) -> str:
    trust = "" if is_gpt2(checkpoint.config) else ", trust_remote_code=True"
    prompt = _prompt(checkpoint)
    # Stock GPT-2 cannot go past its context.
    length = max(1, min(100, checkpoint.config.context_length - len(prompt)))
    return (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        f"model, tokenizer = (auto.from_pretrained({_quoted(folder)}{trust}) "
        "for auto in (AutoModelForCausalLM, AutoTokenizer))\n"
        f"print(tokenizer.decode(model.generate(**tokenizer({prompt}, "
        f'return_tensors="pt", return_token_type_ids=False), max_new_tokens={length})[0]))'
    )


_EXPORTS: dict[str, Callable[[Namespace, Path, Checkpoint, Path], str]] = {
    "safetensors": _to_safetensors,
    "onnx": _to_onnx,
    "huggingface": _to_huggingface,
}


def _prompt(checkpoint: Checkpoint) -> str:
    """Return a prompt that the model can read, as Python text."""
    vocabulary = checkpoint.tokenizer.vocabulary
    return repr(_PROMPT if set(_PROMPT) <= set(vocabulary) else vocabulary[-1])


def _quoted(path: Path) -> str:
    return repr(path.as_posix())


def _write_folder(output: Path, contents: dict[str, bytes], check: Callable[[Path], None]) -> None:
    part = Path(mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        for name, content in contents.items():
            (part / name).write_bytes(content)
        check(part)
        part.chmod(0o755)  # mkdtemp makes private ones
        part.rename(output)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(output)) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
