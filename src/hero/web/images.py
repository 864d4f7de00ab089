"""Images by id, never by path: the file of an id, and small versions of it, kept in memory."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from hero.ids import ImageId
from hero.run import image_file
from hero.web.errors import ApiError

__all__ = ["WIDTHS", "ImageFile", "Images", "Pictures"]

WIDTHS = (128, 256, 512, 1024)
"""Widths that can be asked for, in pixels."""

_KINDS = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}
_MOST_KEPT = 64 * 1024 * 1024
_QUALITY = 90


@dataclass(frozen=True)
class ImageFile:
    """Bytes of an image, their media type, and a tag that changes whenever they do."""

    data: bytes
    media_type: str
    tag: str


class Pictures:
    """Image files and smaller versions of them, which are kept in memory; safe to use from several threads."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, ImageFile] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def tag(self, path: Path, width: int | None) -> str:
        """The ETag of the image in `path` in a width.

        Raises:
            OSError: there is no such file.
        """
        stat = path.stat()
        return f'"{path.stem}-{stat.st_mtime_ns:x}-{stat.st_size:x}-{width or 0}"'

    def load(self, path: Path, width: int | None) -> ImageFile:
        """The image, at most `width` pixels wide; never made larger.

        Raises:
            OSError, ValueError: there is no such file, or it is no image.
        """
        tag = self.tag(path, width)
        key = f"{path.parent}{tag}"
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        data = path.read_bytes()
        media_type = next((kind for start, kind in _KINDS.items() if data.startswith(start)), None)
        if media_type is None:
            raise ValueError(f"{path} is no image")
        try:
            small = None if width is None else _at_most_wide(data, width)
        except (SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"{path} is no image: {error}") from None
        if small is None:
            return ImageFile(data, media_type, tag)  # the system keeps the file itself in memory
        found = ImageFile(small, "image/jpeg", tag)
        self._keep(key, found)
        return found

    def _keep(self, key: str, found: ImageFile) -> None:
        with self._lock:
            if key not in self._kept:
                self._kept[key] = found
                self._bytes += len(found.data)
            while self._bytes > _MOST_KEPT:
                _, oldest = self._kept.popitem(last=False)
                self._bytes -= len(oldest.data)


class Images:
    """The images of a desk.

    Args:
        folder: the desk; image `r0003-i0012` is its file rounds/0003/images/r0003-i0012.png.
        known: whether an id may be served.

    Attributes:
        pool: threads for making small versions, so that a grid of new ones does not hold up everything else.
    """

    def __init__(self, folder: Path, known: Callable[[ImageId], bool]) -> None:
        self.pool = ThreadPoolExecutor(2, thread_name_prefix="hero-web-images")
        self._folder = folder
        self._known = known
        self._pictures = Pictures()

    def tag(self, image: ImageId, width: int | None) -> str:
        """The ETag of an image in a width.

        Raises:
            ApiError: 404, no such image.
        """
        try:
            return self._pictures.tag(self._path(image), width)
        except OSError:
            raise _missing(image) from None

    def load(self, image: ImageId, width: int | None) -> ImageFile:
        """The image, at most `width` pixels wide; never made larger.

        Raises:
            ApiError: 404, no such image, or its file is not an image.
        """
        try:
            return self._pictures.load(self._path(image), width)
        except (OSError, ValueError):
            raise _missing(image) from None

    def _path(self, image: ImageId) -> Path:
        if not self._known(image):
            raise _missing(image)
        return image_file(self._folder, image)


def _at_most_wide(data: bytes, width: int) -> bytes | None:
    """A JPEG of that width; None if the image is not wider."""
    with Image.open(io.BytesIO(data)) as image:
        if image.width <= width:
            return None
        height = max(1, round(image.height * width / image.width))
        small = image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
    written = io.BytesIO()
    small.save(written, "JPEG", quality=_QUALITY, subsampling=0)
    return written.getvalue()


def _missing(image: ImageId) -> ApiError:
    return ApiError(404, "image-not-found", f"There is no image {image[:40]} on this desk.")
