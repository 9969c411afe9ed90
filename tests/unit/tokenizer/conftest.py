"""A small trained tokenizer and the published one."""

from pathlib import Path

import pytest

from aquila.tokenizer.load import load_tokenizer
from aquila.tokenizer.samples import SAMPLES
from aquila.tokenizer.tokenizer import Tokenizer
from aquila.tokenizer.train import train_tokenizer
from parts import shared_data


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Tokenizer:
    return train_tokenizer(SAMPLES.values(), vocab_size=400)


@pytest.fixture(scope="session")
def aquila_files() -> Path:
    return shared_data("aquila-tokenizer")


@pytest.fixture(scope="session")
def aquila_tokenizer(aquila_files: Path) -> Tokenizer:
    return load_tokenizer(aquila_files)
