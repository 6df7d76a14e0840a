"""A checkpoint can come from anybody: it loads as it was written, or is refused in one line."""

import codecs
import contextlib
import copy
import io
import os
import pickle
import random
import re
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from shakespeare_lm.commands.fit import main
from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.errors import UserError
from shakespeare_lm.training.module import ShakespeareLM
from tests.conftest import TINY, Main

resource = pytest.importorskip("resource")  # which Windows does not have

# Events of the interpreter that loading a checkpoint must not cause.
FORBIDDEN = {
    "os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect",
    "os.remove", "os.rename", "os.mkdir", "shutil.rmtree", "exec", "compile",
}  # fmt: skip
_watched: list[str] | None = None

Content = dict[str, Any]
Attempt = Callable[[object], str]


def _watch(event: str, arguments: tuple) -> None:
    if _watched is not None and event in FORBIDDEN:
        _watched.append(event)


sys.addaudithook(_watch)  # cannot be removed again, so it only records while a test watches


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return the file that a training wrote, with the optimizer's state."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["fit.py", *TINY, "--max_steps=2"])
        assert main() == 0
    whole = (folder / "lightning_logs/version_0/checkpoints/last.ckpt").read_bytes()
    # Modules that Python imports at their first use, such as zipfile's codec, are loaded now, so
    # that they are not taken for code of a file.
    codecs.lookup("cp437")
    for content in (whole, b"PK\x03\x04"):
        (folder / "first.ckpt").write_bytes(content)
        with contextlib.suppress(UserError):
            Completer.from_checkpoint(folder / "first.ckpt").score("aa", unknown="replace")
    return whole


@pytest.fixture(scope="module")
def content(whole: bytes) -> Content:
    return torch.load(io.BytesIO(whole), weights_only=True)


@contextlib.contextmanager
def little_memory() -> Iterator[None]:
    """Whatever sizes a file of a few hundred kilobytes claims, it may not take more memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in KiB
    try:
        yield
    finally:
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400 << 10


def refusal(path: Path | str) -> str:
    """Load a file and use it; return the message if it was refused."""
    global _watched
    message, _watched = "", []
    try:
        with little_memory():
            completer = Completer.from_checkpoint(path)
            completer.complete("a", 20, unknown="replace", seed=0)
            completer.score("aa", unknown="replace")
    except UserError as error:
        message = str(error)
    finally:
        happened, _watched = _watched, None
    assert happened == []
    assert "\n" not in message
    assert len(message) < 500
    return message


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.ckpt"


@pytest.fixture
def attempt(path: Path) -> Attempt:
    """Return the function from a file's bytes, or the content to save in it, to its refusal."""

    def attempt(content: object) -> str:
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save(content, path)
        return refusal(path)

    return attempt


def assert_holds(path: Path, content: Content) -> None:
    for name, tensor in Completer.from_checkpoint(path).network.state_dict().items():
        assert torch.equal(tensor, content["state_dict"][f"network.{name}"]), name


def test_the_file_as_it_was_written_is_loaded(
    attempt: Attempt, whole: bytes, content: Content, path: Path
) -> None:
    assert attempt(whole) == ""
    assert_holds(path, content)


def test_truncated_files_are_refused(attempt: Attempt, whole: bytes) -> None:
    chance = random.Random(1)
    for size in [*range(0, 60, 6), *(chance.randrange(len(whole)) for _ in range(100))]:
        assert "a.ckpt is damaged or not a checkpoint" in attempt(whole[:size]), size


def damage(whole: bytes, chance: random.Random) -> bytes:
    """Flip a bit, or overwrite, insert, delete or repeat a piece."""
    start = chance.choice([chance.randrange(len(whole)), -chance.randrange(1, 9000)]) % len(whole)
    end = start + chance.choice([1, 4, 100, 5000])
    piece = whole[start:end]
    noise = chance.randbytes(len(piece))
    flipped = bytes([piece[0] ^ 1 << chance.randrange(8)]) + piece[1:]
    changed = [flipped, flipped, bytes(len(piece)), noise, noise + piece, piece + piece, b""]
    return whole[:start] + chance.choice(changed) + whole[end:]


def test_damaged_files_are_refused_or_hold_what_was_written(
    attempt: Attempt, whole: bytes, content: Content, path: Path
) -> None:
    refused = 0
    for number in range(400):
        if attempt(damage(whole, random.Random(number))):
            refused += 1
        else:  # a byte without effect, such as the time of a file in the archive
            assert_holds(path, content)
    assert refused > 320


class Call:
    """Pickles into a call."""

    def __init__(self, function: Callable, *arguments: object) -> None:
        self.parts = (function, arguments)

    def __reduce__(self) -> tuple:
        return self.parts


