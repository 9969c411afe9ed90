"""`.aqw` files: what goes in comes out, and a damaged one is not believed."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aquila.checkpoint.convert import convert
from aquila.checkpoint.open import open_checkpoint
from aquila.checkpoint.packed import ALIGNMENT, MAGIC, PREFIX, VERSION, aligned, packed_file, read_packed
from aquila.checkpoint.packed_writer import default_path, plan_formats, quantise
from aquila.checkpoint.verify import verify_checkpoint
from aquila.errors import AquilaError, CheckpointError, ConfigError, IntegrityError
from aquila.files import cache_dir
from aquila.kernels.formats import FORMATS
from aquila.model.config import RopeScaling
from checkpoint_parts import assert_equal, export, random_tensors, tiny_config, tiny_tokenizer, write

BIASED = {"qkv_bias": True, "tie_word_embeddings": True, "vocab_size": 301, "eos_token_ids": (3, 5)}


def packed(folder: Path, to: str = "w4", quantize: str | None = "q4_0", **changes: Any) -> Path:
    """A small model, by way of GGUF."""
    source = write(export(tiny_config(**changes), tokenizer=tiny_tokenizer()), folder / "a.gguf", "gguf", quantize)
    return quantise(source, folder / f"a-{to}.aqw", to=to)


def rewrite_header(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes the header as one who knows the format would, digest and all; the sections stay where they are."""
    content = path.read_bytes()
    _, _, length, _ = PREFIX.unpack(content[: PREFIX.size])
    sections = content[aligned(PREFIX.size + length) :]
    header = json.loads(content[PREFIX.size : PREFIX.size + length])
    change(header)
    encoded = json.dumps(header).encode()
    prefix = PREFIX.pack(MAGIC, VERSION, len(encoded), hashlib.sha256(encoded).digest())
    path.write_bytes((prefix + encoded).ljust(aligned(PREFIX.size + len(encoded)), b"\0") + sections)


@pytest.mark.parametrize(("to", "dtype"), [("f32", "fp32"), ("f16", "fp16"), ("bf16", "bf16")])
@pytest.mark.parametrize("changes", [{}, BIASED])
def test_plain_formats_keep_every_value(tmp_path: Path, to: str, dtype: str, changes: dict[str, Any]):
    config = tiny_config(**changes)
    source = write(export(config, dtype), tmp_path / "source", "hf")
    checkpoint = read_packed(quantise(source, tmp_path / "a.aqw", to=to))
    assert checkpoint.config == open_checkpoint(source).config
    assert (checkpoint.format, checkpoint.dtype) == ("packed", dtype)
    assert_equal(checkpoint.tensors, random_tensors(config, dtype))


@pytest.mark.parametrize(("quantize", "to"), [("q4_0", "w4"), ("q8_0", "w8")])
def test_a_gguf_of_the_matching_type_is_only_moved(tmp_path: Path, quantize: str, to: str):
    """The blocks are the same bytes again, q and k rows in our order; the head of a Q4_0 file is Q8_0 and stays so."""
    path = packed(tmp_path, to, quantize)
    source, result = open_checkpoint(tmp_path / "a.gguf"), read_packed(path)
    assert_equal(result.tensors, source.tensors)
    held = result.tensors["model.layers.0.self_attn.k_proj.weight"].quantised
    came = source.tensors["model.layers.0.self_attn.k_proj.weight"].quantised
    assert held is not None
    assert came is not None
    assert held.type == came.type == quantize
    np.testing.assert_array_equal(held.rows.numpy(), came.rows.numpy())
    assert packed_file(path).tensors["lm_head.weight"].format == "w8"


@pytest.mark.parametrize("width", [32, 40])
def test_packing_a_packed_file_gives_the_same_tensors_again(tmp_path: Path, width: int):
    source = write(export(tiny_config(hidden_size=width, head_dim=8)), tmp_path / "source", "hf")
    first = quantise(source, tmp_path / "a.aqw", to="w4", head="w4")
    second = quantise(first, tmp_path / "b.aqw", to="w4")
    assert {name: tensor.sha256 for name, tensor in packed_file(first).tensors.items()} == {
        name: tensor.sha256 for name, tensor in packed_file(second).tensors.items()
    }


def test_rows_and_columns_need_not_fill_groups_and_blocks(tmp_path: Path):
    config = tiny_config(hidden_size=40, head_dim=10, intermediate_size=50, vocab_size=301)
    source = write(export(config), tmp_path / "source", "hf")
    checkpoint = read_packed(quantise(source, tmp_path / "a.aqw", to="w8"))
    for name, tensor in random_tensors(config).items():
        error = np.abs(checkpoint.tensors[name].numpy(np.dtype(np.float32)) - tensor.numpy())
        assert checkpoint.tensors[name].shape == tensor.shape
        assert error.max() < 0.02, name


