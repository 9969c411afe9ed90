"""A run that is killed, at any moment, goes on as if nothing had been: its log is that of a run without a stop."""

import json
import re
import shutil
import signal
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from aquila.checkpoint.run_folder import RunFolder
from run_parts import STEPS, Fault, Ranks, has_step, losses, tiny_run, train

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe and the data; every run gets a copy, whose paths lead here."""
    return tiny_run(tmp_path_factory.mktemp("runs") / "template")


@pytest.fixture(scope="module")
def references(template: Path) -> dict[int, Path]:
    """The run that nobody interrupted, on one rank and on two."""
    found = {}
    for world in (1, 2):
        found[world] = new_run(template, f"reference-{world}")
        assert train(found[world], world) == [0] * world
        assert len(losses(found[world])) == STEPS
    return found


@pytest.fixture
def run(template: Path, request: pytest.FixtureRequest) -> Path:
    """A run of the same recipe that has not begun."""
    return new_run(template, re.sub(r"\W+", "-", request.node.name))


def new_run(template: Path, name: str) -> Path:
    run_dir = template.parent / name
    run_dir.mkdir()
    recipe = json.loads((template / "recipe.yaml").read_text(encoding="utf-8"))
    (run_dir / "recipe.yaml").write_text(json.dumps({**recipe, "run_dir": str(run_dir)}), encoding="utf-8")
    return run_dir


def assert_as_if_nothing_had_been(run_dir: Path, reference: Path) -> None:
    """The same log, and the same weights and moments in the last checkpoint."""
    assert losses(run_dir) == losses(reference)
    assert RunFolder(run_dir).steps() == RunFolder(reference).steps() == [8, 6]
    ours, theirs = (RunFolder(each).checkpoint(8) for each in (run_dir, reference))
    for file in theirs.glob("*.safetensors"):
        tensors, expected = load_file(ours / file.name), load_file(file)
        assert tensors.keys() == expected.keys()
        assert all(tensors[name].tobytes() == expected[name].tobytes() for name in expected)
    assert not list(RunFolder(run_dir).path.glob("*.tmp"))


IN_A_SAVE = (
    Fault(0, "open", "step-00000002.tmp/shard-00001-model-00001"),  # before its first file
    Fault(0, "open", "step-00000002.tmp/shard-00001-model-00002"),  # between its files
    Fault(0, "open", "step-00000002.tmp/manifest.json"),
    Fault(0, "os.rename", "step-00000002.tmp"),
    Fault(0, "open", "checkpoints/.latest"),  # published, but not said
    Fault(0, "shutil.rmtree", "step-00000002.tmp"),  # an old one goes
    Fault(0, "os.rename", "step-00000008.tmp"),  # the last save
    Fault(0, "open", ".model.new"),  # the model at the end
)


def test_killed_at_every_moment_of_a_save(run: Path, references: dict[int, Path]):
    """Eight times in one run, each time where the one before had let it come to."""
    for fault in IN_A_SAVE:
        assert train(run, 1, fault) == [-signal.SIGKILL], fault
    assert train(run, 1) == [0]
    assert_as_if_nothing_had_been(run, references[1])


def test_one_of_two_ranks_is_killed(run: Path, references: dict[int, Path]):
    """While it writes its shard; as the one that publishes; and some time between two saves."""
    assert train(run, 2, Fault(1, "open", "step-00000002.tmp/shard-00002-model-00002"))[1] == -signal.SIGKILL
    assert train(run, 2, Fault(0, "os.rename", "step-00000004.tmp"))[0] == -signal.SIGKILL
    ranks = Ranks(run, 2)
    ranks.wait_until(lambda: has_step(run, 5))
    ranks.signal(1, signal.SIGKILL)
    assert ranks.end()[1] == -signal.SIGKILL
    assert train(run, 2) == [0, 0]
    assert_as_if_nothing_had_been(run, references[2])


def test_a_truncated_shard_costs_two_steps(run: Path, references: dict[int, Path]):
    assert train(run, 1, Fault(0, "os.rename", "step-00000008.tmp")) == [-signal.SIGKILL]
    newest = RunFolder(run).checkpoint(6)
    shard = next(newest.glob("model-*"))
    shard.write_bytes(shard.read_bytes()[:-1])
    assert train(run, 1) == [0]
    assert f"{newest} is damaged and passed over: " in (run / "rank-0.txt").read_text(encoding="utf-8")
    assert_as_if_nothing_had_been(run, references[1])


def test_two_ranks_then_one_then_four(run: Path, references: dict[int, Path]):
    """SIGTERM to one rank stops all: they finish the step, save, and leave with 75.

    Whoever goes on sees the samples that come next; sums of other parts differ in the last bits only.
    """
    expected = losses(references[2])
    for world, step in ((2, 2), (1, 5)):
        ranks = Ranks(run, world)
        ranks.wait_until(lambda step=step: has_step(run, step))
        ranks.signal(world - 1, signal.SIGTERM)
        assert ranks.end() == [75] * world
        assert step <= len(losses(run)) == RunFolder(run).steps()[0] < STEPS
        if world == 2:
            assert losses(run) == expected[: len(losses(run))]
    assert train(run, 4) == [0] * 4
    assert [line[:2] for line in losses(run)] == [line[:2] for line in expected]
    for (_, _, loss, _), (_, _, other, _) in zip(losses(run), expected, strict=True):
        assert float.fromhex(loss) == pytest.approx(float.fromhex(other), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "message"),
    [("data", "was trained with other data: digest"), ("model", "was trained with another model: digest")],
)
def test_a_run_does_not_go_on_with_something_else(run: Path, references: dict[int, Path], name: str, message: str):
    """The checkpoints of a finished run below another recipe."""
    recipe = json.loads((run / "recipe.yaml").read_text(encoding="utf-8"))
    if name == "data":
        recipe["data"]["sequence_length"] = 8
    else:
        recipe["model"]["rope_theta"] = 5000.0
    (run / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    shutil.copytree(RunFolder(references[1]).path, RunFolder(run).path)
    assert train(run, 1) == [1]
    assert message in (run / "rank-0.txt").read_text(encoding="utf-8")
    assert RunFolder(run).steps() == RunFolder(references[1]).steps()
