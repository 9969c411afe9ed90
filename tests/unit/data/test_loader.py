"""The loader: a batch is a function of (step, seed, data), whoever asks, and bad data is refused in one line."""

import logging
from collections import Counter

import numpy as np
import pytest

from aquila.config import load_config
from aquila.data.batch import IGNORE, Batch
from aquila.data.config import DataConfig
from aquila.data.loader import open_loader
from aquila.data.shards import Shard
from aquila.errors import ConfigError, DataError
from data_parts import TEXTS, loader_of, pack_texts, write_documents
from parts import shared_data, tiny_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("shards")
    pack_texts(path / "zh", [f"第{n}句：今天天气很好。\n" * 3 for n in range(40)])
    pack_texts(path / "code")
    return path


def concatenate(batches: list[Batch]) -> Batch:
    return Batch(*(np.concatenate([getattr(each, name) for each in batches]) for name in vars(batches[0])))


def same(a: Batch, b: Batch) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in vars(a))


@pytest.mark.parametrize("packing", ["concat", "best_fit", "none"])
def test_the_world_shares_one_batch(folder, packing):
    loader = loader_of(folder / "code", packing=packing)
    for step in (0, 3, 1000):
        whole = loader.batch(step)
        assert whole.input_ids.shape == (4, 32)
        for world in (1, 2, 4):
            parts = [loader.batch(step, rank=rank, world=world) for rank in range(world)]
            assert same(concatenate(parts), whole)


def test_any_step_is_found_without_those_before_it(folder):
    mix = [{"path": folder / "zh", "weight": 0.4}, {"path": folder / "code", "weight": 0.6, "fim_rate": 0.5}]
    one, other = (loader_of(None, path=None, mix=mix) for _ in range(2))
    in_order = [one.batch(step) for step in range(12)]
    assert all(same(other.batch(step), in_order[step]) for step in (11, 2, 7))
    assert one.digest == other.digest


def test_an_epoch_has_every_token_once(folder):
    loader = loader_of(folder / "code", global_batch_size=1)
    shard = Shard(folder / "code")
    for epoch in range(2):
        steps = range(epoch * loader.num_sequences, (epoch + 1) * loader.num_sequences)
        labels = np.concatenate([loader.batch(step).labels[0] for step in steps])
        learned = Counter(labels[labels != IGNORE].tolist())
        assert learned == Counter(shard.tokens.tolist()) - Counter({tiny_tokenizer().bos_token_id: shard.num_documents})
        assert sorted(loader.places(step)[0].index for step in steps) == list(range(loader.num_sequences))
        assert {loader.places(step)[0].epoch for step in steps} == {epoch}
    orders = [[loader.places(e * loader.num_sequences + n)[0].index for n in range(9)] for e in range(2)]
    assert orders[0] != orders[1]


def test_shares_of_a_mixture_are_realised_and_reported(folder):
    mix = [{"path": folder / "zh", "weight": 2}, {"path": folder / "code", "weight": 3}]
    loader = loader_of(None, path=None, mix=mix, global_batch_size=5)
    seen = Counter(place.source for step in range(40) for place in loader.places(step))
    assert seen == {"zh": 80, "code": 120}
    report = loader.report(40)
    assert [row["name"] for row in report["sources"]] == ["zh", "code"]
    assert [row["share_wanted"] for row in report["sources"]] == [0.4, 0.6]
    assert [row["share"] for row in report["sources"]] == pytest.approx([0.4, 0.6], abs=0.01)
    zh = report["sources"][0]
    assert zh["epochs"] == 80 / zh["num_sequences"]
    assert report["warnings"] == []
    assert loader.report(400)["warnings"][0].startswith("zh is read ")


def test_without_weights_a_mixture_follows_its_sizes(folder):
    loader = loader_of(None, path=None, mix=[folder / "zh", folder / "code"])
    report = loader.report(50)
    tokens = [Shard(folder / name).num_tokens for name in ("zh", "code")]
    assert [row["share"] for row in report["sources"]] == pytest.approx([n / sum(tokens) for n in tokens], abs=0.02)