def rewrite(whole: bytes, change: Callable[[str, bytes], bytes], **options) -> bytes:
    """Return an archive with changed members and correct checksums."""
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(target, "w", **options) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return target.getvalue()


def with_member(whole: bytes, name: str, member: bytes, compression: int = 0) -> bytes:
    target = io.BytesIO(whole)
    with warnings.catch_warnings(), zipfile.ZipFile(target, "a", compression) as archive:
        warnings.filterwarnings("ignore", "Duplicate name")
        archive.writestr(name, member)
    return target.getvalue()


def with_pickle(whole: bytes, pickled: bytes) -> bytes:
    return rewrite(whole, lambda name, old: pickled if name.endswith("data.pkl") else old)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "call",
    [
        Call(os.system, "touch ran"),
        Call(eval, "open('ran', 'w')"),
        Call(Path.touch, Path("ran")),
        Call(getattr, str, "format"),
        Call(bytearray, 10**11),
        Call(torch.load, "ran"),
        Call(torch.zeros, 10**11),
        Call(__import__, "antigravity"),
    ],
    ids=lambda call: call.parts[0].__name__,
)
def test_pickles_that_call_something_are_refused_and_call_nothing(
    attempt: Attempt, whole: bytes, monkeypatch: pytest.MonkeyPatch, path: Path, call: Call,
    protocol: int,
) -> None:  # fmt: skip
    monkeypatch.chdir(path.parent)
    pickled = pickle.dumps({"state_dict": call}, protocol=protocol)
    assert "holds more than tensors and plain values" in attempt(with_pickle(whole, pickled))
    assert "a.ckpt is damaged or not a checkpoint" in attempt(pickled)
    assert not Path("ran").exists()


def replaced(content: Content, *path_and_value: Any) -> Content:
    *path, value = path_and_value
    if len(path) > 1:
        value = replaced(content[path[0]], *path[1:], value)
    return {**content, path[0]: value}


def without(content: Content, name: str) -> Content:
    return {other: value for other, value in content.items() if other != name}


SIZES = ["context_length", "num_layers", "num_heads", "d_model", "d_feedforward"]
ABSURD = [-1, 0, 3, 10**5, 10**9, 10**18, 10**40, 2.5, float("nan"), True, None, "x", [], {}]
FITTING = {"context_length": 3, "d_feedforward": None}


@pytest.mark.parametrize("name", [*SIZES, "previous_characters"])
def test_absurd_sizes_are_refused(attempt: Attempt, content: Content, name: str) -> None:
    for value in ABSURD:
        message = attempt(replaced(content, "hyper_parameters", name, value))
        assert bool(message) != (name in FITTING and value == FITTING[name]), value


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("vocabulary", ["", "aa", "\ud800", "abc", "".join(map(chr, range(50_000))), 3, None]),
        ("network", ["bigram", "Transformer", 1, None]),
        ("positions", ["learned", "", 7, ["sinusoidal"]]),
        ("norm", ["post ", None, {}]),
        ("dropout", [1.0, -0.1, float("nan"), float("inf"), "0", [0.1]]),
        ("bias", [True, "no", None]),
        ("_instantiator", ["os.system", "shakespeare_lm.commands.fit.main", None]),
        ("_class_path", ["os.system", "torch.nn.Linear"]),
        ("seed", [[1], {"a": 1}, torch.tensor(1)]),
    ],
)
def test_strange_hyperparameters_are_refused(
    attempt: Attempt, content: Content, path: Path, name: str, values: list
) -> None:
    for value in values:
        assert attempt(replaced(content, "hyper_parameters", name, value)), value
        with pytest.raises(UserError):
            ShakespeareLM.load_from_checkpoint(path)


def strange_weights(weights: torch.Tensor) -> Iterator[object]:
    yield weights[:-1]
    yield weights.T if weights.ndim > 1 else weights[None]
    yield weights.expand(10**6, *weights.shape)
    yield torch.zeros(()).expand(10**6, 10**6)
    yield torch.full_like(weights, float("nan"))
    yield torch.full_like(weights, float("inf"))
    yield weights.to(torch.int64)
    yield weights.to_sparse()
    yield weights.tolist()
    yield None


def test_strange_weights_are_refused(attempt: Attempt, content: Content) -> None:
    state = content["state_dict"]
    for name in [name for name in state if name.startswith("network.")][:4]:
        for weights in strange_weights(state[name]):
            assert attempt(replaced(content, "state_dict", name, weights)), (name, weights)
        message = attempt({**content, "state_dict": without(state, name)})
        assert f"it lacks the weights {name.removeprefix('network.')!r}" in message


