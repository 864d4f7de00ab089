"""A run's result as files that other programs load: a LoRA in diffusers' or kohya's layout, a fused pipeline, a node.

Reads the run directory alone; only `fused` loads the model. Exporting twice gives the same bytes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hero.errors import ConfigError, RunError, nearest
from hero.export.kohya import KOHYA_FAMILIES, kohya_tensors
from hero.export.metadata import kohya_metadata
from hero.export.result import RunResult, read_model_facts, read_result
from hero.export.web_ui import user_metadata
from hero.policies.lora_file import LORA_NAME, scaled, write_lora_file, write_sorted
from hero.run.output import check_free, new_output
from hero.snippets import refined_spread

if TYPE_CHECKING:
    from hero.export.fusing import FusedPrecision

__all__ = ["FORMATS", "KOHYA_FAMILIES", "Format", "export"]


def export(run: str | Path, format_: str, out: str | Path, *, weight: float = 1.0) -> Path:
    """Writes the run's result as `format_`, with its model card; returns `out`. Overwrites nothing.

    Args:
        run: the run directory.
        format_: see `FORMATS`.
        out: a folder, new or empty, or (`kohya`) a new file that ends in .safetensors.
        weight: factor of the LoRA's effect, as a LoRA's weight in other programs; 1 is as trained.

    Raises:
        ConfigError: an unknown format or a weight that is not a finite number, or a format that has no names for the
            layers of the run's model.
        RunError: there is nothing to export, or a file exists that would be overwritten, or `out` cannot be written.
        ModelError: the model (for `kohya` its configuration) cannot be read.
    """
    if format_ not in FORMATS:
        raise ConfigError(f"unknown format {format_!r}; {nearest(format_, FORMATS)}")
    if not abs(weight) < float("inf"):
        raise ConfigError(f"--weight {weight} is not a finite number; 1 is as trained")
    if weight != 1 and format_ == "comfyui":
        raise ConfigError(f"--weight {weight}: a {format_} export holds noise and no LoRA; leave it out")
    kind = FORMATS[format_]
    if kind.is_file and Path(out).suffix != ".safetensors":
        raise ConfigError(f"--out {out}: a {format_} LoRA is one file that ends in .safetensors")
    check_free(out, kind.beside)
    result = read_result(run)
    result = replace(result, lora=replace(result.lora, lora=scaled(result.lora.lora, weight)), weight=weight)
    with new_output(out, kind.beside, last="model_index.json") as made:
        precision = kind.write(result, made)
        _write_card(result, format_, made, precision)
    return Path(out)


@dataclass(frozen=True)
class Format:
    """A format of `export`.

    Attributes:
        write: makes the file, with others beside it, or fills the folder, which exists; returns what the precision of a
            fused model costs.
        beside: endings of the files beside a file, in place of `.safetensors`; () for a folder.
    """

    write: Callable[[RunResult, Path], FusedPrecision | None]
    beside: tuple[str, ...] = ()

    @property
    def is_file(self) -> bool:
        return bool(self.beside)


def _diffusers(result: RunResult, out: Path) -> None:
    write_lora_file(result.lora, out / LORA_NAME)
    _copy_noise(result, out)


_CARD, _PREVIEW, _WEB_UI = ".md", ".preview.png", ".json"


def _kohya(result: RunResult, out: Path) -> None:
    facts = read_model_facts(result.config.model, result.lora.component)
    tensors = kohya_tensors(result.lora.lora, result.lora.rank, facts.family, facts.denoiser)
    write_sorted(tensors, out, kohya_metadata(result, facts, tensors, out.stem))
    out.with_suffix(_WEB_UI).write_text(user_metadata(result, facts), encoding="utf-8")
    if result.best is not None:
        result.best.save(out.with_suffix(_PREVIEW))


def _fused(result: RunResult, out: Path) -> FusedPrecision:
    """The original pipeline, its own scheduler and precision included, with the LoRA added to its weights."""
    from hero.export.fusing import fuse, stored_dtypes
    from hero.policies import load_pipeline

    pipeline = load_pipeline(result.config.model, stored_dtypes(result.config.model))
    precision = fuse(getattr(pipeline, result.lora.component), result.lora.lora, 1.0)
    pipeline.save_pretrained(out)
    for weights in out.rglob("*.safetensors"):  # written readable only by their owner
        weights.chmod((out / "model_index.json").stat().st_mode)
    _copy_noise(result, out)
    return precision


def _comfyui(result: RunResult, out: Path) -> None:
    """The node's code, the noise, and the prompts that it offers."""
    if not result.refined_prompts:
        raise RunError(f"{result.name} has no refined noise; it comes with the first best image")
    shutil.copyfile(Path(__file__).with_name("comfyui_node.py"), out / "__init__.py")
    _copy_noise(result, out)
    prompts = {str(index): result.config.task.prompts[index] for index in result.refined_prompts}
    about = {"near": refined_spread(result.config), "prompts": prompts}
    (out / "prompts.json").write_text(json.dumps(about, ensure_ascii=False, indent=1), encoding="utf-8")


FORMATS: Mapping[str, Format] = {
    "diffusers": Format(_diffusers),
    "kohya": Format(_kohya, beside=(_CARD, _PREVIEW, _WEB_UI)),
    "fused": Format(_fused),
    "comfyui": Format(_comfyui),
}
"""Name → writer: of pytorch_lora_weights.safetensors, of one file in kohya's layout, of a whole pipeline, of a node."""


def _copy_noise(result: RunResult, out: Path) -> None:
    if result.noise_file is not None:
        shutil.copyfile(result.noise_file, out / result.noise_file.name)


def _write_card(result: RunResult, format_: str, out: Path, precision: FusedPrecision | None) -> None:
    """README.md inside a folder; for a file, a .md file of the same name beside it."""
    from hero.export.card import model_card

    target = out / "README.md" if out.is_dir() else out.with_suffix(_CARD)
    model_card(result, format_, out.name, precision).save(target)
