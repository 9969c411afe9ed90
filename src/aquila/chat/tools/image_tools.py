"""`text2image` and `InstructFace`, the two tools that AquilaChat was trained to call.

The defaults of `text2image` are those of FlagAI's `predict_generate_images`: 50 steps, 512 x 512, scale 7.5. Without a
model they say how to get one: a picture that no model drew is never shown.
"""

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from aquila.chat.tool_result import ToolResult
from aquila.chat.tools.declare import Image, spec_of, tool
from aquila.chat.tools.diffusion import INSTALL, Diffusion, load_instruct_pix2pix, load_text2image
from aquila.chat.toolspec import ToolSpec
from aquila.errors import ConfigError
from aquila.files import cache_dir

TIMEOUT_SECONDS = 1800.0  # 50 steps at 512 x 512 take many minutes on a CPU
MAX_EDITS = 16
Steps = Annotated[int, Field(ge=1, le=200)]
Side = Annotated[int, Field(ge=8, le=2048, multiple_of=8)]
Guidance = Annotated[float, Field(ge=0, le=50)]
Seed = Annotated[int, Field(ge=0, lt=1 << 63)]


@dataclass(frozen=True)
class Source:
    """Where a tool's model comes from, for those who have none."""

    repository: str
    licence: str
    option: str
    load: Callable[[Path], Diffusion]


SOURCES = {
    "text2image": Source("BAAI/AltDiffusion-m9", "CreativeML OpenRAIL-M", "--image-model", load_text2image),
    "InstructFace": Source("timbrooks/instruct-pix2pix", "MIT", "--edit-model", load_instruct_pix2pix),
}


class ModelSlot:
    """A model that is loaded at the first call and kept; one call at a time."""

    def __init__(self, name: str, folder: Path | None) -> None:
        self._name = name
        self._folder = folder
        self._lock = threading.Lock()
        self._loaded: Diffusion | None = None

    def use(self, work: Callable[[Diffusion], ToolResult]) -> ToolResult:
        """Does the work with the model, or says how to get one."""
        with self._lock:
            folder = self._folder or default_folder(self._name)
            if self._loaded is None and self._folder is None and not folder.exists():
                return ToolResult(how_to_install(self._name), error=True)
            if self._loaded is None:
                self._loaded = SOURCES[self._name].load(folder)
            return work(self._loaded)


def default_folder(name: str) -> Path:
    """Where a tool looks for its model when no folder is given."""
    return cache_dir() / "image-models" / name


def how_to_install(name: str) -> str:
    """What to do when a tool has no model."""
    source, folder = SOURCES[name], default_folder(name)
    return (
        f"{name} has no model yet, so there is no picture. Install one: `{INSTALL}`, then `hf download "
        f"{source.repository} --local-dir {folder}` (licence: {source.licence}); or give the folder of another one "
        f"with `{source.option} FOLDER`."
    )


def image_tool(name: str, *, image_model: Path | None = None, edit_model: Path | None = None) -> ToolSpec:
    """One of the two, with the folder of its model."""
    if name == "text2image":
        return spec_of(_text2image(ModelSlot(name, image_model)), name=name, origin="built in")
    return spec_of(_instruct_face(ModelSlot(name, edit_model)), name=name, origin="built in")


def _text2image(slot: ModelSlot) -> Callable[..., ToolResult]:
    @tool(zh="根据文字描述画一张图。", timeout_seconds=TIMEOUT_SECONDS)
    def text2image(
        prompt: str,
        seed: Seed | None = None,
        steps: Steps = 50,
        guidance: Guidance = 7.5,
        width: Side = 512,
        height: Side = 512,
        num_images: Annotated[int, Field(ge=1, le=4)] = 1,
    ) -> ToolResult:
        """Draws a picture of a description.

        Args:
            prompt: what the picture shows, with style words.
            seed: makes it repeatable.
            steps: of denoising; more is slower and finer.
            guidance: how closely the picture follows the prompt.
            width: in pixels.
            height: in pixels.
            num_images: how many pictures.
        """
        if not prompt.strip():
            raise ConfigError("prompt: is empty; say what the picture shows")
        chosen = random.randrange(1 << 32) if seed is None else seed

        def work(model: Diffusion) -> ToolResult:
            images = model.draw(
                prompt,
                seed=chosen,
                steps=steps,
                guidance=guidance,
                width=width,
                height=height,
                num_images=num_images,
                timeout_seconds=TIMEOUT_SECONDS,
            )
            return ToolResult(f"{len(images)} picture{'s' * (len(images) > 1)}, seed {chosen}", tuple(images))

        return slot.use(work)

    return text2image


def _instruct_face(slot: ModelSlot) -> Callable[..., ToolResult]:
    @tool(zh="按照指令逐步修改一张照片，每行一条指令。", timeout_seconds=TIMEOUT_SECONDS)
    def instruct_face(
        instructions: list[str],
        image: Image = b"",
        seed: Seed | None = None,
        steps: Steps = 50,
        guidance: Guidance = 7.5,
        image_guidance: Guidance = 1.5,
    ) -> ToolResult:
        """Edits a photograph step by step, one instruction after the other.

        Args:
            instructions: what to change, in order.
            image: id of the picture to edit; the newest one of the conversation when left out.
            seed: makes it repeatable.
            steps: of denoising for each instruction.
            guidance: how closely the picture follows the instruction.
            image_guidance: how closely it keeps to the picture before.
        """
        edits = [each.strip() for each in instructions if each.strip()]
        if not edits or len(edits) > MAX_EDITS:
            raise ConfigError(f"instructions: give 1 to {MAX_EDITS}, not {len(edits)}")
        chosen = random.randrange(1 << 32) if seed is None else seed

        def work(model: Diffusion) -> ToolResult:
            if not image:
                raise ConfigError("there is no picture to edit yet; upload one, or draw one first")
            images = model.edit(
                image,
                edits,
                seed=chosen,
                steps=steps,
                guidance=guidance,
                image_guidance=image_guidance,
                timeout_seconds=TIMEOUT_SECONDS,
            )
            return ToolResult(f"{len(images)} edits, seed {chosen}", tuple(images))

        return slot.use(work)

    return instruct_face
