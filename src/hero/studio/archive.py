"""A folder as one ZIP file, made while it is being sent: nothing is written, and a model of any size fits."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

__all__ = ["zipped"]

_CHUNK = 1 << 20


class _Pipe(io.RawIOBase):
    """What `zipfile` writes, to be taken out piece by piece."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        piece = bytes(data)  # type: ignore[call-overload]
        self._pieces.append(piece)
        return len(piece)

    def taken(self) -> bytes:
        taken, self._pieces = b"".join(self._pieces), []
        return taken


def zipped(folder: Path, names: Iterable[str], prefix: str) -> Iterator[bytes]:
    """The files `names` of `folder`, under `prefix`/ and not compressed, as the bytes of a ZIP file."""
    pipe = _Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name in names:
            info = zipfile.ZipInfo.from_file(folder / name, f"{prefix}/{name}")
            with open(folder / name, "rb") as file, archive.open(info, "w", force_zip64=True) as entry:
                while piece := file.read(_CHUNK):
                    entry.write(piece)
                    yield pipe.taken()
            yield pipe.taken()
    yield pipe.taken()
