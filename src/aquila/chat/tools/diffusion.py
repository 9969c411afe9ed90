"""Diffusion models from a folder, by diffusers: AltDiffusion put together by hand, any other by AutoPipeline.

`AltDiffusionPipeline.from_pretrained` refuses BAAI's own repositories (diffusers 0.42: the library name `alt_diffusion`
in their model_index.json is not one that it loads from), and the class lies among the deprecated ones. Its parts load
well one by one. Nothing is ever fetched: a folder is complete or it is an error.
"""

import io
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from aquila.chat.tool_result import ToolImage
from aquila.errors import AquilaError, ConfigError

PROMPT_TOKENS = 77  # what AltDiffusion was trained with (FlagAI's predictor), said by not every repository
INSTALL = "pip install 'aquila-lm[image]'"


class DiffusionError(AquilaError):
    """A picture cannot be made: no library, no model, no time."""


class Diffusion:
    """A pipeline in memory. Calls are for one thread at a time."""

    def __init__(self, pipeline: Any) -> None:
        pipeline.set_progress_bar_config(disable=True)
        self._pipeline = pipeline

    def draw(
        self,
        prompt: str,
        *,
        seed: int,
        steps: int,
        guidance: float,
        width: int,
        height: int,
        num_images: int,
        timeout_seconds: float,
    ) -> list[ToolImage]:
        """Pictures of a prompt. `DiffusionError` when time is over."""
        output = self._pipeline(
            prompt,
            num_inference_steps=steps,
            guidance_scale=guidance,
            width=width,
            height=height,
            num_images_per_prompt=num_images,
            generator=_generator(seed),
            callback_on_step_end=_watch(timeout_seconds),
        )
        flagged = getattr(output, "nsfw_content_detected", None) or [False] * len(output.images)
        notes = [f"{prompt} (blacked out by the model's safety checker)" if bad else prompt for bad in flagged]
        return [_png(image, caption) for image, caption in zip(output.images, notes, strict=True)]

    def edit(
        self,
        data: bytes,
        instructions: Sequence[str],
        *,
        seed: int,
        steps: int,
        guidance: float,
        image_guidance: float,
        timeout_seconds: float,
    ) -> list[ToolImage]:
        """Applies each instruction to the picture that the one before it made; returns every picture, in order."""
        image = _open(data)
        made: list[ToolImage] = []
        watch = _watch(timeout_seconds)
        for number, instruction in enumerate(instructions, 1):
            output = self._pipeline(
                instruction,
                image=image,
                num_inference_steps=steps,
                guidance_scale=guidance,
                image_guidance_scale=image_guidance,
                generator=_generator(seed),
                callback_on_step_end=watch,
            )
            image = output.images[0]
            made.append(_png(image, f"{number}: {instruction}"))
        return made


def load_text2image(folder: Path) -> Diffusion:
    """A model that draws: AltDiffusion (any of its versions) or a repository that AutoPipeline knows."""
    name = _class_name(folder)
    with _quiet():
        if name.startswith("AltDiffusion"):
            return Diffusion(_placed(_alt_diffusion(folder)))
        from diffusers import AutoPipelineForText2Image  # noqa: PLC0415  of an extra, and slow to import

        return Diffusion(_placed(_from_folder(AutoPipelineForText2Image, folder)))


def load_instruct_pix2pix(folder: Path) -> Diffusion:
    """A model that edits by instruction."""
    name = _class_name(folder)
    if name != "StableDiffusionInstructPix2PixPipeline":
        raise ConfigError(f"{folder}: is a {name}, not an InstructPix2Pix model; give a folder of one")
    with _quiet():
        from diffusers import StableDiffusionInstructPix2PixPipeline  # noqa: PLC0415  of an extra

        return Diffusion(_placed(_from_folder(StableDiffusionInstructPix2PixPipeline, folder)))


