"""The downloader against a server that misbehaves: what the server does, and what must lie on disk after."""

import hashlib
import random
import resource
import subprocess
import sys

import httpx
import pytest

from aquila.errors import DownloadError, IntegrityError
from aquila.zoo.download import RemoteFile, Retry, fetch, open_client, require_space
from aquila.zoo.progress import Progress
from loopback import Act

DATA = random.Random(0).randbytes(300_000)
SHA256 = hashlib.sha256(DATA).hexdigest()
NO_WAIT = Retry(attempts=3, sleep=lambda seconds: None)


class Log(Progress):
    def __init__(self):
        self.said = []

    def say(self, message):
        self.said.append(message)


@pytest.fixture
def client():
    with open_client() as opened:
        yield opened


@pytest.fixture
def remote(server):
    server.files["/model.bin"] = DATA
    return RemoteFile("model.bin", f"{server.url}/model.bin", size=len(DATA), sha256=SHA256)


@pytest.fixture
def bare(server):
    """A file of which nothing is known beforehand, as with `--from url`."""
    server.files["/model.bin"] = DATA
    return RemoteFile("model.bin", f"{server.url}/model.bin")


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def test_an_honest_server(client, remote, tmp_path, home):
    record = fetch(client, remote, tmp_path, retry=NO_WAIT, progress=Progress())
    assert (record.size, record.sha256, record.md5) == (len(DATA), SHA256, hashlib.md5(DATA).hexdigest())
    assert (tmp_path / "model.bin").read_bytes() == DATA
    assert names(tmp_path) == ["model.bin"]


def test_dropped_connections_are_resumed_not_repeated(client, bare, server, tmp_path):
    server.script.extend([Act(drop_after=100_000), Act(drop_after=50_000), Act(drop_after=1)])
    fetch(client, bare, tmp_path, retry=NO_WAIT, progress=Progress())
    assert (tmp_path / "model.bin").read_bytes() == DATA
    assert server.ranges() == [None, "bytes=100000-", "bytes=150000-", "bytes=150001-"]


def test_many_drops_are_fine_as_long_as_the_file_grows(client, remote, server, tmp_path):
    server.script.extend([Act(drop_after=20_000)] * 14)  # far more than the attempts allowed
    fetch(client, remote, tmp_path, retry=NO_WAIT, progress=Progress())
    assert (tmp_path / "model.bin").read_bytes() == DATA


def test_a_server_that_never_gets_further_ends_in_one_error_and_keeps_the_part(client, bare, server, tmp_path):
    server.script.extend([Act(drop_after=1000), *[Act(drop_after=0)] * 9])
    with pytest.raises(DownloadError, match=r"3 attempts without progress.*run the same command: it resumes"):
        fetch(client, bare, tmp_path, retry=NO_WAIT, progress=Progress())
    assert names(tmp_path) == ["model.bin.part", "model.bin.part.json"]
    assert (tmp_path / "model.bin.part").read_bytes() == DATA[:1000]


def test_a_later_run_resumes_what_an_earlier_one_left(client, bare, server, tmp_path):
    server.script.extend([Act(drop_after=1000), *[Act(drop_after=0)] * 3])
    with pytest.raises(DownloadError):
        fetch(client, bare, tmp_path, retry=NO_WAIT, progress=Progress())
    server.script.clear()
    log = Log()
    fetch(client, bare, tmp_path, retry=NO_WAIT, progress=log)
    assert (tmp_path / "model.bin").read_bytes() == DATA
    assert server.ranges()[-1] == "bytes=1000-"
    assert log.said[0].startswith("model.bin: resuming at ")


def test_a_part_without_its_note_starts_again(client, bare, server, tmp_path):
    (tmp_path / "model.bin.part").write_bytes(b"x" * 1000)
    fetch(client, bare, tmp_path, retry=NO_WAIT, progress=Progress())
    assert (tmp_path / "model.bin").read_bytes() == DATA
    assert server.ranges() == [None]


