"""Reading tokenizers from files: every accepted form, and one clear line for each broken one."""

import json
import shutil

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models

from aquila.errors import TokenizerError
from aquila.tokenizer.load import load_tokenizer
from aquila.tokenizer.specials import AQUILA_FIM
from aquila.tokenizer.train import train_tokenizer

TEXT = "def f(x):\n    return x  # 返回 1234 </s>"


def write_json(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


@pytest.fixture
def saved(tiny_tokenizer, tmp_path):
    tiny_tokenizer.save(tmp_path)
    return tmp_path


def edit(path, **changes):
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | changes)


def test_saved_tokenizer_comes_back(tiny_tokenizer, saved):
    loaded = load_tokenizer(saved)
    assert loaded.encode(TEXT) == tiny_tokenizer.encode(TEXT)
    assert loaded.encode(TEXT, allow_special=True) == tiny_tokenizer.encode(TEXT, allow_special=True)
    for name in ("vocab_size", "bos_token_id", "eos_token_ids", "pad_token_id", "fim", "special_ids"):
        assert getattr(loaded, name) == getattr(tiny_tokenizer, name)


def test_saved_aquila_keeps_its_specials_and_aliases(aquila_tokenizer, tmp_path):
    aquila_tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path / "tokenizer.json")
    assert loaded.fim == AQUILA_FIM
    assert loaded.eos_token_ids == (100_007, 0)
    assert loaded.add_bos_token
    assert loaded.encode("<|fim_prefix|>[CLS]", allow_special=True) == [100_003, 100_006]


def test_transformers_reads_what_we_save(aquila_tokenizer, tiny_tokenizer, tmp_path):
    from transformers import AutoTokenizer

    for name, ours in {"aquila": aquila_tokenizer, "tiny": tiny_tokenizer}.items():
        ours.chat_template = "{{ messages }}"
        ours.save(tmp_path / name)
        theirs = AutoTokenizer.from_pretrained(tmp_path / name)
        assert theirs.encode(TEXT, add_special_tokens=False) == ours.encode(TEXT, allow_special=True)
        assert (theirs.bos_token_id, theirs.eos_token_id) == (ours.bos_token_id, ours.eos_token_ids[0])
        assert theirs.chat_template == load_tokenizer(tmp_path / name).chat_template == "{{ messages }}"
        ours.chat_template = None


def test_aquila_pair_without_special_tokens_map(aquila_files, tmp_path):
    """FlagAI falls back to wrong begin and end ids here, without a word."""
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(aquila_files / name, tmp_path / name)
    loaded = load_tokenizer(tmp_path)
    assert (loaded.bos_token_id, loaded.eos_token_ids, loaded.pad_token_id) == (100_006, (100_007, 0), 0)


@pytest.mark.parametrize("content", ["[CLS]", {"content": "[CLS]"}])
def test_aquila_pair_with_either_form_of_the_map(aquila_files, tmp_path, content):
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(aquila_files / name, tmp_path / name)
    write_json(tmp_path / "special_tokens_map.json", {"cls_token": content, "bos_token": content})
    assert load_tokenizer(tmp_path / "vocab.json").bos_token_id == 100_006


def test_vocabulary_pair_is_written_back_as_published(aquila_tokenizer, aquila_files, tmp_path):
    aquila_tokenizer.save_vocabulary(tmp_path)
    assert (tmp_path / "vocab.json").read_bytes() == (aquila_files / "vocab.json").read_bytes()
    ours, theirs = ((folder / "merges.txt").read_text(encoding="utf-8") for folder in (tmp_path, aquila_files))
    assert ours.splitlines()[1:] == theirs.splitlines()[1:]


@pytest.fixture
def gpt2_pair(tmp_path):
    """A small vocabulary pair that is not Aquila's."""
    backend = train_tokenizer([TEXT * 20], vocab_size=280, specials=["<|endoftext|>"]).backend
    backend.model.save(str(tmp_path))
    return tmp_path


def test_other_vocabulary_pairs_take_their_specials_from_the_config(gpt2_pair):
    write_json(
        gpt2_pair / "tokenizer_config.json",
        {
            "eos_token": {"content": "<|endoftext|>"},
            "bos_token": "<s>",
            "added_tokens_decoder": {
                "280": {"content": "<s>", "special": True},
                "281": {"content": "tag", "special": False},
            },
        },
    )
    loaded = load_tokenizer(gpt2_pair)
    assert (loaded.bos_token_id, loaded.eos_token_ids, loaded.pad_token_id) == (280, (0,), None)
    assert loaded.special_ids == {0, 280}
    assert loaded.encode("tag<s>", allow_special=True) == [281, 280]
    assert loaded.encode("a")[0] == loaded.token_id("a")


def test_end_ids_of_generation_config_join_the_tokenizers(saved):
    write_json(saved / "generation_config.json", {"eos_token_id": [0, 9]})
    assert load_tokenizer(saved).eos_token_ids[:2] == (0, 9)


def test_config_json_names_the_end_only_where_nothing_else_does(saved):
    write_json(saved / "config.json", {"eos_token_id": 2})
    assert 2 not in load_tokenizer(saved).eos_token_ids
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        edit(saved / name, eos_token=None)
    assert load_tokenizer(saved).eos_token_ids[0] == 2


