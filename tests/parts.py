"""Tiny real parts that tests share: no mocks, no network, no downloads."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def shared_data(name: str) -> Path:
    """A folder of published reference data beside the checkout; the test is skipped where it is absent."""
    path = ROOT.parent / "shared" / "data" / name
    if not path.exists():
        pytest.skip(f"reference data {name!r} is not beside the checkout (expected {path})")
    return path
