"""Aquila: the whole life of a bilingual code language model.

    >>> import aquila
    >>> model = aquila.load("smollm2-135m")
    >>> model.generate(["def is_prime(n):"], aquila.SamplingParams(temperature=0.0, max_new_tokens=16))

Names are imported when they are first used, so that `import aquila` costs nothing.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aquila.generate.load import Model, load
    from aquila.generate.sampling import SamplingParams

__version__ = "0.1.0"
__all__ = ["Model", "SamplingParams", "__version__", "load"]

_HOMES = {"load": "aquila.generate.load", "Model": "aquila.generate.load", "SamplingParams": "aquila.generate.sampling"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'aquila' has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415  only the first use of a name pays

    return getattr(import_module(_HOMES[name]), name)
