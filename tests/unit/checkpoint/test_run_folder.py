"""Checkpoints on disk: published whole, vouched for, pruned, and one process at a time."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aquila.checkpoint.run_folder import MANIFEST, RunFolder, check_digests, newest_checkpoint, read_manifest
from aquila.errors import CheckpointError
from aquila.files import sha256_file


def publish(folder: RunFolder, step: int, content: bytes = b"weights") -> Path:
    temporary = folder.temporary(step)
    temporary.mkdir(parents=True)
    file = temporary / "model.safetensors"
    file.write_bytes(content)
    entry: dict[str, Any] = {"size": len(content), "sha256": sha256_file(file)}
    return folder.publish(step, {"step": step, "files": {file.name: entry}})


def test_what_is_published_is_found_newest_first(tmp_path: Path):
    folder = RunFolder(tmp_path)
    assert folder.steps() == []
    for step in (5, 10, 123456789):
        publish(folder, step)
    assert folder.steps() == [123456789, 10, 5]
    assert folder.checkpoint(5).name == "step-00000005"
    assert (folder.path / "latest").read_text(encoding="utf-8") == "step-123456789\n"
    assert newest_checkpoint(tmp_path) == folder.checkpoint(123456789)
    assert read_manifest(folder.checkpoint(5))["step"] == 5
    assert not list(folder.path.glob("*.tmp"))


def test_a_step_that_is_saved_again_replaces_the_first(tmp_path: Path):
    folder = RunFolder(tmp_path)
    publish(folder, 5, b"old")
    publish(folder, 5, b"newer")
    assert (folder.checkpoint(5) / "model.safetensors").read_bytes() == b"newer"
    assert [entry.name for entry in sorted(folder.path.iterdir())] == ["latest", "step-00000005"]


def test_the_newest_and_those_at_an_interval_are_kept(tmp_path: Path):
    folder = RunFolder(tmp_path)
    for step in range(2, 21, 2):
        publish(folder, step)
    assert folder.prune(20, keep_last=2, keep_interval=10) == [16, 14, 12, 8, 6, 4, 2]
    assert folder.steps() == [20, 18, 10]
    assert folder.prune(20, keep_last=5, keep_interval=None) == []


def test_what_is_above_the_newest_whole_one_neither_counts_nor_goes(tmp_path: Path):
    folder = RunFolder(tmp_path)
    for step in range(2, 11, 2):
        publish(folder, step)
    assert folder.prune(6, keep_last=2, keep_interval=None) == [2]
    assert folder.steps() == [10, 8, 6, 4]


def test_leftovers_of_killed_processes_are_swept(tmp_path: Path):
    folder = RunFolder(tmp_path)
    publish(folder, 5)
    folder.temporary(10).mkdir()
    (folder.temporary(10) / "half").write_bytes(b"x")
    assert folder.sweep() == ["step-00000010.tmp"]
    assert folder.steps() == [5]


def test_a_file_that_another_node_wrote_elsewhere(tmp_path: Path):
    folder = RunFolder(tmp_path)
    folder.temporary(5).mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"written by another rank but is not there; .* all nodes share"):
        folder.publish(5, {"files": {"of-rank-8": {"size": 1, "sha256": ""}}})
    assert folder.steps() == []


def damage_manifest(path: Path) -> str:
    text = (path / MANIFEST).read_text(encoding="utf-8")
    (path / MANIFEST).write_text(text.replace('"step": 10', '"step": 11'), encoding="utf-8")
    return "does not agree with its own digest; the file is damaged"


def cut_manifest(path: Path) -> str:
    text = (path / MANIFEST).read_text(encoding="utf-8")
    (path / MANIFEST).write_text(text[: len(text) // 2], encoding="utf-8")
    return "is not valid JSON"


def cut_weights(path: Path) -> str:
    (path / "model.safetensors").write_bytes(b"wei")
    return "3 bytes, the manifest says 7 bytes"


def remove_weights(path: Path) -> str:
    (path / "model.safetensors").unlink()
    return "absent, the manifest says 7 bytes"


def remove_manifest(path: Path) -> str:
    (path / MANIFEST).unlink()
    return "cannot be read"


@pytest.mark.parametrize("damage", [damage_manifest, cut_manifest, cut_weights, remove_weights, remove_manifest])
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, damage):
    folder = RunFolder(tmp_path)
    publish(folder, 5)
    message = damage(publish(folder, 10))
    with pytest.raises(CheckpointError, match=message):
        read_manifest(folder.checkpoint(10))
    assert newest_checkpoint(tmp_path) == folder.checkpoint(5)


def test_bytes_that_changed_in_place_are_found(tmp_path: Path):
    path = publish(RunFolder(tmp_path), 5)
    (path / "model.safetensors").write_bytes(b"weightz")
    manifest = read_manifest(path)
    with pytest.raises(CheckpointError, match=r"model.safetensors: sha256 is .*, the manifest says"):
        check_digests(path, manifest, manifest["files"])


def test_a_run_without_checkpoints(tmp_path: Path):
    with pytest.raises(CheckpointError, match="this run has no whole checkpoint to load"):
        newest_checkpoint(tmp_path)


def test_two_processes_cannot_train_into_one_folder(tmp_path: Path):
    """The claim of a process that was killed is free at once."""
    code = "import sys; from pathlib import Path; from aquila.checkpoint.run_folder import RunFolder\n"
    code += "held = RunFolder(Path(sys.argv[1])).claim(); print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(
            CheckpointError, match=rf"process {other.pid} on .* is training into this folder; wait for it"
        ):
            RunFolder(tmp_path).claim()
        other.kill()
    RunFolder(tmp_path).claim().close()
