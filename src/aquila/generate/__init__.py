"""Generation: one engine for the command line, the server, evaluation and training."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aquila.generate.engine import Engine
    from aquila.generate.flagai import aquila_generate
    from aquila.generate.load import Model, load
    from aquila.generate.request import Completion, Delta, Request
    from aquila.generate.sampling import SamplingParams

__all__ = ["Completion", "Delta", "Engine", "Model", "Request", "SamplingParams", "aquila_generate", "load"]

_HOMES = {
    "Completion": "request",
    "Delta": "request",
    "Engine": "engine",
    "Model": "load",
    "Request": "request",
    "SamplingParams": "sampling",
    "aquila_generate": "flagai",
    "load": "load",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'aquila.generate' has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415  importing a neighbour must not import the engine

    return getattr(import_module(f"aquila.generate.{_HOMES[name]}"), name)
