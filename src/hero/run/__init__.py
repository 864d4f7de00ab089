"""A run on disk and in memory: its directory, its state, its figures, and the reader of finished runs.

This package exports what every interface needs and loads no torch; import the rest from the modules.
"""

from __future__ import annotations

from hero.run.directory import Checkpoint, RunDirectory, image_file, read_images

__all__ = ["Checkpoint", "RunDirectory", "image_file", "read_images"]
