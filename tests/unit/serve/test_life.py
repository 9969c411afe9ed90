"""Clients that leave, a queue that is full, a server that is told to stop: nobody else notices, nothing is left."""

import asyncio
import json
import socket
import threading
from contextlib import contextmanager

import httpx
import openai
import pytest

from aquila.serve.run import listen
from serve_parts import WAIT_SECONDS, running, tiny_served

LONG = {"prompt": "def is_prime(n):", "max_tokens": 900, "ignore_eos": True, "temperature": 1}
CHAT = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 900, "ignore_eos": True, "stop": "never"}
HEAD = (
    b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n"
)


@pytest.fixture(scope="module")
def server():
    with running(ping_seconds=0.5) as found:
        yield found


def gated(**options):
    """A model whose steps wait for the gate that comes with it."""
    model, gate = tiny_served(**options), threading.Event()
    step = model.engine.runner.step
    model.engine.runner.step = lambda batch: (gate.wait(WAIT_SECONDS), step(batch))[1]
    return model, gate


@contextmanager
def raw_post(server, path: str, body: dict):
    """A connection that has sent a request and reads nothing by itself."""
    host, port = server.url.removeprefix("http://").split(":")
    data = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    )
    with socket.create_connection((host, int(port))) as sock:
        sock.sendall(head.encode() + data)
        yield sock


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_client_that_leaves_while_it_waits_gives_everything_back(server, path, stream):
    body = {**(LONG if path == "/v1/completions" else CHAT), "stream": stream}
    before = server.worker.stats().num_output_tokens
    with raw_post(server, path, body):
        server.until(lambda: server.worker.num_in_flight == 1)
    server.until_idle()
    assert server.worker.stats().num_output_tokens - before < 900


def test_a_client_that_leaves_in_the_middle_of_a_stream(server):
    before = server.worker.stats().num_output_tokens
    with server.client.stream("POST", "/v1/completions", json={**LONG, "stream": True, "n": 3}) as response:
        assert next(response.iter_lines()).startswith("data: ")
    server.until_idle()
    assert server.worker.stats().num_output_tokens - before < 3 * 900
    assert server.service.server.num_open_requests == 0


def test_a_client_that_leaves_during_a_long_prompt():
    """The prompt takes a step for each few tokens; it is given up between two of them."""
    with running(lambda: tiny_served(max_batched_tokens=64, max_sequences=8)) as server:
        body = {"prompt": [[7] * 1000] * 40, "max_tokens": 1, "echo": True, "logprobs": 1}
        with raw_post(server, "/v1/completions", body):
            server.until(lambda: server.worker.stats().num_steps > 3)
        server.until_idle()
        assert server.worker.stats().num_prompt_tokens < 40 * 1000


def test_a_client_that_leaves_before_its_body_is_here(server):
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as sock:
        sock.sendall(HEAD + b"{")
    server.until(lambda: server.service.server.num_open_requests == 0)


def test_a_body_that_does_not_come_is_refused():
    with running(read_seconds=0.2) as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as sock:
            sock.sendall(HEAD)
            answer = sock.recv(4096)
        assert b"408" in answer.splitlines()[0]


def test_pings_keep_a_silent_stream_alive():
    """The first step waits for a gate."""
    model, gate = gated()
    with running(lambda: model, ping_seconds=0.05) as server:
        body = {"prompt": "x", "max_tokens": 1, "stream": True}
        with server.client.stream("POST", "/v1/completions", json=body) as response:
            lines = response.iter_lines()
            assert next(lines) == ": ping"
            gate.set()
            assert [line for line in lines if line.startswith("data")][-1] == "data: [DONE]"


def test_a_full_queue_says_when_to_ask_again():
    model, gate = gated(max_sequences=2)
    with running(lambda: model, max_queue=1, legacy_flagai=True) as server:
        with raw_post(server, "/v1/completions", {**LONG, "n": 3}):
            server.until(lambda: server.worker.num_in_flight == 3)
            response = server.post("/v1/completions", {"prompt": "x"})
            assert response.status_code == 429
            assert int(response.headers["retry-after"]) >= 1
            assert response.json()["error"]["code"] == "queue_full"
            assert server.post("/v1/completions", {"prompt": "x", "stream": True}).status_code == 429
            assert server.post("/stream_func", {"prompt": "x"}).status_code == 429
            gate.set()
        server.until_idle()
        assert server.post("/v1/completions", {"prompt": "x", "max_tokens": 1}).status_code == 200
        never = server.post("/v1/completions", {"prompt": "x", "n": 4})
        assert never.status_code == 400
        assert "asks for 4 completions at once, and the server takes 3" in never.json()["error"]["message"]


def test_the_openai_client_tries_again_by_itself():
    with (
        running(lambda: tiny_served(max_sequences=1), max_queue=0) as server,
        raw_post(server, "/v1/completions", {**LONG, "max_tokens": 60}),
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=10) as client,
    ):
        server.until(lambda: server.worker.num_in_flight == 1)
        assert client.completions.create(model="tiny", prompt="x", max_tokens=1).usage.completion_tokens == 1


def test_while_the_model_is_loaded():
    gate = threading.Event()

    def load():
        assert gate.wait(20)
        return tiny_served()

    with running(load, wait=False) as server:
        health = server.client.get("/health")
        assert (health.status_code, health.json()) == (503, {"status": "loading"})
        response = server.post("/v1/completions", {"prompt": "x"})
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "loading"
        assert "retry-after" in response.headers
        gate.set()
        server.until(lambda: server.client.get("/health").status_code == 200)


