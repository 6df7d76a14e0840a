"""Where bytes from anybody enter the program. A target takes any bytes, and returns if the program
accepts them or refuses them in one line; any other exception is a defect.
"""

import contextlib
import functools
import io
import struct
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from shakespeare_lm.checkpoint.reading import FORMAT, FORMAT_KEY
from shakespeare_lm.checkpoint.safetensors_file import safetensors_bytes
from shakespeare_lm.commands.fit_cli import ShakespeareCLI
from shakespeare_lm.commands.fit_parser import SHORT_HELP, spell_out
from shakespeare_lm.commands.jsonl import read_request
from shakespeare_lm.completion.completer import COMPLETION_OPTIONS, Completer
from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.errors import UserError
from shakespeare_lm.training.module import ShakespeareLM

SEPARATOR = b"\x00\x01"  # between the parts of an input that has several
WORDS = " ".join([*SHORT_HELP, *COMPLETION_OPTIONS]).encode()  # that inputs may contain
_TEMPORARY = tempfile.TemporaryDirectory(prefix="shakespeare_lm_fuzz_")  # until Python ends
_FOLDER = Path(_TEMPORARY.name)


def _tiny_model() -> ShakespeareLM:
    torch.manual_seed(0)
    sizes = {"num_layers": 1, "num_heads": 1, "d_model": 4, "context_length": 8, "memory_order": 2}
    module = ShakespeareLM(vocabulary="\n ab", **sizes)
    module.network.ngrams.remember(torch.tensor([0, 1, 2, 3, 2]), torch.tensor([5]))
    return module


def _checkpoint_bytes(module: ShakespeareLM) -> bytes:
    content = {
        FORMAT_KEY: FORMAT,
        "global_step": 3,
        "state_dict": module.state_dict(),
        "hyper_parameters": dict(module.hparams),
        "ShakespeareDataModule": {"seed": 1, "corpus": "sample"},
    }
    torch.save(content, file := io.BytesIO())
    return file.getvalue()


_MODEL = _tiny_model()
_CHECKPOINT = _checkpoint_bytes(_MODEL)
_COMPLETER = Completer(_MODEL.network.eval(), _MODEL.tokenizer, context_length=8)


@contextlib.contextmanager
def _refused_in_one_line() -> Iterator[None]:
    message = ""
    try:
        yield
    except UserError as error:
        message = str(error)
    assert "\n" not in message


def _complete_with(data: bytes, name: str) -> None:
    path = _FOLDER / name
    path.write_bytes(data)
    with _refused_in_one_line():
        Completer.from_checkpoint(path).complete("", max_new_tokens=2, seed=0)


def archive(data: bytes) -> None:
    """A `.ckpt` file, byte by byte."""
    _complete_with(data, "archive.ckpt")


