"""Whole pulls from hubs on loopback: what is fetched, recorded, resumed, refused, and when nobody is asked."""

import hashlib
import json
import threading
from pathlib import Path

import pytest

from aquila.errors import CheckpointError, ConfigError, DownloadError, IntegrityError
from aquila.zoo.progress import Progress
from aquila.zoo.pull import local_path, pull, resolve
from loopback import Act

WEIGHTS = bytes(range(256)) * 400
PICKLE = WEIGHTS[::-1]
CONTENTS = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}",
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": PICKLE,
    "README.md": b"# Toy",
    ".gitattributes": b"*",
    "onnx/model.onnx": b"not wanted",
}
FETCHED = ["README.md", "aquila.json", "config.json", "model.safetensors", "tokenizer.json"]


def register(
    home: Path,
    md5_1: str = "11111111111111111111111111111111",
    md5_2: str = "22222222222222222222222222222222",
    sources: str = "hf: toys/Toy, modelscope: toys/Toy",
):
    text = f"""
models:
  - name: toy
    kind: base
    preset: tiny
    num_parameters: 1000
    context_length: 256
    chat_template: aquila-chat
    licence: {{name: Toy Licence, url: "https://example.org/licence", note: For tests.}}
    sources: {{{sources}}}
    versions:
      - {{version: v0.1, date: 2024-01-01, md5: "{md5_1}", changes: First.}}
      - {{version: v0.2, date: 2024-02-01, md5: "{md5_2}", changes: Second.}}
"""
    (home / "registry.yaml").write_text(text, encoding="utf-8")


@pytest.fixture
def hub(server, home):
    """A toy model on a fake Hugging Face, and the environment that points there."""
    register(home)
    server.add_hugging_face("toys/Toy", CONTENTS)
    return {"HF_ENDPOINT": server.url, "HF_HOME": str(home / "hf"), "MODELSCOPE_ENDPOINT": server.url}


def no_wait(seconds):
    """Stands in for time.sleep."""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_pull_takes_the_useful_files_and_records_them(hub, home, server):
    path = pull("toy", environ=hub)
    assert path == home / "models" / "toy"
    assert names(path) == FETCHED
    record = json.loads((path / "aquila.json").read_bytes())
    assert record["source"] == "hf:toys/Toy"
    assert record["revision"] == "c0ffee"
    assert record["licence"] == "Toy Licence"
    assert (record["preset"], record["chat_template"], record["version"]) == ("tiny", "aquila-chat", "main")
    assert record["files"]["model.safetensors"]["sha256"] == hashlib.sha256(WEIGHTS).hexdigest()
    assert record["files"]["config.json"]["size"] == len(CONTENTS["config.json"])


def test_a_second_pull_asks_nobody(hub, server):
    path = pull("toy", environ=hub)
    asked = len(server.requests)
    assert pull("TOY", environ={"HF_ENDPOINT": "http://127.0.0.1:9"}) == path
    assert len(server.requests) == asked
    assert local_path("toy") == resolve("toy") == path


def test_the_token_goes_to_the_hub(hub, server):
    pull("toy", environ=hub | {"HF_TOKEN": "secret"})
    assert {headers.get("authorization") for _, headers in server.requests} == {"Bearer secret"}


def test_a_pull_that_failed_goes_on_where_it_stopped(hub, server, home):
    server.script.extend([Act(), *[Act(status=503)] * 6])
    with pytest.raises(DownloadError, match="HTTP 503"):
        pull("toy", environ=hub, sleep=no_wait)
    assert local_path("toy") is None
    with pytest.raises(CheckpointError, match="run `aquila pull toy`"):
        resolve("toy")
    server.script.clear()
    server.requests.clear()
    pull("toy", environ=hub)
    assert not [path for path, _ in server.requests if path.endswith("model.safetensors")]  # was whole already


def test_a_damaged_copy_is_mended(hub, server):
    path = pull("toy", environ=hub)
    (path / "model.safetensors").write_bytes(WEIGHTS[:-1])
    assert local_path("toy") is None
    pull("toy", environ=hub)
    assert (path / "model.safetensors").read_bytes() == WEIGHTS


def test_offline_names_the_way_out_and_leaves_nothing(hub, server, home):
    with pytest.raises(DownloadError, match=r"HF_HUB_OFFLINE forbids.*--from file"):
        pull("toy", environ=hub | {"HF_HUB_OFFLINE": "1"})
    assert server.requests == []
    assert names(home / "models") == []


def test_offline_is_fine_when_the_files_are_here(hub, server):
    path = pull("toy", environ=hub)
    assert pull("toy", environ=hub | {"HF_HUB_OFFLINE": "1"}) == path


def test_modelscope(hub, server, home):
    server.add_modelscope("toys/Toy", CONTENTS)
    path = pull("toy", source="modelscope", environ=hub)
    assert names(path) == FETCHED
    assert json.loads((path / "aquila.json").read_bytes())["source"] == "modelscope:toys/Toy"


def test_an_address(hub, server, home):
    server.files["/files/toy.gguf"] = WEIGHTS
    path = pull("toy", source_path=f"{server.url}/files/toy.gguf?download=true", environ=hub)
    assert path == home / "models" / "toy" / "toy.gguf"  # the file itself: it is the whole model


@pytest.mark.parametrize("address", ["ftp://host/x.gguf", "http:///x.gguf", "http://127.0.0.1/"])
def test_an_unusable_address(hub, address):
    with pytest.raises(ConfigError, match="not the http\\(s\\) address of a file"):
        pull("toy", source="url", source_path=address, environ=hub)


def publish_pickle(server, home, md5_1="11111111111111111111111111111111", md5_2="22222222222222222222222222222222"):
    register(home, md5_1, md5_2)
    server.add_hugging_face("toys/Toy", {"config.json": b"{}", "pytorch_model.bin": PICKLE})


