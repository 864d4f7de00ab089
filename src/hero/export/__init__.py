"""A run's result as files that other programs load: a LoRA in diffusers' or kohya's layout, or a fused pipeline.

Reads the run directory alone; only `fused` loads the model. Exporting twice gives the same bytes.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import save_file

from hero.errors import ConfigError, RunError, nearest
from hero.export.kohya import KOHYA_FAMILIES, kohya_tensors
from hero.export.metadata import kohya_metadata
from hero.export.result import RunResult, read_model_facts, read_result

if TYPE_CHECKING:
    from hero.export.fusing import FusedPrecision

__all__ = ["FORMATS", "KOHYA_FAMILIES", "export"]


def export(run: str | Path, format_: str, out: str | Path) -> Path:
    """Writes the run's result as `format_`, with its model card; returns `out`.

    Args:
        run: the run directory.
        format_: see `FORMATS`.
        out: a folder (`diffusers`, `fused`) or a file that ends in .safetensors (`kohya`); must not exist yet.

    Raises:
        ConfigError: an unknown format, or one that has no names for the layers of the run's model.
        RunError: there is nothing to export, or `out` exists or cannot be written.
        ModelError: the model (for `kohya` its configuration) cannot be read.
    """
    out = Path(out)
    if format_ not in FORMATS:
        raise ConfigError(f"unknown format {format_!r}; {nearest(format_, FORMATS)}")
    is_file = format_ == "kohya"
    if is_file and out.suffix != ".safetensors":
        raise ConfigError(f"--out {out}: a kohya LoRA is one file that ends in .safetensors")
    if out.exists() and (is_file or not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out} exists{'' if is_file else ' and is not an empty folder'}; choose another --out")
    result = read_result(run)
    beside = out.with_name(f".{out.name}.partial")
    _remove(beside)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        precision = FORMATS[format_](result, beside)
        if not is_file and out.is_dir():
            out.rmdir()
        beside.rename(out)
        _write_card(result, format_, out, precision)
    except OSError as error:
        raise RunError(f"cannot write {out}: {error}; choose another --out") from error
    finally:
        _remove(beside)
    return out


def _diffusers(result: RunResult, out: Path) -> None:
    out.mkdir()
    shutil.copyfile(result.lora_file, out / result.lora_file.name)
    _copy_noise(result, out)


def _kohya(result: RunResult, out: Path) -> None:
    from hero.policies.lora import sort_metadata

    facts = read_model_facts(result.config.model, result.component)
    tensors = kohya_tensors(result.lora, result.alpha, facts.family, facts.denoiser)
    save_file(tensors, out, metadata=kohya_metadata(result, facts, tensors))
    sort_metadata(out)


def _fused(result: RunResult, out: Path) -> FusedPrecision:
    """The original pipeline, its own scheduler and precision included, with the LoRA added to its weights."""
    from hero.export.fusing import fuse, stored_dtypes
    from hero.policies import load_pipeline

    pipeline = load_pipeline(result.config.model, stored_dtypes(result.config.model))
    precision = fuse(getattr(pipeline, result.component), result.lora, result.alpha / result.rank)
    pipeline.save_pretrained(out)
    for weights in out.rglob("*.safetensors"):  # written readable only by their owner
        weights.chmod((out / "model_index.json").stat().st_mode)
    _copy_noise(result, out)
    return precision


FORMATS: Mapping[str, Callable[[RunResult, Path], FusedPrecision | None]] = {
    "diffusers": _diffusers,
    "kohya": _kohya,
    "fused": _fused,
}
"""Name → writer: of pytorch_lora_weights.safetensors, of one file in kohya's layout, of a whole pipeline."""


def _copy_noise(result: RunResult, out: Path) -> None:
    if result.noise_file is not None:
        shutil.copyfile(result.noise_file, out / result.noise_file.name)


def _write_card(result: RunResult, format_: str, out: Path, precision: FusedPrecision | None) -> None:
    """README.md inside a folder; for a file, a .md file of the same name beside it."""
    from hero.export.card import model_card

    target = out / "README.md" if out.is_dir() else out.with_suffix(".md")
    model_card(result, format_, out.name, precision).save(target)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):
        path.unlink()
