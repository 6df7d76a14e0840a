"""A checkpoint can come from anybody: it loads as it was written, or is refused in one line."""

import codecs
import contextlib
import io
import os
import pickle
import random
import re
import resource
import sys
import time
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
from tests.conftest import TINY, Fit

# Events of the interpreter that loading a checkpoint must not cause.
FORBIDDEN = {
    "os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect",
    "os.remove", "os.rename", "os.mkdir", "shutil.rmtree", "exec", "compile",
}  # fmt: skip
_watched: list[str] | None = None


def _watch(event: str, arguments: tuple) -> None:
    if _watched is not None and event in FORBIDDEN:
        _watched.append(event)


sys.addaudithook(_watch)  # cannot be removed again, so it only records while a test watches


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint that training wrote, including the optimizer's state."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["fit.py", *TINY, "--max_steps=2"])
        assert main() == 0
    path = folder / "lightning_logs/version_0/checkpoints/last.ckpt"
    # Modules that Python imports at their first use, such as zipfile's codec, are loaded now, so
    # that they are not taken for code of a file.
    codecs.lookup("cp437")
    for content in (path.read_bytes(), b"PK\x03\x04"):
        (folder / "first.ckpt").write_bytes(content)
        with contextlib.suppress(UserError):
            Completer.from_checkpoint(folder / "first.ckpt").score("aa", unknown="replace")
    return path


@pytest.fixture(scope="module")
def content(checkpoint: Path) -> dict[str, Any]:
    return torch.load(checkpoint, weights_only=True)


def attempt(path: Path) -> str:
    """Load a file and use it; return the message if it was refused."""
    global _watched
    started, memory = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _watched = []
    try:
        completer = Completer.from_checkpoint(path)
        completer.complete("a", 20, unknown="replace", seed=0)
        completer.score("aa", unknown="replace")
        message = ""
    except UserError as error:
        message = str(error)
    finally:
        happened, _watched = _watched, None
    assert happened == []
    assert "\n" not in message
    assert len(message) < 500
    assert time.monotonic() - started < 10
    # In KiB: whatever sizes a file of a few hundred kilobytes claims, it may not take more memory.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 400 << 10
    return message


def same_weights(path: Path, content: dict[str, Any]) -> bool:
    loaded = Completer.from_checkpoint(path).network.state_dict()
    return all(
        torch.equal(tensor, content["state_dict"][f"network.{name}"])
        for name, tensor in loaded.items()
    )


def test_the_file_as_it_was_written_is_loaded(checkpoint: Path, content: dict[str, Any]) -> None:
    assert attempt(checkpoint) == ""
    assert same_weights(checkpoint, content)


def test_truncated_files_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    whole, chance = checkpoint.read_bytes(), random.Random(1)
    for size in [*range(0, 60, 6), *(chance.randrange(len(whole)) for _ in range(100))]:
        (tmp_path / "a.ckpt").write_bytes(whole[:size])
        assert "a.ckpt is damaged or not a checkpoint" in attempt(tmp_path / "a.ckpt"), size


