"""What a tool gives back: a text, perhaps pictures, and whether it went wrong. As JSON it crosses processes."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ToolImage:
    """A picture.

    Attributes:
        data: the file's bytes.
        mime: "image/png", "image/jpeg" or "image/webp".
        caption: what it shows, or the step that made it.
        id: how later calls name it; given by the `ImageStore` that keeps it.
    """

    data: bytes
    mime: str = "image/png"
    caption: str = ""
    id: str = ""

    def to_json(self) -> dict[str, str]:
        data = base64.b64encode(self.data).decode("ascii")
        return {"id": self.id, "mime": self.mime, "caption": self.caption, "data": data}


@dataclass(frozen=True)
class ToolResult:
    """What a call came to.

    Attributes:
        text: for the model, and for people.
        images: in the order they were made; the last one is the final one.
        error: it did not work, and `text` says why.
    """

    text: str
    images: tuple[ToolImage, ...] = ()
    error: bool = False

    def to_json(self) -> dict[str, Any]:
        return {"text": self.text, "images": [image.to_json() for image in self.images], "error": self.error}

    def for_model(self) -> str:
        """The text that the model reads: pictures by id and caption."""
        shown = [f"[{image.id or 'image'}: {image.caption}]" for image in self.images]
        return "\n".join(part for part in ("error: " * self.error + self.text, *shown) if part)


def result_from_json(data: Mapping[str, Any]) -> ToolResult:
    images = (
        ToolImage(base64.b64decode(each["data"]), each["mime"], each["caption"], each["id"]) for each in data["images"]
    )
    return ToolResult(data["text"], tuple(images), data["error"])