def test_draining_finishes_what_runs_and_refuses_the_rest():
    model, gate = gated()
    with running(lambda: model) as server, raw_post(server, "/v1/completions", {**LONG, "max_tokens": 9}) as sock:
        server.until(lambda: server.worker.num_in_flight == 1)
        server.service.ask_to_stop()
        server.until(lambda: server.service.server.phase == "draining")
        refused = httpx.post(f"{server.url}/v1/completions", json={"prompt": "x"}, trust_env=False)
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "shutting_down"
        assert "retry-after" in refused.headers
        assert httpx.get(f"{server.url}/health", trust_env=False).json() == {"status": "draining"}
        gate.set()
        answer = sock.makefile("rb").read()
    assert b"200 OK" in answer.splitlines()[0]
    assert b'"finish_reason":"length"' in answer


def test_what_does_not_finish_in_time_ends_with_an_error_event():
    with running(drain_seconds=0) as server:
        with server.client.stream("POST", "/v1/completions", json={**LONG, "stream": True}) as response:
            lines = response.iter_lines()
            next(lines)
            server.service.ask_to_stop()
            events = [line for line in lines if line]
        assert events[-1] == "data: [DONE]"
        error = json.loads(events[-2].removeprefix("data: "))["error"]
        assert error["code"] == "shutting_down"
        assert "the server is shutting down" in error["message"]


def test_the_engine_survives_a_request_that_fails():
    """Damage that only one sequence meets ends that one, and the answer beside it is the one that it gets alone."""
    model = tiny_served()
    step = model.engine.runner.step

    def damaged(batch):
        logits = step(batch)
        row = 0
        for item in batch:
            if item.num_logits and item.start == 0 and item.token_ids[0] == 5:
                logits[row] = float("nan")
            row += item.num_logits
        return logits

    model.engine.runner.step = damaged
    with running(lambda: model) as server:
        good = {"prompt": "def", "max_tokens": 40, "temperature": 0}
        alone = server.post("/v1/completions", good).json()["choices"][0]["text"]
        with raw_post(server, "/v1/completions", {**LONG, "max_tokens": 300}):
            failed = server.post("/v1/completions", {"prompt": [5, 6], "max_tokens": 5})
            assert failed.status_code == 500
            assert "its weights are damaged" in failed.json()["error"]["message"]
            assert server.post("/v1/completions", good).json()["choices"][0]["text"] == alone
        server.until_idle()


def test_the_engine_survives_a_bug():
    model = tiny_served()
    step = model.engine.runner.step
    bugs = [ZeroDivisionError("a bug")]

    def with_bug(batch):
        if bugs:
            raise bugs.pop()
        return step(batch)

    model.engine.runner.step = with_bug
    with running(lambda: model) as server:
        failed = server.post("/v1/completions", {"prompt": "x", "max_tokens": 2})
        assert failed.status_code == 500
        assert "its log says why" in failed.json()["error"]["message"]
        server.until_idle()
        assert server.post("/v1/completions", {"prompt": "x", "max_tokens": 2}).status_code == 200


def test_metrics_count(server):
    server.post("/v1/completions", {"prompt": "x", "max_tokens": 3, "ignore_eos": True})
    page = server.client.get("/metrics").text
    assert 'aquila_requests_total{code="200",route="/v1/completions"}' in page
    for name in ("queue_depth", "running", "kv_usage_ratio", "ttft_seconds_count", "generation_tokens_total"):
        assert f"aquila_{name} " in page, name
    assert "/nothing-here" not in server.client.get("/metrics").text


def test_connections_that_say_nothing_are_in_nobodys_way(server):
    host, port = server.url.removeprefix("http://").split(":")
    silent = [socket.create_connection((host, int(port))) for _ in range(300)]
    try:
        assert server.post("/v1/completions", {"prompt": "x", "max_tokens": 1}).status_code == 200
    finally:
        for sock in silent:
            sock.close()


def test_an_engine_that_cannot_go_on_says_so():
    """What a step broke cannot be taken away either: health tells whoever restarts the server."""
    model = tiny_served()

    def broken(_):
        raise ZeroDivisionError("a bug")

    model.engine.runner.step = broken
    model.engine.cancel = broken
    with running(lambda: model) as server:
        failed = server.post("/v1/completions", {"prompt": "x", "max_tokens": 2})
        assert failed.status_code == 500
        assert "the engine has stopped" in failed.json()["error"]["message"]
        server.until(lambda: not server.worker.alive)
        health = server.client.get("/health")
        assert (health.status_code, health.json()) == (503, {"status": "failed"})
        assert server.post("/v1/completions", {"prompt": "x"}).status_code == 503


def test_a_first_token_does_not_wait_for_an_acknowledgement():
    """Small pieces are sent at once: an accepted connection has TCP_NODELAY."""
    found: list[int] = []

    async def serve_one() -> None:
        done = asyncio.Event()

        def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            found.append(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()
            done.set()

        async with await asyncio.start_server(note, sock=listen("127.0.0.1", 0)) as server:
            _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            await done.wait()
            writer.close()
            await writer.wait_closed()

    asyncio.run(serve_one())
    assert found
    assert all(found)
