"""What A1111 and Forge read beside a LoRA: a .json file, as their own editor of a LoRA's details writes it."""

from __future__ import annotations

import json

from hero.export.metadata import description, is_sd2
from hero.export.result import ModelFacts, RunResult

__all__ = ["user_metadata"]

_VERSIONS = {"StableDiffusionXLPipeline": "SDXL", "FluxPipeline": "Flux"}
"""Pipeline class → their name for the base model's version; Flux is Forge's alone. Others have none."""


def user_metadata(result: RunResult, facts: ModelFacts) -> str:
    """The file's text: what the LoRA is, the text to put into a prompt, and their name for the base model."""
    version = _VERSIONS.get(facts.family)
    if facts.family == "StableDiffusionPipeline":
        version = "SD2" if is_sd2(facts) else "SD1"
    prompts = result.config.task.prompts
    values = {
        "description": description(result),
        "sd version": version,
        "activation text": prompts[0] if len(prompts) == 1 else None,
        "preferred weight": 1.0,
        "notes": "Prompts: " + "; ".join(prompts),
    }
    return json.dumps({key: value for key, value in values.items() if value is not None}, ensure_ascii=False, indent=4)