def test_a_file_that_changed_between_parts_starts_again(client, bare, server, tmp_path):
    server.script.extend([Act(drop_after=1000), *[Act(drop_after=0)] * 3])
    with pytest.raises(DownloadError):
        fetch(client, bare, tmp_path, retry=NO_WAIT, progress=Progress())
    server.script.clear()
    server.files["/model.bin"] = changed = DATA[::-1]
    fetch(client, bare, tmp_path, retry=NO_WAIT, progress=Progress())
    assert (tmp_path / "model.bin").read_bytes() == changed


def test_a_server_that_ignores_if_range_is_found_out_by_its_etag(client, bare, server, tmp_path):
    server.script.extend([Act(drop_after=1000), Act(headers={"ETag": '"other"'})])
    fetch(client, bare, tmp_path, retry=NO_WAIT, progress=Progress())
    assert (tmp_path / "model.bin").read_bytes() == DATA
    assert server.ranges() == [None, "bytes=1000-", None]


def test_without_a_strong_etag_the_rest_is_not_trusted(client, bare, server, tmp_path):
    weak = {"ETag": 'W/"weak"'}
    server.script.extend([Act(drop_after=1000, headers=weak), Act(headers=weak)])
    fetch(client, bare, tmp_path, retry=NO_WAIT, progress=Progress())
    assert (tmp_path / "model.bin").read_bytes() == DATA
    assert server.ranges() == [None, None]


def test_a_server_that_ignores_ranges(client, remote, server, tmp_path):
    server.script.extend([Act(drop_after=1000), Act(ignore_range=True)])
    fetch(client, remote, tmp_path, retry=NO_WAIT, progress=Progress())
    assert (tmp_path / "model.bin").read_bytes() == DATA


def test_a_server_that_ignores_ranges_and_drops_does_not_go_on_for_ever(client, remote, server, tmp_path):
    server.script.extend([Act(drop_after=1000, ignore_range=True)] * 50)
    with pytest.raises(DownloadError, match="without progress"):
        fetch(client, remote, tmp_path, retry=NO_WAIT, progress=Progress())
    assert len(server.requests) == 3


def test_a_range_that_starts_elsewhere_is_refused(client, remote, server, tmp_path):
    server.script.extend([Act(drop_after=1000), Act(range_start=500)])
    log = Log()
    fetch(client, remote, tmp_path, retry=NO_WAIT, progress=log)
    assert (tmp_path / "model.bin").read_bytes() == DATA
    assert any(
        "asked for bytes from 1000 on, the server answered 'bytes 500-299999/300000'" in line for line in log.said
    )


@pytest.mark.parametrize("length", [len(DATA) - 1, len(DATA) + 1, 17])
def test_a_length_that_differs_from_the_listing(client, remote, server, tmp_path, length):
    server.script.extend([Act(say_length=length)] * 9)
    with pytest.raises(DownloadError, match=f"the server offers {length} bytes, the hub lists 300000"):
        fetch(client, remote, tmp_path, retry=NO_WAIT, progress=Progress())
    assert names(tmp_path) == []


def test_a_length_beyond_the_data_is_not_believed(client, bare, server, tmp_path):
    server.script.append(Act(say_length=len(DATA) + 5))
    log = Log()
    fetch(client, bare, tmp_path, retry=NO_WAIT, progress=log)
    assert (tmp_path / "model.bin").read_bytes() == DATA
    assert server.ranges() == [None, f"bytes={len(DATA)}-"]  # asked for the five bytes more; there are none


def test_more_bytes_than_listed_without_a_length(client, server, tmp_path):
    server.files["/model.bin"] = DATA + b"more"
    remote = RemoteFile("model.bin", f"{server.url}/model.bin", size=len(DATA))
    server.script.extend([Act(no_length=True)] * 9)
    with pytest.raises(DownloadError, match="sends more than the 300000 bytes that the hub lists"):
        fetch(client, remote, tmp_path, retry=NO_WAIT, progress=Progress())
    assert "model.bin" not in names(tmp_path)


