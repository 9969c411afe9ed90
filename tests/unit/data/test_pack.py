"""Packing text: every form of input, the same bytes from any number of processes and runs, and faults by name."""

import gzip
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from aquila.data import readers
from aquila.data.pack import pack
from aquila.data.pack_worker import frame
from aquila.data.shards import Shard
from aquila.errors import ConfigError, DataError
from aquila.tokenizer.train import train_tokenizer
from data_parts import TEXTS, pack_texts, write_jsonl
from parts import CORPUS, tiny_tokenizer


def documents(prefix: Path) -> list[list[int]]:
    shard = Shard(prefix)
    return [shard.document(index).tolist() for index in range(shard.num_documents)]


def files(folder: Path, name: str = "out") -> dict[str, bytes]:
    found = (path for path in folder.iterdir() if path.is_file() and path.name.startswith(f"{name}."))
    return {path.name: path.read_bytes() for path in found}


def test_each_document_is_begin_text_end(tmp_path, published):
    source = write_jsonl(tmp_path / "a.jsonl", [{"text": "汽车EDR是什么"}, {"text": "</s>[CLS]"}])
    report = pack([source], published, tmp_path / "out")
    assert documents(tmp_path / "out")[0] == [100_006, 2869, 4085, 50, 5428, 100_007]
    second = documents(tmp_path / "out")[1]
    assert (second[0], second[-1]) == (100_006, 100_007)
    assert max(second[1:-1]) < 100_000  # the text of special tokens is text
    assert Shard(tmp_path / "out").dtype == "<i4"
    assert (report.num_documents, report.num_bytes, report.invalid) == (2, len("汽车EDR是什么</s>[CLS]".encode()), ())
    assert not (tmp_path / "out.parts").exists()


def test_all_forms_of_input_give_the_same_documents(tmp_path):
    zstandard, pyarrow = pytest.importorskip("zstandard"), pytest.importorskip("pyarrow")
    from pyarrow import parquet

    lines = write_jsonl(tmp_path / "a.jsonl", [{"text": text} for text in TEXTS])
    data = lines.read_bytes()
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(data))
    halves = [zstandard.compress(part) for part in (data[:700], data[700:])]
    (tmp_path / "c.jsonl.zst").write_bytes(b"".join(halves))
    parquet.write_table(
        pyarrow.table({"text": list(TEXTS), "id": range(len(TEXTS))}), tmp_path / "d.parquet", row_group_size=7
    )
    tree = tmp_path / "tree"
    for number, text in enumerate(TEXTS):
        (tree / f"{number % 3}").mkdir(parents=True, exist_ok=True)
        (tree / f"{number % 3}" / f"{number:02d}.py").write_text(text, encoding="utf-8")
    for name in (".git", "__pycache__"):
        (tree / name).mkdir()
        (tree / name / "no.py").write_text("no", encoding="utf-8")
    (tree / "0" / "image.py").write_bytes(b"\x89PNG\0\xff")
    expected = [frame(tiny_tokenizer(), text) for text in TEXTS]
    for name in ("a.jsonl", "b.jsonl.gz", "c.jsonl.zst", "d.parquet"):
        pack([tmp_path / name], tiny_tokenizer(), tmp_path / "out")
        assert documents(tmp_path / "out") == expected
    report = pack([tree], tiny_tokenizer(), tmp_path / "out", include=["*.py"])
    in_order_of_names = sorted(range(len(TEXTS)), key=lambda number: (number % 3, number))
    assert documents(tmp_path / "out") == [expected[number] for number in in_order_of_names]
    assert (report.num_binary, report.invalid) == (1, ())


