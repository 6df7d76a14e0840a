"""text: where it comes from, and which part of it is for training.

Enters: the name of a corpus, or files. Leaves: documents, one string each, whole and verified; then
the same documents as train, validation and test parts that share no character to be predicted.
"""

import glob
import hashlib
import os
import random
import warnings
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Literal, NamedTuple

from shakespeare_lm.data.download import DownloadError, download
from shakespeare_lm.errors import UserError

DATA_DIR_VARIABLE = "SHAKESPEARE_LM_DATA"
SAMPLE_FILE = "sample.txt"
# How long `auto` may wait for a first answer before it falls back to the bundled sample.
AUTO_PATIENCE_SECONDS = 12.0

Split = Literal["contiguous", "random_chunks"]


class NamedCorpus(NamedTuple):
    """A text on the internet, pinned: another text under the same address is refused."""

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


class Parts(NamedTuple):
    """The documents of each part of a split."""

    train: list[str]
    val: list[str]
    test: list[str]


def load_corpus(corpus: str | Sequence[str], data_dir: str | Path | None = None) -> list[str]:
    """Return the documents of a corpus, downloading a named one if it is not at hand.

    Args:
        corpus: "tinyshakespeare", "complete", "sample", "auto", or files or globs, each file a
            document. "auto" is tiny Shakespeare if it is at hand or can be downloaded; else, with a
            warning, the bundled sample.
        data_dir: where downloads live; by default the environment variable SHAKESPEARE_LM_DATA, or
            `data`.

    Raises:
        UserError: if the text cannot be had, or is not what it should be.
    """
    folder = Path(data_dir or os.environ.get(DATA_DIR_VARIABLE) or "data").expanduser()
    if not isinstance(corpus, str) and len(corpus) == 1:
        corpus = corpus[0]
    if corpus == "auto":
        return _load_auto(folder)
    if corpus == "sample":
        return [_read_sample()]
    if isinstance(corpus, str) and corpus in NAMED_CORPORA:
        return [_load_named(NAMED_CORPORA[corpus], folder)]
    return _load_files([corpus] if isinstance(corpus, str) else list(corpus))


def _read_sample() -> str:
    return resources.files("shakespeare_lm.data").joinpath(SAMPLE_FILE).read_bytes().decode("utf-8")


def _load_auto(folder: Path) -> list[str]:
    try:
        named = NAMED_CORPORA["tinyshakespeare"]
        return [_load_named(named, folder, patience_seconds=AUTO_PATIENCE_SECONDS)]
    except DownloadError as error:
        warnings.warn(
            f"training on the bundled sample, because tiny Shakespeare is not at hand: {error}. "
            "Losses on the sample do not compare with losses on tiny Shakespeare",
            stacklevel=3,
        )
        return [_read_sample()]


def _load_named(named: NamedCorpus, folder: Path, patience_seconds: float | None = None) -> str:
    path = folder / named.file_name
    if not path.exists():
        download(named.url, named.sha256, path, patience_seconds)
    data = _read_bytes(path)
    digest = hashlib.sha256(data).hexdigest()
    if digest != named.sha256:
        raise UserError(
            f"{path} is not the expected text: its SHA-256 is {digest}, accepted is "
            f"{named.sha256}; delete it to have it downloaded again, or rename it to use it as a "
            "text of your own"
        )
    return _decode(data, path)


def _load_files(patterns: list[str]) -> list[str]:
    paths: list[Path] = []
    for pattern in patterns:
        name = os.path.expanduser(pattern)
        found = [name] if os.path.exists(name) else sorted(glob.glob(name, recursive=True))
        if not found:
            names = ", ".join(["auto", *NAMED_CORPORA, "sample"])
            if len(patterns) > 1 and pattern in names.split(", "):
                raise UserError(
                    f"the corpus {pattern!r} cannot be combined with others: name it alone"
                )
            raise UserError(
                f"the corpus {pattern!r} is no existing file and no known name; "
                f"accepted are {names}, or files or globs"
            )
        paths += [path for path in map(Path, found) if len(found) == 1 or path.is_file()]
    # A file that two patterns match is still one document.
    return [_decode(_read_bytes(path), path) for path in dict.fromkeys(paths)]


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def _decode(data: bytes, path: Path) -> str:
    try:
        # A byte order mark says how the file is encoded; it is no character of the text.
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8: byte 0x{data[error.start]:02X} at offset {error.start} fits "
            "nowhere; accepted is text encoded as UTF-8"
        ) from None
    if not text:
        raise UserError(f"{path} is empty: accepted is a file with text in it")
    return text


def split_contiguous(
    documents: Sequence[str], val_fraction: float, test_fraction: float = 0.0
) -> Parts:
    """Cut the whole text, by position, into train, validation and test, in this order.

    The document that a cut falls into continues in the next part as a document of its own.
    """
    total = sum(map(len, documents))
    # 1e-6: a product that should be whole, like 100 * (1 - 0.1 - 0.34), can come out just below.
    test_start = int(total * (1.0 - test_fraction) + 1e-6)
    val_start = int(total * (1.0 - test_fraction - val_fraction) + 1e-6)
    bounds = [(0, val_start), (val_start, test_start), (test_start, total)]
    return Parts(*(_slice(documents, start, end) for start, end in bounds))


def _slice(documents: Sequence[str], start: int, end: int) -> list[str]:
    pieces, position = [], 0
    for document in documents:
        piece = document[max(0, start - position) : max(0, end - position)]
        position += len(document)
        if piece:
            pieces.append(piece)
    return pieces


def split_random_chunks(
    documents: Sequence[str],
    val_fraction: float,
    test_fraction: float,
    context_length: int,
    seed: int,
) -> Parts:
    """Cut every document into chunks of `context_length` predicted characters and deal them out at
    random.

    Each chunk is a document of its own and starts with the last character of the one before it, as
    context. Neighbouring chunks of one scene fall on both sides, so a loss on this split is far too
    good: it does not compare with a loss on the contiguous split.
    """
    chunks = [
        document[start : start + context_length + 1]
        for document in documents
        for start in range(0, len(document) - 1, context_length)
    ]
    random.Random(seed).shuffle(chunks)
    num_test, num_val = (
        round(len(chunks) * fraction) for fraction in (test_fraction, val_fraction)
    )
    return Parts(
        train=chunks[num_test + num_val :],
        val=chunks[num_test : num_test + num_val],
        test=chunks[:num_test],
    )
