"""GGUF: llama.cpp reads the characters and computes the same probabilities, up to its own GELU."""

from pathlib import Path

import pytest
import torch

from shakespeare_lm.commands.exported import gguf_network
from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.errors import UserError
from shakespeare_lm.export.gguf_file import check_gguf, write_gguf
from tests.export.models import VOCABULARY, network_of, random_checkpoint


@pytest.fixture
def llama_cpp() -> None:
    for name in ("gguf", "xllamacpp"):
        pytest.importorskip(name, reason="needs pip install -e '.[gguf]'")


@pytest.mark.usefixtures("llama_cpp")
@pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
def test_llama_cpp_computes_the_same(tmp_path: Path, positions: str) -> None:
    checkpoint = random_checkpoint(tmp_path, positions=positions)
    write_gguf(checkpoint, path := tmp_path / "model.gguf")
    exported = gguf_network(path, checkpoint.tokenizer.vocab_size)
    assert exported is not None
    ids = torch.randint(len(VOCABULARY), (2, 23))
    with torch.inference_mode():
        expected = network_of(checkpoint)(ids).log_softmax(-1)
    # It has the other form of GELU, by tanh, from a table in half precision.
    torch.testing.assert_close(exported(ids), expected, atol=0.02, rtol=0)


@pytest.mark.usefixtures("llama_cpp")
def test_llama_cpp_reads_and_writes_every_character(tmp_path: Path) -> None:
    import xllamacpp

    write_gguf(random_checkpoint(tmp_path), path := tmp_path / "model.gguf")
    parameters = xllamacpp.CommonParams()
    parameters.model.path, parameters.n_ctx, parameters.warmup = str(path), 24, False
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    prompt, padding = "é😀 \n", len(VOCABULARY)  # which random weights may choose
    request = {"prompt": prompt, "n_predict": 18, "temperature": 0.0}
    request["logit_bias"] = [[padding, False]]
    answer = xllamacpp.Server(parameters).handle_completions(request)
    assert answer["usage"]["prompt_tokens"] == len(prompt)
    completer = Completer.from_checkpoint(tmp_path / "best.ckpt", "cpu", "float32")
    assert answer["choices"][0]["text"] == completer.complete(prompt, 18, greedy=True)


@pytest.mark.parametrize(
    "options",
    [{"activation": "relu"}, {"positions": "rotary"}, {"previous_characters": 1}, {"norm": "post"}],
)
def test_what_llama_cpp_does_not_compute_is_refused(
    tmp_path: Path, options: dict[str, object]
) -> None:
    with pytest.raises(UserError, match=r"GGUF holds stock GPT-2 only: .* activation gelu,"):
        check_gguf(random_checkpoint(tmp_path, **options))