def test_a_flipped_byte_is_quarantined(client, remote, server, tmp_path):
    server.script.append(Act(flip=1234))
    with pytest.raises(IntegrityError, match=f"sha256 is .*, expected {SHA256}; set aside as .*quarantined"):
        fetch(client, remote, tmp_path, retry=NO_WAIT, progress=Progress())
    assert names(tmp_path) == ["model.bin.quarantined"]


def test_a_part_that_rotted_on_disk_is_quarantined(client, remote, server, tmp_path):
    server.script.extend([Act(drop_after=1000), *[Act(drop_after=0)] * 3])
    with pytest.raises(DownloadError):
        fetch(client, remote, tmp_path, retry=NO_WAIT, progress=Progress())
    server.script.clear()
    (tmp_path / "model.bin.part").write_bytes(b"\0" * 1000)
    with pytest.raises(IntegrityError):
        fetch(client, remote, tmp_path, retry=NO_WAIT, progress=Progress())
    fetch(client, remote, tmp_path, retry=NO_WAIT, progress=Progress())
    assert (tmp_path / "model.bin").read_bytes() == DATA


def test_an_md5_that_is_not_the_published_one_is_quarantined(client, server, tmp_path):
    server.files["/model.bin"] = DATA
    remote = RemoteFile("model.bin", f"{server.url}/model.bin", md5="0" * 32)
    with pytest.raises(IntegrityError, match=f"md5 is {hashlib.md5(DATA).hexdigest()}, expected {'0' * 32}"):
        fetch(client, remote, tmp_path, retry=NO_WAIT, progress=Progress())


def test_a_whole_part_needs_only_its_name(client, bare, server, tmp_path):
    """A run may be killed between the last byte and the rename."""
    server.script.append(Act(drop_after=len(DATA) - 1))
    server.script.extend([Act(drop_after=0)] * 3)
    with pytest.raises(DownloadError):
        fetch(client, bare, tmp_path, retry=NO_WAIT, progress=Progress())
    server.script.clear()
    with (tmp_path / "model.bin.part").open("ab") as part:
        part.write(DATA[-1:])
    fetch(client, bare, tmp_path, retry=NO_WAIT, progress=Progress())
    assert (tmp_path / "model.bin").read_bytes() == DATA
    assert server.ranges()[-1] == f"bytes={len(DATA)}-"


def test_a_busy_server_is_asked_again_when_it_says(client, remote, server, tmp_path):
    waits = []
    server.script.extend([Act(status=503), Act(status=429, headers={"Retry-After": "7"})])
    retry = Retry(attempts=3, sleep=waits.append, jitter=lambda: 0.5)
    fetch(client, remote, tmp_path, retry=retry, progress=Progress())
    assert waits == [1.0, 7.0]


def test_waits_double_and_are_capped():
    retry = Retry(jitter=lambda: 0.5, max_delay_seconds=5)
    assert [retry.delay_seconds(failures, None) for failures in (1, 2, 3, 4)] == [1, 2, 4, 5]


@pytest.mark.parametrize(
    ("status", "hint"), [(401, "HF_TOKEN"), (403, "HF_TOKEN"), (404, "it is not there"), (410, "--from")]
)
def test_a_refusal_is_not_asked_again(client, remote, server, tmp_path, status, hint):
    server.script.extend([Act(status=status)] * 3)
    with pytest.raises(DownloadError, match=f"HTTP {status}; .*{hint}"):
        fetch(client, remote, tmp_path, retry=NO_WAIT, progress=Progress())
    assert len(server.requests) == 1


def test_nobody_listens(client, tmp_path):
    remote = RemoteFile("model.bin", "http://127.0.0.1:9/model.bin")
    with pytest.raises(DownloadError, match="check the network"):
        fetch(client, remote, tmp_path, retry=NO_WAIT, progress=Progress())
    assert names(tmp_path) == []


def test_a_compressed_reply_is_refused(client, remote, server, tmp_path):
    server.script.append(Act(headers={"Content-Encoding": "gzip"}))
    with pytest.raises(DownloadError, match="compressed"):
        fetch(client, remote, tmp_path, retry=NO_WAIT, progress=Progress())


