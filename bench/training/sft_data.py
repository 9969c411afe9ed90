"""Conversations whose lengths are spread as those of instruction data are: many short ones, a long tail.

Tokens of a conversation: log-normal, median 160, sigma 0.9, at most 1,000. That is a choice, between sets of single
questions, which are shorter and more alike, and shared chats, which are longer and less so; the wider the spread, the
more packing gains."""

import json
from pathlib import Path

import numpy as np

from aquila.tokenizer.tokenizer import Tokenizer

MEDIAN, SIGMA, LONGEST = 160, 0.9, 1000


def write_conversations(path: Path, tokenizer: Tokenizer, tokens: np.ndarray, count: int = 1500) -> None:
    draw = np.random.default_rng(1)
    lengths = np.clip(draw.lognormal(np.log(MEDIAN), SIGMA, count), 12, LONGEST).astype(int)
    with path.open("w", encoding="utf-8") as file:
        for number, length in enumerate(lengths):
            start = int(draw.integers(0, len(tokens) - length))
            text = tokenizer.decode(tokens[start : start + length].tolist())
            question, answer = text[: len(text) // 4], text[len(text) // 4 :]
            turns = [{"from": "human", "value": question or "?"}, {"from": "gpt", "value": answer or "."}]
            file.write(json.dumps({"id": str(number), "conversations": turns}, ensure_ascii=False) + "\n")
