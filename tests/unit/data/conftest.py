"""The published tokenizer, which takes a while to open."""

import pytest

from aquila.tokenizer.load import load_tokenizer
from aquila.tokenizer.tokenizer import Tokenizer
from parts import shared_data


@pytest.fixture(scope="session")
def published() -> Tokenizer:
    return load_tokenizer(shared_data("aquila-tokenizer"))
