"""What all routes share: the worker once the model is loaded, the settings, the metrics, and in which phase we are."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from fastapi import Request

from aquila.chat.session import BASE_MODEL_TEMPLATE
from aquila.config import suggest
from aquila.generate.load import Model
from aquila.serve.errors import DRAIN_RETRY_SECONDS, ServeError
from aquila.serve.metrics import Metrics
from aquila.serve.settings import Settings
from aquila.serve.tool_service import ToolService
from aquila.serve.worker import Worker
from aquila.tokenizer.templates import TEMPLATES, ChatTemplate, template_for

Phase = Literal["loading", "ready", "draining"]
LOADING_RETRY_SECONDS = 2


class Server:
    """The state of one server. `become_ready` gives it its model; `drain` lets nobody in any more."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.metrics = Metrics()
        self.phase: Phase = "loading"
        self.created = int(time.time())
        self.num_open_requests = 0
        self.tools: ToolService | None = None  # what `--tools` named; whoever makes the server puts it here
        self._worker: Worker | None = None
        self._template: ChatTemplate | None = None

    def become_ready(self, model: Model) -> None:
        """Starts the engine thread. `ConfigError` when the chat template that was asked for does not exist."""
        found = template_for(self.settings.template or model.template_name, model.tokenizer)
        self._template = found or TEMPLATES[BASE_MODEL_TEMPLATE]
        worker = Worker(model, max_queue=self.settings.max_queue, observe=self.metrics.observe)
        self.metrics.watch(worker.stats)
        worker.start()
        self._worker = worker
        if self.phase == "loading":
            self.phase = "ready"

    def drain(self) -> None:
        """New requests get 503; those that run go on."""
        self.phase = "draining"
        if self._worker is not None:
            self._worker.refuse()

    def stop(self) -> None:
        """Ends the engine thread. Blocks for the rest of its step."""
        self.drain()
        if self._worker is not None:
            self._worker.stop()

    @property
    def worker(self) -> Worker:
        """The worker. `ServeError` 503 while there is none to work."""
        if self.phase == "draining":
            headers = {"retry-after": str(DRAIN_RETRY_SECONDS)}
            raise ServeError(503, "the server is shutting down; ask again later", code="shutting_down", headers=headers)
        return self._loaded

    @property
    def any_worker(self) -> Worker | None:
        """The worker in any phase, for those that only look."""
        return self._worker

    @property
    def model(self) -> Model:
        """The model. `ServeError` 503 before it is loaded; answers that are on their way need it to the end."""
        return self._loaded.model

    @property
    def template(self) -> ChatTemplate:
        """The chat template that conversations are written in."""
        self._loaded  # noqa: B018  503 while the model is not there
        assert self._template is not None, "it comes with the worker"
        return self._template

    @property
    def model_name(self) -> str:
        """What clients call the model."""
        name = self.settings.served_name or self.model.name
        return Path(name).name if "/" in name and Path(name).exists() else name

    @property
    def adapters(self) -> Mapping[str, int]:
        """Names that the model has as other models, by adapter."""
        return self.model.engine.adapters

    def adapter_for(self, model: str | None) -> str | None:
        """The adapter behind a model's name, None for the model itself. `ServeError` 404 for a name nobody has."""
        if model is None or model in ("", self.model_name):
            return None
        if model in self.adapters:
            return model
        known = [self.model_name, *self.adapters]
        raise ServeError(
            404,
            f"the model {model[:200]!r} is not served here{suggest(model[:200], known)}",
            param="model",
            code="model_not_found",
        )

    @property
    def _loaded(self) -> Worker:
        if self._worker is None:
            headers = {"retry-after": str(LOADING_RETRY_SECONDS)}
            raise ServeError(503, "the model is being loaded; ask again soon", code="loading", headers=headers)
        return self._worker


def get_server(request: Request) -> Server:
    """The server behind a request, for `Depends`."""
    server = request.app.state.server
    assert isinstance(server, Server), "create_app puts it there"
    return server
