"""The command `export`: a model in a form that other programs load.

Enters: the options of `scripts/export.py`. Leaves: a file or a folder; on stdout how to use it, and
on stderr what the form costs.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from tempfile import mkdtemp
from typing import get_args

from shakespeare_lm.checkpoint.card import card
from shakespeare_lm.checkpoint.reading import FORMAT, Checkpoint, read_checkpoint
from shakespeare_lm.checkpoint.runs import find_checkpoint
from shakespeare_lm.checkpoint.safetensors_file import SUFFIX, safetensors_bytes
from shakespeare_lm.commands.exit_code import run
from shakespeare_lm.commands.exported_losses import (
    ExportedLosses,
    measure_exported,
    measured_on,
    print_cost,
    trained_on,
)
from shakespeare_lm.errors import UserError
from shakespeare_lm.export.huggingface import check_fits, huggingface_files, is_gpt2
from shakespeare_lm.export.model_card import model_card
from shakespeare_lm.export.onnx_file import OnnxFormat, OnnxNetwork, write_onnx
from shakespeare_lm.invocation import command_line

_PROMPT = "ROMEO:"


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all options."""
    parser = argparse.ArgumentParser(
        prog=command_line("export"),
        description="Write a model in a form that other programs load, and say how.",
    )
    add = parser.add_argument
    add("--to", choices=tuple(_EXPORTS), required=True, help="the form")
    add("--output", metavar="PATH", required=True, help="a new file, or for huggingface a folder")
    add(
        "--ckpt",
        metavar="PATH",
        help="a checkpoint, or the folder of a run (default: the newest run's best)",
    )
    add(
        "--dtype",
        choices=get_args(OnnxFormat),
        default="float32",
        help="of the matrices in onnx: int8 is a quarter of the size (float32)",
    )
    add("--corpus", help="another corpus than the checkpoint's, to measure val_loss on")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command; return the exit code."""
    arguments = build_parser().parse_args(argv)
    return run(lambda: export(arguments))


def export(arguments: argparse.Namespace) -> int:
    """Write the form when everything for it is there: a mistake leaves nothing."""
    output = Path(arguments.output)
    _check_new(output)
    if arguments.dtype != "float32" and arguments.to != "onnx":
        raise UserError(f"dtype is {arguments.dtype}: {arguments.to} has float32 only")
    path = find_checkpoint(arguments.ckpt)
    checkpoint = read_checkpoint(path)
    use = _EXPORTS[arguments.to](arguments, path, checkpoint, output)
    print(f"{output}: {_size(output):,} bytes; use it with\n", file=sys.stderr)
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


def _to_safetensors(
    arguments: argparse.Namespace, path: Path, checkpoint: Checkpoint, output: Path
) -> str:
    if output.suffix != SUFFIX:
        raise UserError(f"output is {output}: expected a name that ends with {SUFFIX}")
    hyperparameters = checkpoint.content["hyper_parameters"]
    _write_whole(output, safetensors_bytes(checkpoint.distinct_weights, hyperparameters, FORMAT))
    return (
        "from shakespeare_lm import Completer\n"
        f"completer = Completer.from_checkpoint({_quoted(output)})\n"
        f"print(completer.complete({_prompt(checkpoint)}, 200, seed=1))"
    )


def _to_onnx(
    arguments: argparse.Namespace, path: Path, checkpoint: Checkpoint, output: Path
) -> str:
    check_fits(checkpoint.config, "ONNX")
    write_onnx(checkpoint, output, arguments.dtype)
    if arguments.dtype == "int8":
        losses = measure_exported(checkpoint, arguments.corpus, OnnxNetwork(output))
        print_cost(losses, "with weights in 8 bits")
    prompt = _prompt(checkpoint)
    return (
        f"import onnxruntime; session = onnxruntime.InferenceSession({_quoted(output)})\n"
        'characters = session.get_modelmeta().custom_metadata_map["vocabulary"]\n'
        f"print(session.run(None, {{'ids': [[characters.index(c) for c in {prompt}]]}}))"
    )


def _to_huggingface(
    arguments: argparse.Namespace, path: Path, checkpoint: Checkpoint, output: Path
) -> str:
    check_fits(checkpoint.config, "Hugging Face's form")
    losses = measure_exported(checkpoint, arguments.corpus)
    trust = "" if is_gpt2(checkpoint.config) else ", trust_remote_code=True"

    prompt = _prompt(checkpoint)
    # Stock GPT-2 cannot go past its context.
    length = max(1, min(100, checkpoint.config.context_length - len(prompt)))

    def use(folder: Path) -> str:
        return (
            "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
            f"model, tokenizer = (auto.from_pretrained({_quoted(folder)}{trust}) "
            "for auto in (AutoModelForCausalLM, AutoTokenizer))\n"
            f"print(tokenizer.decode(model.generate(**tokenizer({prompt}, "
            f'return_tensors="pt", return_token_type_ids=False), max_new_tokens={length})[0]))'
        )

    corpus = trained_on(checkpoint, losses)
    facts = card(checkpoint, corpus, path.stat().st_mtime, version("shakespeare-lm"))
    # The card goes where the folder goes: not with a path of this machine.
    measured = measured_on(losses) if losses else ""
    use_it = use(Path(output.name))
    text = model_card(output.name, facts, _loss_rows(losses), measured, use_it)
    _write_folder(output, huggingface_files(checkpoint, text))
    return use(output)


_EXPORTS: dict[str, Callable[[argparse.Namespace, Path, Checkpoint, Path], str]] = {
    "safetensors": _to_safetensors,
    "onnx": _to_onnx,
    "huggingface": _to_huggingface,
}


def _loss_rows(losses: ExportedLosses | None) -> list[tuple[str, str]]:
    if losses is None:
        return []
    others = sorted(losses.others.items(), key=lambda one: one[1])
    return [(name, f"{nats:.4f}") for name, nats in (("this model", losses.model), *others)]


def _prompt(checkpoint: Checkpoint) -> str:
    """Return a prompt that the model can read, as Python text."""
    vocabulary = checkpoint.tokenizer.vocabulary
    return repr(_PROMPT if set(_PROMPT) <= set(vocabulary) else vocabulary[-1])


def _quoted(path: Path) -> str:
    return repr(path.as_posix())


def _write_whole(output: Path, content: bytes) -> None:
    part = output.with_name(f".{output.name}.part")
    try:
        part.write_bytes(content)
        part.replace(output)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(output)) from error


def _write_folder(output: Path, contents: dict[str, bytes]) -> None:
    part = Path(mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        for name, content in contents.items():
            (part / name).write_bytes(content)
        part.chmod(0o755)  # mkdtemp makes private ones
        part.rename(output)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        raise OSError(error.errno, error.strerror, str(output)) from error


def _size(output: Path) -> int:
    files = output.iterdir() if output.is_dir() else [output]
    return sum(file.stat().st_size for file in files)