def test_an_empty_file(client, server, tmp_path):
    server.files["/empty"] = b""
    record = fetch(client, RemoteFile("empty", f"{server.url}/empty"), tmp_path, retry=NO_WAIT, progress=Progress())
    assert record.size == 0
    assert (tmp_path / "empty").read_bytes() == b""


def test_an_interrupt_leaves_only_the_part(client, bare, server, tmp_path):
    class Interrupting(Progress):
        def update(self, name, done_bytes):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(client, bare, tmp_path, retry=NO_WAIT, progress=Interrupting())
    assert names(tmp_path) == ["model.bin.part", "model.bin.part.json"]
    fetch(client, bare, tmp_path, retry=NO_WAIT, progress=Progress())
    assert (tmp_path / "model.bin").read_bytes() == DATA


def test_more_than_the_disk_has_is_refused_before_a_byte_is_written(client, bare, server, tmp_path):
    server.script.append(Act(say_length=1 << 60))
    with pytest.raises(DownloadError, match=r"TiB are needed and .* are free"):
        fetch(client, bare, tmp_path, retry=NO_WAIT, progress=Progress())
    assert names(tmp_path) == []
    with pytest.raises(DownloadError, match="AQUILA_HOME"):
        require_space(tmp_path, 1 << 60)


CHILD = """
import sys
from pathlib import Path
from aquila.errors import AquilaError
from aquila.zoo.download import RemoteFile, Retry, fetch, open_client
from aquila.zoo.progress import Progress

class Loud(Progress):
    def update(self, name, done_bytes):
        print(done_bytes, flush=True)

with open_client() as client:
    try:
        fetch(client, RemoteFile("model.bin", sys.argv[1]), Path(sys.argv[2]), retry=Retry(), progress=Loud())
    except AquilaError as error:
        print(error, file=sys.stderr)
        raise SystemExit(error.exit_code)
"""


def test_a_disk_that_fills_up_keeps_the_part_and_says_so(client, bare, tmp_path):
    """A file size limit gives the same kind of OSError as a full disk, and needs no disk of its own."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, bare.url, str(tmp_path)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "model.bin.part: cannot be written at 97.7 KiB: File too large; make room" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "model.bin.part").read_bytes() == DATA[:100_000]
    fetch(client, bare, tmp_path, retry=NO_WAIT, progress=Progress())
    assert (tmp_path / "model.bin").read_bytes() == DATA


def test_a_killed_download_resumes(client, bare, server, hold, tmp_path):
    server.script.append(Act(hold=hold))
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, bare.url, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        written = 0
        while written < len(DATA) // 2:
            written = int(child.stdout.readline())
        child.kill()
    hold.set()
    assert names(tmp_path) == ["model.bin.part", "model.bin.part.json"]
    fetch(client, bare, tmp_path, retry=NO_WAIT, progress=Progress())
    assert (tmp_path / "model.bin").read_bytes() == DATA
    assert server.ranges() == [None, f"bytes={len(DATA) // 2}-"]


@pytest.mark.parametrize("proxy", ["socks9://127.0.0.1:1", "nonsense://x"])
def test_an_unusable_proxy_is_named(monkeypatch, proxy):
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(DownloadError, match="the proxy settings cannot be used"):
        open_client()


def test_a_proxy_from_the_environment_is_used(monkeypatch, server, tmp_path):
    monkeypatch.setenv("HTTP_PROXY", server.url)
    monkeypatch.setenv("NO_PROXY", "")
    server.files["http://files.invalid/model.bin"] = DATA  # what a proxy is asked for: the whole address
    with open_client() as client:
        fetch(
            client,
            RemoteFile("model.bin", "http://files.invalid/model.bin"),
            tmp_path,
            retry=NO_WAIT,
            progress=Progress(),
        )
    assert (tmp_path / "model.bin").read_bytes() == DATA
    assert isinstance(client, httpx.Client)
