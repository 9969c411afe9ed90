"""Tiny diffusion models with random weights, in folders laid out as the published ones are."""

import json
import warnings
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast, XLMRobertaTokenizer

WIDTH = 32


def alt_diffusion_folder(folder: Path) -> Path:
    """The layout of BAAI/AltDiffusion, model_index.json included."""
    from diffusers.pipelines.deprecated.alt_diffusion.modeling_roberta_series import (
        RobertaSeriesConfig,
        RobertaSeriesModelWithTransformation,
    )

    config = RobertaSeriesConfig(
        vocab_size=300, hidden_size=WIDTH, project_dim=WIDTH, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=37, max_position_embeddings=90,
    )  # fmt: skip
    torch.manual_seed(0)
    RobertaSeriesModelWithTransformation(config).save_pretrained(folder / "text_encoder")
    pieces = [*("<s>", "<pad>", "</s>", "<unk>"), "▁", *"abcdefghijklmnopqrstuvwxyz一座红色的桥", "<mask>"]
    XLMRobertaTokenizer(vocab=[(piece, -1.0) for piece in pieces]).save_pretrained(folder / "tokenizer")
    _unet(4).save_pretrained(folder / "unet")
    _vae().save_pretrained(folder / "vae")
    _scheduler().save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "AltDiffusionPipeline",
        "_diffusers_version": "0.9.0",
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["alt_diffusion", "RobertaSeriesModelWithTransformation"],
        "tokenizer": ["transformers", "XLMRobertaTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


def stable_diffusion_folder(folder: Path) -> Path:
    """Any model that AutoPipeline knows."""
    return _save(StableDiffusionPipeline, _unet(4), folder)


def instruct_pix2pix_folder(folder: Path) -> Path:
    """The layout of timbrooks/instruct-pix2pix."""
    return _save(StableDiffusionInstructPix2PixPipeline, _unet(8), folder)


def _save(kind: type, unet: UNet2DConditionModel, folder: Path) -> Path:
    config = CLIPTextConfig(
        vocab_size=300, hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=2, intermediate_size=37,
        max_position_embeddings=77, bos_token_id=0, eos_token_id=2, pad_token_id=1,
    )  # fmt: skip
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = kind(
            vae=_vae(), text_encoder=CLIPTextModel(config), tokenizer=_tokenizer(), unet=unet, scheduler=_scheduler(),
            safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        )  # fmt: skip
        pipeline.save_pretrained(folder)
    return folder


def _tokenizer() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {text: i for i, text in enumerate(["<s>", "<pad>", "</s>", "<unk>", *alphabet])}
    backend = Tokenizer(models.BPE(vocab, [], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>",
        model_max_length=77,
    )  # fmt: skip


def _unet(in_channels: int) -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        block_out_channels=(16, 32), layers_per_block=1, sample_size=8, in_channels=in_channels, out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH, attention_head_dim=8, norm_num_groups=8,
    )  # fmt: skip


def _vae() -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=[16, 32], in_channels=3, out_channels=3, latent_channels=4, norm_num_groups=8,
        down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
    )  # fmt: skip


def _scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1,
    )  # fmt: skip
