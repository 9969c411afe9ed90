"""What happens to one rank alone, or to the torchrun above it, as `aquila train` shows it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from aquila.checkpoint.run_folder import RunFolder
from aquila.data.shards import Shard
from aquila.data.sidecar import Sidecar, sidecar_path, tokenizer_digest
from aquila.train.plan import make_plan
from aquila.train.run_dir import open_recipe
from parts import tiny_tokenizer
from run_parts import has_step, tiny_run, train

pytestmark = pytest.mark.e2e

# In torchrun's place: starts a rank as its agent does, and says its pid.
AGENT = """
import subprocess, sys
rank = subprocess.Popen([sys.executable, "-m", "aquila", "train", sys.argv[1]])
print(rank.pid, flush=True)
rank.wait()
"""


def test_what_only_another_rank_has_read_is_said_by_it(tmp_path: Path):
    """An id that the model does not have, among the sequences of rank 1 of a shard that says it has no such."""
    run, tokenizer = tiny_run(tmp_path / "run"), tiny_tokenizer()
    shard = Shard(run / "corpus")
    note = Sidecar(
        tokenizer=tokenizer_digest(tokenizer),
        vocab_size=tokenizer.vocab_size,
        bos_token_id=None,
        eos_token_id=None,
        num_documents=len(shard.documents) - 1,
        num_tokens=int(shard.lengths.sum()),
        num_bytes=1,
        sha256="0" * 64,
    )
    sidecar_path(run / "corpus").write_text(note.model_dump_json(), encoding="utf-8")
    row = make_plan(open_recipe(run, [])[0], 2).loader.batch(0, rank=1, world=2).input_ids[0]
    tokens = np.memmap(run / "corpus.bin", dtype="<u2", mode="r+")
    (place,) = np.flatnonzero((np.lib.stride_tricks.sliding_window_view(tokens, len(row)) == row).all(axis=1))
    tokens[place + 8] = 60_000
    tokens.flush()
    assert train(run, 2, as_command=True)[1] == 1
    said = (run / "rank-1.txt").read_text(encoding="utf-8")
    assert said.startswith("error: rank 1: step 0: token id 60000 is out of range")


def test_what_every_rank_finds_is_said_once(tmp_path: Path):
    run = tiny_run(tmp_path / "run")
    recipe = json.loads((run / "recipe.yaml").read_text(encoding="utf-8"))
    recipe["data"]["path"] = str(run / "elsewhere")
    (run / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    train(run, 2, as_command=True)
    assert "elsewhere.idx: no such file" in (run / "rank-0.txt").read_text(encoding="utf-8")
    assert (run / "rank-1.txt").read_text(encoding="utf-8") == ""


def test_a_killed_torchrun_leaves_no_rank_behind(tmp_path: Path):
    """Whoever started it may start it again: the rank has finished its step, saved and gone."""
    run = tiny_run(tmp_path / "run", train__steps=1000, train__global_batch_size=1)
    environment = {**os.environ, "TORCHELASTIC_RUN_ID": "by-hand", "WORLD_SIZE": "1", "RANK": "0"}
    agent = subprocess.Popen(
        [sys.executable, "-S", "-c", AGENT, run],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert agent.stdout is not None
    rank = int(agent.stdout.readline())
    try:
        for _ in agent.stdout:
            if has_step(run, 4):
                break
        agent.kill()
        rest = agent.stdout.read()  # to the end of the rank, which writes here too
    finally:
        agent.kill()
        agent.wait()
        agent.stdout.close()
        if Path(f"/proc/{rank}/cmdline").is_file() and b"aquila" in Path(f"/proc/{rank}/cmdline").read_bytes():
            os.kill(rank, signal.SIGKILL)
    step = RunFolder(run).steps()[0]
    assert f"stopped at step {step} and saved" in rest
