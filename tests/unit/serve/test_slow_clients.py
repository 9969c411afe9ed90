"""Clients that begin a request and stop: their connections end by themselves, and nobody else waits for that."""

import json
import socket
import threading
import time
from contextlib import ExitStack, suppress

import pytest

from serve_parts import running

HALF_HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nx"
HEAD = b"POST %s HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: %d\r\n%s\r\n"
SHORT = 0.5  # seconds, which slow clients exceed and the server's other clients never take


@pytest.fixture(scope="module")
def server():
    with running(read_seconds=SHORT) as found:
        yield found


def connect(server, said: bytes = b"") -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    sock = socket.create_connection((host, int(port)), timeout=30)
    sock.sendall(said)
    return sock


def all_of(sock: socket.socket) -> bytes:
    """What comes until the other side closes, which resets a connection that bytes still come from. One that is never
    closed is a `TimeoutError`."""
    answer = b""
    with suppress(ConnectionResetError):
        while piece := sock.recv(1 << 16):
            answer += piece
    return answer


def drip(sock: socket.socket, data: bytes, done: threading.Event) -> None:
    """A byte every twentieth of a second, until the other side has had enough or the data ends."""
    for place in range(len(data)):
        if done.wait(0.05):
            return
        try:
            sock.sendall(data[place : place + 1])
        except OSError:
            return


@pytest.fixture
def dripping(server):
    """A connection to which bytes come one by one, for as long as the test goes on."""
    done, threads = threading.Event(), []

    def begin(said: bytes, data: bytes) -> socket.socket:
        sock = stack.enter_context(connect(server, said))
        threads.append(threading.Thread(target=drip, args=(sock, data, done)))
        threads[-1].start()
        return sock

    with ExitStack() as stack:
        yield begin
        done.set()
        for thread in threads:
            thread.join()


def test_half_a_head_is_answered_408_and_closed(server):
    with connect(server, HALF_HEAD) as sock:
        head, _, body = all_of(sock).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert "did not come within 0.5 seconds" in json.loads(body)["error"]["message"]


def test_a_connection_that_says_nothing_is_closed_without_a_word(server):
    with connect(server) as sock:
        assert all_of(sock) == b""


def test_bytes_one_by_one_do_not_hold_a_connection(dripping):
    head = dripping(b"GET /health HTTP/1.1\r\nhost: localhost\r\nx-a: ", b"a" * 1000)
    body = dripping(HEAD % (b"/v1/completions", 1000, b""), b"[" * 1000)
    assert all_of(head).startswith(b"HTTP/1.1 408 ")
    answer = all_of(body)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"the body came too slowly" in answer


def test_a_body_that_nobody_reads_does_not_hold_a_connection(dripping):
    """The answer is said before the body is here: 415."""
    head = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100000\r\n\r\n"
    answer = all_of(dripping(head, b"x" * 1000))
    assert answer.startswith(b"HTTP/1.1 415 ")
    assert answer.count(b"HTTP/1.1") == 1


def test_half_a_head_behind_an_answer_is_closed_too(dripping):
    whole = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"
    answers = all_of(dripping(whole, b"GET /health HTTP/1.1\r\nx-a: " + b"a" * 1000))
    assert answers.startswith(b"HTTP/1.1 200 ")
    assert answers.count(b"HTTP/1.1 408 ") == 1


def test_a_large_body_on_a_slow_line_has_more_time(server):
    """A second for every 16 KiB that are here: 32 KiB, a pause of twice the limit, and the rest."""
    body = json.dumps({"prompt": "x", "max_tokens": 1, "extra": "a" * (33 << 10)}).encode()
    with connect(server, HEAD % (b"/v1/completions", len(body), b"connection: close\r\n") + body[: 32 << 10]) as sock:
        time.sleep(2 * SHORT)  # the pause is what is tested
        sock.sendall(body[32 << 10 :])
        assert all_of(sock).startswith(b"HTTP/1.1 200 ")


def test_a_long_answer_is_not_cut_nor_one_that_is_read_slowly(server):
    """The limit is on what the client says. The reader pauses for twice the limit in the middle of the stream."""
    body = {"prompt": "x", "max_tokens": 900, "ignore_eos": True, "stream": True}
    with server.client.stream("POST", "/v1/completions", json=body) as response:
        lines = response.iter_lines()
        next(lines)
        time.sleep(2 * SHORT)
        assert [line for line in lines if line][-1] == "data: [DONE]"
    assert server.client.get("/health").status_code == 200


def test_a_thousand_half_said_requests_are_gone_while_others_are_answered(server):
    whole = json.dumps({"prompt": "x"}).encode()
    kinds = [b"", HALF_HEAD, HEAD % (b"/v1/completions", 99, b""), HEAD % (b"/v1/completions", 99, b"") + whole[:5]]
    with ExitStack() as stack:
        held = [stack.enter_context(connect(server, kinds[number % 4])) for number in range(1000)]
        for _ in range(5):
            assert server.post("/v1/completions", {"prompt": "x", "max_tokens": 2}).status_code == 200
        for number, sock in enumerate(held):
            assert (b" 408 " in all_of(sock)) == (number % 4 > 0)
    server.until(lambda: server.service.server.num_open_requests == 0)
    server.until(lambda: len(server.service.server_state.connections) <= 2)  # the test's own client
    server.until_idle()