def test_any_range_of_rows_can_be_read(tmp_path: Path):
    tensor = read_packed(packed(tmp_path)).tensors["model.embed_tokens.weight"]
    whole = tensor.numpy()
    assert tensor.quantised is not None
    for start, stop in [(0, 1), (15, 17), (16, 32), (301, 320), (7, 7)]:
        np.testing.assert_array_equal(tensor.read(start, stop), whole[start:stop])
        np.testing.assert_array_equal(
            tensor.quantised.rows.read(start, stop), tensor.quantised.rows.numpy()[start:stop]
        )


def test_sections_are_aligned_and_stand_in_the_order_of_use(tmp_path: Path):
    file = packed_file(packed(tmp_path))
    assert list(file.tensors) == list(random_tensors(tiny_config()))
    end = aligned(1)
    for tensor in file.tensors.values():
        assert tensor.offset % ALIGNMENT == 0
        assert tensor.offset == end or end == aligned(1)
        end = aligned(tensor.offset + tensor.nbytes)
    assert file.tokenizer is not None
    assert file.tokenizer.offset == end
    assert file.size == aligned(end + file.tokenizer.nbytes)


@pytest.mark.parametrize("source", ["gguf", "native"])
def test_the_tokenizer_travels_inside_the_file(tmp_path: Path, source: str):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ messages }}"
    scaling = RopeScaling(type="linear", factor=2.0)
    config = tiny_config(rope_scaling=scaling, eos_token_ids=(0, 5), bos_token_id=1)
    name = "a.gguf" if source == "gguf" else "a"
    record = {"name": "tiny", "licence": "Apache-2.0", "chat_template": "aquila-v2"}
    written = write(export(config, tokenizer=tokenizer, record=record), tmp_path / name, source)
    before, after = open_checkpoint(written), read_packed(quantise(written, tmp_path / "b.aqw", to="w8"))
    assert after.has_tokenizer
    assert after.config == before.config
    old, new = before.load_tokenizer(), after.load_tokenizer()
    text = "def is_prime(n): 补全 <|endoftext|>"
    assert new.encode(text) == old.encode(text)
    assert new.encode(text, allow_special=True) == old.encode(text, allow_special=True)
    for field in ("vocab_size", "bos_token_id", "eos_token_ids", "pad_token_id", "add_bos_token", "chat_template"):
        assert getattr(new, field) == getattr(old, field), field
    assert (new.fim, new.unused_ids, new.special_ids) == (old.fim, old.unused_ids, old.special_ids)
    assert after.manifest["name"] == "tiny"
    assert after.manifest.get("chat_template") == before.manifest.get("chat_template")


def test_a_model_without_tokenizer_says_so_when_asked_for_it(tmp_path: Path):
    checkpoint = read_packed(quantise(write(export(tiny_config()), tmp_path / "a", "hf"), tmp_path / "a.aqw", to="w4"))
    assert not checkpoint.has_tokenizer
    with pytest.raises(CheckpointError, match=r"a\.aqw: holds no tokenizer; make it again from a model that has one"):
        checkpoint.load_tokenizer()


def test_the_file_tells_what_it_was_made_from(tmp_path: Path):
    source = write(export(tiny_config()), tmp_path / "a", "native")
    provenance = packed_file(quantise(source, tmp_path / "a.aqw", to="w4", rounding="absmax")).provenance
    assert provenance["quantisation"] == {"to": "w4", "head": None, "rounding": "absmax"}
    assert provenance["source"]["format"] == "native"
    digest = hashlib.sha256((source / "model.safetensors").read_bytes()).hexdigest()
    assert provenance["source"]["sha256"]["model.safetensors"] == digest


@pytest.mark.parametrize(
    ("to", "head", "expected"),
    [("w4", None, "w8"), ("w4m", None, "w8"), ("w4", "w4", "w4"), ("w8", None, "w8"), ("bf16", None, "bf16")],
)
def test_the_head_gets_more_bits_beside_four(to: str, head: str | None, expected: str):
    formats = plan_formats(random_tensors(tiny_config()), to, head)
    assert formats["model.embed_tokens.weight"] == formats["lm_head.weight"] == expected
    assert formats["model.layers.1.mlp.down_proj.weight"] == to
    assert formats["model.norm.weight"] == "vector"


