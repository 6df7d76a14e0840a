"""Write requirements/*.txt anew: every package with its hashes, for `pip install --require-hashes`.

Usage: `pip install uv && python .ci/lock.py`, after each change of pyproject.toml or
constraints.txt, whose versions are taken. The hashes are those that the package index publishes, of
every file of a version: one lock serves each system and Python.
"""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXTRAS = ("dev", "huggingface", "onnx", "serve", "laboratory", "audit")
TESTED = [f"--extra={extra}" for extra in EXTRAS]
# What PyTorch's default build needs on Linux, and its CPU build does not.
CUDA = re.compile("cuda-|nvidia-|triton")
COMMAND = (
    "uv pip compile pyproject.toml --constraint constraints.txt --universal --python-version 3.11 "
    "--generate-hashes --no-annotate --no-header --quiet"
)


def locked(*options: str) -> list[str]:
    """Return one text for each package: its version, its marker, its hashes."""
    command = [*COMMAND.split(), *options]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return re.split(r"\n(?=\w)", done.stdout.strip())


def write(name: str, purpose: str, packages: list[str]) -> None:
    text = "\n".join([f"# {purpose} Written by .ci/lock.py.", *packages, ""])
    (ROOT / "requirements" / f"{name}.txt").write_text(text, encoding="utf-8", newline="\n")


def main() -> None:
    everything = locked(*TESTED)
    needed = {package.split("==")[0] for package in locked()}
    cuda = [package for package in everything if CUDA.match(package)]
    base = [p for p in everything if p.split("==")[0] in needed and p not in cuda]
    write("base", "What the quick start needs.", base)
    write("cuda", "What PyTorch for CUDA needs too, on Linux.", cuda)
    write("dev", "What .ci/run needs too.", [p for p in everything if p not in base + cuda])


if __name__ == "__main__":
    main()
