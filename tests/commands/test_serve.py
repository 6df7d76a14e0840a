"""The command `serve`, with the real client of OpenAI's API: one, many at once, and its end."""

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
import torch

from shakespeare_lm.commands import serve
from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.errors import UserError
from shakespeare_lm.training.module import ShakespeareLM
from tests.conftest import save
from tests.serving.conftest import NEEDS, Answer, ask

for package in ("starlette", "pydantic"):
    pytest.importorskip(package, reason=NEEDS)
uvicorn = pytest.importorskip("uvicorn", reason=NEEDS)

SCRIPT = Path(__file__).parents[2] / "scripts" / "serve.py"
VOCABULARY = "\n abcdefghijklmnopqrstuvwxyz"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    module = ShakespeareLM(VOCABULARY, context_length=64, num_layers=3, num_heads=2, d_model=160)
    for parameter in module.network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return save(tmp_path_factory.mktemp("model") / "best.ckpt", module)


@contextmanager
def serving(checkpoint: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start a server, check what it says, and yield its process and address; then stop it."""
    words = [sys.executable, str(SCRIPT), "--ckpt", str(checkpoint), "--port", "0"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = "".join(process.stderr.readline() for _ in range(4))
        found = re.search(r"http://[\d.:]+", said)
        assert found, said
        address = found[0]
        assert said == (
            f"model: {checkpoint}\npage: {address} (open it in a browser)\n"
            f"API: {address}/v1 (OpenAI's base_url; model: shakespeare-lm)\nstop: Ctrl-C\n"
        )
        yield process, address
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) in (0, -signal.SIGTERM)


def half_a_request(address: str) -> socket.socket:
    """Return a client that would keep the server waiting."""
    host, port = address.removeprefix("http://").split(":")
    client = socket.create_connection((host, int(port)))
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json"
    client.sendall(f"{head}\r\nContent-Length: 50\r\n\r\n{{".encode())
    return client


def test_a_browser_and_openais_client_get_what_they_ask_for(checkpoint):
    openai = pytest.importorskip("openai", reason="needs pip install -e '.[serve]' openai")
    with (
        serving(checkpoint) as (_, address),
        openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=2) as client,
    ):
        (model,) = client.models.list()
        asked = {"model": model.id, "prompt": "to be", "max_tokens": 50, "temperature": 0.8}
        text = client.completions.create(**asked, seed=1).choices[0].text
        assert text == Completer.from_checkpoint(checkpoint).complete("to be", 50, seed=1)
        streamed = client.completions.create(**asked, seed=1, stream=True)
        assert "".join(chunk.choices[0].text for chunk in streamed) == text
        answer = client.completions.create(**asked, logprobs=3, echo=True, n=2, stop=["e "])
        assert len(answer.choices) == 2
        assert answer.choices[0].logprobs.tokens[:5] == list("to be")
        assert answer.usage.prompt_tokens == 5
        with pytest.raises(openai.BadRequestError, match="the character 'Z'"):
            client.completions.create(model=model.id, prompt="Z")
        with pytest.raises(openai.NotFoundError, match="does not exist"):
            client.completions.create(model="other", prompt="a")
        chat = client.chat.completions.create(
            model=model.id, messages=[{"role": "user", "content": "to be"}], max_tokens=50,
            temperature=0.8, seed=1,
        )  # fmt: skip
        assert chat.choices[0].message.content == text
        assert "not a chat model" in chat.system_fingerprint
        page = requests.get(address, timeout=5)
        assert page.headers["content-type"].startswith("text/html")
        assert 'id="weights"' in page.text


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_answers_on_a_kept_connection_do_not_wait_for_acknowledgements(host):
    async def accepted() -> int:
        option = asyncio.get_running_loop().create_future()

        def connected(_: object, writer: asyncio.StreamWriter) -> None:
            peer = writer.get_extra_info("socket")
            option.set_result(peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        async with await asyncio.start_server(connected, sock=listener):
            with socket.create_connection(listener.getsockname()[:2]):
                return await option

    try:
        listener = serve.listening(host, 0)
    except UserError:
        pytest.skip("this machine has no IPv6")
    assert asyncio.run(accepted())


def test_sigterm_lets_a_running_request_end_and_the_log_tells_of_it(checkpoint):
    body = {"model": "shakespeare-lm", "prompt": "a", "max_tokens": 1000, "stream": True}
    with serving(checkpoint) as (process, address):
        requests.get(f"{address}/health", timeout=60)
        url = f"{address}/v1/completions"
        with (
            half_a_request(address),
            requests.post(url, json=body, stream=True, timeout=60) as answer,
        ):
            lines = answer.iter_lines(decode_unicode=True)
            first = next(lines)
            process.send_signal(signal.SIGTERM)
            parts = [json.loads(line[6:]) for line in (first, *lines) if line.startswith("data: {")]
        assert len("".join(part["choices"][0]["text"] for part in parts)) == 1000
        assert process.stderr is not None
        log = re.sub(r"\d+ ms", "_ ms", process.stderr.read())
    assert log.splitlines() == [
        "GET /health 200 _ ms",
        "POST /v1/completions 408 _ ms",
        "POST /v1/completions 200 _ ms 1000 characters",
    ]


def test_a_server_has_one_thread_and_says_why_it_has_no_page(checkpoint, monkeypatch, capsys):
    def refuse(*_: object) -> str:
        raise UserError("too many weights")

    def run(server: uvicorn.Server, sockets: object) -> None:
        answers.append(ask(server.config.app, "GET", "/", {"host": "localhost"}, b""))

    answers, threads = list[Answer](), list[int]()
    monkeypatch.setattr(serve, "unmeasured_page", refuse)
    monkeypatch.setattr(uvicorn.Server, "run", run)
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    assert serve.main(["--ckpt", str(checkpoint), "--port", "0"]) == 0
    assert "\npage: none: too many weights\n" in capsys.readouterr().err
    assert json.loads(answers[0].body)["error"]["message"] == "too many weights"
    assert threads == [1]


@pytest.mark.slow
def test_serving_64_clients_for_long_needs_no_more_memory(checkpoint):
    with serving(checkpoint) as (process, address), ThreadPoolExecutor(64) as pool:
        body = {"model": "shakespeare-lm", "prompt": "a", "max_tokens": 300}

        def memory_after(rounds: int) -> int:
            for answer in pool.map(
                lambda _: requests.post(f"{address}/v1/completions", json=body, timeout=120),
                range(64 * rounds),
            ):
                answer.raise_for_status()
            return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])

        warm = memory_after(3)
        assert memory_after(4) < 1.1 * warm


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--ckpt=none.ckpt", "none.ckpt"),
        ("--ckpt=a,b", "one model of several, distil them: --model.teachers a,b"),
        ("--port=70000", "port is 70000: expected at most 65535"),
        ("--host=nowhere.invalid", "cannot listen on nowhere.invalid"),
        ("--max_tokens=0", "max_tokens is 0"),
        ("--threads=0", "threads is 0"),
        ("--port={taken}", "cannot listen on 127.0.0.1, port {taken}"),
        ("--allow_origin=https://a.example/", "allow_origin is 'https://a.example/': expected"),
    ],
)
def test_mistakes_are_one_line(checkpoint, capsys, options, message):
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        assert serve.main(["--ckpt", str(checkpoint), options.format(taken=taken)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message.format(taken=taken) in line
