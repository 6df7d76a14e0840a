"""Fuzz one target, guided by the coverage of the library: python -m tests.fuzz TARGET [SECONDS].

Needs `pip install -e '.[fuzz]'`. What it finds is left as a file `crash-*`, and goes into the
target's kept inputs, together with its correction. `--keep` adds to them what reached new code.
"""

import base64
import hashlib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

CORPUS = Path(__file__).with_name("corpus")
MAX_KEPT_BYTES = 20_000  # of a target, the shortest first
# Their coverage is a guide, too.
PARSERS = ["pickletools", "yaml"]


def kept_inputs(target: str) -> list[bytes]:
    """Return the inputs of a target that are kept in the repository."""
    lines = (CORPUS / f"{target}.txt").read_text("ascii").split()
    return [base64.b64decode(line) for line in lines]


def keep(target: str, inputs: list[bytes]) -> None:
    """Replace the kept inputs of a target."""
    lines = sorted({base64.b64encode(data).decode() for data in inputs}, key=lambda x: (len(x), x))
    text = ""
    for line in lines:
        if len(text) + len(line) < MAX_KEPT_BYTES or not text:
            text += line + "\n"
    (CORPUS / f"{target}.txt").write_text(text, "ascii")


def write(folder: Path, inputs: list[bytes]) -> Path:
    """Write inputs as files, as libFuzzer reads them."""
    folder.mkdir(exist_ok=True)
    for data in inputs:
        (folder / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    return folder


def write_dictionary(path: Path, inputs: list[bytes]) -> Path:
    """Write the words of texts for libFuzzer, which seldom finds them letter by letter."""
    words = {word for data in inputs for word in re.findall(rb"[\w-]{2,30}", data)}
    path.write_text("".join(f'"{word.decode()}"\n' for word in sorted(words) if word.isascii()))
    return path


def fuzz(target: str, flags: list[str]) -> None:
    """Run libFuzzer in this process, which it ends."""
    import atheris

    with atheris.instrument_imports(include=["shakespeare_lm", *PARSERS]):
        from tests.fuzz.targets import TARGETS
    again = f"{sys.executable} -m tests.fuzz --inside {target}"  # how -merge starts it again
    atheris.Setup([again, *flags], TARGETS[target])
    atheris.Fuzz()


def main(target: str, seconds: str = "60", *options: str) -> int:
    """Fuzz a target; the exit code is not 0 if it found something."""
    from tests.fuzz.targets import WORDS, seeds

    with tempfile.TemporaryDirectory() as name:
        os.environ["TMPDIR"] = name  # for libFuzzer's process, which ends without cleaning up
        grown = write(Path(name) / "grown", [*kept_inputs(target), *seeds()[target]])
        words = write_dictionary(Path(name) / "words", [WORDS, *seeds()[target]])
        command = [sys.executable, "-m", "tests.fuzz", "--inside", target, f"-dict={words}"]
        limits = ["-timeout=30", "-rss_limit_mb=3000", "-max_len=20000", "-print_final_stats=1"]
        found = subprocess.run([*command, f"-max_total_time={seconds}", *limits, str(grown)])
        if "--keep" in options and found.returncode == 0:
            least = Path(name) / "least"
            least.mkdir()
            subprocess.run([*command, "-merge=1", str(least), str(grown)], check=True)
            keep(target, [path.read_bytes() for path in least.iterdir()])
    return found.returncode


if __name__ == "__main__":
    if sys.argv[1] == "--inside":
        fuzz(sys.argv[2], sys.argv[3:])
    sys.exit(main(*sys.argv[1:]))
