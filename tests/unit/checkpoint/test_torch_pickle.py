"""`pytorch_model.bin`: what torch writes is read, what we write torch reads, and code is refused."""

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aquila.checkpoint.tensors import DTYPES
from aquila.checkpoint.torch_pickle import read_torch_file, write_torch_file
from aquila.errors import CheckpointError, IntegrityError
from checkpoint_parts import random_tensors, tiny_config


def _weights() -> dict[str, torch.Tensor]:
    return {"a": torch.randn(5, 3), "b": torch.randn(4, 4).bfloat16(), "c": torch.randn(7).half()}


@pytest.mark.parametrize(
    "wrap", [dict, lambda state: {"module": state}, lambda state: {"state_dict": state, "step": 3}]
)
@pytest.mark.parametrize("zipped", [True, False])
def test_state_dicts_are_read_in_any_wrapper_and_either_container(tmp_path: Path, wrap: Any, zipped: bool):
    weights = _weights()
    torch.save(wrap(weights), tmp_path / "a.bin", _use_new_zipfile_serialization=zipped)
    found = read_torch_file(tmp_path / "a.bin")
    assert list(found) == list(weights)
    for name, weight in weights.items():
        assert found[name].dtype.name == str(weight.dtype).removeprefix("torch.")
        np.testing.assert_array_equal(found[name].numpy(DTYPES["fp32"]), weight.float().numpy())


def test_views_read_as_what_they_show(tmp_path: Path):
    """Parts of a storage, transposed tensors and parameters are common in saved state dicts."""
    base = torch.randn(6, 4)
    weights = {
        "part": base[2:5],
        "transposed": base.t(),
        "strided": base[:, ::2],
        "parameter": torch.nn.Parameter(base),
        "repeated": base[:1].expand(3, 4),
    }
    torch.save(weights, tmp_path / "a.bin")
    for name, tensor in read_torch_file(tmp_path / "a.bin").items():
        np.testing.assert_array_equal(tensor.numpy(), weights[name].detach().numpy(), err_msg=name)
        np.testing.assert_array_equal(tensor.read(1, 2), weights[name].detach()[1:2].numpy(), err_msg=name)


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("mapped", [True, False])
def test_torch_loads_what_we_write(tmp_path: Path, dtype: str, mapped: bool):
    tensors = random_tensors(tiny_config(), dtype)
    written: list[int] = []
    write_torch_file(tmp_path / "a.bin", tensors, dtype, written.append)
    state = torch.load(tmp_path / "a.bin", weights_only=True, mmap=mapped)
    assert list(state) == list(tensors)
    for name, weight in state.items():
        np.testing.assert_array_equal(weight.float().numpy(), tensors[name].numpy(DTYPES["fp32"]))
    assert sum(written) == sum(tensor.nbytes for tensor in tensors.values())


def test_the_archive_has_right_checksums(tmp_path: Path):
    """Unpackers and backup tools verify them, although torch does not."""
    write_torch_file(tmp_path / "a.bin", random_tensors(tiny_config()), "fp16", lambda n: None)
    with zipfile.ZipFile(tmp_path / "a.bin") as archive:
        assert archive.testzip() is None


class _Malicious:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path, zipped: bool):
    command = f"touch {tmp_path / 'was-run'}"
    state = {"a": torch.ones(2), "b": _Malicious(command)}
    torch.save(state, tmp_path / "a.bin", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"asks for posix\.system, which is code .* nothing was run"):
        read_torch_file(tmp_path / "a.bin")
    assert not (tmp_path / "was-run").exists()


def test_a_truncated_file_is_an_integrity_error(tmp_path: Path):
    torch.save(_weights(), tmp_path / "a.bin")
    content = (tmp_path / "a.bin").read_bytes()
    for length in (3, 100, len(content) - 50):
        (tmp_path / "a.bin").write_bytes(content[:length])
        with pytest.raises(IntegrityError, match=f"{length} bytes"):
            read_torch_file(tmp_path / "a.bin")


@pytest.mark.parametrize("content", [b"not a pickle at all", b"\x80\x02.", b"\x80\x02]q\x00."])
def test_what_is_no_pickle_of_weights_is_refused(tmp_path: Path, content: bytes):
    (tmp_path / "a.bin").write_bytes(content)
    with pytest.raises(CheckpointError):
        read_torch_file(tmp_path / "a.bin")


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": torch.ones(2), "step": 3}, "'step' is a int, not a tensor"),
        ({"a": torch.ones(2, dtype=torch.int64)}, "dtype torch.int64 is not supported"),
        ([torch.ones(2)], "holds a list where a state dict"),
        ({}, "holds a dict where a state dict"),
    ],
)
def test_what_is_not_only_weights_is_refused(tmp_path: Path, state: Any, message: str):
    torch.save(state, tmp_path / "a.bin")
    with pytest.raises(CheckpointError, match=message):
        read_torch_file(tmp_path / "a.bin")
