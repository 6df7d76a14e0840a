"""Named, bundled and local corpora are loaded completely."""

import hashlib
from pathlib import Path

import pytest

from shakespeare_lm.data.corpus import (
    AUTO_PATIENCE_SECONDS,
    NAMED_CORPORA,
    NamedCorpus,
    corpus_paths,
    load_corpus,
)
from shakespeare_lm.data.download import DownloadError
from shakespeare_lm.errors import UserError

TINY = "To be, or not to be.\n"
TINY_FILE = ("\ufeff" + TINY).encode()  # the byte order mark is no part of the text
TINY_SHA256 = hashlib.sha256(TINY_FILE).hexdigest()
LINES = "Exit,\n\none\r\ntwo\rthree\n"
OF_ANOTHER_TYPE = "expected str or Path, or a list of them"


class Downloads(list):
    """What was asked for; it arrives, unless there is no network."""

    network = True

    def __call__(self, url, sha256, path, patience_seconds=None):
        self.append((url, sha256, path, patience_seconds))
        if not self.network:
            raise DownloadError(f"cannot download {url}: no connection")
        write(path, TINY_FILE)


@pytest.fixture(autouse=True)
def downloads(monkeypatch, tmp_path):
    """Pin a tiny text as tiny Shakespeare, work in an empty folder, and record every download."""
    calls = Downloads()
    tiny = NamedCorpus("tiny.txt", "http://nowhere.invalid/tiny", TINY_SHA256)
    monkeypatch.setitem(NAMED_CORPORA, "tinyshakespeare", tiny)
    monkeypatch.setattr("shakespeare_lm.data.corpus.download", calls)
    monkeypatch.delenv("SHAKESPEARE_LM_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    return calls


def write(name, data):
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def write_plays():
    """Write files whose text is their name in capitals, and one with every kind of line end."""
    for name in ("b", "a", "late/deep/c"):
        write(f"plays/{name}.txt", name[-1].upper())
    write("plays/hamlet [draft].md", LINES)


def test_the_bundled_sample_is_a_plain_text_of_useful_size(downloads):
    [sample] = load_corpus("sample")
    assert len(sample) >= 30_000
    assert sample.isascii()
    assert sample.endswith("\n")
    assert "\r" not in sample
    assert load_corpus(["sample"]) == load_corpus(("sample",)) == [sample]
    assert downloads == []


@pytest.mark.parametrize(
    ("corpus", "patience"), [("tinyshakespeare", None), ("auto", AUTO_PATIENCE_SECONDS)]
)
def test_a_missing_text_is_downloaded_once_and_only_auto_is_impatient(corpus, patience, downloads):
    assert load_corpus(corpus) == load_corpus(corpus) == [TINY]
    url = "http://nowhere.invalid/tiny"
    assert downloads == [(url, TINY_SHA256, Path("data/tiny.txt"), patience)]


def test_without_a_network_auto_falls_back_to_the_sample_and_nothing_else_does(downloads):
    downloads.network = False
    with pytest.warns(UserWarning, match=r"bundled sample.*: no connection\. .*cannot be compared"):
        assert load_corpus("auto") == load_corpus("sample")
    with pytest.raises(DownloadError, match="no connection"):
        load_corpus("tinyshakespeare")


@pytest.mark.parametrize("corpus", ["tinyshakespeare", "auto"])
def test_a_tampered_file_is_refused(corpus, downloads):
    path = write("data/tiny.txt", "To be, or to be.\n")
    with pytest.raises(UserError) as caught:
        load_corpus(corpus)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert str(caught.value).startswith(
        f"{path} is not the expected text: its SHA-256 is {digest}, expected {TINY_SHA256}; delete"
    )
    assert path.read_text() == "To be, or to be.\n"
    assert downloads == []


@pytest.mark.parametrize(
    ("given", "folder"), [(None, "variable"), ("given", "given"), (Path("given"), "given")]
)
def test_an_argument_or_the_environment_sets_the_folder(given, folder, monkeypatch, downloads):
    monkeypatch.setenv("SHAKESPEARE_LM_DATA", "variable")
    write(f"{folder}/tiny.txt", TINY_FILE)
    assert load_corpus("tinyshakespeare", given) == [TINY]
    assert downloads == []


def test_the_paths_of_a_corpus_are_known_without_reading_it(monkeypatch, tmp_path, downloads):
    monkeypatch.setenv("SHAKESPEARE_LM_DATA", "variable")
    monkeypatch.setenv("HOME", str(tmp_path))
    write_plays()
    for name in ("tinyshakespeare", "auto"):
        assert corpus_paths(name) == [Path("variable/tiny.txt")]
    assert corpus_paths(["~/plays/a.txt", "plays/?.txt", "none/*"]) == [
        tmp_path / "plays/a.txt", Path("plays/a.txt"), Path("plays/b.txt")
    ]  # fmt: skip
    assert downloads == []


@pytest.mark.parametrize(
    ("corpus", "documents"),
    [
        ("plays/b.txt", ["B"]),
        ("plays/*.txt", ["A", "B"]),
        ("plays/**/*.txt", ["A", "B", "C"]),
        ("~/plays/a.txt", ["A"]),
        (["plays/b.txt", "plays/[ac].txt"], ["B", "A"]),
        (["plays/b.txt", "plays/*.txt"], ["B", "A"]),
        (Path("plays/a.txt"), ["A"]),
        ("plays/hamlet [draft].md", [LINES]),
        ([Path("plays/b.txt"), "plays/a.txt"], ["B", "A"]),
        (Path("plays") / "*.txt", ["A", "B"]),
    ],
)
def test_each_file_is_a_document_in_this_order(corpus, documents, downloads, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_plays()
    assert load_corpus(corpus) == documents
    assert downloads == []


@pytest.mark.parametrize(
    ("corpus", "message"),
    [
        ("shakespear", "the corpus 'shakespear' is neither an existing file nor a known name: "
            "choose from: auto, tinyshakespeare, complete, sample, or give files or globs"),
        (["plays/a.txt", "missing.txt"], "the corpus 'missing.txt' is neither"),
        (["plays/a.txt", "*.pdf"], "the corpus '*.pdf' is neither"),
        (["plays/a.txt", "sample"], "the corpus 'sample' cannot be combined with other files"),
        ("plays", "cannot read plays: expected a regular file"),
        ("play*/", "cannot read played: expected a regular file"),
        ("\0/*", "corpus is ['\\x00/*']: expected the name of a corpus, or files or globs"),
        ("empty.txt", "empty.txt is empty"),
        ("mark.txt", "mark.txt is empty"),
        ("latin.txt", "latin.txt is not UTF-8 text"),
        ([], "corpus is []: expected the name of a corpus, or files or globs"),
        ((), "corpus is []: expected the name of a corpus, or files or globs"),
        (5, f"corpus is 5: {OF_ANOTHER_TYPE}"),
        (None, f"corpus is None: {OF_ANOTHER_TYPE}"),
        (b"a.txt", f"corpus is b'a.txt': {OF_ANOTHER_TYPE}"),
        (["a.txt", 5], "corpus[1] is 5: expected str or Path"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(corpus, message):
    write_plays()
    write("played/a.txt", b"")
    write("empty.txt", b"")
    write("mark.txt", b"\xef\xbb\xbf")
    write("latin.txt", b"na\xefve")
    with pytest.raises(UserError) as caught:
        load_corpus(corpus)
    assert str(caught.value).startswith(message)


def test_a_folder_of_another_type_is_refused():
    with pytest.raises(UserError, match=r"^data_dir is 5: expected str or Path or None$"):
        load_corpus("sample", 5)
