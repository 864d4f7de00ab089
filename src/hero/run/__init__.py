"""A run on disk and in memory: its directory, its state, its figures, and the reader of what it has come to.

The door gives what every interface needs and loads no torch; the rest is imported from its own module.
"""

from __future__ import annotations

from hero.run.directory import Checkpoint, RunDirectory, image_file, read_images

__all__ = ["Checkpoint", "RunDirectory", "image_file", "read_images"]