def test_chat_template_file_wins_over_the_config(saved):
    edit(
        saved / "tokenizer_config.json",
        chat_template=[{"name": "default", "template": "A"}, {"name": "rag", "template": "B"}],
    )
    assert load_tokenizer(saved).chat_template == "A"
    (saved / "chat_template.jinja").write_text("C", encoding="utf-8")
    assert load_tokenizer(saved).chat_template == "C"


def broken_json(folder):
    (folder / "tokenizer_config.json").write_text("{\n  oops", encoding="utf-8")


def truncated(folder):
    text = (folder / "tokenizer.json").read_text(encoding="utf-8")
    (folder / "tokenizer.json").write_text(text[: len(text) // 2], encoding="utf-8")


def not_utf8(folder):
    (folder / "tokenizer.json").write_bytes(b"{\xff}")


def a_list(folder):
    write_json(folder / "tokenizer_config.json", [])


def unknown_bos(folder):
    edit(folder / "tokenizer_config.json", bos_token="<nope>")


def wrong_fim(folder):
    edit(folder / "tokenizer_config.json", fim={"prefix": 1})


def misplaced_added_token(folder):
    edit(folder / "tokenizer_config.json", added_tokens_decoder={"777": {"content": "<x>"}})


def named_id(folder):
    edit(folder / "tokenizer_config.json", added_tokens_decoder={"x": {"content": "<x>"}})


def wrong_end(folder):
    write_json(folder / "generation_config.json", {"eos_token_id": "end"})


def word_parts(folder):
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        write_json(folder / name, {})
    Backend(models.BPE({"a</w>": 0}, [], end_of_word_suffix="</w>")).save(str(folder / "tokenizer.json"))


def repeated_id(folder):
    data = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    data["model"]["vocab"]["b"] = data["model"]["vocab"]["a"]
    write_json(folder / "tokenizer.json", data)


def unigram(folder):
    Backend(models.Unigram([("a", 0.0)], unk_id=0)).save(str(folder / "tokenizer.json"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (broken_json, r"tokenizer_config.json, line 2: not valid JSON .* fetch the file again"),
        (truncated, r"tokenizer.json: EOF while parsing .* damaged .* fetch it again"),
        (not_utf8, r"tokenizer.json: byte 1 is not UTF-8"),
        (a_list, r"tokenizer_config.json: holds a JSON list, expected an object"),
        (unknown_bos, r"bos_token '<nope>' is not in the vocabulary; name a token that is"),
        (wrong_fim, r"fim is \{'prefix': 1\}; it must map prefix, suffix and middle"),
        (misplaced_added_token, r"added token '<x>' has id 777, but its place in the vocabulary is 400"),
        (repeated_id, r"tokenizer.json: token id \d+ is there (twice|not at all)"),
        (named_id, r"added_tokens_decoder is 'x'; expected a token id"),
        (wrong_end, r"eos_token_id of generation_config.json or config.json is 'end'; expected"),
        (word_parts, r"the vocabulary marks word parts \('</w>'\)"),
        (unigram, r"its model is Unigram; only byte-pair encoding"),
    ],
)
def test_broken_folder(saved, spoil, message):
    spoil(saved)
    with pytest.raises(TokenizerError, match=message) as caught:
        load_tokenizer(saved)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda vocab: vocab.pop("a"),
            r"vocab.json: token id \d+ is there not at all, in a vocabulary of 279",
        ),
        (lambda vocab: vocab.update(b=vocab["a"]), r"vocab.json: token id \d+ is there"),
        (lambda vocab: vocab.update(a="5"), r"vocab.json: the id of 'a' is '5', not a number"),
    ],
)
def test_broken_vocabulary(gpt2_pair, change, message):
    vocab = json.loads((gpt2_pair / "vocab.json").read_text(encoding="utf-8"))
    change(vocab)
    write_json(gpt2_pair / "vocab.json", vocab)
    with pytest.raises(TokenizerError, match=message):
        load_tokenizer(gpt2_pair)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("x qqq", "`qqq` out of vocabulary; vocabulary and merges do not belong together"),
        ("abc", r"merges.txt, line \d+: 'abc' is not a pair of entries"),
    ],
)
def test_broken_merges(gpt2_pair, line, message):
    with (gpt2_pair / "merges.txt").open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    with pytest.raises(TokenizerError, match=message):
        load_tokenizer(gpt2_pair)


def test_paths_that_hold_no_tokenizer(tmp_path):
    with pytest.raises(TokenizerError, match=r"no such file or folder; give a folder that holds tokenizer.json"):
        load_tokenizer(tmp_path / "absent")
    with pytest.raises(TokenizerError, match=r"no tokenizer here; the folder must hold tokenizer.json"):
        load_tokenizer(tmp_path)
    for name, message in {"a.gguf": "open it as a checkpoint", "a.bin": "not a tokenizer file"}.items():
        (tmp_path / name).touch()
        with pytest.raises(TokenizerError, match=message):
            load_tokenizer(tmp_path / name)