def test_lines_that_cannot_be_used_are_named_and_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "UNIT_BYTES", 24)  # so that lines fall into several units
    good = b'{"text": "good line"}\n'
    (tmp_path / "a.jsonl").write_bytes(
        good + b"{oops\n" + good + b"\n" + b'{"text": 5}\n' + b'["x"]\n' + b'{"text": "\xff"}\n' + b'{"text": ""}\n'
        b'{"text": "\\ud800"}\n' + b'{"n": %s}\n' % (b"1" * 5000) + good.rstrip()
    )
    (tmp_path / "latin.txt").write_bytes("né".encode("latin-1"))
    report = pack([tmp_path / "a.jsonl", tmp_path / "latin.txt"], tiny_tokenizer(), tmp_path / "out")
    source = f"{tmp_path}/a.jsonl, line"
    assert report.invalid == (
        f"{source} 2: not valid JSON: Expecting property name enclosed in double quotes at character 2",
        f"{source} 5: no text in field 'text'",
        f"{source} 6: a JSON list, expected an object",
        f"{source} 7: byte 10 (0xff) is not UTF-8",
        f"{source} 9: half a surrogate pair (U+D800) at character 1",
        f"{source} 10: a number of more than 4300 digits",
        f"{tmp_path}/latin.txt: byte 1 (0xe9) is not UTF-8",
    )
    assert (report.num_documents, report.num_empty) == (3, 2)
    assert documents(tmp_path / "out") == [frame(tiny_tokenizer(), "good line")] * 3


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Some units of JSON lines, and a tokenizer."""
    folder = tmp_path_factory.mktemp("corpus")
    tiny_tokenizer().save(folder / "tokenizer")
    for name in range(30):  # a unit each: enough of them for a kill to come between
        write_jsonl(folder / f"{name:02d}.jsonl", [{"text": f"{name} {n} {CORPUS}"} for n in range(10)])
    return folder


COMMAND = [sys.executable, "-m", "aquila", "data", "pack"]


def arguments(corpus: Path, out: Path, *more: str) -> list[str]:
    inputs = sorted(str(path) for path in corpus.iterdir() if path.suffix == ".jsonl")
    return [*COMMAND, *inputs, "--tokenizer", str(corpus / "tokenizer"), "--out", str(out), *more]


def test_processes_make_no_difference_and_a_kill_only_delays(corpus, tmp_path):
    """Killed with -9 among its parts and run again, as a user would, it gives the bytes of one process in one run."""
    inputs = sorted(path for path in corpus.iterdir() if path.suffix == ".jsonl")
    for folder in ("whole", "killed"):
        (tmp_path / folder).mkdir()
    pack(inputs, tiny_tokenizer(), tmp_path / "whole" / "out")
    out = tmp_path / "killed" / "out"
    process = subprocess.Popen(
        arguments(corpus, out, "--workers", "2"), stdout=subprocess.DEVNULL, start_new_session=True
    )
    parts = tmp_path / "killed" / "out.parts"
    while process.poll() is None and len(list(parts.glob("*.counts.json"))) < 2:
        pass
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert files(out.parent) == {}
    (parts / "000000.bin").write_bytes(b"")  # and the disk lost a part
    again = subprocess.run(
        arguments(corpus, out, "--workers", "2", "--json"), capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stderr
    assert "parts are there already" in again.stderr
    assert json.loads(again.stdout)["num_documents"] == 300
    assert files(out.parent) == files(tmp_path / "whole")


def test_parts_of_another_input_are_not_used(tmp_path):
    source = write_jsonl(tmp_path / "a.jsonl", [{"text": "one"}])
    parts = tmp_path / "out.parts"
    parts.mkdir()
    (parts / "mine.txt").write_text("x", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"out\.parts: is in the way and not of an earlier run"):
        pack([source], tiny_tokenizer(), tmp_path / "out")
    (parts / "plan.json").write_text("{}", encoding="utf-8")
    assert pack([source], tiny_tokenizer(), tmp_path / "out").num_documents == 1
    assert not parts.exists()


def test_two_runs_at_one_place_do_not_meet(tmp_path):
    source = write_jsonl(tmp_path / "a.jsonl", [{"text": "one"}] * 3)

    def meanwhile(done: int, total: int) -> None:
        with pytest.raises(ConfigError, match=r"out\.parts: another process is packing here; wait, or"):
            pack([source], tiny_tokenizer(), tmp_path / "out")

    assert pack([source], tiny_tokenizer(), tmp_path / "out", progress=meanwhile).num_documents == 3


def test_a_dead_worker_is_an_error_that_says_how_to_go_on(corpus, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)\n", encoding="utf-8"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    inputs = sorted(path for path in corpus.iterdir() if path.suffix == ".jsonl")
    with pytest.raises(
        DataError, match=r"a worker process ended while it read .*exit code -9.*the same command goes on"
    ):
        pack(inputs, tiny_tokenizer(), tmp_path / "out", workers=2)
    assert not (tmp_path / "out.idx").exists()
    monkeypatch.delenv("PYTHONPATH")
    assert pack(inputs, tiny_tokenizer(), tmp_path / "out", workers=2).num_documents == 300


def test_an_error_of_a_worker_is_the_error(corpus, tmp_path):
    (tmp_path / "bad.jsonl.gz").write_bytes(gzip.compress(b'{"text": "x"}\n' * 99)[:-20])
    with pytest.raises(DataError, match=r"bad\.jsonl\.gz: damaged, or ends early"):
        pack([tmp_path / "bad.jsonl.gz", corpus / "00.jsonl"], tiny_tokenizer(), tmp_path / "out", workers=2)


def test_damaged_and_missing_input_is_one_clear_line(tmp_path):
    zstandard = pytest.importorskip("zstandard")
    source = write_jsonl(tmp_path / "a.jsonl", [{"text": "one"}] * 50)
    packed = zstandard.compress(source.read_bytes())
    (tmp_path / "cut.jsonl.zst").write_bytes(packed[:-5])
    (tmp_path / "no.jsonl.zst").write_bytes(b"text")
    (tmp_path / "no.parquet").write_bytes(b"text")
    write_jsonl(tmp_path / "other.jsonl", [{"content": "x"}, {"content": "y"}])
    (tmp_path / "empty").mkdir()
    for name, error, message in [
        ("cut.jsonl.zst", DataError, r"cut\.jsonl\.zst: ends early; fetch it again"),
        ("no.jsonl.zst", DataError, r"no\.jsonl\.zst: damaged: "),
        ("no.parquet", DataError, r"no\.parquet: not a Parquet file, or damaged"),
        (
            "other.jsonl",
            DataError,
            r"the input has no text to pack \(0 binary files, 2 invalid records; .*line 1: no text in field 'text'",
        ),
        ("absent", ConfigError, "absent: no such file or folder"),
        ("empty", ConfigError, "empty: this folder has no file; give one with text"),
    ]:
        with pytest.raises(error, match=message):
            pack([tmp_path / name], tiny_tokenizer(), tmp_path / "out")
        assert not (tmp_path / "out.idx").exists()
    assert pack([tmp_path / "other.jsonl"], tiny_tokenizer(), tmp_path / "out", text_key="content").num_documents == 2


@pytest.mark.parametrize(("name", "library"), [("a.jsonl.zst", "zstandard"), ("a.parquet", "pyarrow")])
def test_a_missing_library_is_named_with_its_extra(tmp_path, monkeypatch, name, library):
    monkeypatch.setitem(sys.modules, library, None)
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ConfigError, match=rf"{name}: reading .* needs {library}; pip install 'aquila-lm\[data\]'"):
        pack([tmp_path / name], tiny_tokenizer(), tmp_path / "out")


def test_names_that_are_not_unicode_and_folders_of_the_same_names_as_modules(tmp_path, monkeypatch):
    """Processes find the package, not what lies in the current folder, and any name of a file reaches them."""
    for number in range(2):
        write_jsonl(tmp_path / f"{number}.jsonl", [{"text": "one"}])
    (tmp_path / "aquila").mkdir()
    (tmp_path / "aquila" / "__init__.py").write_text("raise SystemExit(3)", encoding="utf-8")
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.txt"))
    odd.write_bytes(b"\xff")
    monkeypatch.chdir(tmp_path)
    report = pack([Path("0.jsonl"), Path("1.jsonl"), odd], tiny_tokenizer(), Path("out"), workers=2)
    assert report.num_documents == 2
    assert report.invalid == (f"{odd}: byte 0 (0xff) is not UTF-8",)


def test_a_users_own_json_is_not_replaced(tmp_path):
    source = write_jsonl(tmp_path / "a.jsonl", [{"text": "one"}])
    (tmp_path / "settings.json").write_text('{"theme": "dark"}', encoding="utf-8")
    with pytest.raises(DataError, match=r"settings\.json: not what `aquila data pack` writes"):
        pack([source], tiny_tokenizer(), tmp_path / "settings")
    assert (tmp_path / "settings.json").read_text(encoding="utf-8") == '{"theme": "dark"}'


def test_another_programs_shard_is_not_replaced(tmp_path):
    source = write_jsonl(tmp_path / "a.jsonl", [{"text": "one"}])
    pack_texts(tmp_path / "out", ["two", "three"])
    (tmp_path / "out.json").unlink()  # which others do not write
    before = files(tmp_path)
    with pytest.raises(ConfigError, match=r"out\.idx: a shard that `aquila data pack` did not write is there; choose"):
        pack([source], tiny_tokenizer(), tmp_path / "out")
    assert files(tmp_path) == before
    assert not (tmp_path / "out.parts").exists()


def test_a_tokenizer_without_an_end_token_is_refused(tmp_path):
    source = write_jsonl(tmp_path / "a.jsonl", [{"text": "one"}])
    backend = train_tokenizer([CORPUS], vocab_size=300, specials=("<a>",)).backend
    from aquila.tokenizer.tokenizer import Tokenizer

    with pytest.raises(ConfigError, match="this tokenizer has no end token"):
        pack([source], Tokenizer(backend), tmp_path / "out")


def test_packing_again_replaces_an_older_shard(tmp_path):
    pack_texts(tmp_path / "a", ["one"])
    pack_texts(tmp_path / "a", ["one", "two"])
    assert Shard(tmp_path / "a").num_documents == 2
