"""A real server on loopback with a tiny model, in a thread of the test's own process."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx

from aquila.serve.run import Service, listen
from aquila.serve.server import Server
from aquila.serve.settings import Settings
from parts import tiny_engine, tiny_model, tiny_tokenizer

if TYPE_CHECKING:
    from aquila.generate.load import Model
    from aquila.serve.worker import Worker

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WAIT_SECONDS = 30


def tiny_served(*, name: str = "tiny", template_name: str | None = "aquila-chat", **engine: Any) -> "Model":
    """A loaded model of two layers, with a context of 1024 unless `max_context` says otherwise."""
    from aquila.generate.load import Model

    decoder = tiny_model(max_position_embeddings=engine.pop("max_context", 1024))
    made = tiny_engine(decoder, **engine)
    return Model(name, decoder.config, tiny_tokenizer(), made, template_name=template_name)


@dataclass
class Running:
    """A server that serves."""

    url: str
    service: Service
    client: httpx.Client

    @property
    def worker(self) -> "Worker":
        worker = self.service.server.any_worker
        assert worker is not None
        return worker

    def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        return self.client.post(path, json=body, **options)

    def until(self, condition: Callable[[], bool]) -> None:
        """Waits for what another thread does, by turns of the server's loop."""
        loop = self.service._loop
        assert loop is not None
        for _ in range(WAIT_SECONDS * 1000):
            if condition():
                return
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0.001), loop).result()
        raise AssertionError("it did not come to be")

    def until_idle(self) -> None:
        """Waits until nothing runs or waits and every page is back."""
        self.until(lambda: self.worker.num_in_flight == 0 and self.worker.stats().idle)


@contextmanager
def running(load: "Callable[[], Model]" = tiny_served, *, wait: bool = True, **settings: Any) -> Iterator[Running]:
    """Serves until the block ends. Without `wait` the model may still be loading."""
    sock = listen("127.0.0.1", 0)
    url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    ready = threading.Event()
    service = Service(Server(Settings(**settings)), sock, load, on_ready=ready.set)
    thread = threading.Thread(target=service.run_until_stopped, daemon=True)
    thread.start()
    keys = settings.get("api_keys")
    headers = {"authorization": f"Bearer {keys[0]}"} if keys else {}
    try:
        if wait:
            assert ready.wait(WAIT_SECONDS), f"the server did not start: {service.failure}"
        with httpx.Client(base_url=url, timeout=WAIT_SECONDS, headers=headers, trust_env=False) as client:
            yield Running(url, service, client)
    finally:
        service.ask_to_stop()
        thread.join(WAIT_SECONDS)
        assert not thread.is_alive(), "the server did not stop"