def test_the_search_is_closer_to_the_weights(tmp_path: Path):
    source = write(export(tiny_config()), tmp_path / "a", "hf")
    expected = random_tensors(tiny_config())["model.layers.0.mlp.up_proj.weight"].numpy()
    errors = {}
    for rounding in ("search", "absmax"):
        path = quantise(source, tmp_path / f"{rounding}.aqw", to="w4", rounding=rounding)
        found = read_packed(path).tensors["model.layers.0.mlp.up_proj.weight"].numpy()
        errors[rounding] = float(np.square(found - expected).mean())
    assert errors["search"] < 0.95 * errors["absmax"]


def test_a_file_is_recognised_by_its_content_and_alone_in_a_folder(tmp_path: Path):
    path = packed(tmp_path)
    folder = tmp_path / "folder"
    folder.mkdir()
    path.rename(folder / "weights.bin")
    assert open_checkpoint(folder / "weights.bin").format == "packed"
    (folder / "weights.bin").rename(folder / "model.aqw")
    assert open_checkpoint(folder).format == "packed"
    (folder / "other.aqw").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"found model\.aqw, other\.aqw; name one of the \.aqw files"):
        open_checkpoint(folder)


def test_a_failure_leaves_nothing_behind(tmp_path: Path):
    source = write(export(tiny_config()), tmp_path / "a", "hf")
    weights = source / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] = content[-2] = 0xFF  # the last weight is no number
    weights.write_bytes(content)
    with pytest.raises(CheckpointError, match="does not fit w4; the weights are damaged"):
        quantise(source, tmp_path / "a.aqw", to="w4", head="w4")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("a.aqw", {"to": "w5"}, "--to is 'w5'; choose one of f32, f16, bf16, w4, w4m, w8"),
        ("a.aqw", {"to": "w4", "head": "q8_0"}, "--head is 'q8_0'"),
        ("a.aqw", {"to": "w4", "rounding": "best"}, "--rounding is 'best'; choose one of absmax, search"),
        ("a.gguf", {"to": "w4"}, r"a\.gguf: a packed model is one file; let its name end in \.aqw"),
        ("there.aqw", {"to": "w4"}, r"there\.aqw: exists already; name another file with --out"),
    ],
)
def test_options_that_cannot_be_met_are_refused(tmp_path: Path, name: str, options: dict[str, Any], message: str):
    (tmp_path / "there.aqw").write_bytes(b"x")
    with pytest.raises(ConfigError, match=message):
        quantise(tmp_path / "nowhere", tmp_path / name, **options)


def test_without_a_name_the_file_goes_to_the_cache():
    folder = cache_dir() / "packed"
    assert default_path(Path("smollm2-135m"), "w4") == folder / "smollm2-135m-w4.aqw"
    assert default_path(Path("models/Aquila.v2.Q4_0.gguf"), "w8") == folder / "Aquila.v2.Q4_0-w8.aqw"


def test_a_sound_file_has_no_findings(tmp_path: Path):
    report = verify_checkpoint(packed(tmp_path))
    assert not report.findings
    assert (report.format, report.num_digests) == ("packed", report.num_tensors + 1)


def test_every_flipped_bit_is_found(tmp_path: Path):
    """One bit in each section and in the filling behind it, in the header, and in the filling behind that."""
    path = packed(tmp_path)
    file = packed_file(path)
    assert file.tokenizer is not None
    places = [0, 9, 13, 25, PREFIX.size + 5, min(t.offset for t in file.tensors.values()) - 1, file.size - 1]
    for section in (*file.tensors.values(), file.tokenizer):
        places += [section.offset, section.offset + section.nbytes - 1]
        places += [section.offset + section.nbytes] if section.nbytes % ALIGNMENT else []
    content = path.read_bytes()
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 4
        path.write_bytes(damaged)
        assert verify_checkpoint(path).findings, f"byte {place}"
    path.write_bytes(content)
    assert not verify_checkpoint(path).findings


def test_a_file_cut_anywhere_is_refused_when_it_is_opened(tmp_path: Path):
    path = packed(tmp_path)
    content = path.read_bytes()
    edges = [0, 4, 8, PREFIX.size - 1, PREFIX.size, PREFIX.size + 9, ALIGNMENT, len(content) // 2, len(content) - 1]
    for edge in edges:
        path.write_bytes(content[:edge])
        with pytest.raises(CheckpointError, match=r"make the file again|another kind of file"):
            open_checkpoint(path)
    path.write_bytes(content + bytes(ALIGNMENT))
    with pytest.raises(IntegrityError, match="bytes where its header describes"):
        open_checkpoint(path)


def test_a_changed_tokenizer_is_not_used(tmp_path: Path):
    path = packed(tmp_path)
    entry = packed_file(path).tokenizer
    assert entry is not None
    content = bytearray(path.read_bytes())
    content[entry.offset + 40] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match="the tokenizer's bytes have changed"):
        open_checkpoint(path).load_tokenizer()


