"""Compressors as models of text."""

import random

import pytest

from shakespeare_lm.evaluation.compression import COMPRESSORS, added_bits, ppmd


@pytest.mark.parametrize("name", COMPRESSORS)
def test_what_is_known_already_costs_little(name: str) -> None:
    known, other = (bytes(random.Random(seed).choices(range(97, 123), k=2000)) for seed in (1, 2))
    compressor = COMPRESSORS[name]
    assert 0 < added_bits(compressor, known, known) < 0.6 * added_bits(compressor, known, other)


def test_ppmd_is_there_if_its_package_is() -> None:
    pytest.importorskip("pyppmd", reason="needs the extra: pip install -e '.[evaluate]'")
    compressor = ppmd()
    assert compressor is not None
    text = b"To be, or not to be: that is the question. " * 20
    assert added_bits(compressor, text, text) < added_bits(COMPRESSORS["zlib"], text, text)
