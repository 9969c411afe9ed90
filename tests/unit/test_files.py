import hashlib

import pytest

from aquila.files import Hashes, atomic_write, cache_dir, digest_file, feed_file, sha256_file


def test_atomic_write_replaces_the_file_only_on_success(tmp_path):
    path = tmp_path / "sub" / "config.json"
    with atomic_write(path) as temporary:
        temporary.write_text("new", encoding="utf-8")
        assert temporary.parent == path.parent
        assert not path.exists()
    assert path.read_text(encoding="utf-8") == "new"
    assert [item.name for item in path.parent.iterdir()] == ["config.json"]


def write_half_and_fail(path, problem):
    with atomic_write(path) as temporary:
        temporary.write_text("half", encoding="utf-8")
        raise problem


@pytest.mark.parametrize("problem", [ValueError, KeyboardInterrupt])
def test_atomic_write_leaves_the_old_file_when_the_block_fails(tmp_path, problem):
    path = tmp_path / "config.json"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(problem):
        write_half_and_fail(path, problem)
    assert path.read_text(encoding="utf-8") == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["config.json"]


def test_digests_equal_hashlib_over_several_chunks(tmp_path):
    data = bytes(range(256)) * 8192 + b"tail"  # 2 MiB and a bit
    path = tmp_path / "data.bin"
    path.write_bytes(data)
    assert sha256_file(path) == hashlib.sha256(data).hexdigest()
    assert digest_file(path, "md5") == hashlib.md5(data).hexdigest()
    hashes, heard = Hashes(["md5", "sha256"]), []
    assert feed_file(path, hashes, heard.append) == len(data)
    assert hashes.hexdigests()["sha256"] == hashlib.sha256(data).hexdigest()
    assert heard[-1] == len(data)


def test_cache_dir_follows_aquila_home(tmp_path, monkeypatch):
    monkeypatch.setenv("AQUILA_HOME", str(tmp_path / "here"))
    assert cache_dir() == tmp_path / "here"
    monkeypatch.delenv("AQUILA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "aquila"
