"""One running sandbox of each kind for the whole folder; a test is skipped, with the reason, where it cannot be had."""

from collections.abc import Iterator

import pytest

from aquila.errors import SandboxError
from aquila.sandbox.box import Sandbox
from aquila.sandbox.isolation import Mode, find_isolation


def open_sandbox(mode: Mode) -> Sandbox:
    try:
        return Sandbox(find_isolation(mode))
    except SandboxError as error:
        pytest.skip(f"no {mode} here: {error}")


@pytest.fixture(scope="session", params=["namespaces", "landlock"])
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    with open_sandbox(request.param) as opened:
        yield opened


@pytest.fixture(scope="session")
def namespaces() -> Iterator[Sandbox]:
    with open_sandbox("namespaces") as opened:
        yield opened
