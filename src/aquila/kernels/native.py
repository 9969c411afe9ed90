"""The native extension, when it was built and is wanted; a warning, once, when it is not there.

`AQUILA_NATIVE=0` in the environment does without it, as on a machine that had no compiler at installation.
"""

import logging
import os
from functools import cache
from types import ModuleType

log = logging.getLogger(__name__)

SWITCH = "AQUILA_NATIVE"


@cache
def native_module() -> ModuleType | None:
    """`aquila.kernels._native`, or None: switched off, not built, or not for this processor."""
    if os.environ.get(SWITCH) == "0":
        return None
    try:
        from aquila.kernels import _native  # noqa: PLC0415  may not have been built
    except ImportError as error:
        log.warning(
            "the native CPU kernels are not there (%s); the torch runner is used, which is slower and takes more "
            "memory; with a C++17 compiler, `pip install --force-reinstall --no-deps aquila-lm` builds them",
            error,
        )
        return None
    return _native


def usable_kernels() -> list[str]:
    """Instruction sets that were built and that this processor has, best first; empty without the extension."""
    module = native_module()
    return [] if module is None else list(module.usable_kernels())