def damage(whole: bytes, chance: random.Random) -> bytes:
    """Flip some bits, or overwrite, insert, delete or repeat a piece."""
    changed = bytearray(whole)
    start = chance.choice([chance.randrange(len(whole)), -chance.randrange(1, 9000)])
    start %= len(whole)
    end = start + chance.choice([1, 4, 100, 5000])
    match chance.randrange(7):
        case 0:
            changed[start:end] = bytes(min(end, len(whole)) - start)
        case 1:
            changed[start:end] = chance.randbytes(end - start)
        case 2:
            changed[start:start] = chance.randbytes(end - start)
        case 3:
            del changed[start:end]
        case 4:
            changed[start:start] = changed[start:end]
        case _:
            for _ in range(chance.choice([1, 1, 8])):
                changed[chance.randrange(start, len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


@pytest.mark.parametrize("part", range(4))
def test_damaged_files_are_refused_or_hold_what_was_written(
    checkpoint: Path, content: dict[str, Any], tmp_path: Path, part: int
) -> None:
    whole, path = checkpoint.read_bytes(), tmp_path / "a.ckpt"
    refused = 0
    for number in range(100):
        path.write_bytes(damage(whole, random.Random(f"{part} {number}")))
        if attempt(path):
            refused += 1
        else:  # a byte without effect, such as the time of a file in the archive
            assert same_weights(path, content), number
    assert refused > 80


class Call:
    """Pickles into a call."""

    def __init__(self, function: Callable, *arguments: object) -> None:
        self.parts = (function, arguments)

    def __reduce__(self) -> tuple:
        return self.parts


def rewrite(source: Path, target: Path, change: Callable[[str, bytes], bytes], **options) -> Path:
    """Copy an archive with changed members and correct checksums."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", **options) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return target


def with_pickle(source: Path, target: Path, pickled: bytes) -> Path:
    return rewrite(source, target, lambda name, old: pickled if name.endswith("data.pkl") else old)


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
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call, protocol: int
) -> None:
    monkeypatch.chdir(tmp_path)
    pickled = pickle.dumps({"state_dict": call}, protocol=protocol)
    message = attempt(with_pickle(checkpoint, tmp_path / "a.ckpt", pickled))
    assert "holds more than tensors and plain values" in message
    (tmp_path / "b.ckpt").write_bytes(pickled)
    assert "b.ckpt is damaged or not a checkpoint" in attempt(tmp_path / "b.ckpt")
    assert not (tmp_path / "ran").exists()


def replaced(content: dict[str, Any], *path_and_value: Any) -> dict[str, Any]:
    *path, value = path_and_value
    result = dict(content)
    if len(path) > 1:
        value = replaced(content[path[0]], *path[1:], value)
    result[path[0]] = value
    return result


ABSURD = [-1, 0, 3, 10**5, 10**9, 10**18, 10**40, 2.5, float("nan"), True, None, "x", [], {}]
SIZES = ["context_length", "num_layers", "num_heads", "d_model", "d_feedforward"]
KEPT = {"d_feedforward": [None], "num_layers": []}


@pytest.mark.parametrize("name", [*SIZES, "previous_characters"])
def test_absurd_sizes_are_refused_before_memory_is_taken(
    content: dict[str, Any], tmp_path: Path, name: str
) -> None:
    for value in ABSURD:
        torch.save(replaced(content, "hyper_parameters", name, value), tmp_path / "a.ckpt")
        message = attempt(tmp_path / "a.ckpt")
        fits = value in KEPT.get(name, []) or (name == "context_length" and value == 3)
        assert bool(message) != fits, value


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
    content: dict[str, Any], tmp_path: Path, name: str, values: list
) -> None:
    for value in values:
        changed = replaced(content, "hyper_parameters", name, value)
        torch.save(changed, tmp_path / "a.ckpt")
        assert attempt(tmp_path / "a.ckpt"), value
        with pytest.raises(UserError):
            ShakespeareLM.load_from_checkpoint(tmp_path / "a.ckpt")


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


def test_strange_weights_are_refused(content: dict[str, Any], tmp_path: Path) -> None:
    names = [name for name in content["state_dict"] if name.startswith("network.")]
    for name in names[:4]:
        for weights in strange_weights(content["state_dict"][name]):
            torch.save(replaced(content, "state_dict", name, weights), tmp_path / "a.ckpt")
            assert attempt(tmp_path / "a.ckpt"), (name, weights)
        fewer = {key: tensor for key, tensor in content["state_dict"].items() if key != name}
        torch.save({**content, "state_dict": fewer}, tmp_path / "a.ckpt")
        assert f"it lacks the weights {name.removeprefix('network.')}" in attempt(
            tmp_path / "a.ckpt"
        )


def test_weights_of_any_magnitude_complete_without_a_traceback(
    content: dict[str, Any], tmp_path: Path
) -> None:
    for size in (1e-38, 1e10, 3e38):
        state = {name: torch.full_like(t, size) for name, t in content["state_dict"].items()}
        torch.save({**content, "state_dict": state}, tmp_path / "a.ckpt")
        attempt(tmp_path / "a.ckpt")


def test_archives_that_swell_or_are_ambiguous_are_refused(
    checkpoint: Path, content: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "a.ckpt"
    rewrite(checkpoint, path, lambda _, old: old, compression=zipfile.ZIP_DEFLATED)
    assert "is compressed or larger inside than its file" in attempt(path)
    zeros = bytes(1 << 28)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("last/data/zeros", zeros)
    assert "is compressed or larger inside than its file" in attempt(path)
    for name in ("a/data.pkl", "last/DATA.PKL", "last/data/0"):
        rewrite(checkpoint, path, lambda _, old: old)
        with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as archive:
            warnings.filterwarnings("ignore", "Duplicate name")
            archive.writestr(name, b"x")
        assert attempt(path), name
    legacy = io.BytesIO()
    torch.save(content, legacy, _use_new_zipfile_serialization=False)
    path.write_bytes(legacy.getvalue())
    assert "damaged or not a checkpoint" in attempt(path)
    path.write_bytes(legacy.getvalue() + checkpoint.read_bytes())  # one file in two formats
    assert "damaged or not a checkpoint" in attempt(path)
    with_pickle(checkpoint, path, b"\x80\x02" + b"}0" * (1 << 20) + b"N.")
    assert "more than 1,000,000 values" in attempt(path)
    with_pickle(checkpoint, path, bytes(17 << 20))
    assert "describes its tensors in 17,825,792 bytes" in attempt(path)


def test_a_tensor_larger_than_its_record_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    # The pickle states the size of a tensor's record just before the operation that loads it.
    announced = re.compile(rb"(K.|M..|J....)(t(?:q.|r....)Q)", re.DOTALL)
    for count in (10**4, 2 * 10**9):
        larger = b"J" + count.to_bytes(4, "little")

        def lie(name: str, old: bytes, larger: bytes = larger) -> bytes:
            return announced.sub(lambda found: larger + found[2], old)

        rewrite(checkpoint, tmp_path / "a.ckpt", lie)
        assert "record size" in attempt(tmp_path / "a.ckpt")


def test_other_files_and_other_contents_are_refused(
    checkpoint: Path, content: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "a.ckpt"
    others = [
        b"", b"PK", b"PK\x05\x06" + bytes(18), b"\x89PNG\r\n\x1a\n" + bytes(100), b"To be\n" * 99,
        b"\x1f\x8b\x08" + bytes(99), b"\x93NUMPY\x01\x00" + bytes(99), b"\x80\x04." + bytes(99),
        bytes(8) + b'{"a":{"dtype":"F32"}}', b"#!/bin/sh\ntouch ran\n", bytes(1 << 20),
    ]  # fmt: skip
    for other in others:
        path.write_bytes(other)
        assert "damaged or not a checkpoint" in attempt(path), other[:20]
    for value in (None, 3, "x", [], torch.zeros(3), {}, {"state_dict": {}}, {1: 2}):
        torch.save(value, path)
        assert "of another program" in attempt(path), value
    for key in ("state_dict", "hyper_parameters"):
        torch.save({name: part for name, part in content.items() if name != key}, path)
        assert "of another program" in attempt(path), key
    torch.save({**content, "global_step": "many"}, path)
    assert "not an integer" in attempt(path)


def endless(levels: int = 8) -> list:
    """Return a list that is small in a file, and whose text has half a gigabyte."""
    value: list = ["x"] * 10
    for _ in range(levels - 1):
        value = [value] * 10
    return value


@pytest.mark.parametrize(
    "place", [["global_step"], ["state_dict"], ["state_dict", "x"], ["hyper_parameters", "seed"]]
)
def test_values_whose_text_would_fill_the_memory_are_refused(
    content: dict[str, Any], tmp_path: Path, place: list[str]
) -> None:
    torch.save(replaced(content, *place, endless()), tmp_path / "a.ckpt")
    assert attempt(tmp_path / "a.ckpt")


def test_values_nested_too_deeply_to_be_printed_are_refused(
    content: dict[str, Any], tmp_path: Path
) -> None:
    depth = 100_000
    torch.save({**content, "global_step": "deep"}, tmp_path / "text.ckpt")
    text, nested = b"X\x04\x00\x00\x00deep", b"]" * depth + b"a" * (depth - 1)

    def nest(name: str, old: bytes) -> bytes:
        return old.replace(text, nested, 1) if name.endswith("data.pkl") else old

    rewrite(tmp_path / "text.ckpt", tmp_path / "a.ckpt", nest)
    assert "not an integer" in attempt(tmp_path / "a.ckpt")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs the named pipes of POSIX")
def test_only_regular_files_and_links_to_them_are_read(checkpoint: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "broken").symlink_to("nowhere")
    for path in ["pipe", "zero", "loop", "broken", "https://example.org/a.ckpt", "s3://a/b"]:
        assert "there is no checkpoint" in attempt(tmp_path / path), path
        assert "there is no checkpoint" in attempt(path), path  # type: ignore[arg-type]
    (tmp_path / "link").symlink_to(checkpoint)
    assert attempt(tmp_path / "link") == ""


def strange_states(content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield checkpoints with a valid model and an invalid state of the training."""
    for key in content.keys() - {"state_dict", "hyper_parameters", "global_step"}:
        for value in (None, 3, [], {}, "x", [{}], {"fit_loop": {}}):
            yield replaced(content, key, value)
        yield {name: part for name, part in content.items() if name != key}
    moments = content["optimizer_states"][0]["state"]
    for value in (torch.zeros(3), torch.zeros(()).expand(10**6, 10**6), None, "x"):
        changed = {number: dict.fromkeys(state, value) for number, state in moments.items()}
        state = {**content["optimizer_states"][0], "state": changed}
        yield {**content, "optimizer_states": [state]}
    for place in ({}, {"epoch": -1}, {"next_batch": -(10**12)}, {"next_batch": "x"}):
        loops = pickle.loads(pickle.dumps(content["loops"]))
        held = loops["fit_loop"]["state_dict"]["combined_loader"]
        held[0] = {**held[0], **place} if place else {}
        yield {**content, "loops": loops}
    for gradients in ([], {"network.head.weight": torch.zeros(3)}, {"x": torch.zeros(3)}):
        yield {**content, "gradients": gradients}


def endless_states(content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield checkpoints with a value that an error message would name, and must not print."""
    for name in content["ShakespeareDataModule"]:
        yield replaced(content, "ShakespeareDataModule", name, endless())
    for name in ("batches", "epoch", "next_batch"):
        loops = pickle.loads(pickle.dumps(content["loops"]))
        loops["fit_loop"]["state_dict"]["combined_loader"][0][name] = endless()
        yield {**content, "loops": loops}


@pytest.mark.slow
@pytest.mark.parametrize("states", [strange_states, endless_states])
def test_strange_training_states_are_refused_or_harmless(
    tiny_fit: Fit,
    content: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    states: Callable[[dict[str, Any]], Iterator[dict[str, Any]]],
) -> None:
    for number, strange in enumerate(states(content)):
        torch.save(strange, "a.ckpt")
        monkeypatch.setattr(sys, "argv", ["fit.py", *TINY, "--max_steps=4", "--ckpt_path=a.ckpt"])
        started, memory = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        code = main()
        error = capsys.readouterr().err
        assert "Traceback" not in error, number
        assert time.monotonic() - started < 20
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 400 << 10, number
        if code:
            assert code == 1, number
            assert [line.startswith("error: ") for line in error.splitlines()].count(True) == 1
