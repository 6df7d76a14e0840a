"""What is made twice is the same bytes: exported weights, the wheel. What is installed has the
hashes of what was tested.
"""

import hashlib
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from shakespeare_lm.checkpoint.reading import FORMAT
from shakespeare_lm.checkpoint.safetensors_file import safetensors_bytes
from tests.checkpoint.conftest import random_checkpoint

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
LOCKED = (
    "dev",
    "huggingface",
    "onnx",
    "serve",
    "laboratory",
    "audit",
)  # the extras that .ci/run installs
Versions = dict[str, set[Version]]


def test_the_same_weights_are_exported_as_the_same_bytes(tmp_path: Path) -> None:
    checkpoint = random_checkpoint(tmp_path / "a.ckpt")
    hyperparameters = checkpoint.content["hyper_parameters"]
    # Safetensors puts the texts of its header in a new order each time, one of six.
    contents = {
        safetensors_bytes(checkpoint.distinct_weights, hyperparameters, FORMAT) for _ in range(20)
    }
    assert len(contents) == 1
    assert int.from_bytes(contents.pop()[:8], "little") % 8 == 0  # so that tensors are aligned


@pytest.mark.slow
def test_the_wheel_of_a_commit_is_the_same_bytes(tmp_path: Path) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("needs the repository: the wheel is that of the last commit")
    checksums = set()
    for mask, zone in (("022", "UTC"), ("077", "Asia/Tokyo")):
        (folder := tmp_path / mask).mkdir()
        command = f"umask {mask} && {ROOT}/.ci/wheel {folder}"
        subprocess.run(["bash", "-c", command], check=True, env={**os.environ, "TZ": zone})
        (wheel,) = folder.glob("*.whl")
        checksums.add(hashlib.sha256(wheel.read_bytes()).hexdigest())
    assert len(checksums) == 1


def locked(*names: str) -> Versions:
    """Return the versions of the packages in locks; each has hashes, and stands in one lock."""
    found: Versions = {}
    for name in names:
        text = (ROOT / f"requirements/{name}.txt").read_text("utf-8")
        here: Versions = {}
        for package in re.split(r"\n(?=\w)", text)[1:]:
            first, *hashes = package.strip().splitlines()
            requirement, version = re.fullmatch(r"([\w.-]+)==(\S+).*\\", first).groups()  # type: ignore[union-attr]
            assert all(re.fullmatch(r" +--hash=sha256:\w{64}( \\)?", line) for line in hashes)
            assert hashes, requirement
            here.setdefault(requirement, set()).add(Version(version))
        assert not found.keys() & here.keys()
        found |= here
    return found


@pytest.mark.parametrize(("names", "extras"), [(("base",), ()), (("base", "cuda", "dev"), LOCKED)])
def test_the_locks_hold_what_is_asked_for_and_was_tested(
    names: tuple[str, ...], extras: tuple[str, ...]
) -> None:
    """After a change of pyproject.toml or constraints.txt: python .ci/lock.py."""
    versions = locked(*names)
    needed = PROJECT["dependencies"] + [
        line for extra in extras for line in PROJECT["optional-dependencies"][extra]
    ]
    for requirement in map(Requirement, needed):
        found = versions[canonicalize_name(requirement.name)]
        assert all(version in requirement.specifier for version in found), requirement
    pinned = re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text("utf-8"), re.M)
    for name, version in pinned:
        assert versions.get(canonicalize_name(name), {Version(version)}) == {Version(version)}