def test_a_version_is_checked_against_its_md5(hub, server, home):
    publish_pickle(server, home, md5_1=hashlib.md5(PICKLE).hexdigest(), md5_2="0" * 32)
    path = pull("toy", "0.1", environ=hub)
    assert path == home / "models" / "toy@v0.1"
    with pytest.raises(IntegrityError, match=f"md5 is {hashlib.md5(PICKLE).hexdigest()}, expected {'0' * 32}"):
        pull("toy@v0.2", environ=hub)
    assert "pytorch_model.bin" not in names(home / "models" / "toy@v0.2")
    assert local_path("toy@v0.2") is None


def test_without_a_version_the_md5_tells_which_one_came(hub, server, home):
    publish_pickle(server, home, md5_1=hashlib.md5(PICKLE).hexdigest())
    path = pull("toy", environ=hub)
    assert json.loads((path / "aquila.json").read_bytes())["version"] == "v0.1"


def test_a_flipped_byte_is_no_model(hub, server, home):
    server.script.append(Act(flip=5))
    with pytest.raises(IntegrityError, match="sha256 is"):
        pull("toy", environ=hub)
    assert "model.safetensors" not in names(home / "models" / "toy")
    assert "aquila.json" not in names(home / "models" / "toy")


def test_a_model_larger_than_the_disk_is_refused_at_once(hub, server, home):
    listing = "/api/models/toys/Toy/revision/main?blobs=true"
    server.files[listing] = server.files[listing].replace(b'"size": 102400', b'"size": 1152921504606846976')
    with pytest.raises(DownloadError, match=r"are needed and .* are free"):
        pull("toy", environ=hub)
    assert len(server.requests) == 1
    assert names(home / "models") == []


@pytest.mark.parametrize("name", ["../evil.safetensors", "/etc/evil.bin", "a\\\\evil.gguf", "x/../../evil.bin", ""])
def test_a_hub_cannot_choose_where_files_go(hub, server, home, name):
    listing = "/api/models/toys/Toy/revision/main?blobs=true"
    server.files[listing] = json.dumps({"sha": "c0ffee", "siblings": [{"rfilename": name}]}).encode()
    with pytest.raises(DownloadError, match="not a safe file name"):
        pull("toy", environ=hub)


@pytest.mark.parametrize("reply", [b"<html>log in</html>", b"[]", b'{"siblings": [{"name": "x"}]}'])
def test_a_reply_that_is_no_listing(hub, server, reply):
    server.files["/api/models/toys/Toy/revision/main?blobs=true"] = reply
    with pytest.raises(DownloadError, match=r"not a hub's reply.*check HF_ENDPOINT"):
        pull("toy", environ=hub)


def test_a_repository_without_weights(hub, server):
    server.add_hugging_face("toys/Toy", {"config.json": b"{}"})
    with pytest.raises(DownloadError, match="lists no weights"):
        pull("toy", environ=hub)


def test_a_repository_that_is_not_there(hub, server):
    server.files.clear()
    with pytest.raises(DownloadError, match="HTTP 404; it is not there"):
        pull("toy", environ=hub)


def test_an_endpoint_that_is_no_address(hub):
    with pytest.raises(ConfigError, match="HF_ENDPOINT is 'hf-mirror'"):
        pull("toy", environ=hub | {"HF_ENDPOINT": "hf-mirror"})


def test_two_pulls_at_once_fetch_once(hub, server, hold):
    """The second waits for the first and finds the model whole."""

    class Releasing(Progress):
        def say(self, message):
            if "waiting for it" in message:
                hold.set()

    class Starting(Progress):
        def update(self, name, done_bytes):
            started.set()

    started = threading.Event()
    server.script.append(Act(hold=hold))
    paths = []
    first = threading.Thread(target=lambda: paths.append(pull("toy", environ=hub, progress=Starting())))
    first.start()
    started.wait(60)
    paths.append(pull("toy", environ=hub, progress=Releasing()))
    first.join()
    assert paths[0] == paths[1]
    assert len([path for path, _ in server.requests if path.endswith("model.safetensors")]) == 1


def test_to_another_folder(hub, tmp_path):
    path = pull("toy", to=tmp_path / "mine", environ=hub)
    assert path == tmp_path / "mine"
    assert pull("toy", to=tmp_path / "mine", environ={}) == path
    assert local_path("toy") is None
    with pytest.raises(ConfigError, match="holds toy main already"):
        pull("aquila-7b", to=tmp_path / "mine", environ={})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "toyy"}, "no model is called 'toyy'; did you mean 'toy'"),
        ({"name": "toy", "version": "v9"}, "toy has no version 'v9'; published: v0.1, v0.2"),
        ({"name": "toy", "source": "ftp"}, "source 'ftp' is unknown; use one of hf, modelscope, url, file, pypi"),
        ({"name": "toy", "source": "pypi"}, "toy is not to be had from 'pypi'"),
        ({"name": "toy", "source": "url"}, "toy is not to be had from 'url'"),
        ({"name": "toy", "source": "file"}, "--from file needs --source-path"),
        ({"name": "aquilacode-7b-nv"}, "aquilacode-7b-nv is on no hub we know of"),
    ],
)
def test_usage_errors(hub, arguments, message):
    with pytest.raises(ConfigError, match=message) as caught:
        pull(**arguments, environ=hub)
    assert caught.value.exit_code == 2


def test_an_interrupt_between_files_leaves_no_model(hub, home):
    class Interrupting(Progress):
        def finish(self, name):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull("toy", environ=hub, progress=Interrupting())
    assert local_path("toy") is None
    assert names(pull("toy", environ=hub)) == FETCHED