def test_the_digest_names_all_that_batches_depend_on(folder, tmp_path):
    base = loader_of(folder / "code")
    other = pack_texts(tmp_path / "code", [*TEXTS[:-1], TEXTS[-1].replace("return", "yield")])
    changed = [
        loader_of(other.prefix),
        loader_of(folder / "code", seed=2),
        loader_of(folder / "code", sequence_length=31),
        loader_of(folder / "code", document_mask=False),
        loader_of(folder / "code", packing="best_fit"),
        loader_of(folder / "code", global_batch_size=2),
        loader_of(folder / "code", validation_fraction=0.1),
        loader_of(None, path=None, mix=[{"path": folder / "code", "fim_rate": 0.1}]),
    ]
    assert len({base.digest, *(loader.digest for loader in changed)}) == len(changed) + 1
    again = pack_texts(tmp_path / "moved" / "code") if (tmp_path / "moved").mkdir() is None else None
    assert loader_of(again.prefix).digest == base.digest  # the place of a file is no part of it


def test_held_out_documents_are_measured_and_never_trained_on(folder):
    loader = loader_of(folder / "code", validation_fraction=0.2, global_batch_size=1)
    tokenizer = tiny_tokenizer()
    (measured,) = loader.validation(2)
    text = "".join(tokenizer.decode(batch.input_ids[b].tolist()) for batch in measured.batches for b in range(2))
    trained = "".join(
        tokenizer.decode(loader.batch(step).input_ids[0].tolist()) for step in range(loader.num_sequences)
    )
    for number in range(30):
        assert (f"def add_{number}(" in text) == (number >= 24)
        assert (f"def add_{number}(" in trained) == (number < 24)
    assert measured.num_bytes == sum(len(each.encode()) for each in TEXTS[24:])
    assert measured.num_targets == sum(batch.num_targets for batch in measured.batches)


def test_some_batches_of_a_set_are_spread_over_it(folder):
    loader = loader_of(folder / "code", validation=[{"path": folder / "zh", "name": "chinese"}])
    (everything,) = loader.validation(4)
    (some,) = loader.validation(4, max_batches=2)
    batches = list(some.batches)
    assert [batch.input_ids.shape for batch in batches] == [(4, 32), (4, 32)]
    assert some.name == "chinese"
    assert some.num_targets == sum(batch.num_targets for batch in batches) < everything.num_targets
    assert batches[0].num_targets > 0
    assert all(same(a, b) for a, b in zip(batches, some.batches, strict=True))


# Bad input: one clear line each


def test_a_vocabulary_that_is_not_the_models_is_refused_with_both_digests(folder, tmp_path):
    shard = pack_texts(tmp_path / "a", tokenizer=tiny_tokenizer(330))
    made_by, wanted = shard.sidecar.tokenizer[:12], Shard(folder / "zh").sidecar.tokenizer[:12]
    message = (
        rf"its ids were made by tokenizer {made_by} \(330 ids\), the model's is {wanted} \(320 ids\); pack the text"
    )
    with pytest.raises(DataError, match=message):
        loader_of(tmp_path / "a")


def test_the_original_demo_is_refused_for_the_model_that_it_was_used_with(published):
    """The original trained a model of 100,008 ids on GPT-2's."""
    demo = shared_data("megatron-demo") / "demo_text_document"
    arguments = {"stage": "pretrain", "tokenizer": published, "vocab_size": 100_008, "global_batch_size": 4, "seed": 1}
    with pytest.raises(
        DataError, match=r"ids of 2 bytes, so it was made for a vocabulary below 65,500; the model's has 100008"
    ):
        open_loader(DataConfig(path=demo), **arguments)
    loader = open_loader(DataConfig(path=demo, check_vocabulary=False), **arguments)
    assert loader.num_tokens == 33_063


def test_another_programs_shard_is_taken_with_a_warning(caplog):
    demo = shared_data("megatron-demo") / "demo_text_document.idx"
    with caplog.at_level(logging.WARNING):
        loader = open_loader(
            DataConfig(path=demo), stage="pretrain", tokenizer=None, vocab_size=50_304, global_batch_size=4, seed=1
        )
    assert (
        "no demo_text_document.json says which tokenizer made it; its ids go up to 50256, the model has 50304"
        in caplog.text
    )
    assert loader.batch(0).num_tokens == 4 * 2048


