"""Teach text-to-image diffusion models from a person's own judgement, online.

Names are imported on first use, so that `import hero.types` (which the labelling page needs) loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hero.config import Config
    from hero.methods import configure
    from hero.tuner import Tuner
    from hero.types import Feedback, ImageBatch, ImageChunk, RoundStats, Verdict

__all__ = ["Config", "Feedback", "ImageBatch", "ImageChunk", "RoundStats", "Tuner", "Verdict", "configure"]
__version__ = "0.1.0"

_MODULE_OF = {
    "Config": "hero.config",
    "Feedback": "hero.types",
    "ImageBatch": "hero.types",
    "ImageChunk": "hero.types",
    "RoundStats": "hero.types",
    "Tuner": "hero.tuner",
    "Verdict": "hero.types",
    "configure": "hero.methods",
}


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(import_module(_MODULE_OF[name]), name)
    raise AttributeError(f"module 'hero' has no attribute {name!r}")
