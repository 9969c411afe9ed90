"""The door: keys, names, origins, content types, sizes; and that nothing sent makes a 500."""

import socket

import httpx
import pytest

from serve_parts import running

BODY = {"prompt": "x", "max_tokens": 1}


@pytest.fixture(scope="module")
def server():
    with running(api_keys=("first", "second"), max_body_bytes=100_000, cors_origins=("https://ok.example",)) as found:
        yield found


@pytest.fixture(scope="module")
def anyone(server):
    with httpx.Client(base_url=server.url, trust_env=False) as client:
        yield client


def error(response, status: int) -> str:
    assert response.status_code == status, response.text
    found = response.json()["error"]
    assert set(found) == {"message", "type", "param", "code"}
    return found["message"]


@pytest.mark.parametrize(
    "headers",
    [{"authorization": "Bearer second"}, {"authorization": "bearer first"}, {"x-api-key": "second"}],
    ids=str,
)
def test_a_key_opens(anyone, headers):
    assert anyone.get("/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({}, "an API key is needed"),
        ({"authorization": "Bearer secon"}, "the API key is wrong"),
        ({"authorization": "Bearer secondd"}, "the API key is wrong"),
        ({"authorization": "Basic second"}, "an API key is needed"),
        ({"x-api-key": b"\xe4\xbd\xa0"}, "the API key is wrong"),
    ],
    ids=str,
)
def test_nothing_else_does(anyone, headers, message):
    response = anyone.get("/v1/models", headers=headers)
    assert message in error(response, 401)
    assert response.headers["www-authenticate"] == "Bearer"
    assert error(anyone.post("/v1/completions", json=BODY, headers=headers), 401)
    assert error(anyone.get("/metrics", headers=headers), 401)


def test_health_is_for_all(anyone):
    assert anyone.get("/health").json() == {"status": "ok"}


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.nip.io", "10.0.0.1", ""])
def test_a_foreign_name_is_refused(server, host):
    assert "this server is not known as" in error(server.client.get("/v1/models", headers={"host": host}), 403)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:99", "127.0.0.1:5", "[::1]:8000"])
def test_own_names_are_not(server, host):
    assert server.client.get("/v1/models", headers={"host": host}).status_code == 200


def test_pages_of_other_origins_are_refused(server):
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1", "http://[bad"):
        response = server.client.get("/v1/models", headers={"origin": origin})
        assert "may not ask this server" in error(response, 403)
        assert "access-control-allow-origin" not in response.headers
        asked = {"origin": origin, "access-control-request-method": "POST"}
        assert error(server.client.options("/v1/completions", headers=asked), 403)


def test_pages_of_the_own_and_of_a_named_origin_may(server):
    own = server.client.get("/v1/models", headers={"origin": server.url})
    assert own.status_code == 200
    named = {"origin": "https://ok.example"}
    response = server.post("/v1/completions", BODY, headers=named)
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == "https://ok.example"
    assert "origin" in response.headers["vary"]
    preflight = server.client.options("/v1/completions", headers={**named, "access-control-request-method": "POST"})
    assert preflight.status_code == 204
    assert "content-type" in preflight.headers["access-control-allow-headers"]
    assert error(server.post("/v1/completions", {}, headers=named), 400)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_a_form_cannot_send_json(server, kind):
    response = server.client.post("/v1/completions", content=b'{"prompt":"x"}', headers={"content-type": kind})
    assert "send JSON as application/json" in error(response, 415)


def test_a_body_that_is_too_large(server):
    declared = server.client.post(
        "/v1/completions", content=b'"' + b"x" * 100_001 + b'"', headers={"content-type": "application/json"}
    )
    assert "larger than 100000 bytes" in error(declared, 413)
    pieces = (b'"' + b"x" * 60_000 for _ in range(2))
    undeclared = server.client.post("/v1/completions", content=pieces, headers={"content-type": "application/json"})
    assert "larger than 100000 bytes" in error(undeclared, 413)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the body is not JSON"),
        (b"{", "the body is not JSON"),
        (b'{"prompt": "\xff"}', "the body is not UTF-8"),
        (b"\xff\xfe{\x00}\x00", None),
        (b'{"prompt": NaN}', "NaN is not a JSON number"),
        (b'{"prompt": "x", "temperature": 1e999}', "temperature"),
        (b'{"prompt": "\\ud800"}', "half a surrogate pair"),
        (b'{"\\udc00": 1, "prompt": "x"}', "half a surrogate pair"),
        (b"[" * 5000 + b"]" * 5000, "nested more than 100 levels"),
        (b'{"prompt":"x","guided_json":' + b'{"a":' * 200 + b"1" + b"}" * 200 + b"}", "nested more than 100 levels"),
        (b"1" * 5000, "the body is not JSON"),
        (b'{"prompt": "x", "seed": ' + b"9" * 4000 + b', "max_tokens": 1}', None),
        (b'{"prompt": "x", "max_tokens": ' + b"9" * 400 + b"}", None),
        (b'"text"', "the body"),
        (b"null", "the body"),
        (b'{"prompt": "x", "logprobs": true, "stop": {"a": 1}}', "stop"),
        (b'{"prompt": "x", "model": "' + b"m" * 5000 + b'"}', "is not served here"),
        (b'{"prompt": "x\\u0000y", "max_tokens": 1}', None),
    ],
    ids=lambda value: str(value)[:40],
)
def test_strange_bodies_are_errors_of_the_client(server, body, message):
    response = server.client.post("/v1/completions", content=body, headers={"content-type": "application/json"})
    assert response.status_code < 500, response.text
    if message is not None:
        assert message in response.json()["error"]["message"]


def test_routes_and_methods_that_are_not_there(server):
    assert "there is no such route" in error(server.client.get("/v1/nothing"), 404)
    assert "does not take this method" in error(server.client.get("/v1/completions"), 405)


def test_garbage_on_the_wire_leaves_the_server_well(server):
    host, port = server.url.removeprefix("http://").split(":")
    for data in (
        b"\x16\x03\x01garbage\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\n",
    ):
        with socket.create_connection((host, int(port))) as sock:
            sock.sendall(data)
    assert server.client.get("/health").status_code == 200


def test_open_to_the_network_it_knows_addresses_but_no_foreign_names():
    """As `--host 0.0.0.0` does; listening stays on loopback here."""
    with running(host="0.0.0.0", allowed_hosts=("ours.example",)) as server:
        for host, status in (("192.168.1.5:8000", 200), ("ours.example", 200), ("evil.example", 403)):
            assert server.client.get("/v1/models", headers={"host": host}).status_code == status
