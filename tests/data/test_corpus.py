"""text: named, bundled and local corpora arrive whole, and the parts of a split lose nothing."""

import hashlib
import itertools
from pathlib import Path

import pytest

from shakespeare_lm.data.corpus import (
    AUTO_PATIENCE_SECONDS,
    NAMED_CORPORA,
    NamedCorpus,
    load_corpus,
    split_contiguous,
    split_random_chunks,
)
from shakespeare_lm.data.download import DownloadError
from shakespeare_lm.errors import UserError

TINY = "To be, or not to be.\n"
TINY_SHA256 = hashlib.sha256(TINY.encode()).hexdigest()


@pytest.fixture(autouse=True)
def downloads(monkeypatch, tmp_path):
    """Pin a tiny text as tiny Shakespeare, work in an empty folder, and note every download.

    A download puts the tiny text there, as the real one would.
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


def test_the_bundled_sample_is_a_text_of_decent_size(downloads):
    [sample] = load_corpus("sample")
    assert len(sample) >= 30_000
    assert sample.isascii()
    assert sample.endswith("\n")
    assert "\r" not in sample
    assert downloads == []


@pytest.mark.parametrize("corpus", ["tinyshakespeare", "auto"])
def test_a_verified_file_at_hand_is_used_without_a_download(corpus, downloads):
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
    with pytest.warns(UserWarning, match=r"bundled sample.*: no connection\. .*do not compare"):
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
    assert f"accepted is {TINY_SHA256}" in message
    assert path.read_text() == "To be, or to be.\n"
    assert downloads == []


def test_the_environment_variable_says_where_downloads_live(monkeypatch, downloads):
    monkeypatch.setenv("SHAKESPEARE_LM_DATA", "elsewhere")
    load_corpus("tinyshakespeare")
    assert [path for _, _, path in downloads] == [Path("elsewhere/tiny.txt")]


@pytest.mark.parametrize("folder", ["given", Path("given")])
def test_the_data_dir_argument_wins_over_the_environment_variable(folder, monkeypatch, downloads):
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


def test_a_double_star_reaches_into_folders():
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


def test_an_unknown_name_is_an_error_that_lists_the_accepted_names():
    with pytest.raises(UserError, match="'shakespear' is no existing file") as caught:
        load_corpus("shakespear")
    assert "auto, tinyshakespeare, complete, sample, or files or globs" in str(caught.value)


@pytest.mark.parametrize("missing", ["missing.txt", "*.md"])
def test_a_missing_file_among_several_is_an_error(missing):
    write("play.txt", "To be")
    with pytest.raises(UserError) as caught:
        load_corpus(["play.txt", missing])
    assert repr(missing) in str(caught.value)


def test_an_unreadable_file_is_an_error_that_names_it():
    Path("plays").mkdir()
    with pytest.raises(UserError, match=r"cannot read plays: Is a directory"):
        load_corpus("plays")


@pytest.mark.parametrize("data", [b"", b"\xef\xbb\xbf"])
def test_a_file_without_text_is_refused(data):
    write("empty.txt", data)
    with pytest.raises(UserError, match=r"empty\.txt is empty"):
        load_corpus("empty.txt")


@pytest.mark.parametrize(
    ("data", "byte", "offset"),
    [
        (b"na\xefve", "0xEF", 2),
        ("é".encode() + b"\xff", "0xFF", 2),
        ("\ufeffab".encode() + b"\x80", "0x80", 5),
        ("To be".encode("utf-16"), "0xFF", 0),
    ],
)
def test_a_file_that_is_not_utf8_is_refused_with_the_offset_of_the_byte(data, byte, offset):
    write("latin.txt", data)
    with pytest.raises(
        UserError, match=rf"latin\.txt is not UTF-8: byte {byte} at offset {offset} "
    ):
        load_corpus("latin.txt")


def test_a_byte_order_mark_is_no_character_of_the_text():
    write("marked.txt", "\ufeffTo be\ufeff".encode())
    assert load_corpus("marked.txt") == ["To be\ufeff"]


def test_line_ends_arrive_as_they_are():
    write("lines.txt", b"one\r\ntwo\rthree\n")
    assert load_corpus("lines.txt") == ["one\r\ntwo\rthree\n"]


def unique(length, start=1000):
    """A text in which each character says where it stands."""
    return "".join(chr(start + number) for number in range(length))


def test_the_last_part_of_a_text_is_for_validation():
    assert split_contiguous(["abcdefghij"], 0.1) == (["abcdefghi"], ["j"], [])
    assert split_contiguous(["abcdefghij"], 0.5) == (["abcde"], ["fghij"], [])


def test_the_test_part_comes_after_the_validation_part():
    assert split_contiguous(["abcdefghij"], 0.2, 0.3) == (["abcde"], ["fg"], ["hij"])


def test_a_part_of_nothing_is_empty():
    assert split_contiguous(["abcdefghij"], 0.0) == (["abcdefghij"], [], [])
    assert split_contiguous(["abcdefghij"], 0.0, 0.5) == (["abcde"], [], ["fghij"])


def test_documents_stay_documents_and_a_cut_one_continues_in_the_next_part():
    documents = ["abc", "defg", "hij"]
    assert split_contiguous(documents, 0.5) == (["abc", "de"], ["fg", "hij"], [])
    assert split_contiguous(documents, 0.3) == (["abc", "defg"], ["hij"], [])
    assert split_contiguous(documents, 0.2, 0.4) == (["abc", "d"], ["ef"], ["g", "hij"])
    assert split_contiguous(["abcdefghij"], 0.4, 0.4) == (["ab"], ["cdef"], ["ghij"])


def test_tiny_shakespeare_is_cut_where_everybody_cuts_it():
    train, val, test = split_contiguous(["x" * 1_115_394], 0.1)
    assert [len(document) for document in train] == [1_003_854]
    assert [len(document) for document in val] == [111_540]
    assert test == []


def test_a_contiguous_split_loses_and_repeats_no_character():
    text = unique(500)
    documents = [text[:7], text[7:8], text[8:300], text[300:]]
    for val_percent, test_percent in itertools.product(range(0, 50, 3), repeat=2):
        parts = split_contiguous(documents, val_percent / 100, test_percent / 100)
        assert "".join(itertools.chain(*parts)) == text, (val_percent, test_percent)


def test_a_test_part_of_whole_characters_has_exactly_these_characters():
    for percent in range(100):
        test = split_contiguous([unique(100)], 0.0, percent / 100).test
        assert sum(map(len, test)) == percent


@pytest.mark.parametrize("context_length", [1, 3, 8, 1000])
def test_random_chunks_predict_each_character_but_the_first_exactly_once(context_length):
    documents = [unique(100), unique(1, 2000), unique(2, 3000), unique(41, 4000)]
    parts = split_random_chunks(documents, 0.2, 0.1, context_length, seed=1)
    predicted = [character for part in parts for chunk in part for character in chunk[1:]]
    assert sorted(predicted) == [character for text in documents for character in text[1:]]


def test_each_random_chunk_is_a_piece_of_one_document():
    documents = [unique(100), unique(41, 2000)]
    parts = split_random_chunks(documents, 0.2, 0.1, 8, seed=1)
    for chunk in itertools.chain(*parts):
        assert 2 <= len(chunk) <= 9
        assert any(chunk in document for document in documents)


def test_random_chunks_are_dealt_out_by_the_fractions():
    train, val, test = split_random_chunks([unique(801)], 0.2, 0.1, 8, seed=1)
    assert (len(train), len(val), len(test)) == (70, 20, 10)


def test_random_chunks_are_not_in_the_order_of_the_text():
    train, val, _ = split_random_chunks([unique(801)], 0.5, 0.0, 8, seed=1)
    assert min(val) < max(train)
    assert min(train) < max(val)


def test_the_seed_decides_which_chunks_go_where():
    def split(seed):
        return split_random_chunks([unique(801)], 0.2, 0.1, 8, seed)

    assert split(1) == split(1)
    assert set(split(1).val) != set(split(2).val)