def test_ids_out_of_range_are_refused(tmp_path, folder):
    write_documents(tmp_path / "a", [[1, 2, 3], [4, 500, 6]])
    with pytest.raises(DataError, match=r"a\.bin: token 4 is 500, but the model's ids are 0 to 319; pack the text"):
        loader_of(tmp_path / "a")
    pack_texts(tmp_path / "b")
    loader = loader_of(tmp_path / "b", global_batch_size=1)
    bad = np.memmap(tmp_path / "b.bin", dtype="<u2", mode="r+")
    bad[:] = 400  # damaged after it was opened
    bad.flush()
    with pytest.raises(DataError, match="step 5: token id 400 is out of range, the model's ids are 0 to 319"):
        loader.batch(5)


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ([], "0 tokens, there is nothing to learn from"),
        ([[7]], "1 tokens, there is nothing to learn from"),
        ([[1, 2, 3]], "a batch of 4 sequences is larger than the data, which makes 1 of 32 tokens"),
    ],
)
def test_too_little_data_is_refused(tmp_path, documents, message):
    write_documents(tmp_path / "a", documents)
    with pytest.raises(DataError, match=message):
        loader_of(tmp_path / "a")


def test_one_document_is_enough_for_a_batch_of_one(tmp_path):
    write_documents(tmp_path / "a", [[1, 2, 3]])
    loader = loader_of(tmp_path / "a", global_batch_size=1)
    assert loader.batch(0).labels[0][:3].tolist() == [2, 3, IGNORE]
    with pytest.raises(DataError, match=r"1 documents cannot be split; set data\.validation_fraction: 0"):
        loader_of(tmp_path / "a", global_batch_size=1, validation_fraction=0.1)


def test_a_world_that_does_not_divide_the_batch_is_refused(folder):
    with pytest.raises(DataError, match="a batch of 4 sequences cannot be shared out to 3 processes"):
        loader_of(folder / "code").batch(0, rank=0, world=3)


@pytest.mark.parametrize(
    ("stage", "fields", "message"),
    [
        ("pretrain", {}, r"stage pretrain: data\.path is missing"),
        ("sft", {"path": "a"}, r"stage sft: data\.sft is missing"),
        ("continue", {"sft": "a.jsonl"}, r"stage continue: data\.sft is for stage sft"),
        ("sft", {"sft": "a.jsonl", "packing": "concat"}, r"data\.packing: concat cuts conversations in two"),
        ("pretrain", {"mix": ["CODE", "CODE"]}, "two sources are called 'code'; give one of them another name"),
        ("pretrain", {"path": "absent"}, r"absent\.idx: no such file; give the prefix of a shard"),
    ],
)
def test_settings_that_do_not_go_together(folder, stage, fields, message):
    fields = {name: [folder / "code"] * 2 if value == ["CODE", "CODE"] else value for name, value in fields.items()}
    with pytest.raises((ConfigError, DataError), match=message):
        open_loader(
            DataConfig.model_validate(fields),
            stage=stage,
            tokenizer=tiny_tokenizer(),
            vocab_size=320,
            global_batch_size=1,
            seed=1,
        )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["path=a", "sft=b"], "path and sft are given; a run trains on one of path, mix and sft"),
        (["mix=[{path: a, weight: 1}, {path: b}]"], r"mix\.1\.weight is missing; give every source a weight, or none"),
        (["mix=[{path: a, fim_rate: 2}]"], r"mix\.0\.fim_rate: must be at most 1.0, got 2"),
        (["fim={character: 0, line: 0, block: 0}"], "character, line and block are all 0"),
        (["sequence_lenght=1"], "unknown key; did you mean 'sequence_length'"),
        (["packing=concatenate"], r"packing: expected 'concat' \| 'best_fit' \| 'none'"),
    ],
)
def test_a_config_says_what_is_wrong_with_it(overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_config(DataConfig, overrides=overrides)


def test_a_tokenizer_larger_than_the_model_is_refused(folder):
    with pytest.raises(DataError, match="the tokenizer has 330 ids, the model 320; they do not belong together"):
        open_loader(
            DataConfig(path=folder / "code"),
            stage="pretrain",
            tokenizer=tiny_tokenizer(330),
            vocab_size=320,
            global_batch_size=1,
            seed=1,
        )
