"""Finds a corpus, by name or as files, and reads it: one string per document."""

import glob
import hashlib
import os
import warnings
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from shakespeare_lm.data.download import DownloadError, download
from shakespeare_lm.data.tokenizer import decode_utf8
from shakespeare_lm.errors import UserError, as_list, check_type
from shakespeare_lm.hardware import check_memory

DATA_DIR_VARIABLE = "SHAKESPEARE_LM_DATA"
# How long `auto` waits for the server's first answer before it falls back to the bundled sample.
AUTO_PATIENCE_SECONDS = 12.0


class NamedCorpus(NamedTuple):
    """A text on the internet; content with another checksum is refused."""

    file_name: str
    url: str
    sha256: str


NAMED_CORPORA = {
    "tinyshakespeare": NamedCorpus(
        "tinyshakespeare.txt",
        "https://raw.githubusercontent.com/karpathy/char-rnn/"
        "6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e/data/tinyshakespeare/input.txt",
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    ),
    # Contains tiny Shakespeare: never train on it and score on tiny Shakespeare's validation part.
    "complete": NamedCorpus(
        "shakespeare_input.txt",
        "https://cs.stanford.edu/people/karpathy/char-rnn/shakespeare_input.txt",
        "59a0ad62833b2e15ec811c548618876359e902717431236e52699a0e2bc253ca",
    ),
}


def corpus_names(corpus: str | Path | Sequence[str | Path]) -> list[str]:
    """Return what `load_corpus` takes as a list; refuse an empty one, and other types."""
    names = list(map(os.fspath, as_list("corpus", corpus, str | Path)))
    if not names or "\0" in "".join(names):
        raise UserError(f"corpus is {names}: expected the name of a corpus, or files or globs")
    return names


def load_corpus(
    corpus: str | Path | Sequence[str | Path], data_dir: str | Path | None = None
) -> list[str]:
    """Return the documents of a corpus; a named one is downloaded if necessary.

    Args:
        corpus: "tinyshakespeare", "complete", "sample", "auto", or files or globs; each file is a
            document. "auto" is tiny Shakespeare or, with a warning if that is neither there nor can
            be downloaded, the bundled sample.
        data_dir: folder of downloaded texts; by default the environment variable
            SHAKESPEARE_LM_DATA, or `data`.

    Raises:
        UserError: if a file cannot be found, downloaded or read, or has the wrong content.
    """
    check_type(str | Path | None, data_dir=data_dir)
    names = corpus_names(corpus)
    if len(names) == 1 and names[0] in NAMED_CORPORA:
        return [_load_named(names[0], data_dir)]
    if names == ["auto"]:
        try:
            return [_load_named("tinyshakespeare", data_dir, AUTO_PATIENCE_SECONDS)]
        except DownloadError as error:
            warnings.warn(
                f"using the bundled sample, because tiny Shakespeare is not available: {error}. "
                "Losses on the sample cannot be compared with losses on tiny Shakespeare",
                stacklevel=2,
            )
    if names in (["auto"], ["sample"]):
        sample = resources.files("shakespeare_lm.data").joinpath("sample.txt")
        return [sample.read_bytes().decode("utf-8")]
    return _load_files(names)


def corpus_paths(corpus: str | Path | Sequence[str | Path]) -> list[Path]:
    """Return the files that `load_corpus` reads, if they are there."""
    paths: list[Path] = []
    for name in corpus_names(corpus):
        known = "tinyshakespeare" if name == "auto" else name
        paths += [_path(known, None)] if known in NAMED_CORPORA else _matching(name)
    return paths


def _path(name: str, data_dir: str | Path | None) -> Path:
    folder = data_dir or os.environ.get(DATA_DIR_VARIABLE) or "data"
    return Path(os.path.expanduser(folder)) / NAMED_CORPORA[name].file_name


def _matching(pattern: str) -> list[Path]:
    """Return the file of this name, or else those that match it as a glob."""
    name = os.path.expanduser(pattern)
    found = [name] if os.path.exists(name) else sorted(glob.glob(name, recursive=True))
    return list(map(Path, found))


def _load_named(
    name: str, data_dir: str | Path | None, patience_seconds: float | None = None
) -> str:
    path, (_, url, sha256) = _path(name, data_dir), NAMED_CORPORA[name]
    if not path.exists():
        download(url, sha256, path, patience_seconds)
    data = _read_bytes(path)
    digest = hashlib.sha256(data).hexdigest()
    if digest != sha256:
        raise UserError(
            f"{path} is not the expected text: its SHA-256 is {digest}, expected {sha256}; delete "
            "it to download it again, or rename it to train on it as your own text"
        )
    return decode_utf8(data, path)


def _load_files(patterns: list[str]) -> list[str]:
    paths: list[Path] = []
    for pattern in patterns:
        found = _matching(pattern)
        if not found:
            names = ", ".join(["auto", *NAMED_CORPORA, "sample"])
            if len(patterns) > 1 and pattern in names.split(", "):
                raise UserError(f"the corpus {pattern!r} cannot be combined with other files")
            raise UserError(
                f"the corpus {pattern!r} is neither an existing file nor a known name: choose "
                f"from: {names}, or give files or globs"
            )
        # Of folders alone, reading the first one says what is wrong.
        paths += [path for path in found if path.is_file()] or found[:1]
    # A file that two patterns match is still one document.
    texts = {path: decode_utf8(_read_bytes(path), path) for path in dict.fromkeys(paths)}
    for path, text in texts.items():
        if not text:
            raise UserError(f"{path} is empty: expected a text file")
    return list(texts.values())


def _read_bytes(path: Path) -> bytes:
    if path.exists() and not path.is_file():
        raise UserError(f"cannot read {path}: expected a regular file")  # some never end
    try:
        check_memory(4 * path.stat().st_size, f"the text {path}", "use a shorter text")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
