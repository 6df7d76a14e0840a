"""Named, bundled and local corpora are loaded completely."""

import hashlib
from pathlib import Path

import pytest

from shakespeare_lm.data.corpus import (
    AUTO_PATIENCE_SECONDS,
    NAMED_CORPORA,
    NamedCorpus,
    load_corpus,
)
from shakespeare_lm.data.download import DownloadError
from shakespeare_lm.errors import UserError

TINY = "To be, or not to be.\n"
TINY_SHA256 = hashlib.sha256(TINY.encode()).hexdigest()


@pytest.fixture(autouse=True)
def downloads(monkeypatch, tmp_path):
    """Pin a tiny text as tiny Shakespeare, work in an empty folder, and record every download.

    A download writes the tiny text, as the real one would.
    """
    calls = []

    def download(url, sha256, path, patience_seconds=None):
        calls.append((url, sha256, path))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(TINY)

    tiny = NamedCorpus("tiny.txt", "http://nowhere.invalid/tiny", TINY_SHA256)
    monkeypatch.setitem(NAMED_CORPORA, "tinyshakespeare", tiny)
    monkeypatch.setattr("shakespeare_lm.data.corpus.download", download)
    monkeypatch.delenv("SHAKESPEARE_LM_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    return calls


@pytest.fixture
def no_network(monkeypatch):
    def download(url, sha256, path, patience_seconds=None):
        raise DownloadError(f"cannot download {url}: no connection")

    monkeypatch.setattr("shakespeare_lm.data.corpus.download", download)


def write(name, data):
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def test_the_bundled_sample_is_a_plain_text_of_useful_size(downloads):
    [sample] = load_corpus("sample")
    assert len(sample) >= 30_000
    assert sample.isascii()
    assert sample.endswith("\n")
    assert "\r" not in sample
    assert downloads == []


@pytest.mark.parametrize("corpus", ["tinyshakespeare", "auto"])
def test_an_existing_verified_file_is_used_without_a_download(corpus, downloads):
    write("data/tiny.txt", TINY)
    assert load_corpus(corpus) == [TINY]
    assert downloads == []


@pytest.mark.parametrize("corpus", ["tinyshakespeare", "auto"])
def test_a_missing_file_is_downloaded_once(corpus, downloads):
    assert load_corpus(corpus) == [TINY]
    assert load_corpus(corpus) == [TINY]
    assert downloads == [("http://nowhere.invalid/tiny", TINY_SHA256, Path("data/tiny.txt"))]


@pytest.mark.usefixtures("no_network")
def test_auto_falls_back_to_the_sample_with_a_warning():
    with pytest.warns(UserWarning, match=r"bundled sample.*: no connection\. .*cannot be compared"):
        documents = load_corpus("auto")
    assert documents == load_corpus("sample")


def test_only_auto_gives_up_on_a_slow_server(monkeypatch):
    patience = []

    def download(url, sha256, path, patience_seconds=None):
        patience.append(patience_seconds)
        raise DownloadError("no answer in time")

    monkeypatch.setattr("shakespeare_lm.data.corpus.download", download)
    with pytest.warns(UserWarning, match="no answer in time"):
        load_corpus("auto")
    with pytest.raises(DownloadError):
        load_corpus("tinyshakespeare")
    assert patience == [AUTO_PATIENCE_SECONDS, None]


@pytest.mark.usefixtures("no_network")
def test_a_corpus_asked_for_by_name_is_never_replaced_by_the_sample():
    with pytest.raises(DownloadError, match="no connection"):
        load_corpus("tinyshakespeare")


@pytest.mark.parametrize("corpus", ["tinyshakespeare", "auto"])
def test_a_tampered_file_is_refused(corpus, downloads):
    path = write("data/tiny.txt", "To be, or to be.\n")
    with pytest.raises(UserError) as caught:
        load_corpus(corpus)
    message = str(caught.value)
    assert str(path) in message
    assert f"its SHA-256 is {hashlib.sha256(path.read_bytes()).hexdigest()}" in message
    assert f"expected {TINY_SHA256}" in message
    assert path.read_text() == "To be, or to be.\n"
    assert downloads == []


def test_the_environment_variable_sets_the_folder_of_downloads(monkeypatch, downloads):
    monkeypatch.setenv("SHAKESPEARE_LM_DATA", "elsewhere")
    load_corpus("tinyshakespeare")
    assert [path for _, _, path in downloads] == [Path("elsewhere/tiny.txt")]


@pytest.mark.parametrize("folder", ["given", Path("given")])
def test_the_data_dir_argument_overrides_the_environment_variable(folder, monkeypatch, downloads):
    monkeypatch.setenv("SHAKESPEARE_LM_DATA", "elsewhere")
    load_corpus("tinyshakespeare", folder)
    assert [path for _, _, path in downloads] == [Path("given/tiny.txt")]


def test_a_file_is_one_document(downloads):
    path = write("play.txt", "Exit,\npursued\n\nby a bear.\n")
    assert load_corpus(str(path)) == ["Exit,\npursued\n\nby a bear.\n"]
    assert downloads == []


def test_a_glob_is_a_document_per_file_in_sorted_order():
    for name in ["b", "c", "a"]:
        write(f"plays/{name}.txt", name.upper())
    write("plays/notes.md", "not a play")
    assert load_corpus("plays/*.txt") == ["A", "B", "C"]


def test_a_double_star_matches_files_in_subfolders():
    write("plays/a.txt", "A")
    write("plays/late/deep/b.txt", "B")
    assert load_corpus("plays/**/*.txt") == ["A", "B"]


def test_several_files_and_globs_keep_the_order_in_which_they_are_given():
    for name in ["b", "a", "z"]:
        write(f"{name}.txt", name.upper())
    assert load_corpus(["z.txt", "[ab].txt"]) == ["Z", "A", "B"]


def test_a_tilde_stands_for_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    write("play.txt", "home")
    assert load_corpus("~/play.txt") == ["home"]


def test_a_file_whose_name_looks_like_a_glob_is_read():
    write("hamlet [draft].txt", "To be")
    assert load_corpus("hamlet [draft].txt") == ["To be"]


def test_an_unknown_name_is_an_error_that_lists_the_known_names():
    with pytest.raises(UserError, match="'shakespear' is neither an existing file") as caught:
        load_corpus("shakespear")
    assert "choose from: auto, tinyshakespeare, complete, sample, or give files" in str(
        caught.value
    )


@pytest.mark.parametrize("missing", ["missing.txt", "*.md"])
def test_a_missing_file_among_several_is_an_error(missing):
    write("play.txt", "To be")
    with pytest.raises(UserError) as caught:
        load_corpus(["play.txt", missing])
    assert repr(missing) in str(caught.value)


def test_a_named_corpus_cannot_be_combined_with_files():
    write("play.txt", "To be")
    with pytest.raises(UserError, match="'sample' cannot be combined with other files"):
        load_corpus(["play.txt", "sample"])


@pytest.mark.parametrize("corpus", [["sample"], ("sample",)])
def test_a_list_of_one_name_is_that_corpus(corpus):
    assert load_corpus(corpus) == load_corpus("sample")


def test_a_file_that_two_patterns_match_is_one_document():
    for name in ["a", "b"]:
        write(f"{name}.txt", name.upper())
    assert load_corpus(["b.txt", "*.txt"]) == ["B", "A"]


def test_an_unreadable_file_is_an_error_that_names_it():
    Path("plays").mkdir()
    with pytest.raises(UserError, match="cannot read plays: expected a regular file"):
        load_corpus("plays")


@pytest.mark.parametrize("data", [b"", b"\xef\xbb\xbf"])
def test_a_file_without_text_is_refused(data):
    write("empty.txt", data)
    with pytest.raises(UserError, match=r"empty\.txt is empty"):
        load_corpus("empty.txt")


def test_a_file_that_is_not_utf8_is_an_error_that_names_it():
    write("latin.txt", b"na\xefve")
    with pytest.raises(UserError, match=r"^latin\.txt is not UTF-8 text"):
        load_corpus("latin.txt")


def test_a_downloaded_text_has_no_byte_order_mark(monkeypatch):
    data = "\ufeffTo be".encode()
    pinned = NamedCorpus("tiny.txt", "http://nowhere.invalid/", hashlib.sha256(data).hexdigest())
    monkeypatch.setitem(NAMED_CORPORA, "tinyshakespeare", pinned)
    write("data/tiny.txt", data)
    assert load_corpus("tinyshakespeare") == ["To be"]


def test_line_ends_are_not_converted():
    write("lines.txt", b"one\r\ntwo\rthree\n")
    assert load_corpus("lines.txt") == ["one\r\ntwo\rthree\n"]


def test_files_can_be_paths():
    for name in ["a", "b"]:
        write(f"plays/{name}.txt", name.upper())
    assert load_corpus(Path("plays/a.txt")) == ["A"]
    assert load_corpus([Path("plays/b.txt"), "plays/a.txt"]) == ["B", "A"]
    assert load_corpus(Path("plays") / "*.txt") == ["A", "B"]


def test_the_folder_of_downloaded_texts_can_be_a_path(downloads):
    write("elsewhere/tiny.txt", TINY)
    assert load_corpus("tinyshakespeare", Path("elsewhere")) == [TINY]
    assert downloads == []


@pytest.mark.parametrize(
    ("corpus", "message"),
    [
        ([], "corpus is []: expected the name of a corpus, or files or globs"),
        ((), "corpus is []: expected the name of a corpus, or files or globs"),
        (5, "corpus is 5: expected str or Path, or a list of them"),
        (None, "corpus is None: expected str or Path, or a list of them"),
        (b"a.txt", "corpus is b'a.txt': expected str or Path, or a list of them"),
        (["a.txt", 5], "corpus[1] is 5: expected str or Path"),
    ],
)
def test_a_corpus_of_nothing_or_of_another_type_is_refused(corpus, message):
    with pytest.raises(UserError) as caught:
        load_corpus(corpus)
    assert str(caught.value) == message


def test_a_folder_of_another_type_is_refused():
    with pytest.raises(UserError, match=r"^data_dir is 5: expected str or Path or None$"):
        load_corpus("sample", 5)
