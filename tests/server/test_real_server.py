"""A real process on a real port with the embedded model: streams, clients that leave, SIGTERM,
keys."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
from collections.abc import Iterator

import httpx2
import pytest
from real_server import Server, until
from scripted import events_of

LONG = {
    "messages": [{"role": "user", "content": "Tell me a story."}],
    "max_tokens": 900,
    "stream": True,
    "ignore_eos": True,
    "temperature": 0,
}
SHORT = {**LONG, "max_tokens": 5}


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.close()


def test_stream_and_whole_answer_of_the_embedded_model_are_the_same(shared_server):
    whole = shared_server.ask("/v1/chat/completions", {**SHORT, "stream": False}).json()
    chunks = events_of(shared_server.ask("/v1/chat/completions", SHORT).text)
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert text == whole["choices"][0]["message"]["content"] and text
    assert whole["usage"]["completion_tokens"] == 5


def test_pieces_arrive_one_after_the_other(shared_server):
    with (
        httpx2.Client(timeout=30) as client,
        client.stream("POST", f"{shared_server.url}/v1/chat/completions", json=LONG) as answer,
    ):
        lines = (line for line in answer.iter_lines() if line.startswith("data: "))
        for _ in range(3):
            next(lines)
        assert shared_server.metric("bobot_requests_open") >= 1  # it is still being written


def test_client_that_leaves_ends_its_answer(shared_server):
    before = shared_server.metric("bobot_completion_tokens_total")
    blocks = shared_server.metric("bobot_engine_num_free_blocks")
    for is_stream in (True, False):
        body = json.dumps({**LONG, "stream": is_stream}).encode()
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x.localhost\r\n"
        head += f"Content-Length: {len(body)}"
        with socket.create_connection(("127.0.0.1", shared_server.port)) as sock:
            sock.sendall(f"{head}\r\n\r\n".encode() + body)
            if is_stream:
                assert b"200 OK" in sock.recv(1 << 16)
            else:
                until(lambda: shared_server.metric("bobot_requests_open") >= 2)
        until(lambda: shared_server.metric("bobot_requests_open") == 1)  # the one that asks
    written = shared_server.metric("bobot_completion_tokens_total") - before
    assert written < 2 * 900
    until(lambda: shared_server.metric("bobot_engine_num_free_blocks") == blocks)
    assert blocks > 0 and shared_server.metric("bobot_engine_num_running") == 0


def test_logprobs_of_a_prompt_are_the_same_echoed_and_as_vllm_gives_them(shared_server):
    body = {"prompt": "Once upon a time", "max_tokens": 1, "temperature": 0}
    echoed = shared_server.ask("/v1/completions", {**body, "echo": True, "logprobs": 1}).json()
    vllm = shared_server.ask("/v1/completions", {**body, "prompt_logprobs": 0}).json()
    ids = shared_server.ask("/tokenize", {"prompt": body["prompt"]}).json()["tokens"]
    values = echoed["choices"][0]["logprobs"]["token_logprobs"]
    scored = zip(ids, vllm["choices"][0]["prompt_logprobs"], strict=True)
    others = [entry and entry[str(token_id)]["logprob"] for token_id, entry in scored]
    assert values[:-1] == pytest.approx(others, abs=1e-4) and values[0] is None
    assert len(values) == len(ids) + 1
    assert echoed["choices"][0]["text"].startswith("Once upon a time")


def test_prompt_that_is_too_long_is_refused_with_both_numbers(shared_server):
    body = {"messages": [{"role": "user", "content": "word " * 3000}]}
    answer = shared_server.ask("/v1/chat/completions", body)
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["code"] == "context_length_exceeded"
    numbers = [int(number) for number in re.findall(r"\d+", error["message"])]
    assert 1024 in numbers and max(numbers) > 3000


def test_answers_asked_for_together_are_those_asked_for_alone(shared_server):
    bodies = [
        {"messages": [{"role": "user", "content": f"Count to {n}."}], "max_tokens": 12, "seed": n}
        for n in range(12)
    ]

    async def together() -> list[str]:
        async with httpx2.AsyncClient(base_url=shared_server.url, timeout=60) as client:
            asks = (client.post("/v1/chat/completions", json=body) for body in bodies)
            return [answer.json() for answer in await asyncio.gather(*asks)]

    def text(answer) -> str:
        return answer["choices"][0]["message"]["content"]

    alone = [text(shared_server.ask("/v1/chat/completions", body).json()) for body in bodies]
    assert [text(answer) for answer in asyncio.run(together())] == alone


def test_head_that_is_too_large_and_lines_that_are_no_http_are_refused(shared_server):
    large = shared_server.ask("/v1/models", headers={"x-large": "a" * 100_000})
    assert large.status_code in (400, 431)
    with socket.create_connection(("127.0.0.1", shared_server.port)) as sock:
        sock.sendall(b"\x16\x03\x01 this is TLS\r\n\r\n")
        assert b"400" in sock.recv(1000)
    assert shared_server.ask("/health").status_code == 200


def test_sigterm_lets_an_open_stream_end_and_refuses_new_requests(serve):
    server = serve()
    with (
        httpx2.Client(timeout=60) as client,
        client.stream("POST", f"{server.url}/v1/chat/completions", json=LONG) as answer,
    ):
        lines = answer.iter_lines()
        next(lines)
        server.process.send_signal(signal.SIGTERM)
        until(lambda: server.ask("/health").status_code == 503)
        refused = server.ask("/v1/chat/completions", SHORT)
        assert refused.status_code == 503 and "retry-after" in refused.headers
        assert refused.json()["error"]["code"] == "stopping"
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    assert server.process.wait(30) == 0


def test_sigterm_ends_what_takes_longer_than_it_may_and_tells_the_client(serve):
    server = serve("--drain-seconds", "0")
    with (
        httpx2.Client(timeout=60) as client,
        client.stream("POST", f"{server.url}/v1/chat/completions", json=LONG) as answer,
    ):
        lines = answer.iter_lines()
        next(lines)
        server.process.send_signal(signal.SIGTERM)
        last = [line for line in lines if line][-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "stopping"
    assert server.process.wait(30) == 0
    assert "Traceback" not in server.errors.read_text()


def test_other_address_makes_a_key_once_and_demands_it(serve):
    server = serve("--host", "0.0.0.0")
    told = "".join(server.lines)
    key = re.search(r"sk-bobot-\S+", told)
    assert key, told
    assert server.ask("/v1/models").status_code == 401
    headers = {"authorization": f"Bearer {key[0]}"}
    assert server.ask("/v1/models", headers=headers).status_code == 200
    refused = server.ask("/v1/models", headers={**headers, "host": "evil.example.org"})
    assert refused.status_code == 403
    assert server.end() == 0
    again = serve("--host", "0.0.0.0")
    assert "sk-bobot-" not in "".join(again.lines)
    assert again.ask("/v1/models", headers=headers).status_code == 200
    assert key[0] not in again.errors.read_text() + server.errors.read_text()


def test_requests_are_logged_as_json_without_their_text_and_ctrl_c_has_its_status(serve):
    server = serve("--api-key", "sk-mine")
    headers = {"authorization": "Bearer sk-mine"}
    body = {**SHORT, "messages": [{"role": "user", "content": "a secret question"}]}
    assert server.ask("/v1/chat/completions", body, headers=headers).status_code == 200
    assert server.end(signal.SIGINT) == 130
    log = server.errors.read_text()
    lines = [json.loads(line) for line in log.splitlines()]
    entry = next(line for line in lines if line.get("path") == "/v1/chat/completions")
    assert entry["status"] == 200 and entry["completion_tokens"] == 5 and entry["model"] == "bobot"
    assert "secret" not in log and "sk-mine" not in log


def test_one_server_answers_at_several_addresses(tmp_path):
    """The same port of each; "localhost" is either of the two."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no ::1")
    server = Server(tmp_path, "--host", "127.0.0.1,::1")
    try:
        with httpx2.Client(timeout=30) as client:
            found = [client.get(f"http://[::1]:{server.port}/v1/models").json()]
        assert [server.ask("/v1/models").json()] == found
        assert sum("listening on" in line for line in server.lines) == 2
    finally:
        server.close()
