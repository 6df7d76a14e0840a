"""Two texts -> how many bits general compressors need for the second when they know the first.

Enters: bytes. Leaves: sizes. A compressor is a model of text too: the fewer bits per character, the
better it predicts.
"""

import bz2
import lzma
import zlib
from collections.abc import Callable

Compressor = Callable[[bytes], bytes]

COMPRESSORS: dict[str, Compressor] = {
    "zlib": lambda data: zlib.compress(data, 9),
    "bzip2": lambda data: bz2.compress(data, 9),
    "xz": lambda data: lzma.compress(data, preset=9 | lzma.PRESET_EXTREME),
}

# The best order on tiny Shakespeare; enough memory for 100 MB of text.
_PPMD_ORDER = 6
_PPMD_MEMORY_BYTES = 1 << 28


def ppmd() -> Compressor | None:
    """Return PPMd (Shkarin 2001), the strongest of the common ones on text; None without the
    package `pyppmd`, which is not installed by default.
    """
    try:
        import pyppmd
    except ImportError:
        return None
    return lambda data: bytes(
        pyppmd.compress(data, max_order=_PPMD_ORDER, mem_size=_PPMD_MEMORY_BYTES)
    )


def added_bits(compressor: Compressor, known: bytes, text: bytes) -> int:
    """Return how many bits longer the compressed file gets when the text follows what is known.

    The compressor goes on learning while it reads the text: in that it has more than a model whose
    weights are frozen.
    """
    return 8 * (len(compressor(known + text)) - len(compressor(known)))
