"""What strangers do to a server: bytes that are no text, texts far too long, connections that say nothing."""

import json
import socket
import threading

import httpx
import pytest

from aquila.serve.errors import ServeError
from aquila.serve.json_body import check_json
from aquila.tokenizer.tokenizer import LONG_TEXT
from parts import CORPUS, tiny_tokenizer
from serve_parts import running

SURROGATE = b"\xed\xa0\x80"  # UTF-8 has no such sequence; json.loads takes it when it is left to decode


@pytest.fixture(scope="module")
def server():
    with running(legacy_flagai=True) as found:
        yield found


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", b'{"prompt": "X"}'),
        ("/v1/chat/completions", b'{"messages": [{"role": "user", "content": [{"type": "text", "text": "X"}]}]}'),
        ("/v1/messages/count_tokens", b'{"messages": [{"role": "user", "content": "a"}], "extra": "X"}'),
        ("/v1/events", b'{"X": 1}'),
    ],
)
def test_half_a_pair_in_raw_bytes_is_no_utf_8(server, path, body):
    data = body.replace(b"X", SURROGATE)
    response = server.client.post(path, content=data, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert "the body is not UTF-8" in response.json()["error"]["message"]


def test_a_body_of_nothing_but_brackets_is_refused_unread(server):
    data = b'{"prompt": "x", "a": [' + b"[]," * 1_000_000 + b"[]]}"
    response = server.client.post("/v1/completions", content=data, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert "more than 250000 values in its lists and objects" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "entry", "message"),
    [
        ("/v1/completions", '{"prompt": [X]}', "prompt: Input should be a valid"),
        (
            "/v1/completions",
            '{"prompt": "x", "stop_token_ids": [X]}',
            "stop_token_ids.0: Input should be a valid integer",
        ),
        ("/v1/chat/completions", '{"messages": [X]}', "messages.0: Input should be"),
        ("/v1/responses", '{"input": [X]}', "input: Input should be a valid"),
        ("/v1/messages", '{"max_tokens": 1, "messages": [X]}', "Input should be a valid dictionary"),
        ("/detokenize", '{"tokens": [X]}', "tokens.0: Input should be a valid integer"),
    ],
)
def test_of_a_thousand_wrong_entries_one_is_looked_at(server, path, entry, message):
    """A report of each of them would be gigabytes."""
    data = entry.replace("X", ", ".join(["null"] * 200_000))
    response = server.client.post(path, content=data, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert message in response.text
    assert len(response.content) < 1000


@pytest.mark.parametrize("text", ["[a, b], {c}\n", 'f("a, b", "\\", ","),', "\\,\\\\,"])
def test_what_stands_in_texts_is_not_counted(text):
    """Code is full of commas, quotes and backslashes."""
    value = {"prompt": text * 400_000, "other": [text, [1, 2]]}
    check_json(json.dumps(value).encode())
    with pytest.raises(ServeError, match="more than 250000 values"):
        check_json(json.dumps({**value, "last": [0] * 300_000}).encode())


def test_others_are_answered_while_a_large_body_is_read(server):
    """Texts of megabytes, one after the other; the other client's requests are never behind all of them."""
    body = {"prompt": "x = [1, 2]\n" * 500_000}
    done, answered = threading.Event(), []

    def ask():
        with httpx.Client(base_url=server.url, timeout=30, trust_env=False) as client:
            while not done.is_set():
                assert client.get("/health").status_code == 200
                answered.append(1)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for _ in range(5):
            before = len(answered)
            assert server.post("/v1/completions", body).json()["error"]["code"] == "context_length_exceeded"
            assert len(answered) > before
    finally:
        done.set()
        asking.join()


def test_only_pictures_may_be_larger_than_any_text(server):
    body = {"prompt": "x" * (9 << 20)}
    response = server.post("/v1/completions", body)
    assert response.status_code == 413
    assert "larger than 8388608 bytes" in response.json()["error"]["message"]
    assert server.post("/aquila/tools/run", {"name": "x", "images": ["x" * (9 << 20)]}).status_code == 404  # no tools


@pytest.mark.parametrize("path", ["/func", "/stream_func"])
def test_json_within_a_string_is_looked_at_as_closely(server, path):
    for inner in ('{"prompt": "\\ud800"}', "[" * 100_000, '{"prompt": "x", "temperature": NaN}'):
        response = server.client.post(path, json=inner)
        assert response.status_code == 400, response.text


def test_a_long_text_leaves_the_interpreter_to_others():
    """A text as long as a large context: another thread gets its turns while it is encoded."""
    tokenizer = tiny_tokenizer()
    text = CORPUS * (20 * LONG_TEXT // len(CORPUS))
    done, turns = threading.Event(), []

    def count():
        while not done.wait(0.001):
            turns.append(1)

    counter = threading.Thread(target=count)
    counter.start()
    ids = tokenizer.backend.encode_batch_fast([text], add_special_tokens=False)[0].ids
    before = len(turns)
    assert tokenizer.encode(text) == ids
    done.set()
    counter.join()
    assert len(turns) - before > 5  # held all the time it would get one, at the end


@pytest.mark.parametrize("path", ["/tokenize", "/v1/messages/count_tokens"])
def test_others_are_answered_while_a_long_text_is_counted(server, path):
    text = CORPUS * (20 * LONG_TEXT // len(CORPUS))
    body = {"prompt": text} if path == "/tokenize" else {"messages": [{"role": "user", "content": text}]}
    found, order = [], []

    def ask():
        found.append(server.post(path, body).json())
        order.append("long")

    asking = threading.Thread(target=ask)
    asking.start()
    server.until(lambda: server.service.server.num_open_requests == 1)
    for _ in range(3):
        assert server.client.get("/health").status_code == 200
        order.append("health")
    asking.join()
    assert found[0].get("count", found[0].get("input_tokens")) > LONG_TEXT
    assert order[-1] == "long"


def test_grammars_that_would_take_for_ever_are_refused_while_a_stream_goes_on(server):
    """The first would take 15 seconds to compile, the second hours."""
    bombs = [
        ({"guided_json": {"type": "integer", "multipleOf": 999983}}, "multipleOf: 999983 has too many remainders"),
        ({"guided_json": {"allOf": [{"multipleOf": 9973}, {"multipleOf": 9967}]}}, "check the number afterwards"),
    ]
    body = {"prompt": "x", "max_tokens": 300, "ignore_eos": True, "temperature": 0}
    alone = server.post("/v1/completions", body).json()["choices"][0]["text"]
    with server.client.stream("POST", "/v1/completions", json={**body, "stream": True}) as response:
        lines = response.iter_lines()
        events = [next(lines)]
        for fields, message in bombs:
            refused = server.post("/v1/completions", {"prompt": "x", **fields})
            assert refused.status_code == 400
            assert message in refused.json()["error"]["message"]
        events += lines
    chunks = [json.loads(line.removeprefix("data: ")) for line in events if line.startswith("data: {")]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == alone


def test_silent_and_half_said_connections_keep_nobody_out(server):
    host, port = server.url.removeprefix("http://").split(":")
    held = [socket.create_connection((host, int(port))) for _ in range(200)]
    try:
        for sock in held[::2]:
            sock.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nx")
        answer = server.post("/v1/completions", {"prompt": "x", "max_tokens": 2})
        assert answer.status_code == 200
    finally:
        for sock in held:
            sock.close()
    server.until_idle()


def test_cut_anywhere_a_request_leaves_nothing(server):
    host, port = server.url.removeprefix("http://").split(":")
    body = json.dumps({"prompt": "x", "max_tokens": 500, "ignore_eos": True, "stream": True}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
    data = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
    for end in range(0, len(data) + 1, 7):
        with socket.create_connection((host, int(port))) as sock:
            sock.sendall(data[:end])
    for num_bytes in (1, 50, 3000):
        with socket.create_connection((host, int(port))) as sock:
            sock.sendall(data)
            sock.recv(num_bytes)
    server.until(lambda: server.service.server.num_open_requests == 0)
    server.until_idle()
