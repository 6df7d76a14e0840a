"""The pinned URLs still serve the pinned texts; needs the internet."""

from pathlib import Path

import pytest

from shakespeare_lm.data.corpus import load_corpus

pytestmark = pytest.mark.network


@pytest.mark.parametrize(
    ("name", "size"), [("tinyshakespeare", 1_115_394), ("complete", 4_573_338)]
)
def test_a_named_corpus_can_be_downloaded(tmp_path: Path, name: str, size: int) -> None:
    (text,) = load_corpus(name, tmp_path)
    assert len(text) == size
