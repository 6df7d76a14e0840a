"""The page on onnxruntime-web: its JavaScript, in Node.js, makes the text that we make."""

import shutil
import subprocess
from pathlib import Path

import pytest

from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.export.onnx_file import write_onnx
from tests.export.models import random_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore")

EXAMPLE = Path(__file__).parents[2] / "examples" / "onnx_text.mjs"
NODE = shutil.which("node")
RUN = """
(async () => {
  const ort = require("onnxruntime-web");
  const { complete } = await import(process.argv[1]);
  const content = require("fs").readFileSync("model.onnx");
  const session = await ort.InferenceSession.create(content);
  const model = require(process.cwd() + "/model.onnx.json");
  let count = 0;
  for await (const character of complete(ort, session, model, process.argv[2], 0)) {
    process.stdout.write(character);
    if (++count === 60) return;
  }
})().catch((error) => { console.error(error.message); process.exit(1); });
"""


def run(folder: Path, code: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    assert NODE is not None
    command = [NODE, "--input-type=commonjs", "-e", code, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, encoding="utf-8")


def test_the_text_in_javascript_is_ours_past_the_context_too(tmp_path: Path) -> None:
    for name in ("onnx", "onnxscript"):
        pytest.importorskip(name, reason="needs pip install -e '.[onnx]'")
    if NODE is None or run(tmp_path, "require('onnxruntime-web')").returncode:
        pytest.skip("needs Node.js, and NODE_PATH with npm's onnxruntime-web")
    checkpoint = random_checkpoint(tmp_path, previous_characters=2)
    write_onnx(checkpoint, tmp_path / "model.onnx")
    done = run(tmp_path, RUN, EXAMPLE.as_uri(), "RO😀:")
    completer = Completer.from_checkpoint(tmp_path / "best.ckpt", "cpu", "float32")
    assert (done.stdout, done.stderr) == (completer.complete("RO😀:", 60, greedy=True), "")
    assert "does not know x" in run(tmp_path, RUN, EXAMPLE.as_uri(), "RxO").stderr