def pickled(data: bytes) -> None:
    """What a `.ckpt` file holds, in an archive whose checksums are right."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(_CHECKPOINT)) as whole, zipfile.ZipFile(file, "w") as changed:
        for name in whole.namelist():
            changed.writestr(name, data if name.endswith("data.pkl") else whole.read(name))
    _complete_with(file.getvalue(), "pickled.ckpt")


def safetensors(data: bytes) -> None:
    """The header and the numbers of a `.safetensors` file."""
    header, _, numbers = data.partition(SEPARATOR)
    _complete_with(struct.pack("<Q", len(header)) + header + numbers, "model.safetensors")


class _OnlyParsed(ShakespeareCLI):
    """Makes nothing of the options."""

    def before_instantiate_classes(self) -> None:
        pass

    def instantiate_classes(self) -> None:
        pass


@functools.cache
def _command_line() -> ShakespeareCLI:
    return _OnlyParsed([])  # one, because to make it takes longer than to parse


def _parse(words: list[str]) -> None:
    parser = _command_line().parser
    parser.config_files.clear()  # type: ignore[attr-defined]
    parser.default_config_files = []
    code: object = 0
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()) as errors,
        warnings.catch_warnings(),
        _refused_in_one_line(),
    ):
        warnings.simplefilter("ignore")  # jsonargparse deprecates abbreviations
        try:
            _command_line().parse_arguments(parser, spell_out(words))
        except SystemExit as end:
            code = end.code or 0
    assert code == 0 or (code == 2 and errors.getvalue().count("\n") == 1), errors.getvalue()


def configuration(data: bytes) -> None:
    """A YAML file for `fit --config`."""
    path = _FOLDER / "options.yaml"
    path.write_bytes(data)
    _parse(["--config", str(path)])


def arguments(data: bytes) -> None:
    """The words after `fit`, one in each line; no system passes on a NUL."""
    _parse(data.replace(b"\0", b"").decode("utf-8", "surrogateescape").split("\n"))


def json_lines(data: bytes) -> None:
    """A line of `complete --jsonl`."""
    with contextlib.redirect_stderr(io.StringIO()) as errors:
        request = read_request(_COMPLETER, data, "stdin", 1, {})
    assert errors.getvalue().count("\n") == int(request.failed)
    if not request.failed:
        length = min(request.options.get("max_new_tokens", 4), 4)
        options = {**request.options, "max_new_tokens": length}
        with _refused_in_one_line():
            _COMPLETER.complete(request.record["prompt"][-20:], **options)


def tokenizer(data: bytes) -> None:
    """A vocabulary and a text."""
    parts = data.partition(SEPARATOR)
    vocabulary, text = (part.decode("utf-8", "surrogateescape") for part in parts[::2])
    with _refused_in_one_line():
        characters = CharTokenizer(vocabulary)
        known = "".join(character for character in text if character in vocabulary)
        assert characters.decode(characters.encode(text, "skip")) == known
        characters.decode(characters.encode(text, "replace"))
        assert characters.decode(characters.encode(text)) == text


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (
        archive, pickled, safetensors, configuration, arguments, json_lines, tokenizer
    )
}  # fmt: skip


def seeds() -> dict[str, list[bytes]]:
    """Return valid inputs of each target, from which others are made."""
    with zipfile.ZipFile(io.BytesIO(_CHECKPOINT)) as whole:
        (pickle,) = (whole.read(name) for name in whole.namelist() if name.endswith("data.pkl"))
    weights = dict(_MODEL.network.state_dict())
    stored = safetensors_bytes(weights, dict(_MODEL.hparams), FORMAT)
    end = 8 + struct.unpack("<Q", stored[:8])[0]
    return {
        "archive": [_CHECKPOINT],
        "pickled": [pickle],
        "safetensors": [stored[8:end] + SEPARATOR + stored[end:]],
        "configuration": [
            b"model: {d_model: 8, dropout: 0.1}\ntrainer:\n  max_steps: 5\nseed_everything: 3\n",
            b"# nothing\n", b"sample: {}\nname: a\n",
            b"data:\n  corpus: sample\n  split: contiguous\nsample.prompt: 'a'\n",
        ],
        "arguments": [
            b"--max_steps=5\n--model.d_model\n8\n--seed=3", b"--config=quick\n--precision\n32-true",
            b"--logger\nCSVLogger\n--help_all", b"--ckpt_path=last", b"--max_time\n00:00:01:00",
        ],
        "json_lines": [
            b'{"prompt": "ab", "temperature": 0.5, "id": 7, "stop": ["a"], "max_lines": 1}',
            b'{"prompt": "", "greedy": true, "num_samples": 2, "seed": 1, "top_k": 2}',
            b'{"prompt": "a", "stream": true, "unknown": "skip", "top_p": 0.9, "min_p": 1e-2}',
        ],
        "tokenizer": ["ab\n é".encode() + SEPARATOR + b"ab\na", b"a" + SEPARATOR + b"\xff\xe2"],
    }  # fmt: skip
