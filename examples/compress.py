"""A file becomes smaller, and comes back byte for byte: a loss is the length of a file.

    python examples/compress.py CHECKPOINT FILE SMALL [--frozen]
    python examples/compress.py CHECKPOINT SMALL FILE --restore [--frozen]

`-log2 p` bits for each character. Restore on the machine that compressed, with as many threads:
another one rounds otherwise, and would predict something else.
"""

import sys
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from shakespeare_lm.completion.completer import Completer

# How many shares of the interval are for a length, a character, and a prediction.
LENGTHS, CHARACTERS, PREDICTION = 1 << 32, 0x110000, 1 << 30


class ArithmeticCoder:
    """Writes a number in an ever smaller interval (as a range coder: Martin 1979); or reads it."""

    def __init__(self, file: bytes = b"") -> None:
        self.low, self.size, self.bytes, self.rest = 0, 1 << 64, 8, iter(file)
        self.above_low = int.from_bytes(next(self.rest, 0) for _ in range(8))  # only in reading

    def code(self, bounds: Sequence[int], symbol: int | None) -> int:
        """Write a symbol, whose shares end where the next one's begin; read it if it is None."""
        share = self.size // bounds[-1]
        if symbol is None:
            symbol = bisect_right(bounds, min(self.above_low // share, bounds[-1] - 1)) - 1
        self.low += share * bounds[symbol]
        self.above_low -= share * bounds[symbol]
        self.size = share * (bounds[symbol + 1] - bounds[symbol])
        while self.size < 1 << 56:
            self.low, self.size, self.bytes = self.low << 8, self.size << 8, self.bytes + 1
            self.above_low = self.above_low << 8 | next(self.rest, 0)
        return symbol

    def file(self) -> bytes:
        """Return what was written: the shortest number in the interval."""
        return ((self.low + self.size - 1) >> 48).to_bytes(self.bytes - 6)


def code(completer: Completer, coder: ArithmeticCoder, text: str | None, adaptive: bool) -> str:
    """Write a text, or read it if it is None; return it."""
    predictor, vocabulary = completer.predictor(adaptive), completer.tokenizer.vocabulary
    coded, unknown = "", len(vocabulary)  # a symbol that any character can follow
    for place in range(coder.code(range(LENGTHS + 1), None if text is None else len(text))):
        shares = 1 + (PREDICTION * np.exp(predictor.log_probabilities())).astype(int)
        bounds = [0, *shares.cumsum().tolist(), int(shares.sum()) + 1]
        symbol = None if text is None else vocabulary.find(text[place]) % (unknown + 1)
        symbol = coder.code(bounds, symbol)
        if symbol < unknown:
            predictor.observe(symbol)
            coded += vocabulary[symbol]
        else:
            character = None if text is None else ord(text[place])
            coded += chr(coder.code(range(CHARACTERS + 1), character))
    return coded


def main(checkpoint: str, source: str, result: str, *options: str) -> None:
    completer, adaptive = Completer.from_checkpoint(checkpoint), "--frozen" not in options
    content = Path(source).read_bytes()
    if "--restore" in options:
        text = code(completer, ArithmeticCoder(content), None, adaptive)
        Path(result).write_bytes(text.encode("utf-8", "surrogateescape"))
    else:
        coder = ArithmeticCoder()
        code(completer, coder, content.decode("utf-8", "surrogateescape"), adaptive)
        Path(result).write_bytes(coder.file())


if __name__ == "__main__":
    main(*sys.argv[1:])
