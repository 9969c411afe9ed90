"""Adapters as models of their own, in one batch with the model."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from adapter_parts import adapter_tensors, write_adapter
from parts import tiny_checkpoint, tiny_config
from serve_parts import running

NAMES = ("base", "first", "second")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    from aquila.generate.load import load

    root = tmp_path_factory.mktemp("served")
    checkpoint = tiny_checkpoint(root / "tiny")
    adapters = {
        name: write_adapter(root / name, adapter_tensors(tiny_config(), seed=seed))
        for seed, name in enumerate(NAMES[1:])
    }
    with running(lambda: load(checkpoint, adapters=adapters), served_name="base") as found:
        yield found


def test_each_is_listed(server):
    cards = server.client.get("/v1/models").json()["data"]
    assert [card["id"] for card in cards] == list(NAMES)
    assert [card["parent"] for card in cards] == [None, "base", "base"]
    assert all(card["max_model_len"] == 128 for card in cards)
    assert server.client.get("/v1/models/first").json()["id"] == "first"


def test_each_answers_for_itself_alone_and_together(server):
    def answer(name):
        body = {"model": name, "prompt": "def push(self", "temperature": 0, "max_tokens": 20, "ignore_eos": True}
        return server.post("/v1/completions", body).json()

    alone = [answer(name)["choices"][0]["text"] for name in NAMES]
    assert len(set(alone)) == 3
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(answer, NAMES * 2))
    assert [each["choices"][0]["text"] for each in together] == alone * 2
    assert [each["model"] for each in together] == list(NAMES) * 2
