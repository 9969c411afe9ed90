"""Nothing that /openapi.json allows, and nothing beside it, makes a 500. Few examples a route, but of every type."""

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

from serve_parts import running, tiny_served

EXAMPLES = 4  # a route, so that the file takes about ten seconds


@pytest.fixture(scope="module")
def server():
    with running(lambda: tiny_served(max_context=128)) as found:
        yield found


@pytest.fixture(scope="module")
def schema(server):
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json")


def test_the_schema_names_every_route(server):
    paths = server.client.get("/openapi.json").json()["paths"]
    assert {"/v1/completions", "/v1/chat/completions", "/v1/models", "/health", "/metrics", "/tokenize"} <= set(paths)
    assert server.client.get("/docs").status_code == 404  # its scripts would come from elsewhere


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisDeprecationWarning")  # schemathesis' own
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["valid", "invalid"])
def test_no_request_makes_a_500(server, schema, mode):
    seen = 0
    for result in schema.get_all_operations():
        operation = result.ok()
        if operation.path.startswith("/aquila/"):
            continue
        cases = operation.as_strategy(generation_mode=mode)

        @given(case=cases)
        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def ask(case):
            if isinstance(case.body, dict):
                for name in ("max_tokens", "max_completion_tokens", "n_predict", "max_output_tokens", "n", "best_of"):
                    if isinstance(case.body.get(name), int) and case.body[name] > 8:
                        case.body[name] = 2
            response = case.call(base_url=server.url, timeout=30)
            assert response.status_code < 500 or response.status_code in {501, 503}, (case.body, response.text)

        try:
            ask()
        except Unsatisfiable:  # nothing about the route can be made wrong
            assert mode == GenerationMode.NEGATIVE, operation.path
            continue
        seen += 1
    assert seen > 5
    server.until_idle()


@given(data=st.binary(max_size=200))
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_bytes_make_a_500(server, data):
    response = server.client.post("/v1/completions", content=data, headers={"content-type": "application/json"})
    assert response.status_code == 400