def _alt_diffusion(folder: Path) -> Any:
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel  # noqa: PLC0415  of an extra
    from diffusers.pipelines.deprecated.alt_diffusion.modeling_roberta_series import (  # noqa: PLC0415
        RobertaSeriesModelWithTransformation,
    )
    from diffusers.pipelines.deprecated.alt_diffusion.pipeline_alt_diffusion import (  # noqa: PLC0415
        AltDiffusionPipeline,
    )
    from transformers import AutoTokenizer  # noqa: PLC0415

    tokenizer = _from_folder(AutoTokenizer, folder, "tokenizer")
    tokenizer.model_max_length = min(tokenizer.model_max_length, PROMPT_TOKENS)
    return AltDiffusionPipeline(
        vae=_from_folder(AutoencoderKL, folder, "vae"),
        text_encoder=_from_folder(RobertaSeriesModelWithTransformation, folder, "text_encoder"),
        tokenizer=tokenizer,
        unet=_from_folder(UNet2DConditionModel, folder, "unet"),
        scheduler=_from_folder(DDIMScheduler, folder, "scheduler"),
        **_safety_checker(folder),
    )


def _safety_checker(folder: Path) -> dict[str, Any]:
    """The model's own checker where the folder has one."""
    if not (folder / "safety_checker").is_dir():
        return {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    from diffusers.pipelines.stable_diffusion.safety_checker import (  # noqa: PLC0415
        StableDiffusionSafetyChecker,
    )
    from transformers import CLIPImageProcessor  # noqa: PLC0415

    return {
        "safety_checker": _from_folder(StableDiffusionSafetyChecker, folder, "safety_checker"),
        "feature_extractor": _from_folder(CLIPImageProcessor, folder, "feature_extractor"),
    }


def _from_folder(kind: Any, folder: Path, part: str = "") -> Any:
    try:
        return kind.from_pretrained(str(folder), local_files_only=True, **({"subfolder": part} if part else {}))
    except (OSError, ValueError, KeyError) as error:
        raise DiffusionError(f"{folder / part}: cannot be loaded: {' '.join(str(error).split())[:300]}") from None


def _class_name(folder: Path) -> str:
    try:
        index = json.loads((folder / "model_index.json").read_bytes())
        name = index["_class_name"]
    except OSError:
        raise ConfigError(f"{folder}: has no model_index.json; give the folder of a diffusers model") from None
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"{folder / 'model_index.json'}: is not the index of a diffusers model") from None
    try:
        import diffusers  # noqa: F401, PLC0415  of an extra
    except ImportError:
        raise DiffusionError(f"pictures need diffusers; run `{INSTALL}`") from None
    return str(name)


def _placed(pipeline: Any) -> Any:
    import torch  # noqa: PLC0415  slow to import, and only pictures need it

    if torch.accelerator.is_available():
        return pipeline.to(torch.accelerator.current_accelerator(), torch.float16)
    return pipeline


def _generator(seed: int) -> Any:
    import torch  # noqa: PLC0415

    return torch.Generator("cpu").manual_seed(seed)


def _watch(timeout_seconds: float) -> Callable[..., dict[str, Any]]:
    """Ends a pipeline after a step when its time is over."""
    deadline = time.monotonic() + timeout_seconds

    def after_step(pipeline: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        if time.monotonic() > deadline:
            raise DiffusionError(f"not finished after {timeout_seconds:g} seconds; ask for fewer steps")
        return values

    return after_step


def _open(data: bytes) -> Any:
    """The picture as the model takes it: three colours, at most 768 pixels a side, sides multiples of 8."""
    from PIL import Image, ImageOps  # noqa: PLC0415  of an extra

    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    image.thumbnail((768, 768))
    return image.resize((max(8, image.width // 8 * 8), max(8, image.height // 8 * 8)))


def _png(image: Any, caption: str) -> ToolImage:
    file = io.BytesIO()
    image.save(file, "PNG")
    return ToolImage(file.getvalue(), "image/png", caption)


class _quiet:
    """Keeps the libraries' advice about their own future off the user's screen."""

    def __enter__(self) -> None:
        import warnings  # noqa: PLC0415

        self._filters = warnings.catch_warnings()
        self._filters.__enter__()
        warnings.simplefilter("ignore")

    def __exit__(self, *error: Any) -> None:
        self._filters.__exit__(*error)