def test_archives_that_swell_or_are_ambiguous_are_refused(
    attempt: Attempt, whole: bytes, content: Content
) -> None:
    deflated = zipfile.ZIP_DEFLATED
    for swelling in (
        rewrite(whole, lambda _, old: old, compression=deflated),
        with_member(whole, "last/data/zeros", bytes(1 << 28), deflated),
    ):
        assert "is compressed or larger inside than its file" in attempt(swelling)
    legacy = io.BytesIO()
    torch.save(content, legacy, _use_new_zipfile_serialization=False)
    for old_form in (legacy.getvalue(), legacy.getvalue() + whole):  # alone, one file in two forms
        assert "damaged or not a checkpoint" in attempt(old_form)
    many = b"\x80\x02]" + b"X" + (70_000_000).to_bytes(4, "little") + b"x" * 70_000_000 + b"a."
    assert "shared too often" in attempt(with_pickle(whole, many))


@pytest.mark.parametrize("count", [10**4, 2 * 10**9])
def test_a_tensor_beyond_its_record_is_refused(attempt: Attempt, whole: bytes, count: int) -> None:
    # The pickle states the size of a tensor's record just before the operation that loads it.
    announced = re.compile(rb"(K.|M..|J....)(t(?:q.|r....)Q)", re.DOTALL)
    larger = b"J" + count.to_bytes(4, "little")
    lie = rewrite(whole, lambda _, old: announced.sub(lambda found: larger + found[2], old))
    assert "record size" in attempt(lie)


OTHER_FILES = [
    b"", b"PK", b"PK\x05\x06" + bytes(18), b"\x89PNG\r\n\x1a\n" + bytes(100), b"To be\n" * 99,
    b"\x1f\x8b\x08" + bytes(99), b"\x93NUMPY\x01\x00" + bytes(99), b"\x80\x04." + bytes(99),
    bytes(8) + b'{"a":{"dtype":"F32"}}', b"#!/bin/sh\ntouch ran\n", bytes(1 << 20),
]  # fmt: skip


def test_other_files_and_other_contents_are_refused(attempt: Attempt, content: Content) -> None:
    for other in OTHER_FILES:
        assert "damaged or not a checkpoint" in attempt(other), other[:20]
    less = [without(content, key) for key in ("state_dict", "hyper_parameters")]
    for value in (None, 3, "x", [], torch.zeros(3), {}, {"state_dict": {}}, {1: 2}, *less):
        assert "of another program" in attempt(value), value
    assert "not an integer" in attempt({**content, "global_step": "many"})


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs the named pipes of POSIX")
def test_only_regular_files_and_links_to_them_are_read(whole: bytes, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for link, target in {"zero": "/dev/zero", "loop": "loop", "broken": "nowhere"}.items():
        (tmp_path / link).symlink_to(target)
    for name in ["pipe", "zero", "loop", "broken", "https://example.org/a.ckpt", "s3://a/b"]:
        assert "there is no checkpoint" in refusal(tmp_path / name), name
        assert "there is no checkpoint" in refusal(name), name
    (tmp_path / "whole").write_bytes(whole)
    (tmp_path / "link").symlink_to("whole")
    assert refusal(tmp_path / "link") == ""


def with_position(content: Content, change: dict[str, object] | None) -> Content:
    """Return it with other values in its data position, or None for none of them."""
    loops = copy.deepcopy(content["loops"])
    held = loops["fit_loop"]["state_dict"]["combined_loader"]
    held[0] = {} if change is None else {**held[0], **change}
    return {**content, "loops": loops}


def strange_states(content: Content) -> Iterator[Content]:
    """Yield checkpoints with a valid model and an invalid state of the training."""
    for key in content.keys() - {"state_dict", "hyper_parameters", "global_step"}:
        for value in (None, 3, [], {}, "x", [{}], {"fit_loop": {}}):
            yield replaced(content, key, value)
        yield without(content, key)
    (optimizer,) = content["optimizer_states"]
    for value in (torch.zeros(3), torch.zeros(()).expand(10**6, 10**6), None, "x"):
        state = {number: dict.fromkeys(old, value) for number, old in optimizer["state"].items()}
        yield {**content, "optimizer_states": [{**optimizer, "state": state}]}
    for change in (None, {"epoch": -1}, {"next_batch": -(10**12)}, {"next_batch": "x"}):
        yield with_position(content, change)
    for gradients in ([], {"network.head.weight": torch.zeros(3)}, {"x": torch.zeros(3)}):
        yield {**content, "gradients": gradients}


@pytest.mark.slow
def test_strange_training_states_are_refused_or_harmless(
    tiny_main: Main, content: Content, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, strange in enumerate(strange_states(content)):
        torch.save(strange, "a.ckpt")
        with little_memory():
            code = tiny_main("--max_steps=4", "--ckpt_path=a.ckpt")
        error = capsys.readouterr().err
        assert "Traceback" not in error, number
        if code:
            assert code == 1, number
            assert [line.startswith("error: ") for line in error.splitlines()].count(True) == 1
