"""Our adapters against Hugging Face PEFT on a transformers Llama with the same random weights, fp32."""

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from aquila.checkpoint.adapter import CONFIG, read_adapter
from aquila.checkpoint.adapter_writer import AdapterSettings, write_adapter
from aquila.checkpoint.tensors import from_array
from aquila.generate.runner import SequenceStep
from aquila.generate.torch_runner import TorchRunner
from aquila.model.config import from_hugging_face
from aquila.model.lora import TARGETS, add_lora, init_lora, lora_layers
from aquila.model.transformer import Transformer
from lora_parts import lora_arrays, set_lora

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # PEFT asks for the old name
IDS = torch.randint(0, 320, (2, 40), generator=torch.Generator().manual_seed(1))
SOME = ("q_proj", "v_proj")


def llama() -> LlamaForCausalLM:
    torch.manual_seed(7)
    shape = LlamaConfig(
        vocab_size=320,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.1,
    )
    return LlamaForCausalLM(shape).eval()


def ours() -> Transformer:
    theirs = llama()
    model = Transformer(from_hugging_face(theirs.config.to_dict(), "transformers"))
    model.load_state_dict(theirs.state_dict())
    return model.eval()


def peft_model(targets: tuple[str, ...], **options: object) -> PeftModel:
    model = get_peft_model(llama(), LoraConfig(r=4, lora_alpha=12, target_modules=list(targets), **options))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
    return model.eval()


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"layers_to_transform": [1]}], ids=str)
@pytest.mark.parametrize("targets", [SOME, TARGETS], ids=len)
def test_we_load_what_peft_saves(tmp_path: Path, targets: tuple[str, ...], options: dict):
    theirs = peft_model(targets, **options)
    theirs.save_pretrained(tmp_path)
    with torch.inference_mode():
        expected, plain = theirs(IDS).logits, llama()(IDS).logits
    assert (expected - plain).abs().max() > 0.1
    runner = TorchRunner(ours(), kv_bytes=1 << 20)
    number = runner.load_adapter(read_adapter(tmp_path, runner.model.config))
    for row, ids in enumerate(IDS.tolist()):
        found = torch.from_numpy(runner.step([SequenceStep(ids, 0, range(3), len(ids), number)]))
        torch.testing.assert_close(found, expected[row], rtol=0, atol=1e-5)


@pytest.mark.parametrize("targets", [SOME, TARGETS], ids=len)
def test_peft_loads_what_we_write(tmp_path: Path, targets: tuple[str, ...]):
    model = ours()
    add_lora(model, r=4, alpha=12.0, targets=targets)
    init_lora(model, 3)
    with torch.no_grad():
        for layer in lora_layers(model).values():
            layer.lora_B.normal_(0, 0.1)
        expected = model(IDS)
    pairs = {name: (from_array(a), from_array(b)) for name, (a, b) in lora_arrays(model).items()}
    write_adapter(tmp_path / "adapter", model.config, pairs, AdapterSettings(4, 12.0, 0.05, "llama"))
    loaded = PeftModel.from_pretrained(llama(), str(tmp_path / "adapter")).eval()
    with torch.inference_mode():
        torch.testing.assert_close(loaded(IDS).logits, expected, rtol=0, atol=1e-5)
    assert json.loads((tmp_path / "adapter" / CONFIG).read_text())["target_modules"] == list(targets)


def test_gradients_equal_pefts(tmp_path: Path):
    theirs = peft_model(TARGETS)
    theirs.save_pretrained(tmp_path)
    model = ours()
    adapter = read_adapter(tmp_path, model.config)
    add_lora(model, r=4, alpha=12.0, targets=TARGETS)
    set_lora(model, {name: (pair.down.numpy(), pair.up.numpy()) for name, pair in adapter.matrices.items()})
    for name, parameter in theirs.named_parameters():
        parameter.requires_grad_("lora_" in name)
    theirs(input_ids=IDS, labels=IDS).loss.backward()
    labels = torch.nn.functional.pad(IDS[:, 1:], (0, 1), value=-100)
    (model(IDS, labels=labels) / (labels != -100).sum()).backward()
    expected = dict(theirs.named_parameters())
    for name, layer in lora_layers(model).items():
        for half in ("lora_A", "lora_B"):
            reference = expected[f"base_model.model.{name}.{half}.default.weight"].grad
            torch.testing.assert_close(getattr(layer, half).grad, reference, rtol=1e-3, atol=1e-6, msg=name)


def test_pefts_older_files_are_read_too(tmp_path: Path):
    """adapter_model.bin, as PEFT wrote it before safetensors."""
    theirs = peft_model(SOME)
    theirs.save_pretrained(tmp_path / "new")
    theirs.save_pretrained(tmp_path / "old", safe_serialization=False)
    new, old = (read_adapter(tmp_path / name, ours().config) for name in ("new", "old"))
    assert new.matrices.keys() == old.matrices.keys()
    for name, pair in new.matrices.items():
        assert (old.matrices[name].up.numpy() == pair.up.numpy()).all()
