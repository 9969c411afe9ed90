"""Pictures that tools take and give.

A tool's picture comes from an upload, a `data:` URI, or the id of an earlier picture of the same conversation. Paths
and addresses are refused: a model that was talked into it would otherwise read files and call hosts that only this
machine can reach.
"""

import base64
import binascii
import io
import re
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable

from aquila.chat.tool_result import ToolImage
from aquila.config import format_size
from aquila.errors import ConfigError

MAX_IMAGE_BYTES = 16 << 20
MAX_PIXELS = 4096 * 4096
FORMATS = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}
_DATA_URI = re.compile(r"data:[\w.+/-]*(?:;[\w.+=-]+)*;base64,", re.ASCII)
_ID = re.compile(r"[\w-]{1,64}", re.ASCII)


class ImageStore:
    """Pictures by id, the newest kept.

    Args:
        max_bytes: of all pictures together; the oldest go first.
        new_id: makes ids. The default cannot be guessed, so a store may serve many conversations; a terminal's own
            store may count instead.
    """

    def __init__(
        self, *, max_bytes: int = 256 << 20, new_id: Callable[[], str] = lambda: f"image-{secrets.token_hex(12)}"
    ) -> None:
        self._max_bytes = max_bytes
        self._new_id = new_id
        self._images: OrderedDict[str, ToolImage] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, image: ToolImage) -> ToolImage:
        """Keeps a picture; returns it with its id. `ConfigError` if it is no picture, or too large a one."""
        mime = check_image(image.data)
        kept = ToolImage(image.data, mime, image.caption, self._new_id())
        with self._lock:
            self._images[kept.id] = kept
            while sum(len(each.data) for each in self._images.values()) > self._max_bytes and len(self._images) > 1:
                self._images.popitem(last=False)
        return kept

    @property
    def latest(self) -> str:
        """Id of the newest picture; empty when there is none."""
        with self._lock:
            return next(reversed(self._images), "")

    def resolve(self, reference: str) -> ToolImage:
        """The picture of an id or a `data:` URI.

        Raises:
            ConfigError: it is neither, or not a picture.
        """
        head = _DATA_URI.match(reference[:200])
        if head is not None:
            try:
                data = base64.b64decode(reference[head.end() :], validate=True)
            except (binascii.Error, ValueError):
                raise ConfigError("image: the data: URI is not base64") from None
            return ToolImage(data, check_image(data))
        with self._lock:
            found = self._images.get(reference)
        if found is not None:
            return found
        if _ID.fullmatch(reference):
            raise ConfigError(f"image: no picture has the id {reference!r}; it may have been dropped, so send it again")
        raise ConfigError(
            "image: give an uploaded picture, a data: URI, or the id of an earlier result; "
            "paths and addresses are not read"
        )


def check_image(data: bytes) -> str:
    """The media type of a PNG, JPEG or WebP file that can be decoded. `ConfigError` for anything else."""
    if len(data) > MAX_IMAGE_BYTES:
        limit = format_size(MAX_IMAGE_BYTES)
        raise ConfigError(f"image: {format_size(len(data))} is too large; the limit is {limit}")
    try:
        from PIL import Image  # noqa: PLC0415  of the extra `image`
    except ImportError:
        raise ConfigError("image: pictures need Pillow; run `pip install 'aquila-lm[image]'`") from None
    try:
        with Image.open(io.BytesIO(data), formats=tuple(FORMATS)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ConfigError(
                    f"image: {image.width} x {image.height} pixels are too many; the limit is {MAX_PIXELS}"
                )
            image.verify()
            return FORMATS[str(image.format)]
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError("image: this is not a PNG, JPEG or WebP picture, or it is broken") from None