def test_a_later_version_asks_for_an_update(tmp_path: Path):
    path = packed(tmp_path)
    content = bytearray(path.read_bytes())
    content[8] = 2
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="its version is 2, this program reads 1; update aquila"):
        open_checkpoint(path)


NORM, HEAD, UP = "model.norm.weight", "lm_head.weight", "model.layers.0.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("tensor", "field", "value", "message"),
    [
        (UP, "format", "w5", r"up_proj\.weight: format 'w5' is unknown \(known: f32, .*vector\)"),
        (UP, "format", "vector", r"up_proj\.weight: \d+ bytes of vector do not hold the shape"),
        (UP, "format", "w8", r"up_proj\.weight: \d+ bytes of w8 do not hold the shape \[96, 32\]"),
        (UP, "shape", [96, 64], r"bytes of w4 do not hold the shape \[96, 64\]"),
        (UP, "shape", [32, 96], r"tensors do not fit the model of its config .*up_proj\.weight is \[32, 96\]"),
        (UP, "shape", [], r"up_proj\.weight\.shape: "),
        (UP, "shape", [1 << 61, 32], r"up_proj\.weight\.shape\.0: "),
        (UP, "offset", 1, r"up_proj\.weight is said to begin at byte \d+, which overlaps .* or is no multiple of 4096"),
        (UP, "offset", 0, "is said to begin at byte .*, which overlaps"),
        (UP, "offset", -4096, r"up_proj\.weight\.offset: "),
        (UP, "offset", True, r"up_proj\.weight\.offset: "),
        (HEAD, "offset", 1 << 40, "bytes where its header describes"),
        (NORM, "nbytes", 1 << 50, "bytes of vector do not hold the shape"),
        (NORM, "sha256", "abc", r"norm\.weight\.sha256: "),
        (NORM, "surprise", 1, r"norm\.weight\.surprise: "),
    ],
)
def test_a_header_that_cannot_be_true_is_refused(tmp_path: Path, tensor: str, field: str, value: object, message: str):
    path = packed(tmp_path)
    rewrite_header(path, lambda header: header["tensors"][tensor].update({field: value}))
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda header: header["tensors"].pop(NORM), r"1 missing: model\.norm\.weight \[32\]"),
        (lambda header: header["config"].update(num_hidden_layers=3), "missing: model.layers.2"),
        (lambda header: header["config"].update(hidden_size="wide"), "hidden_size"),
        (lambda header: header.update(config=7), "header: config: "),
        (lambda header: header["tokenizer"]["settings"].update(eos_token_ids=["x"]), "settings are damaged"),
        (lambda header: header["tokenizer"]["settings"].update(fim={"prefix": 1}), "settings are damaged"),
        (lambda header: header["tokenizer"]["settings"].update(bos_token_id=9999), "bos_token_id is 9999"),
    ],
)
def test_a_header_of_no_model_is_refused(tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str):
    path = packed(tmp_path)
    rewrite_header(path, change)
    with pytest.raises(AquilaError, match=message):
        open_checkpoint(path).load_tokenizer()


def test_every_format_can_be_written_and_verified(tmp_path: Path):
    source = write(export(tiny_config()), tmp_path / "a", "hf")
    for name in FORMATS:
        assert not verify_checkpoint(quantise(source, tmp_path / f"{name}.aqw", to=name)).findings


@pytest.mark.parametrize("to", ["gguf", "hf"])
def test_a_packed_model_converts_like_any_other(tmp_path: Path, to: str):
    """Also one whose rows do not fill blocks: GGUF has no such blocks and gets plain numbers."""
    source = write(export(tiny_config(hidden_size=40, head_dim=10)), tmp_path / "source", "hf")
    first = quantise(source, tmp_path / "a.aqw", to="w8")
    target = tmp_path / ("b.gguf" if to == "gguf" else "b")
    convert(first, target, to=to, quantize="q8_0" if to == "gguf" else None, dtype="fp32" if to == "hf" else None)
    if to == "hf":
        assert_equal(open_checkpoint(target).tensors, read_packed(first).tensors)
    assert not verify_checkpoint(target).findings
